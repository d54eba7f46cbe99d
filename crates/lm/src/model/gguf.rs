//! A policy in one GGUF file, as llama.cpp writes it: its metadata become the files of a Hugging Face folder, its tensors those of
//! a checkpoint, dequantised one at a time.
//!
//! The numbers are those that llama.cpp computes with; what it rounds beside them (activations to 8 bits, say) is not.

mod config;
mod tensors;
mod tokenizer;

use super::config::Config;
use super::policy::Blob;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::{DType, Device, Tensor};
use mindgap_base::error::{Error, Result};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::Cursor;

/// The header of a file.
pub struct Gguf {
    content: Content,
    /// Of llama.cpp.
    architecture: String,
}

impl Gguf {
    /// Reads the header. Errors: not a GGUF file, a cut one, a type of tensor that is not read.
    pub fn read(blob: &dyn Blob) -> Result<Gguf> {
        let content = Content::read(&mut Cursor::new(blob.bytes())).map_err(|e| {
            bad("file is not a complete GGUF file, or holds tensors of a kind that is not read")
                .hint("F32, F16, BF16, Q4_0 to Q8_1 and Q2_K to Q8_K are read")
                .source(e)
        })?;
        let mut gguf = Gguf { content, architecture: String::new() };
        gguf.architecture = gguf.need_text("general.architecture")?.to_string();
        Ok(gguf)
    }

    /// The files of a folder that would hold the same policy, weights aside. Without a tokenizer if there is another one.
    pub fn files(&self, blob: &dyn Blob, with_tokenizer: bool) -> Result<BTreeMap<&'static str, Vec<u8>>> {
        let mut files = BTreeMap::from([("config.json", text(&self.config(blob)?))]);
        if with_tokenizer {
            files.insert("tokenizer.json", tokenizer::json(self)?.to_string().into_bytes());
            files.insert("tokenizer_config.json", text(&tokenizer::config(self)?));
            let ends = ["eos", "eot", "eom"].map(|kind| self.optional_size(&format!("tokenizer.ggml.{kind}_token_id")));
            let mut ids: Vec<usize> = ends.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
            ids.dedup();
            files.insert("generation_config.json", text(&json!({ "eos_token_id": ids })));
        }
        Ok(files)
    }

    /// What the weights are: the name of the mix, and how many tensors are of which kind.
    pub fn quantisation(&self) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for info in self.content.tensor_infos.values() {
            *counts.entry(kind_name(info.ggml_dtype)).or_default() += 1;
        }
        let counts: Vec<String> = counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        let name = match self.optional_size("general.file_type").ok().flatten() {
            Some(kind) => FILE_TYPES.iter().find(|(known, _)| *known == kind).map_or("other", |(_, name)| name),
            None => "unnamed",
        };
        format!("{name} ({})", counts.join(", "))
    }

    /// Errors: a tensor that the config expects is missing or of another shape, or one has no place in the model.
    pub fn check(&self, config: &Config) -> Result<()> {
        tensors::check(self, config)
    }

    /// One tensor of the checkpoint by its Hugging Face name, dequantised.
    pub fn tensor(&self, blob: &dyn Blob, config: &Config, name: &str, to: DType, device: &Device) -> Result<Tensor> {
        tensors::load(self, blob, config, name, to, device)
    }

    fn value(&self, key: &str) -> Option<&Value> {
        self.content.metadata.get(key)
    }

    fn text(&self, key: &str) -> Option<&str> {
        match self.value(key) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    fn need_text(&self, key: &str) -> Result<&str> {
        self.text(key).ok_or_else(|| bad(format!("`{key}` is missing, or no text")))
    }

    fn flag(&self, key: &str) -> Option<bool> {
        match self.value(key) {
            Some(Value::Bool(flag)) => Some(*flag),
            _ => None,
        }
    }

    fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let size = match value {
            Value::I32(number) => u64::try_from(*number).ok(),
            Value::I64(number) => u64::try_from(*number).ok(),
            other => other.to_u64().ok(),
        };
        match size.and_then(|size| usize::try_from(size).ok()) {
            Some(size) => Ok(Some(size)),
            // A list says that layers differ.
            None => Err(bad(format!("`{key}` is not one whole number"))),
        }
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::F32(number)) => Ok(Some(shortest(*number))),
            Some(Value::F64(number)) => Ok(Some(*number)),
            Some(_) => self.optional_size(key).map(|size| size.map(|size| size as f64)),
        }
    }

    fn list(&self, key: &str) -> Result<&[Value]> {
        match self.value(key) {
            Some(Value::Array(list)) => Ok(list),
            _ => Err(bad(format!("`{key}` is missing, or no list"))),
        }
    }

    fn has(&self, tensor: &str) -> bool {
        self.content.tensor_infos.contains_key(tensor)
    }
}

/// `general.file_type`, as llama.cpp names it.
const FILE_TYPES: [(usize, &str); 18] = [
    (0, "F32"),
    (1, "F16"),
    (2, "Q4_0"),
    (3, "Q4_1"),
    (7, "Q8_0"),
    (8, "Q5_0"),
    (9, "Q5_1"),
    (10, "Q2_K"),
    (11, "Q3_K_S"),
    (12, "Q3_K_M"),
    (13, "Q3_K_L"),
    (14, "Q4_K_S"),
    (15, "Q4_K_M"),
    (16, "Q5_K_S"),
    (17, "Q5_K_M"),
    (18, "Q6_K"),
    (21, "Q2_K_S"),
    (32, "BF16"),
];

fn kind_name(kind: GgmlDType) -> &'static str {
    match kind {
        GgmlDType::F32 => "F32",
        GgmlDType::F16 => "F16",
        GgmlDType::BF16 => "BF16",
        GgmlDType::Q4_0 => "Q4_0",
        GgmlDType::Q4_1 => "Q4_1",
        GgmlDType::Q5_0 => "Q5_0",
        GgmlDType::Q5_1 => "Q5_1",
        GgmlDType::Q8_0 => "Q8_0",
        GgmlDType::Q8_1 => "Q8_1",
        GgmlDType::Q2K => "Q2_K",
        GgmlDType::Q3K => "Q3_K",
        GgmlDType::Q4K => "Q4_K",
        GgmlDType::Q5K => "Q5_K",
        GgmlDType::Q6K => "Q6_K",
        GgmlDType::Q8K => "Q8_K",
    }
}

/// The number somebody wrote: 1e-6 is kept as an f32 that is not quite it.
fn shortest(number: f32) -> f64 {
    number.to_string().parse().unwrap_or(f64::from(number))
}

fn text(value: &serde_json::Value) -> Vec<u8> {
    (serde_json::to_string_pretty(value).expect("a JSON value is plain data") + "\n").into_bytes()
}

fn bad(what: impl Into<String>) -> Error {
    Error::input(what).at("GGUF")
}

#[cfg(test)]
mod tests;
