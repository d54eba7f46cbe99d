//! The blocks over cached sequences, as candle's operators.

use super::cache::{KeyValues, Slots};
use super::session::Feed;
use super::{DeviceRunner, Layer, TensorForm, scaled};
use crate::model::config::{Activation, Config};
use crate::model::ops::Heads;
use crate::model::ops::reference::{bounded, causal_mask};
use crate::model::tensor_error;
use crate::model::transformer::Backend;
use candle_core::{DType, Tensor};
use candle_nn::ops::softmax_last_dim;
use candle_nn::rotary_emb::rope;
use mindgap_base::error::Result;

/// Query rows of a sequence whose scores exist at once.
const TILE: usize = 512;

/// What the rows of one call are: consecutive ones belong together.
pub struct Call {
    /// By rope.
    angles: Vec<Turns>,
    attention: Attention,
}

/// How keys turn, and how queries.
struct Turns {
    keys: Angles,
    /// With the scale of the scores in them, where all features turn.
    queries: Angles,
}

/// Cosines and sines of every row, `[rows, 1, pairs]`, f32.
struct Angles {
    cos: Tensor,
    sin: Tensor,
}

enum Attention {
    /// Row i is the next token of slot i.
    Slots {
        /// Where each row's new key goes, and the last that it sees: `[rows]`.
        at: Tensor,
        /// Where no kernel goes by that.
        look: Option<Look>,
    },
    /// The tiles of each feed's rows.
    Own(Vec<Vec<Tile>>),
}

/// One look at all slots, up to the longest one's end.
struct Look {
    /// Where each number of the new keys goes, `[rows, key heads, 1, head_dim]`.
    index: Tensor,
    mask: Mask,
    tokens: usize,
}

/// Some query rows of one sequence, and the keys that they see.
struct Tile {
    first: usize,
    rows: usize,
    keys: usize,
    mask: Mask,
}

/// What rows see in layers without a window, and in those with one: 0 or minus infinity.
struct Mask {
    all: Tensor,
    window: Option<Tensor>,
}

impl Mask {
    /// For rows at these positions, in this shape.
    fn new(config: &Config, at: &Tensor, keys: usize, shape: &[usize]) -> candle_core::Result<Mask> {
        let mask = |window| causal_mask(at, keys, window)?.reshape(shape);
        let window = (0..config.layer_count).find_map(|layer| config.window_of(layer));
        Ok(Mask { all: mask(None)?, window: window.map(|_| mask(window)).transpose()? })
    }

    fn of(&self, heads: Heads) -> &Tensor {
        self.window.as_ref().filter(|_| heads.window.is_some()).unwrap_or(&self.all)
    }
}

impl Call {
    fn new(runner: &DeviceRunner, rows: &[(u32, bool)], attention: Attention) -> candle_core::Result<Call> {
        let (rotary, config) = (&runner.rotary, &runner.config);
        let full = config.rotary_dim() == config.head_dim;
        let scale = if full { runner.layers[0].heads.exact_scale() } else { 1.0 };
        let turns = |rope: usize| {
            let (cos, sin) = rotary.angles(rope, rows.iter().copied());
            let shape = (rows.len(), 1, rotary.table(rope, false).pairs());
            let keys = Angles {
                cos: Tensor::from_vec(cos, shape, &runner.device)?,
                sin: Tensor::from_vec(sin, shape, &runner.device)?,
            };
            let queries = Angles { cos: (&keys.cos * scale)?, sin: (&keys.sin * scale)? };
            Ok(Turns { keys, queries })
        };
        let angles = (0..rotary.count()).map(turns).collect::<candle_core::Result<_>>()?;
        Ok(Call { angles, attention })
    }

    /// One token for each of the first slots: its position, and whether its text is a long one. `tokens` is what a look at the
    /// slots covers.
    pub fn slots(runner: &DeviceRunner, rows: &[(u32, bool)], tokens: usize) -> candle_core::Result<Call> {
        let (count, config) = (rows.len(), &runner.config);
        let positions: Vec<u32> = rows.iter().map(|(position, _)| *position).collect();
        let at = Tensor::new(&positions[..], &runner.device)?;
        let look = || {
            let index =
                at.reshape((count, 1, 1, 1))?.broadcast_as((count, config.kv_head_count, 1, config.head_dim))?;
            let mask = Mask::new(config, &at, tokens, &[count, 1, 1, tokens])?;
            candle_core::Result::Ok(Look { index: index.contiguous()?, mask, tokens })
        };
        let look = if runner.kernels.is_none() { Some(look()?) } else { None };
        Call::new(runner, rows, Attention::Slots { at, look })
    }

    /// Any number of tokens for each sequence: how many it holds, how many are added, and whether its text is a long one.
    pub fn own(runner: &DeviceRunner, feeds: &[(usize, usize, bool)]) -> candle_core::Result<Call> {
        let of_feed = |(held, added, long): &(usize, usize, bool)| {
            let long = *long;
            (*held as u32..(held + added) as u32).map(move |position| (position, long))
        };
        let rows: Vec<(u32, bool)> = feeds.iter().flat_map(of_feed).collect();
        let positions: Vec<u32> = rows.iter().map(|(position, _)| *position).collect();
        let at = Tensor::new(&positions[..], &runner.device)?;
        let (mut tiles, mut row) = (Vec::with_capacity(feeds.len()), 0);
        for (held, added, _) in feeds {
            let tile = |first: usize| {
                let rows = TILE.min(added - first);
                let keys = held + first + rows;
                let mask = Mask::new(&runner.config, &at.narrow(0, row + first, rows)?, keys, &[1, rows, keys])?;
                Ok(Tile { first, rows, keys, mask })
            };
            tiles.push((0..*added).step_by(TILE).map(tile).collect::<candle_core::Result<_>>()?);
            row += added;
        }
        Call::new(runner, &rows, Attention::Own(tiles))
    }
}

/// The back end of the blocks.
pub struct Cached<'a, 'f, 's> {
    pub runner: &'a DeviceRunner,
    pub slots: &'a Slots,
    pub call: Call,
    pub feeds: &'f mut [Feed<'s>],
    /// What was added last under the norm that comes next, where it is there already.
    normed: Option<Tensor>,
    /// The layer at work.
    layer: usize,
}

impl<'a, 'f, 's> Cached<'a, 'f, 's> {
    pub fn new(
        runner: &'a DeviceRunner,
        slots: &'a Slots,
        call: Call,
        feeds: &'f mut [Feed<'s>],
    ) -> Cached<'a, 'f, 's> {
        Cached { runner, slots, call, feeds, normed: None, layer: 0 }
    }
}

impl Cached<'_, '_, '_> {
    /// The normed rows; the same rows where there is no norm.
    fn norm(&self, x: &Tensor, weight: Option<&Tensor>) -> Result<Tensor> {
        match weight {
            Some(weight) => self.runner.normed(x, weight).map_err(tensor_error),
            None => Ok(x.clone()),
        }
    }

    /// The same of what was added last.
    fn norm_of_sum(&mut self, x: &Tensor, weight: Option<&Tensor>) -> Result<Tensor> {
        self.normed.take().map_or_else(|| self.norm(x, weight), Ok)
    }

    /// `x + scale * norm(y)`, and with it the norm that comes next, where a kernel does both.
    fn add(&mut self, x: &Tensor, y: Tensor, norm: Option<&Tensor>, next: Option<&Tensor>) -> Result<Tensor> {
        let (y, scale) = (self.norm(&y, norm)?, self.runner.config.residual_scale);
        let sum = match (&self.runner.kernels, next) {
            (Some(kernels), Some(next)) => kernels.add_norm(x, &y, scale, next).map(|(sum, normed)| {
                self.normed = Some(normed);
                sum
            }),
            _ => scaled(y, scale).and_then(|y| x + y),
        };
        sum.map_err(tensor_error)
    }

    /// Some heads of the joint projection, normed and turned: `[rows, heads, 1, head_dim]`, f32.
    fn heads(
        &self,
        qkv: &Tensor,
        (first, width): (usize, usize),
        norm: Option<&Tensor>,
        angles: Option<&Angles>,
    ) -> candle_core::Result<Tensor> {
        let (rows, head_dim) = (qkv.dim(0)?, self.runner.config.head_dim);
        let mut x = qkv.narrow(1, first, width)?;
        if let Some(weight) = norm {
            let size = weight.dim(0)?;
            x = self.runner.normed(&x.contiguous()?.reshape((rows, width / size, size))?, weight)?;
        }
        let x = x.to_dtype(DType::F32)?.contiguous()?.reshape((rows, width / head_dim, 1, head_dim))?;
        let Some(Angles { cos, sin }) = angles else { return Ok(x) };
        let turned = 2 * cos.dim(2)?;
        if turned == head_dim {
            return rope(&x, cos, sin);
        }
        let first = rope(&x.narrow(3, 0, turned)?.contiguous()?, cos, sin)?;
        Tensor::cat(&[first, x.narrow(3, turned, head_dim - turned)?], 3)
    }

    fn attend(&mut self, x: &Tensor, layer: &Layer<TensorForm>, index: usize) -> candle_core::Result<Tensor> {
        let config = &self.runner.config;
        if let (Some(kernels), Attention::Slots { at, .. }) = (&self.runner.kernels, &self.call.attention) {
            let (slots, qkv) = (self.slots.layer(index), layer.qkv.product(x)?);
            let angles = layer.rope.map(|rope| &self.call.angles[rope].keys).map(|angles| (&angles.cos, &angles.sin));
            let q = kernels.turn(&qkv, layer.qkv.bias.as_ref(), angles, at, slots, (index, layer.heads))?;
            return kernels.attend(&q, at, slots, layer.heads);
        }
        let (query, kv) = (config.query_width(), config.kv_width());
        let qkv = layer.qkv.apply(x)?;
        let (q_norm, k_norm) = layer.qk_norms.as_ref().map(|(q, k)| (q, k)).unzip();
        let turns = layer.rope.map(|rope| &self.call.angles[rope]);
        let in_angles = turns.is_some() && config.rotary_dim() == config.head_dim;
        let mut q = self.heads(&qkv, (0, query), q_norm, turns.map(|turns| &turns.queries))?;
        if !in_angles {
            q = (q * layer.heads.exact_scale())?;
        }
        let q = q.to_dtype(qkv.dtype())?;
        let k = self.heads(&qkv, (query, kv), k_norm, turns.map(|turns| &turns.keys))?.to_dtype(qkv.dtype())?;
        let v = qkv.narrow(1, query + kv, kv)?.contiguous()?.reshape(k.shape())?;
        let new = KeyValues { keys: k, values: v };
        match &self.call.attention {
            Attention::Slots { .. } => self.attend_slots(&q, &new, (index, layer.heads)),
            Attention::Own(_) => self.attend_own(&q, &new, (index, layer.heads)),
        }
    }

    /// All slots at once. The query heads of a key head are rows of one product, so keys are read once and never repeated.
    fn attend_slots(&self, q: &Tensor, new: &KeyValues, (layer, kind): (usize, Heads)) -> candle_core::Result<Tensor> {
        let Attention::Slots { look: Some(Look { index, mask, tokens }), .. } = &self.call.attention else {
            candle_core::bail!("a call of slots has no mask for slots");
        };
        let (rows, heads, _, head_dim) = q.dims4()?;
        let key_heads = self.runner.config.kv_head_count;
        self.slots.write(layer, index, new)?;
        let KeyValues { keys, values } = self.slots.view(layer, rows, *tokens)?;
        let q = q.reshape((rows, key_heads, heads / key_heads, head_dim))?;
        let scores = bounded(q.matmul(&keys.transpose(2, 3)?)?.to_dtype(DType::F32)?, kind.softcap)?;
        let scores = scores.broadcast_add(mask.of(kind))?;
        let probs = softmax_last_dim(&scores)?.to_dtype(q.dtype())?;
        probs.matmul(&values)?.reshape((rows, heads * head_dim))
    }

    /// One sequence after the other, some query rows at a time.
    fn attend_own(
        &mut self,
        q: &Tensor,
        new: &KeyValues,
        (layer, kind): (usize, Heads),
    ) -> candle_core::Result<Tensor> {
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
                let scores = bounded(scores, kind.softcap)?.reshape((heads, tile.rows, tile.keys))?;
                let scores = scores.broadcast_add(tile.mask.of(kind))?;
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
        self.norm_of_sum(x, layer.attention_input.as_ref())
    }

    fn attention(&mut self, x: Tensor, layer: &Self::Layer, layer_index: usize) -> Result<Tensor> {
        self.layer = layer_index;
        self.attend(&x, layer, layer_index).map_err(tensor_error)
    }

    fn add_attention(&mut self, x: Tensor, y: Tensor, layer: &Self::Layer) -> Result<Tensor> {
        let y = layer.o.apply(&y).map_err(tensor_error)?;
        self.add(&x, y, layer.attention_output.as_ref(), layer.feed_forward_input.as_ref())
    }

    fn feed_forward_norm(&mut self, x: &Tensor, layer: &Self::Layer) -> Result<Tensor> {
        self.norm_of_sum(x, layer.feed_forward_input.as_ref())
    }

    fn feed_forward(&mut self, x: Tensor, layer: &Self::Layer) -> Result<Tensor> {
        let gated = || {
            let both = layer.gate_up.apply(&x)?;
            if let Some(kernels) = &self.runner.kernels {
                return kernels.gate(&both, self.runner.config.activation);
            }
            let width = both.dim(1)? / 2;
            let gate = both.narrow(1, 0, width)?;
            let gate = match self.runner.config.activation {
                Activation::Silu => gate.silu()?,
                Activation::GeluTanh => gate.gelu()?,
            };
            gate * both.narrow(1, width, width)?
        };
        gated().map_err(tensor_error)
    }

    fn add_feed_forward(&mut self, x: Tensor, y: Tensor, layer: &Self::Layer) -> Result<Tensor> {
        let y = layer.down.apply(&y).map_err(tensor_error)?;
        let runner = self.runner;
        let next = runner.layers.get(self.layer + 1).and_then(|layer| layer.attention_input.as_ref());
        self.add(&x, y, layer.feed_forward_output.as_ref(), next)
    }
}
