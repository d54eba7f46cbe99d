//! `records` of examples/storm/targets.rs, guided by coverage.
#![no_main]

libfuzzer_sys::fuzz_target!(init: mindgap_fuzz::let_expected_panics_pass(), |bytes: &[u8]| mindgap_fuzz::targets::records(bytes));
