//! Which problems are taken: decontamination, near-duplicates, and difficulty.

use crate::support::{SMALL, by_stage, fails, json, ok, pipeline};
use serde_json::{Value, json as object};
use std::path::Path;

fn jsonl(folder: &Path, name: &str, questions: &[&str]) {
    let line = |question: &&str| {
        object!({"question": question, "solution": "Count them: 3 + 4 = 7.", "answer": "7"}).to_string()
    };
    std::fs::write(folder.join(name), questions.iter().map(line).collect::<Vec<_>>().join("\n")).unwrap();
}

fn rows(store: &Path, file: &str, stage: &str, table: &str) -> Vec<Value> {
    ok(store, &["show", file, stage, "--table", table, "--limit", "9999", "--json"]).lines().map(json).collect()
}

fn of(value: &Value, stage: &str, field: &str) -> Value {
    by_stage(value, field).into_iter().find(|(name, _)| name == stage).expect("the stage ran").1
}

const BENCHMARKS: &str = r#"
[stages.bench-short]
kind = "ingest"
files = ["short.jsonl"]
[stages.bench-long]
kind = "ingest"
files = [{ path = "long.jsonl", source = "olympiad" }]
[stages.problems]
kind = "ingest"
files = ["train.jsonl"]
decontaminate = { against = ["bench-*"], ngram = 6 }
near_duplicates = 0.8
[stages.expert]
kind = "rewrite"
problems = "problems"
policy = "base"
"#;

/// Goal: what a benchmark has is told with the benchmark, its problem and what is shared; what follows depends on the rows that
/// are left, not on the benchmarks.
#[test]
fn problems_of_benchmarks_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let lines = [
        "What is 2 + 3?",
        "What is 2 - 3?",
        "Ann picks nine apples and four pears each day for a week and eats two; how many are left at the end of it?",
        "Ann picks nine apples and four pears each day for a week and eats two, how many are left at the end of it",
        "If a frog leaps over the tall green wall it lands on a snail.",
        "Six boats leave the harbour; how many come back by night?",
    ];
    jsonl(folder.path(), "train.jsonl", &lines);
    jsonl(folder.path(), "short.jsonl", &["what is $2+3$"]);
    jsonl(folder.path(), "long.jsonl", &["Say why it is that a frog leaps over the tall green fence."]);
    let text = format!("name = \"b\"\n[policies]\nbase = {{ path = \"DATA/base-policy\" }}\n{BENCHMARKS}");
    let file = pipeline(folder.path(), "p.toml", &text).display().to_string();
    let done = json(&ok(&store, &["run", &file, "--json"]));
    let bench = rows(&store, &file, "bench-long", "problems")[0]["problem_id"].as_str().unwrap().to_string();
    let reasons: Vec<(u64, String)> = rows(&store, &file, "problems", "rejects")
        .iter()
        .map(|row| (row["line"].as_u64().unwrap(), row["reason"].as_str().unwrap().to_string()))
        .collect();
    assert_eq!(reasons.len(), 3, "{reasons:?}");
    assert!(reasons[0].0 == 1 && reasons[0].1.starts_with("is a question of benchmark `short`: problem `"));
    assert!(reasons[0].1.ends_with("`, exact"));
    // Which of two near-duplicates stays is up to their ids.
    let kept = rows(&store, &file, "problems", "problems");
    let apples =
        kept.iter().find(|row| row["question"].as_str().unwrap().contains("apples")).expect("one of them stays");
    assert!([3, 4].contains(&reasons[1].0) && reasons[1].1.starts_with("near-duplicate: problem `"), "{reasons:?}");
    assert!(reasons[1].1.contains(apples["problem_id"].as_str().unwrap()) && reasons[1].1.contains("100 %"));
    let shared = format!("shares 6 words with benchmark `olympiad`: problem `{bench}`, `a frog leaps over the tall`");
    assert_eq!(reasons[2], (5, shared));
    assert_eq!(kept.len(), 3);
    assert_eq!(of(&done, "problems", "left_out")["reasons"]["shares N words with benchmark `olympiad`"], 1);

    // A longer benchmark is compared with anew. Equal rows leave what follows as it is; a row less does not.
    jsonl(
        folder.path(),
        "long.jsonl",
        &["Say why it is that a frog leaps over the tall green fence.", "Something else."],
    );
    let done = json(&ok(&store, &["run", &file, "--json"]));
    assert_eq!((of(&done, "problems", "computed_parts"), of(&done, "expert", "computed_parts")), (1.into(), 0.into()));
    jsonl(folder.path(), "short.jsonl", &["what is $2+3$", "What is 2 - 3"]);
    let done = json(&ok(&store, &["run", &file, "--json"]));
    assert_eq!((of(&done, "problems", "rows"), of(&done, "expert", "computed_parts")), (2.into(), 1.into()));
}

#[test]
fn what_decontamination_is_told_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    jsonl(folder.path(), "train.jsonl", &["a question"]);
    let refused = |told: &str, what: &str| {
        let text = format!("[stages.problems]\nkind = \"ingest\"\nfiles = [\"train.jsonl\"]\n{told}\n");
        let file = pipeline(folder.path(), "p.toml", &text);
        let error = fails(&store, &["plan", file.to_str().unwrap()], 2);
        assert!(error.contains(what), "{told}: {error}");
    };
    refused("decontaminate = { against = [\"bench\"] }", "`decontaminate` names `bench`, which does not exist");
    refused("decontaminate = { against = [\"bench-*\"] }", "`decontaminate` names `bench-*`, which fits no stage");
    refused("decontaminate = { against = [] }", "`against` of `decontaminate` names no stage");
    refused("decontaminate = { against = [\"problems\"] }", "stages need each other: problems");
    refused("decontaminate = { against = [\"problems\"], ngram = 0 }", "`ngram` must be at least 1");
    refused("decontaminate = { with = [\"problems\"] }", "unknown key `with`");
    refused("near_duplicates = 0.4", "`near_duplicates` is `0.4`; it must be between 0.5 and 1");
    refused("near_duplicates = 1.5", "`near_duplicates` is `1.5`");
    refused("near_duplicates = nan", "`near_duplicates`");
}

const MIDDLING: &str = r#"
[stages.middling]
kind = "difficulty"
problems = "problems"
verdicts = ["verdicts"]
keep = [0.25, 0.75]
part_problems = 8
[stages.again]
kind = "rollout"
problems = "middling"
policy = "base"
samples = 1
seed = 9
max_new_tokens = 30
part_problems = 8
[stages.targets]
kind = "rewrite"
problems = "middling"
policy = "base"
self_aligned = ["verdicts"]
part_problems = 8
"#;

/// The small pipeline up to its verdicts, then problems that are solved sometimes.
fn middling(folder: &Path, change: impl Fn(String) -> String) -> String {
    let until = SMALL.find("[stages.rewrites]").expect("the small pipeline has rewrites");
    let text = format!("{}{MIDDLING}", &SMALL[..until])
        .replace("limit = 24", "limit = 60")
        .replace("samples = 2", "samples = 4");
    pipeline(folder, "p.toml", &change(text)).display().to_string()
}

/// Goal: the problems kept are those the verdicts say, everything that takes problems takes them, and only what changed is made anew.
#[test]
fn problems_by_the_share_that_is_correct() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let file = middling(folder.path(), |text| text);
    let done = json(&ok(&store, &["run", &file, "--json"]));
    let verdicts = rows(&store, &file, "verdicts", "verdicts");
    let difficulty = rows(&store, &file, "middling", "difficulty");
    assert_eq!(difficulty.len(), 60);
    let mut kept = Vec::new();
    for row in &difficulty {
        let own: Vec<&Value> = verdicts.iter().filter(|verdict| verdict["problem_id"] == row["problem_id"]).collect();
        let correct = own.iter().filter(|verdict| verdict["verdict"] == "correct").count();
        assert_eq!((&row["samples"], &row["correct"]), (&object!(4), &object!(correct)));
        assert_eq!(row["share"], object!(correct as f64 / 4.0));
        let left_out = [Some("harder"), None, None, None, Some("easier")][correct];
        assert_eq!(row["left_out"], object!(left_out));
        kept.extend(left_out.is_none().then(|| row["problem_id"].clone()));
    }
    assert!((3..57).contains(&kept.len()), "{} of 60 problems are solved sometimes", kept.len());
    let problems = rows(&store, &file, "middling", "problems");
    assert_eq!(problems.iter().map(|row| row["problem_id"].clone()).collect::<Vec<_>>(), kept);
    let again = rows(&store, &file, "again", "rollouts");
    assert_eq!(again.iter().map(|row| row["problem_id"].clone()).collect::<Vec<_>>(), kept);
    let targets = rows(&store, &file, "targets", "rewrites");
    assert_eq!(targets.iter().map(|row| row["problem_id"].clone()).collect::<Vec<_>>(), kept);
    assert!(targets.iter().all(|row| row["source"] == "self"), "each has a correct sample");
    let left_out = of(&done, "middling", "left_out");
    assert_eq!((&left_out["table"], &left_out["rows"]), (&object!("difficulty"), &object!(60 - kept.len())));

    // Verdicts of another judge that says the same: difficulty is told anew, what is sampled behind it is not.
    let file = middling(folder.path(), |text| {
        text.replace("kind = \"judge\"\n", "kind = \"judge\"\noptions = { percent = \"sign_optional\" }\n")
    });
    let done = json(&ok(&store, &["run", &file, "--json"]));
    assert!(of(&done, "middling", "computed_parts").as_u64() > Some(1));
    assert_eq!(of(&done, "again", "computed_parts"), 0);

    // Problems that come in later change the parts they fall into. Samples of kept problems are taken over.
    let file = middling(folder.path(), |text| text.replace("limit = 60", "limit = 62"));
    let plan = json(&ok(&store, &["run", &file, "--json"]));
    let parts = of(&plan, "middling", "parts").as_u64().unwrap();
    let computed = of(&plan, "middling", "computed_parts").as_u64().unwrap();
    assert!(parts > 4 && (1..=2).contains(&computed), "{computed} of {parts} parts");
}

/// Goal: nothing kept is an error that says why, before anything runs over no problems.
#[test]
fn difficulty_says_what_it_cannot_do() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let file = middling(folder.path(), |text| {
        text.replace("keep = [0.25, 0.75]", "keep = [0.3, 0.4]").replace("limit = 60", "limit = 8")
    });
    let error = fails(&store, &["run", &file], 3);
    assert!(error.contains("all 8 rows are in `difficulty`") && error.contains("er ("), "{error}");

    let refused = |change: &dyn Fn(String) -> String, what: &str| {
        let file = middling(folder.path(), |text| change(text.replace("limit = 60", "limit = 8")));
        let error = fails(&store, &["run", &file], 2);
        assert!(error.contains(what), "{error}");
    };
    refused(&|text| text.replace("[0.25, 0.75]", "[0.75, 0.25]"), "`keep` is [0.75, 0.25]");
    refused(&|text| text.replace("[0.25, 0.75]", "[0.0, 1.5]"), "`keep` is [0, 1.5]");
    refused(&|text| text.replace("verdicts = [\"verdicts\"]", "verdicts = []"), "`verdicts` names no stage");
    let second =
        "[stages.verdicts2]\nkind = \"judge\"\nrollouts = \"rollouts\"\nproblems = \"problems\"\njudge = \"exact\"\n";
    let twice = |text: String| format!("{text}{second}").replace("[\"verdicts\"]\nkeep", "[\"verdicts*\"]\nkeep");
    refused(&twice, "`verdicts` and `verdicts2`, which judge the same samples");
    let guided = "samples = 4\nprompt_kind = \"guided\"\ntemplate = \"TEMPLATES/guided.j2\"\n";
    refused(&|text| text.replace("samples = 4\n", guided), "whose samples were shown a solution");
}
