//! export: training targets, prompts and soft targets as files for another trainer.

use super::pipelines::load;
use super::{args, render};
use crate::export::{self, Content, Distiller, Drift, Export, Format, Lineage, Options, Rejected, Rows};
use crate::pipeline::Pipeline;
use crate::stage::{Params, rewrite};
use crate::study::{self, Made, Prompts, Targets, TaughtTexts};
use mindgap_base::error::{Error, Result};
use mindgap_lm::model::policy::Policy;
use mindgap_store::{Store, fs};
use serde_json::json;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

pub fn export(store: &Path, args: args::Export) -> Result<()> {
    let pipeline = load(&args.stage.pipeline)?;
    let stage = args.stage.stage.as_str();
    let params = &pipeline.stage(stage)?.params;
    check_kind(&pipeline, stage, args.format.content())?;
    let store = Store::look(store)?;
    let made = Made::new(&store, &pipeline, &[stage.to_string()])?;
    let manifest = made.finished(stage)?;
    check_free(&args.to, args.format)?;
    let (fingerprint, address) = (manifest.recipe.fingerprint(), manifest.content());
    let lineage = Lineage {
        pipeline: &pipeline.name,
        stage,
        fingerprint: fingerprint.as_str(),
        address: address.as_str(),
        stale: made.stale(stage),
    };
    let options = Options { weights: args.weights.into_iter().collect(), rejected: args.rejected };
    let lay_out =
        |rows: Rows, drift: &Option<Drift>| export::export(args.format, rows, &options, drift.as_ref(), &lineage);
    let (export, rows, drift, policy) = match params {
        Params::Soft(params) if args.format.content() == Content::Soft => {
            let (texts, drift) = (TaughtTexts::new(&made, stage, params)?, Some(Drift::default()));
            let mut distiller = Distiller::new(&args.to, &lineage);
            texts.each(|text| distiller.add(text))?;
            (lay_out(Rows::Soft(distiller.finish()?), &drift)?, texts.count(), drift, params.policy.as_str())
        }
        Params::Rewrite(params) if args.format.content() == Content::Targets => {
            let incorrect = incorrect(&made, params, args.format, args.rejected)?;
            let targets = Targets::new(&made, stage, &params.problems, incorrect)?;
            let drift = match args.format {
                Format::Pretokenized => Some(Drift::default()),
                _ => drift(&made, &params.policy, |policy| targets.drift(policy))?,
            };
            (lay_out(Rows::Targets(targets.list()?), &drift)?, targets.rewrites.len(), drift, params.policy.as_str())
        }
        _ => {
            let prompts = Prompts::new(&made, stage)?;
            let drift = drift(&made, prompts.policy, |policy| prompts.drift(policy))?;
            (lay_out(Rows::Prompts(prompts.list()), &drift)?, prompts.count(), drift, prompts.policy)
        }
    };
    let files = write(&args.to, &export)?;
    let left_out = rows - export.rows;
    render::notes(&made.notes([stage]));
    if args.json {
        return render::json(&json!({"files": files, "rows": export.rows, "left_out_rows": left_out,
            "format": args.format.name(), "fingerprint": fingerprint, "address": address,
            "retokenized_rows": drift.as_ref().map(|drift| drift.retokenized),
            "lengthened_rows": drift.as_ref().map(|drift| drift.lengthened),
            "asks_for_date": drift.as_ref().map(|drift| drift.dated), "stale": lineage.stale}));
    }
    render::note(&format!("{} rows of {rows}", export.rows));
    if left_out > 0 {
        render::note(&format!("left out are {left_out} rows that {}", why_left_out(args.format)));
    }
    match drift {
        Some(drift) => drift.notes().iter().for_each(|note| render::note(note)),
        None => render::note(&format!(
            "tokenizer and chat template of policy `{policy}` are not on this machine: it was not counted how many rows come \
             out as other tokens"
        )),
    }
    files.iter().try_for_each(|file| render::out(&file.display().to_string()))
}

/// What becomes of the tokens elsewhere, where the policy's tokenizer and chat template are here.
fn drift(made: &Made, policy: &str, of: impl FnOnce(&Policy) -> Result<Drift>) -> Result<Option<Drift>> {
    let policy = study::speaker(made, policy)?.filter(|policy| policy.chat().is_some());
    policy.map(|policy| of(&policy)).transpose()
}

/// What `preference` may reject, by problem.
fn incorrect(
    made: &Made,
    params: &rewrite::Params,
    format: Format,
    rejected: Rejected,
) -> Result<HashMap<String, String>> {
    match (format, rejected) {
        (Format::Preference, Rejected::Incorrect) if params.self_aligned.is_empty() => Err(no_samples()),
        (Format::Preference, Rejected::Incorrect) => study::incorrect_samples(made, &params.self_aligned),
        _ => Ok(HashMap::new()),
    }
}

fn why_left_out(format: Format) -> &'static str {
    match (format, format.content()) {
        (Format::Preference, _) => "make no pair",
        (_, Content::Targets) => "have weight 0",
        (_, Content::Prompts) => "have no solution to show a teacher",
        (_, Content::Soft) => "have no token",
    }
}

fn no_samples() -> Error {
    Error::usage("there are no incorrect samples: the stage names no `self_aligned` verdicts")
        .hint("--rejected expert pairs with the expert's solution")
}

/// Error where a stage of this kind does not make what the format is of.
fn check_kind(pipeline: &Pipeline, stage: &str, content: Content) -> Result<()> {
    let (what, kinds): (_, &[&str]) = match content {
        Content::Targets => ("training targets are in a `rewrite` stage", &["rewrite"]),
        Content::Prompts => ("prompts are in a `rewrite`, `rollout` or `soft` stage", &["rewrite", "rollout", "soft"]),
        Content::Soft => ("a teacher's distributions are in a `soft` stage", &["soft"]),
    };
    let kind = pipeline.stage(stage)?.params.kind();
    if kinds.contains(&kind) {
        return Ok(());
    }
    let fitting = pipeline.stages.iter().filter(|stage| kinds.contains(&stage.params.kind()));
    let names: Vec<String> = fitting.map(|stage| format!("`{}`", stage.name)).collect();
    let error = Error::usage(format!("stage `{stage}` is a `{kind}` stage; {what}"));
    Err(match (kind, names.is_empty()) {
        ("train", _) => error.hint(format!("for the policy's folder: mindgap path {} {stage}", pipeline.source.path)),
        (_, true) => error.hint("the pipeline has none"),
        _ => error.hint(format!("this pipeline has {}", names.join(", "))),
    })
}

/// Error where a file of the export is there already.
fn check_free(folder: &Path, format: Format) -> Result<()> {
    let present = fs::list(folder)?;
    let Some(file) = format.files().find(|file| present.iter().any(|name| name == file)) else { return Ok(()) };
    Err(Error::usage("output file exists already")
        .at(folder.join(file).display().to_string())
        .hint("remove it first, or choose another folder: nothing is overwritten"))
}

fn write(folder: &Path, export: &Export) -> Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    for file in &export.files {
        let path = folder.join(file.name);
        fs::publish_new(&path, &file.bytes)?;
        written.push(path);
    }
    Ok(written)
}
