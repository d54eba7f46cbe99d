//! The samples a target is chosen from: what the judge said of each, how likely each is, and how it is scored.

use crate::stage::column::{Number, Numbers};
use mindgap_base::error::{Error, Result};
use mindgap_store::table::logprobs::Logprob;
use mindgap_store::table::problems::Problem;
use mindgap_store::table::rewrites::Source;
use mindgap_store::table::rollouts::Rollout;
use mindgap_store::table::verdicts::{Refusal, VerdictRow};
use mindgap_store::{Span, Table};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

/// Rollouts and what the judge said of them.
pub struct Judged {
    pub rollouts: Table<Rollout>,
    pub verdicts: Table<VerdictRow>,
    /// Scores of these samples.
    pub scores: Vec<Numbers>,
    /// Their tokens are of another tokenizer than the targets'.
    pub is_foreign: bool,
}

impl Judged {
    /// What the samples of a range of problems depend on.
    pub fn contents(&self, first: &str, last: &str) -> Vec<String> {
        let mut contents: Vec<String> =
            self.rollouts.overlapping(first, last).contents().iter().map(ToString::to_string).collect();
        contents.extend(self.verdicts.overlapping(first, last).contents().iter().map(ToString::to_string));
        contents.extend(self.scores.iter().flat_map(|scores| scores.contents(first, last)));
        contents.extend(self.is_foreign.then(|| "foreign".to_string()));
        contents
    }
}

/// A text that may become the target: a correct sample, or the expert's solution.
pub struct Candidate<'a> {
    pub source: Source,
    /// Which of the verdict stages of its source it is of.
    pub stage_index: u32,
    /// None of the expert's solution.
    pub rollout: Option<&'a Rollout>,
    pub completion: Cow<'a, str>,
    /// Tokens it would have as a target.
    pub token_ids: Cow<'a, [u32]>,
    pub refused: Option<Refusal>,
    /// Mean log-prob per token given the training prompt, where it is known.
    pub likelihood: Option<f64>,
    pub score: Option<f64>,
}

impl Candidate<'_> {
    pub fn place(&self) -> String {
        match self.rollout {
            Some(rollout) => format!("{} sample {}", self.source, rollout.sample_index),
            None => "the expert's solution".to_string(),
        }
    }

    /// The log-probs it was sampled with, where its tokens are the sampled ones.
    pub fn logprob_behavior(&self) -> Option<Vec<f32>> {
        let rollout = self.rollout.filter(|rollout| rollout.token_ids == *self.token_ids)?;
        rollout.logprob_behavior.clone()
    }
}

/// What a target must be, whatever its source.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    pub max_tokens: Option<u32>,
    pub min_logprob: Option<f64>,
}

/// A sample with its verdict, as it was read.
struct Sample {
    rollout: Rollout,
    verdict: Option<VerdictRow>,
    stage_index: u32,
    is_foreign: bool,
}

/// The samples of one source on a span of problems, in order.
pub struct Samples {
    source: Source,
    by_problem: BTreeMap<String, Vec<Sample>>,
    /// By the stage of a sample.
    scores: Vec<Scores>,
}

impl Samples {
    pub fn read(source: Source, judged: &[Judged], span: &Span) -> Result<Samples> {
        let mut by_problem: BTreeMap<String, Vec<Sample>> = BTreeMap::new();
        for (stage_index, judged) in judged.iter().enumerate() {
            let mut verdicts = BTreeMap::new();
            for row in judged.verdicts.overlapping(&span.first, &span.last).read_all()? {
                verdicts.insert((row.problem_id.clone(), row.sample_index), row);
            }
            for rollout in judged.rollouts.overlapping(&span.first, &span.last).read_all()? {
                let verdict = verdicts.remove(&(rollout.problem_id.clone(), rollout.sample_index));
                let (stage_index, is_foreign) = (stage_index as u32, judged.is_foreign);
                let samples = by_problem.entry(rollout.problem_id.clone()).or_default();
                samples.push(Sample { rollout, verdict, stage_index, is_foreign });
            }
        }
        for rows in by_problem.values_mut() {
            rows.sort_by_key(|sample| sample.rollout.sample_index);
        }
        let scores = judged.iter().map(|judged| Scores::read(&judged.scores, span)).collect::<Result<_>>()?;
        Ok(Samples { source, by_problem, scores })
    }

    fn of(&self, problem: &Problem) -> &[Sample] {
        self.by_problem.get(&problem.problem_id).map_or(&[], Vec::as_slice)
    }

    pub fn source(&self) -> Source {
        self.source
    }

    pub fn attempts(&self, problem: &Problem) -> u32 {
        self.of(problem).len() as u32
    }

    /// The correct ones. `encode` gives text and tokens of a sample as a target; it is told whether its tokens are of another
    /// tokenizer.
    pub fn correct<'a>(
        &'a self,
        problem: &Problem,
        likelihoods: &Likelihoods,
        limits: &Limits,
        encode: &dyn Fn(&Rollout, bool) -> Result<Encoded>,
    ) -> Result<Vec<Candidate<'a>>> {
        let mut correct = Vec::new();
        for sample in self.of(problem) {
            let Some(verdict) = sample.verdict.as_ref().filter(|row| row.verdict.is_correct()) else { continue };
            let rollout = &sample.rollout;
            let mut refused = verdict.refused;
            let (completion, token_ids): (Cow<str>, Cow<[u32]>) = match encode(rollout, sample.is_foreign)? {
                Encoded::AsDrawn => (rollout.completion.as_str().into(), rollout.token_ids.as_slice().into()),
                Encoded::Anew { completion, token_ids } => (completion.into(), token_ids.into()),
                Encoded::OnlyThoughts => {
                    refused = refused.or(Some(Refusal::OnlyThoughts));
                    (rollout.completion.as_str().into(), rollout.token_ids.as_slice().into())
                }
            };
            let likelihood = match self.source {
                // It was sampled given the training prompt; not so without its thoughts.
                Source::SelfAligned if *token_ids == rollout.token_ids => {
                    rollout.logprob_policy.as_deref().and_then(mean)
                }
                _ => likelihoods.of_sample(&problem.problem_id, &token_ids),
            };
            let score = self.scores[sample.stage_index as usize].of(rollout, &token_ids);
            let mut candidate = Candidate {
                source: self.source,
                stage_index: sample.stage_index,
                rollout: Some(rollout),
                completion,
                token_ids,
                refused,
                likelihood,
                score,
            };
            let expert = likelihoods.of_expert(&problem.problem_id).filter(|_| self.source != Source::SelfAligned);
            let refused = limits.refuses(&candidate, expert)?;
            candidate.refused = candidate.refused.or(refused);
            correct.push(candidate);
        }
        Ok(correct)
    }
}

/// The text of a sample as a target.
pub enum Encoded {
    /// Its own tokens.
    AsDrawn,
    Anew {
        completion: String,
        token_ids: Vec<u32>,
    },
    /// Nothing stands behind its thoughts, and targets are to do without.
    OnlyThoughts,
}

impl Limits {
    /// Why a sample that nothing else refuses is no target. `expert` is the mean log-prob of the expert's solution, where a sample
    /// must be likelier.
    fn refuses(&self, sample: &Candidate, expert: Option<f64>) -> Result<Option<Refusal>> {
        if self.is_too_long(&sample.token_ids) {
            return Ok(Some(Refusal::TooLong));
        }
        if sample.likelihood.zip(expert).is_some_and(|(sample, expert)| sample <= expert) {
            return Ok(Some(Refusal::Unlikely));
        }
        let Some(least) = self.min_logprob.filter(|_| sample.refused.is_none()) else { return Ok(None) };
        let likelihood = sample.likelihood.ok_or_else(|| no_logprobs(sample, "compare with `min_logprob`"))?;
        Ok((likelihood < least).then_some(Refusal::LowLogprob))
    }

    pub fn is_too_long(&self, token_ids: &[u32]) -> bool {
        self.max_tokens.is_some_and(|most| token_ids.len() > most as usize)
    }
}

/// A sample's log-probs are wanted and not there.
pub fn no_logprobs(sample: &Candidate, purpose: &str) -> Error {
    Error::input(format!("no log-probs of {} are there to {purpose}", sample.place())).hint(
        "name in `logprobs` a logprob stage over a rewrite stage that keeps all samples of this source (`keep = 64`, `fallback = false`)",
    )
}

/// Scores by sample, or by its tokens where a table knows samples by them.
#[derive(Default)]
struct Scores {
    by_index: HashMap<(String, u32), f64>,
    by_tokens: HashMap<(String, Vec<u32>), f64>,
}

impl Scores {
    fn read(numbers: &[Numbers], span: &Span) -> Result<Scores> {
        let mut scores = Scores::default();
        for numbers in numbers {
            for Number { problem_id, sample_index, token_ids, value, .. } in numbers.read(span)? {
                match (sample_index, token_ids) {
                    (_, Some(tokens)) => drop(scores.by_tokens.insert((problem_id, tokens), value)),
                    (Some(index), None) => drop(scores.by_index.insert((problem_id, index), value)),
                    (None, None) => {}
                }
            }
        }
        Ok(scores)
    }

    /// The score of a sample that has these tokens as a target.
    fn of(&self, rollout: &Rollout, token_ids: &[u32]) -> Option<f64> {
        let id = &rollout.problem_id;
        let by_index = self.by_index.get(&(id.clone(), rollout.sample_index)).copied();
        by_index.or_else(|| self.by_tokens.get(&(id.clone(), token_ids.to_vec())).copied())
    }
}

/// How likely texts are given the training prompt: mean log-probs per token.
#[derive(Default)]
pub struct Likelihoods {
    /// By problem and tokens.
    samples: HashMap<(String, Vec<u32>), f64>,
    experts: HashMap<String, f64>,
}

impl Likelihoods {
    pub fn read(logprobs: &[Table<Logprob>], span: &Span) -> Result<Likelihoods> {
        let mut likelihoods = Likelihoods::default();
        for table in logprobs {
            for row in table.overlapping(&span.first, &span.last).read_all()? {
                let Some(mean) = mean(&row.logprob_policy) else { continue };
                match row.source {
                    Source::Expert => drop(likelihoods.experts.insert(row.problem_id, mean)),
                    _ => drop(likelihoods.samples.insert((row.problem_id, row.token_ids), mean)),
                }
            }
        }
        Ok(likelihoods)
    }

    fn of_sample(&self, problem_id: &str, token_ids: &[u32]) -> Option<f64> {
        self.samples.get(&(problem_id.to_string(), token_ids.to_vec())).copied()
    }

    pub fn of_expert(&self, problem_id: &str) -> Option<f64> {
        self.experts.get(problem_id).copied()
    }
}

fn mean(logprobs: &[f32]) -> Option<f64> {
    let sum: f64 = logprobs.iter().copied().map(f64::from).sum();
    (!logprobs.is_empty()).then(|| sum / logprobs.len() as f64)
}
