//! results: a study's accuracies as Markdown: every policy over all replications, changes, and paired differences.

use super::pipelines::load;
use super::{args, render};
use crate::stats::crossed::Interval;
use crate::study::{self, Kept, Made, Results};
use mindgap_base::error::{Error, Result};
use mindgap_store::table::rewrites::Source;
use mindgap_store::{Store, fs};
use std::path::Path;

pub fn results(store: &Path, args: args::Results) -> Result<()> {
    let pipeline = load(&args.pipeline)?;
    let store = Store::look(store)?;
    let made = Made::new(&store, &pipeline, &[])?;
    let results = study::results(&made, &args.pairs)?;
    render::notes(&made.notes(made.stage_names()));
    if args.json {
        return render::json(&results);
    }
    let text = markdown(&results);
    match &args.into {
        None => render::out(&text),
        Some(page) => {
            let bytes = fs::read(page)?;
            let [begin, end] = ["begin", "end"].map(|mark| marker(args.section.as_deref(), mark));
            let page_text = String::from_utf8(bytes).ok();
            let written = page_text.and_then(|page| replaced(&page, &text, &begin, &end)).ok_or_else(|| {
                Error::usage("the page has no place for results")
                    .at(page.display().to_string())
                    .hint(format!("put the lines `{begin}` and `{end}` where they belong"))
            })?;
            // A bare name has no folder to be renamed in.
            fs::publish(&Path::new(".").join(page), written.as_bytes(), "page")?;
            render::note(&page.display().to_string());
            Ok(())
        }
    }
}

/// The line that marks one end of a place for results.
fn marker(section: Option<&str>, mark: &str) -> String {
    let name = section.map(|name| format!(" {name}")).unwrap_or_default();
    format!("<!-- mindgap results{name}: {mark} -->")
}

/// The page with `text` between its markers.
fn replaced(page: &str, text: &str, begin: &str, end: &str) -> Option<String> {
    let (before, rest) = page.split_once(begin)?;
    let (_, after) = rest.split_once(end)?;
    Some(format!("{before}{begin}\n\n{text}\n{end}{after}"))
}

fn markdown(results: &Results) -> String {
    let Results { replications, problems, samples, temperature, benchmarks, .. } = results;
    let head = |first: &str, columns: &[&str]| {
        format!("| {first} | {} |\n|---|{}\n", columns.join(" | "), "--:|".repeat(columns.len()))
    };
    let names: Vec<&str> = benchmarks.iter().map(String::as_str).collect();
    let signed = |i: &Interval| format!("{:+.1} [{:+.1}, {:+.1}]", i.mean, i.low, i.high);
    let mut text = format!(
        "### Accuracy\n\nmean@{samples} in %, temperature {temperature}, {problems} problems, {replications} replications; \
         95 % interval over problems and replications.\n\n{}",
        head("policy", &[&names[..], &["average"]].concat())
    );
    for p in &results.policies {
        let cells: Vec<String> = p.mean_at_k.iter().map(|value| format!("{value:.1}")).collect();
        text += &format!(
            "| {} | {} | **{:.1}** [{:.1}, {:.1}] |\n",
            p.policy,
            cells.join(" | "),
            p.average.mean,
            p.average.low,
            p.average.high
        );
    }
    text += &format!(
        "\n### Change\n\nPaired difference from `{}` in points, on the same problems and seeds.\n\n",
        results.policies[0].policy
    );
    text += &head("policy", &names);
    for p in &results.policies[1..] {
        text += &format!("| {} | {} |\n", p.policy, p.change.iter().map(signed).collect::<Vec<_>>().join(" | "));
    }
    if !results.differences.is_empty() {
        text += &format!("\n### Paired differences\n\nIn points; `ahead` counts replications of {replications}.\n\n");
        text += &head("policy minus policy", &[&["average", "ahead"], &names[..], &["tokens, %"]].concat());
        for d in &results.differences {
            let cells: Vec<String> = d.per_benchmark.iter().map(|value| format!("{value:+.1}")).collect();
            text += &format!(
                "| {} - {} | {} | {} | {} | {} |\n",
                d.better,
                d.than,
                signed(&d.average),
                d.ahead,
                cells.join(" | "),
                signed(&d.tokens)
            );
        }
    }
    text += &kept(&results.kept);
    text += &format!("\n### Of {samples} samples\n\nIn %, average of the benchmarks.\n\n");
    let columns = ["mean", "at least one right", "majority right", "cut off", "no answer", "tokens each"];
    text += &head("policy", &columns);
    for p in &results.policies {
        let cells = [p.average.mean, p.pass_at_k, p.maj_at_k, p.truncated_share, p.no_answer_share];
        let tokens = format!("{:.1} [{:.1}, {:.1}]", p.tokens.mean, p.tokens.low, p.tokens.high);
        text += &format!("| {} | {} | {tokens} |\n", p.policy, cells.map(|value| format!("{value:.1}")).join(" | "));
    }
    let cut_off = results.policies.iter().filter(|p| p.truncated_correct_share > 0.0);
    let said: Vec<String> = cut_off.map(|p| format!("{} {:.1}", p.policy, p.truncated_correct_share)).collect();
    if !said.is_empty() {
        text += &format!("\nOf the right ones, cut off at the token limit, in %: {}.\n", said.join(", "));
    }
    // Most studies have no samples from elsewhere.
    let has_teacher = results.sources.iter().any(|s| s.teacher > 0.0);
    let shown = |source: &&Source| has_teacher || **source != Source::Teacher;
    text += &format!(
        "\n### Where the targets come from\n\nIn % of the rows, over all replications.\n\n{}",
        head("rewrites", &Source::ALL.iter().filter(shown).map(|source| source.as_str()).collect::<Vec<_>>())
    );
    for s in &results.sources {
        let of = |source: &Source| match source {
            Source::SelfAligned => s.own,
            Source::Guided => s.guided,
            Source::Teacher => s.teacher,
            Source::Expert => s.expert,
        };
        let cells: Vec<String> = Source::ALL.iter().filter(shown).map(|source| format!("{:.1}", of(source))).collect();
        text += &format!("| {} | {} |\n", s.stage, cells.join(" | "));
    }
    text += "\nAddresses: ";
    text +=
        &results.addresses.iter().map(|(name, address)| format!("{name} `{address}`")).collect::<Vec<_>>().join(", ");
    text + ".\n"
}

/// What policies have kept, as a table; nothing where none is compared with a base.
fn kept(kept: &[Kept]) -> String {
    if kept.is_empty() {
        return String::new();
    }
    let interval = |value: &Option<Interval>, digits: usize| match value {
        Some(i) => format!("{:+.digits$} [{:+.digits$}, {:+.digits$}]", i.mean, i.low, i.high),
        None => "-".to_string(),
    };
    let mut text = "\n### Kept\n\nBWT: over earlier tasks, accuracy now minus right after learning the task; retention: over \
         benchmarks nothing was trained for, accuracy minus the base policy's; both in points. KL(policy, base) per token of the \
         policy's own samples, nats, with the lowest and the highest replication.\n\n\
         | policy | BWT | retention | KL |\n|---|--:|--:|--:|\n"
        .to_string();
    for row in kept {
        let (bwt, retention, kl) = (&row.bwt, &row.retention, &row.kl_per_token);
        text +=
            &format!("| {} | {} | {} | {} |\n", row.policy, interval(bwt, 1), interval(retention, 1), interval(kl, 4));
    }
    text
}
