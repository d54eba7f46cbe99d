//! Why a stage would run: how it differs from the nearest of what was made before.
//!
//! The nearest recipe is the one with the fewest other fields. Where a finished stage stands on it, the parameters that cut the
//! work and the tables it read are compared too: they are in the parts' keys, not in the recipe.

use super::session::{Bound, Session};
use super::spec::StageSpec;
use mindgap_base::error::Result;
use mindgap_base::fingerprint::Recipe;
use mindgap_store::{Input, Origin};
use serde_json::Value;
use std::collections::BTreeMap;

/// Why parts of a stage are missing: one line per difference, old value first.
pub fn why(session: &Session, spec: &StageSpec, bound: &Bound) -> Result<Vec<String>> {
    let (store, recipe) = (session.store, &bound.recipe);
    let own = store.pointer(&session.pipeline.name, &spec.name)?.and_then(|pointer| pointer.origin);
    let mut recipes = store.recipes()?;
    recipes.retain(|other| other.get("stage") == recipe.get("stage"));
    // Of recipes equally near the one this pipeline stood at last is meant.
    let is_own = |recipe: &Recipe| own.as_ref().is_some_and(|own| own.recipe == recipe.fingerprint());
    let compared = recipes.into_iter().map(|other| (differences(&other, recipe), other));
    let Some((mut lines, nearest)) = compared.min_by_key(|(lines, other)| (lines.len(), !is_own(other))) else {
        return Ok(vec!["never run in this store".to_string()]);
    };
    let (nearest, now) = (nearest.fingerprint(), session.origin(spec, bound));
    let made = |origin: &Origin| origin.recipe == nearest;
    let before = match own.filter(made) {
        Some(own) => Some(changes(&own, &now)),
        None => {
            let others = store.pointers()?.into_iter().filter_map(|pointer| pointer.origin).filter(made);
            others.map(|other| changes(&other, &now)).min_by_key(Vec::len)
        }
    };
    let all = bound.parts.len();
    let missing = bound.parts.iter().filter(|part| part.record.is_none()).count();
    let is_known = before.is_some();
    lines.extend(before.unwrap_or_default());
    if lines.is_empty() {
        lines.push(match is_known {
            true => format!("made before from the same, {missing} of {all} parts are gone or damaged"),
            false => format!("same recipe, {missing} of {all} parts are not in the store yet"),
        });
    }
    Ok(lines)
}

/// Fields in which two recipes differ.
fn differences(old: &Recipe, new: &Recipe) -> Vec<String> {
    let (old, new) = (flatten(old), flatten(new));
    let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
    names.sort();
    names.dedup();
    let line = |name: &&String| {
        let (before, after) = (old.get(*name), new.get(*name));
        (before != after).then(|| {
            let (before, after) = texts(before, after);
            let skip = shared_start(&before, &after);
            format!("{name}: {} -> {}", excerpt(&before, skip), excerpt(&after, skip))
        })
    };
    names.iter().filter_map(line).collect()
}

/// What differs beyond the recipe: how the work is cut, and what is read. A stage that only has another name is no difference.
fn changes(old: &Origin, new: &Origin) -> Vec<String> {
    let mut lines = differences(&old.cut, &new.cut);
    let read = |origin: &Origin, input: &Input| origin.inputs.values().any(|other| other == input);
    let said = |input: Option<&Input>| match input {
        None => "nothing".to_string(),
        Some(Input { address, rows }) => format!("{rows} rows ({})", address.short()),
    };
    let mut names: Vec<&String> = old.inputs.keys().chain(new.inputs.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let (before, after) = (old.inputs.get(name), new.inputs.get(name));
        let renamed = before.is_none_or(|input| read(new, input)) && after.is_none_or(|input| read(old, input));
        if before != after && !renamed {
            lines.push(format!("{name}: {} -> {}", said(before), said(after)));
        }
    }
    lines
}

/// Fields by path, so that one changed file of a policy is one difference.
fn flatten(recipe: &Recipe) -> BTreeMap<String, Value> {
    let mut flat = BTreeMap::new();
    for (name, value) in recipe.fields() {
        match value {
            Value::Object(map) => flat.extend(map.iter().map(|(key, value)| (format!("{name}.{key}"), value.clone()))),
            _ => drop(flat.insert(name.to_string(), value.clone())),
        }
    }
    flat
}

/// Two values as texts. Of two lists, only what is in one of them.
fn texts(old: Option<&Value>, new: Option<&Value>) -> (String, String) {
    let (Some(Value::Array(old_items)), Some(Value::Array(new_items))) = (old, new) else {
        return (text(old), text(new));
    };
    let only = |items: &[Value], others: &[Value]| -> Vec<String> {
        items.iter().filter(|item| !others.contains(item)).map(|item| text(Some(item))).collect()
    };
    let (gone, come) = (only(old_items, new_items), only(new_items, old_items));
    match gone.is_empty() && come.is_empty() {
        // The same in another order.
        true => (text(old), text(new)),
        false => (listed(&gone, old_items.len()), listed(&come, new_items.len())),
    }
}

/// A few of the items, and how many there are.
fn listed(items: &[String], all: usize) -> String {
    match items {
        [] => "nothing".to_string(),
        [one] => one.clone(),
        [first, ..] => format!("{first} and {} more of {all}", items.len() - 1),
    }
}

/// A value as text; hashes by their first digits.
fn text(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "nothing".to_string(),
        Some(Value::String(text)) if is_hash(text) => text[..12].to_string(),
        Some(Value::String(text)) => {
            Value::from(text.split(' ').map(shortened).collect::<Vec<_>>().join(" ")).to_string()
        }
        Some(value) => value.to_string(),
    }
}

fn is_hash(word: &str) -> bool {
    word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit())
}

fn shortened(word: &str) -> &str {
    if is_hash(word) { &word[..12] } else { word }
}

/// Longest text shown of a value, in characters.
const SHOWN: usize = 60;
/// What is shown of the text before a difference.
const CONTEXT: usize = 12;

/// Characters both texts begin with and that need not be shown: none unless a text is too long to be shown whole.
fn shared_start(a: &str, b: &str) -> usize {
    let shared = a.chars().zip(b.chars()).take_while(|(a, b)| a == b).count();
    match a.chars().count().max(b.chars().count()) > SHOWN {
        true => shared.saturating_sub(CONTEXT),
        false => 0,
    }
}

/// A text short enough for one line, from a character on.
fn excerpt(text: &str, skip: usize) -> String {
    let rest: Vec<char> = text.chars().skip(skip).collect();
    let (before, after) = (if skip > 0 { "..." } else { "" }, if rest.len() > SHOWN { "..." } else { "" });
    format!("{before}{}{after}", rest.iter().take(SHOWN).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(old: &str, new: &str) -> String {
        let recipe = |text: &str| Recipe::new("rollout", 1).with("template", text);
        differences(&recipe(old), &recipe(new)).join("; ")
    }

    #[test]
    fn a_long_text_is_shown_where_it_differs() {
        let start = "A long instruction that both templates begin with, word for word. ".repeat(3);
        let said = difference(&format!("{start}Solve it."), &format!("{start}Answer it."));
        assert_eq!(said, "template: ...d for word. Solve it.\" -> ...d for word. Answer it.\"");
    }

    #[test]
    fn of_lists_only_what_differs_is_shown() {
        let of = |version: u32, items: &[&str]| Recipe::new("ingest", version).with("files", items);
        let (a, b) = (format!("a {}", "0".repeat(64)), format!("a {}", "1".repeat(64)));
        let said = |old: Recipe, new: Recipe| differences(&old, &new).join("; ");
        assert_eq!(said(of(1, &[&a, "x"]), of(1, &[&b, "x"])), "files: \"a 000000000000\" -> \"a 111111111111\"");
        assert_eq!(said(of(1, &["x"]), of(2, &["x", "y"])), "files: nothing -> \"y\"; version: 1 -> 2");
        assert_eq!(said(of(1, &["x", "y"]), of(1, &["y", "x"])), "files: [\"x\",\"y\"] -> [\"y\",\"x\"]");
        let many = said(of(1, &["p", "q", "r"]), of(1, &["r"]));
        assert_eq!(many, "files: \"p\" and 1 more of 3 -> nothing");
    }

    #[test]
    fn short_values_are_shown_whole_and_hashes_short() {
        assert_eq!(difference("a", "b"), "template: \"a\" -> \"b\"");
        let (old, new) = ("0".repeat(64), "f".repeat(64));
        assert_eq!(difference(&old, &new), "template: 000000000000 -> ffffffffffff");
    }
}
