//! Speed of a training step on this machine. Plain numbers out; the clock comes from the caller.

use super::lora::every_projection;
use super::{
    Accumulation, AdamWParams, LoraParams, Loss, PackingParams, Rounding, Schedule, TrainExample, Trainer,
    TrainerParams,
};
use crate::model::config::Config;
use crate::model::tensor_error;
use candle_core::{DType, Device, Tensor};
use mindgap_base::error::Result;
use mindgap_base::rng::Stream;
use std::collections::HashMap;

/// What a timed step was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TimedStep {
    pub rows: usize,
    /// Inputs of all rows; each has a target.
    pub tokens: usize,
    pub seconds: f64,
    /// Floating-point operations in weight products: forward, and twice that backward, or once where weights are frozen.
    pub flops: f64,
}

/// What is trained in a timed step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trained {
    Weights,
    /// Of rank 16 beside all projections, over frozen weights.
    Adapters,
}

/// Tokens of a row.
const LENGTH: usize = 256;
const ROWS: usize = 16;
/// Work of a step beyond which it has fewer rows: some seconds on one core.
const FLOPS: f64 = 1e12;

/// Rows of the step that is timed: 16 for small policies and on a device, fewer for large ones.
pub fn rows(config: &Config, device: &Device) -> usize {
    let of_row = 3.0 * LENGTH as f64 * (config.block_flops() + config.head_flops());
    if device.is_cpu() { ((FLOPS / of_row) as usize).clamp(1, ROWS) } else { ROWS }
}

/// Times a step of plain cross-entropy with AdamW on random tokens, after one that warms up. `clock` gives seconds; only
/// differences are used. Needs memory for the weights, and for gradients and two moments in f32 of what is trained.
pub fn bench(
    config: &Config,
    tensors: HashMap<String, Tensor>,
    trained: Trained,
    dtype: DType,
    device: &Device,
    clock: &dyn Fn() -> f64,
) -> Result<TimedStep> {
    let params = TrainerParams {
        loss: Loss::Sft {},
        optimizer: AdamWParams::default(),
        schedule: Schedule::constant(1e-6, 2),
        packing: PackingParams::default(),
        clip_norm: 1.0,
        accumulation: Accumulation::TokenMean,
        eos_token_ids: Vec::new(),
        skip_limit: 1,
        dtype,
        rounding: Rounding::Kept,
        lora: (trained == Trained::Adapters).then(|| LoraParams { rank: 16, alpha: 32.0, targets: every_projection() }),
        seed: 0,
        gradient_checkpointing: false,
    };
    let mut trainer = Trainer::new(config, tensors, params, device)?;
    let rows = rows(config, device);
    let length = LENGTH.min(config.max_positions);
    let example = |row: usize| {
        let mut cursor = Stream::at(2, &[b"bench", &row.to_le_bytes()]).cursor();
        let token_ids = (0..=length).map(|_| cursor.below(config.vocab_size as u64) as u32).collect();
        TrainExample::new(token_ids, (0..=length).map(|i| i > 0).collect(), 0)
    };
    let examples: Vec<TrainExample> = (0..rows).map(example).collect();
    let examples: Vec<&TrainExample> = examples.iter().collect();
    let mut step = || trainer.step(&examples).and_then(|_| device.synchronize().map_err(tensor_error));
    step()?;
    let start = clock();
    step()?;
    let seconds = clock() - start;
    let tokens = rows * length;
    let passes = if trained == Trained::Weights { 3.0 } else { 2.0 };
    let flops = passes * tokens as f64 * (config.block_flops() + config.head_flops());
    Ok(TimedStep { rows, tokens, seconds, flops })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::{tiny_config, tiny_tensors};

    #[test]
    fn a_step_is_timed_alone_and_its_size_follows_the_policy() {
        let config = tiny_config();
        let ticks = std::cell::Cell::new(0.0);
        let clock = || {
            ticks.set(ticks.get() + 1.0);
            ticks.get()
        };
        let step =
            |trained| bench(&config, tiny_tensors(&config, 1), trained, DType::F32, &Device::Cpu, &clock).unwrap();
        let (weights, adapters) = (step(Trained::Weights), step(Trained::Adapters));
        assert_eq!((weights.rows, weights.tokens, weights.seconds), (16, 16 * 96, 1.0));
        assert!(weights.flops > adapters.flops && adapters.flops > 0.0);
        let large =
            Config { hidden_size: 896, intermediate_size: 4864, layer_count: 24, vocab_size: 151_936, ..config };
        assert_eq!(rows(&large, &Device::Cpu), 1);
    }
}
