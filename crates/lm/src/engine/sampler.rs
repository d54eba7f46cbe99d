//! Logits and a uniform number -> a token with two log-probs: under the distribution really drawn from, and under the policy
//! itself (temperature 1, nothing cut off).
//!
//! The draw is by inverse CDF in ascending order of token ids. Truncation works on tokens in descending order of
//! probability, equal ones by ascending id: after the temperature, `top_k` keeps the first k; `top_p` keeps the shortest
//! beginning of those whose share of their sum reaches p; `min_p` keeps those at least min_p times as likely as the
//! first. This is the order of Hugging Face's warpers.

use crate::model::ops::sampling::{BLOCK, block_sums, max, passing, softmax_weights, tally};
use crate::model::runner::not_finite;
use mindgap_base::error::{Error, Result};
use mindgap_base::rng::Stream;
use rayon::prelude::*;

pub use crate::model::runner::Draw;

/// How to draw tokens, and when to stop.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the most likely token, the lowest id of equals; its behaviour log-prob is 0.
    pub temperature: f32,
    /// 1 keeps everything.
    pub top_p: f32,
    /// 0 keeps everything.
    pub top_k: u32,
    /// 0 keeps everything.
    pub min_p: f32,
    pub max_new_tokens: u32,
    /// A completion ends with the token that completes one of these.
    pub stop: Vec<String>,
    /// A completion ends with one of these tokens.
    pub eos: Vec<u32>,
    /// Tokens guessed ahead per sample and step, at most (`speculate.rs`). Changes no sample on the CPU, only the time; elsewhere
    /// nothing is guessed.
    pub speculate: u32,
}

impl Sampling {
    /// The policy itself: temperature 1, nothing cut off.
    pub fn plain(max_new_tokens: u32, eos: &[u32]) -> Sampling {
        Sampling {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            max_new_tokens,
            stop: Vec::new(),
            eos: eos.to_vec(),
            speculate: 0,
        }
    }

    /// Errors name the parameter that is out of range.
    pub fn check(&self) -> Result<()> {
        let bad =
            |name: &str, value: f32, range: &str| Err(Error::usage(format!("`{name}` is {value}; expected {range}")));
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return bad("temperature", self.temperature, "0 or more");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return bad("top_p", self.top_p, "more than 0, at most 1");
        }
        if !(self.min_p >= 0.0 && self.min_p <= 1.0) {
            return bad("min_p", self.min_p, "0 to 1");
        }
        if self.max_new_tokens == 0 {
            return bad("max_new_tokens", 0.0, "1 or more");
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(Error::usage("a `stop` string is empty"));
        }
        Ok(())
    }

    /// Whether some tokens are never drawn.
    pub fn truncates(&self) -> bool {
        self.top_p < 1.0 || self.top_k > 0 || self.min_p > 0.0
    }
}

/// Draws tokens; keeps its buffers between draws.
pub struct Sampler<'a> {
    sampling: &'a Sampling,
    weights: Vec<f32>,
    sums: Vec<f32>,
    order: Vec<u32>,
}

/// The rows of one sample in a step: behind its last token, and behind each token that was guessed to come after that.
pub struct Run<'a> {
    /// Whose sample it is.
    pub request: usize,
    /// The first of its `1 + guesses` rows.
    pub row: usize,
    pub guesses: &'a [u32],
    pub stream: &'a Stream,
    /// Of the first row's token in its completion.
    pub position: usize,
}

/// Runs that are worth waking a thread for.
const SHARE: usize = 4;

/// Draws from the rows of each run until a token is not the one guessed, or the completion's last. `logits` are `[rows, size]`.
/// The samplers share the runs and work side by side. What is drawn does not depend on how many there are, nor on the guesses,
/// but for where a run ends. Errors: a run's logits are not finite.
pub fn draw_runs(samplers: &mut [Sampler], logits: &[f32], size: usize, runs: &[Run]) -> Vec<Result<Vec<Draw>>> {
    let draw = |sampler: &mut Sampler, runs: &[Run]| -> Vec<Result<Vec<Draw>>> {
        let of = |run: &Run| sampler.draw_run(logits[run.row * size..].chunks_exact(size), run);
        runs.iter().map(of).collect()
    };
    let share = runs.len().div_ceil(samplers.len()).max(SHARE);
    if runs.len() <= share {
        return draw(&mut samplers[0], runs);
    }
    runs.par_chunks(share).zip(samplers).flat_map_iter(|(runs, sampler)| draw(sampler, runs)).collect()
}

/// Tokens sorted at first when cutting off a tail; most distributions need fewer.
const SORTED: usize = 1024;

impl<'a> Sampler<'a> {
    pub fn new(sampling: &'a Sampling) -> Sampler<'a> {
        Sampler { sampling, weights: Vec::new(), sums: Vec::new(), order: Vec::new() }
    }

    fn draw_run<'l>(&mut self, rows: impl Iterator<Item = &'l [f32]>, run: &Run) -> Result<Vec<Draw>> {
        let mut draws = Vec::with_capacity(1 + run.guesses.len());
        for (row, logits) in rows.take(1 + run.guesses.len()).enumerate() {
            let draw = self.draw(logits, run.stream.uniform((run.position + row) as u64))?;
            draws.push(draw);
            if run.guesses.get(row) != Some(&draw.token_id) || self.sampling.eos.contains(&draw.token_id) {
                break;
            }
        }
        Ok(draws)
    }

    /// Draws from a row of logits with a uniform number in [0, 1). Errors if the logits are not finite: the policy is broken.
    pub fn draw(&mut self, logits: &[f32], uniform: f64) -> Result<Draw> {
        let log_sum = tally(logits).log_sum_exp();
        if !log_sum.is_finite() {
            return Err(not_finite());
        }
        let max = max(logits);
        if self.sampling.temperature == 0.0 {
            let token = logits.iter().position(|l| *l == max).expect("the largest logit is one of them");
            return Ok(Draw { token_id: token as u32, logprob_behavior: 0.0, logprob_policy: max - log_sum });
        }
        self.weights.resize(logits.len(), 0.0);
        self.sums.resize(logits.len().div_ceil(BLOCK), 0.0);
        let inverse = 1.0 / self.sampling.temperature;
        softmax_weights(logits, max, inverse, &mut self.weights, &mut self.sums);
        if self.sampling.truncates() {
            self.truncate();
        }
        let total: f64 = self.sums.iter().map(|s| f64::from(*s)).sum();
        let token = self.invert(uniform * total);
        let logprob_policy = logits[token] - log_sum;
        let logprob_behavior = if self.sampling.temperature == 1.0 && !self.sampling.truncates() {
            logprob_policy
        } else {
            (f64::from((logits[token] - max) * inverse) - total.ln()).min(0.0) as f32
        };
        Ok(Draw { token_id: token as u32, logprob_behavior, logprob_policy })
    }

    /// The token at which the running sum of weights passes `target`.
    fn invert(&self, target: f64) -> usize {
        let (block, before) = passing(&self.sums, 0.0, target);
        let (first, end) = (block * BLOCK, self.weights.len().min((block + 1) * BLOCK));
        first + passing(&self.weights[first..end], before, target).0
    }

    /// Sets the weights of all tokens that are cut off to 0.
    fn truncate(&mut self) {
        let weights = &self.weights;
        let more_likely = |a: &u32, b: &u32| {
            let (x, y) = (weights[*a as usize], weights[*b as usize]);
            y.total_cmp(&x).then(a.cmp(b))
        };
        self.order.clear();
        self.order.extend((0..weights.len() as u32).filter(|i| weights[*i as usize] > 0.0));
        let top_k = self.sampling.top_k as usize;
        if top_k > 0 && top_k < self.order.len() {
            self.order.select_nth_unstable_by(top_k - 1, more_likely);
            self.order.truncate(top_k);
            // The sum below must not depend on how the selection left them.
            self.order.sort_unstable();
        }
        let total: f64 = self.order.iter().map(|i| f64::from(weights[*i as usize])).sum();
        // The most likely token has weight 1.
        self.order.retain(|i| weights[*i as usize] >= self.sampling.min_p);
        if self.sampling.top_p < 1.0 {
            let wanted = f64::from(self.sampling.top_p) * total;
            let mut sorted = SORTED.min(self.order.len());
            if sorted < self.order.len() {
                self.order.select_nth_unstable_by(sorted, more_likely);
            }
            self.order[..sorted].sort_unstable_by(more_likely);
            let first: f64 = self.order[..sorted].iter().map(|i| f64::from(weights[*i as usize])).sum();
            if first < wanted {
                sorted = self.order.len();
                self.order.sort_unstable_by(more_likely);
            }
            let mut sum = 0.0;
            let reaches = |i: &u32| {
                sum += f64::from(weights[*i as usize]);
                sum >= wanted
            };
            let keep = self.order[..sorted].iter().position(reaches).map_or(self.order.len(), |last| last + 1);
            self.order.truncate(keep);
        }
        let kept: Vec<(u32, f32)> = self.order.iter().map(|i| (*i, self.weights[*i as usize])).collect();
        self.weights.fill(0.0);
        for (token, weight) in kept {
            self.weights[token as usize] = weight;
        }
        block_sums(&self.weights, &mut self.sums);
    }
}

#[cfg(test)]
mod tests;
