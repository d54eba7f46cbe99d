//! What text a value of a row stands for.

use serde_json::Value;
use std::borrow::Cow;

/// Under this key a cell of a Parquet file holds bytes that are no text, in hexadecimal.
pub const BINARY: &str = "binary";

const USER: &[&str] = &["user", "human"];
const ASSISTANT: &[&str] = &["assistant", "gpt", "model"];
const SYSTEM: &[&str] = &["system", "developer"];

/// A question: text, or the only user turn of a conversation.
pub fn question_text(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Array(turns) => {
            let mut users = turns_of(turns, USER)?;
            match users.len() {
                1 => Ok(users.remove(0)),
                count => Err(format!("the conversation has {count} user turns, not one")),
            }
        }
        other => Err(format!("the question is {}, not text", kind(other))),
    }
}

/// The system turns of a conversation.
pub fn system_text(value: &Value) -> Option<String> {
    let texts = turns_of(value.as_array()?, SYSTEM).ok()?;
    let texts: Vec<String> = texts.into_iter().filter(|text| !text.trim().is_empty()).collect();
    (!texts.is_empty()).then(|| texts.join("\n\n"))
}

/// What a conversation asks last, or the text itself; none where it is neither.
pub fn asked_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(turns) => turns_of(turns, USER).ok()?.pop(),
        _ => None,
    }
}

/// Whose turn this is.
pub fn role(turn: &Value) -> Option<&str> {
    turn.get("role").or_else(|| turn.get("from")).and_then(Value::as_str)
}

pub fn is_assistant(role: &str) -> bool {
    ASSISTANT.contains(&role)
}

/// Whether a value is a conversation in which the assistant spoke last.
pub fn ends_with_assistant(value: &Value) -> bool {
    value.as_array().and_then(|turns| turns.last()).and_then(role).is_some_and(is_assistant)
}

/// A solution: text, the first of several, or the only assistant turn of a conversation; a number counts as the text of an
/// answer. `None` where it is blank.
pub fn solution_text(value: &Value) -> Result<Option<String>, String> {
    let text = match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(items) if items.iter().any(Value::is_object) => {
            let mut answers = turns_of(items, ASSISTANT)?;
            match answers.len() {
                0 => None,
                1 => Some(answers.remove(0)),
                count => return Err(format!("the conversation has {count} assistant turns, not one")),
            }
        }
        Value::Array(items) => items.iter().filter_map(Value::as_str).find(|text| !is_blank(text)).map(str::to_string),
        Value::Number(_) | Value::Bool(_) => Some(scalar_text(value)?),
        other => return Err(format!("the solution is {}, not text", kind(other))),
    };
    Ok(text.filter(|text| !is_blank(text)))
}

/// An answer: text, a number, or several of them, joined with commas. `None` where it is blank.
pub fn answer_text(value: &Value) -> Result<Option<String>, String> {
    let mut parts = Vec::new();
    add_parts(value, &mut parts)?;
    let text = parts.into_iter().filter(|part| !is_blank(part)).collect::<Vec<_>>().join(", ");
    Ok(Some(text).filter(|text| !is_blank(text)))
}

/// Whether a value is several answers, or one in a list.
pub fn is_list(value: &Value) -> bool {
    value.is_array() || value.as_str().is_some_and(|text| listed(text).is_some())
}

/// The text of a value as it is: of text itself, of anything else its JSON. `None` where it is blank.
pub fn verbatim_text(value: &Value) -> Option<String> {
    let text = match value {
        Value::Null => return None,
        Value::String(text) => text.trim().to_string(),
        other => other.to_string(),
    };
    (!text.is_empty()).then_some(text)
}

/// An answer with a scale behind each of its numbers.
pub fn scaled<'v>(value: &'v Value, scale: Option<&str>) -> Cow<'v, Value> {
    let Some(scale) = scale.map(str::trim).filter(|scale| !scale.is_empty()) else { return Cow::Borrowed(value) };
    Cow::Owned(match value {
        Value::Array(items) => items.iter().map(|item| scaled(item, Some(scale)).into_owned()).collect(),
        Value::Number(number) => Value::from(format!("{number} {scale}")),
        Value::String(text) if text.contains(|c: char| c.is_ascii_digit()) => Value::from(format!("{text} {scale}")),
        other => other.clone(),
    })
}

/// The answers in a value, in order; those in lists of lists too. What is null in a list is not there.
fn add_parts(value: &Value, parts: &mut Vec<String>) -> Result<(), String> {
    match value {
        Value::Array(items) => {
            items.iter().filter(|item| !item.is_null()).try_for_each(|item| add_parts(item, parts))?
        }
        Value::String(text) => match listed(text) {
            Some(items) => parts.extend(items),
            None => parts.push(text.clone()),
        },
        scalar => parts.push(scalar_text(scalar)?),
    }
    Ok(())
}

pub fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}

pub fn scalar_text(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(flag) => Ok(flag.to_string()),
        Value::Number(number) => match number.as_f64() {
            _ if number.is_i64() || number.is_u64() => Ok(number.to_string()),
            // Whole numbers are often stored as floats (27.0). Above 2^53 a float no longer says which one was meant.
            Some(float) if float.fract() == 0.0 && float.abs() < 9_007_199_254_740_992.0 => {
                Ok(format!("{}", float as i64))
            }
            Some(float) if float.fract() != 0.0 => Ok(format!("{float}")),
            _ => Err(format!("the answer `{number}` is too large to be read exactly; write it as text")),
        },
        other => Err(format!("the answer is {}, not text or a number", kind(other))),
    }
}

/// The items of a list that is written as text, as JSON, Python or numpy prints it: `["1","2"]`, `['2']`, `['1' '2']`. All
/// items are quoted: `[1,2]` may be an interval. A list in a list is taken for it. A backslash stands for itself unless it escapes a quote or another backslash.
pub fn listed(text: &str) -> Option<Vec<String>> {
    let text = text.trim();
    let close = match text.chars().next()? {
        '[' => ']',
        '(' => ')',
        '{' => '}',
        _ => return None,
    };
    let mut rest = text.get(1..)?.strip_suffix(close)?.trim();
    if rest.starts_with('[') {
        return listed(rest);
    }
    let mut items = Vec::new();
    while !rest.is_empty() {
        let quote = rest.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
        let (item, behind) = quoted_item(&rest[1..], quote)?;
        items.push(item);
        let behind = behind.trim_start();
        rest = match behind.strip_prefix(',') {
            Some(next) => next.trim_start(),
            None if behind.is_empty() || behind.starts_with(['\'', '"']) => behind,
            None => return None,
        };
    }
    (!items.is_empty()).then_some(items)
}

/// A quoted text up to its closing quote, and what is behind that.
fn quoted_item(text: &str, quote: char) -> Option<(String, &str)> {
    let mut item = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => match chars.clone().next() {
                Some((_, next @ ('\\' | '\'' | '"'))) => {
                    chars.next();
                    item.push(next);
                }
                _ => item.push(c),
            },
            c if c == quote => return Some((item, &text[at + 1..])),
            c => item.push(c),
        }
    }
    None
}

/// The texts of the turns of one role, in OpenAI (`role`, `content`) or ShareGPT (`from`, `value`) layout.
fn turns_of(turns: &[Value], roles: &[&str]) -> Result<Vec<String>, String> {
    let mut texts = Vec::new();
    for turn in turns {
        let content = turn.get("content").or_else(|| turn.get("value"));
        let (Some(role), Some(content)) = (role(turn), content) else {
            return Err("a turn of the conversation has no role or no text".to_string());
        };
        if roles.contains(&role) {
            texts.push(turn_text(content)?);
        }
    }
    Ok(texts)
}

/// The text of a turn: as it is, or in parts, all of them text.
fn turn_text(content: &Value) -> Result<String, String> {
    let part = |part: &Value| match part.get("text") {
        Some(Value::String(text)) => Ok(text.clone()),
        _ => Err("a part of a turn is no text".to_string()),
    };
    match content {
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => Ok(parts.iter().map(part).collect::<Result<Vec<_>, _>>()?.join("\n")),
        other => Err(format!("the text of a turn is {}", kind(other))),
    }
}

/// Bytes that are no text as their hexadecimal digits; anything else as it is.
pub fn binary_as_text(value: &Value) -> Value {
    match value.as_object().filter(|fields| fields.len() == 1).and_then(|fields| fields.get(BINARY)) {
        Some(digits) => digits.clone(),
        None => value.clone(),
    }
}

pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(fields) if fields.len() == 1 && fields.contains_key(BINARY) => "bytes that are not UTF-8",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lists_written_as_text() {
        let cases = [
            (r#"["1","2"]"#, Some("1|2")),
            (r"['2']", Some("2")),
            (r"('2',)", Some("2")),
            (r#"["\\frac{1}{2}"]"#, Some("\\frac{1}{2}")),
            (r"['\frac{1}{2}', 'it\'s']", Some("\\frac{1}{2}|it's")),
            (r#"["(1,2)", '[0,1]']"#, Some("(1,2)|[0,1]")),
            ("['1' '2']", Some("1|2")),
            (r#"[["1","2"]]"#, Some("1|2")),
            ("[1,2]", None),
            ("[[1,2]]", None),
            ("['1'], ['2']", None),
            ("[]", None),
            ("{'k': 'v'}", None),
            ("['1'", None),
            ("(0, \"a\")", None),
            ("\\{1\\}", None),
        ];
        for (text, items) in cases {
            assert_eq!(listed(text).map(|items| items.join("|")).as_deref(), items, "{text}");
        }
    }

    #[test]
    fn scales_stand_behind_numbers() {
        let said = |value: Value, scale| answer_text(&scaled(&value, scale)).unwrap().unwrap();
        assert_eq!(said(json!(24.5), Some("million")), "24.5 million");
        assert_eq!(said(json!("$1,496.5"), Some(" percent ")), "$1,496.5 percent");
        assert_eq!(said(json!(["1", 2, "none of it"]), Some("thousand")), "1 thousand, 2 thousand, none of it");
        assert_eq!(said(json!(24.5), Some("")), "24.5");
        assert_eq!(said(json!(24.5), None), "24.5");
    }

    #[test]
    fn verbatim_is_as_it_is() {
        assert_eq!(verbatim_text(&json!("\ndef f():\n  return 1.\n")).as_deref(), Some("def f():\n  return 1."));
        assert_eq!(verbatim_text(&json!([{"name": "f"}])).as_deref(), Some(r#"[{"name":"f"}]"#));
        assert_eq!((verbatim_text(&json!(" ")), verbatim_text(&json!(null))), (None, None));
    }

    #[test]
    fn lists_of_answers() {
        let cases = [
            (json!(["1", 2, 3.0]), Some("1, 2, 3")),
            (json!([["1"], ["2"]]), Some("1, 2")),
            (json!([null, "", "3"]), Some("3")),
            (json!(["['1']"]), Some("1")),
            (json!([]), None),
        ];
        for (value, answer) in cases {
            assert_eq!(answer_text(&value), Ok(answer.map(str::to_string)), "{value}");
        }
    }

    #[test]
    fn turns_in_parts() {
        let turns = json!([
            {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
        ]);
        assert_eq!(question_text(&turns), Ok("a\nb".to_string()));
        assert_eq!(system_text(&turns).as_deref(), Some("Be brief."));
        let image = json!([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]);
        assert_eq!(question_text(&image), Err("a part of a turn is no text".to_string()));
    }
}
