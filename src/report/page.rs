//! The report as one HTML page: template, style and script are files beside this one, embedded in the binary.

use super::chart::{self, Axes, Dot, Line};
use super::data::{Histograms, Report, Run, Series};
use mindgap_base::error::{Error, Result};
use mindgap_store::table::evals::Forgetting;
use mindgap_store::table::gaps::{Group, Moment};
use mindgap_store::table::train_steps::TrainStep;
use minijinja::value::Serde;
use minijinja::{Environment, Value, context};
use serde::Serialize;

const TEMPLATE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
/// Colours of policies in the style sheet: `c0` to `c9`.
const COLOURS: usize = 10;

/// A chart and what it is called.
#[derive(Serialize)]
struct Figure {
    title: String,
    note: String,
    svg: String,
}

#[derive(Serialize)]
struct Key {
    label: String,
    class: String,
}

/// Marks the page's own script. It follows from all that is shown: whoever puts a script into some of that would have to know it
/// before it is known.
fn nonce(report: &Report) -> Result<String> {
    let shown = serde_json::to_vec(report).map_err(|e| Error::internal("a report is plain data").source(e))?;
    Ok(blake3::derive_key("mindgap 2026 report nonce", &shown)[..16].iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The page. It names no address outside itself, and its policy forbids the browser to load any.
pub fn html(report: &Report) -> Result<String> {
    let mut environment = Environment::new();
    environment
        .add_filter("num", |value: Option<f64>, digits: usize| value.map_or("–".into(), |v| format!("{v:.digits$}")));
    environment.add_filter("pct", |value: f64, digits: usize| format!("{:.digits$} %", 100.0 * value));
    environment.add_filter("count", |value: u64| grouped(value));
    environment.add_filter("words", |name: &str| name.replace('_', " ").replace("ess", "ESS").replace("eos", "EOS"));
    environment
        .add_template("page.html", TEMPLATE)
        .map_err(|e| Error::internal("the report's template does not parse").source(e))?;
    let template = environment.get_template("page.html").map_err(|e| Error::internal("no template").source(e))?;
    let browser = embedded(&report.browser)?;
    let page = context! {
        nonce => nonce(report)?,
        report => Serde(report),
        version => env!("CARGO_PKG_VERSION"),
        style => Value::from_safe_string(STYLE.to_string()),
        script => Value::from_safe_string(SCRIPT.to_string()),
        browser => Value::from_safe_string(browser),
        shown => report.browser.problems.len() as u64,
        total => report.browser.total,
        missing => Serde(report.stages.iter().filter(|stage| !stage.done).map(|stage| &stage.name).collect::<Vec<_>>()),
        stale => Serde(report.stale().collect::<Vec<_>>()),
        headline => Serde(headline(report)),
        keys => Serde(trained(report)),
        evaluated => Serde(evaluated(report)),
        kept => Serde(kept(report)),
        truncated_correct => Serde(truncated_correct(report)),
        benchmarks => Serde(report.benchmarks()),
        replications => report.replications().len() as u64,
        dots => Serde(dot_plots(report)),
        curves => Serde(curves(&report.runs, &report.policies)),
        histograms => Serde(report.histograms.iter().map(histograms).collect::<Vec<_>>()),
        checks => report.gaps.iter().map(|table| table.warnings.len()).sum::<usize>() as u64,
        raised => report.warnings_raised() as u64,
    };
    template.render(page).map_err(|e| Error::internal("the report's template fails").source(e))
}

/// JSON that can stand inside a script element: no `<`, so nothing ends it early.
fn embedded(value: &impl Serialize) -> Result<String> {
    let text =
        serde_json::to_string(value).map_err(|e| Error::internal("rows of the report are not JSON").source(e))?;
    Ok(text.replace('<', "\\u003c"))
}

/// 12345 as `12 345`, with narrow spaces that do not break.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).expect("digits are ASCII")).collect();
    groups.join("\u{202f}")
}

/// Class of a policy's colour, by its place among all.
fn class(policies: &[String], label: &str) -> String {
    format!("c{}", policies.iter().position(|policy| policy == label).unwrap_or(0) % COLOURS)
}

/// The key of the training curves.
fn trained(report: &Report) -> Vec<Key> {
    let trained = report.policies.iter().filter(|label| report.runs.iter().any(|run| run.label == **label));
    trained.map(|label| Key { label: label.clone(), class: class(&report.policies, label) }).collect()
}

/// A figure at the head of the page.
#[derive(Serialize)]
struct Tile {
    value: String,
    label: String,
    link: &'static str,
}

fn headline(report: &Report) -> Vec<Tile> {
    let mut tiles = Vec::new();
    let averages: Vec<(&str, f64)> = report
        .evaluated()
        .into_iter()
        .filter_map(|policy| Some((policy, report.average(policy, |eval| eval.mean_at_k)?.value)))
        .collect();
    if let (Some(first), Some(best)) = (averages.first(), averages.iter().max_by(|a, b| a.1.total_cmp(&b.1))) {
        let (value, label) = if first.0 == best.0 && averages.len() > 1 {
            (format!("{:.1} %", first.1), format!("average accuracy of {}, which no other policy exceeds", first.0))
        } else {
            (format!("{:.1} → {:.1} %", first.1, best.1), format!("average accuracy, {} to {}", first.0, best.0))
        };
        tiles.push(Tile { value, label, link: "#accuracy" });
    }
    let targets = report.cascades.iter().filter_map(|cascade| cascade.targets.as_ref());
    let (own, all) =
        targets.fold((0, 0), |(own, all), t| (own + t.own + t.guided, all + t.own + t.guided + t.teacher + t.expert));
    if all > 0 {
        let value = format!("{:.1} %", 100.0 * own as f64 / all as f64);
        tiles.push(Tile { value, label: "of the targets are the policy's own words".to_string(), link: "#cascade" });
    }
    if let Some(table) = report.gaps.first() {
        let of = |moment| table.rows.iter().find(|row| row.rewriting == moment && row.source == Group::All);
        if let (Some(before), Some(after)) = (of(Moment::Before), of(Moment::After)) {
            let value = format!("{:.2} → {:.2}", before.perplexity, after.perplexity);
            let label = format!("perplexity of the targets under {}", table.policy);
            tiles.push(Tile { value, label, link: "#gap" });
        }
        let label = if report.warnings_raised() == 1 { "warning" } else { "warnings" };
        tiles.push(Tile { value: report.warnings_raised().to_string(), label: label.to_string(), link: "#warnings" });
    }
    tiles
}

/// One row of the accuracy tables.
#[derive(Serialize)]
struct Evaluated {
    label: String,
    class: String,
    cells: Vec<Cell>,
    average: Cell,
    others: Vec<Cell>,
}

#[derive(Serialize)]
struct Cell {
    value: String,
    range: String,
    best: bool,
}

fn evaluated(report: &Report) -> Vec<Evaluated> {
    let labels = report.evaluated();
    let cell = |estimate: Option<super::data::Estimate>, best: f64| match estimate {
        None => Cell { value: "–".to_string(), range: String::new(), best: false },
        Some(e) => Cell {
            value: format!("{:.1}", e.value),
            range: match (e.interval, e.error) {
                (Some((low, high)), _) => format!("{low:.1} – {high:.1}"),
                (None, Some(error)) => format!("± {error:.1}"),
                (None, None) => String::new(),
            },
            best: e.value >= best,
        },
    };
    let best = |values: &mut dyn Iterator<Item = Option<super::data::Estimate>>| {
        values.flatten().map(|e| e.value).fold(f64::NEG_INFINITY, f64::max)
    };
    let benchmarks = report.benchmarks();
    let bests: Vec<f64> =
        benchmarks.iter().map(|name| best(&mut labels.iter().map(|label| report.accuracy(label, name)))).collect();
    let average = |label: &str| report.average(label, |eval| eval.mean_at_k);
    let best_average = best(&mut labels.iter().map(|label| average(label)));
    let row = |label: &&str| Evaluated {
        label: label.to_string(),
        class: class(&report.policies, label),
        cells: benchmarks.iter().zip(&bests).map(|(name, best)| cell(report.accuracy(label, name), *best)).collect(),
        average: cell(average(label), best_average),
        others: [
            report.average(label, |e| e.mean_at_k),
            report.average(label, |e| e.pass_at_k),
            report.average(label, |e| e.maj_at_k),
            report.average(label, |e| e.truncated_share),
            report.average(label, |e| e.no_answer_share),
        ]
        .map(|estimate| cell(estimate, f64::INFINITY))
        .into(),
    };
    labels.iter().map(row).collect()
}

/// What a policy has kept, against a base.
#[derive(Serialize)]
struct KeptRow {
    policy: String,
    earlier_tasks: u32,
    bwt: Cell,
    retention: Cell,
    kl: Cell,
}

fn kept(report: &Report) -> Vec<KeptRow> {
    let none = || Cell { value: "–".to_string(), range: String::new(), best: false };
    let points = |mean: Option<f64>, low: Option<f64>, high: Option<f64>| match (mean, low, high) {
        (Some(mean), Some(low), Some(high)) => Cell {
            value: format!("{:+.1}", 100.0 * mean),
            range: format!("{:+.1} – {:+.1}", 100.0 * low, 100.0 * high),
            best: false,
        },
        _ => none(),
    };
    let row = |row: &Forgetting| KeptRow {
        policy: row.policy.clone(),
        earlier_tasks: row.earlier_tasks,
        bwt: points(row.bwt, row.bwt_low, row.bwt_high),
        retention: points(row.retention, row.retention_low, row.retention_high),
        kl: row.kl_per_token.map_or_else(none, |kl| Cell { value: format!("{kl:.4}"), ..none() }),
    };
    report.evals.iter().flat_map(|table| table.kept.iter().map(row)).collect()
}

fn truncated_correct(report: &Report) -> Vec<(&str, String)> {
    report.truncated_correct().into_iter().map(|(policy, share)| (policy, share.text())).collect()
}

fn dot_plots(report: &Report) -> Vec<Figure> {
    let labels = report.evaluated();
    let dots = |estimate: &dyn Fn(&str) -> Option<super::data::Estimate>| -> Vec<Dot> {
        let dot = |label: &&str| {
            let found = estimate(label)?;
            let (value, range) = (found.value, found.range());
            Some(Dot { label: label.to_string(), class: class(&report.policies, label), value, range })
        };
        labels.iter().filter_map(dot).collect()
    };
    let figure = |title: &str, dots: Vec<Dot>| Figure {
        title: title.to_string(),
        note: String::new(),
        svg: chart::dots(title, &dots),
    };
    if labels.is_empty() {
        return Vec::new();
    }
    let mut plots = vec![figure("average", dots(&|label| report.average(label, |eval| eval.mean_at_k)))];
    plots.extend(report.benchmarks().iter().map(|name| figure(name, dots(&|label| report.accuracy(label, name)))));
    plots
}

fn curves(runs: &[Run], policies: &[String]) -> Vec<Figure> {
    let chart = |title: &str, note: &str, y: &str, log: bool, of: &dyn Fn(&TrainStep) -> f64| {
        let line = |run: &Run| Line {
            label: run.label.clone(),
            title: run.stage.clone(),
            class: class(policies, &run.label),
            points: run.steps.iter().map(|step| (f64::from(step.step), of(step))).collect(),
        };
        let axes = Axes { x: "step", y, log, x_range: None, filled: false };
        let svg = chart::lines(&axes, &runs.iter().map(line).collect::<Vec<_>>());
        Figure { title: title.to_string(), note: note.to_string(), svg }
    };
    if runs.is_empty() {
        return Vec::new();
    }
    let ess = |step: &TrainStep| step.ess / step.token_count.max(1) as f64;
    vec![
        chart("Loss", "weight × nll, mean over tokens: comparable between runs of one loss", "loss", false, &|s| {
            s.loss
        }),
        chart("Negative log-likelihood", "the same measure for every run", "nll", false, &|s| s.nll),
        chart("Gradient norm", "before clipping; logarithmic", "gradient norm", true, &|s| s.grad_norm),
        chart("Effective sample size", "of the token weights, as a share of the tokens; 1 for SFT", "ESS", false, &ess),
    ]
}

fn histograms(found: &Histograms) -> serde_json::Value {
    let series = |of: &dyn Fn(&Series) -> Vec<u64>| -> Vec<(String, String, Vec<u64>)> {
        found.series.iter().map(|s| (s.label.clone(), source_class(&s.label), of(s))).collect()
    };
    let tokens = |name| Axes { x: name, y: "% of tokens", log: true, x_range: Some((-12.0, 0.0)), filled: true };
    let rows = |name| Axes { x: name, y: "% of targets", log: false, x_range: Some((-1.2, 0.0)), filled: true };
    let figures = vec![
        Figure {
            title: "Targets by mean log-prob".to_string(),
            note: "% of each source's targets; the left edge holds all below".to_string(),
            svg: chart::histogram(&rows("mean log p per token"), Series::ROW_BIN, &series(&|s| s.rows.clone())),
        },
        Figure {
            title: "Tokens by log-prob".to_string(),
            note: "% of each source's tokens, logarithmic; the left edge holds all below".to_string(),
            svg: chart::histogram(&tokens("log p"), Series::TOKEN_BIN, &series(&|s| s.tokens.clone())),
        },
    ];
    let keys: Vec<Key> =
        found.series.iter().map(|s| Key { label: s.label.clone(), class: source_class(&s.label) }).collect();
    serde_json::json!({ "policy": found.policy, "stages": found.stages, "figures": figures, "keys": keys })
}

/// `self`, `guided`, `teacher`, `expert`, or `before` for the expert's solutions of all problems.
fn source_class(label: &str) -> String {
    match label.contains("before") {
        true => "before".to_string(),
        false => format!("s-{}", label.split([',', ' ']).next().unwrap_or_default()),
    }
}
