//! extract: completion -> the span that holds the final answer.
//!
//! Only the answer behind a model's thoughts is looked at ([`crate::thoughts`]), and of that only what stands between the last
//! `<answer>` tags, where there are some. In order of trust: (1) the last `\boxed` or `\fbox`, with boxes joined when only a comma, "and" or the like stands between
//! them; (2) what follows the last "final answer is", "answer:" or `####`; (3) the whole text, when it is one short formula;
//! (4) the last formula or number. A box that is cut off or empty is an answer withheld: nothing earlier replaces it.

use crate::read::spans::{Candidate, candidates, first_sentence, formulas, joins, words_in};
use crate::thoughts;

/// The macros whose argument marks a final answer.
const BOX_MACROS: [&str; 3] = ["\\boxed", "\\fbox", "\\framebox"];

/// One `\boxed{..}` in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoxSpan {
    /// Byte offset of the backslash.
    pub start: usize,
    /// Byte range of the content.
    pub content: std::ops::Range<usize>,
    /// Byte offset just behind the box.
    pub end: usize,
    /// False when the braces never close: the answer was cut off.
    pub closed: bool,
}

/// An answer and where it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The text of the answer, and the rule that found it.
    Answer(String, &'static str),
    /// The place of an answer that is empty or cut off, with what there is of it.
    Withheld(Option<String>, &'static str),
    /// No answer at all.
    Nothing,
}

/// Every outermost box, in order of appearance.
pub fn boxes(text: &str) -> Vec<BoxSpan> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(offset) = text[at..].find('\\') {
        let start = at + offset;
        match box_at(text, start) {
            Some(span) => {
                at = span.end.max(start + 1);
                found.push(span);
            }
            None => at = start + 1,
        }
    }
    found
}

/// The box that starts at byte `start`, which holds a backslash.
fn box_at(text: &str, start: usize) -> Option<BoxSpan> {
    let name = BOX_MACROS.iter().find(|name| text[start..].starts_with(**name))?;
    let bytes = text.as_bytes();
    let mut at = start + name.len();
    if bytes.get(at).is_some_and(u8::is_ascii_alphabetic) {
        return None;
    }
    while bytes.get(at).is_some_and(u8::is_ascii_whitespace) {
        at += 1;
    }
    match bytes.get(at) {
        None => Some(BoxSpan { start, content: at..at, end: at, closed: false }),
        Some(b'{') => {
            let close = matching_brace(bytes, at);
            let stop = close.unwrap_or(bytes.len());
            let end = close.map_or(bytes.len(), |close| close + 1);
            Some(BoxSpan { start, content: at + 1..stop, end, closed: close.is_some() })
        }
        Some(_) => {
            let end = unbraced_end(bytes, at);
            Some(BoxSpan { start, content: at..end, end, closed: true })
        }
    }
}

/// Where an argument without braces ends: with its macro and the macro's groups, else at a space or the end of its mathematics.
fn unbraced_end(bytes: &[u8], at: usize) -> usize {
    let mut end = at;
    if bytes[at] == b'\\' {
        end += 1;
        while bytes.get(end).is_some_and(u8::is_ascii_alphabetic) {
            end += 1;
        }
        while bytes.get(end) == Some(&b'{') {
            match matching_brace(bytes, end) {
                Some(close) => end = close + 1,
                None => return bytes.len(),
            }
        }
        return end;
    }
    while end < bytes.len() && !matches!(bytes[end], b'$' | b'\n' | b' ' | b'\\') {
        end += 1;
    }
    end
}

/// The byte offset of the brace that closes the one at `open`; escaped braces do not count.
pub fn matching_brace(bytes: &[u8], open: usize) -> Option<usize> {
    let mut depth = 0usize;
    let mut at = open;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 1,
            b'{' => depth += 1,
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// Finds the final answer of a response. With `join`, boxes side by side are one answer.
pub fn final_answer(text: &str, join: bool) -> Found {
    let Some(text) = answer_part(text) else { return Found::Withheld(None, "thoughts/endless") };
    let spans = boxes(text);
    if let Some(last) = spans.last() {
        return boxed(text, &spans, last, join);
    }
    if let Some(found) = announced(text).or_else(|| whole(text)) {
        return found;
    }
    match candidates(text).pop() {
        Some(candidate) => Found::Answer(text[candidate.range].to_string(), candidate.place),
        None => Found::Nothing,
    }
}

/// The part of a response that answers: behind its thoughts, between its last `<answer>` tags. None where the thoughts never end.
pub fn answer_part(text: &str) -> Option<&str> {
    let text = thoughts::behind(text)?;
    let Some(open) = text.rfind(ANSWER.0) else { return Some(text) };
    let inner = &text[open + ANSWER.0.len()..];
    let inner = inner.find(ANSWER.1).map_or(inner, |close| &inner[..close]);
    Some(if inner.trim().is_empty() { text } else { inner })
}

/// The tags of an answer in R1-Zero's layout.
const ANSWER: (&str, &str) = ("<answer>", "</answer>");

fn boxed(text: &str, spans: &[BoxSpan], last: &BoxSpan, join: bool) -> Found {
    let content = &text[last.content.clone()];
    if !last.closed {
        // a missing brace in front of the end of the formula, as opposed to a text that breaks off
        let cut = ["$", "\\]", "\\)"].iter().filter_map(|end| content.find(end)).min();
        return match cut.map(|cut| content[..cut].trim()) {
            Some(inside) if !inside.is_empty() && is_balanced(inside) => {
                Found::Answer(inside.to_string(), "boxed_unclosed")
            }
            _ => Found::Withheld(
                Some(content.trim().to_string()).filter(|content| !content.is_empty()),
                "boxed/truncated",
            ),
        };
    }
    if content.trim().is_empty() {
        return Found::Withheld(None, "boxed/empty");
    }
    let mut parts = vec![content.trim().to_string()];
    let mut first = last.start;
    if join {
        for span in spans[..spans.len() - 1].iter().rev() {
            if !span.closed || !joins(&text[span.end..first]) {
                break;
            }
            let part = text[span.content.clone()].trim().to_string();
            if !part.is_empty() && !parts.contains(&part) {
                parts.insert(0, part);
            }
            first = span.start;
        }
    }
    if parts.len() == 1 {
        return Found::Answer(content.trim().to_string(), "boxed");
    }
    Found::Answer(parts.join(", "), "boxes")
}

fn is_balanced(text: &str) -> bool {
    let mut depth = 0i32;
    let mut escaped = false;
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth < 0 {
            return false;
        }
    }
    depth == 0
}

/// True when the last box is followed by a percent sign or word.
pub fn percent_follows(text: &str) -> bool {
    let Some(last) = boxes(text).pop() else { return false };
    let rest = text[last.end..].trim_start_matches(['$', ' ', '\\', ')']);
    ["%", "percent"].iter().any(|sign| rest.starts_with(sign))
}

/// A text that is nothing but a short answer.
pub fn whole(text: &str) -> Option<Found> {
    let mut bare = tidy(text);
    for opening in ["Therefore", "therefore", "Thus", "Hence", "So"] {
        if let Some(rest) =
            bare.strip_prefix(opening).filter(|rest| !rest.starts_with(|c: char| c.is_ascii_alphabetic()))
        {
            bare = rest.trim_start_matches([',', ' ']);
        }
    }
    if bare.is_empty() || bare.len() > 400 || (bare.contains('\n') && !bare.starts_with('\\')) {
        return None;
    }
    // a sentence with a number in it
    let starts_with_word = bare.bytes().take_while(u8::is_ascii_alphabetic).count() > 1;
    let named = bare.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ' ')).starts_with('=');
    if starts_with_word
        && !named
        && bare.contains(char::is_whitespace)
        && bare.contains(|c: char| c.is_ascii_digit())
        && !bare.contains('(')
    {
        return None;
    }
    // one formula in its delimiters, or no delimiters and no sentence
    let inner = formulas(bare);
    if inner.len() == 1 && inner[0].outer.len() == bare.len() {
        return Some(Found::Answer(bare[inner[0].inner.clone()].trim().to_string(), "math"));
    }
    // formulas and nothing but what lists them: $x=3$ or $x=-2$
    let lists =
        |gap: &str| gap.split_whitespace().all(|word| matches!(word.trim_matches([',', ';']), "" | "and" | "or"));
    let listed = inner.windows(2).all(|pair| lists(&bare[pair[0].outer.end..pair[1].outer.start]));
    if let ([first, .., last], true) = (inner.as_slice(), listed)
        && first.outer.start == 0
        && last.outer.end == bare.len()
    {
        return Some(Found::Answer(bare.to_string(), "math"));
    }
    let words = words_in(bare);
    (inner.is_empty() && words <= 2).then(|| Found::Answer(bare.to_string(), "whole"))
}

/// Without white space, emphasis and punctuation around it.
fn tidy(text: &str) -> &str {
    let mut text = text.trim();
    loop {
        let before = text;
        text = text.trim_start_matches([':', '*', '#', '=']).trim_start();
        text = text.trim_end_matches(['*', ';']).trim_end();
        for mark in ["<|im_end|>", "<|im_start|>user", "<|im_start|>", "<|endoftext|>", "</s>", "<|eot_id|>"] {
            text = text.strip_suffix(mark).unwrap_or(text).trim_end();
        }
        if text.ends_with('.') && !text.ends_with("\\.") && !text.ends_with("..") && !text.ends_with("m.") {
            text = text[..text.len() - 1].trim_end();
        }
        if text == before {
            return text;
        }
    }
}

/// Phrases behind which the answer stands, lower case.
const ANNOUNCEMENTS: [&str; 14] = [
    "final answer is",
    "final answer:",
    "final answer",
    "answer is",
    "answer:",
    "answer**",
    "### answer",
    "####",
    "answer to the question is",
    "correct option is",
    "correct choice is",
    "option is",
    "answer =",
    "answer would be",
];

/// What stands behind the last announcement.
fn announced(text: &str) -> Option<Found> {
    let lower = text.to_ascii_lowercase();
    let start = ANNOUNCEMENTS.iter().filter_map(|phrase| lower.rfind(phrase).map(|at| at + phrase.len())).max()?;
    let behind = &text[start..];
    // the announcement may end a group: $\text{Answer: }5$
    let rest = behind
        .trim_start_matches([' ', ':'])
        .strip_prefix('}')
        .map_or(behind, |rest| rest.trim_end_matches(['.', '$', ' ']));
    let rest = rest.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, ':' | '*' | '#' | '"' | '='));
    if tidy(rest).is_empty() {
        return Some(Found::Withheld(None, "answer/empty"));
    }
    let sentence = first_sentence(rest);
    let found = candidates(sentence);
    let tidied = tidy(sentence);
    if let Some(first) = found.first() {
        let before = words_in(&sentence[..first.range.start]);
        let chosen = if before <= 1 { chain(sentence, &found) } else { found.last()?.range.clone() };
        // a short phrase is the answer as a whole: units, signs and words belong to it
        if first.place == "number" && words_in(tidied) <= 3 && (before <= 1 || tidied.starts_with('\\')) {
            // the end of emphasis, as in **5** apples, is no power
            return Some(Found::Answer(tidied.replace("** ", " "), "answer"));
        }
        return Some(Found::Answer(sentence[chosen].to_string(), "answer"));
    }
    (!tidied.is_empty()).then(|| Found::Answer(tidied.to_string(), "answer"))
}

/// The first candidate, with those that follow it in a list: `$12$ and $13$`.
fn chain(sentence: &str, found: &[Candidate]) -> std::ops::Range<usize> {
    let mut range = found[0].range.clone();
    for next in &found[1..] {
        if !joins(&sentence[range.end..next.range.start]) || found[0].place == "number" {
            break;
        }
        range.end = next.range.end;
    }
    range
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> String {
        match final_answer(text, true) {
            Found::Answer(answer, _) => answer,
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn spans_of_boxes() {
        let text = "a \\boxed{1} b \\fbox{\\{2\\}} \\boxedx{3} \\boxed 4";
        let contents: Vec<&str> = boxes(text).into_iter().map(|span| &text[span.content]).collect();
        assert_eq!(contents, ["1", "\\{2\\}", "4"]);
        assert!(!boxes("\\boxed{1").pop().expect("one box").closed);
        assert!(!boxes("\\boxed").pop().expect("one box").closed);
    }

    #[test]
    fn the_last_announcement_wins() {
        assert_eq!(answer("The answer is 3. No. The final answer is $4$."), "4");
        assert_eq!(answer("#### -1,200"), "-1,200");
        assert_eq!(answer("Answer: x = 3\nBecause of 17 reasons."), "x = 3");
    }

    #[test]
    fn lists_of_boxes() {
        assert_eq!(answer("$\\boxed{1}$ and $\\boxed{2}$"), "1, 2");
        assert_eq!(answer("$\\boxed{1}$. Then $\\boxed{2}$"), "2");
        assert_eq!(answer("$\\boxed{2}$, that is $\\boxed{2}$"), "2");
    }

    #[test]
    fn nothing_comes_from_nothing() {
        assert_eq!(final_answer("", true), Found::Nothing);
        assert_eq!(final_answer("no idea", false), Found::Answer("no idea".to_string(), "whole"));
        assert_eq!(final_answer("I really have no idea at all", true), Found::Nothing);
    }
}
