//! Draws from rows of logits where they are. What every block of a row weighs goes to the host, which finds the block that a token
//! falls into, and then that block alone: an inverse CDF in ascending order of token ids, as on the host.

use super::super::{Draw, not_finite};
use crate::model::ops::sampling::{BLOCK, passing};
use candle_core::{D, DType, Device, Result, Tensor};
use mindgap_base::error;

/// Tokens drawn from logits (f32, `[rows, vocab_size]`) at a temperature: for each the number of its row, and a uniform number. See
/// [`super::super::Session::draw`].
pub fn draw(logits: &Tensor, temperature: f32, numbers: &[(usize, f64)]) -> Result<Vec<error::Result<Draw>>> {
    if numbers.is_empty() {
        return Ok(Vec::new());
    }
    let rows = Rows::of(logits, temperature)?;
    let places: Vec<Place> = numbers.iter().map(|(row, uniform)| rows.place(*row, *uniform)).collect();
    let blocks: Vec<u32> = places.iter().map(|place| (place.row * rows.blocks + place.block) as u32).collect();
    let entries = rows.shifted.index_select(&Tensor::new(blocks, logits.device())?, 0)?.to_vec2::<f32>()?;
    Ok(places.iter().zip(&entries).map(|(place, entries)| rows.draw(place, entries)).collect())
}

/// Rows of logits cut into blocks.
struct Rows {
    temperature: f32,
    /// Of a row.
    blocks: usize,
    /// Logits less the largest of their row, `[rows * blocks, BLOCK]`; minus infinity beyond the vocabulary.
    shifted: Tensor,
    /// Of each row, on the host: what its blocks weigh (at temperature 0 the largest of `shifted`), and what it weighs in all at
    /// temperature 1.
    weights: Vec<Vec<f32>>,
}

/// Where a token is: in which block, and what comes before that.
struct Place {
    row: usize,
    block: usize,
    before: f64,
    target: f64,
    /// What the row weighs in all, at the temperature and at temperature 1.
    total: f64,
    own: f64,
}

impl Rows {
    fn of(logits: &Tensor, temperature: f32) -> Result<Rows> {
        let (rows, size) = logits.dims2()?;
        let blocks = size.div_ceil(BLOCK);
        let mut shifted = logits.broadcast_sub(&logits.max_keepdim(1)?)?;
        if size < blocks * BLOCK {
            let beyond = nothing((rows, blocks * BLOCK - size), logits.device())?;
            shifted = Tensor::cat(&[shifted, beyond], 1)?;
        }
        let shifted = shifted.reshape((rows, blocks, BLOCK))?;
        let own = shifted.exp()?.sum(D::Minus1)?;
        let weights = match temperature {
            0.0 => shifted.max(D::Minus1)?,
            1.0 => own.clone(),
            _ => (&shifted * f64::from(1.0 / temperature))?.exp()?.sum(D::Minus1)?,
        };
        let weights = Tensor::cat(&[weights, own.sum_keepdim(1)?], 1)?.to_vec2()?;
        Ok(Rows { temperature, blocks, shifted: shifted.reshape((rows * blocks, BLOCK))?, weights })
    }

    fn place(&self, row: usize, uniform: f64) -> Place {
        let (weights, own) = self.weights[row].split_at(self.blocks);
        if self.temperature == 0.0 {
            let block = weights.iter().position(|largest| *largest == 0.0).unwrap_or(0);
            return Place { row, block, before: 0.0, target: 0.0, total: 1.0, own: f64::from(own[0]) };
        }
        let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        let own = if self.temperature == 1.0 { total } else { f64::from(own[0]) };
        let (block, before) = passing(weights, 0.0, uniform * total);
        Place { row, block, before, target: uniform * total, total, own }
    }

    /// The token among the entries of its block.
    fn draw(&self, place: &Place, entries: &[f32]) -> error::Result<Draw> {
        if !(place.total.is_finite() && place.own.is_finite()) {
            return Err(not_finite());
        }
        let inverse = 1.0 / self.temperature;
        let offset = match self.temperature {
            0.0 => entries.iter().position(|entry| *entry == 0.0).unwrap_or(0),
            _ => {
                let weights: Vec<f32> = entries.iter().map(|entry| (entry * inverse).exp()).collect();
                passing(&weights, place.before, place.target).0
            }
        };
        let logprob_policy = (f64::from(entries[offset]) - place.own.ln()) as f32;
        let logprob_behavior = match self.temperature {
            0.0 => 0.0,
            1.0 => logprob_policy,
            _ => (f64::from(entries[offset] * inverse) - place.total.ln()).min(0.0) as f32,
        };
        Ok(Draw { token_id: (place.block * BLOCK + offset) as u32, logprob_behavior, logprob_policy })
    }
}

/// Logits of tokens that there are not.
fn nothing(shape: (usize, usize), device: &Device) -> Result<Tensor> {
    Tensor::full(f32::NEG_INFINITY, shape, device)?.to_dtype(DType::F32)
}
