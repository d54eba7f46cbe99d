//! path, show, log: looking into tables and runs.

use super::pipelines::load;
use super::{args, render};
use crate::base::error::{Error, Result};
use crate::store::{Manifest, Store};
use polars::prelude::*;
use serde_json::{Value, json};
use std::io::Cursor;
use std::path::Path;

/// The newest manifest of a stage.
pub fn manifest(store: &Store, pipeline: &str, stage: &str) -> Result<Manifest> {
    let pointer = store.pointer(pipeline, stage)?.ok_or_else(|| {
        Error::usage(format!("stage `{stage}` of pipeline `{pipeline}` has not run yet"))
            .hint("run it first: mindgap run PIPELINE STAGE")
    })?;
    store.get_manifest(&pointer.manifest)
}

pub fn path(store: &Path, args: args::Stage) -> Result<()> {
    let pipeline = load(&args.pipeline)?;
    pipeline.stage(&args.stage)?;
    let store = Store::open(store)?;
    let manifest = manifest(&store, &pipeline.name, &args.stage)?;
    let folder = store.view_path(&pipeline.name, &args.stage);
    let folder = folder.display();
    render::out(&if manifest.main_table.is_some() { format!("{folder}/*.parquet") } else { folder.to_string() })
}

/// A table of a manifest as a polars frame, every part verified.
pub fn frame(store: &Store, manifest: &Manifest, table: &str) -> Result<DataFrame> {
    let failed = |e: PolarsError| Error::input(format!("cannot read table `{table}`")).source(e);
    let mut frame: Option<DataFrame> = None;
    for part in manifest.table(table) {
        let rows = ParquetReader::new(Cursor::new(store.get(&part.address)?)).finish().map_err(failed)?;
        match &mut frame {
            None => frame = Some(rows),
            Some(frame) => drop(frame.vstack_mut(&rows).map_err(failed)?),
        }
    }
    frame.ok_or_else(|| Error::usage(format!("the stage has no table `{table}`")))
}

pub fn show(store: &Path, args: args::Show) -> Result<()> {
    let pipeline = load(&args.stage.pipeline)?;
    pipeline.stage(&args.stage.stage)?;
    let store = Store::open(store)?;
    if let Some(row) = &args.row {
        return lineage(&store, &pipeline, row, args.json);
    }
    let manifest = manifest(&store, &pipeline.name, &args.stage.stage)?;
    let table = manifest.main_table.clone().unwrap_or_else(|| "train_steps".to_string());
    let frame = frame(&store, &manifest, &table)?;
    if args.json {
        for index in 0..frame.height().min(args.limit) {
            render::json(&row_json(&frame, index)?)?;
        }
        return Ok(());
    }
    render::out(&frame.head(Some(args.limit)).to_string())
}

/// Everything the pipeline knows about the problems whose id starts with `row`, stage by stage.
fn lineage(store: &Store, pipeline: &crate::pipeline::Pipeline, row: &str, as_json: bool) -> Result<()> {
    let mut found = false;
    for stage in &pipeline.stages {
        let Some(pointer) = store.pointer(&pipeline.name, &stage.name)? else { continue };
        let manifest = store.get_manifest(&pointer.manifest)?;
        for table in manifest.table_names() {
            let frame = frame(store, &manifest, table)?;
            let Ok(ids) = frame.column("problem_id").and_then(|column| column.str().cloned()) else { continue };
            for index in (0..frame.height()).filter(|&i| ids.get(i).is_some_and(|id| id.starts_with(row))) {
                found = true;
                let value = row_json(&frame, index)?;
                if as_json {
                    render::json(&json!({"stage": stage.name, "table": table, "row": value}))?;
                } else {
                    render::out(&format!("{} ({table})", stage.name))?;
                    print_fields(&value)?;
                }
            }
        }
    }
    match found {
        true => Ok(()),
        false => Err(Error::usage(format!("no finished stage holds a problem whose id starts with `{row}`"))
            .hint("ids are in the column `problem_id`: mindgap show PIPELINE problems")),
    }
}

fn print_fields(value: &Value) -> Result<()> {
    for (name, field) in value.as_object().into_iter().flatten() {
        let text = match field {
            Value::Null => continue,
            Value::String(text) => text.replace('\n', "\n                    "),
            Value::Array(items) if items.len() > 12 => {
                let start: Vec<String> = items.iter().take(12).map(short).collect();
                format!("[{}, ... {} in all]", start.join(", "), items.len())
            }
            other => other.to_string(),
        };
        render::out(&format!("  {name:<18}{text}"))?;
    }
    render::out("")
}

/// A number with three decimals, if it has any.
fn short(value: &Value) -> String {
    match value.as_f64() {
        Some(number) if value.is_f64() => format!("{number:.3}"),
        _ => value.to_string(),
    }
}

fn row_json(frame: &DataFrame, index: usize) -> Result<Value> {
    let mut row = serde_json::Map::new();
    for column in frame.columns() {
        let value = column.get(index).map_err(|e| Error::internal("row out of range").source(e))?;
        row.insert(column.name().to_string(), value_json(&value));
    }
    Ok(Value::Object(row))
}

fn value_json(value: &AnyValue) -> Value {
    match value {
        AnyValue::Null => Value::Null,
        AnyValue::Boolean(v) => json!(v),
        AnyValue::String(v) => json!(v),
        AnyValue::StringOwned(v) => json!(v.as_str()),
        AnyValue::UInt32(v) => json!(v),
        AnyValue::UInt64(v) => json!(v),
        AnyValue::Int64(v) => json!(v),
        AnyValue::Float32(v) => json!(v),
        AnyValue::Float64(v) => json!(v),
        AnyValue::List(series) => Value::Array(series.iter().map(|v| value_json(&v)).collect()),
        other => json!(other.to_string()),
    }
}

pub fn log(store: &Path, args: args::Log) -> Result<()> {
    let store = Store::open_existing(store)?;
    for run in store.logs()?.iter().rev().take(args.limit) {
        let Some(first) = run.iter().find(|event| event["event"] == "run") else { continue };
        let computed = run.iter().filter(|event| event["event"] == "part").count();
        let stages: Vec<&Value> = run.iter().filter(|event| event["event"] == "stage").map(|e| &e["outcome"]).collect();
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
                "seconds": seconds, "computed_parts": computed, "stages": stages, "error": last["error"], "text": first["text"]}),
            )?;
        } else {
            let name = first["pipeline"].as_str().unwrap_or("-");
            let time = first["time"].as_f64().unwrap_or(0.0);
            render::out(&format!(
                "{time:.0}  {name:<20} {state:<10} {} stages, {computed} parts computed, {seconds:.1} s",
                stages.len()
            ))?;
        }
    }
    Ok(())
}
