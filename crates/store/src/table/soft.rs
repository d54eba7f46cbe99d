//! soft: what a teacher would have said in place of every token of a text.

use super::row::row;
use super::{failed, named};
use mindgap_base::error::Error;

row! {
    /// One row per problem and text: a target, or a sample.
    Soft in "soft" v 1 key [problem_id, choice_index] {
        /// The problem
        problem_id: String,
        /// The target, or the sample
        choice_index: u32,
        /// Tokens of the prompt that the teacher was shown
        prompt_token_count: u32,
        /// Token ids of the text
        token_ids: Vec<u32>,
        /// Natural log-prob of each token under the teacher at temperature 1, given its prompt
        logprob_teacher: Vec<f32>,
        /// Likeliest tokens that are told in the place of each
        k: u32,
        /// The k likeliest tokens in the place of the first token in falling order, then those of the second, and so on
        top_ids: Vec<u32>,
        /// Natural log-prob of each of them
        top_logprobs: Vec<f32>,
        /// Probability of all other tokens, in the place of each
        tail: Vec<f32>,
        /// The server program that scored it, and its version as far as it says; null of texts scored in this process
        engine: Option<String>,
        /// What the servers said where they failed every request for it, and nothing is told of any token; null of all others
        failure: Option<String>,
    }
    optional [engine, failure]
    check(self) {
        let (n, k) = (self.token_ids.len(), self.k as usize);
        let of_tokens = [self.logprob_teacher.len(), self.tail.len()].iter().all(|len| *len == n);
        match of_tokens && [self.top_ids.len(), self.top_logprobs.len()].iter().all(|len| *len == n * k) {
            true => Ok(()),
            false => Err(Error::internal("columns do not match the tokens").at(format!("problem `{}`", self.problem_id))),
        }
    }
    counts(rows) {
        let mut counts = named("tokens", rows.iter().map(|row| row.token_ids.len()).sum::<usize>());
        counts.extend(failed(rows.iter().map(|row| &row.failure)));
        counts
    }
}
