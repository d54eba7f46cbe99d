//! The transformer against candle-transformers, an independent implementation on the same tensor library: with
//! `cargo test --release --features oracle --test it oracle`.

use super::engine::{folder, load};
use candle_core::{DType, Device, Tensor};
use candle_transformers::models::mimi::candle_nn::VarBuilder;
use candle_transformers::models::{llama, qwen2, qwen3};
use mindgap_lm::model::config::Architecture;
use mindgap_lm::model::ops::{Segments, token_logprobs};

/// Log-probs of every next token by candle-transformers, one token at a time through its cache.
fn theirs(architecture: Architecture, config: serde_json::Value, vb: VarBuilder, ids: &[u32]) -> Vec<Vec<f32>> {
    let mut forward: Box<dyn FnMut(&Tensor, usize) -> Tensor> = match architecture {
        Architecture::Qwen2 => {
            let config: qwen2::Config = serde_json::from_value(config).unwrap();
            let mut model = qwen2::ModelForCausalLM::new(&config, vb).unwrap();
            Box::new(move |x, at| model.forward(x, at).unwrap())
        }
        Architecture::Qwen3 => {
            let config: qwen3::Config = serde_json::from_value(config).unwrap();
            let mut model = qwen3::ModelForCausalLM::new(&config, vb).unwrap();
            Box::new(move |x, at| model.forward(x, at).unwrap())
        }
        _ => {
            let config: llama::LlamaConfig = serde_json::from_value(config).unwrap();
            let config = config.into_config(false);
            let model = llama::Llama::load(vb, &config).unwrap();
            let mut cache = llama::Cache::new(true, DType::F32, &config, &Device::Cpu).unwrap();
            Box::new(move |x, at| model.forward(x, at, &mut cache).unwrap())
        }
    };
    let row = |(at, id): (usize, &u32)| {
        let logits = forward(&Tensor::new(&[[*id]], &Device::Cpu).unwrap(), at);
        let logits: Vec<f32> = logits.flatten_all().unwrap().to_vec1().unwrap();
        let sum: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
        logits.iter().map(|l| (f64::from(*l) - sum.ln()) as f32).collect()
    };
    ids.iter().enumerate().map(row).collect()
}

#[test]
fn log_probs_agree_with_candle_transformers() {
    for name in ["qwen2", "qwen3", "llama3-sharded-bf16"] {
        let (policy, _) = load(name);
        let config = policy.config();
        let bytes = policy.files().get("config.json").unwrap();
        let mut json: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        // The older spelling.
        let mut rope = json["rope_parameters"].take();
        json["rope_theta"] = rope["rope_theta"].take();
        json["rope_scaling"] = if rope["rope_type"] == "default" { serde_json::Value::Null } else { rope };
        json["sliding_window"] = 512.into();
        json["max_window_layers"] = config.layer_count.into();
        let tensors = policy.checkpoint().unwrap().tensors(config, DType::F32, &Device::Cpu).unwrap();
        let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        let ids: Vec<u32> = (0..160u32).map(|i| (i * i + 7 * i + 3) % 380).collect();
        let theirs = theirs(config.architecture, json, vb, &ids);

        let model = policy.transformer(DType::F32, &Device::Cpu).unwrap();
        let hidden = model.hidden(&ids, &Segments::new(&[ids.len()])).unwrap();
        let mut worst = 0.0f32;
        for target in [0u32, 17, 255, 383] {
            let (ours, _) = token_logprobs(&hidden, model.head(), &vec![target; ids.len()]).unwrap();
            for (ours, theirs) in ours.to_vec1::<f32>().unwrap().iter().zip(&theirs) {
                worst = worst.max((ours - theirs[target as usize]).abs());
            }
        }
        assert!(worst < 1e-3, "{}: largest difference {worst}", folder(name).display());
    }
}
