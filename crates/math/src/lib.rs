//! Is this response's final answer the reference answer?  extract -> lex -> parse -> compare.
//!
//! Total on any input, no clock, no disk, no printing; the same verdict on any machine at any load. Conventions and figures:
//! docs/design/math-equivalence.md.
#![doc = include_str!("../README.md")]

// people ask here
mod judge;
// gold, answer -> equal?
mod answers;
mod options;
mod stated;
// where thoughts end
pub mod thoughts;
// text -> tree
mod read;
// tree, tree -> equal?
mod compare;
// numbers with error bounds
mod number;
// other judges
mod json;
mod numeric;
mod program;
mod tool_call;

use read::{extract, lex, parse, print};

pub use judge::{Judge, Judgement, Verdict};
pub use numeric::Numeric;
pub use options::{Options, Percent, Scale};
pub use stated::{concluded_answer, is_bare_answer, stated_answer};

/// Bumped whenever a verdict can change; part of every verdict's fingerprint.
pub const JUDGE_VERSION: u32 = 5;

/// The content of the last box of `text`, if its braces close.
pub fn last_boxed(text: &str) -> Option<&str> {
    let last = extract::boxes(text).pop()?;
    last.closed.then(|| &text[last.content])
}

/// What stands in the outermost boxes of `text`, each answer once, in order of appearance; unclosed ones included.
pub fn boxed_answers(text: &str) -> Vec<&str> {
    let mut answers = Vec::new();
    for found in extract::boxes(text) {
        let answer = text[found.content].trim();
        if !answers.contains(&answer) {
            answers.push(answer);
        }
    }
    answers
}

/// The JSON of a response, and where it stands: behind its thoughts, the last fenced block, else the last box, else everything.
pub fn located_json(response: &str) -> (&str, &'static str) {
    json::located(extract::answer_part(response).unwrap_or_default())
}

/// Reads an answer and prints it in the judge's own notation; none when it cannot be read. Reading the print again gives
/// the same print.
pub fn canonical_print(answer: &str) -> Option<String> {
    parse::parse(answer, lex::Comma::Auto).ok().map(|parsed| print::print(&parsed.expr))
}

/// True when an answer is read as mathematics, a choice or words, and not only compared as a string.
pub fn is_readable(answer: &str) -> bool {
    judge::readable(answer)
}
