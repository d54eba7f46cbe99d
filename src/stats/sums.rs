//! Equations between plain numbers in a text, and which of them is false: `30 + 4 + 1 + 4 = 95`.
//!
//! Only what is beyond doubt counts: numbers, the four operations, and one number on the right. Anything with names, units,
//! brackets or macros in between is left alone.

use regex::Regex;
use std::sync::LazyLock;

/// Relative difference that rounding explains.
const ROUNDING: f64 = 0.006;

const NUMBER: &str = r"\$?\d+(?:,\d{3})*(?:\.\d+)?|\$?\.\d+";

/// Numbers joined by operators, `=`, a number; what stands before and behind is looked at by hand.
static EQUATION: LazyLock<Regex> = LazyLock::new(|| {
    let operator = r"\s*(?:\\times|\\div|\\cdot|[-+*/\u{d7}\u{f7}\u{2013}\u{2212}]|x)\s*";
    let pattern = format!(r"(?P<left>(?:{NUMBER})(?:{operator}(?:{NUMBER}))+)\s*=\s*(?P<right>-?\s?(?:{NUMBER}))");
    Regex::new(&pattern).expect("the pattern is valid")
});

static TOKEN: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(&format!(r"(?P<number>{NUMBER})|\\times|\\div|\\cdot|[-+*/\u{{d7}}\u{{f7}}\u{{2013}}\u{{2212}}x]"))
        .expect("the pattern is valid")
});

/// The first equation that is false.
pub fn first_false(text: &str) -> Option<&str> {
    EQUATION.captures_iter(text).find_map(|found| {
        let (whole, left, right) = (found.get(0)?, found.name("left")?, found.name("right")?);
        if goes_on_before(&text[..whole.start()]) || goes_on_behind(&text[whole.end()..]) {
            return None;
        }
        let (value, said) = (value(left.as_str())?, number(right.as_str())?);
        let difference = (value - said).abs();
        // Half a unit of the second decimal is rounding too.
        let is_false = difference > ROUNDING * value.abs().max(said.abs()) && difference > 0.0051;
        is_false.then_some(whole.as_str())
    })
}

/// Whether the equation is the end of something longer: of a word, a bracket, another term.
fn goes_on_before(text: &str) -> bool {
    if ["\\(", "\\["].iter().any(|opening| text.trim_end().ends_with(opening)) {
        return false;
    }
    let touches = text.chars().next_back().is_some_and(|c| c.is_alphanumeric() || ")]}._,%".contains(c));
    let last = text.trim_end().chars().next_back();
    touches || last.is_some_and(|c| "+-*/^(\\\u{d7}\u{f7}\u{2013}\u{2212}".contains(c))
}

/// Whether the number on the right is the beginning of something longer.
fn goes_on_behind(text: &str) -> bool {
    let rest = text.trim_start();
    let touches = text.starts_with(|c: char| c.is_alphanumeric() || c == '_')
        || text.strip_prefix(['.', ',']).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    touches
        || rest.starts_with(|c: char| "+-*/^%(:\u{d7}\u{f7}\u{2013}\u{2212}".contains(c))
        || ["x ", "\\times", "\\div", "\\cdot", "\\%", "\\frac"].iter().any(|start| rest.starts_with(start))
}

fn number(text: &str) -> Option<f64> {
    text.replace(['$', ',', ' '], "").parse().ok()
}

/// Products before sums, from left to right. None where it divides by nothing.
fn value(text: &str) -> Option<f64> {
    let (mut sum, mut term, mut operator) = (0.0, 0.0, "+");
    for token in TOKEN.captures_iter(text) {
        let piece = token.get(0)?.as_str();
        if token.name("number").is_none() {
            operator = piece;
            continue;
        }
        let next = number(piece)?;
        match operator {
            "+" => (sum, term) = (sum + term, next),
            "-" | "\u{2013}" | "\u{2212}" => (sum, term) = (sum + term, -next),
            "/" | "\\div" | "\u{f7}" if next == 0.0 => return None,
            "/" | "\\div" | "\u{f7}" => term /= next,
            _ => term *= next,
        }
    }
    Some(sum + term)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn false_sums_are_found() {
        for (text, found) in [
            ("30 + 4 + 1 + 4 = 95 miles.", "30 + 4 + 1 + 4 = 95"),
            ("so 170+120+40-20+50=310", "170+120+40-20+50=310"),
            ("He pays $5 x 8 = $45.", "$5 x 8 = $45"),
            ("We get \\(9 \\times 4 = 35\\).", "9 \\times 4 = 35"),
            ("12 / 2 = 6, and 6 * 3 = 20", "6 * 3 = 20"),
            ("1,000 - 1 = 99", "1,000 - 1 = 99"),
            ("\\text{Profit} = 2 \\times 0.25 = 1", "2 \\times 0.25 = 1"),
        ] {
            assert_eq!(first_false(text), Some(found), "{text}");
        }
    }

    #[test]
    fn what_is_true_rounded_or_not_plain_is_left_alone() {
        for text in [
            "48/2 = 24 and 48+24 = 72",
            "24 * 4/5 = 19.2",
            "1/2*200= 100",
            "$1,000,000 / 2 = $500,000",
            "10/3 = 3.33 and 2/3 = 0.67",
            "2 + 3 * 4 = 14",
            "2 * 3 = 6 + 1 = 7",
            "x + 3 + 2 = 9",
            "(4 + 1) * 2 + 3 = 13",
            "4(5) + 3 = 23",
            "2^3 + 1 = 9",
            "5 / 100 = 5%",
            "10 + 20% = 12",
            "in 3 x 5 = 15 ways",
            "3x + 2 = 5",
            "7 / 0 = 0",
            "19 - 20 = -1",
            "1/6 + 1/3 = 1/2",
            "",
        ] {
            assert_eq!(first_false(text), None, "{text}");
        }
    }
}
