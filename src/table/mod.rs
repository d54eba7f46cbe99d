//! The typed rows of every table: columns, key, order, and what must hold.
//!
//! A table is declared once with `row!`: the struct, its Arrow schema and its documentation come from the same lines.

mod row;

pub mod evals;
pub mod examples;
pub mod gaps;
pub mod logprobs;
pub mod problems;
pub mod rewrites;
pub mod rollouts;
pub mod train_steps;
pub mod verdicts;

pub use row::{Column, ColumnType, Row, from_batches, to_batch};
