//! qualifiers: words behind an answer that say more about it than what it is.

use crate::read::ast::RelOp;
use crate::read::scale;
use crate::read::token::{Delim, Tok, Token};
use crate::read::units::Unit;

/// Words that would change an answer: they are never left out.
const CHANGING: [&str; 58] = [
    "not",
    "no",
    "none",
    "nor",
    "never",
    "or",
    "and",
    "but",
    "if",
    "when",
    "unless",
    "except",
    "excluding",
    "without",
    "than",
    "plus",
    "minus",
    "times",
    "over",
    "squared",
    "cubed",
    "factorial",
    "modulo",
    "mod",
    "base",
    "remainder",
    "am",
    "pm",
    "below",
    "above",
    "zero",
    "half",
    "per",
    "at",
    "least",
    "most",
    "more",
    "less",
    "fewer",
    "greater",
    "smaller",
    "only",
    "about",
    "around",
    "approximately",
    "roughly",
    "almost",
    "nearly",
    "negative",
    "undefined",
    "impossible",
    "wrong",
    "incorrect",
    "false",
    "to",
    "choose",
    "axis",
    "axes",
];

/// How many words may follow a number.
const WORDS_MAX: usize = 6;

/// Where words behind an answer begin that qualify it: `where n is odd`, `for some constant c`, `\forall x`, and behind a
/// number words that are no unit: `ways to choose`.
pub fn start(tokens: &[Token]) -> Option<usize> {
    let clause = (1..tokens.len()).find(|&at| begins_clause(tokens, at)).filter(|at| !restricts(&tokens[*at..]));
    let start = clause.or_else(|| words_behind_number(tokens))?;
    let separator = matches!(tokens[start - 1].tok, Tok::Comma | Tok::Quad | Tok::Semicolon);
    Some(start - usize::from(separator)).filter(|start| *start > 0)
}

/// True for a clause with a condition on values, `for all x > 0`: it belongs to the answer.
fn restricts(clause: &[Token]) -> bool {
    let declares = |tok: &Tok| {
        matches!(tok, Tok::Word(_) | Tok::Ident(_) | Tok::Const(_) | Tok::Comma | Tok::And)
            || matches!(tok, Tok::Named(_) | Tok::Open(_) | Tok::Close(_) | Tok::Rel(RelOp::In))
    };
    !clause.iter().all(|token| declares(&token.tok))
}

fn word(tokens: &[Token], at: usize) -> Option<String> {
    match &tokens.get(at)?.tok {
        Tok::Word(word) => Some(word.to_lowercase()),
        _ => None,
    }
}

/// `where ..`, `for some ..`, `\forall ..`, `c is a constant`, also in brackets.
fn begins_clause(tokens: &[Token], at: usize) -> bool {
    let at = at + usize::from(tokens[at].tok == Tok::Open(Delim::Paren));
    if matches!(tokens.get(at).map(|token| &token.tok), Some(Tok::Ident(name)) if name == "\\forall") {
        return true;
    }
    const SOME: [&str; 8] = ["some", "any", "all", "every", "each", "arbitrary", "constant", "constants"];
    let names = |at: usize| word(tokens, at).is_some_and(|word| SOME.contains(&word.as_str()));
    match word(tokens, at).as_deref() {
        Some("where") => true,
        Some("for") => names(at + 1),
        _ => {
            is_constant_clause(&tokens[at.min(tokens.len())..]) && matches!(tokens[at - 1].tok, Tok::Comma | Tok::Quad)
        }
    }
}

/// `c is a constant`, `C an arbitrary real constant` up to the end.
fn is_constant_clause(tokens: &[Token]) -> bool {
    const WORDS: [&str; 11] =
        ["is", "a", "an", "any", "arbitrary", "constant", "real", "the", "of", "integration", "some"];
    let said = |at: usize| word(tokens, at).is_some_and(|word| WORDS.contains(&word.as_str()));
    tokens.len() > 1 && matches!(tokens[0].tok, Tok::Ident(_)) && (1..tokens.len()).all(said)
}

/// Words up to the end behind a number or a bracket, none of which is a unit or changes it.
fn words_behind_number(tokens: &[Token]) -> Option<usize> {
    let count = tokens.iter().rev().take_while(|token| matches!(token.tok, Tok::Word(_))).count();
    let start = tokens.len() - count;
    let behind_number = start > 0 && matches!(tokens[start - 1].tok, Tok::Num(..) | Tok::Close(_));
    let first = word(tokens, start)?;
    let multiplies = |tok: &Tok| matches!(tok, Tok::Word(name) if scale::suffix(name, true).is_some());
    let measures = Unit::named(&first).is_some_and(|unit| !unit.is_count())
        || scale::word(&first).is_some()
        || multiplies(&tokens[start].tok);
    let words: Vec<String> = (start..tokens.len()).filter_map(|at| word(tokens, at)).collect();
    // "ways to choose" may have these two, behind what is counted
    let counted = words.len() > 2 && Unit::named(&first).is_some();
    let changes = |word: &String| {
        CHANGING.contains(&word.as_str()) && !(counted && matches!(word.as_str(), "to" | "choose"))
            || scale::word(word).is_some()
            || scale::cardinal(word).is_some()
    };
    (behind_number && !measures && words.len() <= WORDS_MAX && !words.iter().any(changes)).then_some(start)
}
