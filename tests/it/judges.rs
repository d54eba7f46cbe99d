//! Judges by source, of other fields, and of the user's own.

mod contained;
mod domains;
mod models;

use crate::support::{by_stage, json, ok, pipeline, run};
use serde_json::Value;
use std::path::PathBuf;

/// Problems of two sources, cut into parts that hold one or both, and a judge for one of them.
const SOURCES: &str = r#"
name = "sources"
[policies]
base = { path = "FIXTURES/model/qwen2" }
[stages.problems]
kind = "ingest"
files = [{ path = "DATA/world/train-0.parquet", source = "world" }, { path = "FOLDER/rows.jsonl", source = "table-a" }]
limit = 12
part_problems = 2
[stages.rollouts]
kind = "rollout"
problems = "problems"
policy = "base"
samples = 1
max_new_tokens = 3
part_problems = 2
[stages.verdicts]
kind = "judge"
rollouts = "rollouts"
problems = "problems"
judge = { default = "math", by_source = { "table-*" = TABLE } }
"#;

struct Sources {
    folder: tempfile::TempDir,
}

impl Sources {
    fn new() -> Sources {
        let folder = tempfile::tempdir().unwrap();
        let row = |i: usize| format!("{{\"question\": \"What is {i} million?\", \"answer\": \"{i} million\"}}\n");
        std::fs::write(folder.path().join("rows.jsonl"), (1..4).map(row).collect::<String>()).unwrap();
        Sources { folder }
    }

    fn file(&self, judge: &str) -> String {
        let text = SOURCES.replace("FOLDER", &self.folder.path().display().to_string()).replace("TABLE", judge);
        pipeline(self.folder.path(), "p.toml", &text).display().to_string()
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// What `plan` says of the verdicts.
    fn plan(&self, judge: &str) -> Value {
        let plan = json(&ok(&self.store(), &["plan", &self.file(judge), "--json"]));
        plan["stages"].as_array().unwrap().iter().find(|stage| stage["name"] == "verdicts").unwrap().clone()
    }

    fn rows(&self, judge: &str) -> Vec<Value> {
        let file = self.file(judge);
        ok(&self.store(), &["run", &file]);
        ok(&self.store(), &["show", &file, "verdicts", "--json", "--limit", "100"]).lines().map(json).collect()
    }
}

const NUMERIC: &str = "{ kind = \"numeric\", scale = \"from_gold\", rel_tol = 1e-2 }";

/// Goal: every row says which judge and options made it; a change of one source's options recomputes what that source is in,
/// and nothing else.
#[test]
fn each_source_has_its_judge() {
    let sources = Sources::new();
    let rows = sources.rows(NUMERIC);
    let names: Vec<&str> = rows.iter().map(|row| row["judge_version"].as_str().unwrap()).collect();
    let of_table = names.iter().filter(|name| name.contains("numeric") && name.contains("scale=from_gold")).count();
    assert_eq!((names.len(), of_table, names.iter().filter(|name| name.starts_with("math-")).count()), (15, 3, 12));

    let before = sources.plan(NUMERIC);
    assert_eq!(before["parts_miss"], 0);
    let after = sources.plan("{ kind = \"numeric\", scale = \"from_gold\", rel_tol = 1e-3 }");
    assert_ne!(before["fingerprint"], after["fingerprint"]);
    let (hit, miss) = (after["parts_hit"].as_u64().unwrap(), after["parts_miss"].as_u64().unwrap());
    assert!(hit > 0 && miss > 0 && miss <= 3, "{after}");
    let why = after["why"].to_string();
    assert!(why.contains("table-*") && why.contains("rel_tol=0.01") && why.contains("rel_tol=0.001"), "{why}");
    assert_eq!(before["fingerprint"], sources.plan(NUMERIC)["fingerprint"]);
}

/// Goal: one judge for all is the recipe it always was, however it is written, and a pattern of no source is told.
#[test]
fn what_makes_no_difference_changes_no_fingerprint() {
    let sources = Sources::new();
    let file = sources.file("\"math\"");
    ok(&sources.store(), &["run", &file]);
    let text = std::fs::read_to_string(&file).unwrap();
    let with = |judge: &str| {
        let line = text.lines().find(|line| line.starts_with("judge = ")).unwrap();
        std::fs::write(&file, text.replace(line, judge)).unwrap();
        let plan = json(&ok(&sources.store(), &["plan", &file, "--json"]));
        by_stage(&plan, "fingerprint").into_iter().find(|(name, _)| name == "verdicts").unwrap().1
    };
    let plain = with("");
    assert_eq!(with("judge = \"math\""), plain);
    assert_eq!(with("judge = { kind = \"math\" }"), plain);
    assert_eq!(with("judge = { kind = \"math\", scale = \"value\" }"), plain);
    assert_ne!(with("judge = { kind = \"math\", scale = \"ignore\" }"), plain);
    assert_eq!(
        with("judge = { kind = \"math\", scale = \"ignore\" }"),
        with("judge = \"math\"\noptions = { scale = \"ignore\" }")
    );
    assert_eq!(with("judge = { by_source = { \"table-*\" = { kind = \"math\", scale = \"value\" } } }"), plain);
    assert_eq!(with("judge = { by_source = { tables = \"exact\" } }"), plain);
    with("judge = { default = \"exact\", by_source = { tables = \"math\" } }");
    let said = run(&sources.store(), &["plan", &file]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr);
    assert!(said.contains("names `tables`, and no problem has such a source"), "{said}");
}
