//! The paper's released trainer: what its quirks do, each against the corrected trainer.

use super::tests::{examples, params, run, saved, trainer};
use super::*;
use crate::model::testing::tiny_config;

/// The paper's released trainer: micro-batches of four rows, summed on each of two ranks without dividing, so a gradient half
/// as many times larger as there are micro-batches.
#[test]
fn reference_quirks_sum_over_micro_batches() {
    let rows = examples(4);
    let quirky = || trainer(&tiny_config(), params("dft").with_reference_quirks());
    let all: Vec<&TrainExample> = (0..24).map(|i| &rows[i % 4]).collect();
    let six = quirky().step(&all).unwrap();
    let corrected = trainer(&tiny_config(), params("dft")).step(&all).unwrap();
    assert!((six.grad_norm / corrected.grad_norm - 3.0).abs() < 1e-4, "{} and {}", six.grad_norm, corrected.grad_norm);
    // Only what is logged is divided.
    assert!((six.loss - corrected.loss).abs() < 1e-6);
    assert!((quirky().evaluate(&all).unwrap().loss - six.loss).abs() < 1e-12);
}

/// A token of a short micro-batch weighs more than one of a long micro-batch; corrected, all weigh the same.
#[test]
fn reference_quirks_take_the_mean_per_micro_batch() {
    let rows = examples(8);
    let loss = |rows: &[TrainExample], params: TrainerParams| {
        let rows: Vec<&TrainExample> = rows.iter().collect();
        trainer(&tiny_config(), params).evaluate(&rows).unwrap()
    };
    let quirky = || params("sft").with_reference_quirks();
    let (first, second) = (loss(&rows[..4], quirky()), loss(&rows[4..], quirky()));
    assert_ne!(first.token_count, second.token_count);
    let both = loss(&rows, quirky());
    assert!((both.loss - 0.5 * (first.loss + second.loss)).abs() < 1e-9);
    assert!((loss(&rows, params("sft")).loss - both.nll).abs() < 1e-6);
    assert!((both.loss - both.nll).abs() > 1e-4, "{both:?}");
}

/// Moments are numbers that bf16 can hold, and long rows lose their end, end-of-sequence token included.
#[test]
fn reference_quirks_round_moments_and_truncate() {
    let mut quirky = trainer(&tiny_config(), params("dft").with_reference_quirks());
    run(&mut quirky, &examples(5), 0..2);
    let state = saved(&quirky);
    let moments = state.iter().filter(|(name, _)| name.starts_with("adamw."));
    for value in moments.flat_map(|(_, t)| t.flatten_all().unwrap().to_vec1::<f32>().unwrap()) {
        assert_eq!(value, half::bf16::from_f32(value).to_f32());
    }
    let long = TrainExample::new(vec![5; 3000], (0..3000).map(|i| i > 0).collect(), 0);
    let batches = packing::pack(&[&long], &params("dft").with_reference_quirks().packing).unwrap();
    assert_eq!(batches[0].targets.len(), 2047);
}
