//! The transformer, defined once: embedding, blocks of attention and feed-forward with residuals, a last norm.
//!
//! [`blocks`] is the definition. It is written against [`Backend`], the few operations in which the ways of running it
//! differ: packed differentiable tensors here (training, scoring anywhere, the oracle), rows of (slot, position, token) over
//! a KV cache in `runner` (generation).

mod layer;

pub use super::ops::Adapter;

use super::config::{Activation, Config};
use super::ops::{self, Head, Segments};
use super::rotary::Rotary;
use super::tensor_error;
use super::weights::expected_tensors;
use candle_core::{DType, Device, Tensor};
use layer::{Layer, Norm, Take};
use mindgap_base::error::{Error, Result};
use std::collections::HashMap;

/// What one block needs from a way of running it. `Rows` are activations: one row per token.
pub(super) trait Backend {
    type Rows;
    type Layer;
    /// RMS norm before attention, where there is one.
    fn attention_norm(&mut self, x: &Self::Rows, layer: &Self::Layer) -> Result<Self::Rows>;
    /// Query, key and value projections, their norms, rotation, causal attention over each row's own sequence.
    fn attention(&mut self, x: Self::Rows, layer: &Self::Layer, layer_index: usize) -> Result<Self::Rows>;
    /// `x + scale * norm(y @ o^T)`.
    fn add_attention(&mut self, x: Self::Rows, y: Self::Rows, layer: &Self::Layer) -> Result<Self::Rows>;
    /// RMS norm before the feed-forward, where there is one.
    fn feed_forward_norm(&mut self, x: &Self::Rows, layer: &Self::Layer) -> Result<Self::Rows>;
    /// `activation(x @ gate^T) * (x @ up^T)`.
    fn feed_forward(&mut self, x: Self::Rows, layer: &Self::Layer) -> Result<Self::Rows>;
    /// `x + scale * norm(y @ down^T)`.
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

/// Projections that are one tensor in some checkpoints, and those of [`PROJECTIONS`] they are made of, in order.
pub const FUSED: [(&str, &[&str]); 2] = [
    ("self_attn.qkv_proj", &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    ("mlp.gate_up_proj", &["mlp.gate_proj", "mlp.up_proj"]),
];

/// The types that a transformer computes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// Of the matrices; where kernels of ours run, norms and biases are f32 all the same.
    pub held: DType,
    /// Of the factors of products, and, where no kernels of ours run, of activations. See [`ops::linear()`].
    pub products: DType,
}

impl From<DType> for Numbers {
    fn from(dtype: DType) -> Numbers {
        Numbers { held: dtype, products: dtype }
    }
}

/// A transformer over tensors. Built from `Var`s it is differentiable, and sees every update of them.
pub struct Transformer {
    config: Config,
    device: Device,
    rotary: Rotary,
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: Norm,
    head: Head,
    named: HashMap<String, Tensor>,
    /// Of activations.
    dtype: DType,
}

impl Transformer {
    /// Takes the tensors named by [`expected_tensors`]; converts type and device where they differ (a tensor that already
    /// fits is shared, not copied, so gradients reach it). Errors name a missing tensor or a wrong shape.
    pub fn from_tensors(
        config: &Config,
        mut tensors: HashMap<String, Tensor>,
        numbers: impl Into<Numbers>,
        device: &Device,
    ) -> Result<Transformer> {
        config.check()?;
        let Numbers { held, products } = numbers.into();
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
            let dtype = if spec.shape.len() == 1 { ops::vector_type(held, device) } else { held };
            let tensor = tensor.to_dtype(dtype).and_then(|t| t.to_device(device)).map_err(tensor_error)?;
            ready.insert(spec.name, tensor);
        }
        let named = ready.clone();
        let mut take = Take { tensors: ready, products };
        let embedding = take.tensor("model.embed_tokens.weight");
        let layers = (0..config.layer_count).map(|i| take.layer(config, i)).collect();
        let norm = take.norm(config, "model.norm");
        let head = if config.tie_word_embeddings { embedding.clone() } else { take.tensor("lm_head.weight") };
        let head = Head { weight: head, softcap: config.logit_softcap, products };
        Ok(Transformer {
            rotary: Rotary::of(config),
            config: config.clone(),
            device: device.clone(),
            embedding,
            layers,
            norm,
            head,
            named,
            dtype: ops::activation_type(products, device),
        })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The output projection; its weight `[vocab_size, hidden_size]` is the embedding itself when tied.
    pub fn head(&self) -> &Head {
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
        let long = segments.iter().flat_map(|rows| std::iter::repeat_n(self.config.is_long(rows.len()), rows.len()));
        let rows: Vec<(u32, bool)> = segments.positions().into_iter().zip(long).collect();
        let angles = (0..self.rotary.count()).map(|rope| {
            let shape = (rows.len(), self.rotary.table(rope, false).pairs());
            let (cos, sin) = self.rotary.angles(rope, rows.iter().copied());
            let tensor = |values| Tensor::from_vec(values, shape, &self.device).map_err(tensor_error);
            Ok((tensor(cos)?, tensor(sin)?))
        });
        Ok(Packed { config: &self.config, segments, angles: angles.collect::<Result<_>>()? })
    }

    /// the embeddings of their tokens,
    pub fn embed(&self, token_ids: &[u32]) -> Result<Tensor> {
        let ids = Tensor::new(token_ids, &self.device).map_err(tensor_error)?;
        let rows = ops::embedding(&self.embedding, &ids).and_then(|rows| ops::cast(&rows, self.dtype));
        let rows = rows.map_err(tensor_error)?;
        scaled(rows, self.config.embedding_scale)
    }

    /// one block after the other,
    pub fn block(&self, index: usize, x: &Tensor, packed: &mut Packed) -> Result<Tensor> {
        blocks(packed, &self.layers[index..=index], x.clone())
    }

    /// and the last norm.
    pub fn finish(&self, x: &Tensor) -> Result<Tensor> {
        scaled(self.norm.forward(x)?, self.config.logit_scale)
    }

    fn check_input(&self, token_ids: &[u32], segments: &Segments) -> Result<()> {
        if segments.total() != token_ids.len() {
            return Err(Error::internal(format!("segments hold {} rows of {}", segments.total(), token_ids.len())));
        }
        check_token_ids(&self.config, token_ids)?;
        check_length(&self.config, segments.longest())
    }
}

/// `factor * x`; x itself if that is all.
fn scaled(x: Tensor, factor: f32) -> Result<Tensor> {
    if factor == 1.0 { Ok(x) } else { ops::scale(&x, factor).map_err(tensor_error) }
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

/// The differentiable back end: whole sequences, one after the other.
pub struct Packed<'a> {
    config: &'a Config,
    segments: &'a Segments,
    /// Cosines and sines of each rope.
    angles: Vec<(Tensor, Tensor)>,
}

impl Packed<'_> {
    fn rotate(&self, x: Tensor, rope: Option<usize>) -> Result<Tensor> {
        let Some(rope) = rope else { return Ok(x) };
        let (cos, sin) = &self.angles[rope];
        ops::rope(&x, cos, sin, self.config.head_dim).map_err(tensor_error)
    }

    fn add(&self, x: &Tensor, y: Tensor, norm: Option<&Norm>) -> Result<Tensor> {
        let y = normed(&y, norm)?;
        ops::add(x, &scaled(y, self.config.residual_scale)?).map_err(tensor_error)
    }
}

fn normed(x: &Tensor, norm: Option<&Norm>) -> Result<Tensor> {
    norm.map_or_else(|| Ok(x.clone()), |norm| norm.forward(x))
}

impl Backend for Packed<'_> {
    type Rows = Tensor;
    type Layer = Layer;

    fn attention_norm(&mut self, x: &Tensor, layer: &Layer) -> Result<Tensor> {
        normed(x, layer.attention_input.as_ref())
    }

    fn attention(&mut self, x: Tensor, layer: &Layer, _: usize) -> Result<Tensor> {
        let parts: [Tensor; 3] = layer.qkv.forward(&x)?.try_into().expect("queries, keys and values");
        let [mut q, mut k, v] = parts;
        if let Some((q_norm, k_norm)) = &layer.qk_norms {
            q = q_norm.forward(&q)?;
            k = k_norm.forward(&k)?;
        }
        let (q, k) = (self.rotate(q, layer.rope)?, self.rotate(k, layer.rope)?);
        ops::attention(&q, &k, &v, self.segments, layer.heads).map_err(tensor_error)
    }

    fn add_attention(&mut self, x: Tensor, y: Tensor, layer: &Layer) -> Result<Tensor> {
        self.add(&x, layer.o.forward(&y)?, layer.attention_output.as_ref())
    }

    fn feed_forward_norm(&mut self, x: &Tensor, layer: &Layer) -> Result<Tensor> {
        normed(x, layer.feed_forward_input.as_ref())
    }

    fn feed_forward(&mut self, x: Tensor, layer: &Layer) -> Result<Tensor> {
        let parts = layer.gate_up.forward(&x)?;
        let gated = match self.config.activation {
            Activation::Silu => ops::swiglu(&parts[0], &parts[1]),
            Activation::GeluTanh => ops::geglu(&parts[0], &parts[1]),
        };
        gated.map_err(tensor_error)
    }

    fn add_feed_forward(&mut self, x: Tensor, y: Tensor, layer: &Layer) -> Result<Tensor> {
        self.add(&x, layer.down.forward(&y)?, layer.feed_forward_output.as_ref())
    }
}

#[cfg(test)]
mod tests;
