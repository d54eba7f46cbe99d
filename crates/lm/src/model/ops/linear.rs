//! `y = x w^T + b`: forward over packed panels of w, backward as two products.

use super::cpu::{self, Read};
#[cfg(target_arch = "x86_64")]
use super::gemm::product_at;
use super::gemm::{Left, PANEL, Right, Size, Start, gemm, product};
use super::tape;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};
use std::ops::Range;

/// Rows of x between two visits of a panel.
const BLOCK: usize = 384;

/// A weight `[out, in]` laid out for the forward product: panels of 48 outputs, each `[in, 48]`. Build it once per weight;
/// building costs about as much as multiplying by eight rows.
#[derive(Clone, Debug)]
pub struct Packed {
    panels: Vec<f32>,
    outputs: usize,
    inputs: usize,
}

impl Packed {
    /// From a weight tensor `[out, in]`, f32 on the CPU.
    pub fn new(w: &Tensor) -> Result<Packed> {
        let (outputs, inputs) = w.dims2()?;
        let w = w.contiguous()?;
        let read = Read::new(&w);
        Ok(Packed::from_slice(read.slice()?, outputs, inputs))
    }

    /// From the rows of a weight `[out, in]`.
    pub fn from_slice(w: &[f32], outputs: usize, inputs: usize) -> Packed {
        assert_eq!(w.len(), outputs * inputs, "a weight of {outputs} x {inputs}");
        let mut panels = vec![0.0; outputs.next_multiple_of(16) * inputs];
        for (index, rows) in w.chunks(PANEL * inputs.max(1)).enumerate() {
            let width = (rows.len() / inputs).next_multiple_of(16);
            let panel = &mut panels[index * PANEL * inputs..][..width * inputs];
            transpose(rows, inputs, panel, width);
        }
        Packed { panels, outputs, inputs }
    }

    pub fn outputs(&self) -> usize {
        self.outputs
    }

    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Row `output` of the weight as it was given: `[in]` numbers into `row`.
    pub fn unpack(&self, output: usize, row: &mut [f32]) {
        assert!(output < self.outputs && row.len() == self.inputs, "row {output} of {} outputs", self.outputs);
        let first = output / PANEL * PANEL;
        let width = PANEL.min(self.outputs - first).next_multiple_of(16);
        let panel = &self.panels[first * self.inputs + output - first..];
        for (value, step) in row.iter_mut().zip(panel.chunks(width)) {
            *value = step[0];
        }
    }

    /// `out[r] = x[r] w^T + bias` for `rows` rows; both lie densely.
    pub fn apply(&self, x: &[f32], rows: usize, bias: Option<&[f32]>, out: &mut [f32]) {
        assert!(out.len() >= rows * self.outputs, "output too short for {rows} rows of {}", self.outputs);
        self.panels(x, rows, bias, |size, left, right, at, start| {
            gemm(size, left, right, &mut out[at..], self.outputs, start);
        });
    }

    /// Outputs `entries` alone, `[rows, entries.len()]`: to the same bits as those columns of the whole. The first must be a
    /// multiple of [`PANEL`].
    pub fn apply_to(&self, x: &[f32], rows: usize, entries: Range<usize>, out: &mut [f32]) {
        assert!(entries.start.is_multiple_of(PANEL) && entries.end <= self.outputs, "{entries:?} of {}", self.outputs);
        assert!(out.len() >= rows * entries.len(), "output too short for {rows} rows of {}", entries.len());
        for first in entries.clone().step_by(PANEL) {
            let panel = PANEL.min(self.outputs - first).next_multiple_of(16);
            let size = Size { m: rows, n: PANEL.min(entries.end - first), k: self.inputs };
            let left = Left { data: x, row: self.inputs, step: 1 };
            let right = Right { data: &self.panels[first * self.inputs..], row: panel };
            gemm(size, left, right, &mut out[first - entries.start..], entries.len(), Start::Zero);
        }
    }

    /// [`Packed::apply`] in fresh memory.
    #[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "output memory is written without being cleared"))]
    pub fn applied(&self, x: &[f32], rows: usize, bias: Option<&[f32]>) -> Vec<f32> {
        #[cfg(target_arch = "x86_64")]
        if self.inputs > 0 && std::is_x86_feature_detected!("avx512f") {
            let mut out: Vec<f32> = Vec::with_capacity(rows * self.outputs);
            let to = out.as_mut_ptr();
            self.panels(x, rows, bias, |size, left, right, at, start| {
                // SAFETY: the processor has AVX-512; panels lie inside the rows x outputs of the capacity.
                unsafe { product_at(size, left, right, to.add(at), self.outputs, start) };
            });
            // SAFETY: the panels cover every element.
            unsafe { out.set_len(rows * self.outputs) };
            return out;
        }
        let mut out = vec![0.0; rows * self.outputs];
        self.apply(x, rows, bias, &mut out);
        out
    }

    /// The products that make up the whole: factors, offset of the output, start.
    fn panels(
        &self,
        x: &[f32],
        rows: usize,
        bias: Option<&[f32]>,
        mut run: impl FnMut(Size, Left, Right, usize, Start),
    ) {
        for block in (0..rows).step_by(BLOCK) {
            let m = BLOCK.min(rows - block);
            let left = Left { data: &x[block * self.inputs..], row: self.inputs, step: 1 };
            for first in (0..self.outputs).step_by(PANEL) {
                let n = PANEL.min(self.outputs - first);
                let right = Right { data: &self.panels[first * self.inputs..], row: n.next_multiple_of(16) };
                let start = bias.map_or(Start::Zero, |bias| Start::Bias(&bias[first..]));
                run(Size { m, n, k: self.inputs }, left, right, block * self.outputs + first, start);
            }
        }
    }
}

/// Writes `rows` (dense, `columns` wide) as columns of `target`, whose rows are `width` wide.
fn transpose(rows: &[f32], columns: usize, target: &mut [f32], width: usize) {
    const TILE: usize = 16;
    let count = rows.len() / columns.max(1);
    for column in (0..columns).step_by(TILE) {
        let depth = TILE.min(columns - column);
        for first in (0..count).step_by(TILE) {
            let mut tile = [[0.0f32; TILE]; TILE];
            let height = TILE.min(count - first);
            for (r, row) in rows[first * columns..].chunks(columns).take(height).enumerate() {
                for (c, value) in row[column..column + depth].iter().enumerate() {
                    tile[c][r] = *value;
                }
            }
            for (c, line) in tile.iter().take(depth).enumerate() {
                target[(column + c) * width + first..][..height].copy_from_slice(&line[..height]);
            }
        }
    }
}

/// `x w^T + bias` with a weight packed before; no gradient.
pub fn linear_packed(x: &Tensor, w: &Packed, bias: Option<&Tensor>) -> Result<Tensor> {
    let (rows, inputs) = x.dims2()?;
    if inputs != w.inputs {
        bail!("linear: x has {inputs} features, the weight takes {}", w.inputs);
    }
    let x = x.contiguous()?;
    let out = match bias {
        Some(bias) => w.applied(Read::new(&x).slice()?, rows, Some(Read::new(bias).slice()?)),
        None => w.applied(Read::new(&x).slice()?, rows, None),
    };
    Tensor::from_vec(out, (rows, w.outputs), x.device())
}

/// The differentiable kernel; see [`super::linear`].
pub fn linear(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (x, w) = (x.contiguous()?, w.contiguous()?);
    match bias {
        Some(bias) => tape::apply3(&x, &w, &bias.contiguous()?, Linear),
        None => tape::apply2(&x, &w, Linear),
    }
}

struct Linear;

fn forward(
    (x, x_layout): (&CpuStorage, &Layout),
    (w, w_layout): (&CpuStorage, &Layout),
    bias: Option<&[f32]>,
) -> Result<(CpuStorage, Shape)> {
    let (rows, inputs) = x_layout.shape().dims2()?;
    let (outputs, w_inputs) = w_layout.shape().dims2()?;
    if inputs != w_inputs || bias.is_some_and(|b| b.len() != outputs) {
        bail!("linear: x {:?} does not fit weight {:?} and its bias", x_layout.shape(), w_layout.shape());
    }
    let packed = Packed::from_slice(cpu::slice(w, w_layout)?, outputs, inputs);
    let out = packed.applied(cpu::slice(x, x_layout)?, rows, bias);
    Ok((CpuStorage::F32(out), (rows, outputs).into()))
}

/// Gradients of x and w, each if wanted.
fn backward(x: &Tensor, w: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
    let ((rows, inputs), outputs) = (x.dims2()?, w.dim(0)?);
    let grad = grad.contiguous()?;
    let (grad_read, x_read, w_read) = (Read::new(&grad), Read::new(x), Read::new(w));
    let dy = grad_read.slice()?;
    let mut dx = None;
    if cpu::wants_gradient(x) {
        let left = Left { data: dy, row: outputs, step: 1 };
        let right = Right { data: w_read.slice()?, row: inputs };
        let out = product(Size { m: rows, n: inputs, k: outputs }, left, right);
        dx = Some(cpu::tensor(out, x)?);
    }
    let mut dw = None;
    if cpu::wants_gradient(w) {
        let left = Left { data: dy, row: 1, step: outputs };
        let right = Right { data: x_read.slice()?, row: inputs };
        let out = product(Size { m: outputs, n: inputs, k: rows }, left, right);
        dw = Some(cpu::tensor(out, w)?);
    }
    Ok((dx, dw))
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }
    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, w: &CpuStorage, wl: &Layout) -> Result<(CpuStorage, Shape)> {
        forward((x, xl), (w, wl), None)
    }
    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        backward(x, w, grad)
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
        forward((x, xl), (w, wl), Some(cpu::slice(bias, bl)?))
    }
    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (dx, dw) = backward(x, w, grad)?;
        let dbias = if cpu::wants_gradient(bias) { Some(sum_rows(grad, bias)?) } else { None };
        Ok((dx, dw, dbias))
    }
}

/// Sum of the rows of `grad`, in row order.
fn sum_rows(grad: &Tensor, like: &Tensor) -> Result<Tensor> {
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
