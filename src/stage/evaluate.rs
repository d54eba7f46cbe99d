//! evaluate: judged rollouts on benchmarks -> evals.  A benchmark is a source of the problems table.

use super::{Context, Inputs, Output, Part, Reference, Stage, Wants};
use crate::base::error::{Error, Result};
use crate::base::fingerprint::Recipe;
use crate::stats::metrics::{bootstrap_interval, majority_correct, mean, pass_at_k};
use crate::store::{PartRecord, Span, Table};
use crate::table::Row;
use crate::table::evals::Eval;
use crate::table::problems::Problem;
use crate::table::rollouts::Rollout;
use crate::table::verdicts::VerdictRow;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

const VERSION: u32 = 1;
const RESAMPLES: u32 = 2000;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    pub problems: String,
    /// Verdicts of one or more policies on these problems.
    pub verdicts: Vec<String>,
}

impl Params {
    pub fn validate(&self) -> Result<()> {
        match self.verdicts.is_empty() {
            true => Err(Error::usage("`verdicts` names no stage").hint("name verdict stages, `eval_verdicts-*` say")),
            false => Ok(()),
        }
    }

    pub fn references(&self) -> Vec<Reference> {
        let mut references = vec![Reference::new("problems", &self.problems, Wants::Problems)];
        references.extend(self.verdicts.iter().map(|name| Reference::new("verdicts", name, Wants::Verdicts)));
        references
    }

    pub fn bind(&self, inputs: &Inputs) -> Result<EvaluateStage> {
        let mut runs = Vec::new();
        for name in &self.verdicts {
            let rollout = inputs.rollouts_of(name)?;
            runs.push(Run {
                policy: rollout.label.clone().unwrap_or_else(|| rollout.policy.clone()),
                temperature: rollout.temperature,
                samples: rollout.samples,
                rollouts: inputs.table(inputs.rollouts_name(name)?)?,
                verdicts: inputs.table(name)?,
            });
        }
        Ok(EvaluateStage { problems: inputs.table(&self.problems)?, runs })
    }
}

/// One policy's judged samples.
struct Run {
    policy: String,
    temperature: f32,
    samples: u32,
    rollouts: Table<Rollout>,
    verdicts: Table<VerdictRow>,
}

pub struct EvaluateStage {
    problems: Table<Problem>,
    runs: Vec<Run>,
}

impl Stage for EvaluateStage {
    fn recipe(&self) -> Recipe {
        Recipe::new("evaluate", VERSION).with("schema", Eval::VERSION).with("resamples", RESAMPLES)
    }

    fn main_table(&self) -> Option<&'static str> {
        Some(Eval::TABLE)
    }

    /// One part per policy.
    fn parts(&self) -> Result<Vec<Part>> {
        let part = |(index, run): (usize, &Run)| {
            let mut key = vec![run.policy.clone(), format!("{} {}", run.temperature, run.samples)];
            key.extend(self.problems.contents().into_iter().map(ToString::to_string));
            key.extend(run.rollouts.contents().into_iter().map(ToString::to_string));
            key.extend(run.verdicts.contents().into_iter().map(ToString::to_string));
            let span = Span { first: run.policy.clone(), last: run.policy.clone(), samples: None };
            Part { span, key, rows: 0, index }
        };
        Ok(self.runs.iter().enumerate().map(part).collect())
    }

    fn run_part(&self, context: &Context, part: &Part, _earlier: &[PartRecord]) -> Result<Output> {
        let run = &self.runs[part.index];
        let mut truncated = HashMap::new();
        for row in run.rollouts.read_all()? {
            truncated.insert((row.problem_id, row.sample_index), row.stop_reason == "max_tokens");
        }
        let mut samples: BTreeMap<String, Vec<VerdictRow>> = BTreeMap::new();
        for row in run.verdicts.read_all()? {
            samples.entry(row.problem_id.clone()).or_default().push(row);
        }
        let mut benchmarks: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for problem in self.problems.read_all()? {
            benchmarks.entry(problem.source).or_default().push(problem.problem_id);
        }
        let mut rows = Vec::new();
        for (benchmark, problems) in benchmarks {
            let judged: Vec<&[VerdictRow]> =
                problems.iter().filter_map(|id| samples.get(id).map(Vec::as_slice)).collect();
            rows.push(evaluate(&benchmark, run, &judged, &truncated));
        }
        Ok(Output { tables: vec![context.encode(&rows)?], files: Vec::new() })
    }
}

fn evaluate(benchmark: &str, run: &Run, judged: &[&[VerdictRow]], truncated: &HashMap<(String, u32), bool>) -> Eval {
    let correct = |rows: &[VerdictRow]| rows.iter().filter(|row| row.verdict == "correct").count() as u64;
    let per_problem: Vec<f64> = judged.iter().map(|rows| correct(rows) as f64 / rows.len() as f64).collect();
    let (ci_low, ci_high) = bootstrap_interval(&per_problem, 0.95, RESAMPLES, 0);
    let all: Vec<&VerdictRow> = judged.iter().copied().flatten().collect();
    let share = |test: &dyn Fn(&VerdictRow) -> bool| mean(all.iter().map(|row| f64::from(u8::from(test(row)))));
    Eval {
        benchmark: benchmark.to_string(),
        policy: run.policy.clone(),
        n: judged.len() as u32,
        k: run.samples,
        temperature: f64::from(run.temperature),
        mean_at_k: mean(per_problem.iter().copied()),
        pass_at_k: mean(judged.iter().map(|rows| pass_at_k(rows.len() as u64, correct(rows), u64::from(run.samples)))),
        maj_at_k: mean(judged.iter().map(|rows| {
            let votes = rows.iter().map(|row| (row.extracted.as_deref(), row.verdict == "correct"));
            f64::from(u8::from(majority_correct(votes)))
        })),
        ci_low,
        ci_high,
        truncated_share: share(&|row| {
            truncated.get(&(row.problem_id.clone(), row.sample_index)).copied().unwrap_or(false)
        }),
        no_answer_share: share(&|row| row.verdict == "no_answer"),
    }
}
