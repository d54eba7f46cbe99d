//! Training in bf16: adapters, master weights, weights rounded to the nearest and stochastically.

use super::tests::{examples, params, run, trainer};
use super::*;
use crate::model::ops::without_kernels;
use crate::model::testing::{every_shape, tiny_config};
use candle_core::DType;

/// What bf16 is trained with: adapters, and weights, with master weights and rounded either way.
pub(super) fn in_bf16(loss: &str) -> [TrainerParams; 4] {
    let lora = LoraParams { rank: 3, alpha: 6.0, targets: vec!["q_proj".to_string(), "down_proj".to_string()] };
    let narrow = TrainerParams { dtype: DType::BF16, ..params(loss) };
    let rounded = |rounding| TrainerParams { rounding, ..narrow.clone() };
    let [nearest, stochastic] = [Rounding::Nearest, Rounding::Stochastic].map(rounded);
    [TrainerParams { lora: Some(lora), ..narrow.clone() }, narrow, nearest, stochastic]
}

/// Products in bf16 with f32 moments follow f32 as closely as bf16 can: by kernels, and by composition as on a device.
#[test]
fn trains_in_bf16() {
    let rows = examples(5);
    for params in in_bf16("sft") {
        let first_and_last = || {
            let metrics = run(&mut trainer(&tiny_config(), params.clone()), &rows, 0..20);
            let wide = TrainerParams { dtype: DType::F32, ..params.clone() };
            let wide = run(&mut trainer(&tiny_config(), wide), &rows, 0..1);
            assert!((metrics[0].loss / wide[0].loss - 1.0).abs() < 0.02, "{} and {}", metrics[0].loss, wide[0].loss);
            let norms = (metrics[0].grad_norm, wide[0].grad_norm);
            assert!((norms.0 / norms.1 - 1.0).abs() < 0.05, "{norms:?}");
            let share = if params.lora.is_some() { 0.97 } else { 0.7 };
            assert!(metrics[19].nll < share * metrics[0].nll, "{} then {}", metrics[0].nll, metrics[19].nll);
        };
        first_and_last();
        without_kernels(first_and_last);
    }
}

/// Steps far smaller than a weight's last digit in bf16 add up in master weights; rounded to the nearest they are lost. (What
/// stochastic rounding keeps of them: `adamw.rs`.)
#[test]
fn small_steps_are_lost_where_they_are_rounded_to_the_nearest() {
    let rows = examples(5);
    let [_, masters, rounded, _] =
        in_bf16("sft").map(|params| TrainerParams { schedule: Schedule::constant(1e-6, 20), ..params });
    let up = |trainer: &Trainer| {
        trainer.weights().unwrap()["model.layers.0.mlp.up_proj.weight"].to_dtype(DType::F32).unwrap()
    };
    let moved = || {
        [&masters, &rounded].map(|params| {
            let mut trainer = trainer(&tiny_config(), params.clone());
            let before = up(&trainer);
            run(&mut trainer, &rows, 0..20);
            let gap = (up(&trainer) - before).unwrap();
            gap.abs().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap()
        })
    };
    for [masters, rounded] in [moved(), without_kernels(moved)] {
        assert!(masters > 1e-5 && rounded < 0.5 * masters, "{masters} and {rounded}");
    }
}

#[test]
fn every_family_trains_in_bf16() {
    let rows = examples(5);
    for config in every_shape() {
        let first =
            |dtype: DType| run(&mut trainer(&config, TrainerParams { dtype, ..params("sft") }), &rows, 0..1)[0].clone();
        let gaps = || {
            let (narrow, wide) = (first(DType::BF16), first(DType::F32));
            ((narrow.loss / wide.loss - 1.0).abs(), (narrow.grad_norm / wide.grad_norm - 1.0).abs())
        };
        for gaps in [gaps(), without_kernels(gaps)] {
            assert!(gaps.0 < 0.02 && gaps.1 < 0.1, "{:?}: {gaps:?}", config.architecture);
        }
    }
}
