//! mindgap export: every layout is written from a finished stage, and the pre-tokenized one holds the tokens trained on.

use crate::support::{SMALL, fails, json, ok, pipeline};
use mindgap::policy::{PolicyHandle, load_policy};

use mindgap_lm::engine::{self, Limits, ScoreRequest};
use mindgap_lm::model::policy::PolicyFiles;
use mindgap_store::parquet::decode_batches;
use polars::prelude::*;
use serde_json::Value;
use std::path::Path;
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
