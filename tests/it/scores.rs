//! `mindgap score --raw` on the base policy says what transformers says. tests/fixtures/policy/make.py recorded it; run it
//! again after the policy's weights have changed.

use crate::support;
use serde_json::Value;

#[test]
fn log_probs_of_the_base_policy_agree_with_transformers() {
    let root = support::root();
    let recorded_file = root.join("tests/fixtures/policy/scores.jsonl");
    let recorded = std::fs::read_to_string(&recorded_file).expect("the fixture is checked in");
    let store = tempfile::tempdir().expect("a folder for the store");
    let path = |name: &str| root.join(name).display().to_string();
    let (policy, file) = (path("data/base-policy"), recorded_file.display().to_string());
    let scored = support::ok(store.path(), &["score", "--policy", &policy, "--raw", &file]);
    let (mut count, mut largest) = (0, 0.0f64);
    for (expected, found) in recorded.lines().zip(scored.lines()) {
        let (expected, found) = (support::json(expected), support::json(found));
        for field in ["id", "token_ids"] {
            assert_eq!(expected[field], found[field], "{field} of {expected}");
        }
        let numbers = |row: &Value| -> Vec<f64> {
            let list = row["logprob_policy"].as_array().expect("a list");
            list.iter().map(|value| value.as_f64().expect("a number")).collect()
        };
        let (expected, found) = (numbers(&expected), numbers(&found));
        assert_eq!(expected.len(), found.len());
        largest = expected.iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(largest, f64::max);
        count += 1;
    }
    assert_eq!((count, scored.lines().count()), (50, 50));
    assert!(largest < 1e-3, "largest difference {largest}");
}
