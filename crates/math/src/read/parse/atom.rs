//! atom: numbers, names, what stands alone.

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::ToPrimitive;

use super::{ParseError, Parser, Result, closes};
use crate::read::ast::{Const, Expr};
use crate::read::token::{Cmd, Delim, Tok, Token};
use crate::read::units::Unit;

/// The value of digits in a base.
pub(super) fn in_base(digits: &str, base: &BigRational) -> Option<Expr> {
    let base = base.to_integer().to_u32().filter(|value| (2..=36).contains(value) && base.is_integer())?;
    let value = BigInt::parse_bytes(digits.as_bytes(), base)?;
    Some(Expr::Based(Box::new(Expr::num(BigRational::from_integer(value))), digits.to_string(), base))
}

impl Parser {
    /// An atom with the readings that look at what follows: mixed numbers, digits in a base, applications.
    pub(super) fn primary(&mut self) -> Result<Expr> {
        match self.peek() {
            Some(Tok::Num(_, _, Some(_))) => {
                if let Some(mixed) = self.mixed_number() {
                    return Ok(mixed);
                }
                self.atom()
            }
            Some(Tok::Ident(_)) => self.name(),
            Some(Tok::Currency(symbol)) => {
                let unit = Unit::currency(*symbol).ok_or(ParseError::Syntax)?;
                self.at += 1;
                let negative = self.take(&Tok::Op('-'));
                let amount = self.primary()?;
                let amount = if negative { super::expr::negative(amount) } else { amount };
                Ok(Expr::Quantity(Box::new(amount), unit))
            }
            _ => self.atom(),
        }
    }

    /// One atom: what an argument without braces is.
    pub(super) fn atom(&mut self) -> Result<Expr> {
        self.work += 1;
        if self.work > self.work_limit {
            return Err(ParseError::TooLarge);
        }
        let Some(tok) = self.peek().cloned() else { return Err(ParseError::Syntax) };
        self.at += 1;
        match tok {
            Tok::Num(value, places, digits) => self.number(value, places, digits),
            Tok::Const(constant) => Ok(Expr::Const(constant)),
            Tok::Named(set) => Ok(Expr::Named(set)),
            Tok::Ident(_) => {
                self.at -= 1;
                self.bare_name()
            }
            Tok::Word(word) => self.words(word),
            Tok::Func(func) => self.nested(|parser| parser.function(func)),
            Tok::Open(delim) => self.nested(|parser| parser.bracket(delim)),
            Tok::Close(Delim::Square) => self.nested(Self::outward_interval),
            Tok::Bar => self.nested(|parser| parser.bars(&Tok::Bar)),
            Tok::Norm => self.nested(|parser| parser.bars(&Tok::Norm)),
            Tok::Cmd(cmd) => self.nested(|parser| parser.command(cmd)),
            Tok::Begin(name) => self.nested(|parser| parser.environment(&name)),
            _ => {
                self.at -= 1;
                Err(ParseError::Syntax)
            }
        }
    }

    fn words(&mut self, first: String) -> Result<Expr> {
        let mut text = first.to_lowercase();
        while let Some(Tok::Word(word)) = self.peek() {
            text.push(' ');
            text.push_str(&word.to_lowercase());
            self.at += 1;
        }
        Ok(super::words::known(text))
    }

    fn number(&mut self, value: BigRational, places: Option<u32>, digits: Option<String>) -> Result<Expr> {
        if let (Some(digits), Some(Tok::Op('_'))) = (digits, self.peek()) {
            self.at += 1;
            return self.based(&digits);
        }
        Ok(Expr::Num(value, places))
    }

    /// Digits with a subscript.
    pub(super) fn based(&mut self, digits: &str) -> Result<Expr> {
        let label = self.script_text()?;
        let label = label.trim_matches(|c| c == '(' || c == ')').trim();
        const NAMES: [&str; 16] = [
            "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
            "thirteen", "fourteen", "fifteen", "sixteen",
        ];
        let named = NAMES.iter().position(|name| *name == label.to_lowercase()).map(|at| at + 1);
        let base = named
            .or_else(|| label.parse().ok())
            .and_then(|base| in_base(digits, &BigRational::from_integer(base.into())));
        Ok(base.unwrap_or_else(|| Expr::Sym(format!("{digits}_{label}"))))
    }

    /// `2\frac{1}{2}`, `2 1/2`.
    fn mixed_number(&mut self) -> Option<Expr> {
        let plain = |tok: Option<&Tok>| match tok {
            Some(Tok::Num(value, None, Some(_))) => Some(value.clone()),
            _ => None,
        };
        let whole = plain(self.peek())?;
        let open = Tok::Open(Delim::Group);
        let close = Tok::Close(Delim::Group);
        let (over, under, length) = match self.peek_at(1)? {
            Tok::Cmd(Cmd::Frac) => {
                let mut at = 2;
                let mut parts = Vec::new();
                while parts.len() < 2 {
                    if self.peek_at(at) == Some(&open) {
                        parts.push(plain(self.peek_at(at + 1))?);
                        if self.peek_at(at + 2) != Some(&close) {
                            return None;
                        }
                        at += 3;
                    } else if let Some(Tok::Num(_, None, Some(digits))) = self.peek_at(at) {
                        // \frac12 without braces
                        let digit = |range: std::ops::Range<usize>| {
                            Some(BigRational::from_integer(digits.get(range)?.parse().ok()?))
                        };
                        match (digits.len(), parts.len()) {
                            (2, 0) => {
                                parts.push(digit(0..1)?);
                                parts.push(digit(1..2)?);
                            }
                            (1, _) => parts.push(digit(0..1)?),
                            _ => return None,
                        }
                        at += 1;
                    } else {
                        return None;
                    }
                }
                let under = parts.pop()?;
                (parts.pop()?, under, at)
            }
            Tok::Num(..) if self.tokens[self.at + 1].spaced => {
                let over = plain(self.peek_at(1))?;
                if self.peek_at(2) != Some(&Tok::Op('/')) {
                    return None;
                }
                (over, plain(self.peek_at(3))?, 4)
            }
            _ => return None,
        };
        if over >= under || whole == BigRational::from_integer(0.into()) {
            return None;
        }
        self.at += length;
        Some(Expr::num(whole + over / under))
    }

    /// A name with its subscript and primes.
    pub(super) fn bare_name(&mut self) -> Result<Expr> {
        let Some(Tok::Ident(name)) = self.peek().cloned() else { return Err(ParseError::Syntax) };
        self.at += 1;
        let mut name = name;
        while let Some(Tok::Prime(_)) = self.peek() {
            name.push('\'');
            self.at += 1;
        }
        if self.take(&Tok::Op('_')) {
            let label = self.script_text()?;
            name = format!("{name}_{label}");
        }
        Ok(Expr::Sym(name))
    }

    /// A name, applied to arguments when it is a function's.
    fn name(&mut self) -> Result<Expr> {
        let start = self.at;
        let Expr::Sym(name) = self.bare_name()? else { return Err(ParseError::Syntax) };
        let inverse = self.peek() == Some(&Tok::Op('^'))
            && self.peek_at(1) == Some(&Tok::Open(Delim::Group))
            && self.peek_at(2) == Some(&Tok::Op('-'))
            && matches!(self.peek_at(3), Some(Tok::Num(value, ..)) if value.is_integer())
            && self.peek_at(4) == Some(&Tok::Close(Delim::Group))
            && self.peek_at(5) == Some(&Tok::Open(Delim::Paren));
        let head = name.trim_end_matches('\'').split('_').next().unwrap_or_default().to_string();
        if inverse && matches!(head.as_str(), "f" | "g" | "h") {
            self.at += 5;
            return self.apply(format!("{name}^-1"));
        }
        if self.peek() == Some(&Tok::Open(Delim::Paren)) && self.is_application(&head, self.at - start > 1) {
            return self.apply(name);
        }
        Ok(Expr::Sym(name))
    }

    fn apply(&mut self, name: String) -> Result<Expr> {
        self.at += 1;
        let (mut arguments, _) = self.nested(|parser| parser.bracketed(Self::item_list))?;
        // P(A | B)
        if name == "P" && self.peek() == Some(&Tok::Bar) {
            self.at += 1;
            arguments.extend(self.nested(|parser| parser.bracketed(Self::item_list))?.0);
        }
        self.expect(&Tok::Close(Delim::Paren))?;
        Ok(Expr::Apply(name, arguments))
    }

    /// `f(x)` is an application, `n(n+1)` a product.
    fn is_application(&self, head: &str, decorated: bool) -> bool {
        if matches!(head, "f" | "g" | "h" | "F" | "G" | "H" | "phi" | "psi" | "Gamma") {
            return true;
        }
        let single = self.peek_at(2) == Some(&Tok::Close(Delim::Paren));
        let upper = head.len() == 1 && head.starts_with(|c: char| c.is_ascii_uppercase());
        match self.peek_at(1) {
            Some(Tok::Num(value, ..)) if single => {
                upper || (matches!(head, "x" | "y" | "u" | "v") && value == &BigRational::from_integer(0.into()))
            }
            Some(Tok::Ident(_)) if single && upper => true,
            Some(Tok::Ident(argument)) if single => {
                matches!(
                    (head, argument.as_str()),
                    ("x" | "y" | "u" | "v" | "w" | "p" | "q" | "r" | "s" | "z" | "i" | "n", "t")
                        | ("y" | "u" | "v" | "p" | "q" | "r", "x")
                )
            }
            // P(X = 2), P(A | B), P(A and B)
            Some(Tok::Ident(_)) if head == "P" || decorated && upper => matches!(
                self.peek_at(2),
                Some(Tok::Rel(_) | Tok::Bar | Tok::And | Tok::Cmd(Cmd::Cap | Cmd::Cup | Cmd::SetMinus))
            ),
            _ => false,
        }
    }

    /// The text of a subscript.
    pub(super) fn script_text(&mut self) -> Result<String> {
        let mut text = String::new();
        if self.take(&Tok::Open(Delim::Group)) {
            let mut depth = 1;
            while let Some(tok) = self.peek().cloned() {
                match tok {
                    Tok::Open(Delim::Group) => depth += 1,
                    Tok::Close(Delim::Group) => depth -= 1,
                    _ => {}
                }
                self.at += 1;
                if depth == 0 {
                    return Ok(text);
                }
                text.push_str(&spelled(&tok));
            }
            return Err(ParseError::Syntax);
        }
        let tok = self.peek().cloned().ok_or(ParseError::Syntax)?;
        if closes(&tok).is_some() {
            return Err(ParseError::Syntax);
        }
        self.at += 1;
        text.push_str(&spelled(&tok));
        Ok(text)
    }
}

/// A token inside a subscript.
fn spelled(tok: &Tok) -> String {
    match tok {
        Tok::Num(value, _, digits) => digits.clone().unwrap_or_else(|| value.to_string()),
        Tok::Ident(name) | Tok::Word(name) => name.clone(),
        Tok::Const(Const::I) => "i".to_string(),
        Tok::Const(Const::E) => "e".to_string(),
        Tok::Const(Const::Pi) => "pi".to_string(),
        Tok::Const(Const::Infinity) => "infinity".to_string(),
        Tok::Op(op) => op.to_string(),
        Tok::Comma => ",".to_string(),
        Tok::Open(Delim::Paren) => "(".to_string(),
        Tok::Close(Delim::Paren) => ")".to_string(),
        Tok::Open(_) | Tok::Close(_) | Tok::Quad => String::new(),
        Tok::Func(func) => format!("{func:?}").to_lowercase(),
        other => Token { tok: other.clone(), spaced: false, upright: false }.label(),
    }
}

impl Token {
    /// A short name for tokens that have no text of their own.
    fn label(&self) -> String {
        let name = format!("{:?}", self.tok);
        name.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_lowercase()
    }
}
