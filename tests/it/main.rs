//! Whole-crate tests, one binary.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stderr,
    reason = "tests use the machine as they like"
)]

mod bad_input;
mod bookkeeping;
mod cli;
mod conversations;
mod crash;
mod disk;
mod docs;
mod engine;
mod explain;
mod export;
mod families;
mod family;
mod gguf;
mod hostile;
mod hub;
mod inspect;
mod interrupted;
mod judges;
mod onpolicy;
mod oracle;
mod power;
mod problems;
mod properties;
mod recipes;
mod remote;
mod report;
mod results;
mod rounds;
mod samples;
mod scores;
mod servers;
mod show;
mod stages;
mod stale;
mod support;
mod tidy;
mod train;
mod trainers;
mod transcripts;
mod upkeep;
mod weights;
mod world;
