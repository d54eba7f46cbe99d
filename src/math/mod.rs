//! math: is this response's final answer the reference answer?  extract -> lex -> parse -> compare.
//!
//! Total on any input, no clock, no disk, no printing; the same verdict on any machine at any load. Imports nothing of the
//! rest of the house, so that it can become a crate of its own. Conventions and figures: docs/design/math-equivalence.md.

// people ask here
mod judge;
mod options;
// text -> tree
mod extract;
mod spans;
mod letters;
mod lex;
mod plain;
mod number;
mod token;
mod unicode;
mod units;
mod ast;
mod parse;
mod print;
// tree, tree -> equal?
mod equal;
mod quantities;
mod shapes;
mod signs;
mod relations;
mod sets;
mod matrix;
mod identity;
mod canon;
mod fraction;
mod poly;
// numbers with error bounds
mod eval;
mod complex;
mod elementary;
mod ball;
mod budget;
// other judges
mod json;

pub use judge::{Judge, Judgement, Verdict};
pub use options::Options;

/// Bumped whenever a verdict can change; part of every verdict's fingerprint.
pub const JUDGE_VERSION: u32 = 3;

/// The content of the last box of `text`, if its braces close.
pub fn last_boxed(text: &str) -> Option<&str> {
    let last = extract::boxes(text).pop()?;
    last.closed.then(|| &text[last.content])
}

/// How many outermost boxes `text` has, unclosed ones included.
pub fn boxed_count(text: &str) -> usize {
    extract::boxes(text).len()
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
