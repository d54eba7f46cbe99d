//! complex: complex numbers as two balls, and the elementary functions on them, principal branches.

use num_bigint::BigInt;
use num_traits::One;

use crate::number::ball::{Ball, Mag, NumError};
use crate::number::elementary;

/// A complex number; an imaginary part that is exactly zero marks a real one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complex {
    /// The real part.
    pub re: Ball,
    /// The imaginary part.
    pub im: Ball,
}

type Result = std::result::Result<Complex, NumError>;

impl Complex {
    /// A real number.
    pub fn real(re: Ball) -> Complex {
        Complex { re, im: Ball::zero() }
    }

    /// A small integer.
    pub fn integer(value: i64) -> Complex {
        Complex::real(Ball::integer(value))
    }

    /// The imaginary unit.
    pub fn i() -> Complex {
        Complex { re: Ball::zero(), im: Ball::integer(1) }
    }

    /// True when the imaginary part is exactly zero.
    pub fn is_real(&self) -> bool {
        self.im.is_exact_zero()
    }

    /// True when zero is inside both balls.
    pub fn contains_zero(&self) -> bool {
        self.re.contains_zero() && self.im.contains_zero()
    }

    /// The negative.
    pub fn neg(&self) -> Complex {
        Complex { re: self.re.neg(), im: self.im.neg() }
    }

    /// The sum.
    pub fn add(&self, other: &Complex, p: u64) -> Complex {
        Complex { re: self.re.add(&other.re, p), im: self.im.add(&other.im, p) }
    }

    /// The difference.
    pub fn sub(&self, other: &Complex, p: u64) -> Complex {
        self.add(&other.neg(), p)
    }

    /// The product.
    pub fn mul(&self, other: &Complex, p: u64) -> Result {
        if self.is_real() && other.is_real() {
            return Ok(Complex::real(self.re.mul(&other.re, p)?));
        }
        let re = self.re.mul(&other.re, p + 8)?.sub(&self.im.mul(&other.im, p + 8)?, p);
        let im = self.re.mul(&other.im, p + 8)?.add(&self.im.mul(&other.re, p + 8)?, p);
        Ok(Complex { re, im })
    }

    /// The quotient.
    pub fn div(&self, other: &Complex, p: u64) -> Result {
        if other.is_real() {
            return Ok(Complex { re: self.re.div(&other.re, p)?, im: self.im.div(&other.re, p)? });
        }
        let size = other.norm_squared(p + 8)?;
        let conjugate = Complex { re: other.re.clone(), im: other.im.neg() };
        let over = self.mul(&conjugate, p + 8)?;
        Ok(Complex { re: over.re.div(&size, p)?, im: over.im.div(&size, p)? })
    }

    fn norm_squared(&self, p: u64) -> std::result::Result<Ball, NumError> {
        Ok(self.re.mul(&self.re, p)?.add(&self.im.mul(&self.im, p)?, p))
    }

    /// The absolute value.
    pub fn abs(&self, p: u64) -> std::result::Result<Ball, NumError> {
        if self.is_real() {
            return match self.re.sign() {
                Some(-1) => Ok(self.re.neg()),
                Some(_) => Ok(self.re.clone()),
                None => Ok(Ball::zero().widened(self.re.upper())),
            };
        }
        self.norm_squared(p + 8)?.sqrt(p)
    }

    /// The argument in (-pi, pi].
    pub fn arg(&self, p: u64) -> std::result::Result<Ball, NumError> {
        if self.is_real() {
            return match self.re.sign() {
                Some(1) => Ok(Ball::zero()),
                Some(-1) => Ok(elementary::pi(p)),
                Some(_) => Err(NumError::Undefined),
                None => Err(NumError::Imprecise),
            };
        }
        match (self.re.sign(), self.im.sign()) {
            (Some(1), _) => elementary::atan(&self.im.div(&self.re, p + 8)?, p),
            (_, Some(sign @ (1 | -1))) => {
                let rest = elementary::atan(&self.re.div(&self.im, p + 8)?, p + 8)?;
                let quarter = half(&elementary::pi(p + 8), p + 8)?;
                let quarter = if sign < 0 { quarter.neg() } else { quarter };
                Ok(quarter.sub(&rest, p))
            }
            _ => Err(NumError::Imprecise),
        }
    }

    /// `e^z`.
    pub fn exp(&self, p: u64) -> Result {
        let size = elementary::exp(&self.re, p + 8)?;
        if self.is_real() {
            return Ok(Complex::real(size));
        }
        let (sine, cosine) = elementary::sin_cos(&self.im, p + 8)?;
        Ok(Complex { re: size.mul(&cosine, p)?, im: size.mul(&sine, p)? })
    }

    /// The principal logarithm.
    pub fn ln(&self, p: u64) -> Result {
        if self.is_real() && self.re.sign() == Some(1) {
            return Ok(Complex::real(elementary::ln(&self.re, p)?));
        }
        let size = elementary::ln(&self.abs(p + 8)?, p)?;
        Ok(Complex { re: size, im: self.arg(p)? })
    }

    /// The principal square root.
    pub fn sqrt(&self, p: u64) -> Result {
        if self.is_real() {
            return match self.re.sign() {
                Some(-1) => Ok(Complex { re: Ball::zero(), im: self.re.neg().sqrt(p)? }),
                _ => Ok(Complex::real(self.re.sqrt(p)?)),
            };
        }
        half_complex(&self.ln(p + 8)?, p + 8)?.exp(p)
    }

    /// An integer power by repeated squaring.
    pub fn powi(&self, exponent: u64, p: u64) -> Result {
        let mut result = Complex::integer(1);
        let mut base = self.clone();
        let mut left = exponent;
        let wide = p + 64;
        while left > 0 {
            if left & 1 == 1 {
                result = result.mul(&base, wide)?;
            }
            left >>= 1;
            if left > 0 {
                base = base.mul(&base, wide)?;
            }
        }
        Ok(result)
    }

    /// The principal power `self^exponent`.
    pub fn pow(&self, exponent: &Complex, p: u64) -> Result {
        if exponent.is_real()
            && let Some(value) = exponent.re.exact_integer()
        {
            let size: Option<u64> = value.magnitude().try_into().ok();
            if let Some(size) = size {
                if value.sign() == num_bigint::Sign::Minus {
                    return Complex::integer(1).div(&self.powi(size, p + 8)?, p);
                }
                if size == 0 {
                    return Ok(Complex::integer(1));
                }
                return self.powi(size, p);
            }
        }
        if self.is_real() && self.re.is_exact_zero() {
            return match exponent.re.sign() {
                Some(1) => Ok(Complex::integer(0)),
                _ => Err(NumError::Undefined),
            };
        }
        let wide = p + 64;
        self.ln(wide)?.mul(exponent, wide)?.exp(p)
    }

    /// Sine and cosine.
    pub fn sin_cos(&self, p: u64) -> std::result::Result<(Complex, Complex), NumError> {
        if self.is_real() {
            let (sine, cosine) = elementary::sin_cos(&self.re, p)?;
            return Ok((Complex::real(sine), Complex::real(cosine)));
        }
        let wide = p + 16;
        let forward = Complex { re: self.im.neg(), im: self.re.clone() }.exp(wide)?;
        let back = Complex { re: self.im.clone(), im: self.re.neg() }.exp(wide)?;
        let cosine = half_complex(&forward.add(&back, wide), wide)?;
        let twice = half_complex(&forward.sub(&back, wide), wide)?;
        let sine = Complex { re: twice.im, im: twice.re.neg() };
        Ok((sine, cosine))
    }

    /// Hyperbolic sine and cosine.
    pub fn sinh_cosh(&self, p: u64) -> std::result::Result<(Complex, Complex), NumError> {
        let wide = p + 16;
        let (forward, back) = (self.exp(wide)?, self.neg().exp(wide)?);
        Ok((half_complex(&forward.sub(&back, wide), p)?, half_complex(&forward.add(&back, wide), p)?))
    }

    /// The arc tangent.
    pub fn atan(&self, p: u64) -> Result {
        if self.is_real() {
            return Ok(Complex::real(elementary::atan(&self.re, p)?));
        }
        // i/2 (ln(1 - iz) - ln(1 + iz))
        let wide = p + 16;
        let iz = Complex { re: self.im.neg(), im: self.re.clone() };
        let one = Complex::integer(1);
        let rest = half_complex(&one.sub(&iz, wide).ln(wide)?.sub(&one.add(&iz, wide).ln(wide)?, wide), wide)?;
        Ok(Complex { re: rest.im.neg(), im: rest.re })
    }

    /// The arc sine; real arguments outside [-1, 1] are undefined.
    pub fn asin(&self, p: u64) -> Result {
        if !self.is_real() {
            return Err(NumError::Undefined);
        }
        let wide = p + 16;
        let one = Ball::integer(1);
        let rest = one.sub(&self.re.mul(&self.re, 2 * wide)?, 2 * wide);
        match rest.sign() {
            Some(0) => {
                let quarter = half(&elementary::pi(wide), p)?;
                Ok(Complex::real(if self.re.sign() == Some(-1) { quarter.neg() } else { quarter }))
            }
            Some(1) => Ok(Complex::real(elementary::atan(&self.re.div(&rest.sqrt(wide)?, wide)?, p)?)),
            Some(_) => Err(NumError::Undefined),
            None => Err(NumError::Imprecise),
        }
    }
}

/// Half of a ball, exactly.
pub fn half(value: &Ball, p: u64) -> std::result::Result<Ball, NumError> {
    value.mul(&Ball::new(BigInt::one(), -1, Mag::ZERO, 8), p)
}

fn half_complex(value: &Complex, p: u64) -> Result {
    Ok(Complex { re: half(&value.re, p)?, im: half(&value.im, p)? })
}
