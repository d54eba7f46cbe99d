//! Work that threads share: which samples are not taken yet, how many slots fit the budget, how far all of it is.

use super::sample::Request;
use super::sampler::Sampling;
use super::stem::Stem;
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
    pub guessed: AtomicUsize,
    pub guessed_right: AtomicUsize,
}

impl Queue {
    pub fn new<R: Inference>(
        runner: &R,
        requests: &[Request],
        stem: &Stem,
        sampling: &Sampling,
        limits: &Limits,
    ) -> Result<Queue> {
        let total: usize = requests.iter().map(|r| r.samples.len()).sum();
        let positions = runner.config().max_positions;
        let shortest = requests.iter().map(|r| r.prompt_ids.len()).min().unwrap_or(0);
        let longest = requests.iter().map(|r| r.prompt_ids.len()).max().unwrap_or(0);
        let capacity = (sampling.max_new_tokens as usize).min(positions - shortest.min(positions));
        let behind_stem = requests.iter().map(|r| r.prompt_ids.len() - stem.under_prompt(&r.prompt_ids)).max();
        let slot_bytes = runner.slot_bytes(stem.len(), behind_stem.unwrap_or(0), capacity);
        let (budget, stem_bytes) = (limits.kv_budget_bytes, runner.stem_bytes(stem.len()));
        let least = stem_bytes + slot_bytes;
        if budget < least {
            return Err(Error::usage(format!(
                "keys and values of one sequence of {longest} + {capacity} tokens take {least} bytes; there are {budget} for all"
            ))
            .hint("lower `max_new_tokens`, or leave out the longest prompts"));
        }
        // Where not every thread's share holds a sequence, some threads go without.
        let workers = runner.workers(limits.threads).clamp(1, total.max(1)).min(budget / least);
        let fitting = (budget / workers - stem_bytes) / slot_bytes;
        let slots = limits.slots * runner.crew(limits.threads);
        let slots = slots.min(total.div_ceil(workers)).max(1).min(fitting);
        // A request with many samples is split, so that no thread waits while another holds all of them.
        let units = requests.iter().enumerate().flat_map(|(request, r)| {
            (0..r.samples.len())
                .step_by(slots)
                .map(move |first| Unit { request, samples: first..r.samples.len().min(first + slots) })
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
            guessed: AtomicUsize::new(0),
            guessed_right: AtomicUsize::new(0),
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
            guessed: self.guessed.load(Ordering::Relaxed),
            guessed_right: self.guessed_right.load(Ordering::Relaxed),
        }
    }
}
