//! Few rows times a panel of bf16 pairs, widened in registers, with AVX-512.

#![expect(unsafe_code, reason = "vector loads and stores through pointers")]

use super::super::super::gemm::{Left, Size, Start};
use super::super::STRIP;
use super::Strips;
use std::arch::x86_64::*;

/// Blocks of up to 6 rows of 3 vectors: their sums and what they meet stay in the 32 registers.
///
/// # Safety
/// The processor has AVX-512F; a and the strips hold the elements that `size` names, and `c` points to the rows of the output; it is
/// read only to add to it.
#[target_feature(enable = "avx512f")]
pub unsafe fn tile(size: Size, a: Left, strips: Strips, c: *mut f32, c_row: usize, start: Start) {
    for i in (0..size.m).step_by(6) {
        let rows = 6.min(size.m - i);
        let a = Left { data: &a.data[i * a.row..], ..a };
        macro_rules! dispatch {
            ($($rows:literal)*) => {
                // SAFETY: the block lies inside the tile, of which the caller promises the same; each arm has just as many rows and
                // vectors.
                unsafe {
                    let c = c.add(i * c_row);
                    match (rows, size.n.div_ceil(16)) {
                        $(($rows, 1) => run::<$rows, 1>(size, a, strips, c, c_row, start),
                          ($rows, 2) => run::<$rows, 2>(size, a, strips, c, c_row, start),
                          ($rows, 3) => run::<$rows, 3>(size, a, strips, c, c_row, start),)*
                        _ => unreachable!("a block has 1 to 6 rows and 1 to 48 columns"),
                    }
                }
            };
        }
        dispatch!(1 2 3 4 5 6);
    }
}

/// M rows of N vectors, of which the last may be cut short.
///
/// # Safety
/// As for [`tile`].
#[target_feature(enable = "avx512f")]
unsafe fn run<const M: usize, const N: usize>(
    size: Size,
    a: Left,
    strips: Strips,
    c: *mut f32,
    c_row: usize,
    start: Start,
) {
    let mask = |v: usize| -> __mmask16 { if size.n >= 16 * (v + 1) { !0 } else { (1 << (size.n - 16 * v)) - 1 } };
    let high = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    // SAFETY: pairs of whole vectors lie in the strips, numbers of a in its rows; bias and output are touched under a mask.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); N]; M];
        for (i, row) in sums.iter_mut().enumerate() {
            for (v, sum) in row.iter_mut().enumerate() {
                *sum = match start {
                    Start::Zero => _mm512_setzero_ps(),
                    Start::Bias(bias) => _mm512_maskz_loadu_ps(mask(v), bias.as_ptr().wrapping_add(16 * v)),
                    Start::Add => _mm512_maskz_loadu_ps(mask(v), c.wrapping_add(i * c_row + 16 * v)),
                };
            }
        }
        let left: [*const f32; M] = std::array::from_fn(|i| a.data.as_ptr().wrapping_add(i * a.row));
        let right: [*const u32; N] =
            std::array::from_fn(|v| strips.data.as_ptr().wrapping_add(v * STRIP * strips.pairs));
        for p in 0..size.k.div_ceil(2) {
            let pairs: [__m512i; N] =
                std::array::from_fn(|v| _mm512_loadu_si512(right[v].wrapping_add(STRIP * p).cast()));
            for (row, left) in sums.iter_mut().zip(left) {
                let value = _mm512_set1_ps(*left.add(2 * p));
                for (sum, pair) in row.iter_mut().zip(pairs) {
                    *sum = _mm512_fmadd_ps(value, _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pair)), *sum);
                }
            }
            if 2 * p + 1 == size.k {
                break;
            }
            for (row, left) in sums.iter_mut().zip(left) {
                let value = _mm512_set1_ps(*left.add(2 * p + 1));
                for (sum, pair) in row.iter_mut().zip(pairs) {
                    *sum = _mm512_fmadd_ps(value, _mm512_castsi512_ps(_mm512_and_si512(pair, high)), *sum);
                }
            }
        }
        for (i, row) in sums.iter().enumerate() {
            for (v, sum) in row.iter().enumerate() {
                _mm512_mask_storeu_ps(c.add(i * c_row + 16 * v), mask(v), *sum);
            }
        }
    }
}
