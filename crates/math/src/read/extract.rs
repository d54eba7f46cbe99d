//! extract: completion -> the span that holds the final answer.
//!
//! Only the answer behind a model's thoughts is looked at ([`crate::thoughts`]), and of that only what stands between the last
//! tags of an answer, where there are some and nothing behind them states another. The last complete statement decides: a box
//! (boxes joined when only a comma, "and" or the like stands between them), or what follows "final answer is", "answer:" or
//! `####`. Where nothing is stated it is the whole text, when it is one short formula, or the last formula or number. A box that
//! is cut off is an answer withheld: nothing earlier replaces it.

use crate::read::announcements;
use crate::read::spans::{formulas, joins, last_candidate, words_in};
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
        // "put it in \boxed as asked", "`\boxed`": the macro is spoken of
        Some(b'.' | b',' | b';' | b':' | b'`' | b'\'' | b'"' | b')' | b'?' | b'!') => None,
        Some(_) if bytes[at..].iter().take_while(|byte| byte.is_ascii_alphabetic()).count() > 1 => None,
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
    let spans = stating_boxes(text);
    if let Some(last) = spans.last() {
        let later = announcements::stated(&text[last.end..]).filter(|_| last.closed);
        return later.unwrap_or_else(|| boxed(text, &spans, last, join));
    }
    if let Some(found) = announcements::announced(text).or_else(|| whole(text)) {
        return found;
    }
    match last_candidate(text) {
        Some(candidate) => Found::Answer(text[candidate.range].to_string(), candidate.place),
        None => Found::Nothing,
    }
}

/// The part of a response that answers: behind its thoughts, between its last tags of an answer, unless something is stated
/// behind them. None where the thoughts never end.
pub fn answer_part(text: &str) -> Option<&str> {
    let text = thoughts::behind(text)?;
    let opened = |at: usize| ANSWERS.iter().find(|tags| text[at..].starts_with(tags.0)).map(|tags| (at, tags));
    let Some((open, tags)) = text.rmatch_indices('<').find_map(|(at, _)| opened(at)) else { return Some(text) };
    let inner = &text[open + tags.0.len()..];
    let (inner, behind) = match inner.find(tags.1) {
        Some(close) => (&inner[..close], &inner[close + tags.1.len()..]),
        None => (inner, ""),
    };
    if inner.trim().is_empty() {
        return Some(text);
    }
    let stated = !stating_boxes(behind).is_empty() || announcements::stated(behind).is_some();
    Some(if stated { behind } else { inner })
}

/// The tags around an answer: R1-Zero's layout, OpenThoughts and Sky-T1, Command A.
const ANSWERS: [(&str, &str); 3] = [
    ("<answer>", "</answer>"),
    ("<|begin_of_solution|>", "<|end_of_solution|>"),
    ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
];

/// The boxes that state an answer: not those that echo the instruction, `\boxed{}` and `\boxed{answer}`, beside others.
fn stating_boxes(text: &str) -> Vec<BoxSpan> {
    let all = boxes(text);
    let states = |span: &BoxSpan| {
        let content = text[span.content.clone()].trim();
        if span.closed { !is_placeholder(content) } else { !(content.is_empty() && is_spoken_of(&text[..span.start])) }
    };
    if !all.iter().any(states) {
        return all;
    }
    all.into_iter().filter(states).collect()
}

/// True for what an instruction puts into the box it asks for.
fn is_placeholder(content: &str) -> bool {
    if content.contains(|c: char| c.is_ascii_digit()) {
        return false;
    }
    let mut bare = content.trim_matches(|c: char| !c.is_alphanumeric());
    for name in ["text{", "mathrm{", "textbf{"] {
        bare = bare.strip_prefix(name).unwrap_or(bare).trim();
    }
    let bare = bare.to_ascii_lowercase();
    let words = ["answer", "your answer", "final answer", "your final answer", "the answer", "your answer here"];
    content.is_empty()
        || matches!(content, "..." | "\\ldots" | "\\dots" | "\\cdots" | "…")
        || words.contains(&bare.as_str())
}

/// True where the words in front speak of the box that follows: "put it in \boxed".
fn is_spoken_of(before: &str) -> bool {
    let word = before.trim_end_matches(['$', '`', '(', ' ', '\n']).rsplit(|c: char| !c.is_ascii_alphabetic()).next();
    matches!(word, Some("in" | "into" | "within" | "inside" | "using" | "with" | "as" | "a"))
}

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
    let named = |at: usize| {
        let (span, from) = (&spans[at], at.checked_sub(1).map_or(0, |before| spans[before].end));
        let name = name_before(&text[from..span.start]);
        let start = name.map_or(span.start, |(_, start)| from + start);
        ((name.map(|(name, _)| name), text[span.content.clone()].trim()), start)
    };
    let (part, mut first) = named(spans.len() - 1);
    let mut parts = vec![part];
    if join {
        for (at, span) in spans[..spans.len() - 1].iter().enumerate().rev() {
            if !span.closed || !joins(&text[span.end..first]) {
                break;
            }
            let (part, start) = named(at);
            if !part.1.is_empty() && !parts.contains(&part) {
                parts.insert(0, part);
            }
            first = start;
        }
    }
    answer_of_boxes(parts)
}

/// What boxes side by side say together. Their names belong to it where each has one of its own: `x = 3, y = 4` and not `3, 4`.
fn answer_of_boxes(mut parts: Vec<(Option<&str>, &str)>) -> Found {
    let mut names: Vec<Option<&str>> = parts.iter().map(|part| part.0).collect();
    names.sort_unstable();
    names.dedup();
    let is_system = names.len() == parts.len() && !names.contains(&None);
    if !is_system {
        let mut seen: Vec<&str> = Vec::new();
        parts.retain(|(_, content)| {
            let new = !seen.contains(content);
            seen.push(content);
            new
        });
    }
    match parts.as_slice() {
        [(_, only)] => Found::Answer(only.to_string(), "boxed"),
        parts => {
            let written = |(name, content): &(Option<&str>, &str)| match name.filter(|_| is_system) {
                Some(name) => format!("{name} = {content}"),
                None => content.to_string(),
            };
            Found::Answer(parts.iter().map(written).collect::<Vec<_>>().join(", "), "boxes")
        }
    }
}

/// The name that a box behind `before` gives a value to, `y_1` in `y_1 = \boxed{3}`, and where it starts.
fn name_before(before: &str) -> Option<(&str, usize)> {
    let bare = before.trim_end().strip_suffix('=')?.trim_end();
    let in_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '{' | '}' | '\'');
    let start =
        bare.rfind(|c: char| !in_name(c)).map_or(0, |at| at + bare[at..].chars().next().map_or(1, char::len_utf8));
    let name = &bare[start..];
    let is_name =
        name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.len() <= 12 && !bare[..start].ends_with('\\');
    is_name.then_some((name, start))
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

/// Without the special token at its end: `<|im_end|>`.
fn without_special(text: &str) -> &str {
    let Some(start) = text.strip_suffix("|>").and_then(|inner| inner.rfind("<|")) else { return text };
    let name = &text[start + 2..text.len() - 2];
    if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') { &text[..start] } else { text }
}

/// Without white space, emphasis and punctuation around it.
pub(super) fn tidy(text: &str) -> &str {
    let mut text = text.trim();
    loop {
        let before = text;
        text = text.trim_start_matches([':', '*', '#', '=']).trim_start();
        text = text.trim_end_matches(['*', ';']).trim_end();
        for mark in ["<|im_start|>user", "</s>", "<eos>", "<end_of_turn>"] {
            text = text.strip_suffix(mark).unwrap_or(text).trim_end();
        }
        text = without_special(text).trim_end();
        if text.ends_with('.') && !text.ends_with("\\.") && !text.ends_with("..") && !text.ends_with("m.") {
            text = text[..text.len() - 1].trim_end();
        }
        if text == before {
            return text;
        }
    }
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
        assert_eq!(answer("\\boxed{3}. No.\nThe answer is 4."), "4");
        assert_eq!(answer("\\boxed{3}. I hope the final answer is clear."), "3");
        assert_eq!(answer("<answer>3</answer> No, #### 4"), "4");
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
