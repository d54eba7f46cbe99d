use super::*;

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
    assert!(config.qkv_bias && !config.output_bias && !config.qk_norm && config.tie_word_embeddings);
    assert_eq!(config.eos_token_ids, [151645]);
    // The number on the model card: 0.49 B.
    assert_eq!(config.parameter_count(), 494_032_768);
}

#[test]
fn json_round_trip() {
    for (model_type, class) in
        [("qwen2", "Qwen2ForCausalLM"), ("qwen3", "Qwen3ForCausalLM"), ("llama", "LlamaForCausalLM")]
    {
        let mut value = qwen();
        value["model_type"] = json!(model_type);
        value["architectures"] = json!([class]);
        value["rope_scaling"] = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192});
        value["eos_token_id"] = json!([1, 2]);
        value["attention_bias"] = json!(true);
        let config = read(&value).unwrap();
        assert_eq!(Config::from_json(config.to_json("float32").as_bytes()).unwrap(), config);
    }
}

#[test]
fn newer_rope_spelling() {
    let mut value = qwen();
    value.as_object_mut().unwrap().remove("rope_theta");
    value["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 5e5});
    assert_eq!(read(&value).unwrap().rope, Rope { theta: 5e5, scaling: RopeScaling::None });
}

#[test]
fn llama3_frequencies() {
    let scaling =
        RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_positions: 8192 };
    let plain = Rope { theta: 5e5, scaling: RopeScaling::None }.inverse_frequencies(128);
    let scaled = Rope { theta: 5e5, scaling }.inverse_frequencies(128);
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
    assert!(with("rope_scaling", json!({"type": "yarn", "factor": 4.0})).contains("`yarn`"));
    assert!(with("num_key_value_heads", json!(3)).contains("multiple"));
    assert!(with("hidden_size", json!("big")).contains("`hidden_size`"));
    assert!(with("vocab_size", json!(null)).contains("`vocab_size` is missing"));
    assert!(with("eos_token_id", json!("x")).contains("`eos_token_id`"));
    let mut windowed = qwen();
    windowed["use_sliding_window"] = json!(true);
    windowed["sliding_window"] = json!(4096);
    assert!(read(&windowed).unwrap_err().what().contains("window 4096"));
    assert!(Config::from_json(b"{").unwrap_err().to_string().contains("config.json"));
}

/// A window as long as the longest sequence never cuts anything.
#[test]
fn idle_window_is_fine() {
    let mut value = qwen();
    value["use_sliding_window"] = json!(true);
    assert!(read(&value).is_ok());
}
