//! The binary, a scratch folder, and the smoke pipeline to run on it.

use mindgap::net::hub::Watch;
use mindgap::pipeline::{Options, Outcome, Way};
use mindgap::pipeline::{Pipeline, StagePlan};
use mindgap_base::error::Result;
use mindgap_store::Store;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The command, with a store of its own.
pub fn mindgap(store: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mindgap"));
    command
        .current_dir(root())
        .env_remove("MINDGAP_STORE")
        .env_remove("MINDGAP_FAULT")
        .env_remove("MINDGAP_DEVICE")
        .env("MINDGAP_STORE", store)
        .args(args);
    command
}

pub fn run(store: &Path, args: &[&str]) -> Output {
    mindgap(store, args).output().expect("the binary starts")
}

/// Whether what takes minutes is to run; says what is skipped where not.
pub fn slow(what: &str) -> bool {
    let is_wanted = std::env::var_os("MINDGAP_SLOW_TESTS").is_some();
    if !is_wanted {
        eprintln!("skipped: set MINDGAP_SLOW_TESTS=1 for {what}");
    }
    is_wanted
}

/// Runs and requires success; returns stdout.
#[track_caller]
pub fn ok(store: &Path, args: &[&str]) -> String {
    succeeded(mindgap(store, args))
}

/// The same of a command that was changed before.
#[track_caller]
pub fn succeeded(mut command: Command) -> String {
    let output = command.output().expect("the binary starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {}\n{said}", command.get_args(), output.status);
    String::from_utf8(output.stdout).expect("output is UTF-8")
}

/// Runs and requires this exit code; returns stderr.
#[track_caller]
pub fn fails(store: &Path, args: &[&str], code: i32) -> String {
    let output = run(store, args);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}\n{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    stderr
}

pub fn json(text: &str) -> Value {
    serde_json::from_str(text.trim()).expect("one JSON value")
}

/// Stage name -> a field of its object in `run --json`, `plan --json` or `status --json`.
pub fn by_stage(value: &Value, field: &str) -> Vec<(String, Value)> {
    let stages = value["stages"].as_array().expect("a list of stages");
    stages.iter().map(|stage| (stage["name"].as_str().unwrap_or_default().to_string(), stage[field].clone())).collect()
}

/// A store with the smoke pipeline run in it, and what that run said. Made once for all tests that only look.
pub fn smoke() -> &'static (PathBuf, Value) {
    static SMOKE: OnceLock<(PathBuf, Value)> = OnceLock::new();
    SMOKE.get_or_init(|| {
        // Not a temporary folder: nothing would remove it when the process ends.
        let store = Path::new(env!("CARGO_TARGET_TMPDIR")).join("smoke-store");
        let _ = std::fs::remove_dir_all(&store);
        let done = json(&ok(&store, &["run", "pipelines/smoke.toml", "--json"]));
        (store, done)
    })
}

/// A pipeline file in `folder`, with the data folder of the repository in place of `DATA`.
pub fn pipeline(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    let data = root().join("data");
    let templates = root().join("pipelines/templates");
    let fixtures = root().join("tests/fixtures");
    let text = text
        .replace("DATA", &data.display().to_string())
        .replace("TEMPLATES", &templates.display().to_string())
        .replace("FIXTURES", &fixtures.display().to_string());
    std::fs::write(&path, text).expect("the scratch folder is writable");
    path
}

/// The smoke pipeline, cut down to what samples and judges: a second or two.
pub const SMALL: &str = r#"
name = "small"
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
samples = 2
max_new_tokens = 60
part_problems = 8
[stages.verdicts]
kind = "judge"
rollouts = "rollouts"
problems = "problems"
[stages.rewrites]
kind = "rewrite"
problems = "problems"
policy = "base"
self_aligned = ["verdicts"]
part_problems = 8
[stages.logprobs]
kind = "logprob"
rewrites = "rewrites"
policy = "base"
[stages.train]
kind = "train"
policy = "base"
data = "rewrites"
loss = "dft"
learning_rate = 1e-4
batch_size = 8
steps = 4
checkpoint_steps = 1
"#;

/// Every step from sources to a trained policy, on a random policy of two small layers: tens of milliseconds. Several parts
/// each, so that publishing is what takes the time.
pub const TINY: &str = r#"
name = "tiny"
[policies]
base = { path = "FIXTURES/model/qwen2" }
[stages.problems]
kind = "ingest"
files = [{ path = "DATA/world/train-0.parquet", source = "world" }]
limit = 12
part_problems = 6
[stages.rollouts]
kind = "rollout"
problems = "problems"
policy = "base"
samples = 2
max_new_tokens = 3
part_problems = 4
[stages.verdicts]
kind = "judge"
rollouts = "rollouts"
problems = "problems"
[stages.rewrites]
kind = "rewrite"
problems = "problems"
policy = "base"
self_aligned = ["verdicts"]
part_problems = 6
[stages.train]
kind = "train"
policy = "base"
data = "rewrites"
loss = "sft"
learning_rate = 1e-4
batch_size = 4
steps = 2
checkpoint_steps = 1
"#;

/// A pipeline run in this process, where a test can watch what it does to the file system.
pub fn run_here(store: &Path, file: &Path) -> Result<Vec<Outcome>> {
    run_stages_here(store, file, &[])
}

pub fn run_stages_here(store: &Path, file: &Path, stages: &[String]) -> Result<Vec<Outcome>> {
    let pipeline = Pipeline::load(file, &[])?;
    let options = Options {
        threads: 1,
        device: &candle_core::Device::Cpu,
        cancel: &AtomicBool::new(false),
        observer: &|_| (),
        way: Way::Run { share: None },
    };
    mindgap::pipeline::run(&pipeline, &Store::open(store)?, stages, &options)
}

pub fn plan_here(store: &Path, file: &Path) -> Vec<StagePlan> {
    let watch = Watch { cancel: &AtomicBool::new(false), on_transfer: &|_| () };
    mindgap::pipeline::plan(&Pipeline::load(file, &[]).unwrap(), &Store::open(store).unwrap(), &[], &watch).unwrap()
}

/// Address of what each stage made, and how many parts were computed.
pub fn summary(outcomes: &[Outcome]) -> (Vec<(String, String)>, usize) {
    let addresses = outcomes
        .iter()
        .map(|o| (o.name.clone(), o.address.as_ref().map_or(String::new(), ToString::to_string)))
        .collect();
    (addresses, outcomes.iter().map(|o| o.computed_parts).sum())
}

/// A scratch folder in memory where there is one: thousands of syncs cost nothing there.
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a scratch folder")
}
