//! judge: the verdict on one response, by one of several kinds of judge.

use num_rational::BigRational;
use num_traits::{FromPrimitive, Signed};

use super::JUDGE_VERSION;
use crate::compare::equal::Comparison;
use crate::compare::identity;
use crate::json;
use crate::number::budget::Budget;
use crate::number::eval::{Point, eval};
use crate::options::Options;
use crate::read::ast::Expr;
use crate::read::extract::{self, Found};
use crate::read::letters;
use crate::read::lex::Comma;
use crate::read::parse::{self, Failure, Parsed};

/// What the judge says of one response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The final answer equals the reference answer.
    Correct,
    /// It does not.
    Incorrect,
    /// The response holds no final answer, or only the beginning of one.
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

/// How answers are compared; chosen per problem table.
#[derive(Debug, Clone, PartialEq)]
pub enum Judge {
    /// Mathematical equality.
    Math(Options),
    /// The same text, up to white space around it.
    Exact,
    /// Numbers within a tolerance: `|answer - gold| <= max(abs_tol, rel_tol * |gold|)`.
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

impl Judgement {
    fn new(verdict: Verdict, extracted: Option<String>, place: &str, how: &str) -> Judgement {
        let method = if how.is_empty() { place.to_string() } else { format!("{place}/{how}") };
        Judgement { verdict, extracted, method }
    }
}

impl Judge {
    /// Judges one response; total on any input.
    pub fn judge(&self, gold: &str, response: &str) -> Judgement {
        match self {
            Judge::Math(options) => mathematics(options, gold, response),
            Judge::Exact => exact(gold, response),
            Judge::Numeric { rel_tol, abs_tol } => numeric(*rel_tol, *abs_tol, gold, response),
            Judge::Choice => choice(gold, response),
            Judge::Json => structured(gold, response),
        }
    }

    /// The judge's name with its version and the options that differ from the defaults; part of fingerprints.
    pub fn name(&self) -> String {
        match self {
            Judge::Math(options) => match options.differing() {
                differing if differing.is_empty() => format!("math-v{JUDGE_VERSION}"),
                differing => format!("math-v{JUDGE_VERSION}({differing})"),
            },
            Judge::Exact => format!("exact-v{JUDGE_VERSION}"),
            Judge::Numeric { rel_tol, abs_tol } => {
                format!("numeric-v{JUDGE_VERSION}(rel_tol={rel_tol},abs_tol={abs_tol})")
            }
            Judge::Choice => format!("choice-v{JUDGE_VERSION}"),
            Judge::Json => format!("json-v{JUDGE_VERSION}"),
        }
    }
}

/// The response's answer, or the judgement that there is none.
fn answer_of(response: &str, join: bool) -> Result<(String, &'static str), Judgement> {
    match extract::final_answer(response, join) {
        Found::Answer(text, place) => Ok((text, place)),
        Found::Withheld(text, place) => Err(Judgement::new(Verdict::NoAnswer, text, place, "")),
        Found::Nothing => Err(Judgement::new(Verdict::NoAnswer, None, "none", "")),
    }
}

/// The text of a reference: bare, in dollars, or a solution with a box.
pub(crate) fn reference(gold: &str, join: bool) -> String {
    if extract::boxes(gold).is_empty() {
        let gold = gold.trim();
        return gold.to_string();
    }
    match extract::final_answer(gold, join) {
        Found::Answer(text, "boxed") if extract::percent_follows(gold) => text + "\\%",
        Found::Answer(text, _) => text,
        _ => gold.trim().to_string(),
    }
}

/// White space and dollars removed, except between digits.
fn bare(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut pending = false;
    for c in text.chars() {
        if c.is_whitespace() || c == '$' {
            pending = true;
            continue;
        }
        if pending && c.is_ascii_digit() && out.ends_with(|last: char| last.is_ascii_digit()) {
            out.push(' ');
        }
        pending = false;
        out.push(c);
    }
    out
}

fn mathematics(options: &Options, gold: &str, response: &str) -> Judgement {
    let gold = reference(gold, options.join_boxes);
    let letter = if options.choice_letters { only_letter(&gold) } else { None };
    let found = answer_of(response, options.join_boxes);
    if let Some(wanted) = letter {
        let given = match &found {
            Ok((answer, "boxed" | "boxes" | "boxed_unclosed" | "math" | "whole")) => letters::letter(answer),
            Ok((answer, _)) => letters::letter(answer).or_else(|| letters::chosen_letter(response)),
            Err(judgement) if judgement.method == "none" => letters::chosen_letter(response),
            Err(_) => None,
        };
        if let Some(given) = given {
            let verdict = if given == wanted { Verdict::Correct } else { Verdict::Incorrect };
            let place = found.as_ref().map_or("text", |(_, place)| place);
            return Judgement::new(verdict, Some(given.to_string()), place, "choice");
        }
    }
    let (answer, place) = match found {
        Ok(found) => found,
        Err(judgement) => return judgement,
    };
    let (verdict, how) = compared(options, &gold, &answer);
    Judgement::new(verdict, Some(answer), place, how)
}

/// Readings of commas that are tried when the usual one does not show equality.
const READINGS: [(Comma, Comma); 8] = [
    (Comma::Separator, Comma::Auto),
    (Comma::Auto, Comma::Separator),
    (Comma::Separator, Comma::Separator),
    (Comma::Decimal, Comma::Auto),
    (Comma::Auto, Comma::Decimal),
    (Comma::Thousands, Comma::Auto),
    (Comma::Auto, Comma::Thousands),
    (Comma::Thousands, Comma::Thousands),
];

fn compared(options: &Options, gold: &str, answer: &str) -> (Verdict, &'static str) {
    let same_text = bare(gold) == bare(answer);
    let first = parse::parse(gold, Comma::Auto);
    let second = parse::parse(answer, Comma::Auto);
    let (first, second) = match (first, second) {
        (Ok(first), Ok(second)) => (first, second),
        (_, Err(Failure::Empty)) => return (Verdict::NoAnswer, "empty"),
        _ if same_text => return (Verdict::Correct, "string"),
        (_, Err(Failure::TooLarge)) => return (Verdict::BudgetExceeded, "too_large"),
        (_, Err(Failure::Syntax)) => return (Verdict::Unparsed, "syntax"),
        (Err(_), Ok(_)) => return (Verdict::Incorrect, "string"),
    };
    if same_text {
        return (Verdict::Correct, "string");
    }
    if !options.times_across_fonts
        && matches!(first.expr, Expr::Time(..))
        && matches!(second.expr, Expr::Time(..))
        && wholly_text(gold)
        && answer.contains('\\')
        && !wholly_text(answer)
    {
        return (Verdict::Incorrect, "text");
    }
    let result = trees(options, &first.expr, &second.expr);
    if result.0 == Verdict::Correct || !(first.ambiguous || second.ambiguous) {
        return result;
    }
    let read = |text: &str, usual: &Parsed, comma: Comma| match comma {
        Comma::Auto => Some(usual.clone()),
        _ if usual.ambiguous => parse::parse(text, comma).ok(),
        _ => None,
    };
    for (gold_comma, answer_comma) in READINGS {
        // a decimal comma where the other side has a decimal point, and nowhere else: (2,4) is not 12/5
        if gold_comma == Comma::Decimal && !(has_decimal_comma(gold) && is_decimal(&second.expr))
            || answer_comma == Comma::Decimal && !(has_decimal_comma(answer) && is_decimal(&first.expr))
        {
            continue;
        }
        let (Some(first), Some(second)) = (read(gold, &first, gold_comma), read(answer, &second, answer_comma)) else {
            continue;
        };
        // all other readings together cost no more than the usual one
        let reduced = Options { step_budget: options.step_budget / READINGS.len() as u64, ..options.clone() };
        let other = trees(&reduced, &first.expr, &second.expr);
        if other.0 == Verdict::Correct {
            return other;
        }
    }
    result
}

/// True for a numeral alone with a comma that can be a decimal one: `1,22`, and neither `(1,22)` nor `1,222`.
fn has_decimal_comma(text: &str) -> bool {
    let bare = text.trim().trim_matches('$').trim().trim_start_matches(['-', '+']);
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    bare.split_once(',').is_some_and(|(whole, decimals)| {
        let thousands = decimals.len() == 3 && whole.len() <= 3 && !whole.starts_with('0');
        digits(whole) && digits(decimals) && !thousands
    })
}

/// True for a numeral with a decimal point.
fn is_decimal(expr: &Expr) -> bool {
    match expr {
        Expr::Num(_, places) => places.is_some_and(|places| places > 0),
        Expr::Neg(inner) | Expr::Quantity(inner, _) => is_decimal(inner),
        _ => false,
    }
}

/// True for one group of text and nothing around it: `\text{4:30 p.m.}`.
fn wholly_text(answer: &str) -> bool {
    let bare = answer.trim().trim_matches('$').trim();
    let inside =
        ["\\text{", "\\mbox{", "\\textbf{", "\\textrm{", "\\mathrm{"].iter().find_map(|name| bare.strip_prefix(name));
    inside.and_then(|inside| inside.strip_suffix('}')).is_some_and(|inside| !inside.contains(['{', '}', '\\']))
}

fn trees(options: &Options, gold: &Expr, answer: &Expr) -> (Verdict, &'static str) {
    let mut comparison = Comparison::new(options);
    match comparison.same(gold, answer) {
        Ok(true) => (Verdict::Correct, comparison.method),
        Ok(false) => (Verdict::Incorrect, comparison.method),
        Err(_) => (Verdict::BudgetExceeded, "steps"),
    }
}

/// A reference that is a choice: one capital letter, with or without brackets and fonts.
fn only_letter(gold: &str) -> Option<char> {
    let letter = letters::letter(gold)?;
    let letters = gold
        .replace("\\textbf", "")
        .replace("\\text", "")
        .replace("\\mathrm", "")
        .replace("\\mathbf", "")
        .replace("\\mbox", "");
    (letters.chars().filter(|c| c.is_alphanumeric()).count() == 1).then_some(letter)
}

/// True when an answer has a tree.
pub fn readable(answer: &str) -> bool {
    only_letter(answer).is_some() || parse::parse(&reference(answer, true), Comma::Auto).is_ok()
}

fn exact(gold: &str, response: &str) -> Judgement {
    let gold = super::last_boxed(gold).unwrap_or(gold).trim();
    let response = extract::answer_part(response).unwrap_or_default();
    let (place, answer) = match extract::boxes(response).pop() {
        Some(span) if span.closed => ("boxed", response[span.content].trim()),
        Some(_) => return Judgement::new(Verdict::NoAnswer, None, "boxed/truncated", ""),
        None => ("whole", response.trim()),
    };
    if answer.is_empty() {
        return Judgement::new(Verdict::NoAnswer, None, place, "empty");
    }
    let verdict = if gold == answer { Verdict::Correct } else { Verdict::Incorrect };
    Judgement::new(verdict, Some(answer.to_string()), place, "string")
}

/// The value of an answer as an exact number, or close to it.
fn number(text: &str) -> Option<BigRational> {
    let mut expr = parse::parse(text, Comma::Auto).ok()?.expr;
    loop {
        expr = match expr {
            Expr::Quantity(inner, _) => *inner,
            Expr::Rel(..) => crate::compare::names::assignment(&expr)?.1.clone(),
            other => {
                expr = other;
                break;
            }
        };
    }
    if let Some(value) = identity::rational(&expr) {
        return Some(value);
    }
    let point = Point { values: &[], precision: 256 };
    let value = eval(&expr, &point, &mut Budget::new(20_000)).ok().filter(|value| value.im.contains_zero())?;
    let (mantissa, exponent) = value.re.midpoint();
    if exponent.abs() > 10_000 {
        return None;
    }
    let mantissa = BigRational::from_integer(mantissa.clone());
    Some(mantissa * num_traits::Pow::pow(BigRational::from_integer(2.into()), exponent as i32))
}

fn numeric(rel_tol: f64, abs_tol: f64, gold: &str, response: &str) -> Judgement {
    let (answer, place) = match answer_of(response, false) {
        Ok(found) => found,
        Err(judgement) => return judgement,
    };
    let (Some(wanted), Some(given)) = (number(&reference(gold, false)), number(&answer)) else {
        return Judgement::new(Verdict::Unparsed, Some(answer), place, "no_number");
    };
    let tolerance = |value: f64| BigRational::from_f64(value).unwrap_or_else(|| BigRational::from_integer(0.into()));
    let allowed = (tolerance(rel_tol) * wanted.abs()).max(tolerance(abs_tol));
    let verdict = if (given - wanted).abs() <= allowed { Verdict::Correct } else { Verdict::Incorrect };
    Judgement::new(verdict, Some(answer), place, "tolerance")
}

fn choice(gold: &str, response: &str) -> Judgement {
    let wanted = letters::letter(&reference(gold, false));
    let found = answer_of(response, false);
    let (given, place) = match &found {
        Ok((answer, place)) => (
            letters::letter(answer).or_else(|| if *place == "boxed" { None } else { letters::chosen_letter(response) }),
            *place,
        ),
        Err(judgement) if judgement.method == "none" => (letters::chosen_letter(response), "text"),
        Err(judgement) => return judgement.clone(),
    };
    match given {
        Some(given) => {
            let verdict = if Some(given) == wanted { Verdict::Correct } else { Verdict::Incorrect };
            Judgement::new(verdict, Some(given.to_string()), place, "choice")
        }
        None => match found {
            Ok((answer, _)) => Judgement::new(Verdict::Unparsed, Some(answer), place, "no_letter"),
            Err(judgement) => judgement,
        },
    }
}

/// JSON from the last fenced block, the last box, or the whole text.
fn structured(gold: &str, response: &str) -> Judgement {
    let (text, place) = json::located(extract::answer_part(response).unwrap_or_default());
    if text.trim().is_empty() {
        return Judgement::new(Verdict::NoAnswer, None, place, "empty");
    }
    let Some(given) = json::parse(text) else {
        return Judgement::new(Verdict::Unparsed, Some(text.trim().to_string()), place, "syntax");
    };
    let same = json::parse(json::located(gold).0).is_some_and(|wanted| wanted == given);
    let verdict = if same { Verdict::Correct } else { Verdict::Incorrect };
    Judgement::new(verdict, Some(text.trim().to_string()), place, "json")
}
