//! The transformer for inference: keys and values of sequences in a cache, so that a token is computed once.
//!
//! Two ways to run it stand behind one seam, [`Inference`] and its [`Session`]s: packed weights and our own kernels on the CPU
//! ([`cpu`]), candle's tensors on any device ([`device`]). The engine is written against the seam.

pub mod cpu;
pub mod device;
mod layer;

use super::config::Config;
use super::held::Held;
use super::ops::WeightType;
use super::ops::top::Top;
use super::tensor_error;
use super::transformer::{Transformer, check_length, check_token_ids};
use super::weights::Checkpoint;
use candle_core::{DType, Device};
use mindgap_base::error::{Error, Result};

/// A way to run a policy.
pub trait Inference: Sync {
    type Session<'a>: Session
    where
        Self: 'a;

    fn config(&self) -> &Config;

    /// Bytes that the keys and values of a slot take: a prompt of so many tokens behind a stem of so many, and a completion.
    fn slot_bytes(&self, stem: usize, prompt: usize, completion: usize) -> usize;

    /// Bytes that the keys and values of a stem take, which all prompts of a session stand on.
    fn stem_bytes(&self, stem: usize) -> usize;

    /// Workers that sample side by side, each with a session of its own, when there are so many threads.
    fn workers(&self, threads: usize) -> usize;

    /// Of so many threads, those that share each step of one worker.
    fn crew(&self, threads: usize) -> usize;

    /// The same of workers that score: each call has many rows.
    fn scoring_workers(&self, threads: usize) -> usize;

    /// Rows worth feeding in one call.
    fn call_rows(&self) -> usize;

    /// Rows that a step of few rows computes in the time in which it reads the weights; 0 where a slot takes no more than a token
    /// per step.
    fn free_rows(&self) -> usize;

    /// Whether sessions draw tokens that nothing is cut off from themselves, where the logits are: [`Session::draw`].
    fn draws(&self) -> bool {
        false
    }

    /// An empty cache with so many slots, each with room for a prompt and a completion of at most these lengths. The slots'
    /// memory is taken here. A crew of so many threads shares its steps.
    fn session(&self, slots: usize, prompt: usize, completion: usize, crew: usize) -> Result<Self::Session<'_>>;
}

/// The sequences of one worker. Appending tokens to them is one call, prefill and decode alike.
pub trait Session {
    /// A sequence that grows.
    type Sequence;
    /// A finished prompt, from which samples start, or a stem, from which prompts do.
    type Prompt;

    /// An empty sequence for at most so many tokens, outside the slots: a prompt, or a text to score. Where long texts turn by
    /// other frequencies, the number says whether it is one.
    fn open(&mut self, tokens: usize) -> Result<Self::Sequence>;

    /// The same for a sequence that goes on after a stem; the number counts the stem's tokens. Not where the texts turn by other
    /// frequencies than the stem.
    fn open_after(&mut self, stem: &Self::Prompt, tokens: usize) -> Result<Self::Sequence>;

    /// Freezes a sequence made by [`Session::open`] or [`Session::open_after`].
    fn freeze(&mut self, sequence: Self::Sequence) -> Self::Prompt;

    /// No more samples will start from this prompt, or prompts from this stem.
    fn release(&mut self, prompt: Self::Prompt);

    /// Slots not in use.
    fn free_slots(&self) -> usize;

    /// A sequence in a free slot that goes on after the prompt.
    fn start(&mut self, prompt: &Self::Prompt) -> Result<Self::Sequence>;

    /// Forgets the tokens of a sequence in a slot from `len` on, its prompt excepted.
    fn truncate(&mut self, sequence: &mut Self::Sequence, len: usize);

    /// Gives a slot back.
    fn retire(&mut self, sequence: Self::Sequence);

    /// Appends each feed's tokens to its sequence; logits of the wanted rows, `[rows, vocab_size]`, row after row in feed
    /// order, into `out`. Errors: a token id outside the vocabulary, a sequence longer than the model's positions or its
    /// room.
    fn logits(&mut self, feeds: &mut [Feed<Self::Sequence>], out: &mut Vec<f32>) -> Result<()>;

    /// The same; draws tokens from the whole distribution of the wanted rows at a temperature (0 takes the likeliest, the lowest
    /// id of equals) in place of their logits. `numbers` says for each token the number of its row, counted from 0 in feed order,
    /// and a uniform number in [0, 1). A token is an error if the logits of its row are not finite.
    fn draw(
        &mut self,
        _feeds: &mut [Feed<Self::Sequence>],
        _temperature: f32,
        _numbers: &[(usize, f64)],
    ) -> Result<Vec<Result<Draw>>> {
        Err(Error::internal("this runner's logits are drawn from on the host"))
    }

    /// The same; of each wanted row what is known of its target, and the `top_k` likeliest tokens. The logits of all rows never
    /// exist. Errors also if logits are not finite.
    fn scores(&mut self, feeds: &mut [Feed<Self::Sequence>], targets: &[u32], top_k: usize) -> Result<Vec<Score>>;
}

/// What is known of a token that follows others.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Score {
    /// Natural, at temperature 1.
    pub logprob: f32,
    /// Of the whole distribution, nats.
    pub entropy: f32,
    /// The likeliest tokens in falling order, with their natural log-probs.
    pub top: Vec<(u32, f32)>,
}

impl Score {
    /// From logits and their log-sum-exp. Error: they are not finite.
    fn new(logit: f32, log_sum_exp: f32, entropy: f32, top: Top) -> Result<Score> {
        let logprob = logit - log_sum_exp;
        let top = top.into_entries().into_iter().map(|(token, logit)| (token, logit - log_sum_exp)).collect();
        match logprob.is_finite() && entropy.is_finite() {
            true => Ok(Score { logprob, entropy, top }),
            false => Err(not_finite()),
        }
    }
}

/// Tokens to append to one sequence.
pub struct Feed<'a, S> {
    pub sequence: &'a mut S,
    pub token_ids: &'a [u32],
    /// The last so many of these tokens are wanted rows.
    pub want: usize,
}

/// A drawn token: its log-probs under the distribution it was drawn from, and under the policy itself (temperature 1, nothing cut
/// off).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    pub token_id: u32,
    pub logprob_behavior: f32,
    pub logprob_policy: f32,
}

/// A policy ready to sample from and to score with.
#[expect(clippy::large_enum_variant, reason = "there are few, and they stay where they are made")]
pub enum Runner {
    Cpu(cpu::CpuRunner),
    Device(device::DeviceRunner),
}

impl Runner {
    /// From a checkpoint's bytes, one tensor at a time. On a device weights, keys and values are in the checkpoint's own type.
    pub fn from_checkpoint(config: &Config, checkpoint: &Checkpoint, device: &Device, held: Held) -> Result<Runner> {
        let own = if checkpoint.dtype() == DType::BF16 { WeightType::StoredBf16 } else { WeightType::F32 };
        let on_cpu = || cpu::CpuRunner::from_checkpoint(config, checkpoint, held.weights.unwrap_or(own));
        Ok(match device {
            Device::Cpu => Runner::Cpu(on_cpu()?.caching_in(held.keys_values)),
            _ => Runner::Device(device::DeviceRunner::from_checkpoint(config, checkpoint, device)?),
        })
    }

    /// A snapshot of a transformer's weights as they are now, where they are; in f32 on the CPU.
    pub fn from_transformer(transformer: &Transformer) -> Result<Runner> {
        Ok(match transformer.device() {
            Device::Cpu => Runner::Cpu(cpu::CpuRunner::from_transformer(transformer, WeightType::F32)?),
            _ => Runner::Device(device::DeviceRunner::from_transformer(transformer)?),
        })
    }

    pub fn config(&self) -> &Config {
        match self {
            Runner::Cpu(runner) => runner.config(),
            Runner::Device(runner) => runner.config(),
        }
    }

    /// Bytes that a weight takes.
    pub fn weight_bytes(&self) -> f64 {
        match self {
            Runner::Cpu(runner) => runner.weights().bytes(),
            Runner::Device(runner) => runner.dtype().size_in_bytes() as f64,
        }
    }

    /// Workers that sample side by side when there are so many threads.
    pub fn workers(&self, threads: usize) -> usize {
        match self {
            Runner::Cpu(runner) => runner.workers(threads),
            Runner::Device(runner) => runner.workers(threads),
        }
    }

    /// Of so many threads, those that share each step of a worker that samples.
    pub fn crew(&self, threads: usize) -> usize {
        match self {
            Runner::Cpu(runner) => runner.crew(threads),
            Runner::Device(runner) => runner.crew(threads),
        }
    }

    /// Workers that score side by side when there are so many threads.
    pub fn scoring_workers(&self, threads: usize) -> usize {
        match self {
            Runner::Cpu(runner) => runner.scoring_workers(threads),
            Runner::Device(runner) => runner.scoring_workers(threads),
        }
    }
}

fn weight(transformer: &Transformer, name: &str) -> Result<candle_core::Tensor> {
    transformer.tensor(name).cloned().ok_or_else(|| Error::internal(format!("no tensor `{name}`")))
}

/// Errors if a feed does not fit the model or its sequence of `length` tokens with room for `room` more.
fn check_feed<S>(config: &Config, feed: &Feed<S>, length: usize, room: usize, long: bool) -> Result<()> {
    check_token_ids(config, feed.token_ids)?;
    check_length(config, length + feed.token_ids.len())?;
    if !long && config.is_long(length + feed.token_ids.len()) {
        return Err(Error::internal("a short sequence grew into a long one"));
    }
    if room < feed.token_ids.len() || feed.want > feed.token_ids.len() {
        return Err(Error::internal("more tokens were fed or wanted than the sequence has room for"));
    }
    Ok(())
}

/// The error of logits that hold NaN or infinity.
pub fn not_finite() -> Error {
    Error::input("logits are not finite numbers")
        .hint("the policy's weights hold NaN or infinity; a training run may have diverged")
}
