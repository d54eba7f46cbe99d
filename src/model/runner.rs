//! The transformer for inference on the CPU, f32: weights packed once, activations in reused buffers, keys and values in a cache.
//!
//! Prefill and decode are the same call: each [`Feed`] appends some tokens to one sequence. A row's result is the same bits
//! whatever else is in the call, however its sequence was cut into calls, and equals [`Transformer::hidden`].

mod cached;
mod packed;
mod workspace;

pub use workspace::Workspace;

use super::config::Config;
use super::kv_cache::{KvShape, Sequence};
use super::ops::Packed;
use super::ops::norm::rms_norm_rows;
use super::tensor_error;
use super::transformer::{Transformer, blocks, check_length, check_token_ids};
use super::weights::Checkpoint;
use crate::base::error::{Error, Result};
use cached::Cached;
use candle_core::{DType, Device, Tensor};
use packed::{Layer, Load};
use std::ops::Range;
use workspace::Rows;

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

    /// The same for a range of the vocabulary, `[rows, entries.len()]`; it starts at a multiple of [`PANEL`](super::ops::PANEL).
    pub fn logits_of(&self, hidden: &[f32], entries: Range<usize>, out: &mut Vec<f32>) {
        let rows = hidden.len() / self.config.hidden_size;
        out.resize(rows * entries.len(), 0.0);
        self.head.apply_to(hidden, rows, entries, out);
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

#[cfg(test)]
mod tests;
