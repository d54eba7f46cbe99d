//! Rotary embedding, halves layout.

use super::cpu::{self, Read};
use super::simd::vectorised;
use super::{tape, wide};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

vectorised! {
    /// Turns every head of every row of x, in place, by the row's angles: cos and sin are `[rows, half]`, and the first
    /// `2 * half` features of a head turn. `turn` is 1 to turn forwards, -1 to turn back.
    pub fn rope_rows(x: &mut [f32], features: usize, cos: &[f32], sin: &[f32], head_dim: usize, half: usize, turn: f32) {
        let angles = cos.chunks_exact(half).zip(sin.chunks_exact(half));
        for (row, (cos, sin)) in x.chunks_exact_mut(features).zip(angles) {
            for head in row.chunks_exact_mut(head_dim) {
                let (first, second) = head[..2 * half].split_at_mut(half);
                for i in 0..half {
                    let (a, b, sin) = (first[i], second[i], turn * sin[i]);
                    first[i] = a * cos[i] - b * sin;
                    second[i] = b * cos[i] + a * sin;
                }
            }
        }
    }
}

/// The differentiable kernel; see [`super::rope()`].
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor, head_dim: usize) -> Result<Tensor> {
    let (cos, sin) = (cos.detach().contiguous()?, sin.detach().contiguous()?);
    tape::apply1(&x.contiguous()?, Rope { cos, sin, head_dim })
}

/// About what a feature costs: little, but it comes from memory.
const OPERATIONS: usize = 64;

struct Rope {
    cos: Tensor,
    sin: Tensor,
    head_dim: usize,
}

impl Rope {
    fn turned(&self, x: &[f32], shape: &Shape, turn: f32) -> Result<Vec<f32>> {
        let (rows, features) = shape.dims2()?;
        let (angle_rows, half) = self.cos.dims2()?;
        let fits = half > 0 && 2 * half <= self.head_dim && features.is_multiple_of(self.head_dim);
        if !fits || angle_rows != rows || self.sin.dims2()? != (rows, half) {
            bail!("rope: x {shape:?} does not fit heads of {} and angles {:?}", self.head_dim, self.cos.shape());
        }
        let mut out = x.to_vec();
        let (cos, sin) = (Read::new(&self.cos), Read::new(&self.sin));
        let (cos, sin) = (cos.slice()?, sin.slice()?);
        wide::share_rows(&mut out, features, OPERATIONS * features, |first, out| {
            rope_rows(out, features, &cos[first * half..], &sin[first * half..], self.head_dim, half, turn);
        });
        Ok(out)
    }
}

impl CustomOp1 for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = self.turned(cpu::slice(x, layout)?, layout.shape(), 1.0)?;
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let dx = self.turned(Read::new(&grad).slice()?, x.shape(), -1.0)?;
        Ok(Some(cpu::tensor(dx, x)?))
    }
}
