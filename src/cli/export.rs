//! export: a rewrite stage's training targets as files for another trainer.

use super::pipelines::{load, watched};
use super::{args, render};
use crate::export::{self, Content, Export, Format, Lineage, Options, Rejected, Target};
use crate::pipeline::{self, Finished, Pipeline};
use crate::stage::Params;
use mindgap_base::error::{Error, Result};
use mindgap_lm::model::tokenizer::Tokenizer;
use mindgap_store::parquet::{Footer, encode_foreign};
use mindgap_store::table::Row;
use mindgap_store::table::problems::Problem;
use mindgap_store::table::rewrites::Rewrite;
use mindgap_store::table::rollouts::Rollout;
use mindgap_store::table::verdicts::{Verdict, VerdictRow};
use mindgap_store::{Store, fs};
use serde_json::json;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

pub fn export(store: &Path, args: args::Export) -> Result<()> {
    let pipeline = load(&args.stage.pipeline)?;
    let stage = args.stage.stage.as_str();
    let Params::Rewrite(params) = &pipeline.stage(stage)?.params else {
        return Err(wrong_kind(&pipeline, stage)?);
    };
    let store = Store::look(store)?;
    let finished = watched(|watch| pipeline::finished(&pipeline, &store, &[stage.to_string()], watch))?;
    let manifest = finished.manifest(stage)?;
    let rewrites: Vec<Rewrite> = store.read_rows(&manifest.table(Rewrite::TABLE))?;
    let problems = store.read_rows::<Problem>(&finished.manifest(&params.problems)?.table(Problem::TABLE))?;
    let problems: HashMap<String, Problem> = problems.into_iter().map(|p| (p.problem_id.clone(), p)).collect();
    let incorrect = match (args.format, args.rejected) {
        (Format::Preference, Rejected::Incorrect) => incorrect(&pipeline, &store, &finished, &params.self_aligned)?,
        _ => HashMap::new(),
    };
    let mut targets = Vec::with_capacity(rewrites.len());
    for rewrite in &rewrites {
        let id = &rewrite.problem_id;
        let problem = problems.get(id);
        let problem =
            problem.ok_or_else(|| Error::internal(format!("problem `{id}` has a target but is not there")))?;
        targets.push(Target { rewrite, problem, incorrect: incorrect.get(id).map(String::as_str) });
    }
    let (fingerprint, address) = (manifest.recipe.fingerprint(), manifest.content());
    let lineage =
        Lineage { pipeline: &pipeline.name, stage, fingerprint: fingerprint.as_str(), address: address.as_str() };
    let options = Options { weights: args.weights.into_iter().collect(), rejected: args.rejected };
    let export = export::export(args.format, &targets, &options, &lineage)?;
    let files = write(&args.to, &export, &Footer { stage, fingerprint: fingerprint.as_str() })?;
    let tokenizer = Tokenizer::from_bytes(&finished.policy(&store, &params.policy)?.read("tokenizer.json")?)?;
    let drifting = match args.format {
        Format::Pretokenized => 0,
        _ => drifting(&tokenizer, &rewrites)?,
    };
    if args.json {
        return render::json(&json!({"files": files, "rows": export.rows, "format": args.format.name(),
            "fingerprint": fingerprint, "address": address, "retokenized_rows": drifting}));
    }
    render::note(&format!("{} rows of {}", export.rows, rewrites.len()));
    if drifting > 0 {
        render::note(&format!(
            "{drifting} targets were sampled as other tokens than their text encodes to; \
             `--format pretokenized` keeps the tokens"
        ));
    }
    files.iter().try_for_each(|file| render::out(&file.display().to_string()))
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

/// The first sample of each problem that was judged incorrect, by problem.
fn incorrect(
    pipeline: &Pipeline,
    store: &Store,
    finished: &Finished,
    verdicts: &[String],
) -> Result<HashMap<String, String>> {
    if verdicts.is_empty() {
        return Err(Error::usage("there are no incorrect samples: the stage names no `self_aligned` verdicts")
            .hint("--rejected expert pairs with the expert's solution"));
    }
    let mut first: BTreeMap<String, (u32, String)> = BTreeMap::new();
    for name in verdicts {
        let Params::Judge(judge) = &pipeline.stage(name)?.params else {
            return Err(Error::internal(format!("`{name}` is not a judge stage")));
        };
        let rows = store.read_rows::<VerdictRow>(&finished.manifest(name)?.table(VerdictRow::TABLE))?;
        let wrong: HashSet<(String, u32)> = rows
            .into_iter()
            .filter(|row| row.verdict == Verdict::Incorrect)
            .map(|row| (row.problem_id, row.sample_index))
            .collect();
        for part in finished.manifest(&judge.rollouts)?.table(Rollout::TABLE) {
            for row in store.read_part::<Rollout>(&part)? {
                let key = (row.problem_id, row.sample_index);
                if wrong.contains(&key) && first.get(&key.0).is_none_or(|(index, _)| key.1 < *index) {
                    first.insert(key.0, (key.1, row.completion));
                }
            }
        }
    }
    Ok(first.into_iter().map(|(id, (_, completion))| (id, completion)).collect())
}

/// Targets whose text does not encode to the tokens they were sampled as.
fn drifting(tokenizer: &Tokenizer, rewrites: &[Rewrite]) -> Result<usize> {
    let mut count = 0;
    for row in rewrites {
        let encoded = tokenizer.encode(&row.completion, false)?;
        // One more: the end-of-sequence token, which is not in the text.
        let same = row.token_ids.starts_with(&encoded) && row.token_ids.len() <= encoded.len() + 1;
        count += usize::from(!same);
    }
    Ok(count)
}

/// Writes all files, or none where one of them is there already.
fn write(folder: &Path, export: &Export, footer: &Footer) -> Result<Vec<PathBuf>> {
    let present = fs::list(folder)?;
    if let Some(file) = export.files.iter().find(|file| present.iter().any(|name| name == file.name)) {
        return Err(Error::usage("output file exists already")
            .at(folder.join(file.name).display().to_string())
            .hint("remove it first, or choose another folder: nothing is overwritten"));
    }
    let mut written = Vec::new();
    for file in &export.files {
        let path = folder.join(file.name);
        match &file.content {
            Content::Text(text) => fs::publish_new(&path, text.as_bytes())?,
            Content::Table(batch) => fs::publish_new(&path, &encode_foreign(batch, footer)?)?,
        }
        written.push(path);
    }
    Ok(written)
}
