//! run, plan, status.

use super::args;
use super::render::{self, Progress};
use crate::net::hub::{Transfer, Watch};
use crate::pipeline::execute::Options;
use crate::pipeline::{self, Pipeline, StagePlan};
use mindgap_base::error::Result;
use mindgap_store::Store;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

pub fn load(args: &args::Pipeline) -> Result<Pipeline> {
    Pipeline::load(&args.pipeline, &args.settings)
}

pub fn run(store: &Path, args: args::Run, threads: usize, cancel: Arc<AtomicBool>) -> Result<()> {
    let args::Run { stages: args, part, compute } = args;
    let device = compute.device()?;
    let pipeline = load(&args.pipeline)?;
    let store = Store::open(store)?;
    let progress = Progress::new();
    let observer = |event: pipeline::Event| progress.show(event);
    let options = Options { threads, device: &device, cancel: &cancel, share: part, observer: &observer };
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
        for why in &plan.why {
            render::out(&format!("{:<28}   {why}", ""))?;
        }
    }
    Ok(())
}

pub fn status(store: &Path, args: args::Status) -> Result<()> {
    let pipeline = load(&args.pipeline)?;
    let store = Store::look(store)?;
    let plans = watched(|watch| pipeline::plan(&pipeline, &store, &[], watch))?;
    let stages = plans.iter().map(|plan| stage_status(&store, &pipeline, plan)).collect::<Result<Vec<Value>>>()?;
    if args.json {
        return render::json(&json!({ "stages": stages }));
    }
    for stage in &stages {
        let text = |key: &str| stage[key].as_str().unwrap_or("-").to_string();
        let standing = match text("state").as_str() {
            "partial" => format!("{} of {} parts", stage["parts_done"], stage["parts"]),
            _ => text("address").chars().take(12).collect(),
        };
        render::out(&format!("{:<28} {:<8} {:>8} rows  {standing}", text("name"), text("state"), stage["rows"]))?;
    }
    Ok(())
}

fn stage_status(store: &Store, pipeline: &Pipeline, plan: &StagePlan) -> Result<Value> {
    let state = match plan {
        StagePlan { waits_for, .. } if !waits_for.is_empty() => "missing",
        StagePlan { parts_miss: 0, .. } => "done",
        StagePlan { parts_hit: 0, rows_hit: 0, .. } => "missing",
        _ => "partial",
    };
    let pointer = store.pointer(&pipeline.name, &plan.name)?.filter(|_| state == "done");
    let manifest = pointer.and_then(|pointer| store.get_manifest(&pointer.manifest).ok());
    Ok(json!({
        "name": plan.name,
        "kind": plan.kind,
        "state": state,
        "fingerprint": plan.fingerprint,
        "address": manifest.as_ref().map(|m| m.content()),
        "rows": manifest.as_ref().map_or(plan.rows_hit, |m| m.rows()),
        "parts": plan.parts_hit + plan.parts_miss,
        "parts_done": plan.parts_hit,
    }))
}
