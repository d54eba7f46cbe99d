//! The commands that need no pipeline, and what scripts rely on.

use crate::support::{by_stage, fails, json, mindgap, ok, run};
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

fn with_stdin(args: &[&str], input: &str) -> String {
    let store = tempfile::tempdir().unwrap();
    let mut child = mindgap(store.path(), args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn judge_answers_line_by_line_in_order() {
    let rows: Vec<String> = (0..100)
        .map(|i| {
            format!(
                r#"{{"id": {i}, "gold": "{i}", "response": "so \\boxed{{{}}}"}}"#,
                if i % 3 == 0 { i } else { i + 1 }
            )
        })
        .collect();
    let out = with_stdin(&["judge", "-"], &rows.join("\n"));
    for (i, line) in out.lines().enumerate() {
        let verdict = json(line);
        assert_eq!(verdict["id"], i);
        assert_eq!(verdict["verdict"], if i % 3 == 0 { "correct" } else { "incorrect" });
        assert!(verdict["method"].is_string());
    }
    assert_eq!(out.lines().count(), 100);
}

/// Goal: a reference is read as ingest reads an answer: a number, a list, a whole solution, behind a byte order mark.
#[test]
fn judge_takes_what_ingest_takes() {
    let lines = concat!(
        "\u{feff}",
        r#"{"gold": 5, "response": "\\boxed{5}"}"#,
        "\n",
        r#"{"gold": 27.0, "response": "\\boxed{27}"}"#,
        "\n",
        r#"{"gold": ["1", "2"], "response": "\\boxed{1} and \\boxed{2}"}"#,
        "\n",
        r#"{"gold": "['1', '2']", "response": "\\boxed{1, 2}"}"#,
        "\n",
        r#"{"gold": "We add.\n#### 5\nDone.", "response": "\\boxed{5}"}"#,
        "\n",
        r#"{"gold": "So $x=\\boxed{2}$ or $x=\\boxed{3}$.", "response": "\\boxed{2,3}"}"#,
    );
    for line in with_stdin(&["judge", "-"], lines).lines() {
        assert_eq!(json(line)["verdict"], "correct", "{line}");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rows.jsonl");
    std::fs::write(&file, r#"{"gold": {"a": 1}, "response": "1"}"#).unwrap();
    let error = fails(folder.path(), &["judge", file.to_str().unwrap()], 3);
    assert!(error.contains("the answer is an object") && error.contains("rows.jsonl:1"), "{error}");
}

#[test]
fn judge_takes_one_pair() {
    let store = tempfile::tempdir().unwrap();
    let verdict = json(&ok(store.path(), &["judge", "--gold", "1/2", "--answer", "\\boxed{0.5}"]));
    assert_eq!(verdict["verdict"], "correct");
    let error = fails(store.path(), &["judge", "--gold", "1"], 2);
    assert!(error.contains("--answer"), "{error}");
}

#[test]
fn bad_json_is_named_by_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rows.jsonl");
    std::fs::write(&file, "{\"id\":1,\"gold\":\"1\",\"response\":\"1\"}\n{\"id\":2,\n").unwrap();
    let error = fails(folder.path(), &["judge", file.to_str().unwrap()], 3);
    assert!(error.contains("rows.jsonl:2"), "{error}");
}

/// Goal: a line is answered as soon as it has arrived; the pipe need not close.
#[test]
fn judge_stands_in_a_pipe() {
    let store = tempfile::tempdir().unwrap();
    let mut child =
        mindgap(store.path(), &["judge", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    for answer in ["7", "8"] {
        writeln!(stdin, r#"{{"id":"a","gold":"7","response":"\\boxed{{{answer}}}"}}"#).unwrap();
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert_eq!(json(&line)["verdict"], if answer == "7" { "correct" } else { "incorrect" });
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

/// Goal: what stands before a bad line is answered, nothing behind it is skipped silently.
#[test]
fn judge_stops_at_a_bad_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rows.jsonl");
    let good = r#"{"id":1,"gold":"1","response":"1"}"#;
    for (bad, what) in [("{\"id\":2,", "bad JSON line"), (r#"{"gold":"1"}"#, "missing field `response`")] {
        std::fs::write(&file, format!("{good}\n\n{good}\n{bad}\n{good}\n")).unwrap();
        let output = run(folder.path(), &["judge", file.to_str().unwrap()]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{stderr}");
        assert!(stderr.contains("rows.jsonl:4") && stderr.contains(what), "{stderr}");
        assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 2, "{what}");
    }
    std::fs::write(&file, [good.as_bytes(), b"\n{\"gold\":\"\xff"].concat()).unwrap();
    let error = fails(folder.path(), &["judge", file.to_str().unwrap()], 3);
    assert!(error.contains("not UTF-8") && error.contains("rows.jsonl:2"), "{error}");
}

#[test]
fn every_judge_has_a_name() {
    let store = tempfile::tempdir().unwrap();
    let schema = store.path().join("schema.json");
    std::fs::write(&schema, r#"{"required": ["b"]}"#).unwrap();
    let schema = format!("schema={}", schema.display());
    for (arguments, gold, answer, expected, name) in [
        (vec!["--judge", "exact"], "1/2", "0.5", "incorrect", "exact-"),
        (vec!["--judge", "numeric"], "3.14", "3.15", "incorrect", "numeric-"),
        (vec!["--judge", "numeric", "--abs-tol", "0.02"], "3.14", "3.15", "correct", "abs_tol=0.02"),
        (vec!["--judge", "numeric", "--rel-tol", "0.01"], "3.14", "3.15", "correct", "rel_tol=0.01"),
        (vec!["--judge", "choice"], "B", "The answer is (B).", "correct", "choice-"),
        (vec!["--judge", "json"], r#"{"a":1,"b":2}"#, r#"{"b":2.0,"a":1}"#, "correct", "json-"),
        (vec!["--judge", "tool_call"], r#"[{"name":"f"}]"#, r#"{"name":"f","arguments":{}}"#, "correct", "tool_call-"),
        (vec!["--judge", "program"], "0.5", "divide(1, 2)", "correct", "program-"),
        (vec!["--judge", "schema"], r#"{"type":"integer"}"#, "4", "correct", "schema-"),
        (vec!["--judge", "schema", "--option", &schema], "", r#"{"a":1}"#, "incorrect", "schema-v1(schema="),
        (vec!["--judge", "numeric", "--option", "scale=from_gold"], "3 million", "3", "correct", "scale=from_gold"),
        (vec![], "1/2", "\\boxed{0.5}", "correct", "math-"),
        (vec![], "24 million", "\\boxed{24}", "incorrect", "math-"),
        (vec!["--option", "scale=from_gold"], "24 million", "\\boxed{24}", "correct", "(scale=from_gold)"),
        (vec!["--option", "percent=sign_optional"], "20", "\\boxed{20\\%}", "correct", "(percent=sign_optional)"),
    ] {
        let pair = ["judge", "--gold", gold, "--answer", answer];
        let verdict = json(&ok(store.path(), &[&pair[..], &arguments].concat()));
        assert_eq!(verdict["verdict"], expected, "{arguments:?} {verdict}");
        assert!(verdict["judge_version"].as_str().unwrap().contains(name), "{verdict}");
    }
    for arguments in [
        vec!["--rel-tol", "0.1"],
        vec!["--judge", "guess"],
        vec!["--abs-tol", "-1"],
        vec!["--option", "scale"],
        vec!["--option", "scale=gold"],
        vec!["--option", "scales=ignore"],
        vec!["--judge", "exact", "--option", "scale=ignore"],
        vec!["--judge", "tool_call", "--option", "ordered=perhaps"],
        vec!["--judge", "schema", "--option", "scheme=x"],
    ] {
        fails(store.path(), &[&["judge", "--gold", "1", "--answer", "1"][..], &arguments].concat(), 2);
    }
}

/// Goal: `generate` and `score` agree: the log-probs of a sample are those of its tokens, teacher-forced.
#[test]
fn generate_then_score() {
    let folder = tempfile::tempdir().unwrap();
    let question = "Tom has 14 apples. He buys 23 more. How many apples now?";
    let args = [
        "generate",
        "--policy",
        "data/base-policy",
        "--prompt",
        question,
        "-n",
        "3",
        "--seed",
        "5",
        "--max-new-tokens",
        "80",
    ];
    let samples = ok(folder.path(), &args);
    assert_eq!(samples, ok(folder.path(), &args), "the same seed gives the same samples");
    let finished = samples.lines().map(json).find(|s| s["stop_reason"] == "eos").expect("one of three ends");
    let row = serde_json::json!({"id": 1, "prompt": question, "completion": finished["completion"]});
    let file = folder.path().join("rows.jsonl");
    std::fs::write(&file, row.to_string()).unwrap();
    let scored = json(&ok(folder.path(), &["score", "--policy", "data/base-policy", file.to_str().unwrap()]));
    assert_eq!(scored["token_ids"], finished["token_ids"]);
    assert_eq!(scored["logprob_policy"], finished["logprob_policy"]);
}

#[test]
fn help_teaches_by_example() {
    let store = tempfile::tempdir().unwrap();
    let help = ok(store.path(), &["--help"]);
    for word in ["mindgap run pipelines/demo.toml", "Exit codes", "--store"] {
        assert!(help.contains(word), "{help}");
    }
    assert!(ok(store.path(), &["completions", "bash"]).contains("mindgap"));
}

/// Goal: every shipped pipeline reads and plans.
#[test]
fn shipped_pipelines_plan() {
    let store = tempfile::tempdir().unwrap();
    for file in ["demo", "demo-seeds", "miniature", "smoke", "real-input", "gsm8k", "imported"] {
        let plan = json(&ok(store.path(), &["plan", &format!("pipelines/{file}.toml"), "--json"]));
        assert!(plan["stages"].as_array().unwrap().len() >= 10, "{file}");
    }
    // Its tokenizer comes from the hub, and lists of servers may be set.
    let settings = ["tokenizer=../data/base-policy", "servers=[\"http://a:8000/v1\", \"http://b:8000/v1\"]"];
    let args = ["plan", "pipelines/server.toml", "--json", "--set", settings[0], "--set", settings[1]];
    assert_eq!(by_stage(&json(&ok(store.path(), &args)), "name").len(), 11);
}
