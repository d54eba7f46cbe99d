//! Few rows of bf16 pairs times a panel of them, with the dot products of AVX512-BF16: both products of a pair are added to an f32 sum.

#![expect(unsafe_code, reason = "vector loads and stores through pointers")]

use super::super::super::gemm::{Size, Start};
use super::super::STRIP;
use super::{DOT_ROWS, Pairs, Strips};
use std::arch::x86_64::*;
use std::mem::transmute;

/// Blocks of up to 8 rows of 3 vectors: their sums and what they meet stay in the 32 registers.
///
/// # Safety
/// The processor has AVX-512F and AVX512-BF16; x and the strips hold the pairs that `size` names, and `c` points to the rows of the
/// output; it is read only to add to it.
#[target_feature(enable = "avx512f,avx512bf16")]
pub unsafe fn tile(size: Size, x: Pairs, strips: Strips, c: *mut f32, c_row: usize, start: Start) {
    for i in (0..size.m).step_by(DOT_ROWS) {
        let rows = DOT_ROWS.min(size.m - i);
        let x = Pairs { data: &x.data[(i * x.row).min(x.data.len())..], ..x };
        macro_rules! dispatch {
            ($($rows:literal)*) => {
                // SAFETY: the block lies inside the tile, of which the caller promises the same; each arm has just as many rows and
                // vectors.
                unsafe {
                    let c = c.add(i * c_row);
                    match (rows, size.n.div_ceil(STRIP)) {
                        $(($rows, 1) => run::<$rows, 1>(size, x, strips, c, c_row, start),
                          ($rows, 2) => run::<$rows, 2>(size, x, strips, c, c_row, start),
                          ($rows, 3) => run::<$rows, 3>(size, x, strips, c, c_row, start),)*
                        _ => unreachable!("a block has 1 to 8 rows and 1 to 48 columns"),
                    }
                }
            };
        }
        dispatch!(1 2 3 4 5 6 7 8);
    }
}

/// M rows of N vectors, of which the last may be cut short.
///
/// # Safety
/// As for [`tile`].
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn run<const M: usize, const N: usize>(
    size: Size,
    x: Pairs,
    strips: Strips,
    c: *mut f32,
    c_row: usize,
    start: Start,
) {
    let tail: __mmask16 = if size.n.is_multiple_of(STRIP) { !0 } else { (1 << (size.n % STRIP)) - 1 };
    let mask = |v: usize| if v + 1 == N { tail } else { !0 };
    // SAFETY: whole vectors of pairs lie in the strips, pairs of x in its rows; bias and output are touched under a mask.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); N]; M];
        for (i, row) in sums.iter_mut().enumerate() {
            for (v, sum) in row.iter_mut().enumerate() {
                *sum = match start {
                    Start::Zero => _mm512_setzero_ps(),
                    Start::Bias(bias) => _mm512_maskz_loadu_ps(mask(v), bias.as_ptr().wrapping_add(STRIP * v)),
                    Start::Add => _mm512_maskz_loadu_ps(mask(v), c.wrapping_add(i * c_row + STRIP * v)),
                };
            }
        }
        let left: [*const u32; M] = std::array::from_fn(|i| x.data.as_ptr().wrapping_add(i * x.row));
        let right: [*const u32; N] =
            std::array::from_fn(|v| strips.data.as_ptr().wrapping_add(v * STRIP * strips.pairs));
        for p in 0..size.k.div_ceil(2) {
            let vectors: [__m512bh; N] =
                std::array::from_fn(|v| transmute(_mm512_loadu_si512(right[v].wrapping_add(STRIP * p).cast())));
            for (row, left) in sums.iter_mut().zip(left) {
                let pair: __m512bh = transmute(_mm512_set1_epi32(*left.add(p) as i32));
                for (sum, vector) in row.iter_mut().zip(vectors) {
                    *sum = _mm512_dpbf16_ps(*sum, pair, vector);
                }
            }
        }
        for (i, row) in sums.iter().enumerate() {
            for (v, sum) in row.iter().enumerate() {
                _mm512_mask_storeu_ps(c.add(i * c_row + STRIP * v), mask(v), *sum);
            }
        }
    }
}
