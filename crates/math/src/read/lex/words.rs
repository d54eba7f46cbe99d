//! words: runs of letters: functions, constants, words, units, products of variables, halves of the day.

use super::Lexer;
use crate::read::ast::Const;
use crate::read::plain;
use crate::read::scale;
use crate::read::token::{self, Cmd, Tok};
use crate::read::units;

impl Lexer<'_> {
    /// A run of letters outside macros.
    pub(super) fn letters(&mut self, upright: bool) {
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
            "cent" if matches!(self.tokens.last().map(|token| &token.tok), Some(Tok::Word(word)) if word == "per") => {
                self.tokens.pop();
                return self.push(Tok::Percent);
            }
            "degrees" | "degree" | "deg" => return self.push(Tok::Degree),
            "U" if !upright
                && matches!(self.tokens.last().map(|token| &token.tok), Some(Tok::Close(_)))
                && self.next_opens() =>
            {
                return self.push(Tok::Cmd(Cmd::Cup));
            }
            _ => {}
        }
        // $18 per day
        let before = self.tokens.last().map(|token| &token.tok);
        let each = matches!(before, Some(Tok::Word(word)) if word == "per");
        if self.spaced && (each || run == "per" && matches!(before, Some(Tok::Num(..) | Tok::Word(_)))) {
            return self.push_font(Tok::Word(run.to_string()), true);
        }
        if self.short_scale(run) {
            return self.push_font(Tok::Word(run.to_string()), true);
        }
        // 24 min
        if matches!(run, "min" | "sec") && self.spaced && self.behind_number() && !self.next_opens() {
            return self.push_font(Tok::Word(run.to_string()), true);
        }
        if let Some(func) = token::function(run).filter(|_| !self.prose || run.len() < 4 || upright)
            && !(as_text
                && matches!(run, "sign" | "floor" | "max" | "min" | "exp" | "abs" | "tan" | "log")
                && !self.next_opens())
        {
            return self.push(Tok::Func(func));
        }
        if run.len() == 1 {
            return self.one_letter(run, upright || self.composite_unit(run));
        }
        if let Some(name) = token::letter(run).filter(|_| run.len() > 2 || !as_text)
            && run.len() > 2
        {
            return self.push(Tok::Ident(name.to_string()));
        }
        let unit = self.behind_number() && self.spaced && units::Unit::named(run).is_some();
        if as_text || unit || plain::is_long_word(run) || (token::is_common_word(run) && self.stands_among_words(start))
        {
            return self.push_font(Tok::Word(run.to_string()), true);
        }
        self.product(run);
    }

    /// `3 m 20 cm`: a letter between two numbers, apart from both, is a unit.
    fn composite_unit(&self, run: &str) -> bool {
        let next = self.text[self.at..].strip_prefix(' ');
        self.spaced
            && matches!(self.tokens.last().map(|token| &token.tok), Some(Tok::Num(..)))
            && next.is_some_and(|next| next.starts_with(|c: char| c.is_ascii_digit()))
            && units::Unit::named(run).is_some()
    }

    /// `$12.6M`, `5 bn`: a short scale word that is no product of names.
    fn short_scale(&self, run: &str) -> bool {
        let before = |back: usize| self.tokens.len().checked_sub(back).map(|at| &self.tokens[at].tok);
        if !matches!(before(1), Some(Tok::Num(..))) {
            return false;
        }
        let money = matches!(before(2), Some(Tok::Currency(_)))
            || matches!((before(3), before(2)), (Some(Tok::Currency(_)), Some(Tok::Op('-'))));
        money && scale::suffix(run, true).is_some()
            || self.spaced && matches!(run, "bn" | "bln" | "mln" | "trn" | "bps" | "bp")
    }

    fn behind_number(&self) -> bool {
        matches!(self.tokens.last().map(|token| &token.tok), Some(Tok::Num(..) | Tok::Close(_) | Tok::Degree))
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

    pub(super) fn one_letter(&mut self, letter: &str, upright: bool) {
        match letter {
            "i" => self.push(Tok::Const(Const::I)),
            "e" => self.push(Tok::Const(Const::E)),
            _ => self.push_font(Tok::Ident(letter.to_string()), upright),
        }
    }

    pub(super) fn next_opens(&self) -> bool {
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
}
