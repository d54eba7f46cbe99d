//! run, plan, status.

use super::args;
use super::progress::Progress;
use super::render;
use crate::net::hub::{Transfer, Watch};
use crate::pipeline::{self, Options, Pipeline, Way};
use crate::study;
use indicatif::{HumanCount, HumanDuration};
use mindgap_base::error::Result;
use mindgap_store::Store;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

pub fn load(args: &args::Pipeline) -> Result<Pipeline> {
    Pipeline::load(&args.pipeline, &args.settings)
}

pub fn run(store: &Path, args: args::Run, threads: usize, cancel: Arc<AtomicBool>) -> Result<()> {
    let args::Run { stages, part, compute } = args;
    compute_with(store, &stages, &compute, threads, &cancel, Way::Run { share: part })
}

pub fn work(store: &Path, args: args::Work, threads: usize, cancel: Arc<AtomicBool>) -> Result<()> {
    let args::Work { stages, compute } = args;
    compute_with(store, &stages, &compute, threads, &cancel, Way::Work)
}

fn compute_with(
    store: &Path,
    args: &args::Stages,
    compute: &args::Compute,
    threads: usize,
    cancel: &AtomicBool,
    way: Way,
) -> Result<()> {
    let device = compute.device()?;
    let pipeline = load(&args.pipeline)?;
    let store = Store::open(store)?;
    let progress = Progress::new();
    let observer = |event: pipeline::Event| progress.show(event);
    let options = Options { threads, device: &device, cancel, way, observer: &observer };
    let started = Instant::now();
    let outcomes = pipeline::run(&pipeline, &store, &args.stages, &options)?;
    let computed: usize = outcomes.iter().map(|outcome| outcome.computed_parts).sum();
    render::note(&format!(
        "{} stages done, {computed} parts computed, {:.1} s",
        outcomes.len(),
        started.elapsed().as_secs_f64()
    ));
    if args.json {
        render::json(&json!({ "stages": outcomes }))?;
    }
    Ok(())
}

/// Runs something that may download, its progress shown. A signal ends the process at once; the next run goes on.
pub fn watched<T>(work: impl FnOnce(&Watch) -> Result<T>) -> Result<T> {
    let progress = Progress::new();
    let on_transfer = |transfer: Transfer| progress.show(pipeline::Event::Download { transfer });
    work(&Watch { cancel: &AtomicBool::new(false), on_transfer: &on_transfer })
}

pub fn plan(store: &Path, args: args::Stages) -> Result<()> {
    let pipeline = load(&args.pipeline)?;
    let plans = watched(|watch| pipeline::plan(&pipeline, &Store::look(store)?, &args.stages, watch))?;
    if args.json {
        return render::json(&json!({ "stages": plans }));
    }
    for plan in &plans {
        let state = match (plan.waits_for.is_empty(), plan.parts_miss) {
            (false, _) => "waits".to_string(),
            (true, 0) => "cached".to_string(),
            (true, missing) => format!("{missing} of {} parts to compute", plan.parts_hit + missing),
        };
        render::out(&format!("{:<28} {state}", plan.name))?;
        if let Some(takes) = takes(plan) {
            render::out(&format!("{:<28}   takes {takes}", ""))?;
        }
        for remark in &plan.remarks {
            render::out(&format!("{:<28}   {remark}", ""))?;
        }
        for why in &plan.why {
            render::out(&format!("{:<28}   {why}", ""))?;
        }
    }
    if plans.iter().any(|plan| plan.estimate.as_ref().is_some_and(|estimate| estimate.seconds.is_none())) {
        render::note("how long it takes is not known here yet: `mindgap bench --policy DIR` measures it in a minute");
    }
    Ok(())
}

/// Tokens, time and memory of what is missing, where they are known.
fn takes(plan: &pipeline::StagePlan) -> Option<String> {
    let mut takes = Vec::new();
    if let Some(estimate) = &plan.estimate {
        let at_most = if estimate.is_upper_bound { "at most" } else { "about" };
        let largest = estimate.at_most.map(|tokens| format!(" (at most {})", HumanCount(tokens))).unwrap_or_default();
        takes.push(format!("{at_most} {} tokens{largest}", HumanCount(estimate.tokens)));
        takes.extend(
            estimate.seconds.map(|s| format!("{at_most} {}", HumanDuration(Duration::from_secs_f64(s.max(1.0))))),
        );
    }
    takes.extend(plan.least_memory.map(|bytes| format!("at least {} of memory", render::size(bytes))));
    (!takes.is_empty()).then(|| takes.join(", "))
}

pub fn status(store: &Path, args: args::Status) -> Result<()> {
    let pipeline = load(&args.pipeline)?;
    let store = Store::look(store)?;
    let plans = watched(|watch| pipeline::plan(&pipeline, &store, &[], watch))?;
    let stages = study::status(&store, &pipeline, plans)?;
    // To learn the bucket's time something is written there, which a reader may not be allowed to.
    let workers = store.workers().unwrap_or_else(|error| {
        render::note(&format!("who works on it is not known: {}", error.what()));
        Vec::new()
    });
    if args.json {
        return render::json(&json!({ "stages": stages, "workers": workers }));
    }
    for stage in &stages {
        let standing = match (stage.state, &stage.address) {
            ("partial", _) => format!("{} of {} parts", stage.parts_done, stage.parts),
            (_, Some(address)) => address.short().to_string(),
            (_, None) => "-".to_string(),
        };
        // Rows are shown that the file no longer asks for, and nothing is made of what it asks for.
        let state = if stage.stale.is_empty() || stage.state == "partial" { stage.state } else { "stale" };
        render::out(&format!("{:<28} {state:<8} {} rows  {standing}", stage.name, stage.rows))?;
        for why in &stage.stale {
            render::out(&format!("{:<28}   stale: {why}", ""))?;
        }
    }
    for worker in &workers {
        render::out(&format!("worker {}: {}, heard of {} s ago", worker.owner, worker.note, worker.seconds))?;
    }
    Ok(())
}
