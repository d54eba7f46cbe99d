//! The one matrix product of the CPU kernels. Its promise is about order: every output element is
//! `start`, then one fused multiply-add per k in rising order. Tiles, blocks, instruction sets and neighbours cannot change a bit,
//! so a row has the same value alone and in any batch.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use super::isa::Isa;

/// Output columns of a tile, and of a panel of [`super::linear::Packed`].
pub const PANEL: usize = 48;
/// Output rows of a tile: whole blocks of 8 rows, and of 6.
pub(super) const ROWS: usize = 24;
/// Steps of k between two visits of an output tile: the panel of `b` they touch stays near. Rows of one tile alone take a panel
/// from end to end.
const DEPTH: usize = 192;
/// Output rows between two visits of a panel of `b`: the part of `a` they touch stays in the second cache level.
const BLOCK: usize = 384;
/// From so many output rows on, copying a panel of `b` together pays.
const PACK_ROWS: usize = 24;

/// Left factor: element (i, p) lies at `i * row + p * step`.
#[derive(Clone, Copy)]
pub struct Left<'a> {
    pub data: &'a [f32],
    pub row: usize,
    pub step: usize,
}

/// Right factor: element (p, j) lies at `p * row + j / 16 * strip + j % 16`.
#[derive(Clone, Copy)]
pub struct Right<'a> {
    pub data: &'a [f32],
    pub row: usize,
    pub strip: usize,
}

/// Columns of a strip.
pub const STRIP: usize = 16;

impl<'a> Right<'a> {
    /// Rows that lie as a matrix has them, `row` apart.
    pub fn rows(data: &'a [f32], row: usize) -> Right<'a> {
        Right { data, row, strip: STRIP }
    }

    /// Strips of 16 columns, each of `k` rows; the last one filled up.
    pub fn strips(data: &'a [f32], k: usize) -> Right<'a> {
        Right { data, row: STRIP, strip: k * STRIP }
    }

    /// From row p and column j on, which begins a strip.
    fn from(self, p: usize, j: usize) -> Right<'a> {
        Right { data: &self.data[p * self.row + j / STRIP * self.strip..], ..self }
    }
}

/// What an output element starts from.
#[derive(Clone, Copy)]
pub enum Start<'a> {
    Zero,
    /// One value per column.
    Bias(&'a [f32]),
    /// The value already there.
    Add,
}

/// Rows, columns and depth of a product.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub m: usize,
    pub n: usize,
    pub k: usize,
}

/// `c[i, j] = start + sum over p of a[i, p] * b[p, j]`; row i of c begins at `i * c_row`.
#[expect(unsafe_code, reason = "one body serves memory that is initialised and memory that is not")]
pub fn gemm(size: Size, a: Left, b: Right, c: &mut [f32], c_row: usize, start: Start) {
    if size.m > 0 && size.n > 0 {
        assert!(c.len() >= (size.m - 1) * c_row + size.n, "output too short for {size:?}");
        // SAFETY: all elements of the output lie in `c`, and they are initialised.
        unsafe { product_at(size, a, b, c.as_mut_ptr(), c_row, start) };
    }
}

/// [`gemm`] into memory that need not be initialised unless `start` is `Add`; every output element is written.
///
/// # Safety
/// `c` points to m rows of n elements, `c_row` apart, that nobody else reads or writes meanwhile.
#[expect(unsafe_code, reason = "writes memory that is not initialised")]
pub(super) unsafe fn product_at(size: Size, a: Left, b: Right, c: *mut f32, c_row: usize, start: Start) {
    if size.m == 0 || size.n == 0 {
        return;
    }
    check(size, a, b, start);
    let isa = Isa::current();
    if size.k == 0 {
        // SAFETY: the caller vouches for c, and no element of the factors is read.
        return unsafe { tile_portable(size, a, b, c, c_row, start) };
    }
    tiles(size, a, b, c_row, start, |size, a, b, at, start| {
        // SAFETY: the caller vouches for c; the factors were checked, and the processor has the instruction set.
        unsafe { tile(isa, size, a, b, c.add(at), c_row, start) }
    });
}

/// Panics if a factor is too short: a bug of the caller.
fn check(size: Size, a: Left, b: Right, start: Start) {
    let Size { m, n, k } = size;
    if let Start::Bias(bias) = start {
        assert!(bias.len() >= n, "bias too short for {size:?}");
    }
    if k > 0 {
        assert!(a.data.len() > (m - 1) * a.row + (k - 1) * a.step, "left factor too short for {size:?}");
        let last = (n - 1) / STRIP * b.strip + (n - 1) % STRIP;
        assert!(b.data.len() > (k - 1) * b.row + last, "right factor too short for {size:?}");
    }
}

/// Cuts a product into tiles, in an order that keeps the caches warm; `run` gets each tile's factors, the offset of its
/// output, and what it starts from.
#[inline(always)]
fn tiles(
    size: Size,
    a: Left,
    b: Right,
    c_row: usize,
    start: Start,
    mut run: impl FnMut(Size, Left, Right, usize, Start),
) {
    let Size { m, n, k } = size;
    let pack = m >= PACK_ROWS && b.row > PANEL;
    let mut panel = if pack { vec![0.0; DEPTH.min(k) * PANEL] } else { Vec::new() };
    let steps = if m < ROWS { k } else { DEPTH };
    for rows in (0..m).step_by(BLOCK) {
        let block = BLOCK.min(m - rows);
        for p in (0..k).step_by(steps) {
            let depth = steps.min(k - p);
            for j in (0..n).step_by(PANEL) {
                let width = PANEL.min(n - j);
                let mut right = b.from(p, j);
                if pack {
                    for (row, target) in panel.chunks_exact_mut(PANEL).take(depth).enumerate() {
                        target[..width].copy_from_slice(&right.data[row * b.row..row * b.row + width]);
                    }
                    right = Right::rows(&panel, PANEL);
                }
                let start = match start {
                    _ if p > 0 => Start::Add,
                    Start::Bias(bias) => Start::Bias(&bias[j..]),
                    other => other,
                };
                for i in (rows..rows + block).step_by(ROWS) {
                    let left = Left { data: &a.data[i * a.row + p * a.step..], ..a };
                    let size = Size { m: ROWS.min(rows + block - i), n: width, k: depth };
                    run(size, left, right, i * c_row + j, start);
                }
            }
        }
    }
}

/// One tile of at most ROWS x PANEL, of some depth.
///
/// # Safety
/// The processor has the instruction set, the factors' elements that `size` names lie in their slices, and `c` points to the rows
/// of the output; it is read only to add to it.
#[expect(unsafe_code, reason = "calls functions compiled for features found at run time")]
#[inline]
pub(super) unsafe fn tile(isa: Isa, size: Size, a: Left, b: Right, c: *mut f32, c_row: usize, start: Start) {
    // SAFETY: the caller's promise, handed on.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Bf16 | Isa::Amx => avx512::tile(size, a, b, c, c_row, start),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::tile(size, a, b, c, c_row, start),
            _ => tile_portable(size, a, b, c, c_row, start),
        }
    }
}

/// The tile in plain code: 4 x 16 outputs at a time.
///
/// # Safety
/// As for [`tile`].
#[expect(unsafe_code, reason = "the output may be memory that is not initialised")]
unsafe fn tile_portable(size: Size, a: Left, b: Right, c: *mut f32, c_row: usize, start: Start) {
    const WIDTH: usize = STRIP;
    for i in (0..size.m).step_by(4) {
        let rows = 4.min(size.m - i);
        for j in (0..size.n).step_by(WIDTH) {
            let width = WIDTH.min(size.n - j);
            let at = |row: usize| c.wrapping_add((i + row) * c_row + j);
            let mut sums = [[0.0f32; WIDTH]; 4];
            for (row, sum) in sums.iter_mut().take(rows).enumerate() {
                match start {
                    Start::Zero => {}
                    Start::Bias(bias) => sum[..width].copy_from_slice(&bias[j..j + width]),
                    // SAFETY: the block lies inside the output, which is initialised if it is added to.
                    Start::Add => unsafe { at(row).copy_to_nonoverlapping(sum.as_mut_ptr(), width) },
                }
            }
            let mut right = [0.0f32; WIDTH];
            let b = b.from(0, j);
            for p in 0..size.k {
                if width == WIDTH {
                    right.copy_from_slice(&b.data[p * b.row..][..WIDTH]);
                } else {
                    right[..width].copy_from_slice(&b.data[p * b.row..][..width]);
                }
                for (row, sum) in sums.iter_mut().enumerate() {
                    let left = a.data[(i + row.min(rows - 1)) * a.row + p * a.step];
                    for (sum, right) in sum.iter_mut().zip(&right) {
                        *sum = left.mul_add(*right, *sum);
                    }
                }
            }
            for (row, sum) in sums.iter().take(rows).enumerate() {
                // SAFETY: the block lies inside the output.
                unsafe { at(row).copy_from_nonoverlapping(sum.as_ptr(), width) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
        (0..count)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    }

    /// The definition, element by element.
    fn definition(size: Size, a: Left, b: Right, c: &mut [f32], c_row: usize, start: Start) {
        for i in 0..size.m {
            for j in 0..size.n {
                let mut sum = match start {
                    Start::Zero => 0.0,
                    Start::Bias(bias) => bias[j],
                    Start::Add => c[i * c_row + j],
                };
                for p in 0..size.k {
                    let right = b.data[p * b.row + j / STRIP * b.strip + j % STRIP];
                    sum = a.data[i * a.row + p * a.step].mul_add(right, sum);
                }
                c[i * c_row + j] = sum;
            }
        }
    }

    #[test]
    #[expect(unsafe_code, reason = "tiles are called directly, for every instruction set that is here")]
    fn equals_the_definition_bit_for_bit() {
        for (m, n, k) in [
            (1, 1, 1),
            (1, 100, 300),
            (2, 48, 7),
            (7, 33, 5),
            (8, 48, 192),
            (23, 41, 9),
            (25, 113, 400),
            (40, 16, 193),
            (3, 5, 0),
        ] {
            let size = Size { m, n, k };
            let (data_a, data_b, bias) = (values(m * k + 1, 1), values(k * (n + 3) + n, 2), values(n, 3));
            let lefts = [Left { data: &data_a, row: k, step: 1 }, Left { data: &data_a, row: 1, step: m }];
            let strips = values(n.next_multiple_of(STRIP) * k, 5);
            let rights = [Right::rows(&data_b, n + 3), Right::strips(&strips, k)];
            for (a, b) in lefts.iter().flat_map(|a| rights.map(|b| (*a, b))) {
                for start in [Start::Zero, Start::Bias(&bias), Start::Add] {
                    let mut got = values(m * (n + 2), 4);
                    let mut want = got.clone();
                    definition(size, a, b, &mut want, n + 2, start);
                    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_here() && k > 0 && m <= ROWS && n <= PANEL) {
                        let mut own = got.clone();
                        // SAFETY: the set is here, and the lengths fit as for `gemm`.
                        unsafe { tile(isa, size, a, b, own.as_mut_ptr(), n + 2, start) };
                        assert_eq!(own, want, "{} {size:?}", isa.name());
                    }
                    gemm(size, a, b, &mut got, n + 2, start);
                    assert_eq!(got, want, "{size:?}");
                }
            }
        }
    }
}
