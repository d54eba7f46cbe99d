//! Adapters: they start without effect, alone receive gradients, and merge into the policy they act as.

use super::*;
use crate::model::testing::{every_shape, tiny_config, tiny_tensors};
use crate::train::tests::{restore, saved};
use crate::train::{Accumulation, AdamWParams, Loss, PackingParams, Rounding, Schedule, StepMetrics};
use crate::train::{TrainExample, Trainer, TrainerParams};

fn lora() -> LoraParams {
    LoraParams { rank: 3, alpha: 6.0, targets: every_projection() }
}

fn params(loss: &str, lora: Option<LoraParams>) -> TrainerParams {
    TrainerParams {
        loss: Loss::from_value(&serde_json::json!(loss)).unwrap(),
        optimizer: AdamWParams::default(),
        schedule: Schedule::constant(1e-2, 20),
        packing: PackingParams { micro_batch_tokens: 30, ..PackingParams::default() },
        clip_norm: 0.0,
        accumulation: Accumulation::TokenMean,
        eos_token_ids: vec![2],
        skip_limit: 1,
        dtype: DType::F32,
        rounding: Rounding::Kept,
        lora,
        seed: 4,
        gradient_checkpointing: false,
    }
}

fn trainer(config: &Config, loss: &str, lora: Option<LoraParams>) -> Trainer {
    Trainer::new(config, tiny_tensors(config, 3), params(loss, lora), &Device::Cpu).unwrap()
}

fn rows() -> Vec<TrainExample> {
    let row = |i: u32| {
        let ids = (0..12).map(|t| 3 + (i * 17 + t * 5) % 50).collect();
        TrainExample::new(ids, (0..12).map(|t| t > 2).collect(), 0)
    };
    (0..4).map(row).collect()
}

fn step(trainer: &mut Trainer, rows: &[TrainExample]) -> StepMetrics {
    trainer.step(&rows.iter().collect::<Vec<_>>()).unwrap()
}

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// Before the first update the policy is the base, bit for bit; the optimizer then holds moments of adapters alone.
#[test]
fn starts_as_the_base_and_trains_adapters_alone() {
    for config in every_shape() {
        let (mut with, mut without) = (trainer(&config, "dft", Some(lora())), trainer(&config, "dft", None));
        let (first, base) = (step(&mut with, &rows()), step(&mut without, &rows()));
        assert_eq!((first.loss, first.nll), (base.loss, base.nll), "{:?}", config.architecture);
        let state = saved(&with);
        let projections = if config.fused_projections { 4 } else { 7 };
        let adapters = projections * 2 * config.layer_count;
        assert_eq!(state.keys().filter(|name| name.starts_with("weights.")).count(), adapters);
        assert_eq!(state.keys().filter(|name| name.starts_with("adamw.")).count(), 2 * adapters);
        assert!(state.keys().all(|name| name == "trainer.counters" || name.contains(".lora_")));
    }
}

/// After one step B has moved, and from then on every tensor does.
#[test]
fn every_adapter_receives_a_gradient() {
    for config in every_shape() {
        let mut trainer = trainer(&config, "sft", Some(lora()));
        let start = trainer.weights().unwrap();
        step(&mut trainer, &rows());
        let second = trainer.weights().unwrap();
        step(&mut trainer, &rows());
        for (name, third) in trainer.weights().unwrap() {
            assert_eq!(values(&start[&name]) != values(&second[&name]), name.contains("lora_B"), "{name}");
            assert_ne!(values(&second[&name]), values(&third), "{name}");
        }
    }
}

/// The move along each adapter tensor's gradient changes the loss as finite differences say.
#[test]
fn gradients_are_finite_differences() {
    let config = tiny_config();
    let mut adapters = lora().init(&config, 4).unwrap();
    for (index, (name, tensor)) in adapters.iter_mut().enumerate() {
        let mut cursor = Stream::at(9, &[b"values", name.as_bytes()]).cursor();
        let drawn: Vec<f32> = (0..tensor.elem_count()).map(|_| 0.1 * cursor.normal() as f32).collect();
        *tensor = Tensor::from_vec(drawn, tensor.shape(), &Device::Cpu).unwrap();
        assert!(index < 28);
    }
    // One plain gradient step: with momentum but no history the first moment is a tenth of the gradient.
    let at = |adapters: &BTreeMap<String, Tensor>| {
        let mut trainer = trainer(&config, "sft", Some(lora()));
        let mut state = saved(&trainer);
        state.extend(adapters.iter().map(|(name, tensor)| (format!("weights.{name}"), tensor.clone())));
        restore(&mut trainer, &state).unwrap();
        trainer
    };
    let mut trainer = at(&adapters);
    step(&mut trainer, &rows());
    let state = saved(&trainer);
    for (name, tensor) in &adapters {
        let gradient: Vec<f32> = values(&state[&format!("adamw.first.{name}")]).iter().map(|m| m * 10.0).collect();
        let square: f64 = gradient.iter().map(|g| f64::from(*g) * f64::from(*g)).sum();
        assert!(square > 1e-12, "{name} has no gradient");
        let size = 3e-2 / square.sqrt();
        let loss = |sign: f64| {
            let moved: Vec<f32> =
                values(tensor).iter().zip(&gradient).map(|(x, g)| x + (sign * size) as f32 * g).collect();
            let mut adapters = adapters.clone();
            adapters.insert(name.clone(), Tensor::from_vec(moved, tensor.shape(), &Device::Cpu).unwrap());
            step(&mut at(&adapters), &rows()).loss
        };
        let slope = (loss(1.0) - loss(-1.0)) / (2.0 * size);
        assert!((slope / square - 1.0).abs() < 0.02, "{name}: {slope} instead of {square}");
    }
}

#[test]
fn a_merged_policy_acts_as_the_adapted_one() {
    let config = tiny_config();
    let mut adapted = trainer(&config, "sft", Some(lora()));
    (0..5).for_each(|_| drop(step(&mut adapted, &rows())));
    let adapters = adapted.weights().unwrap();
    let names = expected_tensors(&config).into_iter().map(|spec| spec.name);
    let merged = names.map(|name| (name.clone(), adapted.policy_tensor(&adapters, &name).unwrap())).collect();
    let plain = Trainer::new(&config, merged, params("sft", None), &Device::Cpu).unwrap();
    let rows = rows();
    let rows: Vec<&TrainExample> = rows.iter().collect();
    let (ours, merged) = (adapted.evaluate(&rows).unwrap().nll, plain.evaluate(&rows).unwrap().nll);
    let start = trainer(&config, "sft", None).evaluate(&rows).unwrap().nll;
    assert!((ours - merged).abs() < 1e-5, "{ours} and {merged}");
    assert!(start - ours > 0.1, "{start} before, {ours} after");
}

#[test]
fn saved_adapters_go_on_to_the_bit() {
    for loss in ["dft", "psft", "asft", "gift"] {
        let mut straight = trainer(&tiny_config(), loss, Some(lora()));
        let metrics: Vec<StepMetrics> = (0..6).map(|_| step(&mut straight, &rows())).collect();
        let mut first = trainer(&tiny_config(), loss, Some(lora()));
        (0..3).for_each(|_| drop(step(&mut first, &rows())));
        let mut second = trainer(&tiny_config(), loss, Some(lora()));
        restore(&mut second, &saved(&first)).unwrap();
        let rest: Vec<StepMetrics> = (3..6).map(|_| step(&mut second, &rows())).collect();
        assert_eq!(rest, metrics[3..], "{loss}");
    }
}

#[test]
fn impossible_adapters_are_errors() {
    assert!(lora().check().is_ok());
    assert!(LoraParams { rank: 0, ..lora() }.check().is_err());
    assert!(LoraParams { alpha: f64::NAN, ..lora() }.check().is_err());
    assert!(LoraParams { targets: Vec::new(), ..lora() }.check().is_err());
    let error = LoraParams { targets: vec!["lm_head".to_string()], ..lora() }.check().unwrap_err();
    assert!(error.what().contains("`lm_head`") && error.remedy().unwrap().contains("`q_proj`"));
}
