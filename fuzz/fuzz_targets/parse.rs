//! Any text is an answer: the parser ends with a tree or a reason, and what it prints it can read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mindgap_math::math::{canonical_print, is_readable};

fuzz_target!(|text: &str| {
    if let Some(printed) = canonical_print(text) {
        assert!(is_readable(text) || text.contains('\\'));
        // the print may be larger than what is read, never a crash
        let _ = canonical_print(&printed);
    }
});
