//! A policy at work: run by the engine of this process, or by servers.

use super::{Context, Tick};
use crate::policy::{PolicyHandle, Runs, load_policy, load_speaker};
use crate::server::{self, Servers, Watch};
use mindgap_base::error::{Error, Result};
use mindgap_base::rng::Stream;
use mindgap_lm::engine::{self, HintedRequest, Progress, Request, Sample, Sampling, ScoreRequest, TokenScores};
use mindgap_lm::model::policy::Policy;
use mindgap_lm::model::runner::Runner;
use mindgap_store::PartRecord;
use std::sync::{Arc, OnceLock};

/// A policy that is loaded when it is first used, once.
#[derive(Default)]
pub struct Lazy(OnceLock<Arc<Loaded>>);

impl Lazy {
    pub fn get(&self, handle: &PolicyHandle, context: &Context) -> Result<Arc<Loaded>> {
        if let Some(loaded) = self.0.get() {
            return Ok(loaded.clone());
        }
        let loaded = Arc::new(Loaded::new(handle, context)?);
        Ok(self.0.get_or_init(|| loaded).clone())
    }
}

/// Error where servers failed more rows of a part than they made, of it and of parts before it: then it lies in no single request.
/// `failures` says of every row why it failed, if it did.
pub fn few_failed<'r>(
    failures: impl Iterator<Item = Option<&'r String>>,
    earlier: &[PartRecord],
    table: &str,
) -> Result<()> {
    let (failed, made): (Vec<_>, Vec<_>) = failures.partition(Option::is_some);
    let before: u64 =
        earlier.iter().filter_map(|record| record.tables.get(table)).flatten().map(|part| part.rows).sum();
    match failed.first().copied().flatten().filter(|_| failed.len() as u64 > made.len() as u64 + before) {
        None => Ok(()),
        Some(why) => Err(Error::environment(why.clone())
            .at(format!("{} rows of a part failed, {} did not", failed.len(), made.len()))
            .hint("what is finished is kept: run the same command again to go on")),
    }
}

/// Parts that one stage has a policy work on at once. Of servers the second begins while the first waits for its last requests;
/// together they ask no more than the servers take.
pub fn abreast(policy: &PolicyHandle) -> usize {
    if policy.runs_here() { 1 } else { 2 }
}

/// A policy ready to sample from and to score with.
pub struct Loaded {
    pub policy: Policy,
    backend: Backend,
    /// Longest prompt and completion together.
    positions: usize,
}

/// What was made; or what servers said that failed its request every time, and answered others.
pub type Answer<T> = Result<By<T>, String>;

/// What was made, and the server program that made it; none where this process did.
pub struct By<T> {
    pub what: T,
    pub engine: Option<String>,
}

impl<T> By<T> {
    fn here(what: T) -> By<T> {
        By { what, engine: None }
    }

    fn server(made: server::Answer<server::By<T>>) -> Answer<T> {
        made.map(|made| By { what: made.what, engine: Some(made.engine.to_string()) })
    }
}

enum Backend {
    Engine(Box<Runner>),
    Servers(Servers),
}

impl Loaded {
    fn new(handle: &PolicyHandle, context: &Context) -> Result<Loaded> {
        let (policy, backend, limit) = match handle.runs() {
            Runs::Here => {
                // What a server holds of the machine is wanted now.
                context.launcher.end();
                let policy = load_policy(handle)?;
                let runner = policy.runner_on(context.device, handle.held());
                (policy, runner.map(|runner| Backend::Engine(Box::new(runner))), None)
            }
            Runs::Served(served) => {
                let policy = load_policy(handle)?;
                let servers = Servers::new(served, &policy);
                (policy, servers.map(Backend::Servers), served.max_model_len)
            }
            Runs::Launched(launched) => {
                let policy = load_speaker(handle)?;
                let servers = context.launcher.serve(handle, launched).and_then(|it| Servers::of(&it, &policy));
                (policy, servers.map(Backend::Servers), launched.max_model_len)
            }
        };
        let backend = backend.map_err(|e| e.at(format!("policy `{}`", handle.name)))?;
        let positions = policy.config().max_positions;
        let positions = limit.map_or(positions, |limit| positions.min(limit as usize));
        Ok(Loaded { policy, backend, positions })
    }

    /// Tokens that may follow a prompt.
    pub fn room(&self, prompt_ids: &[u32]) -> u32 {
        u32::try_from(self.positions.saturating_sub(prompt_ids.len())).unwrap_or(u32::MAX)
    }

    /// Tokens that can be scored after a prompt: a server draws one more.
    pub fn scored_room(&self, prompt_ids: &[u32]) -> usize {
        let one_more = usize::from(matches!(self.backend, Backend::Servers(_)));
        (self.positions - one_more).saturating_sub(prompt_ids.len())
    }

    /// Draws all samples of all requests. `take` gets each by the index of its request and its own index there, soon after it is
    /// complete: what it has taken is worth keeping, whatever becomes of the part.
    pub fn generate(
        &self,
        context: &Context,
        requests: Vec<Request>,
        sampling: &Sampling,
        mut take: impl FnMut(Vec<((usize, usize), Answer<Sample>)>) -> Result<()>,
    ) -> Result<()> {
        let longest = sampling.max_new_tokens;
        match &self.backend {
            Backend::Engine(runner) => {
                let on_progress = |progress: Progress| (context.tick)(drawn(progress, longest, &guesses(progress)));
                let (tokenizer, limits) = (Some(self.policy.tokenizer()), context.limits()?);
                engine::generate_each(runner, tokenizer, &requests, sampling, &limits, &on_progress, |finished| {
                    let place = |(request, index, sample)| ((request, index), Ok(By::here(sample)));
                    take(finished.into_iter().map(place).collect())
                })
            }
            Backend::Servers(servers) => {
                let single = |request: &Request, stream: &Stream| server::Request {
                    name: request.name.clone(),
                    prompt_ids: request.prompt_ids.clone(),
                    // 31 bits: every server takes them, and no JSON library makes another number of them.
                    seed: (stream.bits(0) >> 33) as u32,
                    room: self.room(&request.prompt_ids),
                };
                let singles = requests.iter().flat_map(|r| r.samples.iter().map(move |stream| single(r, stream)));
                let places = requests.iter().enumerate();
                let places: Vec<(usize, usize)> =
                    places.flat_map(|(i, request)| (0..request.samples.len()).map(move |j| (i, j))).collect();
                let on_progress = |progress: Progress, note: &str| (context.tick)(drawn(progress, longest, note));
                let watch = Watch { cancel: context.cancel, on_progress: &on_progress };
                servers.generate(singles.collect(), sampling, &watch, |samples| {
                    let place = |(index, sample)| (places[index], By::server(sample));
                    take(samples.into_iter().map(place).collect())
                })
            }
        }
    }

    /// Draws all samples of all requests, every token from two prompts, as [`Loaded::generate`] does from one. Servers cannot.
    pub fn generate_hinted(
        &self,
        context: &Context,
        requests: Vec<HintedRequest>,
        sampling: &Sampling,
        beta: f32,
        mut take: impl FnMut(Vec<((usize, usize), Answer<Sample>)>) -> Result<()>,
    ) -> Result<()> {
        let Backend::Engine(runner) = &self.backend else {
            return Err(Error::internal("servers draw from one prompt"));
        };
        let on_progress = |progress: Progress| (context.tick)(drawn(progress, sampling.max_new_tokens, ""));
        let (tokenizer, limits) = (Some(self.policy.tokenizer()), context.limits()?);
        engine::generate_hinted(runner, tokenizer, &requests, sampling, beta, &limits, &on_progress, |finished| {
            let place = |(request, index, sample)| ((request, index), Ok(By::here(sample)));
            take(finished.into_iter().map(place).collect())
        })
    }

    /// Scores all requests. `take` gets the scores by the index of their request, as [`Loaded::generate`] gives samples. Servers
    /// tell no entropies: theirs are empty.
    pub fn score(
        &self,
        context: &Context,
        requests: Vec<ScoreRequest>,
        mut take: impl FnMut(Vec<(usize, Answer<TokenScores>)>) -> Result<()>,
    ) -> Result<()> {
        let expected = requests.iter().map(|request| request.token_ids.len() as u64).sum();
        match &self.backend {
            Backend::Engine(runner) => {
                let on_progress = |progress: Progress| (context.tick)(tick(progress, expected, ""));
                engine::score_each(runner, &requests, &context.limits()?, &on_progress, |scores| {
                    take(scores.into_iter().map(|(index, scores)| (index, Ok(By::here(scores)))).collect())
                })
            }
            Backend::Servers(servers) => {
                let on_progress = |progress: Progress, note: &str| (context.tick)(tick(progress, expected, note));
                let watch = Watch { cancel: context.cancel, on_progress: &on_progress };
                servers.score(requests, &watch, |scores| {
                    take(scores.into_iter().map(|(index, scores)| (index, By::server(scores))).collect())
                })
            }
        }
    }
}

/// Progress of drawing, with a guess at the tokens of it all: by the mean length so far, in which samples under way count with
/// what they have, and by the longest there can be while none is complete.
fn drawn(progress: Progress, longest: u32, note: &str) -> Tick {
    let mean = match progress.done as u64 {
        0 => u64::from(longest),
        done => (progress.new_tokens as u64 / done).min(u64::from(longest)),
    };
    tick(progress, mean * progress.total as u64, note)
}

/// How many of the tokens guessed ahead came out, for people.
fn guesses(progress: Progress) -> String {
    match progress.guessed {
        0 => String::new(),
        guessed => {
            format!("{:.0} % of {guessed} guesses right", 100.0 * progress.guessed_right as f64 / guessed as f64)
        }
    }
}

fn tick(progress: Progress, tokens_expected: u64, note: &str) -> Tick {
    Tick {
        rows_done: progress.done as u64,
        rows_total: progress.total as u64,
        tokens: progress.new_tokens as u64,
        tokens_expected,
        note: note.to_string(),
    }
}
