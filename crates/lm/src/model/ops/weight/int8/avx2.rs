//! Rows of whole numbers times strips of them, with AVX2: products of pairs, summed exactly.

#![expect(unsafe_code, reason = "vector loads and stores through pointers")]

use super::super::STRIP;
use super::{BLOCK_ROWS, QUAD, QUADS, Quants, Strips, Target};
use std::arch::x86_64::*;
use std::ops::Range;

/// Adds the product over some groups to the target, in blocks whose sums stay in the sixteen registers: up to 4 rows of 8 columns, or
/// a row of 16.
///
/// # Safety
/// The processor has AVX2 and FMA; x has as many rows of the strips' length, and the target may be read and written.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn tile(rows: usize, x: &Quants, strips: Strips, groups: Range<usize>, target: Target) {
    // Columns serve all blocks of rows before the next.
    let step = if rows == 1 { STRIP } else { STRIP / 2 };
    for column in (0..target.columns).step_by(step) {
        for first in (0..rows).step_by(BLOCK_ROWS) {
            let block = Block { x, strips, groups: &groups, target, first, column };
            // SAFETY: the block lies inside the tile, of which the caller promises the same.
            unsafe {
                match rows - first {
                    1 if step == STRIP => block.run::<1, 2>(),
                    1 => block.run::<1, 1>(),
                    2 => block.run::<2, 1>(),
                    3 => block.run::<3, 1>(),
                    _ => block.run::<4, 1>(),
                }
            }
        }
    }
}

/// Rows from `first` on, columns from `column` on.
struct Block<'a> {
    x: &'a Quants,
    strips: Strips<'a>,
    groups: &'a Range<usize>,
    target: Target,
    first: usize,
    column: usize,
}

impl Block<'_> {
    /// M rows of N times 8 columns, of one strip.
    ///
    /// # Safety
    /// As for [`tile`].
    #[target_feature(enable = "avx2,fma")]
    unsafe fn run<const M: usize, const N: usize>(&self) {
        let Block { x, strips, target, first, column, .. } = *self;
        let Strips { quads, groups, .. } = strips;
        let (strip, inside) = (column / STRIP, column % STRIP);
        let weights = strips.data.as_ptr().wrapping_add((strip * quads * STRIP + inside) * QUAD);
        let weight_scales = strips.scales.as_ptr().wrapping_add(strip * groups * STRIP + inside);
        let rows: [*const i16; M] = std::array::from_fn(|i| x.words.as_ptr().wrapping_add((first + i) * quads * QUAD));
        let row_scales: [*const f32; M] = std::array::from_fn(|i| x.scales.as_ptr().wrapping_add((first + i) * groups));
        // SAFETY: quads of whole vectors lie in the strip; x and scales have rows and groups as said; the target is touched as far as
        // there are columns.
        unsafe {
            let to = |i: usize, n: usize| target.to.wrapping_add((first + i) * target.row + column + 8 * n);
            let left = |n: usize| target.columns.saturating_sub(column + 8 * n);
            let mut totals = [[_mm256_setzero_ps(); N]; M];
            for (i, totals) in totals.iter_mut().enumerate() {
                for (n, total) in totals.iter_mut().enumerate() {
                    *total = load(to(i, n), left(n));
                }
            }
            for group in self.groups.clone() {
                // Two sums of a column lie side by side: 4 columns to a vector.
                let mut sums = [[[_mm256_setzero_si256(); 2]; N]; M];
                for quad in group * QUADS..quads.min((group + 1) * QUADS) {
                    let weights = weights.wrapping_add(quad * STRIP * QUAD);
                    for n in 0..N {
                        let low = _mm256_cvtepi8_epi16(_mm_loadu_si128(weights.wrapping_add(32 * n).cast()));
                        let high = _mm256_cvtepi8_epi16(_mm_loadu_si128(weights.wrapping_add(32 * n + 16).cast()));
                        for (sums, row) in sums.iter_mut().zip(rows) {
                            let values =
                                _mm256_set1_epi64x(row.wrapping_add(quad * QUAD).cast::<i64>().read_unaligned());
                            sums[n][0] = _mm256_add_epi32(sums[n][0], _mm256_madd_epi16(values, low));
                            sums[n][1] = _mm256_add_epi32(sums[n][1], _mm256_madd_epi16(values, high));
                        }
                    }
                }
                for n in 0..N {
                    let own = _mm256_loadu_ps(weight_scales.wrapping_add(group * STRIP + 8 * n));
                    for ((totals, sums), scales) in totals.iter_mut().zip(&sums).zip(row_scales) {
                        let joined = _mm256_hadd_epi32(sums[n][0], sums[n][1]);
                        let joined = _mm256_permute4x64_epi64::<0b11_01_10_00>(joined);
                        let scale = _mm256_mul_ps(_mm256_broadcast_ss(&*scales.wrapping_add(group)), own);
                        totals[n] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(joined), scale, totals[n]);
                    }
                }
            }
            for (i, totals) in totals.iter().enumerate() {
                for (n, total) in totals.iter().enumerate() {
                    store(to(i, n), left(n), *total);
                }
            }
        }
    }
}

/// The first lanes.
#[target_feature(enable = "avx2,fma")]
fn mask(columns: usize) -> __m256i {
    _mm256_cmpgt_epi32(_mm256_set1_epi32(columns.min(8) as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
}

/// As many of 8 columns as there are. Masked loads and stores are slow, and seldom needed.
///
/// # Safety
/// The columns can be read.
#[target_feature(enable = "avx2,fma")]
unsafe fn load(from: *const f32, columns: usize) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe { if columns >= 8 { _mm256_loadu_ps(from) } else { _mm256_maskload_ps(from, mask(columns)) } }
}

/// Writes as many of 8 columns as there are.
///
/// # Safety
/// The columns can be written.
#[target_feature(enable = "avx2,fma")]
unsafe fn store(to: *mut f32, columns: usize, vector: __m256) {
    // SAFETY: the caller's promise.
    unsafe {
        match columns >= 8 {
            true => _mm256_storeu_ps(to, vector),
            false => _mm256_maskstore_ps(to, mask(columns), vector),
        }
    }
}
