use super::*;
use serde_json::json;

fn qwen() -> Value {
    json!({
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2, "intermediate_size": 4864, "vocab_size": 151936,
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "hidden_act": "silu",
        "tie_word_embeddings": true, "use_sliding_window": false, "sliding_window": 32768, "max_window_layers": 21,
        "bos_token_id": 151643, "eos_token_id": 151645
    })
}

fn read(value: &Value) -> Result<Config> {
    Config::from_json(value.to_string().as_bytes())
}

#[test]
fn qwen2_as_published() {
    let config = read(&qwen()).unwrap();
    assert_eq!((config.architecture, config.head_dim, config.kv_head_count), (Architecture::Qwen2, 64, 2));
    assert!(config.qkv_bias && !config.output_bias && config.qk_norm == QkNorm::None && config.tie_word_embeddings);
    assert_eq!(config.eos_token_ids, [151645]);
    // The number on the model card: 0.49 B.
    assert_eq!(config.parameter_count(), 494_032_768);
}

#[test]
fn newer_rope_spelling() {
    let mut value = qwen();
    value.as_object_mut().unwrap().remove("rope_theta");
    value["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 5e5});
    assert_eq!(read(&value).unwrap().rope, Rope::plain(5e5));
}

#[test]
fn llama3_frequencies() {
    let scaling =
        RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_positions: 8192 };
    let plain = Rope::plain(5e5).inverse_frequencies(128, false);
    let scaled = Rope { theta: 5e5, scaling }.inverse_frequencies(128, false);
    assert_eq!(plain[0], scaled[0]);
    assert_eq!(plain[63] / 8.0, scaled[63]);
    assert!(plain.iter().zip(&scaled).any(|(p, s)| *s < *p && *s > *p / 8.0));
}

#[test]
fn refusals_name_the_reason() {
    let with = |key: &str, v: Value| {
        let mut value = qwen();
        value[key] = v;
        read(&value).unwrap_err().to_string()
    };
    assert!(with("architectures", json!(["GPT2LMHeadModel"])).contains("`GPT2LMHeadModel`"));
    assert!(with("hidden_act", json!("gelu")).contains("`gelu`"));
    assert!(with("quantization_config", json!({"quant_method": "gptq"})).contains("`gptq`"));
    assert!(with("rope_scaling", json!({"type": "ntk", "factor": 4.0})).contains("`ntk`"));
    assert!(with("rope_scaling", json!({"type": "linear", "factor": -1.0})).contains("`factor` -1"));
    assert!(with("model_type", json!("qwen3")).contains("`qwen3`"));
    assert!(with("layer_types", json!(vec!["chunked_attention"; 24])).contains("`chunked_attention`"));
    assert!(with("layer_types", json!(["full_attention"])).contains("1 layers of 24"));
    assert!(with("num_experts", json!(8)).contains("`num_experts`"));
    assert!(with("residual_multiplier", json!(0.5)).contains("`residual_multiplier`"));
    assert!(with("partial_rotary_factor", json!(0.5)).contains("`partial_rotary_factor`"));
    assert!(with("num_key_value_heads", json!(3)).contains("multiple"));
    assert!(with("hidden_size", json!("big")).contains("`hidden_size`"));
    assert!(with("vocab_size", json!(null)).contains("`vocab_size` is missing"));
    assert!(with("eos_token_id", json!("x")).contains("`eos_token_id`"));
    assert!(Config::from_json(b"{").unwrap_err().to_string().contains("config.json"));
}

/// A window as long as the longest sequence never cuts anything.
#[test]
fn idle_window_is_none() {
    let mut value = qwen();
    value["use_sliding_window"] = json!(true);
    assert!(read(&value).unwrap().windowed_layers.is_empty());
    value["sliding_window"] = json!(4096);
    let config = read(&value).unwrap();
    assert_eq!((&config.windowed_layers[..], config.window), (&[21, 22, 23][..], 4096));
    value["layer_types"] = json!(vec!["sliding_attention"; 24]);
    assert_eq!(read(&value).unwrap().windowed_layers.len(), 24);
    value["use_sliding_window"] = json!(false);
    assert!(read(&value).unwrap_err().what().contains("contradict"));
}

/// What a published file of a family says, and what follows from it.
#[test]
fn families_as_published() {
    let read = |text: &str| Config::from_json(text.as_bytes()).unwrap();
    let config = read(
        r#"{"model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
        "num_hidden_layers": 32, "num_key_value_heads": 8, "max_position_embeddings": 32768, "vocab_size": 32000,
        "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096, "hidden_act": "silu"}"#,
    );
    assert_eq!((config.window_of(31), config.rope_of(31), config.tie_word_embeddings), (Some(4096), Some(0), false));
    let config = read(
        r#"{"model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"], "hidden_size": 2304, "vocab_size": 256000,
        "intermediate_size": 9216, "num_attention_heads": 8, "num_hidden_layers": 26, "num_key_value_heads": 4,
        "head_dim": 256, "max_position_embeddings": 8192, "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256, "sliding_window": 4096,
        "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}"#,
    );
    assert_eq!((config.window_of(0), config.window_of(1)), (Some(4096), None));
    assert_eq!((config.attention_softcap, config.logit_softcap), (Some(50.0), Some(30.0)));
    assert_eq!(
        (config.attention_scale, config.embedding_scale, config.activation),
        (Some(0.0625), 48.0, Activation::GeluTanh)
    );
    // The number on the model card: 2.6 B.
    assert_eq!(config.parameter_count(), 2_614_341_888);
    let config = read(
        r#"{"model_type": "phi3", "hidden_size": 3072, "intermediate_size": 8192, "num_attention_heads": 24,
        "num_hidden_layers": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072, "vocab_size": 200064,
        "original_max_position_embeddings": 4096, "partial_rotary_factor": 0.25, "sliding_window": 262144,
        "tie_word_embeddings": true, "rope_scaling": {"type": "longrope", "short_factor": [1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],
        "long_factor": [2,2,2,2,2,2,2,2,2,2,2,2,2,2,2,2]}}"#,
    );
    assert_eq!((config.rotary_dim(), config.rope.border(), config.window_of(0)), (32, Some(4096), None));
    assert!((config.rope.attention_factor() - 1.190_238).abs() < 1e-5);
    assert_eq!((config.longest_after(4095), config.longest_after(4096)), (4096, 131072));
    let config = read(
        r#"{"model_type": "smollm3", "hidden_size": 2048, "intermediate_size": 11008, "num_attention_heads": 16,
        "num_hidden_layers": 36, "num_key_value_heads": 4, "max_position_embeddings": 65536, "vocab_size": 128256,
        "no_rope_layer_interval": 4, "rope_theta": 5000000.0, "use_sliding_window": false}"#,
    );
    assert_eq!((config.rope_of(2), config.rope_of(3), config.unrotated_layers.len()), (Some(0), None, 9));
    let config = read(
        r#"{"model_type": "gemma3_text", "hidden_size": 640, "intermediate_size": 2048, "num_attention_heads": 4,
        "num_hidden_layers": 18, "num_key_value_heads": 1, "head_dim": 256, "max_position_embeddings": 32768,
        "vocab_size": 262144, "sliding_window": 512, "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0}"#,
    );
    assert_eq!((config.rope_of(0), config.rope_of(5), config.window_of(5)), (Some(1), Some(0), None));
    assert_eq!(config.local_rope, Some(Rope::plain(1e4)));
    // The number on the model card: 270 M.
    assert_eq!(config.parameter_count(), 268_098_176);
}

/// Two places that say different things.
#[test]
fn contradictions_are_refused() {
    let with = |changes: Value| {
        let mut value = qwen();
        value.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        read(&value).unwrap_err().to_string()
    };
    assert!(with(json!({"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}})).contains("`rope_theta`"));
    let (linear, other) =
        (json!({"rope_type": "linear", "factor": 2.0}), json!({"rope_type": "linear", "factor": 3.0}));
    assert!(with(json!({"rope_scaling": linear, "rope_parameters": other})).contains("`factor`"));
    let nested = json!({"full_attention": {"rope_type": "default"}});
    assert!(with(json!({"rope_parameters": nested})).contains("by kind of layer"));
}
