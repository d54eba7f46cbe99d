//! The report as Markdown: the figures of the page, without charts and rows.

use super::data::{Cascade, GapTable, Report, StageState};
use crate::stats::agreement::Agreement;
use mindgap_store::Failures;
use mindgap_store::table::gaps::Gap;

/// The whole report.
pub fn markdown(report: &Report) -> String {
    let mut text = format!("# {}\n", cell(&report.pipeline));
    text += &missing(report);
    text += &stale(report);
    text += &failed(report);
    text += &cascades(report);
    text += &judges(report);
    text += &gaps(report);
    text += &warnings(report);
    text += &accuracy(report);
    text += &runs(report);
    text += &tables(report);
    text
}

/// Text inside a table: names come from users' files.
fn cell(text: &str) -> String {
    text.replace('\\', "\\\\").replace('|', "\\|").replace('<', "&lt;").replace(['\n', '\r'], " ")
}

fn missing(report: &Report) -> String {
    let missing: Vec<String> =
        report.stages.iter().filter(|s| !s.done).map(|s| format!("`{}`", cell(&s.name))).collect();
    match missing.len() {
        0 => String::new(),
        n => {
            let (named, more) = missing.split_at(n.min(12));
            let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
            format!("\n{n} of {} stages have not run yet: {}{more}.\n", report.stages.len(), named.join(", "))
        }
    }
}

/// What the file no longer asks for, and why.
fn stale(report: &Report) -> String {
    let mut text = String::new();
    if !report.is_compared {
        text += "\nIt is not known whether the pipeline file still asks for these results.\n";
    }
    for (index, stage) in report.stale().enumerate() {
        let start = if index == 0 { "\n" } else { "" };
        text += &format!("{start}- `{}` is stale: {}\n", cell(&stage.name), cell(&stage.stale.join("; ")));
    }
    text
}

/// What servers failed, and what they said.
fn failed(report: &Report) -> String {
    let line = |(stage, failures): (&StageState, &Failures)| {
        let (name, rows, said) = (cell(&stage.name), failures.rows, cell(&failures.lines().join("; ")));
        format!("\n- `{name}` has {rows} empty rows, since servers failed their requests every time: {said}\n")
    };
    report.failed().map(line).collect()
}

fn cascades(report: &Report) -> String {
    if report.cascades.is_empty() {
        return String::new();
    }
    let mut text = "\n## Where the training targets come from\n\n\
         | rewrites | problems | self | guided | teacher | expert | none |\n|---|--:|--:|--:|--:|--:|--:|\n"
        .to_string();
    for cascade in &report.cascades {
        let Cascade { stage, problems, targets, .. } = cascade;
        let share = |count: u64| format!("{count} ({:.1} %)", 100.0 * count as f64 / (*problems).max(1) as f64);
        text += &match targets {
            Some(t) => format!(
                "| {} | {problems} | {} | {} | {} | {} | {} |\n",
                cell(stage),
                share(t.own),
                share(t.guided),
                share(t.teacher),
                share(t.expert),
                share(t.none)
            ),
            None => format!("| {} | {problems} | - | - | - | - | - |\n", cell(stage)),
        };
    }
    text += "\n| samples of | problems | samples | correct |\n|---|--:|--:|--:|\n";
    for samples in report.cascades.iter().flat_map(|c| [&c.plain, &c.guided, &c.teacher]).filter(|s| s.samples > 0) {
        let share = 100.0 * samples.correct as f64 / samples.samples as f64;
        text += &format!(
            "| {} | {} | {} | {} ({share:.1} %) |\n",
            cell(&samples.verdicts.join(", ")),
            samples.problems,
            samples.samples,
            samples.correct
        );
    }
    let refused = report.cascades.iter().flat_map(|cascade| cascade.refused.iter().map(move |r| (&cascade.stage, r)));
    for (index, (stage, refused)) in refused.enumerate() {
        if index == 0 {
            text += "\n| correct samples refused in | source | reason | samples |\n|---|---|---|--:|\n";
        }
        let (source, reason) = (&refused.source, &refused.reason);
        text += &format!("| {} | {source} | {reason} | {} |\n", cell(stage), refused.samples);
    }
    text + &choices(report)
}

/// What each rule took and what it left, where anything was left.
fn choices(report: &Report) -> String {
    let mut text = String::new();
    for Cascade { stage, choice, .. } in report.cascades.iter().filter(|cascade| cascade.choice.is_one) {
        if text.is_empty() {
            text += "\n| choice in | rule | source | outcome | samples | tokens each | log p / token |\n|---|---|---|---|--:|--:|--:|\n";
        }
        for row in &choice.outcomes {
            let logprob = row.logprob.map_or("-".to_string(), |value| format!("{value:.3}"));
            text += &format!(
                "| {} | {} | {} | {} | {} | {:.1} | {logprob} |\n",
                cell(stage),
                cell(&choice.rule),
                row.source,
                row.outcome,
                row.samples,
                row.tokens
            );
        }
    }
    text
}

fn judges(report: &Report) -> String {
    if report.judges.is_empty() {
        return String::new();
    }
    let mut text = "\n## Judges of the same samples\n\n\
         | samples of | first judge | second judge | samples | agree | both right | first only | second only | none | Cohen's kappa |\n\
         |---|---|---|--:|--:|--:|--:|--:|--:|--:|\n"
        .to_string();
    for compared in &report.judges {
        let Agreement { both, first_only, second_only, neither } = compared.agreement;
        text += &format!(
            "| {} | {} | {} | {} | {:.1} % | {both} | {first_only} | {second_only} | {neither} | {} |\n",
            cell(&compared.rollouts),
            cell(&compared.first),
            cell(&compared.second),
            compared.agreement.samples(),
            compared.agreeing(),
            compared.kappa.map_or("-".to_string(), |kappa| format!("{kappa:.2}"))
        );
    }
    text
}

fn gaps(report: &Report) -> String {
    if report.gaps.is_empty() {
        return String::new();
    }
    let mut text = "\n## How far the targets are from the policy\n\n\
         Log-probs given the plain training prompt. ESS of min(1/p, 100) over tokens; KL(behaviour, policy) per token where the target was sampled.\n\n\
         | scored under | rewriting | source | targets | tokens each | log p / token | perplexity | p < 0.05 | var 1/p | ESS / tokens | ESS / targets | KL | p(EOS) |\n\
         |---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n"
        .to_string();
    for table in &report.gaps {
        for row in &table.rows {
            text += &gap_row(table, row);
        }
    }
    text
}

fn gap_row(table: &GapTable, row: &Gap) -> String {
    let optional = |value: Option<f64>| value.map_or("-".to_string(), |v| format!("{v:.3}"));
    format!(
        "| {} | {} | {} | {} | {:.1} | {:.3} | {:.3} | {:.2} % | {:.1} | {:.3} | {:.3} | {} | {} |\n",
        cell(&table.policy),
        row.rewriting,
        row.source,
        row.row_count,
        row.mean_length,
        row.mean_logprob,
        row.perplexity,
        100.0 * row.low_probability_share,
        row.ratio_variance,
        row.ess_tokens / row.token_count.max(1) as f64,
        row.ess_rows / f64::from(row.row_count.max(1)),
        optional(row.kl_per_token),
        optional(row.eos_probability)
    )
}

fn warnings(report: &Report) -> String {
    let checks: usize = report.gaps.iter().map(|table| table.warnings.len()).sum();
    if checks == 0 {
        return String::new();
    }
    let raised = report.warnings_raised();
    let mut text = format!("\n## Warnings\n\n{raised} of {checks} checks raised one.\n");
    if raised > 0 {
        text += "\n| warning | where | what | problems |\n|---|---|---|---|\n";
    }
    for table in &report.gaps {
        for warning in table.warnings.iter().filter(|warning| warning.raised) {
            let ids: Vec<String> = warning.problem_ids.iter().take(3).map(|id| format!("`{id}`")).collect();
            text += &format!(
                "| {} | {}: {}, {} | {} | {} |\n",
                warning.warning,
                cell(&table.stage),
                warning.moment,
                warning.source,
                cell(&warning.message),
                ids.join(" ")
            );
        }
    }
    text
}

fn accuracy(report: &Report) -> String {
    let Some(first) = report.evals.iter().find_map(|table| table.rows.first()) else { return String::new() };
    let (n, k, temperature, replications) = (first.n, first.k, first.temperature, report.replications().len());
    let how = match replications {
        1 => "95 % bootstrap interval over problems".to_string(),
        _ => format!("mean ± standard error over {replications} replications"),
    };
    let benchmarks = report.benchmarks();
    let names: Vec<String> = benchmarks.iter().map(|name| cell(name)).collect();
    let mut text = format!(
        "\n## Accuracy\n\nmean@{k} in %, temperature {temperature}, {n} problems per benchmark; {how}.\n\n\
         | policy | {} | average |\n|---|{}--:|\n",
        names.join(" | "),
        "--:|".repeat(names.len())
    );
    for policy in report.evaluated() {
        let of = |benchmark: &&str| report.accuracy(policy, benchmark).map_or("-".to_string(), |e| e.text());
        let cells: Vec<String> = benchmarks.iter().map(of).collect();
        let average = report.average(policy, |eval| eval.mean_at_k).map_or("-".to_string(), |e| e.text());
        text += &format!("| {} | {} | **{average}** |\n", cell(policy), cells.join(" | "));
    }
    text + &other_figures(report, k) + &kept(report)
}

/// What policies have kept, where they are compared with a base.
fn kept(report: &Report) -> String {
    let mut text = String::new();
    let points = |mean: Option<f64>, low: Option<f64>, high: Option<f64>| match (mean, low, high) {
        (Some(mean), Some(low), Some(high)) => {
            format!("{:+.1} [{:+.1}, {:+.1}]", 100.0 * mean, 100.0 * low, 100.0 * high)
        }
        _ => "-".to_string(),
    };
    for (stage, row) in report.evals.iter().flat_map(|table| table.kept.iter().map(move |row| (&table.stage, row))) {
        if text.is_empty() {
            text += "\nWhat was kept, in points: BWT over the tasks learned before, retention of benchmarks nothing was trained for; \
                     KL(policy, base) in nats per token of the policy's own samples.\n\n\
                     | stage | policy | earlier tasks | BWT | retention | KL |\n|---|---|--:|--:|--:|--:|\n";
        }
        let kl = row.kl_per_token.map_or("-".to_string(), |kl| format!("{kl:.4}"));
        text += &format!(
            "| {} | {} | {} | {} | {} | {kl} |\n",
            cell(stage),
            cell(&row.policy),
            row.earlier_tasks,
            points(row.bwt, row.bwt_low, row.bwt_high),
            points(row.retention, row.retention_low, row.retention_high)
        );
    }
    text
}

fn other_figures(report: &Report, k: u32) -> String {
    let mut text = format!(
        "\nAverages over benchmarks, in %:\n\n| policy | mean@{k} | pass@{k} | maj@{k} | cut off | no answer |\n|---|--:|--:|--:|--:|--:|\n"
    );
    for policy in report.evaluated() {
        let figures = [
            report.average(policy, |e| e.mean_at_k),
            report.average(policy, |e| e.pass_at_k),
            report.average(policy, |e| e.maj_at_k),
            report.average(policy, |e| e.truncated_share),
            report.average(policy, |e| e.no_answer_share),
        ];
        let cells: Vec<String> = figures.into_iter().flatten().map(|e| e.text()).collect();
        text += &format!("| {} | {} |\n", cell(policy), cells.join(" | "));
    }
    let shares = report.truncated_correct();
    if !shares.is_empty() {
        let said: Vec<String> =
            shares.iter().map(|(policy, share)| format!("{} {}", cell(policy), share.text())).collect();
        text += &format!("\nOf the correct samples, cut off at the token limit, in %: {}.\n", said.join(", "));
    }
    text
}

fn runs(report: &Report) -> String {
    if report.runs.is_empty() {
        return String::new();
    }
    let mut text = "\n## Training\n\nFirst and last step of each run.\n\n\
         | run | steps | loss | nll | gradient norm | ESS / tokens | p(EOS) |\n|---|--:|--:|--:|--:|--:|--:|\n"
        .to_string();
    for run in &report.runs {
        let (Some(first), Some(last)) = (run.steps.first(), run.steps.last()) else { continue };
        let share = |step: &mindgap_store::table::train_steps::TrainStep| step.ess / step.token_count.max(1) as f64;
        text += &format!(
            "| {} | {} | {:.4} → {:.4} | {:.3} → {:.3} | {:.2} → {:.2} | {:.3} → {:.3} | {} |\n",
            cell(&run.stage),
            run.steps.len(),
            first.loss,
            last.loss,
            first.nll,
            last.nll,
            first.grad_norm,
            last.grad_norm,
            share(first),
            share(last),
            last.eos_probability.map_or("-".to_string(), |p| format!("{p:.3}"))
        );
    }
    text
}

/// Where every number comes from.
fn tables(report: &Report) -> String {
    let mut text = "\n## Tables\n\n| stage | kind | rows | address | where |\n|---|---|--:|---|---|\n".to_string();
    for stage in report.stages.iter().filter(|stage| stage.done) {
        let rows = if stage.rows > 0 { stage.rows.to_string() } else { "-".to_string() };
        let (name, path) = (cell(&stage.name), cell(&stage.path));
        let stale = if stage.stale.is_empty() { "" } else { " (stale)" };
        text += &format!("| {name}{stale} | {} | {rows} | `{}` | `{path}` |\n", stage.kind, stage.address);
    }
    text
}
