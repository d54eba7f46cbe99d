//! A template's source as minijinja reads it, where Jinja2 under transformers reads it otherwise.
//!
//! - `{% generation %}` and `{% endgeneration %}`, which mark what the assistant says, become a block without effect. White
//!   space around them is controlled as around any block.
//! - String literals have Python's escapes: a backslash at a line's end goes with the line's end, `\v` and `\U0001F600` are
//!   characters, `\/` is two.
//! - `text % x` is Python's formatting.
//! - Every line ends in `\n`.
//!
//! Lines keep their numbers, for errors.

/// The name of the filter that `text % x` becomes.
pub const FORMAT: &str = "percent_format";

/// Rewrites a template's source.
pub fn prepare(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some(at) = rest.find("{{").into_iter().chain(rest.find("{%")).chain(rest.find("{#")).min() {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let length = match &rest[..2] {
            "{#" => rest.find("#}").map_or(rest.len(), |end| end + 2),
            "{%" if tag(rest).is_some_and(|tag| tag.name == "raw") => raw_block(rest),
            opening => {
                let code = Code::read(rest, if opening == "{{" { "}}" } else { "%}" });
                out.push_str(&code.text);
                rest = &rest[code.length..];
                continue;
            }
        };
        out.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    out.push_str(rest);
    out
}

/// A tag that is a name alone: `{%- raw %}`.
struct Tag<'a> {
    name: &'a str,
    /// Where the name stands in the tag.
    start: usize,
    /// Bytes of the whole tag.
    length: usize,
}

fn tag(text: &str) -> Option<Tag<'_>> {
    let length = 2 + text[2..].find("%}")? + 2;
    let inner = &text[2..length - 2];
    let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner);
    let name = inner.strip_suffix(['-', '+']).unwrap_or(inner).trim();
    Some(Tag { name, start: name.as_ptr() as usize - text.as_ptr() as usize, length })
}

/// Bytes of a raw block, tags included.
fn raw_block(text: &str) -> usize {
    text.match_indices("{%")
        .find_map(|(at, _)| tag(&text[at..]).filter(|tag| tag.name == "endraw").map(|tag| at + tag.length))
        .unwrap_or(text.len())
}

/// What stands between `{{` and `}}`, or between `{%` and `%}`, delimiters included.
struct Code {
    /// As minijinja is to read it.
    text: String,
    /// Bytes of it in the source.
    length: usize,
}

impl Code {
    /// `text` starts with the opening delimiter. Code that never ends is left to the compiler.
    fn read(text: &str, close: &str) -> Code {
        if close == "%}"
            && let Some(tag) = tag(text)
            && let Some(block) = [("generation", "with"), ("endgeneration", "endwith")].iter().find(|b| b.0 == tag.name)
        {
            let end = tag.start + tag.name.len();
            return Code { text: [&text[..tag.start], block.1, &text[end..tag.length]].concat(), length: tag.length };
        }
        let mut out = text[..2].to_string();
        let mut at = 2;
        let mut place = Place::default();
        while let Some(c) = text[at..].chars().next() {
            if place.outer.is_empty() && text[at..].starts_with(close) {
                out.push_str(close);
                return Code { text: out, length: at + 2 };
            }
            let start = at;
            at += match c {
                '\'' | '"' => literal(&text[at..], &mut out),
                _ if is_word(c) => word(&text[at..]),
                _ => c.len_utf8(),
            };
            if c == '%' && place.formats(&text[at..]) {
                let length = operand(&text[at..]);
                let operand = Code::read(&["{{", &text[at..at + length], "}}"].concat(), "}}");
                out.push_str(&format!("|{FORMAT}({})", &operand.text[2..operand.text.len() - 2]));
                at += length;
                place.ended = true;
                continue;
            }
            if !matches!(c, '\'' | '"') {
                out.push_str(&text[start..at]);
            }
            place.pass(&text[start..at]);
        }
        Code { text: text.to_string(), length: text.len() }
    }
}

/// Where in an expression the next token stands.
#[derive(Default)]
struct Place {
    /// Behind an operand.
    ended: bool,
    /// Behind a string literal.
    literal: bool,
    /// The operand is part of a product, or has a sign: a filter behind it would not take what `%` takes.
    bound: bool,
    /// `bound` of the brackets around.
    outer: Vec<bool>,
}

const KEYWORDS: [&str; 12] = ["and", "or", "not", "in", "is", "if", "elif", "else", "for", "set", "call", "filter"];

impl Place {
    fn pass(&mut self, token: &str) {
        self.literal = token.starts_with(['\'', '"']) || (self.literal && token.trim().is_empty());
        match token {
            "(" | "[" | "{" => {
                self.outer.push(self.bound);
                (self.ended, self.bound) = (false, false);
            }
            ")" | "]" | "}" => {
                self.bound = self.outer.pop().unwrap_or_default();
                self.ended = true;
            }
            "." | "|" => {}
            "*" | "/" | "%" => (self.ended, self.bound) = (false, true),
            "-" | "+" => (self.bound, self.ended) = (!self.ended, false),
            _ if self.literal => self.ended = true,
            _ if token.starts_with(is_word) => {
                self.ended = !KEYWORDS.contains(&token);
                self.bound &= self.ended;
            }
            _ if token.trim().is_empty() => {}
            _ => (self.ended, self.bound) = (false, false),
        }
    }

    /// True for a `%` that may format a text: by a number it is a remainder.
    fn formats(&self, behind: &str) -> bool {
        let by_number = behind.trim_start().starts_with(|c: char| c.is_ascii_digit() || c == '-');
        self.ended && !self.bound && !behind.starts_with('}') && (self.literal || !by_number)
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Bytes of the word that `text` begins with.
fn word(text: &str) -> usize {
    text.find(|c| !is_word(c)).unwrap_or(text.len())
}

/// Bytes of an operand: a name, a literal or a bracket, with the attributes, calls, items and filters that follow it.
fn operand(text: &str) -> usize {
    let mut at = text.len() - text.trim_start_matches([' ', '\t', '\n', '-']).len();
    at += match text[at..].chars().next() {
        Some('\'' | '"') => literal(&text[at..], &mut String::new()),
        Some('(' | '[' | '{') => bracket(&text[at..]),
        _ => word(&text[at..]),
    };
    loop {
        let next = at + spaces(&text[at..]);
        let behind = &text[next..];
        at = match behind.chars().next() {
            Some('(' | '[') => next + bracket(behind),
            Some('.' | '|') => {
                let name = next + 1 + spaces(&behind[1..]);
                name + word(&text[name..])
            }
            _ => return at,
        };
    }
}

fn spaces(text: &str) -> usize {
    text.len() - text.trim_start().len()
}

/// Bytes of a bracket and what is in it.
fn bracket(text: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while let Some(c) = text[at..].chars().next() {
        if matches!(c, '\'' | '"') {
            at += literal(&text[at..], &mut String::new());
            continue;
        }
        at += c.len_utf8();
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth == 1 => return at,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
    }
    at
}

/// Writes the string literal that `text` begins with; its bytes in the source.
fn literal(text: &str, out: &mut String) -> usize {
    let quote = text.chars().next().expect("a literal begins with its quote");
    let (mut end, mut escaped) = (None, false);
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => {
                end = Some(at + 1);
                break;
            }
            _ => {}
        }
    }
    let length = end.unwrap_or(text.len());
    let source = &text[..length];
    match end.and_then(|end| unescape(&text[1..end - 1])) {
        Some(value) if source.contains('\\') => {
            out.push(quote);
            for c in value.chars() {
                if c == '\\' || c == quote {
                    out.push('\\');
                }
                out.push(c);
            }
            out.push(quote);
            // The lines that went away still count.
            let gone = source.matches('\n').count().saturating_sub(value.matches('\n').count());
            out.extend(std::iter::repeat_n('\n', gone));
        }
        _ => out.push_str(source),
    }
    length
}

/// A literal's value by Python's rules; `None` for escapes that are errors, or that only Python knows.
fn unescape(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let c = rest[at + 1..].chars().next()?;
        rest = &rest[at + 1 + c.len_utf8()..];
        let digits = match c {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            '0'..='7' => {
                let more = rest.bytes().take(2).take_while(|b| matches!(b, b'0'..=b'7')).count();
                let code = rest[..more].bytes().fold(c as u32 - 48, |code, b| code * 8 + u32::from(b) - 48);
                out.push(char::from_u32(code)?);
                rest = &rest[more..];
                continue;
            }
            _ => {
                match c {
                    '\n' => {}
                    '\\' | '\'' | '"' => out.push(c),
                    'a' => out.push('\x07'),
                    'b' => out.push('\x08'),
                    'f' => out.push('\x0c'),
                    'n' => out.push('\n'),
                    'r' => out.push('\r'),
                    't' => out.push('\t'),
                    'v' => out.push('\x0b'),
                    'N' => return None,
                    _ => out.extend(['\\', c]),
                }
                continue;
            }
        };
        let code = rest.get(..digits).filter(|code| code.bytes().all(|b| b.is_ascii_hexdigit()))?;
        out.push(char::from_u32(u32::from_str_radix(code, 16).ok()?)?);
        rest = &rest[digits..];
    }
    out.push_str(rest);
    Some(out)
}
