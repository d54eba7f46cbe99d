#![doc = include_str!("../README.md")]
//!
//! # Stability
//!
//! [`judge`], [`equal`], [`extract`] and [`parse`], the types they name, the names and values of [`Options`] and the words of
//! [`Verdict`] change only with a breaking version. Verdicts change only with [`JUDGE_VERSION`]; so may what
//! [`Judgement::method`] says and how [`Answer`] is printed.

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

use read::ast::Expr;
use read::extract::Found;
use read::lex::Comma;
use read::print;

pub use judge::{Judge, Judgement, Verdict};
pub use numeric::Numeric;
pub use options::{Options, Percent, Scale};
pub use read::parse::ParseError;
pub use stated::{concluded_answer, is_bare_answer, stated_answer};

/// Bumped whenever a verdict can change; part of every verdict's fingerprint.
pub const JUDGE_VERSION: u32 = 6;

/// A final answer as it stands in a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extracted {
    /// Its text, without the box or the words that announce it.
    pub text: String,
    /// Where it was found: `boxed` (`boxes`, `boxed_unclosed`), `answer` (announced), `whole`, `math` or `number` (the last
    /// formula or number).
    pub place: &'static str,
}

/// An answer that was read. It prints in the judge's own notation; reading the print again gives the same print.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer(Expr);

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&print::print(&self.0))
    }
}

/// The verdict on a response, with its evidence. The reference is an answer, or a solution with a box.
///
/// ```
/// use mindgap_math::{Options, Verdict, judge};
///
/// let judgement = judge("3/4", r"So it is $\boxed{0.75}$.", &Options::default());
/// assert_eq!((judgement.verdict, judgement.method.as_str()), (Verdict::Correct, "boxed/rational"));
/// assert_eq!(judge("3/4", "I do not know what it is.", &Options::default()).verdict, Verdict::NoAnswer);
/// ```
pub fn judge(gold: &str, response: &str, options: &Options) -> Judgement {
    judge::mathematics(options, gold, response)
}

/// True when two answers are the same. Nothing is extracted: `gold` and `answer` are answers and no responses.
///
/// ```
/// use mindgap_math::{Options, equal};
///
/// assert!(equal(r"\sqrt{8}", r"2\sqrt 2", &Options::default()));
/// assert!(!equal("24 million", "24", &Options::default()));
/// assert!(equal("24 million", "24", &Options::default().with("scale", "ignore")?));
/// # Ok::<(), String>(())
/// ```
pub fn equal(gold: &str, answer: &str, options: &Options) -> bool {
    judge::equal(options, gold, answer)
}

/// The final answer of a response; none where there is none, or only the beginning of one.
///
/// ```
/// let answer = mindgap_math::extract("<think>3?</think> The final answer is $x = 4$.").expect("an answer");
/// assert_eq!((answer.text.as_str(), answer.place), ("x = 4", "answer"));
/// assert_eq!(mindgap_math::extract(r"So it is \boxed{\frac{1}{"), None);
/// ```
pub fn extract(response: &str) -> Option<Extracted> {
    match read::extract::final_answer(response, true) {
        Found::Answer(text, place) => Some(Extracted { text, place }),
        Found::Withheld(..) | Found::Nothing => None,
    }
}

/// Reads an answer.
///
/// # Errors
/// Why it cannot be read. The judge then compares it as a string.
///
/// ```
/// assert_eq!(mindgap_math::parse(r"x \div \sqrt{2}").expect("an answer").to_string(), r"\frac{x}{\sqrt{2}}");
/// assert_eq!(mindgap_math::parse(r"\frac{1}{"), Err(mindgap_math::ParseError::Syntax));
/// ```
pub fn parse(answer: &str) -> Result<Answer, ParseError> {
    read::parse::parse(answer, Comma::Auto).map(|parsed| Answer(parsed.expr))
}

/// The content of the last box of `text`, if its braces close.
pub fn last_boxed(text: &str) -> Option<&str> {
    let last = read::extract::boxes(text).pop()?;
    last.closed.then(|| &text[last.content])
}

/// What stands in the outermost boxes of `text`, each answer once, in order of appearance; unclosed ones included.
pub fn boxed_answers(text: &str) -> Vec<&str> {
    let mut answers = Vec::new();
    for found in read::extract::boxes(text) {
        let answer = text[found.content].trim();
        if !answers.contains(&answer) {
            answers.push(answer);
        }
    }
    answers
}

/// The JSON of a response, and where it stands: behind its thoughts, the last fenced block, else the last box, else everything.
pub fn located_json(response: &str) -> (&str, &'static str) {
    json::located(read::extract::answer_part(response).unwrap_or_default())
}

/// What [`parse`] prints; none when the answer cannot be read.
pub fn canonical_print(answer: &str) -> Option<String> {
    parse(answer).ok().map(|answer| answer.to_string())
}

/// True when an answer is read as mathematics, a choice or words, and not only compared as a string.
pub fn is_readable(answer: &str) -> bool {
    judge::readable(answer)
}
