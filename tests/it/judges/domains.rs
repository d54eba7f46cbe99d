//! `pipelines/domains`: each pipeline on a tiny file of its shape, with the embedded policy, and its judge on answers that are
//! known to be right and wrong.

use crate::support::{by_stage, json, ok, root, run};
use serde_json::{Value, json};
use std::path::Path;

const OPTIONS: &[&str] = &["--set", "samples=1", "--set", "max_new_tokens=8"];

/// Writes rows, runs a pipeline on them, and returns its file's arguments, the rows it made by stage, and its verdicts.
fn run_on(folder: &Path, name: &str, rows: &[Value], more: &[&str]) -> (Vec<(String, Value)>, Vec<Value>) {
    let file = folder.join(format!("{name}.jsonl"));
    std::fs::write(&file, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    let pipeline = root().join(format!("pipelines/domains/{name}.toml")).display().to_string();
    let set = format!("file={}", file.display());
    let settings = [&["--set", &set][..], OPTIONS, more].concat();
    let done = json(&ok(folder, &[&["run", &pipeline, "--json"][..], &settings].concat()));
    let verdicts = ok(folder, &[&["show", &pipeline, "verdicts", "--json", "--limit", "100"][..], &settings].concat());
    (by_stage(&done, "rows"), verdicts.lines().map(json).collect())
}

fn rows_of(rows: &[(String, Value)], stage: &str) -> u64 {
    rows.iter()
        .find(|(name, _)| name == stage)
        .and_then(|(_, rows)| rows.as_u64())
        .unwrap_or_else(|| panic!("{rows:?}"))
}

/// All verdicts are by judges whose names begin so.
#[track_caller]
fn judged_by(verdicts: &[Value], names: &[&str]) {
    let mut found: Vec<&str> = verdicts.iter().map(|row| row["judge_version"].as_str().unwrap()).collect();
    found.sort();
    found.dedup();
    assert_eq!(found.len(), names.len(), "{found:?}");
    assert!(found.iter().zip(names).all(|(found, name)| found.starts_with(name)), "{found:?}");
}

/// The verdict of a judge on one pair.
fn verdict(judge: &[&str], gold: &str, answer: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let said = json(&ok(folder.path(), &[&["judge", "--gold", gold, "--answer", answer, "--judge"], judge].concat()));
    said["verdict"].as_str().unwrap().to_string()
}

#[test]
fn sciknoweval() {
    let folder = tempfile::tempdir().unwrap();
    let row = |i: usize| {
        json!({"idx": i, "kind": "mcq", "dataset": "sciknoweval", "answer": "B", "elo": 1500, "tests": "-", "embedding": [],
            "prompt": format!("What is {i} + 1?\n\nA: {i}\nB: {}\nPlease reason step by step.", i + 1),
            "system": "\nSelect the right answer, and answer so:\n<reasoning>\n...\n</reasoning>\n<answer>\n...\n</answer>\n"})
    };
    let (rows, verdicts) = run_on(folder.path(), "sciknoweval", &[row(1), row(2)], &[]);
    assert_eq!((rows_of(&rows, "problems"), rows_of(&rows, "rollouts"), rows_of(&rows, "verdicts")), (2, 2, 2));
    judged_by(&verdicts, &["choice-"]);
    assert_eq!(verdict(&["choice"], "B", "<reasoning>A or B?</reasoning>\n<answer>\nB\n</answer>"), "correct");
    assert_eq!(verdict(&["choice"], "B", "<reasoning>B, no.</reasoning>\n<answer>\nA\n</answer>"), "incorrect");
}

#[test]
fn pubmedqa() {
    let folder = tempfile::tempdir().unwrap();
    let row = |i: usize, answer: &str| {
        json!({"question": format!("We gave {i} patients tea.\n\nDoes tea help?"), "answer": answer,
            "solution": "Tea seems to help most patients, and more of it helps more."})
    };
    let rows = [row(10, "yes"), row(20, "no"), row(30, "maybe")];
    let (rows, verdicts) = run_on(folder.path(), "pubmedqa", &rows, &[]);
    assert_eq!(
        (rows_of(&rows, "verdicts"), rows_of(&rows, "rewrites")),
        (3, 3),
        "experts' conclusions are the fallback"
    );
    judged_by(&verdicts, &["math-"]);
    assert_eq!(verdict(&["math"], "maybe", "It is unclear, so \\boxed{maybe}."), "correct");
    assert_eq!(verdict(&["math"], "maybe", "It is clear, so \\boxed{yes}."), "incorrect");
}

#[test]
fn tatqa() {
    let folder = tempfile::tempdir().unwrap();
    let row = |answer: Value, scale: &str, kind: &str| {
        json!({"question": format!(" | 2019 | 2018\nSales | $1,496.5 | $1,202.9\n\nWhat of {kind} is it?"), "answer": answer,
            "scale": scale, "answer_type": kind, "derivation": ""})
    };
    let rows = [
        row(json!(-12.6), "million", "arithmetic"),
        row(json!(2), "", "count"),
        row(json!(["$1,496.5"]), "million", "span"),
        row(json!(["cost", "fees"]), "", "multi-span"),
    ];
    let (rows, verdicts) = run_on(folder.path(), "tatqa", &rows, &[]);
    assert_eq!((rows_of(&rows, "problems"), rows_of(&rows, "verdicts")), (4, 4));
    let names = ["math-", "numeric-v6(rel_tol=0.000001", "numeric-v6(rel_tol=0.01,abs_tol=0,scale=from_gold"];
    judged_by(&verdicts, &names);
    let file = root().join("pipelines/domains/tatqa.toml").display().to_string();
    let set = format!("file={}", folder.path().join("tatqa.jsonl").display());
    let args = [&["show", &file, "problems", "--json", "--set", &set][..], OPTIONS].concat();
    let mut golds: Vec<String> =
        ok(folder.path(), &args).lines().map(|row| json(row)["answer"].as_str().unwrap().to_string()).collect();
    golds.sort();
    assert_eq!(golds, ["$1,496.5 million", "-12.6 million", "2", "cost, fees"]);
    let numeric = ["numeric", "--option", "scale=from_gold", "--option", "rel_tol=0.01"];
    assert_eq!(verdict(&numeric, "-12.6 million", "\\boxed{-12.6}"), "correct");
    assert_eq!(verdict(&numeric, "-12.6 million", "\\boxed{12.6}"), "incorrect");
    assert_eq!(verdict(&numeric, "-12.6 million", "\\boxed{-12.6 billion}"), "incorrect");
}

#[test]
fn toolalpaca() {
    let folder = tempfile::tempdir().unwrap();
    let gold = r#"[{"Action": "getFacts", "Action_Input": "{\"limit\": 3}"}]"#;
    let row = json!({"prompt": "You have the tool getFacts.\nQuestion: Show me 3 facts.", "description": "...", "idx": 1,
        "dataset": "tooluse", "system": null, "answer": gold, "tests": null, "kind": "tooluse", "elo": 1500});
    let (rows, verdicts) = run_on(folder.path(), "toolalpaca", &[row], &[]);
    assert_eq!((rows_of(&rows, "problems"), rows_of(&rows, "verdicts")), (1, 1));
    judged_by(&verdicts, &["tool_call-"]);
    let answer = "Thought: facts.\nAction: getFacts\nAction Input: {\"limit\": 3}";
    assert_eq!(verdict(&["tool_call"], gold, answer), "correct");
    assert_eq!(verdict(&["tool_call"], gold, &answer.replace('3', "4")), "incorrect");
}

const ADD: &str = "def add(a, b):\n    \"\"\"The sum.\"\"\"\n";
const TESTS: &str =
    "def check(candidate):\n    assert candidate(1, 2) == 3. or True\n    assert candidate(1, 2) == 3\n";

fn humaneval_row() -> Value {
    json!({"task_id": "HumanEval/0", "prompt": ADD, "entry_point": "add", "canonical_solution": "    return a + b\n", "test": TESTS})
}

/// Goal: the pipeline ends where its judge says nothing at all, and nothing is correct by that.
#[test]
fn humaneval_without_its_interpreter() {
    let folder = tempfile::tempdir().unwrap();
    let (rows, verdicts) = run_on(folder.path(), "humaneval", &[humaneval_row()], &["--set", "python=true"]);
    assert_eq!((rows_of(&rows, "verdicts"), rows_of(&rows, "rewrites")), (1, 1), "the expert's code is the fallback");
    judged_by(&verdicts, &["command-v1(true humaneval.py "]);
    assert_eq!((&verdicts[0]["verdict"], &verdicts[0]["method"]), (&json!("unparsed"), &json!("command/no output")));
}

/// With `MINDGAP_PYTHON=python3`: the tests of a problem decide, in the sandbox.
#[test]
fn humaneval_with_its_tests() {
    let Ok(python) = std::env::var("MINDGAP_PYTHON") else {
        return eprintln!("skipped: MINDGAP_PYTHON names no interpreter");
    };
    let folder = tempfile::tempdir().unwrap();
    let fence = |code: &str| format!("So:\n```python\n{code}\n```");
    let answers = [
        (fence(&format!("{ADD}    return a + b")), "correct"),
        ("    return b + a\n".to_string(), "correct"),
        (fence(&format!("{ADD}    return a - b")), "incorrect"),
        (fence(&format!("import sys\n{ADD}    sys.exit(0)")), "incorrect"),
        (fence(&format!("{ADD}    return (")), "incorrect"),
        (fence(&format!("{ADD}    while True: pass")), "budget_exceeded"),
        (String::new(), "no_answer"),
    ];
    let row = |(response, _): &(String, &str)| json!({"gold": TESTS, "response": response, "question": ADD, "meta": {"entry_point": "add"}});
    let file = folder.path().join("rows.jsonl");
    std::fs::write(&file, answers.iter().map(|answer| format!("{}\n", row(answer))).collect::<String>()).unwrap();
    let command = format!("command={python} pipelines/domains/humaneval.py");
    let judge = ["judge", file.to_str().unwrap(), "--judge", "command", "--option", &command, "--option", "seconds=5"];
    let output = run(folder.path(), &judge);
    let said: Vec<Value> = String::from_utf8_lossy(&output.stdout).lines().map(json).collect();
    let verdicts: Vec<&str> = said.iter().map(|row| row["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts, answers.each_ref().map(|(_, verdict)| *verdict), "{said:?}");
}
