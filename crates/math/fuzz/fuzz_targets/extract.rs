//! Any text is a response: every judge ends with a verdict.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mindgap_math::{Judge, Numeric, Verdict, boxed_answers, last_boxed};

fuzz_target!(|text: &str| {
    let boxed = last_boxed(text);
    assert!(boxed.is_none() || !boxed_answers(text).is_empty());
    for (judge, gold) in [
        (Judge::Exact, "x"),
        (Judge::Choice, "A"),
        (Judge::Json, "[]"),
        (Judge::Numeric(Numeric::default()), "1"),
        (Judge::ToolCall { ordered: true }, r#"[{"name":"f"}]"#),
        (Judge::Program { text: false }, "1"),
    ] {
        let judgement = judge.judge(gold, text);
        assert!(judgement.verdict == Verdict::NoAnswer || judgement.extracted.is_some());
    }
});
