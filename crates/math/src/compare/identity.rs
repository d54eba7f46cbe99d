//! identity: are two expressions the same number or function? Exact forms first, then values at deterministic points.

use std::collections::BTreeSet;

use num_rational::BigRational;
use num_traits::Zero;

use crate::compare::canon::Canon;
use crate::compare::fraction::Fraction;
use crate::compare::poly::NoForm;
use crate::number::ball::NumError;
use crate::number::budget::{Budget, Exhausted};
use crate::number::complex::Complex;
use crate::number::eval::{Point, eval};
use crate::read::ast::{BigOp, Const, Expr, Func};

/// How a comparison ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// The same, and the ladder's step that showed it.
    Same(&'static str),
    /// Not the same.
    Different(&'static str),
    /// No point where both are defined: not shown to be the same.
    Undefined,
    /// The numbers are beyond what can be computed.
    Unknown,
}

impl Identity {
    /// True only for proven or numerically certain equality.
    pub fn is_same(self) -> bool {
        matches!(self, Identity::Same(_))
    }
}

/// Bits of the midpoints, tried in turn while the sign of the difference is unclear.
const PRECISIONS: [u64; 4] = [128, 320, 960, 2800];

/// Compares two numbers or functions.
pub fn compare(a: &Expr, b: &Expr, budget: &mut Budget) -> Result<Identity, Exhausted> {
    if let (Some(a), Some(b)) = (rational(a), rational(b)) {
        return Ok(if a == b { Identity::Same("rational") } else { Identity::Different("rational") });
    }
    if a == b {
        return Ok(Identity::Same("structure"));
    }
    match algebra(a, b, budget) {
        Err(NoForm::Exhausted) => return Err(Exhausted),
        Err(NoForm::Undefined) => return Ok(Identity::Undefined),
        Ok(Algebra::Decided(identity)) => return Ok(identity),
        // what both sides share is gone, so that 1 + 2^-1000000 differs from 1
        Ok(Algebra::Left(terms)) if terms.iter().all(is_constant) => return vanishes(&terms, budget),
        Ok(Algebra::Left(_)) | Err(NoForm::TooLarge) => {}
    }
    numeric(a, b, budget)
}

/// The value of plain arithmetic on numbers.
pub fn rational(expr: &Expr) -> Option<BigRational> {
    match expr {
        Expr::Num(value, _) => Some(value.clone()),
        Expr::Neg(inner) => rational(inner).map(|value| -value),
        Expr::Div(over, under) => {
            let under = rational(under)?;
            if under.is_zero() { None } else { Some(rational(over)? / under) }
        }
        Expr::Based(inner, ..) => rational(inner),
        Expr::Scaled(inner, factor) => Some(rational(inner)? * factor),
        _ => None,
    }
}

/// What canonical forms say.
enum Algebra {
    /// Equal or not.
    Decided(Identity),
    /// The terms of the difference, which may still vanish.
    Left(Vec<Expr>),
}

/// Compares canonical forms.
fn algebra(a: &Expr, b: &Expr, budget: &mut Budget) -> Result<Algebra, NoForm> {
    let mut canon = Canon { budget, uncertain: false, others: Default::default() };
    let (a, b) = (canon.form(a)?, canon.form(b)?);
    if let (Some(a), Some(b)) = (a.as_rational(), b.as_rational()) {
        let identity = if a == b { Identity::Same("rational") } else { Identity::Different("rational") };
        return Ok(Algebra::Decided(identity));
    }
    let difference = difference(&a, &b, canon.budget)?;
    if difference.is_zero() {
        return Ok(Algebra::Decided(Identity::Same("algebra")));
    }
    if difference.is_decisive(canon.uncertain) {
        return Ok(Algebra::Decided(Identity::Different("algebra")));
    }
    Ok(Algebra::Left(match canon.expr_of(&difference) {
        Expr::Add(terms) => terms,
        one => vec![one],
    }))
}

/// Is a sum of constants zero?
fn vanishes(terms: &[Expr], budget: &mut Budget) -> Result<Identity, Exhausted> {
    for precision in PRECISIONS {
        let point = Point { values: &[], precision };
        let mut sum = Complex::integer(0);
        let mut size = -(precision as i64) / 8;
        let mut imprecise = false;
        for term in terms {
            match eval(term, &point, budget) {
                Ok(value) => {
                    size = size.max(value.re.magnitude_bits()).max(value.im.magnitude_bits());
                    sum = sum.add(&value, precision);
                }
                Err(NumError::Budget) => return Err(Exhausted),
                Err(NumError::Range) => return Ok(Identity::Unknown),
                Err(NumError::Undefined) => return Ok(Identity::Undefined),
                Err(NumError::Imprecise) => imprecise = true,
            }
        }
        if imprecise {
            continue;
        }
        if !sum.contains_zero() {
            return Ok(Identity::Different("numeric"));
        }
        let error = sum.re.radius().plus(sum.im.radius());
        let tight = error.is_zero() || error.log2_up() < size - precision as i64 / 3;
        if tight && precision >= PRECISIONS[2] {
            return Ok(Identity::Same("numeric"));
        }
    }
    Ok(Identity::Unknown)
}

/// The numerator of `a - b`.
pub fn difference(a: &Fraction, b: &Fraction, budget: &mut Budget) -> Result<crate::compare::poly::Poly, NoForm> {
    if a.under == b.under {
        return Ok(a.over.clone().plus(&b.over.clone().negative()));
    }
    Ok(a.over.times(&b.under, budget)?.plus(&b.over.times(&a.under, budget)?.negative()))
}

/// The names of variables; unknown functions and shapes count as variables.
pub fn variables(expr: &Expr) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    collect(expr, &mut Vec::new(), &mut names);
    names
}

fn collect(expr: &Expr, bound: &mut Vec<String>, names: &mut BTreeSet<String>) {
    match expr {
        Expr::Sym(name) if !bound.contains(name) => {
            names.insert(name.clone());
        }
        Expr::Apply(..) | Expr::Shape(..) => {
            names.insert(crate::read::print::print(expr));
        }
        Expr::Big(_, index, parts) => {
            collect(&parts[0], bound, names);
            collect(&parts[1], bound, names);
            bound.push(index.clone());
            collect(&parts[2], bound, names);
            bound.pop();
        }
        other => other.for_each_child(&mut |child| collect(child, bound, names)),
    }
}

/// True when the expression has no variables.
pub fn is_constant(expr: &Expr) -> bool {
    variables(expr).is_empty()
}

/// Kinds of points, in the order they are tried.
#[derive(Clone, Copy)]
enum Region {
    Positive,
    Mixed,
    Negative,
    Unit,
    Large,
    Integers,
}

/// Compares values at points.
fn numeric(a: &Expr, b: &Expr, budget: &mut Budget) -> Result<Identity, Exhausted> {
    let names: Vec<String> = variables(a).union(&variables(b)).cloned().collect();
    if names.len() > 40 {
        return Ok(Identity::Unknown);
    }
    let complex = [a, b].iter().any(|side| side.any(&mut |node| matches!(node, Expr::Const(Const::I))));
    if names.is_empty() {
        return Ok(match at_point(a, b, &[], true, budget)? {
            Sample::Equal => Identity::Same("numeric"),
            Sample::Different => Identity::Different("numeric"),
            Sample::Skip => Identity::Undefined,
            Sample::Unclear => Identity::Unknown,
        });
    }
    let discrete = [a, b].iter().any(|side| side.any(&mut is_discrete));
    let continuous = [
        Region::Positive,
        Region::Positive,
        Region::Mixed,
        Region::Negative,
        Region::Mixed,
        Region::Unit,
        Region::Large,
        Region::Large,
    ];
    let regions: &[Region] = if discrete { &[Region::Integers; 8] } else { &continuous };
    let mut equal = 0;
    for complex in if complex { [true, true] } else { [false, true] } {
        let mut generator = Generator { state: 0x9E37_79B9_7F4A_7C15 };
        for region in regions {
            let values: Vec<(String, BigRational)> =
                names.iter().map(|name| (name.clone(), generator.value(*region))).collect();
            match at_point(a, b, &values, complex, budget)? {
                Sample::Equal => equal += 1,
                Sample::Different => return Ok(Identity::Different("numeric")),
                Sample::Skip => {}
                Sample::Unclear => return Ok(Identity::Unknown),
            }
            if equal >= 5 {
                return Ok(Identity::Same("numeric"));
            }
        }
        if equal >= 2 {
            return Ok(Identity::Same("numeric"));
        }
        // no common real domain among fractions: integers may do
        let mut generator = Generator { state: 0x2545_F491_4F6C_DD1D };
        for _ in 0..8 {
            let values: Vec<(String, BigRational)> =
                names.iter().map(|name| (name.clone(), generator.value(Region::Integers))).collect();
            match at_point(a, b, &values, complex, budget)? {
                Sample::Equal => equal += 1,
                Sample::Different => return Ok(Identity::Different("numeric")),
                Sample::Skip => {}
                Sample::Unclear => return Ok(Identity::Unknown),
            }
        }
        if equal >= 3 {
            return Ok(Identity::Same("numeric"));
        }
    }
    Ok(Identity::Undefined)
}

/// True for operations that are only defined or only meant for integers.
fn is_discrete(node: &Expr) -> bool {
    match node {
        Expr::Func(Func::Factorial | Func::DoubleFactorial | Func::Gcd | Func::Lcm | Func::Mod, args) => {
            args.iter().any(|arg| !is_constant(arg))
        }
        Expr::Func(Func::Binom, args) => !is_constant(&args[1]),
        Expr::Big(BigOp::Sum | BigOp::Product, _, parts) => !is_constant(&parts[0]) || !is_constant(&parts[1]),
        Expr::Pow(base, exponent) => {
            !is_constant(exponent) && matches!(rational(base), Some(value) if value < BigRational::zero())
        }
        _ => false,
    }
}

enum Sample {
    Equal,
    Different,
    /// Not defined here, or real on one side only.
    Skip,
    Unclear,
}

fn at_point(
    a: &Expr,
    b: &Expr,
    values: &[(String, BigRational)],
    complex: bool,
    budget: &mut Budget,
) -> Result<Sample, Exhausted> {
    for precision in PRECISIONS {
        let point = Point { values, precision };
        let (left, right) = (eval(a, &point, budget), eval(b, &point, budget));
        if budget.is_exhausted() {
            return Err(Exhausted);
        }
        let (left, right) = match (left, right) {
            (Ok(left), Ok(right)) => (left, right),
            (Err(NumError::Imprecise), Ok(_) | Err(NumError::Imprecise)) | (Ok(_), Err(NumError::Imprecise)) => {
                continue;
            }
            (Err(NumError::Range), _) | (_, Err(NumError::Range)) if values.is_empty() => return Ok(Sample::Unclear),
            _ => return Ok(Sample::Skip),
        };
        if !(complex || is_real(&left) && is_real(&right)) {
            return Ok(Sample::Skip);
        }
        let gap = left.sub(&right, precision);
        if !gap.contains_zero() {
            return Ok(Sample::Different);
        }
        if is_tight(&gap, &left, precision) {
            // constants are compared twice as precisely as functions
            if !values.is_empty()
                || precision >= PRECISIONS[2]
                || (left.re.radius().is_zero() && right.re.radius().is_zero())
            {
                return Ok(Sample::Equal);
            }
        }
    }
    Ok(if values.is_empty() { Sample::Unclear } else { Sample::Skip })
}

/// An imaginary part that is zero within the error counts as real.
fn is_real(value: &Complex) -> bool {
    value.is_real() || value.im.contains_zero()
}

/// The error is small against the numbers that were subtracted.
fn is_tight(gap: &Complex, value: &Complex, precision: u64) -> bool {
    let size = value.re.magnitude_bits().max(value.im.magnitude_bits()).max(-(precision as i64));
    let error = gap.re.radius().plus(gap.im.radius());
    error.is_zero() || error.log2_up() < size - precision as i64 / 3
}

/// A counter-based source of points, the same for every comparison.
struct Generator {
    state: u64,
}

impl Generator {
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.state >> 33
    }

    fn value(&mut self, region: Region) -> BigRational {
        let raw = self.next();
        let ratio = |over: u64, under: u64| BigRational::new(over.into(), under.into());
        match region {
            Region::Positive => ratio(raw % 4000 + 311, 997),
            Region::Negative => -ratio(raw % 4000 + 211, 1009),
            Region::Mixed => {
                let size = ratio(raw % 3000 + 157, 983);
                if self.next().is_multiple_of(2) { size } else { -size }
            }
            Region::Unit => ratio(raw % 900 + 50, 1013),
            Region::Large => ratio(raw % 90_000 + 15_000, 977),
            Region::Integers => BigRational::from_integer((raw % 9 + 1).into()),
        }
    }
}
