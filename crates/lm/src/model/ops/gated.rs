//! Gates of the feed-forward: `silu(gate) * up` and `gelu(gate) * up`.

use super::cpu::{self, Read};
use super::simd::{sigmoid, vectorised};
use super::team::Disjoint;
use super::{tape, wide};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

/// `sqrt(8 / pi)`: the tanh approximation of GELU is `x * sigmoid(SLOPE * (x + CUBIC * x^3))`.
const SLOPE: f32 = 1.595_769;
const CUBIC: f32 = 0.044_715;

vectorised! {
    /// `out = gate * sigmoid(gate) * up`.
    pub fn swiglu_rows(gate: &[f32], up: &[f32], out: &mut [f32]) {
        for ((gate, up), out) in gate.iter().zip(up).zip(out) {
            *out = gate * sigmoid(*gate) * up;
        }
    }
}

vectorised! {
    /// `out = gelu(gate) * up`, GELU by its tanh approximation.
    pub fn geglu_rows(gate: &[f32], up: &[f32], out: &mut [f32]) {
        for ((gate, up), out) in gate.iter().zip(up).zip(out) {
            let inner = SLOPE * (gate + CUBIC * gate * gate * gate);
            *out = gate * sigmoid(inner) * up;
        }
    }
}

vectorised! {
    fn swiglu_backward(gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
        let size = gate.len();
        let (up, dy, dgate, dup) = (&up[..size], &dy[..size], &mut dgate[..size], &mut dup[..size]);
        for i in 0..size {
            let s = sigmoid(gate[i]);
            let silu = gate[i] * s;
            dup[i] = dy[i] * silu;
            dgate[i] = dy[i] * up[i] * (s + silu * (1.0 - s));
        }
    }
}

vectorised! {
    fn geglu_backward(gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
        let size = gate.len();
        let (up, dy, dgate, dup) = (&up[..size], &dy[..size], &mut dgate[..size], &mut dup[..size]);
        for i in 0..size {
            let square = gate[i] * gate[i];
            let s = sigmoid(SLOPE * (gate[i] + CUBIC * square * gate[i]));
            let gelu = gate[i] * s;
            let inner_slope = SLOPE * (1.0 + 3.0 * CUBIC * square);
            dup[i] = dy[i] * gelu;
            dgate[i] = dy[i] * up[i] * (s + gelu * (1.0 - s) * inner_slope);
        }
    }
}

/// About what an element costs.
const OPERATIONS: usize = 30;

/// The function of the gate.
#[derive(Clone, Copy)]
pub enum Gate {
    Silu,
    Gelu,
}

/// The differentiable kernel; see [`super::swiglu`] and [`super::geglu`].
pub fn gated(gate: &Tensor, up: &Tensor, by: Gate) -> Result<Tensor> {
    tape::apply2(&gate.contiguous()?, &up.contiguous()?, by)
}

impl CustomOp2 for Gate {
    fn name(&self) -> &'static str {
        match self {
            Gate::Silu => "swiglu",
            Gate::Gelu => "geglu",
        }
    }

    fn cpu_fwd(&self, gate: &CpuStorage, gl: &Layout, up: &CpuStorage, ul: &Layout) -> Result<(CpuStorage, Shape)> {
        if gl.shape() != ul.shape() {
            bail!("{}: gate {:?} and up {:?} differ in shape", self.name(), gl.shape(), ul.shape());
        }
        let (gate, up) = (cpu::slice(gate, gl)?, cpu::slice(up, ul)?);
        let mut out = vec![0.0; gate.len()];
        wide::share_rows(&mut out, 1, OPERATIONS, |first, out| {
            let (gate, up) = (&gate[first..][..out.len()], &up[first..][..out.len()]);
            match self {
                Gate::Silu => swiglu_rows(gate, up, out),
                Gate::Gelu => geglu_rows(gate, up, out),
            }
        });
        Ok((CpuStorage::F32(out), gl.shape().clone()))
    }

    #[expect(unsafe_code, reason = "threads write parts of two outputs")]
    fn bwd(&self, gate: &Tensor, up: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (gate_read, up_read, grad_read) = (Read::new(gate), Read::new(up), Read::new(&grad));
        let (mut dgate, mut dup) = (vec![0.0; gate.elem_count()], vec![0.0; up.elem_count()]);
        let (gate_data, up_data, dy) = (gate_read.slice()?, up_read.slice()?, grad_read.slice()?);
        let own = Disjoint::new(&mut dup);
        wide::share_rows(&mut dgate, 1, 2 * OPERATIONS, |first, dgate| {
            let range = first..first + dgate.len();
            let (gate, up, dy) = (&gate_data[range.clone()], &up_data[range.clone()], &dy[range.clone()]);
            // SAFETY: pieces are disjoint.
            let dup = unsafe { own.part(range) };
            match self {
                Gate::Silu => swiglu_backward(gate, up, dy, dgate, dup),
                Gate::Gelu => geglu_backward(gate, up, dy, dgate, dup),
            }
        });
        Ok((Some(cpu::tensor(dgate, gate)?), Some(cpu::tensor(dup, up)?)))
    }
}
