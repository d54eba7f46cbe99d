//! quantity: what stands behind a term: its unit, the thing counted, the base of its digits.

use num_rational::BigRational;
use num_traits::{One, ToPrimitive};

use super::words::is_clause_word;
use super::{Parser, Result};
use crate::read::ast::{Const, Expr};
use crate::read::scale;
use crate::read::token::{Cmd, Delim, Tok, Token};
use crate::read::units::Unit;

impl Parser {
    /// A unit, a counted thing or the base of the digits, behind a term.
    pub(super) fn with_unit(&mut self, term: Expr) -> Result<Expr> {
        if matches!(term, Expr::Text(_) | Expr::Quantity(..)) && !matches!(term, Expr::Quantity(..)) {
            return Ok(term);
        }
        if matches!(self.peek(), Some(Tok::Word(word)) if word == "base")
            && let (Some(Tok::Num(base, ..)), Tok::Num(_, _, Some(digits))) =
                (self.peek_at(1), &self.tokens[self.at - 1].tok)
            && let Some(value) = super::atom::in_base(digits, base)
        {
            self.at += 2;
            return Ok(value);
        }
        let term = self.scaled(term);
        let term = self.rate(term);
        if let Some(close) = self.bracketed_words() {
            return self.in_brackets(term, close);
        }
        let start = self.at;
        if let Some(unit) = self.unit() {
            let amount = self.with_smaller_units(term, &unit);
            return Ok(Expr::Quantity(Box::new(amount), unit));
        }
        self.at = start;
        if let Some(name) = self.counted() {
            let unit = Unit { dimension: vec![(format!("#{name}"), 1)], scale: BigRational::one() };
            return Ok(Expr::Quantity(Box::new(term), unit));
        }
        self.at = start;
        Ok(term)
    }

    /// An amount of money for each of something: `$18 per day`.
    fn rate(&mut self, term: Expr) -> Expr {
        match (term, self.peek(), self.peek_at(1)) {
            (Expr::Quantity(amount, unit), Some(Tok::Word(per)), Some(Tok::Word(thing))) if per == "per" => {
                let counted = || Unit { dimension: vec![(format!("#{thing}"), 1)], scale: BigRational::one() };
                let unit = unit.times(&Unit::named(thing).unwrap_or_else(counted), -1);
                self.at += 2;
                Expr::Quantity(amount, unit)
            }
            (term, ..) => term,
        }
    }

    /// What stands behind an amount in smaller units: `8 hours 20 minutes`, `12 dollars and 50 cents`, `5 ft 6 in`.
    fn with_smaller_units(&mut self, amount: Expr, unit: &Unit) -> Expr {
        let mut parts = vec![amount];
        let mut smallest = unit.scale.clone();
        loop {
            let start = self.at;
            self.take(&Tok::And);
            let Some(Tok::Num(count, ..)) = self.peek().cloned() else {
                self.at = start;
                break;
            };
            self.at += 1;
            match self.unit() {
                Some(next)
                    if next.dimension == unit.dimension && &count * &next.scale < smallest && !unit.is_count() =>
                {
                    parts.push(Expr::num(count * &next.scale / &unit.scale));
                    smallest = next.scale;
                }
                _ => {
                    self.at = start;
                    break;
                }
            }
        }
        super::expr::sum_of(parts)
    }

    /// Scale words behind a number or an amount of money: `24 million`, `$12.6M`, `25 basis points`.
    fn scaled(&mut self, mut term: Expr) -> Expr {
        while let Some((factor, length)) = self.scale_here() {
            self.at += length;
            term = match term {
                Expr::Quantity(amount, unit) => Expr::Quantity(Box::new(Expr::Scaled(amount, factor)), unit),
                other => Expr::Scaled(Box::new(other), factor),
            };
        }
        term
    }

    /// The factor of a scale word, and the tokens it takes.
    fn scale_here(&self) -> Option<(BigRational, usize)> {
        match self.peek()? {
            Tok::Word(word) if word.eq_ignore_ascii_case("basis") => match self.peek_at(1)? {
                Tok::Word(point) if matches!(point.as_str(), "point" | "points") => Some((scale::word("bp")?, 2)),
                _ => None,
            },
            // the lexer makes words of short forms where they can be no product
            Tok::Word(word) => {
                scale::word(word).or_else(|| scale::suffix(word, word.len() == 1)).map(|factor| (factor, 1))
            }
            Tok::Ident(name) if self.tokens[self.at].upright => Some((scale::suffix(name, false)?, 1)),
            _ => None,
        }
    }

    /// Where words in brackets behind a number end, `9 (square feet)`, `24 (in millions)`: the closing bracket's place.
    pub(super) fn bracketed_words(&self) -> Option<usize> {
        if self.peek() != Some(&Tok::Open(Delim::Paren)) || self.at == 0 {
            return None;
        }
        let behind = &self.tokens[self.at - 1];
        let counts =
            matches!(behind.tok, Tok::Num(..) | Tok::Close(Delim::Group | Delim::Paren) | Tok::Word(_) | Tok::Degree);
        let is_word = |token: &Token| match &token.tok {
            Tok::Word(word) => matches!(word.as_str(), "in" | "of" | "per") || !is_clause_word(word),
            Tok::Degree | Tok::Percent | Tok::Op('/') => true,
            Tok::Ident(_) => token.upright,
            _ => false,
        };
        let inside = self.tokens[self.at + 1..self.end].iter().take_while(|token| is_word(token)).count();
        let close = self.at + 1 + inside;
        let words = (1..=5).contains(&inside) && !matches!(self.tokens[self.at + 1].tok, Tok::Op(_));
        let closes = close < self.end && self.tokens[close].tok == Tok::Close(Delim::Paren);
        (counts && words && closes && self.ends_item(close + 1)).then_some(close)
    }

    /// A number whose unit, scale or counted thing stands in brackets up to the token `close`.
    fn in_brackets(&mut self, term: Expr, close: usize) -> Result<Expr> {
        let end = std::mem::replace(&mut self.end, close);
        self.at += 1;
        if matches!(self.peek(), Some(Tok::Word(word)) if word == "in") {
            self.at += 1;
        }
        let mut term = self.scaled(term);
        if self.take(&Tok::Degree) {
            term = Expr::Degree(Box::new(term));
        } else if self.take(&Tok::Percent) {
            term = Expr::Percent(Box::new(term));
        }
        if self.at < close {
            let unit = self.unit().filter(|_| self.at == close);
            let counted = || Unit { dimension: vec![("#thing".to_string(), 1)], scale: BigRational::one() };
            term = Expr::Quantity(Box::new(term), unit.unwrap_or_else(counted));
        }
        self.end = end;
        self.at = close + 1;
        Ok(term)
    }

    /// True where an item ends at the token `at`.
    fn ends_item(&self, at: usize) -> bool {
        at >= self.end
            || matches!(
                self.tokens[at].tok,
                Tok::Comma | Tok::Semicolon | Tok::And | Tok::Or | Tok::Newline | Tok::Quad | Tok::Close(_)
            )
    }

    /// One to three words up to the end of an item that name what is counted.
    fn counted(&mut self) -> Option<String> {
        let mut words = Vec::new();
        while let Some(Tok::Word(word)) = self.peek() {
            let word = word.to_lowercase();
            if is_clause_word(&word) || !word.starts_with(|c: char| c.is_alphabetic()) {
                return None;
            }
            words.push(word);
            self.at += 1;
        }
        ((1..=3).contains(&words.len()) && self.ends_item(self.at)).then(|| words.join(" "))
    }

    /// `\frac{\text{m}}{\text{s}^2}` ahead, and the tokens it takes.
    pub(super) fn unit_fraction(&self) -> Option<(Unit, usize)> {
        if self.peek() != Some(&Tok::Cmd(Cmd::Frac)) {
            return None;
        }
        let (over, middle) = self.unit_group(1)?;
        let (under, end) = self.unit_group(middle)?;
        Some((over.times(&under, -1), end))
    }

    /// `{\text{s}^2}`: a unit and its power, `ahead` tokens on, and where its group ends.
    fn unit_group(&self, ahead: usize) -> Option<(Unit, usize)> {
        if self.peek_at(ahead) != Some(&Tok::Open(Delim::Group)) {
            return None;
        }
        let unit = match self.peek_at(ahead + 1)? {
            Tok::Word(word) => Unit::named(word)?,
            Tok::Ident(name) if self.tokens[self.at + ahead + 1].upright => Unit::named(name)?,
            _ => return None,
        };
        match (self.peek_at(ahead + 2)?, self.peek_at(ahead + 3), self.peek_at(ahead + 4)) {
            (Tok::Close(Delim::Group), ..) => Some((unit, ahead + 3)),
            (Tok::Op('^'), Some(Tok::Num(power, None, Some(_))), Some(Tok::Close(Delim::Group))) => {
                let power = power.to_integer().to_i32().filter(|power| (1..=9).contains(power))?;
                Some((unit.power(power), ahead + 5))
            }
            _ => None,
        }
    }

    fn unit(&mut self) -> Option<Unit> {
        if let Some((unit, length)) = self.unit_fraction() {
            self.at += length;
            return Some(unit);
        }
        let mut unit = self.one_unit()?;
        loop {
            let sign = match self.peek() {
                Some(Tok::Op('/')) => -1,
                Some(Tok::Op('*')) => 1,
                Some(Tok::Word(word)) if word == "per" => -1,
                _ if self.is_unit_here() => 1,
                _ => return Some(unit),
            };
            let before = self.at;
            if !self.is_unit_here() || matches!(self.peek(), Some(Tok::Word(word)) if word == "per") {
                self.at += 1;
            }
            match self.one_unit() {
                Some(next) => unit = unit.times(&next, sign),
                None => {
                    self.at = before;
                    return Some(unit);
                }
            }
        }
    }

    fn is_unit_here(&self) -> bool {
        match self.peek() {
            Some(Tok::Word(word)) => Unit::named(word).is_some(),
            Some(Tok::Ident(name)) => self.tokens[self.at].upright && Unit::named(name).is_some(),
            _ => false,
        }
    }

    fn one_unit(&mut self) -> Option<Unit> {
        let mut power = 1;
        if let Some(Tok::Word(word)) = self.peek() {
            power = match word.to_lowercase().as_str() {
                "square" | "sq" => 2,
                "cubic" | "cu" => 3,
                _ => 1,
            };
            if power > 1 {
                self.at += 1;
            }
        }
        let unit = match self.peek()? {
            Tok::Word(word) => Unit::named(word)?,
            Tok::Ident(name)
                if self.tokens[self.at].upright || matches!(self.tokens[self.at - 1].tok, Tok::Op('/')) =>
            {
                Unit::named(name)?
            }
            Tok::Const(Const::I) => return None,
            _ => return None,
        };
        self.at += 1;
        if let (Some(Tok::Word(word)), 1) = (self.peek(), power) {
            match word.as_str() {
                "squared" => power = 2,
                "cubed" => power = 3,
                _ => {}
            }
            if power > 1 {
                self.at += 1;
            }
        }
        if self.peek() == Some(&Tok::Op('^')) {
            let before = self.at;
            self.at += 1;
            match self
                .nested(Self::script)
                .ok()
                .and_then(|script| script.as_int())
                .filter(|power| (-9..=9).contains(power))
            {
                Some(exponent) => power = exponent as i32,
                None => {
                    self.at = before;
                    return None;
                }
            }
        }
        Some(unit.power(power))
    }
}
