//! Logits and a uniform number -> a token with two log-probs: under the distribution really drawn from, and under the policy
//! itself (temperature 1, nothing cut off).
//!
//! The draw is by inverse CDF in ascending order of token ids. Truncation works on tokens in descending order of
//! probability, equal ones by ascending id: after the temperature, `top_k` keeps the first k; `top_p` keeps the shortest
//! beginning of those whose share of their sum reaches p; `min_p` keeps those at least min_p times as likely as the
//! first. This is the order of Hugging Face's warpers.

use crate::model::ops::sampling::{BLOCK, block_sums, max, softmax_weights, tally};
use crate::model::runner::not_finite;
use mindgap_base::error::{Error, Result};
use mindgap_base::rng::Stream;
use rayon::prelude::*;

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

/// A drawn token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    pub token_id: u32,
    pub logprob_behavior: f32,
    pub logprob_policy: f32,
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
    /// `[1 + guesses, vocab_size]`.
    pub logits: &'a [f32],
    pub guesses: &'a [u32],
    pub stream: &'a Stream,
    /// Of the first row's token in its completion.
    pub position: usize,
}

/// Runs that are worth waking a thread for.
const SHARE: usize = 4;

/// Draws from the rows of each run until a token is not the one guessed, or the completion's last. The samplers share the runs and
/// work side by side. What is drawn does not depend on how many there are, nor on the guesses, but for where a run ends.
pub fn draw_runs(samplers: &mut [Sampler], runs: &[Run]) -> Result<Vec<Vec<Draw>>> {
    let draw = |sampler: &mut Sampler, runs: &[Run]| -> Result<Vec<Vec<Draw>>> {
        runs.iter().map(|run| sampler.draw_run(run)).collect()
    };
    let share = runs.len().div_ceil(samplers.len()).max(SHARE);
    if runs.len() <= share {
        return draw(&mut samplers[0], runs);
    }
    let draws = runs.par_chunks(share).zip(samplers).map(|(runs, sampler)| draw(sampler, runs));
    Ok(draws.collect::<Result<Vec<_>>>()?.concat())
}

/// Tokens sorted at first when cutting off a tail; most distributions need fewer.
const SORTED: usize = 1024;

impl<'a> Sampler<'a> {
    pub fn new(sampling: &'a Sampling) -> Sampler<'a> {
        Sampler { sampling, weights: Vec::new(), sums: Vec::new(), order: Vec::new() }
    }

    fn draw_run(&mut self, run: &Run) -> Result<Vec<Draw>> {
        let rows = run.logits.chunks_exact(run.logits.len() / (1 + run.guesses.len()));
        let mut draws: Vec<Draw> = Vec::with_capacity(rows.len());
        for (row, logits) in rows.enumerate() {
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
        let mut before = 0.0;
        let mut last = 0;
        for (block, sum) in self.sums.iter().enumerate() {
            if *sum == 0.0 {
                continue;
            }
            let after = before + f64::from(*sum);
            last = block;
            if after > target {
                break;
            }
            before = after;
        }
        // Inside a block the running sum may end a rounding error below the block's own sum; the last token with any weight
        // takes what is left.
        let mut token = last * BLOCK;
        for (offset, weight) in self.weights[last * BLOCK..].iter().take(BLOCK).enumerate() {
            if *weight > 0.0 {
                token = last * BLOCK + offset;
                before += f64::from(*weight);
                if before > target {
                    break;
                }
            }
        }
        token
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
