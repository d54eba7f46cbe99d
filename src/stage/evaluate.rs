//! evaluate: judged rollouts on benchmarks -> evals, and what was forgotten.  A benchmark is a source of the problems table.

mod forgetting;
mod moved;

use super::{Context, Inputs, Part, Reference, Stage, StageParams, Tick, Wants};
use crate::stats::metrics::{bootstrap_interval, majority_correct, mean, pass_at_k};
use forgetting::{Accuracies, Comparison};
use mindgap_base::error::{Error, Result};
use mindgap_base::fingerprint::Recipe;
use mindgap_store::table::Row;
use mindgap_store::table::evals::Eval;
use mindgap_store::table::problems::Problem;
use mindgap_store::table::rollouts::{Rollout, StopReason};
use mindgap_store::table::verdicts::{Verdict, VerdictRow};
use mindgap_store::{PartRecord, PartRef, Span, Table};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};

pub use forgetting::Learned;

const VERSION: u32 = 2;
const RESAMPLES: u32 = 2000;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    pub problems: String,
    /// Verdicts of one or more policies on these problems.
    pub verdicts: Vec<String>,
    /// The policy, as evals call it, that the others are compared with: the one that training began from.
    pub base: Option<String>,
    /// Policies that were trained one after the other, each from the one before, and the benchmarks each was trained for; by a name
    /// for the sequence.
    #[serde(default)]
    pub sequences: BTreeMap<String, Vec<Learned>>,
    /// Benchmarks that nothing was trained for. Where none is named and there are sequences: those that no policy of one was.
    #[serde(default)]
    pub untouched: Vec<String>,
    /// Log-probs under the base policy of samples that are judged here: logprob stages over their rollouts.
    #[serde(default)]
    pub logprobs: Vec<String>,
}

impl StageParams for Params {
    fn validate(&self) -> Result<()> {
        if self.verdicts.is_empty() {
            return Err(Error::usage("`verdicts` names no stage").hint("name verdict stages, `eval_verdicts-*` say"));
        }
        forgetting::check(self)
    }

    fn references(&self) -> Vec<Reference> {
        let mut references = vec![Reference::new("problems", &self.problems, Wants::Problems)];
        references.extend(self.verdicts.iter().map(|name| Reference::new("verdicts", name, Wants::Verdicts)));
        references.extend(self.logprobs.iter().map(|name| Reference::new("logprobs", name, Wants::Logprobs)));
        references
    }

    fn bind(&self, inputs: &Inputs) -> Result<Box<dyn Stage>> {
        let mut runs = Vec::new();
        for name in &self.verdicts {
            let rollout = inputs.rollouts_of(name)?;
            if rollout.until_correct.is_some() {
                return Err(Error::usage(format!("the samples of `{name}` were drawn until one was right"))
                    .hint("their share of right ones says nothing: evaluate rollouts without `until_correct`"));
            }
            runs.push(Run {
                policy: rollout.label.clone().unwrap_or_else(|| rollout.policy.clone()),
                temperature: rollout.temperature,
                samples: rollout.samples,
                judged: inputs.rollouts_name(name)?.to_string(),
                rollouts: inputs.table(inputs.rollouts_name(name)?)?,
                verdicts: inputs.table(name)?,
            });
        }
        let comparison = Comparison::of(self, &runs, inputs)?;
        Ok(Box::new(EvaluateStage { problems: inputs.table(&self.problems)?, runs, comparison }))
    }

    fn lists(&mut self) -> Vec<(&'static str, &mut Vec<String>)> {
        vec![("verdicts", &mut self.verdicts), ("logprobs", &mut self.logprobs)]
    }
}

/// One policy's judged samples.
struct Run {
    policy: String,
    temperature: f32,
    samples: u32,
    /// The rollout stage.
    judged: String,
    rollouts: Table<Rollout>,
    verdicts: Table<VerdictRow>,
}

pub struct EvaluateStage {
    problems: Table<Problem>,
    runs: Vec<Run>,
    comparison: Option<Comparison>,
}

impl Stage for EvaluateStage {
    fn recipe(&self) -> Recipe {
        let recipe = Recipe::new("evaluate", VERSION).with("schema", Eval::VERSION).with("resamples", RESAMPLES);
        match &self.comparison {
            Some(comparison) => comparison.name_in(recipe),
            None => recipe,
        }
    }

    fn main_table(&self) -> Option<&'static str> {
        Some(Eval::TABLE)
    }

    /// One part per policy.
    fn parts(&self) -> Result<Vec<Part>> {
        let part = |(index, run): (usize, &Run)| {
            let mut key = vec![run.policy.clone(), format!("{} {}", run.temperature, run.samples)];
            key.extend(self.problems.contents().into_iter().map(ToString::to_string));
            key.extend(run.contents());
            key.extend(self.comparison.iter().flat_map(|comparison| comparison.key(index, &self.runs)));
            let span = Span { first: run.policy.clone(), last: run.policy.clone(), samples: None };
            Part { span, key, rows: 0, index }
        };
        Ok(self.runs.iter().enumerate().map(part).collect())
    }

    fn cut(&self) -> Recipe {
        let said =
            |run: &Run| (run.policy.clone(), format!("{} samples at temperature {}", run.samples, run.temperature));
        Recipe::default().with("policies", self.runs.iter().map(said).collect::<BTreeMap<_, _>>())
    }

    fn run_part(&self, context: &Context, part: &Part, _earlier: &[PartRecord]) -> Result<()> {
        let run = &self.runs[part.index];
        let tallies = self.tallies(run, context)?;
        let mut rows: Vec<Eval> = tallies.iter().map(|(benchmark, tally)| tally.finish(benchmark, run)).collect();
        if let Some(comparison) = &self.comparison {
            let accuracies = |index: usize| -> Result<Accuracies> {
                Ok(self
                    .tallies(&self.runs[index], context)?
                    .into_iter()
                    .map(|(name, tally)| (name, tally.accuracy))
                    .collect())
            };
            let own: Accuracies = tallies.into_iter().map(|(name, tally)| (name, tally.accuracy)).collect();
            let kept = comparison.compare(part.index, &own, &accuracies, &self.problems, &mut rows)?;
            context.store(&rows)?;
            return context.store(&[kept]);
        }
        context.store(&rows)
    }
}

impl EvaluateStage {
    /// Sums by benchmark. Goes through the problems part by part: of a benchmark only one number per problem is held.
    fn tallies(&self, run: &Run, context: &Context) -> Result<BTreeMap<String, Tally>> {
        let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
        for (index, problems) in self.problems.parts().iter().enumerate() {
            context.check_cancelled()?;
            let samples = run.samples(problems)?;
            for Source { problem_id, source } in
                self.problems.overlapping(&problems.first, &problems.last).select(&["problem_id", "source"])?
            {
                let tally = tallies.entry(source).or_default();
                if let Some(samples) = samples.get(&problem_id) {
                    tally.add(problem_id, samples, run.samples);
                }
            }
            let rows_total = self.problems.parts().len() as u64;
            (context.tick)(Tick { rows_done: index as u64 + 1, rows_total, ..Tick::default() });
        }
        Ok(tallies)
    }
}

#[derive(Deserialize)]
struct Source {
    problem_id: String,
    source: String,
}

#[derive(Deserialize)]
struct Judged {
    problem_id: String,
    sample_index: u32,
    verdict: Verdict,
    extracted: Option<String>,
}

#[derive(Deserialize)]
struct Stopped {
    problem_id: String,
    sample_index: u32,
    stop_reason: StopReason,
}

/// What evaluation asks of a sample.
struct Sample {
    correct: bool,
    no_answer: bool,
    truncated: bool,
    vote: Option<Vote>,
}

/// The answer a sample votes for. All correct ones are one answer, however they are written. Incorrect ones are the same
/// answer if the verifier reads the same from them, or where it cannot read them, if they are the same text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Vote {
    Correct,
    Incorrect(String),
}

impl Vote {
    fn new(extracted: String, correct: bool) -> Vote {
        match correct {
            true => Vote::Correct,
            false => Vote::Incorrect(mindgap_math::canonical_print(&extracted).unwrap_or(extracted)),
        }
    }
}

impl Run {
    fn contents(&self) -> impl Iterator<Item = String> {
        self.rollouts.contents().into_iter().chain(self.verdicts.contents()).map(ToString::to_string)
    }

    /// The samples of the problems of one part, by problem, in order.
    fn samples(&self, problems: &PartRef) -> Result<HashMap<String, Vec<Sample>>> {
        let (first, last) = (&problems.first, &problems.last);
        let stopped: Vec<Stopped> =
            self.rollouts.overlapping(first, last).select(&["problem_id", "sample_index", "stop_reason"])?;
        let truncated: HashSet<(String, u32)> = stopped
            .into_iter()
            .filter(|row| row.stop_reason == StopReason::MaxTokens)
            .map(|row| (row.problem_id, row.sample_index))
            .collect();
        let judged: Vec<Judged> =
            self.verdicts.overlapping(first, last).select(&["problem_id", "sample_index", "verdict", "extracted"])?;
        let mut samples: HashMap<String, Vec<Sample>> = HashMap::new();
        for row in judged {
            let key = (row.problem_id, row.sample_index);
            let correct = row.verdict.is_correct();
            let sample = Sample {
                correct,
                no_answer: row.verdict == Verdict::NoAnswer,
                truncated: truncated.contains(&key),
                vote: row.extracted.map(|extracted| Vote::new(extracted, correct)),
            };
            samples.entry(key.0).or_default().push(sample);
        }
        Ok(samples)
    }
}

/// A benchmark's sums.
#[derive(Default)]
struct Tally {
    /// Share of correct samples of each problem.
    accuracy: BTreeMap<String, f64>,
    pass_at_k: f64,
    maj_at_k: f64,
    samples: u64,
    truncated: u64,
    no_answer: u64,
    correct: u64,
    truncated_correct: u64,
}

impl Tally {
    fn add(&mut self, problem_id: String, samples: &[Sample], k: u32) {
        let count = |test: fn(&Sample) -> bool| samples.iter().filter(|sample| test(sample)).count() as u64;
        let (n, correct) = (samples.len() as u64, count(|sample| sample.correct));
        let votes = samples.iter().map(|sample| (sample.vote.as_ref(), sample.correct));
        self.accuracy.insert(problem_id, correct as f64 / n as f64);
        self.pass_at_k += pass_at_k(n, correct, u64::from(k));
        self.maj_at_k += f64::from(u8::from(majority_correct(votes)));
        self.samples += n;
        self.truncated += count(|sample| sample.truncated);
        self.no_answer += count(|sample| sample.no_answer);
        self.correct += correct;
        self.truncated_correct += count(|sample| sample.correct && sample.truncated);
    }

    fn finish(&self, benchmark: &str, run: &Run) -> Eval {
        let accuracy: Vec<f64> = self.accuracy.values().copied().collect();
        let (ci_low, ci_high) = bootstrap_interval(&accuracy, 0.95, RESAMPLES, 0);
        let per_problem = |sum: f64| sum / (self.accuracy.len().max(1)) as f64;
        let share = |count: u64| count as f64 / self.samples.max(1) as f64;
        Eval {
            benchmark: benchmark.to_string(),
            policy: run.policy.clone(),
            n: self.accuracy.len() as u32,
            k: run.samples,
            temperature: f64::from(run.temperature),
            mean_at_k: mean(accuracy),
            pass_at_k: per_problem(self.pass_at_k),
            maj_at_k: per_problem(self.maj_at_k),
            ci_low,
            ci_high,
            truncated_share: share(self.truncated),
            no_answer_share: share(self.no_answer),
            change_from_base: None,
            change_from_base_low: None,
            change_from_base_high: None,
            change_from_best: None,
            kl_per_token: None,
            truncated_correct_share: (self.truncated_correct > 0)
                .then(|| self.truncated_correct as f64 / self.correct as f64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn majority(answers: &[(&str, bool)]) -> bool {
        majority_correct(
            answers.iter().map(|(answer, correct)| (Some(Vote::new(answer.to_string(), *correct)), *correct)),
        )
    }

    /// Goal: votes are counted by answer, not by how it is written.
    #[test]
    fn one_answer_is_one_ballot_however_it_is_written() {
        assert!(majority(&[("3", false), ("1/2", true), ("0.5", true)]), "correct answers are one");
        assert!(!majority(&[("7", true), ("\\frac{1}{3}", false), ("1/3", false)]), "the verifier reads the same");
        assert!(majority(&[("7", true), ("$$(", false), ("$$[", false)]), "unreadable texts are different answers");
    }
}
