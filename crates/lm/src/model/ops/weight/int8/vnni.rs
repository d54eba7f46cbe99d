//! Rows of bytes times strips of whole numbers, with AVX512-VNNI: products of quads, summed exactly.

#![expect(unsafe_code, reason = "vector loads and stores through pointers")]

use super::super::STRIP;
use super::{BLOCK_ROWS, QUAD, QUADS, Quants, Strips, Target};
use std::arch::x86_64::*;
use std::ops::Range;

/// Adds the product over some groups to the target, in blocks of up to 4 rows of 3 vectors: whole sums, totals and what they meet stay
/// in the 32 registers.
///
/// # Safety
/// The processor has AVX-512F and AVX512-VNNI; x has bytes of as many rows of the strips' length, the strips have offsets and at least
/// the target's columns, and the target may be read and written.
#[target_feature(enable = "avx512f,avx512vnni")]
pub unsafe fn tile(rows: usize, x: &Quants, strips: Strips, groups: Range<usize>, target: Target) {
    for first in (0..rows).step_by(BLOCK_ROWS) {
        let block = Block { x, strips, groups: &groups, target, first };
        macro_rules! dispatch {
            ($($rows:literal)*) => {
                // SAFETY: the block lies inside the tile, of which the caller promises the same; each arm has just as many rows and
                // vectors.
                unsafe {
                    match (BLOCK_ROWS.min(rows - first), target.columns.div_ceil(STRIP)) {
                        $(($rows, 1) => block.run::<$rows, 1>(),
                          ($rows, 2) => block.run::<$rows, 2>(),
                          ($rows, 3) => block.run::<$rows, 3>(),)*
                        _ => unreachable!("a block has 1 to 4 rows and 1 to 48 columns"),
                    }
                }
            };
        }
        dispatch!(1 2 3 4);
    }
}

/// Rows from `first` on.
struct Block<'a> {
    x: &'a Quants,
    strips: Strips<'a>,
    groups: &'a Range<usize>,
    target: Target,
    first: usize,
}

impl Block<'_> {
    /// M rows of N strips, of which the last may be cut short.
    ///
    /// # Safety
    /// As for [`tile`].
    #[target_feature(enable = "avx512f,avx512vnni")]
    unsafe fn run<const M: usize, const N: usize>(&self) {
        let Block { x, strips, target, first, .. } = *self;
        let Strips { quads, groups, .. } = strips;
        let cut = target.columns % STRIP;
        let mask = |n: usize| -> __mmask16 { if n + 1 == N && cut > 0 { (1 << cut) - 1 } else { !0 } };
        let to = |i: usize, n: usize| target.to.wrapping_add((first + i) * target.row + STRIP * n);
        let weights: [*const i8; N] =
            std::array::from_fn(|n| strips.data.as_ptr().wrapping_add(n * quads * STRIP * QUAD));
        let rows: [*const u8; M] = std::array::from_fn(|i| x.bytes.as_ptr().wrapping_add((first + i) * quads * QUAD));
        // SAFETY: quads of whole vectors lie in the strips, and scales and offsets of their groups; x has rows as said; the target is
        // touched under a mask.
        unsafe {
            let mut totals = [[_mm512_setzero_ps(); N]; M];
            for (i, totals) in totals.iter_mut().enumerate() {
                for (n, total) in totals.iter_mut().enumerate() {
                    *total = _mm512_maskz_loadu_ps(mask(n), to(i, n));
                }
            }
            for group in self.groups.clone() {
                let of_group = |n: usize| (n * groups + group) * STRIP;
                let offsets: [__m512i; N] = std::array::from_fn(|n| {
                    _mm512_loadu_si512(strips.offsets.as_ptr().wrapping_add(of_group(n)).cast())
                });
                let mut sums = [offsets; M];
                for quad in group * QUADS..quads.min((group + 1) * QUADS) {
                    let weights: [__m512i; N] = std::array::from_fn(|n| {
                        _mm512_loadu_si512(weights[n].wrapping_add(quad * STRIP * QUAD).cast())
                    });
                    for (sums, row) in sums.iter_mut().zip(rows) {
                        let bytes = _mm512_set1_epi32(row.wrapping_add(quad * QUAD).cast::<i32>().read_unaligned());
                        for (sum, weights) in sums.iter_mut().zip(weights) {
                            *sum = _mm512_dpbusd_epi32(*sum, bytes, weights);
                        }
                    }
                }
                for n in 0..N {
                    let own = _mm512_loadu_ps(strips.scales.as_ptr().wrapping_add(of_group(n)));
                    for (i, (totals, sums)) in totals.iter_mut().zip(&sums).enumerate() {
                        let scale = _mm512_mul_ps(_mm512_set1_ps(x.scales[(first + i) * groups + group]), own);
                        totals[n] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[n]), scale, totals[n]);
                    }
                }
            }
            for (i, totals) in totals.iter().enumerate() {
                for (n, total) in totals.iter().enumerate() {
                    _mm512_mask_storeu_ps(to(i, n), mask(n), *total);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::super::gemm::Start;
    use super::super::super::super::isa::Isa;
    use super::super::{GROUP, Int8Strips};
    use super::*;

    fn values(count: usize, seed: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * seed).sin() * (1.0 + (i % 7) as f32)).collect()
    }

    /// Whole numbers with signs, from the bits of the definition: no bytes, no offsets.
    fn definition(w: &Int8Strips, x: &[f32], output: usize, start: f32) -> f32 {
        let (strip, column) = (w.strips(output / STRIP * STRIP), output % STRIP);
        x.chunks(GROUP).enumerate().fold(start, |total, (group, x)| {
            let scale = x.iter().fold(0.0f32, |most, x| most.max(x.abs())) / 127.0;
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            let products = x.iter().enumerate().map(|(i, x)| {
                let i = group * GROUP + i;
                let weight = strip.data[(i / QUAD * STRIP + column) * QUAD + i % QUAD];
                (x * inverse).round_ties_even() as i32 * i32::from(weight)
            });
            (products.sum::<i32>() as f32).mul_add(scale * strip.scales[group * STRIP + column], total)
        })
    }

    #[test]
    fn equals_the_definition_bit_for_bit() {
        if !Isa::Bf16.is_here() {
            return;
        }
        for (rows, outputs, inputs) in [(1, 1, 1), (1, 48, 896), (4, 17, 131), (7, 40, 257), (10, 48, 1030)] {
            let (w, mut x) = (values(outputs * inputs, 0.37), values(rows * inputs, 0.11));
            x[(rows - 1) * inputs..].iter_mut().take(GROUP).for_each(|x| *x = 0.0);
            let bias = values(outputs, 0.7);
            let strips = Int8Strips::new(Isa::Bf16, &w, outputs, inputs);
            let mut quants = Quants::default();
            strips.quantise(&x, &mut quants);
            let width = outputs + 3;
            let mut out = vec![7.0; rows * width];
            // SAFETY: the output has `rows` rows, `width` apart.
            unsafe { strips.product(&quants, rows, 0..outputs, Start::Bias(&bias), out.as_mut_ptr(), width) };
            for (row, line) in x.chunks(inputs).zip(out.chunks(width)) {
                for (output, got) in line[..outputs].iter().enumerate() {
                    let want = definition(&strips, row, output, bias[output]);
                    assert_eq!(got.to_bits(), want.to_bits(), "{rows} x {outputs} x {inputs}: {got}, not {want}");
                }
                assert_eq!(line[outputs..], [7.0; 3], "what lies beside the output");
            }
        }
    }
}
