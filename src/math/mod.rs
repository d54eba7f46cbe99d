//! math: is this response's final answer the reference answer?  extract -> lex -> parse -> normalise -> compare.
//!
//! Total on any input, no clock, no disk, no printing; the same verdict on any machine at any load. Imports nothing of the
//! rest of the house, so that it can become a crate of its own.

mod extract;

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::Zero;

/// Bumped whenever a verdict can change; part of every verdict's fingerprint.
pub const JUDGE_VERSION: u32 = 1;

/// What the judge says of one response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The final answer equals the reference answer.
    Correct,
    /// It does not.
    Incorrect,
    /// The response holds no final answer.
    NoAnswer,
    /// There is a final answer, but it cannot be read.
    Unparsed,
    /// The comparison did not end within the step budget.
    BudgetExceeded,
}

impl Verdict {
    /// The name used in tables and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Correct => "correct",
            Verdict::Incorrect => "incorrect",
            Verdict::NoAnswer => "no_answer",
            Verdict::Unparsed => "unparsed",
            Verdict::BudgetExceeded => "budget_exceeded",
        }
    }
}

/// Conventions of the mathematics judge.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Options {}

/// How answers are compared; chosen per problem table.
#[derive(Debug, Clone, PartialEq)]
pub enum Judge {
    /// Mathematical equality.
    Math(Options),
    /// The same text, up to white space around it.
    Exact,
    /// Numbers within a tolerance: `|a - b| <= max(abs_tol, rel_tol * |gold|)`.
    Numeric {
        /// Relative to the reference answer.
        rel_tol: f64,
        /// Absolute.
        abs_tol: f64,
    },
    /// A multiple-choice letter.
    Choice,
    /// Equal JSON values; the order of keys does not matter.
    Json,
}

/// A verdict with its evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// The final answer found in the response.
    pub extracted: Option<String>,
    /// Where the answer was found and how equality was decided: `boxed/rational`.
    pub method: String,
}

/// The content of the last box of `text`, if its braces close.
pub fn last_boxed(text: &str) -> Option<&str> {
    let last = extract::boxes(text).pop()?;
    last.closed.then(|| &text[last.content])
}

/// How many outermost boxes `text` has, unclosed ones included.
pub fn boxed_count(text: &str) -> usize {
    extract::boxes(text).len()
}

impl Judge {
    /// Judges one response; total on any input.
    pub fn judge(&self, gold: &str, response: &str) -> Judgement {
        let gold = last_boxed(gold).unwrap_or(gold).trim().trim_matches('$').trim();
        let boxed = extract::boxes(response).pop();
        let (place, answer) = match boxed {
            Some(span) if span.closed => ("boxed", response[span.content].trim()),
            Some(_) => {
                return Judgement { verdict: Verdict::NoAnswer, extracted: None, method: "boxed/unclosed".into() };
            }
            None => ("text", response.trim().trim_matches('$').trim()),
        };
        if answer.is_empty() {
            return Judgement { verdict: Verdict::NoAnswer, extracted: None, method: format!("{place}/empty") };
        }
        let (same, how) = match (rational(gold), rational(answer)) {
            (Some(gold), Some(answer)) => (gold == answer, "rational"),
            _ => (gold == answer, "string"),
        };
        let verdict = if same { Verdict::Correct } else { Verdict::Incorrect };
        Judgement { verdict, extracted: Some(answer.to_string()), method: format!("{place}/{how}") }
    }

    /// The judge's name with its version and the options that differ from the defaults; part of fingerprints.
    pub fn name(&self) -> String {
        let kind = match self {
            Judge::Math(_) => "math".to_string(),
            Judge::Exact => "exact".to_string(),
            Judge::Numeric { rel_tol, abs_tol } => {
                return format!("numeric-v{JUDGE_VERSION}(rel_tol={rel_tol},abs_tol={abs_tol})");
            }
            Judge::Choice => "choice".to_string(),
            Judge::Json => "json".to_string(),
        };
        format!("{kind}-v{JUDGE_VERSION}")
    }
}

/// Integers, decimals, simple fractions and percents.
fn rational(text: &str) -> Option<BigRational> {
    let text = text.trim();
    if let Some(body) = text.strip_suffix('%') {
        return Some(rational(body.trim_end_matches('\\'))? / BigInt::from(100));
    }
    if let Some(body) = text.strip_prefix('-') {
        return Some(-rational(body)?);
    }
    let fraction = ["\\frac{", "\\dfrac{", "\\tfrac{"].iter().find_map(|start| text.strip_prefix(start));
    let parts = fraction.and_then(|body| body.strip_suffix('}')?.split_once("}{")).or_else(|| text.split_once('/'));
    if let Some((over, under)) = parts {
        let under = rational(under)?;
        return if under.is_zero() { None } else { Some(rational(over)? / under) };
    }
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let digits = format!("{whole}{decimals}");
    if digits.is_empty() || digits.len() > 1000 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(BigRational::new(digits.parse().ok()?, BigInt::from(10).pow(decimals.len() as u32)))
}
