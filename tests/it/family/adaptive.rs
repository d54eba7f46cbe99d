//! Sampling in waves: the same samples as drawing all at once, and no more than it takes.

use super::Ran;
use crate::support::{fails, json, ok, pipeline, plan_here, scratch};
use mindgap_store::table::rollouts::Rollout;
use mindgap_store::table::verdicts::VerdictRow;
use std::collections::BTreeMap;

const WAVES: &str = r#"
[policies]
base = { path = "DATA/base-policy" }
[stages.problems]
kind = "ingest"
files = [{ path = "DATA/world/train-0.parquet", source = "world" }]
limit = 24
part_problems = 8
[stages.rollouts]
kind = "rollout"
problems = "problems"
policy = "base"
samples = 1
until_correct = 1
max_samples = 6
judge = "verdicts"
max_new_tokens = 60
part_problems = 8
[stages.verdicts]
kind = "judge"
rollouts = "rollouts"
problems = "problems"
"#;

fn by_problem(ran: &Ran) -> BTreeMap<String, Vec<Rollout>> {
    let mut rows: BTreeMap<String, Vec<Rollout>> = BTreeMap::new();
    for row in ran.rows::<Rollout>("rollouts") {
        rows.entry(row.problem_id.clone()).or_default().push(row);
    }
    rows
}

/// Goal: every problem has the first samples of those drawn all at once, as many as the waves say: until one is right.
#[test]
fn a_problem_is_asked_until_one_is_right() {
    let folder = scratch();
    let store = folder.path().join("store");
    let waves = Ran::new(&store, &pipeline(folder.path(), "waves.toml", WAVES));
    let all = WAVES.replace("samples = 1\nuntil_correct = 1\nmax_samples = 6\njudge = \"verdicts\"", "samples = 6");
    let all = Ran::new(&folder.path().join("all"), &pipeline(folder.path(), "all.toml", &all));
    let fit: BTreeMap<(String, u32), bool> = all
        .rows::<VerdictRow>("verdicts")
        .into_iter()
        .map(|row| ((row.problem_id.clone(), row.sample_index), row.may_be_chosen()))
        .collect();
    let (waves, all) = (by_problem(&waves), by_problem(&all));
    let mut counts = BTreeMap::new();
    for (id, whole) in &all {
        let correct = |count: u32| (0..count).any(|index| fit[&(id.clone(), index)]);
        let expected = [1, 2, 4].into_iter().find(|count| correct(*count)).unwrap_or(6);
        assert_eq!(waves[id][..], whole[..expected as usize], "{id}");
        *counts.entry(expected).or_insert(0) += 1;
    }
    assert!(counts.len() > 2, "problems stop after different waves: {counts:?}");
}

/// Goal: a higher limit draws only what is missing, and drawing all at once takes over what the waves drew.
#[test]
fn a_higher_limit_adds_what_is_missing() {
    let folder = scratch();
    let store = folder.path().join("store");
    let few =
        Ran::new(&store, &pipeline(folder.path(), "waves.toml", &WAVES.replace("max_samples = 6", "max_samples = 2")));
    let drawn = few.rows::<Rollout>("rollouts").len() as u64;
    let more = pipeline(folder.path(), "more.toml", WAVES);
    let plan = plan_here(&store, &more).into_iter().find(|plan| plan.name == "rollouts").unwrap();
    assert_eq!(plan.rows_hit, drawn, "all that was drawn is of use");
    let estimate = plan.estimate.unwrap();
    assert!(estimate.at_most.unwrap() > estimate.tokens, "{estimate:?}");
    let grown = Ran::new(&store, &more);
    let fresh = Ran::new(&folder.path().join("fresh"), &more);
    assert_eq!(grown.manifest("rollouts").content(), fresh.manifest("rollouts").content());
    let whole = WAVES.replace("samples = 1\nuntil_correct = 1\nmax_samples = 6\njudge = \"verdicts\"", "samples = 6");
    let whole = pipeline(folder.path(), "whole.toml", &whole);
    let plan = plan_here(&store, &whole).into_iter().find(|plan| plan.name == "rollouts").unwrap();
    assert_eq!(plan.rows_hit, grown.rows::<Rollout>("rollouts").len() as u64);
    let said = ok(&store, &["plan", more.to_str().unwrap(), "--json"]);
    assert!(json(&said)["stages"].as_array().unwrap().iter().all(|stage| stage["parts_miss"] == 0));
}

#[test]
fn what_does_not_fit_together_is_told() {
    let folder = scratch();
    for (from, to, says) in [
        ("max_samples = 6\n", "", "belong together"),
        ("until_correct = 1", "until_correct = 0", "`until_correct` must be at least 1"),
        ("samples = 1\n", "samples = 7\n", "`max_samples` is below `samples`"),
        ("judge = \"verdicts\"", "judge = \"verdict\"", "`judge` names `verdict`, which does not exist"),
        ("judge = \"verdicts\"", "judge = \"problems\"", "which is no judge stage"),
    ] {
        let file = pipeline(folder.path(), "wrong.toml", &WAVES.replacen(from, to, 1));
        let said = fails(&folder.path().join("store"), &["run", file.to_str().unwrap()], 2);
        assert!(said.contains(says), "{to}: {said}");
    }
    let evals = "[stages.evals]\nkind = \"evaluate\"\nproblems = \"problems\"\nverdicts = [\"verdicts\"]\n";
    let file = pipeline(folder.path(), "evals.toml", &format!("{WAVES}{evals}"));
    let said = fails(&folder.path().join("store"), &["run", file.to_str().unwrap()], 2);
    assert!(said.contains("were drawn until one was right"), "{said}");
}
