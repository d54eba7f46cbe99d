//! Whole-crate tests, one binary.

mod bad_input;
mod cli;
mod crash;
mod docs;
mod engine;
mod export;
mod inspect;
mod math;
#[cfg(feature = "oracle")]
mod oracle;
mod results;
mod scores;
mod show;
mod stages;
mod support;
mod tidy;
mod world;
