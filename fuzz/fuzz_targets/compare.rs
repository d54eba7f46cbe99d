//! Any two texts can be compared, within the step budget, and the same way twice.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mindgap_math::math::{Judge, Options};

fuzz_target!(|text: &str| {
    let (gold, answer) = text.split_once('\n').unwrap_or((text, text));
    let judge = Judge::Math(Options::default());
    let response = format!("\\boxed{{{answer}}}");
    let judgement = judge.judge(gold, &response);
    assert_eq!(judgement, judge.judge(gold, &response));
});
