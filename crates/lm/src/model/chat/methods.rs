//! Methods of Python's types, as templates call them.

use super::python::{argument, wrong};
use minijinja::value::{Kwargs, Tuple, ValueKind, from_args};
use minijinja::{Error, State, Value};

/// Methods of Python's types: strings here, the rest as minijinja's contrib crate has them.
pub fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let (positional, named): (&[Value], Kwargs) = from_args(args)?;
    let known = match value.kind() {
        ValueKind::String => string_method(value.as_str().unwrap_or_default(), name, positional, &named)?,
        ValueKind::Seq => list_method(value, name, positional)?,
        ValueKind::Map if name == "copy" && args.is_empty() => Some(value.clone()),
        _ => None,
    };
    match known {
        Some(value) => Ok(value),
        None => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}

fn list_method(value: &Value, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(match (name, args) {
        ("index", [item]) => {
            let found = value.try_iter()?.position(|other| other == *item);
            Some(Value::from(found.ok_or_else(|| wrong(format!("{item} is not in list")))?))
        }
        ("copy", []) => Some(value.try_iter()?.collect()),
        _ => None,
    })
}

/// White space to Python's `str` methods.
fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\x1c'..='\x1f')
}

/// A method of Python's `str`, or `None` for those left to the contrib crate.
fn string_method(text: &str, name: &str, args: &[Value], named: &Kwargs) -> Result<Option<Value>, Error> {
    let pair = |parts: Option<(&str, &str)>, separator: &str, from_end: bool| {
        let parts = match parts {
            Some((before, behind)) => [before, separator, behind],
            None if from_end => ["", "", text],
            None => [text, "", ""],
        };
        Value::from(Tuple::from(parts.map(Value::from)))
    };
    Ok(Some(match name {
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<Value>,) = from_args(args)?;
            let chars: Option<Vec<char>> =
                chars.filter(|chars| !chars.is_none()).map(|chars| chars.to_string().chars().collect());
            let strips = |c: char| chars.as_ref().map_or_else(|| is_space(c), |chars| chars.contains(&c));
            Value::from(match name {
                "strip" => text.trim_matches(strips),
                "lstrip" => text.trim_start_matches(strips),
                _ => text.trim_end_matches(strips),
            })
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "partition" => {
            let (separator,): (&str,) = from_args(args)?;
            pair(text.split_once(separator), separator, false)
        }
        "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            pair(text.rsplit_once(separator), separator, true)
        }
        "split" | "rsplit" => {
            let separator = argument(args, named, 0, "sep").filter(|separator| !separator.is_none());
            let limit: i64 = argument(args, named, 1, "maxsplit").map_or(Ok(-1), i64::try_from)?;
            split(text, separator.as_ref().map(Value::to_string), limit, name == "rsplit")?
        }
        "splitlines" => split_lines(text, argument(args, named, 0, "keepends").is_some_and(|keep| keep.is_true())),
        "swapcase" => {
            let swap = |c: char| match c.is_uppercase() {
                true => c.to_lowercase().collect::<String>(),
                false => c.to_uppercase().collect(),
            };
            Value::from(text.chars().map(swap).collect::<String>())
        }
        "casefold" => Value::from(text.to_lowercase().replace('ß', "ss")),
        "title" => Value::from(title(text)),
        "ljust" | "rjust" | "center" => {
            let (width, fill): (usize, Option<char>) = from_args(args)?;
            let (fill, missing) = (fill.unwrap_or(' '), width.saturating_sub(text.chars().count()));
            let filling: String = std::iter::repeat_n(fill, missing).collect();
            Value::from(match name {
                "ljust" => text.to_string() + &filling,
                "rjust" => filling + text,
                _ => centred(text, width, fill),
            })
        }
        "zfill" => {
            let (width,): (usize,) = from_args(args)?;
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
            let zeros = "0".repeat(width.saturating_sub(text.chars().count()));
            Value::from([sign, &zeros, digits].concat())
        }
        "isdecimal" | "isdigit" | "isnumeric" => Value::from(!text.is_empty() && text.chars().all(char::is_numeric)),
        "expandtabs" => {
            let (width,): (Option<usize>,) = from_args(args)?;
            Value::from(expand_tabs(text, width.unwrap_or(8)))
        }
        "find" | "rfind" | "index" | "rindex" | "count" => {
            let (what, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
            let (offset, part) = section(text, start, end);
            let found = if name.starts_with('r') { part.rfind(what) } else { part.find(what) };
            match (name, found) {
                ("count", _) => Value::from(part.matches(what).count()),
                (_, Some(at)) => Value::from(offset + part[..at].chars().count()),
                ("index" | "rindex", None) => return Err(wrong("substring not found")),
                _ => Value::from(-1),
            }
        }
        "startswith" | "endswith" if args.len() > 1 => {
            let (what, start, end): (&Value, Option<i64>, Option<i64>) = from_args(args)?;
            let (_, part) = section(text, start, end);
            let fits = |what: &Value| match what.as_str() {
                Some(what) if name == "startswith" => part.starts_with(what),
                Some(what) => part.ends_with(what),
                None => false,
            };
            Value::from(match what.kind() {
                ValueKind::String => fits(what),
                _ => what.try_iter()?.any(|what| fits(&what)),
            })
        }
        _ => return Ok(None),
    }))
}

/// `text[start:end]`, and how many characters stand before it.
fn section(text: &str, start: Option<i64>, end: Option<i64>) -> (usize, &str) {
    let length = text.chars().count();
    let place = |index: Option<i64>, default: usize| match index {
        None => default,
        Some(index) if index < 0 => length.saturating_sub(index.unsigned_abs() as usize),
        Some(index) => (index as usize).min(length),
    };
    let (start, end) = (place(start, 0), place(end, length));
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    (start, if start < end { &text[byte(start)..byte(end)] } else { "" })
}

/// `limit` is the most cuts made; below 0 it is no limit.
fn split(text: &str, separator: Option<String>, limit: i64, from_end: bool) -> Result<Value, Error> {
    let cuts = usize::try_from(limit).unwrap_or(usize::MAX);
    let Some(separator) = separator else { return Ok(split_spaces(text, cuts, from_end)) };
    if separator.is_empty() {
        return Err(wrong("empty separator"));
    }
    let parts = cuts.saturating_add(1);
    let mut found: Vec<&str> = match from_end {
        true => text.rsplitn(parts, &separator).collect(),
        false => text.splitn(parts, &separator).collect(),
    };
    if from_end {
        found.reverse();
    }
    Ok(found.into_iter().map(Value::from).collect())
}

fn split_spaces(text: &str, cuts: usize, from_end: bool) -> Value {
    let mut words: Vec<&str> = Vec::new();
    let mut rest = text.trim_matches(is_space);
    while !rest.is_empty() {
        let cut = if from_end { rest.rfind(is_space) } else { rest.find(is_space) };
        let Some(at) = cut.filter(|_| words.len() < cuts) else {
            words.push(rest);
            break;
        };
        let space = rest[at..].chars().next().map_or(1, char::len_utf8);
        let (word, others) = match from_end {
            true => (&rest[at + space..], rest[..at].trim_end_matches(is_space)),
            false => (&rest[..at], rest[at..].trim_start_matches(is_space)),
        };
        words.push(word);
        rest = others;
    }
    // With no cut left Python keeps the white space of the far end.
    if cuts < usize::MAX
        && words.len() == cuts + 1
        && let Some(last) = words.last_mut()
    {
        let start = last.as_ptr() as usize - text.as_ptr() as usize;
        *last = if from_end { &text[..start + last.len()] } else { &text[start..] };
    }
    if from_end {
        words.reverse();
    }
    words.into_iter().map(Value::from).collect()
}

fn split_lines(text: &str, keep_ends: bool) -> Value {
    let ends =
        |c: char| matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(ends).unwrap_or(rest.len());
        let mark = match &rest[end..] {
            behind if behind.starts_with("\r\n") => 2,
            behind => behind.chars().next().map_or(0, char::len_utf8),
        };
        lines.push(Value::from(&rest[..if keep_ends { end + mark } else { end }]));
        rest = &rest[end + mark..];
    }
    Value::from(lines)
}

/// Python's `str.title`: a capital behind whatever is no letter.
fn title(text: &str) -> String {
    let mut within = false;
    let mut out = String::new();
    for c in text.chars() {
        match within {
            true => out.extend(c.to_lowercase()),
            false => out.extend(c.to_uppercase()),
        }
        within = c.is_alphabetic();
    }
    out
}

/// In the middle of `width` characters, as Python has it.
pub fn centred(text: &str, width: usize, fill: char) -> String {
    let missing = width.saturating_sub(text.chars().count());
    let left = missing / 2 + (missing & width & 1);
    let fill = |count: usize| std::iter::repeat_n(fill, count).collect::<String>();
    [&fill(left), text, &fill(missing - left)].concat()
}

fn expand_tabs(text: &str, width: usize) -> String {
    let (mut out, mut column) = (String::new(), 0);
    for c in text.chars() {
        match c {
            '\t' => {
                let spaces = if width == 0 { 0 } else { width - column % width };
                out.extend(std::iter::repeat_n(' ', spaces));
                column += spaces;
            }
            '\n' | '\r' => {
                out.push(c);
                column = 0;
            }
            c => {
                out.push(c);
                column += 1;
            }
        }
    }
    out
}
