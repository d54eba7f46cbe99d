//! `records` of examples/storm/targets.rs, guided by coverage.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mindgap_base::memory::Bounded;

#[path = "../../examples/storm/targets.rs"]
#[allow(dead_code)]
mod targets;

#[global_allocator]
static ALLOCATOR: Bounded = Bounded::new(too_large);

/// That an input is stopped by the bound of its memory is as it should be.
fn too_large(_what: &str) -> ! {
    unsafe extern "C" {
        fn _exit(code: i32) -> !;
    }
    // SAFETY: it ends the process, and does nothing else.
    unsafe { _exit(0) }
}

fuzz_target!(|bytes: &[u8]| targets::records(bytes));
