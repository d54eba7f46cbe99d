//! Teacher-forced scoring: the log-prob of each given token, and the entropy of the distribution it came from. Rows are packed,
//! and logits exist for a few rows and a part of the vocabulary at a time.

use super::deliver::{Outbox, deliver};
use super::stem::Stem;
use super::{Limits, Progress, locate};
use crate::model::config::Config;
use crate::model::runner::{Feed, Inference, Runner, Score, Session};
use crate::model::transformer::check_token_ids;
use mindgap_base::error::{Error, Result};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A prompt and the tokens after it that are scored.
#[derive(Clone, Debug)]
pub struct ScoreRequest {
    /// What it is about, for errors: a problem, say. Empty where nobody said.
    pub name: String,
    pub prompt_ids: Arc<[u32]>,
    pub token_ids: Arc<[u32]>,
    /// Of each token so many of the likeliest in its place are told.
    pub top_k: usize,
}

impl ScoreRequest {
    pub fn new(prompt_ids: impl Into<Arc<[u32]>>, token_ids: impl Into<Arc<[u32]>>) -> ScoreRequest {
        ScoreRequest { name: String::new(), prompt_ids: prompt_ids.into(), token_ids: token_ids.into(), top_k: 0 }
    }

    pub fn named(self, name: impl Into<String>) -> ScoreRequest {
        ScoreRequest { name: name.into(), ..self }
    }

    /// Asks for the likeliest tokens too.
    pub fn with_top(self, top_k: usize) -> ScoreRequest {
        ScoreRequest { top_k, ..self }
    }

    /// Tokens of prompt and answer.
    fn length(&self) -> usize {
        self.prompt_ids.len() + self.token_ids.len()
    }
}

/// What is known of each scored token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenScores {
    /// Natural log-prob at temperature 1.
    pub logprob_policy: Vec<f32>,
    /// Entropy of the whole distribution, in nats.
    pub entropy: Vec<f32>,
    /// The likeliest tokens in its place, in falling order, with their log-probs; as many as were asked for, or the vocabulary has.
    pub top: Vec<Vec<(u32, f32)>>,
}

/// Scores all requests, in order. Errors: an empty prompt, a sequence longer than the model's positions, a token id outside
/// the vocabulary, logits that are not finite, or `limits.cancel`.
pub fn score(
    runner: &Runner,
    requests: &[ScoreRequest],
    limits: &Limits,
    on_progress: &(dyn Fn(Progress) + Sync),
) -> Result<Vec<TokenScores>> {
    let mut results = vec![TokenScores::default(); requests.len()];
    score_each(runner, requests, limits, on_progress, |finished| {
        finished.into_iter().for_each(|(index, scores)| results[index] = scores);
        Ok(())
    })?;
    Ok(results)
}

/// The same, with the scores of every request handed to `take` by its index soon after they are there, by this thread and in no
/// order. Where the call fails or is stopped, `take` has had all that were there. An error of `take` ends the call.
pub fn score_each(
    runner: &Runner,
    requests: &[ScoreRequest],
    limits: &Limits,
    on_progress: &(dyn Fn(Progress) + Sync),
    take: impl FnMut(Vec<(usize, TokenScores)>) -> Result<()>,
) -> Result<()> {
    match runner {
        Runner::Cpu(runner) => score_with(runner, requests, limits, on_progress, take),
        Runner::Device(runner) => score_with(runner, requests, limits, on_progress, take),
    }
}

fn score_with<R: Inference>(
    runner: &R,
    requests: &[ScoreRequest],
    limits: &Limits,
    on_progress: &(dyn Fn(Progress) + Sync),
    mut take: impl FnMut(Vec<(usize, TokenScores)>) -> Result<()>,
) -> Result<()> {
    for (index, request) in requests.iter().enumerate() {
        check(runner.config(), request).map_err(|e| locate(e, &request.name, index))?;
    }
    // Rows enough for every thread to have calls of its own, which beats sharing them.
    let workers = runner.scoring_workers(limits.threads).clamp(1, requests.len().max(1));
    let shared = Shared {
        runner,
        crew: if workers == 1 { runner.crew(limits.threads) } else { 1 },
        requests,
        stem: Stem::of(runner.config(), requests.iter().map(|r| &r.prompt_ids[..])),
        limits,
        on_progress,
        next: AtomicUsize::new(0),
        failed: AtomicBool::new(false),
        done: AtomicUsize::new(0),
        scored: AtomicUsize::new(0),
        prompted: AtomicUsize::new(0),
    };
    deliver(
        workers,
        &shared.failed,
        |outbox| shared.work(&outbox),
        |finished| {
            let count = finished.len();
            take(finished)?;
            shared.done.fetch_add(count, Ordering::Relaxed);
            Ok(())
        },
    )?;
    on_progress(shared.progress());
    Ok(())
}

fn check(config: &Config, request: &ScoreRequest) -> Result<()> {
    if request.prompt_ids.is_empty() {
        return Err(
            Error::input("prompt is empty").hint("the first token of a text has no log-prob without a token before it")
        );
    }
    let (length, longest) = (request.length(), config.max_positions);
    if length > longest {
        return Err(Error::input(format!("sequence of {length} tokens is longer than the model's {longest}"))
            .hint("`max_position_embeddings` in `config.json` is the longest prompt and completion together"));
    }
    check_token_ids(config, &request.prompt_ids)?;
    check_token_ids(config, &request.token_ids)
}

struct Shared<'a, R> {
    runner: &'a R,
    /// Threads that share a worker's calls.
    crew: usize,
    requests: &'a [ScoreRequest],
    stem: Stem<'a>,
    limits: &'a Limits<'a>,
    on_progress: &'a (dyn Fn(Progress) + Sync),
    next: AtomicUsize,
    failed: AtomicBool,
    done: AtomicUsize,
    scored: AtomicUsize,
    prompted: AtomicUsize,
}

type Sequence<'a, R> = <<R as Inference>::Session<'a> as Session>::Sequence;

/// One worker's sequences, and what the prompts share, once it was needed.
struct Worker<'a, R: Inference + 'a> {
    session: R::Session<'a>,
    stem: Option<<R::Session<'a> as Session>::Prompt>,
}

impl<R: Inference> Shared<'_, R> {
    fn work(&self, outbox: &Outbox<(usize, TokenScores)>) -> Result<()> {
        let mut worker = Worker { session: self.runner.session(0, 0, 0, self.crew)?, stem: None };
        while let Some(batch) = self.take() {
            self.limits.check_cancel()?;
            if self.failed.load(Ordering::Relaxed) {
                break; // the thread that failed says why
            }
            let scores = self.batch(&mut worker, batch.clone()).map_err(|e| self.locate(e, &batch))?;
            for finished in batch.zip(scores) {
                // Who takes it is there as long as there are workers.
                let _ = outbox.send(finished);
            }
            (self.on_progress)(self.progress());
        }
        Ok(())
    }

    fn progress(&self) -> Progress {
        Progress {
            done: self.done.load(Ordering::Relaxed),
            total: self.requests.len(),
            new_tokens: self.scored.load(Ordering::Relaxed),
            prompt_tokens: self.prompted.load(Ordering::Relaxed),
            ..Progress::default()
        }
    }

    /// Says of an error in which requests it came up.
    fn locate(&self, error: Error, batch: &Range<usize>) -> Error {
        let error = locate(error, &self.requests[batch.start].name, batch.start);
        match batch.len() {
            1 => error,
            count => error.at(format!("{count} sequences scored together, beginning with")),
        }
    }

    /// Consecutive requests that fill one call, or one longer request. Threads agree through one counter; a batch depends on
    /// its first request alone, so no request is taken twice.
    fn take(&self) -> Option<Range<usize>> {
        let mut first = self.next.load(Ordering::Relaxed);
        loop {
            if first >= self.requests.len() {
                return None;
            }
            let mut end = first;
            let mut rows = 0;
            while end < self.requests.len() && (end == first || rows + self.rows(end) <= self.runner.call_rows()) {
                rows += self.rows(end);
                end += 1;
            }
            match self.next.compare_exchange(first, end, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(first..end),
                Err(now) => first = now,
            }
        }
    }

    /// Tokens behind the stem.
    fn rows(&self, index: usize) -> usize {
        self.requests[index].length() - self.under(&self.requests[index])
    }

    fn under(&self, request: &ScoreRequest) -> usize {
        self.stem.under(&request.prompt_ids, request.length())
    }

    fn open<'s>(&self, worker: &mut Worker<'s, R>, request: &ScoreRequest) -> Result<Sequence<'s, R>> {
        let Worker { session, stem } = worker;
        if self.under(request) == 0 {
            return session.open(request.length());
        }
        if stem.is_none() {
            *stem = Some(self.stem.prefill(session, self.runner.call_rows(), self.limits)?);
            self.prompted.fetch_add(self.stem.len(), Ordering::Relaxed);
        }
        session.open_after(stem.as_ref().expect("made above"), request.length())
    }

    fn batch(&self, worker: &mut Worker<'_, R>, batch: Range<usize>) -> Result<Vec<TokenScores>> {
        let requests = &self.requests[batch];
        // What lies behind the stem. The last token is only a target.
        let inputs: Vec<Vec<u32>> = requests
            .iter()
            .map(|r| [&r.prompt_ids[self.under(r)..], &r.token_ids[..r.token_ids.len().saturating_sub(1)]].concat())
            .collect();
        let mut sequences = requests.iter().map(|r| self.open(worker, r)).collect::<Result<Vec<_>>>()?;
        let top_k = requests.iter().map(|r| r.top_k).max().unwrap_or(0);
        let (mut scores, mut fed) = (Vec::new(), 0);
        while inputs.iter().any(|i| fed < i.len()) {
            self.limits.check_cancel()?;
            // Several requests share a call only if all of them fit into it, so a long one is alone here.
            let (mut feeds, mut targets) = (Vec::with_capacity(requests.len()), Vec::new());
            for ((input, request), sequence) in inputs.iter().zip(requests).zip(&mut sequences) {
                let end = input.len().min(fed + self.runner.call_rows());
                let first_target = request.prompt_ids.len() - self.under(request) - 1;
                let want = if request.token_ids.is_empty() { 0 } else { end.saturating_sub(first_target.max(fed)) };
                if want > 0 {
                    let scored = end - first_target;
                    targets.extend_from_slice(&request.token_ids[scored - want..scored]);
                }
                feeds.push(Feed { sequence, token_ids: &input[fed.min(end)..end], want });
            }
            scores.extend(worker.session.scores(&mut feeds, &targets, top_k)?);
            fed += self.runner.call_rows();
        }
        self.scored.fetch_add(requests.iter().map(|r| r.token_ids.len()).sum(), Ordering::Relaxed);
        let prompted = requests.iter().map(|r| r.prompt_ids.len() - self.under(r)).sum();
        self.prompted.fetch_add(prompted, Ordering::Relaxed);
        let mut scores = scores.into_iter();
        let of_request = |r: &ScoreRequest| {
            let mut own = TokenScores::default();
            for Score { logprob, entropy, mut top } in scores.by_ref().take(r.token_ids.len()) {
                own.logprob_policy.push(logprob);
                own.entropy.push(entropy);
                if r.top_k > 0 {
                    top.truncate(r.top_k);
                    own.top.push(top);
                }
            }
            own
        };
        Ok(requests.iter().map(of_request).collect())
    }
}
