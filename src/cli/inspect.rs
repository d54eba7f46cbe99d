//! path, log: where tables are, and past runs.

use super::pipelines::load;
use super::{args, render};
use crate::study::Made;
use mindgap_base::error::Result;
use mindgap_store::Store;
use serde_json::{Value, json};
use std::path::Path;

pub fn path(store: &Path, args: args::Path) -> Result<()> {
    let args::Path { stage: args, remote } = args;
    let pipeline = load(&args.pipeline)?;
    pipeline.stage(&args.stage)?;
    let store = Store::look(store)?;
    let made = Made::new(&store, &pipeline, std::slice::from_ref(&args.stage))?;
    let manifest = made.finished(&args.stage)?;
    render::notes(&made.notes([args.stage.as_str()]));
    if remote {
        let parts = manifest.main_table.iter().flat_map(|table| manifest.table(table)).map(|part| part.address);
        let files = manifest.files().into_values().map(|(address, _)| address);
        return parts.chain(files).try_for_each(|address| render::out(&store.object_url(&address)));
    }
    store.fetch_view(&pipeline.name, &args.stage)?;
    let folder = store.view_path(&pipeline.name, &args.stage);
    let folder = folder.display();
    render::out(&if manifest.main_table.is_some() { format!("{folder}/*.parquet") } else { folder.to_string() })
}

pub fn log(store: &Path, args: args::Log) -> Result<()> {
    let store = Store::look_existing(store)?;
    for run in store.logs()?.iter().rev().take(args.limit) {
        let Some(first) = run.iter().find(|event| event["event"] == "run") else { continue };
        let computed = run.iter().filter(|event| event["event"] == "part").count();
        let stages: Vec<&Value> = run.iter().filter(|event| event["event"] == "stage").map(|e| &e["outcome"]).collect();
        let parts = |field: &str| stages.iter().filter_map(|stage| stage[field].as_u64()).sum::<u64>();
        // Of the stages that were looked at to the end.
        let cached = parts("parts").saturating_sub(parts("computed_parts"));
        let last = run.last().unwrap_or(first);
        let seconds = last["time"].as_f64().unwrap_or(0.0) - first["time"].as_f64().unwrap_or(0.0);
        let state = match last["event"].as_str() {
            Some("done") => "done",
            Some("failed") => "failed",
            Some("stopped") => "stopped",
            _ => "unfinished",
        };
        if args.json {
            render::json(
                &json!({"time": first["time"], "pipeline": first["pipeline"], "file": first["file"], "state": state,
                "seconds": seconds, "computed_parts": computed, "cached_parts": cached, "stages": stages, "error": last["error"], "text": first["text"]}),
            )?;
        } else {
            let name = first["pipeline"].as_str().unwrap_or("-");
            let time = render::date(first["time"].as_f64().unwrap_or(0.0));
            render::out(&format!(
                "{time}  {name:<20} {state:<10} {} stages, {computed} parts computed, {cached} cached, {seconds:.1} s",
                stages.len()
            ))?;
        }
    }
    Ok(())
}
