//! `answers` of examples/storm/targets.rs, guided by coverage.
#![no_main]

use mindgap_fuzz as _;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mindgap::server::fuzzed::answer(bytes));
