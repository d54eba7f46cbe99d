//! The reference compositions on the tape: what runs where no kernel of ours does.
//!
//! On the way forward a composition leaves no graph, only its inputs; on the way back it is computed again, piece by piece, each
//! piece in a small graph of candle's that is dropped before the next. So no derivative is written twice, scores and logits of
//! a whole micro-batch never exist, and a frozen weight costs no gradient.

use super::tape::{self, Backward};
use candle_core::{DType, Result, Tensor, Var, bail};
use std::ops::Range;

/// What a piece sees of an input.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The rows of the piece.
    Rows,
    Whole,
}

/// A composition over pieces of rows: `forward` makes a piece of the output from the pieces of the inputs.
struct Composition<F> {
    cuts: Vec<Cut>,
    pieces: Vec<Range<usize>>,
    forward: F,
}

/// `f(inputs)`, on the tape or in candle's graph.
pub fn whole(inputs: &[&Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor> + 'static) -> Result<Tensor> {
    let cuts: Vec<Cut> = inputs.iter().map(|_| Cut::Whole).collect();
    let rows = inputs[0].dim(0)?;
    let output = f(&constants(inputs))?;
    note(inputs, &cuts, std::iter::once(0..rows), move |inputs, _| f(inputs), &output);
    Ok(output)
}

/// The inputs as an operator sees them on the way forward: while a tape records, without candle's graph.
pub fn constants(inputs: &[&Tensor]) -> Vec<Tensor> {
    let recording = tape::is_recording();
    inputs.iter().map(|t| if recording { t.detach() } else { (*t).clone() }).collect()
}

/// Tells the tape how an output that [`constants`] led to is made of its inputs: from each piece, one after the other.
pub fn note(
    inputs: &[&Tensor],
    cuts: &[Cut],
    pieces: impl Iterator<Item = Range<usize>>,
    forward: impl Fn(&[Tensor], Range<usize>) -> Result<Tensor> + 'static,
    output: &Tensor,
) {
    tape::note_other(inputs, Box::new(Composition { cuts: cuts.to_vec(), pieces: pieces.collect(), forward }), output);
}

/// Gradients of one input: by rows in order, or summed over the pieces.
#[derive(Default)]
struct Found {
    rows: Vec<Tensor>,
    sum: Option<Tensor>,
}

impl Found {
    fn add(&mut self, cut: Cut, gradient: Tensor, several: bool) -> Result<()> {
        match (cut, self.sum.take()) {
            (Cut::Rows, _) => self.rows.push(gradient),
            (Cut::Whole, None) if !several => self.sum = Some(gradient),
            // Many small terms add up in f32.
            (Cut::Whole, None) => self.sum = Some(gradient.to_dtype(DType::F32)?),
            (Cut::Whole, Some(sum)) => self.sum = Some((sum + gradient.to_dtype(DType::F32)?)?),
        }
        Ok(())
    }

    fn whole(self, dtype: DType) -> Result<Tensor> {
        match self.sum {
            Some(sum) => sum.to_dtype(dtype),
            None if self.rows.len() == 1 => Ok(self.rows[0].clone()),
            None => Tensor::cat(&self.rows, 0),
        }
    }
}

impl<F: Fn(&[Tensor], Range<usize>) -> Result<Tensor>> Backward for Composition<F> {
    fn backward(&self, inputs: &[Tensor], wanted: &[bool], gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let leaf = |input: &Tensor, wanted: bool| -> Result<Tensor> {
            if wanted { Ok(Var::from_tensor(&input.detach())?.into_inner()) } else { Ok(input.detach()) }
        };
        let by_rows = |index: usize| self.cuts[index] == Cut::Rows;
        // A trained weight is a leaf already; other whole inputs become one once.
        let whole = |(index, input): (usize, &Tensor)| match by_rows(index) || input.is_variable() {
            true => Ok(input.clone()),
            false => leaf(input, wanted[index]),
        };
        let shared: Vec<Tensor> = inputs.iter().enumerate().map(whole).collect::<Result<_>>()?;
        let mut found: Vec<Found> = inputs.iter().map(|_| Found::default()).collect();
        for piece in &self.pieces {
            let cut = |(index, input): (usize, &Tensor)| match by_rows(index) {
                true => leaf(&input.narrow(0, piece.start, piece.len())?, wanted[index]),
                false => Ok(input.clone()),
            };
            let leaves: Vec<Tensor> = shared.iter().enumerate().map(cut).collect::<Result<_>>()?;
            let output = (self.forward)(&leaves, piece.clone())?;
            let slope = gradient.narrow(0, piece.start, piece.len())?;
            // candle starts from ones of any shape; a sum to one number would be read by one block of a GPU.
            let mut gradients = (output * slope)?.backward()?;
            for (index, leaf) in leaves.iter().enumerate().filter(|(index, _)| wanted[*index]) {
                let Some(own) = gradients.remove(leaf) else {
                    bail!("a composition cuts the gradient of input {index}")
                };
                // Detached: candle's gradients of leaves carry a graph that leads back to the weights.
                found[index].add(self.cuts[index], own.detach(), self.pieces.len() > 1)?;
            }
        }
        let gradients = found.into_iter().zip(inputs).zip(wanted);
        gradients.map(|((found, input), wanted)| wanted.then(|| found.whole(input.dtype())).transpose()).collect()
    }
}

/// `x @ w^T + bias` with its derivatives: nothing is computed again, and only what is wanted is computed.
pub fn linear(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let inputs: Vec<&Tensor> = [x, w].into_iter().chain(bias).collect();
    let constants = constants(&inputs);
    let output = super::reference::linear(&constants[0], &constants[1], constants.get(2))?;
    tape::note_other(&inputs, Box::new(Linear), &output);
    Ok(output)
}

struct Linear;

impl Backward for Linear {
    fn backward(&self, inputs: &[Tensor], wanted: &[bool], gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let (x, gradient) = (inputs[0].detach(), gradient.contiguous()?);
        let of = |index: usize| {
            let own = match index {
                0 => gradient.matmul(&inputs[1].detach().to_dtype(gradient.dtype())?),
                1 => gradient.t()?.matmul(&x),
                _ => gradient.to_dtype(DType::F32)?.sum(0),
            };
            own?.to_dtype(inputs[index].dtype())
        };
        (0..inputs.len()).map(|index| wanted[index].then(|| of(index)).transpose()).collect()
    }
}

/// Rows of a matrix by number with their derivative.
pub fn embedding(w: &Tensor, ids: &Tensor) -> Result<Tensor> {
    let output = super::reference::embedding(&constants(&[w])[0], ids)?;
    tape::note_other(&[w], Box::new(Embedding { ids: ids.clone() }), &output);
    Ok(output)
}

struct Embedding {
    ids: Tensor,
}

impl Backward for Embedding {
    fn backward(&self, inputs: &[Tensor], wanted: &[bool], gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let scatter = || {
            let zeros = Tensor::zeros(inputs[0].shape(), DType::F32, gradient.device())?;
            // A frequent token sums many rows: in f32.
            zeros.index_add(&self.ids, &gradient.to_dtype(DType::F32)?.contiguous()?, 0)?.to_dtype(inputs[0].dtype())
        };
        Ok(vec![wanted[0].then(scatter).transpose()?])
    }
}
