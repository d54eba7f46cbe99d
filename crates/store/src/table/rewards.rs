//! rewards: what every sample is worth, and what that was made of.

use super::row::row;
use mindgap_base::error::Error;

row! {
    /// One row per sample.
    Reward in "rewards" v 1 key [problem_id, sample_index] {
        /// The problem
        problem_id: String,
        /// The sample
        sample_index: u32,
        /// What the formula makes of the sample
        reward: f64,
        /// The judge calls it correct
        correct: bool,
        /// Tokens of the completion, end-of-sequence token included
        token_count: u32,
        /// Mean log-prob of its tokens, where some were named; null elsewhere
        logprob: Option<f64>,
        /// How likely it is among the correct samples of its problem, 0 to 1; null where it is not one, or no log-probs were named
        likelihood: Option<f64>,
        /// What it adds to the diversity of the correct samples of its problem, 0 to 1; null where it is not one, or no policy was named
        diversity: Option<f64>,
    }
    check(self) {
        match self.reward.is_finite() {
            true => Ok(()),
            false => Err(Error::internal(format!("`{}` is not a reward", self.reward))
                .at(format!("problem `{}`, sample {}", self.problem_id, self.sample_index))),
        }
    }
}
