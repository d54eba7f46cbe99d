//! A loop of rounds: what it expands to, and what a longer one computes.

use crate::support::{by_stage, fails, json, ok, pipeline, plan_here, run_here, scratch, summary};

/// Rounds of sampling and training on a random policy of two small layers: tens of milliseconds each. Each round samples the
/// policy of the round before and trains it further.
pub const ROUNDS: &str = r#"
name = "rounds"
[vars]
rounds = 2
[policies]
base = { path = "FIXTURES/model/qwen2" }
[stages.problems]
kind = "ingest"
files = [{ path = "DATA/world/train-0.parquet", source = "world" }]
limit = 12
part_problems = 6
[loop]
rounds = "{rounds}"
vars.policy = { first = "base", then = "train-{last}" }
vars.judged = { earlier = "verdicts-{round}" }
[loop.stages.rollouts]
kind = "rollout"
problems = "problems"
policy = "{policy}"
samples = 2
max_new_tokens = 3
seed = "{round}"
part_problems = 4
[loop.stages.verdicts]
kind = "judge"
rollouts = "rollouts-{round}"
problems = "problems"
[loop.stages.rewrites]
kind = "rewrite"
problems = "problems"
policy = "base"
self_aligned = ["verdicts-{round}"]
round = "{round}"
part_problems = 6
[loop.stages.again]
kind = "rollout"
first_round = 1
problems = "problems"
policy = "{policy}"
unsolved = "{judged}"
samples = 1
max_new_tokens = 3
seed = 9
[loop.stages.train]
kind = "train"
policy = "{policy}"
data = "rewrites-{round}"
loss = "sft"
learning_rate = 1e-4
batch_size = 4
steps = 2
checkpoint_steps = 1
"#;

/// Goal: a loop is nothing but its stages written out, round by round: equal addresses. Two more rounds compute two rounds.
#[test]
fn a_longer_loop_computes_the_rounds_that_are_new() {
    let folder = scratch();
    let store = folder.path().join("store");
    let two = pipeline(folder.path(), "two.toml", ROUNDS);
    let (found, _) = summary(&run_here(&store, &two).unwrap());
    let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    let expected = [
        "problems",
        "rollouts-0",
        "verdicts-0",
        "rewrites-0",
        "train-0",
        "rollouts-1",
        "again-1",
        "verdicts-1",
        "rewrites-1",
        "train-1",
    ];
    assert_eq!(names, expected);

    let four = pipeline(folder.path(), "four.toml", &ROUNDS.replace("rounds = 2", "rounds = 4"));
    let missing: Vec<String> =
        plan_here(&store, &four).into_iter().filter(|plan| plan.parts_hit == 0).map(|plan| plan.name).collect();
    assert!(missing.iter().all(|name| name.ends_with("-2") || name.ends_with("-3")), "{missing:?}");
    assert_eq!(missing.len(), 10, "{missing:?}");
    let (longer, _) = summary(&run_here(&store, &four).unwrap());
    assert_eq!(longer[..found.len()], found);
    assert!(longer.iter().all(|(_, address)| !address.is_empty()));

    let unrolled = unrolled();
    let written = pipeline(folder.path(), "written.toml", &unrolled);
    let (written, computed) = summary(&run_here(&store, &written).unwrap());
    assert_eq!((written, computed), (found, 0), "written out by hand");
}

/// The two rounds of [`ROUNDS`] without a loop.
fn unrolled() -> String {
    let (head, stages) = ROUNDS.split_once("[loop]").unwrap();
    let stages = &stages[stages.find("[loop.stages").unwrap()..];
    let mut text = head.replace("rounds = 2\n", "");
    for (round, policy, judged) in [("0", "base", "[]"), ("1", "train-0", "[\"verdicts-0\"]")] {
        for stage in stages.split("[loop.stages.").skip(1) {
            let (name, body) = stage.split_once(']').unwrap();
            if body.contains("first_round") && round == "0" {
                continue;
            }
            let body =
                body.replace("first_round = 1\n", "").replace("\"{judged}\"", judged).replace("{policy}", policy);
            let body = body.replace("= \"{round}\"", &format!("= {round}")).replace("{round}", round);
            text += &format!("[stages.{name}-{round}]{body}\n");
        }
    }
    text
}

/// Goal: a stage of a loop is asked for by its name as written, for all rounds, or by that of a round.
#[test]
fn rounds_are_asked_for_by_name() {
    let folder = scratch();
    let store = folder.path().join("store");
    let file = pipeline(folder.path(), "rounds.toml", ROUNDS);
    let file = file.to_str().unwrap();
    let done = json(&ok(&store, &["run", file, "verdicts-0", "--json"]));
    let names: Vec<String> = by_stage(&done, "kind").into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["problems", "rollouts-0", "verdicts-0"]);
    let done = json(&ok(&store, &["run", file, "verdicts", "--json"]));
    let names: Vec<String> = by_stage(&done, "kind").into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["problems", "rollouts-0", "verdicts-0", "rewrites-0", "train-0", "rollouts-1", "verdicts-1"]);
    assert!(ok(&store, &["show", file, "rollouts-1"]).contains("completion"));
}

/// Goal: what is wrong in a loop is said with its place.
#[test]
fn mistakes_in_a_loop_are_told_with_their_place() {
    let folder = scratch();
    for (from, to, says) in [
        ("rounds = \"{rounds}\"", "round = 2", "unknown key `round` in `loop`"),
        ("rounds = \"{rounds}\"", "rounds = 0", "neither a number of rounds nor a list"),
        ("first_round = 1", "first_round = 2", "`first_round` must be the number of a round"),
        ("vars.policy = { first", "vars.policy = { frist", "`policy` of `loop.vars` is neither"),
        ("data = \"rewrites-{round}\"", "data = \"rewrites-{rond}\"", "unknown placeholder `{rond}`"),
        (
            "rollouts = \"rollouts-{round}\"",
            "rollouts = \"rollouts\"",
            "`rollouts` names `rollouts`, which does not exist",
        ),
        ("then = \"train-{last}\"", "then = \"train-{round}\"", "stages need each other"),
        ("kind = \"judge\"", "kind = \"juge\"", "unknown stage kind `juge`"),
        ("loss = \"sft\"", "los = \"sft\"", "unknown key `los` in stage `train-0`"),
    ] {
        assert!(ROUNDS.contains(from), "{from}");
        let file = pipeline(folder.path(), "wrong.toml", &ROUNDS.replacen(from, to, 1));
        let said = fails(&folder.path().join("store"), &["plan", file.to_str().unwrap()], 2);
        assert!(said.contains(says), "{to}: {said}");
        let line = said
            .lines()
            .find(|line| line.contains("wrong.toml:"))
            .unwrap_or_else(|| panic!("{to}: no place in {said}"));
        assert!(!line.contains("wrong.toml:1:1"), "{line}");
    }
}
