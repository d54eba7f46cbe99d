//! families: answers with a parameter for every integer, `x = \frac{\pi}{4} + k\pi, k \in \mathbb{Z}`.

use crate::compare::canon::substituted;
use crate::compare::equal::{Answer, Comparison};
use crate::compare::identity;
use crate::compare::names;
use crate::read::ast::{Expr, NamedSet, RelOp};

/// A list, and what is left of it without the declarations of its parameters, where there are some.
type Declared<'a> = (&'a Expr, Option<Expr>);

impl Comparison<'_> {
    /// Compares two answers of which one or both declare parameters; the parameters' names do not matter.
    pub(super) fn families(&mut self, a: Declared, b: Declared) -> Answer {
        let (first, second) = (declarations(a.0), declarations(b.0));
        if let ([(_, set)], [(_, other)]) = (first.as_slice(), second.as_slice())
            && set != other
        {
            return Ok(false);
        }
        let x = a.1.unwrap_or_else(|| a.0.clone());
        let y = b.1.unwrap_or_else(|| b.0.clone());
        let (name, set) = match (first.as_slice(), second.as_slice()) {
            ([one], [_] | []) | ([], [one]) => one,
            _ => return self.same(&x, &y),
        };
        // the reference's name, on both sides
        let renamed =
            |expr: Expr, other: &Expr, declared: &[(String, Expr)]| match own_name(&expr, other, declared, name) {
                Some(own) => substituted(expr, &own, &Expr::sym(name)),
                None => expr,
            };
        let (x, y) = (residues(x, name), residues(y, name));
        let (x, y) = (renamed(x.clone(), &y, &first), renamed(y, &x, &second));
        let whole = *set == Expr::Named(NamedSet::Integers) && is_one_family(&x) && is_one_family(&y);
        let before = std::mem::replace(&mut self.parameter, whole.then(|| name.clone()));
        let result = self.same(&x, &y);
        self.parameter = before;
        result
    }

    /// Two values that are linear in the parameter are the same family when they go through the same values:
    /// `2k + 1` and `2k - 1`.
    pub(super) fn same_family(&mut self, a: &Expr, b: &Expr) -> Answer {
        let Some(name) = self.parameter.clone() else { return Ok(false) };
        let (Some((start, step)), Some((other, pace))) = (self.linear(a, &name)?, self.linear(b, &name)?) else {
            return Ok(false);
        };
        let opposite = Expr::Neg(Box::new(pace.clone()));
        if !identity::compare(&step, &pace, &mut self.budget)?.is_same()
            && !identity::compare(&step, &opposite, &mut self.budget)?.is_same()
        {
            return Ok(false);
        }
        let between = Expr::Div(Box::new(minus(&other, &start)), Box::new(step));
        let steps = self.canon().form(&between).ok().and_then(|form| form.as_rational());
        let same = steps.is_some_and(|steps| steps.is_integer());
        if same {
            self.how("family");
        }
        Ok(same)
    }

    /// The value at 0 and the step of an expression that is linear in `name`, with a step that is a constant.
    fn linear(&mut self, expr: &Expr, name: &str) -> Result<Option<(Expr, Expr)>, crate::number::budget::Exhausted> {
        if !identity::variables(expr).contains(name) {
            return Ok(None);
        }
        let at = |value: i64| substituted(expr.clone(), name, &Expr::int(value));
        let (start, step) = (at(0), minus(&at(1), &at(0)));
        let line = Expr::Add(vec![start.clone(), Expr::Mul(vec![step.clone(), Expr::sym(name)])]);
        let linear = identity::is_constant(&step) && identity::compare(expr, &line, &mut self.budget)?.is_same();
        Ok(linear.then_some((start, step)))
    }
}

fn minus(a: &Expr, b: &Expr) -> Expr {
    Expr::Add(vec![a.clone(), Expr::Neg(Box::new(b.clone()))])
}

/// The parameters that a list declares, each with its set.
fn declarations(expr: &Expr) -> Vec<(String, Expr)> {
    let Expr::List(items) = expr else { return Vec::new() };
    let declared = |item: &Expr| match item {
        Expr::Rel(terms, operators) if operators.as_slice() == [RelOp::In] => match terms.as_slice() {
            [Expr::Sym(name), set] => Some((name.clone(), set.clone())),
            _ => None,
        },
        _ => None,
    };
    items.iter().filter_map(declared).collect()
}

/// The name of the parameter on a side: as it is declared, or the only name that the other side does not have.
fn own_name(expr: &Expr, other: &Expr, declared: &[(String, Expr)], name: &str) -> Option<String> {
    if let [(own, _)] = declared {
        return (own != name).then(|| own.clone());
    }
    let (own, others) = (identity::variables(names::value(expr)), identity::variables(other));
    if own.contains(name) {
        return None;
    }
    let mut strange = own.into_iter().filter(|own| !others.contains(own));
    strange.next().filter(|_| strange.next().is_none())
}

/// `n \equiv 1 \pmod 3` as `1 + 3k`.
fn residues(expr: Expr, name: &str) -> Expr {
    let Expr::Rel(terms, operators) = &expr else { return expr };
    let ([_, Expr::Mul(factors)], [RelOp::Eq]) = (terms.as_slice(), operators.as_slice()) else { return expr };
    let modulus = match factors.as_slice() {
        [rest, Expr::Sym(modulo), modulus] if modulo == "\\pmod" => Some((rest, modulus)),
        [rest, Expr::Shape(modulo, parts)] if modulo == "mod" => Some((rest, &parts[0])),
        _ => None,
    };
    match modulus {
        Some((rest, modulus)) => Expr::Add(vec![rest.clone(), Expr::Mul(vec![modulus.clone(), Expr::sym(name)])]),
        None => expr,
    }
}

/// True for one value, or several of the same unknown: the parts of a point share their parameter.
fn is_one_family(expr: &Expr) -> bool {
    match expr {
        Expr::List(items) => {
            items.windows(2).all(|pair| match (names::assignment(&pair[0]), names::assignment(&pair[1])) {
                (Some((first, _)), Some((second, _))) => names::same_stem(first, second),
                _ => false,
            })
        }
        Expr::Tuple(..) | Expr::Matrix(_) | Expr::Set(_) => false,
        _ => true,
    }
}
