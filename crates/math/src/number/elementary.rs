//! elementary: exponential, logarithm, sine, cosine and arc tangent of balls, by series on fixed-point integers.
//!
//! Each function works with 64 guard bits more than asked for; what the series and the rounding can lose stays far below the
//! 20 guard bits that the stated error gives away.

use num_bigint::BigInt;
use num_traits::{One, Signed, Zero};
use std::sync::OnceLock;

use crate::number::ball::{Ball, Mag, NumError};

/// Guard bits of the fixed-point series.
const GUARD: u64 = 64;

/// Arguments whose magnitude needs more bits than this are refused.
const ARGUMENT_BITS: i64 = 40;

/// Constants are cached at these precisions (bits); other requests are rounded up to the next.
const CACHED: [u64; 6] = [256, 512, 1024, 2048, 4096, 16384];

fn cached(cells: &'static [OnceLock<BigInt>; 6], bits: u64, compute: fn(u64) -> BigInt) -> BigInt {
    for (cell, &size) in cells.iter().zip(&CACHED) {
        if bits <= size {
            let value = cell.get().unwrap_or_else(|| {
                // computed outside of the cell: behind a fork no process waits for a thread that it does not have
                let computed = compute(size);
                cell.get_or_init(|| computed)
            });
            return value >> (size - bits);
        }
    }
    compute(bits)
}

/// pi times `2^bits`.
fn pi_fixed(bits: u64) -> BigInt {
    static CELLS: [OnceLock<BigInt>; 6] = [const { OnceLock::new() }; 6];
    cached(&CELLS, bits, |bits| {
        let wide = bits + 32;
        let sum = arctan_inverse(5, wide, true) * 16 - arctan_inverse(239, wide, true) * 4;
        sum >> 32u32
    })
}

/// The natural logarithm of 2 times `2^bits`.
fn ln2_fixed(bits: u64) -> BigInt {
    static CELLS: [OnceLock<BigInt>; 6] = [const { OnceLock::new() }; 6];
    cached(&CELLS, bits, |bits| {
        let wide = bits + 32;
        let sum = arctan_inverse(26, wide, false) * 18 - arctan_inverse(4801, wide, false) * 2
            + arctan_inverse(8749, wide, false) * 8;
        sum >> 32u32
    })
}

/// `arctan(1/n)` (alternating) or `artanh(1/n)`, times `2^bits`.
fn arctan_inverse(n: u32, bits: u64, alternating: bool) -> BigInt {
    let mut power = (BigInt::one() << bits) / n;
    let square = BigInt::from(u64::from(n) * u64::from(n));
    let mut sum = power.clone();
    let mut k = 1u64;
    while !power.is_zero() {
        power /= &square;
        let term = &power / (2 * k + 1);
        if alternating && k % 2 == 1 {
            sum -= term
        } else {
            sum += term
        }
        k += 1;
    }
    sum
}

fn from_fixed(value: BigInt, bits: u64, precision: u64) -> Ball {
    Ball::new(value, -(bits as i64), Mag::power_of_two(20 - bits as i64 + 24), precision)
}

/// pi.
pub fn pi(precision: u64) -> Ball {
    from_fixed(pi_fixed(precision + GUARD), precision + GUARD, precision)
}

/// `e^x`.
pub fn exp(x: &Ball, precision: u64) -> Result<Ball, NumError> {
    if x.is_exact_zero() {
        return Ok(Ball::integer(1));
    }
    if x.magnitude_bits() > ARGUMENT_BITS {
        return Err(NumError::Range);
    }
    if x.radius().log2_up() > -1 {
        return Err(NumError::Imprecise);
    }
    let bits = precision + GUARD;
    let wide = bits + ARGUMENT_BITS as u64 + 8;
    let argument = x.fixed(wide);
    let ln2 = ln2_fixed(wide);
    let half = &ln2 >> 1u32;
    let count = num_integer::Integer::div_floor(&(&argument + half), &ln2);
    let rest = (argument - &count * &ln2) >> (wide - bits);
    const HALVINGS: u32 = 8;
    let small = rest >> HALVINGS;
    let one = BigInt::one() << bits;
    let mut sum = &one + &small;
    let mut term = small.clone();
    let mut k = 2u64;
    while !term.is_zero() && term != BigInt::from(-1) {
        term = ((&term * &small) >> bits) / k;
        sum += &term;
        k += 1;
    }
    for _ in 0..HALVINGS {
        sum = (&sum * &sum) >> bits;
    }
    let shift: i64 = (&count).try_into().map_err(|_| NumError::Range)?;
    let value = Ball::new(sum, shift - bits as i64, Mag::power_of_two(shift - bits as i64 + 30), precision);
    // e^(x + r) - e^x is at most 2 r e^x for r below 1/2
    let spread = value.upper().times(x.radius()).times(Mag::power_of_two(1));
    Ok(value.widened(spread))
}

/// The natural logarithm of a positive number.
pub fn ln(x: &Ball, precision: u64) -> Result<Ball, NumError> {
    match x.sign() {
        Some(1) => {}
        Some(_) => return Err(NumError::Undefined),
        None => return Err(NumError::Imprecise),
    }
    if x.exact_integer().is_some_and(|value| value.is_one()) {
        return Ok(Ball::zero());
    }
    let bits = precision + GUARD;
    let (mantissa, exponent) = x.midpoint();
    let length = mantissa.bits();
    // x = scaled * 2^power, scaled in [1/2, 1), then moved into [3/4, 3/2)
    let mut power = exponent + length as i64;
    let mut scaled = if length <= bits { mantissa << (bits - length) } else { mantissa >> (length - bits) };
    let one = BigInt::one() << bits;
    if &scaled * 4 < &one * 3 {
        scaled <<= 1u32;
        power -= 1;
    }
    let z = ((&scaled - &one) << bits) / (&scaled + &one);
    let sum = odd_series(&z, bits, false);
    let value = (sum << 1u32) + ln2_fixed(bits + 64) * power / (BigInt::one() << 64u32);
    let lower = x.lower().ok_or(NumError::Imprecise)?;
    let spread = if x.radius().is_zero() { Mag::ZERO } else { x.radius().over(lower) };
    Ok(from_fixed(value, bits, precision).widened(spread))
}

/// `z - z^3/3 + z^5/5 ..` (alternating) or the same with plus signs, in fixed point.
fn odd_series(z: &BigInt, bits: u64, alternating: bool) -> BigInt {
    let square = (z * z) >> bits;
    let mut power = z.clone();
    let mut sum = z.clone();
    let mut k = 1u64;
    loop {
        power = (&power * &square) >> bits;
        if power.is_zero() || power == BigInt::from(-1) {
            return sum;
        }
        let term = &power / (2 * k + 1);
        if alternating && k % 2 == 1 {
            sum -= term
        } else {
            sum += term
        }
        k += 1;
    }
}

/// Sine and cosine.
pub fn sin_cos(x: &Ball, precision: u64) -> Result<(Ball, Ball), NumError> {
    if x.is_exact_zero() {
        return Ok((Ball::zero(), Ball::integer(1)));
    }
    let size = x.magnitude_bits().max(0);
    if size > 1024 {
        return Err(NumError::Range);
    }
    let bits = precision + GUARD;
    let wide = bits + size as u64 + 8;
    let quarter = pi_fixed(wide) >> 1u32;
    let argument = x.fixed(wide);
    let half = &quarter >> 1u32;
    let turns = num_integer::Integer::div_floor(&(&argument + half), &quarter);
    let rest = (argument - &turns * &quarter) >> (wide - bits);
    let square = (&rest * &rest) >> bits;
    let one = BigInt::one() << bits;
    let (mut sine, mut cosine) = (rest.clone(), one.clone());
    let (mut sine_term, mut cosine_term) = (rest, one);
    let mut k = 1u64;
    while !cosine_term.is_zero() && k < 4 * bits {
        cosine_term = -((&cosine_term * &square) >> bits) / ((2 * k - 1) * (2 * k));
        sine_term = -((&sine_term * &square) >> bits) / ((2 * k) * (2 * k + 1));
        cosine += &cosine_term;
        sine += &sine_term;
        k += 1;
        if cosine_term.abs() <= BigInt::one() {
            break;
        }
    }
    let sine = from_fixed(sine, bits, precision).widened(x.radius());
    let cosine = from_fixed(cosine, bits, precision).widened(x.radius());
    let turn: u8 =
        num_integer::Integer::mod_floor(&turns, &BigInt::from(4)).try_into().expect("a remainder below 4 fits");
    Ok(match turn {
        0 => (sine, cosine),
        1 => (cosine, sine.neg()),
        2 => (sine.neg(), cosine.neg()),
        _ => (cosine.neg(), sine),
    })
}

/// The arc tangent.
pub fn atan(x: &Ball, precision: u64) -> Result<Ball, NumError> {
    if x.is_exact_zero() {
        return Ok(Ball::zero());
    }
    let bits = precision + GUARD;
    if x.magnitude_bits() > 1 {
        let inverse = Ball::integer(1).div(x, precision + 8)?;
        let rest = atan(&inverse, precision)?;
        let quarter = pi(precision + 8).mul(&Ball::new(BigInt::one(), -1, Mag::ZERO, 8), precision + 8)?;
        let quarter = if x.sign() == Some(-1) { quarter.neg() } else { quarter };
        return Ok(quarter.sub(&rest, precision));
    }
    let one = BigInt::one() << bits;
    let mut z = x.fixed(bits);
    const HALVINGS: u32 = 3;
    for _ in 0..HALVINGS {
        // tan(a/2) = t / (1 + sqrt(1 + t^2))
        let hypotenuse = ((&one * &one) + &z * &z).sqrt();
        z = (z << bits) / (&one + hypotenuse);
    }
    let sum = odd_series(&z, bits, true) << HALVINGS;
    Ok(from_fixed(sum, bits, precision).widened(x.radius()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use num_rational::BigRational;

    /// True when the decimal lies within its last digit of the ball, and the ball is narrow.
    fn holds(ball: &Ball, decimal: &str) -> bool {
        let (whole, rest) = decimal.split_once('.').expect("a decimal");
        let scale = BigInt::from(10).pow(rest.len() as u32);
        let value = BigRational::new(format!("{whole}{rest}").parse().expect("digits"), scale.clone());
        let gap = ball.sub(&Ball::rational(&value, 400), 400);
        let unit = Ball::rational(&BigRational::new(2.into(), scale), 400);
        let narrow = ball.radius().log2_up() < -230;
        narrow && gap.sub(&unit, 400).sign() == Some(-1) && gap.add(&unit, 400).sign() == Some(1)
    }

    fn ratio(over: i64, under: i64) -> Ball {
        Ball::rational(&BigRational::new(over.into(), under.into()), 300)
    }

    #[test]
    fn known_digits() {
        // digits from the tables of Abramowitz and Stegun
        assert!(holds(&pi(300), "3.14159265358979323846264338327950288419716939937510"));
        assert!(holds(&exp(&Ball::integer(1), 300).unwrap(), "2.71828182845904523536028747135266249775724709369995"));
        assert!(holds(&ln(&Ball::integer(2), 300).unwrap(), "0.69314718055994530941723212145817656807550013436025"));
        assert!(holds(&ln(&Ball::integer(10), 300).unwrap(), "2.30258509299404568401799145468436420760110148862877"));
        let (sine, cosine) = sin_cos(&Ball::integer(1), 300).unwrap();
        assert!(holds(&sine, "0.84147098480789650665250232163029899962256306079837"));
        assert!(holds(&cosine, "0.54030230586813971740093660744297660373231042061792"));
        assert!(holds(&atan(&ratio(1, 2), 300).unwrap(), "0.46364760900080611621425623146121440202853705428612"));
        assert!(holds(&atan(&Ball::integer(2), 300).unwrap(), "1.10714871779409050301706546017853704007004764540143"));
    }

    #[test]
    fn inverses_meet() {
        for (over, under) in [(1, 3), (7, 5), (355, 113), (1, 1000), (98765, 7)] {
            let x = ratio(over, under);
            let back = exp(&ln(&x, 300).unwrap(), 300).unwrap().sub(&x, 300);
            assert!(back.contains_zero() && back.radius().log2_up() < -200, "{over}/{under}");
            let (sine, cosine) = sin_cos(&x, 300).unwrap();
            let one = sine.mul(&sine, 300).unwrap().add(&cosine.mul(&cosine, 300).unwrap(), 300);
            assert!(one.sub(&Ball::integer(1), 300).contains_zero(), "{over}/{under}");
        }
    }

    #[test]
    fn edges() {
        assert!(ln(&Ball::integer(1), 100).unwrap().is_exact_zero());
        assert_eq!(ln(&Ball::integer(0), 100), Err(NumError::Undefined));
        assert_eq!(ln(&Ball::integer(-1), 100), Err(NumError::Undefined));
        let huge = Ball::new(BigInt::one(), 60, Mag::ZERO, 100);
        assert_eq!(exp(&huge, 100), Err(NumError::Range));
        let tiny = exp(&Ball::integer(-1_000_000), 100).unwrap();
        assert_eq!(tiny.sign(), Some(1), "e^-1000000 is not zero");
    }
}
