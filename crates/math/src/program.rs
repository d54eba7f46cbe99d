//! program: the arithmetic language of questions over financial reports, as FinQA (arXiv 2109.00122) has it:
//! `subtract(5829, 5735), divide(#0, 5735)`. Steps one after the other; `#0` is the result of the first one.
//!
//! Two programs are the same when their steps are (numbers by value), and equal when their results are, rounded to five
//! decimals as FinQA's own evaluation rounds them.

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{Pow, Signed, ToPrimitive, Zero};

use crate::json;
use crate::judge::{Judgement, Verdict, reference};
use crate::numeric;
use crate::read::ast::Expr;
use crate::read::{extract, number};

/// The operations, and how many arguments each has.
const OPERATIONS: [(&str, usize); 10] = [
    ("add", 2),
    ("subtract", 2),
    ("multiply", 2),
    ("divide", 2),
    ("exp", 2),
    ("greater", 2),
    ("table_max", 2),
    ("table_min", 2),
    ("table_sum", 2),
    ("table_average", 2),
];

/// Steps of the longest program that is judged.
const STEP_LIMIT: usize = 100;

/// Bytes between the brackets of a step.
const ARGUMENTS_LIMIT: usize = 1_000;

/// The largest whole power, and the largest result, in bits.
const EXPONENT_LIMIT: u32 = 1_000;
const RESULT_BITS: u64 = 20_000;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    operation: &'static str,
    arguments: Vec<Argument>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Argument {
    Number(BigRational),
    /// The result of an earlier step.
    Result(usize),
    /// A row of the table, or `none`: the judge does not see the table.
    Row(String),
}

/// What a program comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Number(BigRational),
    Truth(bool),
}

/// Judges the program of a response by the reference, a program or its result. Where `text` says so, the reference's own steps are
/// asked for.
pub fn judge(text: bool, gold: &str, response: &str) -> Judgement {
    let Some((steps, place, shown)) = program_of(response) else {
        return Judgement::new(Verdict::NoAnswer, None, "none", "");
    };
    let shown = Some(shown.to_string());
    let Some(steps) = steps.filter(|steps| steps.len() <= STEP_LIMIT) else {
        return Judgement::new(Verdict::Unparsed, shown, place, "syntax");
    };
    let gold = reference(gold, false);
    let wanted_steps = read(&gold).filter(|steps| steps.len() <= STEP_LIMIT);
    if wanted_steps.as_ref() == Some(&steps) {
        return Judgement::new(Verdict::Correct, shown, place, "text");
    }
    let wanted = match &wanted_steps {
        Some(steps) => executed(steps),
        None => stated(&gold),
    };
    match (wanted, executed(&steps)) {
        _ if text && wanted_steps.is_some() => Judgement::new(Verdict::Incorrect, shown, place, "text"),
        _ if text => Judgement::new(Verdict::Unparsed, shown, "gold", "syntax"),
        (Some(wanted), Some(given)) => {
            let verdict = if wanted == given { Verdict::Correct } else { Verdict::Incorrect };
            Judgement::new(verdict, shown, place, "execution")
        }
        (None, _) if wanted_steps.is_none() => Judgement::new(Verdict::Unparsed, shown, "gold", "syntax"),
        // Operations over rows of a table are the same as text or not comparable; a division by zero has no result.
        _ => Judgement::new(Verdict::Incorrect, shown, place, "no_result"),
    }
}

type Located<'a> = (Option<Vec<Step>>, &'static str, &'a str);

/// The program of a response: what a fenced block or a box holds, else the last one in the text. None where it has none.
fn program_of(response: &str) -> Option<Located<'_>> {
    let text = extract::answer_part(response)?;
    let (inside, place) = json::located(text);
    let inside = inside.trim();
    if place != "whole" {
        return (!inside.is_empty()).then(|| (read(inside), place, inside));
    }
    let (steps, shown) = last_program(inside)?;
    Some((Some(steps), "text", shown))
}

/// The last run of steps in a text.
fn last_program(text: &str) -> Option<(Vec<Step>, &str)> {
    let mut last = None;
    let mut at = 0;
    while at < text.len() {
        let is_start = OPERATIONS.iter().any(|(name, _)| text[at..].starts_with(name))
            && !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        match is_start.then(|| steps(&text[at..])).flatten() {
            Some((steps, length)) => {
                last = Some((steps, &text[at..at + length]));
                at += length;
            }
            None => at += text[at..].chars().next().map_or(1, char::len_utf8),
        }
    }
    last
}

/// A text that is a program and nothing else, but for a closing `EOF`.
fn read(text: &str) -> Option<Vec<Step>> {
    let text = text.trim();
    let (steps, length) = steps(text)?;
    let rest = text[length..].trim_start_matches([',', ' ']);
    (rest.is_empty() || rest == "EOF").then_some(steps)
}

/// The steps a text begins with, and its bytes that they take.
fn steps(text: &str) -> Option<(Vec<Step>, usize)> {
    let mut steps = Vec::new();
    let mut end = 0;
    loop {
        let gap = if steps.is_empty() { 0 } else { separator(&text[end..]) };
        let Some((step, length)) = step(&text[end + gap..], steps.len()) else { break };
        end += gap + length;
        steps.push(step);
    }
    (!steps.is_empty()).then_some((steps, end))
}

/// The length of what stands between two steps: a comma or a semicolon, and white space.
fn separator(text: &str) -> usize {
    text.len() - text.trim_start_matches([',', ';', ' ', '\n', '\t']).len()
}

/// The step a text begins with, behind so many others.
fn step(text: &str, earlier: usize) -> Option<(Step, usize)> {
    let is_called = |name: &str| text.strip_prefix(name).is_some_and(|rest| rest.trim_start().starts_with('('));
    let (operation, count) = OPERATIONS.iter().find(|(name, _)| is_called(name))?;
    let open = text.find('(')?;
    let close = open + closing(&text[open..])?;
    let inside = &text[open + 1..close];
    let over_rows = operation.starts_with("table_");
    let parts: Vec<&str> = match over_rows {
        // A row's name may have commas in it; what follows it is `none`.
        true => inside.rsplit_once(',').map(|(row, none)| vec![row, none]).unwrap_or_else(|| vec![inside]),
        false => arguments(inside),
    };
    if parts.len() != *count && !(over_rows && parts.len() == 1) {
        return None;
    }
    let argument = |part: &&str| argument(part.trim(), earlier, over_rows);
    Some((Step { operation, arguments: parts.iter().map(argument).collect::<Option<_>>()? }, close + 1))
}

/// The place of the bracket that closes the first one.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    for (at, byte) in text.bytes().enumerate().take(ARGUMENTS_LIMIT) {
        match byte {
            b'(' => depth += 1,
            b')' if depth == 1 => return Some(at),
            b')' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// Arguments, between commas that are not between thousands: `5,829, 5,735` is two.
fn arguments(inside: &str) -> Vec<&str> {
    let spaced: Vec<&str> = inside.split(", ").collect();
    if spaced.len() == 2 { spaced } else { inside.split(',').collect() }
}

fn argument(text: &str, earlier: usize, is_row: bool) -> Option<Argument> {
    if let Some(index) = text.strip_prefix('#') {
        let index: usize = index.parse().ok()?;
        return (index < earlier).then_some(Argument::Result(index));
    }
    if is_row {
        return Some(Argument::Row(text.to_string()));
    }
    let text = match text.strip_prefix("const_") {
        Some("m1") => "-1",
        Some(number) => number,
        None => text,
    };
    amount(text).map(Argument::Number)
}

/// A number as reports write it: `$5,829`, `12.5%`, `-3`, `(12.6)`.
fn amount(text: &str) -> Option<BigRational> {
    let text = text.trim();
    let (negative, text) = match text.strip_prefix('(').and_then(|text| text.strip_suffix(')')) {
        Some(inside) => (true, inside),
        None => text.strip_prefix('-').map_or((false, text), |text| (true, text)),
    };
    let text = text.trim().trim_start_matches(['$', '\u{20ac}', '\u{a3}']).trim();
    let (text, percent) = text.strip_suffix('%').map_or((text, false), |text| (text.trim_end(), true));
    let scan = number::scan(text, true, false);
    if scan.length == 0 || scan.length != text.len() || scan.too_large {
        return None;
    }
    let value = if percent { scan.value / BigRational::from_integer(100.into()) } else { scan.value };
    Some(if negative { -value } else { value })
}

/// The result that a reference states.
fn stated(gold: &str) -> Option<Outcome> {
    match gold.trim() {
        "yes" => Some(Outcome::Truth(true)),
        "no" => Some(Outcome::Truth(false)),
        text => amount(text).map(|value| Outcome::Number(rounded(&value))),
    }
}

/// The result of the last step; none where one has none.
fn executed(steps: &[Step]) -> Option<Outcome> {
    let mut results: Vec<Outcome> = Vec::new();
    for step in steps {
        let number = |argument: &Argument| match argument {
            Argument::Number(value) => Some(value.clone()),
            Argument::Result(index) => match results.get(*index)? {
                Outcome::Number(value) => Some(value.clone()),
                Outcome::Truth(_) => None,
            },
            Argument::Row(_) => None,
        };
        let [first, second] = step.arguments.as_slice() else { return None };
        let (first, second) = (number(first)?, number(second)?);
        let result = match step.operation {
            "add" => first + second,
            "subtract" => first - second,
            "multiply" => first * second,
            "divide" if second.is_zero() => return None,
            "divide" => first / second,
            "exp" => power(&first, &second)?,
            "greater" => {
                results.push(Outcome::Truth(first > second));
                continue;
            }
            _ => return None,
        };
        if bits(&result) > RESULT_BITS {
            return None;
        }
        results.push(Outcome::Number(result));
    }
    match results.pop()? {
        Outcome::Number(value) => Some(Outcome::Number(rounded(&value))),
        truth => Some(truth),
    }
}

/// A power; of a whole exponent exactly, else close to it.
fn power(base: &BigRational, exponent: &BigRational) -> Option<BigRational> {
    if !exponent.is_integer() {
        return numeric::value(&Expr::Pow(Box::new(Expr::num(base.clone())), Box::new(Expr::num(exponent.clone()))));
    }
    let size = exponent.numer().abs().to_u32().filter(|size| *size <= EXPONENT_LIMIT)?;
    if bits(base) * u64::from(size) > RESULT_BITS || exponent.is_negative() && base.is_zero() {
        return None;
    }
    let value = base.clone().pow(size);
    Some(if exponent.is_negative() { value.recip() } else { value })
}

fn bits(value: &BigRational) -> u64 {
    value.numer().bits().max(value.denom().bits())
}

/// Rounded to five decimals.
fn rounded(value: &BigRational) -> BigRational {
    let places = BigRational::from_integer(BigInt::from(100_000));
    (value * &places).round() / places
}
