//! Against PyTorch's numbers on a tiny random Qwen2, and PEFT's with adapters on it; `tests/fixtures/train/make.py`,
//! `make_losses.py` and `make_lora.py` made them.

use super::tests::{restore, saved};
use super::*;
use crate::model::config::Config;
use crate::model::ops::{self, Segments, without_kernels};
use crate::model::transformer::Transformer;
use candle_core::{DType, Device, Tensor};
use std::collections::{BTreeMap, HashMap};

pub(super) const LENGTHS: [usize; 3] = [13, 7, 21];
pub(super) const PROMPTS: [usize; 3] = [4, 2, 9];
const STEPS: u32 = 10;

pub(super) struct Fixture {
    config: Config,
    tensors: HashMap<String, Tensor>,
}

impl Fixture {
    pub(super) fn load() -> Fixture {
        let config = include_bytes!("../../../../tests/fixtures/train/tiny-qwen2.json");
        let tensors = include_bytes!("../../../../tests/fixtures/train/tiny-qwen2.safetensors");
        Fixture {
            config: Config::from_json(config).unwrap(),
            tensors: candle_core::safetensors::load_buffer(tensors, &Device::Cpu).unwrap(),
        }
    }

    /// The tensors of another file, beside the same model.
    pub(super) fn beside(&self, file: &[u8]) -> Fixture {
        let tensors = candle_core::safetensors::load_buffer(file, &Device::Cpu).unwrap();
        Fixture { config: self.config.clone(), tensors }
    }

    pub(super) fn starting_with(&self, prefix: &str) -> HashMap<String, Tensor> {
        let own = |(name, t): (&String, &Tensor)| Some((name.strip_prefix(prefix)?.to_string(), t.clone()));
        self.tensors.iter().filter_map(own).collect()
    }

    pub(super) fn values(&self, name: &str) -> Vec<f32> {
        flat(&self.tensors[name])
    }

    fn token_ids(&self) -> Vec<u32> {
        self.tensors["token_ids"].to_vec1().unwrap()
    }

    pub(super) fn examples(&self) -> Vec<TrainExample> {
        let ids = self.token_ids();
        let rows = Segments::new(&LENGTHS);
        let example = |(range, prompt): (std::ops::Range<usize>, usize)| {
            let mask = (0..range.len()).map(|i| i >= prompt).collect();
            TrainExample::new(ids[range].to_vec(), mask, 0)
        };
        rows.iter().zip(PROMPTS).map(example).collect()
    }

    fn trainer(&self, loss: &str, clip_norm: f64) -> Trainer {
        self.trainer_of(loss, clip_norm, None)
    }

    fn trainer_of(&self, loss: &str, clip_norm: f64, lora: Option<LoraParams>) -> Trainer {
        self.trainer_with(TrainerParams { lora, ..self.params(serde_json::json!(loss), clip_norm) })
    }

    pub(super) fn trainer_with(&self, params: TrainerParams) -> Trainer {
        Trainer::new(&self.config, self.starting_with("weights."), params, &Device::Cpu).unwrap()
    }

    pub(super) fn params(&self, loss: serde_json::Value, clip_norm: f64) -> TrainerParams {
        let schedule =
            Schedule { warmup_steps: 2, decay: Decay::Cosine, floor_share: 0.1, ..Schedule::constant(3e-3, STEPS) };
        TrainerParams {
            loss: Loss::from_value(&loss).unwrap(),
            optimizer: AdamWParams { weight_decay: 0.1, ..AdamWParams::default() },
            schedule,
            packing: PackingParams { micro_batch_tokens: 20, ..PackingParams::default() },
            clip_norm,
            accumulation: Accumulation::TokenMean,
            eos_token_ids: vec![2],
            skip_limit: 1,
            dtype: DType::F32,
            rounding: Rounding::Kept,
            lora: None,
            seed: 0,
            gradient_checkpointing: false,
        }
    }
}

pub(super) fn flat(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// Within `relative` of the value, or of a tenth of the tensor's largest.
pub(super) fn assert_close(got: &[f32], want: &[f32], relative: f32, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    let largest = want.iter().fold(0.0f32, |a, b| a.max(b.abs()));
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let bound = relative * want.abs().max(0.1 * largest);
        assert!((got - want).abs() <= bound, "{what}[{i}]: {got} instead of {want}");
    }
}

#[test]
fn logits() {
    let fixture = Fixture::load();
    let tensors = fixture.starting_with("weights.");
    let model = Transformer::from_tensors(&fixture.config, tensors, DType::F32, &Device::Cpu).unwrap();
    let hidden = model.hidden(&fixture.token_ids(), &Segments::new(&LENGTHS)).unwrap();
    let logits = ops::linear(&hidden, &model.head().weight, None, DType::F32).unwrap();
    assert_close(&flat(&logits), &fixture.values("logits"), 1e-4, "logits");
}

/// Gradients out of a state saved after one step: the first moments are the gradients times 1 - beta1.
pub(super) fn gradient(state: &BTreeMap<String, Tensor>, name: &str) -> Vec<f32> {
    flat(&state[&format!("adamw.first.{name}")]).iter().map(|m| m / 0.1).collect()
}

#[test]
fn every_gradient() {
    let fixture = Fixture::load();
    let rows = fixture.examples();
    for loss in ["sft", "dft"] {
        let mut trainer = fixture.trainer(loss, 0.0);
        trainer.step(&rows.iter().collect::<Vec<_>>()).unwrap();
        let state = saved(&trainer);
        let gradients = fixture.starting_with(&format!("{loss}.gradients."));
        assert_eq!(gradients.len(), 26);
        for (name, want) in gradients {
            assert_close(&gradient(&state, &name), &flat(&want), 1e-4, &format!("{loss} gradient of {name}"));
        }
    }
}

#[test]
fn ten_steps() {
    let fixture = Fixture::load();
    let rows = fixture.examples();
    for loss in ["sft", "dft"] {
        let mut trainer = fixture.trainer(loss, 1.0);
        let batch: Vec<&TrainExample> = rows.iter().collect();
        let metrics: Vec<StepMetrics> = (0..STEPS).map(|_| trainer.step(&batch).unwrap()).collect();
        let of = |f: fn(&StepMetrics) -> f64| metrics.iter().map(|m| f(m) as f32).collect::<Vec<_>>();
        assert_close(&of(|m| m.loss), &fixture.values(&format!("{loss}.losses")), 1e-4, "losses");
        assert_close(&of(|m| m.grad_norm), &fixture.values(&format!("{loss}.norms")), 1e-4, "gradient norms");
        let after = trainer.weights().unwrap();
        for (name, want) in fixture.starting_with(&format!("{loss}.after.")) {
            assert_close(&flat(&after[&name]), &flat(&want), 1e-4, &format!("{loss}: {name} after ten steps"));
        }
    }
}

/// Losses that papers give by a formula without constant weights: PyTorch differentiated the formula, at weights away from
/// the reference's. By kernels, by composition, and with blocks that are computed again.
#[test]
fn gradients_of_published_formulas() {
    let fixture = Fixture::load();
    let losses = fixture.beside(include_bytes!("../../../../tests/fixtures/train/tiny-qwen2-losses.safetensors"));
    let moved = losses.starting_with("moved.");
    assert_eq!(moved.len(), 26);
    let plain = || fixture.params(serde_json::json!("sft"), 0.0);
    let with = |loss: serde_json::Value| fixture.params(loss, 0.0);
    // The value of a power of p is another one than the formula's: only its gradient is the same.
    let cases = [
        ("power", false, with(serde_json::json!({"name": "power", "q": 0.5}))),
        ("power_above", false, with(serde_json::json!({"name": "power", "min_p": 0.004}))),
        ("power_below", false, with(serde_json::json!({"name": "power", "q": 2.0, "max_p": 0.035}))),
        ("gift", true, with(serde_json::json!({"name": "gift", "beta": 3.0}))),
        ("longest_of_problem", true, TrainerParams { accumulation: Accumulation::LongestOfProblem, ..plain() }),
    ];
    let mut rows = fixture.examples();
    for (row, (weight, longest)) in rows.iter_mut().zip([(1.0, Some(9)), (0.5, Some(9)), (2.0, None)]) {
        (row.longest, row.weight) = (longest, weight);
    }
    for (case, has_value, params) in cases {
        let mut rows = rows.clone();
        if params.accumulation == Accumulation::TokenMean {
            rows.iter_mut().for_each(|row| row.weight = 1.0);
        }
        let batch: Vec<&TrainExample> = rows.iter().collect();
        for gradient_checkpointing in [false, true] {
            let check = || {
                let mut trainer = fixture.trainer_with(TrainerParams { gradient_checkpointing, ..params.clone() });
                let mut state = saved(&trainer);
                for (name, value) in &moved {
                    *state.get_mut(&format!("weights.{name}")).unwrap() = value.clone();
                }
                restore(&mut trainer, &state).unwrap();
                let metrics = trainer.step(&batch).unwrap();
                if has_value {
                    assert_close(&[metrics.loss as f32], &losses.values(&format!("{case}.loss")), 1e-5, case);
                }
                let state = saved(&trainer);
                let gradients = losses.starting_with(&format!("{case}.gradients."));
                assert_eq!(gradients.len(), 26);
                for (name, want) in gradients {
                    assert_close(&gradient(&state, &name), &flat(&want), 1e-4, &format!("{case}, {name}"));
                }
            };
            check();
            without_kernels(check);
        }
    }
}

/// The policy leaves the reference step by step.
#[test]
fn ten_steps_away_from_a_reference() {
    let fixture = Fixture::load();
    let losses = fixture.beside(include_bytes!("../../../../tests/fixtures/train/tiny-qwen2-losses.safetensors"));
    let rows = fixture.examples();
    let batch: Vec<&TrainExample> = rows.iter().collect();
    let mut trainer = fixture.trainer_with(fixture.params(serde_json::json!({"name": "gift", "beta": 3.0}), 1.0));
    let own: Vec<f32> = (0..STEPS).map(|_| trainer.step(&batch).unwrap().loss as f32).collect();
    assert_close(&own, &losses.values("gift.losses"), 1e-4, "losses");
    let after = trainer.weights().unwrap();
    for (name, want) in losses.starting_with("gift.after.") {
        // AdamW divides by the gradient's size: where it is next to nothing, its rounding shows.
        assert_close(&flat(&after[&name]), &flat(&want), 5e-4, &format!("{name} after ten steps"));
    }
}

/// Adapters of PEFT's values: the same gradients, ten steps, and the same policy when merged.
#[test]
fn adapters_beside_peft() {
    let fixture = Fixture::load();
    let peft = include_bytes!("../../../../tests/fixtures/train/tiny-qwen2-lora.safetensors");
    let peft = fixture.beside(peft);
    let targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
    let lora = LoraParams { rank: 3, alpha: 6.0, targets: targets.map(str::to_string).to_vec() };
    let rows = fixture.examples();
    let batch: Vec<&TrainExample> = rows.iter().collect();
    let trainer = |clip_norm: f64| {
        let mut trainer = fixture.trainer_of("dft", clip_norm, Some(lora.clone()));
        let mut state = saved(&trainer);
        let given = peft.starting_with("weights.");
        assert_eq!(given.len(), 28);
        for (name, value) in given {
            let place = state.get_mut(&format!("weights.{name}")).unwrap_or_else(|| panic!("no adapter {name}"));
            *place = value;
        }
        restore(&mut trainer, &state).unwrap();
        trainer
    };
    let mut unclipped = trainer(0.0);
    unclipped.step(&batch).unwrap();
    let state = saved(&unclipped);
    for (name, want) in peft.starting_with("gradients.") {
        assert_close(&gradient(&state, &name), &flat(&want), 1e-4, &format!("gradient of {name}"));
    }
    let mut trainer = trainer(1.0);
    let losses: Vec<f32> = (0..STEPS).map(|_| trainer.step(&batch).unwrap().loss as f32).collect();
    assert_close(&losses, &peft.values("losses"), 1e-4, "losses");
    let after = trainer.weights().unwrap();
    for (name, want) in peft.starting_with("after.") {
        assert_close(&flat(&after[&name]), &flat(&want), 1e-4, &format!("{name} after ten steps"));
    }
    for (name, want) in peft.starting_with("merged.") {
        assert_close(
            &flat(&trainer.policy_tensor(&after, &name).unwrap()),
            &flat(&want),
            1e-4,
            &format!("{name}, merged"),
        );
    }
}

/// The gradient of the DFT loss is that of minus the mean probability of the targets.
#[test]
fn dft_descends_minus_the_probability() {
    let fixture = Fixture::load();
    let rows = fixture.examples();
    let mut trainer = fixture.trainer("dft", 0.0);
    trainer.step(&rows.iter().collect::<Vec<_>>()).unwrap();
    let state = saved(&trainer);
    let vars: HashMap<String, candle_core::Var> = fixture
        .starting_with("weights.")
        .into_iter()
        .map(|(name, t)| (name, candle_core::Var::from_tensor(&t).unwrap()))
        .collect();
    let tensors = vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
    let model = Transformer::from_tensors(&fixture.config, tensors, DType::F32, &Device::Cpu).unwrap();
    let (mut sum, mut count) = (Tensor::zeros((), DType::F32, &Device::Cpu).unwrap(), 0);
    for (row, prompt) in rows.iter().zip(PROMPTS) {
        let length = row.token_ids.len();
        let hidden = model.hidden(&row.token_ids, &Segments::new(&[length])).unwrap();
        let hidden = hidden.narrow(0, prompt - 1, length - prompt).unwrap();
        let (log_probs, _) = ops::token_logprobs(&hidden, model.head(), &row.token_ids[prompt..]).unwrap();
        sum = (sum - log_probs.exp().unwrap().sum_all().unwrap()).unwrap();
        count += length - prompt;
    }
    let gradients = (sum / count as f64).unwrap().backward().unwrap();
    for (name, var) in &vars {
        let want = flat(gradients.get(var.as_tensor()).unwrap());
        assert_close(&gradient(&state, name), &want, 1e-3, name);
    }
}
