//! Losses over a teacher's distributions and over rewards, against PyTorch's gradients of their formulas and TRL's values;
//! `tests/fixtures/train/make_onpolicy.py` made them.

use super::pytorch_tests::{Fixture, LENGTHS, PROMPTS, assert_close, gradient};
use super::tests::{restore, saved};
use super::*;
use crate::model::ops::without_kernels;
use serde_json::{Value, json};

const VOCABULARY: usize = 48;

struct Case {
    name: &'static str,
    loss: Value,
    accumulation: Accumulation,
    rows: Vec<TrainExample>,
}

/// The rows, with all that stands beside them; teachers tell k tokens of each place.
fn rows(fixture: &Fixture, values: &Fixture, k: usize, skip: usize) -> Vec<TrainExample> {
    let (teacher, drawn) = (values.values("teacher"), values.values("drawn"));
    let reference = values.values("reference");
    let mut first = 0;
    let mut rows = fixture.examples();
    for (row, (length, prompt)) in rows.iter_mut().zip(LENGTHS.into_iter().zip(PROMPTS)) {
        let targets = first..first + length - prompt;
        let whole = |column: &[f32]| [vec![0.0; prompt], column[targets.clone()].to_vec()].concat();
        row.logprob_behavior = Some(whole(&drawn));
        row.logprob_reference = Some(whole(&reference));
        let (mut ids, mut logprobs) = (Vec::new(), Vec::new());
        for token in targets.clone() {
            let all = &teacher[token * VOCABULARY..(token + 1) * VOCABULARY];
            let mut likeliest: Vec<usize> = (0..VOCABULARY).collect();
            likeliest.sort_by(|a, b| all[*b].total_cmp(&all[*a]));
            ids.extend(likeliest[..k].iter().map(|id| *id as u32));
            logprobs.extend(likeliest[..k].iter().map(|id| all[*id]));
        }
        row.soft = Some(SoftTargets { k, first: prompt, ids: ids.into(), logprobs: logprobs.into() });
        row.loss_mask[prompt..prompt + skip].iter_mut().for_each(|is_target| *is_target = false);
        first = targets.end;
    }
    rows
}

fn with_rewards(mut rows: Vec<TrainExample>, scale: loss::Scale, rewards: &[f64]) -> Vec<TrainExample> {
    for (row, advantage) in rows.iter_mut().zip(scale.advantages(rewards)) {
        row.advantage = Some(advantage as f32);
    }
    rows
}

fn cases(fixture: &Fixture, values: &Fixture) -> Vec<Case> {
    let of = |k: usize, skip: usize| rows(fixture, values, k, skip);
    let distill =
        |name, loss: Value, k, skip| Case { name, loss, accumulation: Accumulation::TokenMean, rows: of(k, skip) };
    let with = |divergence: &str| json!({"name": "distill", "divergence": divergence, "alpha": 0.3});
    let mixed = json!({"name": "distill", "skip": 2, "clip": 1.5, "mix": {"loss": "dft", "share": 0.3}});
    let rewards = [1.0, 0.0, 0.25];
    let grpo = |name, accumulation, scale: loss::Scale, kl: f64| Case {
        name,
        loss: json!({"name": "grpo", "clip_high": 0.28, "kl": kl}),
        accumulation,
        rows: with_rewards(of(1, 0), scale, &rewards),
    };
    let chord = |name, phi: bool| Case {
        name,
        loss: json!({"name": "chord", "grpo": {"clip_high": 0.28}, "mu_peak": 0.3, "decay_steps": 0, "phi": phi}),
        accumulation: Accumulation::TokenMean,
        rows: with_rewards(of(1, 0), loss::Scale::Group, &rewards[..2]),
    };
    vec![
        distill("distill_forward", with("forward"), 5, 0),
        distill("distill_reverse", with("reverse"), 5, 0),
        distill("distill_js", with("js"), 5, 0),
        distill("distill_whole_forward", with("forward"), VOCABULARY, 0),
        distill("distill_whole_js", with("js"), VOCABULARY, 0),
        distill("distill_mixed", mixed, 5, 2),
        grpo("grpo", Accumulation::TokenMean, loss::Scale::Group, 0.0),
        grpo("grpo_rows", Accumulation::RowMean, loss::Scale::Group, 0.04),
        grpo("dr_grpo", Accumulation::Constant { length: 32 }, loss::Scale::None, 0.0),
        chord("chord_mu", false),
        chord("chord_phi", true),
    ]
}

/// Goal: value and every gradient of each loss are PyTorch's, by kernels, by composition, and with blocks that are computed again.
#[test]
fn values_and_gradients() {
    let fixture = Fixture::load();
    let values = fixture.beside(include_bytes!("../../../../tests/fixtures/train/tiny-qwen2-onpolicy.safetensors"));
    let moved = values.starting_with("moved.");
    for Case { name, loss, accumulation, rows } in cases(&fixture, &values) {
        let batch: Vec<&TrainExample> = rows.iter().collect();
        for gradient_checkpointing in [false, true] {
            let params = TrainerParams { accumulation, gradient_checkpointing, ..fixture.params(loss.clone(), 0.0) };
            let check = || {
                let mut trainer = fixture.trainer_with(params.clone());
                let mut state = saved(&trainer);
                for (name, value) in &moved {
                    *state.get_mut(&format!("weights.{name}")).unwrap() = value.clone();
                }
                restore(&mut trainer, &state).unwrap();
                let metrics = trainer.step(&batch).unwrap();
                let value = values.values(&format!("{name}.loss"))[0];
                // phi weighs tokens; its value is told as the formula's.
                assert!((metrics.loss as f32 - value).abs() < 1e-5, "{name}: {} instead of {value}", metrics.loss);
                let state = saved(&trainer);
                let gradients = values.starting_with(&format!("{name}.gradients."));
                assert_eq!(gradients.len(), 26);
                for (tensor, want) in gradients {
                    assert_close(
                        &gradient(&state, &tensor),
                        &super::pytorch_tests::flat(&want),
                        2e-4,
                        &format!("{name}, {tensor}"),
                    );
                }
            };
            check();
            without_kernels(check);
        }
    }
}

/// Goal: a row that lacks what its loss goes by is named with what it lacks.
#[test]
fn rows_that_lack_something_are_named() {
    let fixture = Fixture::load();
    let plain = fixture.examples();
    for (loss, lacks) in [
        (json!("distill"), "soft targets"),
        (json!("grpo"), "a reward"),
        (json!({"name": "grpo", "kl": 0.1}), "a reward"),
    ] {
        let error =
            fixture.trainer_with(fixture.params(loss, 0.0)).step(&plain.iter().collect::<Vec<_>>()).unwrap_err();
        assert!(error.what().contains(lacks), "{error}");
        assert_eq!(error.places(), ["step 0", "row 0 of the batch"]);
    }
    let unsampled = with_rewards(plain, loss::Scale::Group, &[1.0, 0.0, 0.0]);
    let mut trainer = fixture.trainer_with(fixture.params(json!("grpo"), 0.0));
    let error = trainer.step(&unsampled.iter().collect::<Vec<_>>()).unwrap_err();
    assert!(error.what().contains("the policy it was drawn from"), "{error}");
}

/// Goal: an interrupted training goes on as if nothing had been, with a loss whose parts move with the step.
#[test]
fn a_resumed_training_has_the_bits_of_one_that_ran_through() {
    let fixture = Fixture::load();
    let values = fixture.beside(include_bytes!("../../../../tests/fixtures/train/tiny-qwen2-onpolicy.safetensors"));
    let rows = with_rewards(rows(&fixture, &values, 5, 0), loss::Scale::Group, &[1.0, 0.0]);
    let batch: Vec<&TrainExample> = rows.iter().collect();
    let loss = json!({"name": "chord", "warmup_steps": 2, "decay_steps": 4});
    let trainer = || fixture.trainer_with(fixture.params(loss.clone(), 1.0));
    let mut through = trainer();
    let mut metrics: Vec<StepMetrics> = (0..6).map(|_| through.step(&batch).unwrap()).collect();
    let mut halfway = trainer();
    (0..3).for_each(|_| drop(halfway.step(&batch).unwrap()));
    let mut resumed = trainer();
    restore(&mut resumed, &saved(&halfway)).unwrap();
    let after: Vec<StepMetrics> = (0..3).map(|_| resumed.step(&batch).unwrap()).collect();
    assert_eq!(after, metrics.split_off(3));
}
