//! Rows of bf16 pairs times a panel of them, with the tiles of AMX-BF16: a product of 16 rows, 16 columns and 32 inputs at a time.
//!
//! Eight tile registers: sums in 0 to 2, and in 3 to 5 where a block has more rows; activations in 6; weights in 7, or 3 to 5 and 7.

#![expect(unsafe_code, reason = "tile instructions have no stable functions, and take pointers")]

use super::super::super::gemm::{Size, Start};
use super::super::tiles::{Config, ROW, ROWS};
use super::super::{PANEL, STRIP, fill};
use super::{Pairs, Strips, TILE_PAIRS};
use std::arch::asm;

/// Sums begin in the output, or at zero, and stay there between steps. Every row meets the same instructions alone and in a batch: each
/// sum takes the products of 32 inputs after those of the 32 before.
///
/// # Safety
/// The processor has AMX-BF16, and this process may use it; x and the strips hold whole tiles of the pairs that `size` names, and `c`
/// points to the rows of the output; it is read only to add to it.
pub unsafe fn tile(size: Size, x: Pairs, strips: Strips, c: *mut f32, c_row: usize, start: Start) {
    let from_zero = matches!(start, Start::Zero) && size.k > 0;
    if !from_zero {
        // SAFETY: the caller vouches for the output.
        unsafe { fill(size.m, size.n, c, c_row, start) };
    }
    let (mut first, mut shaped) = (0, 0);
    while first < size.m && size.k > 0 {
        let rows = match size.m - first {
            left if left >= 2 * ROWS && size.n == PANEL => 2 * ROWS,
            left => left.min(ROWS),
        };
        let block = Block {
            steps: size.k.div_ceil(2 * TILE_PAIRS),
            rows,
            a: x.data.as_ptr().wrapping_add(first * x.row),
            a_row: x.row,
            b: strips.data.as_ptr(),
            strip: strips.pairs * STRIP,
            c: c.wrapping_add(first * c_row),
            c_row,
            from_zero,
        };
        // SAFETY: the block lies inside the tile, of which the caller promises the same; it has as many rows and columns as each needs.
        // Tile registers belong to this thread, no other code here uses them, and they are given back below.
        unsafe {
            if shaped != rows.min(ROWS) {
                shaped = rows.min(ROWS);
                asm!("ldtilecfg [{config}]", config = in(reg) &shapes(shaped), options(nostack, readonly));
            }
            match size.n {
                PANEL if rows == 2 * ROWS => block.two_by_three(),
                PANEL => block.one_by_three(),
                columns => block.strip_by_strip(columns),
            }
        }
        first += rows;
    }
    if shaped > 0 {
        // SAFETY: as above.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// Registers of sums and activations have a block's rows, weights 16 pairs of inputs.
fn shapes(rows: usize) -> Config {
    Config::of_rows([rows, rows, rows, ROWS, ROWS, ROWS, rows, ROWS])
}

/// A block of the output and what it is made of.
#[derive(Clone, Copy)]
struct Block {
    /// Tiles of 32 inputs, at least one.
    steps: usize,
    rows: usize,
    a: *const u32,
    a_row: usize,
    b: *const u32,
    /// From a strip to the next.
    strip: usize,
    c: *mut f32,
    c_row: usize,
    /// The output need not be read.
    from_zero: bool,
}

impl Block {
    /// 32 rows of 3 strips. Neighbouring products share a register.
    ///
    /// # Safety
    /// As for [`tile`].
    unsafe fn two_by_three(&self) {
        // SAFETY: tiles of x and of the strips lie where the caller says, and the output's 32 rows of 48 columns are this thread's.
        unsafe {
            asm!(
                "test {zero}, {zero}",
                "jnz 3f",
                "tileloadd tmm0, [{c} + {c_row}*1]",
                "tileloadd tmm1, [{c} + {c_row}*1 + 64]",
                "tileloadd tmm2, [{c} + {c_row}*1 + 128]",
                "tileloadd tmm3, [{d} + {c_row}*1]",
                "tileloadd tmm4, [{d} + {c_row}*1 + 64]",
                "tileloadd tmm5, [{d} + {c_row}*1 + 128]",
                "jmp 2f",
                "3:",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "tilezero tmm4",
                "tilezero tmm5",
                "2:",
                "tileloadd tmm7, [{b0} + {b_row}*1]",
                "tileloadd tmm6, [{a0} + {a_row}*1]",
                "tdpbf16ps tmm0, tmm6, tmm7",
                "tileloadd tmm6, [{a1} + {a_row}*1]",
                "tdpbf16ps tmm3, tmm6, tmm7",
                "tileloadd tmm7, [{b1} + {b_row}*1]",
                "tdpbf16ps tmm4, tmm6, tmm7",
                "tileloadd tmm6, [{a0} + {a_row}*1]",
                "tdpbf16ps tmm1, tmm6, tmm7",
                "tileloadd tmm7, [{b2} + {b_row}*1]",
                "tdpbf16ps tmm2, tmm6, tmm7",
                "tileloadd tmm6, [{a1} + {a_row}*1]",
                "tdpbf16ps tmm5, tmm6, tmm7",
                "add {a0}, 64",
                "add {a1}, 64",
                "add {b0}, 1024",
                "add {b1}, 1024",
                "add {b2}, 1024",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{c} + {c_row}*1], tmm0",
                "tilestored [{c} + {c_row}*1 + 64], tmm1",
                "tilestored [{c} + {c_row}*1 + 128], tmm2",
                "tilestored [{d} + {c_row}*1], tmm3",
                "tilestored [{d} + {c_row}*1 + 64], tmm4",
                "tilestored [{d} + {c_row}*1 + 128], tmm5",
                c = in(reg) self.c,
                d = in(reg) self.c.wrapping_add(ROWS * self.c_row),
                c_row = in(reg) 4 * self.c_row,
                a0 = inout(reg) self.a => _,
                a1 = inout(reg) self.a.wrapping_add(ROWS * self.a_row) => _,
                a_row = in(reg) 4 * self.a_row,
                b0 = inout(reg) self.b => _,
                b1 = inout(reg) self.b.wrapping_add(self.strip) => _,
                b2 = inout(reg) self.b.wrapping_add(2 * self.strip) => _,
                b_row = in(reg) ROW,
                steps = inout(reg) self.steps => _,
                zero = in(reg) usize::from(self.from_zero),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }

    /// Up to 16 rows of 3 strips.
    ///
    /// # Safety
    /// As for [`tile`].
    unsafe fn one_by_three(&self) {
        // SAFETY: tiles of x and of the strips lie where the caller says, and the output's rows of 48 columns are this thread's.
        unsafe {
            asm!(
                "test {zero}, {zero}",
                "jnz 3f",
                "tileloadd tmm0, [{c} + {c_row}*1]",
                "tileloadd tmm1, [{c} + {c_row}*1 + 64]",
                "tileloadd tmm2, [{c} + {c_row}*1 + 128]",
                "jmp 2f",
                "3:",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "2:",
                "tileloadd tmm6, [{a} + {a_row}*1]",
                "tileloadd tmm3, [{b0} + {b_row}*1]",
                "tdpbf16ps tmm0, tmm6, tmm3",
                "tileloadd tmm4, [{b1} + {b_row}*1]",
                "tdpbf16ps tmm1, tmm6, tmm4",
                "tileloadd tmm5, [{b2} + {b_row}*1]",
                "tdpbf16ps tmm2, tmm6, tmm5",
                "add {a}, 64",
                "add {b0}, 1024",
                "add {b1}, 1024",
                "add {b2}, 1024",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{c} + {c_row}*1], tmm0",
                "tilestored [{c} + {c_row}*1 + 64], tmm1",
                "tilestored [{c} + {c_row}*1 + 128], tmm2",
                c = in(reg) self.c,
                c_row = in(reg) 4 * self.c_row,
                a = inout(reg) self.a => _,
                a_row = in(reg) 4 * self.a_row,
                b0 = inout(reg) self.b => _,
                b1 = inout(reg) self.b.wrapping_add(self.strip) => _,
                b2 = inout(reg) self.b.wrapping_add(2 * self.strip) => _,
                b_row = in(reg) ROW,
                steps = inout(reg) self.steps => _,
                zero = in(reg) usize::from(self.from_zero),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }

    /// Up to 16 rows of some columns, fewer than a panel has. Sums pass through a buffer of whole strips.
    ///
    /// # Safety
    /// As for [`tile`].
    unsafe fn strip_by_strip(&self, columns: usize) {
        for first in (0..columns).step_by(STRIP) {
            let width = STRIP.min(columns - first);
            let mut buffer = [0.0f32; ROWS * STRIP];
            let to = buffer.as_mut_ptr();
            let own = |row: usize| self.c.wrapping_add(row * self.c_row + first);
            let b = self.b.wrapping_add(first / STRIP * self.strip);
            // SAFETY: the buffer has all rows; of the output, the rows' columns alone are touched.
            unsafe {
                if !self.from_zero {
                    (0..self.rows).for_each(|row| to.add(row * STRIP).copy_from_nonoverlapping(own(row), width));
                }
                Block { b, c: to, c_row: STRIP, ..*self }.one_by_one();
                (0..self.rows).for_each(|row| to.add(row * STRIP).copy_to_nonoverlapping(own(row), width));
            }
        }
    }

    /// Up to 16 rows of a strip.
    ///
    /// # Safety
    /// As for [`tile`].
    unsafe fn one_by_one(&self) {
        // SAFETY: tiles of x and of the strip lie where the caller says, and the output's rows of 16 columns are this thread's.
        unsafe {
            asm!(
                "tileloadd tmm0, [{c} + {c_row}*1]",
                "2:",
                "tileloadd tmm6, [{a} + {a_row}*1]",
                "tileloadd tmm7, [{b} + {b_row}*1]",
                "tdpbf16ps tmm0, tmm6, tmm7",
                "add {a}, 64",
                "add {b}, 1024",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{c} + {c_row}*1], tmm0",
                c = in(reg) self.c,
                c_row = in(reg) 4 * self.c_row,
                a = inout(reg) self.a => _,
                a_row = in(reg) 4 * self.a_row,
                b = inout(reg) self.b => _,
                b_row = in(reg) ROW,
                steps = inout(reg) self.steps => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}
