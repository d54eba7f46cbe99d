//! The transformer, defined once: embedding, blocks of attention and feed-forward with residuals, a last norm.
//!
//! [`blocks`] is the definition. It is written against [`Backend`], the few operations in which the ways of running it
//! differ: packed differentiable tensors here (training, scoring anywhere, the oracle), rows of (slot, position, token) over
//! a KV cache in `runner` (generation).

use super::config::Config;
use super::ops::{self, Segments};
use super::tensor_error;
use super::weights::expected_tensors;
use candle_core::{DType, Device, Tensor};
use mindgap_base::error::{Error, Result};
use std::collections::HashMap;

/// What one block needs from a way of running it. `Rows` are activations: one row per token.
pub(super) trait Backend {
    type Rows;
    type Layer;
    /// RMS norm before attention.
    fn attention_norm(&mut self, x: &Self::Rows, layer: &Self::Layer) -> Result<Self::Rows>;
    /// Query, key and value projections, head norms, rotation, causal attention over each row's own sequence.
    fn attention(&mut self, x: Self::Rows, layer: &Self::Layer, layer_index: usize) -> Result<Self::Rows>;
    /// `x + y @ o^T`.
    fn add_attention(&mut self, x: Self::Rows, y: Self::Rows, layer: &Self::Layer) -> Result<Self::Rows>;
    /// RMS norm before the feed-forward.
    fn feed_forward_norm(&mut self, x: &Self::Rows, layer: &Self::Layer) -> Result<Self::Rows>;
    /// `silu(x @ gate^T) * (x @ up^T)`.
    fn feed_forward(&mut self, x: Self::Rows, layer: &Self::Layer) -> Result<Self::Rows>;
    /// `x + y @ down^T`.
    fn add_feed_forward(&mut self, x: Self::Rows, y: Self::Rows, layer: &Self::Layer) -> Result<Self::Rows>;
}

/// All blocks, in order: the definition of the network between the embedding and the last norm.
pub(super) fn blocks<B: Backend>(backend: &mut B, layers: &[B::Layer], mut x: B::Rows) -> Result<B::Rows> {
    for (index, layer) in layers.iter().enumerate() {
        let normed = backend.attention_norm(&x, layer)?;
        let attended = backend.attention(normed, layer, index)?;
        x = backend.add_attention(x, attended, layer)?;
        let normed = backend.feed_forward_norm(&x, layer)?;
        let gated = backend.feed_forward(normed, layer)?;
        x = backend.add_feed_forward(x, gated, layer)?;
    }
    Ok(x)
}

/// Cosines and sines of the rotary angles of some positions, `[positions, head_dim / 2]`, always in f32: bf16 cannot hold
/// a position above 256.
pub(super) fn rotary_angles(inverse_frequencies: &[f32], positions: impl Iterator<Item = u32>) -> (Vec<f32>, Vec<f32>) {
    let (mut cos, mut sin) = (Vec::new(), Vec::new());
    for position in positions {
        for frequency in inverse_frequencies {
            let (s, c) = (position as f32 * frequency).sin_cos();
            cos.push(c);
            sin.push(s);
        }
    }
    (cos, sin)
}

/// The projections of a block by their names in a checkpoint: what adapters can be added to.
pub const PROJECTIONS: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

/// A low-rank addition to a projection: `scale * (x @ a^T) @ b^T`, a `[rank, in]`, b `[out, rank]`.
pub struct Adapter {
    pub a: Tensor,
    pub b: Tensor,
    pub scale: f32,
}

/// A projection: weight `[out, in]` and perhaps a bias `[out]` and an adapter.
struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    adapter: Option<Adapter>,
}

impl Linear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = ops::linear(x, &self.weight, self.bias.as_ref()).map_err(tensor_error)?;
        let Some(Adapter { a, b, scale }) = &self.adapter else { return Ok(y) };
        let narrow = ops::linear(x, a, None).and_then(|z| ops::scale(&z, *scale)).map_err(tensor_error)?;
        ops::linear(&narrow, b, None).and_then(|z| ops::add(&y, &z)).map_err(tensor_error)
    }
}

/// The tensors of one block.
pub(super) struct Layer {
    input_norm: Tensor,
    q: Linear,
    k: Linear,
    v: Linear,
    /// Norms of query and key heads (Qwen3).
    head_norms: Option<(Tensor, Tensor)>,
    o: Linear,
    post_norm: Tensor,
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Layer {
    fn projection(&mut self, name: &str) -> Option<&mut Linear> {
        let places = [&mut self.q, &mut self.k, &mut self.v, &mut self.o, &mut self.gate, &mut self.up, &mut self.down];
        PROJECTIONS.iter().zip(places).find(|(known, _)| **known == name).map(|(_, linear)| linear)
    }
}

/// A transformer over tensors. Built from `Var`s it is differentiable, and sees every update of them.
pub struct Transformer {
    config: Config,
    device: Device,
    inverse_frequencies: Vec<f32>,
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
    head: Tensor,
    named: HashMap<String, Tensor>,
}

impl Transformer {
    /// Takes the tensors named by [`expected_tensors`]; converts type and device where they differ (a tensor that already
    /// fits is shared, not copied, so gradients reach it). Errors name a missing tensor or a wrong shape.
    pub fn from_tensors(
        config: &Config,
        mut tensors: HashMap<String, Tensor>,
        dtype: DType,
        device: &Device,
    ) -> Result<Transformer> {
        config.check()?;
        let mut ready = HashMap::new();
        for spec in expected_tensors(config) {
            let tensor = tensors.remove(&spec.name).ok_or_else(|| {
                Error::input(format!("tensor `{}` is missing; expected shape {:?}", spec.name, spec.shape))
            })?;
            if tensor.dims() != spec.shape {
                return Err(Error::input(format!(
                    "tensor `{}` has shape {:?}; the config expects {:?}",
                    spec.name,
                    tensor.dims(),
                    spec.shape
                )));
            }
            let tensor = tensor.to_dtype(dtype).and_then(|t| t.to_device(device)).map_err(tensor_error)?;
            ready.insert(spec.name, tensor);
        }
        let named = ready.clone();
        let mut take = Take(ready);
        let embedding = take.tensor("model.embed_tokens.weight");
        let layers = (0..config.layer_count).map(|i| take.layer(config, i)).collect();
        let norm = take.tensor("model.norm.weight");
        let head = if config.tie_word_embeddings { embedding.clone() } else { take.tensor("lm_head.weight") };
        Ok(Transformer {
            inverse_frequencies: config.rope.inverse_frequencies(config.head_dim),
            config: config.clone(),
            device: device.clone(),
            embedding,
            layers,
            norm,
            head,
            named,
        })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The output projection, `[vocab_size, hidden_size]`; the embedding itself when tied.
    pub fn head(&self) -> &Tensor {
        &self.head
    }

    /// A weight by its name in the checkpoint.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.named.get(name)
    }

    /// Adds an adapter to a projection, named as its weight without `.weight`. Errors if there is no such projection.
    pub fn adapt(&mut self, projection: &str, adapter: Adapter) -> Result<()> {
        let place = projection.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
        let layer = place.and_then(|(index, _)| self.layers.get_mut(index.parse::<usize>().ok()?));
        let linear = layer.zip(place).and_then(|(layer, (_, name))| layer.projection(name));
        let linear = linear.ok_or_else(|| Error::internal(format!("no projection `{projection}` to adapt")))?;
        linear.adapter = Some(adapter);
        Ok(())
    }

    /// Hidden states after the last norm, `[tokens, hidden_size]`, of sequences packed one after the other. Row t predicts
    /// token t + 1 of its segment. Errors: a token id outside the vocabulary, a segment longer than `max_positions`,
    /// segments that do not cover the tokens.
    pub fn hidden(&self, token_ids: &[u32], segments: &Segments) -> Result<Tensor> {
        let mut packed = self.pack(token_ids, segments)?;
        let x = self.embed(token_ids)?;
        let x = blocks(&mut packed, &self.layers, x)?;
        self.finish(&x)
    }

    /// The steps of [`Transformer::hidden`], for those who hold no more than they need: checked sequences with their angles,
    pub fn pack<'a>(&'a self, token_ids: &[u32], segments: &'a Segments) -> Result<Packed<'a>> {
        self.check_input(token_ids, segments)?;
        let width = self.config.head_dim / 2;
        let (cos, sin) = rotary_angles(&self.inverse_frequencies, segments.positions().into_iter());
        let angles = |values| Tensor::from_vec(values, (token_ids.len(), width), &self.device).map_err(tensor_error);
        Ok(Packed { config: &self.config, segments, cos: angles(cos)?, sin: angles(sin)? })
    }

    /// the embeddings of their tokens,
    pub fn embed(&self, token_ids: &[u32]) -> Result<Tensor> {
        let ids = Tensor::new(token_ids, &self.device).map_err(tensor_error)?;
        ops::embedding(&self.embedding, &ids).map_err(tensor_error)
    }

    /// one block after the other,
    pub fn block(&self, index: usize, x: &Tensor, packed: &mut Packed) -> Result<Tensor> {
        blocks(packed, &self.layers[index..=index], x.clone())
    }

    /// and the last norm.
    pub fn finish(&self, x: &Tensor) -> Result<Tensor> {
        ops::rms_norm(x, &self.norm, self.config.rms_norm_eps).map_err(tensor_error)
    }

    fn check_input(&self, token_ids: &[u32], segments: &Segments) -> Result<()> {
        if segments.total() != token_ids.len() {
            return Err(Error::internal(format!("segments hold {} rows of {}", segments.total(), token_ids.len())));
        }
        check_token_ids(&self.config, token_ids)?;
        check_length(&self.config, segments.longest())
    }
}

/// Errors if an id is outside the vocabulary.
pub(crate) fn check_token_ids(config: &Config, token_ids: &[u32]) -> Result<()> {
    match token_ids.iter().find(|id| **id as usize >= config.vocab_size) {
        None => Ok(()),
        Some(id) => Err(Error::input(format!("token id {id} is outside the vocabulary of {}", config.vocab_size))
            .hint("the tokenizer and the weights must come from the same checkpoint")),
    }
}

/// Errors if a sequence is longer than the model's positions.
pub(crate) fn check_length(config: &Config, length: usize) -> Result<()> {
    if length <= config.max_positions {
        return Ok(());
    }
    Err(Error::input(format!("sequence of {length} tokens is longer than the model's {}", config.max_positions))
        .hint("`max_position_embeddings` in `config.json` is the longest prompt and completion together"))
}

/// Moves checked tensors into their places.
struct Take(HashMap<String, Tensor>);

impl Take {
    fn tensor(&mut self, name: &str) -> Tensor {
        self.0.remove(name).expect("every expected tensor was checked before")
    }

    fn layer(&mut self, config: &Config, index: usize) -> Layer {
        let at = |rest: &str| format!("model.layers.{index}.{rest}");
        let mut linear = |name: &str, bias: bool| Linear {
            weight: self.tensor(&at(&format!("{name}.weight"))),
            bias: bias.then(|| self.tensor(&at(&format!("{name}.bias")))),
            adapter: None,
        };
        let q = linear("self_attn.q_proj", config.qkv_bias);
        let k = linear("self_attn.k_proj", config.qkv_bias);
        let v = linear("self_attn.v_proj", config.qkv_bias);
        let o = linear("self_attn.o_proj", config.output_bias);
        let gate = linear("mlp.gate_proj", config.mlp_bias);
        let up = linear("mlp.up_proj", config.mlp_bias);
        let down = linear("mlp.down_proj", config.mlp_bias);
        let head_norms = config
            .qk_norm
            .then(|| (self.tensor(&at("self_attn.q_norm.weight")), self.tensor(&at("self_attn.k_norm.weight"))));
        Layer {
            input_norm: self.tensor(&at("input_layernorm.weight")),
            post_norm: self.tensor(&at("post_attention_layernorm.weight")),
            q,
            k,
            v,
            head_norms,
            o,
            gate,
            up,
            down,
        }
    }
}

/// The differentiable back end: whole sequences, one after the other.
pub struct Packed<'a> {
    config: &'a Config,
    segments: &'a Segments,
    cos: Tensor,
    sin: Tensor,
}

impl Packed<'_> {
    fn norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        ops::rms_norm(x, weight, self.config.rms_norm_eps).map_err(tensor_error)
    }

    fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        ops::rope(x, &self.cos, &self.sin, self.config.head_dim).map_err(tensor_error)
    }
}

impl Backend for Packed<'_> {
    type Rows = Tensor;
    type Layer = Layer;

    fn attention_norm(&mut self, x: &Tensor, layer: &Layer) -> Result<Tensor> {
        self.norm(x, &layer.input_norm)
    }

    fn attention(&mut self, x: Tensor, layer: &Layer, _: usize) -> Result<Tensor> {
        let (mut q, mut k, v) = (layer.q.forward(&x)?, layer.k.forward(&x)?, layer.v.forward(&x)?);
        if let Some((q_norm, k_norm)) = &layer.head_norms {
            q = self.norm(&q, q_norm)?;
            k = self.norm(&k, k_norm)?;
        }
        let (q, k) = (self.rotate(&q)?, self.rotate(&k)?);
        ops::attention(&q, &k, &v, self.segments, self.config.head_dim).map_err(tensor_error)
    }

    fn add_attention(&mut self, x: Tensor, y: Tensor, layer: &Layer) -> Result<Tensor> {
        ops::add(&x, &layer.o.forward(&y)?).map_err(tensor_error)
    }

    fn feed_forward_norm(&mut self, x: &Tensor, layer: &Layer) -> Result<Tensor> {
        self.norm(x, &layer.post_norm)
    }

    fn feed_forward(&mut self, x: Tensor, layer: &Layer) -> Result<Tensor> {
        ops::swiglu(&layer.gate.forward(&x)?, &layer.up.forward(&x)?).map_err(tensor_error)
    }

    fn add_feed_forward(&mut self, x: Tensor, y: Tensor, layer: &Layer) -> Result<Tensor> {
        ops::add(&x, &layer.down.forward(&y)?).map_err(tensor_error)
    }
}

#[cfg(test)]
mod tests;
