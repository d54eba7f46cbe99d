//! The typed rows of every table: columns, key, order, and what must hold.
//!
//! A table is declared once with `row!`: the struct, its Arrow schema and its documentation come from the same lines.

mod row;
mod words;

pub mod evals;
pub mod examples;
pub mod gaps;
pub mod logprobs;
pub mod problems;
pub mod rewrites;
pub mod rollouts;
pub mod train_steps;
pub mod verdicts;

pub(crate) use row::misfit;
pub use row::{Column, ColumnType, Row, from_batches, to_batch};
pub use words::Word;

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
        Declared::of::<verdicts::VerdictRow>(),
        Declared::of::<rewrites::Rewrite>(),
        Declared::of::<rewrites::Untargeted>(),
        Declared::of::<logprobs::Logprob>(),
        Declared::of::<examples::Example>(),
        Declared::of::<train_steps::TrainStep>(),
        Declared::of::<train_steps::TrainEval>(),
        Declared::of::<train_steps::BatchPlan>(),
        Declared::of::<evals::Eval>(),
        Declared::of::<gaps::Gap>(),
        Declared::of::<gaps::GapWarning>(),
    ]
}
