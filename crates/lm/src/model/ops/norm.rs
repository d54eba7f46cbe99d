//! RMS norm over groups of features.

use super::cpu::{self, Read};
use super::simd::{self, vectorised};
use super::team::Disjoint;
use super::{tape, wide};
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
    /// With r = 1/rms, which is left in `inverses`: `dx = r w dy - x r^3 sum(x w dy) / H`.
    fn backward_rows(x: &[f32], w: &[f32], eps: f32, dy: &[f32], dx: &mut [f32], inverses: &mut [f32]) {
        let size = w.len();
        let mut wdy = vec![0.0; size];
        let rows = x.chunks_exact(size).zip(dy.chunks_exact(size)).zip(dx.chunks_exact_mut(size));
        for (((x, dy), dx), kept) in rows.zip(inverses) {
            let inverse = inverse_rms(x, eps);
            *kept = inverse;
            for i in 0..size {
                wdy[i] = w[i] * dy[i];
            }
            let slope = simd::dot(x, &wdy) * inverse * inverse * inverse / size as f32;
            for i in 0..size {
                dx[i] = inverse * wdy[i] - x[i] * slope;
            }
        }
    }
}

vectorised! {
    /// `dw += dy x r` of the features from `first` on, over all rows in order.
    fn weight_gradient(x: &[f32], inverses: &[f32], dy: &[f32], size: usize, first: usize, dw: &mut [f32]) {
        let range = first..first + dw.len();
        for ((x, dy), inverse) in x.chunks_exact(size).zip(dy.chunks_exact(size)).zip(inverses) {
            let (x, dy) = (&x[range.clone()], &dy[range.clone()]);
            for i in 0..dw.len() {
                dw[i] += dy[i] * (x[i] * inverse);
            }
        }
    }
}

/// About what a feature costs: little, but it comes from memory.
const OPERATIONS: usize = 64;

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
        wide::share_rows(&mut out, w.len(), OPERATIONS * w.len(), |first, out| {
            rms_norm_rows(&x[first * w.len()..][..out.len()], w, self.eps, out);
        });
        Ok((CpuStorage::F32(out), xl.shape().clone()))
    }

    #[expect(unsafe_code, reason = "threads write parts of two outputs")]
    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (x_read, w_read, grad_read) = (Read::new(x), Read::new(w), Read::new(&grad));
        let (x_data, w_data, dy) = (x_read.slice()?, w_read.slice()?, grad_read.slice()?);
        let size = w_data.len();
        let (mut dx, mut inverses) = (vec![0.0; x_data.len()], vec![0.0; x_data.len() / size]);
        let found = Disjoint::new(&mut inverses);
        wide::share_rows(&mut dx, size, 2 * OPERATIONS * size, |first, dx| {
            let rows = first..first + dx.len() / size;
            let range = rows.start * size..rows.end * size;
            // SAFETY: pieces are disjoint.
            let inverses = unsafe { found.part(rows) };
            backward_rows(&x_data[range.clone()], w_data, self.eps, &dy[range], dx, inverses);
        });
        let mut dw = None;
        if cpu::wants_gradient(w) {
            let mut sums = vec![0.0; size];
            wide::share_rows(&mut sums, 1, OPERATIONS * inverses.len(), |first, sums| {
                weight_gradient(x_data, &inverses, dy, size, first, sums);
            });
            dw = Some(cpu::tensor(sums, w)?);
        }
        Ok((Some(cpu::tensor(dx, x)?), dw))
    }
}
