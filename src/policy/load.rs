//! Policies: from the hub into its cache, and from files into memory.

use super::{PolicyHandle, Runs, Served};
use crate::net::hub::{Hub, HubModel, Watch};
use mindgap_base::error::{Error, Result};
use mindgap_lm::model::config::{Config, text_part};
use mindgap_lm::model::gguf::Gguf;
use mindgap_lm::model::ops::WeightType;
use mindgap_lm::model::policy::{GGUF, Policy, PolicyFiles, is_weights};
use mindgap_store::fs;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const CONFIG: &str = "config.json";

/// A model of the hub: from the cache if it is complete there, else downloaded; an error where it would have to be and there is
/// no `watch`. A revision that was fetched once stays the commit it was then, and needs no network. The files are read and
/// hashed like those of any folder.
pub fn hub_policy(name: &str, hub: &Hub, model: &HubModel, watch: Option<&Watch>) -> Result<PolicyHandle> {
    if let Some(folder) = hub.snapshot(model)? {
        let here = fs::list(&folder)?;
        let files = outline(&folder, here.iter().map(String::as_str))?;
        let weights = files.weight_files().unwrap_or_default();
        if is_described(&files) && !weights.is_empty() && weights.iter().all(|name| here.contains(name)) {
            return handle(name, &folder, &files);
        }
    }
    let watch = watch.ok_or_else(|| not_at_hand(model))?;
    let listing = hub.list(model)?;
    let folder = hub.commit_folder(model, &listing.commit);
    let wanted = || listing.files().filter(|file| PolicyFiles::wants(file) && !file.contains('/'));
    for file in wanted().filter(|file| !is_weights(file)) {
        hub.download(model, &listing.commit, file, watch)?;
    }
    // The index, now there, says which weights belong to the model.
    let files = outline(&folder, wanted())?;
    for file in files.weight_files().map_err(|e| e.at(model.to_string()))? {
        hub.download(model, &listing.commit, &file, watch)?;
    }
    hub.point(model, &listing.commit)?;
    handle(name, &folder, &files)
}

/// A policy in a GGUF file, with the tokenizer in it or that of a folder. Relative paths start at `base`.
pub fn gguf_policy(name: &str, base: &Path, file: &str, tokenizer: Option<&str>) -> Result<PolicyHandle> {
    let file = base.join(file);
    let header = fs::map(&file)?;
    let quantisation = Gguf::read(&header).map_err(|e| e.at(file.display().to_string()))?.quantisation();
    let mut paths = BTreeMap::from([(GGUF.to_string(), file)]);
    if let Some(folder) = tokenizer.map(|folder| base.join(folder)) {
        let beside = |file: &String| is_tokenizer(file) && file != CONFIG;
        let found: Vec<String> = fs::list(&folder)?.into_iter().filter(beside).collect();
        if !found.iter().any(|file| file == "tokenizer.json") {
            return Err(Error::input("folder has no `tokenizer.json`").at(folder.display().to_string()));
        }
        paths.extend(found.into_iter().map(|file| (file.clone(), folder.join(file))));
    }
    PolicyHandle::of_gguf(name, paths, quantisation)
}

/// The policy's small files, by name, as a folder of it would hold them.
pub fn described(handle: &PolicyHandle) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = PolicyFiles::default();
    for name in handle.file_names() {
        if name == GGUF {
            files.insert(name, handle.map(name)?);
        } else if !is_weights(name) {
            files.insert(name, handle.read(name)?);
        }
    }
    files.described()
}

/// A policy that servers run: its tokenizer and template, from a folder (relative paths start at `base`) or from the hub, without
/// its weights.
pub fn served_policy(name: &str, base: &Path, served: &Served, watch: Option<&Watch>) -> Result<PolicyHandle> {
    let folder = match served.tokenizer.strip_prefix("hub:") {
        None => base.join(&served.tokenizer),
        Some(model) => hub_tokenizer(&Hub::from_env(), &HubModel::parse(model)?, watch)?,
    };
    let handle = PolicyHandle::of_folder(name, &folder, is_tokenizer)?;
    Ok(handle.run_by(Runs::Served(served.clone())))
}

/// The folder of a hub model's tokenizer and template, from the cache if they are there.
fn hub_tokenizer(hub: &Hub, model: &HubModel, watch: Option<&Watch>) -> Result<PathBuf> {
    if let Some(folder) = hub.snapshot(model)?
        && is_described(&outline(&folder, fs::list(&folder)?.iter().map(String::as_str))?)
    {
        return Ok(folder);
    }
    let watch = watch.ok_or_else(|| not_at_hand(model))?;
    let listing = hub.list(model)?;
    for file in listing.files().filter(|file| is_tokenizer(file)) {
        hub.download(model, &listing.commit, file, watch)?;
    }
    hub.point(model, &listing.commit)?;
    Ok(hub.commit_folder(model, &listing.commit))
}

fn not_at_hand(model: &HubModel) -> Error {
    Error::environment(format!("`{}` is not complete in the cache", model.id)).hint("`mindgap plan` downloads it")
}

/// What a policy has beside its weights.
fn is_tokenizer(file: &str) -> bool {
    PolicyFiles::wants(file) && !file.contains("safetensors")
}

fn is_described(files: &PolicyFiles) -> bool {
    [CONFIG, "tokenizer.json"].iter().all(|name| files.get(name).is_some())
}

/// The policy's small files in a folder; of the weights only the names.
fn outline<'a>(folder: &Path, names: impl Iterator<Item = &'a str>) -> Result<PolicyFiles> {
    let mut files = PolicyFiles::default();
    for name in names.filter(|name| PolicyFiles::wants(name)) {
        let bytes = if is_weights(name) { Vec::new() } else { fs::read(&folder.join(name))? };
        files.insert(name, bytes);
    }
    Ok(files)
}

/// Only what belongs to the model: other tools may have put more weights into the shared cache.
fn handle(name: &str, folder: &Path, files: &PolicyFiles) -> Result<PolicyHandle> {
    let relevant = files.relevant()?;
    PolicyHandle::of_folder(name, folder, |file| relevant.iter().any(|name| name == file))
}

/// What kind of transformer a policy is, read from its small files.
pub fn policy_config(handle: &PolicyHandle) -> Result<Config> {
    let config = config_file(handle).and_then(|config| Config::from_json(&config));
    config.map_err(|e| e.at(format!("policy `{}`", handle.name)))
}

/// What a policy's weights are held in where nobody says, as far as its small files tell.
pub fn usual_weights(handle: &PolicyHandle) -> Result<WeightType> {
    let config: serde_json::Value = serde_json::from_slice(&config_file(handle)?).unwrap_or_default();
    let dtype = ["dtype", "torch_dtype"].into_iter().find_map(|key| config.get(key)?.as_str());
    Ok(if dtype == Some("bfloat16") { WeightType::StoredBf16 } else { WeightType::F32 })
}

/// What of a policy's files is not read, where something is not: said to people.
pub fn left_out(handle: &PolicyHandle) -> Result<Option<String>> {
    if !handle.file_names().any(|name| name == CONFIG) {
        return Ok(None);
    }
    let has_other_parts = text_part(&handle.read(CONFIG)?)?.is_some();
    Ok(has_other_parts.then(|| {
        format!("policy `{}` also sees images: its text part is used, its vision weights are not read", handle.name)
    }))
}

fn config_file(handle: &PolicyHandle) -> Result<Vec<u8>> {
    let config = match handle.file_names().any(|name| name == CONFIG) {
        true => Some(handle.read(CONFIG)?),
        false => described(handle)?.remove(CONFIG),
    };
    config.ok_or_else(|| Error::input("policy has no `config.json`"))
}

/// A policy without its weights: tokenizer, template and the tokens that end its turns.
pub fn load_speaker(handle: &PolicyHandle) -> Result<Policy> {
    let mut files = PolicyFiles::default();
    described(handle)?.into_iter().for_each(|(name, bytes)| files.insert(name, bytes));
    Policy::from_files(files).map_err(|e| e.at(format!("policy `{}`", handle.name)))
}

/// Loads a policy from its files, all read and verified.
pub fn load_policy(handle: &PolicyHandle) -> Result<Policy> {
    let mut files = PolicyFiles::default();
    for name in handle.file_names() {
        if is_weights(name) {
            files.insert(name, handle.map(name)?);
        } else {
            files.insert(name, handle.read(name)?);
        }
    }
    Policy::from_files(files).map_err(|e| e.at(format!("policy `{}`", handle.name)))
}
