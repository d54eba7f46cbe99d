//! poly: a canonical form for algebra. Polynomials over the rationals in atoms: variables, pi, e, i, roots of primes, and
//! any other subexpression as an atom of its own. Two quotients of them are equal when their cross difference is zero.

use std::collections::BTreeMap;

use num_bigint::BigInt;
use num_integer::Integer;
use num_rational::{BigRational, Ratio};
use num_traits::{One, Signed, ToPrimitive, Zero};

use crate::number::budget::{Budget, Exhausted};

/// Exponents of atoms; roots make them fractions.
pub type Exponent = Ratio<i64>;

/// An indivisible factor.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Atom {
    /// The imaginary unit, to the power 1 only.
    I,
    /// e.
    E,
    /// pi.
    Pi,
    /// A prime (or an unfactored integer) to a power between 0 and 1.
    Prime(BigInt),
    /// A variable.
    Sym(String),
    /// Anything else, by its canonical print.
    Other(String),
}

/// Atoms with their exponents, sorted; none is zero.
pub type Monomial = Vec<(Atom, Exponent)>;

/// A sum of monomials with rational coefficients; exponents may be negative.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Poly {
    /// No coefficient is zero.
    pub terms: BTreeMap<Monomial, BigRational>,
}

/// Why there is no canonical form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoForm {
    /// Division by zero, infinity, a set.
    Undefined,
    /// Too many terms or digits: use the value instead.
    TooLarge,
    /// No steps left.
    Exhausted,
}

impl From<Exhausted> for NoForm {
    fn from(_: Exhausted) -> NoForm {
        NoForm::Exhausted
    }
}

/// More terms than this are not multiplied out.
const TERM_LIMIT: usize = 600;

/// Numbers longer than this (bits) are not multiplied out.
pub const BIT_LIMIT: u64 = 40_000;

impl Poly {
    /// A constant.
    pub fn constant(value: BigRational) -> Poly {
        let mut terms = BTreeMap::new();
        if !value.is_zero() {
            terms.insert(Monomial::new(), value);
        }
        Poly { terms }
    }

    /// One atom.
    pub fn atom(atom: Atom) -> Poly {
        Poly { terms: BTreeMap::from([(vec![(atom, Exponent::one())], BigRational::one())]) }
    }

    /// True for zero.
    pub fn is_zero(&self) -> bool {
        self.terms.is_empty()
    }

    /// The rational number this is.
    pub fn as_rational(&self) -> Option<BigRational> {
        match self.terms.len() {
            0 => Some(BigRational::zero()),
            1 => self.terms.get(&Monomial::new()).cloned(),
            _ => None,
        }
    }

    fn insert(&mut self, monomial: Monomial, value: BigRational) {
        match self.terms.entry(monomial) {
            std::collections::btree_map::Entry::Vacant(slot) => {
                if !value.is_zero() {
                    slot.insert(value);
                }
            }
            std::collections::btree_map::Entry::Occupied(mut slot) => {
                *slot.get_mut() += value;
                if slot.get().is_zero() {
                    slot.remove();
                }
            }
        }
    }

    /// The sum.
    pub fn plus(mut self, other: &Poly) -> Poly {
        for (monomial, value) in &other.terms {
            self.insert(monomial.clone(), value.clone());
        }
        self
    }

    /// The negative.
    pub fn negative(mut self) -> Poly {
        self.terms.values_mut().for_each(|value| *value = -value.clone());
        self
    }

    /// The product.
    pub fn times(&self, other: &Poly, budget: &mut Budget) -> Result<Poly, NoForm> {
        let count = self.terms.len() * other.terms.len();
        budget.spend(1 + count as u64 / 2)?;
        if count > TERM_LIMIT * TERM_LIMIT / 16 {
            return Err(NoForm::TooLarge);
        }
        let mut product = Poly::default();
        for (left, left_value) in &self.terms {
            for (right, right_value) in &other.terms {
                if left_value.numer().bits() + right_value.numer().bits() > BIT_LIMIT
                    || left_value.denom().bits() + right_value.denom().bits() > BIT_LIMIT
                {
                    return Err(NoForm::TooLarge);
                }
                budget.spend(product_steps(left_value, right_value))?;
                let (monomial, factor) = multiply(left, right)?;
                product.insert(monomial, multiplied(&multiplied(left_value, right_value), &factor));
            }
            if product.terms.len() > TERM_LIMIT {
                return Err(NoForm::TooLarge);
            }
        }
        Ok(product)
    }

    /// A power with a natural exponent.
    pub fn power(&self, exponent: u32, budget: &mut Budget) -> Result<Poly, NoForm> {
        let mut result = Poly::constant(BigRational::one());
        let mut base = self.clone();
        let mut left = exponent;
        while left > 0 {
            if left & 1 == 1 {
                result = result.times(&base, budget)?;
            }
            left >>= 1;
            if left > 0 {
                base = base.times(&base, budget)?;
            }
        }
        Ok(result)
    }

    /// `1 / self`, when it has one term.
    pub fn inverse_term(&self) -> Option<Poly> {
        if self.terms.len() != 1 {
            return None;
        }
        let (monomial, value) = self.terms.first_key_value()?;
        let mut factor = value.recip();
        let mut inverse = Monomial::new();
        for (atom, exponent) in monomial {
            match atom {
                // 1/i = -i; 1/p^a = p^(1-a)/p
                Atom::I => {
                    factor = -factor;
                    inverse.push((Atom::I, Exponent::one()));
                }
                Atom::Prime(prime) => {
                    factor /= prime;
                    inverse.push((atom.clone(), Exponent::one() - exponent));
                }
                _ => inverse.push((atom.clone(), -exponent)),
            }
        }
        Some(Poly { terms: BTreeMap::from([(inverse, factor)]) })
    }

    /// True when a form that is not zero proves that the number or function is not zero: its atoms are independent.
    pub fn is_decisive(&self, uncertain: bool) -> bool {
        let mut pi = false;
        let mut e = false;
        for monomial in self.terms.keys() {
            for (atom, _) in monomial {
                match atom {
                    Atom::Other(_) => return false,
                    Atom::Pi => pi = true,
                    Atom::E => e = true,
                    _ => {}
                }
            }
        }
        !(uncertain || pi && e)
    }

    /// The coefficients of the powers of one atom, lowest first; none when a power is negative, broken or above `limit`.
    pub fn coefficients(&self, wanted: &Atom, limit: usize) -> Option<Vec<Poly>> {
        let mut found = vec![Poly::default(); limit + 1];
        for (monomial, value) in &self.terms {
            let power = monomial.iter().find(|(atom, _)| atom == wanted).map_or(Exponent::zero(), |(_, power)| *power);
            if !power.is_integer() || power.is_negative() || *power.numer() as usize > limit {
                return None;
            }
            let rest: Monomial = monomial.iter().filter(|(atom, _)| atom != wanted).cloned().collect();
            found[*power.numer() as usize].insert(rest, value.clone());
        }
        Some(found)
    }
}

/// The product, without the greatest common divisors that a library product looks for in vain: with a long number beside a 1
/// they take as long as all the rest.
pub fn multiplied(a: &BigRational, b: &BigRational) -> BigRational {
    let over = common(a.numer(), b.denom());
    let under = common(b.numer(), a.denom());
    let divided = |value: &BigInt, by: &BigInt| if by.is_one() { value.clone() } else { value / by };
    let numer = divided(a.numer(), &over) * divided(b.numer(), &under);
    let denom = divided(a.denom(), &under) * divided(b.denom(), &over);
    BigRational::new_raw(numer, denom)
}

fn common(a: &BigInt, b: &BigInt) -> BigInt {
    let unit = |value: &BigInt| value.magnitude().is_one();
    if unit(a) || unit(b) { BigInt::one() } else { a.gcd(b) }
}

/// Steps of a product: the greatest common divisors of long fractions cost about a product each.
pub fn product_steps(a: &BigRational, b: &BigRational) -> u64 {
    if a.is_integer() && b.is_integer() {
        return 0;
    }
    let words = |value: &BigRational| 1 + (value.numer().bits() + value.denom().bits()) / 64;
    words(a) * words(b) / 4
}

/// The product of two monomials and the rational factor that falls out.
fn multiply(left: &Monomial, right: &Monomial) -> Result<(Monomial, BigRational), NoForm> {
    if left.is_empty() {
        return Ok((right.clone(), BigRational::one()));
    }
    if right.is_empty() {
        return Ok((left.clone(), BigRational::one()));
    }
    let mut product = Monomial::with_capacity(left.len() + right.len());
    let mut factor = BigRational::one();
    let (mut i, mut j) = (0, 0);
    while i < left.len() || j < right.len() {
        let take_left = j == right.len() || (i < left.len() && left[i].0 <= right[j].0);
        let take_right = i == left.len() || (j < right.len() && right[j].0 <= left[i].0);
        let (atom, exponent) = match (take_left, take_right) {
            (true, true) => {
                let sum = num_traits::CheckedAdd::checked_add(&left[i].1, &right[j].1).ok_or(NoForm::TooLarge)?;
                i += 1;
                j += 1;
                (&left[i - 1].0, sum)
            }
            (true, false) => {
                i += 1;
                (&left[i - 1].0, left[i - 1].1)
            }
            _ => {
                j += 1;
                (&right[j - 1].0, right[j - 1].1)
            }
        };
        let exponent = reduce(atom, exponent, &mut factor)?;
        if !exponent.is_zero() {
            product.push((atom.clone(), exponent));
        }
    }
    Ok((product, factor))
}

/// Moves whole powers of primes and of i into the factor.
pub fn reduce(atom: &Atom, exponent: Exponent, factor: &mut BigRational) -> Result<Exponent, NoForm> {
    if exponent.numer().unsigned_abs() > 1 << 30 || *exponent.denom() > 1 << 20 {
        return Err(NoForm::TooLarge);
    }
    match atom {
        Atom::Prime(prime) => {
            let whole = exponent.floor();
            if !whole.is_zero() {
                let power = whole.numer().unsigned_abs();
                if power * prime.bits() > BIT_LIMIT {
                    return Err(NoForm::TooLarge);
                }
                let value = BigRational::from_integer(prime.pow(power as u32));
                let value = if whole.is_negative() { value.recip() } else { value };
                *factor = multiplied(factor, &value);
            }
            Ok(exponent - whole)
        }
        Atom::I => {
            let turn = exponent.numer().rem_euclid(4);
            if turn >= 2 {
                *factor = -factor.clone();
            }
            Ok(Exponent::from_integer(turn % 2))
        }
        _ => Ok(exponent),
    }
}

/// Steps of [`factors`]: each word of the number is divided by a thousand small primes at worst, a few dozen to the step.
pub fn factoring_steps(value: &BigRational) -> u64 {
    let words = (value.numer().bits() + value.denom().bits()) / 64;
    words * 16
}

/// The primes of a rational number's absolute value with their exponents. What trial division leaves is taken as prime, and
/// then `uncertain` is set unless it surely is.
pub fn factors(value: &BigRational, uncertain: &mut bool) -> Option<Vec<(BigInt, i64)>> {
    let mut found = Vec::new();
    for (part, sign) in [(value.numer(), 1), (value.denom(), -1)] {
        let mut rest = part.abs();
        if rest.bits() > 4096 {
            return None;
        }
        let mut divisor = 2u32;
        while divisor < 2000 && !rest.is_one() {
            let mut count = 0;
            loop {
                let (quotient, remainder) = rest.div_rem(&BigInt::from(divisor));
                if !remainder.is_zero() {
                    break;
                }
                rest = quotient;
                count += sign;
            }
            if count != 0 {
                found.push((BigInt::from(divisor), count));
            }
            if rest.to_u64().is_some_and(|rest| rest < u64::from(divisor) * u64::from(divisor)) {
                break;
            }
            divisor += if divisor == 2 { 1 } else { 2 };
        }
        if !rest.is_one() {
            let root = rest.sqrt();
            if &root * &root == rest {
                found.push((root, 2 * sign));
            } else {
                *uncertain |= rest.bits() > 21;
                found.push((rest, sign));
            }
        }
    }
    Some(found)
}
