//! Commands as judges: what they answer, and that hostile ones are contained and told. Programs here are of a shell, so that no
//! interpreter is needed; the sandbox is Linux's.

use crate::support::{by_stage, fails, json, mindgap, ok, pipeline, succeeded};
use serde_json::Value;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

struct Scripts {
    folder: tempfile::TempDir,
}

impl Scripts {
    fn new() -> Scripts {
        Scripts { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn script(&self, text: &str) -> PathBuf {
        let path = self.path().join("judge.sh");
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Judges one pair by a script.
    fn command(&self, shell: &str, text: &str, options: &[&str]) -> Command {
        let command = format!("command={shell} {}", self.script(text).display());
        let mut args = vec!["judge", "--gold", "4", "--answer", "four", "--judge", "command", "--option", &command];
        options.iter().for_each(|option| args.extend(["--option", option]));
        mindgap(self.path(), &args)
    }

    /// The verdict of a script on one pair.
    #[track_caller]
    fn judge(&self, shell: &str, text: &str, options: &[&str]) -> Value {
        json(&succeeded(self.command(shell, text, options)))
    }
}

/// A sandbox is there, or it is said that there is none.
fn has_sandbox(scripts: &Scripts) -> bool {
    let output = scripts.command("sh", "exit 1", &[]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("no sandbox") {
        assert_eq!(output.status.code(), Some(4), "{said}");
        assert!(said.contains("sandbox = false"), "{said}");
        eprintln!("skipped: {said}");
        return false;
    }
    true
}

const CORRECT: &str = "{\"verdict\": \"correct\", \"method\": \"shell\", \"extracted\": \"4\"}";

#[test]
fn a_line_in_and_a_line_out() {
    let scripts = Scripts::new();
    if !has_sandbox(&scripts) {
        return;
    }
    let script =
        format!("read -r line\ncase $line in *'\"gold\":\"4\"'*'\"response\":\"four\"'*) echo '{CORRECT}' ;; esac\n");
    let row = scripts.judge("sh", &script, &[]);
    assert_eq!(
        (&row["verdict"], &row["method"], &row["extracted"]),
        (&"correct".into(), &"command/shell".into(), &"4".into())
    );
    let name = row["judge_version"].as_str().unwrap().to_string();
    assert!(name.starts_with("command-v1(sh judge.sh "), "{name}");
    // the bytes of the file and the limits are part of the name, the folder is not
    let other = scripts.judge("sh", &format!("{script}\n"), &[])["judge_version"].clone();
    assert_ne!(other, name.as_str());
    let limited = scripts.judge("sh", &script, &["seconds=60"])["judge_version"].clone();
    assert_eq!(limited, name.replace(')', ",seconds=60)").as_str());
    let elsewhere = Scripts::new().judge("sh", &script, &[])["judge_version"].clone();
    assert_eq!(elsewhere, name.as_str());
}

/// What a script does, the verdict, and how its method begins.
const HOSTILE: &[(&str, &str, &str)] = &[
    ("while :; do :; done", "budget_exceeded", "command/time"),
    ("sleep 1000", "budget_exceeded", "command/time"),
    ("b() { b | b & }; b; sleep 1000", "", "command/"),
    ("head -c 10G /dev/zero > big", "", "command/"),
    ("i=0; while :; do head -c 1M /dev/zero > f$i; i=$((i + 1)); done", "budget_exceeded", "command/file_size"),
    ("echo x > OUTSIDE/escaped", "unparsed", "command/"),
    ("rm OUTSIDE/precious", "unparsed", "command/"),
    ("chmod 777 OUTSIDE/precious || exit 7", "unparsed", "command/exit 7"),
    ("kill -9 -1", "unparsed", "command/"),
    ("exit 3", "unparsed", "command/exit 3"),
    ("kill -9 $$", "unparsed", "command/signal 9"),
    ("yes", "unparsed", "command/"),
];

/// Goal: whatever a program does, it ends in time, nothing of it remains, nothing outside changed, and the verdict says so
/// without being `correct`.
#[test]
fn hostile_programs_are_contained() {
    let scripts = Scripts::new();
    if !has_sandbox(&scripts) {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("precious"), "kept").unwrap();
    for (text, verdict, method) in HOSTILE {
        // the answer is there before the harm is done: it must not count
        let text = text.replace("OUTSIDE", &outside.path().display().to_string());
        let script = match verdict.is_empty() || *method == "command/" {
            true => format!("{text}\nexit 9\n"),
            false => format!("echo '{CORRECT}'\n{text}\n"),
        };
        let row = scripts.judge("sh", &script, &["seconds=2", "file_mib=8"]);
        assert_ne!(row["verdict"], "correct", "{text}: {row}");
        assert!(verdict.is_empty() || row["verdict"] == *verdict, "{text}: {row}");
        assert!(row["method"].as_str().unwrap().starts_with(method), "{text}: {row}");
    }
    let left: Vec<_> = std::fs::read_dir(outside.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["precious"]);
    assert_eq!(std::fs::read_to_string(outside.path().join("precious")).unwrap(), "kept");
    assert!(!commands_of(scripts.path()), "a process is left");
}

/// Whether a process that names the folder is running.
fn commands_of(folder: &Path) -> bool {
    processes_of(&folder.display().to_string()) > 0
}

/// How many processes name it in their command line, this one aside.
fn processes_of(name: &str) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let own = std::process::id().to_string();
    let commands = processes
        .filter(|entry| entry.file_name().to_string_lossy() != own)
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    commands.filter(|command| String::from_utf8_lossy(command).contains(name)).count()
}

/// Goal: what works without the sandbox does not work in it, so that the test cannot pass by a broken script.
#[test]
fn there_is_no_network_inside() {
    let scripts = Scripts::new();
    if !has_sandbox(&scripts) {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let script =
        format!("exec 3<>/dev/tcp/127.0.0.1/{} || exit 5\necho '{CORRECT}'\n", listener.local_addr().unwrap().port());
    let row = scripts.judge("bash", &script, &[]);
    assert_eq!(row["verdict"], "unparsed", "{row}");
    assert!(listener.accept().is_err(), "a connection came through");
    let row = scripts.judge("bash", &script, &["sandbox=false"]);
    assert_eq!(row["verdict"], "correct", "{row}");
    assert!(row["judge_version"].as_str().unwrap().contains("sandbox=false"), "{row}");
    std::thread::sleep(Duration::from_millis(1));
    assert!(listener.accept().is_ok(), "the script connects where it may");
}

/// Goal: secrets of the environment do not reach the program, and what it leaves running does not outlive it.
#[test]
fn nothing_gets_in_and_nothing_remains() {
    let scripts = Scripts::new();
    if !has_sandbox(&scripts) {
        return;
    }
    let script = format!("(sleep 1000) &\n[ -z \"$HF_TOKEN\" ] && echo x > in && echo '{CORRECT}'\n");
    let mut command = scripts.command("sh", &script, &[]);
    command.env("HF_TOKEN", "secret");
    assert_eq!(json(&succeeded(command))["verdict"], "correct");
    assert!(!commands_of(scripts.path()), "a process is left");
}

/// Goal: where the run itself is killed, sleepers that a program started in the background end with it, and so does what was to
/// see to that.
#[test]
fn nothing_outlives_a_killed_run() {
    let scripts = Scripts::new();
    if !has_sandbox(&scripts) {
        return;
    }
    let name = scripts.path().display().to_string();
    // subshells bear the name of the script
    let script = "(sleep 1000; :) &\n(sleep 1000; :) &\nsleep 1000\n";
    let mut run = scripts.command("sh", script, &["seconds=1000"]).stdout(Stdio::null()).spawn().unwrap();
    until("the program is at work", || processes_of(&name) >= 4);
    run.kill().unwrap();
    run.wait().unwrap();
    until("nothing of it is left", || processes_of(&name) == 0);
}

/// Waits for what is bound to happen.
fn until(what: &str, happened: impl Fn() -> bool) {
    for _ in 0..6_000 {
        if happened() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it never came to that: {what}");
}

const SLOW: &str = r#"
name = "slow"
[policies]
base = { path = "FIXTURES/model/qwen2" }
[stages.problems]
kind = "ingest"
files = [{ path = "DATA/world/train-0.parquet", source = "world" }]
limit = 40
[stages.rollouts]
kind = "rollout"
problems = "problems"
policy = "base"
samples = 2
max_new_tokens = 2
[stages.verdicts]
kind = "judge"
rollouts = "rollouts"
problems = "problems"
judge = { kind = "command", command = ["sh", "judge.sh"], sandbox = false }
"#;

/// Goal: a run that is killed among slow verdicts goes on behind those that were kept.
#[test]
fn verdicts_of_commands_outlive_the_run() {
    let scripts = Scripts::new();
    let log = scripts.path().join("log");
    let calls = || std::fs::read_to_string(&log).map_or(0, |text| text.lines().count());
    scripts.script(&format!("echo x >> {}\nsleep 0.02\necho '{CORRECT}'\n", log.display()));
    let file = pipeline(scripts.path(), "p.toml", SLOW).display().to_string();
    let store = scripts.path().join("store");
    let mut child = mindgap(&store, &["run", &file]).stderr(Stdio::null()).spawn().unwrap();
    while calls() <= 70 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let before = calls();
    assert!((71..=80).contains(&before), "{before} calls");
    let done = json(&ok(&store, &["run", &file, "--json"]));
    assert_eq!(by_stage(&done, "rows").last().unwrap().1, 80);
    assert_eq!(calls() - before, 16, "64 verdicts were kept");
}

#[test]
fn mistakes_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let pair = ["judge", "--gold", "4", "--answer", "4", "--judge", "command"];
    for (options, what, code) in [
        (vec![], "needs the option `command`", 2),
        (vec!["--option", "command=no-such-program"], "no program `no-such-program`", 3),
        (vec!["--option", "command=./no/such/file"], "no program `./no/such/file`", 3),
        (vec!["--option", "command=sh", "--option", "seconds=soon"], "`seconds` is a count, not `soon`", 2),
        (vec!["--option", "command=sh", "--option", "second=1"], "has no option `second`", 2),
    ] {
        let error = fails(folder.path(), &[&pair[..], &options].concat(), code);
        assert!(error.contains(what), "{error}");
    }
}
