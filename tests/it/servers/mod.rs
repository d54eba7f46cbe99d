//! Policies on servers, against servers that run the embedded policy with this crate's engine and misbehave as real ones do. All on
//! 127.0.0.1.

mod abreast;
mod aside;
mod cascade;
pub mod fake;
mod faults;
mod kept;
mod launched;

use crate::support::{by_stage, json, pipeline};
use fake::{Fake, Manner, Program, Served, direct};
use mindgap::stage::rollout::stop_reason;
use mindgap_store::Store;
use mindgap_store::table::Row;
use mindgap_store::table::rollouts::Rollout;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Output;

/// The cascade on a policy called `big`, which `POLICY` describes; no training.
const CASCADE: &str = r#"
name = "cascade"
[policies]
big = POLICY
[stages.problems]
kind = "ingest"
files = [{ path = "DATA/world/train-0.parquet", source = "world" }]
limit = 12
part_problems = 6
[stages.rollouts]
kind = "rollout"
problems = "problems"
policy = "big"
samples = 2
max_new_tokens = 60
part_problems = 6
[stages.verdicts]
kind = "judge"
rollouts = "rollouts"
problems = "problems"
[stages.guided]
kind = "rollout"
problems = "problems"
policy = "big"
unsolved = ["verdicts"]
prompt_kind = "guided"
template = "TEMPLATES/world-guided.j2"
samples = 1
max_new_tokens = 60
part_problems = 6
[stages.guided_verdicts]
kind = "judge"
rollouts = "guided"
problems = "problems"
[stages.rewrites]
kind = "rewrite"
problems = "problems"
policy = "big"
self_aligned = ["verdicts"]
guided = ["guided_verdicts"]
[stages.expert]
kind = "rewrite"
problems = "problems"
policy = "big"
[stages.logprobs]
kind = "logprob"
matrix.of = ["expert", "rewrites"]
rewrites = "{of}"
policy = "big"
[stages.gap]
kind = "gap"
problems = "problems"
before = "logprobs-expert"
after = "logprobs-rewrites"
[stages.evals]
kind = "evaluate"
problems = "problems"
verdicts = ["verdicts"]
"#;

fn policy(urls: &[String], more: &str) -> String {
    format!("{{ server = {urls:?}, model = \"tiny\", tokenizer = \"DATA/base-policy\"{more} }}")
}

fn cascade(folder: &Path, name: &str, policy: &str) -> PathBuf {
    pipeline(folder, name, &CASCADE.replace("POLICY", policy))
}

fn run(store: &Path, file: &Path, stages: &[&str]) -> Output {
    let args = [&["run", file.to_str().unwrap(), "--json"], stages].concat();
    direct(store, &args).output().unwrap()
}

#[track_caller]
fn done(output: Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    json(&String::from_utf8(output.stdout).unwrap())
}

#[track_caller]
fn refused(output: Output, code: i32, says: &[&str]) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    for word in says {
        assert!(stderr.contains(word), "`{word}` is not in:\n{stderr}");
    }
    stderr
}

fn rows<R: Row>(store: &Path, stage: &str) -> Vec<R> {
    let store = Store::open(store).unwrap();
    let pointer = store.pointer("cascade", stage).unwrap().unwrap();
    store.read_rows(&store.get_manifest(&pointer.manifest).unwrap().table(R::TABLE)).unwrap()
}

/// Goal: rows are what was served, token for token, whatever order the answers came in.
#[track_caller]
fn assert_served(rollouts: &[Rollout], served: &[Served]) {
    let key = |ids: &[u32], tokens: &[u32]| (ids.to_vec(), tokens.to_vec());
    let mut left: BTreeMap<_, Vec<&Served>> = BTreeMap::new();
    for sample in served {
        left.entry(key(&sample.prompt_ids, &sample.sample.token_ids)).or_default().push(sample);
    }
    for row in rollouts {
        let same = left.get_mut(&key(&row.prompt_ids, &row.token_ids));
        let sample = &same.and_then(Vec::pop).expect("a row that nobody served").sample;
        assert_eq!(row.logprob_behavior.as_ref(), Some(&sample.logprob_behavior));
        assert_eq!(row.logprob_policy.as_ref(), Some(&sample.logprob_policy));
        assert_eq!(row.stop_reason, stop_reason(sample.stop_reason));
    }
    assert!(left.values().all(Vec::is_empty), "served and not kept");
}

/// Address of the rollouts that a run made.
fn rollouts_of(done: &Value) -> Value {
    by_stage(done, "address").into_iter().find(|(name, _)| name == "rollouts").expect("the stage ran").1
}

/// What one good server gives.
fn expected(folder: &Path) -> Value {
    expected_of(Program::Vllm, folder)
}

fn expected_of(program: Program, folder: &Path) -> Value {
    let fake = Fake::start(Manner::good(program));
    let file = cascade(folder, "expected.toml", &policy(&[fake.url()], ""));
    rollouts_of(&done(run(&folder.join(format!("expected-{program:?}")), &file, &["rollouts"])))
}

fn journals(store: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(store.join("journals")) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().path()).collect()
}
