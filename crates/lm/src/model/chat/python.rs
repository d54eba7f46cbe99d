//! Tests and filters of Jinja2 that minijinja lacks, or has otherwise, and Python's `%`.

use super::json::to_json;
use super::methods::{centred, method};
use super::source::FORMAT;
use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Kwargs, Rest, Tuple, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value};

/// Adds all of it to an environment, with Python's methods and `tojson`.
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

/// An error of the template's.
pub fn wrong(message: impl Into<String>) -> Error {
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
pub fn argument(args: &[Value], named: &Kwargs, index: usize, name: &str) -> Option<Value> {
    let by_name = || named.get::<Option<Value>>(name).ok().flatten();
    args.get(index).cloned().or_else(by_name)
}
