//! Rows of a matrix by number, and the scatter of their gradients.

use super::cpu::{self, Read};
use super::tape;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

/// The differentiable kernel; see [`super::embedding()`].
pub fn embedding(w: &Tensor, ids: &Tensor) -> Result<Tensor> {
    let ids = ids.to_vec1::<u32>()?;
    tape::apply1(&w.contiguous()?, Embedding { ids })
}

struct Embedding {
    ids: Vec<u32>,
}

impl CustomOp1 for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu_fwd(&self, w: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (count, size) = layout.shape().dims2()?;
        let w = cpu::matrix(w, layout)?;
        let mut out = vec![0.0; self.ids.len() * size];
        for (&id, row) in self.ids.iter().zip(out.chunks_exact_mut(size.max(1))) {
            if id as usize >= count {
                bail!("embedding: row {id} of a matrix of {count} rows");
            }
            w.rows(id as usize, 1, size).widen(row);
        }
        Ok((CpuStorage::F32(out), (self.ids.len(), size).into()))
    }

    fn bwd(&self, w: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let read = Read::new(&grad);
        let size = w.dim(1)?;
        let mut dw = vec![0.0f32; w.elem_count()];
        for (id, row) in self.ids.iter().zip(read.slice()?.chunks_exact(size.max(1))) {
            for (sum, value) in dw[*id as usize * size..][..size].iter_mut().zip(row) {
                *sum += value;
            }
        }
        Ok(Some(cpu::tensor(dw, w)?))
    }
}
