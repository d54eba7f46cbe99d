//! Tokenizers of policies, for who shows tokens.

use super::Made;
use crate::net::hub::{Hub, HubModel};
use crate::policy::{PolicySpec, described, gguf_policy};
use mindgap_base::error::Result;
use mindgap_lm::model::tokenizer::Tokenizer;
use mindgap_store::fs;

const FILE: &str = "tokenizer.json";

/// The tokenizer of a policy, if it is at hand: in a folder, in the hub's cache, or of a finished train stage.
pub fn tokenizer(made: &Made, policy: &str) -> Result<Option<Tokenizer>> {
    let (folder, stage) = match made.pipeline.policies.get(policy) {
        Some(PolicySpec::Path(path)) => (Some(made.pipeline.folder.join(path)), policy),
        Some(PolicySpec::Hub(model)) => (Hub::from_env().snapshot(model)?, policy),
        Some(PolicySpec::Server(served)) => match served.tokenizer.strip_prefix("hub:") {
            Some(model) => (Hub::from_env().snapshot(&HubModel::parse(model)?)?, policy),
            None => (Some(made.pipeline.folder.join(&served.tokenizer)), policy),
        },
        Some(PolicySpec::Gguf { file, tokenizer: None }) => {
            let handle = gguf_policy(policy, &made.pipeline.folder, file, None)?;
            let bytes = described(&handle)?.remove(FILE);
            return bytes.map(|bytes| Tokenizer::from_bytes(&bytes)).transpose();
        }
        Some(PolicySpec::Gguf { tokenizer: Some(folder), .. }) => (Some(made.pipeline.folder.join(folder)), policy),
        Some(PolicySpec::Stage(stage)) => (None, stage.as_str()),
        None => (None, policy),
    };
    let bytes = match folder {
        Some(folder) => fs::read_if_present(&folder.join(FILE))?,
        None => {
            let files = made.manifest(stage)?.map(|manifest| manifest.files()).unwrap_or_default();
            files.get(FILE).map(|(address, _)| made.store.get(address)).transpose()?
        }
    };
    bytes.map(|bytes| Tokenizer::from_bytes(&bytes)).transpose()
}
