//! A policy whose files are here and that a server program runs: what a pipeline says about starting that program.

use super::{Api, Served};
use mindgap_base::error::{Error, Result};
use serde::Deserialize;

/// How a server is started for a policy. What it is (the policy's files, `engine`, `served_as`, `max_model_len`) is part of recipes;
/// how the program is told to run is not.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Launched {
    /// The program.
    pub engine: Api,
    /// Arguments for it, beside those that say what it serves and where.
    #[serde(default)]
    pub args: Vec<String>,
    /// A command line in place of the program's usual one, for a shell: `$MODEL_FOLDER`, `$MODEL_NAME` and `$PORT` say what it is to
    /// serve and where.
    pub launch: Option<String>,
    /// Says what `args` or `launch` make of the weights, for people and recipes: `"fp8"`.
    pub served_as: Option<String>,
    /// Requests it works on at a time, at most.
    #[serde(default = "super::served::in_flight")]
    pub in_flight: u32,
    /// Longest prompt and completion together, in tokens, where it is less than the config's.
    pub max_model_len: Option<u32>,
    /// Longest wait for one answer; where it is not said, it grows with the tokens asked for.
    pub timeout_seconds: Option<u32>,
    /// Longest time without an answer from the running program.
    #[serde(default = "super::served::patience")]
    pub patience_seconds: u32,
    /// Give every sample a seed of its own.
    #[serde(default = "super::served::yes")]
    pub seed: bool,
}

impl Launched {
    /// What is written about starting a program; the rest of a policy is about its files.
    pub const KEYS: [&str; 9] = [
        "engine",
        "args",
        "launch",
        "served_as",
        "in_flight",
        "max_model_len",
        "timeout_seconds",
        "patience_seconds",
        "seed",
    ];

    /// What must hold before anything is started.
    pub fn validate(&self) -> Result<()> {
        if self.launch.as_ref().is_some_and(|line| line.trim().is_empty()) {
            return Err(Error::usage("`launch` is empty").hint("leave it out, or write a command line"));
        }
        if self.launch.is_some() && !self.args.is_empty() {
            return Err(Error::usage("`args` go with the usual command line, and `launch` is another")
                .hint("write the arguments into `launch`"));
        }
        self.served("model", String::new(), 1).validate()
    }

    /// What results depend on, by name, beside the policy's files.
    pub fn identity(&self) -> Vec<(&str, String)> {
        let mut identity = vec![("served engine", self.engine.name().to_string())];
        identity.extend(self.served_as.clone().map(|name| ("served as", name)));
        identity.extend(self.max_model_len.map(|tokens| ("served max_model_len", tokens.to_string())));
        identity
    }

    /// How the program is spoken to once it serves `model` at a port of this machine.
    pub fn served(&self, model: &str, tokenizer: String, port: u16) -> Served {
        Served {
            endpoints: vec![format!("http://127.0.0.1:{port}")],
            model: model.to_string(),
            tokenizer,
            revision: None,
            api: Some(self.engine),
            in_flight: self.in_flight,
            api_key_env: None,
            max_model_len: self.max_model_len,
            timeout_seconds: self.timeout_seconds,
            patience_seconds: self.patience_seconds,
            seed: self.seed,
        }
    }
}
