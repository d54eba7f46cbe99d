//! Log-probs of the tiny checkpoints under tests/fixtures by candle-transformers, an implementation of its own of these families:
//! writes `candle.json` beside each, which tests/it/oracle.rs compares with.
//!
//!     cargo run --manifest-path tests/peers/candle/Cargo.toml
//!
//! What candle-transformers 0.11.1 has not is changed in the config it is run with, and that config stands in the file: windows (a
//! token more than transformers' in a prompt, none one token after another), scaled rotary embeddings, Granite's multipliers and
//! biases, Gemma's `query_pre_attn_scalar`. OLMo 3 and windows of Qwen are left out.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{gemma2, gemma3, granite, llama, mistral, olmo2, phi3, qwen2, qwen3};
use candle_transformers::models::smol::smollm3;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Folder, and what its config says otherwise; null leaves a key out.
fn fixtures() -> Vec<(&'static str, Value)> {
    let gemma = json!({"query_pre_attn_scalar": 8, "sliding_window": 256, "layer_types": null});
    let gemma3 = |pattern: u32| {
        let own = json!({"rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window_pattern": pattern,
            "_sliding_window_pattern": null});
        merged(gemma.clone(), &own)
    };
    vec![
        ("model/qwen2", json!({"sliding_window": 512, "max_window_layers": 2})),
        ("model/qwen3", json!({"sliding_window": 512, "max_window_layers": 2})),
        ("model/llama3-sharded-bf16", json!({})),
        ("families/mistral", json!({"sliding_window": 256})),
        ("families/mistral-full", json!({"sliding_window": 256})),
        ("families/gemma2", gemma.clone()),
        ("families/gemma3", gemma3(3)),
        ("families/gemma3-vision", gemma3(2)),
        ("families/phi3", json!({"sliding_window": null})),
        ("families/phi4", json!({"rope_scaling": null, "partial_rotary_factor": 0.75})),
        ("families/smollm3", json!({"rope_scaling": null})),
        ("families/olmo2", json!({})),
        (
            "families/granite",
            json!({"attention_bias": false, "mlp_bias": false, "embedding_multiplier": 1.0, "residual_multiplier": 1.0,
                "logits_scaling": 1.0, "attention_multiplier": (1.0 / 6f64.sqrt())}),
        ),
    ]
}

fn merged(mut value: Value, over: &Value) -> Value {
    let fields = value.as_object_mut().expect("an object");
    for (key, value) in over.as_object().expect("an object") {
        match value.is_null() {
            true => drop(fields.shift_remove(key)),
            false => drop(fields.insert(key.clone(), value.clone())),
        }
    }
    value
}

/// The config in its older spelling, which candle reads, of the text part.
fn config(folder: &Path, over: &Value) -> Value {
    let read = std::fs::read(folder.join("config.json")).expect("config.json is there");
    let mut config: Value = serde_json::from_slice(&read).expect("JSON");
    if config["model_type"] == "gemma3" {
        config = merged(config["text_config"].take(), &json!({"architectures": ["Gemma3ForCausalLM"]}));
    }
    let rope = config.as_object_mut().expect("an object").shift_remove("rope_parameters").unwrap_or_default();
    let mut older = json!({});
    if let Some(theta) = rope.get("rope_theta") {
        older["rope_theta"] = theta.clone();
    }
    if rope["rope_type"] != "default" && rope.get("rope_type").is_some() {
        older["rope_scaling"] = rope;
    }
    merged(merged(config, &older), over)
}

/// All tensors in f32, by the names that they have in a language model alone.
fn tensors(folder: &Path) -> Result<HashMap<String, Tensor>> {
    let mut all = HashMap::new();
    for file in std::fs::read_dir(folder)?.map(|entry| entry.expect("readable").path()) {
        if file.extension().is_some_and(|extension| extension == "safetensors") {
            for (name, tensor) in candle_core::safetensors::load(&file, &Device::Cpu)? {
                let name = name.strip_prefix("language_model.").unwrap_or(&name).to_string();
                all.insert(name, tensor.to_dtype(DType::F32)?);
            }
        }
    }
    // Not all of candle's families know a tied head.
    if !all.contains_key("lm_head.weight") {
        all.insert("lm_head.weight".to_string(), all["model.embed_tokens.weight"].clone());
    }
    Ok(all)
}

type Forward = Box<dyn FnMut(&Tensor, usize) -> Result<Tensor>>;

fn model(config: &Value, vb: VarBuilder) -> Result<Forward> {
    macro_rules! read {
        ($kind:ty) => {
            serde_json::from_value::<$kind>(config.clone()).expect("a config that candle reads")
        };
    }
    macro_rules! stateful {
        ($model:expr) => {{
            let mut model = $model;
            Ok(Box::new(move |x, at| model.forward(x, at)))
        }};
    }
    match config["model_type"].as_str().expect("a text") {
        "qwen2" => stateful!(qwen2::ModelForCausalLM::new(&read!(qwen2::Config), vb)?),
        "qwen3" => stateful!(qwen3::ModelForCausalLM::new(&read!(qwen3::Config), vb)?),
        "mistral" => stateful!(mistral::Model::new(&read!(mistral::Config), vb)?),
        "gemma2" => stateful!(gemma2::Model::new(false, &read!(gemma2::Config), vb)?),
        "gemma3_text" => stateful!(gemma3::Model::new(false, &read!(gemma3::Config), vb)?),
        "phi3" => stateful!(phi3::Model::new(&read!(phi3::Config), vb)?),
        "smollm3" => stateful!(smollm3::ModelForCausalLM::new(&read!(smollm3::Config), vb)?),
        "olmo2" => stateful!(olmo2::Model::new(&read!(olmo2::Config), vb)?),
        "llama" => {
            let config = read!(llama::LlamaConfig).into_config(false);
            let model = llama::Llama::load(vb, &config)?;
            let mut cache = llama::Cache::new(true, DType::F32, &config, &Device::Cpu)?;
            Ok(Box::new(move |x, at| model.forward(x, at, &mut cache)))
        }
        "granite" => {
            let config = read!(granite::GraniteConfig).into_config(false);
            let model = granite::Granite::load(vb, &config)?;
            let mut cache = granite::Cache::new(true, DType::F32, &config, &Device::Cpu)?;
            Ok(Box::new(move |x, at| model.forward(x, at, &mut cache)))
        }
        other => panic!("no model of type {other}"),
    }
}

/// Log-prob of every token behind the first, one at a time through the model's cache.
fn log_probs(mut forward: Forward, ids: &[u32]) -> Result<Vec<f64>> {
    let mut found = Vec::new();
    for (at, next) in ids[1..].iter().enumerate() {
        let logits: Vec<f32> = forward(&Tensor::new(&[[ids[at]]], &Device::Cpu)?, at)?.flatten_all()?.to_vec1()?;
        let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
        let log_prob = f64::from(logits[*next as usize]) - sum.ln();
        found.push((log_prob * 1e6).round() / 1e6);
    }
    Ok(found)
}

fn main() -> Result<()> {
    let fixtures_folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    for (name, over) in fixtures() {
        let folder = fixtures_folder.join(name);
        let config = config(&folder, &over);
        let vocabulary = config["vocab_size"].as_u64().expect("a number") as u32;
        let ids: Vec<u32> = (0..160u32).map(|i| (i * i + 7 * i + 3) % vocabulary).collect();
        let vb = VarBuilder::from_tensors(tensors(&folder)?, DType::F32, &Device::Cpu);
        let log_probs = log_probs(model(&config, vb)?, &ids)?;
        let made = json!({"made_by": "candle-transformers 0.11.1, f32 CPU", "config": config, "ids": ids, "log_probs": log_probs});
        std::fs::write(folder.join("candle.json"), made.to_string() + "\n")?;
        println!("{name}");
    }
    Ok(())
}
