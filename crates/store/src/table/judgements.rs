//! judgements: what policies that judge said of samples: the texts or the log-probs that verdicts were read off.

use super::rollouts::StopReason;
use super::row::row;
use super::{failed, named};
use mindgap_base::error::Error;

row! {
    /// One row per sample that a policy judged.
    JudgementRow in "judgements" v 1 key [problem_id, sample_index] {
        /// The problem
        problem_id: String,
        /// The sample
        sample_index: u32,
        /// Token ids of the judge's prompt, chat template applied
        prompt_ids: Vec<u32>,
        /// What the policy wrote; empty where two words were scored instead
        completion: String,
        /// Token ids of what it wrote, end-of-sequence token included
        token_ids: Vec<u32>,
        /// Natural log-prob of each token at temperature 1, untruncated, given the prompt
        logprob_policy: Vec<f32>,
        /// Why the text ended; null where two words were scored
        stop_reason: Option<StopReason>,
        /// Natural log-prob of the word `YES` behind the prompt; null where a text was written
        logprob_yes: Option<f32>,
        /// Natural log-prob of the word `NO` behind the prompt; null where a text was written
        logprob_no: Option<f32>,
        /// The judge and its version
        judge_version: String,
        /// The server program that the policy ran on, and its version as far as it says; null where it ran in this process
        engine: Option<String>,
        /// What the servers said where they failed every request for it; null of all others
        failure: Option<String>,
    }
    optional [engine, failure]
    check(self) {
        match self.token_ids.len() == self.logprob_policy.len() {
            true => Ok(()),
            false => Err(Error::internal("log-prob count does not match token count")
                .at(format!("problem `{}`, sample {}", self.problem_id, self.sample_index))),
        }
    }
    counts(rows) {
        let mut counts = named("tokens", rows.iter().map(|row| row.token_ids.len()).sum::<usize>());
        counts.extend(failed(rows.iter().map(|row| &row.failure)));
        counts
    }
}
