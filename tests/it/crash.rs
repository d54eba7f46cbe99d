//! Processes that die, are asked to stop, or share a store: the next run goes on with the same addresses, and no part is computed
//! twice.

use crate::rounds::ROUNDS;
use crate::support::{TINY, by_stage, json, mindgap, ok, pipeline, root, slow};
use mindgap_base::fingerprint::Fingerprint;
use mindgap_store::{PartRecord, Store};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn addresses(store: &Path, file: &str) -> (Vec<(String, Value)>, usize) {
    let done = json(&ok(store, &["run", file, "--json"]));
    let computed = by_stage(&done, "computed_parts").iter().filter_map(|(_, v)| v.as_u64()).sum::<u64>();
    (by_stage(&done, "address"), computed as usize)
}

/// Records of finished parts, with the folder of their recipe.
fn records(store: &Path) -> Vec<(String, PartRecord)> {
    let Ok(families) = std::fs::read_dir(store.join("memo")) else { return Vec::new() };
    let mut records = Vec::new();
    for family in families.map(|entry| entry.unwrap().path()) {
        for file in std::fs::read_dir(&family).unwrap().map(|entry| entry.unwrap().path()) {
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            if name.ends_with(".json") && name != "recipe.json" && !name.starts_with('.') {
                let record = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
                records.push((family.file_name().unwrap().to_string_lossy().into_owned(), record));
            }
        }
    }
    records
}

fn parts(store: &Path) -> usize {
    records(store).len()
}

/// How often each part was computed, by the logs of all runs.
fn computed(store: &Path) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for event in Store::open(store).unwrap().logs().unwrap().into_iter().flatten().filter(|e| e["event"] == "part") {
        *counts.entry(event["fingerprint"].as_str().unwrap().to_string()).or_default() += 1;
    }
    counts
}

#[track_caller]
fn assert_nothing_twice(store: &Path) {
    let computed = computed(store);
    let twice: Vec<&String> = computed.iter().filter(|(_, count)| **count > 1).map(|(part, _)| part).collect();
    assert!(twice.is_empty(), "computed twice: {twice:?}");
}

pub fn signal(child: &Child, name: &str) {
    let sent = std::process::Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
    assert!(sent.unwrap().success(), "signal {name} could not be sent");
}

#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("not within a minute: {what}");
}

#[test]
fn killed_at_each_publishing_step() {
    let folder = tempfile::tempdir().unwrap();
    let file = pipeline(folder.path(), "p.toml", TINY);
    let file = file.to_str().unwrap();
    let (expected, all) = addresses(&folder.path().join("whole"), file);
    assert_eq!(all, parts(&folder.path().join("whole")));
    for point in mindgap_store::fault::POINTS {
        for count in [1, 4] {
            let store = folder.path().join(format!("{point}-{count}"));
            let status = mindgap(&store, &["run", file])
                .env("MINDGAP_FAULT", format!("{point}:{count}"))
                .stderr(Stdio::null())
                .status()
                .unwrap();
            assert_eq!(status.signal(), Some(9), "{point} was not passed {count} times");
            let saved = parts(&store);
            let (found, computed) = addresses(&store, file);
            assert_eq!(found, expected, "killed at {point} the {count}. time");
            assert_eq!(computed + saved, all, "a finished part was computed again after {point}");
            assert_nothing_twice(&store);
            ok(&store, &["check"]);
        }
    }
}

/// Kills runs at random moments until `kills` have died, on a fresh store whenever one is through, each moment within
/// 1/`slices` of the time a whole run takes. Prints what it did.
fn killed_at_random_moments(file: &Path, kills: usize, slices: f64) {
    let folder = tempfile::tempdir().unwrap();
    let file = file.to_str().unwrap();
    let started = Instant::now();
    let (expected, all) = addresses(&folder.path().join("whole"), file);
    let whole = started.elapsed().as_secs_f64();
    let mut moments = mindgap_base::rng::Stream::at(1, &[b"kill"]).cursor();
    let (mut killed, mut stores, mut saved, mut inside) = (0, 0, 0, 0);
    while killed < kills {
        stores += 1;
        let store = folder.path().join(format!("killed-{stores}"));
        while killed < kills {
            let mut child = mindgap(&store, &["run", file]).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_secs_f64(moments.uniform() * whole / slices));
            let _ = child.kill();
            if child.wait().unwrap().success() {
                break;
            }
            killed += 1;
            saved += parts(&store);
            let journals = std::fs::read_dir(store.join("journals"));
            inside += usize::from(journals.is_ok_and(|mut journals| journals.next().is_some()));
        }
        let before = parts(&store);
        let (found, computed) = addresses(&store, file);
        assert_eq!(found, expected);
        assert_eq!(before + computed, all, "a finished part was computed again");
        assert_nothing_twice(&store);
        ok(&store, &["check"]);
    }
    eprintln!(
        "{}: {killed} kills over {stores} runs of {all} parts, {inside} of them left a journal of a part begun: {saved} finished \
         parts met after a kill, 0 computed again; a whole run took {whole:.1} s, the loop {:.1} s",
        Path::new(file).file_name().unwrap().display(),
        started.elapsed().as_secs_f64()
    );
}

#[test]
fn killed_at_a_few_random_moments() {
    let folder = tempfile::tempdir().unwrap();
    killed_at_random_moments(&pipeline(folder.path(), "p.toml", TINY), 8, 2.0);
}

/// Goal: rounds that each need the one before go on where they were: nothing is done twice.
#[test]
fn killed_inside_a_loop_of_rounds() {
    let folder = tempfile::tempdir().unwrap();
    let file = pipeline(folder.path(), "rounds.toml", &ROUNDS.replace("rounds = 2", "rounds = 3"));
    killed_at_random_moments(&file, 8, 2.0);
}

/// A training in long parts, behind targets that take no sampling.
const TRAINING: &str = "steps = 60\ncheckpoint_steps = 15";

/// Rollouts of one long part.
const ROLLOUT: &str = r#"
name = "rollout"
[policies]
base = { path = "DATA/base-policy" }
[stages.problems]
kind = "ingest"
files = [{ path = "DATA/world/train-0.parquet", source = "world" }]
limit = 200
[stages.rollouts]
kind = "rollout"
problems = "problems"
policy = "base"
samples = 8
max_new_tokens = 96
part_problems = 1000
part_tokens = 1000000
"#;

/// Goal: 200 kills over every kind of stage, inside trainings and inside a part of samples: nothing is lost that was published, and
/// every address is that of a run nobody killed.
#[test]
fn killed_two_hundred_times() {
    if !slow("200 kills over smoke, a training and a rollout inside a part") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let training = pipeline(folder.path(), "training.toml", &TINY.replace("steps = 2\ncheckpoint_steps = 1", TRAINING));
    let rollout = pipeline(folder.path(), "rollout.toml", ROLLOUT);
    killed_at_random_moments(&root().join("pipelines/smoke.toml"), 100, 6.0);
    killed_at_random_moments(&training, 50, 3.0);
    killed_at_random_moments(&rollout, 50, 2.0);
}

#[test]
fn killed_at_many_random_moments() {
    if !slow("the long kill loop") {
        return;
    }
    killed_at_random_moments(&root().join("pipelines/demo.toml"), 50, 20.0);
}

fn start(store: &Path, file: &Path) -> Child {
    mindgap(store, &["run", file.to_str().unwrap(), "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Requires success; returns the addresses.
#[track_caller]
fn end(child: Child) -> Vec<(String, Value)> {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    by_stage(&json(&String::from_utf8(output.stdout).unwrap()), "address")
}

/// Goal: two processes on one store share the work: no part is computed twice, both end well.
#[test]
fn two_processes_share_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let file = pipeline(folder.path(), "p.toml", TINY);
    let store = folder.path().join("store");
    let children = [start(&store, &file), start(&store, &file)];
    let [one, two] = children.map(end);
    assert_eq!(one, two);
    assert_nothing_twice(&store);
    assert_eq!(computed(&store).len(), parts(&store));
}

/// Goal: processes with equal ids, as the first ones of containers are, begin together on a store that does not exist yet.
#[test]
fn processes_with_equal_ids_share_a_new_store() {
    let unshare = |program: &OsStr| {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child"]).arg(program);
        command
    };
    if !unshare("true".as_ref()).stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: no process namespace can be made here");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = pipeline(folder.path(), "p.toml", TINY);
    let store = folder.path().join("store");
    let start = |_| {
        let run = mindgap(&store, &["run", file.to_str().unwrap(), "--json"]);
        let mut command = unshare(run.get_program());
        command.args(run.get_args()).current_dir(root()).env("MINDGAP_STORE", &store);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let children: Vec<Child> = (0..6).map(start).collect();
    let addresses: Vec<_> = children.into_iter().map(end).collect();
    assert!(addresses.iter().all(|found| *found == addresses[0]));
    assert_nothing_twice(&store);
    assert_eq!(std::fs::read_dir(store.join("runs")).unwrap().count(), 6, "each has a log of its own");
    ok(&store, &["check"]);
}

/// Goal: two pipelines that share a prefix run side by side; what they share is computed once.
#[test]
fn two_pipelines_share_a_prefix() {
    let folder = tempfile::tempdir().unwrap();
    let one = pipeline(folder.path(), "one.toml", &TINY.replace("\"tiny\"", "\"one\""));
    let other = TINY.replace("\"tiny\"", "\"two\"").replace("loss = \"sft\"", "loss = \"dft\"");
    let two = pipeline(folder.path(), "two.toml", &other);
    let store = folder.path().join("store");
    let children = [start(&store, &one), start(&store, &two)];
    let [one, two] = children.map(end);
    let equal: Vec<bool> = one.iter().zip(&two).map(|(a, b)| a == b).collect();
    assert_eq!(equal, [true, true, true, true, false], "all but training is shared");
    assert_nothing_twice(&store);
    assert_eq!(computed(&store).len(), parts(&store));
}

/// Goal: while another process holds a part, a run computes the others, says that it waits, and ends once the part is free.
#[test]
fn a_held_part_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = pipeline(folder.path(), "p.toml", TINY);
    let (expected, _) = addresses(&folder.path().join("whole"), file.to_str().unwrap());
    let sampled = |(_, record): &(String, PartRecord)| record.tables.contains_key("rollouts");
    let rollouts: Vec<_> = records(&folder.path().join("whole")).into_iter().filter(sampled).collect();
    assert!(rollouts.len() > 1);
    let path = folder.path().join("store");
    let store = Store::open(&path).unwrap();
    let (family, held) = (Fingerprint::clone(&fingerprint(&rollouts[0].0)), &rollouts[0].1.fingerprint);
    let lock = store.try_lock_part(held, "").unwrap().expect("nobody holds it yet");
    let mut child = start(&path, &file);
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("another process computes the rest; waiting")));
    assert_eq!(store.family_parts(&family).unwrap().len(), rollouts.len() - 1, "all but the held part");
    drop(lock);
    std::thread::spawn(move || lines.for_each(drop));
    assert_eq!(end(child), expected);
}

fn fingerprint(text: &str) -> Fingerprint {
    serde_json::from_value(Value::from(text)).unwrap()
}

/// Goal: the lock of a process that dies while another waits for its part blocks nobody.
#[test]
fn a_dead_holder_blocks_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let long = TINY.replace("steps = 2", "steps = 150").replace("checkpoint_steps = 1", "checkpoint_steps = 150");
    let file = pipeline(folder.path(), "p.toml", &long);
    let store = folder.path().join("store");
    let mut holder = start(&store, &file);
    // The last part is the training. The holder stops in the middle of it, lock in hand.
    wait_until("training starts", || store.join("tables/tiny/rewrites").exists() && locks(&store) > parts(&store));
    signal(&holder, "STOP");
    let finished = parts(&store);
    let mut waiting = start(&store, &file);
    let mut lines = BufReader::new(waiting.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("waiting")));
    assert_eq!(parts(&store), finished, "the part is still held");
    holder.kill().unwrap();
    holder.wait().unwrap();
    std::thread::spawn(move || lines.for_each(drop));
    assert_eq!(end(waiting).len(), 5);
    assert_eq!(parts(&store), finished + 1);
}

/// Lock files of parts.
fn locks(store: &Path) -> usize {
    let Ok(locks) = std::fs::read_dir(store.join("locks")) else { return 0 };
    locks.filter(|entry| entry.as_ref().unwrap().file_name().len() == 64).count()
}

/// A run in the middle of training, some parts of which are done.
fn in_training(folder: &Path) -> (std::path::PathBuf, std::path::PathBuf, Child) {
    let long = TINY.replace("steps = 2", "steps = 20000").replace("checkpoint_steps = 1", "checkpoint_steps = 5");
    let (file, store) = (pipeline(folder, "p.toml", &long), folder.join("store"));
    let child = start(&store, &file);
    let trained = || records(&store).iter().filter(|(_, record)| record.tables.contains_key("train_steps")).count();
    wait_until("training has a checkpoint", || store.join("tables/tiny/rewrites").exists() && trained() > 0);
    (file, store, child)
}

/// Goal: SIGINT or SIGTERM ends a run with exit code 130 and a line on how to go on; what was finished stays, nothing half done
/// is left. While it runs, `status` in another terminal says how far it is.
#[test]
fn asked_to_stop() {
    for name in ["INT", "TERM"] {
        let folder = tempfile::tempdir().unwrap();
        let (file, store, child) = in_training(folder.path());
        let status = json(&ok(&store, &["status", file.to_str().unwrap(), "--json"]));
        let states = by_stage(&status, "state");
        assert_eq!(states.last().unwrap(), &("train".to_string(), "partial".into()), "{status}");
        assert!(states[..states.len() - 1].iter().all(|(_, state)| state == "done"), "{status}");
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{stderr}");
        assert!(stderr.contains("error: stopped"), "{stderr}");
        assert!(stderr.contains("hint: finished parts are kept; run the same command again to go on"), "{stderr}");
        let log = json(ok(&store, &["log", "--json"]).lines().next().unwrap());
        assert_eq!(log["state"], "stopped");
        assert_eq!(log["computed_parts"], parts(&store), "what is finished is in the log");
        assert!(log["text"].as_str().unwrap().contains("steps = 20000"));
        let left = crate::disk::read(&store);
        assert!(!left.keys().any(|path| path.to_string_lossy().contains(".tmp-")), "something half done is left");
    }
}

/// Goal: the same in the middle of sampling, and of an ingest: neither waits for the end of its part.
#[test]
fn asked_to_stop_in_a_long_part() {
    let folder = tempfile::tempdir().unwrap();
    let long = TINY.replace("samples = 2\n", "samples = 100000\npart_samples = 100000\n");
    let sampling = pipeline(folder.path(), "sampling.toml", &long);
    let rows: String = (0..2_000_000).map(|i| format!("{{\"question\":\"{i}?\",\"answer\":\"1\"}}\n")).collect();
    std::fs::write(folder.path().join("rows.jsonl"), rows).unwrap();
    let ingest = "[stages.problems]\nkind = \"ingest\"\nfiles = [\"rows.jsonl\"]\n";
    let ingest = pipeline(folder.path(), "ingest.toml", ingest);
    for (file, finished) in [(sampling, 1), (ingest, 0)] {
        let store = folder.path().join(format!("store-{finished}"));
        let child = start(&store, &file);
        wait_until("the part is begun", || parts(&store) == finished && locks(&store) > finished);
        signal(&child, "INT");
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{stderr}");
        assert!(stderr.contains("hint: finished parts are kept; run the same command again to go on"), "{stderr}");
        assert_eq!(parts(&store), finished, "nothing half done is published");
    }
}

/// Goal: a second signal ends a run at once, even one that cannot stop where it is.
#[test]
fn asked_to_stop_twice() {
    let at_once = || {
        let folder = tempfile::tempdir().unwrap();
        let (_, store, child) = in_training(folder.path());
        // Both signals are delivered when it goes on: it has no moment to stop in good order.
        ["STOP", "INT", "TERM", "CONT"].iter().for_each(|name| signal(&child, name));
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130));
        let log = json(ok(&store, &["log", "--json"]).lines().next().unwrap());
        log["state"] == "unfinished" && !String::from_utf8_lossy(&output.stderr).contains("error:")
    };
    // Two threads may take the two signals at the same instant, each as the first.
    assert!((0..3).any(|_| at_once()), "it ended in good order every time");
}
