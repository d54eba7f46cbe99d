//! rewrites: the training target of every problem, and where it came from.

use super::row::row;
use super::verdicts::Refusal;
use super::words::words;
use super::{by_reason, named};
use std::collections::BTreeMap;

words! {
    /// What became of a sample that could have been a training target.
    Outcome {
        /// It is a target
        Chosen = "chosen",
        /// It was fit, and others were taken: of its source, or of a source that is asked before
        Left = "left",
        /// It was not fit
        Refused = "refused",
    }
}

words! {
    /// Where a training target comes from.
    Source {
        /// A correct sample of the policy, given the problem alone
        SelfAligned = "self",
        /// A correct sample of the policy, given the expert's solution too
        Guided = "guided",
        /// A correct sample from elsewhere: of another policy, or imported
        Teacher = "teacher",
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
        /// Log-prob of each target token when it was sampled, under the prompt then used; null for the expert's, and where thoughts were dropped
        logprob_behavior: Option<Vec<f32>>,
        /// The chosen sample, null for the expert's
        sample_index: Option<u32>,
        /// Round of rewriting, 0-based
        round: u32,
        /// Samples there were of this problem before the choice
        attempts: u32,
        /// Where the training prompt is more than the user's turn: `messages`, `prefill` and `template_kwargs`, as JSON
        conversation: Option<String>,
        /// Which of the verdict stages of its source the sample is of, 0-based, where there are several
        stage_index: Option<u32>,
        /// What the choice went by, where it went by a column of a stage
        score: Option<f64>,
    }
    optional [conversation, stage_index, score]
    counts(rows) { named("tokens", rows.iter().map(|row| row.prompt_ids.len() + row.token_ids.len()).sum::<usize>()) }
}

row! {
    /// One row per problem that got no training target: nothing fit was sampled and it has no expert solution to take.
    Untargeted in "untargeted" v 1 key [problem_id] {
        /// The problem
        problem_id: String,
        /// Samples there are of it
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
        /// What it would have been a target of: `self`, `guided` or `teacher`
        source: Source,
        /// The sample
        sample_index: u32,
        /// Why it was refused
        reason: Refusal,
    }
    counts(rows) { by_reason(rows.iter().map(|row| row.reason.as_str())) }
}

row! {
    /// One row per correct sample: whether it became a target, and what the choice knew of it.
    Candidate in "candidates" v 1 key [problem_id, source, stage_index, sample_index] {
        /// The problem
        problem_id: String,
        /// `self`, `guided` or `teacher`
        source: Source,
        /// Which of the verdict stages of its source it is of, 0-based
        stage_index: u32,
        /// The sample
        sample_index: u32,
        /// What became of it
        outcome: Outcome,
        /// Why it was refused; null where it was not
        reason: Option<Refusal>,
        /// Its length
        token_count: u32,
        /// Mean log-prob per token given the training prompt, where it is known
        logprob: Option<f64>,
        /// What the choice went by, where it went by a column of a stage
        score: Option<f64>,
    }
    counts(rows) {
        let mut counts = BTreeMap::new();
        rows.iter().for_each(|row| *counts.entry(row.outcome.to_string()).or_default() += 1);
        counts
    }
}
