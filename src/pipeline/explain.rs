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
        (before != after).then(|| format!("{name}: {} -> {}", shown(before), shown(after)))
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

/// A value short enough for one line; hashes by their first digits.
fn shown(value: Option<&Value>) -> String {
    let text = match value {
        None => return "nothing".to_string(),
        Some(Value::String(text)) if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) => {
            text[..12].to_string()
        }
        Some(value) => value.to_string(),
    };
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
