//! The typed rows of every table: columns, key, order, and what must hold.
//!
//! A table is declared once with `row!`: the struct, its Arrow schema and its documentation come from the same lines.

mod row;
mod words;

pub mod difficulty;
pub mod evals;
pub mod examples;
pub mod gaps;
pub mod imports;
pub mod judgements;
pub mod logprobs;
pub mod problems;
pub mod rewards;
pub mod rewrites;
pub mod rollouts;
pub mod soft;
pub mod train_steps;
pub mod verdicts;

pub(crate) use row::misfit;
pub use row::{Column, ColumnType, Row, from_batches, to_batch};
pub use words::Word;

use std::collections::BTreeMap;

/// Tables of what became no row of its stage's main table. Their counts say why, and how many rows of a table did become one.
pub const LEFT_OUT: [&str; 3] = [problems::Reject::TABLE, rewrites::Untargeted::TABLE, difficulty::Difficulty::TABLE];

/// The count of rows in such a table that were taken all the same.
pub const TAKEN: &str = "taken";

/// Tables beside a stage's main one whose counts are told with its own.
pub const COUNTED: [&str; 1] = [imports::Import::TABLE];

/// Reasons that are counted, at most: the commonest.
const REASONS: usize = 32;

/// Rows by reason. Numbers in a reason are written as N: what is a duplicate of which line makes no difference.
fn by_reason<'r>(reasons: impl Iterator<Item = &'r str>) -> BTreeMap<String, u64> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for reason in reasons {
        let digits = |c: char| c.is_ascii_digit();
        let words = reason.split(digits).filter(|words| !words.is_empty()).collect::<Vec<_>>().join("N");
        let last = if reason.ends_with(digits) { "N" } else { "" };
        let first = if reason.starts_with(digits) { "N" } else { "" };
        *counts.entry(format!("{first}{words}{last}")).or_default() += 1;
    }
    let mut sorted: Vec<(String, u64)> = counts.into_iter().collect();
    sorted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    sorted.into_iter().take(REASONS).collect()
}

/// One count.
fn named(name: &str, count: usize) -> BTreeMap<String, u64> {
    BTreeMap::from([(name.to_string(), count as u64)])
}

/// The count of rows that servers failed.
pub const FAILED: &str = "failed";

/// How many rows servers failed; nothing where there is none.
fn failed<'r>(failures: impl Iterator<Item = &'r Option<String>>) -> BTreeMap<String, u64> {
    match failures.flatten().count() {
        0 => BTreeMap::new(),
        count => named(FAILED, count),
    }
}

/// A table as its row type declares it: what a file that calls itself one must look like.
pub struct Declared {
    pub name: &'static str,
    pub version: u32,
    pub key: &'static [&'static str],
    pub doc: &'static str,
    pub columns: Vec<Column>,
}

impl Declared {
    fn of<R: Row>() -> Declared {
        Declared { name: R::TABLE, version: R::VERSION, key: R::KEY, doc: R::DOC, columns: R::columns() }
    }
}

/// Every table there is.
pub fn declared() -> Vec<Declared> {
    vec![
        Declared::of::<problems::Problem>(),
        Declared::of::<problems::Reject>(),
        Declared::of::<rollouts::Rollout>(),
        Declared::of::<imports::Import>(),
        Declared::of::<verdicts::VerdictRow>(),
        Declared::of::<judgements::JudgementRow>(),
        Declared::of::<difficulty::Difficulty>(),
        Declared::of::<rewrites::Rewrite>(),
        Declared::of::<rewrites::Untargeted>(),
        Declared::of::<rewrites::Refused>(),
        Declared::of::<rewrites::Candidate>(),
        Declared::of::<logprobs::Logprob>(),
        Declared::of::<soft::Soft>(),
        Declared::of::<rewards::Reward>(),
        Declared::of::<examples::Example>(),
        Declared::of::<train_steps::TrainStep>(),
        Declared::of::<train_steps::TrainEval>(),
        Declared::of::<train_steps::BatchPlan>(),
        Declared::of::<evals::Eval>(),
        Declared::of::<evals::Forgetting>(),
        Declared::of::<gaps::Gap>(),
        Declared::of::<gaps::GapWarning>(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_counted_whatever_their_numbers() {
        let reasons = ["duplicate of line 1", "duplicate of line 27", "12 turns, not one", "no answer"];
        let counts = by_reason(reasons.into_iter());
        let counts: Vec<(&str, u64)> = counts.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
        assert_eq!(counts, [("N turns, not one", 1), ("duplicate of line N", 2), ("no answer", 1)]);
        let many: Vec<String> = (b'a'..=b'z').flat_map(|a| ["x", "y"].map(|b| format!("{}{b}", a as char))).collect();
        assert_eq!(by_reason(many.iter().map(String::as_str)).len(), REASONS);
    }
}
