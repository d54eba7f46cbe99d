//! Metadata and tensors as small files written here; whole models are compared in `tests/it/gguf.rs`.

use super::*;
use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use candle_core::{DType, Device, Tensor};

fn ramp(shape: &[usize]) -> Tensor {
    let count = shape.iter().product::<usize>();
    Tensor::from_vec((0..count).map(|i| i as f32).collect::<Vec<_>>(), shape, &Device::Cpu).unwrap()
}

/// A Llama of one layer: 2 heads of 4, one key head, vocabulary 3.
fn llama(change: impl FnOnce(&mut BTreeMap<String, Value>, &mut BTreeMap<String, Tensor>)) -> Vec<u8> {
    let number = |value: u32| Value::U32(value);
    let mut metadata: BTreeMap<String, Value> = [
        ("general.architecture", Value::String("llama".into())),
        ("llama.block_count", number(1)),
        ("llama.embedding_length", number(8)),
        ("llama.feed_forward_length", number(16)),
        ("llama.attention.head_count", number(2)),
        ("llama.attention.head_count_kv", number(1)),
        ("llama.context_length", number(64)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.freq_base", Value::F32(5e5)),
        ("general.file_type", number(15)),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_string(), value))
    .collect();
    let mut tensors: BTreeMap<String, Tensor> = [
        ("token_embd.weight", &[3, 8][..]),
        ("output_norm.weight", &[8]),
        ("blk.0.attn_norm.weight", &[8]),
        ("blk.0.attn_q.weight", &[8, 8]),
        ("blk.0.attn_k.weight", &[4, 8]),
        ("blk.0.attn_v.weight", &[4, 8]),
        ("blk.0.attn_output.weight", &[8, 8]),
        ("blk.0.ffn_norm.weight", &[8]),
        ("blk.0.ffn_gate.weight", &[16, 8]),
        ("blk.0.ffn_up.weight", &[16, 8]),
        ("blk.0.ffn_down.weight", &[8, 16]),
    ]
    .into_iter()
    .map(|(name, shape)| (name.to_string(), ramp(shape)))
    .collect();
    change(&mut metadata, &mut tensors);
    let tensors: Vec<(String, QTensor)> =
        tensors.into_iter().map(|(name, t)| (name, QTensor::quantize(&t, GgmlDType::F32).unwrap())).collect();
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut bytes = Cursor::new(Vec::new());
    gguf_file::write(&mut bytes, &metadata, &tensors).unwrap();
    bytes.into_inner()
}

fn config_of(bytes: &Vec<u8>) -> Result<Config> {
    let gguf = Gguf::read(bytes)?;
    let files = gguf.files(bytes, false)?;
    let config = Config::from_json(&files["config.json"])?;
    gguf.check(&config)?;
    Ok(config)
}

fn refusal(change: impl FnOnce(&mut BTreeMap<String, Value>, &mut BTreeMap<String, Tensor>)) -> String {
    config_of(&llama(change)).unwrap_err().to_string()
}

#[test]
fn a_header_becomes_a_config() {
    let bytes = llama(|_, _| ());
    let config = config_of(&bytes).unwrap();
    assert_eq!((config.head_dim, config.kv_head_count, config.vocab_size, config.tie_word_embeddings), (4, 1, 3, true));
    assert_eq!((config.rms_norm_eps, config.rope.theta), (1e-5, 5e5));
    assert_eq!(Gguf::read(&bytes).unwrap().quantisation(), "Q4_K_M (11 F32)");
    // Rows of a head: pairs become halves.
    let gguf = Gguf::read(&bytes).unwrap();
    let name = "model.layers.0.self_attn.q_proj.weight";
    let rows = gguf.tensor(&bytes, &config, name, DType::F32, &Device::Cpu).unwrap().to_vec2::<f32>().unwrap();
    let firsts: Vec<f32> = rows.iter().map(|row| row[0] / 8.0).collect();
    assert_eq!(firsts, [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
}

/// Llama 3.1's scaling is a tensor of divisors.
#[test]
fn divisors_of_frequencies() {
    let divisors = Tensor::new(&[1.0f32, 8.0], &Device::Cpu).unwrap();
    let bytes = llama(|_, tensors| drop(tensors.insert("rope_freqs.weight".into(), divisors)));
    let config = config_of(&bytes).unwrap();
    let (scaled, plain) = (
        config.rope.inverse_frequencies(4, false),
        crate::model::config::Rope::plain(5e5).inverse_frequencies(4, false),
    );
    assert_eq!((scaled[0], scaled[1]), (plain[0], plain[1] / 8.0));
    assert_eq!((config.rope.attention_factor(), config.is_long(64)), (1.0, false));
}

#[test]
fn refusals_name_the_reason() {
    let text = |value: &str| Value::String(value.into());
    assert!(refusal(|m, _| drop(m.insert("general.architecture".into(), text("mamba")))).contains("`mamba`"));
    assert!(
        refusal(|m, _| drop(m.insert("llama.expert_count".into(), Value::U32(8)))).contains("`llama.expert_count`")
    );
    assert!(refusal(|m, _| drop(m.remove("llama.block_count"))).contains("`llama.block_count`"));
    assert!(refusal(|m, _| drop(m.insert("llama.rope.scaling.type".into(), text("su")))).contains("`su`"));
    assert!(refusal(|m, _| drop(m.insert("llama.rope.dimension_count".into(), Value::U32(2)))).contains("2 of 4"));
    let list = Value::Array(vec![Value::U32(2)]);
    assert!(refusal(|m, _| drop(m.insert("llama.attention.head_count".into(), list))).contains("head_count"));
    assert!(refusal(|_, t| drop(t.remove("blk.0.ffn_up.weight"))).contains("`blk.0.ffn_up.weight` is missing"));
    assert!(refusal(|_, t| drop(t.insert("blk.0.ffn_up.weight".into(), ramp(&[8, 8])))).contains("[8, 8]"));
    assert!(refusal(|_, t| drop(t.insert("blk.0.ffn_gate_inp.weight".into(), ramp(&[8])))).contains("ffn_gate_inp"));
    let whole = llama(|_, _| ());
    assert!(Gguf::read(&whole[..40].to_vec()).is_err());
    assert!(Gguf::read(&b"what is this?".to_vec()).is_err());
    let cut = whole[..whole.len() - 700].to_vec();
    let gguf = Gguf::read(&cut).unwrap();
    let config = Config::from_json(&gguf.files(&cut, false).unwrap()["config.json"]).unwrap();
    let loaded = crate::model::weights::expected_tensors(&config)
        .iter()
        .map(|spec| gguf.tensor(&cut, &config, &spec.name, DType::F32, &Device::Cpu))
        .collect::<Result<Vec<_>>>();
    assert!(loaded.unwrap_err().to_string().contains("cannot be read"));
}

#[test]
fn tokenizers_of_other_kinds_are_refused() {
    let strings = |list: &[&str]| Value::Array(list.iter().map(|t| Value::String(t.to_string())).collect());
    let file = |model: &str, pre: &str| {
        llama(|metadata, _| {
            metadata.insert("tokenizer.ggml.model".into(), Value::String(model.into()));
            metadata.insert("tokenizer.ggml.pre".into(), Value::String(pre.into()));
            metadata.insert("tokenizer.ggml.tokens".into(), strings(&["a", "b", "ab"]));
            metadata.insert("tokenizer.ggml.token_type".into(), Value::Array(vec![Value::I32(1); 3]));
            metadata.insert("tokenizer.ggml.merges".into(), strings(&["a b"]));
        })
    };
    let read = |bytes: &Vec<u8>| Gguf::read(bytes).and_then(|gguf| gguf.files(bytes, true));
    for (model, pre, named) in [("t5", "default", "`t5`"), ("gpt2", "viking", "`viking`")] {
        let bytes = file(model, pre);
        let error = read(&bytes).unwrap_err();
        assert!(error.what().contains(named) && error.remedy().unwrap().contains("tokenizer = \"folder\""));
    }
    assert!(read(&file("gpt2", "smollm")).unwrap().contains_key("tokenizer.json"));
}
