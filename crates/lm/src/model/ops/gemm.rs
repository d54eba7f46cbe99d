//! The one matrix product of the CPU kernels. Its promise is about order: every output element is
//! `start`, then one fused multiply-add per k in rising order. Tiles, blocks, instruction sets and neighbours cannot change a bit,
//! so a row has the same value alone and in any batch.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

/// Output columns of a tile, and of a panel of [`super::Packed`].
pub const PANEL: usize = 48;
/// Output rows of a tile.
const ROWS: usize = 8;
/// Steps of k between two visits of an output tile: the panel of `b` they touch stays in the first cache level.
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

/// Right factor: element (p, j) lies at `p * row + j`.
#[derive(Clone, Copy)]
pub struct Right<'a> {
    pub data: &'a [f32],
    pub row: usize,
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
pub fn gemm(size: Size, a: Left, b: Right, c: &mut [f32], c_row: usize, start: Start) {
    let Size { m, n, k } = size;
    if m == 0 || n == 0 {
        return;
    }
    assert!(c.len() >= (m - 1) * c_row + n, "output too short for {size:?}");
    check(size, a, b, start);
    if k == 0 {
        return fill(size, c, c_row, start);
    }
    tiles(size, a, b, c_row, start, |size, a, b, at, start| tile(size, a, b, &mut c[at..], c_row, start));
}

/// The product in fresh memory, dense. With a kernel that only writes, the memory is not cleared first.
#[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "output memory is written without being cleared"))]
pub fn product(size: Size, a: Left, b: Right) -> Vec<f32> {
    #[cfg(target_arch = "x86_64")]
    if size.k > 0 && std::is_x86_feature_detected!("avx512f") {
        let mut out = Vec::with_capacity(size.m * size.n);
        // SAFETY: the processor has AVX-512 and the capacity is m x n.
        unsafe { product_at(size, a, b, out.as_mut_ptr(), size.n, Start::Zero) };
        // SAFETY: every element was written.
        unsafe { out.set_len(size.m * size.n) };
        return out;
    }
    let mut out = vec![0.0; size.m * size.n];
    gemm(size, a, b, &mut out, size.n, Start::Zero);
    out
}

/// [`gemm`] into memory that need not be initialised; every output element is written.
///
/// # Safety
/// The processor has AVX-512F, k and n are not 0, `c` points to m rows of n elements, `c_row` apart, and `start` is not `Add`.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "writes memory that is not initialised")]
pub(super) unsafe fn product_at(size: Size, a: Left, b: Right, c: *mut f32, c_row: usize, start: Start) {
    if size.m > 0 && size.n > 0 {
        check(size, a, b, start);
        // SAFETY: the caller vouches for the processor and for c; the factors were checked.
        tiles(size, a, b, c_row, start, |size, a, b, at, start| unsafe {
            avx512::tile(size, a, b, c.add(at), c_row, start);
        });
    }
}

/// Panics if a factor is too short: a bug of the caller.
fn check(size: Size, a: Left, b: Right, start: Start) {
    let Size { m, n, k } = size;
    if let Start::Bias(bias) = start {
        assert!(bias.len() >= n, "bias too short for {size:?}");
    }
    if k > 0 {
        assert!(a.data.len() > (m - 1) * a.row + (k - 1) * a.step, "left factor too short for {size:?}");
        assert!(b.data.len() >= (k - 1) * b.row + n, "right factor too short for {size:?}");
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
    for rows in (0..m).step_by(BLOCK) {
        let block = BLOCK.min(m - rows);
        for p in (0..k).step_by(DEPTH) {
            let depth = DEPTH.min(k - p);
            for j in (0..n).step_by(PANEL) {
                let width = PANEL.min(n - j);
                let mut right = Right { data: &b.data[p * b.row + j..], row: b.row };
                if pack {
                    for (row, target) in panel.chunks_exact_mut(PANEL).take(depth).enumerate() {
                        target[..width].copy_from_slice(&right.data[row * b.row..row * b.row + width]);
                    }
                    right = Right { data: &panel, row: PANEL };
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

/// The product over no terms at all.
fn fill(size: Size, c: &mut [f32], c_row: usize, start: Start) {
    for row in c.chunks_mut(c_row.max(1)).take(size.m) {
        match start {
            Start::Zero => row[..size.n].fill(0.0),
            Start::Bias(bias) => row[..size.n].copy_from_slice(&bias[..size.n]),
            Start::Add => {}
        }
    }
}

/// One tile of at most ROWS x PANEL; the bounds were checked by [`gemm`].
#[cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "calls functions compiled for features found at run time")
)]
#[inline]
fn tile(size: Size, a: Left, b: Right, c: &mut [f32], c_row: usize, start: Start) {
    #[cfg(target_arch = "x86_64")]
    {
        if std::is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has AVX-512, and `gemm` checked that all elements lie in the slices.
            return unsafe { avx512::tile(size, a, b, c.as_mut_ptr(), c_row, start) };
        }
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            // SAFETY: the processor has AVX2 and FMA, and `gemm` checked that all elements lie in the slices.
            return unsafe { avx2::tile(size, a, b, c.as_mut_ptr(), c_row, start) };
        }
    }
    tile_portable(size, a, b, c, c_row, start);
}

/// The tile in plain code: 4 x 16 outputs at a time.
fn tile_portable(size: Size, a: Left, b: Right, c: &mut [f32], c_row: usize, start: Start) {
    const WIDTH: usize = 16;
    for i in (0..size.m).step_by(4) {
        let rows = 4.min(size.m - i);
        for j in (0..size.n).step_by(WIDTH) {
            let width = WIDTH.min(size.n - j);
            let mut sums = [[0.0f32; WIDTH]; 4];
            for (row, sum) in sums.iter_mut().take(rows).enumerate() {
                match start {
                    Start::Zero => {}
                    Start::Bias(bias) => sum[..width].copy_from_slice(&bias[j..j + width]),
                    Start::Add => sum[..width].copy_from_slice(&c[(i + row) * c_row + j..][..width]),
                }
            }
            let mut right = [0.0f32; WIDTH];
            for p in 0..size.k {
                if width == WIDTH {
                    right.copy_from_slice(&b.data[p * b.row + j..][..WIDTH]);
                } else {
                    right[..width].copy_from_slice(&b.data[p * b.row + j..][..width]);
                }
                for (row, sum) in sums.iter_mut().enumerate() {
                    let left = a.data[(i + row.min(rows - 1)) * a.row + p * a.step];
                    for (sum, right) in sum.iter_mut().zip(&right) {
                        *sum = left.mul_add(*right, *sum);
                    }
                }
            }
            for (row, sum) in sums.iter().take(rows).enumerate() {
                c[(i + row) * c_row + j..][..width].copy_from_slice(&sum[..width]);
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
                    sum = a.data[i * a.row + p * a.step].mul_add(b.data[p * b.row + j], sum);
                }
                c[i * c_row + j] = sum;
            }
        }
    }

    #[test]
    #[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "the AVX2 tile is tested where AVX-512 is chosen"))]
    fn equals_the_definition_bit_for_bit() {
        for (m, n, k) in [(1, 1, 1), (1, 100, 300), (7, 33, 5), (8, 48, 192), (25, 113, 400), (40, 16, 193), (3, 5, 0)]
        {
            let size = Size { m, n, k };
            let (data_a, data_b, bias) = (values(m * k + 1, 1), values(k * (n + 3) + n, 2), values(n, 3));
            let b = Right { data: &data_b, row: n + 3 };
            for a in [Left { data: &data_a, row: k, step: 1 }, Left { data: &data_a, row: 1, step: m }] {
                for start in [Start::Zero, Start::Bias(&bias), Start::Add] {
                    let mut got = values(m * (n + 2), 4);
                    let mut portable = got.clone();
                    let mut want = got.clone();
                    gemm(size, a, b, &mut got, n + 2, start);
                    definition(size, a, b, &mut want, n + 2, start);
                    assert_eq!(got, want, "{size:?}");
                    if let (true, Start::Zero) = (k > 0, start) {
                        let dense: Vec<f32> = want.chunks(n + 2).flat_map(|row| &row[..n]).copied().collect();
                        assert_eq!(product(size, a, b), dense, "fresh {size:?}");
                    }
                    if k > 0 {
                        #[cfg(target_arch = "x86_64")]
                        if n <= PANEL && m <= ROWS && std::is_x86_feature_detected!("avx2") {
                            let mut vectors = values(m * (n + 2), 4);
                            // SAFETY: the processor has AVX2 and FMA, and the lengths fit as for `gemm`.
                            unsafe { avx2::tile(size, a, b, vectors.as_mut_ptr(), n + 2, start) };
                            assert_eq!(vectors, want, "AVX2 {size:?}");
                        }
                        tile_portable(size, a, b, &mut portable, n + 2, start);
                        assert_eq!(portable, want, "portable {size:?}");
                    }
                }
            }
        }
    }
}
