//! Policies: configs, tokenizers, weights, templates.

use super::Ends::{Saying, Somehow};
use super::{Case, Ends, run, strings, write};
use crate::support::root;
use serde_json::{Value, json};
use std::path::Path;

/// A policy of which one file is changed, sampled from.
fn changed(
    name: impl Into<String>,
    ends: Ends,
    file: &'static str,
    change: impl Fn(Vec<u8>) -> Vec<u8> + 'static,
) -> Case {
    Case::new(name, ends, move |folder| {
        let path = super::policy(folder).join(file);
        let bytes = std::fs::read(&path).unwrap_or_default();
        std::fs::write(path, change(bytes)).unwrap();
        generate(folder)
    })
}

fn generate(folder: &Path) -> Vec<String> {
    write(folder, "prompts.jsonl", "{\"id\":\"1\",\"prompt\":\"a b\"}\n");
    strings(["generate", "prompts.jsonl", "--policy", "policy", "--raw", "--max-new-tokens", "2"])
}

fn with(bytes: &[u8], key: &str, value: &Value) -> Vec<u8> {
    let mut config: Value = serde_json::from_slice(bytes).unwrap();
    config[key] = value.clone();
    serde_json::to_vec(&config).unwrap()
}

#[test]
fn configs() {
    let sizes = [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "vocab_size",
        "max_position_embeddings",
    ];
    let values = [
        json!(0),
        json!(-1),
        json!(1),
        json!(7),
        json!(10_000_000),
        json!(9_007_199_254_740_993_u64),
        json!(1e300),
        json!("8"),
        json!(null),
        json!([8]),
        json!({}),
    ];
    let mut cases = Vec::new();
    for key in sizes {
        for value in values.clone() {
            let named = format!("{key} = {value}");
            cases.push(changed(named, Somehow, "config.json", move |bytes| with(&bytes, key, &value)));
        }
    }
    for (key, value) in [
        ("rope_scaling", json!("linear")),
        ("rope_scaling", json!({"rope_type": "unknown"})),
        ("rope_theta", json!(-1)),
        ("rms_norm_eps", json!("nan")),
        ("model_type", json!("\u{1b}[31m")),
        ("architectures", json!([])),
        ("eos_token_id", json!(4_294_967_295_u64)),
        ("hidden_act", json!("sort")),
        ("sliding_window", json!(0)),
    ] {
        cases.push(changed(format!("{key} = {value}"), Somehow, "config.json", move |bytes| with(&bytes, key, &value)));
    }
    cases.push(changed("a config that is a list", Saying("config"), "config.json", |_| b"[]".to_vec()));
    cases.push(changed("a deep config", Saying("config"), "config.json", |_| {
        format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000)).into_bytes()
    }));
    run("configs", cases);
}

#[test]
fn tokenizers() {
    let whole = std::fs::read(root().join("tests/fixtures/model/qwen2/tokenizer.json")).unwrap();
    let mut cases = Vec::new();
    for number in 0..25 {
        let cut = whole.len() * number / 25;
        cases.push(changed(format!("cut at {cut}"), Saying("tokenizer"), "tokenizer.json", move |bytes| {
            bytes[..cut].to_vec()
        }));
        let at = (number * 104_729) % whole.len();
        cases.push(changed(format!("another byte at {at}"), Somehow, "tokenizer.json", move |mut bytes| {
            bytes[at] = bytes[at].wrapping_add(1);
            bytes
        }));
    }
    for (key, value) in [
        ("normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"})),
        ("normalizer", json!({"type": "Precompiled", "precompiled_charsmap": ""})),
        ("normalizer", json!({"type": "Replace", "pattern": {"String": ""}, "content": "x"})),
        ("normalizer", json!({"type": "Replace", "pattern": {"Regex": "(a*)*b"}, "content": "x"})),
        ("normalizer", json!({"type": "Nothing"})),
        ("pre_tokenizer", json!({"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": false})),
        ("pre_tokenizer", json!({"type": "FixedLength", "length": 0})),
        ("decoder", json!({"type": "Sequence", "decoders": []})),
        (
            "post_processor",
            json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 0}}], "pair": [], "special_tokens": {}}),
        ),
        ("model", json!({"type": "BPE", "vocab": {}, "merges": []})),
        ("model", json!({"type": "BPE", "vocab": {"a": 4_294_967_295_u64}, "merges": ["a b"]})),
        ("model", json!({"type": "Unigram", "unk_id": 9, "vocab": [["a", 0.0]]})),
        ("truncation", json!({"max_length": 0, "strategy": "LongestFirst", "stride": 0, "direction": "Right"})),
        (
            "added_tokens",
            json!([{"id": 4_294_967_295_u64, "content": "", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}]),
        ),
    ] {
        cases.push(changed(format!("{key} = {value}"), Somehow, "tokenizer.json", move |bytes| {
            with(&bytes, key, &value)
        }));
    }
    for text in ["", "{}", "[]", "null", "\u{0}", "{\"chat_template\": 3}", "{\"chat_template\": [1]}"] {
        cases.push(changed(format!("a tokenizer config {text:?}"), Somehow, "tokenizer_config.json", move |_| {
            text.as_bytes().to_vec()
        }));
    }
    run("tokenizers", cases);
}

#[test]
fn weights() {
    let header = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let mut cases = Vec::new();
    for (name, bytes) in [
        ("nothing", Vec::new()),
        ("seven bytes", vec![0; 7]),
        ("a header without end", u64::MAX.to_le_bytes().to_vec()),
        ("a header of zeros", vec![0; 64]),
        ("no JSON", header("hello")),
        (
            "a tensor outside of the file",
            header(r#"{"a":{"dtype":"F32","shape":[1000000],"data_offsets":[0,4000000]}}"#),
        ),
        ("a tensor backwards", header(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#)),
        (
            "a shape that overflows",
            header(r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#),
        ),
        ("an unknown type", header(r#"{"a":{"dtype":"Q9","shape":[0],"data_offsets":[0,0]}}"#)),
        ("a deep header", header(&format!("{{\"a\":{}1{}}}", "[".repeat(50_000), "]".repeat(50_000)))),
    ] {
        cases.push(changed(name, Saying("error"), "model.safetensors", move |_| bytes.clone()));
    }
    for number in 0..20 {
        cases.push(changed(format!("cut, {number} of 20"), Saying("error"), "model.safetensors", move |bytes| {
            bytes[..bytes.len() * number / 20].to_vec()
        }));
        cases.push(changed(
            format!("another byte in the header, {number}"),
            Somehow,
            "model.safetensors",
            move |mut bytes| {
                bytes[8 + number * 17] ^= 1 << (number % 8);
                bytes
            },
        ));
    }
    for file in ["../model.safetensors", "/etc/passwd", "a/b.safetensors", ".hidden", "\u{1b}[31m"] {
        cases.push(Case::new(format!("an index that names {file:?}"), Saying("error"), move |folder| {
            let policy = super::policy(folder);
            std::fs::remove_file(policy.join("model.safetensors")).unwrap();
            let index = json!({"weight_map": {"model.norm.weight": file}}).to_string();
            std::fs::write(policy.join("model.safetensors.index.json"), index).unwrap();
            generate(folder)
        }));
    }
    run("weights", cases);
}
