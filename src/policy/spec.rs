//! Where a policy of a pipeline comes from.

use super::{Launched, Served};
use crate::net::hub::HubModel;
use crate::params::{Misfit, typed};
use mindgap_lm::model::held::Held;
use mindgap_lm::model::kv_cache::KvType;
use mindgap_lm::model::ops::WeightType;
use serde::Deserialize;
use serde::de::IgnoredAny;
use toml::Value;

/// A policy, and what it is held in while it samples and scores in this process.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicySpec {
    pub source: PolicySource,
    pub held: Held,
    /// A server program that is started for it, where one is to run it.
    pub launched: Option<Launched>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum PolicySource {
    /// A Hugging Face folder; relative paths start at the pipeline file's folder.
    Path(String),
    /// A GGUF file, and perhaps a folder with the tokenizer; relative paths start at the pipeline file's folder.
    Gguf { file: String, tokenizer: Option<String> },
    /// A model of the Hugging Face hub.
    Hub(HubModel),
    /// The output of a train stage of this pipeline.
    Stage(String),
    /// A model that servers run.
    Server(Box<Served>),
}

/// A policy as written, unless it is on servers.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    path: Option<String>,
    gguf: Option<String>,
    tokenizer: Option<String>,
    hub: Option<String>,
    revision: Option<String>,
    stage: Option<String>,
    weights: Option<String>,
    keys_values: Option<String>,
    /// Known here so that a slip in the word is met with it; what has it is read otherwise.
    #[expect(dead_code, reason = "known so that a slip in the word is met with it")]
    server: Option<IgnoredAny>,
    #[expect(dead_code, reason = "known so that a slip in the word is met with it")]
    engine: Option<IgnoredAny>,
}

const KINDS: &str = "a policy is { path = \"folder\" }, { gguf = \"model.gguf\" }, { hub = \"org/name\", revision = \"main\" }, { stage = \"train stage\" } or \
                     { server = [\"http://host:8000/v1\"], model = \"name\", tokenizer = \"folder or hub:org/name\" }; all but the last take \
                     weights = \"f32\", \"bf16\" or \"int8\" and keys_values = \"f32\" or \"bf16\", or engine = \"vllm\" or \"sglang\", \
                     which is started for them (docs/servers.md)";

impl PolicySpec {
    pub fn read(value: Value) -> Result<PolicySpec, Misfit> {
        let misfit = |message: &str, hint: &str| Misfit {
            path: String::new(),
            message: message.to_string(),
            hint: Some(hint.to_string()),
        };
        if value.get("server").is_some() {
            let served: Served = typed(value).map_err(with_kinds)?;
            served.validate().map_err(|e| misfit(e.what(), e.remedy().unwrap_or(KINDS)))?;
            return Ok(PolicySource::Server(Box::new(served)).into());
        }
        let (value, launched) = launched(value)?;
        if let Some(launched) = &launched {
            launched.validate().map_err(|e| misfit(e.what(), e.remedy().unwrap_or(KINDS)))?;
        }
        let Written { path, gguf, tokenizer, hub, revision, stage, weights, keys_values, .. } =
            typed(value).map_err(with_kinds)?;
        let named = |name: String| {
            WeightType::named(&name).ok_or_else(|| {
                misfit(&format!("`weights` is `{name}`"), "weights are held in \"f32\", \"bf16\" or \"int8\"")
            })
        };
        let weights = weights.map(named).transpose()?;
        let cached = |name: String| {
            KvType::named(&name).ok_or_else(|| {
                misfit(&format!("`keys_values` is `{name}`"), "keys and values are held in \"f32\" or \"bf16\"")
            })
        };
        let keys_values = keys_values.map(cached).transpose()?.unwrap_or_default();
        let source = match (path, gguf, hub, stage) {
            (Some(path), None, None, None) if (&tokenizer, &revision) == (&None, &None) => Ok(PolicySource::Path(path)),
            (None, Some(file), None, None) if revision.is_none() => Ok(PolicySource::Gguf { file, tokenizer }),
            (None, None, None, Some(stage)) if (&tokenizer, &revision) == (&None, &None) => {
                Ok(PolicySource::Stage(stage))
            }
            (None, None, Some(id), None) if tokenizer.is_none() => {
                let model = HubModel::new(&id, revision.as_deref());
                model.map(PolicySource::Hub).map_err(|e| misfit(e.what(), e.remedy().unwrap_or(KINDS)))
            }
            _ => Err(misfit("names not exactly one of `path`, `gguf`, `hub`, `stage` and `server`", KINDS)),
        };
        let (source, held) = (source?, Held { weights, keys_values });
        if launched.is_some() && matches!(source, PolicySource::Gguf { .. }) {
            return Err(misfit("a GGUF file runs in this process alone", "leave `engine` out, or name a folder"));
        }
        if launched.is_some() && held != Held::default() {
            return Err(misfit(
                "`weights` and `keys_values` say what this process holds, and `engine` runs the policy in another",
                "leave them out; what the engine holds is said in `args`, and named in `served_as`",
            ));
        }
        Ok(PolicySpec { source, held, launched })
    }
}

impl From<PolicySource> for PolicySpec {
    fn from(source: PolicySource) -> PolicySpec {
        PolicySpec { source, held: Held::default(), launched: None }
    }
}

/// The engine of this process. What is said beside it is for the others: a variable may choose between them.
const OWN: &str = "mindgap";

/// What is written about a server program, apart from what is written about the policy's files.
fn launched(value: Value) -> Result<(Value, Option<Launched>), Misfit> {
    match value {
        Value::Table(mut table) if table.get("engine").and_then(Value::as_str) == Some(OWN) => {
            Launched::KEYS.iter().for_each(|key| drop(table.remove(*key)));
            Ok((Value::Table(table), None))
        }
        Value::Table(table) if table.contains_key("engine") || table.contains_key("launch") => {
            let (program, files): (toml::Table, toml::Table) =
                table.into_iter().partition(|(key, _)| Launched::KEYS.contains(&key.as_str()));
            let launched = typed(Value::Table(program)).map_err(with_kinds)?;
            Ok((Value::Table(files), Some(launched)))
        }
        other => Ok((other, None)),
    }
}

fn with_kinds(misfit: Misfit) -> Misfit {
    Misfit { hint: Some(KINDS.to_string()), ..misfit }
}
