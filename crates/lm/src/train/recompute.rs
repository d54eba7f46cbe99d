//! The backward pass that remembers little: forward it holds the input of every block and nothing else; backward it computes
//! a block again, this time for its gradients, and forgets it before the next.

use super::gradients::Gradients;
use super::metrics::Sums;
use super::packing::MicroBatch;
use super::pass::{Failed, Pass, pick};
use crate::model::ops::tape::{self, TapeGradients};
use crate::model::tensor_error;
use candle_core::{Tensor, Var};
use mindgap_base::error::{Error, Result};
use std::collections::BTreeMap;

impl Pass<'_> {
    /// Gradients of all variables and the sums of one micro-batch; the same bits as from one pass over everything.
    pub(super) fn backward_by_blocks(
        &self,
        batch: &MicroBatch,
        vars: &BTreeMap<String, Var>,
    ) -> Result<(Gradients, Sums)> {
        let (model, plain) = (&self.policies.model, &self.policies.plain);
        let mut packed = plain.pack(&batch.token_ids, &batch.segments)?;
        let mut inputs = vec![plain.embed(&batch.token_ids)?];
        for index in 0..plain.config().layer_count {
            inputs.push(plain.block(index, &inputs[index], &mut packed)?);
        }
        let last = inputs.pop().expect("the embeddings at least");
        let (mut found, mut slope, sums) = self.last_stretch(&last, batch)?;
        drop(last);
        while let Some(input) = inputs.pop() {
            slope = stretch(&mut found, &input, &slope, |input| model.block(inputs.len(), input, &mut packed))?;
        }
        embedding(&mut found, &slope, || model.embed(&batch.token_ids))?;
        Ok((Gradients::take(|var| found.remove(var), vars)?, sums))
    }

    /// From the last block's output to the loss. Also gives the gradient of that output.
    fn last_stretch(&self, input: &Tensor, batch: &MicroBatch) -> Result<(TapeGradients, Tensor, Sums)> {
        let model = &self.policies.model;
        let recorded = tape::record_from(input, || {
            let picked = model.finish(input).and_then(|hidden| pick(&hidden, batch));
            picked.and_then(|hidden| self.objective(model, &hidden, batch)).map_err(Failed)
        });
        let (objective, tape) = recorded.map_err(|Failed(error)| error)?;
        let mut found = tape.backward(objective.terms).map_err(tensor_error)?;
        let slope = found.remove(input).ok_or_else(cut)?;
        Ok((found, slope, objective.sums))
    }
}

/// Computes a part of the model again and adds its gradients, given that of its output. Returns that of its input.
fn stretch(
    found: &mut TapeGradients,
    input: &Tensor,
    slope: &Tensor,
    forward: impl FnOnce(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let recorded = tape::record_from(input, || forward(input).map_err(Failed));
    let (output, tape) = recorded.map_err(|Failed(error)| error)?;
    let mut own = tape.backward(vec![(output, slope.clone())]).map_err(tensor_error)?;
    let slope = own.remove(input).ok_or_else(cut)?;
    found.merge(own).map_err(tensor_error)?;
    Ok(slope)
}

/// The first part of the model, which has no input.
fn embedding(found: &mut TapeGradients, slope: &Tensor, forward: impl FnOnce() -> Result<Tensor>) -> Result<()> {
    let (output, tape) = tape::record(|| forward().map_err(Failed)).map_err(|Failed(error)| error)?;
    let own = tape.backward(vec![(output, slope.clone())]).map_err(tensor_error)?;
    found.merge(own).map_err(tensor_error)
}

fn cut() -> Error {
    Error::internal("the loss does not lead back to the input of a block")
}
