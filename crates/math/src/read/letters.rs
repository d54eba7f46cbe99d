//! letters: multiple-choice answers, one letter or several.

use crate::read::extract::{answer_part, boxes};
use crate::read::token;

/// The letters of a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// One bit for each of A to J.
    letters: u16,
    /// The text was these letters and nothing else.
    pub alone: bool,
}

impl Choice {
    /// True for the same letters, in any order.
    pub fn same(self, other: Choice) -> bool {
        self.letters == other.letters
    }

    /// How many letters.
    pub fn count(self) -> u32 {
        self.letters.count_ones()
    }

    /// `B`, or `A, C`.
    pub fn shown(self) -> String {
        let letters = ('A'..='J').filter(|letter| self.letters & bit(*letter) != 0);
        letters.map(String::from).collect::<Vec<_>>().join(", ")
    }
}

fn bit(letter: char) -> u16 {
    1 << (letter as u32 - 'A' as u32)
}

fn is_choice(c: char) -> bool {
    ('A'..='J').contains(&c)
}

/// The choice that an answer begins with: `D`, `(D)`, `\textbf{(D) }25`, `D. because`, `A, C`, `A \text{ and } C`, `AC`.
pub fn choice(answer: &str) -> Option<Choice> {
    if !answer.contains(is_choice) {
        return None;
    }
    let mut rest = without_frame(answer);
    let mut letters = 0;
    let mut delimited;
    loop {
        let run: String = rest.chars().take_while(|c| c.is_alphanumeric()).collect();
        let listed = run.chars().all(is_choice) && run.as_bytes().windows(2).all(|pair| pair[0] < pair[1]);
        if run.is_empty() || !listed {
            return None;
        }
        run.chars().for_each(|letter| letters |= bit(letter));
        let behind = &rest[run.len()..];
        let tail = without_closers(behind);
        delimited = tail.len() < behind.len();
        let next = without_frame(without_separators(tail));
        let mut following = next.chars();
        let another = following.next().is_some_and(is_choice) && !following.next().is_some_and(|c| c.is_lowercase());
        let lone_word = next.starts_with("A ") && next[2..].starts_with(|c: char| c.is_lowercase());
        if !another || lone_word {
            rest = tail;
            break;
        }
        rest = next;
    }
    let tail = without_frame(rest).trim_start_matches(['.', ')']);
    if tail.trim().is_empty() {
        return Some(Choice { letters, alone: true });
    }
    (!continues(rest, delimited)).then_some(Choice { letters, alone: false })
}

/// `b`, `(b)`, `b)`, `\text{(b)}`: one small letter and nothing else.
pub fn small_choice(answer: &str) -> Option<Choice> {
    let rest = without_frame(answer);
    let letter = rest.chars().next().filter(|c| ('a'..='j').contains(c))?.to_ascii_uppercase();
    let tail = without_frame(without_closers(&rest[1..]));
    tail.is_empty().then_some(Choice { letters: bit(letter), alone: true })
}

/// The choice in brackets behind its value: `5 \text{ (B)}`.
pub fn trailing_choice(answer: &str) -> Option<Choice> {
    let inner = answer.trim_end_matches(['$', '}', '.', ' ', '*']).strip_suffix(')')?;
    let letter = inner.chars().next_back().filter(|c| is_choice(*c))?;
    let before = inner[..inner.len() - 1].strip_suffix('(')?;
    let apart = before.ends_with([' ', '~', '{']) && before.contains(|c: char| c.is_ascii_digit());
    apart.then_some(Choice { letters: bit(letter), alone: false })
}

/// True where what follows a letter makes it part of a formula or a sentence: `A = 5`, `C \cdot 5`, `A triangle`.
fn continues(tail: &str, delimited: bool) -> bool {
    const OPERATORS: [&str; 18] = [
        "=", "+", "<", ">", "^", "_", "'", "!", "|", "\\cdot", "\\times", "\\cap", "\\cup", "\\le", "\\ge", "\\ne",
        "\\in", "\\to",
    ];
    let tail = tail.trim_start();
    if OPERATORS.iter().any(|operator| tail.starts_with(operator)) {
        return true;
    }
    if delimited {
        return false;
    }
    const CLAUSES: [&str; 10] = ["is", "because", "since", "as", "which", "by", "due", "for", "with", "based"];
    let spoken = without_frame(tail.trim_start_matches(','));
    let word: String = spoken.chars().take_while(char::is_ascii_alphabetic).collect();
    let bracketed = tail.starts_with('(') && word.len() > 1;
    !(bracketed || CLAUSES.contains(&word.as_str()) || tail.starts_with("\\quad") || tail.starts_with('\n'))
}

/// Without brackets, emphasis, fonts and words like "option" in front.
fn without_frame(text: &str) -> &str {
    let mut rest = text.trim_start();
    loop {
        let before = rest;
        rest = rest.trim_start_matches(['(', '[', '{', '*', '$', ' ', '"', '}', '~', '\n']);
        for mark in ["\\,", "\\!", "\\;", "\\:", "\\ ", "\\(", "\\)", "\\[", "\\]"] {
            rest = rest.strip_prefix(mark).unwrap_or(rest);
        }
        if let Some(name) = rest.strip_prefix('\\') {
            let length = name.bytes().take_while(u8::is_ascii_alphabetic).count();
            let name = &name[..length];
            let frames = token::is_text_macro(name) || token::is_cosmetic(name) || matches!(name, "quad" | "qquad");
            if frames && length > 0 {
                rest = &rest[1 + length..];
            }
        }
        for word in
            ["Options", "options", "Option", "option", "Choices", "choices", "Choice", "choice", "Answer", "answer"]
        {
            rest = rest.strip_prefix(word).filter(|behind| !behind.starts_with(char::is_alphabetic)).unwrap_or(rest);
        }
        if rest == before {
            return rest;
        }
    }
}

fn without_closers(text: &str) -> &str {
    let mut rest = text;
    loop {
        let before = rest;
        rest = rest.trim_start_matches([')', ']', '}', '.', ':', '*', '$', '"']);
        for mark in ["\\right", "\\)", "\\]"] {
            rest = rest.strip_prefix(mark).unwrap_or(rest);
        }
        if rest == before {
            return rest;
        }
    }
}

/// Without what lists another letter: commas, strokes, "and", "or".
fn without_separators(text: &str) -> &str {
    let mut rest = text;
    loop {
        let before = rest;
        rest = without_frame(rest.trim_start_matches([',', ';', '/', '&', '}', ')']));
        for word in ["and", "or", "\\cup", "\\cap", "\\lor", "\\land", "\\vee", "\\wedge", "\\&", "plus"] {
            let ends = |behind: &&str| !behind.starts_with(|c: char| c.is_ascii_alphanumeric());
            rest = rest.strip_prefix(word).filter(ends).unwrap_or(rest);
        }
        if rest == before {
            return rest;
        }
    }
}

/// Behind these words a response names its choice.
const PHRASES: [&str; 14] = [
    "answer is",
    "answers are",
    "answer:",
    "answer**",
    "answer",
    "option is",
    "options are",
    "choice is",
    "options",
    "option",
    "choices",
    "choice",
    "choose",
    "select",
];

/// The choice a response without a box ends with.
pub fn chosen(response: &str) -> Option<Choice> {
    let text = answer_part(response)?;
    named(text).or_else(|| last_alone(text))
}

/// The choice that a response names behind its last box: `\boxed{x=3}, which is option (D)`.
pub fn named_behind_box(response: &str) -> Option<Choice> {
    let text = answer_part(response)?;
    named(&text[boxes(text).pop()?.end..])
}

fn named(text: &str) -> Option<Choice> {
    let lower = text.to_ascii_lowercase();
    let mut starts: Vec<usize> =
        PHRASES.iter().filter_map(|phrase| lower.rfind(phrase).map(|at| at + phrase.len())).collect();
    starts.sort_unstable();
    starts.into_iter().rev().find_map(|start| {
        choice(text[start..].trim_start_matches(|c: char| c.is_whitespace() || matches!(c, ':' | '*' | '#')))
    })
}

/// The last letter that stands alone, with those it is listed with.
fn last_alone(text: &str) -> Option<Choice> {
    let bytes = text.as_bytes();
    let alone = |at: usize| {
        let before = at == 0 || !bytes[at - 1].is_ascii_alphanumeric();
        let after = bytes.get(at + 1).is_none_or(|byte| !byte.is_ascii_alphanumeric() && *byte != b'\'');
        let article = bytes[at] == b'A'
            && bytes.get(at + 1) == Some(&b' ')
            && bytes.get(at + 2).is_some_and(u8::is_ascii_lowercase)
            && !text[at + 2..].starts_with("is ");
        is_choice(char::from(bytes[at])) && before && after && !article && bytes[at] != b'I'
    };
    let last = (0..bytes.len()).rev().find(|&at| alone(at))?;
    let mut letters = bit(char::from(bytes[last]));
    let mut at = last;
    loop {
        let before = text[..at].trim_end_matches(['(', '*', '$', ' ', ')']);
        if before.to_ascii_lowercase().ends_with(" not") {
            return None;
        }
        let listed = ["and", "or", ",", "/", "&"].iter().find_map(|word| before.strip_suffix(word));
        let Some(listed) = listed.map(|listed| listed.trim_end_matches([')', '*', '$', ' ', ','])) else { break };
        match listed.len().checked_sub(1).filter(|&at| text.is_char_boundary(at) && alone(at)) {
            Some(next) => at = next,
            None => break,
        }
        letters |= bit(char::from(bytes[at]));
    }
    Some(Choice { letters, alone: false })
}

/// A reference that gives a choice and its value, `\textbf{(D) }30`: the choice, and the value.
pub fn lettered(gold: &str) -> Option<(Choice, &str)> {
    let gold = gold.trim().trim_matches('$');
    let mut inner = gold;
    if let Some(name) = gold.strip_prefix('\\') {
        let length = name.bytes().take_while(u8::is_ascii_alphabetic).count();
        let group = name[length..].trim_start().strip_prefix('{')?;
        if !token::is_text_macro(&name[..length]) {
            return None;
        }
        inner = group.trim_start_matches([' ', '~']);
    }
    let mut chars = inner.strip_prefix('(')?.chars();
    let letter = chars.next().filter(|c| is_choice(*c))?;
    let behind = chars.as_str().strip_prefix(')')?;
    let value = behind.trim_start_matches([' ', '~', ':', '.']);
    let (value, grouped) = match value.strip_prefix('}') {
        Some(value) => (value, true),
        None => (value, false),
    };
    // `\text{(B) 5}` keeps its font
    if inner.len() < gold.len() && !grouped {
        return None;
    }
    let spaced = behind.len() > value.len() || value.starts_with('\\');
    let mut value = value.trim_start_matches([' ', '~']);
    for space in ["\\ ", "\\,", "\\;", "\\:", "\\quad", "\\qquad", "~"] {
        value = value.strip_prefix(space).unwrap_or(value).trim_start();
    }
    let is_value = spaced && !value.is_empty() && !continues(value, true);
    is_value.then_some((Choice { letters: bit(letter), alone: true }, value))
}
