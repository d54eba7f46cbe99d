//! Every family of models against transformers: tiny random checkpoints with its log-probs, greedy continuations and gradients,
//! made by `tests/fixtures/families/make.py`. Texts are shorter and longer than the windows and than the lengths at which
//! rotary embeddings change.

use candle_core::{DType, Device, Tensor};
use mindgap_base::rng::Stream;
use mindgap_lm::engine::{Limits, Request, Sampling, ScoreRequest, StopReason, generate, score};
use mindgap_lm::model::config::Config;
use mindgap_lm::model::policy::PolicyFiles;
use mindgap_lm::model::runner::Runner;
use mindgap_lm::model::runner::device::DeviceRunner;
use mindgap_lm::model::transformer::Transformer;
use mindgap_lm::model::weights::{Checkpoint, Shard};
use mindgap_lm::train::{
    Accumulation, AdamWParams, LoraParams, Loss, PackingParams, Rounding, Schedule, TrainExample, Trainer,
    TrainerParams,
};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

const FAMILIES: [&str; 13] = [
    "mistral",
    "mistral-full",
    "qwen2-window",
    "gemma2",
    "gemma3",
    "phi3",
    "phi4",
    "smollm3",
    "olmo2",
    "olmo3",
    "granite",
    "llama-dynamic",
    "gemma3-vision",
];

#[derive(Deserialize)]
struct Expected {
    scores: Vec<Scores>,
    greedy: Greedy,
    gradients: Gradients,
}

#[derive(Deserialize)]
struct Scores {
    prompt_ids: Vec<u32>,
    token_ids: Vec<u32>,
    logprob_policy: Vec<f32>,
    entropy: Vec<f32>,
}

#[derive(Deserialize)]
struct Greedy {
    prompt_ids: Vec<u32>,
    token_ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Gradients {
    rows: Vec<Vec<u32>>,
    prompt_tokens: usize,
    norms: BTreeMap<String, f64>,
    along: BTreeMap<String, [f64; 3]>,
}

struct Fixture {
    name: &'static str,
    config: Config,
    tensors: HashMap<String, Tensor>,
    expected: Expected,
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/families").join(name)
}

fn fixtures() -> impl Iterator<Item = Fixture> {
    FAMILIES.into_iter().map(|name| {
        let read = |file: &str| std::fs::read(folder(name).join(file)).unwrap();
        let config = Config::from_json(&read("config.json")).unwrap_or_else(|e| panic!("{name}: {e}"));
        let expected = serde_json::from_slice(&read("expected.json")).unwrap();
        Fixture { name, tensors: tensors(&config, &read("model.safetensors")), config, expected }
    })
}

fn tensors(config: &Config, bytes: &Vec<u8>) -> HashMap<String, Tensor> {
    let shards = [Shard { name: "model.safetensors".into(), blob: bytes }];
    Checkpoint::open(config, &shards, None).unwrap().tensors(config, DType::F32, &Device::Cpu).unwrap()
}

static GO: AtomicBool = AtomicBool::new(false);

fn limits(threads: usize) -> Limits<'static> {
    Limits { slots: 3, kv_budget_bytes: 1 << 26, threads, cancel: &GO }
}

impl Fixture {
    /// The CPU's runner, and the one for devices, in f32 on the CPU.
    fn runners(&self) -> [Runner; 2] {
        let tensors = self.tensors.clone();
        let transformer = Transformer::from_tensors(&self.config, tensors, DType::F32, &Device::Cpu).unwrap();
        [
            Runner::from_transformer(&transformer).unwrap(),
            Runner::Device(DeviceRunner::from_transformer(&transformer).unwrap()),
        ]
    }

    fn trainer(&self, lora: Option<LoraParams>, gradient_checkpointing: bool) -> Trainer {
        let params = TrainerParams {
            loss: Loss::from_value(&serde_json::json!("sft")).unwrap(),
            optimizer: AdamWParams::default(),
            schedule: Schedule::constant(1e-2, 10),
            packing: PackingParams::default(),
            clip_norm: 0.0,
            accumulation: Accumulation::TokenMean,
            eos_token_ids: vec![2],
            skip_limit: 1,
            dtype: DType::F32,
            rounding: Rounding::Kept,
            lora,
            seed: 1,
            gradient_checkpointing,
        };
        Trainer::new(&self.config, self.tensors.clone(), params, &Device::Cpu).unwrap()
    }

    fn examples(&self) -> Vec<TrainExample> {
        let Gradients { rows, prompt_tokens, .. } = &self.expected.gradients;
        let mask = |row: &Vec<u32>| (0..row.len()).map(|i| i >= *prompt_tokens).collect();
        rows.iter().map(|row| TrainExample::new(row.clone(), mask(row), 0)).collect()
    }
}

fn step(trainer: &mut Trainer, rows: &[TrainExample]) -> f64 {
    trainer.step(&rows.iter().collect::<Vec<_>>()).unwrap().loss
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn log_probs_of_every_family_agree_with_transformers() {
    for fixture in fixtures() {
        let scores = &fixture.expected.scores;
        let requests: Vec<ScoreRequest> =
            scores.iter().map(|s| ScoreRequest::new(&s.prompt_ids[..], &s.token_ids[..])).collect();
        for (kind, runner) in ["cpu", "device"].into_iter().zip(fixture.runners()) {
            let found = score(&runner, &requests, &limits(2), &|_| ()).unwrap();
            let mut worst = 0.0f32;
            for (found, expected) in found.iter().zip(scores) {
                assert_eq!(found.logprob_policy.len(), expected.logprob_policy.len());
                let log_probs = found.logprob_policy.iter().zip(&expected.logprob_policy);
                let entropies = found.entropy.iter().zip(&expected.entropy);
                worst = log_probs.chain(entropies).map(|(a, b)| (a - b).abs()).fold(worst, f32::max);
            }
            eprintln!("{} on {kind}: largest difference {worst}", fixture.name);
            assert!(worst < 5e-5, "{} on {kind}: largest difference {worst}", fixture.name);
        }
    }
}

/// Also: a sample's log-probs while decoding are those it has when scored, to the last bit on the CPU, alone or beside others.
#[test]
fn greedy_continuations_of_every_family_are_identical_to_transformers() {
    for fixture in fixtures() {
        let Greedy { prompt_ids, token_ids } = &fixture.expected.greedy;
        let short: Vec<u32> = prompt_ids[..5].to_vec();
        let streams = |count: u8| (0..count).map(|i| Stream::at(0, &[&[i]])).collect::<Vec<_>>();
        let one = Request::new(&prompt_ids[..], streams(1));
        let three = [one.clone(), Request::new(&short[..], streams(2))];
        let sampling = Sampling { temperature: 0.0, ..Sampling::plain(100, &[]) };
        let [cpu, device] = fixture.runners();
        let samples = generate(&device, None, &three, &sampling, &limits(1), &|_| ()).unwrap();
        assert_eq!(samples[0][0].token_ids, *token_ids, "{} on a device", fixture.name);
        let alone = generate(&cpu, None, std::slice::from_ref(&one), &sampling, &limits(1), &|_| ()).unwrap();
        let beside = generate(&cpu, None, &three, &sampling, &limits(2), &|_| ()).unwrap();
        assert_eq!(alone[0], beside[0], "{}", fixture.name);
        assert_eq!((&alone[0][0].token_ids, alone[0][0].stop_reason), (token_ids, StopReason::MaxTokens));
        for (request, samples) in three.iter().zip(&beside) {
            let scored = ScoreRequest::new(request.prompt_ids.clone(), &samples[0].token_ids[..]);
            let scores = score(&cpu, &[scored], &limits(1), &|_| ()).unwrap();
            assert_eq!(scores[0].logprob_policy, samples[0].logprob_policy, "{}", fixture.name);
        }
    }
}

/// A sample that begins below the length where frequencies change ends there.
#[test]
fn samples_do_not_cross_the_border_of_long_texts() {
    let fixture = fixtures().find(|fixture| fixture.name == "phi4").unwrap();
    let lengths = [(60, 4), (63, 1), (64, 100), (65, 100)];
    let request = |length: usize| Request::new(vec![7; length], vec![Stream::at(0, &[])]);
    let requests: Vec<Request> = lengths.iter().map(|(length, _)| request(*length)).collect();
    for runner in fixture.runners() {
        let samples = generate(&runner, None, &requests, &Sampling::plain(100, &[]), &limits(1), &|_| ()).unwrap();
        for ((_, new), sample) in lengths.iter().zip(samples) {
            assert_eq!(sample[0].token_ids.len(), *new);
        }
    }
}

/// The first moments after one step are the gradients times 1 - beta1.
#[test]
fn gradients_of_every_family_agree_with_transformers() {
    for fixture in fixtures() {
        let (name, rows) = (fixture.name, fixture.examples());
        let mut trainer = fixture.trainer(None, false);
        let loss = step(&mut trainer, &rows);
        let state = trainer.state().unwrap();
        let Gradients { norms, along, .. } = &fixture.expected.gradients;
        let trained: Vec<&String> = norms.keys().collect();
        assert!(trained.iter().all(|name| state.contains_key(&format!("adamw.first.{name}"))));
        assert_eq!(fixture.tensors.len(), trained.len(), "{name}");
        let mut worst = 0.0f64;
        for (tensor, norm) in norms {
            let gradient: Vec<f64> =
                flat(&state[&format!("adamw.first.{tensor}")]).iter().map(|m| f64::from(*m) * 10.0).collect();
            let own = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
            // A key's bias under softmax moves nothing without a rotation: its gradient is rounding.
            let bound = norm.max(1e-4);
            assert!((own - norm).abs() < 1e-4 * bound, "{name} {tensor}: norm {own} instead of {norm}");
            for (stride, want) in [1, 3, 5].into_iter().zip(along[tensor]) {
                let sign = |i: usize| if i * stride % 7 < 3 { 1.0 } else { -1.0 };
                let found: f64 = gradient.iter().enumerate().map(|(i, g)| g * sign(i)).sum();
                let scale = bound * (gradient.len() as f64).sqrt();
                worst = worst.max((found - want).abs() / scale);
                assert!((found - want).abs() < 1e-5 * scale, "{name} {tensor}: {found} instead of {want}");
            }
        }
        eprintln!("{name}: gradients within {worst:e}");
        let mut again = fixture.trainer(None, true);
        assert_eq!(step(&mut again, &rows), loss, "{name}");
        let bits = |state: &BTreeMap<String, Tensor>| -> Vec<Vec<f32>> {
            trained.iter().map(|name| flat(&state[&format!("weights.{name}")])).collect()
        };
        assert_eq!(bits(&state), bits(&again.state().unwrap()), "{name}: recomputed blocks give the same gradients");
    }
}

/// Adapters on every projection learn; merged, they are a checkpoint with the source's names and shapes that acts alike.
#[test]
fn adapters_and_saved_checkpoints_of_every_family() {
    for fixture in fixtures() {
        let (name, rows) = (fixture.name, fixture.examples());
        let targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
        let lora = LoraParams { rank: 2, alpha: 4.0, targets: targets.map(str::to_string).to_vec() };
        let mut trainer = fixture.trainer(Some(lora), false);
        let losses: Vec<f64> = (0..6).map(|_| step(&mut trainer, &rows)).collect();
        assert!(losses[5] < losses[0] - 0.05, "{name}: {losses:?}");
        let mut bytes = Vec::new();
        let mut put = |more: &[u8]| {
            bytes.extend_from_slice(more);
            Ok(())
        };
        trainer.write_policy(&trainer.weights().unwrap(), &mut put).unwrap();
        let saved = Fixture { tensors: tensors(&fixture.config, &bytes), ..fixture };
        let rows: Vec<&TrainExample> = rows.iter().collect();
        let (own, again) =
            (trainer.evaluate(&rows).unwrap().nll, saved.trainer(None, false).evaluate(&rows).unwrap().nll);
        assert!((own - again).abs() < 1e-4, "{name}: {own} adapted, {again} merged");
    }
}

#[test]
fn some_of_a_fused_projection_cannot_be_adapted() {
    let fixture = fixtures().find(|fixture| fixture.name == "phi3").unwrap();
    let lora = LoraParams { rank: 2, alpha: 4.0, targets: vec!["q_proj".to_string()] };
    let error = lora.init(&fixture.config, 0).unwrap_err();
    assert!(error.what().contains("`q_proj`, `k_proj`, `v_proj`") && error.remedy().unwrap().contains("`qkv_proj`"));
    let lora = LoraParams { targets: vec!["down_proj".to_string(), "o_proj".to_string()], ..lora };
    assert_eq!(lora.init(&fixture.config, 0).unwrap().len(), 8);
}

/// Goal: of a checkpoint that also sees images the language model is read under either spelling of its names, a tensor of no part is
/// still refused, and what is written of it is a language model alone.
#[test]
fn the_text_part_of_a_checkpoint_that_sees_images() {
    let read = |file: &str| std::fs::read(folder("gemma3-vision").join(file)).unwrap();
    let config = Config::from_json(&read("config.json")).unwrap();
    let whole = candle_core::safetensors::load_buffer(&read("model.safetensors"), &Device::Cpu).unwrap();
    let written = |tensors: &HashMap<String, Tensor>| safetensors::serialize(tensors, None).unwrap();
    let renamed: HashMap<String, Tensor> = whole
        .iter()
        .map(|(name, tensor)| match name.strip_prefix("language_model.model.") {
            Some(rest) => (format!("model.language_model.{rest}"), tensor.clone()),
            None => (format!("model.{name}"), tensor.clone()),
        })
        .collect();
    let (one, other) = (tensors(&config, &written(&whole)), tensors(&config, &written(&renamed)));
    assert_eq!(one.len(), 41);
    assert!(one.len() < whole.len(), "the vision tower is left out");
    for (name, tensor) in &one {
        assert_eq!(flat(tensor), flat(&other[name]), "{name}");
    }
    let mut odd = whole.clone();
    odd.insert("audio_tower.weight".into(), one["model.norm.weight"].clone());
    let bytes = written(&odd);
    let shards = [Shard { name: "model.safetensors".into(), blob: &bytes }];
    let error = Checkpoint::open(&config, &shards, None).err().unwrap().to_string();
    assert!(error.contains("`audio_tower.weight` has no place"), "{error}");
    let mut files = PolicyFiles::default();
    files.insert("config.json", read("config.json"));
    let described = files.described().unwrap();
    let alone: serde_json::Value = serde_json::from_slice(&described["config.json"]).unwrap();
    assert_eq!(
        (&alone["architectures"][0], &alone["model_type"]),
        (&"Gemma3ForCausalLM".into(), &"gemma3_text".into())
    );
    assert_eq!(Config::from_json(&described["config.json"]).unwrap(), config);
}
