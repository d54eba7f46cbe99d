//! macros: everything that starts with a backslash: names, escapes, groups of text, environments.

use super::{Lexer, TooLong};
use crate::read::ast::{Const, NamedSet};
use crate::read::extract;
use crate::read::token::{self, Cmd, Delim, Tok};

impl<'a> Lexer<'a> {
    /// Everything that starts with a backslash.
    pub(super) fn macro_or_escape(&mut self, upright: bool) -> Result<(), TooLong> {
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
                self.skip_row_space();
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

    /// `\[4pt]`: more space between two rows.
    fn skip_row_space(&mut self) {
        let Some(inside) = self.text[self.at..].strip_prefix('[') else { return };
        let Some(close) = inside.find(']') else { return };
        let length =
            inside[..close].trim_start_matches('-').trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        if matches!(length.trim(), "pt" | "em" | "ex" | "mm" | "cm" | "in" | "mu" | "bp" | "\\jot") {
            self.at += close + 2;
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
        let close = extract::matching_brace(self.bytes, self.at);
        self.at = close.map_or(self.bytes.len(), |close| close + 1);
        Some(&self.text[start..close.unwrap_or(self.bytes.len())])
    }

    /// `\text{..}` and its kin: the content is read as words.
    fn text_macro(&mut self, name: &str) -> Result<(), TooLong> {
        // `\operatorname*`
        if name == "operatorname" && self.peek() == Some(b'*') {
            self.at += 1;
        }
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
            too_large: false,
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
        self.too_large |= inner.too_large;
        self.tokens = inner.tokens;
        result?;
        if let Some(first) = self.tokens.get_mut(before) {
            first.spaced = true;
        }
        self.spaced = true;
        Ok(())
    }
}
