//! Log-probs of targets without the logits: rows and vocabulary go by in chunks, forward and backward.

use super::Head;
use super::cpu::{self, Read};
use super::factor::{Factor, Matrix, Side};
use super::gemm::Start;
use super::simd::{self, LANES, vectorised};
use super::{tape, wide};
use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor, bail};
use std::sync::{Arc, OnceLock};

/// Rows and vocabulary entries whose logits exist at once: 512 kB.
pub(super) const ROWS: usize = 128;
pub const ENTRIES: usize = 1024;

/// Running log-sum-exp of a row: the largest logit so far, the sum of `e^(x - max)` and of `(x - max) e^(x - max)`.
#[derive(Clone, Copy, Debug)]
pub struct Tally {
    max: f32,
    sum: f32,
    weighted: f32,
}

impl Default for Tally {
    fn default() -> Tally {
        Tally { max: f32::NEG_INFINITY, sum: 0.0, weighted: 0.0 }
    }
}

impl Tally {
    /// Takes in the next chunk of logits. Chunks must be cut alike for results to agree to the bit.
    pub fn add(&mut self, logits: &[f32]) {
        let (mut a, mut b) = (*self, chunk_tally(logits));
        let max = if a.max > b.max { a.max } else { b.max };
        a.shift(max);
        b.shift(max);
        *self = Tally { max, sum: a.sum + b.sum, weighted: a.weighted + b.weighted };
    }

    fn shift(&mut self, max: f32) {
        if self.sum > 0.0 {
            let by = self.max - max;
            let factor = simd::exp(by);
            self.weighted = (self.weighted + by * self.sum) * factor;
            self.sum *= factor;
        }
    }

    pub fn log_sum_exp(&self) -> f32 {
        self.max + self.sum.ln()
    }

    /// Entropy in nats.
    pub fn entropy(&self) -> f32 {
        (self.sum.ln() - self.weighted / self.sum).max(0.0)
    }
}

vectorised! {
    fn chunk_tally(logits: &[f32]) -> Tally {
        let max = simd::max(logits);
        let (mut sums, mut weighted) = ([0.0f32; LANES], [0.0f32; LANES]);
        let blocks = logits.chunks_exact(LANES);
        let tail = blocks.remainder();
        for block in blocks {
            for i in 0..LANES {
                let x = block[i] - max;
                let e = simd::exp(x);
                sums[i] += e;
                weighted[i] = x.mul_add(e, weighted[i]);
            }
        }
        for (i, logit) in tail.iter().enumerate() {
            let x = logit - max;
            let e = simd::exp(x);
            sums[i] += e;
            weighted[i] = x.mul_add(e, weighted[i]);
        }
        Tally { max, sum: simd::join(sums), weighted: simd::join(weighted) }
    }
}

vectorised! {
    /// Logits become `-g * softmax`.
    fn softmax_gradient(logits: &mut [f32], log_sum_exp: f32, g: f32) {
        for x in logits {
            *x = -g * simd::exp(*x - log_sum_exp);
        }
    }
}

/// Log-sum-exp and entropy of each row, and its targets' logits.
struct Summary {
    log_sum_exp: Vec<f32>,
    entropy: Vec<f32>,
    /// `[rows, width]`.
    chosen: Vec<f32>,
}

/// Bounds logits, if there is a bound.
pub fn bound(logits: &mut [f32], softcap: Option<f32>) {
    if let Some(cap) = softcap {
        simd::soft_cap(logits, 1.0 / cap, cap);
    }
}

/// Vocabulary entries whose logits exist at once: first and count.
pub(super) fn entry_chunks(entries: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..entries).step_by(ENTRIES).map(move |first| (first, ENTRIES.min(entries - first)))
}

fn summarise(hidden: &[f32], head: Matrix, size: usize, op: &TokenLogprobs) -> Summary {
    let (width, rows) = (op.width, op.targets.len() / op.width);
    let (mut tallies, mut chosen) = (vec![Tally::default(); rows], vec![0.0; op.targets.len()]);
    let mut logits = Vec::new();
    for (first, count) in entry_chunks(head.count() / size) {
        let factor = Factor::transposed(head.rows(first, count, size), count, size, op.products);
        logits.resize(ROWS.min(rows) * count, 0.0);
        for start in (0..rows).step_by(ROWS) {
            let height = ROWS.min(rows - start);
            factor.apply(Side::Rows(&hidden[start * size..]), height, Start::Zero, &mut logits);
            bound(&mut logits[..height * count], op.softcap);
            wide::share_rows(&mut tallies[start..start + height], 1, 32 * count, |row, tallies| {
                for (tally, logits) in tallies.iter_mut().zip(logits[row * count..].chunks_exact(count)) {
                    tally.add(logits);
                }
            });
            let (chosen, targets) = (&mut chosen[start * width..], &op.targets[start * width..]);
            let rows = logits.chunks_exact(count).take(height);
            for ((chosen, targets), logits) in chosen.chunks_mut(width).zip(targets.chunks(width)).zip(rows) {
                for (chosen, target) in chosen.iter_mut().zip(targets) {
                    if let Some(logit) = (*target as usize).checked_sub(first).and_then(|t| logits.get(t)) {
                        *chosen = *logit;
                    }
                }
            }
        }
    }
    Summary {
        log_sum_exp: tallies.iter().map(Tally::log_sum_exp).collect(),
        entropy: tallies.iter().map(Tally::entropy).collect(),
        chosen,
    }
}

/// Gradients of hidden states `[N, H]` and of a head `[V, H]`, from those of their logits block by block: [`ROWS`] rows by a chunk
/// of the vocabulary. A frozen head gets none.
pub(super) struct Slopes<'a> {
    hidden: Vec<f32>,
    /// With the hidden states of each block of rows.
    head: Option<(Vec<f32>, Vec<Factor<'a>>)>,
    size: usize,
}

impl<'a> Slopes<'a> {
    /// Of the hidden states whose elements are `values`.
    pub fn new(hidden: &Tensor, values: &'a [f32], head: &Tensor, products: DType) -> Result<Slopes<'a>> {
        let size = hidden.dim(1)?;
        let factor = |rows: &'a [f32]| Factor::of_rows(Matrix::F32(rows), rows.len() / size, size, products);
        let of_head = || (vec![0.0; head.elem_count()], values.chunks(ROWS * size).map(factor).collect());
        let head = cpu::wants_gradient(head).then(of_head);
        Ok(Slopes { hidden: vec![0.0; hidden.elem_count()], head, size })
    }

    /// Takes in the gradients of the logits of a block of rows (first, count) and of vocabulary entries from `entry` on, whose part
    /// of the head is given.
    pub fn add(&mut self, block: &[f32], (row, rows): (usize, usize), entry: usize, entries: usize, head: &Factor) {
        let size = self.size;
        head.apply(Side::Rows(block), rows, Start::Add, &mut self.hidden[row * size..(row + rows) * size]);
        if let Some((sum, hidden)) = &mut self.head {
            let sum = &mut sum[entry * size..(entry + entries) * size];
            hidden[row / ROWS].apply(Side::Columns(&block[..rows * entries]), entries, Start::Add, sum);
        }
    }

    pub fn tensors(self, hidden: &Tensor, head: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let of_head = self.head.map(|(sum, _)| cpu::tensor(sum, head)).transpose()?;
        Ok((Some(cpu::tensor(self.hidden, hidden)?), of_head))
    }
}

/// The bound of a block of logits and its derivatives, if there is a bound.
pub(super) struct CapSlopes {
    softcap: Option<f32>,
    slopes: Vec<f32>,
}

impl CapSlopes {
    pub fn new(softcap: Option<f32>) -> CapSlopes {
        CapSlopes { softcap, slopes: Vec::new() }
    }

    /// Bounds logits.
    pub fn bound(&mut self, logits: &mut [f32]) {
        bound(logits, self.softcap);
        if let Some(cap) = self.softcap {
            self.slopes.resize(logits.len(), 0.0);
            simd::soft_cap_slopes(logits, cap, &mut self.slopes);
        }
    }

    /// Gradients of the bounded logits become those of the logits.
    pub fn apply(&self, gradients: &mut [f32]) {
        if self.softcap.is_some() {
            simd::multiply(gradients, &self.slopes);
        }
    }
}

/// The differentiable kernel; see [`super::chosen_logprobs`]. The log-probs have the shape `shape`, of as many numbers as targets.
pub fn chosen_logprobs(hidden: &Tensor, head: &Head, targets: &[u32], shape: Shape) -> Result<(Tensor, Vec<f32>)> {
    let summary = Arc::new(OnceLock::new());
    let (softcap, products) = (head.softcap, head.products);
    let width = (targets.len() / hidden.dim(0)?.max(1)).max(1);
    let op = TokenLogprobs { targets: targets.to_vec(), width, shape, softcap, products, summary: summary.clone() };
    let log_probs = tape::apply2(&hidden.contiguous()?, &head.weight.contiguous()?, op)?;
    let entropy = summary.get().map(|s| s.entropy.clone()).unwrap_or_default();
    Ok((log_probs, entropy))
}

struct TokenLogprobs {
    /// `[rows, width]`.
    targets: Vec<u32>,
    width: usize,
    shape: Shape,
    softcap: Option<f32>,
    products: DType,
    summary: Arc<OnceLock<Summary>>,
}

impl CustomOp2 for TokenLogprobs {
    fn name(&self) -> &'static str {
        "token log-probs"
    }

    fn cpu_fwd(&self, h: &CpuStorage, hl: &Layout, w: &CpuStorage, wl: &Layout) -> Result<(CpuStorage, Shape)> {
        let ((rows, size), (entries, w_size)) = (hl.shape().dims2()?, wl.shape().dims2()?);
        if rows * self.width != self.targets.len() || self.width == 0 || size != w_size || size == 0 {
            bail!("log-probs: hidden {:?}, head {:?}, {} targets", hl.shape(), wl.shape(), self.targets.len());
        }
        if let Some(target) = self.targets.iter().find(|t| **t as usize >= entries) {
            bail!("log-probs: target {target} in a vocabulary of {entries}");
        }
        let summary = summarise(cpu::slice(h, hl)?, cpu::matrix(w, wl)?, size, self);
        let rows = summary.chosen.chunks(self.width).zip(&summary.log_sum_exp);
        let log_probs = rows.flat_map(|(chosen, lse)| chosen.iter().map(move |x| x - lse)).collect();
        let _ = self.summary.set(summary);
        Ok((CpuStorage::F32(log_probs), self.shape.clone()))
    }

    /// `dlogits = sum of g_i onehot_i - (sum of g_i) softmax`, from logits made again.
    fn bwd(&self, h: &Tensor, w: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let Some(summary) = self.summary.get() else { bail!("log-probs: backward before forward") };
        let (rows, size) = h.dims2()?;
        let grad = grad.contiguous()?;
        let (h_read, w_read, grad_read) = (Read::new(h), Read::new(w), Read::new(&grad));
        let (hidden, head, grad) = (h_read.slice()?, w_read.matrix()?, grad_read.slice()?);
        let (grads, targets) = (|row| of_row(grad, row, self.width), |row| of_row(&self.targets, row, self.width));
        let mut slopes = Slopes::new(h, hidden, w, self.products)?;
        let (mut logits, mut cap_slopes) = (Vec::new(), CapSlopes::new(self.softcap));
        for (first, count) in entry_chunks(head.count() / size) {
            let entries = head.rows(first, count, size);
            let factor = Factor::transposed(entries, count, size, self.products);
            let back = Factor::of_rows(entries, count, size, self.products);
            logits.resize(ROWS.min(rows) * count, 0.0);
            for start in (0..rows).step_by(ROWS) {
                let height = ROWS.min(rows - start);
                factor.apply(Side::Rows(&hidden[start * size..]), height, Start::Zero, &mut logits);
                cap_slopes.bound(&mut logits[..height * count]);
                wide::share_rows(&mut logits[..height * count], count, 16 * count, |top, logits| {
                    for (row, logits) in logits.chunks_exact_mut(count).enumerate() {
                        let row = start + top + row;
                        softmax_gradient(logits, summary.log_sum_exp[row], grads(row).iter().sum());
                        for (target, own) in targets(row).iter().zip(grads(row)) {
                            let target = (*target as usize).checked_sub(first);
                            if let Some(x) = target.and_then(|target| logits.get_mut(target)) {
                                *x += own;
                            }
                        }
                    }
                });
                cap_slopes.apply(&mut logits[..height * count]);
                slopes.add(&logits, (start, height), first, count, &back);
            }
        }
        slopes.tensors(h, w)
    }
}

fn of_row<T>(values: &[T], row: usize, width: usize) -> &[T] {
    &values[row * width..(row + 1) * width]
}
