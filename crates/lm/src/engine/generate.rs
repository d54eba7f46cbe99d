//! Continuous batching: slots are filled from a queue, finished samples leave at once, new ones enter at once. A prompt is
//! prefilled once, and its keys and values serve all its samples.

use super::deliver::{Outbox, deliver};
use super::queue::Queue;
use super::sample::{Request, Sample};
use super::sampler::{Run, Sampler, Sampling, draw_runs};
use super::speculate::{Draft, Speculation, Tail};
use super::stem::Stem;
use super::{Limits, Progress, locate};
use crate::model::config::Config;
use crate::model::runner::{Draw, Feed, Inference, Runner, Session};
use crate::model::tokenizer::{StopWatch, Tokenizer};
use crate::model::transformer::check_token_ids;
use mindgap_base::error::{Error, Result};
use std::collections::VecDeque;
use std::iter::Zip;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::vec::IntoIter;

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
    let mut results: Vec<Vec<Option<Sample>>> = requests.iter().map(|r| vec![None; r.samples.len()]).collect();
    generate_each(runner, tokenizer, requests, sampling, limits, on_progress, |finished| {
        for (request, index, sample) in finished {
            results[request][index] = Some(sample);
        }
        Ok(())
    })?;
    let all = |samples: Vec<Option<Sample>>| {
        samples.into_iter().map(|s| s.expect("every sample of the queue was finished")).collect()
    };
    Ok(results.into_iter().map(all).collect())
}

/// The same, with every sample handed to `take` soon after it is complete, by this thread and in no order. Where the call fails
/// or is stopped, `take` has had all samples that were complete. An error of `take` ends the call.
pub fn generate_each(
    runner: &Runner,
    tokenizer: Option<&Tokenizer>,
    requests: &[Request],
    sampling: &Sampling,
    limits: &Limits,
    on_progress: &(dyn Fn(Progress) + Sync),
    take: impl FnMut(Vec<Finished>) -> Result<()>,
) -> Result<()> {
    match runner {
        Runner::Cpu(runner) => generate_with(runner, tokenizer, requests, sampling, limits, on_progress, take),
        Runner::Device(runner) => generate_with(runner, tokenizer, requests, sampling, limits, on_progress, take),
    }
}

fn generate_with<R: Inference>(
    runner: &R,
    tokenizer: Option<&Tokenizer>,
    requests: &[Request],
    sampling: &Sampling,
    limits: &Limits,
    on_progress: &(dyn Fn(Progress) + Sync),
    mut take: impl FnMut(Vec<Finished>) -> Result<()>,
) -> Result<()> {
    sampling.check()?;
    let tokenizer = match (tokenizer, sampling.stop.is_empty()) {
        (None, false) => return Err(Error::usage("stop strings need a tokenizer")),
        (tokenizer, false) => tokenizer,
        (_, true) => None,
    };
    check_prompts(runner.config(), requests)?;
    let stem = Stem::of(runner.config(), requests.iter().map(|r| &r.prompt_ids[..]));
    let queue = Queue::new(runner, requests, &stem, sampling, limits)?;
    let job = Job { runner, tokenizer, requests, stem: &stem, sampling, limits, queue: &queue, on_progress };
    deliver(
        queue.workers,
        &queue.failed,
        |outbox| Worker::new(&job, outbox)?.work(),
        |finished| {
            let count = finished.len();
            take(finished)?;
            queue.done.fetch_add(count, Ordering::Relaxed);
            Ok(())
        },
    )?;
    on_progress(queue.progress());
    Ok(())
}

fn check_prompts(config: &Config, requests: &[Request]) -> Result<()> {
    let check = |(index, request): (usize, &Request)| {
        check_prompt(config, &request.prompt_ids).map_err(|e| locate(e, &request.name, index))
    };
    requests.iter().enumerate().try_for_each(check)
}

pub(super) fn check_prompt(config: &Config, prompt_ids: &[u32]) -> Result<()> {
    let (length, longest) = (prompt_ids.len(), config.max_positions);
    if length == 0 {
        return Err(Error::input("prompt is empty"));
    }
    if length >= longest {
        return Err(Error::input(format!(
            "prompt of {length} tokens leaves no room in the model's {longest} positions"
        ))
        .hint("`max_position_embeddings` in `config.json` is the longest prompt and completion together"));
    }
    check_token_ids(config, prompt_ids)
}

/// Index of the request, index of the sample in it, the sample.
pub type Finished = (usize, usize, Sample);

/// A prefilled prompt with samples still to start.
struct Prompt<P> {
    request: usize,
    /// Their indices and first tokens.
    waiting: Zip<Range<usize>, IntoIter<Draw>>,
    prefix: P,
}

/// A sample being drawn.
struct Active<'a, S> {
    request: usize,
    index: usize,
    sequence: S,
    tail: Tail,
    watch: Option<StopWatch<'a>>,
    limit: usize,
    sample: Sample,
}

/// What the workers share.
struct Job<'a, R> {
    runner: &'a R,
    tokenizer: Option<&'a Tokenizer>,
    requests: &'a [Request],
    stem: &'a Stem<'a>,
    sampling: &'a Sampling,
    limits: &'a Limits<'a>,
    queue: &'a Queue,
    on_progress: &'a (dyn Fn(Progress) + Sync),
}

type Sequence<'a, R> = <<R as Inference>::Session<'a> as Session>::Sequence;
type Prefix<'a, R> = <<R as Inference>::Session<'a> as Session>::Prompt;

/// One worker: its slots, its buffers.
struct Worker<'a, R: Inference> {
    job: &'a Job<'a, R>,
    session: R::Session<'a>,
    /// One for every thread that this worker has to itself.
    samplers: Vec<Sampler<'a>>,
    logits: Vec<f32>,
    /// What the job's prompts share, once one was needed.
    stem: Option<Prefix<'a, R>>,
    prompts: VecDeque<Prompt<Prefix<'a, R>>>,
    active: Vec<Active<'a, Sequence<'a, R>>>,
    speculation: Speculation,
    outbox: Outbox<Finished>,
}

impl<'a, R: Inference> Worker<'a, R> {
    fn new(job: &'a Job<'a, R>, outbox: Outbox<Finished>) -> Result<Worker<'a, R>> {
        let (queue, threads) = (job.queue, job.limits.threads);
        Ok(Worker {
            job,
            session: job.runner.session(queue.slots, queue.longest_prompt, queue.capacity, job.runner.crew(threads))?,
            samplers: (0..(threads / queue.workers).max(1)).map(|_| Sampler::new(job.sampling)).collect(),
            logits: Vec::new(),
            stem: None,
            prompts: VecDeque::new(),
            active: Vec::new(),
            speculation: Speculation::new(job.sampling.speculate as usize, job.runner.free_rows()),
            outbox,
        })
    }

    fn work(mut self) -> Result<()> {
        loop {
            self.job.limits.check_cancel()?;
            if self.job.queue.failed.load(Ordering::Relaxed) {
                return Ok(()); // the thread that failed says why
            }
            self.fill()?;
            if self.active.is_empty() {
                return Ok(());
            }
            self.decode()?;
            (self.job.on_progress)(self.job.queue.progress());
        }
    }

    /// Starts samples until the slots or the work run out.
    fn fill(&mut self) -> Result<()> {
        while self.session.free_slots() > 0 {
            let Some(prompt) = self.prompts.front_mut() else {
                if !self.prefill()? {
                    return Ok(());
                }
                continue;
            };
            let Some((index, draw)) = prompt.waiting.next() else {
                let done = self.prompts.pop_front().expect("the first one was looked at");
                self.session.release(done.prefix);
                continue;
            };
            let request = &self.job.requests[prompt.request];
            let sequence = self.session.start(&prompt.prefix)?;
            let prompt_tokens = request.prompt_ids.len();
            let positions = self.job.runner.config().longest_after(prompt_tokens) - prompt_tokens;
            let active = Active {
                request: prompt.request,
                index,
                sequence,
                tail: self.speculation.start(prompt.request, &request.prompt_ids),
                watch: self.job.tokenizer.map(|t| StopWatch::new(t, &self.job.sampling.stop)),
                limit: positions.min(self.job.sampling.max_new_tokens as usize),
                sample: Sample::empty(),
            };
            self.take(active, &Draft::default(), &[draw])?;
        }
        Ok(())
    }

    /// Runs the prompts of as many units as there are free slots, or as fit into one call. False if no work is left.
    fn prefill(&mut self) -> Result<bool> {
        let call_rows = self.job.runner.call_rows();
        let (mut samples, mut rows) = (0, 0);
        let mut units = Vec::new();
        while samples < self.session.free_slots() && rows < call_rows {
            let Some(unit) = self.job.queue.take() else { break };
            samples += unit.samples.len();
            let (fed, sequence) = self.open(&self.job.requests[unit.request].prompt_ids)?;
            rows += self.job.requests[unit.request].prompt_ids.len() - fed;
            units.push((unit, fed, sequence));
        }
        if units.is_empty() {
            return Ok(false);
        }
        let mut first_tokens: VecDeque<Draw> = VecDeque::new();
        while units.iter().any(|(unit, fed, _)| *fed < self.job.requests[unit.request].prompt_ids.len()) {
            self.job.limits.check_cancel()?;
            let mut room = call_rows;
            let (mut feeds, mut runs, mut row) = (Vec::new(), Vec::new(), 0);
            for (unit, fed, sequence) in &mut units {
                let Request { prompt_ids, samples, .. } = &self.job.requests[unit.request];
                let end = prompt_ids.len().min(*fed + room);
                if end > *fed {
                    let want = usize::from(end == prompt_ids.len());
                    feeds.push(Feed { sequence, token_ids: &prompt_ids[*fed..end], want });
                    if want == 1 {
                        let run = |stream| Run { request: unit.request, row, guesses: &[], stream, position: 0 };
                        runs.extend(samples[unit.samples.clone()].iter().map(run));
                        row += 1;
                    }
                    room -= end - *fed;
                    *fed = end;
                }
            }
            first_tokens.extend(self.draw(&mut feeds, &runs)?.into_iter().flatten());
            self.job.queue.prompt_tokens.fetch_add(call_rows - room, Ordering::Relaxed);
        }
        // Units finish in order: each call feeds the first unfinished ones first.
        for (unit, _, sequence) in units {
            let drawn: Vec<Draw> = first_tokens.drain(..unit.samples.len()).collect();
            let waiting = unit.samples.clone().zip(drawn);
            let prefix = self.session.freeze(sequence);
            self.prompts.push_back(Prompt { request: unit.request, waiting, prefix });
        }
        let (prompts, active) = (&self.prompts, &self.active);
        self.speculation.keep(|request| {
            prompts.iter().any(|prompt| prompt.request == request) || active.iter().any(|a| a.request == request)
        });
        Ok(true)
    }

    /// A sequence for a prompt, behind the stem where it begins with it; how much of the prompt is in it.
    fn open(&mut self, prompt_ids: &[u32]) -> Result<(usize, Sequence<'a, R>)> {
        let Job { runner, stem, limits, queue, .. } = *self.job;
        // Longer by a token at least.
        let (fed, tokens) = (stem.under_prompt(prompt_ids), prompt_ids.len() + 1);
        if fed == 0 {
            return Ok((0, self.session.open(tokens)?));
        }
        if self.stem.is_none() {
            self.stem = Some(stem.prefill(&mut self.session, runner.call_rows(), limits)?);
            queue.prompt_tokens.fetch_add(stem.len(), Ordering::Relaxed);
        }
        let stem = self.stem.as_ref().expect("made above");
        Ok((fed, self.session.open_after(stem, tokens)?))
    }

    /// A token for every active sample, and more where guesses come out.
    fn decode(&mut self) -> Result<()> {
        let samples = self.active.len();
        let draft = |active: &Active<'a, _>| {
            let drawn = &active.sample.token_ids;
            let room = active.limit - drawn.len() - 1;
            self.speculation.draft(active.request, active.tail, drawn[drawn.len() - 1], samples, room)
        };
        let drafts: Vec<Draft> = self.active.iter().map(draft).collect();
        let mut active = std::mem::take(&mut self.active);
        let (mut feeds, mut runs, mut row) = (Vec::with_capacity(samples), Vec::with_capacity(samples), 0);
        for (active, draft) in active.iter_mut().zip(&drafts) {
            let (token_ids, request) = (&draft.token_ids, active.request);
            let stream = &self.job.requests[request].samples[active.index];
            runs.push(Run { request, row, guesses: draft.guesses(), stream, position: active.sample.token_ids.len() });
            feeds.push(Feed { sequence: &mut active.sequence, token_ids, want: token_ids.len() });
            row += token_ids.len();
        }
        let draws = self.draw(&mut feeds, &runs)?;
        for ((active, draft), draws) in active.into_iter().zip(&drafts).zip(&draws) {
            self.take(active, draft, draws)?;
        }
        Ok(())
    }

    /// Feeds tokens, and draws from the wanted rows what comes out of each run.
    fn draw(&mut self, feeds: &mut [Feed<Sequence<'a, R>>], runs: &[Run]) -> Result<Vec<Vec<Draw>>> {
        let Job { runner, requests, sampling, .. } = *self.job;
        let draws = if runner.draws() && !sampling.truncates() {
            let numbers: Vec<(usize, f64)> =
                runs.iter().map(|run| (run.row, run.stream.uniform(run.position as u64))).collect();
            let draws = self.session.draw(feeds, sampling.temperature, &numbers)?;
            draws.into_iter().map(|draw| draw.map(|draw| vec![draw])).collect()
        } else {
            self.session.logits(feeds, &mut self.logits)?;
            draw_runs(&mut self.samplers, &self.logits, runner.config().vocab_size, runs)
        };
        let located =
            |(draws, run): (Result<_>, &Run)| draws.map_err(|e| locate(e, &requests[run.request].name, run.request));
        draws.into_iter().zip(runs).map(located).collect()
    }

    /// Appends what was drawn to a sample. It goes on, or is complete.
    fn take(&mut self, mut active: Active<'a, Sequence<'a, R>>, draft: &Draft, draws: &[Draw]) -> Result<()> {
        let (before, mut is_complete) = (active.sample.token_ids.len(), false);
        for draw in draws {
            is_complete = active.sample.push(*draw, self.job.sampling, active.watch.as_mut(), active.limit)?;
            if is_complete {
                break;
            }
        }
        let (queue, drawn) = (self.job.queue, active.sample.token_ids.len() - before);
        queue.new_tokens.fetch_add(drawn, Ordering::Relaxed);
        self.speculation.learn(active.request, &mut active.tail, draft, &draws[..drawn]);
        let guessed = draft.token_ids.len().saturating_sub(1);
        if guessed > 0 {
            queue.guessed.fetch_add(guessed, Ordering::Relaxed);
            let right = draft.guesses().iter().zip(draws).filter(|(guess, draw)| **guess == draw.token_id).count();
            queue.guessed_right.fetch_add(right, Ordering::Relaxed);
            // The last token was not fed yet.
            let prompt = self.job.requests[active.request].prompt_ids.len();
            self.session.truncate(&mut active.sequence, prompt + active.sample.token_ids.len() - 1);
        }
        match is_complete {
            true => self.retire(active),
            false => self.active.push(active),
        }
        Ok(())
    }

    fn retire(&mut self, active: Active<'a, Sequence<'a, R>>) {
        let Active { request, index, sequence, sample, .. } = active;
        self.session.retire(sequence);
        // Who takes it is there as long as there are workers.
        let _ = self.outbox.send((request, index, sample));
    }
}
