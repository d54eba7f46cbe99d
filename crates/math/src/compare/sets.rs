//! sets: sets of real numbers as truth values over the points that matter and the gaps between them.
//!
//! All end points of both sides are put in order; then a set is one truth value per point and per gap, and every operation
//! and comparison is a walk over them.

mod solve;

use std::cmp::Ordering;

use self::solve::relation;
use crate::compare::identity;
use crate::number::budget::{Budget, Exhausted};
use crate::number::eval::{Point, eval};
use crate::read::ast::{Bracket, Const, Expr, NamedSet, RelOp, SetOp};

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
