//! What people see: commands, their output and exit codes, as files in tests/golden/cli. `UPDATE_GOLDEN=1` rewrites them.

use crate::support::{TINY, root};
use std::path::Path;
use std::process::Command;

/// A folder with the tiny pipeline as `p.toml`, and what it reads.
fn workdir() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (link, target) in [("world", "data/world"), ("policy", "tests/fixtures/model/qwen2")] {
        std::os::unix::fs::symlink(root().join(target), folder.path().join(link)).unwrap();
    }
    write_pipeline(folder.path(), "", "");
    folder
}

/// The tiny pipeline with one change. All paths are relative, so that transcripts hold none of this machine's.
fn write_pipeline(folder: &Path, from: &str, to: &str) {
    let text = TINY.replace("FIXTURES/model/qwen2", "policy").replace("DATA/world", "world");
    assert!(text.contains(from), "`{from}` is not in the pipeline");
    std::fs::write(folder.join("p.toml"), text.replacen(from, to, 1).trim_start()).unwrap();
}

/// Runs a command line and renders it: `$` the command, output as it is, `! ` errors and notes, `= ` the exit code unless 0.
fn shell(folder: &Path, line: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_mindgap"))
        .current_dir(folder)
        .env_remove("MINDGAP_STORE")
        .env_remove("MINDGAP_FAULT")
        .env_remove("COLUMNS")
        .args(line.split_whitespace())
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!stderr.contains("panicked"), "{stderr}");
    let mut text = format!("$ mindgap {line}\n{stdout}");
    for line in stderr.lines() {
        text.push_str(format!("! {line}").trim_end());
        text.push('\n');
    }
    match output.status.code() {
        Some(0) => {}
        code => text.push_str(&format!("= {}\n", code.expect("no signal"))),
    }
    filtered(&text) + "\n"
}

/// Hashes, times and measured numbers by what they are.
fn filtered(text: &str) -> String {
    const DATE: usize = "2025-01-31 23:59:59".len();
    if let Some(end) = text.find(" UTC") {
        let start = end.checked_sub(DATE).expect("a date stands before its time zone");
        return filtered(&text[..start]) + "[TIME]" + &filtered(&text[end + " UTC".len()..]);
    }
    let mut out = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '_').unwrap_or(rest.len());
        let (word, after) = rest.split_at(length.max(first.len_utf8()));
        let fraction = word.split_once('.').map(|(_, fraction)| fraction);
        let is_number = word.parse::<f64>().is_ok();
        out.push_str(match fraction {
            _ if word == env!("CARGO_PKG_VERSION") => "[VERSION]",
            None if word.len() >= 12 && word.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) => {
                "[HASH]"
            }
            None if is_number && word.len() == 10 => "[TIME]",
            Some(_) if is_number && after.starts_with(" s") => "[SECONDS]",
            Some(fraction) if is_number && fraction.len() >= 3 => "[NUMBER]",
            _ => word,
        });
        rest = after;
    }
    out
}

#[track_caller]
fn assert_golden(name: &str, found: &str) {
    let path = root().join("tests/golden/cli").join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, found).unwrap();
    }
    let wanted = std::fs::read_to_string(&path).unwrap_or_default();
    for (number, (wanted, found)) in wanted.lines().zip(found.lines()).enumerate() {
        assert_eq!(found, wanted, "{}:{}: differs; `make golden` rewrites it", path.display(), number + 1);
    }
    assert_eq!(found, wanted, "{} ends elsewhere; `make golden` rewrites it", path.display());
}

#[test]
fn help() {
    let folder = workdir();
    let pages = ["--help", "run --help", "plan --help", "log --help", "export --help", "judge --help"];
    let found: String = pages.map(|line| shell(folder.path(), line)).concat();
    assert_golden("help", &found);
}

/// From nothing to a finished pipeline, a change, and what is said along the way.
#[test]
fn a_day() {
    let folder = workdir();
    let folder = folder.path();
    let all = |lines: &[&str]| lines.iter().map(|line| shell(folder, line)).collect::<String>();
    let mut found = all(&["plan p.toml", "status p.toml", "path p.toml problems", "log", "run p.toml verdicts"]);
    found += &all(&["status p.toml", "run p.toml", "run p.toml --json", "plan p.toml", "log", "path p.toml rewrites"]);
    found += &all(&["path p.toml train", "show p.toml problems --limit 1 --json", "status p.toml --json"]);
    write_pipeline(folder, "max_new_tokens = 3", "max_new_tokens = 2");
    found += "# max_new_tokens = 2\n\n";
    found += &all(&["plan p.toml", "plan p.toml --json"]);
    write_pipeline(folder, "samples = 2", "samples = 3");
    found += "# samples = 3\n\n";
    found += &all(&["plan p.toml", "status p.toml", "log --limit 1 --json"]);
    assert_golden("a-day", &found);
}

/// One problem through all tables.
#[test]
fn lineage() {
    let folder = workdir();
    shell(folder.path(), "run p.toml rewrites");
    let problem = shell(folder.path(), "show p.toml problems --limit 1 --json");
    assert!(problem.contains("\"problem_id\":\"[HASH]\""), "{problem}");
    let ids = Command::new(env!("CARGO_BIN_EXE_mindgap"))
        .current_dir(folder.path())
        .args(["show", "p.toml", "problems", "--limit", "1", "--json"])
        .output()
        .unwrap();
    let row: serde_json::Value = serde_json::from_slice(&ids.stdout).unwrap();
    let id = row["problem_id"].as_str().unwrap().to_string();
    let found = shell(folder.path(), &format!("show p.toml rewrites --row {id}"));
    assert_golden("lineage", &(found + &shell(folder.path(), "show p.toml rewrites --row zzz")));
}

/// What is wrong, where, how to fix it, and the exit code.
#[test]
fn mistakes() {
    let folder = workdir();
    let mut found = String::new();
    let pipelines = [
        ("a misspelt key", "max_new_tokens", "max_new_tokns"),
        ("a misspelt stage kind", "kind = \"rollout\"", "kind = \"rolout\""),
        ("a misspelt section", "[policies]", "[polices]"),
        ("a dangling name", "policy = \"base\"", "policy = \"bse\""),
        ("a stage of the wrong kind", "rollouts = \"rollouts\"", "rollouts = \"problems\""),
        ("a cycle", "samples = 2", "samples = 2\nunsolved = [\"verdicts\"]"),
        ("a wrong type", "samples = 2", "samples = \"two\""),
        ("a wrong word", "samples = 2", "samples = 2\nprompt_kind = \"guide\""),
        ("a pattern that fits no stage", "samples = 2", "samples = 2\nunsolved = [\"verdict-*\"]"),
        ("a value out of range", "samples = 2", "samples = 0"),
        ("a stop string that is everywhere", "samples = 2", "samples = 2\nstop = [\"\"]"),
        ("a learning rate that unlearns", "learning_rate = 1e-4", "learning_rate = -1"),
        ("a moving average of nothing", "learning_rate = 1e-4", "learning_rate = 1e-4\noptimizer = { beta1 = 9 }"),
        ("a floor above the peak", "learning_rate = 1e-4", "learning_rate = 1e-4\nfloor_share = 2"),
        ("broken TOML", "samples = 2", "samples = "),
        ("a missing file", "world/train-0.parquet", "world/train-9.parquet"),
        ("a missing policy", "path = \"policy\"", "path = \"nowhere\""),
    ];
    for (what, from, to) in pipelines {
        write_pipeline(folder.path(), from, to);
        found += &format!("# {what}\n\n{}", shell(folder.path(), "run p.toml problems rollouts"));
    }
    write_pipeline(folder.path(), "", "");
    found += "# the command line\n\n";
    let lines =
        ["rnu p.toml", "run", "run nowhere.toml", "run p.toml rollout", "path p.toml problms", "show p.toml problems"];
    found += &lines.map(|line| shell(folder.path(), line)).concat();
    let words = ["judge - --judge maths", "export p.toml rewrites --format tlr --to out"];
    found += &words.map(|line| shell(folder.path(), line)).concat();
    assert_golden("mistakes", &found);
}
