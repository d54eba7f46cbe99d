//! Weights in bf16. Products widen them to f32 on the way from memory to the sums, and then do what the f32 kernel does, so they have
//! its bits on rounded weights. Where the processor has dot products of bf16 pairs, activations are rounded too, and sums of f32 take the
//! exact products of pairs.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512bf16;

use super::super::factor::Matrix;
use super::super::gemm::{Left, PANEL, Right, Size, Start, product_at};
use super::super::isa::Isa;
use super::super::linear::transpose;
use super::super::lines::Lines;
use super::super::simd::vectorised;
use super::super::wide;
use super::{PACKING, STRIP, panels_of};
use half::bf16;
use std::ops::Range;

/// Inputs between two visits of a block of the output, where there are more rows than one block has: that much of a strip stays in the
/// first cache level.
const DEPTH: usize = 512;
/// Rows of one block.
const BLOCK_ROWS: usize = 4;
/// The same where products of pairs are taken.
const DOT_ROWS: usize = 8;
/// Rows of a tile register.
const TILE_ROWS: usize = 16;
/// Pairs of a row of a tile register.
const TILE_PAIRS: usize = 16;

/// Strips of 16 outputs, each `[in / 2, 16]` of pairs of inputs, the first in the low half; inputs are filled up with zeros to whole tiles of
/// 16 pairs. It is the layout in which dot products of pairs are taken; a strip is read from memory in one stream.
pub struct Bf16Strips {
    data: Lines<u32>,
    inputs: usize,
    isa: Isa,
}

/// Strips that follow each other, `pairs` steps each: pair p of column j lies at `(j / 16 * pairs + p) * 16 + j % 16`.
#[derive(Clone, Copy)]
pub struct Strips<'a> {
    data: &'a [u32],
    pairs: usize,
}

/// Rows of activations: x `[rows, in]`, and the same in pairs as [`Bf16Strips::round`] makes them.
#[derive(Clone, Copy)]
pub struct Activations<'a> {
    pub x: &'a [f32],
    pub pairs: &'a [u32],
}

/// Rows of pairs of activations, `row` apart.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub struct Pairs<'a> {
    data: &'a [u32],
    row: usize,
}

impl Bf16Strips {
    /// From the rows of a weight `[out, in]`, rounded to the nearest, ties to even, for an instruction set that is here.
    pub fn new(isa: Isa, w: Matrix, outputs: usize, inputs: usize) -> Bf16Strips {
        let pairs = pairs_of(inputs);
        let mut data = Lines::zeros(outputs.next_multiple_of(STRIP) * pairs);
        if inputs > 0 {
            wide::share_rows(&mut data, pairs * STRIP, PACKING * inputs * STRIP, |first, strips| {
                let mut rows = vec![0; STRIP * pairs];
                for (index, strip) in strips.chunks_mut(pairs * STRIP).enumerate() {
                    let outputs = (first + index) * STRIP..outputs.min((first + index + 1) * STRIP);
                    for (output, row) in outputs.clone().zip(rows.chunks_exact_mut(pairs)) {
                        pairs_of_row(w.rows(output, 1, inputs), row);
                    }
                    transpose(&rows[..outputs.len() * pairs], pairs, strip);
                }
            });
        }
        Bf16Strips { data, inputs, isa }
    }

    /// From a matrix `[inputs, outputs]`: the transpose of such a weight.
    pub fn of_rows(isa: Isa, w: Matrix, inputs: usize, outputs: usize) -> Bf16Strips {
        let pairs = pairs_of(inputs);
        let mut data = Lines::zeros(outputs.next_multiple_of(STRIP) * pairs);
        let lay_out = |first: usize, strips: &mut [u32]| {
            let columns = first * STRIP..outputs.min(first * STRIP + strips.len() / pairs);
            let part = |row: usize| w.rows(row, 1, outputs).rows(columns.start, columns.len(), 1);
            let mut line = vec![0; columns.len()];
            for pair in 0..inputs.div_ceil(2) {
                let odd = (2 * pair + 1 < inputs).then(|| part(2 * pair + 1));
                pairs_of_rows(part(2 * pair), odd, &mut line);
                for (strip, line) in strips.chunks_exact_mut(pairs * STRIP).zip(line.chunks(STRIP)) {
                    strip[pair * STRIP..][..line.len()].copy_from_slice(line);
                }
            }
        };
        if inputs > 0 {
            wide::share_rows(&mut data, pairs * STRIP, PACKING * inputs * STRIP, lay_out);
        }
        Bf16Strips { data, inputs, isa }
    }

    fn pairs(&self) -> usize {
        pairs_of(self.inputs)
    }

    /// Products are taken of pairs of rounded activations.
    pub fn takes_pairs(&self) -> bool {
        self.isa >= Isa::Bf16
    }

    /// From this output on, which begins a strip.
    fn strips(&self, first: usize) -> Strips<'_> {
        let pairs = self.pairs();
        Strips { data: &self.data[first * pairs..], pairs }
    }

    pub fn unpack(&self, output: usize, row: &mut [f32]) {
        let strip = self.strips(output / STRIP * STRIP);
        for (values, pairs) in row.chunks_mut(2).zip(strip.data.chunks_exact(STRIP)) {
            let (even, odd) = widened(pairs[output % STRIP]);
            values[0] = even;
            values[1..].fill(odd);
        }
    }

    /// Elements of so many rows of pairs.
    pub fn pairs_len(&self, rows: usize) -> usize {
        if self.takes_pairs() { rows * self.pairs() } else { 0 }
    }

    /// Rows of x, `[rows, in]`, as pairs filled up like those of a strip, where products take them so: [`Bf16Strips::pairs_len`] of
    /// them.
    pub fn round(&self, x: &[f32], pairs: &mut [u32]) {
        if self.takes_pairs() && self.inputs > 0 {
            wide::share_rows(pairs, self.pairs(), PACKING * self.inputs, |first, pairs| {
                let rows = x[first * self.inputs..].chunks_exact(self.inputs);
                rows.zip(pairs.chunks_exact_mut(self.pairs())).for_each(|(row, pairs)| round_row(row, pairs));
            });
        }
    }

    /// The same of the transpose of x, `[in, rows]`.
    pub fn round_columns(&self, x: &[f32], rows: usize, pairs: &mut [u32]) {
        wide::share_rows(pairs, self.pairs(), PACKING * self.inputs, |first, pairs| {
            let mut tile = [0; STRIP * TILE_PAIRS];
            for (index, pairs) in pairs.chunks_mut(STRIP * self.pairs()).enumerate() {
                let (column, count) = (first + index * STRIP, pairs.len() / self.pairs());
                let part = |row: usize| Matrix::F32(&x[row * rows + column..][..count]);
                for begin in (0..self.pairs()).step_by(TILE_PAIRS) {
                    tile.fill(0);
                    for (step, line) in tile.chunks_exact_mut(STRIP).enumerate() {
                        let row = 2 * (begin + step);
                        if row < self.inputs {
                            pairs_of_rows(
                                part(row),
                                (row + 1 < self.inputs).then(|| part(row + 1)),
                                &mut line[..count],
                            );
                        }
                    }
                    for (column, pairs) in pairs.chunks_exact_mut(self.pairs()).enumerate() {
                        let line = tile[column..].iter().step_by(STRIP);
                        pairs[begin..begin + TILE_PAIRS].iter_mut().zip(line).for_each(|(pair, x)| *pair = *x);
                    }
                }
            }
        });
    }

    /// The pairs of rounded rows from this one on.
    pub fn pairs_from<'a>(&self, pairs: &'a [u32], row: usize) -> &'a [u32] {
        &pairs[(row * self.pairs()).min(pairs.len())..]
    }

    /// The product over some columns.
    ///
    /// # Safety
    /// `out` points to `rows` rows of as many elements as there are columns, `width` apart, that nobody else reads or writes
    /// meanwhile; x has `rows` rows, of which the pairs were made.
    #[expect(unsafe_code, reason = "writes through a pointer")]
    pub unsafe fn product(
        &self,
        Activations { x, pairs }: Activations,
        rows: usize,
        columns: Range<usize>,
        start: Start,
        out: *mut f32,
        width: usize,
    ) {
        assert!(x.len() >= rows * self.inputs, "{rows} rows of {}", self.inputs);
        assert!(!self.takes_pairs() || pairs.len() >= rows * self.pairs(), "{rows} rows of {} pairs", self.pairs());
        let block = match self.isa {
            Isa::Amx => TILE_ROWS,
            Isa::Bf16 => DOT_ROWS,
            _ => BLOCK_ROWS,
        };
        let depth = if rows > block { DEPTH } else { self.inputs.max(1) };
        let panel = |p: usize, (offset, columns, start): (usize, Range<usize>, Start)| {
            let size = Size { m: rows, n: columns.len(), k: depth.min(self.inputs - p) };
            let left = Left { data: &x[p.min(x.len())..], row: self.inputs, step: 1 };
            #[cfg(target_arch = "x86_64")]
            let pairs = Pairs { data: &pairs[(p / 2).min(pairs.len())..], row: self.pairs() };
            let strips = self.strips(columns.start);
            let strips = Strips { data: &strips.data[p / 2 * STRIP..], ..strips };
            let start = if p > 0 { Start::Add } else { start };
            // SAFETY: the panel's columns lie inside those that the caller vouches for.
            unsafe {
                let out = out.add(offset);
                match self.isa {
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx2 => avx2::tile(size, left, strips, out, width, start),
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx512 => avx512::tile(size, left, strips, out, width, start),
                    #[cfg(target_arch = "x86_64")]
                    Isa::Bf16 => avx512bf16::tile(size, pairs, strips, out, width, start),
                    #[cfg(target_arch = "x86_64")]
                    Isa::Amx => amx::tile(size, pairs, strips, out, width, start),
                    _ => tile_portable(size, left, strips, out, width, start),
                }
            }
        };
        let steps = (0..self.inputs.max(1)).step_by(depth);
        match self.isa {
            // So fast that activations must come from the second cache level: what a step takes of them is gone through at once.
            Isa::Amx => steps.for_each(|p| panels_of(columns.clone(), start).for_each(|own| panel(p, own))),
            _ => panels_of(columns, start).for_each(|own| steps.clone().for_each(|p| panel(p, own.clone()))),
        }
    }
}

/// The tile in plain code: weights are widened, then multiplied as f32.
///
/// # Safety
/// As for [`Bf16Strips::product`].
#[expect(unsafe_code, reason = "writes through a pointer")]
unsafe fn tile_portable(size: Size, a: Left, strips: Strips, c: *mut f32, c_row: usize, start: Start) {
    let mut wide = vec![0.0; size.k.next_multiple_of(2) * PANEL];
    for (strip, columns) in (0..size.n).step_by(STRIP).enumerate() {
        let pairs = &strips.data[strip * strips.pairs * STRIP..][..size.k.div_ceil(2) * STRIP];
        for (pairs, wide) in pairs.chunks_exact(STRIP).zip(wide.chunks_exact_mut(2 * PANEL)) {
            for (column, pair) in pairs.iter().enumerate() {
                (wide[columns + column], wide[PANEL + columns + column]) = widened(*pair);
            }
        }
    }
    // SAFETY: the caller vouches for the output.
    unsafe { product_at(size, a, Right::rows(&wide, PANEL), c, c_row, start) }
}

/// Pairs of so many inputs, in whole tiles.
fn pairs_of(inputs: usize) -> usize {
    inputs.div_ceil(2).next_multiple_of(TILE_PAIRS)
}

/// Pairs along a row, filled up with zeros.
fn pairs_of_row(row: Matrix, pairs: &mut [u32]) {
    match row {
        Matrix::F32(row) => round_row(row, pairs),
        Matrix::Bf16(row) => {
            pairs.fill(0);
            let bits = |x: &bf16| u32::from(x.to_bits());
            for (pair, both) in pairs.iter_mut().zip(row.chunks(2)) {
                *pair = bits(&both[0]) | both.get(1).map_or(0, bits) << 16;
            }
        }
    }
}

/// Pairs of the elements of two rows; of one and zeros.
fn pairs_of_rows(even: Matrix, odd: Option<Matrix>, pairs: &mut [u32]) {
    match (even, odd) {
        (Matrix::F32(even), Some(Matrix::F32(odd))) => round_rows(even, odd, pairs),
        (Matrix::Bf16(even), Some(Matrix::Bf16(odd))) => {
            let both = even.iter().zip(odd);
            let pair = |(even, odd): (&bf16, &bf16)| u32::from(even.to_bits()) | u32::from(odd.to_bits()) << 16;
            pairs.iter_mut().zip(both).for_each(|(to, both)| *to = pair(both));
        }
        (Matrix::F32(even), _) => pairs.iter_mut().zip(even).for_each(|(to, x)| *to = rounded(*x)),
        (Matrix::Bf16(even), _) => pairs.iter_mut().zip(even).for_each(|(to, x)| *to = u32::from(x.to_bits())),
    }
}

vectorised! {
    /// Rounds a row to pairs, filled up with zeros.
    fn round_row(x: &[f32], pairs: &mut [u32]) {
        let both = x.chunks_exact(2);
        let last = both.remainder();
        for (pair, both) in pairs.iter_mut().zip(both) {
            *pair = rounded(both[0]) | rounded(both[1]) << 16;
        }
        pairs[x.len() / 2..].fill(0);
        if let [even] = last {
            pairs[x.len() / 2] = rounded(*even);
        }
    }
}

vectorised! {
    /// Rounds two rows to pairs.
    fn round_rows(even: &[f32], odd: &[f32], pairs: &mut [u32]) {
        for (pair, (even, odd)) in pairs.iter_mut().zip(even.iter().zip(odd)) {
            *pair = rounded(*even) | rounded(*odd) << 16;
        }
    }
}

/// The bits of the nearest bf16, ties to even; NaN stays NaN. In a form that the compiler vectorises.
#[inline(always)]
fn rounded(x: f32) -> u32 {
    let bits = x.to_bits();
    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if x.is_nan() { bits >> 16 | 0x40 } else { nearest }
}

/// The two numbers of a pair.
#[inline(always)]
fn widened(pair: u32) -> (f32, f32) {
    (f32::from_bits(pair << 16), f32::from_bits(pair & 0xffff_0000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_like_the_type() {
        let mut x: Vec<f32> = (0..1 << 16).map(|i: u32| f32::from_bits(i.wrapping_mul(0x9e37_79b1))).collect();
        x.extend((0..0x300).map(|i| f32::from_bits(0x3f80_0000 + (i << 7))));
        x.extend([f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, -0.0, f32::from_bits(0xffff_ffff), 1.0]);
        let mut pairs = vec![1; x.len().div_ceil(2) + 1];
        round_row(&x, &mut pairs);
        for (i, x) in x.iter().enumerate() {
            let got = bf16::from_bits((pairs[i / 2] >> (i % 2 * 16)) as u16);
            let want = bf16::from_f32(*x);
            assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "{x} gives {got}");
        }
        assert_eq!(pairs[x.len() / 2..], [u32::from(bf16::from_f32(1.0).to_bits()), 0]);
    }
}
