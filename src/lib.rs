//! mindgap: rewrite supervised fine-tuning data on-policy, then train with importance-type token weights.
//!
//! The modules below are in the order the data flows through the house, from people down to vocabulary. A module may use
//! only modules listed below its group; `tests/it/tidy.rs` enforces it.

// L6 people
pub mod cli;
// L5 dataflow
pub mod pipeline;
// L4 stages
pub mod stage;
// L4 the page people read: tables in, text out
pub mod report;
// L4 policies that run elsewhere: requests in, samples out, over the network
pub mod server;
// L3 compute libraries: no disk, no clock, no printing; none uses another
pub mod engine;
pub mod export;
pub mod math;
pub mod stats;
pub mod train;
// L2 model
pub mod model;
// L1 store: the only code that touches files
pub mod store;
// L0 vocabulary
pub mod table;
// L0 base
pub mod base;
