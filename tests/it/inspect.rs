//! docs/inspect.md: every query of the page, run with polars on the smoke pipeline's tables. `tests/peers/queries.py` runs the
//! page's own text.

use crate::support::{json, ok, root, smoke};
use polars::prelude::*;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// A table by the path the page gives it, below `data/store/tables/`.
fn table(path: &str) -> DataFrame {
    let folder = smoke().0.join("tables").join(path);
    let mut parts: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{path}: {e}"))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "parquet"))
        .collect();
    parts.sort();
    let read = |path: &Path| ParquetReader::new(std::fs::File::open(path).unwrap()).finish().unwrap();
    let mut frame = read(&parts[0]);
    for part in &parts[1..] {
        frame.vstack_mut(&read(part)).unwrap();
    }
    frame
}

fn texts(frame: &DataFrame, column: &str) -> Vec<String> {
    let column = frame.column(column).unwrap().str().unwrap();
    column.iter().map(|text| text.unwrap_or_default().to_string()).collect()
}

fn numbers(frame: &DataFrame, column: &str) -> Vec<f64> {
    let column = frame.column(column).unwrap().cast(&DataType::Float64).unwrap();
    column.f64().unwrap().iter().map(|number| number.expect("no empty cell")).collect()
}

fn is(frame: &DataFrame, column: &str, value: &str) -> BooleanChunked {
    frame.column(column).unwrap().str().unwrap().equal(value)
}

/// `select column, count(*) group by column`.
fn counts(frame: &DataFrame, column: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for value in texts(frame, column) {
        *counts.entry(value).or_default() += 1;
    }
    counts
}

/// One list column without its lists, beside the values of `by`.
fn unnested(frame: &DataFrame, by: &str, list: &str) -> Vec<(String, f64)> {
    let frame = frame.select([by, list]).unwrap();
    let options = ExplodeOptions { empty_as_null: false, keep_nulls: false };
    let frame = frame.explode([list], options).unwrap();
    texts(&frame, by).into_iter().zip(numbers(&frame, list)).collect()
}

/// problem id and sample index -> row number.
fn by_sample(frame: &DataFrame) -> HashMap<(String, u32), usize> {
    let samples = frame.column("sample_index").unwrap().u32().unwrap();
    let key = |(row, id): (usize, String)| ((id, samples.get(row).unwrap()), row);
    texts(frame, "problem_id").into_iter().enumerate().map(key).collect()
}

/// Goal: every query of the page has its twin here, and names only tables that are there.
#[test]
fn the_page_has_no_other_queries() {
    let page = std::fs::read_to_string(root().join("docs/inspect.md")).unwrap();
    let titles: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert_eq!(titles, QUERIES.map(|(title, _)| title));
    for path in page.split("'data/store/tables/").skip(1).map(|rest| rest.split("/*.parquet'").next().unwrap()) {
        assert!(table(path).width() > 0);
    }
}

#[test]
fn every_query_answers() {
    for (title, query) in QUERIES {
        let rows = query();
        let may_be_empty = title == "Rows that were refused";
        assert!(rows > 0 || may_be_empty, "`{title}` gives nothing");
    }
}

type Query = fn() -> usize;

const QUERIES: [(&str, Query); 15] = [
    ("Where the targets come from", || {
        let counts = counts(&table("smoke/rewrites"), "source");
        assert_eq!(counts.values().sum::<usize>(), 64);
        counts.len()
    }),
    ("How likely each source's tokens are under the base policy", || {
        let mut by_source: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for (source, logprob) in unnested(&table("smoke/logprobs-rewrites"), "source", "logprob_policy") {
            by_source.entry(source).or_default().push(logprob);
        }
        let mean = |source: &str| by_source[source].iter().sum::<f64>() / by_source[source].len() as f64;
        assert!(mean("expert") < mean("guided") && mean("guided") < 0.0 && mean("expert") < mean("self"));
        by_source.len()
    }),
    ("Quantiles of the probability of target tokens", || {
        let tokens = unnested(&table("smoke/logprobs-expert"), "source", "logprob_policy");
        let mut p: Vec<f64> = tokens.into_iter().map(|(_, logprob)| logprob.exp()).collect();
        p.sort_by(f64::total_cmp);
        let quantiles = [0.1, 0.25, 0.5, 0.75, 0.9].map(|share| p[(share * (p.len() - 1) as f64) as usize]);
        assert!(quantiles.windows(2).all(|pair| pair[0] < pair[1]) && quantiles[4] < 1.0, "{quantiles:?}");
        quantiles.len()
    }),
    ("Problems solved only with the expert's solution in the prompt", || {
        let rewrites = table("smoke/rewrites");
        let guided = rewrites.filter(&is(&rewrites, "source", "guided")).unwrap();
        let problems = table("smoke/problems");
        let questions: HashMap<String, String> =
            texts(&problems, "problem_id").into_iter().zip(texts(&problems, "question")).collect();
        let found = texts(&guided, "problem_id").iter().filter(|id| !questions[*id].is_empty()).count();
        assert_eq!(found, guided.height());
        found
    }),
    ("Guided targets that the plain prompt makes least likely", || {
        let logprobs = table("smoke/logprobs-rewrites");
        let guided = logprobs.filter(&is(&logprobs, "source", "guided")).unwrap();
        let sums = |column: &str| {
            let mut sums: BTreeMap<String, f64> = BTreeMap::new();
            for (id, logprob) in unnested(&guided, "problem_id", column) {
                *sums.entry(id).or_default() += logprob;
            }
            sums
        };
        let policy = sums("logprob_policy");
        let mut gaps: Vec<f64> = sums("logprob_behavior").into_iter().map(|(id, sum)| sum - policy[&id]).collect();
        gaps.sort_by(|a, b| b.total_cmp(a));
        assert!(gaps[0] > 0.0, "some target was likelier with the solution in the prompt");
        gaps.len().min(5)
    }),
    ("Wrong samples, and what was read from them", || {
        let verdicts = table("smoke/verdicts");
        let wrong = verdicts.filter(&!is(&verdicts, "verdict", "correct")).unwrap();
        assert_eq!(wrong.height() + counts(&verdicts, "verdict")["correct"], 128);
        counts(&wrong, "method").len()
    }),
    ("Rows whose verdict differs between two judges", || {
        let (one, other) = (table("smoke/verdicts"), table("smoke/verdicts_lenient"));
        assert_eq!(one.height(), other.height());
        let (says, other_says, at) = (texts(&one, "verdict"), texts(&other, "verdict"), by_sample(&other));
        let differing: Vec<(&str, &str)> = by_sample(&one)
            .into_iter()
            .map(|(sample, row)| (says[row].as_str(), other_says[at[&sample]].as_str()))
            .filter(|(a, b)| a != b)
            .collect();
        assert!(differing.iter().all(|pair| *pair == ("incorrect", "correct")), "only near misses pass: {differing:?}");
        assert_ne!(texts(&one, "judge_version")[0], texts(&other, "judge_version")[0]);
        differing.len()
    }),
    ("Samples that were cut off", || {
        let rollouts = table("smoke/rollouts");
        let tokens = unnested(&rollouts, "stop_reason", "token_ids").len();
        assert!((128..128 * 110).contains(&tokens), "{tokens} tokens");
        counts(&rollouts, "stop_reason").len()
    }),
    ("Accuracy", || {
        let evals = table("smoke/evals");
        let (mean, low, high) = (numbers(&evals, "mean_at_k"), numbers(&evals, "ci_low"), numbers(&evals, "ci_high"));
        assert!((0..evals.height()).all(|row| low[row] <= mean[row] && mean[row] <= high[row]));
        evals.height()
    }),
    ("Problems one policy solves and another does not", || {
        let solved = |stage: &str| -> BTreeMap<String, usize> {
            let verdicts = table(stage);
            counts(&verdicts.filter(&is(&verdicts, "verdict", "correct")).unwrap(), "problem_id")
        };
        let (better, base) = (solved("smoke/eval_verdicts-dr+dft"), solved("smoke/eval_verdicts-base"));
        better.iter().filter(|(id, count)| *count > base.get(*id).unwrap_or(&0)).count()
    }),
    ("The loss curve of one run", || {
        let steps = table("smoke/train-dr+dft/train_steps");
        let (ess, tokens) = (numbers(&steps, "ess"), numbers(&steps, "token_count"));
        assert!(ess.iter().zip(&tokens).all(|(ess, tokens)| *ess >= 1.0 && ess <= tokens));
        assert_eq!(numbers(&steps, "step"), (0..steps.height()).map(|step| step as f64).collect::<Vec<_>>());
        steps.height()
    }),
    ("Which rows a training step saw", || {
        let plan = table("smoke/train-dr+dft/batch_plan");
        let sources = texts(&table("smoke/rewrites"), "source");
        let rows = plan.column("rows").unwrap().list().unwrap().get_as_series(0).unwrap();
        let seen: Vec<&str> =
            rows.u32().unwrap().into_no_null_iter().map(|row| sources[row as usize].as_str()).collect();
        assert_eq!(seen.len(), 16);
        seen.len()
    }),
    ("Rows that were refused", || {
        let rejects = table("smoke/problems/rejects");
        assert!(rejects.column("reason").is_ok() && rejects.column("line").is_ok());
        rejects.height()
    }),
    ("A stray file", || {
        let part = smoke().0.join("tables/smoke/rewrites/part-00000.parquet");
        let lines = ok(&smoke().0, &["show", part.to_str().unwrap(), "--json", "--limit", "0"]);
        let footer = json(lines.lines().next().unwrap())["footer"].as_object().unwrap().clone();
        assert_eq!(footer["mindgap.stage"], "rewrites");
        footer.len()
    }),
    ("Past runs", || {
        let runs = std::fs::read_dir(smoke().0.join("runs")).unwrap().map(|entry| entry.unwrap().path());
        let first = std::fs::read_to_string(runs.min().unwrap()).unwrap();
        let events: Vec<_> = first.lines().map(json).collect();
        assert!(events[0]["event"] == "run" && events[0]["text"].as_str().unwrap().contains("[stages.rewrites]"));
        events.iter().filter(|event| event["event"] == "part" && event["seconds"].as_f64() > Some(0.0)).count()
    }),
];
