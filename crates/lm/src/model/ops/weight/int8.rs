//! Weights as whole numbers of 8 bits, and the product with activations that are whole numbers too.
//!
//! 128 inputs of an output share a scale, `max |w| / 127`, and so do 128 inputs of a row of activations, `max |x| / 32767`, or
//! `max |x| / 127` where the processor has dot products of bytes. Products of a group are summed exactly, then scaled and added in f32,
//! group after group.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod vnni;

use super::super::gemm::Start;
use super::super::isa::Isa;
use super::super::lines::Lines;
use super::super::simd::{self, LANES, vectorised};
use super::super::wide;
use super::{PACKING, STRIP, fill, panels_of};
use std::ops::Range;

/// Inputs that share a scale. The largest sum, 128 x 127 x 32767, fits into 32 bits.
pub const GROUP: usize = 128;
const LARGEST_WEIGHT: f32 = 127.0;
const LARGEST_WORD: f32 = 32767.0;
const LARGEST_BYTE: f32 = 127.0;
/// What a byte of an activation is larger than its value: dot products take bytes without a sign.
const OFFSET: i32 = 128;
/// Inputs that lie side by side.
const QUAD: usize = 4;
/// Quads of a group.
const QUADS: usize = GROUP / QUAD;
/// Groups between two visits of a block of the output, where there are more rows than one block has: that much of a strip stays in the
/// first cache level.
const DEPTH_GROUPS: usize = 4;
/// Rows of one block.
const BLOCK_ROWS: usize = 4;

/// Strips of 16 outputs, each `[in / 4, 16, 4]`, the inputs filled up with zeros to fours; and scales, each strip's `[groups, 16]`.
pub struct Int8Strips {
    data: Lines<i8>,
    scales: Lines<f32>,
    /// What sums start from where activations are bytes: -128 times the sum of a group's weights, laid out like scales.
    offsets: Lines<i32>,
    inputs: usize,
    isa: Isa,
}

/// Strips that follow each other, `quads` steps each: quad q of column j lies at `((j / 16 * quads + q) * 16 + j % 16) * 4`, the scale
/// and the offset of its group g at `(j / 16 * groups + g) * 16 + j % 16`.
#[derive(Clone, Copy)]
pub struct Strips<'a> {
    data: &'a [i8],
    scales: &'a [f32],
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "VNNI alone reads them"))]
    offsets: &'a [i32],
    quads: usize,
    groups: usize,
}

/// Rows of activations as [`Int8Strips::quantise`] makes them: words or bytes `[rows, quads, 4]`, scales `[rows, groups]`.
#[derive(Default)]
pub struct Quants {
    words: Lines<i16>,
    bytes: Lines<u8>,
    scales: Lines<f32>,
}

/// The output of a tile: rows of `columns` elements, `row` apart.
#[derive(Clone, Copy)]
pub struct Target {
    to: *mut f32,
    row: usize,
    columns: usize,
}

impl Int8Strips {
    /// From the rows of a weight `[out, in]`, for an instruction set that is here.
    pub fn new(isa: Isa, w: &[f32], outputs: usize, inputs: usize) -> Int8Strips {
        let (quads, groups, padded) = (inputs.div_ceil(QUAD), inputs.div_ceil(GROUP), outputs.next_multiple_of(STRIP));
        let mut data = Lines::zeros(padded * quads * QUAD);
        let mut scales = Lines::zeros(padded * groups);
        wide::share_rows(&mut scales, STRIP * groups, inputs * STRIP, |first, scales| {
            let rows = w[first * STRIP * inputs..].chunks(STRIP * inputs.max(1));
            for (scales, rows) in scales.chunks_mut(STRIP * groups).zip(rows) {
                for (column, row) in rows.chunks(inputs).enumerate() {
                    for (group, values) in row.chunks(GROUP).enumerate() {
                        scales[group * STRIP + column] = largest(values) / LARGEST_WEIGHT;
                    }
                }
            }
        });
        wide::share_rows(&mut data, STRIP * quads * QUAD, PACKING * inputs * STRIP, |first, strips| {
            let rows = w[first * STRIP * inputs..].chunks(STRIP * inputs.max(1));
            let scales = scales[first * STRIP * groups..].chunks(STRIP * groups);
            for ((strip, rows), scales) in strips.chunks_mut(STRIP * quads * QUAD).zip(rows).zip(scales) {
                pack(rows, inputs, scales, strip);
            }
        });
        let offsets = if takes_bytes(isa) { offsets(&data, quads, groups) } else { Lines::default() };
        Int8Strips { data, scales, offsets, inputs, isa }
    }

    fn quads(&self) -> usize {
        self.inputs.div_ceil(QUAD)
    }

    fn groups(&self) -> usize {
        self.inputs.div_ceil(GROUP)
    }

    /// From this output on, which begins a strip.
    fn strips(&self, first: usize) -> Strips<'_> {
        let (quads, groups) = (self.quads(), self.groups());
        let offsets = if takes_bytes(self.isa) { &self.offsets[first * groups..] } else { &[] };
        Strips {
            data: &self.data[first * quads * QUAD..],
            scales: &self.scales[first * groups..],
            offsets,
            quads,
            groups,
        }
    }

    pub fn unpack(&self, output: usize, row: &mut [f32]) {
        let (strip, column) = (self.strips(output / STRIP * STRIP), output % STRIP);
        for (i, value) in row.iter_mut().enumerate() {
            let quant = strip.data[(i / QUAD * STRIP + column) * QUAD + i % QUAD];
            *value = f32::from(quant) * strip.scales[i / GROUP * STRIP + column];
        }
    }

    /// Rows of x, `[rows, in]`, as products take them.
    pub fn quantise(&self, x: &[f32], quants: &mut Quants) {
        let (rows, length) = (x.len() / self.inputs.max(1), self.quads() * QUAD);
        quants.scales.resize(rows * self.groups());
        if takes_bytes(self.isa) {
            quants.bytes.resize(rows * length);
            self.each_group(x, &mut quants.bytes, &mut quants.scales, bytes_of_group);
        } else {
            quants.words.resize(rows * length);
            self.each_group(x, &mut quants.words, &mut quants.scales, words_of_group);
        }
    }

    fn each_group<T>(&self, x: &[f32], values: &mut [T], scales: &mut [f32], of_group: fn(&[f32], &mut [T]) -> f32) {
        let targets = values.chunks_exact_mut(self.quads() * QUAD).zip(scales.chunks_exact_mut(self.groups()));
        for (row, (values, scales)) in x.chunks_exact(self.inputs).zip(targets) {
            for ((group, values), scale) in row.chunks(GROUP).zip(values.chunks_mut(GROUP)).zip(scales) {
                *scale = of_group(group, values);
            }
        }
    }

    /// The product over some columns.
    ///
    /// # Safety
    /// `out` points to `rows` rows of as many elements as there are columns, `width` apart, that nobody else reads or writes
    /// meanwhile; x was made by [`Int8Strips::quantise`] of as many rows.
    #[expect(unsafe_code, reason = "writes through a pointer")]
    pub unsafe fn product(
        &self,
        x: &Quants,
        rows: usize,
        columns: Range<usize>,
        start: Start,
        out: *mut f32,
        width: usize,
    ) {
        let values = if takes_bytes(self.isa) { x.bytes.len() } else { x.words.len() };
        assert!(values >= rows * self.quads() * QUAD && x.scales.len() >= rows * self.groups(), "{rows} rows");
        let groups = if rows > BLOCK_ROWS { DEPTH_GROUPS } else { self.groups() };
        for (offset, columns, start) in panels_of(columns, start) {
            let target = Target { to: out.wrapping_add(offset), row: width, columns: columns.len() };
            let strips = self.strips(columns.start);
            // SAFETY: the panel's columns lie inside those that the caller vouches for.
            unsafe {
                fill(rows, target.columns, target.to, width, start);
                for first in (0..self.groups()).step_by(groups.max(1)) {
                    let groups = first..self.groups().min(first + groups);
                    match self.isa {
                        #[cfg(target_arch = "x86_64")]
                        Isa::Avx2 | Isa::Avx512 => avx2::tile(rows, x, strips, groups, target),
                        #[cfg(target_arch = "x86_64")]
                        Isa::Bf16 => vnni::tile(rows, x, strips, groups, target),
                        #[cfg(target_arch = "x86_64")]
                        Isa::Amx => amx::tile(rows, x, strips, groups, target),
                        _ => tile_portable(rows, x, strips, groups, target),
                    }
                }
            }
        }
    }
}

/// Adds the product over some groups to the target, in plain code.
///
/// # Safety
/// The target may be written.
#[expect(unsafe_code, reason = "writes through a pointer")]
unsafe fn tile_portable(rows: usize, x: &Quants, strips: Strips, groups: Range<usize>, target: Target) {
    let length = strips.quads * QUAD;
    for row in 0..rows {
        // SAFETY: the caller's promise.
        let line = unsafe { std::slice::from_raw_parts_mut(target.to.add(row * target.row), target.columns) };
        for (index, line) in line.chunks_mut(STRIP).enumerate() {
            for group in groups.clone() {
                let scale = x.scales[row * strips.groups + group];
                let values = &x.words[row * length + group * GROUP..row * length + length.min((group + 1) * GROUP)];
                let weights = &strips.data[(index * length + group * GROUP) * STRIP..];
                let mut sums = [0i32; STRIP];
                for (values, weights) in values.chunks_exact(QUAD).zip(weights.chunks_exact(STRIP * QUAD)) {
                    for (sum, weights) in sums.iter_mut().zip(weights.chunks_exact(QUAD)) {
                        for (value, weight) in values.iter().zip(weights) {
                            *sum += i32::from(*value) * i32::from(*weight);
                        }
                    }
                }
                let scales = &strips.scales[(index * strips.groups + group) * STRIP..];
                for ((out, sum), own) in line.iter_mut().zip(sums).zip(scales) {
                    *out = (sum as f32).mul_add(scale * own, *out);
                }
            }
        }
    }
}

/// Writes up to 16 rows of a weight as a strip.
fn pack(rows: &[f32], inputs: usize, scales: &[f32], strip: &mut [i8]) {
    for (column, row) in rows.chunks(inputs).enumerate() {
        for (group, values) in row.chunks(GROUP).enumerate() {
            let scale = scales[group * STRIP + column];
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            let steps = strip[group * GROUP * STRIP..].chunks_exact_mut(STRIP * QUAD);
            for (step, values) in steps.zip(values.chunks(QUAD)) {
                for (target, value) in step[column * QUAD..].iter_mut().zip(values) {
                    *target = (value * inverse).round_ties_even() as i8;
                }
            }
        }
    }
}

/// Activations are bytes.
fn takes_bytes(isa: Isa) -> bool {
    isa >= Isa::Bf16
}

/// What sums over strips of so many quads start from, where activations are bytes.
fn offsets(data: &[i8], quads: usize, groups: usize) -> Lines<i32> {
    let strips = data.chunks(quads.max(1) * STRIP * QUAD);
    let mut all = Lines::zeros(strips.len() * groups * STRIP);
    let of_groups = strips.flat_map(|strip| strip.chunks(QUADS * STRIP * QUAD));
    for (group, offsets) in of_groups.zip(all.chunks_exact_mut(STRIP)) {
        for step in group.chunks_exact(STRIP * QUAD) {
            for (offset, weights) in offsets.iter_mut().zip(step.chunks_exact(QUAD)) {
                *offset -= OFFSET * weights.iter().map(|weight| i32::from(*weight)).sum::<i32>();
            }
        }
    }
    all
}

/// The largest size of these numbers; not a number if one of them is not finite.
fn largest(x: &[f32]) -> f32 {
    let most = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    if x.iter().all(|x| x.is_finite()) { most } else { f32::NAN }
}

vectorised! {
    /// Rounds numbers to whole ones of 16 bits; returns their scale, which is not finite if one of them is not.
    fn words_of_group(x: &[f32], values: &mut [i16]) -> f32 {
        let (scale, inverse) = scale_of_group(x, LARGEST_WORD);
        values[x.len()..].fill(0);
        for (x, value) in x.iter().zip(values) {
            *value = (x * inverse).round_ties_even() as i16;
        }
        scale
    }
}

vectorised! {
    /// Rounds numbers to whole ones of 8 bits, and adds 128; returns their scale, which is not finite if one of them is not.
    fn bytes_of_group(x: &[f32], values: &mut [u8]) -> f32 {
        let (scale, inverse) = scale_of_group(x, LARGEST_BYTE);
        // Whatever meets no weight, meets zeros.
        values[x.len()..].fill(0);
        for (x, value) in x.iter().zip(values) {
            *value = ((x * inverse).round_ties_even() as i32 + OFFSET) as u8;
        }
        scale
    }
}

/// The scale that makes the largest of these numbers so large, and its inverse, 0 where it would not be finite.
#[inline(always)]
fn scale_of_group(x: &[f32], largest: f32) -> (f32, f32) {
    let mut most = [0.0f32; LANES];
    let mut wrong = [0.0f32; LANES];
    for block in x.chunks(LANES) {
        for ((x, most), wrong) in block.iter().zip(&mut most).zip(&mut wrong) {
            *most = if x.abs() > *most { x.abs() } else { *most };
            *wrong += x * 0.0;
        }
    }
    let scale = simd::max(&most) / largest + simd::join(wrong);
    (scale, if scale >= f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 })
}
