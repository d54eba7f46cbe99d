//! rollouts: completions, those that were sampled here with the log-probs of every token.

use super::row::row;
use super::words::words;
use super::{failed, named};
use mindgap_base::error::Error;
use std::borrow::Cow;

words! {
    /// What the policy was shown.
    PromptKind {
        /// The problem alone
        Plain = "plain",
        /// The problem and the expert's solution
        Guided = "guided",
        /// Text from elsewhere; what it was shown is not known
        Imported = "imported",
    }
}

words! {
    /// Why a completion ended.
    StopReason {
        /// With an end-of-sequence token
        Eos = "eos",
        /// At `max_new_tokens`, or at the policy's last position
        MaxTokens = "max_tokens",
        /// After a stop string
        StopString = "stop_string",
        /// Before its first token: the prompt left no room to answer
        PromptTooLong = "prompt_too_long",
        /// Before its first token: servers failed its request every time, and answered others
        Failed = "failed",
    }
}

row! {
    /// One row per problem and sample.
    Rollout in "rollouts" v 1 key [problem_id, sample_index] {
        /// The problem
        problem_id: String,
        /// 0-based; sample `i` is the same whether 4 or 10 are drawn
        sample_index: u32,
        /// What the policy was shown
        prompt_kind: PromptKind,
        /// The completion as text; special tokens are left out, but for the tags of thoughts
        completion: String,
        /// Token ids of the prompt, chat template applied; none of imported ones
        prompt_ids: Vec<u32>,
        /// Token ids of the completion, end-of-sequence token included
        token_ids: Vec<u32>,
        /// Natural log-prob of each token under the distribution it was sampled from; null of imported ones
        logprob_behavior: Option<Vec<f32>>,
        /// Natural log-prob of each token at temperature 1, untruncated, given this prompt; null of imported ones
        logprob_policy: Option<Vec<f32>>,
        /// Why the completion ended
        stop_reason: StopReason,
        /// Special tokens inside the completion; the final end-of-sequence token and tags of thoughts that end are not counted
        special_count: u32,
        /// Seed the random numbers are keyed by
        seed: u64,
        /// What the assistant's turn began with in the prompt, in front of the completion
        prefill: Option<String>,
        /// The server program that drew it, and its version as far as it says; null of samples drawn in this process
        engine: Option<String>,
        /// What the servers said where they failed it; null of all others
        failure: Option<String>,
    }
    optional [prefill, engine, failure]
    seldom_null [logprob_behavior, logprob_policy]
    check(self) {
        let n = self.token_ids.len();
        let is_imported = self.prompt_kind == PromptKind::Imported;
        for (column, values) in [("logprob_behavior", &self.logprob_behavior), ("logprob_policy", &self.logprob_policy)] {
            let at = || format!("problem `{}`, sample {}, column `{column}`", self.problem_id, self.sample_index);
            let values = match values {
                None if is_imported => continue,
                None => return Err(Error::internal("a sample without log-probs").at(at())),
                Some(_) if is_imported => return Err(Error::internal("log-probs of an imported sample").at(at())),
                Some(values) => values,
            };
            if values.len() != n {
                return Err(Error::internal(format!("{n} tokens but {} log-probs", values.len())).at(at()));
            }
            if let Some(value) = values.iter().find(|v| !v.is_finite() || **v > 1e-5) {
                return Err(Error::internal(format!("`{value}` is not a log-prob")).at(at()));
            }
        }
        Ok(())
    }
    counts(rows) {
        let mut counts = named("tokens", rows.iter().map(|row| row.token_ids.len()).sum::<usize>());
        counts.extend(failed(rows.iter().map(|row| &row.failure)));
        counts
    }
}

impl Rollout {
    /// The whole of the assistant's turn: prefill and completion.
    pub fn said(&self) -> Cow<'_, str> {
        match &self.prefill {
            Some(prefill) => Cow::Owned([prefill, self.completion.as_str()].concat()),
            None => Cow::Borrowed(&self.completion),
        }
    }
}

impl StopReason {
    /// The policy had said what it wanted to say.
    pub fn is_complete(self) -> bool {
        matches!(self, StopReason::Eos | StopReason::StopString)
    }
}
