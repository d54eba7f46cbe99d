//! A policy: everything a Hugging Face folder holds, read from its files' bytes. What opens the files is the caller's business.

use super::chat::{self, ChatTemplate, Message};
use super::config::{self, Config};
use super::gguf::Gguf;
use super::runner::Runner;
use super::tokenizer::Tokenizer;
use super::transformer::Transformer;
use super::weights::{self, Checkpoint, Shard};
use candle_core::{DType, Device};
use mindgap_base::error::{Error, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Bytes of a file: read, or mapped.
pub trait Blob: Send + Sync {
    fn bytes(&self) -> &[u8];

    /// Told when a range will hardly be read again, so that a mapped file does not stay in memory beside what was made of it.
    fn done_with(&self, _range: Range<usize>) {}
}

impl Blob for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

impl Blob for String {
    fn bytes(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl<const N: usize> Blob for &'static [u8; N] {
    fn bytes(&self) -> &[u8] {
        *self
    }
}

impl Blob for memmap2::Mmap {
    fn bytes(&self) -> &[u8] {
        self
    }

    #[cfg(unix)]
    #[expect(unsafe_code, reason = "the advice discards pages")]
    fn done_with(&self, range: Range<usize>) {
        // SAFETY: of a read-only file mapping, pages given up are read from the file again when touched. Failing does no harm.
        let _ = unsafe { self.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
    }
}

const CONFIG: &str = "config.json";
const GENERATION: &str = "generation_config.json";
const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const TEMPLATE: &str = "chat_template.jinja";
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// The name under which a GGUF file is given, whatever it is called where it lies.
pub const GGUF: &str = "model.gguf";

/// The files of one checkpoint, by name.
#[derive(Clone, Default)]
pub struct PolicyFiles {
    files: BTreeMap<String, Arc<dyn Blob>>,
}

impl PolicyFiles {
    /// Whether a file of a folder belongs to the policy. Everything else there (README, optimizer state, other formats) is
    /// never read.
    pub fn wants(name: &str) -> bool {
        [CONFIG, GENERATION, TOKENIZER, TOKENIZER_CONFIG, TEMPLATE, INDEX].contains(&name)
            || (name.starts_with("model") && name.ends_with(".safetensors"))
    }

    pub fn insert(&mut self, name: impl Into<String>, bytes: impl Blob + 'static) {
        self.files.insert(name.into(), Arc::new(bytes));
    }

    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.files.get(name).map(|blob| blob.bytes())
    }

    fn need(&self, name: &str, hint: &str) -> Result<&[u8]> {
        self.blob(name, hint).map(Blob::bytes)
    }

    fn blob(&self, name: &str, hint: &str) -> Result<&dyn Blob> {
        let found = self.files.get(name).map(|blob| blob.as_ref());
        found.ok_or_else(|| Error::input(format!("policy has no `{name}`")).hint(hint))
    }

    /// The small files, by name: all but the weights. Those that a GGUF file stands for are made of its metadata, unless they
    /// are there.
    pub fn described(mut self) -> Result<BTreeMap<String, Vec<u8>>> {
        self.read_gguf()?;
        let small = self.files.iter().filter(|(name, _)| !is_weights(name) && *name != INDEX);
        Ok(small.map(|(name, blob)| (name.clone(), blob.bytes().to_vec())).collect())
    }

    /// The header of a GGUF file, if there is one; adds the files that it stands for.
    fn read_gguf(&mut self) -> Result<Option<Gguf>> {
        let Some(blob) = self.files.get(GGUF).cloned() else { return Ok(None) };
        let gguf = Gguf::read(&*blob)?;
        for (name, bytes) in gguf.files(&*blob, self.get(TOKENIZER).is_none())? {
            self.files.entry(name.to_string()).or_insert_with(|| Arc::new(bytes));
        }
        Ok(Some(gguf))
    }

    /// Names of the weight files, in order: the GGUF file, `model.safetensors`, or the shards its index names.
    pub fn weight_files(&self) -> Result<Vec<String>> {
        if self.get(GGUF).is_some() {
            return Ok(vec![GGUF.to_string()]);
        }
        if self.get(SINGLE).is_some() {
            return Ok(vec![SINGLE.to_string()]);
        }
        let hint = "only safetensors weights are read; convert other formats first";
        let index = self
            .get(INDEX)
            .ok_or_else(|| Error::input(format!("policy has neither `{SINGLE}` nor `{INDEX}`")).hint(hint))?;
        weights::index_files(index)
    }

    fn has_weights(&self) -> bool {
        [SINGLE, INDEX, GGUF].iter().any(|name| self.get(name).is_some())
    }

    /// Names of the files that decide what the policy says: its digest is taken over these, in this order. A folder that
    /// differs elsewhere is the same policy.
    pub fn relevant(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> = [CONFIG, GENERATION, TOKENIZER, TOKENIZER_CONFIG, TEMPLATE]
            .into_iter()
            .filter(|name| self.get(name).is_some())
            .map(str::to_string)
            .collect();
        names.extend(self.weight_files()?);
        Ok(names)
    }
}

/// A checkpoint ready for use, weights aside: those are converted when [`Policy::transformer`] or the engine asks.
pub struct Policy {
    config: Config,
    tokenizer: Tokenizer,
    chat: Option<ChatTemplate>,
    eos_token_ids: Vec<u32>,
    end_token_id: Option<u32>,
    files: PolicyFiles,
    gguf: Option<Gguf>,
}

/// A file of weights.
pub fn is_weights(name: &str) -> bool {
    name.ends_with(".safetensors") || name == GGUF
}

impl Policy {
    /// Reads and checks config, tokenizer, template and the weights' headers. Errors name the file, and the tensor if one is
    /// missing or of a wrong shape.
    pub fn from_files(mut files: PolicyFiles) -> Result<Policy> {
        let gguf = files.read_gguf()?;
        let config = Config::from_json(files.need(CONFIG, "a policy is a folder in the Hugging Face layout")?)?;
        let tokenizer = Tokenizer::from_bytes(files.need(
            TOKENIZER,
            "save the tokenizer in its fast form: `AutoTokenizer.from_pretrained(..).save_pretrained(..)`",
        )?)?;
        let tokenizer_config = files.get(TOKENIZER_CONFIG);
        let chat = ChatTemplate::from_files(tokenizer_config, files.get(TEMPLATE))?;
        let named_eos = match tokenizer_config {
            Some(bytes) => chat::special_strings(&chat::parse_config(bytes)?).remove("eos_token"),
            None => None,
        };
        let named_eos = named_eos.and_then(|token| tokenizer.token_id(&token));
        let eos_token_ids = eos_token_ids(&files, &config, named_eos)?;
        let end_token_id = named_eos.filter(|id| eos_token_ids.contains(id)).or(eos_token_ids.first().copied());
        let policy = Policy { config, tokenizer, chat, eos_token_ids, end_token_id, files, gguf };
        // A folder without weights still has a tokenizer and a shape: enough to start training from random weights.
        if policy.files.has_weights() {
            policy.checkpoint().map(drop)?;
        }
        policy.check_vocabulary()?;
        Ok(policy)
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    pub fn chat(&self) -> Option<&ChatTemplate> {
        self.chat.as_ref()
    }

    pub fn files(&self) -> &PolicyFiles {
        &self.files
    }

    /// Ids that end a completion: of generation_config.json, else config.json, else the tokenizer's `eos_token`.
    pub fn eos_token_ids(&self) -> &[u32] {
        &self.eos_token_ids
    }

    /// The id that ends a target in training: the tokenizer's `eos_token` (the end of a turn in chat checkpoints) if it is
    /// among the EOS ids, else the first of them.
    pub fn end_token_id(&self) -> Option<u32> {
        self.end_token_id
    }

    /// Ids of a conversation of one user message, up to where the answer begins. The template writes every special token
    /// itself, so none is added.
    pub fn prompt_ids(&self, user_message: &str) -> Result<Vec<u32>> {
        self.conversation_ids(&[Message::user(user_message)])
    }

    /// The same for any conversation.
    pub fn conversation_ids(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let chat = self.chat.as_ref().ok_or_else(|| {
            Error::input("policy has no chat template")
                .at(TOKENIZER_CONFIG)
                .hint("add `chat_template` there, or a file `chat_template.jinja`")
        })?;
        self.tokenizer.encode(&chat.render(messages, true, &Value::Null)?, false)
    }

    /// Ids of a target text, with the end token. Errors if the policy names no EOS.
    pub fn target_ids(&self, completion: &str) -> Result<Vec<u32>> {
        let end = self.end_token_id.ok_or_else(|| {
            Error::input("policy names no EOS token").hint("set `eos_token_id` in `generation_config.json`")
        })?;
        let mut ids = self.tokenizer.encode(completion, false)?;
        ids.push(end);
        Ok(ids)
    }

    /// The transformer over tensors: differentiable ops, any device.
    pub fn transformer(&self, dtype: DType, device: &Device) -> Result<Transformer> {
        let tensors = self.checkpoint()?.tensors(&self.config, dtype, device)?;
        Transformer::from_tensors(&self.config, tensors, dtype, device)
    }

    /// The transformer for sampling and scoring on the CPU.
    pub fn runner(&self) -> Result<Runner> {
        self.runner_on(&Device::Cpu)
    }

    /// The same on any device.
    pub fn runner_on(&self, device: &Device) -> Result<Runner> {
        Runner::from_checkpoint(&self.config, &self.checkpoint()?, device)
    }

    /// The checked weights, not yet converted.
    pub fn checkpoint(&self) -> Result<Checkpoint<'_>> {
        if let Some(gguf) = &self.gguf {
            return Checkpoint::of_gguf(&self.config, gguf, self.files.blob(GGUF, "")?);
        }
        let names = self.files.weight_files()?;
        let hint = "the index names it; copy or download the whole checkpoint";
        let shards: Result<Vec<Shard>> =
            names.iter().map(|name| Ok(Shard { name: name.clone(), blob: self.files.blob(name, hint)? })).collect();
        let index = if names.len() == 1 && names[0] == SINGLE { None } else { self.files.get(INDEX) };
        Checkpoint::open(&self.config, &shards?, index)
    }

    fn check_vocabulary(&self) -> Result<()> {
        let entries = self.tokenizer.vocab_size();
        if entries > self.config.vocab_size {
            return Err(Error::input(format!(
                "tokenizer has {entries} entries, the embedding only {} rows",
                self.config.vocab_size
            ))
            .at(TOKENIZER)
            .hint("the tokenizer and the weights must come from the same checkpoint"));
        }
        Ok(())
    }
}

fn eos_token_ids(files: &PolicyFiles, config: &Config, named: Option<u32>) -> Result<Vec<u32>> {
    if let Some(bytes) = files.get(GENERATION) {
        let value: Value =
            serde_json::from_slice(bytes).map_err(|e| Error::input("not valid JSON").at(GENERATION).source(e))?;
        let ids = config::token_ids(value.get("eos_token_id"))
            .ok_or_else(|| Error::input("`eos_token_id` is not a token id or a list of them").at(GENERATION))?;
        if !ids.is_empty() {
            return Ok(ids);
        }
    }
    if !config.eos_token_ids.is_empty() {
        return Ok(config.eos_token_ids.clone());
    }
    Ok(named.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::tiny_policy_files;

    fn without(name: &str) -> String {
        let mut files = tiny_policy_files(1);
        files.files.remove(name);
        Policy::from_files(files)
            .and_then(|p| p.runner().and(p.prompt_ids("hi")))
            .err()
            .map(|e| e.to_string())
            .unwrap_or_default()
    }

    #[test]
    fn missing_files_are_named() {
        assert!(without("config.json").contains("`config.json`"));
        assert!(without("tokenizer.json").contains("`tokenizer.json`"));
        assert!(without("model.safetensors").contains("`model.safetensors`"));
        assert!(without("tokenizer_config.json").contains("no chat template"));
        assert_eq!(without("generation_config.json"), "");
    }

    #[test]
    fn prompt_and_target() {
        let policy = Policy::from_files(tiny_policy_files(1)).unwrap();
        let prompt = policy.prompt_ids("2+2?").unwrap();
        assert_eq!(policy.tokenizer().decode(&prompt, false).unwrap(), "<|user|>2+2?<|end|><|assistant|>");
        let target = policy.target_ids("4").unwrap();
        assert_eq!(policy.tokenizer().decode(&target, false).unwrap(), "4<|end|>");
        assert_eq!(policy.eos_token_ids(), [policy.end_token_id().unwrap(), 0]);
        assert_eq!(policy.files().relevant().unwrap().last().unwrap(), "model.safetensors");
    }

    #[test]
    fn eos_precedence() {
        let mut files = tiny_policy_files(1);
        files.insert("generation_config.json", b"{\"eos_token_id\": [7, 9]}");
        assert_eq!(Policy::from_files(files.clone()).unwrap().eos_token_ids(), [7, 9]);
        files.insert("generation_config.json", b"{}");
        assert_eq!(Policy::from_files(files.clone()).unwrap().eos_token_ids(), [2]);
        files.insert("generation_config.json", b"{\"eos_token_id\": \"x\"}");
        assert!(Policy::from_files(files).is_err());
    }

    #[test]
    fn files_of_a_folder() {
        assert!(PolicyFiles::wants("model-00001-of-00002.safetensors") && PolicyFiles::wants("tokenizer.json"));
        assert!(!PolicyFiles::wants("optimizer.safetensors") && !PolicyFiles::wants("README.md"));
    }
}
