//! Whole-crate tests, one binary.

mod bad_input;
mod cli;
mod crash;
mod engine;
mod math;
mod stages;
mod support;
mod tidy;
mod world;
