//! layout: tokens that only lay out an answer go before it is parsed.

use super::systems;
use crate::read::ast::RelOp;
use crate::read::token::{Cmd, Delim, Tok, Token};

/// Removes what only lays out lines: alignment marks, their environments, punctuation at the ends.
pub(super) fn prepared(tokens: Vec<Token>) -> Vec<Token> {
    let tokens = systems::braced(tokens);

    const LAYOUT: [&str; 12] = [
        "align",
        "aligned",
        "gather",
        "gathered",
        "equation",
        "split",
        "eqnarray",
        "multline",
        "center",
        "math",
        "displaymath",
        "alignat",
    ];
    let mut open: Vec<bool> = Vec::new();
    let mut kept: Vec<Token> = Vec::with_capacity(tokens.len());
    for token in tokens {
        match &token.tok {
            Tok::Begin(name) => {
                open.push(LAYOUT.contains(&name.as_str()));
                if open.last() == Some(&true) {
                    continue;
                }
            }
            Tok::End(_) if open.pop() == Some(true) => {
                continue;
            }
            Tok::Amp if open.last() != Some(&false) => continue,
            // a line that goes on with a relation belongs to the line before
            Tok::Rel(_) if kept.last().is_some_and(|last| last.tok == Tok::Newline) => {
                kept.pop();
            }
            _ => {}
        }
        kept.push(token);
    }
    let idle =
        |tok: &Tok| matches!(tok, Tok::Comma | Tok::Semicolon | Tok::Newline | Tok::Quad | Tok::Op(':') | Tok::Amp);
    while kept.last().is_some_and(|token| idle(&token.tok)) {
        kept.pop();
    }
    let start = kept.iter().position(|token| !idle(&token.tok)).unwrap_or(kept.len());
    kept.drain(..start);
    let mut depth = 0usize;
    let over = kept.iter().any(|token| {
        match token.tok {
            Tok::Open(_) | Tok::Begin(_) => depth += 1,
            Tok::Close(_) | Tok::End(_) => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && matches!(token.tok, Tok::Cmd(Cmd::Over | Cmd::Choose))
    });
    if over {
        // `1 \over 3` without braces: the answer is the group
        let brace = |tok| Token { tok, spaced: false, upright: false };
        kept.insert(0, brace(Tok::Open(Delim::Group)));
        kept.push(brace(Tok::Close(Delim::Group)));
    }
    without_double_brackets(outside_brackets(kept))
}

/// What stands in brackets behind an answer and is an item of its own: `(k \in \mathbb{Z})`, `(or 0.5)`.
fn outside_brackets(mut tokens: Vec<Token>) -> Vec<Token> {
    let Some(Tok::Close(Delim::Paren)) = tokens.last().map(|token| &token.tok) else { return tokens };
    let Some(open) = tokens.iter().rposition(|token| token.tok == Tok::Open(Delim::Paren)).filter(|open| *open > 0)
    else {
        return tokens;
    };
    match (&tokens[open + 1].tok, tokens.get(open + 2).map(|token| &token.tok)) {
        (Tok::Or, _) => {
            tokens.remove(open);
        }
        (Tok::Ident(_), Some(Tok::Rel(RelOp::In))) => tokens[open].tok = Tok::Comma,
        _ => return tokens,
    }
    tokens.pop();
    tokens
}

/// Brackets directly inside brackets say nothing more, and cost depth.
fn without_double_brackets(tokens: Vec<Token>) -> Vec<Token> {
    let mut partner = vec![usize::MAX; tokens.len()];
    let mut open = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        match token.tok {
            Tok::Open(delim) => open.push((delim, at)),
            Tok::Close(delim) => match open.pop() {
                Some((other, start)) if other == delim => partner[start] = at,
                // mixed brackets: half-open intervals; their partners stay unknown
                _ => {}
            },
            _ => {}
        }
    }
    let is = |at: usize, wanted: &Tok| tokens.get(at).is_some_and(|token| token.tok == *wanted);
    let mut dropped = vec![false; tokens.len()];
    for delim in [Delim::Paren, Delim::Group] {
        let tok = Tok::Open(delim);
        for at in 1..tokens.len() {
            let (inner, outer) = (partner[at], partner[at - 1]);
            if inner != usize::MAX && outer == inner + 1 && is(at, &tok) && is(at - 1, &tok) {
                dropped[at] = true;
                dropped[inner] = true;
            }
        }
    }
    if !dropped.contains(&true) {
        return tokens;
    }
    tokens.into_iter().zip(dropped).filter(|(_, dropped)| !dropped).map(|(token, _)| token).collect()
}
