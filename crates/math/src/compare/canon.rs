//! canon: tree -> canonical quotient of polynomials.

use std::collections::BTreeMap;

use num_bigint::BigInt;
use num_integer::Integer;
use num_rational::BigRational;
use num_traits::{One, Signed, ToPrimitive, Zero};

use crate::compare::fraction::Fraction;
use crate::compare::poly::{Atom, Exponent, NoForm, Poly, factoring_steps, factors};
use crate::number::budget::Budget;
use crate::read::ast::{BigOp, Const, Expr, Func};

/// Builds canonical forms and remembers what their opaque atoms stand for.
pub struct Canon<'a> {
    /// Steps that are left.
    pub budget: &'a mut Budget,
    /// A number was not factored completely: a form that is not zero proves nothing.
    pub uncertain: bool,
    /// Opaque atoms by name.
    pub others: BTreeMap<String, Expr>,
}

type Result = std::result::Result<Fraction, NoForm>;

/// Sums and products over more terms than this are not written out.
const TERM_LIMIT: i64 = 300;

/// Exponents with longer names are not taken apart.
const NAME_LIMIT: usize = 300;

/// The largest factorial that is multiplied out.
const FACTORIAL_LIMIT: u32 = 3000;

impl Canon<'_> {
    /// The canonical form of `expr`.
    pub fn form(&mut self, expr: &Expr) -> Result {
        self.budget.spend(1)?;
        match expr {
            Expr::Num(value, _) => Ok(Fraction::number(value.clone())),
            Expr::Sym(name) => Ok(Fraction::whole(Poly::atom(Atom::Sym(name.clone())))),
            Expr::Const(Const::Pi) => Ok(Fraction::whole(Poly::atom(Atom::Pi))),
            Expr::Const(Const::E) => Ok(Fraction::whole(Poly::atom(Atom::E))),
            Expr::Const(Const::I) => Ok(Fraction::whole(Poly::atom(Atom::I))),
            Expr::Add(terms) => {
                let mut sum = Fraction::number(BigRational::zero());
                for term in terms {
                    let term = self.form(term)?;
                    sum = sum.plus(&term, self.budget)?;
                }
                Ok(sum)
            }
            Expr::Mul(factors) => {
                let mut product = Fraction::number(BigRational::one());
                for factor in factors {
                    let factor = self.form(factor)?;
                    product = product.times(&factor, self.budget)?;
                }
                Ok(product)
            }
            Expr::Neg(inner) => Ok(self.form(inner)?.negative()),
            Expr::Div(over, under) => {
                let (over, under) = (self.form(over)?, self.form(under)?.inverse()?);
                over.times(&under, self.budget)
            }
            Expr::Pow(base, exponent) => self.power(expr, base, exponent),
            Expr::Func(func, args) => self.function(expr, *func, args),
            Expr::Percent(inner) => {
                self.form(inner)?.times(&Fraction::number(BigRational::new(1.into(), 100.into())), self.budget)
            }
            Expr::Degree(inner) => {
                let factor =
                    Poly::constant(BigRational::new(1.into(), 180.into())).times(&Poly::atom(Atom::Pi), self.budget)?;
                self.form(inner)?.times(&Fraction::whole(factor), self.budget)
            }
            Expr::Based(inner, ..) => self.form(inner),
            Expr::Scaled(inner, factor) => self.form(inner)?.times(&Fraction::number(factor.clone()), self.budget),
            Expr::Big(op, index, parts) => self.big(expr, *op, index, parts),
            Expr::Apply(..) | Expr::Shape(..) => Ok(self.opaque(expr)),
            _ => Err(NoForm::Undefined),
        }
    }

    /// A power as one atom, its exponent's form being known.
    fn opaque_power(&mut self, whole: &Expr, base: &Expr, exponent: &Fraction) -> Result {
        let base = match self.form(base) {
            Ok(form) => spelled(&form),
            Err(NoForm::Exhausted) => return Err(NoForm::Exhausted),
            Err(_) => crate::read::print::print(base),
        };
        let name = format!("Pow[{base};{}]", spelled(exponent));
        self.budget.spend(name.len() as u64 / 32)?;
        Ok(self.named(name, whole))
    }

    /// The subexpression as one atom, named by how it is written.
    fn printed(&mut self, expr: &Expr) -> Fraction {
        let name = crate::read::print::print(expr);
        self.named(name, expr)
    }

    /// The subexpression as one atom, named by its own canonical parts.
    fn opaque(&mut self, expr: &Expr) -> Fraction {
        let name = self.name(expr);
        if name.len() > 20 * NAME_LIMIT {
            return self.printed(expr);
        }
        self.named(name, expr)
    }

    fn named(&mut self, name: String, expr: &Expr) -> Fraction {
        self.others.entry(name.clone()).or_insert_with(|| expr.clone());
        Fraction::whole(Poly::atom(Atom::Other(name)))
    }

    fn name(&mut self, expr: &Expr) -> String {
        let parts: Vec<&Expr> = match expr {
            Expr::Func(_, args) | Expr::Apply(_, args) | Expr::Shape(_, args) => args.iter().collect(),
            _ => Vec::new(),
        };
        let head = match expr {
            Expr::Func(func, _) => format!("{func:?}"),
            Expr::Apply(name, _) | Expr::Shape(name, _) => name.clone(),
            _ => return crate::read::print::print(expr),
        };
        let parts: Vec<String> = parts
            .into_iter()
            .map(|part| match self.form(part) {
                Ok(form) => spelled(&form),
                Err(_) => crate::read::print::print(part),
            })
            .collect();
        format!("{head}[{}]", parts.join(";"))
    }

    fn power(&mut self, whole: &Expr, base: &Expr, exponent: &Expr) -> Result {
        let exponent = match self.form(exponent) {
            Ok(exponent) => exponent,
            Err(NoForm::TooLarge) => return Ok(self.printed(whole)),
            Err(other) => return Err(other),
        };
        let Some(value) = exponent.as_rational() else { return self.symbolic_power(whole, base, &exponent) };
        let base = match self.form(base) {
            Ok(base) => base,
            Err(NoForm::TooLarge) => return Ok(self.printed(whole)),
            Err(other) => return Err(other),
        };
        let form = self.rational_power(&base, &value);
        match form {
            Ok(Some(form)) => Ok(form),
            Ok(None) | Err(NoForm::TooLarge) => {
                let name = format!("Pow[{};{value}]", spelled(&base));
                Ok(self.named(name, whole))
            }
            Err(other) => Err(other),
        }
    }

    fn rational_power(
        &mut self,
        base: &Fraction,
        exponent: &BigRational,
    ) -> std::result::Result<Option<Fraction>, NoForm> {
        if exponent.is_integer() {
            let exponent = exponent.to_integer().to_i64().ok_or(NoForm::TooLarge)?;
            if exponent == 0 {
                return Ok(Some(Fraction::number(BigRational::one())));
            }
            return base.power(exponent, self.budget).map(Some);
        }
        let (Some(over), Some(under)) = (exponent.numer().to_i64(), exponent.denom().to_i64()) else {
            return Err(NoForm::TooLarge);
        };
        if base.over.is_zero() && over < 0 {
            return Err(NoForm::Undefined);
        }
        Ok(base.root(Exponent::new(over, under), &mut self.uncertain, self.budget)?)
    }

    /// Powers with variables above: `2^(n+3) = 8 * 2^n`, `e^(2x) = (e^x)^2`.
    fn symbolic_power(&mut self, whole: &Expr, base: &Expr, exponent: &Fraction) -> Result {
        let name = match base {
            Expr::Const(Const::E) => "e".to_string(),
            Expr::Num(value, _) if value.is_integer() && value.is_positive() && value.numer().bits() < 64 => {
                value.numer().to_string()
            }
            Expr::Sym(name) => name.clone(),
            _ => return self.opaque_power(whole, base, exponent),
        };
        if exponent.under.as_rational() != Some(BigRational::one()) {
            return self.opaque_power(whole, base, exponent);
        }
        let bases = match base {
            Expr::Num(value, _) => factors(value, &mut self.uncertain)
                .ok_or(NoForm::TooLarge)?
                .into_iter()
                .map(|(prime, count)| (prime.to_string(), count))
                .collect(),
            _ => vec![(name, 1)],
        };
        let mut product = Fraction::number(BigRational::one());
        for (base_name, count) in bases {
            let base = match (base, base_name.parse::<BigInt>()) {
                (Expr::Num(..), Ok(prime)) => Expr::num(BigRational::from_integer(prime)),
                _ => base.clone(),
            };
            for (monomial, value) in &exponent.over.terms {
                let value = value * BigInt::from(count);
                let factor = if monomial.is_empty() {
                    let base = self.form(&base)?;
                    self.rational_power(&base, &value)?.ok_or(NoForm::TooLarge)?
                } else {
                    let (Some(over), Some(under)) = (value.numer().to_i64(), value.denom().to_i64()) else {
                        return Err(NoForm::TooLarge);
                    };
                    let unit = Poly { terms: BTreeMap::from([(monomial.clone(), BigRational::one())]) };
                    let exponent = spelled(&Fraction::whole(unit.clone()));
                    // towers would triple their names at every level
                    if exponent.len() > NAME_LIMIT {
                        return Ok(self.printed(whole));
                    }
                    let name = format!("{base_name}^[{exponent}]");
                    let meaning = Expr::Pow(Box::new(base.clone()), Box::new(self.expr_of(&unit)));
                    self.others.entry(name.clone()).or_insert(meaning);
                    let power = vec![(Atom::Other(name), Exponent::new(over, under))];
                    Fraction::whole(Poly { terms: BTreeMap::from([(power, BigRational::one())]) })
                };
                product = product.times(&factor, self.budget)?;
            }
        }
        Ok(product)
    }

    fn big(&mut self, whole: &Expr, op: BigOp, index: &str, parts: &[Expr; 3]) -> Result {
        let bound = |form: Fraction| {
            form.as_rational().filter(BigRational::is_integer).and_then(|value| value.to_integer().to_i64())
        };
        let (first, last) = (self.form(&parts[0]).map(bound), self.form(&parts[1]).map(bound));
        let (Ok(Some(first)), Ok(Some(last))) = (first, last) else { return Ok(self.opaque(whole)) };
        if last.saturating_sub(first) > TERM_LIMIT {
            return Ok(self.opaque(whole));
        }
        let mut total = Fraction::number(if op == BigOp::Sum { BigRational::zero() } else { BigRational::one() });
        let mut size = 0;
        parts[2].walk(&mut |_| size += 1);
        for k in first..=last {
            self.budget.spend(size)?;
            let body = substituted(parts[2].clone(), index, &Expr::int(k));
            let term = self.form(&body)?;
            total = if op == BigOp::Sum { total.plus(&term, self.budget)? } else { total.times(&term, self.budget)? };
        }
        Ok(total)
    }

    fn function(&mut self, whole: &Expr, func: Func, args: &[Expr]) -> Result {
        if func == Func::Exp {
            return self.form(&Expr::Pow(Box::new(Expr::Const(Const::E)), Box::new(args[0].clone())));
        }
        if func == Func::Root {
            if let (Some(index), Ok(value)) =
                (args[0].as_int().filter(|index| (1..1000).contains(index)), self.form(&args[1]))
            {
                let form = match index {
                    1 => Some(value),
                    _ => value.root(Exponent::new(1, index), &mut self.uncertain, self.budget)?,
                };
                return Ok(form.unwrap_or_else(|| self.opaque(whole)));
            }
            return Ok(self.opaque(whole));
        }
        let mut values = Vec::with_capacity(args.len());
        for arg in args {
            match self.form(arg) {
                Ok(form) => values.push(form.as_rational()),
                Err(NoForm::TooLarge) => values.push(None),
                Err(other) => return Err(other),
            }
        }
        let values: Option<Vec<BigRational>> = values.into_iter().collect();
        let exact = match values {
            Some(values) => self.of_numbers(func, &values)?,
            None => None,
        };
        Ok(match exact {
            Some(form) => form,
            None => self.opaque(whole),
        })
    }

    /// Functions of rational numbers with an exact value.
    fn of_numbers(&mut self, func: Func, values: &[BigRational]) -> std::result::Result<Option<Fraction>, NoForm> {
        let x = &values[0];
        let integers: Option<Vec<BigInt>> =
            values.iter().map(|value| value.is_integer().then(|| value.to_integer())).collect();
        let whole = |value: BigInt| Some(BigRational::from_integer(value));
        let value = match (func, integers) {
            (Func::Abs, _) => Some(x.abs()),
            (Func::Floor, _) => Some(x.floor()),
            (Func::Ceil, _) => Some(x.ceil()),
            (Func::Sign, _) => Some(x.signum()),
            (Func::Re | Func::Conj, _) => Some(x.clone()),
            (Func::Im, _) => Some(BigRational::zero()),
            (Func::Max, _) => values.iter().max().cloned(),
            (Func::Min, _) => values.iter().min().cloned(),
            (Func::Factorial | Func::DoubleFactorial, Some(n)) => {
                if n[0].is_negative() {
                    return Err(NoForm::Undefined);
                }
                let n = n[0].to_u32().filter(|n| *n <= FACTORIAL_LIMIT);
                let Some(n) = n else { return Ok(None) };
                self.budget.spend(u64::from(n) / 2)?;
                let step = if func == Func::Factorial { 1 } else { 2 };
                let mut product = BigInt::one();
                let mut k = n;
                while k > 1 {
                    product *= k;
                    k = k.saturating_sub(step);
                }
                whole(product)
            }
            (Func::Binom, Some(n)) if n[0] >= n[1] && !n[1].is_negative() => {
                let k = n[1].clone().min(&n[0] - &n[1]);
                let Some(k) = k.to_u32().filter(|k| *k <= 1000) else { return Ok(None) };
                self.budget.spend(u64::from(k))?;
                let mut product = BigInt::one();
                for j in 0..k {
                    product = product * (&n[0] - j) / (j + 1);
                }
                whole(product)
            }
            (Func::Binom, Some(n)) if !n[0].is_negative() && (n[0] < n[1] || n[1].is_negative()) => {
                Some(BigRational::zero())
            }
            (Func::Gcd, Some(n)) => whole(n.iter().fold(BigInt::zero(), |all, one| all.gcd(one))),
            (Func::Lcm, Some(n)) => whole(n.iter().fold(BigInt::one(), |all, one| all.lcm(one))),
            (Func::Mod, Some(n)) if !n[1].is_zero() => whole(n[0].mod_floor(&n[1])),
            (Func::Ln, _) if x.is_positive() => {
                self.budget.spend(factoring_steps(x))?;
                let mut sum = Fraction::number(BigRational::zero());
                for (prime, count) in factors(x, &mut self.uncertain).unwrap_or_default() {
                    let log = Expr::Func(Func::Ln, vec![Expr::num(BigRational::from_integer(prime.clone()))]);
                    let name = format!("Ln[{prime}]");
                    self.others.entry(name.clone()).or_insert(log);
                    let term = Poly::atom(Atom::Other(name))
                        .times(&Poly::constant(BigRational::from_integer(count.into())), self.budget)?;
                    sum = sum.plus(&Fraction::whole(term), self.budget)?;
                }
                return Ok(Some(sum));
            }
            (Func::Log, _) if x.is_positive() && values[1].is_positive() && !x.is_one() => {
                let over = self.of_numbers(Func::Ln, &values[1..])?;
                let under = self.of_numbers(Func::Ln, &values[..1])?;
                let (Some(over), Some(under)) = (over, under) else { return Ok(None) };
                return over.times(&under.inverse()?, self.budget).map(Some);
            }
            _ => None,
        };
        Ok(value.map(Fraction::number))
    }

    /// The tree of a polynomial.
    pub fn expr_of(&self, poly: &Poly) -> Expr {
        let mut terms = Vec::new();
        for (monomial, value) in &poly.terms {
            let mut factors = Vec::new();
            if !value.is_one() || monomial.is_empty() {
                factors.push(Expr::num(value.clone()));
            }
            for (atom, power) in monomial {
                let base = match atom {
                    Atom::I => Expr::Const(Const::I),
                    Atom::E => Expr::Const(Const::E),
                    Atom::Pi => Expr::Const(Const::Pi),
                    Atom::Prime(prime) => Expr::num(BigRational::from_integer(prime.clone())),
                    Atom::Sym(name) => Expr::sym(name),
                    Atom::Other(name) => self.others.get(name).cloned().unwrap_or_else(|| Expr::sym(name)),
                };
                if power.is_one() {
                    factors.push(base);
                } else {
                    let power = Expr::num(BigRational::new((*power.numer()).into(), (*power.denom()).into()));
                    // a power of a power is one power, or it would leave its branch
                    factors.push(match base {
                        Expr::Pow(base, inner) => Expr::Pow(base, Box::new(Expr::Mul(vec![power, *inner]))),
                        base => Expr::Pow(Box::new(base), Box::new(power)),
                    });
                }
            }
            terms.push(if factors.len() == 1 { factors.pop().expect("one factor") } else { Expr::Mul(factors) });
        }
        match terms.len() {
            0 => Expr::int(0),
            1 => terms.pop().expect("one term"),
            _ => Expr::Add(terms),
        }
    }
}

/// A name for a form; equal forms have equal names.
fn spelled(form: &Fraction) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    for (part, poly) in [("", &form.over), ("/", &form.under)] {
        if !part.is_empty() && poly.as_rational().is_some_and(|value| value.is_one()) {
            continue;
        }
        text.push_str(part);
        for (monomial, value) in &poly.terms {
            let _ = write!(text, "+{value}");
            for (atom, power) in monomial {
                let _ = match atom {
                    Atom::I => write!(text, "*i"),
                    Atom::E => write!(text, "*e^{power}"),
                    Atom::Pi => write!(text, "*pi^{power}"),
                    Atom::Prime(prime) => write!(text, "*{prime}^{power}"),
                    Atom::Sym(name) | Atom::Other(name) => write!(text, "*{name}^{power}"),
                };
            }
        }
    }
    text
}

/// `expr` with a variable replaced.
pub fn substituted(expr: Expr, name: &str, value: &Expr) -> Expr {
    match expr {
        Expr::Sym(found) if found == name => value.clone(),
        Expr::Big(_, ref index, _) if index == name => expr,
        other => other.map_children(&mut |child| substituted(child, name, value)),
    }
}
