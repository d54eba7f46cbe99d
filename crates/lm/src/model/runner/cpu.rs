//! The runner on the CPU: weights packed once in the type they are held in, activations in f32 and in reused buffers.
//!
//! A row's result is the same bits whatever else is in the call, however its sequence was cut into calls, on however many threads;
//! with weights in f32 it equals [`Transformer::hidden`](crate::model::transformer::Transformer::hidden).

mod cached;
mod session;
mod workspace;

pub use session::CpuSession;
pub use workspace::Workspace;

use super::layer::{Form, Layer, Load};
use super::{Inference, check_feed, tensor_error, weight};
use crate::model::config::Config;
use crate::model::kv_cache::{KvShape, KvType, Sequence};
use crate::model::ops::logprobs::bound;
use crate::model::ops::norm::rms_norm_rows;
use crate::model::ops::{Weight, WeightType};
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

/// Weights in the kernels' layout, matrices in this type.
pub struct PackedForm(WeightType);

impl Form for PackedForm {
    type Vector = Vec<f32>;
    type Linear = Linear;

    fn vector(&self, tensor: Tensor) -> Result<Vec<f32>> {
        tensor.flatten_all().and_then(|t| t.to_vec1()).map_err(tensor_error)
    }

    fn linear(&self, weight: Tensor, bias: Option<Tensor>) -> Result<Linear> {
        let weight = Weight::new(&weight, self.0).map_err(tensor_error)?;
        Ok(Linear { weight, bias: bias.map(|bias| self.vector(bias)).transpose()? })
    }
}

/// A projection in the kernels' layout.
pub struct Linear {
    weight: Weight,
    bias: Option<Vec<f32>>,
}

/// Rows fed in one call: enough to reuse the weights, few enough to stay in the caches.
const CALL_ROWS: usize = 512;
/// Bytes of weights beyond which threads share steps: more than the caches of a thread hold.
const SHARED_BYTES: f64 = 24e6;

/// See [`Inference::free_rows`]: measured, docs/log.md.
const FREE_ROWS: usize = 4;

/// Packed weights of one transformer, read only: threads share it.
pub struct CpuRunner {
    config: Config,
    rotary: Rotary,
    weights: WeightType,
    keys_values: KvType,
    /// `[vocab_size, hidden_size]`; `None` when tied: rows are then read from the head.
    embedding: Option<Weight>,
    layers: Vec<Layer<PackedForm>>,
    norm: Vec<f32>,
    head: Weight,
}

impl CpuRunner {
    /// From a checkpoint's bytes, one tensor at a time: no second copy of the weights exists.
    pub fn from_checkpoint(config: &Config, checkpoint: &Checkpoint, weights: WeightType) -> Result<CpuRunner> {
        CpuRunner::new(config, weights, |name| checkpoint.tensor(name, DType::F32, &Device::Cpu))
    }

    /// A snapshot of a transformer's weights as they are now.
    pub fn from_transformer(transformer: &Transformer, weights: WeightType) -> Result<CpuRunner> {
        CpuRunner::new(transformer.config(), weights, |name| {
            weight(transformer, name)?
                .to_dtype(DType::F32)
                .and_then(|t| t.to_device(&Device::Cpu))
                .map_err(tensor_error)
        })
    }

    fn new(config: &Config, weights: WeightType, tensor: impl Fn(&str) -> Result<Tensor>) -> Result<CpuRunner> {
        config.check()?;
        let load = Load { form: PackedForm(weights), config, tensor: &tensor };
        let matrix = |name: &str| Ok(load.linear(&[name.into()], false)?.weight);
        let (embedding, head) = match config.tie_word_embeddings {
            true => (None, matrix("model.embed_tokens")?),
            false => (Some(matrix("model.embed_tokens")?), matrix("lm_head")?),
        };
        Ok(CpuRunner {
            rotary: Rotary::of(config),
            weights,
            keys_values: KvType::default(),
            embedding,
            layers: (0..config.layer_count).map(|i| load.layer(i)).collect::<Result<_>>()?,
            norm: load.norm("model.norm")?,
            head,
            config: config.clone(),
        })
    }

    /// The same with keys and values held in this type.
    pub fn caching_in(self, keys_values: KvType) -> CpuRunner {
        CpuRunner { keys_values, ..self }
    }

    /// What the weights are held in.
    pub fn weights(&self) -> WeightType {
        self.weights
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn kv_shape(&self) -> KvShape {
        KvShape::of(&self.config, self.keys_values)
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
        let mut cached = Cached::new(self, workspace, feeds);
        let x = blocks(&mut cached, &self.layers, x)?;
        for feed in feeds.iter_mut() {
            feed.sequence.advance(feed.token_ids.len());
        }
        Ok(self.finish(workspace, feeds, x))
    }

    /// Logits of the rows that the last [`CpuRunner::step`] gave, for a range of the vocabulary: `[rows, entries.len()]`, row after
    /// row, into `out`. The range starts at a multiple of [`PANEL`](crate::model::ops::PANEL).
    pub fn logits(&self, workspace: &mut Workspace, rows: Range<usize>, entries: Range<usize>, out: &mut Vec<f32>) {
        let Workspace { team, scratch, out: hidden, .. } = workspace;
        let (size, width) = (self.config.hidden_size, entries.len());
        out.resize(rows.len() * width, 0.0);
        self.head.apply(team, &hidden[rows.start * size..rows.end * size], entries, None, out, scratch);
        if self.config.logit_softcap.is_some() {
            team.share_rows(out, width, |_, logits| bound(logits, self.config.logit_softcap));
        }
    }

    /// Embeddings of all rows, and the rotary angles of their positions.
    fn embed(&self, workspace: &mut Workspace, feeds: &[Feed]) -> Rows {
        let hidden = self.config.hidden_size;
        let rows = feeds.iter().map(|f| f.token_ids.len()).sum();
        workspace.turn(&self.rotary, feeds.iter().map(|f| (f.sequence.len(), f.token_ids.len(), f.sequence.is_long())));
        let mut x = workspace.take(rows, hidden);
        let embedding = self.embedding.as_ref().unwrap_or(&self.head);
        let mut targets = x.data.chunks_exact_mut(hidden);
        for feed in feeds {
            for (token, target) in feed.token_ids.iter().zip(&mut targets) {
                embedding.unpack(*token as usize, target);
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

    fn workers(&self, threads: usize) -> usize {
        (threads / self.crew(threads)).max(1)
    }

    /// Small models run a batch on every thread; of large ones, whose weights each step reads from memory, all threads share a
    /// step.
    fn crew(&self, threads: usize) -> usize {
        let weights = (self.config.block_flops() + self.config.head_flops()) / 2.0;
        if weights * self.weights.bytes() > SHARED_BYTES { threads.max(1) } else { 1 }
    }

    fn scoring_workers(&self, threads: usize) -> usize {
        threads
    }

    fn call_rows(&self) -> usize {
        CALL_ROWS
    }

    fn free_rows(&self) -> usize {
        FREE_ROWS
    }

    fn session(&self, slots: usize, _prompt: usize, completion: usize, crew: usize) -> Result<CpuSession<'_>> {
        Ok(CpuSession::new(self, slots, completion, crew))
    }
}

#[cfg(test)]
mod tests;
