//! The transformer for inference on the CPU, f32: weights packed once, activations in reused buffers, keys and values in a cache.
//!
//! Prefill and decode are the same call: each [`Feed`] appends some tokens to one sequence. A row's result is the same bits
//! whatever else is in the call, however its sequence was cut into calls, and equals [`Transformer::hidden`].

use super::config::Config;
use super::kv_cache::{KvShape, Sequence};
use super::ops::norm::rms_norm_rows;
use super::ops::rope::rope_rows;
use super::ops::swiglu::swiglu_rows;
use super::ops::{Packed, Queries, Visible, attend};
use super::tensor_error;
use super::transformer::{Backend, Transformer, blocks, check_length, check_token_ids, rotary_angles};
use super::weights::Checkpoint;
use crate::base::error::{Error, Result};
use candle_core::{DType, Device, Tensor};

/// Query rows whose scores exist at once in prefill.
const TILE: usize = 32;

/// A projection in the kernel's layout.
struct Linear {
    weight: Packed,
    bias: Option<Vec<f32>>,
}

impl Linear {
    fn apply(&self, x: &Rows, out: &mut Rows) {
        self.weight.apply(&x.data, x.count(), self.bias.as_deref(), &mut out.data);
    }
}

struct Layer {
    input_norm: Vec<f32>,
    /// Queries, keys and values in one product.
    qkv: Linear,
    head_norms: Option<(Vec<f32>, Vec<f32>)>,
    o: Linear,
    post_norm: Vec<f32>,
    /// Gate and up in one product.
    gate_up: Linear,
    down: Linear,
}

/// Packed weights of one transformer, read only: threads share it.
pub struct Runner {
    config: Config,
    inverse_frequencies: Vec<f32>,
    /// `[vocab_size, hidden_size]`; `None` when tied: rows are then read from the head.
    embedding: Option<Vec<f32>>,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    head: Packed,
}

impl Runner {
    /// From a checkpoint's bytes, one tensor at a time: no second copy of the weights exists.
    pub fn from_checkpoint(config: &Config, checkpoint: &Checkpoint) -> Result<Runner> {
        Runner::new(config, |name| checkpoint.tensor(name, DType::F32, &Device::Cpu))
    }

    /// A snapshot of a transformer's weights as they are now.
    pub fn from_transformer(transformer: &Transformer) -> Result<Runner> {
        Runner::new(transformer.config(), |name| {
            let tensor = transformer.tensor(name).ok_or_else(|| Error::internal(format!("no tensor `{name}`")))?;
            tensor.to_dtype(DType::F32).and_then(|t| t.to_device(&Device::Cpu)).map_err(tensor_error)
        })
    }

    fn new(config: &Config, tensor: impl Fn(&str) -> Result<Tensor>) -> Result<Runner> {
        config.check()?;
        let load = Load { tensor: &tensor };
        let (embedding, head) = if config.tie_word_embeddings {
            (None, load.packed(&["model.embed_tokens.weight".into()])?)
        } else {
            (Some(load.vector("model.embed_tokens.weight")?), load.packed(&["lm_head.weight".into()])?)
        };
        Ok(Runner {
            inverse_frequencies: config.rope.inverse_frequencies(config.head_dim),
            embedding,
            layers: (0..config.layer_count).map(|i| load.layer(config, i)).collect::<Result<_>>()?,
            norm: load.vector("model.norm.weight")?,
            head,
            config: config.clone(),
        })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn kv_shape(&self) -> KvShape {
        KvShape::of(&self.config)
    }

    /// Errors if an id is outside the vocabulary.
    pub fn check_token_ids(&self, token_ids: &[u32]) -> Result<()> {
        check_token_ids(&self.config, token_ids)
    }

    /// Appends each feed's tokens to its sequence and returns the hidden states, after the last norm, of the wanted rows: the
    /// last `want` of each feed, in feed order. Errors: a token id outside the vocabulary, a sequence longer than the model's
    /// positions or its own room.
    pub fn step<'w>(&self, workspace: &'w mut Workspace, feeds: &mut [Feed]) -> Result<&'w [f32]> {
        for feed in feeds.iter() {
            check_token_ids(&self.config, feed.token_ids)?;
            check_length(&self.config, feed.sequence.len() + feed.token_ids.len())?;
            if feed.sequence.room() < feed.token_ids.len() || feed.want > feed.token_ids.len() {
                return Err(Error::internal("more tokens were fed or wanted than the sequence has room for"));
            }
        }
        let x = self.embed(workspace, feeds);
        let mut cached = Cached { runner: self, workspace, feeds };
        let x = blocks(&mut cached, &self.layers, x)?;
        for feed in feeds.iter_mut() {
            feed.sequence.advance(feed.token_ids.len());
        }
        Ok(self.finish(workspace, feeds, x))
    }

    /// Logits of hidden rows: `[rows, vocab_size]`, row after row, into `out`.
    pub fn logits(&self, hidden: &[f32], out: &mut Vec<f32>) {
        let rows = hidden.len() / self.config.hidden_size;
        out.resize(rows * self.config.vocab_size, 0.0);
        self.head.apply(hidden, rows, None, out);
    }

    /// Embeddings of all rows, and the rotary angles of their positions.
    fn embed(&self, workspace: &mut Workspace, feeds: &[Feed]) -> Rows {
        let (hidden, half) = (self.config.hidden_size, self.config.head_dim / 2);
        let rows = feeds.iter().map(|f| f.token_ids.len()).sum();
        let longest = feeds.iter().map(|f| f.sequence.len() + f.token_ids.len()).max().unwrap_or(0);
        workspace.extend_angles(&self.inverse_frequencies, longest);
        let mut x = workspace.take(rows, hidden);
        let Workspace { angles, cos, sin, .. } = workspace;
        cos.clear();
        sin.clear();
        let mut targets = x.data.chunks_exact_mut(hidden);
        for feed in feeds {
            let first = feed.sequence.len();
            let positions = first * half..(first + feed.token_ids.len()) * half;
            cos.extend_from_slice(&angles.cos[positions.clone()]);
            sin.extend_from_slice(&angles.sin[positions]);
            for (token, target) in feed.token_ids.iter().zip(&mut targets) {
                match &self.embedding {
                    Some(embedding) => target.copy_from_slice(&embedding[*token as usize * hidden..][..hidden]),
                    None => self.head.unpack(*token as usize, target),
                }
            }
        }
        x
    }

    /// The last norm, of the wanted rows only.
    fn finish<'w>(&self, workspace: &'w mut Workspace, feeds: &[Feed], x: Rows) -> &'w [f32] {
        let hidden = self.config.hidden_size;
        let wanted: usize = feeds.iter().map(|f| f.want).sum();
        workspace.out.resize(wanted * hidden, 0.0);
        let (mut from, mut to) = (0, 0);
        for feed in feeds {
            from += (feed.token_ids.len() - feed.want) * hidden;
            let size = feed.want * hidden;
            let target = &mut workspace.out[to..to + size];
            rms_norm_rows(&x.data[from..from + size], &self.norm, self.config.rms_norm_eps as f32, target);
            from += size;
            to += size;
        }
        workspace.give(x);
        &workspace.out
    }
}

/// Tokens to append to one sequence.
pub struct Feed<'a> {
    pub sequence: &'a mut Sequence,
    pub token_ids: &'a [u32],
    /// Hidden states wanted of the last so many of these tokens.
    pub want: usize,
}

/// Activations: `data.len() / width` rows.
struct Rows {
    width: usize,
    data: Vec<f32>,
}

impl Rows {
    fn count(&self) -> usize {
        self.data.len() / self.width
    }
}

/// Buffers of one thread, reused from call to call.
#[derive(Default)]
pub struct Workspace {
    free: Vec<Rows>,
    angles: Angles,
    /// Angles of the rows of this call.
    cos: Vec<f32>,
    sin: Vec<f32>,
    scratch: Vec<f32>,
    normed: Vec<f32>,
    out: Vec<f32>,
}

/// Cosines and sines of all positions from 0 on, as far as needed yet.
#[derive(Default)]
struct Angles {
    positions: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Workspace {
    /// A buffer of this size, its content left over from earlier use.
    fn take(&mut self, rows: usize, width: usize) -> Rows {
        let mut found = match self.free.iter().position(|r| r.width == width) {
            Some(index) => self.free.swap_remove(index),
            None => Rows { width, data: Vec::new() },
        };
        found.data.resize(rows * width, 0.0);
        found
    }

    fn give(&mut self, rows: Rows) {
        self.free.push(rows);
    }

    fn extend_angles(&mut self, inverse_frequencies: &[f32], positions: usize) {
        if self.angles.positions < positions {
            let positions = positions.next_power_of_two();
            let new = self.angles.positions as u32..positions as u32;
            let (cos, sin) = rotary_angles(inverse_frequencies, new);
            self.angles.cos.extend(cos);
            self.angles.sin.extend(sin);
            self.angles.positions = positions;
        }
    }
}

/// The inference back end of the blocks.
struct Cached<'a, 'f, 's> {
    runner: &'a Runner,
    workspace: &'a mut Workspace,
    feeds: &'f mut [Feed<'s>],
}

impl Cached<'_, '_, '_> {
    fn norm(&mut self, x: &Rows, weight: &[f32]) -> Rows {
        let mut out = self.workspace.take(x.count(), x.width);
        rms_norm_rows(&x.data, weight, self.runner.config.rms_norm_eps as f32, &mut out.data);
        out
    }

    fn project(&mut self, x: Rows, linear: &Linear) -> Rows {
        let mut out = self.workspace.take(x.count(), linear.weight.outputs());
        linear.apply(&x, &mut out);
        self.workspace.give(x);
        out
    }

    /// `x + y w^T`: the product first, as the packed path computes it.
    fn add_projected(&mut self, mut x: Rows, y: Rows, linear: &Linear) -> Rows {
        let y = self.project(y, linear);
        for (x, y) in x.data.iter_mut().zip(&y.data) {
            *x += y;
        }
        self.workspace.give(y);
        x
    }

    /// Norms and turns queries and keys, in place.
    fn place_heads(&mut self, qkv: &mut Rows, layer: &Layer) {
        let config = &self.runner.config;
        let (query, turned, half) =
            (config.query_width(), config.query_width() + config.kv_width(), config.head_dim / 2);
        let Workspace { cos, sin, normed, .. } = &mut *self.workspace;
        let angles = cos.chunks_exact(half).zip(sin.chunks_exact(half));
        for (row, (cos, sin)) in qkv.data.chunks_exact_mut(qkv.width).zip(angles) {
            if let Some((q_norm, k_norm)) = &layer.head_norms {
                normed.resize(turned, 0.0);
                let eps = config.rms_norm_eps as f32;
                rms_norm_rows(&row[..query], q_norm, eps, &mut normed[..query]);
                rms_norm_rows(&row[query..turned], k_norm, eps, &mut normed[query..]);
                row[..turned].copy_from_slice(normed);
            }
            rope_rows(&mut row[..turned], turned, cos, sin, config.head_dim, 1.0);
        }
    }

    /// Stores the keys and values of one feed's rows, then attends; `first` is its first row.
    fn attend_feed(&mut self, index: usize, first: usize, qkv: &Rows, layer: usize, out: &mut Rows) {
        let config = &self.runner.config;
        let (query, kv, head_dim) = (config.query_width(), config.kv_width(), config.head_dim);
        let group = config.head_count / config.kv_head_count;
        let feed = &mut self.feeds[index];
        let count = feed.token_ids.len();
        for (i, row) in qkv.data.chunks_exact(qkv.width).skip(first).take(count).enumerate() {
            feed.sequence.write(layer, i, &row[query..query + kv], &row[query + kv..]);
        }
        let (sequence, before) = (&*feed.sequence, feed.sequence.len());
        let scratch = &mut self.workspace.scratch;
        for key_head in 0..config.kv_head_count {
            let heads = key_head * group * head_dim;
            if count == 1 {
                let data = &qkv.data[first * qkv.width + heads..];
                let queries = Queries { data, stride: head_dim, rows: group, head_dim };
                let (blocks, used) = sequence.blocks(layer, key_head, before + 1);
                let out = &mut out.data[first * query + heads..];
                attend(queries, &blocks[..used], Visible::All, out, head_dim, scratch);
                continue;
            }
            for start in (0..count).step_by(TILE) {
                let rows = TILE.min(count - start);
                let (blocks, used) = sequence.blocks(layer, key_head, before + start + rows);
                for head in (heads..heads + group * head_dim).step_by(head_dim) {
                    let data = &qkv.data[(first + start) * qkv.width + head..];
                    let queries = Queries { data, stride: qkv.width, rows, head_dim };
                    let visible = Visible::Causal { first: before + start + 1 };
                    let out = &mut out.data[(first + start) * query + head..];
                    attend(queries, &blocks[..used], visible, out, query, scratch);
                }
            }
        }
    }
}

impl Backend for Cached<'_, '_, '_> {
    type Rows = Rows;
    type Layer = Layer;

    fn attention_norm(&mut self, x: &Rows, layer: &Layer) -> Result<Rows> {
        Ok(self.norm(x, &layer.input_norm))
    }

    fn attention(&mut self, x: Rows, layer: &Layer, layer_index: usize) -> Result<Rows> {
        let mut qkv = self.project(x, &layer.qkv);
        self.place_heads(&mut qkv, layer);
        let mut out = self.workspace.take(qkv.count(), self.runner.config.query_width());
        let mut first = 0;
        for index in 0..self.feeds.len() {
            self.attend_feed(index, first, &qkv, layer_index, &mut out);
            first += self.feeds[index].token_ids.len();
        }
        self.workspace.give(qkv);
        Ok(out)
    }

    fn add_attention(&mut self, x: Rows, y: Rows, layer: &Layer) -> Result<Rows> {
        Ok(self.add_projected(x, y, &layer.o))
    }

    fn feed_forward_norm(&mut self, x: &Rows, layer: &Layer) -> Result<Rows> {
        Ok(self.norm(x, &layer.post_norm))
    }

    fn feed_forward(&mut self, x: Rows, layer: &Layer) -> Result<Rows> {
        let both = self.project(x, &layer.gate_up);
        let width = both.width / 2;
        let mut out = self.workspace.take(both.count(), width);
        for (both, out) in both.data.chunks_exact(2 * width).zip(out.data.chunks_exact_mut(width)) {
            let (gate, up) = both.split_at(width);
            swiglu_rows(gate, up, out);
        }
        self.workspace.give(both);
        Ok(out)
    }

    fn add_feed_forward(&mut self, x: Rows, y: Rows, layer: &Layer) -> Result<Rows> {
        Ok(self.add_projected(x, y, &layer.down))
    }
}

/// Turns tensors into packed weights.
struct Load<'a> {
    tensor: &'a dyn Fn(&str) -> Result<Tensor>,
}

impl Load<'_> {
    fn vector(&self, name: &str) -> Result<Vec<f32>> {
        (self.tensor)(name)?.flatten_all().and_then(|t| t.to_vec1()).map_err(tensor_error)
    }

    /// Weights one above the other, as one.
    fn packed(&self, names: &[String]) -> Result<Packed> {
        let parts: Vec<Tensor> = names.iter().map(|name| (self.tensor)(name)).collect::<Result<_>>()?;
        let joined = if parts.len() == 1 { parts[0].clone() } else { Tensor::cat(&parts, 0).map_err(tensor_error)? };
        Packed::new(&joined).map_err(tensor_error)
    }

    fn linear(&self, names: &[String], bias: bool) -> Result<Linear> {
        let weights: Vec<String> = names.iter().map(|n| format!("{n}.weight")).collect();
        let mut joined = Vec::new();
        if bias {
            for name in names {
                joined.extend(self.vector(&format!("{name}.bias"))?);
            }
        }
        Ok(Linear { weight: self.packed(&weights)?, bias: bias.then_some(joined) })
    }

    fn layer(&self, config: &Config, index: usize) -> Result<Layer> {
        let at = |rest: &str| format!("model.layers.{index}.{rest}");
        let head_norms = if config.qk_norm {
            let q = self.vector(&at("self_attn.q_norm.weight"))?;
            Some((q, self.vector(&at("self_attn.k_norm.weight"))?))
        } else {
            None
        };
        let qkv = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"].map(at);
        let gate_up = ["mlp.gate_proj", "mlp.up_proj"].map(at);
        Ok(Layer {
            input_norm: self.vector(&at("input_layernorm.weight"))?,
            qkv: self.linear(&qkv, config.qkv_bias)?,
            head_norms,
            o: self.linear(&[at("self_attn.o_proj")], config.output_bias)?,
            post_norm: self.vector(&at("post_attention_layernorm.weight"))?,
            gate_up: self.linear(&gate_up, config.mlp_bias)?,
            down: self.linear(&[at("mlp.down_proj")], config.mlp_bias)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ops::Segments;
    use crate::model::testing::{every_shape, tiny_config, tiny_tensors};

    fn build(config: &Config) -> (Transformer, Runner) {
        let transformer = Transformer::from_tensors(config, tiny_tensors(config, 5), DType::F32, &Device::Cpu).unwrap();
        let runner = Runner::from_transformer(&transformer).unwrap();
        (transformer, runner)
    }

    fn tokens(count: usize, seed: u32) -> Vec<u32> {
        (0..count as u32).map(|i| (i * 7 + seed * 13 + i * i) % 61).collect()
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|v| v.to_bits()).collect()
    }

    fn packed_hidden(transformer: &Transformer, ids: &[u32]) -> Vec<f32> {
        let hidden = transformer.hidden(ids, &Segments::new(&[ids.len()])).unwrap();
        hidden.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Prefill in uneven pieces and decode token by token, three sequences side by side, equal the packed forward bit for bit.
    #[test]
    fn cached_equals_packed_bit_for_bit() {
        for config in every_shape() {
            let (transformer, runner) = build(&config);
            let sequences = [tokens(70, 1), tokens(40, 2), tokens(9, 3)];
            let mut caches: Vec<Sequence> = (0..3).map(|_| Sequence::new(runner.kv_shape(), 80)).collect();
            let mut found = vec![Vec::new(); 3];
            let mut workspace = Workspace::default();
            let mut taken = [0; 3];
            for round in 0.. {
                let pieces = [[1, 33, 2, 1], [5, 1, 1, 17], [1, 1, 1, 1]];
                let mut feeds = Vec::new();
                let mut sizes = [0; 3];
                for (i, cache) in caches.iter_mut().enumerate() {
                    sizes[i] = pieces[i][round % 4].min(sequences[i].len() - taken[i]);
                    let token_ids = &sequences[i][taken[i]..taken[i] + sizes[i]];
                    feeds.push(Feed { sequence: cache, token_ids, want: sizes[i] });
                }
                if sizes == [0; 3] {
                    break;
                }
                let mut hidden = runner.step(&mut workspace, &mut feeds).unwrap();
                for i in 0..3 {
                    let (mine, rest) = hidden.split_at(sizes[i] * config.hidden_size);
                    found[i].extend_from_slice(mine);
                    hidden = rest;
                    taken[i] += sizes[i];
                }
            }
            for i in 0..3 {
                assert_eq!(
                    bits(&found[i]),
                    bits(&packed_hidden(&transformer, &sequences[i])),
                    "{:?} {i}",
                    config.architecture
                );
            }
        }
    }

    #[test]
    fn a_shared_prefix_changes_nothing() {
        let config = tiny_config();
        let (transformer, runner) = build(&config);
        let (prompt, rest) = (tokens(21, 1), tokens(6, 9));
        let mut workspace = Workspace::default();
        let mut sequence = Sequence::new(runner.kv_shape(), prompt.len());
        runner.step(&mut workspace, &mut [Feed { sequence: &mut sequence, token_ids: &prompt, want: 0 }]).unwrap();
        let prefix = sequence.into_prefix();
        let mut sample = Sequence::new(runner.kv_shape(), rest.len());
        sample.start_after(&prefix);
        let mut found = Vec::new();
        for token in &rest {
            let token_ids = std::slice::from_ref(token);
            let feed = Feed { sequence: &mut sample, token_ids, want: 1 };
            found.extend_from_slice(runner.step(&mut workspace, &mut [feed]).unwrap());
        }
        let all = packed_hidden(&transformer, &[&prompt[..], &rest[..]].concat());
        assert_eq!(bits(&found), bits(&all[prompt.len() * config.hidden_size..]));
    }

    #[test]
    fn bad_tokens_and_lengths_are_errors() {
        let (_, runner) = build(&tiny_config());
        let mut workspace = Workspace::default();
        let mut sequence = Sequence::new(runner.kv_shape(), 200);
        let mut step = |token_ids: &[u32]| {
            let feed = Feed { sequence: &mut sequence, token_ids, want: 1 };
            runner.step(&mut workspace, &mut [feed]).map(|_| ()).unwrap_err().what().to_string()
        };
        assert!(step(&[99]).contains("token id 99"));
        assert!(step(&[1; 97]).contains("97 tokens"));
    }
}
