//! KL divergence from a frozen reference policy, and the entropy of the likeliest tokens: both without whole logits.

use super::Head;
use super::cpu::{self, Read};
use super::factor::{Factor, Matrix, Side};
use super::gemm::Start;
use super::logprobs::{CapSlopes, ROWS, Slopes, Tally, bound, entry_chunks};
use super::simd::{self, LANES, vectorised};
use super::tape;
use super::top::Top;
use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor, bail};
use std::sync::{Arc, OnceLock};

/// What stands behind logits: `hidden` `[N, H]` and `head` `[V, H]`, and their bound.
#[derive(Clone, Copy)]
struct Logits<'a> {
    hidden: &'a [f32],
    head: Matrix<'a>,
    size: usize,
    softcap: Option<f32>,
    products: DType,
}

impl<'a> Logits<'a> {
    /// Vocabulary entries at a time: first and count.
    fn chunks(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        entry_chunks(self.head.count() / self.size)
    }

    /// Vocabulary entries `first..first + count`, laid out for the product.
    fn pack(&self, first: usize, count: usize) -> Factor<'a> {
        Factor::transposed(self.head.rows(first, count, self.size), count, self.size, self.products)
    }

    fn rows(&self, factor: &Factor, start: usize, rows: usize, out: &mut Vec<f32>) {
        out.resize(rows * factor.outputs(), 0.0);
        factor.apply(Side::Rows(&self.hidden[start * self.size..]), rows, Start::Zero, out);
        bound(out, self.softcap);
    }
}

/// Expectation of `r - x` under the softmax of `r`, by chunks of the vocabulary.
#[derive(Clone, Copy)]
struct Gap {
    max: f32,
    sum: f32,
    cross: f32,
}

impl Gap {
    const NOTHING: Gap = Gap { max: f32::NEG_INFINITY, sum: 0.0, cross: 0.0 };

    fn add(self, other: Gap) -> Gap {
        let max = if self.max > other.max { self.max } else { other.max };
        let (a, b) = (simd::exp(self.max - max), simd::exp(other.max - max));
        Gap { max, sum: self.sum * a + other.sum * b, cross: self.cross * a + other.cross * b }
    }
}

vectorised! {
    fn chunk_gap(reference: &[f32], own: &[f32]) -> Gap {
        let max = simd::max(reference);
        let (mut sums, mut cross) = ([0.0f32; LANES], [0.0f32; LANES]);
        for (reference, own) in reference.chunks(LANES).zip(own.chunks(LANES)) {
            for (i, (r, x)) in reference.iter().zip(own).enumerate() {
                let e = simd::exp(r - max);
                sums[i] += e;
                cross[i] = (r - x).mul_add(e, cross[i]);
            }
        }
        Gap { max, sum: simd::join(sums), cross: simd::join(cross) }
    }
}

vectorised! {
    /// Own logits become `g (p - q)`, with p own and q the reference's probabilities.
    fn gap_gradient(own: &mut [f32], reference: &[f32], own_sum: f32, reference_sum: f32, g: f32) {
        for (x, r) in own.iter_mut().zip(reference) {
            *x = g * (simd::exp(*x - own_sum) - simd::exp(r - reference_sum));
        }
    }
}

/// The differentiable kernel; see [`super::reference_kl`].
pub fn reference_kl(hidden: &Tensor, head: &Head, reference: (&Tensor, &Head)) -> Result<Tensor> {
    let op = ReferenceKl {
        softcap: head.softcap,
        products: head.products,
        hidden: reference.0.detach().contiguous()?,
        head: reference.1.weight.detach().contiguous()?,
        other_softcap: reference.1.softcap,
        sums: Arc::default(),
    };
    tape::apply2(&hidden.contiguous()?, &head.weight.contiguous()?, op)
}

/// Log-sum-exps of each row: own and the reference's.
type Sums = (Vec<f32>, Vec<f32>);

struct ReferenceKl {
    softcap: Option<f32>,
    products: DType,
    /// The reference's.
    hidden: Tensor,
    head: Tensor,
    other_softcap: Option<f32>,
    sums: Arc<OnceLock<Sums>>,
}

impl ReferenceKl {
    /// What stands behind the reference's logits.
    fn other<'a>(&self, hidden: &'a Read, head: &'a Read) -> Result<Logits<'a>> {
        Ok(Logits {
            hidden: hidden.slice()?,
            head: head.matrix()?,
            size: self.hidden.dim(1)?,
            softcap: self.other_softcap,
            products: self.products,
        })
    }

    fn check(&self, hidden: &Shape, head: &Shape) -> Result<()> {
        let ((rows, size), (entries, head_size)) = (hidden.dims2()?, head.dims2()?);
        let ((other_rows, other_size), (other_entries, other_head_size)) = (self.hidden.dims2()?, self.head.dims2()?);
        let sizes_fit = size == head_size && other_size == other_head_size && size > 0 && other_size > 0;
        if !sizes_fit || rows != other_rows || entries != other_entries {
            bail!("reference kl: {hidden:?} and {head:?} do not fit {:?} and {:?}", self.hidden, self.head);
        }
        Ok(())
    }
}

impl CustomOp2 for ReferenceKl {
    fn name(&self) -> &'static str {
        "reference kl"
    }

    fn cpu_fwd(&self, h: &CpuStorage, hl: &Layout, w: &CpuStorage, wl: &Layout) -> Result<(CpuStorage, Shape)> {
        self.check(hl.shape(), wl.shape())?;
        let (rows, size) = hl.shape().dims2()?;
        let (other_hidden, other_head) = (Read::new(&self.hidden), Read::new(&self.head));
        let (softcap, products) = (self.softcap, self.products);
        let own = Logits { hidden: cpu::slice(h, hl)?, head: cpu::matrix(w, wl)?, size, softcap, products };
        let other = self.other(&other_hidden, &other_head)?;
        let (mut tallies, mut gaps) = (vec![Tally::default(); rows], vec![Gap::NOTHING; rows]);
        let (mut x, mut r) = (Vec::new(), Vec::new());
        for (first, count) in own.chunks() {
            let (own_packed, other_packed) = (own.pack(first, count), other.pack(first, count));
            for start in (0..rows).step_by(ROWS) {
                let height = ROWS.min(rows - start);
                own.rows(&own_packed, start, height, &mut x);
                other.rows(&other_packed, start, height, &mut r);
                for (row, (x, r)) in x.chunks_exact(count).zip(r.chunks_exact(count)).enumerate() {
                    tallies[start + row].add(x);
                    gaps[start + row] = gaps[start + row].add(chunk_gap(r, x));
                }
            }
        }
        let own_sums: Vec<f32> = tallies.iter().map(Tally::log_sum_exp).collect();
        let other_sums: Vec<f32> = gaps.iter().map(|gap| gap.max + gap.sum.ln()).collect();
        let kl = |row: usize| (gaps[row].cross / gaps[row].sum + own_sums[row] - other_sums[row]).max(0.0);
        let out = (0..rows).map(kl).collect();
        let _ = self.sums.set((own_sums, other_sums));
        Ok((CpuStorage::F32(out), rows.into()))
    }

    fn bwd(&self, h: &Tensor, w: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let Some((own_sums, other_sums)) = self.sums.get() else { bail!("reference kl: backward before forward") };
        let (rows, size) = h.dims2()?;
        let grad = grad.contiguous()?;
        let (h_read, w_read, grad_read) = (Read::new(h), Read::new(w), Read::new(&grad));
        let (other_hidden, other_head) = (Read::new(&self.hidden), Read::new(&self.head));
        let products = self.products;
        let own = Logits { hidden: h_read.slice()?, head: w_read.matrix()?, size, softcap: None, products };
        let other = self.other(&other_hidden, &other_head)?;
        let grad = grad_read.slice()?;
        let (mut slopes, mut x, mut r) = (Slopes::new(h, own.hidden, w, products)?, Vec::new(), Vec::new());
        let mut cap_slopes = CapSlopes::new(self.softcap);
        for (first, count) in own.chunks() {
            let (own_packed, other_packed) = (own.pack(first, count), other.pack(first, count));
            let back = Factor::of_rows(own.head.rows(first, count, size), count, size, products);
            for start in (0..rows).step_by(ROWS) {
                let height = ROWS.min(rows - start);
                own.rows(&own_packed, start, height, &mut x);
                cap_slopes.bound(&mut x);
                other.rows(&other_packed, start, height, &mut r);
                for (row, (x, r)) in x.chunks_exact_mut(count).zip(r.chunks_exact(count)).enumerate() {
                    let row = start + row;
                    gap_gradient(x, r, own_sums[row], other_sums[row], grad[row]);
                }
                cap_slopes.apply(&mut x);
                slopes.add(&x, (start, height), first, count, &back);
            }
        }
        slopes.tensors(h, w)
    }
}

/// The kernel; see [`super::top_entropy`].
pub fn top_entropy(hidden: &Tensor, head: &Head, k: usize) -> Result<Vec<f32>> {
    let (rows, size) = hidden.dims2()?;
    let (hidden, weight) = (hidden.contiguous()?, head.weight.contiguous()?);
    let (hidden_read, head_read) = (Read::new(&hidden), Read::new(&weight));
    let (softcap, products) = (head.softcap, head.products);
    let logits = Logits { hidden: hidden_read.slice()?, head: head_read.matrix()?, size, softcap, products };
    let mut top = vec![Top::new(k); rows];
    let mut x = Vec::new();
    for (first, count) in logits.chunks() {
        let packed = logits.pack(first, count);
        for start in (0..rows).step_by(ROWS) {
            logits.rows(&packed, start, ROWS.min(rows - start), &mut x);
            for (top, x) in top[start..].iter_mut().zip(x.chunks_exact(count)) {
                top.add(first, x);
            }
        }
    }
    Ok(top.iter().map(|top| entropy_of(&top.values())).collect())
}

/// Entropy of the softmax of logits, nats.
pub(super) fn entropy_of(logits: &[f32]) -> f32 {
    let mut tally = Tally::default();
    tally.add(logits);
    tally.entropy()
}
