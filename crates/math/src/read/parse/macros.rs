//! macros: functions, fractions, roots, indexed operators, matrices and cases: everything with arguments.

use num_bigint::BigInt;
use num_rational::BigRational;

use super::expr::product_of;
use super::{ParseError, Parser, Result, closes, systems};
use crate::read::ast::{BigOp, Bracket, Const, Expr, Func, RelOp};
use crate::read::token::{Cmd, Delim, Tok};

impl Parser {
    /// A function behind its name: power, base, argument.
    pub(super) fn function(&mut self, func: Func) -> Result<Expr> {
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
            _ => return Err(ParseError::Syntax),
        };
        Ok(match power {
            Some(power) => Expr::Pow(Box::new(value), Box::new(power)),
            None => value,
        })
    }

    fn arguments(&mut self, func: Func) -> Result<Vec<Expr>> {
        match self.peek() {
            Some(Tok::Open(Delim::Paren | Delim::Square | Delim::Brace)) => {
                self.at += 1;
                let open = self.tokens[self.at - 1].tok.clone();
                let (items, _) = self.nested(|parser| parser.bracketed(Self::item_list))?;
                let close = self.peek().and_then(closes).ok_or(ParseError::Syntax)?;
                if open != Tok::Open(close) {
                    return Err(ParseError::Syntax);
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
        if let (true, Some(Tok::Num(_, None, Some(digits)))) = (digit, self.peek().cloned())
            && digits.len() > 1
        {
            let value =
                |text: &str| text.parse::<BigInt>().map(BigRational::from_integer).map_err(|_| ParseError::Syntax);
            let (first, rest) = digits.split_at(1);
            self.tokens[self.at].tok = Tok::Num(value(rest)?, None, Some(rest.to_string()));
            return Ok(Expr::num(value(first)?));
        }
        let negative = self.take(&Tok::Op('-'));
        let value = self.atom()?;
        Ok(if negative { super::expr::negative(value) } else { value })
    }

    pub(super) fn command(&mut self, cmd: Cmd) -> Result<Expr> {
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
                if matches!(name, "overline" | "bar") && value.any(&mut |node| matches!(node, Expr::Const(Const::I))) {
                    return Ok(Expr::Func(Func::Conj, vec![value]));
                }
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
            _ => Err(ParseError::Syntax),
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
        if let (Some(Expr::Rel(terms, operators)), Some(last)) = (&lower, &upper)
            && let ([index, first], [RelOp::Eq]) = (terms.as_slice(), operators.as_slice())
        {
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

    pub(super) fn environment(&mut self, name: &str) -> Result<Expr> {
        let mut rows = vec![Vec::new()];
        let mut start = self.at;
        let mut depth = 0usize;
        loop {
            let Some(tok) = self.peek() else { return Err(ParseError::Syntax) };
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
            return Err(ParseError::Syntax);
        }
        if name == "cases" || name == "rcases" || name == "dcases" {
            return Ok(systems::cases(rows));
        }
        Ok(match name {
            "vmatrix" => Expr::Shape("det".to_string(), vec![Expr::Matrix(rows)]),
            "Vmatrix" => Expr::Shape("norm".to_string(), vec![Expr::Matrix(rows)]),
            _ => Expr::Matrix(rows),
        })
    }
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
