//! Why a stage would run: the fields in which it differs from the nearest recipe that ran before.

use crate::base::error::Result;
use crate::base::fingerprint::Recipe;
use crate::store::Store;
use serde_json::Value;
use std::collections::BTreeMap;

/// One line per differing field, old value first. Empty when this very recipe ran before.
pub fn differences(store: &Store, recipe: &Recipe) -> Result<Vec<String>> {
    let stage = recipe.get("stage");
    let same_stage = store.recipes()?.into_iter().filter(|other| other.get("stage") == stage);
    let nearest = same_stage.map(|other| compare(&other, recipe)).min_by_key(Vec::len);
    Ok(match nearest {
        None => vec!["never run in this store".to_string()],
        Some(lines) => lines,
    })
}

fn compare(old: &Recipe, new: &Recipe) -> Vec<String> {
    let (old, new) = (flatten(old), flatten(new));
    let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
    names.sort();
    names.dedup();
    let line = |name: &&String| {
        let (before, after) = (old.get(*name), new.get(*name));
        (before != after).then(|| {
            let (before, after) = (text(before), text(after));
            let skip = shared_start(&before, &after);
            format!("{name}: {} -> {}", excerpt(&before, skip), excerpt(&after, skip))
        })
    };
    names.iter().filter_map(line).collect()
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

/// A value as text; hashes by their first digits.
fn text(value: Option<&Value>) -> String {
    match value {
        None => "nothing".to_string(),
        Some(Value::String(text)) if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) => {
            text[..12].to_string()
        }
        Some(value) => value.to_string(),
    }
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
        compare(&recipe(old), &recipe(new)).join("; ")
    }

    #[test]
    fn a_long_text_is_shown_where_it_differs() {
        let start = "A long instruction that both templates begin with, word for word. ".repeat(3);
        let said = difference(&format!("{start}Solve it."), &format!("{start}Answer it."));
        assert_eq!(said, "template: ...d for word. Solve it.\" -> ...d for word. Answer it.\"");
    }

    #[test]
    fn short_values_are_shown_whole_and_hashes_short() {
        assert_eq!(difference("a", "b"), "template: \"a\" -> \"b\"");
        let (old, new) = ("0".repeat(64), "f".repeat(64));
        assert_eq!(difference(&old, &new), "template: 000000000000 -> ffffffffffff");
    }
}
