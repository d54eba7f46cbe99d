//! letters: multiple-choice answers.

use crate::read::extract::answer_part;

/// The choice letter of an answer: `D`, `(D)`, `\textbf{(D) }25`, `D. because`.
pub fn letter(answer: &str) -> Option<char> {
    let mut rest = answer.trim();
    loop {
        let before = rest;
        rest = rest.trim_start_matches(['(', '[', '{', '*', '$', ' ', '"', '}', '~']);
        for name in [
            "\\text",
            "\\textbf",
            "\\mathrm",
            "\\mathbf",
            "\\textit",
            "\\textrm",
            "\\mbox",
            "\\boxed",
            "\\displaystyle",
            "\\,",
            "\\!",
            "\\left",
            "\\bf",
            "\\rm",
            "Option",
            "option",
            "Choice",
            "choice",
            "Answer",
            "answer",
        ] {
            if let Some(behind) = rest.strip_prefix(name)
                && (!name.ends_with(|c: char| c.is_ascii_alphabetic())
                    || !behind.starts_with(|c: char| c.is_ascii_alphabetic()))
            {
                rest = behind;
            }
        }
        if rest == before {
            break;
        }
    }
    let first = rest.chars().next().filter(|c| ('A'..='J').contains(c))?;
    let behind = rest[1..].chars().next();
    let alone = match behind {
        None => true,
        Some(c) => {
            matches!(c, ')' | ']' | '}' | '.' | ':' | '*' | '$' | ',' | '\\' | '"')
                || (c == ' ' && !rest[1..].trim_start().starts_with(['=', '+', '-', '<', '>', '^']))
        }
    };
    alone.then_some(first)
}

/// The choice a response without a box ends with.
pub fn chosen_letter(text: &str) -> Option<char> {
    let text = answer_part(text)?;
    let lower = text.to_ascii_lowercase();
    const PHRASES: [&str; 9] =
        ["answer is", "answer:", "answer**", "answer", "option is", "choice is", "option", "choice", "choose"];
    let mut starts: Vec<usize> =
        PHRASES.iter().filter_map(|phrase| lower.rfind(phrase).map(|at| at + phrase.len())).collect();
    starts.sort_unstable();
    for start in starts.into_iter().rev() {
        let rest = text[start..].trim_start_matches(|c: char| c.is_whitespace() || matches!(c, ':' | '*' | '#'));
        if let Some(found) = letter(rest) {
            return Some(found);
        }
    }
    // the last letter that stands alone
    let bytes = text.as_bytes();
    let alone = |at: usize| {
        let before = at == 0 || !bytes[at - 1].is_ascii_alphanumeric();
        let after = bytes.get(at + 1).is_none_or(|byte| !byte.is_ascii_alphanumeric() && *byte != b'\'');
        let article = bytes[at] == b'A'
            && bytes.get(at + 1) == Some(&b' ')
            && bytes.get(at + 2).is_some_and(u8::is_ascii_lowercase)
            && !text[at + 2..].starts_with("is ");
        before && after && !article && bytes[at] != b'I'
    };
    (0..bytes.len()).rev().find(|&at| (b'A'..=b'J').contains(&bytes[at]) && alone(at)).map(|at| char::from(bytes[at]))
}
