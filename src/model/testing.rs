//! Small random models for tests of this crate's own modules.

use super::config::{Architecture, Config, Rope, RopeScaling};
use super::weights::expected_tensors;
use crate::base::rng::Stream;
use candle_core::{Device, Tensor};
use std::collections::HashMap;

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
        rope: Rope { theta: 10_000.0, scaling: RopeScaling::None },
        tie_word_embeddings: true,
        qkv_bias: true,
        output_bias: false,
        mlp_bias: false,
        qk_norm: false,
        bos_token_id: None,
        eos_token_ids: vec![2],
        initializer_range: 0.02,
    }
}

/// Random tensors for a config. Norm weights lie around 1, the rest are large enough to give peaked distributions.
pub fn tiny_tensors(config: &Config, seed: u64) -> HashMap<String, Tensor> {
    let tensor = |name: &str, shape: &[usize]| {
        let mut cursor = Stream::at(seed, &[name.as_bytes()]).cursor();
        let (mean, scale) = if name.ends_with("norm.weight") { (1.0, 0.1) } else { (0.0, 0.2) };
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| (mean + scale * cursor.normal()) as f32).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).expect("as many values as the shape holds")
    };
    expected_tensors(config).into_iter().map(|spec| (spec.name.clone(), tensor(&spec.name, &spec.shape))).collect()
}
