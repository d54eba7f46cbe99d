//! relations: equations up to side and scale, inequalities up to direction, names and their values.

use crate::compare::equal::Comparison;
use crate::compare::fraction::Fraction;
use crate::compare::identity;
use crate::compare::names::{assignment, is_name};
use crate::compare::poly::{NoForm, Poly};
use crate::number::budget::{Budget, Exhausted};
use crate::number::complex::Complex;
use crate::number::eval::{Point, eval};
use crate::read::ast::{Expr, RelOp};

/// Compares two relations; the first is the reference's.
pub fn same(comparison: &mut Comparison, a: &Expr, b: &Expr) -> Result<bool, Exhausted> {
    let (Expr::Rel(x, operators), Expr::Rel(y, others)) = (a, b) else { return Ok(false) };
    if let ([left, right], [other_left, other_right], [operator], [other]) =
        (x.as_slice(), y.as_slice(), operators.as_slice(), others.as_slice())
        && let Some(answer) = pair(comparison, (left, *operator, right), (other_left, *other, other_right))?
    {
        return Ok(answer);
    }
    if let (Some((_, value)), Some((_, other))) = (assignment(a), assignment(b)) {
        return comparison.same(value, other);
    }
    chains(comparison, (x, operators), (y, others))
}

type Side<'a> = (&'a Expr, RelOp, &'a Expr);

/// Two relations with one operator each; none when neither way of comparing applies.
fn pair(comparison: &mut Comparison, a: Side, b: Side) -> Result<Option<bool>, Exhausted> {
    let equations = a.1 == RelOp::Eq && b.1 == RelOp::Eq;
    let orders = a.1.is_order() && b.1.is_order();
    if equations {
        // both sides equal, in either order, whatever they are
        for (left, right) in [(b.0, b.2), (b.2, b.0)] {
            if comparison.same(a.0, left)? && comparison.same(a.2, right)? {
                return Ok(Some(true));
            }
        }
        // a name with a value that is no equation between variables
        if is_name(a.0) && is_name(b.0) && identity::is_constant(a.2) && identity::is_constant(b.2) {
            return comparison.same(a.2, b.2).map(Some);
        }
    }
    if !(equations || orders) {
        return Ok(None);
    }
    let strict = |operator: RelOp| matches!(operator, RelOp::Lt | RelOp::Gt);
    if orders && strict(a.1) != strict(b.1) {
        return Ok(Some(false));
    }
    let same_direction = !orders || (matches!(a.1, RelOp::Lt | RelOp::Le) == matches!(b.1, RelOp::Lt | RelOp::Le));
    match proportional(comparison, (a.0, a.2), (b.0, b.2))? {
        Some(Scale::Positive) => Ok(Some(same_direction)),
        Some(Scale::Negative) => Ok(Some(!orders || !same_direction)),
        Some(Scale::Complex) => Ok(Some(!orders)),
        Some(Scale::None) => {
            // different functions of the same argument: f(x) = x + 1 against g(x) = x + 1
            if equations
                && is_name(a.0)
                && is_name(b.0)
                && a.0 != b.0
                && !shares_variables(a.0, b.2)
                && !shares_variables(b.0, a.2)
            {
                return Ok(None);
            }
            Ok(Some(false))
        }
        None => Ok(None),
    }
}

fn shares_variables(a: &Expr, b: &Expr) -> bool {
    let names = identity::variables(b);
    identity::variables(a).iter().any(|name| names.contains(name))
}

/// The constant that takes one difference of sides to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scale {
    Positive,
    Negative,
    Complex,
    None,
}

/// Is `a.0 - a.1` a constant multiple of `b.0 - b.1`? None when it cannot be told.
fn proportional(comparison: &mut Comparison, a: (&Expr, &Expr), b: (&Expr, &Expr)) -> Result<Option<Scale>, Exhausted> {
    let minus = |sides: (&Expr, &Expr)| Expr::Add(vec![sides.0.clone(), Expr::Neg(Box::new(sides.1.clone()))]);
    let (f, g) = (minus(a), minus(b));
    let scalar = |expr: &Expr| {
        !expr.any(&mut |node| {
            matches!(
                node,
                Expr::Tuple(..) | Expr::Set(_) | Expr::List(_) | Expr::Matrix(_) | Expr::Text(_) | Expr::Prose(_)
            )
        })
    };
    if !scalar(&f) || !scalar(&g) {
        return Ok(None);
    }
    let mut canon = comparison.canon();
    let forms = canon.form(&f).and_then(|f| Ok((f, canon.form(&g)?)));
    match forms {
        Err(NoForm::Exhausted) => return Err(Exhausted),
        Ok((f, g)) => {
            if let Some(scale) = ratio_of(&f, &g) {
                return Ok(Some(scale));
            }
        }
        _ => {}
    }
    sampled(&f, &g, &mut comparison.budget)
}

/// The ratio of two polynomials, when it is a rational number or certainly none.
fn ratio_of(f: &Fraction, g: &Fraction) -> Option<Scale> {
    let one = |poly: &Poly| poly.as_rational();
    let (under_f, under_g) = (one(&f.under)?, one(&g.under)?);
    if f.over.is_zero() || g.over.is_zero() {
        return Some(if f.over.is_zero() && g.over.is_zero() { Scale::Positive } else { Scale::None });
    }
    let (first, value) = f.over.terms.first_key_value()?;
    let other = g.over.terms.get(first);
    if let Some(other) = other {
        let scale = value / other;
        let proportional = f.over.terms.len() == g.over.terms.len()
            && f.over
                .terms
                .iter()
                .all(|(monomial, value)| g.over.terms.get(monomial).is_some_and(|other| other * &scale == *value));
        if proportional {
            let positive = num_traits::Signed::is_positive(&(scale * under_g / under_f));
            return Some(if positive { Scale::Positive } else { Scale::Negative });
        }
    }
    // polynomials in variables alone are proportional only like this
    let plain = |poly: &Poly| {
        poly.terms.keys().flatten().all(|(atom, power)| {
            matches!(atom, crate::compare::poly::Atom::Sym(_))
                && power.is_integer()
                && num_traits::Signed::is_positive(power)
        })
    };
    (plain(&f.over) && plain(&g.over)).then_some(Scale::None)
}

/// Ratios at points where both are defined.
fn sampled(f: &Expr, g: &Expr, budget: &mut Budget) -> Result<Option<Scale>, Exhausted> {
    let (names, other) = (identity::variables(f), identity::variables(g));
    if names != other || names.is_empty() {
        return Ok(if names.is_empty() || other.is_empty() { None } else { Some(Scale::None) });
    }
    let precision = 256;
    let mut state = 0xD1B5_4A32_D192_ED03u64;
    let mut ratio: Option<Complex> = None;
    let mut found = 0;
    for _ in 0..12 {
        let mut values = Vec::new();
        for name in &names {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let value = num_rational::BigRational::new(((state >> 35) % 5000 + 300).into(), 1009.into());
            values.push((name.clone(), value));
        }
        let point = Point { values: &values, precision };
        let (left, right) = (eval(f, &point, budget), eval(g, &point, budget));
        if budget.is_exhausted() {
            return Err(Exhausted);
        }
        let (Ok(left), Ok(right)) = (left, right) else { continue };
        let Ok(quotient) = left.div(&right, precision) else { continue };
        if left.contains_zero() {
            continue;
        }
        match &ratio {
            None => ratio = Some(quotient),
            Some(first) => {
                if !first.sub(&quotient, precision).contains_zero() {
                    return Ok(Some(Scale::None));
                }
                found += 1;
            }
        }
        if found >= 3 {
            break;
        }
    }
    let Some(ratio) = ratio.filter(|_| found >= 2) else { return Ok(None) };
    Ok(Some(match (ratio.im.contains_zero(), ratio.re.sign()) {
        (true, Some(1)) => Scale::Positive,
        (true, Some(-1)) => Scale::Negative,
        _ => Scale::Complex,
    }))
}

/// Chains term by term, forwards or backwards.
fn chains(comparison: &mut Comparison, a: (&[Expr], &[RelOp]), b: (&[Expr], &[RelOp])) -> Result<bool, Exhausted> {
    if a.0.len() != b.0.len() {
        return Ok(false);
    }
    let forwards = a.1 == b.1;
    let reversed: Vec<RelOp> = b.1.iter().rev().map(|operator| operator.flipped()).collect();
    let backwards = a.1 == reversed.as_slice();
    for (allowed, back) in [(forwards, false), (backwards, true)] {
        if !allowed {
            continue;
        }
        let mut equal = true;
        for (at, x) in a.0.iter().enumerate() {
            let y = if back { &b.0[b.0.len() - 1 - at] } else { &b.0[at] };
            if !comparison.same(x, y)? {
                equal = false;
                break;
            }
        }
        if equal {
            return Ok(true);
        }
    }
    Ok(false)
}
