//! Rows of bytes times strips of whole numbers, with the tiles of AMX-INT8: a product of 16 rows, 16 columns and 64 inputs at a time.
//!
//! A group's sums are exact whatever the order, and are scaled and added as those of the dot products of bytes: the results have the
//! same bits. So few rows, and a last group that is not whole, are left to those.

#![expect(unsafe_code, reason = "tile instructions have no stable functions, and take pointers")]

use super::super::tiles::{Config, ROW, ROWS};
use super::super::{PANEL, STRIP};
use super::{BLOCK_ROWS, QUAD, QUADS, Quants, Strips, Target, vnni};
use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

/// Strips of a panel.
const STRIPS: usize = PANEL / STRIP;

/// The sums of a group: of each strip a tile.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Sums([[[i32; STRIP]; ROWS]; STRIPS]);

/// Adds the product over some groups to the target.
///
/// # Safety
/// The processor has AMX-INT8, and this process may use it; else as for [`vnni::tile`].
#[target_feature(enable = "avx512f,avx512vnni")]
pub unsafe fn tile(rows: usize, x: &Quants, strips: Strips, groups: Range<usize>, target: Target) {
    let whole = if rows > BLOCK_ROWS { groups.end.min(strips.quads / QUADS).max(groups.start) } else { groups.start };
    // SAFETY: blocks and the groups that are left lie inside the tile, of which the caller promises the same.
    unsafe {
        if groups.start < whole {
            let mut sums = [Sums([[[0; STRIP]; ROWS]; STRIPS]); 2];
            for first in (0..rows).step_by(ROWS) {
                let block = Block { x, strips, target, first, rows: ROWS.min(rows - first) };
                block.run(groups.start..whole, &mut sums);
            }
        }
        if whole < groups.end {
            vnni::tile(rows, x, strips, whole..groups.end, target);
        }
    }
}

/// Up to 16 rows from `first` on.
struct Block<'a> {
    x: &'a Quants,
    strips: Strips<'a>,
    target: Target,
    first: usize,
    rows: usize,
}

impl Block<'_> {
    /// A group's sums are scaled while the tiles of the next are multiplied.
    ///
    /// # Safety
    /// As for [`tile`]; the groups are whole, and there is one.
    #[target_feature(enable = "avx512f,avx512vnni")]
    unsafe fn run(&self, groups: Range<usize>, sums: &mut [Sums; 2]) {
        let config = Config::of_rows([self.rows, self.rows, self.rows, self.rows, self.rows, ROWS, ROWS, ROWS]);
        // SAFETY: tile registers belong to this thread, no other code here uses them, and they are given back.
        unsafe {
            asm!("ldtilecfg [{config}]", config = in(reg) &config, options(nostack, readonly));
            self.multiply(groups.start, &mut sums[groups.start % 2]);
            for group in groups.clone() {
                if group + 1 < groups.end {
                    self.multiply(group + 1, &mut sums[(group + 1) % 2]);
                }
                self.add(group, &sums[group % 2]);
            }
            asm!("tilerelease", options(nostack, nomem));
        }
    }

    /// The sums of a group, from its offsets on. A strip that the target lacks is taken to be the first.
    ///
    /// # Safety
    /// As for [`Block::run`], which has given the registers their shapes.
    #[inline(always)]
    unsafe fn multiply(&self, group: usize, sums: &mut Sums) {
        let Strips { quads, groups, .. } = self.strips;
        let strip = |n: usize| if n * STRIP < self.target.columns { n } else { 0 };
        let weights =
            |n: usize| self.strips.data.as_ptr().wrapping_add((strip(n) * quads + group * QUADS) * STRIP * QUAD);
        let offsets = |n: usize| self.strips.offsets.as_ptr().wrapping_add((strip(n) * groups + group) * STRIP);
        // SAFETY: two tiles of x and of each strip lie where a whole group does, and a row of offsets, which fills all rows of a tile; the
        // sums have room for three tiles.
        unsafe {
            asm!(
                "tileloadd tmm0, [{o0} + {same}*1]",
                "tileloadd tmm1, [{o1} + {same}*1]",
                "tileloadd tmm2, [{o2} + {same}*1]",
                "tileloadd tmm3, [{a} + {a_row}*1]",
                "tileloadd tmm5, [{b0} + {row}*1]",
                "tdpbusd tmm0, tmm3, tmm5",
                "tileloadd tmm6, [{b1} + {row}*1]",
                "tdpbusd tmm1, tmm3, tmm6",
                "tileloadd tmm7, [{b2} + {row}*1]",
                "tdpbusd tmm2, tmm3, tmm7",
                "tileloadd tmm4, [{a} + {a_row}*1 + 64]",
                "tileloadd tmm5, [{b0} + {row}*1 + 1024]",
                "tdpbusd tmm0, tmm4, tmm5",
                "tileloadd tmm6, [{b1} + {row}*1 + 1024]",
                "tdpbusd tmm1, tmm4, tmm6",
                "tileloadd tmm7, [{b2} + {row}*1 + 1024]",
                "tdpbusd tmm2, tmm4, tmm7",
                "tilestored [{to} + {row}*1], tmm0",
                "tilestored [{to} + {row}*1 + 1024], tmm1",
                "tilestored [{to} + {row}*1 + 2048], tmm2",
                o0 = in(reg) offsets(0),
                o1 = in(reg) offsets(1),
                o2 = in(reg) offsets(2),
                same = in(reg) 0usize,
                a = in(reg) self.x.bytes.as_ptr().wrapping_add((self.first * quads + group * QUADS) * QUAD),
                a_row = in(reg) quads * QUAD,
                b0 = in(reg) weights(0),
                b1 = in(reg) weights(1),
                b2 = in(reg) weights(2),
                row = in(reg) ROW,
                to = in(reg) sums,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }

    /// Scales a group's sums and adds them to the target.
    ///
    /// # Safety
    /// As for [`tile`].
    #[target_feature(enable = "avx512f,avx512vnni")]
    unsafe fn add(&self, group: usize, sums: &Sums) {
        let groups = self.strips.groups;
        for (n, sums) in (0..self.target.columns.div_ceil(STRIP)).zip(&sums.0) {
            let left = self.target.columns - n * STRIP;
            let mask: __mmask16 = if left < STRIP { (1 << left) - 1 } else { !0 };
            // SAFETY: scales of the group lie in the strips; the target is touched under a mask.
            unsafe {
                let own = _mm512_loadu_ps(self.strips.scales.as_ptr().wrapping_add((n * groups + group) * STRIP));
                for (row, sums) in (self.first..self.first + self.rows).zip(sums) {
                    let to = self.target.to.wrapping_add(row * self.target.row + n * STRIP);
                    let scale = _mm512_mul_ps(_mm512_set1_ps(self.x.scales[row * groups + group]), own);
                    let sums = _mm512_cvtepi32_ps(_mm512_load_si512(sums.as_ptr().cast()));
                    let total = _mm512_fmadd_ps(sums, scale, _mm512_maskz_loadu_ps(mask, to));
                    _mm512_mask_storeu_ps(to, mask, total);
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

    /// The same product with dot products of bytes, to the bit.
    #[test]
    fn equals_dot_products_of_bytes() {
        if !Isa::Amx.is_here() {
            return;
        }
        let values = |count: usize, seed: f32| -> Vec<f32> {
            (0..count).map(|i| (i as f32 * seed).sin() * (1.0 + (i % 7) as f32)).collect()
        };
        for (rows, outputs, inputs) in [(5, 1, 128), (16, 48, 896), (17, 40, 257), (33, 100, 1030), (64, 17, 131)] {
            let (w, mut x) = (values(outputs * inputs, 0.37), values(rows * inputs, 0.11));
            x[(rows - 1) * inputs..].iter_mut().take(GROUP).for_each(|x| *x = 0.0);
            let bias = values(outputs, 0.7);
            let width = outputs + 3;
            let product = |isa: Isa| {
                let strips = Int8Strips::new(isa, &w, outputs, inputs);
                let mut quants = Quants::default();
                strips.quantise(&x, &mut quants);
                let mut out = vec![7.0f32; rows * width];
                // SAFETY: the output has `rows` rows, `width` apart.
                unsafe { strips.product(&quants, rows, 0..outputs, Start::Bias(&bias), out.as_mut_ptr(), width) };
                out.iter().map(|x| x.to_bits()).collect::<Vec<u32>>()
            };
            assert_eq!(product(Isa::Amx), product(Isa::Bf16), "{rows} x {outputs} x {inputs}");
        }
    }
}
