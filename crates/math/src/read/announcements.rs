//! announcements: what stands behind "the final answer is", "answer:" and `####`.

use crate::read::extract::{Found, tidy};
use crate::read::letters;
use crate::read::spans::{Candidate, candidates, first_sentence, joins, words_in};

/// What stands behind the last announcement that announces something; a remark about the answer is none.
pub fn announced(text: &str) -> Option<Found> {
    let mut end = text.len();
    let mut last = None;
    while let Some((at, start)) = last_phrase(&text[..end]) {
        let found = behind(&text[start..]);
        if !is_remark(&text[..at], &text[start..]) {
            return Some(found);
        }
        last = last.or(Some(found));
        end = at;
    }
    last
}

/// What the text announces as a number, a formula or a choice, and nothing less.
pub fn stated(text: &str) -> Option<Found> {
    let (at, start) = last_phrase(text)?;
    let sentence = first_sentence(text[start..].trim_start());
    let first = candidates(sentence).into_iter().next();
    let direct = first.is_some_and(|first| words_in(&sentence[..first.range.start]) <= 1);
    if is_remark(&text[..at], &text[start..]) || !(direct || letters::choice(tidy(sentence)).is_some()) {
        return None;
    }
    match behind(&text[start..]) {
        found @ Found::Answer(..) => Some(found),
        _ => None,
    }
}

/// The last phrase that announces: where it starts, and where it ends.
fn last_phrase(text: &str) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    (0..bytes.len()).rev().find_map(|at| Some((at, at + phrase_length(bytes, at)?)))
}

/// The length of an announcement whose noun starts at `at`, in any case: `final answer`, `answer is`, `correct option is`, `####`.
fn phrase_length(bytes: &[u8], at: usize) -> Option<usize> {
    let is = |start: usize, words: &[u8]| {
        bytes.get(start..start + words.len()).is_some_and(|here| here.eq_ignore_ascii_case(words))
    };
    let follows = |words: &[u8]| at >= words.len() && is(at - words.len(), words);
    match bytes[at] {
        b'#' => is(at, b"####").then_some(4),
        b'a' | b'A' if is(at, b"answer") => {
            const VERBS: [&[u8]; 6] = [b" to the question is", b" would be", b" is", b" =", b":", b"**"];
            let verb = VERBS.iter().find(|verb| is(at + 6, verb)).map(|verb| verb.len());
            // a heading, and a noun that needs no verb
            let alone = (follows(b"final ") || follows(b"### ")).then_some(0);
            verb.or(alone).map(|verb| 6 + verb)
        }
        b'o' | b'O' => is(at, b"option is").then_some(9),
        b'c' | b'C' => (is(at, b"choice is") && follows(b"correct ")).then_some(9),
        _ => None,
    }
}

/// True for words about the answer that give none: "Note: the answer is rounded.", "the answer is in the box".
fn is_remark(before: &str, behind: &str) -> bool {
    let sentence = first_sentence(behind);
    if !candidates(sentence).is_empty() {
        return false;
    }
    const ABOUT: [&str; 14] = [
        "in",
        "as",
        "above",
        "below",
        "clear",
        "correct",
        "rounded",
        "given",
        "boxed",
        "shown",
        "should",
        "must",
        "exact",
        "simplified",
    ];
    let words = |text: &str| text.to_ascii_lowercase();
    let first = words(sentence.trim_start_matches([' ', ':']));
    let first = first.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
    let line = before.rsplit('\n').next().unwrap_or_default();
    let noted =
        ["note", "(note", "*note", "**note", "remark"].iter().any(|start| words(line.trim()).starts_with(start));
    noted || ABOUT.contains(&first)
}

/// The answer in the text that follows an announcement.
fn behind(behind: &str) -> Found {
    // the announcement may end a group: $\text{Answer: }5$
    let rest = behind
        .trim_start_matches([' ', ':'])
        .strip_prefix('}')
        .map_or(behind, |rest| rest.trim_end_matches(['.', '$', ' ']));
    let rest = rest.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, ':' | '*' | '#' | '"' | '='));
    if tidy(rest).is_empty() {
        return Found::Withheld(None, "answer/empty");
    }
    let sentence = first_sentence(rest);
    let found = candidates(sentence);
    let tidied = tidy(sentence);
    if let Some(first) = found.first() {
        let before = words_in(&sentence[..first.range.start]);
        let chosen = match (before <= 1, found.last()) {
            (false, Some(last)) => last.range.clone(),
            _ => chain(sentence, &found),
        };
        // a short phrase is the answer as a whole: units, signs and words belong to it
        if first.place == "number" && words_in(tidied) <= 3 && (before <= 1 || tidied.starts_with('\\')) {
            // the end of emphasis, as in **5** apples, is no power
            return Found::Answer(tidied.replace("** ", " "), "answer");
        }
        return Found::Answer(sentence[chosen].to_string(), "answer");
    }
    if tidied.is_empty() { Found::Withheld(None, "answer/empty") } else { Found::Answer(tidied.to_string(), "answer") }
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
