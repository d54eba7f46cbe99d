//! tool_call: the calls of tools in a response, by names and arguments.
//!
//! A call is an object, alone or in a list, in one of the usual spellings, `{"name", "arguments"}`, between `<tool_call>` tags,
//! in a fenced block, in a box or as the whole text; or two lines, `Action: name` and `Action Input: {..}`.

use crate::json::{self, Value};
use crate::judge::{Judgement, Verdict};
use crate::read::extract;

/// One call. Arguments that are missing are an empty object; those that are no JSON are a string.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Call {
    name: String,
    arguments: Value,
}

/// What a text has of calls.
enum Found {
    Calls(Vec<Call>),
    /// It speaks of none.
    Nothing,
    /// A call that cannot be read.
    Broken,
}

/// Judges the calls of a response by those of the reference; their order counts where `ordered` says so. A reference of no calls,
/// `[]`, wants a text without any.
pub fn judge(ordered: bool, gold: &str, response: &str) -> Judgement {
    let text = extract::answer_part(response).unwrap_or_default().trim();
    if text.is_empty() {
        return Judgement::new(Verdict::NoAnswer, None, "none", "empty");
    }
    let (found, place, shown) = calls(text);
    let shown = Some(shown.to_string());
    let Some(wanted) = reference(gold) else {
        return Judgement::new(Verdict::Unparsed, shown, "gold", "syntax");
    };
    let given = match found {
        Found::Calls(calls) => calls,
        Found::Broken => return Judgement::new(Verdict::Unparsed, shown, place, "syntax"),
        Found::Nothing if wanted.is_empty() => {
            return Judgement::new(Verdict::Correct, Some("[]".to_string()), "none", "no_call");
        }
        Found::Nothing => return Judgement::new(Verdict::NoAnswer, None, "none", ""),
    };
    let difference = difference(ordered, &wanted, &given);
    let verdict = if difference.is_none() { Verdict::Correct } else { Verdict::Incorrect };
    Judgement::new(verdict, shown, place, difference.unwrap_or("calls"))
}

/// The calls of a reference: JSON, or lines.
fn reference(gold: &str) -> Option<Vec<Call>> {
    match json::parse(json::located(gold).0) {
        Some(value) => listed(&value),
        None => match lines(gold) {
            Found::Calls(calls) => Some(calls),
            Found::Nothing | Found::Broken => None,
        },
    }
}

/// What the first difference is about.
fn difference(ordered: bool, wanted: &[Call], given: &[Call]) -> Option<&'static str> {
    if wanted.len() != given.len() {
        return Some("count");
    }
    if wanted == given {
        return None;
    }
    let mut left: Vec<&Call> = given.iter().collect();
    let mut take = |call: &Call| left.iter().position(|other| *other == call).map(|at| left.swap_remove(at)).is_some();
    if wanted.iter().all(&mut take) {
        return ordered.then_some("order");
    }
    let names = |calls: &[Call]| {
        let mut names: Vec<String> = calls.iter().map(|call| call.name.clone()).collect();
        names.sort();
        names
    };
    Some(if names(wanted) == names(given) { "arguments" } else { "name" })
}

/// The calls of a response, where they stand, and their text.
fn calls(text: &str) -> (Found, &'static str, &str) {
    if text.contains(OPEN) {
        return (tagged(text), "tool_call", span(text, OPEN));
    }
    if has_line(text, ACTION) {
        return (lines(text), "action", span(text, ACTION));
    }
    let (inside, place) = json::located(text);
    let inside = inside.trim();
    let found = match json::parse(inside) {
        Some(value) => listed(&value).map_or(Found::Nothing, Found::Calls),
        None if inside.starts_with(['{', '[']) && inside.contains('"') => Found::Broken,
        None => Found::Nothing,
    };
    (found, place, inside)
}

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";
const ACTION: &str = "Action:";
const INPUT: &str = "Action Input:";

/// The text from the first place of `begin` on.
fn span<'a>(text: &'a str, begin: &str) -> &'a str {
    text.find(begin).map_or(text, |at| text[at..].trim_end())
}

/// One call or a list of them in every pair of tags.
fn tagged(text: &str) -> Found {
    let mut calls = Vec::new();
    for block in text.split(OPEN).skip(1) {
        let inside = block.split_once(CLOSE).map(|(inside, _)| inside);
        match inside.and_then(|inside| listed(&json::parse(inside)?)) {
            Some(more) => calls.extend(more),
            None => return Found::Broken,
        }
    }
    Found::Calls(calls)
}

fn has_line(text: &str, begin: &str) -> bool {
    text.lines().any(|line| line.trim_start().starts_with(begin))
}

/// `Action: name`, and `Action Input: {..}` behind it; an object may go over several lines.
fn lines(text: &str) -> Found {
    let mut calls: Vec<Call> = Vec::new();
    let mut at = 0;
    for whole in text.split_inclusive('\n') {
        let (start, line) = (at + whole.len() - whole.trim_start().len(), whole.trim());
        at += whole.len();
        if let Some(name) = line.strip_prefix(ACTION) {
            let name = name.trim().trim_matches(['`', '"', '*']).to_string();
            calls.push(Call { name, arguments: Value::Object(Default::default()) });
        } else if let (Some(input), Some(call)) = (line.strip_prefix(INPUT), calls.last_mut()) {
            let behind = text[start + INPUT.len()..].trim_start();
            call.arguments = match json::prefix(behind) {
                Some(value) => value,
                None if input.trim_start().starts_with(['{', '[']) => return Found::Broken,
                None => Value::String(input.trim().to_string()),
            };
        }
    }
    if calls.is_empty() { Found::Nothing } else { Found::Calls(calls) }
}

/// The calls in a value: a call, a list of calls, or an assistant's message with `tool_calls`.
fn listed(value: &Value) -> Option<Vec<Call>> {
    match value {
        Value::Array(items) => items.iter().map(call).collect(),
        Value::Object(fields) => match fields.get("tool_calls") {
            Some(calls) => listed(calls),
            None => Some(vec![call(value)?]),
        },
        _ => None,
    }
}

/// Spellings of the keys: OpenAI and Hermes, ToolAlpaca and ReAct.
const NAMES: [&str; 5] = ["name", "Action", "action", "tool", "tool_name"];
const ARGUMENTS: [&str; 7] =
    ["arguments", "parameters", "args", "Action_Input", "action_input", "Action Input", "tool_input"];

fn call(value: &Value) -> Option<Call> {
    let Value::Object(fields) = value else { return None };
    if let Some(function @ Value::Object(_)) = fields.get("function") {
        return call(function);
    }
    let Some(Value::String(name)) = NAMES.iter().find_map(|key| fields.get(*key)) else { return None };
    let arguments = match ARGUMENTS.iter().find_map(|key| fields.get(*key)) {
        None | Some(Value::Null) => Value::Object(Default::default()),
        Some(Value::String(text)) => json::parse(text).unwrap_or_else(|| Value::String(text.clone())),
        Some(other) => other.clone(),
    };
    Some(Call { name: name.trim().to_string(), arguments })
}
