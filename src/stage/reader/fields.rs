//! Which field of a row holds what, and what text it stands for.

use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// What a problem is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Question,
    Solution,
    Answer,
    Id,
    Source,
}

impl Field {
    /// Spellings of well-known data sets, the first one present wins: MATH, GSM8K, OlympiadBench, AIME, AMC, Minerva,
    /// NuminaMath, and rows laid out for trainers (verl, TRL, OpenAI messages, ShareGPT).
    fn spellings(self) -> &'static [&'static str] {
        match self {
            Field::Question => &[
                "question",
                "problem",
                "extra_info.question",
                "prompt",
                "messages",
                "conversations",
                "query",
                "instruction",
            ],
            Field::Solution => &[
                "solution",
                "extra_info.answer",
                "demonstration",
                "rationale",
                "response",
                "completion",
                "output",
                "messages",
                "conversations",
            ],
            Field::Answer => &[
                "answer",
                "final_answer",
                "reward_model.ground_truth",
                "ground_truth",
                "expected_answer",
                "gold",
                "target",
            ],
            Field::Id => &["id", "unique_id", "uuid", "idx", "index", "extra_info.index"],
            Field::Source => &[],
        }
    }

    /// How a message calls the field: by its mapped name, or by the first spellings.
    pub fn wanted(self, named: Option<&str>) -> String {
        match named {
            Some(name) => format!("`{name}`"),
            None => self.spellings().iter().take(2).map(|s| format!("`{s}`")).collect::<Vec<_>>().join(" or "),
        }
    }

    pub fn is_among(self, columns: &BTreeSet<String>) -> bool {
        self.spellings().iter().any(|spelling| columns.contains(*spelling))
    }
}

/// The value of a field and the name it was found under. Null counts as absent.
pub fn find<'r, 'n>(row: &'r Map<String, Value>, field: Field, named: Option<&'n str>) -> Option<(&'n str, &'r Value)> {
    let get = |path: &'n str| lookup(row, path).filter(|value| !value.is_null()).map(|value| (path, value));
    match named {
        Some(path) => get(path),
        None => field.spellings().iter().find_map(|spelling| get(spelling)),
    }
}

/// `a.b` is field `b` of the object in field `a`, unless a field of that very name exists.
fn lookup<'r>(row: &'r Map<String, Value>, path: &str) -> Option<&'r Value> {
    row.get(path).or_else(|| {
        let (first, rest) = path.split_once('.')?;
        lookup(row.get(first)?.as_object()?, rest)
    })
}

/// Adds the names of a row's fields, and `a.b` for the fields of an object in it.
pub fn collect_names(row: &Map<String, Value>, names: &mut BTreeSet<String>) {
    fn walk(row: &Map<String, Value>, prefix: &str, depth: u32, names: &mut BTreeSet<String>) {
        for (name, value) in row {
            let name = format!("{prefix}{name}");
            if let Some(inner) = value.as_object().filter(|_| depth < 4) {
                walk(inner, &format!("{name}."), depth + 1, names);
            }
            names.insert(name);
        }
    }
    walk(row, "", 0, names);
}

/// A question: text, or the only user turn of a conversation.
pub fn question_text(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Array(turns) => {
            let users = turns_of(turns, &["user", "human"])?;
            match users[..] {
                [only] => Ok(only.to_string()),
                _ => Err(format!("the conversation has {} user turns, not one", users.len())),
            }
        }
        other => Err(format!("the question is {}, not text", kind(other))),
    }
}

/// A solution: text, the first of several, or the only assistant turn of a conversation. `None` where it is blank.
pub fn solution_text(value: &Value) -> Result<Option<String>, String> {
    let text = match value {
        Value::String(text) => Some(text.as_str()),
        Value::Array(items) if items.iter().any(Value::is_object) => {
            let answers = turns_of(items, &["assistant", "gpt"])?;
            match answers[..] {
                [] => None,
                [only] => Some(only),
                _ => return Err(format!("the conversation has {} assistant turns, not one", answers.len())),
            }
        }
        Value::Array(items) => items.iter().filter_map(Value::as_str).find(|text| !text.trim().is_empty()),
        other => return Err(format!("the solution is {}, not text", kind(other))),
    };
    Ok(text.filter(|text| !text.trim().is_empty()).map(str::to_string))
}

/// An answer: text, a number, or several of them, joined with commas. `None` where it is blank.
pub fn answer_text(value: &Value) -> Result<Option<String>, String> {
    let text = match value {
        Value::Array(items) => {
            let parts = items.iter().map(scalar_text).collect::<Result<Vec<_>, _>>()?;
            parts.into_iter().filter(|part| !part.trim().is_empty()).collect::<Vec<_>>().join(", ")
        }
        scalar => scalar_text(scalar)?,
    };
    Ok(Some(text).filter(|text| !text.trim().is_empty()))
}

fn scalar_text(value: &Value) -> Result<String, String> {
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

/// The texts of the turns of one role, in OpenAI (`role`, `content`) or ShareGPT (`from`, `value`) layout.
fn turns_of<'v>(turns: &'v [Value], roles: &[&str]) -> Result<Vec<&'v str>, String> {
    let mut texts = Vec::new();
    for turn in turns {
        let field = |a: &str, b: &str| turn.get(a).or_else(|| turn.get(b)).and_then(Value::as_str);
        let (Some(role), Some(content)) = (field("role", "from"), field("content", "value")) else {
            return Err("a turn of the conversation has no role or no text".to_string());
        };
        if roles.contains(&role) {
            texts.push(content);
        }
    }
    Ok(texts)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Longest remaining field that is kept in `meta`, in bytes of JSON.
const META_FIELD_BYTES: usize = 256;

/// The source's own id, then what remains of the row, as far as it is small and does not repeat the question.
pub fn meta(row: &Map<String, Value>, id: Option<Value>, used: &BTreeSet<String>, question: &str) -> Option<String> {
    let mut meta: Map<String, Value> = id.map(|id| ("id".to_string(), id)).into_iter().collect();
    for (name, value) in row {
        let news = !value.is_null() && value.as_str() != Some(question) && value.to_string().len() <= META_FIELD_BYTES;
        if news && !used.contains(name) && !meta.contains_key(name) {
            meta.insert(name.clone(), value.clone());
        }
    }
    (!meta.is_empty()).then(|| Value::Object(meta).to_string())
}

/// The known name most like `name`, if any is.
pub fn nearest<'c>(name: &str, columns: &'c BTreeSet<String>) -> Option<&'c String> {
    let likeness = |column: &String| strsim::jaro_winkler(name, column);
    columns.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b))).filter(|best| likeness(best) > 0.8)
}

/// `a`, `b` and so on, at most twelve.
pub fn quoted<'c>(names: impl Iterator<Item = &'c String>) -> String {
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    let more = if names.len() > 12 { ", ..." } else { "" };
    names.iter().take(12).map(String::as_str).collect::<Vec<_>>().join(", ") + more
}
