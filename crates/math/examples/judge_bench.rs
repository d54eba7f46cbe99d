//! judge_bench: accuracy of the mathematics judge over labelled files, and its speed.
//!
//! `cargo run --release -p mindgap-math --example judge_bench -- DIR [--wrong N]` reads every `*.jsonl` of DIR with `gold`, `response` and a
//! label (`expected`, or `recorded_score`), and `gold`-only files as self-comparisons. Prints one line per file and category,
//! the first N wrong rows of each, and pairs per second with the slowest pair, each pair timed as the fastest of three runs.

#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a program of its own")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mindgap_math::{Judge, Options, Verdict, is_readable};
use serde_json::Value;

/// Counts of one category.
#[derive(Default)]
struct Tally {
    total: usize,
    right: usize,
    false_positives: usize,
    false_negatives: usize,
    times: Vec<Duration>,
    wrong: Vec<String>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let directory = arguments.first().ok_or("usage: judge_bench DIR [--wrong N]")?;
    let shown = arguments
        .iter()
        .position(|argument| argument == "--wrong")
        .and_then(|at| arguments.get(at + 1)?.parse().ok())
        .unwrap_or(0usize);
    let mut files: Vec<_> = std::fs::read_dir(directory)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    for path in files {
        if path.extension().is_none_or(|extension| extension != "jsonl") {
            continue;
        }
        let text = std::fs::read_to_string(&path)?;
        let rows = text.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
        println!("{}", path.file_name().map_or_else(Default::default, |name| name.to_string_lossy()));
        let pairs = rows.iter().any(|row| row.get("response").is_some());
        if pairs { labelled(&rows, shown) } else { references(&rows, shown) }
    }
    Ok(())
}

/// Rows with a label.
fn labelled(rows: &[Value], shown: usize) {
    let judge = Judge::Math(Options::default());
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    for row in rows {
        let label = ["expected", "recorded_score"].iter().find_map(|key| row.get(key)?.as_bool());
        let (Some(expected), Some(gold), Some(response)) = (label, row["gold"].as_str(), row["response"].as_str())
        else {
            continue;
        };
        if ["disabled", "disputed", "unusual"]
            .iter()
            .any(|key| row.get(key).is_some_and(|value| value != &Value::Bool(false)))
        {
            continue;
        }
        let category = row.get("category").and_then(Value::as_str).unwrap_or("all");
        let convention = row.get("convention").is_some_and(|value| value == &Value::Bool(true));
        let name = if convention { format!("{category} (convention)") } else { category.to_string() };
        let tally = tallies.entry(name).or_default();
        let judgement = judge.judge(gold, response);
        // other work on the machine interrupts some runs, seldom the same pair three times
        let once = || {
            let start = Instant::now();
            std::hint::black_box(judge.judge(gold, response));
            start.elapsed()
        };
        tally.times.push((0..3).map(|_| once()).min().expect("three runs"));
        let correct = judgement.verdict == Verdict::Correct;
        tally.total += 1;
        tally.right += usize::from(correct == expected);
        tally.false_positives += usize::from(correct && !expected);
        tally.false_negatives += usize::from(!correct && expected);
        if correct != expected && tally.wrong.len() < shown {
            let tail: String = response.chars().rev().take(160).collect::<Vec<_>>().into_iter().rev().collect();
            let given = judgement.extracted.unwrap_or_default();
            tally.wrong.push(format!(
                "{} expected {expected} gold {gold:?} given {given:?} by {} in {tail:?}",
                row["id"], judgement.method
            ));
        }
    }
    let mut times = Vec::new();
    for (convention, title) in [(false, "all without convention"), (true, "all with convention")] {
        let mut sum = Tally::default();
        for (name, tally) in tallies.iter().filter(|(name, _)| name.ends_with("(convention)") == convention) {
            print_tally(name, tally);
            sum.total += tally.total;
            sum.right += tally.right;
            sum.false_positives += tally.false_positives;
            sum.false_negatives += tally.false_negatives;
            times.extend(&tally.times);
        }
        if sum.total > 0 {
            print_tally(title, &sum);
        }
    }
    times.sort_unstable();
    if let (Some(last), Some(p99)) = (times.last(), times.get(times.len() * 99 / 100)) {
        let seconds = times.iter().sum::<Duration>().as_secs_f64();
        println!(
            "  {:.0} pairs/s on one core, p99 {:.3} ms, max {:.3} ms",
            times.len() as f64 / seconds,
            p99.as_secs_f64() * 1e3,
            last.as_secs_f64() * 1e3
        );
    }
}

fn print_tally(name: &str, tally: &Tally) {
    let share = 100.0 * tally.right as f64 / tally.total as f64;
    println!(
        "  {name}: {}/{} = {share:.2} %, false positives {}, false negatives {}",
        tally.right, tally.total, tally.false_positives, tally.false_negatives
    );
    for line in &tally.wrong {
        println!("    {line}");
    }
}

/// Reference answers: read, equal to themselves, and found in the reference solution.
fn references(rows: &[Value], shown: usize) {
    let judge = Judge::Math(Options::default());
    let mut by_dataset: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for row in rows {
        by_dataset.entry(row["dataset"].as_str().unwrap_or("all")).or_default().push(row);
    }
    for (dataset, rows) in by_dataset {
        let unique: std::collections::BTreeSet<&str> = rows.iter().filter_map(|row| row["gold"].as_str()).collect();
        let unread: Vec<&&str> = unique.iter().filter(|gold| !is_readable(gold)).collect();
        let unequal: Vec<&&str> = unique
            .iter()
            .filter(|gold| judge.judge(gold, &format!("\\boxed{{{gold}}}")).verdict != Verdict::Correct)
            .collect();
        let solutions: Vec<(&str, &str, &Value)> = rows
            .iter()
            .filter_map(|row| Some((row["gold"].as_str()?, row.get("solution")?.as_str()?, &row["idx"])))
            .collect();
        let missed: Vec<_> = solutions
            .iter()
            .filter(|(gold, solution, _)| judge.judge(gold, solution).verdict != Verdict::Correct)
            .collect();
        println!(
            "  {dataset}: read {}/{} = {:.2} %, equal to itself {}/{}, solution correct {}/{}",
            unique.len() - unread.len(),
            unique.len(),
            100.0 * (unique.len() - unread.len()) as f64 / unique.len() as f64,
            unique.len() - unequal.len(),
            unique.len(),
            solutions.len() - missed.len(),
            solutions.len()
        );
        unread.iter().take(shown).for_each(|gold| println!("    unread {gold:?}"));
        unequal.iter().take(shown).for_each(|gold| println!("    not itself {gold:?}"));
        for (gold, solution, index) in missed.iter().take(shown) {
            let judgement = judge.judge(gold, solution);
            println!(
                "    solution {index} gold {gold:?} given {:?} {:?} by {}",
                judgement.extracted, judgement.verdict, judgement.method
            );
        }
    }
}
