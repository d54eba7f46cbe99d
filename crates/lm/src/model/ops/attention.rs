//! Causal attention on slices: the same few products whether the keys come from packed rows or from a cache, so that a
//! token's result has the same bits on both ways.
//!
//! Per query row: scores are sums over the head's features in order; the softmax adds its terms by lanes of the key index;
//! the output adds values in key order and is divided by the sum at the end.

mod backward;

use self::backward::{Backward, Buffers};
use super::Segments;
use super::cpu::{self, Read};
use super::factor::Matrix;
use super::gemm::{Left, Right, Size, Start, gemm};
use super::simd;
use super::team::Disjoint;
use super::{tape, wide};
use crate::model::config::Config;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use std::ops::Range;

/// Query rows handled together: enough to reuse keys in registers, few enough to waste little above the diagonal.
const TILE: usize = 32;

/// Consecutive keys and values of one head.
#[derive(Clone, Copy, Debug)]
pub struct KeyValues<'a> {
    /// Transposed: feature d of key j lies at `d * key_stride + j`.
    pub keys: Matrix<'a>,
    pub key_stride: usize,
    /// Value j lies at `j * value_stride`.
    pub values: Matrix<'a>,
    pub value_stride: usize,
    pub len: usize,
}

/// Room for what attention makes of its queries; reused from call to call.
#[derive(Debug, Default)]
pub struct Scratch {
    scores: Vec<f32>,
    /// Keys, then values of a block, where they are not in f32.
    wide: Vec<f32>,
}

/// What the heads of a layer are like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    /// Features.
    pub dim: usize,
    /// Scores are multiplied by it; `1 / sqrt(dim)` where nothing is said.
    pub scale: Option<f64>,
    /// Scores are then bounded by it: `cap * tanh(x / cap)`.
    pub softcap: Option<f32>,
    /// A row sees the last so many keys only, its own among them.
    pub window: Option<usize>,
}

impl Heads {
    /// Without anything special.
    pub fn plain(dim: usize) -> Heads {
        Heads { dim, scale: None, softcap: None, window: None }
    }

    /// Those of a layer of a model.
    pub fn of(config: &Config, layer: usize) -> Heads {
        Heads {
            dim: config.head_dim,
            scale: config.attention_scale,
            softcap: config.attention_softcap,
            window: config.window_of(layer),
        }
    }

    fn scale(self) -> f32 {
        self.scale.map_or_else(|| 1.0 / (self.dim as f32).sqrt(), |scale| scale as f32)
    }

    /// The same for those who compute in another order.
    pub fn exact_scale(self) -> f64 {
        self.scale.unwrap_or_else(|| 1.0 / (self.dim as f64).sqrt())
    }

    /// The first key that a row at this position sees.
    pub fn first_seen(self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }
}

/// Query rows of one head: row r lies at `r * stride`.
#[derive(Clone, Copy, Debug)]
pub struct Queries<'a> {
    pub data: &'a [f32],
    pub stride: usize,
    pub rows: usize,
    pub heads: Heads,
}

/// Which keys a query row sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visible {
    /// All that are given.
    All,
    /// Row r sees the first `first + r`, of these as many as the window holds.
    Causal { first: usize },
}

impl Visible {
    fn of(self, row: usize, keys: usize, heads: Heads) -> Range<usize> {
        match self {
            Visible::All => 0..keys,
            Visible::Causal { first } => heads.first_seen(first + row - 1)..keys.min(first + row),
        }
    }
}

/// Attention of query rows that share their keys (one key head; the rows may be query heads of its group, positions, or
/// samples). Keys are the blocks, one after the other; how they are cut into blocks does not change a bit. Output row r is
/// written at `r * out_stride`. Every row must see at least one key.
pub fn attend(
    queries: Queries,
    blocks: &[KeyValues],
    visible: Visible,
    out: &mut [f32],
    out_stride: usize,
    scratch: &mut Scratch,
) {
    let Queries { data, stride, rows, heads } = queries;
    let (head_dim, scale) = (heads.dim, heads.scale());
    let keys: usize = blocks.iter().map(|block| block.len).sum();
    let Scratch { scores, wide } = scratch;
    if scores.len() < rows * keys {
        scores.resize(rows * keys, 0.0);
    }
    let scores = &mut scores[..rows * keys];
    let mut first = 0;
    for block in blocks {
        let size = Size { m: rows, n: block.len, k: head_dim };
        let left = Left { data, row: stride, step: 1 };
        let right = in_f32(block.keys, (head_dim, block.len), block.key_stride, wide);
        gemm(size, left, right, &mut scores[first..], keys, Start::Zero);
        first += block.len;
    }
    let mut inverse_sums = [0.0f32; TILE];
    let mut more = Vec::new();
    let inverse_sums = if rows <= TILE {
        &mut inverse_sums[..rows]
    } else {
        more.resize(rows, 0.0);
        &mut more[..]
    };
    for ((row, scores), inverse) in scores.chunks_exact_mut(keys.max(1)).enumerate().zip(inverse_sums.iter_mut()) {
        let seen = visible.of(row, keys, heads);
        let shown = &mut scores[seen.clone()];
        *inverse = match heads.softcap {
            None => 1.0 / simd::softmax_numerators(shown, scale),
            Some(cap) => {
                simd::soft_cap(shown, scale / cap, cap);
                1.0 / simd::softmax_numerators(shown, 1.0)
            }
        };
        scores[..seen.start].fill(0.0);
        scores[seen.end..].fill(0.0);
    }
    let mut first = 0;
    for (index, block) in blocks.iter().enumerate() {
        let size = Size { m: rows, n: head_dim, k: block.len };
        let left = Left { data: &scores[first.min(scores.len())..], row: keys, step: 1 };
        let start = if index == 0 { Start::Zero } else { Start::Add };
        let right = in_f32(block.values, (block.len, head_dim), block.value_stride, wide);
        gemm(size, left, right, out, out_stride, start);
        first += block.len;
    }
    for (row, inverse) in inverse_sums.iter().enumerate() {
        simd::scale(&mut out[row * out_stride..][..head_dim], *inverse);
    }
}

/// Rows and columns of a matrix whose rows lie `stride` apart, as a product takes them.
fn in_f32<'a>(matrix: Matrix<'a>, (rows, columns): (usize, usize), stride: usize, wide: &'a mut Vec<f32>) -> Right<'a> {
    match matrix {
        Matrix::F32(data) => Right::rows(data, stride),
        Matrix::Bf16(data) => {
            if wide.len() < rows * columns {
                wide.resize(rows * columns, 0.0);
            }
            let lines = data.chunks(stride).zip(wide.chunks_exact_mut(columns.max(1)));
            lines.take(rows).for_each(|(from, to)| simd::widen(&from[..columns], to));
            Right::rows(wide, columns)
        }
    }
}

/// Writes rows `rows` of a matrix (`stride` wide), columns `first..first + head_dim`, as `[head_dim, rows]`.
fn transposed(data: &[f32], stride: usize, rows: Range<usize>, first: usize, head_dim: usize, out: &mut Vec<f32>) {
    let count = rows.len();
    out.resize(head_dim * count, 0.0);
    for (j, row) in rows.enumerate() {
        for (d, value) in data[row * stride + first..][..head_dim].iter().enumerate() {
            out[d * count + j] = *value;
        }
    }
}

/// The differentiable kernel; see [`super::attention()`].
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, segments: &Segments, heads: Heads) -> Result<Tensor> {
    let op = Attention { segments: segments.clone(), heads };
    tape::apply3(&q.contiguous()?, &k.contiguous()?, &v.contiguous()?, op)
}

struct Attention {
    segments: Segments,
    heads: Heads,
}

/// Widths of the query and key rows, in features.
struct Widths {
    query: usize,
    key: usize,
}

impl Attention {
    fn widths(&self, q: &Shape, k: &Shape, v: &Shape) -> Result<Widths> {
        let ((rows, query), (key_rows, key)) = (q.dims2()?, k.dims2()?);
        let hd = self.heads.dim;
        let heads_fit = hd > 0 && key > 0 && key.is_multiple_of(hd) && query.is_multiple_of(key);
        if !heads_fit || k != v || rows != key_rows || rows != self.segments.total() {
            let total = self.segments.total();
            bail!("attention: q {q:?}, k {k:?}, v {v:?} do not fit heads of {hd} and segments of {total} rows");
        }
        Ok(Widths { query, key })
    }

    /// Segments and the key heads that attend in them, each with everything of its own, and about what one costs.
    fn tasks(&self, widths: &Widths) -> (Vec<(Range<usize>, usize)>, usize) {
        let heads = 0..widths.key / self.heads.dim;
        let tasks: Vec<_> =
            self.segments.iter().flat_map(|s| heads.clone().map(move |head| (s.clone(), head))).collect();
        let squares: usize = self.segments.iter().map(|segment| segment.len() * segment.len()).sum();
        (tasks, 2 * squares / self.segments.iter().count().max(1) * self.heads.dim * widths.query / widths.key)
    }

    #[expect(unsafe_code, reason = "threads write the heads of a row")]
    fn forward(&self, q: &[f32], k: &[f32], v: &[f32], widths: &Widths, out: &mut [f32]) {
        let hd = self.heads.dim;
        let group = widths.query / widths.key;
        let (tasks, operations) = self.tasks(widths);
        let out = Disjoint::new(out);
        wide::share(tasks.len(), operations, 1, |piece| {
            let (mut keys, mut scratch, mut done) = (Vec::new(), Scratch::default(), vec![0.0; TILE * hd]);
            for (segment, key_head) in &tasks[piece] {
                transposed(k, widths.key, segment.clone(), key_head * hd, hd, &mut keys);
                for head in key_head * group..(key_head + 1) * group {
                    for start in segment.clone().step_by(TILE) {
                        let end = segment.end.min(start + TILE);
                        let from = self.heads.first_seen(start - segment.start);
                        let block = KeyValues {
                            keys: Matrix::F32(&keys[from..]),
                            key_stride: segment.len(),
                            values: Matrix::F32(&v[(segment.start + from) * widths.key + key_head * hd..]),
                            value_stride: widths.key,
                            len: end - segment.start - from,
                        };
                        let at = start * widths.query + head * hd;
                        let (stride, heads) = (widths.query, self.heads);
                        let queries = Queries { data: &q[at..], stride, rows: end - start, heads };
                        let visible = Visible::Causal { first: start - segment.start + 1 - from };
                        attend(queries, &[block], visible, &mut done, hd, &mut scratch);
                        for (row, done) in done.chunks_exact(hd).take(end - start).enumerate() {
                            let at = at + row * widths.query;
                            // SAFETY: no other task has this row and head.
                            unsafe { out.part(at..at + hd) }.copy_from_slice(done);
                        }
                    }
                }
            }
        });
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        ql: &Layout,
        k: &CpuStorage,
        kl: &Layout,
        v: &CpuStorage,
        vl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let widths = self.widths(ql.shape(), kl.shape(), vl.shape())?;
        let mut out = vec![0.0; ql.shape().elem_count()];
        self.forward(cpu::slice(q, ql)?, cpu::slice(k, kl)?, cpu::slice(v, vl)?, &widths, &mut out);
        Ok((CpuStorage::F32(out), ql.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        out: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let reads = [q, k, v, out, &grad].map(Read::new);
        let [q_data, k_data, v_data, out_data, dout] = &reads;
        let (mut dq, mut dk) = (vec![0.0; q.elem_count()], vec![0.0; k.elem_count()]);
        let mut dv = vec![0.0; v.elem_count()];
        let widths = self.widths(q.shape(), k.shape(), v.shape())?;
        let (tasks, operations) = self.tasks(&widths);
        let backward = Backward {
            q: q_data.slice()?,
            k: k_data.slice()?,
            v: v_data.slice()?,
            out: out_data.slice()?,
            dout: dout.slice()?,
            dq: Disjoint::new(&mut dq),
            dk: Disjoint::new(&mut dk),
            dv: Disjoint::new(&mut dv),
            widths,
            heads: self.heads,
        };
        wide::share(tasks.len(), 3 * operations, 1, |piece| {
            let mut buffers = Buffers::default();
            tasks[piece].iter().for_each(|(segment, key_head)| backward.task(segment, *key_head, &mut buffers));
        });
        Ok((Some(cpu::tensor(dq, q)?), Some(cpu::tensor(dk, k)?), Some(cpu::tensor(dv, v)?)))
    }
}
