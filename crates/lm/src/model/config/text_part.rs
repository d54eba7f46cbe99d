//! The text part of a checkpoint that also sees images: its config.json as that of a language model alone.

use super::fields::bad;
use mindgap_base::error::Result;
use serde_json::{Map, Value, json};

/// `model_type` of a whole and of its text part, and the class of the text part alone.
const WHOLE: &str = "gemma3";
const TEXT: &str = "gemma3_text";
const CLASS: &str = "Gemma3ForCausalLM";

/// What transformers fills in where a `text_config` says nothing (Gemma3TextConfig); the published files of Gemma 3 leave out all
/// but a handful.
const USUAL: [(&str, u64); 6] = [
    ("vocab_size", 262_208),
    ("hidden_size", 2304),
    ("intermediate_size", 9216),
    ("num_hidden_layers", 26),
    ("num_attention_heads", 8),
    ("max_position_embeddings", 131_072),
];

/// Keys that the whole says for its parts. Those of end tokens have precedence over the text part's own.
const SHARED: [&str; 5] =
    ["tie_word_embeddings", "dtype", "torch_dtype", "quantization_config", "transformers_version"];
const ENDS: [&str; 2] = ["bos_token_id", "eos_token_id"];

/// The config of the text part alone; none where the checkpoint has no other part. Errors: a whole without `text_config`, or
/// with that of another family.
pub fn text_part(config: &[u8]) -> Result<Option<Vec<u8>>> {
    let Ok(Value::Object(whole)) = serde_json::from_slice::<Value>(config) else { return Ok(None) };
    if whole.get("model_type").and_then(Value::as_str) != Some(WHOLE) {
        return Ok(None);
    }
    let text = whole.get("text_config").and_then(Value::as_object);
    let text =
        text.ok_or_else(|| bad(format!("`text_config` is missing; a `{WHOLE}` has its language model there")))?;
    match text.get("model_type").and_then(Value::as_str) {
        Some(found) if found != TEXT => {
            return Err(bad(format!("`model_type` of `text_config` is `{found}`; expected `{TEXT}`")));
        }
        _ => {}
    }
    let named = [("architectures", json!([CLASS])), ("model_type", json!(TEXT))];
    let usual = USUAL.map(|(key, value)| (key, json!(value)));
    let mut part: Map<String, Value> =
        named.into_iter().chain(usual).map(|(key, value)| (key.to_string(), value)).collect();
    let said = |from: &Map<String, Value>, keys: &[&str]| -> Vec<(String, Value)> {
        let found = keys.iter().filter_map(|key| Some((key.to_string(), from.get(*key)?.clone())));
        found.filter(|(_, value)| !value.is_null()).collect()
    };
    part.extend(said(&whole, &SHARED));
    part.extend(
        text.iter().filter(|(key, _)| *key != "architectures").map(|(key, value)| (key.clone(), value.clone())),
    );
    part.extend(said(&whole, &ENDS));
    Ok(Some(serde_json::to_vec_pretty(&Value::Object(part)).expect("a JSON value is plain data")))
}

/// The tensor of a language model alone that a tensor of the whole is: none where it belongs to another part. In front of the
/// text part's names stands `language_model.`, or `model.language_model.` with `model.` left out behind it.
pub fn text_tensor(name: &str) -> Option<String> {
    if let Some(rest) = name.strip_prefix("model.language_model.") {
        return Some(format!("model.{rest}"));
    }
    if let Some(rest) = name.strip_prefix("language_model.") {
        return Some(rest.to_string());
    }
    let other = ["vision_tower.", "multi_modal_projector."];
    let name =
        name.strip_prefix("model.").filter(|rest| other.iter().any(|part| rest.starts_with(part))).unwrap_or(name);
    (!other.iter().any(|part| name.starts_with(part))).then(|| name.to_string())
}

/// True for the tensors of a checkpoint that has a text part among others.
pub fn is_of_text_part(name: &str) -> bool {
    name.starts_with("language_model.") || name.starts_with("model.language_model.")
}

#[cfg(test)]
mod tests {
    use super::super::{Architecture, Config};
    use super::*;

    /// As google/gemma-3-4b-it publishes it.
    fn published() -> Value {
        json!({
            "architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": 255999, "eoi_token_index": 256000,
            "eos_token_id": [1, 106], "image_token_index": 262144, "initializer_range": 0.02, "mm_tokens_per_image": 256,
            "model_type": "gemma3", "torch_dtype": "bfloat16", "transformers_version": "4.50.0.dev0",
            "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
                "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024},
            "vision_config": {"hidden_size": 1152, "image_size": 896, "intermediate_size": 4304,
                "model_type": "siglip_vision_model", "num_attention_heads": 16, "num_hidden_layers": 27, "patch_size": 14,
                "vision_use_head": false}
        })
    }

    fn part(whole: &Value) -> Result<Option<Vec<u8>>> {
        text_part(whole.to_string().as_bytes())
    }

    #[test]
    fn gemma3_as_published() {
        let config = Config::from_json(published().to_string().as_bytes()).unwrap();
        assert_eq!((config.architecture, config.hidden_size, config.layer_count), (Architecture::Gemma3, 2560, 34));
        assert_eq!((config.head_count, config.kv_head_count, config.head_dim), (8, 4, 256));
        assert_eq!((config.vocab_size, config.max_positions, config.window), (262_208, 131_072, 1024));
        assert!(config.tie_word_embeddings && config.norm_offset);
        assert_eq!(config.eos_token_ids, [1, 106]);
        // The language model of the 4B: 3.88 B.
        assert_eq!(config.parameter_count(), 3_880_263_168);
        let alone = part(&published()).unwrap().unwrap();
        assert_eq!(Config::from_json(&alone).unwrap(), config);
        assert_eq!(text_part(&alone).unwrap(), None, "it has no other part");
        assert_eq!(serde_json::from_slice::<Value>(&alone).unwrap()["torch_dtype"], "bfloat16");
    }

    #[test]
    fn what_is_no_such_checkpoint() {
        let with = |key: &str, value: Value| {
            let mut whole = published();
            whole[key] = value;
            Config::from_json(whole.to_string().as_bytes()).unwrap_err().to_string()
        };
        assert!(with("text_config", Value::Null).contains("`text_config` is missing"));
        assert!(with("text_config", json!({"model_type": "llama"})).contains("`llama`; expected `gemma3_text`"));
        assert!(with("quantization_config", json!({"quant_method": "awq"})).contains("`awq`"));
        assert!(with("model_type", json!("gemma4")).contains("Gemma3ForConditionalGeneration"));
        assert_eq!(text_part(b"not JSON").unwrap(), None);
    }

    #[test]
    fn names_of_tensors() {
        for (whole, alone) in [
            ("language_model.model.layers.0.mlp.up_proj.weight", Some("model.layers.0.mlp.up_proj.weight")),
            ("model.language_model.layers.0.mlp.up_proj.weight", Some("model.layers.0.mlp.up_proj.weight")),
            ("language_model.lm_head.weight", Some("lm_head.weight")),
            ("lm_head.weight", Some("lm_head.weight")),
            ("model.norm.weight", Some("model.norm.weight")),
            ("vision_tower.vision_model.post_layernorm.weight", None),
            ("model.vision_tower.post_layernorm.weight", None),
            ("multi_modal_projector.mm_soft_emb_norm.weight", None),
            ("model.multi_modal_projector.mm_soft_emb_norm.weight", None),
            ("audio_tower.layers.0.weight", Some("audio_tower.layers.0.weight")),
        ] {
            assert_eq!(text_tensor(whole).as_deref(), alone, "{whole}");
        }
    }
}
