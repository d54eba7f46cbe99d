//! Gradients by tensor name: taken from a backward pass, summed in order, measured.

use crate::model::ops::{self, tape::AddTo, wide};
use crate::model::tensor_error;
use candle_core::{CpuStorage, DType, Storage, Tensor, TensorId, Var};
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

    /// L2 norm over all tensors; summed in f64 in name order.
    pub fn norm(&self) -> Result<f64> {
        let mut sum = 0.0;
        for gradient in self.0.values() {
            sum += square_sum(gradient).map_err(tensor_error)?;
        }
        Ok(sum.sqrt())
    }
}

/// Elements that are summed by themselves: threads share what is larger.
const BLOCK: usize = 1 << 22;

fn square_sum(x: &Tensor) -> candle_core::Result<f64> {
    let (storage, layout) = x.storage_and_layout();
    if let (Storage::Cpu(CpuStorage::F32(data)), Some((start, end))) = (&*storage, layout.contiguous_offsets()) {
        let mut sums: Vec<(&[f32], f64)> = data[start..end].chunks(BLOCK).map(|block| (block, 0.0)).collect();
        wide::share_rows(&mut sums, 1, BLOCK, |_, sums| sums.iter_mut().for_each(|(x, sum)| *sum = squares(x)));
        return Ok(sums.iter().map(|(_, sum)| sum).sum());
    }
    drop(storage);
    Ok(f64::from(x.to_dtype(DType::F32)?.sqr()?.sum_all()?.to_scalar::<f32>()?))
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
