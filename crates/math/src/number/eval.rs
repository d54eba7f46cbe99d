//! eval: the value of a tree at a point, as a complex ball.

use num_bigint::BigInt;
use num_integer::Integer;
use num_rational::BigRational;
use num_traits::{One, ToPrimitive, Zero};

use crate::number::ball::{Ball, NumError};
use crate::number::budget::Budget;
use crate::number::complex::{Complex, half};
use crate::number::elementary;
use crate::read::ast::{BigOp, Const, Expr, Func};

/// Values of variables. Unknown functions and shapes are looked up by their printed form.
pub struct Point<'a> {
    /// Names and values.
    pub values: &'a [(String, BigRational)],
    /// Bits of the midpoints.
    pub precision: u64,
}

type Result = std::result::Result<Complex, NumError>;

/// The largest argument of a factorial that is multiplied out.
const FACTORIAL_LIMIT: u64 = 3000;

/// The largest number of terms of a sum that is added up.
const TERM_LIMIT: i64 = 2000;

/// Evaluates `expr`; every step is paid from `budget`.
pub fn eval(expr: &Expr, point: &Point, budget: &mut Budget) -> Result {
    Evaluator { point, bound: Vec::new(), budget }.eval(expr)
}

struct Evaluator<'a, 'b> {
    point: &'a Point<'a>,
    /// Indices of sums, innermost last.
    bound: Vec<(String, BigInt)>,
    budget: &'b mut Budget,
}

impl Evaluator<'_, '_> {
    fn p(&self) -> u64 {
        self.point.precision
    }

    /// Series cost about the square of the precision.
    fn pay_for_series(&mut self) -> std::result::Result<(), NumError> {
        let words = self.p() / 32;
        self.budget.spend(words * words / 2).map_err(|_| NumError::Budget)
    }

    fn eval(&mut self, expr: &Expr) -> Result {
        let p = self.p();
        self.budget.spend(1 + p / 128).map_err(|_| NumError::Budget)?;
        match expr {
            Expr::Num(value, _) => Ok(Complex::real(Ball::rational(value, p))),
            Expr::Sym(name) => self.variable(name),
            Expr::Const(constant) => match constant {
                Const::Pi => Ok(Complex::real(elementary::pi(p))),
                Const::E => {
                    self.pay_for_series()?;
                    Complex::integer(1).exp(p)
                }
                Const::I => Ok(Complex::i()),
                Const::Infinity => Err(NumError::Undefined),
            },
            Expr::Add(terms) => {
                let mut sum = Complex::integer(0);
                for term in terms {
                    sum = sum.add(&self.eval(term)?, p);
                }
                Ok(sum)
            }
            Expr::Mul(factors) => {
                let mut product = Complex::integer(1);
                for factor in factors {
                    product = product.mul(&self.eval(factor)?, p)?;
                }
                Ok(product)
            }
            Expr::Neg(inner) => Ok(self.eval(inner)?.neg()),
            Expr::Div(over, under) => {
                let (over, under) = (self.eval(over)?, self.eval(under)?);
                over.div(&under, p)
            }
            Expr::Pow(base, exponent) => self.power(base, exponent),
            Expr::Func(func, args) => self.function(*func, args),
            Expr::Big(op, index, parts) => self.big(*op, index, parts),
            Expr::Percent(inner) => {
                let value = self.eval(inner)?;
                value.div(&Complex::integer(100), p)
            }
            Expr::Degree(inner) => {
                let value = self.eval(inner)?.div(&Complex::integer(180), p)?;
                value.mul(&Complex::real(elementary::pi(p)), p)
            }
            Expr::Based(inner, ..) => self.eval(inner),
            Expr::Scaled(inner, factor) => self.eval(inner)?.mul(&Complex::real(Ball::rational(factor, p)), p),
            Expr::Apply(..) | Expr::Shape(..) => {
                let name = crate::read::print::print(expr);
                self.variable(&name)
            }
            _ => Err(NumError::Undefined),
        }
    }

    fn variable(&self, name: &str) -> Result {
        if let Some((_, value)) = self.bound.iter().rev().find(|(bound, _)| bound == name) {
            return Ok(Complex::real(Ball::from_integer(value)));
        }
        let found = self.point.values.iter().find(|(known, _)| known == name).ok_or(NumError::Undefined)?;
        Ok(Complex::real(Ball::rational(&found.1, self.p())))
    }

    /// The rational number an exponent literally is.
    fn literal(expr: &Expr) -> Option<BigRational> {
        match expr {
            Expr::Num(value, _) => Some(value.clone()),
            Expr::Neg(inner) => Some(-Self::literal(inner)?),
            Expr::Div(over, under) => {
                let under = Self::literal(under)?;
                if under.is_zero() { None } else { Some(Self::literal(over)? / under) }
            }
            _ => None,
        }
    }

    fn power(&mut self, base: &Expr, exponent: &Expr) -> Result {
        let p = self.p();
        let value = if matches!(base, Expr::Const(Const::E)) {
            self.pay_for_series()?;
            return self.eval(exponent)?.exp(p);
        } else {
            self.eval(base)?
        };
        if let Some(literal) = Self::literal(exponent) {
            if !literal.is_integer() {
                let root = literal.denom().to_u64().filter(|&root| root < 1000).ok_or(NumError::Range)?;
                let value = self.real_root(root, &value)?;
                let numerator = Complex::real(Ball::from_integer(literal.numer()));
                return value.pow(&numerator, p);
            }
            return value.pow(&Complex::real(Ball::from_integer(literal.numer())), p);
        }
        self.pay_for_series()?;
        let exponent = self.eval(exponent)?;
        value.pow(&exponent, p)
    }

    /// The n-th root: real for odd n and real numbers, principal otherwise.
    fn real_root(&mut self, n: u64, value: &Complex) -> Result {
        let p = self.p();
        if n == 2 {
            return value.sqrt(p);
        }
        self.pay_for_series()?;
        let inverse = Complex::real(Ball::rational(&BigRational::new(BigInt::one(), BigInt::from(n)), p + 64));
        if value.is_real() && n % 2 == 1 && value.re.sign() == Some(-1) {
            return Ok(value.neg().pow(&inverse, p)?.neg());
        }
        value.pow(&inverse, p)
    }

    fn big(&mut self, op: BigOp, index: &str, parts: &[Expr; 3]) -> Result {
        let p = self.p();
        let first = self.integer(&parts[0])?.to_i64().ok_or(NumError::Range)?;
        let last = self.integer(&parts[1])?.to_i64().ok_or(NumError::Range)?;
        if last.saturating_sub(first) > TERM_LIMIT {
            return Err(NumError::Range);
        }
        let mut total = Complex::integer(if op == BigOp::Sum { 0 } else { 1 });
        for k in first..=last {
            self.bound.push((index.to_string(), BigInt::from(k)));
            let term = self.eval(&parts[2]);
            self.bound.pop();
            total = if op == BigOp::Sum { total.add(&term?, p) } else { total.mul(&term?, p)? };
        }
        Ok(total)
    }

    /// The exact integer value of an argument.
    fn integer(&mut self, expr: &Expr) -> std::result::Result<BigInt, NumError> {
        let value = self.eval(expr)?;
        if !value.is_real() {
            return Err(NumError::Undefined);
        }
        value.re.exact_integer().ok_or(NumError::Undefined)
    }

    fn factorial(&mut self, n: &BigInt, step: u64) -> Result {
        let n = n.to_u64().ok_or(NumError::Undefined)?;
        if n > FACTORIAL_LIMIT {
            return Err(NumError::Range);
        }
        self.budget.spend(n).map_err(|_| NumError::Budget)?;
        let mut product = BigInt::one();
        let mut k = n;
        while k > 1 {
            product *= k;
            k = k.saturating_sub(step);
        }
        Ok(Complex::real(Ball::from_integer(&product)))
    }

    fn function(&mut self, func: Func, args: &[Expr]) -> Result {
        let p = self.p();
        match func {
            Func::Root => {
                let value = self.eval(&args[1])?;
                match args[0].as_int() {
                    Some(n @ 1..=999) => self.real_root(n as u64, &value),
                    _ => {
                        let n = self.eval(&args[0])?;
                        value.pow(&Complex::integer(1).div(&n, p)?, p)
                    }
                }
            }
            Func::Log => {
                let (base, value) = (self.eval(&args[0])?, self.eval(&args[1])?);
                self.pay_for_series()?;
                value.ln(p)?.div(&base.ln(p)?, p)
            }
            Func::Binom => self.binomial(args),
            Func::Gcd | Func::Lcm => {
                let mut total = self.integer(&args[0])?;
                for arg in &args[1..] {
                    let other = self.integer(arg)?;
                    total = if func == Func::Gcd { total.gcd(&other) } else { total.lcm(&other) };
                }
                Ok(Complex::real(Ball::from_integer(&total)))
            }
            Func::Mod => {
                let (a, b) = (self.integer(&args[0])?, self.integer(&args[1])?);
                if b.is_zero() {
                    Err(NumError::Undefined)
                } else {
                    Ok(Complex::real(Ball::from_integer(&a.mod_floor(&b))))
                }
            }
            Func::Max | Func::Min => {
                let mut best = self.real_ball(&args[0])?;
                for arg in &args[1..] {
                    let other = self.real_ball(arg)?;
                    let sign = other.sub(&best, p).sign().ok_or(NumError::Imprecise)?;
                    if (sign > 0) == (func == Func::Max) {
                        best = other;
                    }
                }
                Ok(Complex::real(best))
            }
            _ => {
                let value = self.eval(&args[0])?;
                if !matches!(func, Func::Abs | Func::Floor | Func::Ceil | Func::Re | Func::Im | Func::Conj | Func::Sign)
                {
                    self.pay_for_series()?;
                }
                self.unary(func, &value)
            }
        }
    }

    fn real_ball(&mut self, expr: &Expr) -> std::result::Result<Ball, NumError> {
        let value = self.eval(expr)?;
        if value.is_real() { Ok(value.re) } else { Err(NumError::Undefined) }
    }

    fn binomial(&mut self, args: &[Expr]) -> Result {
        let p = self.p();
        let k = self.integer(&args[1])?.to_i64().ok_or(NumError::Range)?;
        if k < 0 {
            return Ok(Complex::integer(0));
        }
        let n = self.eval(&args[0])?;
        // symmetric for integers, so that binom(5000, 4999) is short
        let k = match n.re.exact_integer().and_then(|n| n.to_i64()) {
            Some(n) if n > 0 && k <= n => k.min(n - k),
            _ => k,
        };
        if k > TERM_LIMIT {
            return Err(NumError::Range);
        }
        self.budget.spend(2 * k as u64).map_err(|_| NumError::Budget)?;
        let mut product = Complex::integer(1);
        let wide = p + 64;
        for j in 0..k {
            product = product.mul(&n.sub(&Complex::integer(j), wide), wide)?;
            product = product.div(&Complex::integer(j + 1), wide)?;
        }
        Ok(product)
    }

    fn unary(&mut self, func: Func, z: &Complex) -> Result {
        let p = self.p();
        let one = Complex::integer(1);
        match func {
            Func::Sin => Ok(z.sin_cos(p)?.0),
            Func::Cos => Ok(z.sin_cos(p)?.1),
            Func::Tan => z.sin_cos(p).and_then(|(sine, cosine)| sine.div(&cosine, p)),
            Func::Cot => z.sin_cos(p).and_then(|(sine, cosine)| cosine.div(&sine, p)),
            Func::Sec => one.div(&z.sin_cos(p)?.1, p),
            Func::Csc => one.div(&z.sin_cos(p)?.0, p),
            Func::Asin => z.asin(p),
            Func::Acos => Ok(quarter_turn(p)?.sub(&z.asin(p)?, p)),
            Func::Atan => z.atan(p),
            Func::Acot => Ok(quarter_turn(p)?.sub(&z.atan(p)?, p)),
            Func::Asec => Ok(quarter_turn(p)?.sub(&one.div(z, 2 * p)?.asin(p)?, p)),
            Func::Acsc => one.div(z, 2 * p)?.asin(p),
            Func::Sinh => Ok(z.sinh_cosh(p)?.0),
            Func::Cosh => Ok(z.sinh_cosh(p)?.1),
            Func::Tanh => z.sinh_cosh(p).and_then(|(sine, cosine)| sine.div(&cosine, p)),
            Func::Coth => z.sinh_cosh(p).and_then(|(sine, cosine)| cosine.div(&sine, p)),
            Func::Sech => one.div(&z.sinh_cosh(p)?.1, p),
            Func::Csch => one.div(&z.sinh_cosh(p)?.0, p),
            Func::Asinh => z.add(&z.mul(z, p)?.add(&one, p).sqrt(p)?, p).ln(p),
            Func::Acosh => z.add(&z.mul(z, p)?.sub(&one, p).sqrt(p)?, p).ln(p),
            Func::Atanh => {
                let inside = one.add(z, p).div(&one.sub(z, p), p)?.ln(p)?;
                Ok(Complex { re: half(&inside.re, p)?, im: half(&inside.im, p)? })
            }
            Func::Ln => z.ln(p),
            Func::Exp => z.exp(p),
            Func::Abs => Ok(Complex::real(z.abs(p)?)),
            Func::Floor | Func::Ceil if !z.is_real() => Err(NumError::Undefined),
            Func::Floor => Ok(Complex::real(Ball::from_integer(&z.re.floor()?))),
            Func::Ceil => Ok(Complex::real(Ball::from_integer(&z.re.neg().floor()?).neg())),
            Func::Factorial | Func::DoubleFactorial | Func::Gamma => {
                let shift = if func == Func::Gamma { one } else { Complex::integer(0) };
                let n = z.sub(&shift, p);
                let n =
                    n.re.exact_integer().filter(|n| n.sign() != num_bigint::Sign::Minus).ok_or(NumError::Undefined)?;
                self.factorial(&n, if func == Func::DoubleFactorial { 2 } else { 1 })
            }
            Func::Re => Ok(Complex::real(z.re.clone())),
            Func::Im => Ok(Complex::real(z.im.clone())),
            Func::Conj => Ok(Complex { re: z.re.clone(), im: z.im.neg() }),
            Func::Arg => Ok(Complex::real(z.arg(p)?)),
            Func::Sign => {
                let sign = if z.is_real() { z.re.sign() } else { return Err(NumError::Undefined) };
                sign.map(|sign| Complex::integer(sign.into())).ok_or(NumError::Imprecise)
            }
            _ => Err(NumError::Undefined),
        }
    }
}

fn quarter_turn(p: u64) -> Result {
    Ok(Complex::real(half(&elementary::pi(p + 8), p)?))
}
