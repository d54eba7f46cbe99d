//! fraction: quotients of polynomials, the canonical form of a number or function.

use std::collections::BTreeMap;

use num_integer::Integer;
use num_rational::BigRational;
use num_traits::{CheckedAdd, CheckedMul, One, Signed, Zero};

use crate::compare::poly::{
    Atom, BIT_LIMIT, Exponent, Monomial, NoForm, Poly, factoring_steps, factors, multiplied, product_steps, reduce,
};
use crate::number::budget::{Budget, Exhausted};

/// A quotient; the denominator is never the zero polynomial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fraction {
    /// Numerator.
    pub over: Poly,
    /// Denominator.
    pub under: Poly,
}

impl Fraction {
    /// A polynomial.
    pub fn whole(over: Poly) -> Fraction {
        Fraction { over, under: Poly::constant(BigRational::one()) }
    }

    /// A rational number.
    pub fn number(value: BigRational) -> Fraction {
        Fraction::whole(Poly::constant(value))
    }

    /// The rational number this is.
    pub fn as_rational(&self) -> Option<BigRational> {
        let under = self.under.as_rational()?;
        let over = self.over.as_rational()?;
        Some(if under.is_one() { over } else { over / under })
    }

    /// The sum.
    pub fn plus(&self, other: &Fraction, budget: &mut Budget) -> Result<Fraction, NoForm> {
        if self.under == other.under {
            return Ok(Fraction { over: self.over.clone().plus(&other.over), under: self.under.clone() });
        }
        let over = self.over.times(&other.under, budget)?.plus(&other.over.times(&self.under, budget)?);
        Ok(Fraction { over, under: self.under.times(&other.under, budget)? })
    }

    /// The negative.
    pub fn negative(self) -> Fraction {
        Fraction { over: self.over.negative(), under: self.under }
    }

    /// The product.
    pub fn times(&self, other: &Fraction, budget: &mut Budget) -> Result<Fraction, NoForm> {
        Ok(Fraction { over: self.over.times(&other.over, budget)?, under: self.under.times(&other.under, budget)? })
    }

    /// The reciprocal.
    pub fn inverse(self) -> Result<Fraction, NoForm> {
        if self.over.is_zero() {
            return Err(NoForm::Undefined);
        }
        match self.over.inverse_term() {
            Some(inverse) => {
                let mut budget = Budget::new(100_000);
                Ok(Fraction::whole(self.under.times(&inverse, &mut budget)?))
            }
            None => Ok(Fraction { over: self.under, under: self.over }),
        }
    }

    /// An integer power.
    pub fn power(&self, exponent: i64, budget: &mut Budget) -> Result<Fraction, NoForm> {
        let size = u32::try_from(exponent.unsigned_abs()).map_err(|_| NoForm::TooLarge)?;
        let single = self.over.terms.len() <= 1 && self.under.terms.len() <= 1;
        if size > if single { 1 << 20 } else { 40 } {
            return Err(NoForm::TooLarge);
        }
        let bits = self
            .over
            .terms
            .values()
            .chain(self.under.terms.values())
            .map(|value| value.numer().bits().max(value.denom().bits()))
            .max()
            .unwrap_or(0);
        if bits > 1 && bits * u64::from(size) > BIT_LIMIT {
            return Err(NoForm::TooLarge);
        }
        let base = if exponent < 0 { self.clone().inverse()? } else { self.clone() };
        Ok(Fraction { over: base.over.power(size, budget)?, under: base.under.power(size, budget)? })
    }

    /// A broken power of a quotient with one term; none when the form cannot express it.
    pub fn root(
        &self,
        exponent: Exponent,
        uncertain: &mut bool,
        budget: &mut Budget,
    ) -> Result<Option<Fraction>, Exhausted> {
        if self.under.as_rational() != Some(BigRational::one()) {
            return Ok(None);
        }
        if self.over.is_zero() {
            return Ok(exponent.is_positive().then(|| self.clone()));
        }
        let mut terms = self.over.terms.iter();
        let (Some((monomial, value)), None) = (terms.next(), terms.next()) else { return Ok(None) };
        if *exponent.denom() > 1000 {
            return Ok(None);
        }
        budget.spend(factoring_steps(value))?;
        let Some((reduced, factors)) = root_of_term(monomial, value, exponent, uncertain) else { return Ok(None) };
        let mut product = BigRational::one();
        for factor in factors {
            budget.spend(product_steps(&product, &factor))?;
            product = multiplied(&product, &factor);
        }
        Ok(Some(Fraction::whole(Poly { terms: BTreeMap::from([(reduced, product)]) })))
    }
}

/// A broken power of a term: the monomial, and the rational factors that fall out, not yet multiplied.
fn root_of_term(
    monomial: &Monomial,
    value: &BigRational,
    exponent: Exponent,
    uncertain: &mut bool,
) -> Option<(Monomial, Vec<BigRational>)> {
    let mut fallen = Vec::new();
    let mut result: BTreeMap<Atom, Exponent> = BTreeMap::new();
    for (atom, power) in monomial {
        let allowed = match atom {
            Atom::Pi | Atom::E | Atom::Prime(_) => true,
            Atom::Sym(_) => power.numer().is_odd() || exponent.denom().is_odd(),
            _ => false,
        };
        if !allowed {
            return None;
        }
        result.insert(atom.clone(), power.checked_mul(&exponent)?);
    }
    if value.is_negative() {
        if *exponent.denom() == 2 {
            // the square root of a negative: i to the odd numerator
            let turn = exponent.numer().rem_euclid(4);
            result.insert(Atom::I, Exponent::from_integer(turn));
        } else if exponent.denom().is_odd() {
            if exponent.numer().is_odd() {
                fallen.push(-BigRational::one());
            }
        } else {
            return None;
        }
    }
    for (prime, power) in factors(value, uncertain)? {
        let sum = result.entry(Atom::Prime(prime)).or_insert_with(Exponent::zero);
        *sum = sum.checked_add(&exponent.checked_mul(&Exponent::from_integer(power))?)?;
    }
    let mut reduced = Monomial::new();
    for (atom, power) in result {
        let mut factor = BigRational::one();
        let power = reduce(&atom, power, &mut factor).ok()?;
        if !power.is_zero() {
            reduced.push((atom, power));
        }
        fallen.push(factor);
    }
    Some((reduced, fallen))
}
