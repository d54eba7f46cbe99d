//! sets: sets of real numbers as truth values over the points that matter and the gaps between them.
//!
//! All end points of both sides are put in order; then a set is one truth value per point and per gap, and every operation
//! and comparison is a walk over them.

use std::cmp::Ordering;

use crate::compare::canon::Canon;
use crate::compare::identity;
use crate::compare::poly::Atom;
use crate::number::budget::{Budget, Exhausted};
use crate::number::eval::{Point, eval};
use crate::read::ast::{Bracket, Const, Expr, Func, NamedSet, RelOp, SetOp};

/// A set of reals, not yet placed on the line.
#[derive(Debug, Clone)]
pub enum RealSet {
    /// No point.
    Empty,
    /// Every point.
    All,
    /// Points.
    Points(Vec<Expr>),
    /// An interval; none is an infinite end; the flags say which ends belong to it.
    Interval(Option<Expr>, Option<Expr>, bool, bool),
    /// In one of these.
    Union(Vec<RealSet>),
    /// In all of these.
    Intersection(Vec<RealSet>),
    /// Not in this.
    Complement(Box<RealSet>),
}

/// More end points than this are not sorted.
const POINT_LIMIT: usize = 200;

/// The set an expression describes, when it is one of reals with constant ends.
pub fn real_set(expr: &Expr, budget: &mut Budget) -> Result<Option<RealSet>, Exhausted> {
    Ok(match expr {
        Expr::Named(NamedSet::Empty) => Some(RealSet::Empty),
        Expr::Named(NamedSet::Reals) => Some(RealSet::All),
        Expr::Tuple(Bracket::Round, items) if items.len() == 2 => interval(&items[0], &items[1], false, false),
        Expr::Tuple(Bracket::Square, items) if items.len() == 2 => interval(&items[0], &items[1], true, true),
        Expr::HalfOpen(ends, left, right) => interval(&ends[0], &ends[1], *left, *right),
        Expr::Set(items) => items.iter().all(is_point).then(|| RealSet::Points(items.clone())),
        Expr::SetOp(op, parts) => {
            let mut sets = Vec::new();
            for part in parts {
                match real_set(part, budget)? {
                    Some(set) => sets.push(set),
                    None => return Ok(None),
                }
            }
            Some(match op {
                SetOp::Union => RealSet::Union(sets),
                SetOp::Intersection => RealSet::Intersection(sets),
                SetOp::Minus => {
                    let removed = RealSet::Union(sets.split_off(1));
                    sets.push(RealSet::Complement(Box::new(removed)));
                    RealSet::Intersection(sets)
                }
            })
        }
        Expr::Rel(terms, operators) => relation(terms, operators, budget)?.map(|(set, _)| set),
        Expr::Logic(all, parts) => {
            let mut sets = Vec::new();
            let mut variable: Option<String> = None;
            for part in parts {
                let found = match part {
                    Expr::Rel(terms, operators) => relation(terms, operators, budget)?,
                    other => real_set(other, budget)?.map(|set| (set, String::new())),
                };
                let Some((set, name)) = found else { return Ok(None) };
                if !name.is_empty() && variable.get_or_insert_with(|| name.clone()) != &name {
                    return Ok(None);
                }
                sets.push(set);
            }
            Some(if *all { RealSet::Intersection(sets) } else { RealSet::Union(sets) })
        }
        Expr::SetBuilder(parts) => builder(&parts[0], &parts[1], budget)?,
        _ => None,
    })
}

/// `{x : condition}` and `{x in S : condition}`, where the condition is about x alone.
fn builder(element: &Expr, condition: &Expr, budget: &mut Budget) -> Result<Option<RealSet>, Exhausted> {
    let (name, of) = match element {
        Expr::Sym(name) => (name, None),
        Expr::Rel(terms, operators) => match (terms.as_slice(), operators.as_slice()) {
            ([Expr::Sym(name), of], [RelOp::In]) => (name, Some(of)),
            _ => return Ok(None),
        },
        _ => return Ok(None),
    };
    if !matches!(condition, Expr::Rel(..) | Expr::Logic(..))
        || identity::variables(condition).iter().any(|other| other != name)
    {
        return Ok(None);
    }
    let Some(kept) = real_set(condition, budget)? else { return Ok(None) };
    Ok(match of {
        None => Some(kept),
        Some(of) => real_set(of, budget)?.map(|of| RealSet::Intersection(vec![of, kept])),
    })
}

fn is_point(expr: &Expr) -> bool {
    let scalar = !matches!(
        expr,
        Expr::Tuple(..)
            | Expr::Set(_)
            | Expr::List(_)
            | Expr::Matrix(_)
            | Expr::Rel(..)
            | Expr::Text(_)
            | Expr::Prose(_)
            | Expr::HalfOpen(..)
            | Expr::Named(_)
            | Expr::SetOp(..)
            | Expr::PlusMinus(..)
            | Expr::Time(..)
            | Expr::Ratio(_)
            | Expr::Quantity(..)
            | Expr::Logic(..)
            | Expr::Cases(_)
    );
    scalar && identity::is_constant(expr)
}

/// The sign of an infinity.
fn infinity(expr: &Expr) -> Option<bool> {
    match expr {
        Expr::Const(Const::Infinity) => Some(true),
        Expr::Neg(inner) => infinity(inner).map(|positive| !positive),
        Expr::Add(terms) if terms.len() == 1 => infinity(&terms[0]),
        _ => None,
    }
}

/// True when an end is infinite: no point, then, but an interval.
pub fn has_infinity(expr: &Expr) -> bool {
    match expr {
        Expr::Tuple(_, items) => items.iter().any(|item| infinity(item).is_some()),
        Expr::HalfOpen(ends, ..) => ends.iter().any(|item| infinity(item).is_some()),
        _ => false,
    }
}

fn interval(low: &Expr, high: &Expr, left: bool, right: bool) -> Option<RealSet> {
    let low = match infinity(low) {
        Some(false) => None,
        Some(true) => return None,
        None if is_point(low) => Some(low.clone()),
        None => return None,
    };
    let high = match infinity(high) {
        Some(true) => None,
        Some(false) => return None,
        None if is_point(high) => Some(high.clone()),
        None => return None,
    };
    Some(RealSet::Interval(low, high, left, right))
}

/// The solutions of a chain of relations in one variable, and the variable's name.
fn relation(terms: &[Expr], operators: &[RelOp], budget: &mut Budget) -> Result<Option<(RealSet, String)>, Exhausted> {
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

/// The sign of a constant.
pub fn sign_of(expr: &Expr, budget: &mut Budget) -> Result<Option<Ordering>, Exhausted> {
    order(expr, &Expr::int(0), budget)
}

/// The order of two real constants.
pub fn order(a: &Expr, b: &Expr, budget: &mut Budget) -> Result<Option<Ordering>, Exhausted> {
    if let (Some(a), Some(b)) = (identity::rational(a), identity::rational(b)) {
        return Ok(Some(a.cmp(&b)));
    }
    if identity::compare(a, b, budget)?.is_same() {
        return Ok(Some(Ordering::Equal));
    }
    for precision in [128, 640, 2800] {
        let point = Point { values: &[], precision };
        let (left, right) = (eval(a, &point, budget), eval(b, &point, budget));
        if budget.is_exhausted() {
            return Err(Exhausted);
        }
        let (Ok(left), Ok(right)) = (left, right) else { return Ok(None) };
        if !left.im.contains_zero() || !right.im.contains_zero() {
            return Ok(None);
        }
        match left.re.sub(&right.re, precision).sign() {
            Some(1) => return Ok(Some(Ordering::Greater)),
            Some(-1) => return Ok(Some(Ordering::Less)),
            _ => {}
        }
    }
    Ok(None)
}

/// Are the two sets the same? None when their ends cannot be ordered.
pub fn same(a: &RealSet, b: &RealSet, budget: &mut Budget) -> Result<Option<bool>, Exhausted> {
    let mut points = Vec::new();
    for set in [a, b] {
        if !place(set, &mut points, budget)? {
            return Ok(None);
        }
    }
    let (Some(a), Some(b)) = (truth(a, &points, budget)?, truth(b, &points, budget)?) else { return Ok(None) };
    Ok(Some(a == b))
}

/// Adds the end points of a set to the ordered list.
fn place(set: &RealSet, points: &mut Vec<Expr>, budget: &mut Budget) -> Result<bool, Exhausted> {
    let ends: Vec<&Expr> = match set {
        RealSet::Empty | RealSet::All => Vec::new(),
        RealSet::Points(found) => found.iter().collect(),
        RealSet::Interval(low, high, ..) => low.iter().chain(high.iter()).collect(),
        RealSet::Union(parts) | RealSet::Intersection(parts) => {
            for part in parts {
                if !place(part, points, budget)? {
                    return Ok(false);
                }
            }
            Vec::new()
        }
        RealSet::Complement(inner) => return place(inner, points, budget),
    };
    for end in ends {
        let mut at = 0;
        loop {
            if at == points.len() {
                points.push(end.clone());
                break;
            }
            match order(end, &points[at], budget)? {
                None => return Ok(false),
                Some(Ordering::Equal) => break,
                Some(Ordering::Less) => {
                    points.insert(at, end.clone());
                    break;
                }
                Some(Ordering::Greater) => at += 1,
            }
        }
        if points.len() > POINT_LIMIT {
            return Ok(false);
        }
    }
    Ok(true)
}

/// One truth value per gap and point, in order: gap, point, gap, .. gap.
fn truth(set: &RealSet, points: &[Expr], budget: &mut Budget) -> Result<Option<Vec<bool>>, Exhausted> {
    let cells = 2 * points.len() + 1;
    budget.spend(cells as u64)?;
    let mut index = |end: &Expr| -> Result<Option<usize>, Exhausted> {
        for (at, point) in points.iter().enumerate() {
            if order(end, point, budget)? == Some(Ordering::Equal) {
                return Ok(Some(2 * at + 1));
            }
        }
        Ok(None)
    };
    Ok(match set {
        RealSet::Empty => Some(vec![false; cells]),
        RealSet::All => Some(vec![true; cells]),
        RealSet::Points(found) => {
            let mut values = vec![false; cells];
            for point in found {
                match index(point)? {
                    Some(at) => values[at] = true,
                    None => return Ok(None),
                }
            }
            Some(values)
        }
        RealSet::Interval(low, high, left, right) => {
            let low = match low {
                Some(low) => index(low)?,
                None => Some(usize::MAX),
            };
            let high = match high {
                Some(high) => index(high)?,
                None => Some(usize::MAX),
            };
            let (Some(low), Some(high)) = (low, high) else { return Ok(None) };
            if low != usize::MAX && high != usize::MAX && low > high {
                return Ok(None);
            }
            let start = if low == usize::MAX { 0 } else { low + usize::from(!left) };
            let stop = if high == usize::MAX { cells } else { high + usize::from(*right) };
            Some((0..cells).map(|cell| cell >= start && cell < stop).collect())
        }
        RealSet::Union(parts) | RealSet::Intersection(parts) => {
            let union = matches!(set, RealSet::Union(_));
            let mut values = vec![!union; cells];
            for part in parts {
                let Some(other) = truth(part, points, budget)? else { return Ok(None) };
                for (value, other) in values.iter_mut().zip(other) {
                    *value = if union { *value || other } else { *value && other };
                }
            }
            Some(values)
        }
        RealSet::Complement(inner) => {
            truth(inner, points, budget)?.map(|values| values.into_iter().map(|value| !value).collect())
        }
    })
}
