//! shapes: what kind of answer a tree is, and the parts that comparisons look at.

use crate::compare::identity;
use crate::compare::names;
use crate::compare::sets;
use crate::read::ast::{Bracket, Const, Expr, Func, NamedSet, RelOp};

/// The set behind `S =` or `x in`, when the name says nothing.
pub fn set_value(expr: &Expr) -> &Expr {
    match names::assignment(expr) {
        Some((_, value)) if is_region(value) || matches!(value, Expr::Tuple(..)) => value,
        _ => match expr {
            Expr::Rel(terms, operators) if operators.as_slice() == [RelOp::In] => &terms[1],
            other => other,
        },
    }
}

/// The elements of a list or a set; with `square`, of a list in square brackets, too long to be an interval.
pub fn elements(expr: &Expr, square: bool) -> Option<&[Expr]> {
    match expr {
        Expr::List(items) | Expr::Set(items) => Some(items),
        Expr::Tuple(Bracket::Square, items) if square && items.len() > 2 => Some(items),
        _ => None,
    }
}

/// True for what can only be a set of reals.
pub fn is_region(expr: &Expr) -> bool {
    match expr {
        Expr::HalfOpen(..) | Expr::SetOp(..) | Expr::Logic(..) | Expr::SetBuilder(_) => true,
        Expr::Named(set) => matches!(set, NamedSet::Empty | NamedSet::Reals),
        Expr::Tuple(Bracket::Square, items) => items.len() == 2,
        Expr::Tuple(..) => sets::has_infinity(expr),
        Expr::Rel(_, operators) => operators
            .iter()
            .any(|operator| operator.is_order() || matches!(operator, RelOp::Ne | RelOp::In | RelOp::NotIn)),
        _ => false,
    }
}

/// True for expressions that are no single number or function.
pub fn is_collection(expr: &Expr) -> bool {
    matches!(
        expr,
        Expr::Tuple(..)
            | Expr::HalfOpen(..)
            | Expr::Set(_)
            | Expr::SetBuilder(_)
            | Expr::Named(_)
            | Expr::SetOp(..)
            | Expr::List(_)
            | Expr::Matrix(_)
            | Expr::Logic(..)
            | Expr::Cases(_)
            | Expr::Text(_)
            | Expr::Prose(_)
            | Expr::Time(..)
            | Expr::Ratio(_)
    )
}

/// True for one number or function.
pub fn is_scalar(expr: &Expr) -> bool {
    !is_collection(expr) && !matches!(expr, Expr::Rel(..))
}

/// Degrees in radians.
pub fn radians(degrees: &Expr) -> Expr {
    let half_turn = Expr::Div(Box::new(Expr::Const(Const::Pi)), Box::new(Expr::int(180)));
    Expr::Mul(vec![degrees.clone(), half_turn])
}

/// The sign of an infinity.
pub fn infinite(expr: &Expr) -> Option<bool> {
    match expr {
        Expr::Const(Const::Infinity) => Some(true),
        Expr::Neg(inner) => infinite(inner).map(|sign| !sign),
        _ => None,
    }
}

/// Letters and digits only, lower case.
pub fn plain(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// The letters of a product of variables.
pub fn letters(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Sym(name) if name.len() == 1 => Some(name.to_lowercase()),
        Expr::Const(Const::E) => Some("e".to_string()),
        Expr::Const(Const::I) => Some("i".to_string()),
        Expr::Mul(factors) => factors.iter().map(letters).collect(),
        _ => None,
    }
}

/// True for a bare function name: used by relations to tell names from values.
pub fn is_plain_function(expr: &Expr) -> bool {
    matches!(
        expr,
        Expr::Func(
            Func::Abs | Func::Sin | Func::Cos | Func::Tan | Func::Max | Func::Min | Func::Re | Func::Im | Func::Arg,
            _
        )
    )
}

/// `\mathbb{Z}`, and with a mark, `\mathbb{N}^*`.
fn is_named_set(expr: &Expr) -> bool {
    match expr {
        Expr::Named(_) => true,
        Expr::Shape(_, parts) => parts.iter().all(is_named_set),
        _ => false,
    }
}

/// A list without declarations of parameters that its other items use; none when there are none.
pub fn without_declarations(expr: &Expr) -> Option<Expr> {
    let Expr::List(items) = expr else { return None };
    let declares = |item: &Expr| match item {
        Expr::Rel(terms, operators) => match (terms.as_slice(), operators.as_slice()) {
            ([Expr::Sym(name), set], [RelOp::In]) if is_named_set(set) => {
                let used = |other: &Expr| !std::ptr::eq(other, item) && identity::variables(other).contains(name);
                items.iter().any(used)
            }
            _ => false,
        },
        _ => false,
    };
    let mut kept: Vec<Expr> = items.iter().filter(|item| !declares(item)).cloned().collect();
    if kept.len() == items.len() || kept.is_empty() {
        return None;
    }
    Some(if kept.len() == 1 { kept.pop().expect("one item") } else { Expr::List(kept) })
}
