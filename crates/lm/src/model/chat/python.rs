//! What Jinja2 and Python give a template that minijinja lacks, or gives otherwise: tests, filters, methods of strings.

use super::source::FORMAT;
use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Kwargs, Rest, Tuple, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use serde_json::Value as Json;

/// Adds all of it to an environment.
pub fn extend(environment: &mut Environment) {
    environment.set_unknown_method_callback(method);
    environment.add_test("iterable", |value: &Value| {
        matches!(
            value.kind(),
            ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable
        )
    });
    // Whatever has a length and items.
    environment.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Map)
    });
    environment.add_test("callable", |value: &Value| {
        matches!(value.kind(), ValueKind::Plain | ValueKind::Undefined) || value.to_string().starts_with("<macro ")
    });
    environment.add_function("cycler", |items: Rest<Value>| minijinja_contrib::globals::cycler(items.to_vec()));
    environment.add_function("joiner", minijinja_contrib::globals::joiner);
    environment.add_filter("tojson", to_json);
    environment.add_filter(FORMAT, percent_format);
    environment
        .add_filter("wordcount", |text: &str| text.split(|c| !is_word(c)).filter(|word| !word.is_empty()).count());
    environment.add_filter("truncate", truncate);
    environment.add_filter("center", |text: &str, width: Option<usize>| centred(text, width.unwrap_or(80), ' '));
    environment.add_filter("striptags", striptags);
    for name in ["e", "escape", "forceescape"] {
        environment.add_filter(name, escape);
    }
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Python's `left % right`: a text is formatted, with a tuple's values or the one value, and of a number the remainder is taken.
fn percent_format(left: &Value, right: &Value) -> Result<Value, Error> {
    let Some(text) = left.as_str() else { return remainder(left, right) };
    let values = match right.downcast_object_ref::<Tuple>() {
        Some(_) => right.try_iter()?.collect(),
        None => vec![right.clone()],
    };
    format(FormatStyle::Printf, text, &values).map(Value::from)
}

fn remainder(left: &Value, right: &Value) -> Result<Value, Error> {
    let whole = |value: &Value| {
        i64::try_from(value.clone()).ok().filter(|_| value.is_integer() || value.kind() == ValueKind::Bool)
    };
    if let (Some(left), Some(right)) = (whole(left), whole(right)) {
        let rest = left.checked_rem(right).ok_or_else(|| wrong("modulo by zero"))?;
        return Ok(Value::from(if rest != 0 && (rest < 0) != (right < 0) { rest + right } else { rest }));
    }
    match (f64::try_from(left.clone()), f64::try_from(right.clone())) {
        (Ok(left), Ok(right)) if right != 0.0 => Ok(Value::from(left - right * (left / right).floor())),
        _ => Err(wrong(format!("`%` does not go with {} and {}", left.kind(), right.kind()))),
    }
}

fn escape(value: &Value) -> Value {
    let mut out = String::new();
    for c in value.to_string().chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
    Value::from(out)
}

fn striptags(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('<') {
        let Some((_, after)) = behind.split_once('>') else { break };
        out.push_str(before);
        rest = after;
    }
    out.push_str(rest);
    out.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Jinja's `truncate(length=255, killwords=False, end='...', leeway=5)`.
fn truncate(text: &str, args: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let argument = |index: usize, name: &str| argument(&args, &named, index, name);
    let length: usize = argument(0, "length").map_or(Ok(255), usize::try_from)?;
    let killwords = argument(1, "killwords").is_some_and(|value| value.is_true());
    let end = argument(2, "end").map_or("...".to_string(), |end| end.to_string());
    let leeway: usize = argument(3, "leeway").map_or(Ok(5), usize::try_from)?;
    named.assert_all_used()?;
    let ending = end.chars().count();
    if length < ending {
        return Err(wrong(format!("truncate wants a length of at least {ending}, not {length}")));
    }
    if text.chars().count() <= length + leeway {
        return Ok(text.to_string());
    }
    let kept: String = text.chars().take(length - ending).collect();
    let kept = if killwords { kept.as_str() } else { kept.rsplit_once(' ').map_or(kept.as_str(), |(words, _)| words) };
    Ok(kept.to_string() + &end)
}

/// An argument of a call, given by its place or by its name.
fn argument(args: &[Value], named: &Kwargs, index: usize, name: &str) -> Option<Value> {
    let by_name = || named.get::<Option<Value>>(name).ok().flatten();
    args.get(index).cloned().or_else(by_name)
}

/// Methods of Python's types: strings here, the rest as minijinja's contrib crate has them.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
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
fn centred(text: &str, width: usize, fill: char) -> String {
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

/// transformers' `tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`, which is Python's `json.dumps`
/// and escapes no HTML.
fn to_json(value: Value, args: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let argument = |index: usize, name: &str| argument(&args, &named, index, name).filter(|value| !value.is_none());
    let ascii = argument(0, "ensure_ascii").is_some_and(|value| value.is_true());
    let indent = match argument(1, "indent") {
        None => None,
        Some(text) if text.kind() == ValueKind::String => Some(text.to_string()),
        Some(width) => Some(" ".repeat(usize::try_from(width)?)),
    };
    let separators = match argument(2, "separators") {
        None => [if indent.is_some() { "," } else { ", " }, ": "].map(str::to_string),
        Some(pair) => {
            let pair: Vec<String> = pair.try_iter()?.map(|part| part.to_string()).collect();
            pair.try_into().map_err(|_| wrong("`separators` is a pair"))?
        }
    };
    let sorted = argument(3, "sort_keys").is_some_and(|value| value.is_true());
    named.assert_all_used()?;
    let json = serde_json::to_value(&value)
        .map_err(|e| Error::new(ErrorKind::BadSerialization, "cannot be written as JSON").with_source(e))?;
    let dump = Dump { ascii, indent, separators, sorted };
    let mut out = String::new();
    dump.write(&json, 0, &mut out);
    Ok(Value::from_safe_string(out))
}

/// How JSON is written.
struct Dump {
    ascii: bool,
    indent: Option<String>,
    /// Between items, and between a key and its value.
    separators: [String; 2],
    sorted: bool,
}

impl Dump {
    fn write(&self, value: &Json, depth: usize, out: &mut String) {
        match value {
            Json::Array(items) if !items.is_empty() => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    self.between(index, depth + 1, out);
                    self.write(item, depth + 1, out);
                }
                self.newline(depth, out);
                out.push(']');
            }
            Json::Object(fields) if !fields.is_empty() => {
                let mut fields: Vec<(&String, &Json)> = fields.iter().collect();
                if self.sorted {
                    fields.sort_by_key(|(key, _)| *key);
                }
                out.push('{');
                for (index, (key, item)) in fields.into_iter().enumerate() {
                    self.between(index, depth + 1, out);
                    self.text(&Json::from(key.as_str()), out);
                    out.push_str(&self.separators[1]);
                    self.write(item, depth + 1, out);
                }
                self.newline(depth, out);
                out.push('}');
            }
            scalar => self.text(scalar, out),
        }
    }

    fn between(&self, index: usize, depth: usize, out: &mut String) {
        if index > 0 {
            out.push_str(&self.separators[0]);
        }
        self.newline(depth, out);
    }

    fn newline(&self, depth: usize, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            out.push_str(&indent.repeat(depth));
        }
    }

    fn text(&self, scalar: &Json, out: &mut String) {
        let text = scalar.to_string();
        for c in text.chars() {
            match c {
                c if self.ascii && !c.is_ascii() => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => out.push(c),
            }
        }
    }
}
