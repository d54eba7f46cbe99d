//! Tensors <- safetensors bytes: names and shapes checked against the config, types converted, shards joined.
//!
//! [`expected_tensors`] is the one list of what a checkpoint must hold; the loader, the trainer's random start and the
//! writer all read it.

use super::config::{self, Config, Norms, QkNorm};
use super::gguf::Gguf;
use super::policy::Blob;
use super::tensor_error;
use super::tensors::{self, Put};
use candle_core::{DType, Device, Tensor};
use mindgap_base::error::{Error, Result};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::{BTreeMap, HashMap};

/// Name and shape of one tensor of a checkpoint, in the Hugging Face spelling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    pub name: String,
    pub shape: Vec<usize>,
}

/// Every tensor a checkpoint of this config must hold, embedding first, then layer by layer. `lm_head.weight` is absent
/// when the embedding is tied.
pub fn expected_tensors(config: &Config) -> Vec<TensorSpec> {
    let (hidden, ffn) = (config.hidden_size, config.intermediate_size);
    let (q, kv) = (config.query_width(), config.kv_width());
    let mut list = Specs(Vec::new());
    list.add("model.embed_tokens.weight".into(), &[config.vocab_size, hidden]);
    for layer in 0..config.layer_count {
        let at = |rest: &str| format!("model.layers.{layer}.{rest}");
        let norms = NormNames::of(config.norms);
        let norm = |list: &mut Specs, name: Option<&str>| {
            name.into_iter().for_each(|name| list.add(at(&format!("{name}.weight")), &[hidden]));
        };
        norm(&mut list, norms.attention_input);
        if config.fused_projections {
            list.linear(&at("self_attn.qkv_proj"), hidden, q + 2 * kv, config.qkv_bias);
        } else {
            list.linear(&at("self_attn.q_proj"), hidden, q, config.qkv_bias);
            list.linear(&at("self_attn.k_proj"), hidden, kv, config.qkv_bias);
            list.linear(&at("self_attn.v_proj"), hidden, kv, config.qkv_bias);
        }
        let qk_norm = match config.qk_norm {
            QkNorm::None => None,
            QkNorm::Heads => Some((config.head_dim, config.head_dim)),
            QkNorm::Whole => Some((q, kv)),
        };
        if let Some((query, key)) = qk_norm {
            list.add(at("self_attn.q_norm.weight"), &[query]);
            list.add(at("self_attn.k_norm.weight"), &[key]);
        }
        list.linear(&at("self_attn.o_proj"), q, hidden, config.output_bias);
        norm(&mut list, norms.attention_output);
        norm(&mut list, norms.feed_forward_input);
        if config.fused_projections {
            list.linear(&at("mlp.gate_up_proj"), hidden, 2 * ffn, config.mlp_bias);
        } else {
            list.linear(&at("mlp.gate_proj"), hidden, ffn, config.mlp_bias);
            list.linear(&at("mlp.up_proj"), hidden, ffn, config.mlp_bias);
        }
        list.linear(&at("mlp.down_proj"), ffn, hidden, config.mlp_bias);
        norm(&mut list, norms.feed_forward_output);
    }
    list.add("model.norm.weight".into(), &[hidden]);
    if !config.tie_word_embeddings {
        list.add("lm_head.weight".into(), &[config.vocab_size, hidden]);
    }
    list.0
}

/// What a block's norms are called, where they are.
#[derive(Clone, Copy, Debug)]
pub struct NormNames {
    pub attention_input: Option<&'static str>,
    pub attention_output: Option<&'static str>,
    pub feed_forward_input: Option<&'static str>,
    pub feed_forward_output: Option<&'static str>,
}

impl NormNames {
    pub fn of(norms: Norms) -> NormNames {
        let (before, after) = (norms != Norms::After, norms != Norms::Before);
        let feed_forward_input = if after { "pre_feedforward_layernorm" } else { "post_attention_layernorm" };
        NormNames {
            attention_input: before.then_some("input_layernorm"),
            attention_output: after.then_some("post_attention_layernorm"),
            feed_forward_input: before.then_some(feed_forward_input),
            feed_forward_output: after.then_some("post_feedforward_layernorm"),
        }
    }
}

struct Specs(Vec<TensorSpec>);

impl Specs {
    fn add(&mut self, name: String, shape: &[usize]) {
        self.0.push(TensorSpec { name, shape: shape.to_vec() });
    }

    fn linear(&mut self, name: &str, inputs: usize, outputs: usize, bias: bool) {
        self.add(format!("{name}.weight"), &[outputs, inputs]);
        if bias {
            self.add(format!("{name}.bias"), &[outputs]);
        }
    }
}

/// One safetensors file and its name, for messages.
pub struct Shard<'a> {
    pub name: String,
    pub blob: &'a dyn Blob,
}

/// A tensor in its file.
struct View<'a> {
    tensor: TensorView<'a>,
    file: String,
    blob: &'a dyn Blob,
}

/// A checkpoint whose headers have been read and checked; tensors are converted one at a time, on request.
pub struct Checkpoint<'a>(Source<'a>);

enum Source<'a> {
    Safetensors(HashMap<String, View<'a>>),
    Gguf { gguf: &'a Gguf, blob: &'a dyn Blob, config: Box<Config> },
}

impl<'a> Checkpoint<'a> {
    /// Reads the headers of all shards and checks names, shapes and types against the config. `index` holds the bytes of
    /// `model.safetensors.index.json` if there is one. Errors name the tensor, its shape and the expected one.
    pub fn open(config: &Config, shards: &[Shard<'a>], index: Option<&[u8]>) -> Result<Checkpoint<'a>> {
        let mut views: HashMap<String, View<'a>> = HashMap::new();
        for shard in shards {
            // Whoever verified the file has touched all of it.
            shard.blob.done_with(0..shard.blob.bytes().len());
            let parsed = SafeTensors::deserialize(shard.blob.bytes()).map_err(|e| {
                Error::input("file is not a complete safetensors file")
                    .at(&shard.name)
                    .hint("it may be cut short; copy or download it again")
                    .source(e)
            })?;
            for (name, tensor) in parsed.tensors() {
                let view = View { tensor, file: shard.name.clone(), blob: shard.blob };
                if let Some(View { file, .. }) = views.insert(name.clone(), view) {
                    return Err(Error::input(format!(
                        "tensor `{name}` is in two files: `{file}` and `{}`",
                        shard.name
                    )));
                }
            }
        }
        if let Some(index) = index {
            check_index(index, shards, &views)?;
        }
        let views = text_part(views)?;
        check(&views, config)?;
        Ok(Checkpoint(Source::Safetensors(views)))
    }

    /// The weights in a GGUF file, whose header was read.
    pub fn of_gguf(config: &Config, gguf: &'a Gguf, blob: &'a dyn Blob) -> Result<Checkpoint<'a>> {
        gguf.check(config)?;
        Ok(Checkpoint(Source::Gguf { gguf, blob, config: Box::new(config.clone()) }))
    }

    /// One tensor, converted. Errors if the name is unknown or memory runs out.
    pub fn tensor(&self, name: &str, to: DType, device: &Device) -> Result<Tensor> {
        let views = match &self.0 {
            Source::Safetensors(views) => views,
            Source::Gguf { gguf, blob, config } => return gguf.tensor(*blob, config, name, to, device),
        };
        let view = views.get(name).ok_or_else(|| Error::internal(format!("no tensor `{name}` was checked")))?;
        let data = view.tensor.data();
        let from =
            dtype(view.tensor.dtype()).ok_or_else(|| Error::internal(format!("type of `{name}` was not checked")))?;
        let tensor = Tensor::from_raw_buffer(data, from, view.tensor.shape(), device)
            .and_then(|t| t.to_dtype(to))
            .map_err(|e| tensor_error(e).at(name))?;
        let start = data.as_ptr() as usize - view.blob.bytes().as_ptr() as usize;
        view.blob.done_with(start..start + data.len());
        Ok(tensor)
    }

    /// The type the weights are held in: that of the embedding. What was quantised is f32.
    pub fn dtype(&self) -> DType {
        let Source::Safetensors(views) = &self.0 else { return DType::F32 };
        views.get("model.embed_tokens.weight").and_then(|view| dtype(view.tensor.dtype())).unwrap_or(DType::F32)
    }

    /// All expected tensors, converted.
    pub fn tensors(&self, config: &Config, to: DType, device: &Device) -> Result<HashMap<String, Tensor>> {
        expected_tensors(config)
            .into_iter()
            .map(|spec| self.tensor(&spec.name, to, device).map(|tensor| (spec.name, tensor)))
            .collect()
    }
}

/// Of a checkpoint that also sees images the tensors of the text part, by the names they have where it stands alone.
fn text_part(views: HashMap<String, View>) -> Result<HashMap<String, View>> {
    if !views.keys().any(|name| config::is_of_text_part(name)) {
        return Ok(views);
    }
    let mut text = HashMap::new();
    for (whole, view) in views {
        let Some(name) = config::text_tensor(&whole) else { continue };
        if let Some(View { file, .. }) = text.insert(name.clone(), view) {
            return Err(Error::input(format!("tensor `{name}` of the text part is there under two names")).at(file));
        }
    }
    Ok(text)
}

fn check(views: &HashMap<String, View>, config: &Config) -> Result<()> {
    let expected = expected_tensors(config);
    for spec in &expected {
        let Some(View { tensor: view, file, .. }) = views.get(&spec.name) else {
            return Err(Error::input(format!("tensor `{}` is missing; expected shape {:?}", spec.name, spec.shape))
                .at("model.safetensors")
                .hint("the weights and `config.json` must come from the same checkpoint"));
        };
        if view.shape() != spec.shape {
            return Err(Error::input(format!(
                "tensor `{}` has shape {:?}; the config expects {:?}",
                spec.name,
                view.shape(),
                spec.shape
            ))
            .at(file)
            .hint("the weights and `config.json` must come from the same checkpoint"));
        }
        dtype(view.dtype()).ok_or_else(|| {
            Error::input(format!("tensor `{}` has type {:?}; expected F32, BF16 or F16", spec.name, view.dtype()))
                .at(file)
        })?;
    }
    let known: std::collections::HashSet<&str> = expected.iter().map(|s| s.name.as_str()).collect();
    let mut unknown: Vec<&String> = views.keys().filter(|n| !known.contains(n.as_str())).collect();
    unknown.retain(|n| !harmless(n));
    unknown.sort();
    if let Some(name) = unknown.first() {
        return Err(Error::input(format!("tensor `{name}` has no place in the model that `config.json` describes"))
            .at(&views[*name].file)
            .hint("the weights and `config.json` must come from the same checkpoint"));
    }
    Ok(())
}

/// Written by some tools and never read: frequencies follow from the config, and a tied head is the embedding.
fn harmless(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq") || name == "lm_head.weight"
}

fn dtype(on_disk: Dtype) -> Option<DType> {
    match on_disk {
        Dtype::F32 => Some(DType::F32),
        Dtype::BF16 => Some(DType::BF16),
        Dtype::F16 => Some(DType::F16),
        _ => None,
    }
}

/// Names of the shard files an index refers to, sorted, without repeats.
pub fn index_files(index: &[u8]) -> Result<Vec<String>> {
    let mut files: Vec<String> = index_map(index)?.into_values().collect();
    files.sort();
    files.dedup();
    Ok(files)
}

const INDEX: &str = "model.safetensors.index.json";

fn index_map(index: &[u8]) -> Result<BTreeMap<String, String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let parsed: Index = serde_json::from_slice(index)
        .map_err(|e| Error::input("index of shards has no `weight_map` of names to files").at(INDEX).source(e))?;
    // They become files of a folder, and of a cache.
    match parsed.weight_map.values().find(|file| file.starts_with('.') || file.contains(['/', '\\', ':', '\0'])) {
        Some(file) => Err(Error::input(format!("`{}` is no name of a file", file.escape_debug())).at(INDEX)),
        None => Ok(parsed.weight_map),
    }
}

fn check_index(index: &[u8], shards: &[Shard], views: &HashMap<String, View>) -> Result<()> {
    for (tensor, file) in index_map(index)? {
        if !shards.iter().any(|s| s.name == file) {
            return Err(Error::input(format!("shard `{file}` is missing")).at(INDEX));
        }
        if views.get(&tensor).is_none_or(|view| view.file != file) {
            return Err(Error::input(format!("tensor `{tensor}` is not in shard `{file}`")).at(INDEX));
        }
    }
    Ok(())
}

/// Writes a policy's weights as one safetensors file, in their own types. The same tensors give the same bytes.
pub fn write(weights: &BTreeMap<String, Tensor>, put: &mut Put) -> Result<()> {
    tensors::write(weights, metadata(), put)
}

/// The same of all tensors of a config, in one type, made one by one.
pub fn write_each(config: &Config, dtype: DType, tensor: impl Fn(&str) -> Result<Tensor>, put: &mut Put) -> Result<()> {
    let specs = expected_tensors(config);
    let specs = specs.iter().map(|spec| (spec.name.as_str(), dtype, spec.shape.as_slice()));
    tensors::write_each(specs, tensor, metadata(), put)
}

/// `format: pt` is what transformers checks before it reads a file.
fn metadata() -> Option<HashMap<String, String>> {
    Some(HashMap::from([("format".to_string(), "pt".to_string())]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::{policy_bytes, tiny_config, tiny_tensors};

    fn bytes(change: impl FnOnce(&mut BTreeMap<String, Tensor>)) -> Vec<u8> {
        let mut tensors: BTreeMap<_, _> = tiny_tensors(&tiny_config(), 1).into_iter().collect();
        change(&mut tensors);
        policy_bytes(&tensors)
    }

    fn open(bytes: &Vec<u8>) -> Result<HashMap<String, Tensor>> {
        let config = tiny_config();
        let shards = [Shard { name: "model.safetensors".into(), blob: bytes }];
        Checkpoint::open(&config, &shards, None)?.tensors(&config, DType::F32, &Device::Cpu)
    }

    #[test]
    fn round_trip_in_every_type() {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let convert = |t: &Tensor| t.to_dtype(dtype).unwrap();
            let written = bytes(|tensors| tensors.values_mut().for_each(|t| *t = convert(t)));
            let read = open(&written).unwrap();
            for (name, tensor) in tiny_tensors(&tiny_config(), 1) {
                let expected = convert(&tensor).to_dtype(DType::F32).unwrap().flatten_all().unwrap();
                let found = read[&name].flatten_all().unwrap();
                assert_eq!(found.to_vec1::<f32>().unwrap(), expected.to_vec1::<f32>().unwrap(), "{name} {dtype:?}");
            }
        }
    }

    #[test]
    fn missing_tensor_is_named() {
        let name = "model.layers.1.mlp.up_proj.weight";
        let error = open(&bytes(|t| drop(t.remove(name)))).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("[48, 24]"), "{error}");
    }

    #[test]
    fn wrong_shape_is_named() {
        let name = "model.norm.weight";
        let wrong = Tensor::zeros(7, DType::F32, &Device::Cpu).unwrap();
        let error = open(&bytes(|t| drop(t.insert(name.into(), wrong)))).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("[7]") && error.contains("[24]"), "{error}");
    }

    #[test]
    fn wrong_type_and_unknown_tensors_are_named() {
        let name = "model.norm.weight";
        let ids = Tensor::zeros(24, DType::F32, &Device::Cpu).unwrap();
        let extra = bytes(|t| drop(t.insert("model.layers.9.odd".into(), ids)));
        assert!(open(&extra).unwrap_err().what().contains("model.layers.9.odd"));
        let mut i64s = bytes(|_| ());
        // The header is text; the same number of bytes as I32 keeps the file well formed.
        let header = String::from_utf8_lossy(&i64s[8..]).find(name).unwrap() + 8;
        let at = header + String::from_utf8_lossy(&i64s[header..]).find("F32").unwrap();
        i64s[at..at + 3].copy_from_slice(b"I32");
        assert!(open(&i64s).unwrap_err().what().contains("I32"));
    }

    #[test]
    fn a_tied_head_in_the_file_is_ignored() {
        let head = Tensor::zeros((11, 24), DType::F32, &Device::Cpu).unwrap();
        assert!(open(&bytes(|t| drop(t.insert("lm_head.weight".into(), head)))).is_ok());
    }

    #[test]
    fn cut_file_and_bad_index() {
        let whole = bytes(|_| ());
        assert!(open(&whole[..whole.len() - 5].to_vec()).unwrap_err().what().contains("safetensors"));
        let config = tiny_config();
        let shards = || [Shard { name: "a.safetensors".into(), blob: &whole }];
        let index = br#"{"weight_map": {"model.norm.weight": "b.safetensors"}}"#;
        let error = Checkpoint::open(&config, &shards(), Some(index)).err().unwrap();
        assert!(error.what().contains("b.safetensors"));
        assert!(Checkpoint::open(&config, &shards(), Some(b"{}")).is_err());
    }
}
