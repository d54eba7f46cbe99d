//! combinations: `C_6^2`, `A_5^2`, `P_5^2` as counts, where they may be.

use crate::read::ast::{Expr, Func};

/// The tree with every count of combinations and arrangements written out; none when there is none.
pub fn written_out(expr: &Expr) -> Option<Expr> {
    expr.any(&mut |node| counted(node).is_some()).then(|| replaced(expr.clone()))
}

fn replaced(expr: Expr) -> Expr {
    match counted(&expr) {
        Some(count) => count,
        None => expr.map_children(&mut replaced),
    }
}

/// A name with two numerals: all below, and how many of them above.
fn counted(expr: &Expr) -> Option<Expr> {
    let Expr::Pow(base, some) = expr else { return None };
    let Expr::Sym(name) = base.as_ref() else { return None };
    let (name, all) = name.split_once('_')?;
    let (all, some) = (all.parse::<i64>().ok()?, some.as_int()?);
    if !(0..=all).contains(&some) || all > 1_000 {
        return None;
    }
    let factorial = |value: i64| Expr::Func(Func::Factorial, vec![Expr::int(value)]);
    match name {
        "C" => Some(Expr::Func(Func::Binom, vec![Expr::int(all), Expr::int(some)])),
        "A" | "P" => Some(Expr::Div(Box::new(factorial(all)), Box::new(factorial(all - some)))),
        _ => None,
    }
}
