//! The tile of a product with AVX2 and FMA, in blocks of vectors of 8.

#![expect(unsafe_code, reason = "vector loads and stores through pointers")]

use super::{Left, Right, Size, Start};
use std::arch::x86_64::*;

/// Cuts the tile into blocks whose sums, with one broadcast number and the vectors it meets, stay in the sixteen registers: up to 2
/// rows of 6 vectors, or up to 6 rows of 2. A strip of the right factor serves all rows before the next.
///
/// # Safety
/// The processor has AVX2 and FMA, every element of the factors that `size` names lies in its slice, and `c`
/// points to the rows of the output; it is read only to add to it.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn tile(size: Size, a: Left, b: Right, c: *mut f32, c_row: usize, start: Start) {
    let (rows, columns) = if size.m <= 2 { (2, 48) } else { (6, 16) };
    for j in (0..size.n).step_by(columns) {
        let b = b.from(0, j);
        let start = match start {
            Start::Bias(bias) => Start::Bias(&bias[j..]),
            other => other,
        };
        for i in (0..size.m).step_by(rows) {
            let a = Left { data: &a.data[i * a.row..], ..a };
            let size = Size { m: rows.min(size.m - i), n: columns.min(size.n - j), k: size.k };
            // SAFETY: the block lies inside the tile, of which the caller promises the same.
            unsafe { block(size, a, b, c.add(i * c_row + j), c_row, start) };
        }
    }
}

/// Chooses the block compiled for this number of rows and of 8-column vectors.
///
/// # Safety
/// As for [`tile`].
#[target_feature(enable = "avx2,fma")]
unsafe fn block(size: Size, a: Left, b: Right, c: *mut f32, c_row: usize, start: Start) {
    macro_rules! dispatch {
        ($(($rows:literal, $vectors:literal))*) => {
            // SAFETY: the caller's promise, handed on; each arm has just as many rows and vectors as `size`.
            unsafe {
                match (size.m, size.n.div_ceil(8), size.n.is_multiple_of(8)) {
                    $(($rows, $vectors, true) => run::<$rows, $vectors, false>(size, a, b, c, c_row, start),
                      ($rows, $vectors, false) => run::<$rows, $vectors, true>(size, a, b, c, c_row, start),)*
                    _ => unreachable!("a block has 1 or 2 rows of 1 to 6 vectors, or 3 to 6 rows of 1 or 2"),
                }
            }
        };
    }
    dispatch!((1, 1)(1, 2)(1, 3)(1, 4)(1, 5)(1, 6)(2, 1)(2, 2)(2, 3)(2, 4)(2, 5)(2, 6)(3, 1)(3, 2)(4, 1)(4, 2)(5, 1)(
        5, 2
    )(6, 1)(6, 2))
}

/// M rows of N vectors, of which the last is cut short if `TAIL` says so.
///
/// # Safety
/// As for [`tile`]; `size` has M rows, and columns for N vectors.
#[target_feature(enable = "avx2,fma")]
unsafe fn run<const M: usize, const N: usize, const TAIL: bool>(
    size: Size,
    a: Left,
    b: Right,
    c: *mut f32,
    c_row: usize,
    start: Start,
) {
    let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    let mask = _mm256_cmpgt_epi32(_mm256_set1_epi32((size.n - 8 * (N - 1)) as i32), lanes);
    let is_cut = |v: usize| TAIL && v + 1 == N;
    // SAFETY: loads and stores stay within the rows and columns that `size` names, a cut vector under its mask.
    unsafe {
        let load = |from: *const f32, v: usize| match is_cut(v) {
            true => _mm256_maskload_ps(from, mask),
            false => _mm256_loadu_ps(from),
        };
        let mut sums = [[_mm256_setzero_ps(); N]; M];
        for (i, row) in sums.iter_mut().enumerate() {
            for (v, sum) in row.iter_mut().enumerate() {
                *sum = match start {
                    Start::Zero => _mm256_setzero_ps(),
                    Start::Bias(bias) => load(bias.as_ptr().add(8 * v), v),
                    Start::Add => load(c.add(i * c_row + 8 * v), v),
                };
            }
        }
        let left: [*const f32; M] = std::array::from_fn(|i| a.data.as_ptr().wrapping_add(i * a.row));
        let (mut right, mut at) = (b.data.as_ptr(), 0);
        let vector = |right: *const f32, v: usize| load(right.wrapping_add(v / 2 * b.strip + v % 2 * 8), v);
        for _ in 0..size.k {
            if M <= 2 {
                let values: [__m256; M] = std::array::from_fn(|i| _mm256_broadcast_ss(&*left[i].add(at)));
                for v in 0..N {
                    let vector = vector(right, v);
                    for (row, value) in sums.iter_mut().zip(values) {
                        row[v] = _mm256_fmadd_ps(value, vector, row[v]);
                    }
                }
            } else {
                let vectors: [__m256; N] = std::array::from_fn(|v| vector(right, v));
                for (row, left) in sums.iter_mut().zip(left) {
                    let value = _mm256_broadcast_ss(&*left.add(at));
                    for (sum, vector) in row.iter_mut().zip(vectors) {
                        *sum = _mm256_fmadd_ps(value, vector, *sum);
                    }
                }
            }
            right = right.wrapping_add(b.row);
            at += a.step;
        }
        for (i, row) in sums.iter().enumerate() {
            for (v, sum) in row.iter().enumerate() {
                let to = c.add(i * c_row + 8 * v);
                match is_cut(v) {
                    true => _mm256_maskstore_ps(to, mask, *sum),
                    false => _mm256_storeu_ps(to, *sum),
                }
            }
        }
    }
}
