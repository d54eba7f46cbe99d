//! Where a policy of a pipeline comes from.

use super::Served;
use crate::net::hub::HubModel;
use crate::params::{Misfit, typed};
use serde::Deserialize;
use serde::de::IgnoredAny;
use toml::Value;

#[derive(Clone, Debug, PartialEq)]
pub enum PolicySpec {
    /// A Hugging Face folder; relative paths start at the pipeline file's folder.
    Path(String),
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
    hub: Option<String>,
    revision: Option<String>,
    stage: Option<String>,
    /// Known here so that a slip in the word is met with it; what has it is read otherwise.
    #[expect(dead_code, reason = "known so that a slip in the word is met with it")]
    server: Option<IgnoredAny>,
}

const KINDS: &str = "a policy is { path = \"folder\" }, { hub = \"org/name\", revision = \"main\" }, { stage = \"train stage\" } or \
                     { server = [\"http://host:8000/v1\"], model = \"name\", tokenizer = \"folder or hub:org/name\" }";

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
            return Ok(PolicySpec::Server(Box::new(served)));
        }
        match typed(value).map_err(with_kinds)? {
            Written { path: Some(path), hub: None, revision: None, stage: None, .. } => Ok(PolicySpec::Path(path)),
            Written { path: None, hub: None, revision: None, stage: Some(stage), .. } => Ok(PolicySpec::Stage(stage)),
            Written { path: None, hub: Some(id), revision, stage: None, .. } => {
                let model = HubModel::new(&id, revision.as_deref());
                model.map(PolicySpec::Hub).map_err(|e| misfit(e.what(), e.remedy().unwrap_or(KINDS)))
            }
            _ => Err(misfit("names not exactly one of `path`, `hub`, `stage` and `server`", KINDS)),
        }
    }
}

fn with_kinds(misfit: Misfit) -> Misfit {
    Misfit { hint: Some(KINDS.to_string()), ..misfit }
}
