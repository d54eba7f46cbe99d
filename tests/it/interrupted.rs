//! Work that ends inside a part: what was finished is kept, and the resumed part has the bytes of one that was never stopped.

use crate::support::{SMALL, TINY, by_stage, fails, json, mindgap, ok, pipeline};
use mindgap_base::fingerprint::Fingerprint;
use mindgap_store::Store;
use mindgap_store::table::Row;
use mindgap_store::table::judgements::JudgementRow;
use mindgap_store::table::logprobs::Logprob;
use mindgap_store::table::rollouts::Rollout;
use mindgap_store::table::soft::Soft;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

fn journals(store: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(store.join("journals")) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// What the journals hold, in the order it came.
fn kept<R: Row>(store: &Path) -> Vec<R> {
    let opened = Store::open(store).unwrap();
    let part = |path: PathBuf| -> Fingerprint {
        serde_json::from_value(path.file_name().unwrap().to_str().unwrap().into()).unwrap()
    };
    journals(store).into_iter().flat_map(|path| opened.journal(&part(path)).read::<R>().unwrap()).collect()
}

fn address(done: &Value, stage: &str) -> Value {
    by_stage(done, "address").into_iter().find(|(name, _)| name == stage).expect("the stage ran").1
}

/// Kills runs of `stage` whenever something finished was written down, until one gets through. Each must keep what those before
/// it had finished, add to it, and the last must give what one that nobody killed gives.
fn killed_at_every_write<R: Row + PartialEq + std::fmt::Debug>(file: &str, stage: &str, folder: &Path, rows: usize) {
    let expected = address(&json(&ok(&folder.join("whole"), &["run", file, stage, "--json"])), stage);
    let store = folder.join("killed");
    let needs = match stage {
        "logprobs" => "rewrites",
        "soft" => "rollouts",
        "verdicts" => "rollouts",
        _ => "problems",
    };
    ok(&store, &["run", file, needs]);
    let mut before: Vec<R> = Vec::new();
    for kills in 0.. {
        assert!(kills <= rows, "{kills} kills for {rows} rows: something was made twice");
        let mut run = mindgap(&store, &["run", file, stage, "--json"]);
        let output = run.env("MINDGAP_FAULT", "journal.synced:1").output().unwrap();
        if output.status.success() {
            assert!(kills > 1, "the run was killed {kills} times only");
            assert_eq!(address(&json(&String::from_utf8(output.stdout).unwrap()), stage), expected);
            break;
        }
        assert_eq!(output.status.signal(), Some(9), "{}", String::from_utf8_lossy(&output.stderr));
        let now: Vec<R> = kept(&store);
        assert!(now.len() > before.len(), "a run added nothing");
        assert_eq!(now[..before.len()], before[..], "what was finished was made again");
        before = now;
    }
    assert!(journals(&store).is_empty(), "a published part needs no journal");
    ok(&store, &["check"]);
}

#[test]
fn a_killed_engine_draws_no_finished_sample_again() {
    let folder = tempfile::tempdir().unwrap();
    let text = SMALL.replace("limit = 24\npart_problems = 8", "limit = 8");
    let file = pipeline(folder.path(), "p.toml", &text);
    killed_at_every_write::<Rollout>(file.to_str().unwrap(), "rollouts", folder.path(), 16);
}

#[test]
fn a_killed_teacher_scores_no_finished_text_again() {
    let folder = tempfile::tempdir().unwrap();
    let soft = "[stages.soft]\nkind = \"soft\"\nrollouts = \"rollouts\"\npolicy = \"base\"\n";
    let file = pipeline(folder.path(), "p.toml", &[&SMALL.replace("part_problems = 8", ""), soft].concat());
    killed_at_every_write::<Soft>(file.to_str().unwrap(), "soft", folder.path(), 48);
}

#[test]
fn a_killed_engine_scores_no_finished_row_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = pipeline(folder.path(), "p.toml", &SMALL.replace("part_problems = 8", ""));
    killed_at_every_write::<Logprob>(file.to_str().unwrap(), "logprobs", folder.path(), 24);
}

#[test]
fn a_killed_judge_asks_about_no_sample_again() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("judge.j2"), "{{ question }} {{ response }}").unwrap();
    let stage = "rollouts = \"rollouts\"\nproblems = \"problems\"\n";
    for verdict in ["\"text\", max_new_tokens = 40", "\"yes_no\""] {
        let judge = format!("{{ kind = \"model\", policy = \"base\", template = \"judge.j2\", verdict = {verdict} }}");
        let text = SMALL
            .replace("limit = 24\npart_problems = 8", "limit = 8")
            .replace(stage, &format!("{stage}judge = {judge}\n"));
        let file = pipeline(folder.path(), "p.toml", &text);
        killed_at_every_write::<JudgementRow>(file.to_str().unwrap(), "verdicts", folder.path(), 16);
        std::fs::remove_dir_all(folder.path().join("killed")).unwrap();
    }
}

/// Rollouts and log-probs in one part each, long enough that a kill falls inside. Samples end by themselves, at moments of their own: of
/// those that all end together a kill leaves none.
const REAL: &str = r#"
name = "real"
[policies]
base = { path = "POLICY", weights = "bf16" }
[stages.few]
kind = "ingest"
files = [{ path = "DATA/world/train-0.parquet", source = "world" }]
limit = 24
[stages.rollouts]
kind = "rollout"
problems = "few"
policy = "base"
samples = 2
max_new_tokens = 192
[stages.problems]
kind = "ingest"
files = [{ path = "DATA/world/train-1.parquet", source = "world" }]
limit = 256
part_problems = 1024
[stages.rewrites]
kind = "rewrite"
problems = "problems"
policy = "base"
[stages.logprobs]
kind = "logprob"
rewrites = "rewrites"
policy = "base"
"#;

/// Kills runs of a stage of one part at random moments, on a fresh store whenever one is through. What the journal holds after a
/// kill must be there after the next, once each; the end must be that of a run nobody killed. Returns how many rows the kills left.
fn killed_inside<R: Row + PartialEq>(file: &str, stage: &str, folder: &Path, kills: usize) -> usize {
    let needs = if stage == "logprobs" { "rewrites" } else { "few" };
    let fresh = |name: String| {
        let store = folder.join(name);
        ok(&store, &["run", file, needs]);
        store
    };
    let whole = fresh(format!("{stage}-whole"));
    let started = Instant::now();
    let expected = address(&json(&ok(&whole, &["run", file, stage, "--json"])), stage);
    let mut took = started.elapsed().as_secs_f64();
    let mut moments = mindgap_base::rng::Stream::at(1, &[b"kill", stage.as_bytes()]).cursor();
    let (mut killed, mut stores, mut left) = (0, 0, 0);
    while killed < kills {
        stores += 1;
        let store = fresh(format!("{stage}-{stores}"));
        let mut before: Vec<R> = Vec::new();
        let done = loop {
            let mut child = mindgap(&store, &["run", file, stage, "--json"])
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let begun = Instant::now();
            if killed < kills {
                let moment = Duration::from_secs_f64(moments.uniform() * took);
                while begun.elapsed() < moment && child.try_wait().unwrap().is_none() {
                    std::thread::sleep(Duration::from_millis(20));
                }
                let _ = child.kill();
            }
            let output = child.wait_with_output().unwrap();
            if output.status.success() {
                // A machine that had other work at first: kills are to fall inside.
                if before.is_empty() {
                    took = took.min(begun.elapsed().as_secs_f64());
                }
                break json(&String::from_utf8(output.stdout).unwrap());
            }
            assert_eq!(output.status.signal(), Some(9));
            killed += 1;
            let now: Vec<R> = kept(&store);
            if now.is_empty() && !before.is_empty() {
                // It died between the part and the manifest: nothing is left to make.
                let plan = json(&ok(&store, &["plan", file, stage, "--json"]));
                assert_eq!(by_stage(&plan, "parts_miss").pop().unwrap().1, 0, "what was finished is gone");
                continue;
            }
            assert!(now[..before.len()] == before[..], "what was finished is gone");
            let twice = now.iter().enumerate().filter(|(at, row)| now[..*at].contains(row)).count();
            assert_eq!(twice, 0, "finished rows were made again");
            left += now.len();
            before = now;
        };
        assert_eq!(address(&done, stage), expected);
        assert!(journals(&store).is_empty());
        ok(&store, &["check"]);
    }
    eprintln!(
        "{stage}: {killed} kills over {stores} runs of {took:.1} s: {left} finished rows met after a kill, 0 made again, bytes equal"
    );
    left
}

#[test]
fn kills_inside_parts_of_a_policy() {
    let Some(policy) = std::env::var_os("MINDGAP_REAL_POLICY") else {
        eprintln!("skipped: name the folder of a policy that takes seconds for a part in MINDGAP_REAL_POLICY");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let text = REAL.replace("POLICY", &policy.to_string_lossy());
    let file = pipeline(folder.path(), "real.toml", &text).display().to_string();
    assert!(killed_inside::<Rollout>(&file, "rollouts", folder.path(), 30) > 0);
    assert!(killed_inside::<Logprob>(&file, "logprobs", folder.path(), 20) > 0);
}

/// Goal: a training that is told to stop loses no step, however far its checkpoints are apart.
#[test]
fn a_training_told_to_stop_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let text = TINY.replace("steps = 2\ncheckpoint_steps = 1", "steps = 800\ncheckpoint_steps = 800");
    let file = pipeline(folder.path(), "p.toml", &text);
    let file = file.to_str().unwrap();
    let expected = address(&json(&ok(&folder.path().join("whole"), &["run", file, "--json"])), "train");
    let store = folder.path().join("stopped");
    ok(&store, &["run", file, "rewrites"]);
    let mut stops: u64 = 0;
    let done = loop {
        let mut child = mindgap(&store, &["run", file, "train", "--json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut lines = String::new();
        // A busy machine takes a while to begin.
        while said.read_line(&mut lines).unwrap() > 0 && !lines.contains("train: 1 of 1 parts to compute") {}
        std::thread::sleep(Duration::from_millis(400 * (1 + stops)));
        let _ =
            std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).stderr(Stdio::null()).status();
        said.read_to_string(&mut lines).unwrap();
        let output = child.wait_with_output().unwrap();
        match output.status.code() {
            Some(130) => stops += 1,
            Some(0) => break json(&String::from_utf8(output.stdout).unwrap()),
            other => panic!("{other:?}: {lines}"),
        }
        assert_eq!(journals(&store).len(), 1, "the training is kept");
        assert!(stops < 20, "the training makes no way");
    };
    assert!(stops > 0, "it was through before it was told to stop");
    assert_eq!(address(&done, "train"), expected);
    assert!(journals(&store).is_empty());
}

/// Goal: how parts are cut changes no row, and cutting them otherwise draws nothing again.
#[test]
fn parts_with_fewer_tokens_hold_the_same_rows() {
    let folder = tempfile::tempdir().unwrap();
    let whole = SMALL.replace("part_problems = 8", "");
    let coarse = pipeline(folder.path(), "coarse.toml", &whole);
    let fine = pipeline(
        folder.path(),
        "fine.toml",
        &whole.replace("max_new_tokens = 60", "max_new_tokens = 60\npart_tokens = 500"),
    );
    let (coarse, fine) = (coarse.to_str().unwrap(), fine.to_str().unwrap());
    let store = folder.path().join("store");
    let rows = |store: &Path, file: &str| ok(store, &["show", file, "rollouts", "--json", "--limit", "1000"]);
    let parts = |done: &Value| by_stage(done, "parts").into_iter().find(|(name, _)| name == "rollouts").unwrap().1;
    let done = json(&ok(&store, &["run", coarse, "rollouts", "--json"]));
    let expected = rows(&store, coarse);
    assert_eq!((parts(&done), expected.lines().count()), (1.into(), 48));
    let plan = json(&ok(&store, &["plan", fine, "rollouts", "--json"]));
    let counted = |field: &str| by_stage(&plan, field).pop().unwrap().1;
    assert_eq!((counted("parts_miss"), counted("rows_hit"), counted("rows_miss")), (6.into(), 48.into(), 0.into()));
    let done = json(&ok(&store, &["run", fine, "verdicts", "--json"]));
    assert_eq!((parts(&done), rows(&store, fine)), (6.into(), expected.clone()));
    let fresh = folder.path().join("fresh");
    ok(&fresh, &["run", fine, "rollouts"]);
    assert_eq!(rows(&fresh, fine), expected);
    let error = fails(
        &store,
        &[
            "plan",
            pipeline(folder.path(), "none.toml", &SMALL.replace("samples = 2", "samples = 2\npart_tokens = 0"))
                .to_str()
                .unwrap(),
        ],
        2,
    );
    assert!(error.contains("`part_tokens` must be at least 1"), "{error}");
}
