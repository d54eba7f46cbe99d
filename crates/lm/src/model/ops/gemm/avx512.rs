//! The tile of a product with AVX-512, in blocks of up to 8 rows of 3 vectors of 16.

#![expect(unsafe_code, reason = "vector loads and stores through pointers")]

use super::{Left, Right, Size, Start};
use std::arch::x86_64::*;

/// Cuts the tile into blocks of rows whose sums stay in registers.
///
/// # Safety
/// The processor has AVX-512F, every element of the factors that `size` names lies in its slice, and `c`
/// points to the rows of the output; it is read only to add to it.
#[target_feature(enable = "avx512f")]
pub unsafe fn tile(size: Size, a: Left, b: Right, c: *mut f32, c_row: usize, start: Start) {
    for i in (0..size.m).step_by(8) {
        let a = Left { data: &a.data[i * a.row..], ..a };
        // SAFETY: the block lies inside the tile, of which the caller promises the same.
        unsafe { block(Size { m: 8.min(size.m - i), ..size }, a, b, c.add(i * c_row), c_row, start) };
    }
}

/// Chooses the block compiled for this number of rows and of 16-column vectors.
///
/// # Safety
/// As for [`tile`].
#[target_feature(enable = "avx512f")]
unsafe fn block(size: Size, a: Left, b: Right, c: *mut f32, c_row: usize, start: Start) {
    macro_rules! dispatch {
        ($($rows:literal)*) => {
            // SAFETY: the caller's promise, handed on; each arm has just as many rows and vectors as `size`.
            unsafe {
                match (size.m, size.n.div_ceil(16)) {
                    $(($rows, 1) => run::<$rows, 1>(size, a, b, c, c_row, start),
                      ($rows, 2) => run::<$rows, 2>(size, a, b, c, c_row, start),
                      ($rows, 3) => run::<$rows, 3>(size, a, b, c, c_row, start),)*
                    _ => unreachable!("a block has 1 to 8 rows and 1 to 48 columns"),
                }
            }
        };
    }
    dispatch!(1 2 3 4 5 6 7 8)
}

/// M rows of N vectors.
///
/// # Safety
/// As for [`tile`]; `size` has M rows, and N vectors of 16 columns of which the last may be cut short.
#[target_feature(enable = "avx512f")]
unsafe fn run<const M: usize, const N: usize>(size: Size, a: Left, b: Right, c: *mut f32, c_row: usize, start: Start) {
    // SAFETY: loads and stores stay within the rows and columns that `size` names, the last vector under a mask.
    unsafe {
        let tail: __mmask16 = if size.n.is_multiple_of(16) { !0 } else { (1 << (size.n % 16)) - 1 };
        let mask = |v: usize| if v + 1 == N { tail } else { !0 };
        let mut sums = [[_mm512_setzero_ps(); N]; M];
        for (i, row) in sums.iter_mut().enumerate() {
            for (v, sum) in row.iter_mut().enumerate() {
                *sum = match start {
                    Start::Zero => _mm512_setzero_ps(),
                    Start::Bias(bias) => _mm512_maskz_loadu_ps(mask(v), bias.as_ptr().add(16 * v)),
                    Start::Add => _mm512_maskz_loadu_ps(mask(v), c.add(i * c_row + 16 * v)),
                };
            }
        }
        let left: [*const f32; M] = std::array::from_fn(|i| a.data.as_ptr().wrapping_add(i * a.row));
        let (mut right, mut at) = (b.data.as_ptr(), 0);
        for _ in 0..size.k {
            let mut vectors = [_mm512_setzero_ps(); N];
            for (v, vector) in vectors.iter_mut().enumerate() {
                let from = right.wrapping_add(v * b.strip);
                *vector = if v + 1 == N { _mm512_maskz_loadu_ps(tail, from) } else { _mm512_loadu_ps(from) };
            }
            for i in 0..M {
                let value = _mm512_set1_ps(*left[i].add(at));
                for v in 0..N {
                    sums[i][v] = _mm512_fmadd_ps(value, vectors[v], sums[i][v]);
                }
            }
            right = right.wrapping_add(b.row);
            at += a.step;
        }
        for (i, row) in sums.iter().enumerate() {
            for (v, sum) in row.iter().enumerate() {
                _mm512_mask_storeu_ps(c.add(i * c_row + 16 * v), mask(v), *sum);
            }
        }
    }
}
