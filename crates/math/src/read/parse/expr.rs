//! expr: sets, sums, products, signs, powers and what follows a factor.

use super::{ParseError, Parser, Result};
use crate::read::ast::{Expr, Func, SetOp};
use crate::read::scale;
use crate::read::token::{Cmd, Delim, Tok};
use crate::read::units::Unit;

impl Parser {
    /// Unions, intersections, differences of sets.
    pub(super) fn set_expression(&mut self) -> Result<Expr> {
        let mut left = self.sum()?;
        loop {
            let op = match self.peek() {
                Some(Tok::Cmd(Cmd::Cup)) => SetOp::Union,
                Some(Tok::Cmd(Cmd::Cap)) => SetOp::Intersection,
                Some(Tok::Cmd(Cmd::SetMinus)) => SetOp::Minus,
                _ => return Ok(left),
            };
            self.at += 1;
            self.deepen()?;
            let right = self.sum()?;
            left = match left {
                Expr::SetOp(same, mut parts) if same == op && op != SetOp::Minus => {
                    parts.push(right);
                    Expr::SetOp(op, parts)
                }
                other => Expr::SetOp(op, vec![other, right]),
            };
        }
    }

    /// A sum of terms.
    pub(super) fn sum(&mut self) -> Result<Expr> {
        let mut terms: Vec<Expr> = Vec::new();
        if let Some(flipped) = self.plus_minus() {
            let term = self.term()?;
            terms.push(Expr::PlusMinus(None, Box::new(term), flipped));
        } else {
            terms.push(self.term()?);
        }
        loop {
            if let Some(flipped) = self.plus_minus() {
                self.deepen()?;
                let right = self.term()?;
                let left = sum_of(std::mem::take(&mut terms));
                terms.push(Expr::PlusMinus(Some(Box::new(left)), Box::new(right), flipped));
                continue;
            }
            match self.peek() {
                Some(Tok::Op('+')) => {
                    self.at += 1;
                    terms.push(self.term()?);
                }
                Some(Tok::Op('-')) => {
                    self.at += 1;
                    let term = self.term()?;
                    // R - {1}
                    if let ([Expr::Named(_) | Expr::Set(_)], Expr::Set(_)) = (terms.as_slice(), &term) {
                        self.deepen()?;
                        terms.push(term);
                        let difference = Expr::SetOp(SetOp::Minus, std::mem::take(&mut terms));
                        terms.push(difference);
                        continue;
                    }
                    terms.push(negative(term));
                }
                _ => return Ok(sum_of(terms)),
            }
        }
    }

    fn plus_minus(&mut self) -> Option<bool> {
        let flipped = match self.peek() {
            Some(Tok::Cmd(Cmd::PlusMinus)) => false,
            Some(Tok::Cmd(Cmd::MinusPlus)) => true,
            _ => return None,
        };
        self.at += 1;
        Some(flipped)
    }

    /// A product of factors, explicit or implied, with a unit behind it.
    pub(super) fn term(&mut self) -> Result<Expr> {
        let mut negative_sign = false;
        while let Some(Tok::Op(sign @ ('+' | '-'))) = self.peek() {
            negative_sign ^= *sign == '-';
            self.at += 1;
        }
        let mut factors = vec![self.factor()?];
        loop {
            match self.peek() {
                Some(Tok::Op('*')) => {
                    self.at += 1;
                    let factor = self.signed_factor()?;
                    factors.push(factor);
                }
                Some(Tok::Op('/')) => {
                    self.at += 1;
                    self.deepen()?;
                    let mut under = self.signed_factor()?;
                    // AB/CD is a ratio of segments
                    if factors.len() > 1 && factors.iter().all(is_capital) {
                        let mut segment = vec![under];
                        while segment.iter().all(is_capital) && self.is_capital_here() {
                            segment.push(self.factor()?);
                        }
                        under = product_of(segment);
                    }
                    let over = product_of(std::mem::take(&mut factors));
                    factors.push(Expr::Div(Box::new(over), Box::new(under)));
                }
                Some(Tok::Cmd(Cmd::Mod)) => {
                    self.at += 1;
                    let modulus = self.factor()?;
                    let left = product_of(std::mem::take(&mut factors));
                    factors.push(Expr::Func(Func::Mod, vec![left, modulus]));
                }
                Some(tok) if self.starts_factor(tok) => {
                    // two numerals side by side are no product
                    if matches!(tok, Tok::Num(..)) && matches!(self.tokens[self.at - 1].tok, Tok::Num(..)) {
                        return Err(ParseError::Syntax);
                    }
                    let factor = self.factor()?;
                    match (factors.last_mut(), factor) {
                        // 45 degrees 30 minutes
                        (Some(last @ Expr::Degree(_)), Expr::Degree(rest)) => {
                            let whole = std::mem::replace(last, Expr::int(0));
                            if let Expr::Degree(whole) = whole {
                                *last = Expr::Degree(Box::new(sum_of(vec![*whole, *rest])));
                            }
                        }
                        (_, factor) => factors.push(factor),
                    }
                }
                _ => break,
            }
        }
        let mut term = product_of(factors);
        if negative_sign {
            term = negative(term);
        }
        self.with_unit(term)
    }

    fn is_capital_here(&self) -> bool {
        !self.tokens.get(self.at).is_some_and(|token| token.spaced)
            && matches!(self.peek(), Some(Tok::Ident(name)) if name.starts_with(|c: char| c.is_ascii_uppercase()))
    }

    fn signed_factor(&mut self) -> Result<Expr> {
        let mut negative_sign = false;
        while let Some(Tok::Op(sign @ ('+' | '-'))) = self.peek() {
            negative_sign ^= *sign == '-';
            self.at += 1;
        }
        let factor = self.factor()?;
        Ok(if negative_sign { negative(factor) } else { factor })
    }

    /// True when an implied product can go on with this token.
    pub(super) fn starts_factor(&self, tok: &Tok) -> bool {
        match tok {
            Tok::Num(..) | Tok::Func(_) | Tok::Const(_) | Tok::Named(_) | Tok::Begin(_) | Tok::Norm => true,
            Tok::Ident(_) => !self.unit_ahead(),
            Tok::Cmd(Cmd::Frac) if self.unit_fraction().is_some() => false,
            Tok::Open(Delim::Square) => !self.outward,
            Tok::Open(Delim::Paren) if self.bracketed_words().is_some() => false,
            Tok::Open(_) => true,
            Tok::Bar => self.bars == 0,
            Tok::Cmd(cmd) => matches!(
                cmd,
                Cmd::Frac
                    | Cmd::Sqrt
                    | Cmd::Cbrt
                    | Cmd::Binom
                    | Cmd::Sum
                    | Cmd::Prod
                    | Cmd::Integral
                    | Cmd::Limit
                    | Cmd::Dots
                    | Cmd::Accent(_)
                    | Cmd::Prefix(_)
            ),
            Tok::Currency(_) => matches!(self.peek_at(1), Some(Tok::Num(..))),
            _ => false,
        }
    }

    /// An upright letter behind a number is a unit.
    fn unit_ahead(&self) -> bool {
        let token = &self.tokens[self.at];
        match &token.tok {
            Tok::Ident(name) => {
                token.upright
                    && (Unit::named(name).is_some() || scale::suffix(name, false).is_some())
                    && self.at > 0
                    && !matches!(self.tokens[self.at - 1].tok, Tok::Ident(_))
            }
            Tok::Word(_) => true,
            _ => false,
        }
    }

    /// A base with its powers, factorials, percent and degree signs.
    pub(super) fn factor(&mut self) -> Result<Expr> {
        let base = self.nested(Self::primary)?;
        self.postfix(base)
    }

    fn postfix(&mut self, mut base: Expr) -> Result<Expr> {
        for _ in 0..16 {
            base = match self.peek() {
                Some(Tok::Op('^')) => {
                    self.at += 1;
                    self.power(base)?
                }
                Some(Tok::Degree) => {
                    self.at += 1;
                    self.degree(base)
                }
                Some(Tok::Op('!')) => {
                    self.at += 1;
                    let double = self.peek() == Some(&Tok::Op('!')) && !self.tokens[self.at].spaced;
                    if double {
                        self.at += 1;
                    }
                    Expr::Func(if double { Func::DoubleFactorial } else { Func::Factorial }, vec![base])
                }
                Some(Tok::Percent) => {
                    self.at += 1;
                    Expr::Percent(Box::new(base))
                }
                Some(Tok::Op('_')) => {
                    self.at += 1;
                    let label = self.script_text()?;
                    Expr::Shape(format!("sub {label}"), vec![base])
                }
                Some(Tok::Prime(_)) => self.primed(base),
                Some(Tok::Currency(symbol)) if !matches!(self.peek_at(1), Some(Tok::Num(..))) => {
                    let unit = Unit::currency(*symbol).ok_or(ParseError::Syntax)?;
                    self.at += 1;
                    Expr::Quantity(Box::new(base), unit)
                }
                _ => return Ok(base),
            };
        }
        Err(ParseError::TooLarge)
    }

    fn degree(&mut self, base: Expr) -> Expr {
        // temperatures
        if let Some(Tok::Ident(scale)) = self.peek() {
            let last = matches!(self.peek_at(1), None | Some(Tok::Comma | Tok::Close(_) | Tok::And | Tok::Or));
            if matches!(scale.as_str(), "C" | "F") && (self.tokens[self.at].upright || last) {
                let unit = Unit::named(scale).expect("temperature scales are units");
                self.at += 1;
                return Expr::Quantity(Box::new(base), unit);
            }
        }
        Expr::Degree(Box::new(base))
    }

    /// Minutes and seconds of arc behind numbers, derivatives behind names.
    fn primed(&mut self, base: Expr) -> Expr {
        let mut count = 0;
        while matches!(self.peek(), Some(Tok::Prime(_))) {
            count += 1;
            self.at += 1;
        }
        match base {
            Expr::Sym(name) => Expr::Sym(name + &"'".repeat(count)),
            Expr::Num(..) if count <= 2 => {
                let parts = Expr::int(60i64.pow(count as u32));
                Expr::Degree(Box::new(Expr::Div(Box::new(base), Box::new(parts))))
            }
            other => Expr::Shape(format!("prime {count}"), vec![other]),
        }
    }

    fn power(&mut self, base: Expr) -> Result<Expr> {
        // a sign alone: degrees, primes, transposition marks
        let group = self.peek() == Some(&Tok::Open(Delim::Group));
        let skip = usize::from(group);
        if self.peek_at(skip) == Some(&Tok::Degree) && (!group || self.peek_at(2) == Some(&Tok::Close(Delim::Group))) {
            self.at += 1 + 2 * skip;
            return Ok(self.degree(base));
        }
        // 45^o
        if matches!(base, Expr::Num(..))
            && matches!(self.peek_at(skip), Some(Tok::Ident(name) | Tok::Word(name)) if name == "o")
            && (!group || self.peek_at(2) == Some(&Tok::Close(Delim::Group)))
        {
            self.at += 1 + 2 * skip;
            return Ok(self.degree(base));
        }
        if matches!(self.peek_at(skip), Some(Tok::Prime(_))) {
            self.at += skip;
            let base = self.primed(base);
            if group {
                self.expect(&Tok::Close(Delim::Group))?;
            }
            return Ok(base);
        }
        if matches!(self.peek_at(skip), Some(Tok::Op('*' | '+' | '-')))
            && group
            && self.peek_at(2) == Some(&Tok::Close(Delim::Group))
        {
            self.at += 3;
            return Ok(Expr::Shape("mark".to_string(), vec![base]));
        }
        let exponent = self.nested(Self::script)?;
        // (1, 2, 3)^T is the vector
        if matches!((&base, &exponent), (Expr::Tuple(..), Expr::Sym(name)) if name == "T") {
            return Ok(base);
        }
        Ok(Expr::Pow(Box::new(base), Box::new(exponent)))
    }

    /// A lower bound or index: a group or one atom.
    pub(super) fn subscript(&mut self) -> Result<Expr> {
        self.atom()
    }

    /// A superscript: a group or one atom, with a sign.
    pub(super) fn script(&mut self) -> Result<Expr> {
        let mut negative_sign = false;
        while let Some(Tok::Op(sign @ ('+' | '-'))) = self.peek() {
            negative_sign ^= *sign == '-';
            self.at += 1;
        }
        let mut value = self.atom()?;
        // a tower without braces
        if self.peek() == Some(&Tok::Op('^')) {
            self.at += 1;
            let upper = self.nested(Self::script)?;
            value = Expr::Pow(Box::new(value), Box::new(upper));
        }
        Ok(if negative_sign { negative(value) } else { value })
    }
}

fn is_capital(expr: &Expr) -> bool {
    matches!(expr, Expr::Sym(name) if name.starts_with(|c: char| c.is_ascii_uppercase()))
}

/// The sum of terms; one term alone.
pub(super) fn sum_of(mut terms: Vec<Expr>) -> Expr {
    if terms.len() == 1 { terms.pop().expect("one term") } else { Expr::Add(terms) }
}

/// The product of factors; one factor alone.
pub(super) fn product_of(mut factors: Vec<Expr>) -> Expr {
    if factors.len() == 1 { factors.pop().expect("one factor") } else { Expr::Mul(factors) }
}

/// The negative; numbers are negated in place.
pub(super) fn negative(expr: Expr) -> Expr {
    match expr {
        Expr::Num(value, places) => Expr::Num(-value, places),
        Expr::Quantity(inner, unit) => Expr::Quantity(Box::new(negative(*inner)), unit),
        Expr::Percent(inner) => Expr::Percent(Box::new(negative(*inner))),
        Expr::Degree(inner) => Expr::Degree(Box::new(negative(*inner))),
        Expr::Scaled(inner, factor) => Expr::Scaled(Box::new(negative(*inner)), factor),
        other => Expr::Neg(Box::new(other)),
    }
}
