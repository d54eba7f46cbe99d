//! The report: what a pipeline found, as one HTML page that needs no network, and as Markdown.
//!
//! Pure: it takes what was collected from the tables and returns text. Which tables, and where the files go, is the caller's.

mod chart;
mod data;
mod markdown;
mod page;
mod tokens;

pub use data::{
    BrowsedProblem, BrowsedSample, BrowsedTarget, Browser, Cascade, Choice, Chosen, Compared, EvalTable, GapTable,
    Histograms, RefusedSamples, Report, Run, Samples, Series, StageState, Targets,
};
pub use markdown::markdown;
pub use page::html;
pub use tokens::{Tokens, quantise};
