//! atom: numbers, names, brackets, macros with arguments, matrices.

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::ToPrimitive;

use super::super::ast::{BigOp, Bracket, Const, Expr, Func, NamedSet};
use super::super::token::{Cmd, Delim, Tok, Token};
use super::super::units::Unit;
use super::expr::{product_of, sum_of};
use super::{Failure, Parser, Result, closes};

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
                let unit = Unit::currency(*symbol).ok_or(Failure::Syntax)?;
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
        if self.work > super::WORK_LIMIT {
            return Err(Failure::TooLarge);
        }
        let Some(tok) = self.peek().cloned() else { return Err(Failure::Syntax) };
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
                Err(Failure::Syntax)
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
    fn based(&mut self, digits: &str) -> Result<Expr> {
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
    fn bare_name(&mut self) -> Result<Expr> {
        let Some(Tok::Ident(name)) = self.peek().cloned() else { return Err(Failure::Syntax) };
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
        let Expr::Sym(name) = self.bare_name()? else { return Err(Failure::Syntax) };
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
            return Err(Failure::Syntax);
        }
        let tok = self.peek().cloned().ok_or(Failure::Syntax)?;
        if closes(&tok).is_some() {
            return Err(Failure::Syntax);
        }
        self.at += 1;
        text.push_str(&spelled(&tok));
        Ok(text)
    }

    /// Runs `inner` with bars that open again.
    fn bracketed<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let bars = std::mem::take(&mut self.bars);
        let outward = std::mem::replace(&mut self.outward, false);
        let result = inner(self);
        self.bars = bars;
        self.outward = outward;
        result
    }

    fn bracket(&mut self, delim: Delim) -> Result<Expr> {
        match delim {
            Delim::Group => self.group(),
            Delim::Brace => self.set(),
            Delim::Floor | Delim::Ceil => {
                let inner = self.bracketed(Self::sum)?;
                let close = self.peek().and_then(closes).ok_or(Failure::Syntax)?;
                self.at += 1;
                match (delim, close) {
                    (Delim::Floor, Delim::Floor) => Ok(Expr::Func(Func::Floor, vec![inner])),
                    (Delim::Ceil, Delim::Ceil) => Ok(Expr::Func(Func::Ceil, vec![inner])),
                    _ => Err(Failure::Syntax),
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
        let close = self.peek().and_then(closes).ok_or(Failure::Syntax)?;
        self.at += 1;
        match (open, close) {
            (Delim::Paren, Delim::Square) | (Delim::Square, Delim::Paren) => {
                let [left, right]: [Expr; 2] = items.try_into().map_err(|_| Failure::Syntax)?;
                return Ok(Expr::HalfOpen(Box::new([left, right]), open == Delim::Square, close == Delim::Square));
            }
            (open, close) if open == close => {}
            _ => return Err(Failure::Syntax),
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
        // (1011)_2
        if self.at - start == 2 && self.peek() == Some(&Tok::Op('_')) {
            if let Tok::Num(_, _, Some(digits)) = self.tokens[start].tok.clone() {
                self.at += 1;
                return self.based(&digits);
            }
        }
        Ok(items.pop().expect("a list of items has one"))
    }

    /// `]a, b[`.
    fn outward_interval(&mut self) -> Result<Expr> {
        let outward = std::mem::replace(&mut self.outward, true);
        let bars = std::mem::take(&mut self.bars);
        let items = self.item_list();
        self.bars = bars;
        self.outward = outward;
        let [left, right]: [Expr; 2] = items?.0.try_into().map_err(|_| Failure::Syntax)?;
        match self.peek() {
            Some(Tok::Open(Delim::Square)) => {
                self.at += 1;
                Ok(Expr::Tuple(Bracket::Round, vec![left, right]))
            }
            Some(Tok::Close(Delim::Square)) => {
                self.at += 1;
                Ok(Expr::HalfOpen(Box::new([left, right]), false, true))
            }
            _ => Err(Failure::Syntax),
        }
    }

    /// TeX's braces: transparent, unless they hold `\over`, `\choose` or several items.
    fn group(&mut self) -> Result<Expr> {
        if self.take(&Tok::Close(Delim::Group)) {
            // an empty group next to something is nothing
            return if self.at < self.end
                && self.peek().is_some_and(|tok| self.starts_factor(tok) || matches!(tok, Tok::Op('^')))
            {
                self.primary()
            } else {
                Err(Failure::Syntax)
            };
        }
        let first = self.bracketed(Self::items)?;
        let operator = match self.peek() {
            Some(Tok::Close(Delim::Group)) => {
                self.at += 1;
                return Ok(first);
            }
            Some(Tok::Cmd(cmd @ (Cmd::Over | Cmd::Choose))) => cmd.clone(),
            _ => return Err(Failure::Syntax),
        };
        self.at += 1;
        let second = self.bracketed(Self::items)?;
        self.expect(&Tok::Close(Delim::Group))?;
        Ok(match operator {
            Cmd::Over => Expr::Div(Box::new(first), Box::new(second)),
            _ => Expr::Func(Func::Binom, vec![first, second]),
        })
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
        // x : x > 0 read as a ratio on the left of a relation
        if let [Expr::Rel(terms, operators)] = items.as_slice() {
            if let Some(Expr::Ratio(parts)) = terms.first() {
                if let [element, start] = parts.as_slice() {
                    let mut terms = terms.clone();
                    terms[0] = start.clone();
                    return Ok(Expr::SetBuilder(Box::new([element.clone(), Expr::Rel(terms, operators.clone())])));
                }
            }
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
    fn cell(&mut self, start: usize, stop: usize) -> Result<Expr> {
        if start >= stop {
            return Err(Failure::Syntax);
        }
        let (end, bars) = (std::mem::replace(&mut self.end, stop), std::mem::take(&mut self.bars));
        self.at = start;
        let mut result = self.items();
        if result.is_err() || self.at != stop {
            if result != Err(Failure::TooLarge) {
                self.at = start;
                result = self.prose();
            }
        }
        self.end = end;
        self.bars = bars;
        result
    }

    /// `|x|`, `\|v\|`.
    fn bars(&mut self, bar: &Tok) -> Result<Expr> {
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

    /// A function behind its name: power, base, argument.
    fn function(&mut self, func: Func) -> Result<Expr> {
        let mut func = func;
        let mut power = None;
        let mut base = None;
        for _ in 0..2 {
            if self.take(&Tok::Op('^')) {
                let script = self.nested(Self::script)?;
                match (script.as_int(), inverse(func)) {
                    (Some(-1), Some(inverse)) => func = inverse,
                    _ => power = Some(script),
                }
            } else if self.take(&Tok::Op('_')) {
                base = Some(self.nested(Self::subscript)?);
            }
        }
        let arguments = self.arguments(func)?;
        let value = match (func, arguments.len()) {
            (Func::Log, 1) => {
                let x = arguments.into_iter().next().expect("one argument");
                match base {
                    Some(Expr::Const(Const::E)) => Expr::Func(Func::Ln, vec![x]),
                    Some(base) => Expr::Func(Func::Log, vec![base, x]),
                    None => Expr::Func(Func::Log, vec![Expr::int(10), x]),
                }
            }
            (Func::Gcd | Func::Lcm | Func::Max | Func::Min, 1..) => Expr::Func(func, arguments),
            (_, 1) => Expr::Func(func, arguments),
            _ => return Err(Failure::Syntax),
        };
        Ok(match power {
            Some(power) => Expr::Pow(Box::new(value), Box::new(power)),
            None => value,
        })
    }

    fn arguments(&mut self, func: Func) -> Result<Vec<Expr>> {
        match self.peek() {
            Some(Tok::Open(Delim::Paren | Delim::Square)) => {
                self.at += 1;
                let open = self.tokens[self.at - 1].tok.clone();
                let (items, _) = self.nested(|parser| parser.bracketed(Self::item_list))?;
                let close = self.peek().and_then(closes).ok_or(Failure::Syntax)?;
                if open != Tok::Open(close) {
                    return Err(Failure::Syntax);
                }
                self.at += 1;
                Ok(items)
            }
            Some(Tok::Open(Delim::Group)) => {
                self.at += 1;
                Ok(match self.nested(Self::group)? {
                    Expr::List(items) | Expr::Tuple(Bracket::Round, items) => items,
                    one => vec![one],
                })
            }
            _ => Ok(vec![self.bare_argument(func)?]),
        }
    }

    /// An argument without brackets: factors up to the next operator or function.
    fn bare_argument(&mut self, func: Func) -> Result<Expr> {
        let negative = self.take(&Tok::Op('-'));
        let mut factors = vec![self.factor()?];
        let mut has_name = !matches!(factors[0], Expr::Num(..));
        while let Some(tok) = self.peek() {
            let stop = match tok {
                Tok::Func(_) => true,
                Tok::Open(delim) => has_name && *delim != Delim::Group,
                tok => !self.starts_factor(tok),
            };
            if stop {
                break;
            }
            let factor = self.factor()?;
            has_name |= !matches!(factor, Expr::Num(..));
            factors.push(factor);
        }
        // sin pi/6 and cos 2 pi/5 go on behind the stroke
        let trigonometric = !matches!(func, Func::Ln | Func::Log | Func::Exp);
        let constant = factors.iter().all(|factor| matches!(factor, Expr::Num(..) | Expr::Const(Const::Pi)));
        let angle = constant && factors.iter().any(|factor| matches!(factor, Expr::Const(Const::Pi)));
        let mut argument = product_of(factors);
        if trigonometric && angle && self.peek() == Some(&Tok::Op('/')) && matches!(self.peek_at(1), Some(Tok::Num(..)))
        {
            self.at += 1;
            let under = self.atom()?;
            argument = Expr::Div(Box::new(argument), Box::new(under));
        }
        Ok(if negative { super::expr::negative(argument) } else { argument })
    }

    /// One argument of a macro: a group or one token; numerals give their first digit when `digit` is set.
    fn argument(&mut self, digit: bool) -> Result<Expr> {
        if let (true, Some(Tok::Num(_, None, Some(digits)))) = (digit, self.peek().cloned()) {
            if digits.len() > 1 {
                let value =
                    |text: &str| text.parse::<BigInt>().map(BigRational::from_integer).map_err(|_| Failure::Syntax);
                let (first, rest) = digits.split_at(1);
                self.tokens[self.at].tok = Tok::Num(value(rest)?, None, Some(rest.to_string()));
                return Ok(Expr::num(value(first)?));
            }
        }
        let negative = self.take(&Tok::Op('-'));
        let value = self.atom()?;
        Ok(if negative { super::expr::negative(value) } else { value })
    }

    fn command(&mut self, cmd: Cmd) -> Result<Expr> {
        match cmd {
            Cmd::Frac => {
                let over = self.argument(true)?;
                let under = self.argument(true)?;
                Ok(Expr::Div(Box::new(over), Box::new(under)))
            }
            Cmd::Binom => {
                let over = self.argument(true)?;
                let under = self.argument(true)?;
                Ok(Expr::Func(Func::Binom, vec![over, under]))
            }
            Cmd::Sqrt => {
                let mut index = Expr::int(2);
                if self.take(&Tok::Open(Delim::Square)) {
                    index = self.bracketed(Self::sum)?;
                    self.expect(&Tok::Close(Delim::Square))?;
                }
                let value = self.argument(false)?;
                Ok(Expr::Func(Func::Root, vec![index, value]))
            }
            Cmd::Cbrt => {
                let value = self.argument(false)?;
                Ok(Expr::Func(Func::Root, vec![Expr::int(3), value]))
            }
            Cmd::Sum => self.big(BigOp::Sum),
            Cmd::Prod => self.big(BigOp::Product),
            Cmd::Integral => self.integral(),
            Cmd::Limit => {
                let mut parts = Vec::new();
                if self.take(&Tok::Op('_')) {
                    parts.push(self.nested(Self::subscript)?);
                }
                parts.push(self.term()?);
                Ok(Expr::Shape("lim".to_string(), parts))
            }
            Cmd::Dots => Ok(Expr::Sym("...".to_string())),
            Cmd::Accent(name) => {
                let value = self.argument(false)?;
                let mut parts = vec![value];
                if name == "set" {
                    parts.push(self.argument(false)?);
                }
                let shape = Expr::Shape(name.to_string(), parts);
                if self.take(&Tok::Op('_')) {
                    let label = self.script_text()?;
                    return Ok(Expr::Shape(format!("sub {label}"), vec![shape]));
                }
                Ok(shape)
            }
            Cmd::Prefix(name) => {
                let mut letters = Vec::new();
                while matches!(self.peek(), Some(Tok::Ident(_))) {
                    letters.push(self.bare_name()?);
                }
                if letters.is_empty() {
                    letters.push(self.atom()?);
                }
                Ok(Expr::Shape(name.to_string(), vec![product_of(letters)]))
            }
            // \bigcup_{k} A_k and other indexed operations on sets
            Cmd::Cup | Cmd::Cap => {
                let mut parts = Vec::new();
                while matches!(self.peek(), Some(Tok::Op('_' | '^'))) && parts.len() < 2 {
                    self.at += 1;
                    parts.push(self.nested(Self::subscript)?);
                }
                parts.push(self.term()?);
                Ok(Expr::Shape(if cmd == Cmd::Cup { "bigcup" } else { "bigcap" }.to_string(), parts))
            }
            _ => Err(Failure::Syntax),
        }
    }

    fn big(&mut self, op: BigOp) -> Result<Expr> {
        let (mut lower, mut upper) = (None, None);
        for _ in 0..2 {
            if self.take(&Tok::Op('_')) {
                lower = Some(self.nested(Self::subscript)?);
            } else if self.take(&Tok::Op('^')) {
                upper = Some(self.nested(Self::script)?);
            }
        }
        let body = self.term()?;
        let name = if op == BigOp::Sum { "sum" } else { "prod" };
        if let (Some(Expr::Rel(terms, operators)), Some(last)) = (&lower, &upper) {
            if let ([index, first], [super::RelOp::Eq]) = (terms.as_slice(), operators.as_slice()) {
                let index_name = match index {
                    Expr::Sym(name) => Some(name.clone()),
                    Expr::Const(Const::I) => Some("i".to_string()),
                    _ => None,
                };
                if let Some(index_name) = index_name {
                    let body = if index_name == "i" { imaginary_to_index(body) } else { body };
                    return Ok(Expr::Big(op, index_name, Box::new([first.clone(), last.clone(), body])));
                }
            }
        }
        let parts = lower.into_iter().chain(upper).chain([body]).collect();
        Ok(Expr::Shape(name.to_string(), parts))
    }

    fn integral(&mut self) -> Result<Expr> {
        let mut parts = Vec::new();
        for _ in 0..2 {
            if self.take(&Tok::Op('_')) || self.take(&Tok::Op('^')) {
                parts.push(self.nested(Self::subscript)?);
            }
        }
        parts.push(self.sum()?);
        Ok(Expr::Shape("int".to_string(), parts))
    }

    fn environment(&mut self, name: &str) -> Result<Expr> {
        let mut rows = vec![Vec::new()];
        let mut start = self.at;
        let mut depth = 0usize;
        loop {
            let Some(tok) = self.peek() else { return Err(Failure::Syntax) };
            match tok {
                Tok::Begin(_) | Tok::Open(_) => depth += 1,
                Tok::Close(_) => depth = depth.saturating_sub(1),
                Tok::End(_) if depth > 0 => depth -= 1,
                Tok::Amp | Tok::Newline | Tok::End(_) if depth == 0 => {
                    let stop = self.at;
                    let last = matches!(tok, Tok::End(_));
                    let new_row = *tok == Tok::Newline;
                    let row = rows.last_mut().expect("there is a first row");
                    if stop > start {
                        let mut cell_end = stop;
                        while cell_end > start && matches!(self.tokens[cell_end - 1].tok, Tok::Comma | Tok::Quad) {
                            cell_end -= 1;
                        }
                        let cell = self.nested(|parser| parser.cell(start, cell_end))?;
                        row.push(cell);
                    } else if !(row.is_empty() && (new_row || last)) {
                        row.push(Expr::Text(String::new()));
                    }
                    self.at = stop + 1;
                    start = self.at;
                    if new_row {
                        rows.push(Vec::new());
                    }
                    if last {
                        break;
                    }
                    continue;
                }
                _ => {}
            }
            self.at += 1;
        }
        rows.retain(|row| !row.is_empty());
        if rows.is_empty() {
            return Err(Failure::Syntax);
        }
        if name == "cases" || name == "rcases" || name == "dcases" {
            return Ok(cases(rows));
        }
        Ok(match name {
            "vmatrix" => Expr::Shape("det".to_string(), vec![Expr::Matrix(rows)]),
            "Vmatrix" => Expr::Shape("norm".to_string(), vec![Expr::Matrix(rows)]),
            _ => Expr::Matrix(rows),
        })
    }
}

/// Branches of a function; a brace around equations is a list.
fn cases(rows: Vec<Vec<Expr>>) -> Expr {
    if rows.iter().all(|row| row.len() == 1) {
        return Expr::List(rows.into_iter().flatten().collect());
    }
    let branch = |row: Vec<Expr>| {
        let mut cells = row.into_iter();
        let value = cells.next().expect("rows have cells");
        let rest: Vec<Expr> = cells.collect();
        (value, if rest.is_empty() { Expr::Text("otherwise".to_string()) } else { sum_of_cells(rest) })
    };
    Expr::Cases(rows.into_iter().map(branch).collect())
}

fn sum_of_cells(cells: Vec<Expr>) -> Expr {
    if cells.len() == 1 { sum_of(cells) } else { Expr::Prose(cells) }
}

/// Inside a sum over `i`, the letter is the index.
fn imaginary_to_index(body: Expr) -> Expr {
    match body {
        Expr::Const(Const::I) => Expr::sym("i"),
        other => other.map_children(&mut imaginary_to_index),
    }
}

fn inverse(func: Func) -> Option<Func> {
    Some(match func {
        Func::Sin => Func::Asin,
        Func::Cos => Func::Acos,
        Func::Tan => Func::Atan,
        Func::Cot => Func::Acot,
        Func::Sec => Func::Asec,
        Func::Csc => Func::Acsc,
        Func::Sinh => Func::Asinh,
        Func::Cosh => Func::Acosh,
        Func::Tanh => Func::Atanh,
        _ => return None,
    })
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
