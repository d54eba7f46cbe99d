//! What a report says, gathered from the finished stages of a pipeline.

use super::browse::browse;
use crate::pipeline::{Pipeline, StageSpec};
use crate::report::{Cascade, EvalTable, GapTable, Histograms, Report, Run, Samples, Series, StageState, Targets};
use crate::stage::{Params, rewrite};
use mindgap_base::error::Result;
use mindgap_store::table::Row;
use mindgap_store::table::logprobs::Logprob;
use mindgap_store::table::problems::Problem;
use mindgap_store::table::rewrites::{Rewrite, Source, Untargeted};
use mindgap_store::table::train_steps::TrainStep;
use mindgap_store::table::verdicts::{Verdict, VerdictRow};
use mindgap_store::{Manifest, Store, Table};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// The finished stages of a pipeline.
pub struct Finished<'a> {
    pub store: &'a Store,
    pub pipeline: &'a Pipeline,
    manifests: BTreeMap<&'a str, Manifest>,
}

impl<'a> Finished<'a> {
    fn new(store: &'a Store, pipeline: &'a Pipeline) -> Result<Finished<'a>> {
        let mut manifests = BTreeMap::new();
        for stage in &pipeline.stages {
            if let Some(pointer) = store.pointer(&pipeline.name, &stage.name)? {
                manifests.insert(stage.name.as_str(), store.get_manifest(&pointer.manifest)?);
            }
        }
        Ok(Finished { store, pipeline, manifests })
    }

    pub fn manifest(&self, stage: &str) -> Option<&Manifest> {
        self.manifests.get(stage)
    }

    /// A table of a stage; without parts where the stage has not run.
    pub fn table<R: Row>(&self, stage: &str) -> Table<R> {
        Table::new(self.store, self.manifest(stage).map(|m| m.table(R::TABLE)).unwrap_or_default())
    }

    pub fn params(&self, stage: &str) -> Option<&'a Params> {
        self.pipeline.stages.iter().find(|spec| spec.name == stage).map(|spec| &spec.params)
    }

    /// The rollouts a verdict stage judged.
    pub fn rollouts_of(&self, verdicts: &str) -> Option<&'a str> {
        match self.params(verdicts)? {
            Params::Judge(judge) => Some(&judge.rollouts),
            _ => None,
        }
    }

    /// Rewrite stages that choose among samples, with their names.
    pub fn cascades(&self) -> impl Iterator<Item = (&'a str, &'a rewrite::Params)> {
        self.pipeline.stages.iter().filter_map(|spec| match &spec.params {
            Params::Rewrite(params) if !is_baseline(params) => Some((spec.name.as_str(), params)),
            _ => None,
        })
    }

    /// Logprob stages: name, the rewrite stage scored, the policy.
    pub fn scored(&self) -> impl Iterator<Item = Scored<'a>> {
        self.pipeline.stages.iter().filter_map(|spec| match &spec.params {
            Params::Logprob(p) => match self.params(&p.rewrites) {
                Some(Params::Rewrite(of)) => {
                    Some(Scored { stage: &spec.name, rewrites: &p.rewrites, of, policy: &p.policy })
                }
                _ => None,
            },
            _ => None,
        })
    }
}

#[derive(Clone, Copy)]
pub struct Scored<'a> {
    pub stage: &'a str,
    pub rewrites: &'a str,
    pub of: &'a rewrite::Params,
    pub policy: &'a str,
}

/// Whether all targets of a rewrite stage are the expert's.
pub fn is_baseline(params: &rewrite::Params) -> bool {
    params.self_aligned.is_empty() && params.guided.is_empty()
}

fn rows(table: &Table<impl Row>) -> u64 {
    table.parts().iter().map(|part| part.rows).sum()
}

/// Gathers everything; the rows of the browser only where they are wanted.
pub fn collect(store: &Store, pipeline: &Pipeline, with_rows: bool) -> Result<Report> {
    let finished = Finished::new(store, pipeline)?;
    let mut report = Report {
        pipeline: pipeline.name.clone(),
        file: pipeline.source.path.clone(),
        stages: pipeline.stages.iter().map(|spec| state(&finished, spec)).collect(),
        ..Report::default()
    };
    for (name, params) in finished.cascades() {
        let cascade = cascade(&finished, name, params)?;
        if cascade.problems > 0 {
            report.cascades.push(cascade);
        }
    }
    for spec in pipeline.stages.iter().filter(|spec| finished.manifest(&spec.name).is_some()) {
        let stage = spec.name.clone();
        match &spec.params {
            Params::Gap(params) => report.gaps.push(GapTable {
                policy: finished
                    .scored()
                    .find(|s| s.stage == params.after)
                    .map(|s| s.policy.to_string())
                    .unwrap_or_default(),
                rows: finished.table(&stage).read_all()?,
                warnings: finished.table(&stage).read_all()?,
                stage,
            }),
            Params::Evaluate(_) => report.evals.push(EvalTable { rows: finished.table(&stage).read_all()?, stage }),
            Params::Train(_) => {
                let steps = finished.table(&stage).read_all()?;
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
    report.histograms = histograms(&finished)?;
    if with_rows {
        report.browser = browse(&finished)?;
    }
    Ok(report)
}

fn state(finished: &Finished, spec: &StageSpec) -> StageState {
    let manifest = finished.manifest(&spec.name);
    let folder = finished.store.view_path(&finished.pipeline.name, &spec.name).display().to_string();
    // What people mean by a train stage is its policy; the figures of a report are from the table beside it.
    let is_training = matches!(spec.params, Params::Train(_));
    StageState {
        name: spec.name.clone(),
        kind: spec.params.kind().to_string(),
        done: manifest.is_some(),
        rows: match is_training {
            true => rows(&finished.table::<TrainStep>(&spec.name)),
            false => manifest.map_or(0, Manifest::rows),
        },
        address: manifest.map(|m| m.content().short().to_string()).unwrap_or_default(),
        path: match (manifest, is_training) {
            (None, _) => String::new(),
            (Some(_), true) => format!("{folder}/{}/*.parquet", TrainStep::TABLE),
            (Some(_), false) => format!("{folder}/*.parquet"),
        },
    }
}

/// What evals call the policy a train stage makes: the label of its samples, else its name among the policies, else the stage's.
fn label(pipeline: &Pipeline, stage: &str) -> String {
    let policy =
        pipeline.policies.iter().find(|(_, spec)| **spec == crate::policy::PolicySpec::Stage(stage.to_string()));
    let name = policy.map_or(stage, |(name, _)| name.as_str());
    let labelled = pipeline.stages.iter().find_map(|spec| match &spec.params {
        Params::Rollout(rollout) if rollout.policy == name || rollout.policy == stage => rollout.label.clone(),
        _ => None,
    });
    labelled.unwrap_or_else(|| name.to_string())
}

#[derive(Deserialize)]
struct Chosen {
    choice_index: u32,
    source: Source,
}

#[derive(Deserialize)]
struct Judged {
    problem_id: String,
    verdict: Verdict,
}

#[derive(Deserialize)]
struct ScoredRow {
    source: Source,
    logprob_policy: Vec<f32>,
}

fn cascade(finished: &Finished, name: &str, params: &rewrite::Params) -> Result<Cascade> {
    let targets = match finished.manifest(name) {
        None => None,
        Some(_) => {
            let mut targets = Targets { none: rows(&finished.table::<Untargeted>(name)), ..Targets::default() };
            let chosen: Vec<Chosen> = finished.table::<Rewrite>(name).select(&["choice_index", "source"])?;
            for row in chosen.iter().filter(|row| row.choice_index == 0) {
                match row.source {
                    Source::SelfAligned => targets.own += 1,
                    Source::Guided => targets.guided += 1,
                    Source::Expert => targets.expert += 1,
                }
            }
            Some(targets)
        }
    };
    let problems = match &targets {
        Some(t) => t.own + t.guided + t.expert + t.none,
        None => rows(&finished.table::<Problem>(&params.problems)),
    };
    let (plain, guided) = (samples(finished, &params.self_aligned)?, samples(finished, &params.guided)?);
    Ok(Cascade { stage: name.to_string(), problems, plain, guided, targets })
}

fn samples(finished: &Finished, verdicts: &[String]) -> Result<Samples> {
    let mut samples = Samples { verdicts: verdicts.to_vec(), ..Samples::default() };
    let mut problems = BTreeSet::new();
    for name in verdicts {
        samples.rollouts.extend(finished.rollouts_of(name).map(str::to_string));
        for row in finished.table::<VerdictRow>(name).select::<Judged>(&["problem_id", "verdict"])? {
            samples.samples += 1;
            samples.correct += u64::from(row.verdict.is_correct());
            problems.insert(row.problem_id);
        }
    }
    samples.problems = problems.len() as u64;
    Ok(samples)
}

/// Log-probs of every scored target, by the policy that scored it. Replications are counted together.
fn histograms(finished: &Finished) -> Result<Vec<Histograms>> {
    let mut found: Vec<Histograms> = Vec::new();
    for scored in finished.scored().filter(|s| finished.manifest(s.stage).is_some()) {
        let at = found.iter().position(|h| h.policy == scored.policy).unwrap_or_else(|| {
            found.push(Histograms { policy: scored.policy.to_string(), stages: Vec::new(), series: Vec::new() });
            found.len() - 1
        });
        let histograms = &mut found[at];
        histograms.stages.push(scored.stage.to_string());
        let table = finished.table::<Logprob>(scored.stage);
        for part in table.parts() {
            let one = Table::<Logprob>::new(finished.store, vec![part.clone()]);
            for row in one.select::<ScoredRow>(&["source", "logprob_policy"])? {
                let label = match (is_baseline(scored.of), row.source) {
                    (true, _) => "expert, before",
                    (false, Source::Expert) => "expert, kept",
                    (false, source) => source.as_str(),
                };
                let series = &mut histograms.series;
                let at = series.iter().position(|s| s.label == label).unwrap_or_else(|| {
                    series.push(Series::new(label));
                    series.len() - 1
                });
                series[at].add(&row.logprob_policy);
            }
        }
    }
    let order = ["expert, before", Source::SelfAligned.as_str(), Source::Guided.as_str(), "expert, kept"];
    for histograms in &mut found {
        histograms.series.sort_by_key(|s| order.iter().position(|label| *label == s.label));
    }
    Ok(found)
}
