//! Weights in bf16. Products widen them to f32 on the way from memory to the sums, and then do what the f32 kernel does, so they have
//! its bits on rounded weights.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use super::super::gemm::{Left, PANEL, Right, Size, Start, product_at};
use super::super::isa::Isa;
use super::super::wide;
use super::{PACKING, STRIP, panels_of};
use half::bf16;
use std::ops::Range;

/// Inputs between two visits of a block of the output, where there are more rows than one block has: that much of a strip stays in the
/// first cache level.
const DEPTH: usize = 512;
/// Rows of one block.
const BLOCK_ROWS: usize = 4;

/// Strips of 16 outputs, each `[in / 2, 16]` of pairs of inputs, the first in the low half; an odd number of inputs is filled up with
/// zeros. It is the layout in which dot products of pairs are taken; a strip is read from memory in one stream.
pub struct Bf16Strips {
    data: Vec<u32>,
    inputs: usize,
}

/// Strips that follow each other, `pairs` steps each: pair p of column j lies at `(j / 16 * pairs + p) * 16 + j % 16`.
#[derive(Clone, Copy)]
pub struct Strips<'a> {
    data: &'a [u32],
    pairs: usize,
}

impl Bf16Strips {
    /// From the rows of a weight `[out, in]`, rounded to the nearest, ties to even.
    pub fn new(w: &[f32], outputs: usize, inputs: usize) -> Bf16Strips {
        let pairs = inputs.div_ceil(2);
        let mut data = vec![0; outputs.next_multiple_of(STRIP) * pairs];
        wide::share_rows(&mut data, pairs * STRIP, PACKING * inputs * STRIP, |first, strips| {
            let rows = w[first * STRIP * inputs..].chunks(STRIP * inputs.max(1));
            strips.chunks_mut(pairs * STRIP).zip(rows).for_each(|(strip, rows)| pack(rows, inputs, strip));
        });
        Bf16Strips { data, inputs }
    }

    /// From this output on, which begins a strip.
    fn strips(&self, first: usize) -> Strips<'_> {
        let pairs = self.inputs.div_ceil(2);
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

    /// The product over some columns.
    ///
    /// # Safety
    /// `out` points to `rows` rows of as many elements as there are columns, `width` apart, that nobody else reads or writes
    /// meanwhile; x has `rows` rows.
    #[expect(unsafe_code, reason = "writes through a pointer")]
    pub unsafe fn product(
        &self,
        x: &[f32],
        rows: usize,
        columns: Range<usize>,
        start: Start,
        out: *mut f32,
        width: usize,
    ) {
        assert!(x.len() >= rows * self.inputs, "{rows} rows of {}", self.inputs);
        let isa = Isa::current();
        let depth = if rows > BLOCK_ROWS { DEPTH } else { self.inputs.max(1) };
        for (offset, columns, start) in panels_of(columns, start) {
            let strips = self.strips(columns.start);
            for p in (0..self.inputs.max(1)).step_by(depth) {
                let size = Size { m: rows, n: columns.len(), k: depth.min(self.inputs - p) };
                let left = Left { data: &x[p.min(x.len())..], row: self.inputs, step: 1 };
                let strips = Strips { data: &strips.data[p / 2 * STRIP..], ..strips };
                let start = if p > 0 { Start::Add } else { start };
                // SAFETY: the panel's columns lie inside those that the caller vouches for.
                unsafe {
                    let out = out.add(offset);
                    match isa {
                        #[cfg(target_arch = "x86_64")]
                        Isa::Avx2 => avx2::tile(size, left, strips, out, width, start),
                        #[cfg(target_arch = "x86_64")]
                        Isa::Avx512 => avx512::tile(size, left, strips, out, width, start),
                        Isa::Portable => tile_portable(size, left, strips, out, width, start),
                    }
                }
            }
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

/// Writes up to 16 rows of a weight as a strip.
fn pack(rows: &[f32], inputs: usize, strip: &mut [u32]) {
    let bits = |value: f32| u32::from(bf16::from_f32(value).to_bits());
    for (column, row) in rows.chunks(inputs).enumerate() {
        for (step, values) in strip.chunks_exact_mut(STRIP).zip(row.chunks(2)) {
            step[column] = bits(values[0]) | values.get(1).map_or(0, |odd| bits(*odd) << 16);
        }
    }
}

/// The two numbers of a pair.
#[inline(always)]
fn widened(pair: u32) -> (f32, f32) {
    (f32::from_bits(pair << 16), f32::from_bits(pair & 0xffff_0000))
}
