//! The samples a target is chosen from: what the judge said of each, and how likely each is.

use mindgap_base::error::Result;
use mindgap_store::table::logprobs::Logprob;
use mindgap_store::table::problems::Problem;
use mindgap_store::table::rewrites::Source;
use mindgap_store::table::rollouts::Rollout;
use mindgap_store::table::verdicts::{Refusal, VerdictRow};
use mindgap_store::{Span, Table};
use std::collections::{BTreeMap, HashMap};

/// Rollouts and what the judge said of them.
pub struct Judged {
    pub rollouts: Table<Rollout>,
    pub verdicts: Table<VerdictRow>,
}

/// A correct sample.
pub struct Candidate<'a> {
    pub rollout: &'a Rollout,
    pub refused: Option<Refusal>,
    /// Mean log-prob per token given the training prompt, where it is known.
    pub likelihood: Option<f64>,
}

/// The samples of a span of problems, in order, with their verdicts.
pub struct Samples(BTreeMap<String, Vec<(Rollout, Option<VerdictRow>)>>);

impl Samples {
    pub fn read(judged: &[Judged], span: &Span) -> Result<Samples> {
        let mut samples = Samples(BTreeMap::new());
        for judged in judged {
            let mut verdicts = BTreeMap::new();
            for row in judged.verdicts.overlapping(&span.first, &span.last).read_all()? {
                verdicts.insert((row.problem_id.clone(), row.sample_index), row);
            }
            for row in judged.rollouts.overlapping(&span.first, &span.last).read_all()? {
                let verdict = verdicts.remove(&(row.problem_id.clone(), row.sample_index));
                samples.0.entry(row.problem_id.clone()).or_default().push((row, verdict));
            }
        }
        for rows in samples.0.values_mut() {
            rows.sort_by_key(|(row, _)| row.sample_index);
        }
        Ok(samples)
    }

    fn of(&self, problem: &Problem) -> &[(Rollout, Option<VerdictRow>)] {
        self.0.get(&problem.problem_id).map_or(&[], Vec::as_slice)
    }

    pub fn attempts(&self, problem: &Problem) -> u32 {
        self.of(problem).len() as u32
    }

    pub fn correct(&self, problem: &Problem, source: Source, likelihoods: &Likelihoods) -> Vec<Candidate<'_>> {
        let correct = self.of(problem).iter().filter_map(|(rollout, verdict)| {
            let verdict = verdict.as_ref().filter(|row| row.verdict.is_correct())?;
            let likelihood = match source {
                // It was sampled given the training prompt, unless it is imported.
                Source::SelfAligned => match &rollout.logprob_policy {
                    Some(logprobs) => mean(logprobs),
                    None => likelihoods.of_sample(rollout),
                },
                _ => likelihoods.of_sample(rollout),
            };
            let expert = likelihoods.of_expert(&problem.problem_id).filter(|_| source == Source::Guided);
            let unlikely = likelihood.zip(expert).is_some_and(|(sample, expert)| sample <= expert);
            let refused = verdict.refused.or(unlikely.then_some(Refusal::Unlikely));
            Some(Candidate { rollout, refused, likelihood })
        });
        correct.collect()
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

    fn of_sample(&self, rollout: &Rollout) -> Option<f64> {
        self.samples.get(&(rollout.problem_id.clone(), rollout.token_ids.clone())).copied()
    }

    fn of_expert(&self, problem_id: &str) -> Option<f64> {
        self.experts.get(problem_id).copied()
    }
}

fn mean(logprobs: &[f32]) -> Option<f64> {
    let sum: f64 = logprobs.iter().copied().map(f64::from).sum();
    (!logprobs.is_empty()).then(|| sum / logprobs.len() as f64)
}
