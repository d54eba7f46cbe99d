//! systems: a brace around lines, `\left\{\begin{array}{l} .. \end{array}\right.`, is an environment of cases.

use crate::read::ast::{Expr, RelOp};
use crate::read::token::{Delim, Tok, Token};

/// Environments that lay out lines behind a brace.
const LINES: [&str; 10] =
    ["array", "aligned", "align", "alignedat", "gathered", "matrix", "smallmatrix", "split", "tabular", "cases"];

/// The tokens with every brace around lines turned into an environment of cases.
pub(super) fn braced(tokens: Vec<Token>) -> Vec<Token> {
    let is_begin = |at: usize| matches!(tokens.get(at).map(|token| &token.tok), Some(Tok::Begin(_)));
    if !(0..tokens.len()).any(is_begin) {
        return tokens;
    }
    let (mut kept, mut dropped) = (tokens.clone(), vec![false; tokens.len()]);
    for at in (0..tokens.len()).filter(|at| is_begin(*at)) {
        let Tok::Begin(name) = &tokens[at].tok else { continue };
        let Some(end) = matching_end(&tokens, at) else { continue };
        let braced = at > 0 && tokens[at - 1].tok == Tok::Open(Delim::Brace) && LINES.contains(&name.as_str());
        if braced {
            dropped[at - 1] = true;
            let closed = tokens.get(end + 1).is_some_and(|token| token.tok == Tok::Close(Delim::Brace));
            if closed {
                dropped[end + 1] = true;
            }
            kept[at].tok = Tok::Begin("cases".to_string());
            kept[end].tok = Tok::End("cases".to_string());
        }
        if braced || name.ends_with("cases") {
            // x &= 1: the mark aligns equations and separates no condition
            let equals = |at: usize| tokens[at].tok == Tok::Rel(RelOp::Eq);
            let aligns = |mark: &usize| tokens[*mark].tok == Tok::Amp && (equals(mark + 1) || equals(mark - 1));
            // a condition needs no "if"
            let introduces = |word: &usize| {
                matches!(tokens[word - 1].tok, Tok::Amp | Tok::Comma)
                    && matches!(&tokens[*word].tok, Tok::Word(word) if matches!(word.as_str(), "if" | "when" | "for"))
            };
            (at + 1..end).filter(|at| aligns(at) || introduces(at)).for_each(|at| dropped[at] = true);
        }
    }
    kept.into_iter().zip(dropped).filter(|(_, dropped)| !dropped).map(|(token, _)| token).collect()
}

fn matching_end(tokens: &[Token], begin: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (at, token) in tokens.iter().enumerate().skip(begin) {
        match token.tok {
            Tok::Begin(_) => depth += 1,
            Tok::End(_) => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// Branches of a function; a brace around equations is a list.
pub(super) fn cases(rows: Vec<Vec<Expr>>) -> Expr {
    let rows: Vec<Vec<Expr>> = rows.into_iter().map(split_at_comma).collect();
    if rows.iter().all(|row| row.len() == 1) {
        return Expr::List(rows.into_iter().flatten().collect());
    }
    let branch = |row: Vec<Expr>| {
        let mut cells = row.into_iter();
        let value = cells.next().unwrap_or(Expr::Text(String::new()));
        let mut rest: Vec<Expr> = cells.collect();
        let condition = match rest.len() {
            0 => Expr::Text("otherwise".to_string()),
            1 => rest.remove(0),
            _ => Expr::Prose(rest),
        };
        (value, condition)
    };
    Expr::Cases(rows.into_iter().map(branch).collect())
}

/// `n, n odd` in one cell: a value and its condition.
fn split_at_comma(row: Vec<Expr>) -> Vec<Expr> {
    let is_condition = |expr: &Expr| match expr {
        Expr::Rel(_, operators) => operators.iter().any(|operator| *operator != RelOp::Eq),
        Expr::Text(_) | Expr::Prose(_) | Expr::Quantity(..) | Expr::Logic(..) => true,
        _ => false,
    };
    match row.as_slice() {
        [Expr::List(items)] if items.len() == 2 && is_condition(&items[1]) && !matches!(items[0], Expr::Rel(..)) => {
            items.clone()
        }
        _ => row,
    }
}
