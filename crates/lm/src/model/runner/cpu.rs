//! The runner on the CPU, f32: weights packed once, activations in reused buffers.
//!
//! A row's result is the same bits whatever else is in the call, however its sequence was cut into calls, and equals
//! [`Transformer::hidden`](crate::model::transformer::Transformer::hidden).

mod cached;
mod session;
mod workspace;

pub use session::CpuSession;
pub use workspace::Workspace;

use super::layer::{Form, Layer, Load};
use super::{Inference, check_feed, tensor_error, weight};
use crate::model::config::Config;
use crate::model::kv_cache::{KvShape, Sequence};
use crate::model::ops::Packed;
use crate::model::ops::logprobs::bound;
use crate::model::ops::norm::rms_norm_rows;
use crate::model::rotary::Rotary;
use crate::model::transformer::{Transformer, blocks};
use crate::model::weights::Checkpoint;
use cached::Cached;
use candle_core::{DType, Device, Tensor};
use mindgap_base::error::Result;
use std::ops::Range;
use workspace::Rows;

/// Tokens to append to a sequence on the CPU.
pub type Feed<'a> = super::Feed<'a, Sequence>;

/// Weights in the kernels' layout.
pub struct PackedForm;

impl Form for PackedForm {
    type Vector = Vec<f32>;
    type Linear = Linear;

    fn vector(tensor: Tensor) -> Result<Vec<f32>> {
        tensor.flatten_all().and_then(|t| t.to_vec1()).map_err(tensor_error)
    }

    fn linear(weight: Tensor, bias: Option<Tensor>) -> Result<Linear> {
        let weight = Packed::new(&weight).map_err(tensor_error)?;
        Ok(Linear { weight, bias: bias.map(PackedForm::vector).transpose()? })
    }
}

/// A projection in the kernels' layout.
pub struct Linear {
    weight: Packed,
    bias: Option<Vec<f32>>,
}

impl Linear {
    fn apply(&self, x: &Rows, out: &mut Rows) {
        self.weight.apply(&x.data, x.count(), self.bias.as_deref(), &mut out.data);
    }
}

/// Rows fed in one call: enough to reuse the weights, few enough to stay in the caches.
const CALL_ROWS: usize = 512;

/// See [`Inference::free_rows`]: measured, docs/log.md.
const FREE_ROWS: usize = 4;

/// Packed weights of one transformer, read only: threads share it.
pub struct CpuRunner {
    config: Config,
    rotary: Rotary,
    /// `[vocab_size, hidden_size]`; `None` when tied: rows are then read from the head.
    embedding: Option<Vec<f32>>,
    layers: Vec<Layer<PackedForm>>,
    norm: Vec<f32>,
    head: Packed,
}

impl CpuRunner {
    /// From a checkpoint's bytes, one tensor at a time: no second copy of the weights exists.
    pub fn from_checkpoint(config: &Config, checkpoint: &Checkpoint) -> Result<CpuRunner> {
        CpuRunner::new(config, |name| checkpoint.tensor(name, DType::F32, &Device::Cpu))
    }

    /// A snapshot of a transformer's weights as they are now.
    pub fn from_transformer(transformer: &Transformer) -> Result<CpuRunner> {
        CpuRunner::new(transformer.config(), |name| {
            weight(transformer, name)?
                .to_dtype(DType::F32)
                .and_then(|t| t.to_device(&Device::Cpu))
                .map_err(tensor_error)
        })
    }

    fn new(config: &Config, tensor: impl Fn(&str) -> Result<Tensor>) -> Result<CpuRunner> {
        config.check()?;
        let load = Load { config, tensor: &tensor };
        let (embedding, head) = if config.tie_word_embeddings {
            (None, load.linear::<PackedForm>(&["model.embed_tokens".into()], false)?)
        } else {
            let embedding = load.vector::<PackedForm>("model.embed_tokens.weight")?;
            (Some(embedding), load.linear::<PackedForm>(&["lm_head".into()], false)?)
        };
        Ok(CpuRunner {
            rotary: Rotary::of(config),
            embedding,
            layers: (0..config.layer_count).map(|i| load.layer(i)).collect::<Result<_>>()?,
            norm: load.norm::<PackedForm>("model.norm")?,
            head: head.weight,
            config: config.clone(),
        })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn kv_shape(&self) -> KvShape {
        KvShape::of(&self.config)
    }

    /// Appends each feed's tokens to its sequence and returns the hidden states, after the last norm, of the wanted rows: the
    /// last `want` of each feed, in feed order. Errors: a token id outside the vocabulary, a sequence longer than the model's
    /// positions or its own room.
    pub fn step<'w>(&self, workspace: &'w mut Workspace, feeds: &mut [Feed]) -> Result<&'w [f32]> {
        for feed in feeds.iter() {
            let sequence = &feed.sequence;
            check_feed(&self.config, feed, sequence.len(), sequence.room(), sequence.is_long())?;
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
        bound(out, self.config.logit_softcap);
    }

    /// The same for a range of the vocabulary, `[rows, entries.len()]`; it starts at a multiple of [`PANEL`](crate::model::ops::PANEL).
    pub fn logits_of(&self, hidden: &[f32], entries: Range<usize>, out: &mut Vec<f32>) {
        let rows = hidden.len() / self.config.hidden_size;
        out.resize(rows * entries.len(), 0.0);
        self.head.apply_to(hidden, rows, entries, out);
        bound(out, self.config.logit_softcap);
    }

    /// Embeddings of all rows, and the rotary angles of their positions.
    fn embed(&self, workspace: &mut Workspace, feeds: &[Feed]) -> Rows {
        let hidden = self.config.hidden_size;
        let rows = feeds.iter().map(|f| f.token_ids.len()).sum();
        workspace.turn(&self.rotary, feeds.iter().map(|f| (f.sequence.len(), f.token_ids.len(), f.sequence.is_long())));
        let mut x = workspace.take(rows, hidden);
        let mut targets = x.data.chunks_exact_mut(hidden);
        for feed in feeds {
            for (token, target) in feed.token_ids.iter().zip(&mut targets) {
                match &self.embedding {
                    Some(embedding) => target.copy_from_slice(&embedding[*token as usize * hidden..][..hidden]),
                    None => self.head.unpack(*token as usize, target),
                }
            }
        }
        scale(&mut x.data, self.config.embedding_scale);
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
        scale(&mut workspace.out, self.config.logit_scale);
        &workspace.out
    }
}

/// `x *= by`, unless that changes nothing.
fn scale(x: &mut [f32], by: f32) {
    if by != 1.0 {
        x.iter_mut().for_each(|x| *x *= by);
    }
}

impl Inference for CpuRunner {
    type Session<'a> = CpuSession<'a>;

    fn config(&self) -> &Config {
        &self.config
    }

    fn slot_bytes(&self, _stem: usize, prompt: usize, completion: usize) -> usize {
        self.kv_shape().bytes(prompt) + self.kv_shape().bytes(completion)
    }

    fn stem_bytes(&self, stem: usize) -> usize {
        if stem == 0 { 0 } else { self.kv_shape().bytes(stem) }
    }

    /// For small models a batch per thread beats sharing one.
    fn workers(&self, threads: usize) -> usize {
        threads
    }

    fn call_rows(&self) -> usize {
        CALL_ROWS
    }

    fn free_rows(&self) -> usize {
        FREE_ROWS
    }

    fn session(&self, slots: usize, _prompt: usize, completion: usize) -> Result<CpuSession<'_>> {
        Ok(CpuSession::new(self, slots, completion))
    }
}

#[cfg(test)]
mod tests;
