//! Servers that are started for a policy: this test program again, as the program that serves.

use super::fake::{Fake, Fault, Manner, Program, Seen, direct};
use super::{cascade, done, expected, refused, rollouts_of, rows, run};
use crate::support::{by_stage, pipeline};
use mindgap_store::fs::try_lock;
use mindgap_store::table::logprobs::Logprob;
use mindgap_store::table::rollouts::Rollout;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// Serves until it is ended, where it is started as a program; as a test it does nothing.
#[test]
fn as_a_program() {
    let Ok(port) = std::env::var("FAKE_PORT") else { return };
    let said = |name: &str| -> &'static str { Box::leak(std::env::var(name).unwrap().into_boxed_str()) };
    let state = PathBuf::from(said("FAKE_STATE"));
    let crash_after: Option<usize> = std::env::var("FAKE_CRASH_AFTER").ok().map(|count| count.parse().unwrap());
    let lives = std::fs::read_to_string(state.join("lives")).unwrap_or_default().lines().count();
    let drawn = state.join("drawn");
    let misbehave = move |seen: &Seen| {
        if seen.draws() && crash_after.is_some_and(|count| lives == 1 && seen.number >= count) {
            std::process::exit(3);
        }
        if seen.draws() {
            append(&drawn, &seen.body["seed"].to_string());
        }
        None::<Fault>
    };
    let manner = Manner {
        model: said("FAKE_MODEL"),
        tokenizer: said("FAKE_FOLDER"),
        processed: true,
        misbehave: Box::new(misbehave),
        ..Manner::good(Program::Vllm)
    };
    let _fake = Fake::at(port.parse().unwrap(), manner);
    // Whoever starts it ends it.
    std::thread::sleep(Duration::from_secs(600));
}

fn append(path: &Path, line: &str) {
    use std::io::Write;
    let mut file = std::fs::File::options().create(true).append(true).open(path).unwrap();
    writeln!(file, "{line}").unwrap();
}

/// A program that is called as vLLM is, and writes down how, when, and beside whom.
fn program(folder: &Path) -> PathBuf {
    let (path, test, state) = (folder.join("vllm"), std::env::current_exe().unwrap(), folder.display());
    let script = format!(
        "#!/bin/sh\n\
         echo \"$*\" >> {state}/lives\n\
         if [ -f {state}/pid ] && kill -0 $(cat {state}/pid) 2>/dev/null; then echo beside >> {state}/beside; fi\n\
         echo $$ > {state}/pid\n\
         echo Loading the weights\n\
         FAKE_STATE={state} FAKE_FOLDER=\"$1\" FAKE_PORT=\"$5\" FAKE_MODEL=\"$7\" \\\n\
         exec {} servers::launched::as_a_program --exact --nocapture\n",
        test.display()
    );
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn lines(path: PathBuf) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_string).collect()
}

fn command(folder: &Path, store: &Path, file: &Path, stages: &[&str]) -> Command {
    let args = [&["run", file.to_str().unwrap(), "--json"], stages].concat();
    let mut command = direct(store, &args);
    command.env("MINDGAP_VLLM", program(folder)).env("CUDA_VISIBLE_DEVICES", "");
    command
}

fn launched(folder: &Path, store: &Path, file: &Path, stages: &[&str]) -> Output {
    command(folder, store, file, stages).output().unwrap()
}

/// Whether the program that was started last still runs.
fn runs(folder: &Path) -> bool {
    let pid = lines(folder.join("pid")).pop().expect("a program was started");
    Command::new("kill").args(["-0", &pid]).stderr(Stdio::null()).status().unwrap().success()
}

const POLICY: &str = "{ path = \"DATA/base-policy\", engine = \"vllm\"";

/// Goal: rows are those that the same server gives to whom it is named, with the program that made them; it is started once for
/// stages in a row, called as documented, and ended with the run.
#[test]
fn a_policy_is_served_for_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let expected = expected(folder.path());
    let store = folder.path().join("store");
    let policy = format!("{POLICY}, args = [\"--dtype\", \"float32\"], max_model_len = 512 }}");
    let file = cascade(folder.path(), "launched.toml", &policy);
    let said = done(launched(folder.path(), &store, &file, &[]));
    assert_eq!(rollouts_of(&said), expected);
    let rollouts: Vec<Rollout> = rows(&store, "rollouts");
    assert!(rollouts.iter().all(|row| row.engine.as_deref() == Some("vllm 0.99.0")));
    let scored: Vec<Logprob> = rows(&store, "logprobs-expert");
    assert!(scored.iter().all(|row| row.engine.as_deref() == Some("vllm 0.99.0")));
    let lives = lines(folder.path().join("lives"));
    assert_eq!(lives.len(), 1, "{lives:?}");
    let data = crate::support::root().join("data/base-policy");
    assert!(lives[0].starts_with(&format!("{} --host 127.0.0.1 --port ", data.display())), "{lives:?}");
    let ends = "--served-model-name big --logprobs-mode processed_logprobs --max-model-len 512 --dtype float32";
    assert!(lives[0].ends_with(ends), "{lives:?}");
    assert!(!runs(folder.path()));
    let logs = std::fs::read_dir(store.join("runs")).unwrap().map(|entry| entry.unwrap().path());
    let log = logs.into_iter().find(|path| path.to_string_lossy().ends_with(".big.log")).expect("its log is kept");
    assert!(std::fs::read_to_string(log).unwrap().contains("Loading the weights"));
    // Nothing is missing: nothing is started.
    done(launched(folder.path(), &store, &file, &[]));
    assert_eq!(lines(folder.path().join("lives")).len(), 1);
}

/// Goal: arguments change no recipe, and what is said of the weights does.
#[test]
fn arguments_are_not_in_the_recipe() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let with = |more: &str| cascade(folder.path(), "launched.toml", &format!("{POLICY}{more} }}"));
    done(launched(folder.path(), &store, &with(""), &["rollouts"]));
    let more =
        ", args = [\"--enforce-eager\"], in_flight = 2, patience_seconds = 9, timeout_seconds = 99, seed = false";
    done(launched(folder.path(), &store, &with(more), &["rollouts"]));
    assert_eq!(lines(folder.path().join("lives")).len(), 1);
    done(launched(folder.path(), &store, &with(", served_as = \"fp8\""), &["rollouts"]));
    assert_eq!(lines(folder.path().join("lives")).len(), 2);
}

/// Goal: a server that crashes is started again, no sample that came is asked for twice, and the rows are the same.
#[test]
fn a_crash_is_gone_over() {
    let folder = tempfile::tempdir().unwrap();
    let expected = expected(folder.path());
    let store = folder.path().join("store");
    let file = cascade(folder.path(), "crash.toml", &format!("{POLICY}, in_flight = 1 }}"));
    let output = command(folder.path(), &store, &file, &["rollouts"]).env("FAKE_CRASH_AFTER", "5").output().unwrap();
    assert_eq!(rollouts_of(&done(output)), expected);
    assert_eq!(lines(folder.path().join("lives")).len(), 2);
    let drawn = lines(folder.path().join("drawn"));
    assert_eq!(drawn.len(), 24, "each sample is drawn once");
}

/// Goal: one that never serves is an error with what it said; so is one that is not there.
#[test]
fn what_cannot_be_started_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let launch = "{ path = \"DATA/base-policy\", engine = \"sglang\", launch = \"echo serving $MODEL_NAME from $MODEL_FOLDER at $PORT; \
                  echo RuntimeError: no such GPU >&2; for i in $(seq 99); do echo cleaning up $i; done; exit 7\" }";
    let file = cascade(folder.path(), "ends.toml", launch);
    let stderr = refused(
        launched(folder.path(), &store, &file, &["rollouts"]),
        4,
        &[
            "sglang for policy `big` ended before it served anything, with exit status: 7",
            "RuntimeError: no such GPU",
            "cleaning up 99",
        ],
    );
    assert!(!stderr.contains("cleaning up 50"), "{stderr}");
    let logs = std::fs::read_dir(store.join("runs")).unwrap().map(|entry| entry.unwrap().path());
    let log = logs.into_iter().find(|path| path.to_string_lossy().ends_with(".big.log")).expect("its log is kept");
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("serving big from /") && log.contains("data/base-policy at "), "{log}");
    let file = cascade(folder.path(), "absent.toml", &format!("{POLICY} }}"));
    let mut absent = command(folder.path(), &store, &file, &["rollouts"]);
    absent.env("MINDGAP_VLLM", "/nowhere/vllm serve");
    refused(absent.output().unwrap(), 4, &["cannot find the program `/nowhere/vllm`", "MINDGAP_VLLM"]);
}

/// Goal: SIGKILL of the run ends the server too, and the next run goes on.
#[test]
fn a_killed_run_leaves_no_server() {
    let folder = tempfile::tempdir().unwrap();
    let expected = expected(folder.path());
    let store = folder.path().join("store");
    let file = cascade(folder.path(), "killed.toml", &format!("{POLICY}, in_flight = 1 }}"));
    let output = command(folder.path(), &store, &file, &["rollouts"]).env("MINDGAP_FAULT", "journal.synced:7").output();
    assert!(!output.unwrap().status.success());
    for tries in 0.. {
        if !runs(folder.path()) {
            break;
        }
        assert!(tries < 600, "the server is still there");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(rollouts_of(&done(launched(folder.path(), &store, &file, &["rollouts"]))), expected);
    let drawn = lines(folder.path().join("drawn")).len();
    // Of one thread, one request was under way at most, and one answer waited for the journal.
    assert!((24..=26).contains(&drawn), "{drawn} samples were drawn");
}

/// A policy that is trained, and one that is not: each is scored by a server and by this process.
const TRAINED: &str = r#"
name = "cascade"
[policies]
base = { path = "DATA/base-policy" }
first = { path = "DATA/base-policy", engine = "vllm" }
second = { stage = "train", engine = "vllm" }
[stages.problems]
kind = "ingest"
files = [{ path = "DATA/world/train-0.parquet", source = "world" }]
limit = 4
[stages.expert]
kind = "rewrite"
problems = "problems"
policy = "base"
[stages.rollouts]
kind = "rollout"
problems = "problems"
policy = "first"
samples = 1
max_new_tokens = 20
[stages.verdicts]
kind = "judge"
rollouts = "rollouts"
problems = "problems"
[stages.train]
kind = "train"
policy = "first"
data = "expert"
loss = "sft"
learning_rate = 1e-3
batch_size = 4
steps = 2
[stages.rewrites]
kind = "rewrite"
problems = "problems"
policy = "first"
self_aligned = ["verdicts"]
[stages.logprobs_first]
kind = "logprob"
rewrites = "rewrites"
policy = "first"
[stages.logprobs_second]
kind = "logprob"
rewrites = "expert"
policy = "second"
[stages.logprobs_here]
kind = "logprob"
rewrites = "expert"
policy = "train"
[stages.logprobs_base]
kind = "logprob"
rewrites = "expert"
policy = "base"
"#;

/// Goal: a policy trained in the pipeline is served as it is; no two servers run at a time, and what one has to do is done before it
/// ends, though the training could come earlier.
#[test]
fn a_trained_policy_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let file = pipeline(folder.path(), "trained.toml", TRAINED);
    done(launched(folder.path(), &store, &file, &[]));
    let scores = |stage: &str| -> Vec<f32> {
        rows::<Logprob>(&store, stage).into_iter().flat_map(|row| row.logprob_policy).collect()
    };
    let (second, here, before) = (scores("logprobs_second"), scores("logprobs_here"), scores("logprobs_base"));
    let difference = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(difference(&second, &here) < 1e-4 && difference(&before, &second) > 1e-2);
    assert_eq!(lines(folder.path().join("lives")).len(), 2);
    assert!(!folder.path().join("beside").exists(), "two servers ran at a time");
}

/// Goal: a run waits for GPUs that another holds a policy on, says so, and goes on when they are free.
#[test]
fn runs_share_no_gpu() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let file = cascade(folder.path(), "waits.toml", &format!("{POLICY} }}"));
    let held = try_lock(&folder.path().join("mindgap-gpu-GPU-test.lock")).unwrap().expect("nobody has it");
    let mut waits = command(folder.path(), &store, &file, &["rollouts"]);
    waits.env("CUDA_VISIBLE_DEVICES", "GPU-test").env("TMPDIR", folder.path());
    let child = waits.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert!(!folder.path().join("lives").exists(), "it did not wait");
    drop(held);
    done(child.wait_with_output().unwrap());
    assert_eq!(lines(folder.path().join("lives")).len(), 1);
}

/// Goal: `plan` says that a server program could run a stage, where there is one and a GPU for it, and nothing anywhere else.
#[test]
fn plan_tells_of_a_program_at_hand() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let remarks = |policy: &str, devices: &str| {
        let file = cascade(folder.path(), "plan.toml", policy);
        done(run(&store, &file, &["problems"]));
        let mut plan = direct(&store, &["plan", file.to_str().unwrap(), "--json", "rollouts"]);
        plan.env("MINDGAP_VLLM", program(folder.path())).env("CUDA_VISIBLE_DEVICES", devices);
        by_stage(&done(plan.output().unwrap()), "remarks").pop().unwrap().1.to_string()
    };
    let here = "{ path = \"DATA/base-policy\" }";
    let says = "`engine = \\\"vllm\\\"` of its policy runs it on the GPU here: how long is known once a part ran there";
    assert!(remarks(here, "0").contains(says), "{}", remarks(here, "0"));
    assert!(!remarks(here, "").contains("engine") && !remarks(&format!("{POLICY} }}"), "0").contains("engine"));
}

/// Goal: what contradicts itself is refused before anything runs.
#[test]
fn contradictions_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cases = [
        ("{ gguf = \"model.gguf\", engine = \"vllm\" }", "runs in this process alone"),
        ("{ path = \"x\", engine = \"vllm\", weights = \"int8\" }", "say what this process holds"),
        ("{ path = \"x\", engine = \"vllm\", launch = \"serve\", args = [\"-x\"] }", "`launch` is another"),
        ("{ path = \"x\", launch = \"serve\" }", "missing field `engine`"),
        ("{ path = \"x\", engine = \"ollama\" }", "unknown variant `ollama`"),
        ("{ path = \"x\", args = [\"-x\"] }", "unknown key `args`"),
        ("{ path = \"x\", engine = \"vllm\", in_flight = 0 }", "`in_flight` must be at least 1"),
    ];
    for (policy, says) in cases {
        let file = cascade(folder.path(), "wrong.toml", policy);
        refused(run(&store, &file, &["rollouts"]), 2, &[says]);
    }
}
