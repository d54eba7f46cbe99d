//! What a trainer is told, and what follows from it.

use super::adamw::AdamWParams;
use super::lora::LoraParams;
use super::loss::Loss;
use super::packing::{PackingParams, TooLong};
use super::schedule::Schedule;
use candle_core::{DType, Device};
use mindgap_base::error::{Error, Result};

/// What the loss of a step is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accumulation {
    /// One weighted mean over all target tokens of the step.
    TokenMean,
    /// One weighted mean over the rows of the step, of the sum over a row's target tokens by the length of the longest row of its
    /// problem: arXiv 2602.13407.
    LongestOfProblem,
    /// One weighted mean over the rows of the step, of the mean over a row's target tokens: arXiv 2402.03300.
    RowMean,
    /// The same of the sum over a row's target tokens by one length: arXiv 2503.20783.
    Constant { length: u32 },
    /// Every micro-batch by its own tokens; summed over the micro-batches of a rank without dividing, averaged over the ranks
    /// that take turns with them: what the paper's released trainer does.
    MicroBatchSum { ranks: u32 },
}

/// What becomes of an update's digits that the policy's type does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// Trained weights keep them: they are held in f32, whatever the type (master weights).
    Kept,
    /// They are rounded away, up or down as a chance has it that is the more likely the nearer that is: right in the mean.
    Stochastic,
    /// They are rounded away: an update of less than half a last digit is lost.
    Nearest,
}

/// What a trainer depends on besides its initial weights.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainerParams {
    pub loss: Loss,
    pub optimizer: AdamWParams,
    pub schedule: Schedule,
    pub packing: PackingParams,
    /// Largest global gradient norm; 0 does not clip.
    pub clip_norm: f64,
    pub accumulation: Accumulation,
    /// For the metrics and for `eos_weight` of the loss.
    pub eos_token_ids: Vec<u32>,
    /// Steps in a row without an update after which training stops with an error.
    pub skip_limit: u32,
    /// Of the factors of products, of frozen weights, and of the policy that comes out; on a device of activations too. Sums,
    /// gradients' sums and moments are always f32.
    pub dtype: DType,
    /// Of updates, which are computed in f32, to `dtype`.
    pub rounding: Rounding,
    /// Train adapters, and leave the weights as they are.
    pub lora: Option<LoraParams>,
    /// Of what the trainer draws itself: the adapters' first values, and how updates are rounded.
    pub seed: u64,
    /// Hold only the inputs of the blocks on the way forward, and compute the rest again on the way back. Same gradients.
    pub gradient_checkpointing: bool,
}

impl TrainerParams {
    /// Errors: a parameter outside its range.
    pub fn check(&self) -> Result<()> {
        self.loss.check()?;
        self.optimizer.check()?;
        self.schedule.check()?;
        self.packing.check()?;
        self.lora.as_ref().map_or(Ok(()), LoraParams::check)?;
        match self.clip_norm.is_finite() && self.clip_norm >= 0.0 {
            true => Ok(()),
            false => Err(Error::usage(format!("`clip_norm` is `{}`; it must be 0 or more", self.clip_norm))
                .hint("0 does not clip")),
        }
    }

    /// What weights are held in that are trained. On the CPU it is f32: where there are no master weights, their values are rounded.
    pub(super) fn trained_type(&self, device: &Device) -> DType {
        if self.rounding == Rounding::Kept || device.is_cpu() { DType::F32 } else { self.dtype }
    }

    /// What a trainer wants to be given the weights in.
    pub fn initial_type(&self, device: &Device) -> DType {
        if self.lora.is_some() { self.dtype } else { self.trained_type(device) }
    }

    /// Trained weights are rounded in f32.
    pub(super) fn rounds(&self, device: &Device) -> bool {
        self.rounding != Rounding::Kept && self.dtype != self.trained_type(device)
    }

    /// Trained weights end as numbers of bf16 by stochastic rounding, wherever they are.
    pub(super) fn rounds_stochastically(&self) -> bool {
        self.rounding == Rounding::Stochastic && self.dtype == DType::BF16
    }

    /// The paper's released trainer, quirks included: on each of its two GPUs accumulated gradients are not divided,
    /// micro-batches of four rows are weighed alike, weights and moments are bf16, rows are truncated on the right at 2,048 tokens.
    pub fn with_reference_quirks(mut self) -> TrainerParams {
        self.accumulation = Accumulation::MicroBatchSum { ranks: 2 };
        self.optimizer.bf16_moments = true;
        self.rounding = Rounding::Nearest;
        self.packing = PackingParams {
            micro_batch_tokens: usize::MAX,
            micro_batch_rows: 4,
            max_length: 2048,
            too_long: TooLong::TruncateRight,
        };
        self
    }
}
