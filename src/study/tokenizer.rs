//! Tokenizers and chat templates of policies, for who shows tokens or counts them.

use super::Made;
use crate::net::hub::{Hub, HubModel};
use crate::policy::{PolicySource, described, gguf_policy};
use mindgap_base::error::Result;
use mindgap_lm::model::policy::{Policy, PolicyFiles};
use mindgap_lm::model::tokenizer::Tokenizer;
use mindgap_store::fs;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The tokenizer of a policy, if it is at hand: in a folder, in the hub's cache, or of a finished train stage.
pub fn tokenizer(made: &Made, policy: &str) -> Result<Option<Tokenizer>> {
    let place = Place::of(made, policy)?;
    let bytes = place.read(made, "tokenizer.json")?;
    bytes.map(|bytes| Tokenizer::from_bytes(&bytes)).transpose()
}

/// The same with config and chat template, and without the weights.
pub fn speaker(made: &Made, policy: &str) -> Result<Option<Policy>> {
    let place = Place::of(made, policy)?;
    let mut files = PolicyFiles::default();
    for name in PolicyFiles::SMALL {
        if let Some(bytes) = place.read(made, name)? {
            files.insert(name, bytes);
        }
    }
    match ["config.json", "tokenizer.json"].iter().all(|name| files.get(name).is_some()) {
        true => Policy::from_files(files).map(Some),
        false => Ok(None),
    }
}

/// Where a policy's files are.
enum Place<'a> {
    Folder(PathBuf),
    Stage(&'a str),
    /// In a GGUF file.
    File(BTreeMap<String, Vec<u8>>),
}

impl<'a> Place<'a> {
    fn of(made: &'a Made, policy: &'a str) -> Result<Place<'a>> {
        let folder = match made.pipeline.policies.get(policy).map(|spec| &spec.source) {
            Some(PolicySource::Path(path)) => Some(made.pipeline.folder.join(path)),
            Some(PolicySource::Hub(model)) => Hub::from_env().snapshot(model)?,
            Some(PolicySource::Server(served)) => match served.tokenizer.strip_prefix("hub:") {
                Some(model) => Hub::from_env().snapshot(&HubModel::parse(model)?)?,
                None => Some(made.pipeline.folder.join(&served.tokenizer)),
            },
            Some(PolicySource::Gguf { file, tokenizer }) => {
                let handle = gguf_policy(policy, &made.pipeline.folder, file, tokenizer.as_deref())?;
                return described(&handle).map(Place::File);
            }
            Some(PolicySource::Stage(stage)) => return Ok(Place::Stage(stage)),
            None => None,
        };
        Ok(folder.map_or(Place::Stage(policy), Place::Folder))
    }

    fn read(&self, made: &Made, name: &str) -> Result<Option<Vec<u8>>> {
        match self {
            Place::Folder(folder) => fs::read_if_present(&folder.join(name)),
            Place::File(files) => Ok(files.get(name).cloned()),
            Place::Stage(stage) => {
                let files = made.manifest(stage)?.map(|manifest| manifest.files()).unwrap_or_default();
                files.get(name).map(|(address, _)| made.store.get(address)).transpose()
            }
        }
    }
}
