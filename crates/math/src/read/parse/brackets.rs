//! brackets: groups, sequences, intervals, sets, bars.

use super::{ParseError, Parser, Result, closes};
use crate::read::ast::{Bracket, Expr, Func, NamedSet, RelOp};
use crate::read::token::{Cmd, Delim, Tok};

impl Parser {
    /// Runs `inner` with bars that open again.
    pub(super) fn bracketed<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let bars = std::mem::take(&mut self.bars);
        let outward = std::mem::replace(&mut self.outward, false);
        let result = inner(self);
        self.bars = bars;
        self.outward = outward;
        result
    }

    pub(super) fn bracket(&mut self, delim: Delim) -> Result<Expr> {
        match delim {
            Delim::Group => self.group(),
            Delim::Brace => self.set(),
            Delim::Floor | Delim::Ceil => {
                let inner = self.bracketed(Self::sum)?;
                let close = self.peek().and_then(closes).ok_or(ParseError::Syntax)?;
                self.at += 1;
                match (delim, close) {
                    (Delim::Floor, Delim::Floor) => Ok(Expr::Func(Func::Floor, vec![inner])),
                    (Delim::Ceil, Delim::Ceil) => Ok(Expr::Func(Func::Ceil, vec![inner])),
                    _ => Err(ParseError::Syntax),
                }
            }
            Delim::Paren | Delim::Square | Delim::Angle => self.sequence(delim),
        }
    }

    /// A sequence in round, square or angle brackets.
    fn sequence(&mut self, open: Delim) -> Result<Expr> {
        if let (Some(Tok::Cmd(Cmd::Mod)), Delim::Paren) = (self.peek(), open) {
            self.at += 1;
            let modulus = self.bracketed(Self::sum)?;
            self.expect(&Tok::Close(Delim::Paren))?;
            return Ok(Expr::Shape("mod".to_string(), vec![modulus]));
        }
        let start = self.at;
        let (mut items, separators) = self.bracketed(Self::item_list)?;
        let close = self.peek().and_then(closes).ok_or(ParseError::Syntax)?;
        self.at += 1;
        match (open, close) {
            (Delim::Paren, Delim::Square) | (Delim::Square, Delim::Paren) => {
                let [left, right]: [Expr; 2] = items.try_into().map_err(|_| ParseError::Syntax)?;
                return Ok(Expr::HalfOpen(Box::new([left, right]), open == Delim::Square, close == Delim::Square));
            }
            (open, close) if open == close => {}
            _ => return Err(ParseError::Syntax),
        }
        if items.len() > 1 {
            if separators.iter().all(|separator| matches!(separator, super::Separator::And | super::Separator::Or)) {
                return Ok(super::assemble(items, &separators));
            }
            let bracket = match open {
                Delim::Paren => Bracket::Round,
                Delim::Square => Bracket::Square,
                _ => Bracket::Angle,
            };
            return Ok(Expr::Tuple(bracket, items));
        }
        self.in_base_behind(start, items.pop().expect("a list of items has one"))
    }

    /// `(1011)_2`, `{1011}_2`: brackets, just closed, around nothing but the digits at `start`, and a base.
    fn in_base_behind(&mut self, start: usize, inside: Expr) -> Result<Expr> {
        if self.at - start == 2
            && self.peek() == Some(&Tok::Op('_'))
            && let Tok::Num(_, _, Some(digits)) = self.tokens[start].tok.clone()
        {
            self.at += 1;
            return self.based(&digits);
        }
        Ok(inside)
    }

    /// `]a, b[`.
    pub(super) fn outward_interval(&mut self) -> Result<Expr> {
        let outward = std::mem::replace(&mut self.outward, true);
        let bars = std::mem::take(&mut self.bars);
        let items = self.item_list();
        self.bars = bars;
        self.outward = outward;
        let [left, right]: [Expr; 2] = items?.0.try_into().map_err(|_| ParseError::Syntax)?;
        match self.peek() {
            Some(Tok::Open(Delim::Square)) => {
                self.at += 1;
                Ok(Expr::Tuple(Bracket::Round, vec![left, right]))
            }
            Some(Tok::Close(Delim::Square)) => {
                self.at += 1;
                Ok(Expr::HalfOpen(Box::new([left, right]), false, true))
            }
            _ => Err(ParseError::Syntax),
        }
    }

    /// TeX's braces: transparent, unless they hold `\over`, `\choose` or several items.
    pub(super) fn group(&mut self) -> Result<Expr> {
        let start = self.at;
        if self.take(&Tok::Close(Delim::Group)) {
            if matches!(self.peek(), Some(Tok::Op('_' | '^')))
                && let Some(count) = self.choose()?
            {
                return Ok(count);
            }
            // an empty group next to something is nothing
            return if self.at < self.end
                && self.peek().is_some_and(|tok| self.starts_factor(tok) || matches!(tok, Tok::Op('^')))
            {
                self.primary()
            } else {
                Err(ParseError::Syntax)
            };
        }
        let first = self.bracketed(Self::items)?;
        let operator = match self.peek() {
            Some(Tok::Close(Delim::Group)) => {
                self.at += 1;
                return self.in_base_behind(start, first);
            }
            Some(Tok::Cmd(cmd @ (Cmd::Over | Cmd::Choose))) => cmd.clone(),
            _ => return Err(ParseError::Syntax),
        };
        self.at += 1;
        let second = self.bracketed(Self::items)?;
        self.expect(&Tok::Close(Delim::Group))?;
        Ok(match operator {
            Cmd::Over => Expr::Div(Box::new(first), Box::new(second)),
            _ => Expr::Func(Func::Binom, vec![first, second]),
        })
    }

    /// `{}_n C_k`, `{}^n C_k`, `{}_n P_k` behind the empty group.
    fn choose(&mut self) -> Result<Option<Expr>> {
        let start = self.at;
        self.at += 1;
        let all = self.nested(Self::subscript)?;
        let name = match self.peek() {
            Some(Tok::Ident(name)) if name == "C" || name == "P" => name.clone(),
            _ => String::new(),
        };
        if name.is_empty() || self.peek_at(1) != Some(&Tok::Op('_')) {
            self.at = start;
            return Ok(None);
        }
        self.at += 2;
        let some = self.nested(Self::subscript)?;
        let factorial = |value| Expr::Func(Func::Factorial, vec![value]);
        Ok(Some(match name.as_str() {
            "C" => Expr::Func(Func::Binom, vec![all, some]),
            _ => {
                let rest = Expr::Add(vec![all.clone(), Expr::Neg(Box::new(some))]);
                Expr::Div(Box::new(factorial(all)), Box::new(factorial(rest)))
            }
        }))
    }

    /// `\{ .. \}`: elements, or an element and a condition.
    fn set(&mut self) -> Result<Expr> {
        let close = Tok::Close(Delim::Brace);
        if self.take(&close) {
            return Ok(Expr::Named(NamedSet::Empty));
        }
        let bars = std::mem::replace(&mut self.bars, 1);
        let inner = self.set_content();
        self.bars = bars;
        let set = inner?;
        self.expect(&close)?;
        Ok(set)
    }

    fn set_content(&mut self) -> Result<Expr> {
        let start = self.at;
        let (items, separators) = match self.item_list() {
            Ok(found) => found,
            Err(failure) => {
                // { x : x > 0 }: the colon may have been taken for a ratio
                self.at = start;
                let element = self.set_expression().map_err(|_| failure)?;
                (vec![element], Vec::new())
            }
        };
        if self.take(&Tok::Bar) || self.take(&Tok::Op(':')) {
            let condition = self.condition()?;
            return Ok(Expr::SetBuilder(Box::new([super::assemble(items, &separators), condition])));
        }
        // x : x > 0 and x in R : x > 0, with the colon read as a ratio
        if let [Expr::Rel(terms, operators)] = items.as_slice()
            && let Some(at) = terms.iter().position(|term| matches!(term, Expr::Ratio(_)))
            && at < operators.len()
            && let Expr::Ratio(parts) = &terms[at]
            && let [last, first] = parts.as_slice()
        {
            let chain = |before: &[Expr], operators: &[RelOp]| match before {
                [only] => only.clone(),
                _ => Expr::Rel(before.to_vec(), operators.to_vec()),
            };
            let element = chain(&[&terms[..at], std::slice::from_ref(last)].concat(), &operators[..at]);
            let condition = chain(&[std::slice::from_ref(first), &terms[at + 1..]].concat(), &operators[at..]);
            return Ok(Expr::SetBuilder(Box::new([element, condition])));
        }
        Ok(Expr::Set(items))
    }

    /// What follows the bar of a set: relations and words up to the closing brace.
    fn condition(&mut self) -> Result<Expr> {
        let start = self.at;
        let mut depth = 0;
        let mut stop = self.at;
        while stop < self.end {
            match self.tokens[stop].tok {
                Tok::Open(Delim::Brace) => depth += 1,
                Tok::Close(Delim::Brace) if depth == 0 => break,
                Tok::Close(Delim::Brace) => depth -= 1,
                _ => {}
            }
            stop += 1;
        }
        self.work += (stop - start) / 8;
        let value = self.cell(start, stop)?;
        self.at = stop;
        Ok(value)
    }

    /// Parses the tokens from `start` to `stop` as an answer of its own.
    pub(super) fn cell(&mut self, start: usize, stop: usize) -> Result<Expr> {
        if start >= stop {
            return Err(ParseError::Syntax);
        }
        let (end, bars) = (std::mem::replace(&mut self.end, stop), std::mem::take(&mut self.bars));
        self.at = start;
        let mut result = self.items();
        if (result.is_err() || self.at != stop) && result != Err(ParseError::TooLarge) {
            self.at = start;
            result = self.prose();
        }
        self.end = end;
        self.bars = bars;
        result
    }

    /// `|x|`, `\|v\|`.
    pub(super) fn bars(&mut self, bar: &Tok) -> Result<Expr> {
        let bars = std::mem::replace(&mut self.bars, 1);
        let inner = self.items();
        self.bars = bars;
        let inner = inner?;
        self.expect(bar)?;
        Ok(match (bar, inner) {
            (Tok::Bar, inner @ Expr::Matrix(_)) => Expr::Shape("det".to_string(), vec![inner]),
            (Tok::Bar, inner) => Expr::Func(Func::Abs, vec![inner]),
            (_, inner) => Expr::Shape("norm".to_string(), vec![inner]),
        })
    }
}
