//! ball: real numbers as a midpoint of any precision and a radius that bounds the error.
//!
//! Every operation rounds the midpoint to the wanted precision and adds what it lost to the radius, so a ball that does not
//! contain zero proves that the number is not zero. Exponents are 64 bits wide: neither 2^-100000 nor 2^100000 is zero or
//! infinite here. Integers only: the same bits on every machine.

use num_bigint::{BigInt, Sign};
use num_rational::BigRational;
use num_traits::{One, Signed, Zero};

/// Why a number could not be computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumError {
    /// Not defined here: a pole, the logarithm of zero, an unknown function.
    Undefined,
    /// The precision does not tell on which side of a boundary the number lies.
    Imprecise,
    /// Outside the range of exponents that is supported.
    Range,
    /// The step budget is used up.
    Budget,
}

/// An upper bound of a magnitude: `mantissa * 2^exponent`, the mantissa below 2^32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mag {
    mantissa: u64,
    exponent: i64,
}

impl Mag {
    /// No error at all.
    pub const ZERO: Mag = Mag { mantissa: 0, exponent: 0 };

    /// `2^exponent`.
    pub fn power_of_two(exponent: i64) -> Mag {
        Mag { mantissa: 1, exponent }
    }

    /// True when the bound is zero.
    pub fn is_zero(self) -> bool {
        self.mantissa == 0
    }

    fn rounded_up(mantissa: u128, exponent: i64) -> Mag {
        let bits = 128 - i64::from(mantissa.leading_zeros());
        if bits <= 32 {
            return Mag { mantissa: mantissa as u64, exponent };
        }
        let shift = bits - 32;
        Mag { mantissa: (mantissa >> shift) as u64 + 1, exponent: exponent + shift }
    }

    /// An upper bound of the sum.
    pub fn plus(self, other: Mag) -> Mag {
        if self.mantissa == 0 {
            return other;
        }
        if other.mantissa == 0 {
            return self;
        }
        let (big, small) = if self.exponent >= other.exponent { (self, other) } else { (other, self) };
        let gap = big.exponent - small.exponent;
        if gap < 64 {
            return Mag::rounded_up((u128::from(big.mantissa) << gap) + u128::from(small.mantissa), small.exponent);
        }
        Mag::rounded_up((u128::from(big.mantissa) << 31) + 1, big.exponent - 31)
    }

    /// An upper bound of the product.
    pub fn times(self, other: Mag) -> Mag {
        Mag::rounded_up(u128::from(self.mantissa) * u128::from(other.mantissa), self.exponent + other.exponent)
    }

    /// An upper bound of `self / lower`, where `lower` is a lower bound that is not zero.
    pub fn over(self, lower: Mag) -> Mag {
        if self.mantissa == 0 {
            return Mag::ZERO;
        }
        let quotient = (u128::from(self.mantissa) << 64) / u128::from(lower.mantissa.max(1)) + 1;
        Mag::rounded_up(quotient, self.exponent - lower.exponent - 64)
    }

    /// An upper bound of the square root.
    pub fn root(self) -> Mag {
        let odd = self.exponent.rem_euclid(2);
        let wide = u128::from(self.mantissa) << (32 + odd);
        Mag::rounded_up(u128::from((wide as f64).sqrt() as u64) + 2, (self.exponent - odd - 32) / 2)
    }

    /// The exponent of the smallest power of two that is at least this bound; `i64::MIN` for zero.
    pub fn log2_up(self) -> i64 {
        if self.mantissa == 0 { i64::MIN } else { self.exponent + 64 - i64::from(self.mantissa.leading_zeros()) }
    }
}

/// A real number: `|number - mantissa * 2^exponent| <= radius`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ball {
    mantissa: BigInt,
    exponent: i64,
    radius: Mag,
}

/// Exponents beyond this are refused, so that sums of exponents cannot overflow.
const EXPONENT_LIMIT: i64 = 1 << 48;

impl Ball {
    /// Exactly zero.
    pub fn zero() -> Ball {
        Ball { mantissa: BigInt::zero(), exponent: 0, radius: Mag::ZERO }
    }

    /// Exactly `value`.
    pub fn integer(value: i64) -> Ball {
        Ball { mantissa: BigInt::from(value), exponent: 0, radius: Mag::ZERO }
    }

    /// `mantissa * 2^exponent` with an error of at most `radius`, rounded to `precision` bits.
    pub fn new(mantissa: BigInt, exponent: i64, radius: Mag, precision: u64) -> Ball {
        let mut ball = Ball { mantissa, exponent, radius };
        ball.round(precision);
        ball
    }

    /// The rational number nearest to `precision` bits.
    pub fn rational(value: &BigRational, precision: u64) -> Ball {
        let over = Ball::new(value.numer().clone(), 0, Mag::ZERO, precision + 8);
        if value.denom().is_one() {
            return Ball::new(value.numer().clone(), 0, Mag::ZERO, precision);
        }
        let under = Ball::new(value.denom().clone(), 0, Mag::ZERO, precision + 8);
        over.div(&under, precision).expect("a rational's denominator is not zero")
    }

    fn round(&mut self, precision: u64) {
        let bits = self.mantissa.bits();
        if bits > precision {
            let shift = bits - precision;
            self.mantissa >>= shift;
            self.exponent += shift as i64;
            self.radius = self.radius.plus(Mag::power_of_two(self.exponent));
        }
    }

    /// The midpoint's parts: mantissa and exponent.
    pub fn midpoint(&self) -> (&BigInt, i64) {
        (&self.mantissa, self.exponent)
    }

    /// The error bound.
    pub fn radius(&self) -> Mag {
        self.radius
    }

    /// The same midpoint with `extra` added to the error bound.
    pub fn widened(mut self, extra: Mag) -> Ball {
        self.radius = self.radius.plus(extra);
        self
    }

    /// True when the number is known to be exactly zero.
    pub fn is_exact_zero(&self) -> bool {
        self.mantissa.is_zero() && self.radius.is_zero()
    }

    /// 1 or -1 when the sign is certain, 0 for an exact zero, none when the ball straddles zero.
    pub fn sign(&self) -> Option<i32> {
        if self.is_exact_zero() {
            return Some(0);
        }
        let lowest = self.lower()?;
        debug_assert!(!lowest.is_zero());
        Some(if self.mantissa.is_negative() { -1 } else { 1 })
    }

    /// True when zero is inside the ball.
    pub fn contains_zero(&self) -> bool {
        self.lower().is_none()
    }

    /// An upper bound of the absolute value.
    pub fn upper(&self) -> Mag {
        self.midpoint_mag(true).plus(self.radius)
    }

    fn midpoint_mag(&self, up: bool) -> Mag {
        let bits = self.mantissa.bits() as i64;
        if bits <= 32 {
            let mantissa = self.mantissa.magnitude().iter_u64_digits().next().unwrap_or(0);
            return Mag { mantissa, exponent: self.exponent };
        }
        let shift = bits - 32;
        let top = (self.mantissa.magnitude() >> shift as u64).iter_u64_digits().next().unwrap_or(0);
        Mag { mantissa: top + u64::from(up), exponent: self.exponent + shift }
    }

    /// A lower bound of the absolute value, not zero; none when zero is inside the ball.
    pub fn lower(&self) -> Option<Mag> {
        if self.mantissa.is_zero() {
            return None;
        }
        let middle = self.midpoint_mag(false);
        if self.radius.is_zero() {
            return Some(middle);
        }
        if self.radius.log2_up() > middle.log2_up() {
            return None;
        }
        let gap = middle.exponent - self.radius.exponent;
        let scaled = if gap >= 0 {
            if gap > 64 { 1 } else { (u128::from(self.radius.mantissa) >> gap) + 1 }
        } else if -gap > 64 {
            return None;
        } else {
            u128::from(self.radius.mantissa) << -gap
        };
        let rest = u128::from(middle.mantissa).checked_sub(scaled)?;
        if rest == 0 { None } else { Some(Mag { mantissa: rest as u64, exponent: middle.exponent }) }
    }

    /// The power of two above the absolute value of the midpoint.
    pub fn magnitude_bits(&self) -> i64 {
        if self.mantissa.is_zero() { i64::MIN / 2 } else { self.mantissa.bits() as i64 + self.exponent }
    }

    /// The negative.
    pub fn neg(&self) -> Ball {
        Ball { mantissa: -&self.mantissa, exponent: self.exponent, radius: self.radius }
    }

    /// The sum.
    pub fn add(&self, other: &Ball, precision: u64) -> Ball {
        let radius = self.radius.plus(other.radius);
        if self.mantissa.is_zero() {
            return Ball::new(other.mantissa.clone(), other.exponent, radius, precision);
        }
        if other.mantissa.is_zero() {
            return Ball::new(self.mantissa.clone(), self.exponent, radius, precision);
        }
        let (big, small) = if self.magnitude_bits() >= other.magnitude_bits() { (self, other) } else { (other, self) };
        if big.magnitude_bits() - small.magnitude_bits() > 2 * precision as i64 + 64 && big.exponent > small.exponent {
            let lost = Mag::power_of_two(small.magnitude_bits());
            return Ball::new(big.mantissa.clone(), big.exponent, radius.plus(lost), precision);
        }
        let (high, low) = if self.exponent >= other.exponent { (self, other) } else { (other, self) };
        let shift = (high.exponent - low.exponent) as u64;
        Ball::new((&high.mantissa << shift) + &low.mantissa, low.exponent, radius, precision)
    }

    /// The difference.
    pub fn sub(&self, other: &Ball, precision: u64) -> Ball {
        self.add(&other.neg(), precision)
    }

    /// The product.
    pub fn mul(&self, other: &Ball, precision: u64) -> Result<Ball, NumError> {
        let exponent = self.exponent + other.exponent;
        if exponent.abs() > EXPONENT_LIMIT {
            return Err(NumError::Range);
        }
        let mut radius = self.radius.times(other.radius);
        radius = radius.plus(self.midpoint_mag(true).times(other.radius));
        radius = radius.plus(other.midpoint_mag(true).times(self.radius));
        Ok(Ball::new(&self.mantissa * &other.mantissa, exponent, radius, precision))
    }

    /// The quotient; undefined for a divisor that is exactly zero, imprecise when zero is inside it.
    pub fn div(&self, other: &Ball, precision: u64) -> Result<Ball, NumError> {
        if other.is_exact_zero() {
            return Err(NumError::Undefined);
        }
        let lower = other.lower().ok_or(NumError::Imprecise)?;
        if self.is_exact_zero() {
            return Ok(Ball::zero());
        }
        let shift = (precision + other.mantissa.bits() + 4).saturating_sub(self.mantissa.bits());
        let quotient = (&self.mantissa << shift) / &other.mantissa;
        let exponent = self.exponent - other.exponent - shift as i64;
        if exponent.abs() > EXPONENT_LIMIT {
            return Err(NumError::Range);
        }
        let ulp = Mag::power_of_two(exponent);
        let value = Ball { mantissa: quotient, exponent, radius: Mag::ZERO };
        let slope = self.radius.plus(value.upper().plus(ulp).times(other.radius)).over(lower);
        Ok(Ball::new(value.mantissa, exponent, slope.plus(ulp), precision))
    }

    /// The square root of a number that is not negative.
    pub fn sqrt(&self, precision: u64) -> Result<Ball, NumError> {
        match self.sign() {
            Some(0) => return Ok(Ball::zero()),
            Some(1) => {}
            Some(_) => return Err(NumError::Undefined),
            None => return Err(NumError::Imprecise),
        }
        let mut shift = (2 * precision + 8).saturating_sub(self.mantissa.bits());
        if (self.exponent - shift as i64).rem_euclid(2) == 1 {
            shift += 1;
        }
        let root = (self.mantissa.magnitude() << shift).sqrt();
        let exponent = (self.exponent - shift as i64) / 2;
        let lower = self.lower().ok_or(NumError::Imprecise)?;
        let slope = if self.radius.is_zero() { Mag::ZERO } else { self.radius.over(lower).times(lower.root()) };
        Ok(Ball::new(
            BigInt::from_biguint(Sign::Plus, root),
            exponent,
            slope.plus(Mag::power_of_two(exponent)),
            precision,
        ))
    }

    /// The midpoint times `2^bits`, rounded down to an integer.
    pub fn fixed(&self, bits: u64) -> BigInt {
        let shift = self.exponent + bits as i64;
        if shift >= 0 {
            &self.mantissa << shift as u64
        } else if -shift as u64 > self.mantissa.bits() + 1 {
            if self.mantissa.is_negative() { BigInt::from(-1) } else { BigInt::zero() }
        } else {
            &self.mantissa >> (-shift) as u64
        }
    }

    /// The integer below the number, when the ball does not straddle one.
    pub fn floor(&self) -> Result<BigInt, NumError> {
        if self.magnitude_bits() > 4096 {
            return Err(NumError::Range);
        }
        let middle = self.fixed(0);
        if self.radius.is_zero() {
            return Ok(middle);
        }
        let below = self.sub(&Ball::from_integer(&middle), 4096);
        let above = below.sub(&Ball::integer(1), 4096);
        match (below.sign(), above.sign()) {
            (Some(0 | 1), Some(-1)) => Ok(middle),
            _ => Err(NumError::Imprecise),
        }
    }

    /// Exactly `value`.
    pub fn from_integer(value: &BigInt) -> Ball {
        Ball { mantissa: value.clone(), exponent: 0, radius: Mag::ZERO }
    }

    /// The integer that this ball is, when it is exactly one.
    pub fn exact_integer(&self) -> Option<BigInt> {
        if !self.radius.is_zero() || self.magnitude_bits() > 4096 {
            return None;
        }
        if self.exponent >= 0 {
            return Some(&self.mantissa << self.exponent as u64);
        }
        let floor = &self.mantissa >> (-self.exponent) as u64;
        if (&floor << (-self.exponent) as u64) == self.mantissa { Some(floor) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratio(over: i64, under: i64, precision: u64) -> Ball {
        Ball::rational(&BigRational::new(over.into(), under.into()), precision)
    }

    #[test]
    fn rounding_is_counted() {
        let third = ratio(1, 3, 64);
        let sum = third.add(&third, 64).add(&third, 64);
        assert!(sum.sub(&Ball::integer(1), 64).contains_zero());
        assert!(!third.radius().is_zero());
        assert!(Ball::integer(7).radius().is_zero());
    }

    #[test]
    fn tiny_differences_are_seen() {
        // 1/2^92 and 1/2^93, and a sum in which one term is far below the other's last bit
        let small = Ball::new(BigInt::one(), -92, Mag::ZERO, 64);
        let smaller = Ball::new(BigInt::one(), -93, Mag::ZERO, 64);
        assert_eq!(small.sub(&smaller, 64).sign(), Some(1));
        let far = Ball::new(BigInt::one(), -100_000, Mag::ZERO, 64);
        assert_eq!(far.sign(), Some(1));
        let sum = Ball::integer(1).add(&far, 64);
        assert!(sum.sub(&Ball::integer(1), 64).contains_zero(), "lost, and known to be lost");
        assert!(!sum.radius().is_zero());
    }

    #[test]
    fn division_and_roots() {
        assert_eq!(Ball::integer(1).div(&Ball::zero(), 64), Err(NumError::Undefined));
        let straddling = ratio(1, 3, 64).sub(&ratio(1, 3, 64), 64);
        assert_eq!(Ball::integer(1).div(&straddling, 64), Err(NumError::Imprecise));
        assert_eq!(Ball::integer(-2).sqrt(64), Err(NumError::Undefined));
        let two = Ball::integer(2).sqrt(200).unwrap();
        let gap = two.mul(&two, 200).unwrap().sub(&Ball::integer(2), 200);
        assert!(gap.contains_zero() && gap.radius().log2_up() < -180);
        let quotient = ratio(22, 7, 128).mul(&Ball::integer(7), 128).unwrap();
        assert!(quotient.sub(&Ball::integer(22), 128).contains_zero());
    }

    #[test]
    fn floors_at_integers_are_not_guessed() {
        assert_eq!(ratio(7, 2, 64).floor(), Ok(BigInt::from(3)));
        assert_eq!(ratio(-7, 2, 64).floor(), Ok(BigInt::from(-4)));
        let about_one = ratio(1, 3, 64).mul(&Ball::integer(3), 64).unwrap();
        assert_eq!(about_one.floor(), Err(NumError::Imprecise));
    }

    #[test]
    fn zero_errors_stay_zero() {
        assert!(Mag::ZERO.over(Mag::power_of_two(-5)).is_zero());
        assert!(Mag::ZERO.times(Mag::power_of_two(90)).is_zero());
        assert!(Mag::power_of_two(3).plus(Mag::power_of_two(-200)).log2_up() >= 3);
    }
}
