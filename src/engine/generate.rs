//! Continuous batching: slots are filled from a queue, finished samples leave at once, new ones enter at once. A prompt is
//! prefilled once, and its keys and values are shared by its samples.

use super::queue::Queue;
use super::sampler::{Draw, Sampler, Sampling};
use super::{Limits, Progress};
use crate::base::error::{Error, Result};
use crate::base::rng::Stream;
use crate::model::kv_cache::{Prefix, Sequence};
use crate::model::runner::{Feed, Runner, Workspace};
use crate::model::tokenizer::{StopWatch, Tokenizer};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A prompt and the streams of the samples wanted of it. The token at position t of a completion is drawn with
/// `stream.uniform(t)`.
#[derive(Clone, Debug)]
pub struct Request {
    pub prompt_ids: Arc<[u32]>,
    pub samples: Vec<Stream>,
}

/// Why a completion ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    Eos,
    /// `max_new_tokens`, or the model's last position.
    MaxTokens,
    StopString,
}

impl StopReason {
    pub fn as_str(self) -> &'static str {
        match self {
            StopReason::Eos => "eos",
            StopReason::MaxTokens => "max_tokens",
            StopReason::StopString => "stop_string",
        }
    }
}

/// A completion.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// EOS included, when that is why it ended; a stop string is included too.
    pub token_ids: Vec<u32>,
    /// Natural log-prob of each token under the distribution it was drawn from.
    pub logprob_behavior: Vec<f32>,
    /// The same at temperature 1, nothing cut off.
    pub logprob_policy: Vec<f32>,
    pub stop_reason: StopReason,
}

/// Prompt tokens fed in one call of the model.
const PREFILL_ROWS: usize = 512;

/// Draws all samples of all requests: `result[i][j]` is sample j of request i. `tokenizer` is needed for stop strings only.
/// Errors: an empty or too long prompt, a token id outside the vocabulary, a bad parameter, a KV budget below one
/// sequence, or `limits.cancel`.
pub fn generate(
    runner: &Runner,
    tokenizer: Option<&Tokenizer>,
    requests: &[Request],
    sampling: &Sampling,
    limits: &Limits,
    on_progress: &(dyn Fn(Progress) + Sync),
) -> Result<Vec<Vec<Sample>>> {
    sampling.check()?;
    let tokenizer = match (tokenizer, sampling.stop.is_empty()) {
        (None, false) => return Err(Error::usage("stop strings need a tokenizer")),
        (tokenizer, false) => tokenizer,
        (_, true) => None,
    };
    check_prompts(runner, requests)?;
    let queue = Queue::new(runner, requests, sampling, limits)?;
    let worker = || Worker::new(runner, tokenizer, requests, sampling, limits, &queue, on_progress).run();
    let finished = if queue.threads <= 1 {
        worker()?
    } else {
        let outcomes: Vec<Result<Vec<Finished>>> = std::thread::scope(|scope| {
            let handles: Vec<_> = (0..queue.threads).map(|_| scope.spawn(worker)).collect();
            handles.into_iter().map(|h| h.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        outcomes.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect()
    };
    on_progress(queue.progress());
    let mut results: Vec<Vec<Option<Sample>>> = requests.iter().map(|r| vec![None; r.samples.len()]).collect();
    for (request, index, sample) in finished {
        results[request][index] = Some(sample);
    }
    let all = |samples: Vec<Option<Sample>>| {
        samples.into_iter().map(|s| s.expect("every sample of the queue was finished")).collect()
    };
    Ok(results.into_iter().map(all).collect())
}

fn check_prompts(runner: &Runner, requests: &[Request]) -> Result<()> {
    let longest = runner.config().max_positions;
    for (index, request) in requests.iter().enumerate() {
        let length = request.prompt_ids.len();
        if length == 0 {
            return Err(Error::input("prompt is empty").at(format!("request {index}")));
        }
        if length >= longest {
            return Err(Error::input(format!(
                "prompt of {length} tokens leaves no room in the model's {longest} positions"
            ))
            .at(format!("request {index}"))
            .hint("`max_position_embeddings` in `config.json` is the longest prompt and completion together"));
        }
        runner.check_token_ids(&request.prompt_ids).map_err(|e| e.at(format!("request {index}")))?;
    }
    Ok(())
}

/// Request, index of the sample in it, the sample.
type Finished = (usize, usize, Sample);

/// A prefilled prompt with samples still to start.
struct Prompt {
    request: usize,
    waiting: Range<usize>,
    prefix: Prefix,
    /// Of the first token of every sample.
    logits: Vec<f32>,
}

/// A sample being drawn.
struct Active<'a> {
    request: usize,
    index: usize,
    sequence: Sequence,
    watch: Option<StopWatch<'a>>,
    limit: usize,
    sample: Sample,
}

/// One thread: its slots, its buffers.
struct Worker<'a> {
    runner: &'a Runner,
    tokenizer: Option<&'a Tokenizer>,
    requests: &'a [Request],
    sampling: &'a Sampling,
    limits: &'a Limits<'a>,
    queue: &'a Queue,
    on_progress: &'a (dyn Fn(Progress) + Sync),
    sampler: Sampler<'a>,
    workspace: Workspace,
    logits: Vec<f32>,
    prompts: VecDeque<Prompt>,
    active: Vec<Active<'a>>,
    /// Rooms of slots not in use.
    free: Vec<Sequence>,
    /// Rooms of prompts not in use. Together with the prompts in use there are never more than slots.
    spare: Vec<Sequence>,
    prompts_in_use: usize,
    finished: Vec<Finished>,
}

impl<'a> Worker<'a> {
    fn new(
        runner: &'a Runner,
        tokenizer: Option<&'a Tokenizer>,
        requests: &'a [Request],
        sampling: &'a Sampling,
        limits: &'a Limits<'a>,
        queue: &'a Queue,
        on_progress: &'a (dyn Fn(Progress) + Sync),
    ) -> Worker<'a> {
        Worker {
            runner,
            tokenizer,
            requests,
            sampling,
            limits,
            queue,
            on_progress,
            sampler: Sampler::new(sampling),
            workspace: Workspace::default(),
            logits: Vec::new(),
            prompts: VecDeque::new(),
            active: Vec::new(),
            free: (0..queue.slots).map(|_| Sequence::new(runner.kv_shape(), queue.capacity)).collect(),
            spare: Vec::new(),
            prompts_in_use: 0,
            finished: Vec::new(),
        }
    }

    fn run(mut self) -> Result<Vec<Finished>> {
        let outcome = self.work();
        if outcome.is_err() {
            self.queue.failed.store(true, Ordering::Relaxed);
        }
        outcome.map(|()| self.finished)
    }

    fn work(&mut self) -> Result<()> {
        loop {
            self.limits.check_cancel()?;
            if self.queue.failed.load(Ordering::Relaxed) {
                return Ok(()); // the thread that failed says why
            }
            self.fill()?;
            if self.active.is_empty() {
                return Ok(());
            }
            self.decode()?;
            (self.on_progress)(self.queue.progress());
        }
    }

    /// Starts samples until the slots or the work run out.
    fn fill(&mut self) -> Result<()> {
        while !self.free.is_empty() {
            let Some(prompt) = self.prompts.front_mut() else {
                if !self.prefill()? {
                    return Ok(());
                }
                continue;
            };
            let Some(index) = prompt.waiting.next() else {
                // Its samples hold the prefix now; one that is left over by all of them has ended already.
                if self.prompts.pop_front().is_some_and(|p| p.prefix.is_unused()) {
                    self.prompts_in_use -= 1;
                }
                continue;
            };
            let request = &self.requests[prompt.request];
            let mut sequence = self.free.pop().expect("the loop runs while one is free");
            sequence.start_after(&prompt.prefix);
            let positions = self.runner.config().max_positions - request.prompt_ids.len();
            let mut active = Active {
                request: prompt.request,
                index,
                sequence,
                watch: self.tokenizer.map(|t| StopWatch::new(t, &self.sampling.stop)),
                limit: positions.min(self.sampling.max_new_tokens as usize),
                sample: Sample {
                    token_ids: Vec::new(),
                    logprob_behavior: Vec::new(),
                    logprob_policy: Vec::new(),
                    stop_reason: StopReason::MaxTokens,
                },
            };
            let draw = self.sampler.draw(&prompt.logits, request.samples[index].uniform(0))?;
            self.queue.new_tokens.fetch_add(1, Ordering::Relaxed);
            match active.push(draw, self.sampling)? {
                true => self.retire(active),
                false => self.active.push(active),
            }
        }
        Ok(())
    }

    /// Runs the prompts of as many units as there are free slots, or as fit into one call. False if no work is left.
    fn prefill(&mut self) -> Result<bool> {
        let (mut samples, mut rows) = (0, 0);
        let mut units = Vec::new();
        while samples < self.free.len() && rows < PREFILL_ROWS {
            let Some(unit) = self.queue.take() else { break };
            samples += unit.samples.len();
            rows += self.requests[unit.request].prompt_ids.len();
            units.push((unit, 0, self.prompt_room(self.requests[unit.request].prompt_ids.len())));
        }
        if units.is_empty() {
            return Ok(false);
        }
        let mut logits: VecDeque<Vec<f32>> = VecDeque::new();
        while units.iter().any(|(unit, fed, _)| *fed < self.requests[unit.request].prompt_ids.len()) {
            self.limits.check_cancel()?;
            let mut room = PREFILL_ROWS;
            let mut feeds = Vec::new();
            for (unit, fed, sequence) in &mut units {
                let prompt = &self.requests[unit.request].prompt_ids;
                let end = prompt.len().min(*fed + room);
                if end > *fed {
                    let want = usize::from(end == prompt.len());
                    feeds.push(Feed { sequence, token_ids: &prompt[*fed..end], want });
                    room -= end - *fed;
                    *fed = end;
                }
            }
            let hidden = self.runner.step(&mut self.workspace, &mut feeds)?;
            self.runner.logits(hidden, &mut self.logits);
            logits.extend(self.logits.chunks_exact(self.runner.config().vocab_size).map(<[f32]>::to_vec));
            self.queue.prompt_tokens.fetch_add(PREFILL_ROWS - room, Ordering::Relaxed);
        }
        // Units finish in order: each call feeds the first unfinished ones first.
        for ((unit, _, sequence), logits) in units.into_iter().zip(logits) {
            let (request, waiting) = (unit.request, unit.samples.clone());
            self.prompts.push_back(Prompt { request, waiting, prefix: sequence.into_prefix(), logits });
        }
        Ok(true)
    }

    /// Room for a prompt: one used before if it fits without waste. Fresh memory costs a page fault per 4 kB, which for small
    /// models is as dear as the prefill itself.
    fn prompt_room(&mut self, tokens: usize) -> Sequence {
        self.prompts_in_use += 1;
        if let Some(index) = self.spare.iter().position(|s| (tokens..=2 * tokens + 32).contains(&s.capacity())) {
            return self.spare.swap_remove(index);
        }
        if self.prompts_in_use + self.spare.len() > self.queue.slots {
            self.spare.pop();
        }
        Sequence::new(self.runner.kv_shape(), tokens)
    }

    /// One token for every active sample.
    fn decode(&mut self) -> Result<()> {
        let mut feeds = Vec::with_capacity(self.active.len());
        for active in &mut self.active {
            let last = active.sample.token_ids.len() - 1;
            let token_ids = &active.sample.token_ids[last..];
            feeds.push(Feed { sequence: &mut active.sequence, token_ids, want: 1 });
        }
        let hidden = self.runner.step(&mut self.workspace, &mut feeds)?;
        self.runner.logits(hidden, &mut self.logits);
        let size = self.runner.config().vocab_size;
        self.queue.new_tokens.fetch_add(self.active.len(), Ordering::Relaxed);
        let mut still = Vec::with_capacity(self.active.len());
        for (row, mut active) in std::mem::take(&mut self.active).into_iter().enumerate() {
            let stream = &self.requests[active.request].samples[active.index];
            let uniform = stream.uniform(active.sample.token_ids.len() as u64);
            let draw = self.sampler.draw(&self.logits[row * size..(row + 1) * size], uniform)?;
            match active.push(draw, self.sampling)? {
                true => self.retire(active),
                false => still.push(active),
            }
        }
        self.active = still;
        Ok(())
    }

    fn retire(&mut self, active: Active<'a>) {
        let Active { request, index, mut sequence, sample, .. } = active;
        if let Some(room) = sequence.reset() {
            self.prompts_in_use -= 1;
            self.spare.push(room);
        }
        self.free.push(sequence);
        self.finished.push((request, index, sample));
        self.queue.done.fetch_add(1, Ordering::Relaxed);
    }
}

impl Active<'_> {
    /// Appends a token; true if the sample is complete.
    fn push(&mut self, draw: Draw, sampling: &Sampling) -> Result<bool> {
        let sample = &mut self.sample;
        sample.token_ids.push(draw.token_id);
        sample.logprob_behavior.push(draw.logprob_behavior);
        sample.logprob_policy.push(draw.logprob_policy);
        if sampling.eos.contains(&draw.token_id) {
            sample.stop_reason = StopReason::Eos;
            return Ok(true);
        }
        if let Some(watch) = &mut self.watch
            && watch.hit(&sample.token_ids)?
        {
            sample.stop_reason = StopReason::StopString;
            return Ok(true);
        }
        Ok(sample.token_ids.len() >= self.limit)
    }
}
