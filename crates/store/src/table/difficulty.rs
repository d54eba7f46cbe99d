//! difficulty: how often samples of a problem are correct.

use super::TAKEN;
use super::row::row;
use super::words::words;
use std::collections::BTreeMap;

words! {
    /// Why a problem is not taken.
    Unfit {
        /// A larger share of its samples is correct
        Easier = "easier",
        /// A smaller share of its samples is correct
        Harder = "harder",
        /// It has no samples
        Unsampled = "unsampled",
    }
}

row! {
    /// One row per problem, taken or not.
    Difficulty in "difficulty" v 1 key [problem_id] {
        /// The problem
        problem_id: String,
        /// Plain samples with a verdict
        samples: u32,
        /// Those that are correct
        correct: u32,
        /// Share of correct samples; null where there is no sample
        share: Option<f64>,
        /// Why the problem is not taken; null where it is
        left_out: Option<Unfit>,
    }
    counts(rows) {
        let mut counts = BTreeMap::from([(TAKEN.to_string(), 0)]);
        for row in rows {
            let name = row.left_out.map_or(TAKEN, Unfit::as_str);
            *counts.entry(name.to_string()).or_default() += 1;
        }
        counts
    }
}
