//! logprobs: teacher-forced log-probs of every training target under a policy, given the plain training prompt.

use super::failed;
use super::rewrites::Source;
use super::row::row;
use mindgap_base::error::Error;

row! {
    /// One row per problem and kept target.
    Logprob in "logprobs" v 1 key [problem_id, choice_index] {
        /// The problem
        problem_id: String,
        /// The target
        choice_index: u32,
        /// Where the target comes from
        source: Source,
        /// Tokens of the training prompt
        prompt_token_count: u32,
        /// Token ids of the target
        token_ids: Vec<u32>,
        /// Natural log-prob of each target token at temperature 1, given the plain training prompt
        logprob_policy: Vec<f32>,
        /// Natural log-prob when it was sampled, under the prompt then used; null for the expert's
        logprob_behavior: Option<Vec<f32>>,
        /// Entropy of the next-token distribution at each target token, nats; empty where servers scored, which do not tell it
        entropy: Vec<f32>,
        /// The server program that scored it, and its version as far as it says; null of targets scored in this process
        engine: Option<String>,
        /// What the servers said where they failed every request for it, and no token has a log-prob; null of all others
        failure: Option<String>,
    }
    optional [engine, failure]
    check(self) {
        let n = self.token_ids.len();
        let behavior = self.logprob_behavior.as_ref().map_or(n, Vec::len);
        let entropy = if self.entropy.is_empty() { n } else { self.entropy.len() };
        if [self.logprob_policy.len(), entropy, behavior].iter().all(|len| *len == n) {
            return Ok(());
        }
        Err(Error::internal("log-prob count does not match token count").at(format!("problem `{}`", self.problem_id)))
    }
    counts(rows) { failed(rows.iter().map(|row| &row.failure)) }
}
