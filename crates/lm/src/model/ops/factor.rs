//! Factors of products while training: the right one is laid out once for all rows of the left one.
//!
//! In f32 they are what [`super::gemm`] takes. Rounded to bf16 they are pairs along the sum, of which the processor takes dot products.

use super::gemm::{Left, PANEL, Right, Size, Start, product_at};
use super::isa::Isa;
use super::linear::Packed;
use super::lines::Lines;
use super::simd;
use super::team::Output;
use super::weight::bf16::{Activations, Bf16Strips};
use super::wide;
use candle_core::DType;
use half::bf16;

/// Output rows of a piece of work, and between two visits of a panel.
const BLOCK: usize = 256;

/// Dense rows of a matrix.
#[derive(Clone, Copy, Debug)]
pub enum Matrix<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

impl<'a> Matrix<'a> {
    /// Elements.
    pub fn count(self) -> usize {
        match self {
            Matrix::F32(data) => data.len(),
            Matrix::Bf16(data) => data.len(),
        }
    }

    /// Some of the rows.
    pub fn rows(self, first: usize, count: usize, width: usize) -> Matrix<'a> {
        let range = first * width..(first + count) * width;
        match self {
            Matrix::F32(data) => Matrix::F32(&data[range]),
            Matrix::Bf16(data) => Matrix::Bf16(&data[range]),
        }
    }

    /// The elements in f32.
    pub fn widen(self, out: &mut [f32]) {
        match self {
            Matrix::F32(data) => out.copy_from_slice(data),
            Matrix::Bf16(data) => simd::widen(data, out),
        }
    }
}

/// How the sums of a product are made.
enum Kind {
    F32,
    /// Of a matrix in bf16 widened to f32.
    Widened(Isa),
    /// Dot products of pairs of rounded numbers.
    Pairs(Isa),
}

fn kind(matrix: Matrix, products: DType, isa: Isa) -> Kind {
    match matrix {
        _ if products == DType::BF16 && isa >= Isa::Bf16 => Kind::Pairs(isa),
        Matrix::Bf16(_) => Kind::Widened(isa.min(Isa::Avx512)),
        Matrix::F32(_) => Kind::F32,
    }
}

/// A left factor `[m, k]`.
#[derive(Clone, Copy)]
pub enum Side<'a> {
    /// Its rows.
    Rows(&'a [f32]),
    /// The rows of its transpose.
    Columns(&'a [f32]),
}

/// A right factor `[k, n]`.
pub struct Factor<'a> {
    layout: Layout<'a>,
    n: usize,
    k: usize,
}

enum Layout<'a> {
    Rows(Right<'a>),
    Packed(Packed),
    Bf16(Bf16Strips),
}

impl<'a> Factor<'a> {
    /// `w^T` of a weight `[n, k]`; factors are rounded where `products` says so and the processor gains by it.
    pub fn transposed(w: Matrix<'a>, n: usize, k: usize, products: DType) -> Factor<'a> {
        assert_eq!(w.count(), n * k, "a weight of {n} x {k}");
        let layout = match (kind(w, products, Isa::current()), w) {
            (Kind::F32, Matrix::F32(w)) => Layout::Packed(Packed::from_slice(w, n, k)),
            (Kind::Pairs(isa) | Kind::Widened(isa), _) => Layout::Bf16(Bf16Strips::new(isa, w, n, k)),
            (Kind::F32, Matrix::Bf16(_)) => unreachable!("a matrix in bf16 has another kind"),
        };
        Factor { layout, n, k }
    }

    /// A matrix `[k, n]`.
    pub fn of_rows(b: Matrix<'a>, k: usize, n: usize, products: DType) -> Factor<'a> {
        assert_eq!(b.count(), n * k, "a matrix of {k} x {n}");
        let layout = match (kind(b, products, Isa::current()), b) {
            (Kind::F32, Matrix::F32(b)) => Layout::Rows(Right::rows(b, n)),
            (Kind::Pairs(isa) | Kind::Widened(isa), _) => Layout::Bf16(Bf16Strips::of_rows(isa, b, k, n)),
            (Kind::F32, Matrix::Bf16(_)) => unreachable!("a matrix in bf16 has another kind"),
        };
        Factor { layout, n, k }
    }

    pub fn outputs(&self) -> usize {
        self.n
    }

    /// `out = start + left * self`, of so many rows.
    #[expect(unsafe_code, reason = "one body serves memory that is initialised and memory that is not")]
    pub fn apply(&self, left: Side, rows: usize, start: Start, out: &mut [f32]) {
        assert!(out.len() >= rows * self.n, "output too short for {rows} rows of {}", self.n);
        // SAFETY: all rows lie in `out`, which is initialised.
        unsafe { self.apply_at(left, rows, start, out.as_mut_ptr()) };
    }

    /// `left * self + bias` in fresh memory.
    #[expect(unsafe_code, reason = "output memory is written without being cleared")]
    pub fn applied(&self, left: Side, rows: usize, bias: Option<&[f32]>) -> Vec<f32> {
        let mut out: Vec<f32> = Vec::with_capacity(rows * self.n);
        // SAFETY: the capacity is rows x n, all of it is written, and none of it is read.
        unsafe {
            self.apply_at(left, rows, bias.map_or(Start::Zero, Start::Bias), out.as_mut_ptr());
            out.set_len(rows * self.n);
        }
        out
    }

    /// # Safety
    /// `out` points to rows x n elements that nobody else reads or writes meanwhile, initialised where `start` is `Add`.
    #[expect(unsafe_code, reason = "threads write parts of one output")]
    unsafe fn apply_at(&self, left: Side, rows: usize, start: Start, out: *mut f32) {
        let (n, k) = (self.n, self.k);
        let (Side::Rows(data) | Side::Columns(data)) = left;
        assert!(data.len() >= rows * k, "{rows} rows of {k}");
        match &self.layout {
            Layout::Rows(right) => {
                let out = Output(out);
                wide::share(rows, 2 * n * k, BLOCK / 2, |piece| {
                    let size = Size { m: piece.len(), n, k };
                    // SAFETY: the rows are this thread's.
                    unsafe {
                        product_at(size, from(left, rows, k, piece.start), *right, out.at(piece.start * n), n, start)
                    };
                });
            }
            // SAFETY: the caller's promise, handed on.
            Layout::Packed(packed) => unsafe { packed.apply_at(from(left, rows, k, 0), rows, start, out) },
            // SAFETY: as above.
            Layout::Bf16(strips) => unsafe { self.strips_at(strips, left, rows, start, out) },
        }
    }

    /// Panel after panel, shared among threads.
    ///
    /// # Safety
    /// As for [`Factor::apply_at`].
    #[expect(unsafe_code, reason = "threads write columns of one output")]
    unsafe fn strips_at(&self, strips: &Bf16Strips, left: Side, rows: usize, start: Start, out: *mut f32) {
        let (n, k, mut pairs) = (self.n, self.k, Lines::zeros(strips.pairs_len(rows)));
        let x = match left {
            Side::Rows(x) => {
                strips.round(&x[..rows * k], &mut pairs);
                x
            }
            Side::Columns(x) => {
                assert!(strips.takes_pairs(), "a transposed left factor is taken in pairs");
                strips.round_columns(&x[..rows * k], rows, &mut pairs);
                x
            }
        };
        let out = Output(out);
        wide::share(n.div_ceil(PANEL), 2 * rows * PANEL * k, 1, |panels| {
            let columns = panels.start * PANEL..n.min(panels.end * PANEL);
            let start = match start {
                Start::Bias(bias) => Start::Bias(&bias[columns.start..]),
                other => other,
            };
            for first in (0..rows).step_by(BLOCK) {
                let activations = Activations { x: &x[first * k..], pairs: strips.pairs_from(&pairs, first) };
                let to = out.at(first * n + columns.start);
                // SAFETY: the columns are this thread's, and lie inside the output.
                unsafe { strips.product(activations, BLOCK.min(rows - first), columns.clone(), start, to, n) };
            }
        });
    }
}

/// A left factor `[rows, k]` from this row on.
fn from(left: Side, rows: usize, k: usize, first: usize) -> Left {
    match left {
        Side::Rows(data) => Left { data: &data[first * k..], row: k, step: 1 },
        Side::Columns(data) => Left { data: &data[first.min(data.len())..], row: 1, step: rows },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mindgap_base::rng::Stream;

    fn values(name: &str, count: usize) -> Vec<f32> {
        let mut cursor = Stream::at(5, &[name.as_bytes()]).cursor();
        (0..count).map(|_| cursor.normal() as f32).collect()
    }

    fn rounded(x: &[f32]) -> Vec<f32> {
        x.iter().map(|x| bf16::from_f32(*x).to_f32()).collect()
    }

    /// Sums in f64.
    fn definition(
        a: impl Fn(usize, usize) -> f32,
        b: impl Fn(usize, usize) -> f32,
        (m, n, k): (usize, usize, usize),
    ) -> Vec<f64> {
        let sum = |i: usize, j: usize| (0..k).map(|p| f64::from(a(i, p)) * f64::from(b(p, j))).sum();
        (0..m * n).map(|at| sum(at / n, at % n)).collect()
    }

    fn assert_close(got: &[f32], want: &[f64], k: usize, what: &str) {
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            let bound = 1e-6 * (k as f64 + 8.0) + 1e-6 * want.abs();
            assert!((f64::from(*got) - want).abs() < bound, "{what}[{i}]: {got} instead of {want}");
        }
    }

    /// Each of the three products of a projection and its gradients, in every combination of types, on ragged shapes: sums of the
    /// factors as the kind rounds them.
    #[test]
    fn products_are_sums_of_rounded_factors() {
        for (rows, outputs, inputs) in [(1, 1, 1), (3, 17, 5), (33, 50, 31), (8, 48, 64), (300, 70, 45), (5, 100, 1030)]
        {
            let (x, w, dy) = (values("x", rows * inputs), values("w", outputs * inputs), values("dy", rows * outputs));
            let bias = values("bias", outputs);
            let narrow: Vec<bf16> = w.iter().map(|w| bf16::from_f32(*w)).collect();
            let pairs = Isa::current() >= Isa::Bf16;
            for (weight, products) in [
                (Matrix::F32(&w), DType::F32),
                (Matrix::F32(&w), DType::BF16),
                (Matrix::Bf16(&narrow), DType::F32),
                (Matrix::Bf16(&narrow), DType::BF16),
            ] {
                let rounds = products == DType::BF16 && pairs;
                let held = |data: &[f32]| if rounds { rounded(data) } else { data.to_vec() };
                let (x_held, dy_held) = (held(&x), held(&dy));
                let w_held = if matches!(weight, Matrix::Bf16(_)) { rounded(&w) } else { held(&w) };
                let forward = Factor::transposed(weight, outputs, inputs, products);
                let mut got = forward.applied(Side::Rows(&x), rows, Some(&bias));
                got.chunks_mut(outputs).for_each(|row| row.iter_mut().zip(&bias).for_each(|(y, bias)| *y -= bias));
                let want =
                    definition(|i, p| x_held[i * inputs + p], |p, j| w_held[j * inputs + p], (rows, outputs, inputs));
                assert_close(&got, &want, inputs, "y");
                let back = Factor::of_rows(weight, outputs, inputs, products);
                let got = back.applied(Side::Rows(&dy), rows, None);
                let want =
                    definition(|i, p| dy_held[i * outputs + p], |p, j| w_held[p * inputs + j], (rows, inputs, outputs));
                assert_close(&got, &want, outputs, "dx");
                let of_weight = Factor::of_rows(Matrix::F32(&x), rows, inputs, products);
                let mut got = vec![1.0; outputs * inputs];
                of_weight.apply(Side::Columns(&dy), outputs, Start::Add, &mut got);
                got.iter_mut().for_each(|sum| *sum -= 1.0);
                let want =
                    definition(|i, p| dy_held[p * outputs + i], |p, j| x_held[p * inputs + j], (outputs, inputs, rows));
                assert_close(&got, &want, rows, "dw");
            }
        }
    }

    /// A row alone and among others, and on one or several threads.
    #[test]
    fn rows_have_the_same_bits_alone() {
        let (rows, outputs, inputs) = (300, 70, 45);
        let (x, w) = (values("x", rows * inputs), values("w", outputs * inputs));
        for products in [DType::F32, DType::BF16] {
            let factor = Factor::transposed(Matrix::F32(&w), outputs, inputs, products);
            let all = factor.applied(Side::Rows(&x), rows, None);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
            assert_eq!(pool.install(|| factor.applied(Side::Rows(&x), rows, None)), all);
            for row in [0, 7, 255, 256, 299] {
                let alone = factor.applied(Side::Rows(&x[row * inputs..(row + 1) * inputs]), 1, None);
                assert_eq!(alone, all[row * outputs..(row + 1) * outputs], "{products:?} row {row}");
            }
        }
    }
}
