//! Typed access to the keys of config.json, with errors that name the key.

use mindgap_base::error::{Error, Result};
use serde_json::{Map, Value};

pub(super) const FILE: &str = "config.json";

pub(super) fn bad(what: impl Into<String>) -> Error {
    Error::input(what).at(FILE)
}

/// A JSON object. A `null` counts as absent.
pub(super) struct Fields<'a>(pub &'a Map<String, Value>);

impl<'a> Fields<'a> {
    pub fn present(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|v| !v.is_null())
    }

    pub fn text(&self, key: &str) -> Option<&'a str> {
        self.present(key).and_then(Value::as_str)
    }

    pub fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.present(key) else { return Ok(None) };
        match value.as_u64() {
            // 2^31 bounds every product of two sizes below 2^62, so that no shape can overflow.
            Some(n) if n > 0 && n < 1 << 31 => Ok(Some(n as usize)),
            _ => Err(bad(format!("`{key}` is `{value}`; expected a positive whole number"))),
        }
    }

    pub fn size(&self, key: &str) -> Result<usize> {
        self.optional_size(key)?.ok_or_else(|| bad(format!("`{key}` is missing")))
    }

    /// A size of which no model has more than `most`: what is allocated by it is bounded.
    pub fn size_up_to(&self, key: &str, most: usize) -> Result<usize> {
        match self.size(key)? {
            size if size <= most => Ok(size),
            size => Err(bad(format!("`{key}` is {size}, more than the {most} that are read"))),
        }
    }

    pub fn number(&self, key: &str, default: Option<f64>) -> Result<f64> {
        match (self.present(key), default) {
            (Some(value), _) => value.as_f64().ok_or_else(|| bad(format!("`{key}` is `{value}`; expected a number"))),
            (None, Some(default)) => Ok(default),
            (None, None) => Err(bad(format!("`{key}` is missing"))),
        }
    }

    pub fn numbers(&self, key: &str) -> Result<Vec<f64>> {
        let list = self.present(key).ok_or_else(|| bad(format!("`{key}` is missing")))?;
        let numbers = list.as_array().and_then(|list| list.iter().map(Value::as_f64).collect());
        numbers.ok_or_else(|| bad(format!("`{key}` is not a list of numbers")))
    }

    pub fn positive(&self, key: &str, default: f64) -> Result<f64> {
        let number = self.number(key, Some(default))?;
        match number.is_finite() && number > 0.0 {
            true => Ok(number),
            false => Err(bad(format!("`{key}` is `{number}`; expected a positive number"))),
        }
    }

    /// A bound of scores or logits; `usual` where the file does not have the key.
    pub fn softcap(&self, key: &str, usual: Option<f32>) -> Result<Option<f32>> {
        match (self.0.contains_key(key), self.present(key)) {
            (false, _) => Ok(usual),
            (true, None) => Ok(None),
            (true, Some(_)) => Ok(Some(self.positive(key, 1.0)? as f32)),
        }
    }

    pub fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.present(key) {
            None => Ok(default),
            Some(value) => {
                value.as_bool().ok_or_else(|| bad(format!("`{key}` is `{value}`; expected `true` or `false`")))
            }
        }
    }

    pub fn token_ids(&self, key: &str) -> Result<Vec<u32>> {
        super::token_ids(self.present(key)).ok_or_else(|| bad(format!("`{key}` is not a token id or a list of them")))
    }
}
