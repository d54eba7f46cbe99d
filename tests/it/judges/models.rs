//! A policy as judge: what it says is a table, verdicts are read off it, and nothing is right that was not called so.

use crate::support::{SMALL, by_stage, fails, json, ok, pipeline, root};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const TEMPLATE: &str = "{{ question }} Is it {{ answer }}? {{ response }}";

/// The small pipeline with another judge, which is written in place of the problems of its judge stage.
struct Judged {
    folder: tempfile::TempDir,
}

impl Judged {
    fn new() -> Judged {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("judge.j2"), TEMPLATE).unwrap();
        std::fs::write(folder.path().join("blind.j2"), "{{ question }}").unwrap();
        Judged { folder }
    }

    fn file(&self, judge: &str) -> String {
        let stage = "rollouts = \"rollouts\"\nproblems = \"problems\"\n";
        let text = SMALL.replace("limit = 24", "limit = 12").replace(stage, &format!("{stage}judge = {judge}\n"));
        pipeline(self.folder.path(), "p.toml", &text).display().to_string()
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// Runs the judge stage; what it said and its verdicts, by problem and sample.
    fn run(&self, judge: &str) -> (Value, Rows, Rows) {
        let file = self.file(judge);
        let done = json(&ok(&self.store(), &["run", &file, "verdicts", "--json"]));
        (done, rows(&self.store(), &file, "judgements"), rows(&self.store(), &file, "verdicts"))
    }
}

type Rows = BTreeMap<(String, u64), Value>;

fn rows(store: &Path, file: &str, table: &str) -> Rows {
    let said = ok(store, &["show", file, "verdicts", "--table", table, "--json", "--limit", "1000"]);
    let key = |row: &Value| (row["problem_id"].as_str().unwrap().to_string(), row["sample_index"].as_u64().unwrap());
    said.lines().map(json).map(|row| (key(&row), row)).collect()
}

fn of(done: &Value, field: &str) -> Value {
    by_stage(done, field).into_iter().find(|(name, _)| name == "verdicts").expect("the stage ran").1
}

const TEXT: &str = "{ kind = \"model\", policy = \"base\", template = \"judge.j2\", max_new_tokens = 12 }";
const YES_NO: &str = "{ kind = \"model\", policy = \"base\", template = \"judge.j2\", verdict = \"yes_no\" }";

/// Goal: every sample is asked about once, what was said is kept with its log-probs, and a policy that says nothing of YES or NO
/// makes nothing correct.
#[test]
fn what_it_writes_is_kept_and_cached() {
    let judged = Judged::new();
    let (done, said, verdicts) = judged.run(TEXT);
    assert_eq!((said.len(), verdicts.len()), (24, 24));
    assert!(said.keys().eq(verdicts.keys()));
    for (key, row) in &said {
        let tokens = row["token_ids"].as_array().unwrap().len();
        assert!((1..=12).contains(&tokens), "{row}");
        assert_eq!(row["logprob_policy"].as_array().unwrap().len(), tokens);
        assert_eq!((&row["logprob_yes"], &row["logprob_no"]), (&Value::Null, &Value::Null));
        let verdict = &verdicts[key];
        let wanted = match row["stop_reason"].as_str().unwrap() {
            "max_tokens" => ("budget_exceeded", "model/cut_off"),
            _ => ("unparsed", "model/no_verdict"),
        };
        assert_eq!((verdict["verdict"].as_str().unwrap(), verdict["method"].as_str().unwrap()), wanted, "{row}");
        assert_eq!(row["judge_version"], verdict["judge_version"]);
    }
    assert_eq!(of(&done, "counts")["model_failed"], 24);

    let again = json(&ok(&judged.store(), &["run", &judged.file(TEXT), "verdicts", "--json"]));
    assert_eq!((of(&again, "computed_parts"), of(&again, "address")), (0.into(), of(&done, "address")));
    let (other, ..) = judged.run(&TEXT.replace("12 }", "13 }"));
    assert_ne!(of(&other, "fingerprint"), of(&done, "fingerprint"));
}

/// Goal: the two log-probs are those of the words as `score` tells them behind the same prompt, and the larger one decides.
#[test]
fn yes_against_no() {
    let judged = Judged::new();
    let (_, said, verdicts) = judged.run(YES_NO);
    assert_eq!((said.len(), verdicts.len()), (24, 24));
    let file = judged.file(YES_NO);
    let show = |stage: &str| ok(&judged.store(), &["show", &file, stage, "--json", "--limit", "1000"]);
    let problems: BTreeMap<String, Value> =
        show("problems").lines().map(json).map(|row| (row["problem_id"].as_str().unwrap().to_string(), row)).collect();
    let mut lines = String::new();
    for row in show("rollouts").lines().map(json) {
        let problem = &problems[row["problem_id"].as_str().unwrap()];
        let text = |value: &Value| value.as_str().unwrap().to_string();
        let prompt = TEMPLATE
            .replace("{{ question }}", &text(&problem["question"]))
            .replace("{{ answer }}", &text(&problem["answer"]))
            .replace("{{ response }}", &text(&row["completion"]));
        for word in ["YES", "NO"] {
            let line = serde_json::json!({"id": [row["problem_id"], row["sample_index"]], "prompt": prompt, "completion": word});
            lines.push_str(&format!("{line}\n"));
        }
    }
    let words = judged.folder.path().join("words.jsonl");
    std::fs::write(&words, lines).unwrap();
    let policy = root().join("data/base-policy").display().to_string();
    let scored = ok(&judged.store(), &["score", "--policy", &policy, words.to_str().unwrap()]);
    // The end of the turn is scored there too.
    let sum = |row: &Value| {
        let values = row["logprob_policy"].as_array().unwrap();
        values[..values.len() - 1].iter().map(|value| value.as_f64().unwrap()).sum::<f64>()
    };
    let scored: Vec<Value> = scored.lines().map(json).collect();
    assert_eq!(scored.len(), 2 * said.len());
    for pair in scored.chunks(2) {
        let id = &pair[0]["id"];
        let key = (id[0].as_str().unwrap().to_string(), id[1].as_u64().unwrap());
        let (yes, no) = (sum(&pair[0]), sum(&pair[1]));
        let found = |field: &str| said[&key][field].as_f64().unwrap();
        assert!((found("logprob_yes") - yes).abs() < 1e-4, "{} {yes}", said[&key]);
        assert!((found("logprob_no") - no).abs() < 1e-4, "{} {no}", said[&key]);
        let wanted = if yes > no { "correct" } else { "incorrect" };
        assert_eq!((&verdicts[&key]["verdict"], &verdicts[&key]["method"]), (&wanted.into(), &"model/yes_no".into()));
    }
}

/// Goal: a policy judges the sources that name it and no others.
#[test]
fn one_source_is_judged_by_a_policy() {
    let judged = Judged::new();
    let by_source = |source: &str| format!("{{ default = \"math\", by_source = {{ {source} = {YES_NO} }} }}");
    let (_, said, verdicts) = judged.run(&by_source("world"));
    assert_eq!((said.len(), verdicts.len()), (24, 24));
    let file = judged.file(&by_source("elsewhere"));
    ok(&judged.store(), &["run", &file, "verdicts"]);
    let verdicts = rows(&judged.store(), &file, "verdicts");
    assert!(
        verdicts.len() == 24
            && verdicts.values().all(|row| row["judge_version"].as_str().unwrap().starts_with("math-"))
    );
    let error = fails(&judged.store(), &["show", &file, "verdicts", "--table", "judgements"], 2);
    assert!(error.contains("judgements"), "{error}");
}

/// Goal: what leaves no room for a verdict is not judged, and says so.
#[test]
fn a_prompt_that_is_too_long() {
    let judged = Judged::new();
    std::fs::write(judged.folder.path().join("judge.j2"), TEMPLATE.repeat(300)).unwrap();
    for judge in [TEXT, YES_NO] {
        let (_, said, verdicts) = judged.run(judge);
        assert!(said.values().all(|row| row["stop_reason"] == "prompt_too_long"), "{said:?}");
        let why = |row: &Value| (row["verdict"] == "budget_exceeded") && row["method"] == "model/prompt_too_long";
        assert!(verdicts.len() == 24 && verdicts.values().all(why), "{verdicts:?}");
    }
}

#[test]
fn mistakes_are_told_before_anything_runs() {
    let judged = Judged::new();
    let plan = |judge: &str, code: i32| fails(&judged.store(), &["run", &judged.file(judge), "verdicts"], code);
    let error = plan(&TEXT.replace("\"base\"", "\"bass\""), 2);
    assert!(
        error.contains("`judge` names `bass`, which does not exist") && error.contains("did you mean `base`?"),
        "{error}"
    );
    let error = plan(&TEXT.replace("judge.j2", "blind.j2"), 2);
    assert!(error.contains("does not show the response") && error.contains("blind.j2"), "{error}");
    let error = plan(&TEXT.replace("judge.j2", "nowhere.j2"), 3);
    assert!(error.contains("nowhere.j2"), "{error}");
    let error = plan(&TEXT.replace("policy = \"base\"", "verdict = \"text\""), 2);
    assert!(error.contains("needs the option `policy`"), "{error}");

    let waves = "max_new_tokens = 60\nuntil_correct = 1\nmax_samples = 4\njudge = \"verdicts\"\n";
    let text = std::fs::read_to_string(judged.file(TEXT)).unwrap().replacen("max_new_tokens = 60\n", waves, 1);
    let file = pipeline(judged.folder.path(), "waves.toml", &text);
    let error = fails(&judged.store(), &["plan", file.to_str().unwrap()], 2);
    assert!(error.contains("`judge` names `verdicts`, where a policy judges"), "{error}");

    let error = fails(
        &judged.store(),
        &[
            "judge",
            "--judge",
            "model",
            "--gold",
            "1",
            "--answer",
            "1",
            "--option",
            "policy=base",
            "--option",
            "template=judge.j2",
        ],
        2,
    );
    assert!(error.contains("asks a policy of a pipeline's"), "{error}");
}

/// Goal: the shipped pipeline runs, and its report compares the policy with the rules.
#[test]
fn the_shipped_pipeline() {
    let folder = tempfile::tempdir().unwrap();
    let done = json(&ok(folder.path(), &["run", "pipelines/model-judge.toml", "--json"]));
    let rows = by_stage(&done, "rows");
    let count = |stage: &str| rows.iter().find(|(name, _)| name == stage).unwrap().1.as_u64().unwrap();
    assert!(count("answers") >= 16);
    assert_eq!([count("verdicts"), count("written"), count("scored")], [count("answers"); 3]);
    let report = ok(folder.path(), &["report", "pipelines/model-judge.toml", "--markdown"]);
    assert!(report.contains("| verdicts | scored |"), "{report}");
}
