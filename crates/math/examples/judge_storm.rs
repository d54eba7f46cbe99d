//! judge_storm: mutation testing of the mathematics judge without a nightly toolchain.
//!
//! `cargo run --release -p mindgap-math --example judge_storm -- parse|compare|extract COUNT SEED [FOLDER]` mutates the goldens of FOLDER
//! (`tests/golden/math`), feeds them to the judge, and reports panics and the slowest inputs. The same arguments give the
//! same inputs. Slower in finding new paths than the coverage-guided targets in `fuzz/`, faster in executions.

#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a program of its own")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use mindgap_math::{Judge, Numeric, Options, Verdict, boxed_answers, canonical_print, last_boxed};

/// Pieces that answers are made of.
const PIECES: &[&str] = &[
    "\\frac{",
    "\\sqrt{",
    "\\boxed{",
    "\\left(",
    "\\right)",
    "\\{",
    "\\}",
    "\\begin{pmatrix}",
    "\\end{pmatrix}",
    "\\begin{cases}",
    "\\end{cases}",
    "\\text{",
    "\\mathrm{",
    "\\cdot",
    "\\pm",
    "\\infty",
    "\\pi",
    "\\cup",
    "\\setminus",
    "\\in",
    "\\le",
    "\\ne",
    "\\approx",
    "\\sin",
    "\\log_",
    "\\ln",
    "\\sum_{k=1}^",
    "\\binom",
    "\\overline{",
    "\\lfloor",
    "\\rceil",
    "\\langle",
    "^\\circ",
    "\\%",
    "\\$",
    "\\,",
    "\\!",
    "{,}",
    "\\quad",
    "\\mathbb{R}",
    "\\mid",
    "\\over",
    "\\int_",
    "\\dot{",
    "...",
    " and ",
    " or ",
    " percent",
    "p.m.",
    "^{",
    "_{",
    "&",
    "\\\\",
    "!!",
    "**",
    "<=",
    "10^{10}",
    "e^{",
    "x^2",
    "1,000",
    "1e5",
    "0.(3)",
    "(A)",
    "Answer: ",
    "#### ",
    "$$",
    "\\[",
    "\\]",
    "√",
    "½",
    "²",
    "∞",
    "−",
    "≤",
    "°",
    "₂",
    "𝑥",
    "…",
    "€",
    "漢",
    "😀",
    "\u{200b}",
    "{",
    "}",
    "(",
    ")",
    "$",
    "\\",
    "^",
    "_",
    ",",
    "0",
    "9",
    "-",
    "|",
    " ",
    ".",
    "x",
    "=",
    "<",
];

/// A counter-based source of choices.
struct Choices(u64);

impl Choices {
    /// A number below `limit`.
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit.max(1)
    }

    /// A place in a text between two characters.
    fn place(&mut self, text: &str) -> usize {
        let at = self.below(text.len() + 1);
        boundary(text, at)
    }

    /// One to four changes.
    fn mutated(&mut self, text: &str, other: &str) -> String {
        let mut text = text.to_string();
        for _ in 0..1 + self.below(4) {
            let at = self.place(&text);
            match self.below(6) {
                0..3 => text.insert_str(at, PIECES[self.below(PIECES.len())]),
                3 => {
                    let end = boundary(&text, (at + self.below(8)).min(text.len()));
                    text.replace_range(at..end.max(at), "");
                }
                4 => {
                    let start = self.place(other);
                    let end = boundary(other, (start + self.below(30)).min(other.len()));
                    text.insert_str(at, &other[start..end.max(start)]);
                }
                _ => {
                    let end = boundary(&text, (at + self.below(12)).min(text.len())).max(at);
                    let piece = text[at..end].repeat(self.below(5));
                    text.insert_str(at, &piece);
                }
            }
        }
        text.truncate(boundary(&text, text.len().min(400)));
        text
    }
}

/// The last character boundary at or before `at`.
fn boundary(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// References and responses of the goldens.
fn seeds(folder: &str) -> Result<Vec<(String, String)>, Box<dyn std::error::Error>> {
    let mut seeds = Vec::new();
    let mut paths: Vec<_> = std::fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    for path in paths {
        for line in std::fs::read_to_string(path)?.lines().filter(|line| line.len() < 400) {
            let case: serde_json::Value = serde_json::from_str(line)?;
            if let (Some(gold), Some(response)) = (case["gold"].as_str(), case["response"].as_str()) {
                seeds.push((gold.to_string(), response.to_string()));
            }
        }
    }
    Ok(seeds)
}

fn exercise(mode: &str, gold: &str, response: &str) {
    match mode {
        "parse" => {
            if let Some(printed) = canonical_print(gold) {
                let _ = canonical_print(&printed);
            }
        }
        "compare" => {
            let _ = Judge::Math(Options::default()).judge(gold, response);
        }
        _ => {
            assert!(last_boxed(response).is_none() || !boxed_answers(response).is_empty());
            for judge in [
                Judge::Exact,
                Judge::Choice,
                Judge::Json,
                Judge::Numeric(Numeric::default()),
                Judge::ToolCall { ordered: true },
                Judge::Program { text: false },
            ] {
                let judgement = judge.judge(gold, response);
                assert!(judgement.verdict == Verdict::NoAnswer || judgement.extracted.is_some());
            }
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [mode, count, seed, folder @ ..] = arguments.as_slice() else {
        return Err("usage: judge_storm parse|compare|extract COUNT SEED [FOLDER]".into());
    };
    let (count, seed): (u64, u64) = (count.parse()?, seed.parse()?);
    let seeds = seeds(folder.first().map_or("tests/golden/math", String::as_str))?;
    let mut choices = Choices(seed.wrapping_mul(0xD134_2543_DE82_EF95) | 1);
    let (start, mut slowest, mut panics) = (Instant::now(), 0, 0);
    for index in 0..count {
        let (gold, response) = &seeds[choices.below(seeds.len())];
        let (other_gold, other_response) = &seeds[choices.below(seeds.len())];
        let gold = choices.mutated(gold, other_gold);
        let response = match choices.below(3) {
            0 => format!("\\boxed{{{}}}", choices.mutated(&gold, other_gold)),
            _ => choices.mutated(response, other_response),
        };
        let before = Instant::now();
        if catch_unwind(AssertUnwindSafe(|| exercise(mode, &gold, &response))).is_err() {
            panics += 1;
            println!("panic at {index}: {gold:?} {response:?}");
        }
        let millis = before.elapsed().as_millis();
        if millis > slowest {
            slowest = millis;
            println!("{millis} ms at {index}: {gold:?} {response:?}");
        }
    }
    println!("{mode}: {count} inputs, {panics} panics, slowest {slowest} ms, {:.0} s", start.elapsed().as_secs_f64());
    if panics > 0 { Err("there were panics".into()) } else { Ok(()) }
}
