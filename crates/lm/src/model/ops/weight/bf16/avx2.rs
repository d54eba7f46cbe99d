//! Few rows times a panel of bf16 pairs, widened in registers.

#![expect(unsafe_code, reason = "vector loads and stores through pointers")]

use super::super::super::gemm::{Left, Size, Start};
use super::super::STRIP;
use super::{BLOCK_ROWS, Strips};
use std::arch::x86_64::*;

/// Blocks whose sums, a pair of widened vectors and a broadcast number stay in the sixteen registers: a row of 6 vectors, 2 rows of
/// 4, or up to 4 rows of 2.
///
/// # Safety
/// The processor has AVX2 and FMA; a and the strips hold the elements that `size` names, and `c` points to the rows of the output; it
/// is read only to add to it.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn tile(size: Size, a: Left, strips: Strips, c: *mut f32, c_row: usize, start: Start) {
    // A strip serves all blocks of rows before the next; few rows take several strips at once.
    let step = [48, 48, 32, 16][size.m.min(3)];
    for j in (0..size.n).step_by(step) {
        for i in (0..size.m).step_by(BLOCK_ROWS) {
            let rows = BLOCK_ROWS.min(size.m - i);
            let block = Block {
                k: size.k,
                columns: step.min(size.n - j),
                a: a.data.as_ptr().wrapping_add(i * a.row),
                a_row: a.row,
                strips: strips.data.as_ptr().wrapping_add(j * strips.pairs),
                strip: STRIP * strips.pairs,
                start: match start {
                    Start::Bias(bias) => Start::Bias(&bias[j..]),
                    other => other,
                },
                c: c.wrapping_add(i * c_row + j),
                c_row,
            };
            // SAFETY: the block lies inside the tile, of which the caller promises the same; arms fit its rows and vectors.
            unsafe {
                match (rows, block.columns.div_ceil(STRIP)) {
                    (1, 1) => block.run::<1, 2>(),
                    (1, 2) => block.run::<1, 4>(),
                    (1, _) => block.run::<1, 6>(),
                    (2, 1) => block.run::<2, 2>(),
                    (2, _) => block.run::<2, 4>(),
                    (3, _) => block.run::<3, 2>(),
                    _ => block.run::<4, 2>(),
                }
            }
        }
    }
}

/// A block of the output and what it is made of.
struct Block<'a> {
    k: usize,
    columns: usize,
    a: *const f32,
    a_row: usize,
    strips: *const u32,
    /// From a strip to the next.
    strip: usize,
    start: Start<'a>,
    c: *mut f32,
    c_row: usize,
}

impl Block<'_> {
    /// M rows of N vectors, of which the last ones may be cut short by `columns`.
    ///
    /// # Safety
    /// As for [`tile`].
    #[target_feature(enable = "avx2,fma")]
    unsafe fn run<const M: usize, const N: usize>(&self) {
        let high = _mm256_set1_epi32(0xffff_0000_u32 as i32);
        // SAFETY: pairs of whole vectors lie in the strips, numbers of a in its rows; bias and output are touched as far as there are
        // columns.
        unsafe {
            let mut sums = [[_mm256_setzero_ps(); N]; M];
            for (i, row) in sums.iter_mut().enumerate() {
                for (v, sum) in row.iter_mut().enumerate() {
                    *sum = match self.start {
                        Start::Zero => _mm256_setzero_ps(),
                        Start::Bias(bias) => load(bias.as_ptr().wrapping_add(8 * v), self.columns, v),
                        Start::Add => load(self.c.wrapping_add(i * self.c_row + 8 * v), self.columns, v),
                    };
                }
            }
            let left: [*const f32; M] = std::array::from_fn(|i| self.a.wrapping_add(i * self.a_row));
            let right: [*const u32; N] =
                std::array::from_fn(|v| self.strips.wrapping_add(v / 2 * self.strip + v % 2 * 8));
            for p in 0..self.k / 2 {
                for v in 0..N {
                    let pair = _mm256_loadu_si256(right[v].wrapping_add(STRIP * p).cast());
                    let even = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pair));
                    for (row, left) in sums.iter_mut().zip(left) {
                        row[v] = _mm256_fmadd_ps(_mm256_broadcast_ss(&*left.add(2 * p)), even, row[v]);
                    }
                    let odd = _mm256_castsi256_ps(_mm256_and_si256(pair, high));
                    for (row, left) in sums.iter_mut().zip(left) {
                        row[v] = _mm256_fmadd_ps(_mm256_broadcast_ss(&*left.add(2 * p + 1)), odd, row[v]);
                    }
                }
            }
            if self.k % 2 == 1 {
                for v in 0..N {
                    let pair = _mm256_loadu_si256(right[v].wrapping_add(STRIP * (self.k / 2)).cast());
                    let even = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pair));
                    for (row, left) in sums.iter_mut().zip(left) {
                        row[v] = _mm256_fmadd_ps(_mm256_broadcast_ss(&*left.add(self.k - 1)), even, row[v]);
                    }
                }
            }
            for (i, row) in sums.iter().enumerate() {
                for (v, sum) in row.iter().enumerate() {
                    store(self.c.wrapping_add(i * self.c_row + 8 * v), self.columns, v, *sum);
                }
            }
        }
    }
}

/// Lanes of vector `v` that are columns.
#[target_feature(enable = "avx2,fma")]
fn mask(columns: usize, v: usize) -> __m256i {
    let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    _mm256_cmpgt_epi32(_mm256_set1_epi32(columns as i32 - 8 * v as i32), lanes)
}

/// Vector `v` as far as there are columns. Masked loads and stores are slow, and seldom needed.
///
/// # Safety
/// The columns can be read.
#[target_feature(enable = "avx2,fma")]
unsafe fn load(from: *const f32, columns: usize, v: usize) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe { if columns >= 8 * (v + 1) { _mm256_loadu_ps(from) } else { _mm256_maskload_ps(from, mask(columns, v)) } }
}

/// Writes vector `v` as far as there are columns.
///
/// # Safety
/// The columns can be written.
#[target_feature(enable = "avx2,fma")]
unsafe fn store(to: *mut f32, columns: usize, v: usize, vector: __m256) {
    // SAFETY: the caller's promise.
    unsafe {
        match columns >= 8 * (v + 1) {
            true => _mm256_storeu_ps(to, vector),
            false => _mm256_maskstore_ps(to, mask(columns, v), vector),
        }
    }
}
