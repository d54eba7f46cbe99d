//! The files of a checkpoint, by name: which belong to it, which must be there, which decide what the policy says.

use crate::model::gguf::Gguf;
use crate::model::{chat, config, weights};
use mindgap_base::error::{Error, Result};
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

pub(super) const CONFIG: &str = "config.json";
pub(super) const GENERATION: &str = "generation_config.json";
pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
pub(super) const TEMPLATE: &str = "chat_template.jinja";
/// Where older folders name their special tokens.
pub(super) const SPECIAL_MAP: &str = "special_tokens_map.json";
pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";
/// The name under which a GGUF file is given, whatever it is called where it lies.
pub const GGUF: &str = "model.gguf";

/// The files of one checkpoint, by name.
#[derive(Clone, Default)]
pub struct PolicyFiles {
    files: BTreeMap<String, Arc<dyn Blob>>,
}

impl PolicyFiles {
    /// What a policy has beside its weights.
    pub const SMALL: [&'static str; 6] = [CONFIG, GENERATION, TOKENIZER, TOKENIZER_CONFIG, SPECIAL_MAP, TEMPLATE];

    /// Whether a file of a folder belongs to the policy. Everything else there (README, optimizer state, other formats) is
    /// never read.
    pub fn wants(name: &str) -> bool {
        PolicyFiles::SMALL.contains(&name)
            || name == INDEX
            || (name.starts_with("model") && name.ends_with(".safetensors"))
    }

    pub fn insert(&mut self, name: impl Into<String>, bytes: impl Blob + 'static) {
        self.files.insert(name.into(), Arc::new(bytes));
    }

    #[cfg(test)]
    pub(super) fn remove(&mut self, name: &str) {
        self.files.remove(name);
    }

    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.files.get(name).map(|blob| blob.bytes())
    }

    pub(super) fn need(&self, name: &str, hint: &str) -> Result<&[u8]> {
        self.blob(name, hint).map(Blob::bytes)
    }

    pub(super) fn blob(&self, name: &str, hint: &str) -> Result<&dyn Blob> {
        let found = self.files.get(name).map(|blob| blob.as_ref());
        found.ok_or_else(|| Error::input(format!("policy has no `{name}`")).hint(hint))
    }

    /// The small files, by name: all but the weights. Those that a GGUF file stands for are made of its metadata, unless they
    /// are there; the config of a checkpoint that also sees images is that of its text part.
    pub fn described(mut self) -> Result<BTreeMap<String, Vec<u8>>> {
        self.read_gguf()?;
        self.take_text_part()?;
        let small = self.files.iter().filter(|(name, _)| !is_weights(name) && *name != INDEX);
        Ok(small.map(|(name, blob)| (name.clone(), blob.bytes().to_vec())).collect())
    }

    /// The header of a GGUF file, if there is one; adds the files that it stands for.
    pub(super) fn read_gguf(&mut self) -> Result<Option<Gguf>> {
        let Some(blob) = self.files.get(GGUF).cloned() else { return Ok(None) };
        let gguf = Gguf::read(&*blob)?;
        for (name, bytes) in gguf.files(&*blob, self.get(TOKENIZER).is_none())? {
            self.files.entry(name.to_string()).or_insert_with(|| Arc::new(bytes));
        }
        Ok(Some(gguf))
    }

    /// Leaves of a checkpoint that also sees images the text part.
    pub(super) fn take_text_part(&mut self) -> Result<()> {
        if let Some(text) = self.get(CONFIG).map(config::text_part).transpose()?.flatten() {
            self.insert(CONFIG, text);
        }
        Ok(())
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

    pub(super) fn has_weights(&self) -> bool {
        [SINGLE, INDEX, GGUF].iter().any(|name| self.get(name).is_some())
    }

    /// A file that [`PolicyFiles::wants`] and that only counts where it says something new, with the file that may have said it
    /// already.
    pub const SUPPLEMENT: (&'static str, &'static str) = (SPECIAL_MAP, TOKENIZER_CONFIG);

    /// Whether the supplement says something new.
    pub fn is_supplemented(supplement: &[u8], known: Option<&[u8]>) -> Result<bool> {
        chat::special_map_matters(known, supplement)
    }

    /// Names of the files that decide what the policy says: its digest is taken over these, in this order. A folder that
    /// differs elsewhere is the same policy.
    pub fn relevant(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> =
            PolicyFiles::SMALL.into_iter().filter(|name| self.get(name).is_some()).map(str::to_string).collect();
        names.extend(self.weight_files()?);
        Ok(names)
    }
}

/// A file of weights.
pub fn is_weights(name: &str) -> bool {
    name.ends_with(".safetensors") || name == GGUF
}
