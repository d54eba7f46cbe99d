//! Hinted decoding (arXiv 2602.12222, section 3.2): every token is drawn from two contexts at once, the prompt as it is and one
//! with a hint in it, an expert's solution, say.
//!
//! With p the distribution after the plain prompt, q that after the hinted one and H(p) the entropy of the former, a token is drawn
//! from `p^(1 - l) q^l`, renormalised, `l = min(1, beta H(p) / ln V)`: where the policy knows what to say it says that, and where it
//! does not the hint decides. The first token is drawn from p alone. Both contexts go on with what was drawn.

use super::deliver::{Outbox, deliver};
use super::generate::{Finished, check_prompt};
use super::sample::Sample;
use super::sampler::{Draw, Sampler, Sampling};
use super::{Limits, Progress, locate};
use crate::model::ops::sampling::tally;
use crate::model::runner::{Feed, Inference, Runner, Session, not_finite};
use crate::model::tokenizer::{StopWatch, Tokenizer};
use mindgap_base::error::{Error, Result};
use mindgap_base::rng::Stream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Two prompts and the streams of the samples wanted of them. The token at position t is drawn with `stream.uniform(t)`.
pub struct HintedRequest {
    /// What it is about, for errors: a problem, say.
    pub name: String,
    pub prompt_ids: Arc<[u32]>,
    pub hinted_ids: Arc<[u32]>,
    pub samples: Vec<Stream>,
}

/// Draws all samples of all requests, each handed to `take` soon after it is complete, as [`super::generate_each`] does. Of a
/// sample `logprob_behavior` is under the mixture, `logprob_policy` after the plain prompt. On a CPU a sample is the same bits in any
/// batch and on any number of threads. Errors: as of [`super::generate_each`], and a `beta` that is negative or not finite.
#[expect(clippy::too_many_arguments, reason = "those of the other ways to draw, and beta")]
pub fn generate_hinted(
    runner: &Runner,
    tokenizer: Option<&Tokenizer>,
    requests: &[HintedRequest],
    sampling: &Sampling,
    beta: f32,
    limits: &Limits,
    on_progress: &(dyn Fn(Progress) + Sync),
    take: impl FnMut(Vec<Finished>) -> Result<()>,
) -> Result<()> {
    sampling.check()?;
    if !(beta >= 0.0 && beta.is_finite()) {
        return Err(Error::usage(format!("`beta` of hinted decoding is {beta}; expected 0 or more")));
    }
    for (index, request) in requests.iter().enumerate() {
        for prompt_ids in [&request.prompt_ids, &request.hinted_ids] {
            check_prompt(runner.config(), prompt_ids).map_err(|e| locate(e, &request.name, index))?;
        }
    }
    let job = Job { tokenizer, requests, sampling, beta, limits, on_progress, counts: Counts::default() };
    match runner {
        Runner::Cpu(runner) => job.run(runner, take),
        Runner::Device(runner) => job.run(runner, take),
    }
}

struct Job<'a> {
    tokenizer: Option<&'a Tokenizer>,
    requests: &'a [HintedRequest],
    sampling: &'a Sampling,
    beta: f32,
    limits: &'a Limits<'a>,
    on_progress: &'a (dyn Fn(Progress) + Sync),
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    next: AtomicUsize,
    done: AtomicUsize,
    new_tokens: AtomicUsize,
    failed: AtomicBool,
}

/// A sample being drawn.
struct Active<'a, S> {
    request: usize,
    index: usize,
    plain: S,
    hinted: S,
    limit: usize,
    watch: Option<StopWatch<'a>>,
    sample: Sample,
}

/// The prompts of one request but for their last tokens, which are fed with everybody's last tokens. Its samples stand on them.
struct Prompts<P> {
    request: usize,
    plain: Option<P>,
    hinted: Option<P>,
}

type Sequence<'a, R> = <<R as Inference>::Session<'a> as Session>::Sequence;
type Prompt<'a, R> = <<R as Inference>::Session<'a> as Session>::Prompt;

impl Job<'_> {
    fn run<R: Inference>(&self, runner: &R, mut take: impl FnMut(Vec<Finished>) -> Result<()>) -> Result<()> {
        let wanted: Vec<(usize, usize)> = self
            .requests
            .iter()
            .enumerate()
            .flat_map(|(r, request)| (0..request.samples.len()).map(move |i| (r, i)))
            .collect();
        let longest = |r: &HintedRequest| r.prompt_ids.len().max(r.hinted_ids.len());
        let longest = self.requests.iter().map(longest).max().unwrap_or(0);
        let bytes = 2 * runner.slot_bytes(0, longest, self.sampling.max_new_tokens as usize);
        let workers = runner.workers(self.limits.threads).clamp(1, wanted.len().max(1));
        // One at a time, whatever the budget: it is two sequences.
        let slots = (self.limits.kv_budget_bytes / workers / bytes.max(1)).clamp(1, self.limits.slots.max(1));
        deliver(
            workers,
            &self.counts.failed,
            |outbox| self.work(runner, &wanted, slots, &outbox),
            |finished| {
                let count = finished.len();
                take(finished)?;
                self.counts.done.fetch_add(count, Ordering::Relaxed);
                Ok(())
            },
        )?;
        (self.on_progress)(self.progress(wanted.len()));
        Ok(())
    }

    fn progress(&self, total: usize) -> Progress {
        let Counts { done, new_tokens, .. } = &self.counts;
        let (done, new_tokens) = (done.load(Ordering::Relaxed), new_tokens.load(Ordering::Relaxed));
        Progress { done, total, new_tokens, ..Progress::default() }
    }

    fn work<R: Inference>(
        &self,
        runner: &R,
        wanted: &[(usize, usize)],
        slots: usize,
        outbox: &Outbox<Finished>,
    ) -> Result<()> {
        let mut session = runner.session(0, 0, 0, runner.crew(self.limits.threads))?;
        let mut sampler = Sampler::new(self.sampling);
        let (mut active, mut logits, mut prompts) = (Vec::new(), Vec::new(), None);
        loop {
            self.limits.check_cancel()?;
            if self.counts.failed.load(Ordering::Relaxed) {
                return Ok(()); // the thread that failed says why
            }
            while active.len() < slots {
                let Some((request, index)) = wanted.get(self.counts.next.fetch_add(1, Ordering::Relaxed)) else {
                    break;
                };
                active.push(self.start(runner, &mut session, &mut prompts, (*request, *index))?);
            }
            if active.is_empty() {
                return Ok(());
            }
            let drawn = self.step(runner, &mut session, &mut active, &mut sampler, &mut logits)?;
            self.counts.new_tokens.fetch_add(drawn.len(), Ordering::Relaxed);
            for (mut one, draw) in std::mem::take(&mut active).into_iter().zip(drawn) {
                match one.sample.push(draw, self.sampling, one.watch.as_mut(), one.limit)? {
                    false => active.push(one),
                    true => {
                        for sequence in [one.plain, one.hinted] {
                            let prompt = session.freeze(sequence);
                            session.release(prompt);
                        }
                        // Who takes it is there as long as there are workers.
                        let _ = outbox.send((one.request, one.index, one.sample));
                    }
                }
            }
            (self.on_progress)(self.progress(wanted.len()));
        }
    }

    /// Requests come in order: once one has begun, those before it have no more samples to start.
    fn start<'a, R: Inference + 'a>(
        &self,
        runner: &R,
        session: &mut R::Session<'a>,
        prompts: &mut Option<Prompts<Prompt<'a, R>>>,
        (request, index): (usize, usize),
    ) -> Result<Active<'_, Sequence<'a, R>>> {
        let HintedRequest { prompt_ids, hinted_ids, .. } = &self.requests[request];
        let longest = prompt_ids.len().max(hinted_ids.len());
        let limit = (runner.config().longest_after(longest) - longest).min(self.sampling.max_new_tokens as usize);
        if prompts.as_ref().is_none_or(|prompts| prompts.request != request) {
            let done = prompts.take().into_iter().flat_map(|prompts| [prompts.plain, prompts.hinted]);
            done.flatten().for_each(|prompt| session.release(prompt));
            let mut prefill = |ids: &[u32]| self.prefill(runner, session, ids, limit);
            *prompts = Some(Prompts { request, plain: prefill(prompt_ids)?, hinted: prefill(hinted_ids)? });
        }
        let Prompts { plain, hinted, .. } = prompts.as_ref().expect("made above");
        let mut open = |prompt: &Option<Prompt<'a, R>>, ids: &[u32]| match prompt {
            Some(prompt) => session.open_after(prompt, ids.len() + limit),
            None => self.open(runner, session, ids, limit),
        };
        Ok(Active {
            request,
            index,
            plain: open(plain, prompt_ids)?,
            hinted: open(hinted, hinted_ids)?,
            limit,
            watch: self
                .tokenizer
                .filter(|_| !self.sampling.stop.is_empty())
                .map(|tokenizer| StopWatch::new(tokenizer, &self.sampling.stop)),
            sample: Sample::empty(),
        })
    }

    /// A prompt for samples to stand on; none where they turn by other frequencies than it would, or there is nothing of it.
    fn prefill<'a, R: Inference + 'a>(
        &self,
        runner: &R,
        session: &mut R::Session<'a>,
        ids: &[u32],
        limit: usize,
    ) -> Result<Option<Prompt<'a, R>>> {
        let config = runner.config();
        if ids.len() < 2 || config.is_long(ids.len()) != config.is_long(ids.len() + limit) {
            return Ok(None);
        }
        let sequence = self.open(runner, session, ids, 0)?;
        Ok(Some(session.freeze(sequence)))
    }

    /// A sequence with all of a prompt but its last token, and room for so many more.
    fn open<'a, R: Inference + 'a>(
        &self,
        runner: &R,
        session: &mut R::Session<'a>,
        ids: &[u32],
        limit: usize,
    ) -> Result<Sequence<'a, R>> {
        let mut sequence = session.open(ids.len() + limit)?;
        for piece in ids[..ids.len() - 1].chunks(runner.call_rows()) {
            self.limits.check_cancel()?;
            session.logits(&mut [Feed { sequence: &mut sequence, token_ids: piece, want: 0 }], &mut Vec::new())?;
        }
        Ok(sequence)
    }

    /// A token of every sample.
    fn step<'a, R: Inference + 'a>(
        &self,
        runner: &R,
        session: &mut R::Session<'a>,
        active: &mut [Active<'_, Sequence<'a, R>>],
        sampler: &mut Sampler,
        logits: &mut Vec<f32>,
    ) -> Result<Vec<Draw>> {
        let (vocabulary, requests) = (runner.config().vocab_size, self.requests);
        let mut last_tokens = Vec::with_capacity(2 * active.len());
        for one in active.iter() {
            let HintedRequest { prompt_ids, hinted_ids, .. } = &requests[one.request];
            let drawn = one.sample.token_ids.last();
            let last = |prompt: &[u32]| drawn.or(prompt.last()).copied();
            last_tokens.extend([last(prompt_ids), last(hinted_ids)].into_iter().flatten());
        }
        let sequences = active.iter_mut().flat_map(|one| [&mut one.plain, &mut one.hinted]);
        let feeds = sequences.zip(last_tokens.chunks(1));
        let mut feeds: Vec<_> = feeds.map(|(sequence, token_ids)| Feed { sequence, token_ids, want: 1 }).collect();
        session.logits(&mut feeds, logits)?;
        let mut draws = Vec::with_capacity(active.len());
        let mut mixed = vec![0.0; vocabulary];
        for (one, rows) in active.iter().zip(logits.chunks_exact(2 * vocabulary)) {
            let request = &requests[one.request];
            let (position, stream) = (one.sample.token_ids.len(), &request.samples[one.index]);
            let beta = if position == 0 { 0.0 } else { self.beta };
            let (plain, hinted) = rows.split_at(vocabulary);
            let draw = mix(plain, hinted, beta, &mut mixed)
                .and_then(|log_sum_exp| {
                    let draw = sampler.draw(&mixed, stream.uniform(position as u64))?;
                    let logprob_policy = plain[draw.token_id as usize] - log_sum_exp;
                    Ok(Draw { logprob_policy, ..draw })
                })
                .map_err(|e| locate(e, &request.name, one.request))?;
            draws.push(draw);
        }
        Ok(draws)
    }
}

/// Logits of the mixture, and the log-sum-exp of the plain ones. Error: logits that are not finite.
fn mix(plain: &[f32], hinted: &[f32], beta: f32, mixed: &mut [f32]) -> Result<f32> {
    let (p, q) = (tally(plain), tally(hinted));
    let (p_sum, q_sum) = (p.log_sum_exp(), q.log_sum_exp());
    if !p_sum.is_finite() || !q_sum.is_finite() {
        return Err(not_finite());
    }
    let share = (beta * p.entropy() / (plain.len() as f32).ln()).min(1.0);
    for ((mixed, plain), hinted) in mixed.iter_mut().zip(plain).zip(hinted) {
        *mixed = (1.0 - share) * (plain - p_sum) + share * (hinted - q_sum);
    }
    Ok(p_sum)
}

#[cfg(test)]
mod tests;
