//! rewrites: the training target of every problem, and where it came from.

use super::row::row;
use super::verdicts::Refusal;
use super::words::words;
use super::{by_reason, named};

words! {
    /// Where a training target comes from.
    Source {
        /// A correct sample of the policy, given the problem alone
        SelfAligned = "self",
        /// A correct sample of the policy, given the expert's solution too
        Guided = "guided",
        /// The expert's solution
        Expert = "expert",
    }
}

row! {
    /// One row per problem and kept target.
    Rewrite in "rewrites" v 1 key [problem_id, choice_index] {
        /// The problem
        problem_id: String,
        /// 0-based, when more than one target is kept
        choice_index: u32,
        /// Where the target comes from
        source: Source,
        /// The plain problem, as the user's last turn of the training prompt
        prompt: String,
        /// The target text; it stands behind the prefill, if there is one
        completion: String,
        /// Token ids of the training prompt, chat template applied
        prompt_ids: Vec<u32>,
        /// Token ids of the target, end-of-sequence token included unless it was cut off
        token_ids: Vec<u32>,
        /// Log-prob of each target token when it was sampled, under the prompt then used; null for the expert's
        logprob_behavior: Option<Vec<f32>>,
        /// The chosen sample, null for the expert's
        sample_index: Option<u32>,
        /// Round of rewriting, 0-based
        round: u32,
        /// Samples drawn for this problem before the choice, plain and guided
        attempts: u32,
        /// Where the training prompt is more than the user's turn: `messages`, `prefill` and `template_kwargs`, as JSON
        conversation: Option<String>,
    }
    optional [conversation]
    counts(rows) { named("tokens", rows.iter().map(|row| row.prompt_ids.len() + row.token_ids.len()).sum::<usize>()) }
}

row! {
    /// One row per problem that got no training target: nothing correct was sampled and it has no expert solution.
    Untargeted in "untargeted" v 1 key [problem_id] {
        /// The problem
        problem_id: String,
        /// Samples drawn for it, plain and guided
        attempts: u32,
        /// Why it has no target
        reason: String,
    }
    counts(rows) { by_reason(rows.iter().map(|row| row.reason.as_str())) }
}

row! {
    /// One row per correct sample that was refused as a training target.
    Refused in "refused" v 1 key [problem_id, source, sample_index] {
        /// The problem
        problem_id: String,
        /// What it would have been a target of: `self` or `guided`
        source: Source,
        /// The sample
        sample_index: u32,
        /// Why it was refused
        reason: Refusal,
    }
    counts(rows) { by_reason(rows.iter().map(|row| row.reason.as_str())) }
}
