//! The blocks over cached sequences, as candle's operators.

use super::cache::{KeyValues, Slots};
use super::session::Feed;
use super::{DeviceRunner, Layer, TensorForm};
use crate::model::ops::reference::causal_mask;
use crate::model::tensor_error;
use crate::model::transformer::{Backend, rotary_angles};
use candle_core::{DType, Tensor};
use candle_nn::ops::{rms_norm, softmax_last_dim};
use candle_nn::rotary_emb::rope;
use mindgap_base::error::Result;

/// Query rows of a sequence whose scores exist at once.
const TILE: usize = 512;

/// What the rows of one call are: consecutive ones belong together.
pub struct Call {
    /// Angles of keys, and of queries with the scale of the scores in them.
    keys: Angles,
    queries: Angles,
    attention: Attention,
}

/// Cosines and sines of every row, `[rows, 1, head_dim / 2]`, f32.
struct Angles {
    cos: Tensor,
    sin: Tensor,
}

enum Attention {
    /// Row i is the next token of slot i. All slots are looked at up to the longest one's end.
    Slots {
        /// Where each number of the new keys goes, `[rows, key heads, 1, head_dim]`.
        index: Tensor,
        /// `[rows, 1, 1, tokens]`.
        mask: Tensor,
        tokens: usize,
    },
    /// The tiles of each feed's rows.
    Own(Vec<Vec<Tile>>),
}

/// Some query rows of one sequence, and the keys that they see.
struct Tile {
    first: usize,
    rows: usize,
    keys: usize,
    /// `[1, rows, keys]`.
    mask: Tensor,
}

impl Call {
    fn new(runner: &DeviceRunner, positions: &[u32], attention: Attention) -> candle_core::Result<Call> {
        let (cos, sin) = rotary_angles(&runner.inverse_frequencies, positions.iter().copied());
        let shape = (positions.len(), 1, runner.config.head_dim / 2);
        let keys = Angles {
            cos: Tensor::from_vec(cos, shape, &runner.device)?,
            sin: Tensor::from_vec(sin, shape, &runner.device)?,
        };
        let scale = 1.0 / (runner.config.head_dim as f64).sqrt();
        let queries = Angles { cos: (&keys.cos * scale)?, sin: (&keys.sin * scale)? };
        Ok(Call { keys, queries, attention })
    }

    /// One token for each of the first slots, at these positions; `tokens` is what a look at the slots covers.
    pub fn slots(runner: &DeviceRunner, positions: &[u32], tokens: usize) -> candle_core::Result<Call> {
        let (rows, config) = (positions.len(), &runner.config);
        let at = Tensor::new(positions, &runner.device)?;
        let index = at.reshape((rows, 1, 1, 1))?.broadcast_as((rows, config.kv_head_count, 1, config.head_dim))?;
        let mask = causal_mask(&at, tokens)?.reshape((rows, 1, 1, tokens))?;
        Call::new(runner, positions, Attention::Slots { index: index.contiguous()?, mask, tokens })
    }

    /// Any number of tokens for each sequence: how many it holds, and how many are added.
    pub fn own(runner: &DeviceRunner, feeds: &[(usize, usize)]) -> candle_core::Result<Call> {
        let positions: Vec<u32> = feeds.iter().flat_map(|(held, added)| *held as u32..(held + added) as u32).collect();
        let at = Tensor::new(&positions[..], &runner.device)?;
        let (mut tiles, mut row) = (Vec::with_capacity(feeds.len()), 0);
        for (held, added) in feeds {
            let tile = |first: usize| {
                let rows = TILE.min(added - first);
                let keys = held + first + rows;
                let mask = causal_mask(&at.narrow(0, row + first, rows)?, keys)?.unsqueeze(0)?;
                Ok(Tile { first, rows, keys, mask })
            };
            tiles.push((0..*added).step_by(TILE).map(tile).collect::<candle_core::Result<_>>()?);
            row += added;
        }
        Call::new(runner, &positions, Attention::Own(tiles))
    }
}

/// The back end of the blocks.
pub struct Cached<'a, 'f, 's> {
    pub runner: &'a DeviceRunner,
    pub slots: &'a Slots,
    pub call: Call,
    pub feeds: &'f mut [Feed<'s>],
}

impl Cached<'_, '_, '_> {
    fn norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        rms_norm(x, weight, self.runner.config.rms_norm_eps as f32).map_err(tensor_error)
    }

    /// Some heads of the joint projection, normed and turned: `[rows, heads, 1, head_dim]`.
    fn heads(
        &self,
        qkv: &Tensor,
        first: usize,
        width: usize,
        norm: Option<&Tensor>,
        angles: &Angles,
    ) -> candle_core::Result<Tensor> {
        let (rows, head_dim) = (qkv.dim(0)?, self.runner.config.head_dim);
        let mut x = qkv.narrow(1, first, width)?;
        if let Some(weight) = norm {
            let heads = x.contiguous()?.reshape((rows, width / head_dim, head_dim))?;
            x = rms_norm(&heads, weight, self.runner.config.rms_norm_eps as f32)?;
        }
        let x = x.to_dtype(DType::F32)?.contiguous()?.reshape((rows, width / head_dim, 1, head_dim))?;
        rope(&x, &angles.cos, &angles.sin)?.to_dtype(qkv.dtype())
    }

    fn attend(&mut self, x: &Tensor, layer: &Layer<TensorForm>, index: usize) -> candle_core::Result<Tensor> {
        let config = &self.runner.config;
        let (query, kv) = (config.query_width(), config.kv_width());
        let qkv = layer.qkv.apply(x)?;
        let (q_norm, k_norm) = layer.head_norms.as_ref().map(|(q, k)| (q, k)).unzip();
        let q = self.heads(&qkv, 0, query, q_norm, &self.call.queries)?;
        let k = self.heads(&qkv, query, kv, k_norm, &self.call.keys)?;
        let v = qkv.narrow(1, query + kv, kv)?.contiguous()?.reshape(k.shape())?;
        let new = KeyValues { keys: k, values: v };
        match &self.call.attention {
            Attention::Slots { .. } => self.attend_slots(&q, &new, index),
            Attention::Own(_) => self.attend_own(&q, &new, index),
        }
    }

    /// All slots at once. The query heads of a key head are rows of one product, so keys are read once and never repeated.
    fn attend_slots(&self, q: &Tensor, new: &KeyValues, layer: usize) -> candle_core::Result<Tensor> {
        let Attention::Slots { index, mask, tokens } = &self.call.attention else {
            candle_core::bail!("a call of slots has no mask for slots");
        };
        let (rows, heads, _, head_dim) = q.dims4()?;
        let key_heads = self.runner.config.kv_head_count;
        self.slots.write(layer, index, new)?;
        let KeyValues { keys, values } = self.slots.view(layer, rows, *tokens)?;
        let q = q.reshape((rows, key_heads, heads / key_heads, head_dim))?;
        let scores = q.matmul(&keys.transpose(2, 3)?)?.to_dtype(DType::F32)?.broadcast_add(mask)?;
        let probs = softmax_last_dim(&scores)?.to_dtype(q.dtype())?;
        probs.matmul(&values)?.reshape((rows, heads * head_dim))
    }

    /// One sequence after the other, some query rows at a time.
    fn attend_own(&mut self, q: &Tensor, new: &KeyValues, layer: usize) -> candle_core::Result<Tensor> {
        let Attention::Own(tiles) = &self.call.attention else {
            candle_core::bail!("a call of slots has no tiles");
        };
        let (_, heads, _, head_dim) = q.dims4()?;
        let key_heads = self.runner.config.kv_head_count;
        let group = heads / key_heads;
        let (mut parts, mut row) = (Vec::new(), 0);
        for (feed, tiles) in self.feeds.iter_mut().zip(tiles) {
            let count = feed.token_ids.len();
            if count == 0 {
                continue;
            }
            let by_head = |t: &Tensor| t.narrow(0, row, count)?.squeeze(2)?.transpose(0, 1)?.contiguous()?.unsqueeze(0);
            let own = KeyValues { keys: by_head(&new.keys)?, values: by_head(&new.values)? };
            let KeyValues { keys, values } = feed.sequence.append(layer, own)?;
            let (keys, values) = (keys.squeeze(0)?, values.squeeze(0)?);
            for tile in tiles {
                let q = q.narrow(0, row + tile.first, tile.rows)?.reshape((tile.rows, key_heads, group, head_dim))?;
                let q = q.permute((1, 2, 0, 3))?.contiguous()?.reshape((key_heads, group * tile.rows, head_dim))?;
                let seen = |t: &Tensor| t.narrow(1, 0, tile.keys);
                let scores = q.matmul(&seen(&keys)?.transpose(1, 2)?)?.to_dtype(DType::F32)?;
                let scores = scores.reshape((heads, tile.rows, tile.keys))?.broadcast_add(&tile.mask)?;
                let probs = softmax_last_dim(&scores)?.to_dtype(q.dtype())?;
                let probs = probs.reshape((key_heads, group * tile.rows, tile.keys))?;
                let out = probs.matmul(&seen(&values)?)?.reshape((key_heads, group, tile.rows, head_dim))?;
                parts.push(out.permute((2, 0, 1, 3))?.reshape((tile.rows, heads * head_dim))?);
            }
            row += count;
        }
        Tensor::cat(&parts, 0)
    }
}

impl Backend for Cached<'_, '_, '_> {
    type Rows = Tensor;
    type Layer = Layer<TensorForm>;

    fn attention_norm(&mut self, x: &Tensor, layer: &Self::Layer) -> Result<Tensor> {
        self.norm(x, &layer.input_norm)
    }

    fn attention(&mut self, x: Tensor, layer: &Self::Layer, layer_index: usize) -> Result<Tensor> {
        self.attend(&x, layer, layer_index).map_err(tensor_error)
    }

    fn add_attention(&mut self, x: Tensor, y: Tensor, layer: &Self::Layer) -> Result<Tensor> {
        layer.o.apply(&y).and_then(|y| x + y).map_err(tensor_error)
    }

    fn feed_forward_norm(&mut self, x: &Tensor, layer: &Self::Layer) -> Result<Tensor> {
        self.norm(x, &layer.post_norm)
    }

    fn feed_forward(&mut self, x: Tensor, layer: &Self::Layer) -> Result<Tensor> {
        let gated = || {
            let both = layer.gate_up.apply(&x)?;
            let width = both.dim(1)? / 2;
            both.narrow(1, 0, width)?.silu()? * both.narrow(1, width, width)?
        };
        gated().map_err(tensor_error)
    }

    fn add_feed_forward(&mut self, x: Tensor, y: Tensor, layer: &Self::Layer) -> Result<Tensor> {
        layer.down.apply(&y).and_then(|y| x + y).map_err(tensor_error)
    }
}
