//! report: the results of a pipeline as Markdown tables.

use super::inspect::{frame, manifest};
use super::pipelines::load;
use super::{args, render};
use crate::base::error::{Error, Result};
use crate::pipeline::Pipeline;
use crate::stage::Params;
use crate::stats::metrics::{effective_sample_size, mean, standard_error};
use crate::store::{Manifest, Store};
use crate::table::evals::Eval;
use crate::table::logprobs::Logprob;
use polars::prelude::*;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Everything a report says, as data.
#[derive(Serialize)]
struct Report {
    pipeline: String,
    shares: Vec<Shares>,
    gaps: Vec<Gap>,
    /// Evals of each evaluate stage: one per replication, where the pipeline runs over seeds.
    evals: Vec<Vec<Eval>>,
    policies: Vec<String>,
    addresses: BTreeMap<String, String>,
}

/// Where the targets of a rewrite stage come from.
#[derive(Serialize)]
struct Shares {
    stage: String,
    problems: u64,
    self_aligned: u64,
    guided: u64,
    expert: u64,
}

/// How far the targets of one source are from the policy.
#[derive(Serialize)]
struct Gap {
    stage: String,
    source: String,
    rows: usize,
    tokens: usize,
    mean_logprob: f64,
    mean_sequence_logprob: f64,
    low_probability_share: f64,
    /// Of w = min(1/p, 100) over tokens, as a share of the token count.
    ess_share: f64,
}

/// Bound on 1/p: unclipped, one or two tokens decide every variance.
const CLIP: f64 = 100.0;

pub fn report(store: &Path, args: args::Report) -> Result<()> {
    let pipeline = load(&args.pipeline)?;
    let store = Store::open(store)?;
    let report = collect(&store, &pipeline)?;
    if args.json { render::json(&report) } else { render::out(&markdown(&report)) }
}

fn collect(store: &Store, pipeline: &Pipeline) -> Result<Report> {
    let mut report = Report {
        pipeline: pipeline.name.clone(),
        shares: Vec::new(),
        gaps: Vec::new(),
        evals: Vec::new(),
        policies: Vec::new(),
        addresses: BTreeMap::new(),
    };
    for stage in &pipeline.stages {
        if store.pointer(&pipeline.name, &stage.name)?.is_none() {
            continue;
        }
        let manifest = manifest(store, &pipeline.name, &stage.name)?;
        report.addresses.insert(stage.name.clone(), manifest.content().short().to_string());
        match &stage.params {
            Params::Rewrite(_) => report.shares.push(shares(store, &stage.name, &manifest)?),
            Params::Logprob(_) => report.gaps.extend(gaps(&stage.name, store.read_rows(&manifest.table("logprobs"))?)),
            Params::Evaluate(_) => {
                let rows: Vec<Eval> = store.read_rows(&manifest.table("evals"))?;
                for row in &rows {
                    if !report.policies.contains(&row.policy) {
                        report.policies.push(row.policy.clone());
                    }
                }
                report.evals.push(rows);
            }
            _ => {}
        }
    }
    Ok(report)
}

fn shares(store: &Store, stage: &str, manifest: &Manifest) -> Result<Shares> {
    let failed = |e: PolarsError| Error::internal("cannot count sources").source(e);
    let rewrites = frame(store, manifest, "rewrites")?;
    let first = rewrites.column("choice_index").and_then(|c| c.u32().cloned()).map_err(failed)?;
    let rewrites = rewrites.filter(&first.equal(0)).map_err(failed)?;
    let sources = rewrites.column("source").and_then(|c| c.str().cloned()).map_err(failed)?;
    let count = |name: &str| sources.iter().filter(|source| *source == Some(name)).count() as u64;
    let untargeted = frame(store, manifest, "untargeted")?.height() as u64;
    Ok(Shares {
        stage: stage.to_string(),
        problems: rewrites.height() as u64 + untargeted,
        self_aligned: count("self"),
        guided: count("guided"),
        expert: count("expert"),
    })
}

fn gaps(stage: &str, rows: Vec<Logprob>) -> Vec<Gap> {
    let mut by_source: BTreeMap<String, Vec<Vec<f32>>> = BTreeMap::new();
    for row in rows {
        by_source.entry(row.source).or_default().push(row.logprob_policy);
    }
    let gap = |(source, rows): (String, Vec<Vec<f32>>)| {
        let tokens: Vec<f64> = rows.iter().flatten().map(|lp| f64::from(*lp)).collect();
        Gap {
            stage: stage.to_string(),
            source,
            rows: rows.len(),
            tokens: tokens.len(),
            mean_logprob: mean(tokens.iter().copied()),
            mean_sequence_logprob: mean(rows.iter().map(|row| row.iter().map(|lp| f64::from(*lp)).sum())),
            low_probability_share: mean(tokens.iter().map(|lp| f64::from(u8::from(*lp < 0.1f64.ln())))),
            ess_share: effective_sample_size(tokens.iter().map(|lp| (-lp).exp().min(CLIP)))
                / tokens.len().max(1) as f64,
        }
    };
    by_source.into_iter().map(gap).collect()
}

fn markdown(report: &Report) -> String {
    let mut text = format!("# {}\n", report.pipeline);
    if !report.shares.is_empty() {
        text += "\n## Where the training targets come from\n\n| rewrites | problems | self | guided | expert |\n|---|--:|--:|--:|--:|\n";
        for s in &report.shares {
            let share = |count: u64| format!("{count} ({:.1} %)", 100.0 * count as f64 / s.problems.max(1) as f64);
            let (own, guided, expert) = (share(s.self_aligned), share(s.guided), share(s.expert));
            text += &format!("| {} | {} | {own} | {guided} | {expert} |\n", s.stage, s.problems);
        }
    }
    if !report.gaps.is_empty() {
        text += "\n## How far the targets are from the policy\n\nESS of w = min(1/p, 100) over tokens.\n\n";
        text += "| log-probs | source | rows | log p / token | log p / row | tokens with p < 0.1 | ESS / n |\n|---|---|--:|--:|--:|--:|--:|\n";
        for g in &report.gaps {
            text += &format!(
                "| {} | {} | {} | {:.3} | {:.1} | {:.2} % | {:.3} |\n",
                g.stage,
                g.source,
                g.rows,
                g.mean_logprob,
                g.mean_sequence_logprob,
                100.0 * g.low_probability_share,
                g.ess_share
            );
        }
    }
    if let Some(first) = report.evals.first().and_then(|evals| evals.first()) {
        let (n, k, temperature, replications) = (first.n, first.k, first.temperature, report.evals.len());
        text += &format!("\n## Accuracy\n\nmean@{k} in %, temperature {temperature}, {n} problems per benchmark; ");
        text += &match replications {
            1 => "95 % bootstrap interval over problems.\n\n".to_string(),
            _ => format!("mean and standard error over {replications} replications.\n\n"),
        };
        text += &accuracy(report);
    }
    text
}

/// One row per policy, one column per benchmark, and the average of the benchmarks.
fn accuracy(report: &Report) -> String {
    let mut benchmarks: Vec<&str> = report.evals.iter().flatten().map(|eval| eval.benchmark.as_str()).collect();
    benchmarks.sort_unstable();
    benchmarks.dedup();
    let columns = benchmarks.len();
    let mut text = format!("| policy | {} | average |\n|---|{}--:|\n", benchmarks.join(" | "), "--:|".repeat(columns));
    for policy in &report.policies {
        let cells: Vec<String> = benchmarks.iter().map(|benchmark| cell(report, policy, benchmark)).collect();
        text += &format!("| {policy} | {} | **{}** |\n", cells.join(" | "), average(report, policy));
    }
    text
}

fn cell(report: &Report, policy: &str, benchmark: &str) -> String {
    let found: Vec<&Eval> =
        report.evals.iter().flatten().filter(|eval| eval.policy == policy && eval.benchmark == benchmark).collect();
    match found[..] {
        [] => "-".to_string(),
        [e] => format!("{:.1} [{:.1}, {:.1}]", 100.0 * e.mean_at_k, 100.0 * e.ci_low, 100.0 * e.ci_high),
        _ => with_error(&found.iter().map(|e| 100.0 * e.mean_at_k).collect::<Vec<_>>()),
    }
}

/// The average over benchmarks, per replication.
fn average(report: &Report, policy: &str) -> String {
    let of = |evals: &Vec<Eval>| mean(evals.iter().filter(|e| e.policy == policy).map(|e| 100.0 * e.mean_at_k));
    let averages: Vec<f64> = report.evals.iter().map(of).collect();
    match averages[..] {
        [one] => format!("{one:.1}"),
        _ => with_error(&averages),
    }
}

fn with_error(values: &[f64]) -> String {
    format!("{:.1} ± {:.1}", mean(values.iter().copied()), standard_error(values))
}
