//! Self-distillation, rewards and their losses as stages: what is made once and used again, and what a kill leaves.

use crate::support::{by_stage, fails, json, mindgap, ok, pipeline, run_here};
use mindgap_store::table::Row;
use mindgap_store::table::gaps::{GapWarning, Warning};
use mindgap_store::table::rewards::Reward;
use mindgap_store::table::rollouts::Rollout;
use mindgap_store::table::soft::Soft;
use mindgap_store::table::train_steps::{BatchPlan, TrainStep};
use mindgap_store::{Manifest, Store};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

/// Samples of the embedded policy, and everything that is made of them.
const ONPOLICY: &str = r#"
name = "onpolicy"
[vars]
learning_rate = 1e-4
[policies]
base = { path = "DATA/base-policy" }
[stages.problems]
kind = "ingest"
files = [{ path = "DATA/world/train-0.parquet", source = "world" }]
limit = 12
part_problems = 6
[stages.rollouts]
kind = "rollout"
problems = "problems"
policy = "base"
samples = 4
max_new_tokens = 60
part_samples = 2
[stages.verdicts]
kind = "judge"
rollouts = "rollouts"
problems = "problems"
[stages.guided]
kind = "rollout"
problems = "problems"
policy = "base"
prompt_kind = "guided"
template = "TEMPLATES/world-guided.j2"
samples = 2
max_new_tokens = 60
[stages.guided_verdicts]
kind = "judge"
rollouts = "guided"
problems = "problems"
[stages.hinted]
kind = "rollout"
problems = "problems"
policy = "base"
prompt_kind = "guided"
template = "TEMPLATES/world-guided.j2"
hint = { beta = 0.7 }
samples = 1
max_new_tokens = 60
[stages.expert]
kind = "rewrite"
problems = "problems"
policy = "base"
[stages.logprobs]
kind = "logprob"
rewrites = "expert"
policy = "base"
[stages.gap]
kind = "gap"
problems = "problems"
before = "logprobs"
after = "logprobs"
verdicts = ["verdicts", "guided_verdicts"]
[stages.soft]
kind = "soft"
rollouts = "rollouts"
problems = "problems"
template = "TEMPLATES/world-guided.j2"
policy = "base"
k = 8
[stages.plain]
kind = "soft"
rollouts = "guided"
problems = "problems"
template = "TEMPLATES/plain.j2"
policy = "base"
k = 1
[stages.rewards]
kind = "reward"
verdicts = "verdicts"
logprobs = "soft"
diversity = "base"
formula = "correct * (1 + 0.35 * likelihood + 0.5 * diversity)"
[stages.train]
kind = "train"
matrix.run = [
    { name = "forward", loss = { name = "distill" } },
    { name = "js", loss = { name = "distill", divergence = "js", skip = 1, clip = 2.0 } },
]
policy = "base"
data = "rollouts"
soft = "soft"
loss = "{run.loss}"
learning_rate = "{learning_rate}"
batch_size = 16
steps = 4
checkpoint_steps = 2
[stages.grpo]
kind = "train"
policy = "base"
data = "rollouts"
rewards = { from = "rewards", column = "reward" }
loss = "grpo"
learning_rate = 1e-4
batch_size = 8
epochs = 1
checkpoint_steps = 2
[stages.chord]
kind = "train"
policy = "base"
data = [{ from = "rollouts", rewards = { from = "rewards", column = "reward" } }, { from = "expert" }]
loss = { name = "chord", decay_steps = 8 }
learning_rate = 1e-4
batch_size = 10
steps = 3
"#;

struct Made {
    store: Store,
}

impl Made {
    fn open(store: &Path) -> Made {
        Made { store: Store::open(store).unwrap() }
    }

    fn manifest(&self, stage: &str) -> Manifest {
        let pointer = self.store.pointer("onpolicy", stage).unwrap().expect("the stage has run");
        self.store.get_manifest(&pointer.manifest).unwrap()
    }

    fn rows<R: Row>(&self, stage: &str) -> Vec<R> {
        self.store.read_rows(&self.manifest(stage).table(R::TABLE)).unwrap()
    }
}

/// Goal: the tables say what they are to say, a step takes whole groups and its experts, and another loss, seed or learning rate on
/// the same soft table scores nothing.
#[test]
fn one_soft_table_serves_all() {
    let dir = tempfile::tempdir().unwrap();
    let (store, file) = (dir.path().join("store"), pipeline(dir.path(), "onpolicy.toml", ONPOLICY));
    run_here(&store, &file).unwrap();
    let made = Made::open(&store);
    let (rollouts, soft) = (made.rows::<Rollout>("rollouts"), made.rows::<Soft>("soft"));
    assert_eq!(rollouts.len(), 48);
    for (rollout, soft) in rollouts.iter().zip(&soft) {
        assert_eq!((&rollout.problem_id, rollout.sample_index), (&soft.problem_id, soft.choice_index));
        assert_eq!((&rollout.token_ids, soft.k), (&soft.token_ids, 8));
        assert!(soft.prompt_token_count as usize > rollout.prompt_ids.len(), "the teacher sees the solution too");
        for (place, token) in soft.token_ids.iter().enumerate() {
            let (ids, values) = (&soft.top_ids[8 * place..8 * place + 8], &soft.top_logprobs[8 * place..8 * place + 8]);
            let sum: f32 = values.iter().map(|x| x.exp()).sum();
            assert!(values.is_sorted_by(|a, b| a >= b) && (sum + soft.tail[place] - 1.0).abs() < 1e-5);
            if let Some(at) = ids.iter().position(|id| id == token) {
                assert_eq!(values[at], soft.logprob_teacher[place]);
            }
        }
    }
    // Under its own prompt a sample's log-probs are those it was drawn with.
    let hinted = made.rows::<Rollout>("hinted");
    assert!(hinted.iter().all(|row| row.prompt_ids == prompt_of(&rollouts, &row.problem_id)));
    assert!(hinted.iter().any(|row| row.logprob_behavior != row.logprob_policy));
    let plain = made.rows::<Soft>("plain");
    assert!(plain.iter().all(|row| row.prompt_token_count as usize == prompt_of(&rollouts, &row.problem_id).len()));
    check_rewards(&made.rows::<Reward>("rewards"));
    check_groups(&made, &rollouts);
    let warnings = made.rows::<GapWarning>("gap");
    let lift = warnings.iter().find(|row| row.warning == Warning::NoLift).unwrap();
    assert!(lift.row_count == 12 && lift.message.contains("on 12 problems"), "{}", lift.message);

    let plan = ok(&store, &["plan", file.to_str().unwrap(), "--set", "learning_rate=2e-4", "--json"]);
    let missing = by_stage(&json(&plan), "parts_miss");
    let missing: Vec<String> = missing.into_iter().filter(|(_, parts)| *parts != 0).map(|(stage, _)| stage).collect();
    assert_eq!(missing, ["train-forward", "train-js"], "only the trainings are to be made, and nothing scored");
}

fn prompt_of<'a>(rollouts: &'a [Rollout], problem_id: &str) -> &'a [u32] {
    &rollouts.iter().find(|row| row.problem_id == problem_id).unwrap().prompt_ids
}

fn check_rewards(rewards: &[Reward]) {
    assert!(rewards.iter().any(|row| row.correct) && rewards.iter().any(|row| !row.correct));
    for row in rewards {
        assert_eq!((row.likelihood.is_some(), row.diversity.is_some()), (row.correct, row.correct));
        let wanted = match (row.likelihood, row.diversity) {
            (Some(likelihood), Some(diversity)) => 1.0 + 0.35 * likelihood + 0.5 * diversity,
            _ => 0.0,
        };
        assert!((row.reward - wanted).abs() < 1e-12 && row.logprob.unwrap() < 0.0, "{row:?}");
    }
}

fn check_groups(made: &Made, rollouts: &[Rollout]) {
    let mut sorted: Vec<(&str, u32)> = rollouts.iter().map(|row| (row.problem_id.as_str(), row.sample_index)).collect();
    sorted.sort_unstable();
    for step in made.rows::<BatchPlan>("grpo") {
        assert_eq!(step.rows.len(), 8, "two problems of four samples");
        let mut problems: Vec<&str> = step.rows.iter().map(|row| sorted[*row as usize].0).collect();
        problems.sort_unstable();
        assert!(problems.chunk_by(|a, b| a == b).all(|group| group.len() == 4), "{problems:?}");
    }
    for step in made.rows::<BatchPlan>("chord") {
        let portions = step.portions.unwrap();
        let experts = portions.iter().filter(|portion| **portion == 1).count();
        assert_eq!((portions.len() - experts, experts), (8, 2));
    }
    for stage in ["train-forward", "train-js", "grpo", "chord"] {
        let steps = made.rows::<TrainStep>(stage);
        assert!(steps.iter().all(|step| step.skipped.is_none()), "{stage}");
        // Samples that are all right or all wrong teach nothing.
        assert!(steps.iter().any(|step| step.grad_norm > 0.0), "{stage}");
    }
}

const DOCUMENTS: &str = r#"
[stages.documents]
kind = "documents"
files = ["DATA/world/corpus-sample.parquet"]
policy = "base"
"#;

/// Goal: what is written wrong is told by `plan`, with what to write instead.
#[test]
fn what_does_not_fit_is_told_before_anything_runs() {
    let cases = [
        ("soft = \"soft\"\n", "", "goes by a teacher's distributions"),
        (
            "rewards = { from = \"rewards\", column = \"reward\" }\nloss = \"grpo\"",
            "loss = \"grpo\"",
            "compares samples by their rewards",
        ),
        ("loss = \"grpo\"", "loss = \"sft\"", "has no use for `rewards`"),
        ("formula = \"correct * (1", "formula = \"correct * (tokns", "names `tokns`"),
        ("formula = \"correct * (1", "formula = \"correct * ((1", "does not parse"),
        ("k = 8", "k = 0", "`k` is `0`"),
        ("clip = 2.0", "clip = -1.0", "`clip` is `-1`"),
        ("hint = { beta = 0.7 }", "hint = { beta = -0.7 }", "`beta` of `hint`"),
        ("diversity = \"base\"", "diversity = \"soft\"", "soft"),
        ("soft = \"soft\"\nloss", "soft = \"rewards\"\nloss", "rewards"),
        (", { from = \"expert\" }]", "]", "is of two portions"),
        ("data = \"rollouts\"\nsoft", "data = \"documents\"\nsoft", "documents"),
    ];
    for (from, to, what) in cases {
        let dir = tempfile::tempdir().unwrap();
        assert!(ONPOLICY.contains(from), "{from}");
        let file = pipeline(dir.path(), "onpolicy.toml", &[&ONPOLICY.replacen(from, to, 1), DOCUMENTS].concat());
        let error = fails(&dir.path().join("store"), &["plan", file.to_str().unwrap()], 2);
        assert!(error.contains(what), "{from} -> {to}: {error}");
    }
}

/// Goal: runs killed whenever something was written down end with the addresses of one that nobody killed, whichever of these stages
/// they were in.
#[test]
fn killed_runs_end_with_the_same_addresses() {
    let dir = tempfile::tempdir().unwrap();
    let text = ONPOLICY.replace("limit = 12", "limit = 6");
    let file = pipeline(dir.path(), "onpolicy.toml", &text);
    let file = file.to_str().unwrap();
    let whole = ok(&dir.path().join("whole"), &["run", file, "--json"]);
    let expected = by_stage(&json(&whole), "address");
    let store = dir.path().join("killed");
    for kills in 0.. {
        assert!(kills < 200, "the runs do not come to an end");
        // Later and later, so that every run gets further than the one before.
        let fault = format!("object.synced:{}", 1 + kills % 3);
        let output = mindgap(&store, &["run", file, "--json"]).env("MINDGAP_FAULT", fault).output().unwrap();
        if output.status.success() {
            assert!(kills > 10, "the run was killed {kills} times only");
            assert_eq!(by_stage(&json(&String::from_utf8(output.stdout).unwrap()), "address"), expected);
            break;
        }
        assert_eq!(output.status.signal(), Some(9), "{}", String::from_utf8_lossy(&output.stderr));
    }
    ok(&store, &["check"]);
}
