//! `y = x w^T + b`: forward over packed panels of w, backward as two products.

use super::cpu::{self, Read};
use super::factor::{Factor, Matrix, Side};
use super::gemm::{Left, PANEL, Right, STRIP, Size, Start, product_at};
use super::lines::Lines;
use super::team::Output;
use super::{tape, wide};
use candle_core::{CpuStorage, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Tensor, bail};

/// Rows of x between two visits of a panel.
const BLOCK: usize = 384;

/// A weight `[out, in]` laid out for the forward product: strips of 16 outputs, each `[in, 16]`. Build it once per weight;
/// building costs about as much as multiplying by eight rows.
#[derive(Clone, Debug)]
pub struct Packed {
    strips: Lines<f32>,
    outputs: usize,
    inputs: usize,
}

impl Packed {
    /// From the rows of a weight `[out, in]`.
    pub fn from_slice(w: &[f32], outputs: usize, inputs: usize) -> Packed {
        assert_eq!(w.len(), outputs * inputs, "a weight of {outputs} x {inputs}");
        let mut strips = Lines::zeros(outputs.next_multiple_of(STRIP) * inputs);
        if inputs > 0 {
            let size = STRIP * inputs;
            wide::share_rows(&mut strips, size, 16 * size, |first, strips| {
                let rows = w[first * size..].chunks(size);
                rows.zip(strips.chunks_exact_mut(size)).for_each(|(rows, strip)| transpose(rows, inputs, strip));
            });
        }
        Packed { strips, outputs, inputs }
    }

    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Row `output` of the weight as it was given: `[in]` numbers into `row`.
    pub fn unpack(&self, output: usize, row: &mut [f32]) {
        assert!(output < self.outputs && row.len() == self.inputs, "row {output} of {} outputs", self.outputs);
        let strip = &self.strips[output / STRIP * STRIP * self.inputs + output % STRIP..];
        for (value, step) in row.iter_mut().zip(strip.chunks(STRIP)) {
            *value = step[0];
        }
    }

    /// The weight from this output on, which begins a strip, as a right factor.
    pub(super) fn right(&self, first: usize) -> Right<'_> {
        Right::strips(&self.strips[first * self.inputs..], self.inputs)
    }

    /// Panel after panel, shared among threads.
    ///
    /// # Safety
    /// `out` points to rows x outputs elements that nobody else reads or writes meanwhile, initialised where `start` is `Add`.
    #[expect(unsafe_code, reason = "threads write columns of one output")]
    pub(super) unsafe fn apply_at(&self, left: Left, rows: usize, start: Start, out: *mut f32) {
        let out = Output(out);
        wide::share(self.outputs.div_ceil(PANEL), 2 * rows * PANEL * self.inputs, 1, |panels| {
            for block in (0..rows).step_by(BLOCK) {
                let m = BLOCK.min(rows - block);
                let left = Left { data: &left.data[block * left.row..], ..left };
                for first in panels.clone().map(|panel| panel * PANEL) {
                    let size = Size { m, n: PANEL.min(self.outputs - first), k: self.inputs };
                    let start = match start {
                        Start::Bias(bias) => Start::Bias(&bias[first..]),
                        other => other,
                    };
                    let to = out.at(block * self.outputs + first);
                    // SAFETY: the panel lies inside the output, and is this thread's.
                    unsafe { product_at(size, left, self.right(first), to, self.outputs, start) };
                }
            }
        });
    }
}

/// Writes up to 16 rows (dense, `columns` wide) as columns of `target`, whose rows are 16 wide.
pub(super) fn transpose<T: Copy + Default>(rows: &[T], columns: usize, target: &mut [T]) {
    for (first, target) in (0..columns).step_by(STRIP).zip(target.chunks_mut(STRIP * STRIP)) {
        let depth = STRIP.min(columns - first);
        let mut tile = [[T::default(); STRIP]; STRIP];
        for (r, row) in rows.chunks_exact(columns).enumerate() {
            for (c, value) in row[first..first + depth].iter().enumerate() {
                tile[c][r] = *value;
            }
        }
        for (line, target) in tile.iter().zip(target.chunks_exact_mut(STRIP)) {
            target.copy_from_slice(line);
        }
    }
}

/// The differentiable kernel; see [`super::linear()`].
pub fn linear(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, products: DType) -> Result<Tensor> {
    let (x, w) = (x.contiguous()?, w.contiguous()?);
    let op = Linear { products };
    match bias {
        Some(bias) => tape::apply3(&x, &w, &bias.contiguous()?, op),
        None => tape::apply2(&x, &w, op),
    }
}

#[derive(Clone, Copy)]
struct Linear {
    products: DType,
}

fn forward(
    Linear { products }: Linear,
    (x, x_layout): (&CpuStorage, &Layout),
    (w, w_layout): (&CpuStorage, &Layout),
    bias: Option<&[f32]>,
) -> Result<(CpuStorage, Shape)> {
    let (rows, inputs) = x_layout.shape().dims2()?;
    let (outputs, w_inputs) = w_layout.shape().dims2()?;
    if inputs != w_inputs || bias.is_some_and(|b| b.len() != outputs) {
        bail!("linear: x {:?} does not fit weight {:?} and its bias", x_layout.shape(), w_layout.shape());
    }
    let factor = Factor::transposed(cpu::matrix(w, w_layout)?, outputs, inputs, products);
    let out = factor.applied(Side::Rows(cpu::slice(x, x_layout)?), rows, bias);
    Ok((CpuStorage::F32(out), (rows, outputs).into()))
}

/// Gradients of x and w, each if wanted.
pub(super) struct Slopes {
    pub x: Option<Vec<f32>>,
    pub w: Option<Vec<f32>>,
}

/// `dx = dy w` and `dw = dy^T x`.
pub(super) fn slopes(x: &Tensor, w: &Tensor, grad: &Tensor, products: DType) -> Result<Slopes> {
    let ((rows, inputs), outputs) = (x.dims2()?, w.dim(0)?);
    let grad = grad.contiguous()?;
    let (grad_read, x_read, w_read) = (Read::new(&grad), Read::new(x), Read::new(w));
    let dy = grad_read.slice()?;
    let mut dx = None;
    if cpu::wants_gradient(x) {
        let right = Factor::of_rows(w_read.matrix()?, outputs, inputs, products);
        dx = Some(right.applied(Side::Rows(dy), rows, None));
    }
    let mut dw = None;
    if cpu::wants_gradient(w) {
        let right = Factor::of_rows(Matrix::F32(x_read.slice()?), rows, inputs, products);
        dw = Some(right.applied(Side::Columns(dy), outputs, None));
    }
    Ok(Slopes { x: dx, w: dw })
}

fn backward(op: Linear, x: &Tensor, w: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
    let Slopes { x: dx, w: dw } = slopes(x, w, grad, op.products)?;
    let tensor = |own: Option<Vec<f32>>, like| own.map(|own| cpu::tensor(own, like)).transpose();
    Ok((tensor(dx, x)?, tensor(dw, w)?))
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }
    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, w: &CpuStorage, wl: &Layout) -> Result<(CpuStorage, Shape)> {
        forward(*self, (x, xl), (w, wl), None)
    }
    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        backward(*self, x, w, grad)
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear with bias"
    }
    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
        bias: &CpuStorage,
        bl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        forward(*self, (x, xl), (w, wl), Some(cpu::slice(bias, bl)?))
    }
    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (dx, dw) = backward(*self, x, w, grad)?;
        let dbias = if cpu::wants_gradient(bias) { Some(sum_rows(grad, bias)?) } else { None };
        Ok((dx, dw, dbias))
    }
}

/// Sum of the rows of `grad`, in row order.
pub(super) fn sum_rows(grad: &Tensor, like: &Tensor) -> Result<Tensor> {
    let grad = grad.contiguous()?;
    let read = Read::new(&grad);
    let mut sum = vec![0.0f32; like.elem_count()];
    for row in read.slice()?.chunks_exact(sum.len().max(1)) {
        for (sum, value) in sum.iter_mut().zip(row) {
            *sum += value;
        }
    }
    cpu::tensor(sum, like)
}
