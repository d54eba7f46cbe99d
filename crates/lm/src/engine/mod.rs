//! The engine: draws completions from a policy and scores given ones. Values in, values out: no files, no printing, and no
//! clock but to see what taking results costs (`deliver.rs`).
//!
//! Each worker runs its own batch over its own slots and takes work from a shared queue. Of small models every thread is a
//! worker, which beats sharing one batch; of large ones all threads share one worker's steps; on a device one thread drives a
//! single batch. A sample depends on its prompt, its stream and the sampling parameters only, to the last bit (on the CPU).

pub mod sampler;
mod deliver;
mod queue;
pub mod sample;
mod speculate;
mod stem;
pub mod generate;
pub mod hinted;
pub mod score;
pub mod bench;

pub use generate::{generate, generate_each};
pub use hinted::{HintedRequest, generate_hinted};
pub use sample::{Request, Sample, StopReason};
pub use sampler::Sampling;
pub use score::{ScoreRequest, TokenScores, score, score_each};

use crate::model::device::free_bytes;
use candle_core::Device;
use mindgap_base::error::{Error, Result};
use std::sync::atomic::{AtomicBool, Ordering};

/// What a call may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits<'a> {
    /// Sequences decoded side by side by one thread, at most.
    pub slots: usize,
    /// Bytes for keys and values, over all threads. Fewer slots are used where it would be exceeded, and fewer threads where
    /// not all of them could hold a sequence.
    pub kv_budget_bytes: usize,
    pub threads: usize,
    /// Set by someone else to stop the call, which then ends with an `Interrupted` error.
    pub cancel: &'a AtomicBool,
}

/// Sequences side by side and their keys and values, where nobody says otherwise. A GPU wants more rows than a core.
const CPU: (usize, usize) = (64, 2 << 30);
const GPU_SLOTS: usize = 256;
/// Share of a GPU's memory for keys and values, of what is free beside the weights. Activations and logits need some.
const GPU_SHARE: f64 = 0.6;

impl<'a> Limits<'a> {
    /// What suits this device. Asked once the weights are there: they are not counted.
    pub fn on(device: &Device, threads: usize, cancel: &'a AtomicBool) -> Result<Limits<'a>> {
        let (slots, kv_budget_bytes) = match free_bytes(device)? {
            Some(free) => (GPU_SLOTS, (free as f64 * GPU_SHARE) as usize),
            None => CPU,
        };
        Ok(Limits { slots, kv_budget_bytes, threads, cancel })
    }

    fn check_cancel(&self) -> Result<()> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(Error::interrupted("stopped before all sequences were done"));
        }
        Ok(())
    }
}

/// Says of an error that it is about the request of this name or, where it has none, of this index.
fn locate(error: Error, name: &str, index: usize) -> Error {
    match name.is_empty() {
        true => error.at(format!("request {index}")),
        false => error.at(name),
    }
}

/// Counters since the call began, over all threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Samples or scored rows that are complete and taken.
    pub done: usize,
    pub total: usize,
    /// Tokens drawn, or scored.
    pub new_tokens: usize,
    /// Prompt tokens run through the model. A prompt shared by several samples counts once, a beginning shared by several prompts
    /// once per thread.
    pub prompt_tokens: usize,
    /// Tokens guessed ahead and run through the model.
    pub guessed: usize,
    /// Of these, those that came out.
    pub guessed_right: usize,
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod device_tests;
