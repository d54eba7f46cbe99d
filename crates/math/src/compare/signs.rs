//! signs: answers with plus-minus, written out.

use crate::read::ast::{Expr, RelOp};

pub fn is_plus_minus(expr: &Expr) -> bool {
    expr.any(&mut |node| matches!(node, Expr::PlusMinus(..)))
}

fn is_zero(expr: &Expr) -> bool {
    expr.as_int() == Some(0)
}

/// Signs are written out in at most this many answers.
const SIGN_LIMIT: usize = 32;

/// Every plus-minus written out: lists of values in place of the item that holds it.
pub fn expanded(expr: Expr) -> Option<Expr> {
    match expr {
        Expr::List(items) => spread(items).map(Expr::List),
        Expr::Set(items) => spread(items).map(Expr::Set),
        // 3x +- 4y = 0: two equations
        Expr::Rel(terms, operators) if operators == [RelOp::Eq] && (is_plus_minus(&terms[0]) || is_zero(&terms[1])) => {
            variants(Expr::Rel(terms, operators)).map(Expr::List)
        }
        Expr::Rel(mut terms, operators) if operators.iter().all(|operator| *operator == RelOp::Eq) => {
            // x = a +- b: the values
            let value = terms.pop()?;
            let name = terms.into_iter().next()?;
            let values = variants(value)?;
            Some(Expr::List(
                values.into_iter().map(|value| Expr::Rel(vec![name.clone(), value], vec![RelOp::Eq])).collect(),
            ))
        }
        other => {
            let mut values = variants(other)?;
            Some(if values.len() == 1 { values.pop()? } else { Expr::List(values) })
        }
    }
}

fn spread(items: Vec<Expr>) -> Option<Vec<Expr>> {
    let mut all = Vec::new();
    for item in items {
        match expanded(item)? {
            Expr::List(values) => all.extend(values),
            one => all.push(one),
        }
        if all.len() > 400 {
            return None;
        }
    }
    Some(all)
}

/// Both signs of every plus-minus; with a minus-plus all signs go together.
fn variants(expr: Expr) -> Option<Vec<Expr>> {
    let mut count = 0;
    let mut together = false;
    expr.walk(&mut |node| {
        if let Expr::PlusMinus(_, _, flipped) = node {
            count += 1;
            together |= *flipped;
        }
    });
    if count == 0 {
        return Some(vec![expr]);
    }
    let total = if together { 2 } else { 1usize.checked_shl(count)? };
    if total > SIGN_LIMIT {
        return None;
    }
    Some((0..total).map(|choice| signed(expr.clone(), choice, together, &mut 0)).collect())
}

fn signed(expr: Expr, choice: usize, together: bool, seen: &mut u32) -> Expr {
    match expr {
        Expr::PlusMinus(first, second, flipped) => {
            let bit = if together { choice & 1 } else { choice >> *seen & 1 };
            *seen += 1;
            let minus = (bit == 1) != flipped;
            let first = first.map(|first| signed(*first, choice, together, seen));
            let second = signed(*second, choice, together, seen);
            let second = if minus { Expr::Neg(Box::new(second)) } else { second };
            match first {
                Some(first) => Expr::Add(vec![first, second]),
                None => second,
            }
        }
        other => other.map_children(&mut |child| signed(child, choice, together, seen)),
    }
}
