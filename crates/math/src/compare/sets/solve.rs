//! Relations in one variable as the sets that solve them.

use std::cmp::Ordering;

use super::{RealSet, infinity, real_set, sign_of};
use crate::compare::canon::Canon;
use crate::compare::identity;
use crate::compare::poly::Atom;
use crate::number::budget::{Budget, Exhausted};
use crate::read::ast::{Expr, Func, RelOp};

/// The solutions of a chain of relations in one variable, and the variable's name.
pub(super) fn relation(
    terms: &[Expr],
    operators: &[RelOp],
    budget: &mut Budget,
) -> Result<Option<(RealSet, String)>, Exhausted> {
    let mut sets = Vec::new();
    let mut variable: Option<String> = None;
    for (pair, operator) in terms.windows(2).zip(operators) {
        if *operator == RelOp::In || *operator == RelOp::NotIn {
            let Expr::Sym(name) = &pair[0] else { return Ok(None) };
            let Some(set) = real_set(&pair[1], budget)? else { return Ok(None) };
            sets.push(if *operator == RelOp::In { set } else { RealSet::Complement(Box::new(set)) });
            variable = Some(name.clone());
            continue;
        }
        if !(operator.is_order() || *operator == RelOp::Ne) {
            return Ok(None);
        }
        // an infinite bound says nothing, or cannot be met
        let ends = (infinity(&pair[0]), infinity(&pair[1]));
        if ends != (None, None) {
            let (Expr::Sym(name), side, operator) = (match ends {
                (None, Some(positive)) => (&pair[0], positive, *operator),
                (Some(positive), None) => (&pair[1], positive, operator.flipped()),
                _ => return Ok(None),
            }) else {
                continue;
            };
            let met = match operator {
                RelOp::Lt | RelOp::Le => side,
                RelOp::Gt | RelOp::Ge => !side,
                _ => true,
            };
            if variable.get_or_insert_with(|| name.clone()) != name {
                return Ok(None);
            }
            sets.push(if met { RealSet::All } else { RealSet::Empty });
            continue;
        }
        let Some((set, name)) = solve(&pair[0], *operator, &pair[1], budget)? else { return Ok(None) };
        if variable.get_or_insert_with(|| name.clone()) != &name {
            return Ok(None);
        }
        sets.push(set);
    }
    let Some(name) = variable else { return Ok(None) };
    Ok(Some((if sets.len() == 1 { sets.pop().expect("one set") } else { RealSet::Intersection(sets) }, name)))
}

/// Solves `left operator right`, linear or quadratic in one variable, or linear inside an absolute value.
fn solve(
    left: &Expr,
    operator: RelOp,
    right: &Expr,
    budget: &mut Budget,
) -> Result<Option<(RealSet, String)>, Exhausted> {
    // |u| < c
    for (side, bound, operator) in [(left, right, operator), (right, left, operator.flipped())] {
        let Expr::Func(Func::Abs, args) = side else { continue };
        if !identity::is_constant(bound) || identity::is_constant(side) {
            continue;
        }
        let inside = &args[0];
        let minus = Expr::Neg(Box::new(bound.clone()));
        let above = solve(inside, operator, bound, budget)?;
        let below = solve(inside, operator.flipped(), &minus, budget)?;
        let (Some((above, name)), Some((below, _))) = (above, below) else { return Ok(None) };
        let set = match operator {
            RelOp::Lt | RelOp::Le | RelOp::Ne => RealSet::Intersection(vec![above, below]),
            _ => RealSet::Union(vec![above, below]),
        };
        return Ok(Some((set, name)));
    }
    let mut canon = Canon { budget, uncertain: false, others: Default::default() };
    let (Ok(left), Ok(right)) = (canon.form(left), canon.form(right)) else { return Ok(None) };
    if left.under.as_rational().is_none() || right.under.as_rational().is_none() {
        return Ok(None);
    }
    let Ok(difference) = identity::difference(&left, &right, canon.budget) else { return Ok(None) };
    let sign = left.under.as_rational().zip(right.under.as_rational()).map(|(a, b)| a * b);
    if sign.is_none_or(|sign| !num_traits::Signed::is_positive(&sign)) {
        return Ok(None);
    }
    let mut atoms: Vec<Atom> = Vec::new();
    for monomial in difference.terms.keys() {
        for (atom, _) in monomial {
            let varies = match atom {
                Atom::Sym(_) => true,
                Atom::Other(name) => canon.others.get(name).is_some_and(|meaning| !identity::is_constant(meaning)),
                _ => false,
            };
            if varies && !atoms.contains(atom) {
                atoms.push(atom.clone());
            }
        }
    }
    let [atom] = atoms.as_slice() else { return Ok(None) };
    let Some(coefficients) = difference.coefficients(atom, 2) else { return Ok(None) };
    let name = match atom {
        Atom::Sym(name) | Atom::Other(name) => name.clone(),
        _ => return Ok(None),
    };
    let [c, b, a] = [0, 1, 2].map(|at| canon.expr_of(&coefficients[at]));
    let quadratic = !coefficients[2].is_zero();
    Ok(half_lines(a, b, c, quadratic, operator, budget)?.map(|set| (set, name)))
}

fn half_lines(
    a: Expr,
    b: Expr,
    c: Expr,
    quadratic: bool,
    operator: RelOp,
    budget: &mut Budget,
) -> Result<Option<RealSet>, Exhausted> {
    let minus = |expr: Expr| Expr::Neg(Box::new(expr));
    if !quadratic {
        let Some(sign) = sign_of(&b, budget)? else { return Ok(None) };
        let bound = Expr::Div(Box::new(minus(c)), Box::new(b));
        let operator = if sign == Ordering::Less { operator.flipped() } else { operator };
        return Ok(Some(match operator {
            RelOp::Lt => RealSet::Interval(None, Some(bound), false, false),
            RelOp::Le => RealSet::Interval(None, Some(bound), false, true),
            RelOp::Gt => RealSet::Interval(Some(bound), None, false, false),
            RelOp::Ge => RealSet::Interval(Some(bound), None, true, false),
            _ => RealSet::Complement(Box::new(RealSet::Points(vec![bound]))),
        }));
    }
    let square = Expr::Pow(Box::new(b.clone()), Box::new(Expr::int(2)));
    let inside = Expr::Add(vec![square, Expr::Mul(vec![Expr::int(-4), a.clone(), c])]);
    let (Some(sign), Some(size)) = (sign_of(&a, budget)?, sign_of(&inside, budget)?) else { return Ok(None) };
    let operator = if sign == Ordering::Less { operator.flipped() } else { operator };
    let root = Expr::Func(Func::Root, vec![Expr::int(2), inside]);
    let at = |root: Expr| {
        Expr::Div(Box::new(Expr::Add(vec![minus(b.clone()), root])), Box::new(Expr::Mul(vec![Expr::int(2), a.clone()])))
    };
    let (mut low, mut high) = (at(minus(root.clone())), at(root));
    if sign == Ordering::Less {
        std::mem::swap(&mut low, &mut high);
    }
    let closed = matches!(operator, RelOp::Le | RelOp::Ge);
    let between = match size {
        Ordering::Less => RealSet::Empty,
        _ => RealSet::Interval(Some(low.clone()), Some(high.clone()), closed, closed),
    };
    Ok(Some(match (operator, size) {
        (RelOp::Lt | RelOp::Le, _) => between,
        (RelOp::Gt | RelOp::Ge, Ordering::Less) => RealSet::All,
        (RelOp::Gt | RelOp::Ge, _) => RealSet::Union(vec![
            RealSet::Interval(None, Some(low), false, closed),
            RealSet::Interval(Some(high), None, closed, false),
        ]),
        (_, Ordering::Less) => RealSet::All,
        _ => RealSet::Complement(Box::new(RealSet::Points(vec![low, high]))),
    }))
}
