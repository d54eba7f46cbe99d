//! What is asked of sampling, and what comes of it.

use super::sampler::Sampling;
use crate::model::runner::Draw;
use crate::model::tokenizer::StopWatch;
use mindgap_base::error::Result;
use mindgap_base::rng::Stream;
use std::sync::Arc;

/// A prompt and the streams of the samples wanted of it. The token at position t of a completion is drawn with
/// `stream.uniform(t)`.
#[derive(Clone, Debug)]
pub struct Request {
    /// What it is about, for errors: a problem, say. Empty where nobody said.
    pub name: String,
    pub prompt_ids: Arc<[u32]>,
    pub samples: Vec<Stream>,
}

impl Request {
    pub fn new(prompt_ids: impl Into<Arc<[u32]>>, samples: Vec<Stream>) -> Request {
        Request { name: String::new(), prompt_ids: prompt_ids.into(), samples }
    }

    pub fn named(self, name: impl Into<String>) -> Request {
        Request { name: name.into(), ..self }
    }
}

/// Why a completion ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    Eos,
    /// `max_new_tokens`, or the model's last position.
    MaxTokens,
    StopString,
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

impl Sample {
    /// Appends a token; true if the sample is complete, with so many tokens at the latest.
    pub(super) fn push(
        &mut self,
        draw: Draw,
        sampling: &Sampling,
        watch: Option<&mut StopWatch>,
        limit: usize,
    ) -> Result<bool> {
        self.token_ids.push(draw.token_id);
        self.logprob_behavior.push(draw.logprob_behavior);
        self.logprob_policy.push(draw.logprob_policy);
        if sampling.eos.contains(&draw.token_id) {
            self.stop_reason = StopReason::Eos;
            return Ok(true);
        }
        if let Some(watch) = watch
            && watch.hit(&self.token_ids)?
        {
            self.stop_reason = StopReason::StopString;
            return Ok(true);
        }
        Ok(self.token_ids.len() >= limit)
    }

    /// One without a token.
    pub(super) fn empty() -> Sample {
        Sample {
            token_ids: Vec::new(),
            logprob_behavior: Vec::new(),
            logprob_policy: Vec::new(),
            stop_reason: StopReason::MaxTokens,
        }
    }
}
