//! names: what names a value rather than computing one, and the value that an equation gives it.

use crate::compare::identity;
use crate::compare::shapes::is_plain_function;
use crate::read::ast::{Expr, Func, RelOp};

/// The name and the value of `x = 5`, `S_n = 2 + 3 = 5`, `P(A) = 1/2`, `x = 1/3 \approx 0.33`.
pub fn assignment(expr: &Expr) -> Option<(&Expr, &Expr)> {
    let Expr::Rel(terms, operators) = expr else { return None };
    if !operators.iter().all(|operator| matches!(operator, RelOp::Eq | RelOp::Approx)) || !is_name(&terms[0]) {
        return None;
    }
    // the exact value stands before the first approximation, unless only the name does
    let exact = operators.iter().position(|operator| *operator == RelOp::Approx).unwrap_or(operators.len());
    Some((&terms[0], &terms[if exact == 0 { 1 } else { exact }]))
}

/// The value of an assignment, or the expression itself.
pub fn value(expr: &Expr) -> &Expr {
    assignment(expr).map_or(expr, |(_, value)| value)
}

/// True for what names a value rather than computing one.
pub fn is_name(expr: &Expr) -> bool {
    match expr {
        Expr::Sym(name) => name != "...",
        Expr::Apply(..) => true,
        Expr::Shape(name, parts) => {
            !matches!(name.as_str(), "int" | "sum" | "prod" | "det" | "lim") && parts.iter().all(is_name)
        }
        Expr::Func(Func::Abs, args) => is_name(&args[0]),
        Expr::Func(..) if is_plain_function(expr) => {
            let Expr::Func(_, args) = expr else { return false };
            args.iter().all(is_name)
        }
        // AB, ABCD, m angle A, P(x), y(t)
        Expr::Mul(factors) => {
            let capital = |factor: &Expr| match factor {
                Expr::Sym(name) => name.starts_with(|c: char| c.is_ascii_uppercase()),
                Expr::Shape(..) | Expr::Apply(..) => is_name(factor),
                _ => false,
            };
            let letter = |factor: &Expr| matches!(factor, Expr::Sym(name) if name.len() == 1);
            factors.iter().all(capital)
                || (factors.len() == 2 && letter(&factors[0]) && (capital(&factors[1]) || letter(&factors[1])))
                || (factors.len() == 2 && letter(&factors[0]) && matches!(factors[1], Expr::Tuple(..)))
        }
        // (x, y) = (1, 2)
        Expr::Tuple(_, items) => items.iter().all(|item| matches!(item, Expr::Sym(_))),
        Expr::List(items) => items.iter().all(|item| matches!(item, Expr::Sym(_))),
        Expr::Text(_) => true,
        Expr::Div(over, under) => is_differential(over) && is_differential(under),
        Expr::Ratio(parts) => parts.iter().all(is_name),
        _ => false,
    }
}

/// `dy`, `d^2 y`.
fn is_differential(expr: &Expr) -> bool {
    let is_d = |factor: &Expr| matches!(factor, Expr::Sym(name) if name == "d" || name == "partial");
    match expr {
        Expr::Mul(factors) => match &factors[0] {
            Expr::Pow(base, _) => is_d(base),
            first => is_d(first),
        },
        _ => false,
    }
}

/// Names that may stand for the same unknown: equal up to a subscript.
pub fn same_stem(a: &Expr, b: &Expr) -> bool {
    match (a, b) {
        (Expr::Sym(a), Expr::Sym(b)) => a.split('_').next() == b.split('_').next(),
        _ => a == b,
    }
}

/// The value that an equation gives to a name-like side, where the other answer is no equation: `x = 5`, `\frac{NO}{BO} = 2`,
/// `7 = f(2)`; in a response to a number also `m + n = 256 + 37 = 293`, with `sums`.
///
/// A reference that relates x, y and z is an equation, and not the number on its right.
pub fn named_value(expr: &Expr, is_response: bool, sums: bool) -> Option<&Expr> {
    let Expr::Rel(terms, operators) = expr else { return None };
    if let Some((_, value)) = assignment(expr) {
        return Some(value);
    }
    if !operators.iter().all(|operator| *operator == RelOp::Eq) {
        return None;
    }
    let last = terms.last()?;
    if !is_response && are_unknowns(expr) {
        return None;
    }
    if is_name_like(&terms[0]) || is_response && sums && is_sum_of_names(&terms[0]) && identity::is_constant(last) {
        return Some(last);
    }
    (is_name(last) || is_name_like(last)).then(|| &terms[terms.len() - 2])
}

/// True for what names a value by an expression of names: `AB/CD`, `AB^2`, `|A \cup B|`, `abc`, `\gcd(a, b)`.
fn is_name_like(expr: &Expr) -> bool {
    let named = |part: &Expr| is_name(part) || is_name_like(part);
    let symbol = |part: &Expr| matches!(part, Expr::Sym(name) if name != "..." && !name.starts_with('\\'));
    match expr {
        Expr::Div(over, under) => named(over) && named(under),
        Expr::Func(Func::Abs, parts) => match &parts[0] {
            Expr::SetOp(_, parts) => parts.iter().all(is_name),
            one => named(one),
        },
        Expr::Func(Func::Gcd | Func::Lcm, parts) => parts.iter().all(is_name),
        Expr::Mul(factors) => match factors.as_slice() {
            // the square of a segment
            [front @ .., Expr::Pow(base, power)] if power.as_int().is_some() => {
                !front.is_empty() && front.iter().all(is_capital) && is_capital(base)
            }
            [Expr::Text(_), rest @ ..] => rest.iter().all(is_name),
            factors => factors.iter().all(symbol),
        },
        _ => false,
    }
}

fn is_capital(expr: &Expr) -> bool {
    matches!(expr, Expr::Sym(name) if name.starts_with(|c: char| c.is_ascii_uppercase()))
}

/// True for a sum that a question asks for by its parts: `m + n`, `a^2 + b^2`, `f(2) + f(3)`. Sums of x, y and z are equations
/// between unknowns.
fn is_sum_of_names(expr: &Expr) -> bool {
    let Expr::Add(terms) = expr else { return false };
    let part = |term: &Expr| match term {
        Expr::Pow(base, power) => is_name(base) && power.as_int().is_some(),
        Expr::Neg(inner) => is_name(inner),
        other => is_name(other) || is_name_like(other),
    };
    terms.iter().all(part) && !are_unknowns(expr)
}

/// True when the only names are x, y and z.
fn are_unknowns(expr: &Expr) -> bool {
    identity::variables(expr).iter().all(|name| matches!(name.as_str(), "x" | "y" | "z"))
}
