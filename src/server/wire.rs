//! What is asked of a server and what its answers mean, whichever of the programs it is. No request leaves a sampling
//! parameter to the server: what is left out is taken from the model's `generation_config.json` there.

use super::{sglang, vllm};
use crate::policy::Api;
use mindgap_base::error::Error;
use mindgap_lm::engine::{Sampling, StopReason, TokenScores};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::Duration;

/// One sample wanted.
#[derive(Clone, Copy)]
pub struct Draw<'a> {
    pub prompt_ids: &'a [u32],
    pub sampling: &'a Sampling,
    pub max_tokens: u32,
    /// None where the server is to choose.
    pub seed: Option<u32>,
    /// Tokens the policy has: no other can be kept.
    pub vocab_size: usize,
}

/// Tokens whose log-probs are wanted: all of `token_ids` from index `from` on, which is at least 1.
#[derive(Clone, Copy)]
pub struct Scoring<'a> {
    pub token_ids: &'a [u32],
    pub from: usize,
    /// Likeliest tokens wanted in the place of each.
    pub top_k: usize,
    /// Differs between any two requests, so that no prefix cache has a part in the answer.
    pub salt: &'a str,
    pub vocab_size: usize,
}

/// A request: where on a server, and the JSON.
pub struct Call {
    pub path: &'static str,
    pub body: Value,
    /// That the answer may speak of.
    pub tokens: usize,
}

/// A sampled completion, its log-probs as the server means them.
#[derive(Clone, Debug)]
pub struct Completion {
    pub token_ids: Vec<u32>,
    pub logprobs: Vec<f32>,
    pub stop_reason: StopReason,
}

/// A scored token, and others in its place, in no order.
pub struct Place {
    pub logprob: f32,
    pub top: Vec<(u32, f32)>,
}

impl Scoring<'_> {
    /// Tokens that the answer may speak of: an answer is bounded by them.
    pub fn answered(&self) -> usize {
        (self.token_ids.len() + 1) * (1 + self.top_k / 16)
    }
}

/// Why a request gave nothing.
#[derive(Debug)]
pub enum Fault {
    /// Another try, here or at another server, may do better.
    Passing {
        what: String,
        /// What the server asked to wait.
        after: Option<Duration>,
        blame: Blame,
    },
    /// No other try will do better.
    Lasting(Error),
    /// The same, and it may lie in this request alone.
    Refused(Error),
}

/// What a fault counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The server did not answer, or something in its stead did.
    Server,
    /// The server answered, and badly: that may lie in the request, which is given up when it meets this again and again.
    Request,
    /// The server has too much to do.
    Load,
}

impl Fault {
    /// An answer that makes no sense; the next may.
    pub fn garbled(what: impl Into<String>) -> Fault {
        Fault::Passing { what: what.into(), after: None, blame: Blame::Request }
    }

    /// The same, blamed on the server: no request has a part in it.
    pub fn of_server(self) -> Fault {
        match self {
            Fault::Passing { what, after, .. } => Fault::Passing { what, after, blame: Blame::Server },
            Fault::Lasting(error) | Fault::Refused(error) => Fault::Lasting(error),
        }
    }
}

/// How a completion ended, as the server says.
pub enum Ending {
    /// A token it takes for an end.
    Token(u32),
    /// A stop string, or nothing said.
    Stop,
    Length,
    Other(String),
}

impl Api {
    /// Where the program says which version it is.
    pub fn version_path(self) -> &'static str {
        match self {
            Api::Vllm => "/version",
            Api::Sglang => "/get_server_info",
        }
    }

    pub fn draw(self, model: &str, draw: &Draw) -> Call {
        match self {
            Api::Vllm => vllm::draw(model, draw),
            Api::Sglang => sglang::draw(draw),
        }
    }

    pub fn read_completion(self, draw: &Draw, body: &[u8]) -> Result<Completion, Fault> {
        match self {
            Api::Vllm => vllm::read_completion(draw, body),
            Api::Sglang => sglang::read_completion(draw, body),
        }
    }

    pub fn score(self, model: &str, scoring: &Scoring) -> Call {
        match self {
            Api::Vllm => vllm::score(model, scoring),
            Api::Sglang => sglang::score(scoring),
        }
    }

    /// The log-prob of each scored token, at temperature 1, and the likeliest in its place. Servers do not tell entropies.
    pub fn read_scores(self, scoring: &Scoring, body: &[u8]) -> Result<TokenScores, Fault> {
        let places = match self {
            Api::Vllm => vllm::read_scores(scoring, body)?,
            Api::Sglang => sglang::read_scores(scoring, body)?,
        };
        let mut scores = TokenScores::default();
        for Place { logprob, top } in places {
            scores.logprob_policy.push(log_prob(logprob)?);
            if scoring.top_k > 0 {
                scores.top.push(likeliest(top, scoring.top_k)?);
            }
        }
        Ok(scores)
    }
}

/// JSON of an expected shape.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(body).map_err(|e| Fault::garbled(format!("an answer that cannot be read: {e}")))
}

/// A sampled token has a probability above 0; rounding may lift it past 1.
fn log_prob(value: f32) -> Result<f32, Fault> {
    match value.is_finite() && value > -9000.0 && value < 0.01 {
        true => Ok(value.min(0.0)),
        false => Err(Fault::garbled(format!("`{value}` for a log-prob"))),
    }
}

/// The k likeliest, in falling order; of equal ones the first.
fn likeliest(mut top: Vec<(u32, f32)>, k: usize) -> Result<Vec<(u32, f32)>, Fault> {
    top.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if top.len() < k {
        return Err(Fault::garbled(format!("{} of the {k} likeliest tokens that were asked for", top.len())));
    }
    top.truncate(k);
    top.into_iter().map(|(token, value)| Ok((token, log_prob(value)?))).collect()
}

/// Puts a completion together, and checks it against what was asked for.
pub fn completion(draw: &Draw, token_ids: Vec<u32>, logprobs: Vec<f32>, ending: Ending) -> Result<Completion, Fault> {
    let (count, limit) = (token_ids.len(), draw.max_tokens as usize);
    if logprobs.len() != count {
        return Err(Fault::garbled(format!("{count} tokens with {} log-probs", logprobs.len())));
    }
    let Some(last) = token_ids.last() else {
        return Err(Fault::garbled("a completion without a token"));
    };
    if count > limit {
        return Err(Fault::garbled(format!("{count} tokens where {limit} were asked for")));
    }
    if let Some(token) = token_ids.iter().find(|id| **id as usize >= draw.vocab_size) {
        return Err(foreign(*token, draw.vocab_size));
    }
    let ended = draw.sampling.eos.contains(last);
    let stop_reason = match ending {
        Ending::Other(reason) if reason == "abort" || reason == "error" => {
            return Err(Fault::garbled(format!("a completion that ended with `{reason}`")));
        }
        Ending::Other(reason) => {
            return Err(Fault::Refused(Error::environment(format!("the server ended a completion with `{reason}`"))));
        }
        _ if ended => StopReason::Eos,
        Ending::Length if count == limit => StopReason::MaxTokens,
        Ending::Length => {
            let error = Error::environment(format!("the server cut a completion at {count} of {limit} tokens"));
            return Err(Fault::Lasting(error.hint("its context is shorter than it says: raise --max-model-len")));
        }
        Ending::Stop if !draw.sampling.stop.is_empty() => StopReason::StopString,
        Ending::Stop => return Err(unknown_end(*last)),
        Ending::Token(token) => return Err(unknown_end(token)),
    };
    let logprobs = logprobs.into_iter().map(log_prob).collect::<Result<_, _>>()?;
    Ok(Completion { token_ids, logprobs, stop_reason })
}

fn foreign(token: u32, vocab_size: usize) -> Fault {
    let error =
        Error::environment(format!("the server drew token {token}, outside the policy's vocabulary of {vocab_size}"));
    Fault::Lasting(error.hint(
        "the servers and `tokenizer` must come from the same checkpoint: `vocab_size` of the tokenizer folder's `config.json` is how \
         many tokens may be drawn",
    ))
}

fn unknown_end(token: u32) -> Fault {
    let error =
        Error::environment(format!("the server ends completions at token {token}, which is no EOS of the policy"));
    Fault::Lasting(error.hint(
        "the servers and `tokenizer` must come from the same checkpoint; if so, name the token in `eos_token_id` of the \
         tokenizer folder's `generation_config.json`",
    ))
}

/// An answer that lacks what only newer servers, or servers started otherwise, give.
pub fn lacking(what: &str, remedy: &str) -> Fault {
    Fault::Lasting(Error::environment(format!("the server's answers hold no {what}")).hint(remedy.to_string()))
}
