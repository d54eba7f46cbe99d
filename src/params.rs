//! Typed parameters out of TOML, and what to say of one that does not fit.

use serde::de::DeserializeOwned;
use toml::Value;

/// A parameter that does not fit: the path to it inside its table, and what is wrong.
pub struct Misfit {
    pub path: String,
    pub message: String,
    pub hint: Option<String>,
}

/// Reads a value as a type. The error says which field of it does not fit.
pub fn typed<T: DeserializeOwned>(value: Value) -> Result<T, Misfit> {
    serde_path_to_error::deserialize(value).map_err(|e| Misfit {
        path: e.path().to_string(),
        message: e.inner().message().to_string(),
        hint: None,
    })
}
