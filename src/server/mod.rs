//! Policies on servers (vLLM, SGLang): requests in, samples and scores out, as from the engine of this process. Prompts go as
//! token ids and completions come back as token ids: nothing is tokenized twice.
//!
//! One request draws one sample, with a seed of its own derived from the sample's coordinates, so that a sample does not depend
//! on how many were asked for together. The servers' prefix caches make the repeated prompt cheap. Whether a seed gives the same
//! sample again is up to the server: what was drawn is kept, and that is the record.

mod aside;
mod devices;
#[doc(hidden)]
pub mod fuzzed;
mod launch;
mod pool;
mod probe;
mod sglang;
mod vllm;
mod wire;
mod workers;

pub use aside::Answer;
pub use launch::{Launcher, Running, engine_at_hand};

use crate::policy::{Api, Served};
use aside::Unanswered;
use mindgap_base::error::{Error, Result};
use mindgap_lm::engine::{Progress, Sample, Sampling, ScoreRequest, TokenScores};
use mindgap_lm::model::policy::Policy;
use pool::Pool;
use probe::{Expected, Facts};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use wire::{Completion, Draw, Fault, Scoring};

/// One sample wanted.
#[derive(Clone, Debug)]
pub struct Request {
    /// What it is about, for errors: a problem, say.
    pub name: String,
    pub prompt_ids: Arc<[u32]>,
    /// Used unless the policy says that the servers are to choose.
    pub seed: u32,
    /// At most this many tokens of the sampling's `max_new_tokens`: what the context leaves.
    pub room: u32,
}

/// The servers of one policy. Nothing is asked of them before the first request.
pub struct Servers {
    pool: Arc<Pool>,
}

/// Who watches, and may stop, a call.
pub struct Watch<'a> {
    pub cancel: &'a AtomicBool,
    /// Progress, and what is wrong with the servers just now; empty where nothing is.
    pub on_progress: &'a dyn Fn(Progress, &str),
}

impl Servers {
    /// `policy` has the tokenizer and the template of what is served. Errors: the key's variable is not set, there is no template.
    pub fn new(served: &Served, policy: &Policy) -> Result<Servers> {
        Ok(Servers { pool: Arc::new(Pool::new(served, Expected::of(policy)?, None)?) })
    }

    /// The one that was started for `policy`.
    pub fn of(running: &Arc<Running>, policy: &Policy) -> Result<Servers> {
        let pool = Pool::new(running.served(), Expected::of(policy)?, Some(running.clone()))?;
        Ok(Servers { pool: Arc::new(pool) })
    }

    /// Draws one sample for each request; `take` gets them by index, as they come, several at a time.
    ///
    /// Log-probs mean what they mean in the engine. Of servers that give them before the temperature, `logprob_behavior` can be
    /// told at temperature 1 with nothing cut off, where it is the same, and at temperature 0, where it is 0. Of servers that
    /// give them after it, `logprob_policy` is scored in a second request wherever the two differ. What servers fail in a few
    /// requests alone, a context too short for them say, is the answer there. Errors: a distribution whose log-probs the server
    /// cannot tell, a token outside the vocabulary, too many such requests, and all that [`Pool::ask`] gives up on.
    pub fn generate(
        &self,
        requests: Vec<Request>,
        sampling: &Sampling,
        watch: &Watch,
        take: impl FnMut(Vec<(usize, Answer<By<Sample>>)>) -> Result<()>,
    ) -> Result<()> {
        sampling.check()?;
        let (pool, sampling, count) = (self.pool.clone(), sampling.clone(), requests.len());
        let work = move |stop: &AtomicBool, index: usize| {
            let request: &Request = &requests[index];
            let drawn = draw(&pool, stop, request, &sampling);
            let control = || {
                let prompt_ids = pool.expected.token_ids.as_slice().into();
                let control = Request { prompt_ids, room: CONTROL_TOKENS, ..request.clone() };
                draw(&pool, stop, &control, &sampling)
            };
            pool.aside.settle(&request.name, drawn, control).map_err(|e| e.at(&request.name))
        };
        self.each(count, watch, work, |sample| sample.token_ids.len(), take)
    }

    /// Scores each request; `take` gets the scores at temperature 1 by index, as they come, as [`Servers::generate`] gives
    /// samples. Servers do not tell entropies.
    pub fn score(
        &self,
        requests: Vec<ScoreRequest>,
        watch: &Watch,
        take: impl FnMut(Vec<(usize, Answer<By<TokenScores>>)>) -> Result<()>,
    ) -> Result<()> {
        let (pool, count) = (self.pool.clone(), requests.len());
        let work = move |stop: &AtomicBool, index: usize| {
            let ScoreRequest { name, prompt_ids, token_ids, top_k } = &requests[index];
            let (before, behind) = pool.expected.token_ids.split_at(1);
            let scored = score(&pool, stop, prompt_ids, token_ids, *top_k);
            let settled = pool.aside.settle(name, scored, || score(&pool, stop, before, behind, *top_k));
            settled.map_err(|e| e.at(name))
        };
        self.each(count, watch, work, |scores| scores.logprob_policy.len(), take)
    }

    /// Does numbered pieces of work, with their progress told: `tokens` counts those of a piece.
    fn each<T: Send + 'static>(
        &self,
        count: usize,
        watch: &Watch,
        work: impl Fn(&AtomicBool, usize) -> Result<Answer<By<T>>> + Send + Sync + 'static,
        tokens: impl Fn(&T) -> usize,
        mut take: impl FnMut(Vec<(usize, Answer<By<T>>)>) -> Result<()>,
    ) -> Result<()> {
        let progress = Cell::new(Progress { total: count, ..Progress::default() });
        let tell = || (watch.on_progress)(progress.get(), &self.pool.note());
        let taken = |pieces: Vec<(usize, Answer<By<T>>)>| {
            let Progress { done, new_tokens, .. } = progress.get();
            let new = pieces.iter().filter_map(|(_, piece)| Some(tokens(&piece.as_ref().ok()?.what))).sum::<usize>();
            progress.set(Progress { done: done + pieces.len(), new_tokens: new_tokens + new, ..progress.get() });
            tell();
            take(pieces)
        };
        workers::each(&self.pool, count, watch.cancel, work, taken, tell)
    }
}

/// What a server gave.
#[derive(Clone, Debug)]
pub struct By<T> {
    pub what: T,
    /// The program and its version, as far as it says.
    pub engine: Arc<str>,
}

/// Tokens that are drawn to see whether a request fails for its prompt.
const CONTROL_TOKENS: u32 = 8;

fn draw(pool: &Pool, stop: &AtomicBool, request: &Request, sampling: &Sampling) -> Result<By<Sample>, Unanswered> {
    let draw = Draw {
        prompt_ids: &request.prompt_ids,
        sampling,
        max_tokens: sampling.max_new_tokens.min(request.room),
        seed: pool.served.seed.then_some(request.seed),
        vocab_size: pool.expected.vocab_size,
    };
    let (greedy, plain) = (sampling.temperature == 0.0, sampling.temperature == 1.0 && !sampling.truncates());
    let rescored = !greedy && !plain;
    let call = |facts: &Facts| {
        check_meaning(facts, sampling, rescored).map_err(Fault::Lasting)?;
        let tokens = draw.max_tokens + u32::from(rescored);
        check_context(facts, draw.prompt_ids.len(), tokens).map_err(Fault::Refused)?;
        Ok(facts.api.draw(&pool.served.model, &draw))
    };
    let read = |facts: &Facts, body: &[u8]| Ok((facts.api.read_completion(&draw, body)?, facts.engine.clone()));
    let (Completion { token_ids, logprobs, stop_reason }, engine) =
        pool.ask(stop, pool.timeout(draw.max_tokens), call, read)?;
    let (logprob_behavior, logprob_policy) = match (greedy, rescored) {
        (true, _) => (vec![0.0; logprobs.len()], logprobs),
        (_, true) => {
            let policy = score(pool, stop, draw.prompt_ids, &token_ids, 0)?;
            (logprobs, policy.what.logprob_policy)
        }
        _ => (logprobs.clone(), logprobs),
    };
    Ok(By { what: Sample { token_ids, logprob_behavior, logprob_policy, stop_reason }, engine })
}

/// Log-probs of `token_ids` after the prompt. One token more is drawn, so the context must hold it.
fn score(
    pool: &Pool,
    stop: &AtomicBool,
    prompt_ids: &[u32],
    token_ids: &[u32],
    top_k: usize,
) -> Result<By<TokenScores>, Unanswered> {
    if prompt_ids.is_empty() {
        let error = Error::input("prompt is empty");
        return Err(error.hint("the first token of a text has no log-prob without one before it").into());
    }
    if token_ids.is_empty() {
        return Ok(By { what: TokenScores::default(), engine: "".into() });
    }
    let (all, salt) = ([prompt_ids, token_ids].concat(), pool.salt());
    let vocab_size = pool.expected.vocab_size;
    let scoring = Scoring { token_ids: &all, from: prompt_ids.len(), top_k, salt: &salt, vocab_size };
    let call = |facts: &Facts| {
        check_context(facts, all.len(), 1).map_err(Fault::Refused)?;
        Ok(facts.api.score(&pool.served.model, &scoring))
    };
    // A prompt's tokens are read much faster than new ones are drawn.
    let timeout = pool.timeout(all.len() as u32 / 10);
    let read = |facts: &Facts, body: &[u8]| {
        Ok(By { what: facts.api.read_scores(&scoring, body)?, engine: facts.engine.clone() })
    };
    pool.ask(stop, timeout, call, read)
}

/// Whether the server's log-probs of sampled tokens are those of the distribution they were drawn from, where that is not the
/// policy's own.
fn check_meaning(facts: &Facts, sampling: &Sampling, matters: bool) -> Result<()> {
    let tempered = facts.tempered || sampling.temperature == 1.0;
    let truncated = facts.truncated || !sampling.truncates();
    if !matters || (tempered && truncated) {
        return Ok(());
    }
    let what = match tempered {
        true => "top_p, top_k or min_p".to_string(),
        false => format!("temperature {}", sampling.temperature),
    };
    let remedy = match facts.api {
        Api::Vllm => {
            "start vLLM with `--logprobs-mode processed_logprobs`; or sample at temperature 1 or 0, with nothing cut off"
        }
        Api::Sglang => {
            "SGLang tells them for temperatures alone, and not with `SGLANG_RETURN_ORIGINAL_LOGPROB`: leave top_p, top_k and \
             min_p out, or use vLLM"
        }
    };
    Err(Error::environment(format!(
        "the server does not tell log-probs under {what}: `logprob_behavior` cannot be had"
    ))
    .hint(remedy))
}

/// Results must not depend on how a server was started, so a context that is shorter than the policy's is an error where it
/// matters.
fn check_context(facts: &Facts, prompt: usize, tokens: u32) -> Result<()> {
    let (wanted, Some(longest)) = (prompt as u64 + u64::from(tokens), facts.max_model_len) else { return Ok(()) };
    match wanted <= u64::from(longest) {
        true => Ok(()),
        false => Err(Error::environment(format!(
            "the server's context of {longest} tokens is too short for a prompt of {prompt} and {tokens} more"
        ))
        .hint("start it with a longer one (--max-model-len, --context-length), or set `max_model_len` of the policy to it")),
    }
}

#[cfg(test)]
mod tests;
