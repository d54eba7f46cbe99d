//! Any two texts can be compared, within the step budget; every eighth pair twice, with the same result.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mindgap_math::{Judge, Options};

fuzz_target!(|text: &str| {
    let (gold, answer) = text.split_once('\n').unwrap_or((text, text));
    // a small budget: the steps are the same, only fewer
    let judge = Judge::Math(Options { step_budget: 3_000, ..Options::default() });
    let response = format!("\\boxed{{{answer}}}");
    let judgement = judge.judge(gold, &response);
    if text.len() % 8 == 0 {
        assert_eq!(judgement, judge.judge(gold, &response));
    }
});
