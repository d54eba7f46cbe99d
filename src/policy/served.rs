//! A policy that servers run: what a pipeline says about where it is and how it is spoken to.

use crate::net::hub::HubModel;
use mindgap_base::error::{Error, Result};
use serde::{Deserialize, Deserializer};
use ureq::http::Uri;

/// A policy on servers. What it is (`model`, `revision`, `tokenizer`, `max_model_len`) is part of recipes; where it is and
/// how much is asked of it at once is not.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Served {
    /// Base URLs as an OpenAI client takes them, `http://host:8000/v1`: all of them serve the same weights.
    #[serde(rename = "server", deserialize_with = "one_or_more")]
    pub endpoints: Vec<String>,
    /// The name the servers know the model by.
    pub model: String,
    /// A folder, or `hub:org/name` with `@revision`: config, tokenizer and chat template. No weights are read.
    pub tokenizer: String,
    /// Says which weights are served, for people and recipes; the servers are not asked.
    pub revision: Option<String>,
    /// Which of the two speaks; where it is not said, the servers are asked.
    pub api: Option<Api>,
    /// Requests one endpoint works on at a time, at most.
    #[serde(default = "in_flight")]
    pub in_flight: u32,
    /// Environment variable with the key that the servers want.
    pub api_key_env: Option<String>,
    /// Longest prompt and completion together, in tokens, where it is less than the config's.
    pub max_model_len: Option<u32>,
    /// Longest wait for one answer; where it is not said, it grows with the tokens asked for.
    pub timeout_seconds: Option<u32>,
    /// Longest time without an answer from any endpoint, once one has answered: what a restart may take.
    #[serde(default = "patience")]
    pub patience_seconds: u32,
    /// Give every sample a seed of its own. Some builds crash on seeds.
    #[serde(default = "yes")]
    pub seed: bool,
}

/// The programs whose answers are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Api {
    /// `/v1/completions` of vLLM.
    Vllm,
    /// `/generate` of SGLang.
    Sglang,
}

impl Api {
    pub fn name(self) -> &'static str {
        match self {
            Api::Vllm => "vllm",
            Api::Sglang => "sglang",
        }
    }
}

pub(super) fn in_flight() -> u32 {
    64
}
pub(super) fn patience() -> u32 {
    1800
}
pub(super) fn yes() -> bool {
    true
}

fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "`server` is not a URL or a list of URLs")]
    enum OneOrMore {
        One(String),
        More(Vec<String>),
    }
    Ok(match OneOrMore::deserialize(deserializer)? {
        OneOrMore::One(url) => vec![url],
        OneOrMore::More(urls) => urls,
    })
}

impl Served {
    /// What must hold before anything is asked.
    pub fn validate(&self) -> Result<()> {
        if self.endpoints.is_empty() {
            return Err(Error::usage("`server` is empty").hint("name at least one base URL, `http://host:8000/v1` say"));
        }
        for (index, url) in self.endpoints.iter().enumerate() {
            check_url(url)?;
            if self.endpoints[..index].contains(url) {
                return Err(Error::usage(format!("`{url}` is named twice")));
            }
        }
        if let Some(hub) = self.tokenizer.strip_prefix("hub:") {
            HubModel::parse(hub)?;
        }
        let counts = [
            ("in_flight", Some(self.in_flight)),
            ("max_model_len", self.max_model_len),
            ("timeout_seconds", self.timeout_seconds),
            ("patience_seconds", Some(self.patience_seconds)),
        ];
        match counts.iter().find(|(_, count)| *count == Some(0)) {
            Some((name, _)) => Err(Error::usage(format!("`{name}` must be at least 1"))),
            None => Ok(()),
        }
    }

    /// What results depend on, by name, beside the files of the tokenizer.
    pub fn identity(&self) -> Vec<(&str, String)> {
        let mut identity = vec![("served model", self.model.clone())];
        identity.extend(self.revision.clone().map(|revision| ("served revision", revision)));
        identity.extend(self.max_model_len.map(|tokens| ("served max_model_len", tokens.to_string())));
        identity
    }

    /// The key that the servers want. Errors where its variable is not set.
    pub fn api_key(&self) -> Result<Option<String>> {
        let Some(name) = &self.api_key_env else { return Ok(None) };
        match std::env::var(name) {
            Ok(key) if !key.trim().is_empty() => Ok(Some(key.trim().to_string())),
            _ => Err(Error::environment(format!("the environment variable `{name}` is not set"))
                .hint("the pipeline names it in `api_key_env`: put the servers' key there")),
        }
    }
}

fn check_url(url: &str) -> Result<()> {
    let bad = |what: &str| Err(Error::usage(what.to_string()).hint("a base URL is `http://host:8000/v1`"));
    let Ok(uri) = url.parse::<Uri>() else { return bad(&format!("`{url}` is not a URL")) };
    match (uri.scheme_str(), uri.authority()) {
        // What stands before the `@` is not repeated: it may be a password.
        (_, Some(host)) if host.as_str().contains('@') => {
            bad("a URL in `server` holds a user or a password; keys come from the variable `api_key_env` names")
        }
        (Some("http" | "https"), Some(_)) if uri.query().is_none() => Ok(()),
        _ => bad(&format!("`{url}` is not the base URL of a server")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for good in ["http://host-a:8000/v1", "https://models.example.org/team/v1/", "http://[::1]:30000"] {
            check_url(good).unwrap();
        }
        for bad in ["host:8000/v1", "ftp://host/v1", "http://host/v1?key=x", "http://a b/v1", ""] {
            assert_eq!(check_url(bad).unwrap_err().kind().exit_code(), 2, "{bad}");
        }
        let secret = check_url("http://me:secret@host/v1").unwrap_err().to_string();
        assert!(!secret.contains("secret") && secret.contains("api_key_env"), "{secret}");
    }
}
