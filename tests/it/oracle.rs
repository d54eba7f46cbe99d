//! The transformer against candle-transformers, a second implementation of most families beside transformers: log-probs that
//! tests/peers/candle wrote beside the tiny checkpoints, with the configs it was run with.

use candle_core::{DType, Device, Tensor};
use mindgap_lm::engine::{Limits, ScoreRequest, score};
use mindgap_lm::model::config::Config;
use mindgap_lm::model::runner::Runner;
use mindgap_lm::model::transformer::Transformer;
use mindgap_lm::model::weights::expected_tensors;
use serde::Deserialize;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

#[derive(Deserialize)]
struct Theirs {
    config: serde_json::Value,
    ids: Vec<u32>,
    log_probs: Vec<f32>,
}

/// The folders of the fixtures that candle-transformers has scored.
fn scored() -> Vec<PathBuf> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let inside = |kind: &str| std::fs::read_dir(fixtures.join(kind)).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<PathBuf> = ["model", "families"].into_iter().flat_map(inside).collect();
    folders.retain(|folder| folder.join("candle.json").exists());
    folders.sort();
    folders
}

/// The tensors that a config asks for, in f32: it may ask for fewer than there are.
fn tensors(folder: &Path, config: &Config) -> HashMap<String, Tensor> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let weights = files.filter(|file| file.extension().is_some_and(|extension| extension == "safetensors"));
    let mut all: HashMap<String, Tensor> = weights
        .flat_map(|file| candle_core::safetensors::load(&file, &Device::Cpu).unwrap())
        .map(|(name, tensor)| (name.strip_prefix("language_model.").unwrap_or(&name).to_string(), tensor))
        .collect();
    let wanted = expected_tensors(config).into_iter();
    wanted.map(|spec| (spec.name.clone(), all.remove(&spec.name).unwrap().to_dtype(DType::F32).unwrap())).collect()
}

#[test]
fn log_probs_agree_with_candle_transformers() {
    let folders = scored();
    assert_eq!(folders.len(), 13, "{folders:?}");
    for folder in folders {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let theirs: Theirs = serde_json::from_slice(&std::fs::read(folder.join("candle.json")).unwrap()).unwrap();
        let config = Config::from_json(theirs.config.to_string().as_bytes()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let tensors = tensors(&folder, &config);
        let transformer = Transformer::from_tensors(&config, tensors, DType::F32, &Device::Cpu).unwrap();
        let runner = Runner::from_transformer(&transformer).unwrap();
        let (prompt, target) = theirs.ids.split_at(1);
        let limits = Limits { slots: 1, kv_budget_bytes: 1 << 26, threads: 1, cancel: &AtomicBool::new(false) };
        let ours = score(&runner, &[ScoreRequest::new(prompt, target)], &limits, &|_| ()).unwrap();
        let pairs = ours[0].logprob_policy.iter().zip(&theirs.log_probs);
        let worst = pairs.map(|(ours, theirs)| (ours - theirs).abs()).fold(0.0, f32::max);
        assert_eq!(ours[0].logprob_policy.len(), theirs.log_probs.len());
        eprintln!("{name}: largest difference {worst:e}");
        assert!(worst < 5e-5, "{name}: largest difference {worst}");
    }
}
