//! One row to the completions it holds, and to what it says of the problem they answer.
//!
//! A completion is a text, or an object with a text in it: what vLLM and SGLang write, an API's message or choice, the last turn
//! of a conversation. A row has one or a list of them. Token ids and the reason why a completion ended stand in the object, or in
//! fields of the row: one value, or a list as long as the completions'.

use super::fields::{self, Field};
use super::{no_field, unknown_field, values};
use mindgap_base::error::Result;
use mindgap_store::table::imports::Reasoning;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Which field of a row holds what. A name may be a path (`response.body.choices`). What is not named is guessed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CompletionFields {
    /// The completion or a list of them: texts, objects with a text, or conversations whose last turn is the assistant's.
    pub completion: Option<String>,
    /// The question, or what was shown of it: text, or a conversation whose last user turn it is. Where it is named and `id` is
    /// not, problems are found by it alone.
    pub question: Option<String>,
    /// The id of the problem, ours or its source's. Where it is named and `question` is not, problems are found by it alone.
    pub id: Option<String>,
    /// Token ids of the completion, or a list of them for each.
    pub token_ids: Option<String>,
    /// Why the completion ended, or a list of that for each.
    pub finish_reason: Option<String>,
}

/// A row as far as it could be read.
#[derive(Debug, PartialEq)]
pub struct Answered {
    /// The problem's id, as the row has it.
    pub key: Option<String>,
    /// What was asked.
    pub question: Option<String>,
    /// In the row's order; or why one is none.
    pub completions: Vec<Result<Completion, String>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    pub text: String,
    /// Where the row has any. Empty where what it has are no token ids.
    pub token_ids: Option<Vec<u32>>,
    /// It ended because it was long enough.
    pub is_cut: bool,
    /// What became of reasoning that stood beside the text.
    pub reasoning: Option<Reasoning>,
}

/// Which fields some row of a file had.
#[derive(Clone, Copy, Debug, Default)]
pub struct Present {
    pub completion: bool,
    pub question: bool,
    pub key: bool,
    pub token_ids: bool,
    pub finish_reason: bool,
}

impl Present {
    pub fn or(self, other: Present) -> Present {
        Present {
            completion: self.completion || other.completion,
            question: self.question || other.question,
            key: self.key || other.key,
            token_ids: self.token_ids || other.token_ids,
            finish_reason: self.finish_reason || other.finish_reason,
        }
    }
}

/// What a row holds, or why it holds no completion. `reasoning` says what is done with what an API puts beside its answer.
pub fn answered(
    row: &Map<String, Value>,
    named: &CompletionFields,
    reasoning: Reasoning,
) -> (Present, Result<Answered, String>) {
    let find =
        |field: Field, named: &Option<String>| fields::find(row, field, named.as_deref()).map(|(_, value)| value);
    let value = find(Field::Completion, &named.completion);
    let question = find(Field::Question, &named.question);
    let key = find(Field::Key, &named.id);
    let beside = Beside {
        token_ids: find(Field::TokenIds, &named.token_ids),
        finish_reason: find(Field::FinishReason, &named.finish_reason),
        reasoning: find(Field::Reasoning, &None),
    };
    let present = Present {
        completion: value.is_some(),
        question: question.is_some(),
        key: key.is_some(),
        token_ids: beside.token_ids.is_some(),
        finish_reason: beside.finish_reason.is_some(),
    };
    let read = || {
        let Some(value) = value else {
            return Err(format!("no {}", Field::Completion.wanted(named.completion.as_deref())));
        };
        let (key, question) = (key.and_then(key_text), question.and_then(values::asked_text));
        if key.is_none() && question.is_none() {
            return Err("it says neither question nor id".to_string());
        }
        let items = items(value)?;
        if items.is_empty() {
            return Err("the list of completions is empty".to_string());
        }
        let count = items.len();
        let completion = |(index, item): (usize, Item)| item.completion(&beside, index, count, reasoning);
        Ok(Answered { key, question, completions: items.into_iter().enumerate().map(completion).collect() })
    };
    (present, read())
}

/// Refuses a file of another schema: a named field that no row has, or nothing to guess from.
pub fn check_completions(
    file: &str,
    named: &CompletionFields,
    present: Present,
    columns: &BTreeSet<String>,
) -> Result<()> {
    let fields = [
        (&named.completion, present.completion),
        (&named.question, present.question),
        (&named.id, present.key),
        (&named.token_ids, present.token_ids),
        (&named.finish_reason, present.finish_reason),
    ];
    if let Some((Some(name), _)) = fields.into_iter().find(|(name, is_there)| name.is_some() && !is_there) {
        return Err(unknown_field(file, name, columns));
    }
    match () {
        _ if !present.completion => Err(no_field(file, "completion", columns)),
        _ if !present.question && !present.key => Err(no_field(file, "question", columns)),
        _ => Ok(()),
    }
}

/// An id as text: numbers read as they are written.
fn key_text(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.trim().to_string(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    Some(text).filter(|text| !text.is_empty())
}

/// What the row has beside its completions.
struct Beside<'r> {
    token_ids: Option<&'r Value>,
    finish_reason: Option<&'r Value>,
    reasoning: Option<&'r Value>,
}

/// A completion with what stands in its own object.
#[derive(Default)]
struct Item<'r> {
    text: Option<Result<String, String>>,
    token_ids: Option<&'r Value>,
    finish_reason: Option<&'r Value>,
    reasoning: Option<String>,
}

/// Names of the text in a completion's object; what they hold may be an object or a list of parts again.
const TEXTS: [&str; 8] = ["text", "content", "message", "generated_text", "completion", "response", "output", "value"];
/// Objects in objects are followed so far.
const DEPTH: u32 = 6;

/// The completions in a value.
fn items(value: &Value) -> Result<Vec<Item<'_>>, String> {
    match value {
        Value::Array(list) if list.iter().any(|item| values::role(item).is_some()) => Ok(vec![item(value, DEPTH)]),
        Value::Array(list) if !list.is_empty() && list.iter().all(is_part) => Ok(vec![item(value, DEPTH)]),
        Value::Array(list) => Ok(list.iter().map(|value| item(value, DEPTH)).collect()),
        Value::String(_) | Value::Object(_) => Ok(vec![item(value, DEPTH)]),
        other => Err(format!("the completion is {}, not text", values::kind(other))),
    }
}

/// A piece of a message's content: `{"type": "text", "text": ".."}`.
fn is_part(value: &Value) -> bool {
    value.get("type").is_some_and(Value::is_string) && value.get("role").is_none()
}

fn item(value: &Value, depth: u32) -> Item<'_> {
    let refused = |reason: String| Item { text: Some(Err(reason)), ..Item::default() };
    if depth == 0 {
        return refused("the completion lies too deep in objects".to_string());
    }
    match value {
        Value::String(text) => Item { text: Some(Ok(text.clone())), ..Item::default() },
        Value::Array(turns) if turns.last().and_then(values::role).is_some() => match turns.last() {
            Some(turn) if values::ends_with_assistant(value) => item(turn, depth - 1),
            _ => refused("the last turn is not the assistant's".to_string()),
        },
        Value::Array(list) => parts(list),
        Value::Object(fields) => {
            let get = |names: &[&str]| names.iter().filter_map(|name| fields.get(*name)).find(|value| !value.is_null());
            let mut found = match get(&TEXTS).or_else(|| fields.get("parts")) {
                Some(inner) => item(inner, depth - 1),
                None => refused("the completion is an object without text".to_string()),
            };
            let within = |outer: &str, name: &str| fields.get(outer).and_then(|value| value.get(name));
            found.token_ids = get(&["token_ids", "output_token_ids", "output_ids"]).or(found.token_ids);
            found.finish_reason = get(&["finish_reason", "finishReason"])
                .or_else(|| within("meta_info", "finish_reason"))
                .or_else(|| get(&["stop_reason"]).filter(|value| value.is_string()))
                .or(found.finish_reason);
            let reasoning = get(&["reasoning_content", "reasoning"]).and_then(Value::as_str).map(str::to_string);
            found.reasoning = reasoning.or(found.reasoning);
            found
        }
        other => refused(format!("the completion is {}, not text", values::kind(other))),
    }
}

/// A text in parts; parts of thoughts are reasoning.
fn parts(list: &[Value]) -> Item<'_> {
    let (mut texts, mut thoughts) = (Vec::new(), Vec::new());
    for part in list {
        let text = |name: &str| part.get(name).and_then(Value::as_str);
        let is_thought = part.get("thought").and_then(Value::as_bool).unwrap_or(false);
        match (part.as_str().or_else(|| text("text")), text("thinking").or_else(|| text("reasoning"))) {
            (Some(text), _) if is_thought => thoughts.push(text),
            (Some(text), _) => texts.push(text),
            (None, Some(thought)) => thoughts.push(thought),
            (None, None) => {
                let reason = "a part of the completion is no text".to_string();
                return Item { text: Some(Err(reason)), ..Item::default() };
            }
        }
    }
    let reasoning = (!thoughts.is_empty()).then(|| thoughts.concat());
    Item { text: Some(Ok(texts.concat())), reasoning, ..Item::default() }
}

impl Item<'_> {
    /// The completion of this number among so many in its row.
    fn completion(self, beside: &Beside, index: usize, count: usize, wanted: Reasoning) -> Result<Completion, String> {
        let text = self.text.unwrap_or_else(|| Err("no text".to_string()))?;
        let reasoning = match self.reasoning {
            None => nth(beside.reasoning, index, count, "reasoning")?.and_then(Value::as_str).map(str::to_string),
            own => own,
        };
        let reasoning = reasoning.filter(|thoughts| !values::is_blank(thoughts));
        if values::is_blank(&text) {
            return Err("empty completion".to_string());
        }
        let finish_reason = match self.finish_reason {
            None => nth(beside.finish_reason, index, count, "finish reasons")?,
            own => own,
        };
        let token_ids = match self.token_ids {
            None => own_ids(beside.token_ids, index, count)?,
            own => own,
        };
        let text = match &reasoning {
            Some(thoughts) if wanted == Reasoning::InTags => {
                format!("<think>\n{}\n</think>\n\n{text}", thoughts.trim())
            }
            _ => text,
        };
        Ok(Completion {
            text,
            token_ids: token_ids.map(ids),
            is_cut: finish_reason.map_or(Ok(false), is_cut)?,
            reasoning: reasoning.map(|_| wanted),
        })
    }
}

/// The value that belongs to a completion: one of a list that is as long as the completions', or the only one.
fn nth<'r>(value: Option<&'r Value>, index: usize, count: usize, what: &str) -> Result<Option<&'r Value>, String> {
    match value {
        Some(Value::Array(list)) if list.len() == count => Ok(Some(&list[index]).filter(|value| !value.is_null())),
        Some(Value::Array(list)) if list.is_empty() => Ok(None),
        Some(Value::Array(list)) => Err(format!("{count} completions and {} {what}", list.len())),
        Some(_) if count > 1 => Err(format!("{count} completions and 1 {what}")),
        value => Ok(value),
    }
}

/// The same of token ids, of which each has a list.
fn own_ids(value: Option<&Value>, index: usize, count: usize) -> Result<Option<&Value>, String> {
    match value.and_then(Value::as_array) {
        Some(list) if count == 1 && list.iter().all(|item| !item.is_array()) => Ok(value),
        _ => nth(value, index, count, "lists of token ids"),
    }
}

/// Token ids; none at all where one of them cannot be an id.
fn ids(value: &Value) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    value.as_array().and_then(|list| list.iter().map(id).collect()).unwrap_or_default()
}

/// Words of engines and APIs for an answer that was cut off, and for one that is whole.
const CUT: [&str; 9] = [
    "length",
    "max_tokens",
    "max_new_tokens",
    "max_output_tokens",
    "max_length",
    "max_model_len",
    "model_length",
    "token_limit",
    "model_context_window_exceeded",
];
const WHOLE: [&str; 11] = [
    "stop",
    "eos",
    "eos_token",
    "end_turn",
    "end",
    "stop_sequence",
    "stop_string",
    "stop_token",
    "complete",
    "completed",
    "finished",
];

/// Whether a completion ended for its length. Errors: a reason for which it is no answer, or one nobody knows.
fn is_cut(reason: &Value) -> Result<bool, String> {
    let word = match reason {
        Value::Object(fields) => fields.get("type").and_then(Value::as_str),
        other => other.as_str(),
    };
    let Some(word) = word else { return Err(format!("the finish reason is {}, not text", values::kind(reason))) };
    let known = word.rsplit('.').next().unwrap_or(word).trim().to_ascii_lowercase();
    match known.as_str() {
        "" => Ok(false),
        word if CUT.contains(&word) => Ok(true),
        word if WHOLE.contains(&word) => Ok(false),
        _ => Err(format!("it did not end as an answer does: `{word}`")),
    }
}

#[cfg(test)]
mod tests;
