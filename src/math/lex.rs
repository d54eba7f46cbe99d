//! lex: LaTeX or plain text -> tokens. Total on any input; unknown macros and characters become names and words.

use super::ast::{Const, NamedSet, RelOp};
use super::number;
use super::plain;
use super::token::{self, Cmd, Delim, Tok, Token};

/// How commas between digits are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Comma {
    /// Groups of three digits outside brackets are thousands; inside brackets commas separate.
    #[default]
    Auto,
    /// Commas always separate.
    Separator,
    /// Groups of three digits are thousands, also inside brackets.
    Thousands,
    /// A comma is a decimal point.
    Decimal,
}

/// The longest input that is looked at, in bytes.
pub const INPUT_LIMIT: usize = 20_000;

/// The largest number of tokens.
const TOKEN_LIMIT: usize = 6_000;

/// Why a text has no tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

/// The tokens of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Lexed {
    /// In order.
    pub tokens: Vec<Token>,
    /// A comma between digits could be read in another way.
    pub ambiguous: bool,
}

/// Splits `text` into tokens.
pub fn lex(text: &str, comma: Comma) -> Result<Lexed, TooLong> {
    if text.len() > INPUT_LIMIT {
        return Err(TooLong);
    }
    let converted;
    let text = if text.is_ascii() {
        text
    } else {
        converted = plain::to_plain(text);
        converted.as_str()
    };
    let prose = plain::looks_like_prose(text);
    let spaced_commas = text.contains(", ") || text.contains(",\\ ") || text.contains(",~");
    let currency_dollar = text
        .bytes()
        .zip(std::iter::once(b' ').chain(text.bytes()))
        .filter(|(b, before)| *b == b'$' && *before != b'\\')
        .count()
        % 2
        == 1;
    let mut lexer = Lexer {
        text,
        bytes: text.as_bytes(),
        at: 0,
        tokens: Vec::new(),
        spaced: false,
        comma,
        ambiguous: false,
        depth: 0,
        environments: 0,
        spaced_commas,
        prose,
        currency_dollar,
        in_math: false,
        has_math: text.contains('$') || text.contains("\\("),
    };
    lexer.run(false)?;
    Ok(Lexed { tokens: lexer.tokens, ambiguous: lexer.ambiguous })
}

struct Lexer<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    tokens: Vec<Token>,
    spaced: bool,
    comma: Comma,
    ambiguous: bool,
    /// Brackets that are open.
    depth: usize,
    environments: usize,
    spaced_commas: bool,
    prose: bool,
    currency_dollar: bool,
    in_math: bool,
    has_math: bool,
}

impl<'a> Lexer<'a> {
    fn push(&mut self, tok: Tok) {
        self.push_font(tok, false);
    }

    fn push_font(&mut self, tok: Tok, upright: bool) {
        self.tokens.push(Token { tok, spaced: self.spaced, upright });
        self.spaced = false;
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn run(&mut self, upright: bool) -> Result<(), TooLong> {
        while let Some(byte) = self.peek() {
            if self.tokens.len() > TOKEN_LIMIT {
                return Err(TooLong);
            }
            match byte {
                b'\\' => self.macro_or_escape(upright)?,
                b' ' | b'\t' | b'\n' | b'\r' | b'~' => {
                    self.spaced = true;
                    self.at += 1;
                }
                b'0'..=b'9' => self.number(),
                b'.' if self.bytes.get(self.at + 1).is_some_and(u8::is_ascii_digit) => self.number(),
                b'.' if self.text[self.at..].starts_with("...") => {
                    self.push(Tok::Cmd(Cmd::Dots));
                    self.at += 3;
                }
                b'.' if self.text[self.at + 1..].starts_with("\\overline{")
                    || self.text[self.at + 1..].starts_with("\\dot{")
                    || self.text[self.at + 1..].starts_with("\\bar{") =>
                {
                    self.number();
                }
                b'a'..=b'z' | b'A'..=b'Z' => self.letters(upright),
                128.. => self.foreign(),
                _ => self.symbol(byte),
            }
        }
        Ok(())
    }

    fn number(&mut self) {
        let groups_allowed = match self.comma {
            Comma::Auto => self.depth == 0 || self.spaced_commas,
            Comma::Separator | Comma::Decimal => false,
            Comma::Thousands => true,
        };
        let decimal_comma = match self.comma {
            Comma::Decimal => true,
            Comma::Auto => self.depth == 0 && self.text[self.at..].starts_with("0,") && !self.spaced_commas,
            _ => false,
        };
        let scan = number::scan(&self.text[self.at..], groups_allowed, decimal_comma);
        self.at += scan.length.max(1);
        self.ambiguous |= scan.ambiguous;
        self.push(Tok::Num(scan.value, scan.places, scan.digits));
    }

    /// A run of letters that are not ASCII: a word.
    fn foreign(&mut self) {
        let rest = &self.text[self.at..];
        if let Some(symbol) = rest.chars().next().filter(|symbol| super::units::Unit::currency(*symbol).is_some()) {
            self.at += symbol.len_utf8();
            return self.push(Tok::Currency(symbol));
        }
        let end = rest
            .char_indices()
            .find(|(_, c)| c.is_ascii() || matches!(c, '€' | '£' | '¥' | '₹' | '¢'))
            .map_or(rest.len(), |(end, _)| end);
        let word = rest[..end].to_string();
        self.at += end;
        self.push_font(Tok::Word(word), true);
    }

    fn symbol(&mut self, byte: u8) {
        let rest = &self.text[self.at..];
        const PAIRS: &[(&str, Tok)] = &[
            ("**", Tok::Op('^')),
            ("<=", Tok::Rel(RelOp::Le)),
            ("=<", Tok::Rel(RelOp::Le)),
            (">=", Tok::Rel(RelOp::Ge)),
            ("!=", Tok::Rel(RelOp::Ne)),
            ("==", Tok::Rel(RelOp::Eq)),
            (":=", Tok::Rel(RelOp::Eq)),
            ("->", Tok::Rel(RelOp::Other("to"))),
            ("=>", Tok::Rel(RelOp::Other("implies"))),
            ("+-", Tok::Cmd(Cmd::PlusMinus)),
            ("+/-", Tok::Cmd(Cmd::PlusMinus)),
        ];
        // `3!=6` is a factorial and an equation only in print; a space settles it
        if let Some((pair, tok)) = PAIRS.iter().find(|(pair, _)| rest.starts_with(pair)) {
            self.at += pair.len();
            return self.push(tok.clone());
        }
        self.at += 1;
        let tok = match byte {
            b'+' | b'-' | b'*' | b'/' | b'^' | b'_' | b'!' | b':' => Tok::Op(char::from(byte)),
            b'=' => Tok::Rel(RelOp::Eq),
            b'<' => Tok::Rel(RelOp::Lt),
            b'>' => Tok::Rel(RelOp::Gt),
            b'(' => Tok::Open(Delim::Paren),
            b')' => Tok::Close(Delim::Paren),
            b'[' => Tok::Open(Delim::Square),
            b']' => Tok::Close(Delim::Square),
            b'{' => Tok::Open(Delim::Group),
            b'}' => Tok::Close(Delim::Group),
            b'|' => Tok::Bar,
            b',' => Tok::Comma,
            b';' => Tok::Semicolon,
            b'%' => Tok::Percent,
            b'\'' => Tok::Prime(1),
            b'&' => Tok::Amp,
            b'@' | b'#' | b'?' => Tok::Word(char::from(byte).to_string()),
            b'$' => {
                if self.currency_dollar && self.peek().is_some_and(|next| next.is_ascii_digit() || next == b' ') {
                    self.currency_dollar = false;
                    return self.push(Tok::Currency('$'));
                }
                self.in_math = !self.in_math;
                self.spaced = true;
                return;
            }
            _ => {
                self.spaced = true;
                return;
            }
        };
        match tok {
            Tok::Open(Delim::Paren | Delim::Square) => self.depth += 1,
            Tok::Close(Delim::Paren | Delim::Square) => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        self.push(tok);
    }

    /// A run of letters outside macros.
    fn letters(&mut self, upright: bool) {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_alphabetic()) {
            self.at += 1;
        }
        // hyphens and apostrophes inside words
        let as_text = upright || (self.prose && !(self.has_math && self.in_math));
        if as_text && self.at - start > 1 {
            while matches!(self.peek(), Some(b'-' | b'\''))
                && self.bytes.get(self.at + 1).is_some_and(u8::is_ascii_lowercase)
            {
                self.at += 1;
                while self.peek().is_some_and(|byte| byte.is_ascii_alphabetic()) {
                    self.at += 1;
                }
            }
        }
        let run = &self.text[start..self.at];
        if self.half_of_day(start) {
            return;
        }
        // numpy's spelling: np.arcsin(x)
        if matches!(run, "np" | "math" | "numpy") && self.peek() == Some(b'.') {
            self.at += 1;
            return;
        }
        match run {
            "and" => return self.push(Tok::And),
            "or" => return self.push(Tok::Or),
            "infinity" | "inf" | "oo" | "Infinity" => return self.push(Tok::Const(Const::Infinity)),
            "pi" | "Pi" => return self.push(Tok::Const(Const::Pi)),
            "sqrt" => return self.push(Tok::Cmd(Cmd::Sqrt)),
            // a lost backslash
            "frac" | "dfrac" | "tfrac" if self.peek() == Some(b'{') => return self.push(Tok::Cmd(Cmd::Frac)),
            "percent" | "percentage" | "pct" => return self.push(Tok::Percent),
            "degrees" | "degree" | "deg" => return self.push(Tok::Degree),
            "U" if !upright
                && matches!(self.tokens.last().map(|token| &token.tok), Some(Tok::Close(_)))
                && self.next_opens() =>
            {
                return self.push(Tok::Cmd(Cmd::Cup));
            }
            _ => {}
        }
        if let Some(func) = token::function(run).filter(|_| !self.prose || run.len() < 4 || upright)
            && !(as_text
                && matches!(run, "sign" | "floor" | "max" | "min" | "exp" | "abs" | "tan" | "log")
                && !self.next_opens())
        {
            return self.push(Tok::Func(func));
        }
        if run.len() == 1 {
            return self.one_letter(run, upright);
        }
        if let Some(name) = token::letter(run).filter(|_| run.len() > 2 || !as_text)
            && run.len() > 2
        {
            return self.push(Tok::Ident(name.to_string()));
        }
        let after_number =
            matches!(self.tokens.last().map(|token| &token.tok), Some(Tok::Num(..) | Tok::Close(_) | Tok::Degree));
        let unit = after_number && self.spaced && super::units::Unit::named(run).is_some();
        if as_text || unit || plain::is_long_word(run) || (token::is_common_word(run) && self.stands_among_words(start))
        {
            return self.push_font(Tok::Word(run.to_string()), true);
        }
        self.product(run);
    }

    /// No numeral and no operator on either side: `by` in `4by + z` is a product.
    fn stands_among_words(&self, start: usize) -> bool {
        let before = self.text[..start].trim_end().bytes().next_back();
        let after = self.text[self.at..].trim_start().bytes().next();
        let formula = |byte: u8| {
            byte.is_ascii_digit()
                || matches!(
                    byte,
                    b'+' | b'-'
                        | b'*'
                        | b'/'
                        | b'^'
                        | b'='
                        | b'_'
                        | b'('
                        | b')'
                        | b'\\'
                        | b'}'
                        | b'<'
                        | b'>'
                        | b'|'
                        | b'&'
                )
        };
        !before.is_some_and(formula) && !after.is_some_and(formula)
    }

    /// Letters that stand for a product; functions in front of one or two letters are functions.
    fn product(&mut self, run: &str) {
        let head = ["sin", "cos", "tan", "cot", "sec", "csc", "ln", "log"].iter().find(|name| run.starts_with(**name));
        if let Some(name) = head.filter(|name| run.len() - name.len() <= 2)
            && let Some(func) = token::function(name)
        {
            self.push(Tok::Func(func));
            return run[name.len()..].chars().for_each(|c| self.one_letter(&c.to_string(), false));
        }
        if let Some(front) = run.strip_suffix("pi").filter(|front| front.len() == 1) {
            self.one_letter(front, false);
            return self.push(Tok::Const(Const::Pi));
        }
        run.chars().for_each(|c| self.one_letter(&c.to_string(), false));
    }

    fn one_letter(&mut self, letter: &str, upright: bool) {
        match letter {
            "i" => self.push(Tok::Const(Const::I)),
            "e" => self.push(Tok::Const(Const::E)),
            _ => self.push_font(Tok::Ident(letter.to_string()), upright),
        }
    }

    fn next_opens(&self) -> bool {
        let rest = self.text[self.at..].trim_start();
        rest.starts_with('(')
            || rest.starts_with('[')
            || rest.starts_with("\\left")
            || rest.starts_with("\\{")
            || rest.starts_with('{')
    }

    /// `p.m.`, `PM`, `a.m.` behind a time.
    fn half_of_day(&mut self, start: usize) -> bool {
        let rest = &self.bytes[start..];
        let is = |at: usize, byte: u8| rest.get(at).is_some_and(|b| b.to_ascii_lowercase() == byte);
        let letter = rest[0].to_ascii_lowercase();
        if !matches!(letter, b'a' | b'p') {
            return false;
        }
        let behind_number = matches!(self.tokens.last().map(|token| &token.tok), Some(Tok::Num(..)));
        let length = if is(1, b'm') && behind_number {
            2
        } else if is(1, b'.') && is(2, b'm') {
            3
        } else if is(1, b'.') && is(2, b' ') && is(3, b'm') && behind_number {
            4
        } else {
            return false;
        };
        if rest.get(length).is_some_and(u8::is_ascii_alphabetic) {
            return false;
        }
        let length = if length > 2 && is(length, b'.') { length + 1 } else { length };
        self.at = start + length;
        self.push_font(Tok::Word(if letter == b'a' { "am" } else { "pm" }.to_string()), true);
        true
    }

    /// Everything that starts with a backslash.
    fn macro_or_escape(&mut self, upright: bool) -> Result<(), TooLong> {
        let start = self.at;
        self.at += 1;
        let Some(next) = self.peek() else { return Ok(()) };
        if !next.is_ascii_alphabetic() {
            self.escape(next);
            return Ok(());
        }
        while self.peek().is_some_and(|byte| byte.is_ascii_alphabetic()) {
            self.at += 1;
        }
        let name = &self.text[start + 1..self.at];
        self.named(name, upright)
    }

    fn escape(&mut self, next: u8) {
        self.at += 1;
        match next {
            b'{' => self.push(Tok::Open(Delim::Brace)),
            b'}' => self.push(Tok::Close(Delim::Brace)),
            b'|' => self.push(Tok::Norm),
            b'%' => self.push(Tok::Percent),
            b'$' => self.push(Tok::Currency('$')),
            b'&' => self.push(Tok::And),
            b'#' => self.push(Tok::Word("#".to_string())),
            b'_' => self.spaced = true,
            b'!' => {}
            b'\\' => {
                // a doubled backslash before a macro is an escaped one, except where lines end
                let doubled = self.environments == 0
                    && self.peek().is_some_and(|b| b.is_ascii_alphabetic() || b == b'{' || b == b'}');
                if doubled {
                    let rest = &self.text[self.at..];
                    let length = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
                    let name = &rest[..length];
                    let known =
                        token::simple_macro(name).is_some() || token::is_cosmetic(name) || token::is_text_macro(name);
                    if known || length == 0 || name == "begin" || token::letter(name).is_some() {
                        self.at -= 1;
                        return;
                    }
                }
                self.push(Tok::Newline);
            }
            128.. => self.at -= 1,
            _ => self.spaced = true,
        }
        match next {
            b'{' => self.depth += 1,
            b'}' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }

    fn named(&mut self, name: &'a str, upright: bool) -> Result<(), TooLong> {
        if token::is_text_macro(name) {
            return self.text_macro(name);
        }
        if token::is_cosmetic(name) {
            if matches!(name, "left" | "right" | "middle") {
                if matches!(self.peek(), Some(b'.')) {
                    self.at += 1;
                } else if name != "middle" && self.text[self.at..].starts_with("\\|") {
                    self.at += 2;
                    self.push(Tok::Norm);
                }
            }
            return Ok(());
        }
        if token::is_dropped_with_argument(name) {
            self.group();
            return Ok(());
        }
        match name {
            "begin" | "end" => {
                let argument = self.group().unwrap_or_default().trim_end_matches('*').to_string();
                if name == "begin" {
                    self.environments += 1;
                    if matches!(argument.as_str(), "array" | "tabular") {
                        if self.peek() == Some(b'[') {
                            self.at += self.text[self.at..].find(']').map_or(0, |end| end + 1);
                        }
                        self.group();
                    }
                    self.depth += 1;
                    self.push(Tok::Begin(argument));
                } else {
                    self.environments = self.environments.saturating_sub(1);
                    self.depth = self.depth.saturating_sub(1);
                    self.push(Tok::End(argument));
                }
            }
            "mathbb" | "Bbb" => {
                let argument = self.group().unwrap_or_default();
                let set = match argument.trim() {
                    "R" => NamedSet::Reals,
                    "Z" => NamedSet::Integers,
                    "N" => NamedSet::Naturals,
                    "Q" => NamedSet::Rationals,
                    "C" => NamedSet::Complexes,
                    other => {
                        let other = other.to_string();
                        self.push(Tok::Ident(other));
                        return Ok(());
                    }
                };
                self.push(Tok::Named(set));
            }
            "cbrt" => self.push(Tok::Cmd(Cmd::Cbrt)),
            "langle" | "rangle" | "lfloor" | "lceil" | "rfloor" | "rceil" | "lbrace" | "rbrace" | "lbrack"
            | "rbrack" => {
                if name.starts_with('l') {
                    self.depth += 1
                } else {
                    self.depth = self.depth.saturating_sub(1)
                }
                self.push(token::simple_macro(name).expect("brackets are in the table"));
            }
            _ => {
                if let Some(tok) = token::simple_macro(name) {
                    self.push_font(tok, upright);
                } else if let Some(letter) = token::letter(name) {
                    self.push(if letter == "pi" { Tok::Const(Const::Pi) } else { Tok::Ident(letter.to_string()) });
                } else if let Some(rest) = name.strip_prefix("quad").filter(|rest| rest.len() < 3) {
                    // a missing space: \quadx
                    self.push(Tok::Quad);
                    rest.chars().for_each(|c| self.one_letter(&c.to_string(), false));
                } else {
                    self.push(Tok::Ident(format!("\\{name}")));
                }
            }
        }
        Ok(())
    }

    /// The content of the group that follows, braces removed; skips it.
    fn group(&mut self) -> Option<&'a str> {
        while self.peek() == Some(b' ') {
            self.at += 1;
        }
        if self.peek() != Some(b'{') {
            return None;
        }
        let start = self.at + 1;
        let close = super::extract::matching_brace(self.bytes, self.at);
        self.at = close.map_or(self.bytes.len(), |close| close + 1);
        Some(&self.text[start..close.unwrap_or(self.bytes.len())])
    }

    /// `\text{..}` and its kin: the content is read as words.
    fn text_macro(&mut self, name: &str) -> Result<(), TooLong> {
        let Some(content) = self.group() else { return Ok(()) };
        let bold = matches!(name, "mathbf" | "textbf" | "mathrm");
        let bare = content.trim().trim_matches(|c| c == '$' || c == '~');
        // one letter in bold is a vector or a choice, not a unit
        if bold && bare.len() == 1 && name != "mathrm" && bare.as_bytes()[0].is_ascii_alphabetic() {
            self.push(Tok::Ident(bare.to_string()));
            return Ok(());
        }
        // \mathrm{min} behind a number is a unit
        let is_unit = name != "operatorname" && matches!(bare, "min" | "sec") && !self.next_opens();
        if let Some(func) =
            token::function(bare).filter(|_| !is_unit && (name == "operatorname" || name.starts_with("math")))
        {
            self.push(Tok::Func(func));
            return Ok(());
        }
        let mut inner = Lexer {
            text: content,
            bytes: content.as_bytes(),
            at: 0,
            tokens: std::mem::take(&mut self.tokens),
            spaced: true,
            comma: self.comma,
            ambiguous: false,
            depth: self.depth,
            environments: self.environments,
            spaced_commas: self.spaced_commas,
            prose: false,
            currency_dollar: self.currency_dollar,
            in_math: false,
            has_math: false,
        };
        let before = inner.tokens.len();
        // nested text macros recurse once per level of braces
        let result = if self.environments > 64 {
            Err(TooLong)
        } else {
            inner.environments += 1;
            inner.run(true)
        };
        self.ambiguous |= inner.ambiguous;
        self.tokens = inner.tokens;
        result?;
        if let Some(first) = self.tokens.get_mut(before) {
            first.spaced = true;
        }
        self.spaced = true;
        Ok(())
    }
}
