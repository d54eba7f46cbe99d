//! Gradients by tensor name: taken from a backward pass, summed in order, measured.

use crate::model::ops::{self, tape::AddTo, wide};
use crate::model::tensor_error;
use candle_core::{CpuStorage, D, DType, Storage, Tensor, TensorId, Var};
use mindgap_base::error::{Error, Result};
use std::collections::{BTreeMap, HashMap, HashSet};

/// f32 gradients by name.
#[derive(Default)]
pub(super) struct Gradients(BTreeMap<String, Tensor>);

/// Takes the gradients of variables as backward passes find them, and sums them over micro-batches.
pub(super) struct Collector<'a> {
    vars: &'a BTreeMap<String, Var>,
    names: HashMap<TensorId, &'a str>,
    sums: Gradients,
    /// By the micro-batch under way.
    reached: HashSet<TensorId>,
}

impl<'a> Collector<'a> {
    pub fn new(vars: &'a BTreeMap<String, Var>) -> Collector<'a> {
        let names = vars.iter().map(|(name, var)| (var.as_tensor().id(), name.as_str())).collect();
        Collector { vars, names, sums: Gradients::default(), reached: HashSet::new() }
    }

    /// Adds a micro-batch's gradient of one variable.
    pub fn take(&mut self, variable: &Tensor, gradient: Tensor) -> candle_core::Result<()> {
        let Some(name) = self.names.get(&variable.id()) else { return Ok(()) };
        self.reached.insert(variable.id());
        self.sums.add_one(name, gradient.detach().to_dtype(DType::F32)?.contiguous()?)
    }

    /// Ends a micro-batch. Every variable must have been reached: an operator that cuts the gradient is an error, not a frozen
    /// tensor.
    pub fn end_batch(&mut self) -> Result<()> {
        let cut = self.vars.iter().find(|(_, var)| !self.reached.contains(&var.as_tensor().id()));
        self.reached.clear();
        cut.map_or(Ok(()), |(name, _)| Err(Error::internal(format!("no gradient reached tensor `{name}`"))))
    }

    pub fn into_sums(self) -> Gradients {
        self.sums
    }
}

impl Gradients {
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.0
    }

    /// `self += other`, elementwise.
    pub fn add(&mut self, other: Gradients) -> Result<()> {
        other.0.into_iter().try_for_each(|(name, term)| self.add_one(&name, term)).map_err(tensor_error)
    }

    fn add_one(&mut self, name: &str, term: Tensor) -> candle_core::Result<()> {
        match self.0.get_mut(name) {
            None => drop(self.0.insert(name.to_string(), term)),
            Some(sum) if ops::has_kernels(&[sum, &term]) => sum.inplace_op2(&term, &AddTo)?,
            Some(sum) => *sum = (&*sum + term)?,
        }
        Ok(())
    }

    /// L2 norm over all tensors; summed in f64 in name order. A device hands over the sums of all its tensors at once.
    pub fn norm(&self) -> Result<f64> {
        let (mut sum, mut elsewhere) = (0.0, Vec::new());
        for gradient in self.0.values() {
            match square_sum(gradient).map_err(tensor_error)? {
                SquareSum::Here(own) => sum += own,
                SquareSum::There(own) => elsewhere.push(own),
            }
        }
        if !elsewhere.is_empty() {
            let sums = Tensor::stack(&elsewhere, 0).and_then(|sums| sums.to_vec1::<f32>()).map_err(tensor_error)?;
            sum += sums.into_iter().map(f64::from).sum::<f64>();
        }
        Ok(sum.sqrt())
    }
}

/// A sum of squares, on the host or not yet.
enum SquareSum {
    Here(f64),
    There(Tensor),
}

/// Elements that are summed by themselves: threads share what is larger.
const BLOCK: usize = 1 << 22;

fn square_sum(x: &Tensor) -> candle_core::Result<SquareSum> {
    let (storage, layout) = x.storage_and_layout();
    if let (Storage::Cpu(CpuStorage::F32(data)), Some((start, end))) = (&*storage, layout.contiguous_offsets()) {
        let mut sums: Vec<(&[f32], f64)> = data[start..end].chunks(BLOCK).map(|block| (block, 0.0)).collect();
        wide::share_rows(&mut sums, 1, BLOCK, |_, sums| sums.iter_mut().for_each(|(x, sum)| *sum = squares(x)));
        return Ok(SquareSum::Here(sums.iter().map(|(_, sum)| sum).sum()));
    }
    drop(storage);
    // Row by row at first: a sum to one number is read by one block of a GPU. (No sum of a single number: candle asks CUDA for no
    // bytes then, which is an error.)
    let squares = x.to_dtype(DType::F32)?.sqr()?;
    let sums = if x.rank() > 1 { squares.sum(D::Minus1)? } else { squares };
    Ok(SquareSum::There(sums.sum_all()?))
}

/// Lanes let the compiler vectorise; their number is fixed.
fn squares(x: &[f32]) -> f64 {
    let mut lanes = [0.0f64; 16];
    for block in x.chunks(16) {
        for (lane, x) in lanes.iter_mut().zip(block) {
            *lane += f64::from(*x) * f64::from(*x);
        }
    }
    lanes.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// By kernel, and by composition as on a device: that of a tensor that does not lie in one piece.
    #[test]
    fn the_norm_is_over_all_tensors() {
        let numbers: Vec<f32> = (0..600).map(|i| (i as f32 * 0.7).sin()).collect();
        let exact = 2.0 * numbers.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() + 9.0;
        let matrix = Tensor::from_vec(numbers, (20, 30), &Device::Cpu).unwrap();
        let vector = Tensor::new(&[-3.0f32], &Device::Cpu).unwrap();
        for other in [matrix.clone(), matrix.t().unwrap()] {
            let named = [("a", matrix.clone()), ("b", other), ("c", vector.clone())];
            let gradients = Gradients(named.map(|(name, tensor)| (name.to_string(), tensor)).into());
            assert!((gradients.norm().unwrap() / exact.sqrt() - 1.0).abs() < 1e-6);
        }
    }
}
