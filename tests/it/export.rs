//! mindgap export: every layout is written from a finished stage, and the pre-tokenized one holds the tokens trained on.

use crate::support::{SMALL, fails, json, ok, pipeline};
use mindgap::policy::{PolicyHandle, load_policy};

use mindgap_lm::engine::{self, Limits, ScoreRequest};
use mindgap_lm::model::policy::PolicyFiles;
use mindgap_store::parquet::decode_batches;
use polars::prelude::*;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// The small pipeline, run; the folder holds store and exports.
fn small() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = pipeline(folder.path(), "small.toml", SMALL).display().to_string();
    ok(&folder.path().join("store"), &["run", &file]);
    (folder, file)
}

fn parquet(path: &Path) -> DataFrame {
    ParquetReader::new(std::fs::File::open(path).unwrap()).finish().unwrap()
}

fn stored(folder: &Path, table: &str) -> DataFrame {
    let mut parts: Vec<_> = std::fs::read_dir(folder.join("store/tables/small").join(table))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "parquet"))
        .collect();
    parts.sort();
    let frames = parts.iter().map(|path| parquet(path));
    frames.reduce(|mut all, part| all.vstack_mut(&part).unwrap().clone()).unwrap()
}

fn integers(frame: &DataFrame, column: &str) -> Vec<Vec<i64>> {
    let lists = frame.column(column).unwrap().list().unwrap().clone();
    let row = |index| lists.get_as_series(index).unwrap().cast(&DataType::Int64).unwrap();
    (0..lists.len()).map(|index| row(index).i64().unwrap().into_no_null_iter().collect()).collect()
}

fn floats(frame: &DataFrame, column: &str) -> Vec<Vec<f32>> {
    let lists = frame.column(column).unwrap().list().unwrap().clone();
    let row = |index| lists.get_as_series(index).unwrap();
    (0..lists.len()).map(|index| row(index).f32().unwrap().into_no_null_iter().collect()).collect()
}

/// Goal: every layout is written with its files; the rows are all there, and lead back to the store.
#[test]
fn every_layout_is_written_whole() {
    let (folder, file) = small();
    let store = folder.path().join("store");
    let status = json(&ok(&store, &["status", &file, "--json"]));
    let stage = status["stages"].as_array().unwrap().iter().find(|stage| stage["name"] == "rewrites").unwrap();
    let formats = [
        ("trl", "train.jsonl README.md"),
        ("verl", "train.parquet README.md"),
        ("verl-paper", "train.parquet README.md"),
        ("llamafactory", "train.jsonl dataset_info.json README.md"),
        ("axolotl", "train.jsonl README.md"),
        ("swift", "train.jsonl README.md"),
        ("openrlhf", "train.jsonl README.md"),
        ("pretokenized", "train.parquet rows.jsonl README.md"),
        ("preference", "train.jsonl README.md"),
    ];
    for (format, names) in formats {
        let to = folder.path().join(format);
        let args = ["export", &file, "rewrites", "--format", format, "--to", to.to_str().unwrap(), "--json"];
        let written = json(&ok(&store, &args));
        let files: Vec<&str> = written["files"].as_array().unwrap().iter().map(|f| f.as_str().unwrap()).collect();
        let wanted: Vec<String> = names.split(' ').map(|name| to.join(name).display().to_string()).collect();
        assert_eq!(files, wanted);
        assert_eq!(written["address"], stage["address"]);
        let rows = written["rows"].as_u64().unwrap() as usize;
        match format {
            "preference" => assert!((1..24).contains(&rows), "{rows}"),
            _ => assert_eq!(rows, 24),
        }
        if names.starts_with("train.jsonl") {
            let text = std::fs::read_to_string(to.join("train.jsonl")).unwrap();
            let lines: Vec<Value> = text.lines().map(json).collect();
            assert_eq!(lines.len(), rows);
            assert!(lines.iter().all(|line| line["problem_id"].as_str().is_some_and(|id| id.len() == 16)));
        } else {
            let file = to.join("train.parquet");
            let batches = decode_batches(std::fs::read(&file).unwrap()).unwrap();
            assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), rows);
            // Nested columns too can be looked into.
            let shown = ok(&store, &["show", file.to_str().unwrap(), "--json", "--limit", "1"]);
            assert_eq!(json(shown.lines().next().unwrap())["footer"]["mindgap.stage"], "rewrites");
            assert_eq!(shown.lines().count(), 2);
        }
        let card = std::fs::read_to_string(to.join("README.md")).unwrap();
        assert!(card.contains(stage["address"].as_str().unwrap()), "{card}");
    }
}

/// What a teacher says of the samples when it is shown the solutions.
const SOFT: &str = r#"
[stages.soft]
kind = "soft"
rollouts = "rollouts"
policy = "base"
problems = "problems"
template = "TEMPLATES/world-guided.j2"
k = 5
"#;

/// The small pipeline with soft targets and without a training, run.
fn with_soft() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let head = SMALL.split("[stages.logprobs]").next().unwrap();
    let file = pipeline(folder.path(), "small.toml", &format!("{head}{SOFT}")).display().to_string();
    ok(&folder.path().join("store"), &["run", &file]);
    (folder, file)
}

/// Exports a stage whole, and returns the folder.
fn written(folder: &Path, file: &str, stage: &str, format: &str, rows: usize) -> PathBuf {
    let to = folder.join(format!("{stage}-{format}"));
    let args = ["export", file, stage, "--format", format, "--to", to.to_str().unwrap(), "--json"];
    let said = json(&ok(&folder.join("store"), &args));
    assert_eq!(said["rows"], rows, "{format}: {said}");
    for key in ["left_out_rows", "retokenized_rows"] {
        assert_eq!(said[key], 0, "{format}: {said}");
    }
    let card = std::fs::read_to_string(to.join("README.md")).unwrap();
    assert!(card.contains(said["address"].as_str().unwrap()) && card.contains(&format!("`{format}`")), "{card}");
    to
}

/// Goal: prompts are those of the stage that is named, one for each problem, with the answer and what the teacher is shown.
#[test]
fn prompts_are_those_of_the_stage() {
    let (folder, file) = with_soft();
    let lines = |stage: &str, format: &str| -> Vec<Value> {
        let to = written(folder.path(), &file, stage, format, 24);
        std::fs::read_to_string(to.join("train.jsonl")).unwrap().lines().map(json).collect()
    };
    let problems = stored(folder.path(), "problems");
    let of_problems = |column: &str| -> Vec<String> {
        problems.column(column).unwrap().str().unwrap().iter().flatten().map(str::to_string).collect()
    };
    let [ids, questions, answers, solutions] = ["problem_id", "question", "answer", "solution"].map(of_problems);

    for (stage, format) in [("rollouts", "trl-grpo"), ("rewrites", "trl-grpo"), ("rollouts", "swift-grpo")] {
        for (index, row) in lines(stage, format).iter().enumerate() {
            let turns = if format == "trl-grpo" { &row["prompt"] } else { &row["messages"] };
            assert_eq!(*turns, serde_json::json!([{"role": "user", "content": questions[index]}]));
            assert_eq!([&row["solution"], &row["problem_id"]], [&answers[index], &ids[index]]);
            assert!(row.get("teacher_prompt").is_none());
        }
    }
    let behind = |index: usize| format!("\nReference solution: {}\nRewrite this in your own words.", solutions[index]);
    for (index, row) in lines("rewrites", "trl-sdft").iter().enumerate() {
        assert_eq!(row["privileged_context"], solutions[index]);
    }
    for (index, row) in lines("soft", "trl-sdft").iter().enumerate() {
        assert_eq!(row["privileged_context"], behind(index));
    }
    for (index, row) in lines("soft", "swift-opsd").iter().enumerate() {
        assert_eq!(row["teacher_prompt"], [&questions[index][..], &behind(index)].concat());
    }
    let table = std::fs::read(written(folder.path(), &file, "rollouts", "verl-grpo", 24).join("train.parquet"));
    let batches = decode_batches(table.unwrap()).unwrap();
    let schema = batches[0].schema();
    let columns: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(columns, ["data_source", "prompt", "ability", "reward_model", "extra_info"]);
}

/// Goal: a teacher's distributions are those of its table, in the place of the token before the one that they are of, and sum to one.
#[test]
fn soft_targets_stand_where_logits_do() {
    #[derive(serde::Deserialize)]
    struct Distilled {
        input_ids: Vec<i64>,
        target_token_ids: Vec<Vec<i64>>,
        target_logprobs: Vec<Vec<f32>>,
    }
    let (folder, file) = with_soft();
    let to = written(folder.path(), &file, "soft", "axolotl-kd", 48);
    let batches = decode_batches(std::fs::read(to.join("train.parquet")).unwrap()).unwrap();
    let rows: Vec<Distilled> = serde_arrow::from_record_batch(&batches[0]).unwrap();
    let (rollouts, soft) = (stored(folder.path(), "rollouts"), stored(folder.path(), "soft"));
    let (prompts, samples) = (integers(&rollouts, "prompt_ids"), integers(&soft, "token_ids"));
    let (top_ids, top_logprobs) = (integers(&soft, "top_ids"), floats(&soft, "top_logprobs"));
    for (index, row) in rows.iter().enumerate() {
        assert_eq!(row.input_ids, [&prompts[index][..], &samples[index]].concat());
        assert_eq!([row.target_token_ids.len(), row.target_logprobs.len()], [row.input_ids.len(); 2]);
        let first = prompts[index].len() - 1;
        let (before, places) = row.target_token_ids.split_at(first);
        assert!(before.iter().chain(places.last()).all(Vec::is_empty));
        assert_eq!(places.concat(), top_ids[index]);
        for (place, told) in row.target_logprobs[first..].iter().zip(top_logprobs[index].chunks(5)) {
            let total: f32 = told.iter().map(|x| x.exp()).sum();
            let near = place.iter().zip(told).all(|(x, told)| (x.exp() - told.exp() / total).abs() < 1e-5);
            assert!(near && place.len() == 5, "{place:?} {told:?}");
        }
    }
    assert_eq!(std::fs::read_to_string(to.join("rows.jsonl")).unwrap().lines().count(), 48);
}

/// Goal: loaders that keep what they read by the card's configuration name meet a new name with new rows, and the same name with the
/// same rows.
#[test]
fn cards_name_their_rows() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let head = SMALL.split("[stages.logprobs]").next().unwrap();
    let text = format!("{head}[stages.expert]\nkind = \"rewrite\"\nproblems = \"problems\"\npolicy = \"base\"\n");
    let file = pipeline(folder.path(), "small.toml", &text).display().to_string();
    ok(&store, &["run", &file]);
    let configuration = |stage: &str, format: &str, to: &str| {
        let to = folder.path().join(to);
        ok(&store, &["export", &file, stage, "--format", format, "--to", to.to_str().unwrap()]);
        let card = std::fs::read_to_string(to.join("README.md")).unwrap();
        card.lines().find_map(|line| line.strip_prefix("- config_name: ")).unwrap().to_string()
    };
    for format in ["trl", "pretokenized"] {
        let first = configuration("rewrites", format, &format!("1/{format}"));
        assert_eq!(configuration("rewrites", format, &format!("2/{format}")), first);
        assert_ne!(configuration("expert", format, &format!("3/{format}")), first);
    }
}

/// Goal: rows that count nothing are not written, and output and card say how many are left.
#[test]
fn rows_of_weight_0_are_left_out() {
    let (folder, file) = small();
    let store = folder.path().join("store");
    let rows = |to: &str, more: &[&str]| {
        let to = folder.path().join(to);
        let mut args = vec!["export", &file, "rewrites", "--format", "swift", "--to", to.to_str().unwrap(), "--json"];
        args.extend(more);
        let written = json(&ok(&store, &args));
        let text = std::fs::read_to_string(to.join("train.jsonl")).unwrap();
        let lines: Vec<Value> = text.lines().map(json).collect();
        assert_eq!(written["rows"], lines.len());
        (
            lines,
            written["left_out_rows"].as_u64().unwrap() as usize,
            std::fs::read_to_string(to.join("README.md")).unwrap(),
        )
    };
    let (all, none, _) = rows("all", &[]);
    let (left, out, card) = rows("left", &["--weight", "expert=0"]);
    let experts = all.iter().filter(|line| line["source"] == "expert").count();
    assert!(experts > 0 && experts < all.len());
    assert_eq!((none, out), (0, experts));
    assert!(left.iter().all(|line| line["source"] != "expert"));
    assert!(card.contains("Rows of `expert` have weight 0 and are left out."), "{card}");
}

/// Goal: a pre-tokenized export cannot differ from what is scored and trained on: ids and labels are those of the
/// log-probs table, scoring them gives its very numbers, and their mean is the loss of the first training step.
#[test]
fn pretokenized_rows_are_what_the_trainer_sees() {
    let (folder, file) = small();
    let to = folder.path().join("tokens");
    let args = ["export", &file, "rewrites", "--format", "pretokenized", "--to", to.to_str().unwrap()];
    ok(&folder.path().join("store"), &args);
    let exported = parquet(&to.join("train.parquet"));
    assert_eq!(exported.get_column_names(), ["input_ids", "attention_mask", "labels"]);
    let (input_ids, labels) = (integers(&exported, "input_ids"), integers(&exported, "labels"));

    let logprobs = stored(folder.path(), "logprobs");
    let scored = floats(&logprobs, "logprob_policy");
    let prompt_counts: Vec<usize> =
        logprobs.column("prompt_token_count").unwrap().u32().unwrap().into_no_null_iter().map(|n| n as usize).collect();
    assert_eq!(input_ids.len(), prompt_counts.len());
    for (row, token_ids) in integers(&logprobs, "token_ids").into_iter().enumerate() {
        let prompt = prompt_counts[row];
        assert_eq!(input_ids[row][prompt..], token_ids);
        assert_eq!(labels[row][prompt..], token_ids);
        assert!(labels[row][..prompt].iter().all(|label| *label == -100));
    }

    let handle = PolicyHandle::of_folder("base", Path::new("data/base-policy"), PolicyFiles::wants).unwrap();
    let unsigned = |ids: &[i64]| ids.iter().map(|id| *id as u32).collect::<Vec<u32>>();
    let request =
        |(ids, prompt): (&Vec<i64>, &usize)| ScoreRequest::new(unsigned(&ids[..*prompt]), unsigned(&ids[*prompt..]));
    let requests: Vec<ScoreRequest> = input_ids.iter().zip(&prompt_counts).map(request).collect();
    let cancel = AtomicBool::new(false);
    let limits = Limits { slots: 64, kv_budget_bytes: 1 << 30, threads: 2, cancel: &cancel };
    let runner = load_policy(&handle).unwrap().runner().unwrap();
    let again = engine::score(&runner, &requests, &limits, &|_| {}).unwrap();
    for (row, score) in again.iter().enumerate() {
        let largest = score.logprob_policy.iter().zip(&scored[row]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(score.logprob_policy.len() == scored[row].len() && largest < 1e-5, "row {row}: {largest}");
    }

    // The first step: the batch plan says which rows, the trainer what their mean negative log-prob was.
    let plan = stored(folder.path(), "train/batch_plan");
    let steps = stored(folder.path(), "train/train_steps");
    let batch: Vec<f64> =
        integers(&plan, "rows")[0].iter().flat_map(|row| &scored[*row as usize]).map(|lp| -f64::from(*lp)).collect();
    let nll = steps.column("nll").unwrap().f64().unwrap().get(0).unwrap();
    let tokens = steps.column("token_count").unwrap().u64().unwrap().get(0).unwrap();
    assert_eq!(batch.len() as u64, tokens);
    let mean = batch.iter().sum::<f64>() / batch.len() as f64;
    assert!((mean - nll).abs() < 1e-5, "{mean} and {nll}");
}

/// Goal: a teacher that is shown solutions needs some, and a reward does not.
#[test]
fn self_distillation_needs_solutions() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let rows = "{\"question\": \"What is 1 + 1?\", \"answer\": \"2\"}\n{\"question\": \"What is 2 + 2?\", \"answer\": \"4\"}\n";
    std::fs::write(folder.path().join("bare.jsonl"), rows).unwrap();
    let head = SMALL.split("[stages.verdicts]").next().unwrap();
    let text = head.replace("DATA/world/train-0.parquet", "bare.jsonl");
    let file = pipeline(folder.path(), "small.toml", &text).display().to_string();
    ok(&store, &["run", &file]);
    let to = folder.path().join("out").display().to_string();
    let error = fails(&store, &["export", &file, "rollouts", "--format", "trl-sdft", "--to", &to], 3);
    for word in ["`trl-sdft` needs problems with solutions, and none has one", "hint: the ingest stage's `fields`"] {
        assert!(error.contains(word), "{error}");
    }
    ok(&store, &["export", &file, "rollouts", "--format", "trl-grpo", "--to", &to]);
}

/// Goal: what cannot be exported is said with a remedy, and nothing is overwritten.
#[test]
fn refuses_clearly() {
    let (folder, file) = small();
    let (store, to) = (folder.path().join("store"), folder.path().join("out").display().to_string());
    let export = |stage: &str, more: &[&str]| {
        let mut args = vec!["export".to_string(), file.clone(), stage.to_string(), "--to".into(), to.clone()];
        args.extend(more.iter().map(|word| word.to_string()));
        args
    };
    let refused = |args: Vec<String>, code: i32, words: &[&str]| {
        let error = fails(&store, &args.iter().map(String::as_str).collect::<Vec<_>>(), code);
        for word in words {
            assert!(error.contains(word), "{error}");
        }
    };
    let wrong = ["stage `verdicts` is a `judge` stage", "hint: this pipeline has `rewrites`"];
    refused(export("verdicts", &["--format", "trl"]), 2, &wrong);
    refused(export("train", &["--format", "trl"]), 2, &["`train` stage", "mindgap path"]);
    let wrong = ["`verdicts` is a `judge` stage; prompts are in", "this pipeline has `rollouts`, `rewrites`"];
    refused(export("verdicts", &["--format", "trl-grpo"]), 2, &wrong);
    let wrong =
        ["`rewrites` is a `rewrite` stage; a teacher's distributions are in a `soft` stage", "the pipeline has none"];
    refused(export("rewrites", &["--format", "axolotl-kd"]), 2, &wrong);
    refused(export("rewrite", &["--format", "trl"]), 2, &["no stage `rewrite`", "did you mean `rewrites`"]);
    refused(
        export("rewrites", &["--format", "vrl"]),
        2,
        &["possible values: trl, verl", "a similar value exists: 'verl'"],
    );
    refused(export("rewrites", &["--format", "trl", "--weight", "expert=1"]), 2, &["`trl` has no row weights"]);
    refused(
        export("rewrites", &["--format", "swift", "--weight", "expert=-1"]),
        2,
        &["weight `-1` must be a non-negative number"],
    );

    let first = export("rewrites", &["--format", "trl"]);
    ok(&store, &first.iter().map(String::as_str).collect::<Vec<_>>());
    std::fs::write(folder.path().join("out/train.jsonl"), "mine").unwrap();
    refused(first, 2, &["output file exists already", "out/train.jsonl", "nothing is overwritten"]);
    assert_eq!(std::fs::read_to_string(folder.path().join("out/train.jsonl")).unwrap(), "mine");

    let fresh = folder.path().join("fresh");
    let error = fails(&fresh, &["export", &file, "rewrites", "--format", "trl", "--to", &to], 2);
    assert!(error.contains("stage `rewrites` of pipeline `small` has not run yet"), "{error}");
}
