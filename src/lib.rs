//! mindgap: rewrite supervised fine-tuning data on-policy, then train with importance-type token weights.
//!
//! The modules below are in the order the data flows, from people down to the network. A module may use
//! only modules listed below it; `tests/it/tidy.rs` enforces it. Below them lie the crates: `mindgap-lm` (models),
//! `mindgap-math` (the verifier), `mindgap-store` (tables and files), `mindgap-base` (errors, names, random numbers).

// people
pub mod cli;
// figures over whole tables: columns in, numbers and rows out
pub mod study;
// dataflow
pub mod pipeline;
// stages
pub mod stage;
// the page people read: tables in, text out
pub mod report;
// policies that run elsewhere: requests in, samples out
pub mod server;
// targets, prompts and soft targets in other trainers' layouts
pub mod export;
// numbers from tables
pub mod stats;
// right or wrong: rules, schemas, programs of the user's
pub mod judge;
// other programs: started, limited, ended with this one
pub mod child;
// policies: what a pipeline names, where the files are, loading
pub mod policy;
// the hub, and HTTP
pub mod net;
// parameters out of TOML
pub mod params;
