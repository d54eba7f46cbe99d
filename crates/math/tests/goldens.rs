//! Goldens and properties of the mathematics judge. A case is one line of `tests/golden/*.jsonl`: the reference, the
//! response, the verdict, the method that decided, and why. `UPDATE_GOLDEN=1` rewrites verdicts and methods for review.

#![expect(clippy::disallowed_methods, reason = "tests read and write files of their own")]

use std::path::{Path, PathBuf};

use mindgap_math::{Judge, Options, Verdict, canonical_print};
use serde_json::Value;

/// The files with their cases.
fn goldens() -> Vec<(PathBuf, Vec<Value>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .expect("the goldens are part of the sources")
        .map(|entry| entry.expect("readable").path())
        .collect();
    files.sort();
    files
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("readable");
            let cases = text.lines().enumerate().map(|(at, line)| case(&path, at + 1, line)).collect();
            (path, cases)
        })
        .collect()
}

/// The case on a line of a file; a case without a reason is not reviewed.
fn case(path: &Path, number: usize, line: &str) -> Value {
    let case: Value = serde_json::from_str(line).expect("one JSON object a line");
    let explained = case["why"].as_str().is_some_and(|why| !why.trim().is_empty());
    assert!(explained, "{}:{number}: `why` is missing or empty; say why the verdict is right", path.display());
    case
}

/// A kind and its settings, `numeric rel_tol=0.01 abs_tol=0`; mathematics when nothing is said.
fn judge(case: &Value) -> Judge {
    let words: Vec<&str> = case.get("judge").and_then(Value::as_str).unwrap_or("math").split(' ').collect();
    let settings = words[1..].iter().map(|setting| setting.split_once('=').expect("name=value"));
    Judge::of(words[0], settings).expect("a judge")
}

fn text<'a>(case: &'a Value, key: &str) -> &'a str {
    case[key].as_str().unwrap_or_else(|| panic!("`{key}` is missing in {case}"))
}

#[test]
fn golden_cases() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    let mut count = 0;
    for (path, mut cases) in goldens() {
        for case in &mut cases {
            count += 1;
            let judgement = judge(case).judge(text(case, "gold"), text(case, "response"));
            let (verdict, method) = (judgement.verdict.as_str(), judgement.method.as_str());
            if text(case, "verdict") != verdict || text(case, "method") != method {
                wrong.push(format!("{case}\n    now {verdict} by {method}"));
                case["verdict"] = verdict.into();
                case["method"] = method.into();
            }
        }
        if update {
            let lines: String = cases.iter().map(|case| format!("{case}\n")).collect();
            std::fs::write(&path, lines).expect("writable");
        }
    }
    assert!(count > 300, "the goldens were found");
    assert!(update || wrong.is_empty(), "{} of {count} cases changed:\n{}", wrong.len(), wrong.join("\n"));
}

fn is_one_of(path: &Path, stems: &[&str]) -> bool {
    path.file_stem().is_some_and(|stem| stems.iter().any(|known| stem == *known))
}

/// Answers of all goldens that have a tree.
fn answers() -> Vec<String> {
    let mut answers = Vec::new();
    for (path, cases) in goldens() {
        // calls and programs have languages of their own, choices and their values are read as text
        if is_one_of(&path, &["calls", "hostile", "judges", "letters", "programs"]) {
            continue;
        }
        for case in &cases {
            let gold = text(case, "gold");
            if !gold.contains("\\boxed") && canonical_print(gold).is_some() {
                answers.push(gold.to_string());
            }
        }
    }
    answers.sort();
    answers.dedup();
    answers
}

fn verdict(gold: &str, answer: &str) -> Verdict {
    Judge::Math(Options::default()).judge(gold, &format!("\\boxed{{{answer}}}")).verdict
}

#[test]
fn an_answer_equals_itself() {
    let unequal: Vec<String> =
        answers().into_iter().filter(|answer| verdict(answer, answer) != Verdict::Correct).collect();
    assert!(unequal.is_empty(), "{}", unequal.join("\n"));
}

#[test]
fn spacing_and_sizing_do_not_matter() {
    let mut wrong = Vec::new();
    for answer in answers() {
        if answer.contains("\\text")
            || answer.contains("0.(")
            || answer.contains('"')
            || answer.contains(|c: char| !c.is_ascii())
        {
            continue;
        }
        for changed in [
            format!("\\displaystyle {answer}"),
            format!("\\, {answer} \\!"),
            format!("  {answer}  "),
            format!("${answer}$"),
            format!("\\left. {answer} \\right."),
            answer.replace('(', "\\left(").replace(')', "\\right)"),
            answer.replace(" + ", "\\;+\\;").replace('=', " = "),
        ] {
            if verdict(&answer, &changed) != Verdict::Correct {
                wrong.push(format!("{answer} against {changed}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn printing_is_stable() {
    let mut wrong = Vec::new();
    for answer in answers() {
        let first = canonical_print(&answer).expect("only readable answers are listed");
        // shapes, units and counted things print in a notation of their own that is not read again
        if first.contains("\\shape[") || first.contains(">*") || first.contains("\\text{") {
            continue;
        }
        let second = canonical_print(&first);
        if second.as_deref() != Some(first.as_str()) {
            wrong.push(format!("{answer}: {first} is read as {second:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn equality_is_symmetric_but_for_conventions() {
    // the conventions that look at the reference only: percent as a number, rounding to the reference's digits, the base of
    // digits, and a reference that gives several forms of its answer
    let one_sided = |gold: &str, answer: &str| {
        let sides = format!("{gold} {answer}");
        sides.contains('%')
            || sides.contains("percent")
            || sides.contains("pct")
            || sides.contains('_')
            || sides.contains('.')
            || sides.contains("textbf{(")
            || gold.contains("\\approx")
            || gold.contains(" or ")
    };
    let mut checked = 0;
    let mut wrong = Vec::new();
    for (path, cases) in goldens() {
        // a response may name what the reference is the value of, and give the letter or the value of a choice
        if is_one_of(&path, &["judges", "hostile", "extraction", "statements", "letters", "names"]) {
            continue;
        }
        for case in &cases {
            let (gold, response) = (text(case, "gold"), text(case, "response"));
            let Some(answer) = mindgap_math::last_boxed(response) else { continue };
            if one_sided(gold, answer)
                || answer.contains(['{', '}']) && answer.matches('{').count() != answer.matches('}').count()
            {
                continue;
            }
            checked += 1;
            if (verdict(gold, answer) == Verdict::Correct) != (verdict(answer, gold) == Verdict::Correct) {
                wrong.push(format!("{gold} against {answer}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked > 150, "there were cases to check");
}
