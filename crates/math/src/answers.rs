//! answers: is one answer the other? Both are read, compared as they usually are, and where that shows no equality, in the
//! other ways that they may be meant.

use crate::compare::combinations;
use crate::compare::equal::Comparison;
use crate::judge::Verdict;
use crate::options::Options;
use crate::read::ast::Expr;
use crate::read::lex::Comma;
use crate::read::parse::{self, ParseError, Parsed};
use crate::read::spans::words_in;
use crate::read::{token, written};

type Judged = (Verdict, &'static str);

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

/// The verdict on an answer, and how it was reached.
pub fn compared(options: &Options, gold: &str, answer: &str) -> Judged {
    let gold = written::plain(gold, options.accounting_negatives);
    let answer = written::plain(answer, options.accounting_negatives);
    let (gold, answer) = (gold.as_ref(), answer.as_ref());
    let second = parse::parse(answer, Comma::Auto);
    if second == Err(ParseError::Empty) {
        return (Verdict::NoAnswer, "empty");
    }
    if bare(gold) == bare(answer) {
        return (Verdict::Correct, "string");
    }
    let second = match second {
        Ok(second) => second,
        Err(ParseError::TooLarge) => return (Verdict::BudgetExceeded, "too_large"),
        Err(_) => return (Verdict::Unparsed, "syntax"),
    };
    let Ok(first) = parse::parse(gold, Comma::Auto) else { return (Verdict::Incorrect, "string") };
    if !options.times_across_fonts
        && matches!(first.expr, Expr::Time(..))
        && matches!(second.expr, Expr::Time(..))
        && wholly_text(gold)
        && answer.contains('\\')
        && !wholly_text(answer)
    {
        return (Verdict::Incorrect, "text");
    }
    let usual = trees(options, &first.expr, &second.expr);
    if usual.0 == Verdict::Correct {
        return usual;
    }
    other_commas(options, (gold, &first), (answer, &second))
        .or_else(|| combinations_written_out(options, &first.expr, &second.expr))
        .or_else(|| without_qualifier(options, (gold, &first), (answer, &second)))
        .unwrap_or(usual)
}

/// What remains of the steps for a reading that is tried when the usual one failed: all together cost no more than that.
fn reduced(options: &Options) -> Options {
    Options { step_budget: options.step_budget / READINGS.len() as u64, ..options.clone() }
}

fn correct(judged: Judged) -> Option<Judged> {
    (judged.0 == Verdict::Correct).then_some(judged)
}

/// Other readings of commas between digits.
fn other_commas(options: &Options, gold: (&str, &Parsed), answer: (&str, &Parsed)) -> Option<Judged> {
    if !(gold.1.ambiguous || answer.1.ambiguous) {
        return None;
    }
    let options = reduced(options);
    let read = |(text, usual): (&str, &Parsed), comma: Comma| match comma {
        Comma::Auto => Some(usual.clone()),
        _ if usual.ambiguous => parse::parse(text, comma).ok(),
        _ => None,
    };
    READINGS.iter().find_map(|(gold_comma, answer_comma)| {
        // a decimal comma where the other side has a decimal point, and nowhere else: (2,4) is not 12/5
        if *gold_comma == Comma::Decimal && !(has_decimal_comma(gold.0) && is_decimal(&answer.1.expr))
            || *answer_comma == Comma::Decimal && !(has_decimal_comma(answer.0) && is_decimal(&gold.1.expr))
        {
            return None;
        }
        let (first, second) = (read(gold, *gold_comma)?, read(answer, *answer_comma)?);
        correct(trees(&options, &first.expr, &second.expr))
    })
}

/// `C_6^2` as a number, where one side is no such name.
fn combinations_written_out(options: &Options, gold: &Expr, answer: &Expr) -> Option<Judged> {
    if !options.combinations {
        return None;
    }
    let (first, second) = (combinations::written_out(gold), combinations::written_out(answer));
    if first.is_none() && second.is_none() {
        return None;
    }
    let (first, second) = (first.as_ref().unwrap_or(gold), second.as_ref().unwrap_or(answer));
    correct(trees(&reduced(options), first, second))
}

/// Without the words that qualify one side: `17 \text{ ways to choose}` against 17.
fn without_qualifier(options: &Options, gold: (&str, &Parsed), answer: (&str, &Parsed)) -> Option<Judged> {
    let has_words = |text: &str| words_in(text) > 0 || text.contains("\\forall");
    if !options.qualifiers_optional || !(has_words(gold.0) || has_words(answer.0)) {
        return None;
    }
    match (parse::unqualified(gold.0), parse::unqualified(answer.0)) {
        (Some(first), None) => correct(trees(&reduced(options), &first, &answer.1.expr)),
        (None, Some(second)) => correct(trees(&reduced(options), &gold.1.expr, &second)),
        // two qualifiers may contradict each other
        _ => None,
    }
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
    let inside = bare.strip_prefix('\\').and_then(|name| name.split_once('{'));
    let inside = inside.filter(|(name, _)| token::is_text_macro(name)).map(|(_, inside)| inside);
    inside.and_then(|inside| inside.strip_suffix('}')).is_some_and(|inside| !inside.contains(['{', '}', '\\']))
}

fn trees(options: &Options, gold: &Expr, answer: &Expr) -> Judged {
    let mut comparison = Comparison::new(options);
    match comparison.same(gold, answer) {
        Ok(true) => (Verdict::Correct, comparison.method),
        Ok(false) => (Verdict::Incorrect, comparison.method),
        Err(_) => (Verdict::BudgetExceeded, "steps"),
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
