//! The backward pass that remembers little: forward it holds the input of every block and nothing else; backward it computes
//! a block again, this time for its gradients, and forgets it before the next.

use super::gradients::Collector;
use super::metrics::Sums;
use super::packing::MicroBatch;
use super::pass::{Failed, Pass, pick};
use crate::model::ops::{self, tape, tape::AddTo};
use crate::model::tensor_error;
use candle_core::Tensor;
use mindgap_base::error::{Error, Result};

impl Pass<'_> {
    /// Adds the gradients of one micro-batch, and returns its sums; the same bits as from one pass over everything.
    pub(super) fn backward_by_blocks(&self, batch: &MicroBatch, gradients: &mut Collector) -> Result<Sums> {
        let (model, plain) = (&self.policies.model, &self.policies.plain);
        let mut packed = plain.pack(&batch.token_ids, &batch.segments)?;
        let mut inputs = vec![plain.embed(&batch.token_ids)?];
        for index in 0..plain.config().layer_count {
            inputs.push(plain.block(index, &inputs[index], &mut packed)?);
        }
        let last = inputs.pop().expect("the embeddings at least");
        let shared = model.config().tie_word_embeddings.then(|| model.head().weight.id());
        let mut found = Found::default();
        let (mut slope, sums) = self.last_stretch(&last, batch, &mut found)?;
        drop(last);
        while let Some(input) = inputs.pop() {
            slope = stretch(&mut found, &input, &slope, |input| model.block(inputs.len(), input, &mut packed))?;
            // What the first part of the model shares with the last is not whole before that.
            found.hand_on(gradients, |variable| Some(variable.id()) != shared)?;
        }
        let recorded = tape::record(|| model.embed(&batch.token_ids).map_err(Failed));
        let (output, tape) = recorded.map_err(|Failed(error)| error)?;
        tape.backward(vec![(output, slope)], &mut |variable, own| found.add(variable, own)).map_err(tensor_error)?;
        found.hand_on(gradients, |_| true)?;
        Ok(sums)
    }

    /// From the last block's output to the loss. Gives the gradient of that output.
    fn last_stretch(&self, input: &Tensor, batch: &MicroBatch, found: &mut Found) -> Result<(Tensor, Sums)> {
        let model = &self.policies.model;
        let recorded = tape::record_from(input, || {
            let picked = model.finish(input).and_then(|hidden| pick(&hidden, batch));
            picked.and_then(|hidden| self.objective(model, &hidden, batch)).map_err(Failed)
        });
        let (objective, tape) = recorded.map_err(|Failed(error)| error)?;
        let slope = tape.backward(objective.terms, &mut |variable, own| found.add(variable, own));
        Ok((slope.map_err(tensor_error)?.ok_or_else(cut)?, objective.sums))
    }
}

/// Gradients of one micro-batch that may not be whole yet.
#[derive(Default)]
struct Found(Vec<(Tensor, Tensor)>);

impl Found {
    fn add(&mut self, variable: &Tensor, gradient: Tensor) -> candle_core::Result<()> {
        match self.0.iter_mut().find(|(known, _)| known.id() == variable.id()) {
            None => self.0.push((variable.clone(), gradient)),
            Some((_, sum)) if ops::has_kernels(&[sum, &gradient]) => sum.inplace_op2(&gradient, &AddTo)?,
            Some((_, sum)) => *sum = (&*sum + gradient)?,
        }
        Ok(())
    }

    /// Those of some variables, which are whole.
    fn hand_on(&mut self, gradients: &mut Collector, whole: impl Fn(&Tensor) -> bool) -> Result<()> {
        let (whole, left) = std::mem::take(&mut self.0).into_iter().partition(|(variable, _)| whole(variable));
        self.0 = left;
        let whole: Vec<(Tensor, Tensor)> = whole;
        whole.into_iter().try_for_each(|(variable, own)| gradients.take(&variable, own)).map_err(tensor_error)
    }
}

/// Computes a part of the model again and takes in its gradients, given that of its output. Returns that of its input.
fn stretch(
    found: &mut Found,
    input: &Tensor,
    slope: &Tensor,
    forward: impl FnOnce(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let recorded = tape::record_from(input, || forward(input).map_err(Failed));
    let (output, tape) = recorded.map_err(|Failed(error)| error)?;
    let slope = tape.backward(vec![(output, slope.clone())], &mut |variable, own| found.add(variable, own));
    slope.map_err(tensor_error)?.ok_or_else(cut)
}

fn cut() -> Error {
    Error::internal("the loss does not lead back to the input of a block")
}
