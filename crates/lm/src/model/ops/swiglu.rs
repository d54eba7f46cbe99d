//! `silu(gate) * up`.

use super::cpu::{self, Read};
use super::simd::{sigmoid, vectorised};
use super::tape;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

vectorised! {
    /// `out = gate * sigmoid(gate) * up`.
    pub fn swiglu_rows(gate: &[f32], up: &[f32], out: &mut [f32]) {
        for ((gate, up), out) in gate.iter().zip(up).zip(out) {
            *out = gate * sigmoid(*gate) * up;
        }
    }
}

vectorised! {
    fn backward_rows(gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
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

/// The differentiable kernel; see [`super::swiglu`].
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    tape::apply2(&gate.contiguous()?, &up.contiguous()?, SwiGlu)
}

struct SwiGlu;

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, gate: &CpuStorage, gl: &Layout, up: &CpuStorage, ul: &Layout) -> Result<(CpuStorage, Shape)> {
        if gl.shape() != ul.shape() {
            bail!("swiglu: gate {:?} and up {:?} differ in shape", gl.shape(), ul.shape());
        }
        let (gate, up) = (cpu::slice(gate, gl)?, cpu::slice(up, ul)?);
        let mut out = vec![0.0; gate.len()];
        swiglu_rows(gate, up, &mut out);
        Ok((CpuStorage::F32(out), gl.shape().clone()))
    }

    fn bwd(&self, gate: &Tensor, up: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (gate_read, up_read, grad_read) = (Read::new(gate), Read::new(up), Read::new(&grad));
        let (mut dgate, mut dup) = (vec![0.0; gate.elem_count()], vec![0.0; up.elem_count()]);
        backward_rows(gate_read.slice()?, up_read.slice()?, grad_read.slice()?, &mut dgate, &mut dup);
        Ok((Some(cpu::tensor(dgate, gate)?), Some(cpu::tensor(dup, up)?)))
    }
}
