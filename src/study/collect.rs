//! What a report says, gathered from what the stages of a pipeline made.

use super::agreement::compared;
use super::browse::browse;
use super::frame;
use super::made::Made;
use crate::pipeline::{Pipeline, StageSpec};
use crate::policy::PolicySource;
use crate::report::{
    Cascade, Choice, Chosen, EvalTable, GapTable, Histograms, RefusedSamples, Report, Run, Samples, Series, StageState,
    Targets,
};
use crate::stage::{Params, rewrite};
use mindgap_base::error::Result;
use mindgap_store::Manifest;
use mindgap_store::table::Row;
use mindgap_store::table::logprobs::Logprob;
use mindgap_store::table::problems::Problem;
use mindgap_store::table::rewrites::{Candidate, Outcome, Refused, Rewrite, Source, Untargeted};
use mindgap_store::table::train_steps::TrainStep;
use mindgap_store::table::verdicts::{Verdict, VerdictRow};
use polars::prelude::DataFrame;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Gathers everything; the rows of the browser only where they are wanted.
pub fn collect(made: &Made, with_rows: bool) -> Result<Report> {
    let pipeline = made.pipeline;
    let mut report = Report {
        pipeline: pipeline.name.clone(),
        file: pipeline.source.path.clone(),
        is_compared: made.is_compared(),
        stages: pipeline.stages.iter().map(|spec| state(made, spec)).collect::<Result<_>>()?,
        ..Report::default()
    };
    for (name, params) in made.cascades() {
        let cascade = cascade(made, name, params)?;
        if cascade.problems > 0 {
            report.cascades.push(cascade);
        }
    }
    for spec in pipeline.stages.iter().filter(|spec| made.has(&spec.name)) {
        let stage = spec.name.clone();
        match &spec.params {
            Params::Gap(params) => report.gaps.push(GapTable {
                policy: made
                    .scored()
                    .find(|s| s.stage == params.after)
                    .map(|s| s.policy.to_string())
                    .unwrap_or_default(),
                rows: made.table(&stage)?.read_all()?,
                warnings: made.table(&stage)?.read_all()?,
                stage,
            }),
            Params::Evaluate(_) => report.evals.push(EvalTable {
                rows: made.table(&stage)?.read_all()?,
                kept: made.table(&stage)?.read_all()?,
                stage,
            }),
            Params::Train(_) => {
                let steps = made.table(&stage)?.read_all()?;
                report.runs.push(Run { label: label(pipeline, &stage), stage, steps });
            }
            _ => {}
        }
    }
    let evaluated = report.evals.iter().flat_map(|table| &table.rows).map(|eval| &eval.policy);
    for policy in evaluated.chain(report.runs.iter().map(|run| &run.label)) {
        if !report.policies.contains(policy) {
            report.policies.push(policy.clone());
        }
    }
    report.judges = compared(made)?;
    report.histograms = histograms(made)?;
    if with_rows {
        report.browser = browse(made)?;
    }
    Ok(report)
}

fn state(made: &Made, spec: &StageSpec) -> Result<StageState> {
    let manifest = made.manifest(&spec.name)?;
    let folder = made.store.view_path(&made.pipeline.name, &spec.name).display().to_string();
    // What people mean by a train stage is its policy; the figures of a report are from the table beside it.
    let is_training = matches!(spec.params, Params::Train(_));
    Ok(StageState {
        name: spec.name.clone(),
        kind: spec.params.kind().to_string(),
        done: manifest.is_some(),
        rows: match is_training {
            true => made.table::<TrainStep>(&spec.name)?.row_count(),
            false => manifest.map_or(0, Manifest::rows),
        },
        address: manifest.map(|m| m.content().short().to_string()).unwrap_or_default(),
        path: match (manifest, is_training) {
            (None, _) => String::new(),
            (Some(_), true) => format!("{folder}/{}/*.parquet", TrainStep::TABLE),
            (Some(_), false) => format!("{folder}/*.parquet"),
        },
        stale: made.stale(&spec.name).to_vec(),
        failures: manifest.map(|manifest| made.store.failures(manifest)).transpose()?.flatten(),
    })
}

/// What evals call the policy a train stage makes: the label of its samples, else its name among the policies, else the stage's.
fn label(pipeline: &Pipeline, stage: &str) -> String {
    let policy = pipeline.policies.iter().find(|(_, spec)| spec.source == PolicySource::Stage(stage.to_string()));
    let name = policy.map_or(stage, |(name, _)| name.as_str());
    let labelled = pipeline.stages.iter().find_map(|spec| match &spec.params {
        Params::Rollout(rollout) if rollout.policy == name || rollout.policy == stage => rollout.label.clone(),
        _ => None,
    });
    labelled.unwrap_or_else(|| name.to_string())
}

fn cascade(made: &Made, name: &str, params: &rewrite::Params) -> Result<Cascade> {
    let targets = made.has(name).then(|| targets(made, name)).transpose()?;
    let problems = match &targets {
        Some(t) => t.own + t.guided + t.teacher + t.expert + t.none,
        None => made.table::<Problem>(&params.problems)?.row_count(),
    };
    Ok(Cascade {
        stage: name.to_string(),
        problems,
        plain: samples(made, &params.self_aligned)?,
        guided: samples(made, &params.guided)?,
        teacher: samples(made, &params.teacher)?,
        targets,
        refused: refused(made, name)?,
        choice: choice(made, name, params)?,
    })
}

/// What became of the correct samples, by source and outcome, the chosen ones first.
fn choice(made: &Made, name: &str, params: &rewrite::Params) -> Result<Choice> {
    #[derive(Default)]
    struct Sums {
        samples: u64,
        tokens: u64,
        scored: u64,
        logprob: f64,
    }
    #[derive(Deserialize)]
    struct Told {
        source: Source,
        outcome: Outcome,
        token_count: u32,
        logprob: Option<f64>,
    }
    let table = made.table::<Candidate>(name)?;
    let mut sums: BTreeMap<(Outcome, Source), Sums> = BTreeMap::new();
    for row in table.select::<Told>(&["source", "outcome", "token_count", "logprob"])? {
        let sums = sums.entry((row.outcome, row.source)).or_default();
        sums.samples += 1;
        sums.tokens += u64::from(row.token_count);
        sums.scored += u64::from(row.logprob.is_some());
        sums.logprob += row.logprob.unwrap_or(0.0);
    }
    let chosen = |((outcome, source), sums): ((Outcome, Source), Sums)| Chosen {
        source: source.to_string(),
        outcome: outcome.to_string(),
        samples: sums.samples,
        tokens: sums.tokens as f64 / sums.samples as f64,
        logprob: (sums.scored > 0).then(|| sums.logprob / sums.scored as f64),
    };
    let is_one = sums.keys().any(|(outcome, _)| *outcome == Outcome::Left);
    Ok(Choice { rule: params.rule_in_words(), is_one, outcomes: sums.into_iter().map(chosen).collect() })
}

/// Correct samples that became no target, by source and reason.
fn refused(made: &Made, name: &str) -> Result<Vec<RefusedSamples>> {
    let table = made.table::<Refused>(name)?;
    let rows = frame::read::<Refused>(made.store, table.parts(), &["source", "reason"])?;
    let mut counts: BTreeMap<(String, String), u64> = BTreeMap::new();
    for (source, reason) in frame::texts(&rows, "source")?.zip(frame::texts(&rows, "reason")?) {
        *counts.entry((source.to_string(), reason.to_string())).or_default() += 1;
    }
    let row = |((source, reason), samples)| RefusedSamples { source, reason, samples };
    Ok(counts.into_iter().map(row).rev().collect())
}

/// Sources of the first target of each problem.
fn targets(made: &Made, name: &str) -> Result<Targets> {
    let table = made.table::<Rewrite>(name)?;
    let chosen = frame::read::<Rewrite>(made.store, table.parts(), &["choice_index", "source"])?;
    let mut targets = Targets { none: made.table::<Untargeted>(name)?.row_count(), ..Targets::default() };
    for (source, choice_index) in frame::texts(&chosen, "source")?.zip(frame::numbers(&chosen, "choice_index")?) {
        match source {
            _ if choice_index > 0 => {}
            _ if source == Source::SelfAligned.as_str() => targets.own += 1,
            _ if source == Source::Guided.as_str() => targets.guided += 1,
            _ if source == Source::Teacher.as_str() => targets.teacher += 1,
            _ => targets.expert += 1,
        }
    }
    Ok(targets)
}

fn samples(made: &Made, verdicts: &[String]) -> Result<Samples> {
    let mut samples = Samples { verdicts: verdicts.to_vec(), ..Samples::default() };
    let mut judged = frame::read::<VerdictRow>(made.store, &[], &["problem_id", "verdict"])?;
    for name in verdicts {
        samples.rollouts.push(made.rollouts_of(name)?.to_string());
        let table = made.table::<VerdictRow>(name)?;
        let more = frame::read::<VerdictRow>(made.store, table.parts(), &["problem_id", "verdict"])?;
        judged.vstack_mut_owned(more).map_err(frame::failed)?;
    }
    samples.samples = judged.height() as u64;
    samples.correct = frame::having(&judged, "verdict", Verdict::Correct.as_str())?.height() as u64;
    samples.problems = frame::counts(&judged, "problem_id", "samples")?.height() as u64;
    Ok(samples)
}

/// Log-probs of every scored target, by the policy that scored it. Replications are counted together.
fn histograms(made: &Made) -> Result<Vec<Histograms>> {
    let mut found: Vec<Histograms> = Vec::new();
    for scored in made.scored().filter(|s| made.has(s.stage)) {
        let at = found.iter().position(|h| h.policy == scored.policy).unwrap_or_else(|| {
            found.push(Histograms { policy: scored.policy.to_string(), stages: Vec::new(), series: Vec::new() });
            found.len() - 1
        });
        found[at].stages.push(scored.stage.to_string());
        let table = made.table::<Logprob>(scored.stage)?;
        // Log-probs of all tokens are large: part by part.
        for part in table.parts() {
            let part = std::slice::from_ref(part);
            let rows = frame::read::<Logprob>(made.store, part, &["source", "logprob_policy"])?;
            add_to_series(&mut found[at].series, &rows, scored.of.is_baseline())?;
        }
    }
    let order = [
        "expert, before",
        Source::SelfAligned.as_str(),
        Source::Guided.as_str(),
        Source::Teacher.as_str(),
        "expert, kept",
    ];
    for histograms in &mut found {
        histograms.series.sort_by_key(|s| order.iter().position(|label| *label == s.label));
    }
    Ok(found)
}

fn add_to_series(series: &mut Vec<Series>, rows: &DataFrame, is_baseline: bool) -> Result<()> {
    let logprobs = rows.column("logprob_policy").and_then(|column| column.list()).map_err(frame::failed)?;
    for (source, logprobs) in frame::texts(rows, "source")?.zip(logprobs.amortized_iter()) {
        let label = match (is_baseline, source) {
            (true, _) => "expert, before",
            (false, source) if source == Source::Expert.as_str() => "expert, kept",
            (false, source) => source,
        };
        let at = series.iter().position(|s| s.label == label).unwrap_or_else(|| {
            series.push(Series::new(label));
            series.len() - 1
        });
        let Some(logprobs) = logprobs else { continue };
        series[at].add(logprobs.as_ref().f32().and_then(|row| row.cont_slice()).map_err(frame::failed)?);
    }
    Ok(())
}
