//! How far a policy has moved from the base policy, on its own samples: the plain estimate of KL(policy, base), the mean over
//! samples at temperature 1 of the difference of their log-probs.

use super::RESAMPLES;
use crate::stats::crossed::{Interval, crossed_interval};
use crate::stats::metrics::mean;
use mindgap_base::error::Result;
use mindgap_store::Table;
use mindgap_store::table::logprobs::Logprob;
use mindgap_store::table::problems::Problem;
use mindgap_store::table::rollouts::Rollout;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};

/// Samples of a policy, and what the base policy says of them.
pub struct Scored {
    under_base: Table<Logprob>,
    rollouts: Table<Rollout>,
}

pub struct Moved {
    /// Mean over the samples of each problem.
    per_problem: Vec<f64>,
    by_benchmark: BTreeMap<String, Sums>,
    pub all: Sums,
}

#[derive(Default)]
pub struct Sums {
    difference: f64,
    tokens: u64,
}

impl Sums {
    fn add(&mut self, difference: f64, tokens: usize) {
        self.difference += difference;
        self.tokens += tokens as u64;
    }

    /// Nats.
    pub fn per_token(&self) -> f64 {
        self.difference / self.tokens.max(1) as f64
    }
}

impl Moved {
    /// Nats; every problem counts alike.
    pub fn per_sample(&self) -> Interval {
        crossed_interval(&[vec![self.per_problem.clone()]], 0.95, RESAMPLES, 0)
    }

    pub fn of(&self, benchmark: &str) -> Option<&Sums> {
        self.by_benchmark.get(benchmark)
    }
}

#[derive(Deserialize)]
struct Sample {
    problem_id: String,
    sample_index: u32,
    logprob_policy: Option<Vec<f32>>,
}

#[derive(Deserialize)]
struct UnderBase {
    problem_id: String,
    choice_index: u32,
    logprob_policy: Vec<f32>,
}

#[derive(Deserialize)]
struct Of {
    problem_id: String,
    source: String,
}

impl Scored {
    pub fn new(under_base: Table<Logprob>, rollouts: Table<Rollout>) -> Scored {
        Scored { under_base, rollouts }
    }

    /// What it depends on beyond the samples.
    pub fn contents(&self) -> impl Iterator<Item = String> {
        self.under_base.contents().into_iter().map(|content| format!("logprobs {content}"))
    }

    /// Goes through the problems part by part.
    pub fn read(&self, problems: &Table<Problem>) -> Result<Moved> {
        let mut moved = Moved { per_problem: Vec::new(), by_benchmark: BTreeMap::new(), all: Sums::default() };
        for part in problems.parts() {
            let under_base = self.under_base.overlapping(&part.first, &part.last);
            let under_base = under_base.select::<UnderBase>(&["problem_id", "choice_index", "logprob_policy"])?;
            let keyed = |row: UnderBase| ((row.problem_id, row.choice_index), row.logprob_policy);
            let under_base: HashMap<(String, u32), Vec<f32>> = under_base.into_iter().map(keyed).collect();
            let samples = self.rollouts.overlapping(&part.first, &part.last);
            let mut by_problem: HashMap<String, Vec<(f64, usize)>> = HashMap::new();
            for sample in samples.select::<Sample>(&["problem_id", "sample_index", "logprob_policy"])? {
                let key = (sample.problem_id, sample.sample_index);
                let (Some(base), Some(own)) = (under_base.get(&key), sample.logprob_policy) else { continue };
                let difference = own.iter().zip(base).map(|(own, base)| f64::from(*own) - f64::from(*base)).sum();
                by_problem.entry(key.0).or_default().push((difference, own.len().min(base.len())));
            }
            for Of { problem_id, source } in problems.part(part).select::<Of>(&["problem_id", "source"])? {
                let Some(samples) = by_problem.get(&problem_id) else { continue };
                moved.per_problem.push(mean(samples.iter().map(|(difference, _)| *difference)));
                for (difference, tokens) in samples {
                    moved.by_benchmark.entry(source.clone()).or_default().add(*difference, *tokens);
                    moved.all.add(*difference, *tokens);
                }
            }
        }
        Ok(moved)
    }
}
