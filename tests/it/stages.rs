//! The whole method on a slice of the embedded world, and what the store promises about it.

use crate::support::{SMALL, by_stage, fails, json, ok, pipeline, smoke};
use polars::prelude::*;
use std::path::Path;

fn table(store: &Path, name: &str) -> DataFrame {
    let folder = store.join("tables").join(name);
    let mut parts: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
    parts.retain(|path| path.extension().is_some_and(|e| e == "parquet"));
    parts.sort();
    let read = |path: &std::path::PathBuf| ParquetReader::new(std::fs::File::open(path).unwrap()).finish().unwrap();
    let mut frame = read(&parts[0]);
    for part in &parts[1..] {
        frame.vstack_mut(&read(part)).unwrap();
    }
    frame
}

fn texts(frame: &DataFrame, column: &str) -> Vec<Option<String>> {
    frame.column(column).unwrap().str().unwrap().iter().map(|v| v.map(str::to_string)).collect()
}

fn lists(frame: &DataFrame, column: &str) -> Vec<Option<Series>> {
    let lists = frame.column(column).unwrap().list().unwrap().clone();
    (0..lists.len()).map(|row| lists.get_as_series(row)).collect()
}

fn lengths(frame: &DataFrame, column: &str) -> Vec<usize> {
    lists(frame, column).into_iter().map(|v| v.map_or(0, |s| s.len())).collect()
}

/// Goal: the smoke pipeline runs every stage kind, its tables hold what the contract says, and a second run does nothing.
#[test]
fn smoke_runs_every_stage_once() {
    let (store, done) = smoke();
    let kinds: std::collections::BTreeSet<String> =
        by_stage(done, "kind").into_iter().map(|(_, kind)| kind.as_str().unwrap().to_string()).collect();
    let all = [
        "difficulty",
        "documents",
        "evaluate",
        "gap",
        "ingest",
        "judge",
        "logprob",
        "reward",
        "rewrite",
        "rollout",
        "samples",
        "soft",
        "train",
    ];
    assert_eq!(kinds.iter().map(String::as_str).collect::<Vec<_>>(), all);
    assert!(by_stage(done, "computed_parts").iter().all(|(_, parts)| parts.as_u64() > Some(0)));

    // No problem is dropped, and guided rows come only for problems without a correct sample.
    let rewrites = table(store, "smoke/rewrites");
    assert_eq!(rewrites.height(), 64);
    let sources = texts(&rewrites, "source");
    assert!(sources.iter().all(|s| matches!(s.as_deref(), Some("self" | "guided" | "expert"))));
    let verdicts = table(store, "smoke/verdicts");
    let solved: std::collections::BTreeSet<String> = texts(&verdicts, "problem_id")
        .into_iter()
        .zip(texts(&verdicts, "verdict"))
        .filter(|(_, verdict)| verdict.as_deref() == Some("correct"))
        .filter_map(|(id, _)| id)
        .collect();
    let guided: Vec<String> = texts(&table(store, "smoke/guided"), "problem_id").into_iter().flatten().collect();
    assert!(!guided.is_empty() && !solved.is_empty());
    for (id, source) in texts(&rewrites, "problem_id").into_iter().zip(sources) {
        let id = id.unwrap();
        if source.as_deref() == Some("self") {
            assert!(solved.contains(&id) && !guided.contains(&id));
        }
    }

    // One log-prob per token, everywhere.
    let rollouts = table(store, "smoke/rollouts");
    assert_eq!(rollouts.height(), 128);
    for column in ["logprob_behavior", "logprob_policy"] {
        assert_eq!(lengths(&rollouts, column), lengths(&rollouts, "token_ids"));
    }
    let logprobs = table(store, "smoke/logprobs-rewrites");
    assert_eq!(lengths(&logprobs, "logprob_policy"), lengths(&logprobs, "token_ids"));
    assert_eq!(lengths(&logprobs, "token_ids"), lengths(&rewrites, "token_ids"));

    let again = json(&ok(store, &["run", "pipelines/smoke.toml", "--json"]));
    assert!(by_stage(&again, "computed_parts").iter().all(|(_, parts)| *parts == 0));
    assert_eq!(by_stage(done, "address"), by_stage(&again, "address"));
    let status = json(&ok(store, &["status", "pipelines/smoke.toml", "--json"]));
    assert!(by_stage(&status, "state").iter().all(|(_, state)| state == "done"));
    let printed = ok(store, &["report", "pipelines/smoke.toml"]);
    let page = store.join("reports/smoke.html");
    let twin = page.with_extension("md");
    assert_eq!(printed, format!("{}\n{}\n", page.display(), twin.display()));
    assert!(std::fs::read_to_string(&page).unwrap().contains("id=\"browser\""));
    let report = ok(store, &["report", "pipelines/smoke.toml", "--markdown"]);
    assert_eq!(report, std::fs::read_to_string(&twin).unwrap());
    let figures = json(&ok(store, &["report", "pipelines/smoke.toml", "--json"]));
    let cascades = figures["cascades"].as_array().unwrap();
    let targets = &cascades.iter().find(|cascade| cascade["stage"] == "rewrites").unwrap()["targets"];
    let sum: u64 =
        ["self", "guided", "teacher", "expert", "none"].iter().map(|source| targets[source].as_u64().unwrap()).sum();
    assert_eq!(sum, 64);
    let error = fails(store, &["report", "pipelines/smoke.toml", "--out", "page.md"], 2);
    assert!(error.contains("--out"), "{error}");

    // The gap before and after rewriting, by source; self-aligned targets are on-policy; both judges were compared.
    let gaps = figures["gaps"][0]["rows"].as_array().unwrap();
    let of = |moment: &str, source: &str| {
        let found = gaps.iter().find(|row| row["rewriting"] == moment && row["source"] == source);
        found.unwrap_or_else(|| panic!("no {moment} {source}")).clone()
    };
    assert_eq!(of("before", "expert")["row_count"], 64);
    assert_eq!(of("after", "all")["row_count"], 64);
    assert_eq!(of("after", "self")["kl_per_token"], 0.0);
    assert_eq!(of("after", "self")["behavior_ess_rows"], of("after", "self")["row_count"].as_f64().unwrap());
    assert!(of("after", "all")["mean_logprob"].as_f64() > of("before", "all")["mean_logprob"].as_f64());
    let warnings = figures["gaps"][0]["warnings"].as_array().unwrap();
    assert!(warnings.iter().any(|row| row["warning"] == "judges_disagree" && row["row_count"] == 128));
    assert!(report.contains("| dr+dft |") && report.contains("| rewrites | 64 |"), "{report}");
}

/// Goal: a self-aligned row's decode log-probs equal the teacher-forced ones: same policy, same plain prompt.
#[test]
fn sampled_and_scored_logprobs_agree() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let file = pipeline(folder.path(), "p.toml", SMALL);
    ok(&store, &["run", file.to_str().unwrap(), "logprobs"]);
    let frame = table(&store, "small/logprobs");
    let mut compared = 0;
    for (scored, sampled) in lists(&frame, "logprob_policy").into_iter().zip(lists(&frame, "logprob_behavior")) {
        let (Some(scored), Some(sampled)) = (scored, sampled) else { continue };
        for (a, b) in scored.f32().unwrap().iter().zip(sampled.f32().unwrap().iter()) {
            assert_eq!(a, b, "temperature 1 without truncation samples from the policy itself");
            compared += 1;
        }
    }
    assert!(compared > 100, "only {compared} tokens compared");
}

/// Goal: raising the sample count draws only the missing ones, and the old ones stay the same.
#[test]
fn more_samples_are_only_the_missing_ones() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let file = pipeline(folder.path(), "p.toml", SMALL);
    ok(&store, &["run", file.to_str().unwrap(), "rollouts"]);
    let before = table(&store, "small/rollouts");
    let more = pipeline(folder.path(), "p.toml", &SMALL.replace("samples = 2", "samples = 5"));
    let plan = json(&ok(&store, &["plan", more.to_str().unwrap(), "rollouts", "--json"]));
    let rollouts = plan["stages"].as_array().unwrap().iter().find(|s| s["name"] == "rollouts").unwrap();
    assert_eq!((rollouts["rows_hit"].as_u64(), rollouts["rows_miss"].as_u64()), (Some(48), Some(72)));
    ok(&store, &["run", more.to_str().unwrap(), "rollouts"]);
    let after = table(&store, "small/rollouts");
    let indices = after.column("sample_index").unwrap().u32().unwrap().clone();
    let old = after.filter(&indices.lt(2)).unwrap();
    assert!(old.equals(&before), "samples 0 and 1 changed");
}

/// Goal: a changed parameter is named, with old and new value, and leaves what does not depend on it.
#[test]
fn plan_names_what_changed() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let file = pipeline(folder.path(), "p.toml", SMALL);
    ok(&store, &["run", file.to_str().unwrap(), "verdicts"]);
    pipeline(folder.path(), "p.toml", &SMALL.replace("max_new_tokens = 60", "max_new_tokens = 50"));
    let plan = ok(&store, &["plan", file.to_str().unwrap(), "verdicts"]);
    assert!(plan.contains("max_new_tokens: 60 -> 50"), "{plan}");
    assert!(plan.lines().any(|line| line.starts_with("problems ") && line.ends_with("cached")), "{plan}");
}

/// Goal: the same rows whatever the number of threads.
#[test]
fn threads_do_not_matter() {
    let folder = tempfile::tempdir().unwrap();
    let file = pipeline(folder.path(), "p.toml", SMALL);
    let addresses = |threads: &str| {
        let store = folder.path().join(threads);
        by_stage(&json(&ok(&store, &["--threads", threads, "run", file.to_str().unwrap(), "--json"])), "address")
    };
    assert_eq!(addresses("1"), addresses("3"));
}

/// Goal: a damaged part is named by a reader and made again, to the same bytes, by the next run.
#[test]
fn a_damaged_part_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let file = pipeline(folder.path(), "p.toml", SMALL);
    let file = file.to_str().unwrap();
    let before = by_stage(&json(&ok(&store, &["run", file, "--json"])), "address");
    let part = std::fs::canonicalize(store.join("tables/small/rollouts/part-00000.parquet")).unwrap();
    let mut bytes = std::fs::read(&part).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&part, bytes).unwrap();
    let error = fails(&store, &["show", file, "rollouts"], 3);
    assert!(error.contains("damaged") && error.contains(part.file_name().unwrap().to_str().unwrap()), "{error}");
    // Removing the verdicts' memory makes the run read the damaged rollouts.
    for family in std::fs::read_dir(store.join("memo")).unwrap().map(|e| e.unwrap().path()) {
        if std::fs::read_to_string(family.join("recipe.json")).unwrap().contains("\"judge\"") {
            std::fs::remove_dir_all(family).unwrap();
        }
    }
    let after = json(&ok(&store, &["run", file, "--json"]));
    assert_eq!(by_stage(&after, "address"), before);
    let computed: u64 = by_stage(&after, "computed_parts")
        .iter()
        .filter(|(n, _)| n == "rollouts")
        .filter_map(|(_, v)| v.as_u64())
        .sum();
    assert_eq!(computed, 1, "only the damaged part is computed again");
}

/// Goal: a pipeline can feed every loss what it needs, and each moves the weights its own way.
#[test]
fn every_loss_trains_in_a_pipeline() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let names =
        ["sft", "dft", "importance", "iw-sft", "psft", "idft", "eaft", "chord-phi", "talr", "asft", "power", "gift"];
    let text = SMALL
        .replace("[stages.train]\n", &format!("[stages.train]\nmatrix.loss = {names:?}\nlogprobs = \"logprobs\"\n"))
        .replace("loss = \"dft\"", "loss = \"{loss}\"")
        .replace("steps = 4", "steps = 2");
    let file = pipeline(folder.path(), "p.toml", &text);
    let done = json(&ok(&store, &["run", file.to_str().unwrap(), "--json"]));
    let trained: Vec<String> = by_stage(&done, "address")
        .into_iter()
        .filter(|(n, _)| n.starts_with("train-"))
        .map(|(_, a)| a.to_string())
        .collect();
    let distinct: std::collections::BTreeSet<&String> = trained.iter().collect();
    assert_eq!((trained.len(), distinct.len()), (names.len(), names.len() - 1), "the first power is dft's weight");
    let without = pipeline(folder.path(), "q.toml", &text.replace("logprobs = \"logprobs\"\n", ""));
    let error = fails(&store, &["run", without.to_str().unwrap(), "train-iw-sft"], 3);
    assert!(error.contains("needs reference log-probs"), "{error}");
}
