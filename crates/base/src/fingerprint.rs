//! A fingerprint names a recipe: what would be computed, known before it runs.
//!
//! Rules, pinned by tests: every field is written as its name and its canonical JSON value, both length-prefixed with a
//! little-endian u64; fields are sorted by name, so declaration order does not matter; list order does. Time, paths, host
//! and thread count are never part of one.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// blake3 of a recipe, as 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(String);

impl Fingerprint {
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// The first 12 digits, for people.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The named fields a result depends on. Kept beside the result, so that a later miss can be explained field by field.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Recipe(BTreeMap<String, Value>);

impl Recipe {
    pub fn new(stage: &str, version: u32) -> Recipe {
        Recipe::default().with("stage", stage).with("version", version)
    }

    /// Adds a field. Panics if the value cannot be JSON or the name is taken: both are our own bugs.
    pub fn with(mut self, name: &str, value: impl Serialize) -> Recipe {
        let value = serde_json::to_value(value).expect("a recipe field is plain data");
        let previous = self.0.insert(name.to_string(), value);
        assert!(previous.is_none(), "recipe field `{name}` given twice");
        self
    }

    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    pub fn fields(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    pub fn fingerprint(&self) -> Fingerprint {
        let mut hasher = blake3::Hasher::new_derive_key("mindgap 2026 recipe v1");
        for (name, value) in &self.0 {
            for bytes in [name.as_bytes(), canonical(value).as_bytes()] {
                hasher.update(&(bytes.len() as u64).to_le_bytes());
                hasher.update(bytes);
            }
        }
        Fingerprint(hasher.finalize().to_hex().to_string())
    }
}

/// JSON with object keys sorted and no white space.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<&String, String> = map.iter().map(|(k, v)| (k, canonical(v))).collect();
            let fields: Vec<String> = sorted.iter().map(|(k, v)| format!("{}:{v}", Value::from(k.as_str()))).collect();
            format!("{{{}}}", fields.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        scalar => scalar.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Pinned: a change here means every cached result of every user is forgotten.
    #[test]
    fn pinned() {
        let recipe = Recipe::new("rollout", 1).with("temperature", 1.0).with("samples", [0, 4]);
        assert_eq!(recipe.fingerprint().short(), PINNED);
    }
    const PINNED: &str = "3317a814fa7a";

    #[test]
    fn field_and_key_order_do_not_matter() {
        let a = Recipe::new("s", 1).with("x", 1).with("y", json!({"b": 1, "a": 2}));
        let b = Recipe::new("s", 1).with("y", json!({"a": 2, "b": 1})).with("x", 1);
        assert_eq!(a.fingerprint(), b.fingerprint());
    }

    #[test]
    fn list_order_and_field_borders_matter() {
        let of = |v: Value| Recipe::new("s", 1).with("x", v).fingerprint();
        assert_ne!(of(json!([1, 2])), of(json!([2, 1])));
        assert_ne!(of(json!("1")), of(json!(1)));
        assert_ne!(of(json!(["ab", "c"])), of(json!(["a", "bc"])));
    }
}
