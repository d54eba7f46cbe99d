//! RMS norm over groups of features.

use super::cpu::{self, Read};
use super::simd::{self, vectorised};
use super::tape;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

vectorised! {
    /// `out = x / sqrt(mean(x^2) + eps) * w` for each group of len(w) features of x.
    pub fn rms_norm_rows(x: &[f32], w: &[f32], eps: f32, out: &mut [f32]) {
        for (x, out) in x.chunks_exact(w.len()).zip(out.chunks_exact_mut(w.len())) {
            let inverse = inverse_rms(x, eps);
            for i in 0..w.len() {
                out[i] = x[i] * inverse * w[i];
            }
        }
    }
}

#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (simd::dot(x, x) / x.len() as f32 + eps).sqrt()
}

vectorised! {
    /// With r = 1/rms: `dx = r w dy - x r^3 sum(x w dy) / H`, `dw += dy x r`.
    fn backward_rows(x: &[f32], w: &[f32], eps: f32, dy: &[f32], dx: &mut [f32], dw: &mut [f32]) {
        let size = w.len();
        let mut wdy = vec![0.0; size];
        for ((x, dy), dx) in x.chunks_exact(size).zip(dy.chunks_exact(size)).zip(dx.chunks_exact_mut(size)) {
            let inverse = inverse_rms(x, eps);
            for i in 0..size {
                wdy[i] = w[i] * dy[i];
                dw[i] += dy[i] * (x[i] * inverse);
            }
            let slope = simd::dot(x, &wdy) * inverse * inverse * inverse / size as f32;
            for i in 0..size {
                dx[i] = inverse * wdy[i] - x[i] * slope;
            }
        }
    }
}

/// The differentiable kernel; see [`super::rms_norm`].
pub fn rms_norm(x: &Tensor, w: &Tensor, eps: f64) -> Result<Tensor> {
    tape::apply2(&x.contiguous()?, &w.contiguous()?, RmsNorm { eps: eps as f32 })
}

struct RmsNorm {
    eps: f32,
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, w: &CpuStorage, wl: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (cpu::slice(x, xl)?, cpu::slice(w, wl)?);
        if w.is_empty() || !xl.shape().dims().last().is_some_and(|features| features.is_multiple_of(w.len())) {
            bail!("rms norm: x {:?} does not hold whole groups of {} features", xl.shape(), w.len());
        }
        let mut out = vec![0.0; x.len()];
        rms_norm_rows(x, w, self.eps, &mut out);
        Ok((CpuStorage::F32(out), xl.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (x_read, w_read, grad_read) = (Read::new(x), Read::new(w), Read::new(&grad));
        let (mut dx, mut dw) = (vec![0.0; x.elem_count()], vec![0.0; w.elem_count()]);
        backward_rows(x_read.slice()?, w_read.slice()?, self.eps, grad_read.slice()?, &mut dx, &mut dw);
        Ok((Some(cpu::tensor(dx, x)?), Some(cpu::tensor(dw, w)?)))
    }
}
