//! ast: what an answer means, as a tree of bounded depth.

use num_rational::BigRational;

use crate::read::units::Unit;

/// Named constants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Const {
    /// 3.14159..
    Pi,
    /// 2.71828..
    E,
    /// The imaginary unit.
    I,
    /// Positive infinity.
    Infinity,
}

/// Functions with a known meaning. The number of arguments is checked by the parser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Func {
    Sin,
    Cos,
    Tan,
    Cot,
    Sec,
    Csc,
    Asin,
    Acos,
    Atan,
    Acot,
    Asec,
    Acsc,
    Sinh,
    Cosh,
    Tanh,
    Coth,
    Sech,
    Csch,
    Asinh,
    Acosh,
    Atanh,
    Ln,
    /// `log(base, x)`.
    Log,
    Exp,
    Abs,
    Floor,
    Ceil,
    Factorial,
    DoubleFactorial,
    /// `binom(n, k)`.
    Binom,
    /// `root(n, x)`: the n-th root, real for odd n.
    Root,
    Gcd,
    Lcm,
    Max,
    Min,
    /// `mod(a, b)`.
    Mod,
    Re,
    Im,
    Arg,
    Conj,
    Sign,
    Gamma,
}

/// Indexed operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BigOp {
    Sum,
    Product,
}

/// Relations between two sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RelOp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Approx,
    In,
    NotIn,
    Subset,
    Congruent,
    /// Maps to, implies, proportional to, similar to, parallel and other relations compared by shape only.
    Other(&'static str),
}

impl RelOp {
    /// The same relation read from right to left, for those that have one.
    pub fn flipped(self) -> RelOp {
        match self {
            RelOp::Lt => RelOp::Gt,
            RelOp::Le => RelOp::Ge,
            RelOp::Gt => RelOp::Lt,
            RelOp::Ge => RelOp::Le,
            other => other,
        }
    }

    /// `<`, `<=`, `>` or `>=`.
    pub fn is_order(self) -> bool {
        matches!(self, RelOp::Lt | RelOp::Le | RelOp::Gt | RelOp::Ge)
    }
}

/// Brackets around a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bracket {
    Round,
    Square,
    Angle,
}

/// Sets with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NamedSet {
    Reals,
    Integers,
    Naturals,
    Rationals,
    Complexes,
    Empty,
}

/// Operations on sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetOp {
    Union,
    Intersection,
    Minus,
}

/// An answer, or a part of one.
#[derive(Debug, Clone, PartialEq)]
pub enum Expr {
    /// An exact number. `places` is the count of digits behind the decimal point when it was written as a decimal.
    Num(BigRational, Option<u32>),
    /// A variable, its subscript included: `x`, `a_10`, `theta`.
    Sym(String),
    /// A constant.
    Const(Const),
    /// A sum of at least two terms.
    Add(Vec<Expr>),
    /// A product of at least two factors.
    Mul(Vec<Expr>),
    /// A negative.
    Neg(Box<Expr>),
    /// A quotient.
    Div(Box<Expr>, Box<Expr>),
    /// A power.
    Pow(Box<Expr>, Box<Expr>),
    /// Both signs: `a ± b`, or `± b` when the first is none. The flag is true for `∓`.
    PlusMinus(Option<Box<Expr>>, Box<Expr>, bool),
    /// A known function.
    Func(Func, Vec<Expr>),
    /// An unknown function: `f(x)`.
    Apply(String, Vec<Expr>),
    /// A sum or product over an index: variable, first, last, body.
    Big(BigOp, String, Box<[Expr; 3]>),
    /// Something with a shape but no value here: a derivative, an integral, an accent. Name and parts.
    Shape(String, Vec<Expr>),
    /// A percentage: the number before the sign.
    Percent(Box<Expr>),
    /// Degrees: the number before the sign.
    Degree(Box<Expr>),
    /// A number with a unit or currency.
    Quantity(Box<Expr>, Unit),
    /// A number with a scale word behind it: `24 million`, `25 basis points`. The number and the factor.
    Scaled(Box<Expr>, BigRational),
    /// Digits in a base: their value, the digits, the base.
    Based(Box<Expr>, String, u32),
    /// A sequence in brackets: a point, vector, open or closed interval.
    Tuple(Bracket, Vec<Expr>),
    /// A half-open interval: `[a, b)` when the first flag is true, `(a, b]` when the second is.
    HalfOpen(Box<[Expr; 2]>, bool, bool),
    /// A set given by its elements.
    Set(Vec<Expr>),
    /// A set given by a condition: element, condition.
    SetBuilder(Box<[Expr; 2]>),
    /// A set with a name.
    Named(NamedSet),
    /// An operation on sets.
    SetOp(SetOp, Vec<Expr>),
    /// Several answers without brackets: `1, 2 and 3`.
    List(Vec<Expr>),
    /// Rows of a matrix.
    Matrix(Vec<Vec<Expr>>),
    /// A chain of relations: one more term than operators.
    Rel(Vec<Expr>, Vec<RelOp>),
    /// All of these hold (true) or one of these (false).
    Logic(bool, Vec<Expr>),
    /// Branches: value, condition.
    Cases(Vec<(Expr, Expr)>),
    /// A ratio `a : b : c`.
    Ratio(Vec<Expr>),
    /// A time of day in minutes from midnight (or noon), with am (false) or pm (true) when given.
    Time(u32, u32, Option<bool>),
    /// Words, lower case, single spaces.
    Text(String),
    /// Words and mathematics in turn.
    Prose(Vec<Expr>),
}

impl Expr {
    /// An integer.
    pub fn int(value: i64) -> Expr {
        Expr::Num(BigRational::from_integer(value.into()), None)
    }

    /// An exact number not written as a decimal.
    pub fn num(value: BigRational) -> Expr {
        Expr::Num(value, None)
    }

    /// A variable.
    pub fn sym(name: &str) -> Expr {
        Expr::Sym(name.to_string())
    }

    /// The integer this literally is.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Expr::Num(value, _) if value.is_integer() => value.to_integer().try_into().ok(),
            Expr::Neg(inner) => inner.as_int().map(|value| -value),
            _ => None,
        }
    }

    /// True for words without any mathematics.
    pub fn is_text(&self) -> bool {
        matches!(self, Expr::Text(_))
    }

    /// Calls `visit` on this node and all below it.
    pub fn walk(&self, visit: &mut impl FnMut(&Expr)) {
        visit(self);
        self.for_each_child(&mut |child| child.walk(visit));
    }

    /// True when `test` holds for this node or one below it.
    pub fn any(&self, test: &mut impl FnMut(&Expr) -> bool) -> bool {
        if test(self) {
            return true;
        }
        let mut found = false;
        self.for_each_child(&mut |child| found = found || child.any(test));
        found
    }

    /// Calls `visit` on each direct child.
    pub fn for_each_child(&self, visit: &mut impl FnMut(&Expr)) {
        match self {
            Expr::Num(..) | Expr::Sym(_) | Expr::Const(_) | Expr::Named(_) | Expr::Time(..) | Expr::Text(_) => {}
            Expr::Add(parts)
            | Expr::Mul(parts)
            | Expr::Func(_, parts)
            | Expr::Apply(_, parts)
            | Expr::Shape(_, parts) => {
                parts.iter().for_each(visit);
            }
            Expr::Tuple(_, parts)
            | Expr::Set(parts)
            | Expr::SetOp(_, parts)
            | Expr::List(parts)
            | Expr::Rel(parts, _) => {
                parts.iter().for_each(visit);
            }
            Expr::Logic(_, parts) | Expr::Ratio(parts) | Expr::Prose(parts) => parts.iter().for_each(visit),
            Expr::Neg(inner) | Expr::Percent(inner) | Expr::Degree(inner) | Expr::Quantity(inner, _) => visit(inner),
            Expr::Based(inner, ..) | Expr::Scaled(inner, _) => visit(inner),
            Expr::Div(over, under) | Expr::Pow(over, under) => {
                visit(over);
                visit(under);
            }
            Expr::PlusMinus(first, second, _) => {
                first.iter().for_each(|first| visit(first));
                visit(second);
            }
            Expr::Big(_, _, parts) => parts.iter().for_each(visit),
            Expr::HalfOpen(parts, ..) | Expr::SetBuilder(parts) => parts.iter().for_each(visit),
            Expr::Matrix(rows) => rows.iter().flatten().for_each(visit),
            Expr::Cases(cases) => cases.iter().for_each(|(value, condition)| {
                visit(value);
                visit(condition);
            }),
        }
    }

    /// The tree with each direct child replaced.
    pub fn map_children(self, change: &mut impl FnMut(Expr) -> Expr) -> Expr {
        let boxed = |inner: Box<Expr>, change: &mut dyn FnMut(Expr) -> Expr| Box::new(change(*inner));
        match self {
            Expr::Num(..) | Expr::Sym(_) | Expr::Const(_) | Expr::Named(_) | Expr::Time(..) | Expr::Text(_) => self,
            Expr::Add(parts) => Expr::Add(parts.into_iter().map(change).collect()),
            Expr::Mul(parts) => Expr::Mul(parts.into_iter().map(change).collect()),
            Expr::Func(func, parts) => Expr::Func(func, parts.into_iter().map(change).collect()),
            Expr::Apply(name, parts) => Expr::Apply(name, parts.into_iter().map(change).collect()),
            Expr::Shape(name, parts) => Expr::Shape(name, parts.into_iter().map(change).collect()),
            Expr::Tuple(bracket, parts) => Expr::Tuple(bracket, parts.into_iter().map(change).collect()),
            Expr::Set(parts) => Expr::Set(parts.into_iter().map(change).collect()),
            Expr::SetOp(op, parts) => Expr::SetOp(op, parts.into_iter().map(change).collect()),
            Expr::List(parts) => Expr::List(parts.into_iter().map(change).collect()),
            Expr::Rel(parts, ops) => Expr::Rel(parts.into_iter().map(change).collect(), ops),
            Expr::Logic(all, parts) => Expr::Logic(all, parts.into_iter().map(change).collect()),
            Expr::Ratio(parts) => Expr::Ratio(parts.into_iter().map(change).collect()),
            Expr::Prose(parts) => Expr::Prose(parts.into_iter().map(change).collect()),
            Expr::Neg(inner) => Expr::Neg(boxed(inner, change)),
            Expr::Percent(inner) => Expr::Percent(boxed(inner, change)),
            Expr::Degree(inner) => Expr::Degree(boxed(inner, change)),
            Expr::Quantity(inner, unit) => Expr::Quantity(boxed(inner, change), unit),
            Expr::Scaled(inner, factor) => Expr::Scaled(boxed(inner, change), factor),
            Expr::Based(inner, digits, base) => Expr::Based(boxed(inner, change), digits, base),
            Expr::Div(over, under) => Expr::Div(boxed(over, change), boxed(under, change)),
            Expr::Pow(over, under) => Expr::Pow(boxed(over, change), boxed(under, change)),
            Expr::PlusMinus(first, second, flip) => {
                Expr::PlusMinus(first.map(|first| boxed(first, change)), boxed(second, change), flip)
            }
            Expr::Big(op, name, parts) => Expr::Big(op, name, Box::new(parts.map(change))),
            Expr::HalfOpen(parts, left, right) => Expr::HalfOpen(Box::new(parts.map(change)), left, right),
            Expr::SetBuilder(parts) => Expr::SetBuilder(Box::new(parts.map(change))),
            Expr::Matrix(rows) => {
                Expr::Matrix(rows.into_iter().map(|row| row.into_iter().map(&mut *change).collect()).collect())
            }
            Expr::Cases(cases) => {
                Expr::Cases(cases.into_iter().map(|(value, test)| (change(value), change(test))).collect())
            }
        }
    }
}
