//! What is shown after the pipeline file changed: what is there, and why the file asks for something else.

use crate::support::{TINY, by_stage, json, mindgap, ok, pipeline, run};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const EVALS: &str = r#"
[stages.evals]
kind = "evaluate"
problems = "problems"
verdicts = ["verdicts"]
"#;

/// The tiny pipeline, run to its end.
struct Ran {
    folder: tempfile::TempDir,
    file: String,
}

impl Ran {
    fn new() -> Ran {
        let folder = tempfile::tempdir().unwrap();
        let ran = Ran { file: folder.path().join("p.toml").display().to_string(), folder };
        ran.change("", "");
        ok(&ran.store(), &["run", &ran.file]);
        ran
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// Writes the pipeline with one change.
    fn change(&self, from: &str, to: &str) {
        assert!(TINY.contains(from));
        pipeline(self.folder.path(), "p.toml", &(TINY.replacen(from, to, 1) + EVALS));
    }

    /// Runs a command that must succeed; returns stdout and stderr.
    fn said(&self, args: &[&str]) -> (String, String) {
        let output = run(&self.store(), &[&args[..1], &[self.file.as_str()], &args[1..]].concat());
        let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert!(output.status.success(), "{args:?}: {stderr}");
        (stdout, stderr)
    }

    fn status(&self, field: &str) -> Vec<(String, Value)> {
        by_stage(&json(&self.said(&["status", "--json"]).0), field)
    }

    /// Reasons by stage, of those that have any.
    fn stale(&self) -> Vec<(String, Value)> {
        self.status("stale").into_iter().filter(|(_, why)| *why != json!([])).collect()
    }
}

fn reasons(stages: &[(&str, &str)]) -> Vec<(String, Value)> {
    stages.iter().map(|(stage, why)| (stage.to_string(), json!([why]))).collect()
}

/// Goal: every command shows what there was before the change, and gives `plan`'s reason.
#[test]
fn every_command_shows_what_is_there_and_says_that_it_is_stale() {
    let ran = Ran::new();
    let shown: [&[&str]; 5] = [
        &["show", "verdicts", "--json"],
        &["show", "--row", "", "--json"],
        &["path", "rewrites"],
        &["results"],
        &["report", "--markdown"],
    ];
    let before: Vec<(String, String)> = shown.iter().map(|args| ran.said(args)).collect();
    assert!(before.iter().all(|(_, notes)| !notes.contains("stale")), "{before:?}");
    assert_eq!(ran.stale(), []);
    let (addresses, rows) = (ran.status("address"), ran.status("rows"));

    ran.change("max_new_tokens = 3", "max_new_tokens = 2");
    let wanted = [
        ("rollouts", "max_new_tokens: 3 -> 2"),
        ("verdicts", "waits for rollouts"),
        ("rewrites", "waits for rollouts, verdicts"),
        ("evals", "waits for rollouts, verdicts"),
        ("train", "waits for rewrites"),
    ];
    assert_eq!(ran.stale(), reasons(&wanted));
    assert_eq!((ran.status("address"), ran.status("rows")), (addresses, rows), "what is there is shown");
    let states: Vec<Value> = ran.status("state").into_iter().map(|(_, state)| state).collect();
    assert_eq!(states, ["done", "missing", "missing", "missing", "missing", "missing"], "of what is asked for");
    let (text, _) = ran.said(&["status"]);
    assert!(text.contains("   stale: max_new_tokens: 3 -> 2\n"), "{text}");

    for (args, (stdout, _)) in shown.iter().zip(&before).take(4) {
        let (again, notes) = ran.said(args);
        assert_eq!(again, *stdout, "{args:?}");
        let stage = if args.contains(&"rewrites") { "rewrites" } else { "verdicts" };
        assert!(notes.contains(&format!("stage `{stage}` is stale: waits for rollouts")), "{args:?}: {notes}");
    }
    let (notes, more) = (ran.said(&["results"]).1, "2 more stages are stale; `mindgap status` names them");
    assert!(notes.contains("stage `rollouts` is stale: max_new_tokens: 3 -> 2") && notes.contains(more), "{notes}");
}

#[test]
fn reports_and_exports_record_it() {
    let ran = Ran::new();
    ran.change("max_new_tokens = 3", "max_new_tokens = 2");
    let report = json(&ran.said(&["report", "--json"]).0);
    let stages = by_stage(&report, "stale");
    assert!(stages.contains(&("problems".into(), json!([]))));
    assert!(stages.contains(&("rollouts".into(), json!(["max_new_tokens: 3 -> 2"]))));
    assert!(by_stage(&report, "done").iter().all(|(_, done)| *done == true));
    ran.said(&["report"]);
    let written = |name: &str| std::fs::read_to_string(ran.store().join("reports").join(name)).unwrap();
    let (page, twin) = (written("tiny.html"), written("tiny.md"));
    assert!(page.contains("5 of 6 stages are stale:") && page.contains("stale: max_new_tokens: 3 -&gt; 2"));
    assert!(twin.contains("- `rollouts` is stale: max_new_tokens: 3 -> 2\n") && twin.contains("| rollouts (stale) |"));

    let to = ran.folder.path().join("out");
    let args = ["export", "rewrites", "--format", "trl", "--to", to.to_str().unwrap(), "--json"];
    let (written, notes) = ran.said(&args);
    assert_eq!(
        (&json(&written)["rows"], &json(&written)["stale"][0]),
        (&12.into(), &"waits for rollouts, verdicts".into())
    );
    assert!(notes.contains("stage `rewrites` is stale"), "{notes}");
    let card = std::fs::read_to_string(to.join("README.md")).unwrap();
    assert!(card.contains("- stale: waits for rollouts, verdicts\n"), "{card}");
}

/// Goal: a recipe that was computed once and is no longer shown is neither passed off as what is shown nor computed again.
#[test]
fn what_was_made_before_is_shown_again_by_a_run() {
    let ran = Ran::new();
    let first = ran.said(&["show", "rollouts", "--json"]).0;
    ran.change("max_new_tokens = 3", "max_new_tokens = 2");
    ran.said(&["run", "rollouts"]);
    let second = ran.said(&["show", "rollouts", "--json"]);
    assert!(second.0 != first && !second.1.contains("stale"), "{second:?}");
    assert!(ran.stale().iter().all(|(stage, _)| stage != "rollouts"));

    ran.change("", "");
    let why = "what the pipeline file asks for is in the store; `mindgap run` shows it again";
    assert_eq!(ran.stale(), reasons(&[("rollouts", why)]), "what reads from it was not made again");
    assert_eq!(ran.said(&["show", "rollouts", "--json"]).0, second.0);
    let done = json(&ran.said(&["run", "--json"]).0);
    assert!(by_stage(&done, "computed_parts").iter().all(|(_, parts)| *parts == 0));
    assert_eq!(ran.stale(), []);
    assert_eq!(ran.said(&["show", "rollouts", "--json"]).0, first);
}

/// Goal: damage is no change of the pipeline file: neither the stage nor what waits for its repair is stale.
#[test]
fn a_damaged_part_is_not_stale() {
    let ran = Ran::new();
    let part = std::fs::canonicalize(ran.store().join("tables/tiny/rollouts/part-00001.parquet")).unwrap();
    std::fs::write(part, "PAR1").unwrap();
    let states = ran.status("state");
    assert!(
        states.contains(&("rollouts".into(), "partial".into())) && states.contains(&("evals".into(), "missing".into()))
    );
    assert_eq!(ran.stale(), []);
}

/// Goal: results can be looked at where the policy is not; that they were not compared is said.
#[test]
fn without_the_policy_results_are_shown_uncompared() {
    let ran = Ran::new();
    let shown = ran.said(&["show", "verdicts", "--json"]).0;
    ran.change("FIXTURES/model/qwen2", "FIXTURES/model/gone");
    let (again, notes) = ran.said(&["show", "verdicts", "--json"]);
    assert_eq!(again, shown);
    assert!(notes.contains("it is not known whether the pipeline file still asks for this: cannot open"), "{notes}");
    let (report, _) = ran.said(&["report", "--markdown"]);
    assert!(report.contains("It is not known whether the pipeline file still asks for these results."), "{report}");
    // A policy of the hub is not downloaded to compare with.
    ran.change("{ path = \"FIXTURES/model/qwen2\" }", "{ hub = \"org/none\" }");
    let mut show = mindgap(&ran.store(), &["show", &ran.file, "verdicts", "--json"]);
    let cache = ran.folder.path().join("hf");
    let output = show.env("HF_HUB_CACHE", &cache).env("HF_ENDPOINT", "http://127.0.0.1:1").output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), shown);
    let notes = String::from_utf8(output.stderr).unwrap();
    assert!(notes.contains("`org/none` is not complete in the cache"), "{notes}");
    assert!(!Path::new(&cache).exists());
}
