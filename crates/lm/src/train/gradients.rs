//! Gradients by tensor name: taken from a backward pass, summed in order, measured.

use crate::model::ops::{self, tape::AddTo};
use crate::model::tensor_error;
use candle_core::{CpuStorage, DType, Storage, Tensor, Var};
use mindgap_base::error::{Error, Result};
use std::collections::BTreeMap;

/// f32 gradients of all variables.
pub(super) struct Gradients(BTreeMap<String, Tensor>);

impl Gradients {
    /// Every variable must have been reached: an operator that cuts the gradient is an error, not a frozen tensor.
    pub fn take(
        mut gradient_of: impl FnMut(&Tensor) -> Option<Tensor>,
        vars: &BTreeMap<String, Var>,
    ) -> Result<Gradients> {
        let own = vars.iter().map(|(name, var)| {
            let gradient = gradient_of(var.as_tensor())
                .ok_or_else(|| Error::internal(format!("no gradient reached tensor `{name}`")))?;
            let gradient = gradient.detach().to_dtype(DType::F32).and_then(|g| g.contiguous()).map_err(tensor_error)?;
            Ok((name.clone(), gradient))
        });
        Ok(Gradients(own.collect::<Result<_>>()?))
    }

    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.0
    }

    /// `self += other`, elementwise.
    pub fn add(&mut self, other: &Gradients) -> Result<()> {
        for (sum, term) in self.0.values_mut().zip(other.0.values()) {
            let added = if ops::has_kernels(&[sum, term]) {
                sum.inplace_op2(term, &AddTo)
            } else {
                (&*sum + term).map(|total| *sum = total)
            };
            added.map_err(tensor_error)?;
        }
        Ok(())
    }

    /// L2 norm over all tensors; summed in f64 in name order.
    pub fn norm(&self) -> Result<f64> {
        let mut sum = 0.0;
        for gradient in self.0.values() {
            sum += square_sum(gradient).map_err(tensor_error)?;
        }
        Ok(sum.sqrt())
    }
}

fn square_sum(x: &Tensor) -> candle_core::Result<f64> {
    let (storage, layout) = x.storage_and_layout();
    if let (Storage::Cpu(CpuStorage::F32(data)), Some((start, end))) = (&*storage, layout.contiguous_offsets()) {
        // Lanes let the compiler vectorise; their number is fixed.
        let mut lanes = [0.0f64; 16];
        for block in data[start..end].chunks(16) {
            for (lane, x) in lanes.iter_mut().zip(block) {
                *lane += f64::from(*x) * f64::from(*x);
            }
        }
        return Ok(lanes.iter().sum());
    }
    drop(storage);
    Ok(f64::from(x.to_dtype(DType::F32)?.sqr()?.sum_all()?.to_scalar::<f32>()?))
}
