//! What policies have kept: changes, backward transfer, retention and divergence, against sums by hand.

use super::Ran;
use crate::support::{fails, json, ok, pipeline, scratch};
use mindgap_store::table::evals::{Eval, Forgetting};
use mindgap_store::table::logprobs::Logprob;
use mindgap_store::table::rollouts::Rollout;
use std::collections::BTreeMap;

/// Two tasks learned one after the other from few problems, and one benchmark nothing is trained for.
const SEQUENCE: &str = r#"
[policies]
base = { path = "DATA/base-policy" }
[loop]
rounds = ["facts", "algebra"]
vars.policy = { first = "base", then = "train-{last}" }
[loop.stages.task]
kind = "ingest"
files = [{ path = "DATA/world/task-{round}.parquet", source = "{round}" }]
limit = 32
[loop.stages.expert]
kind = "rewrite"
problems = "task-{round}"
policy = "base"
[loop.stages.train]
kind = "train"
policy = "{policy}"
data = "expert-{round}"
loss = "sft"
learning_rate = 1e-3
batch_size = 16
steps = 6
[loop.stages.eval_rollouts]
kind = "rollout"
problems = "benchmarks"
policy = "train-{round}"
label = "after-{round}"
samples = 2
max_new_tokens = 60
[loop.stages.eval_verdicts]
kind = "judge"
rollouts = "eval_rollouts-{round}"
problems = "benchmarks"
[loop.stages.under_base]
kind = "logprob"
rollouts = "eval_rollouts-{round}"
policy = "base"
[stages.benchmarks]
kind = "ingest"
files = [
    { path = "DATA/world/test-facts.parquet", source = "facts" },
    { path = "DATA/world/test-algebra.parquet", source = "algebra" },
    { path = "DATA/world/test-main.parquet", source = "main" },
]
limit = 12
[stages.base_rollouts]
kind = "rollout"
problems = "benchmarks"
policy = "base"
samples = 2
max_new_tokens = 60
[stages.base_verdicts]
kind = "judge"
rollouts = "base_rollouts"
problems = "benchmarks"
[stages.evals]
kind = "evaluate"
problems = "benchmarks"
verdicts = ["base_verdicts", "eval_verdicts-*"]
base = "base"
logprobs = ["under_base-*"]
[stages.evals.sequences]
all = [{ policy = "after-facts", learned = ["facts"] }, { policy = "after-algebra", learned = ["algebra"] }]
"#;

fn close(a: f64, b: f64) {
    assert!((a - b).abs() < 1e-9, "{a} {b}");
}

/// Goal: every number is what the accuracies and the stored log-probs give.
#[test]
fn numbers_are_those_of_the_tables() {
    let folder = scratch();
    let store = folder.path().join("store");
    let file = pipeline(folder.path(), "sequence.toml", SEQUENCE);
    let ran = Ran::new(&store, &file);
    let evals = ran.rows::<Eval>("evals");
    let accuracy: BTreeMap<(&str, &str), f64> =
        evals.iter().map(|row| ((row.policy.as_str(), row.benchmark.as_str()), row.mean_at_k)).collect();
    for row in evals.iter().filter(|row| row.policy != "base") {
        let base = accuracy[&("base", row.benchmark.as_str())];
        close(row.change_from_base.unwrap(), row.mean_at_k - base);
        let (low, high) = (row.change_from_base_low.unwrap(), row.change_from_base_high.unwrap());
        assert!(low <= row.mean_at_k - base && row.mean_at_k - base <= high);
        let best = match row.policy.as_str() {
            "after-algebra" => base.max(accuracy[&("after-facts", row.benchmark.as_str())]),
            _ => base,
        };
        close(row.change_from_best.unwrap(), row.mean_at_k - best);
    }
    assert!(evals.iter().filter(|row| row.policy == "base").all(|row| row.change_from_base.is_none()));

    let kept: BTreeMap<String, Forgetting> =
        ran.rows::<Forgetting>("evals").into_iter().map(|row| (row.policy.clone(), row)).collect();
    assert_eq!(kept.len(), 3);
    let (facts, algebra) = (&kept["after-facts"], &kept["after-algebra"]);
    assert_eq!((facts.bwt, facts.earlier_tasks, algebra.earlier_tasks), (None, 0, 1));
    close(algebra.bwt.unwrap(), accuracy[&("after-algebra", "facts")] - accuracy[&("after-facts", "facts")]);
    close(algebra.retention.unwrap(), accuracy[&("after-algebra", "main")] - accuracy[&("base", "main")]);

    let base: BTreeMap<(String, u32), Vec<f32>> = ran
        .rows::<Logprob>("under_base-algebra")
        .into_iter()
        .map(|row| ((row.problem_id, row.choice_index), row.logprob_policy))
        .collect();
    let (mut sum, mut tokens, samples) = (0.0, 0, ran.rows::<Rollout>("eval_rollouts-algebra"));
    for row in &samples {
        let own = row.logprob_policy.as_ref().unwrap();
        let base = &base[&(row.problem_id.clone(), row.sample_index)];
        sum += own.iter().zip(base).map(|(a, b)| f64::from(*a) - f64::from(*b)).sum::<f64>();
        tokens += own.len();
    }
    close(algebra.kl_per_token.unwrap(), sum / tokens as f64);
    close(algebra.kl_per_sample.unwrap(), sum / samples.len() as f64);
    assert!(algebra.kl_per_token.unwrap() > 0.01, "six steps at 1e-3 move a policy");

    // Where people look for it.
    let file = file.to_str().unwrap();
    ok(&store, &["report", file]);
    let report = std::fs::read_to_string(store.join("reports/sequence.md")).unwrap();
    assert!(report.contains("What was kept") && report.contains("| evals | after-algebra | 1 |"), "{report}");
    let page = std::fs::read_to_string(store.join("reports/sequence.html")).unwrap();
    assert!(page.contains("What was kept"));
    let results = ok(&store, &["results", file, "after-algebra:base"]);
    assert!(results.contains("### Kept"), "{results}");
    let found = json(&ok(&store, &["results", file, "--json"]));
    let row = found["kept"].as_array().unwrap().iter().find(|row| row["policy"] == "after-algebra").unwrap().clone();
    close(row["bwt"]["mean"].as_f64().unwrap(), 100.0 * algebra.bwt.unwrap());
    close(row["retention"]["mean"].as_f64().unwrap(), 100.0 * algebra.retention.unwrap());
}

#[test]
fn what_cannot_be_compared_is_told() {
    let folder = scratch();
    for (from, to, says) in [
        ("base = \"base\"\nlogprobs", "logprobs", "compare policies with `base`"),
        ("base = \"base\"\nlogprobs", "base = \"bas\"\nlogprobs", "names the policy `bas`, which is not evaluated"),
        ("policy = \"after-algebra\"", "policy = \"after\"", "names the policy `after`, which is not evaluated"),
        ("policy = \"after-algebra\"", "policy = \"after-facts\"", "stands twice in `sequences`"),
        ("logprobs = [\"under_base-*\"]", "untouched = [\"facts\"]", "`facts` is `untouched`"),
    ] {
        assert!(SEQUENCE.contains(from), "{from}");
        let file = pipeline(folder.path(), "wrong.toml", &SEQUENCE.replacen(from, to, 1));
        let said = fails(&folder.path().join("store"), &["run", file.to_str().unwrap(), "evals"], 2);
        assert!(said.contains(says), "{to}: {said}");
    }
}
