//! quantities: what stands around a number: signs, units, percents, degrees, bases, times, ratios, rounding.

use num_rational::BigRational;
use num_traits::{One, Signed};

use crate::compare::equal::{Answer, Comparison};
use crate::compare::identity;
use crate::compare::names;
use crate::compare::sets;
use crate::compare::shapes::{is_collection, is_scalar, radians};
use crate::compare::signs::{expanded, is_plus_minus};
use crate::number::budget::Exhausted;
use crate::options::{Percent, Scale};
use crate::read::ast::Expr;
use crate::read::units::Unit;

fn scaled(x: &Expr, factor: &BigRational) -> Expr {
    Expr::Mul(vec![x.clone(), Expr::num(factor.clone())])
}

impl Comparison<'_> {
    /// Signs, units, percents, degrees, bases, times: what stands around a number.
    pub(super) fn unwrapped(&mut self, a: &Expr, b: &Expr) -> Result<Option<bool>, Exhausted> {
        if is_plus_minus(a) || is_plus_minus(b) {
            let (first, second) = (expanded(a.clone()), expanded(b.clone()));
            if let (Some(first), Some(second)) = (first, second) {
                return self.same(&first, &second).map(Some);
            }
            return Ok(Some(false));
        }
        Ok(Some(match (a, b) {
            (Expr::Quantity(x, unit), Expr::Quantity(y, other)) => {
                self.how("unit");
                if unit.is_count() || other.is_count() {
                    return self.same(x, y).map(Some);
                }
                if unit.dimension != other.dimension {
                    return Ok(Some(false));
                }
                if unit.scale == other.scale {
                    return self.same(x, y).map(Some);
                }
                self.same(&scaled(x, &unit.scale), &scaled(y, &other.scale))?
            }
            // 5cm without a space, where the other side says that it is a length
            (Expr::Quantity(..), Expr::Mul(factors)) if glued_unit(factors).is_some() => {
                let glued = glued_unit(factors).expect("just seen");
                return self.same(a, &glued).map(Some);
            }
            (Expr::Mul(factors), Expr::Quantity(..)) if glued_unit(factors).is_some() => {
                let glued = glued_unit(factors).expect("just seen");
                return self.same(&glued, b).map(Some);
            }
            // a percentage is no length, and degrees are no money
            (Expr::Percent(_), Expr::Quantity(_, unit)) | (Expr::Quantity(_, unit), Expr::Percent(_))
                if !unit.is_count() =>
            {
                false
            }
            (Expr::Degree(x), Expr::Quantity(y, unit)) if !unit.is_count() => {
                in_angles(x, unit).map_or(Ok(false), |x| self.same(&x, y))?
            }
            (Expr::Quantity(x, unit), Expr::Degree(y)) if !unit.is_count() => {
                in_angles(y, unit).map_or(Ok(false), |y| self.same(x, &y))?
            }
            (Expr::Quantity(x, _), y) if self.options.units_optional && !y.is_text() => self.same(x, y)?,
            (x, Expr::Quantity(y, _)) if self.options.units_optional && !x.is_text() => self.same(x, y)?,
            (Expr::Scaled(x, factor), Expr::Scaled(y, other)) if factor == other => self.same(x, y)?,
            (Expr::Scaled(x, factor), y) if is_scalar(y) && !matches!(y, Expr::Scaled(..) | Expr::Percent(_)) => {
                (self.options.scale != Scale::Value && self.same(x, y)?) || self.same(&scaled(x, factor), y)?
            }
            (x, Expr::Scaled(y, factor)) if is_scalar(x) && !matches!(x, Expr::Scaled(..) | Expr::Percent(_)) => {
                (self.options.scale == Scale::Ignore && self.same(x, y)?) || self.same(x, &scaled(y, factor))?
            }
            (Expr::Percent(x), Expr::Percent(y)) => self.same(x, y)?,
            (Expr::Percent(x), y) if !is_collection(y) => {
                let (x, y) = (x.as_ref(), names::value(y));
                let hundredth = Expr::Div(Box::new(x.clone()), Box::new(Expr::int(100)));
                let bare = self.options.percent_as_number && !matches!(y, Expr::Scaled(..));
                (bare && self.same(x, y)?) || self.same(&hundredth, y)?
            }
            (x, Expr::Percent(y)) if !is_collection(x) => {
                let (x, sign_optional) = (names::value(x), self.options.percent == Percent::SignOptional);
                let hundredth = Expr::Div(y.clone(), Box::new(Expr::int(100)));
                (sign_optional && self.same(x, y)?) || self.same(x, &hundredth)?
            }
            (Expr::Degree(x), Expr::Degree(y)) => self.same(x, y)?,
            (Expr::Degree(x), y) if !is_collection(y) => {
                let y = names::value(y);
                (self.options.degrees_optional && self.same(x, y)?) || self.same(&radians(x), y)?
            }
            (x, Expr::Degree(y)) if !is_collection(x) => {
                let x = names::value(x);
                (self.options.degrees_optional && self.same(x, y)?) || self.same(x, &radians(y))?
            }
            (Expr::Based(x, _, base), Expr::Based(y, _, other)) => {
                self.how("base");
                base == other && x == y
            }
            (Expr::Based(_, digits, _), Expr::Num(value, None)) => {
                self.how("base");
                self.options.base_optional && value.is_integer() && value.numer().to_string() == *digits
            }
            (Expr::Time(h, m, half), Expr::Time(hour, minute, other)) => {
                self.how("time");
                let clock = h == hour
                    && m == minute
                    && (half == other || half.is_none() || (other.is_none() && self.options.units_optional));
                let clock = clock
                    || m == minute && in_24_hours(*h, *half).is_some_and(|h| in_24_hours(*hour, *other) == Some(h));
                let ratio = half.is_none() && other.is_none() && *m > 0 && *minute > 0 && h * minute == m * hour;
                clock || ratio
            }
            (Expr::Time(h, m, None), y) if matches!(y, Expr::Ratio(_)) || is_scalar(y) => {
                self.same(&Expr::Ratio(vec![Expr::int((*h).into()), Expr::int((*m).into())]), y)?
            }
            (x, Expr::Time(h, m, None)) if matches!(x, Expr::Ratio(_)) || is_scalar(x) => {
                self.same(x, &Expr::Ratio(vec![Expr::int((*h).into()), Expr::int((*m).into())]))?
            }
            (Expr::Ratio(x), Expr::Ratio(y)) => {
                self.how("ratio");
                self.ratios(x, y)?
            }
            (Expr::Ratio(x), y) if is_scalar(y) => self.ratio_value(x, |this, x| this.same(x, y))?,
            (x, Expr::Ratio(y)) if is_scalar(x) => self.ratio_value(y, |this, y| this.same(x, y))?,
            _ => return Ok(None),
        }))
    }

    fn ratio_value(&mut self, parts: &[Expr], compare: impl FnOnce(&mut Self, &Expr) -> Answer) -> Answer {
        match parts {
            [over, under] => compare(self, &Expr::Div(Box::new(over.clone()), Box::new(under.clone()))),
            _ => Ok(false),
        }
    }

    /// `a : b : c` and `d : e : f` are equal when all cross products are.
    fn ratios(&mut self, a: &[Expr], b: &[Expr]) -> Answer {
        if a.len() != b.len() {
            return Ok(false);
        }
        let zero = |part: &Expr| identity::rational(part).is_some_and(|value| num_traits::Zero::is_zero(&value));
        if a.iter().chain(b).any(zero) {
            return self.all(a, b);
        }
        for at in 1..a.len() {
            let left = Expr::Mul(vec![a[0].clone(), b[at].clone()]);
            let right = Expr::Mul(vec![a[at].clone(), b[0].clone()]);
            if !self.same(&left, &right)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// An exact value that does not end as a decimal, rounded to the digits of the reference.
    pub(super) fn rounded(&mut self, gold: &Expr, answer: &Expr) -> Answer {
        let Expr::Num(value, Some(places)) = gold else { return Ok(false) };
        let digits = significant_digits(value, *places);
        if !self.options.round_to_gold || *places == 0 || digits < 3 || !identity::is_constant(answer) {
            return Ok(false);
        }
        if let Some(exact) = identity::rational(answer) {
            let mut rest = exact.denom().clone();
            for prime in [2, 5] {
                while (&rest % prime) == num_bigint::BigInt::from(0) {
                    rest /= prime;
                }
            }
            if rest.is_one() {
                return Ok(false);
            }
        }
        self.rounds_to(answer, value, *places)
    }

    /// A decimal answer that is an exact reference, rounded at its own last digit.
    pub(super) fn rounds_gold(&mut self, gold: &Expr, answer: &Expr) -> Answer {
        let Expr::Num(value, Some(places @ 1..=400)) = answer else { return Ok(false) };
        let decimal = |node: &Expr| matches!(node, Expr::Num(_, Some(places)) if *places > 0);
        if !self.options.rounded_decimals
            || significant_digits(value, *places) < ROUNDED_DIGITS
            || !identity::is_constant(gold)
            || gold.any(&mut |node| decimal(node))
        {
            return Ok(false);
        }
        self.rounds_to(gold, value, *places)
    }

    /// Is a constant within half a unit of the last digit of a decimal?
    fn rounds_to(&mut self, exact: &Expr, decimal: &BigRational, places: u32) -> Answer {
        let half = BigRational::new(1.into(), num_bigint::BigInt::from(10).pow(places) * 2);
        let above = sets::order(exact, &Expr::num(decimal - &half), &mut self.budget)?;
        let below = sets::order(exact, &Expr::num(decimal + &half), &mut self.budget)?;
        let inside = above.is_some_and(|order| order.is_ge()) && below.is_some_and(|order| order.is_le());
        if inside {
            self.how("rounded");
        }
        Ok(inside)
    }
}

/// The hour from midnight, of a time that says which half of the day it is in: `3 PM` and `15:00`.
fn in_24_hours(hour: u32, half: Option<bool>) -> Option<u32> {
    match half {
        Some(afternoon) if (1..=12).contains(&hour) => Some(hour % 12 + if afternoon { 12 } else { 0 }),
        None if hour == 0 || (13..24).contains(&hour) => Some(hour),
        _ => None,
    }
}

/// Significant digits from which a decimal is the reference rounded and no guess near it.
const ROUNDED_DIGITS: usize = 6;

/// The digits of a decimal without the zeros in front of them.
fn significant_digits(value: &BigRational, places: u32) -> usize {
    (value.numer() * num_bigint::BigInt::from(10).pow(places.min(400)) / value.denom()).abs().to_string().len()
}

/// Degrees in a unit that measures angles: radians, turns; a temperature's degrees may be called just degrees.
fn in_angles(degrees: &Expr, unit: &Unit) -> Option<Expr> {
    let [(dimension, 1)] = unit.dimension.as_slice() else { return None };
    Some(match dimension.as_str() {
        "angle" => radians(degrees),
        "turn" => Expr::Div(Box::new(degrees.clone()), Box::new(Expr::int(360))),
        "celsius" | "fahrenheit" => degrees.clone(),
        _ => return None,
    })
}

/// `5 * c * m` as 5 cm: a numeral, and letters that spell a unit, perhaps to a power.
fn glued_unit(factors: &[Expr]) -> Option<Expr> {
    let [value @ Expr::Num(..), letters @ .., last] = factors else { return None };
    let (last, power) = match last {
        Expr::Pow(base, exponent) => (base.as_ref(), i32::try_from(exponent.as_int()?).ok()?),
        other => (other, 1),
    };
    let mut name = String::new();
    for letter in letters.iter().chain([last]) {
        match letter {
            Expr::Sym(letter) if letter.len() == 1 => name.push_str(letter),
            _ => return None,
        }
    }
    Some(Expr::Quantity(Box::new(value.clone()), Unit::named(&name)?.power(power)))
}
