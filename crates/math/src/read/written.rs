//! written: ways of writing an answer that are undone before it is read: quotes of lists in code, brackets of accountants.

use std::borrow::Cow;

/// The answer without quotes around a list's elements, `['1', '2']`, and with a minus sign for brackets around an amount where
/// `accounting` is on.
pub fn plain(answer: &str, accounting: bool) -> Cow<'_, str> {
    if let Some(elements) = unquoted(answer.trim()) {
        return Cow::Owned(elements);
    }
    match accounting.then(|| negative(answer)).flatten() {
        Some(negative) => Cow::Owned(negative),
        None => Cow::Borrowed(answer),
    }
}

/// The elements of a list as code writes it.
fn unquoted(answer: &str) -> Option<String> {
    let inside = answer.strip_prefix('[')?.strip_suffix(']')?.trim();
    let quote = inside.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let inside = inside.strip_prefix(quote)?.strip_suffix(quote)?;
    let elements: Vec<&str> = inside.split(quote).collect();
    // elements and what stands between them, in turn
    let listed = elements.iter().skip(1).step_by(2).all(|gap| gap.trim() == ",");
    (elements.len() % 2 == 1 && listed).then(|| elements.iter().step_by(2).copied().collect::<Vec<_>>().join(", "))
}

/// `(12.6)`, `$(1,234)`, `(5)%`, `(\$12.6) million` with a minus sign in place of the brackets.
fn negative(answer: &str) -> Option<String> {
    let bare = answer.trim().trim_matches('$').trim();
    let (before, rest) = bare.split_once('(')?;
    let (amount, behind) = rest.split_once(')')?;
    let is_currency = |text: &str| text.chars().all(|c| matches!(c, '$' | '\\' | '\u{20ac}' | '\u{a3}' | ' '));
    let digits = amount.trim_start_matches(['$', '\\', '\u{20ac}', '\u{a3}', ' ']).trim_end_matches(['%', '\\', ' ']);
    let is_number = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && digits.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | ',' | ' '));
    let is_measure = behind.chars().all(|c| c.is_alphabetic() || matches!(c, ' ' | '%' | '\\' | '{' | '}'));
    (is_currency(before) && is_number && is_measure).then(|| format!("-{before}{amount}{behind}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_in_code() {
        assert_eq!(plain("['2']", false), "2");
        assert_eq!(plain("[\"1\", \"x+1\"]", false), "1, x+1");
        for text in ["[1, 2]", "['1' '2']", "['a", "[']", "['']x"] {
            assert_eq!(plain(text, false), text);
        }
    }

    #[test]
    fn brackets_of_accountants() {
        assert_eq!(plain("(12.6)", true), "-12.6");
        assert_eq!(plain("\\$(1,234) million", true), "-\\$1,234 million");
        assert_eq!(plain("(5)\\%", true), "-5\\%");
        assert_eq!(plain("(12.6)", false), "(12.6)");
        for text in ["(1)(2)", "(x)", "(1, 2", "2(3)", "f(3)", "(3)^2", "(3)+1"] {
            assert_eq!(plain(text, true), text);
        }
    }
}
