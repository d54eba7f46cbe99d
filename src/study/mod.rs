//! Figures over whole tables: what reports, results, exports and browsing show.
//!
//! Tables are read as columns and key ranges and combined by polars; nothing is printed and no file of the user's is touched.
//! All of it starts from what the stages made last ([`Made`]).

mod agreement;
mod browse;
mod collect;
mod condition;
mod frame;
mod lineage;
mod made;
mod prompts;
mod results;
mod rows;
mod status;
mod targets;
mod taught;
mod tokenizer;

pub use collect::collect;
pub use condition::Condition;
pub use lineage::lineage;
pub use made::Made;
pub use prompts::Prompts;
pub use results::{DifferenceResult, Kept, PolicyResult, Results, Sources, results};
pub use rows::{JsonRow, Query, Seen, rows_of_file, rows_of_stage};
pub use status::{StageStatus, status};
pub use targets::{Targets, incorrect_samples};
pub use taught::TaughtTexts;
pub use tokenizer::{speaker, tokenizer};
