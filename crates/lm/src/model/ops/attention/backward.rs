//! The gradient of attention on slices, by tiles of query rows; probabilities are computed again.

use super::super::gemm::{Left, Right, Size, Start, gemm};
use super::super::simd::{self, vectorised};
use super::super::team::Disjoint;
use super::{Heads, TILE, Visible, Widths, transposed};
use std::ops::Range;

/// What the backward pass reads, and where it writes.
pub(super) struct Backward<'a> {
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub v: &'a [f32],
    pub out: &'a [f32],
    pub dout: &'a [f32],
    pub dq: Disjoint<'a, f32>,
    pub dk: Disjoint<'a, f32>,
    pub dv: Disjoint<'a, f32>,
    pub widths: Widths,
    pub heads: Heads,
}

/// Buffers of one thread.
#[derive(Default)]
pub(super) struct Buffers {
    keys: Vec<f32>,
    values: Vec<f32>,
    probs: Vec<f32>,
    dscores: Vec<f32>,
    /// Derivatives of the bound of a row's scores.
    slopes: Vec<f32>,
    /// Of a tile's queries.
    dq: Vec<f32>,
    /// Of the keys and values of a segment and key head.
    dk: Vec<f32>,
    dv: Vec<f32>,
}

impl Backward<'_> {
    pub fn task(&self, segment: &Range<usize>, key_head: usize, buffers: &mut Buffers) {
        let (hd, group) = (self.heads.dim, self.widths.query / self.widths.key);
        transposed(self.k, self.widths.key, segment.clone(), key_head * hd, hd, &mut buffers.keys);
        transposed(self.v, self.widths.key, segment.clone(), key_head * hd, hd, &mut buffers.values);
        for sum in [&mut buffers.dk, &mut buffers.dv] {
            sum.clear();
            sum.resize(segment.len() * hd, 0.0);
        }
        for head in key_head * group..(key_head + 1) * group {
            for start in segment.clone().step_by(TILE) {
                self.tile(segment, start..segment.end.min(start + TILE), head, key_head, buffers);
            }
        }
        self.put(&self.dk, &buffers.dk, segment.start * self.widths.key + key_head * hd, self.widths.key);
        self.put(&self.dv, &buffers.dv, segment.start * self.widths.key + key_head * hd, self.widths.key);
    }

    /// Writes rows of a head, `row` apart, the first at `at`.
    #[expect(unsafe_code, reason = "threads write the heads of a row")]
    fn put(&self, target: &Disjoint<f32>, rows: &[f32], at: usize, row: usize) {
        for (index, values) in rows.chunks_exact(self.heads.dim).enumerate() {
            let at = at + index * row;
            // SAFETY: no other task has this row and head.
            unsafe { target.part(at..at + values.len()) }.copy_from_slice(values);
        }
    }

    /// One tile of query rows: with P the probabilities and D = rowsum(dO o O),
    /// `dV += P^T dO`, `dS = scale P o (dO V^T - D)`, `dQ = dS K`, `dK += dS^T Q`.
    fn tile(&self, segment: &Range<usize>, tile: Range<usize>, head: usize, key_head: usize, b: &mut Buffers) {
        let (hd, length, rows) = (self.heads.dim, segment.len(), tile.len());
        // Keys from `from` on are seen by some row.
        let from = self.heads.first_seen(tile.start - segment.start);
        let keys = tile.end - segment.start - from;
        let (at, key_at) =
            (tile.start * self.widths.query + head * hd, (segment.start + from) * self.widths.key + key_head * hd);
        let (row, key_row) = (self.widths.query, self.widths.key);
        b.probs.resize(rows * keys, 0.0);
        b.dscores.resize(rows * keys, 0.0);
        b.dq.resize(rows * hd, 0.0);
        let square = Size { m: rows, n: keys, k: hd };
        let left = |data| Left { data, row, step: 1 };
        gemm(square, left(&self.q[at..]), Right::rows(&b.keys[from..], length), &mut b.probs, keys, Start::Zero);
        gemm(square, left(&self.dout[at..]), Right::rows(&b.values[from..], length), &mut b.dscores, keys, Start::Zero);
        let visible = Visible::Causal { first: tile.start - segment.start + 1 - from };
        let lines = b.probs.chunks_exact_mut(keys).zip(b.dscores.chunks_exact_mut(keys));
        for (r, (probs, dscores)) in lines.enumerate().take(rows) {
            let seen = visible.of(r, keys, self.heads);
            for line in [&mut *probs, &mut *dscores] {
                line[..seen.start].fill(0.0);
                line[seen.end..].fill(0.0);
            }
            let (probs, dscores) = (&mut probs[seen.clone()], &mut dscores[seen]);
            let place = at + r * row..at + r * row + hd;
            let (out, dout) = (&self.out[place.clone()], &self.dout[place]);
            match self.heads.softcap {
                None => score_gradient(probs, dscores, self.heads.scale(), out, dout),
                Some(cap) => {
                    simd::soft_cap(probs, self.heads.scale() / cap, cap);
                    b.slopes.resize(probs.len(), 0.0);
                    simd::soft_cap_slopes(probs, cap, &mut b.slopes);
                    score_gradient(probs, dscores, 1.0, out, dout);
                    simd::scale(dscores, self.heads.scale());
                    simd::multiply(dscores, &b.slopes);
                }
            }
        }
        let by_query = Size { m: rows, n: hd, k: keys };
        let dscores = Left { data: &b.dscores, row: keys, step: 1 };
        gemm(by_query, dscores, Right::rows(&self.k[key_at..], key_row), &mut b.dq, hd, Start::Zero);
        self.put(&self.dq, &b.dq, at, row);
        let by_key = Size { m: keys, n: hd, k: rows };
        let turned = |data| Left { data, row: 1, step: keys };
        let (q, dout) = (Right::rows(&self.q[at..], row), Right::rows(&self.dout[at..], row));
        gemm(by_key, turned(&b.dscores), q, &mut b.dk[from * hd..], hd, Start::Add);
        gemm(by_key, turned(&b.probs), dout, &mut b.dv[from * hd..], hd, Start::Add);
    }
}

vectorised! {
    /// Scores become probabilities, and their gradients `dO V^T` become those of the scores before they were multiplied by
    /// `scale`.
    fn score_gradient(probs: &mut [f32], dscores: &mut [f32], scale: f32, out: &[f32], dout: &[f32]) {
        let delta = simd::dot(out, dout);
        let inverse = 1.0 / simd::softmax_numerators(probs, scale);
        for (p, d) in probs.iter_mut().zip(dscores.iter_mut()) {
            *p *= inverse;
            *d = *p * (*d - delta) * scale;
        }
    }
}
