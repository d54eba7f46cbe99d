//! lex: LaTeX or plain text -> tokens. Total on any input; unknown macros and characters become names and words.

mod macros;
mod words;

use crate::read::ast::RelOp;
use crate::read::number;
use crate::read::plain;
use crate::read::token::{Cmd, Delim, Tok, Token};

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
        too_large: false,
    };
    lexer.run(false)?;
    if lexer.too_large {
        return Err(TooLong);
    }
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
    /// A numeral was too large to read.
    too_large: bool,
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
            if self.tokens.len() > TOKEN_LIMIT || self.too_large {
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
        let script = matches!(self.tokens.last().map(|token| &token.tok), Some(Tok::Op('^' | '_')));
        // a script without braces ends where its digits do: `\log_5 625`
        let end = if script { self.at + number::plain_length(&self.text[self.at..]) } else { self.text.len() };
        let scan = number::scan(&self.text[self.at..end], groups_allowed, decimal_comma);
        self.at += scan.length.max(1);
        self.ambiguous |= scan.ambiguous;
        self.too_large |= scan.too_large;
        self.push(Tok::Num(scan.value, scan.places, scan.digits));
    }

    /// A run of letters that are not ASCII: a word.
    fn foreign(&mut self) {
        let rest = &self.text[self.at..];
        if let Some(symbol) = rest.chars().next().filter(|symbol| crate::read::units::Unit::currency(*symbol).is_some())
        {
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
        // an operator in braces of its own: `4{:}30`, `a {=} b`
        let script = matches!(self.tokens.last().map(|token| &token.tok), Some(Tok::Op('^' | '_')));
        let braced = byte == b'{' && !script && rest.as_bytes().get(2) == Some(&b'}');
        if braced && matches!(rest.as_bytes()[1], b':' | b'=' | b'<' | b'>' | b'+' | b'-' | b'*' | b'/') {
            self.at += 1;
            self.symbol(rest.as_bytes()[1]);
            self.at += 1;
            return;
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
}
