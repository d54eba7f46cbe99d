//! words: answers in words, and words around mathematics.

use super::super::ast::{Const, Expr, NamedSet};
use super::super::token::{Tok, Token};

/// The words of an answer without mathematics, lower case, single spaces.
pub fn pure_text(tokens: &[Token]) -> Option<String> {
    let mut words = Vec::new();
    let mut has_word = false;
    for token in tokens {
        match &token.tok {
            Tok::Word(word) => {
                has_word = true;
                words.push(word.to_lowercase());
            }
            Tok::Ident(name) if name.len() == 1 => words.push(name.to_lowercase()),
            Tok::Const(Const::I) => words.push("i".to_string()),
            Tok::Const(Const::E) => words.push("e".to_string()),
            Tok::And => words.push("and".to_string()),
            Tok::Or => words.push("or".to_string()),
            Tok::Comma | Tok::Quad | Tok::Newline | Tok::Open(_) | Tok::Close(_) | Tok::Prime(_) | Tok::Op('-') => {}
            _ => return None,
        }
    }
    has_word.then(|| words.join(" "))
}

/// Words that name something mathematical.
pub fn known(text: String) -> Expr {
    let bare = text.trim_start_matches("there is ").trim_start_matches("there are ").trim_start_matches("the ");
    match bare {
        "no solution" | "no solutions" | "no real solution" | "no real solutions" | "empty set" | "no such values" => {
            Expr::Named(NamedSet::Empty)
        }
        "all real numbers" | "all reals" | "all real values" | "real numbers" | "reals" => Expr::Named(NamedSet::Reals),
        "all integers" | "integers" => Expr::Named(NamedSet::Integers),
        "zero" => Expr::int(0),
        "one" => Expr::int(1),
        "two" => Expr::int(2),
        "three" => Expr::int(3),
        "four" => Expr::int(4),
        "five" => Expr::int(5),
        "six" => Expr::int(6),
        "seven" => Expr::int(7),
        "eight" => Expr::int(8),
        "nine" => Expr::int(9),
        "ten" => Expr::int(10),
        "eleven" => Expr::int(11),
        "twelve" => Expr::int(12),
        "does not exist" | "dne" | "undefined" | "not defined" => Expr::Text("undefined".to_string()),
        "infinitely many solutions" | "infinite solutions" | "infinitely many" | "infinite" => {
            Expr::Text("infinitely many".to_string())
        }
        _ => Expr::Text(text),
    }
}

/// What a token adds to the words between two pieces of mathematics; none when it is mathematics.
pub fn of_prose(tok: &Tok) -> Option<Option<String>> {
    Some(match tok {
        Tok::Word(word) => Some(word.to_lowercase()),
        Tok::And => Some("and".to_string()),
        Tok::Or => Some("or".to_string()),
        Tok::Comma
        | Tok::Semicolon
        | Tok::Newline
        | Tok::Quad
        | Tok::Op(':' | '-' | '*' | '/')
        | Tok::Amp
        | Tok::Rel(_)
        | Tok::Prime(_) => None,
        _ => return None,
    })
}

/// Words that introduce an answer or say nothing more.
const FRAME: &[&str] = &[
    "the",
    "answer",
    "is",
    "are",
    "final",
    "a",
    "an",
    "of",
    "solution",
    "solutions",
    "value",
    "values",
    "so",
    "thus",
    "therefore",
    "hence",
    "we",
    "get",
    "have",
    "equals",
    "equal",
    "to",
    "approximately",
    "about",
    "exactly",
    "result",
    "only",
    "total",
    "there",
    "it",
    "its",
    "this",
    "be",
    "set",
    "all",
    "and",
    "both",
    "x",
    "roots",
    "root",
    "respectively",
    "units",
    "at",
    "in",
    "such",
    "that",
    "integers",
    "possible",
    "minimum",
    "maximum",
    "smallest",
    "largest",
];

/// Drops words that only frame the mathematics.
pub fn without_frame(mut parts: Vec<Expr>) -> Expr {
    let framing = |part: &Expr| match part {
        Expr::Text(text) => text.split(' ').all(|word| FRAME.contains(&word)),
        _ => false,
    };
    if parts.iter().filter(|part| !part.is_text()).count() == 1
        && parts.iter().all(|part| !part.is_text() || framing(part))
    {
        parts.retain(|part| !part.is_text());
    }
    if parts.len() == 1 { parts.pop().expect("one part") } else { Expr::Prose(parts) }
}

/// Words that begin a condition or a clause and are never a counted thing.
pub fn is_clause_word(word: &str) -> bool {
    matches!(
        word,
        "if" | "when"
            | "where"
            | "for"
            | "is"
            | "to"
            | "of"
            | "with"
            | "in"
            | "on"
            | "at"
            | "from"
            | "by"
            | "as"
            | "are"
            | "has"
            | "otherwise"
            | "such"
            | "that"
            | "then"
            | "whenever"
            | "not"
            | "am"
            | "pm"
            | "but"
            | "than"
            | "the"
            | "a"
            | "an"
            | "only"
            | "every"
            | "any"
            | "all"
            | "since"
            | "so"
            | "implies"
            | "base"
            | "@"
            | "#"
            | "?"
            | "below"
            | "above"
            | "west"
            | "east"
            | "north"
            | "south"
            | "under"
            | "over"
            | "per"
            | "choose"
    )
}
