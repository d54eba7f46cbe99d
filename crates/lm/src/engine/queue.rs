//! Work that threads share: which samples are not taken yet, how many slots fit the budget, how far all of it is.

use super::generate::Request;
use super::sampler::Sampling;
use super::{Limits, Progress};
use crate::model::runner::Inference;
use mindgap_base::error::{Error, Result};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Samples of one request that one thread takes together.
pub struct Unit {
    pub request: usize,
    pub samples: Range<usize>,
}

/// Work not yet taken, and counters shared by the threads.
pub struct Queue {
    units: Vec<Unit>,
    next: AtomicUsize,
    pub workers: usize,
    /// Of each worker.
    pub slots: usize,
    /// Tokens of the longest prompt.
    pub longest_prompt: usize,
    /// Room of a slot, in tokens after the prompt.
    pub capacity: usize,
    pub failed: AtomicBool,
    total: usize,
    pub done: AtomicUsize,
    pub new_tokens: AtomicUsize,
    pub prompt_tokens: AtomicUsize,
}

impl Queue {
    pub fn new<R: Inference>(runner: &R, requests: &[Request], sampling: &Sampling, limits: &Limits) -> Result<Queue> {
        let total: usize = requests.iter().map(|r| r.samples.len()).sum();
        let workers = runner.workers(limits.threads).clamp(1, total.max(1));
        let wanted = limits.slots.min(total.div_ceil(workers)).max(1);
        let positions = runner.config().max_positions;
        let shortest = requests.iter().map(|r| r.prompt_ids.len()).min().unwrap_or(0);
        let longest = requests.iter().map(|r| r.prompt_ids.len()).max().unwrap_or(0);
        let capacity = (sampling.max_new_tokens as usize).min(positions - shortest.min(positions));
        let slot_bytes = runner.slot_bytes(longest, capacity);
        let slots = wanted.min(limits.kv_budget_bytes / workers / slot_bytes);
        if slots == 0 {
            return Err(Error::usage(format!(
                "KV budget of {} bytes is below one sequence of {longest} + {capacity} tokens, {slot_bytes} bytes, on each of {workers} threads",
                limits.kv_budget_bytes
            ))
            .hint("raise the budget, lower `max_new_tokens`, or use fewer threads"));
        }
        // A request with many samples is split, so that no thread waits while another holds all of them.
        let chunk = slots.max(1);
        let units = requests.iter().enumerate().flat_map(|(request, r)| {
            (0..r.samples.len())
                .step_by(chunk)
                .map(move |first| Unit { request, samples: first..r.samples.len().min(first + chunk) })
        });
        Ok(Queue {
            units: units.collect(),
            next: AtomicUsize::new(0),
            workers,
            slots,
            longest_prompt: longest,
            capacity,
            failed: AtomicBool::new(false),
            total,
            done: AtomicUsize::new(0),
            new_tokens: AtomicUsize::new(0),
            prompt_tokens: AtomicUsize::new(0),
        })
    }

    pub fn take(&self) -> Option<&Unit> {
        self.units.get(self.next.fetch_add(1, Ordering::Relaxed))
    }

    pub fn progress(&self) -> Progress {
        Progress {
            done: self.done.load(Ordering::Relaxed),
            total: self.total,
            new_tokens: self.new_tokens.load(Ordering::Relaxed),
            prompt_tokens: self.prompt_tokens.load(Ordering::Relaxed),
        }
    }
}
