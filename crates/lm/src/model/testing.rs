//! Small random models for tests of this crate's own modules.

use super::config::{Activation, Architecture, Config, Norms, QkNorm, Rope, RopeScaling};
use super::tensors::Put;
use super::weights::expected_tensors;
use candle_core::{Device, Tensor};
use mindgap_base::error::Result;
use mindgap_base::rng::Stream;
use std::collections::{BTreeMap, HashMap};

/// Qwen2, tied, grouped heads; every size different, so that a swapped pair shows.
pub fn tiny_config() -> Config {
    Config {
        architecture: Architecture::Qwen2,
        vocab_size: 61,
        hidden_size: 24,
        intermediate_size: 48,
        layer_count: 2,
        head_count: 4,
        kv_head_count: 2,
        head_dim: 8,
        max_positions: 96,
        rms_norm_eps: 1e-6,
        rope: Rope::plain(10_000.0),
        local_rope: None,
        rotary_share: 1.0,
        unrotated_layers: Vec::new(),
        windowed_layers: Vec::new(),
        window: 96,
        tie_word_embeddings: true,
        qkv_bias: true,
        output_bias: false,
        mlp_bias: false,
        qk_norm: QkNorm::None,
        norms: Norms::Before,
        norm_offset: false,
        activation: Activation::Silu,
        fused_projections: false,
        attention_scale: None,
        attention_softcap: None,
        logit_softcap: None,
        embedding_scale: 1.0,
        residual_scale: 1.0,
        logit_scale: 1.0,
        bos_token_id: None,
        eos_token_ids: vec![2],
        initializer_range: 0.02,
    }
}

/// One config per family, with every optional part switched on somewhere.
pub fn every_shape() -> Vec<Config> {
    let qwen2 = tiny_config();
    let qwen3 = Config {
        architecture: Architecture::Qwen3,
        qk_norm: QkNorm::Heads,
        qkv_bias: false,
        head_dim: 10,
        tie_word_embeddings: false,
        ..tiny_config()
    };
    let mut llama = Config {
        architecture: Architecture::Llama,
        output_bias: true,
        mlp_bias: true,
        kv_head_count: 4,
        ..tiny_config()
    };
    llama.rope.scaling = RopeScaling::Linear { factor: 2.0 };
    vec![qwen2, qwen3, llama, gemma2(), gemma3(), phi3(), olmo3(), granite()]
}

fn bare() -> Config {
    Config { qkv_bias: false, ..tiny_config() }
}

fn gemma2() -> Config {
    Config {
        architecture: Architecture::Gemma2,
        windowed_layers: vec![0],
        window: 7,
        norms: Norms::Both,
        norm_offset: true,
        activation: Activation::GeluTanh,
        attention_scale: Some(0.3),
        attention_softcap: Some(3.0),
        logit_softcap: Some(4.0),
        embedding_scale: 24f32.sqrt(),
        ..bare()
    }
}

fn gemma3() -> Config {
    Config {
        architecture: Architecture::Gemma3,
        qk_norm: QkNorm::Heads,
        rope: Rope::plain(1e6),
        local_rope: Some(Rope::plain(100.0)),
        windowed_layers: vec![1],
        window: 33,
        attention_softcap: None,
        logit_softcap: None,
        ..gemma2()
    }
}

/// Long texts begin in the middle of the tests' lengths.
fn phi3() -> Config {
    let (short, long) = (vec![1.0, 1.1, 1.3], vec![1.5, 2.0, 4.0]);
    let scaling = RopeScaling::LongRope { short, long, original_max_positions: 36, attention_factor: 1.2 };
    Config {
        architecture: Architecture::Phi3,
        fused_projections: true,
        rotary_share: 0.75,
        rope: Rope { theta: 10_000.0, scaling },
        tie_word_embeddings: false,
        ..bare()
    }
}

fn olmo3() -> Config {
    let scaling = RopeScaling::Yarn {
        factor: 4.0,
        original_max_positions: 24,
        beta_fast: 4.0,
        beta_slow: 1.0,
        truncate: true,
        attention_factor: 1.1,
    };
    Config {
        architecture: Architecture::Olmo3,
        qk_norm: QkNorm::Whole,
        norms: Norms::After,
        rope: Rope { theta: 10_000.0, scaling },
        local_rope: Some(Rope::plain(10_000.0)),
        windowed_layers: vec![0],
        window: 16,
        ..bare()
    }
}

fn granite() -> Config {
    Config {
        architecture: Architecture::Granite,
        unrotated_layers: vec![1],
        attention_scale: Some(0.2),
        embedding_scale: 3.0,
        residual_scale: 0.3,
        logit_scale: 0.125,
        ..bare()
    }
}

/// Random tensors for a config. Norm weights lie around 1, the rest are large enough to give peaked distributions.
pub fn tiny_tensors(config: &Config, seed: u64) -> HashMap<String, Tensor> {
    let tensor = |name: &str, shape: &[usize]| {
        let mut cursor = Stream::at(seed, &[name.as_bytes()]).cursor();
        let norm_mean = if config.norm_offset { 0.0 } else { 1.0 };
        let (mean, scale) = if name.ends_with("norm.weight") { (norm_mean, 0.1) } else { (0.0, 0.2) };
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| (mean + scale * cursor.normal()) as f32).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).expect("as many values as the shape holds")
    };
    expected_tensors(config).into_iter().map(|spec| (spec.name.clone(), tensor(&spec.name, &spec.shape))).collect()
}

/// `model.safetensors` of these weights.
pub fn policy_bytes(weights: &BTreeMap<String, Tensor>) -> Vec<u8> {
    gathered(|put| super::weights::write(weights, put))
}

/// A file of these tensors.
pub fn file_bytes(tensors: &BTreeMap<String, Tensor>) -> Vec<u8> {
    gathered(|put| super::tensors::write(tensors, None, put))
}

fn gathered(write: impl FnOnce(&mut Put) -> Result<()>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut put = |more: &[u8]| {
        bytes.extend_from_slice(more);
        Ok(())
    };
    write(&mut put).expect("plain tensors");
    bytes
}

/// tokenizer.json of a byte-level BPE without merges: one token per byte, after `<pad>`, `<|user|>`, `<|end|>`,
/// `<|assistant|>` (ids 0 to 3).
pub fn byte_tokenizer() -> Vec<u8> {
    byte_tokenizer_with(&[])
}

const SPECIALS: [&str; 4] = ["<pad>", "<|user|>", "<|end|>", "<|assistant|>"];

/// `added_tokens` of special tokens with the ids 0, 1, ...
fn added_tokens(specials: &[&str]) -> Vec<serde_json::Value> {
    let added = |(id, token): (usize, &&str)| {
        serde_json::json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    specials.iter().enumerate().map(added).collect()
}

/// The same with more special tokens, behind the four.
pub fn byte_tokenizer_with(more: &[&str]) -> Vec<u8> {
    let specials = [&SPECIALS[..], more].concat();
    let mut vocab = serde_json::Map::new();
    for token in &specials {
        vocab.insert((*token).into(), vocab.len().into());
    }
    // The printable stand-ins of byte-level BPE: bytes that print stay themselves, the others follow from U+0100.
    let mut next = 0x100;
    for byte in 0..=255u32 {
        let printable = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let symbol = char::from_u32(if printable { byte } else { next }).expect("below the surrogates");
        next += u32::from(!printable);
        vocab.insert(symbol.into(), vocab.len().into());
    }
    let added = added_tokens(&specials);
    let byte_level =
        serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []}
    });
    tokenizer.to_string().into_bytes()
}

/// tokenizer.json as SentencePiece's are: words carry the space in front of them, and what is encoded gets one (by `scheme`:
/// `always`, `first`, `never`). The special tokens are those of [`byte_tokenizer`], but for `<unk>`.
pub fn space_tokenizer(scheme: &str) -> Vec<u8> {
    let specials = ["<unk>", SPECIALS[1], SPECIALS[2], SPECIALS[3]];
    let words = "▁ ▁We We ▁say say \n W e s a y : ? < > | n d u r i t";
    let scores = specials.iter().map(|token| (*token, 0)).chain(words.split(' ').zip(1..).map(|(word, n)| (word, -n)));
    let vocab: Vec<_> = scores.map(|(token, score)| serde_json::json!([token, f64::from(score)])).collect();
    let spaces = serde_json::json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true});
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added_tokens(&specials), "normalizer": null,
        "pre_tokenizer": spaces, "post_processor": null, "decoder": spaces,
        "model": {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": false}
    });
    tokenizer.to_string().into_bytes()
}

/// A whole random policy: [`tiny_config`] with a vocabulary padded beyond the byte tokenizer's 260.
pub fn tiny_policy_files(seed: u64) -> super::policy::PolicyFiles {
    let config = Config { vocab_size: 264, ..tiny_config() };
    let json = serde_json::json!({
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 264, "hidden_size": 24,
        "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 96, "tie_word_embeddings": true, "eos_token_id": 2, "head_dim": 8,
    });
    let template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}\
                    {% if add_generation_prompt %}<|assistant|>{% endif %}";
    let tokenizer_config = serde_json::json!({"eos_token": {"content": "<|end|>"}, "chat_template": template});
    let mut files = super::policy::PolicyFiles::default();
    files.insert("config.json", json.to_string());
    files.insert("generation_config.json", br#"{"eos_token_id": [2, 0]}"#);
    files.insert("tokenizer.json", byte_tokenizer());
    files.insert("tokenizer_config.json", tokenizer_config.to_string());
    let tensors = tiny_tensors(&config, seed).into_iter().collect();
    files.insert("model.safetensors", policy_bytes(&tensors));
    files
}
