//! export: a rewrite stage's training targets as files for another trainer.

use super::pipelines::load;
use super::{args, render};
use crate::export::{self, Drift, Export, Format, Lineage, Options, Rejected};
use crate::pipeline::Pipeline;
use crate::stage::Params;
use crate::study::{self, Made, Targets};
use mindgap_base::error::{Error, Result};
use mindgap_store::{Store, fs};
use serde_json::json;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

pub fn export(store: &Path, args: args::Export) -> Result<()> {
    let pipeline = load(&args.stage.pipeline)?;
    let stage = args.stage.stage.as_str();
    let Params::Rewrite(params) = &pipeline.stage(stage)?.params else {
        return Err(wrong_kind(&pipeline, stage)?);
    };
    let store = Store::look(store)?;
    let made = Made::new(&store, &pipeline, &[stage.to_string()])?;
    let manifest = made.finished(stage)?;
    let incorrect = match (args.format, args.rejected) {
        (Format::Preference, Rejected::Incorrect) if params.self_aligned.is_empty() => return Err(no_samples()),
        (Format::Preference, Rejected::Incorrect) => study::incorrect_samples(&made, &params.self_aligned)?,
        _ => HashMap::new(),
    };
    let targets = Targets::new(&made, stage, &params.problems, incorrect)?;
    let (fingerprint, address) = (manifest.recipe.fingerprint(), manifest.content());
    let lineage = Lineage {
        pipeline: &pipeline.name,
        stage,
        fingerprint: fingerprint.as_str(),
        address: address.as_str(),
        stale: made.stale(stage),
    };
    let options = Options { weights: args.weights.into_iter().collect(), rejected: args.rejected };
    let drift = match args.format {
        Format::Pretokenized => Some(Drift::default()),
        _ => study::speaker(&made, &params.policy)?
            .filter(|policy| policy.chat().is_some())
            .map(|policy| targets.drift(&policy))
            .transpose()?,
    };
    let export = export::export(args.format, &targets.list()?, &options, drift.as_ref(), &lineage)?;
    let files = write(&args.to, &export)?;
    let left_out = targets.rewrites.len() - export.rows;
    render::notes(&made.notes([stage]));
    if args.json {
        return render::json(&json!({"files": files, "rows": export.rows, "left_out_rows": left_out,
            "format": args.format.name(), "fingerprint": fingerprint, "address": address,
            "retokenized_rows": drift.as_ref().map(|drift| drift.retokenized),
            "lengthened_rows": drift.as_ref().map(|drift| drift.lengthened),
            "asks_for_date": drift.as_ref().map(|drift| drift.dated), "stale": lineage.stale}));
    }
    render::note(&format!("{} rows of {}", export.rows, targets.rewrites.len()));
    if left_out > 0 {
        let why = if args.format == Format::Preference { "make no pair" } else { "have weight 0" };
        render::note(&format!("left out are {left_out} rows that {why}"));
    }
    match drift {
        Some(drift) => drift.notes().iter().for_each(|note| render::note(note)),
        None => render::note(&format!(
            "tokenizer and chat template of policy `{}` are not on this machine: it was not counted how many rows come out as \
             other tokens",
            params.policy
        )),
    }
    files.iter().try_for_each(|file| render::out(&file.display().to_string()))
}

fn no_samples() -> Error {
    Error::usage("there are no incorrect samples: the stage names no `self_aligned` verdicts")
        .hint("--rejected expert pairs with the expert's solution")
}

fn wrong_kind(pipeline: &Pipeline, stage: &str) -> Result<Error> {
    let kind = pipeline.stage(stage)?.params.kind();
    let rewrites = pipeline.stages.iter().filter(|stage| matches!(stage.params, Params::Rewrite(_)));
    let names: Vec<String> = rewrites.map(|stage| format!("`{}`", stage.name)).collect();
    let error = Error::usage(format!("stage `{stage}` is a `{kind}` stage; training targets are in a `rewrite` stage"));
    Ok(match (kind, names.is_empty()) {
        ("train", _) => error.hint(format!("for the policy's folder: mindgap path {} {stage}", pipeline.source.path)),
        (_, true) => error.hint("the pipeline has none"),
        _ => error.hint(format!("this pipeline has {}", names.join(", "))),
    })
}

/// Writes all files, or none where one of them is there already.
fn write(folder: &Path, export: &Export) -> Result<Vec<PathBuf>> {
    let present = fs::list(folder)?;
    if let Some(file) = export.files.iter().find(|file| present.iter().any(|name| name == file.name)) {
        return Err(Error::usage("output file exists already")
            .at(folder.join(file.name).display().to_string())
            .hint("remove it first, or choose another folder: nothing is overwritten"));
    }
    let mut written = Vec::new();
    for file in &export.files {
        let path = folder.join(file.name);
        fs::publish_new(&path, &file.bytes)?;
        written.push(path);
    }
    Ok(written)
}
