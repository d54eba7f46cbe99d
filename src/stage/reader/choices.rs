//! What belongs to a question and stands in fields of its own: the text in front of it, and what is to be chosen from.
//!
//! The text stands in front, an empty line between; the choices stand behind, one per line: `(A) 21`.

use super::fields::{self, Field};
use super::values::{listed, scalar_text};
use serde_json::{Map, Value};

/// One of several answers to choose from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    pub label: String,
    pub text: String,
}

/// A question with what belongs to it.
pub struct Whole<'r> {
    pub question: String,
    pub choices: Vec<Choice>,
    /// Names of the fields that went into it.
    pub used: Vec<&'r str>,
}

/// Joins the question found under `name` with the row's other fields. What stands in the question already is not repeated.
pub fn whole<'r>(row: &'r Map<String, Value>, name: &str, question: String) -> Result<Whole<'r>, String> {
    let mut whole = Whole { question, choices: Vec::new(), used: Vec::new() };
    let text =
        |found: fields::Found<'r>| Some((found.0, found.1.as_str()?.trim())).filter(|(_, text)| !text.is_empty());
    if let Some((field, context)) = fields::find(row, Field::Context, None).and_then(text) {
        whole.used.push(field);
        if !whole.question.contains(context) {
            whole.question = format!("{context}\n\n{}", whole.question);
        }
    }
    // The layout of Alpaca: what is to be done, and with what.
    let input = || Some((row.get_key_value("input")?.0.as_str(), row.get("input")?));
    if let Some((field, input)) = (name == "instruction").then(input).flatten().and_then(text) {
        whole.used.push(field);
        if !whole.question.contains(input) {
            whole.question = format!("{}\n\n{input}", whole.question);
        }
    }
    if let Some((field, value)) = fields::find(row, Field::Choices, None) {
        whole.used.push(field);
        let is_shown = match (choices(value), value.as_str()) {
            (Some(choices), _) => {
                whole.choices = choices;
                shows(&whole.question, &whole.choices)
            }
            (None, Some(text)) => whole.question.contains(text.trim()),
            (None, None) => return Err(format!("`{field}` cannot be read as choices")),
        };
        if !is_shown {
            whole.question = format!("{}\n\n{}", whole.question.trim_end(), lines(&whole.choices, value));
        }
    }
    Ok(whole)
}

/// One choice per line; a text that is none of the known layouts as it is.
fn lines(choices: &[Choice], value: &Value) -> String {
    if let (true, Some(text)) = (choices.is_empty(), value.as_str()) {
        return text.trim().to_string();
    }
    choices.iter().map(|choice| format!("({}) {}", choice.label, choice.text)).collect::<Vec<_>>().join("\n")
}

/// True where the question names every choice by its label.
fn shows(question: &str, choices: &[Choice]) -> bool {
    let names =
        |choice: &Choice| [')', '.', ':'].iter().any(|sign| question.contains(&format!("{}{sign}", choice.label)));
    choices.iter().all(|choice| names(choice) && question.contains(&choice.text))
}

/// Choices in the layouts of AQuA (`["A)21", ..]`), MMLU (`["21", ..]`), ARC (`{"text": [..], "label": [..]}`), by letter
/// (`{"A": "21", ..}`), as objects (`[{"label": "A", "text": "21"}, ..]`), and all of them in lists of one. None where it is
/// none of these; an empty list where there is nothing to choose from.
fn choices(value: &Value) -> Option<Vec<Choice>> {
    match value {
        Value::Null => Some(Vec::new()),
        Value::String(text) if text.trim().is_empty() => Some(Vec::new()),
        Value::String(text) => texts_to_choices(listed(text)?),
        Value::Object(fields) => match (fields.get("text").and_then(Value::as_array), fields.get("label")) {
            (Some(texts), Some(Value::Array(labels))) => labelled(labels.iter().zip(texts)),
            _ => labelled_by_name(fields),
        },
        Value::Array(items) => {
            let items: Vec<&Value> = items.iter().map(only_item).collect();
            match items.iter().any(|item| item.is_object()) {
                true => labelled(items.into_iter().map(parts).collect::<Option<Vec<_>>>()?),
                false => texts_to_choices(items.into_iter().map(|item| scalar_text(item).ok()).collect::<Option<_>>()?),
            }
        }
        _ => None,
    }
}

/// What is in a list of one; anything else as it is.
fn only_item(value: &Value) -> &Value {
    match value.as_array().map(Vec::as_slice) {
        Some([only]) => only,
        _ => value,
    }
}

/// Label and text of a choice that is an object.
fn parts(item: &Value) -> Option<(&Value, &Value)> {
    let field = |names: [&str; 4]| names.into_iter().find_map(|name| item.get(name));
    Some((field(["label", "key", "id", "aoVal"])?, field(["text", "content", "value", "option"])?))
}

fn labelled<'v>(pairs: impl IntoIterator<Item = (&'v Value, &'v Value)>) -> Option<Vec<Choice>> {
    let choice = |(label, text): (&Value, &Value)| {
        let (label, text) = (scalar_text(label).ok()?, scalar_text(text).ok()?);
        Some(Choice { label: label.trim().to_string(), text: text.trim().to_string() })
    };
    pairs.into_iter().map(choice).collect()
}

/// Choices under their letters; those that are null are not there.
fn labelled_by_name(fields: &Map<String, Value>) -> Option<Vec<Choice>> {
    let is_label = |name: &String| name.len() <= 2 && name.chars().all(char::is_alphanumeric);
    if fields.is_empty() || !fields.keys().all(is_label) {
        return None;
    }
    let there = fields.iter().filter(|(_, text)| !text.is_null());
    there
        .map(|(name, text)| Some(Choice { label: name.clone(), text: scalar_text(text).ok()?.trim().to_string() }))
        .collect()
}

/// Texts that begin with the letters in order lose them; others get them.
fn texts_to_choices(texts: Vec<String>) -> Option<Vec<Choice>> {
    let letters: Vec<char> = ('A'..='Z').take(texts.len()).collect();
    if letters.len() < texts.len() {
        return None;
    }
    let own = texts.iter().zip(&letters).map(|(text, letter)| without_label(text, *letter)).collect::<Option<Vec<_>>>();
    let texts = own.unwrap_or_else(|| texts.iter().map(|text| text.trim()).collect());
    let choice = |(letter, text): (&char, &&str)| Choice { label: letter.to_string(), text: text.to_string() };
    Some(letters.iter().zip(&texts).map(choice).collect())
}

/// `A)21`, `(A) 21`, `A. 21` and `A: 21` without their label.
fn without_label(text: &str, letter: char) -> Option<&str> {
    let text = text.trim();
    let text = text.strip_prefix('(').unwrap_or(text);
    let text = text.strip_prefix([letter, letter.to_ascii_lowercase()])?.trim_start();
    Some(text.strip_prefix([')', '.', ':'])?.trim())
}

/// The answer to a question with choices: a number that is no choice's text and no label counts them from 0.
///
/// Errors: a number that can be read either way.
pub fn answer(choices: &[Choice], given: &Value, text: String) -> Result<String, String> {
    let trimmed = text.trim();
    let Some(index) = trimmed.parse::<usize>().ok().filter(|index| *index < choices.len()) else { return Ok(text) };
    if choices.iter().any(|choice| choice.label == trimmed) {
        return Ok(text);
    }
    let counted = &choices[index];
    match choices.iter().find(|choice| choice.text == trimmed) {
        Some(choice) if given.is_number() && choice.label != counted.label => Err(format!(
            "the answer `{trimmed}` is choice {} as a number counted from 0 and choice {} as a value; write the letter",
            counted.label, choice.label
        )),
        Some(_) => Ok(text),
        None => Ok(counted.label.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(value: Value) -> Option<String> {
        let line = |choice: &Choice| format!("{}={}", choice.label, choice.text);
        choices(&value).map(|all| all.iter().map(line).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn layouts_of_choices() {
        let same = [
            json!(["21", "22"]),
            json!([21, 22]),
            json!(["A)21", "B)22"]),
            json!(["(A) 21", "(B) 22"]),
            json!(["A. 21", "B. 22"]),
            json!({"text": ["21", "22"], "label": ["A", "B"]}),
            json!({"A": "21", "B": "22", "C": null}),
            json!([{"label": "A", "text": "21"}, {"label": "B", "text": "22"}]),
            json!([[{"aoVal": "A", "content": "21 "}], [{"aoVal": "B", "content": "22"}]]),
            json!("['21', '22']"),
        ];
        for value in same {
            assert_eq!(shown(value.clone()).as_deref(), Some("A=21 B=22"), "{value}");
        }
        for nothing in [json!([]), json!(""), json!(null)] {
            assert_eq!(shown(nothing).as_deref(), Some(""));
        }
        for other in [json!("21 or 22"), json!(4), json!({"text": "a", "why": "b"}), json!([["a", "b"]]), json!([null])]
        {
            assert_eq!(shown(other), None);
        }
    }

    #[test]
    fn a_number_counts_choices() {
        let all = choices(&json!(["3", "4", "0", "6"])).unwrap();
        let given = |value: Value| answer(&all, &value, scalar_text(&value).unwrap());
        assert_eq!(given(json!(1)), Ok("B".to_string()));
        assert_eq!(given(json!("1")), Ok("B".to_string()));
        assert_eq!(given(json!("3")), Ok("3".to_string()), "a choice's own text");
        assert_eq!(given(json!("B")), Ok("B".to_string()));
        assert_eq!(given(json!(6)), Ok("6".to_string()));
        assert!(given(json!(3)).unwrap_err().contains("choice D as a number counted from 0 and choice A as a value"));
    }
}
