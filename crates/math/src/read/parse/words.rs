//! words: answers in words, and words around mathematics.

use crate::read::ast::{Const, Expr, NamedSet, RelOp};
use crate::read::scale;
use crate::read::token::{Tok, Token};

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
        "does not exist" | "dne" | "undefined" | "not defined" => Expr::Text("undefined".to_string()),
        "infinitely many solutions" | "infinite solutions" | "infinitely many" | "infinite" => {
            Expr::Text("infinitely many".to_string())
        }
        _ => match scale::cardinal(bare) {
            Some(value) => Expr::num(value.into()),
            None => Expr::Text(text),
        },
    }
}

/// A set by its letter behind a sign of membership: `k \in Z`, `\mathbf{Z}`.
pub fn named_set(expr: Expr) -> Expr {
    let Expr::Sym(name) = &expr else { return expr };
    Expr::Named(match name.as_str() {
        "R" => NamedSet::Reals,
        "Z" => NamedSet::Integers,
        "N" => NamedSet::Naturals,
        "Q" => NamedSet::Rationals,
        _ => return expr,
    })
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
        | Tok::Rel(RelOp::Eq | RelOp::Approx | RelOp::Other(_))
        | Tok::Prime(_) => None,
        // `< 5` and `\ne 5` are not 5
        Tok::Rel(operator) => Some(format!("{operator:?}").to_lowercase()),
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

/// The number of tokens in front that only announce the answer: `the answer is`, `Answer:`.
pub fn announcement(tokens: &[Token]) -> usize {
    let mut announces = false;
    let framing = tokens.iter().take_while(|token| match &token.tok {
        Tok::Word(word) => {
            let word = word.to_lowercase();
            announces |= matches!(word.as_str(), "answer" | "solution" | "result" | "value");
            FRAME.contains(&word.as_str())
        }
        _ => false,
    });
    let length = framing.count();
    let colon = usize::from(tokens.get(length).is_some_and(|token| token.tok == Tok::Op(':')));
    if announces && length + colon < tokens.len() { length + colon } else { 0 }
}

/// The number of tokens before a final `for all x`, `for every real number x`, `for all n in N`, which says no more than
/// that the names are names.
pub fn before_quantifier(tokens: &[Token]) -> usize {
    let word = |at: usize, wanted: &[&str]| match tokens.get(at).map(|token| &token.tok) {
        Some(Tok::Word(word)) => wanted.contains(&word.to_lowercase().as_str()),
        _ => false,
    };
    const KINDS: [&str; 11] = [
        "real", "reals", "positive", "integer", "integers", "number", "numbers", "natural", "rational", "values", "of",
    ];
    let Some(start) =
        (1..tokens.len()).find(|&at| word(at, &["for"]) && word(at + 1, &["all", "any", "every", "each"]))
    else {
        return tokens.len();
    };
    let names =
        start + 2 + tokens[start + 2..].iter().enumerate().take_while(|(at, _)| word(start + 2 + at, &KINDS)).count();
    let named = tokens.get(names).is_some_and(|token| matches!(token.tok, Tok::Ident(_)));
    let rest: Vec<&Tok> =
        tokens[(names + usize::from(named)).min(tokens.len())..].iter().map(|token| &token.tok).collect();
    if matches!(rest.as_slice(), [] | [Tok::Rel(RelOp::In), Tok::Named(_)]) { start } else { tokens.len() }
}

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
