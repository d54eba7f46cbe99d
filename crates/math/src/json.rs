//! json: values that are equal when they mean the same: keys in any order, numbers by value.

use std::collections::BTreeMap;

use num_rational::BigRational;

use crate::read::number;

/// A JSON value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `null`.
    Null,
    /// `true`, `false`.
    Bool(bool),
    /// By value: `1`, `1.0` and `1e0` are the same.
    Number(BigRational),
    /// Escapes resolved.
    String(String),
    /// In order.
    Array(Vec<Value>),
    /// The last of equal keys counts.
    Object(BTreeMap<String, Value>),
}

/// Values may nest this deep.
const DEPTH_LIMIT: usize = 100;

/// The JSON of a response: the last fenced block, else the last box, else everything.
pub fn located(text: &str) -> (&str, &'static str) {
    if let Some(end) = text.rfind("```")
        && let Some(start) = text[..end].rfind("```")
    {
        let block = &text[start + 3..end];
        return (block.strip_prefix("json").unwrap_or(block), "fence");
    }
    match super::last_boxed(text) {
        Some(content) => (content, "boxed"),
        None => (text, "whole"),
    }
}

/// Parses a document; none when it is not one.
pub fn parse(text: &str) -> Option<Value> {
    let mut reader = Reader { text, at: 0 };
    let value = reader.value(0)?;
    reader.space();
    (reader.at == text.len()).then_some(value)
}

/// The value a text begins with, whatever is behind it.
pub fn prefix(text: &str) -> Option<Value> {
    Reader { text, at: 0 }.value(0)
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn space(&mut self) {
        self.at += self.text[self.at..].bytes().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).count();
    }

    fn take(&mut self, wanted: &str) -> Option<()> {
        self.space();
        if self.text[self.at..].starts_with(wanted) {
            self.at += wanted.len();
            return Some(());
        }
        None
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        if depth > DEPTH_LIMIT {
            return None;
        }
        self.space();
        match self.text.as_bytes().get(self.at)? {
            b'n' => self.take("null").map(|()| Value::Null),
            b't' => self.take("true").map(|()| Value::Bool(true)),
            b'f' => self.take("false").map(|()| Value::Bool(false)),
            b'"' => self.string().map(Value::String),
            b'[' => {
                self.at += 1;
                let mut items = Vec::new();
                if self.take("]").is_some() {
                    return Some(Value::Array(items));
                }
                loop {
                    items.push(self.value(depth + 1)?);
                    if self.take("]").is_some() {
                        return Some(Value::Array(items));
                    }
                    self.take(",")?;
                }
            }
            b'{' => {
                self.at += 1;
                let mut items = BTreeMap::new();
                if self.take("}").is_some() {
                    return Some(Value::Object(items));
                }
                loop {
                    self.space();
                    let key = self.string()?;
                    self.take(":")?;
                    items.insert(key, self.value(depth + 1)?);
                    if self.take("}").is_some() {
                        return Some(Value::Object(items));
                    }
                    self.take(",")?;
                }
            }
            b'-' | b'0'..=b'9' => self.number(),
            _ => None,
        }
    }

    fn number(&mut self) -> Option<Value> {
        let negative = self.text[self.at..].starts_with('-');
        self.at += usize::from(negative);
        let rest = &self.text[self.at..];
        let length = rest
            .bytes()
            .take_while(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-'))
            .count();
        let scan = number::scan(&rest[..length], false, false);
        if length == 0 || scan.too_large || scan.length != length || !rest.as_bytes()[0].is_ascii_digit() {
            return None;
        }
        self.at += length;
        Some(Value::Number(if negative { -scan.value } else { scan.value }))
    }

    fn string(&mut self) -> Option<String> {
        if !self.text[self.at..].starts_with('"') {
            return None;
        }
        self.at += 1;
        let mut text = String::new();
        loop {
            let c = self.text[self.at..].chars().next()?;
            self.at += c.len_utf8();
            match c {
                '"' => return Some(text),
                '\\' => text.push(self.escape()?),
                c if (c as u32) < 0x20 => return None,
                c => text.push(c),
            }
        }
    }

    fn escape(&mut self) -> Option<char> {
        let c = self.text[self.at..].chars().next()?;
        self.at += c.len_utf8();
        Some(match c {
            '"' | '\\' | '/' => c,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let first = self.hex()?;
                if (0xD800..0xDC00).contains(&first) {
                    self.text[self.at..].starts_with("\\u").then_some(())?;
                    self.at += 2;
                    let second = self.hex().filter(|second| (0xDC00..0xE000).contains(second))?;
                    return char::from_u32(0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00));
                }
                char::from_u32(first)?
            }
            _ => return None,
        })
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4)?;
        self.at += 4;
        u32::from_str_radix(digits, 16).ok()
    }
}
