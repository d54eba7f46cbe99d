//! Random initial weights, keyed by (seed, tensor name): adding a layer changes no other tensor.

use crate::model::config::Config;
use crate::model::tensor_error;
use crate::model::weights::expected_tensors;
use candle_core::{Device, Tensor};
use mindgap_base::error::Result;
use mindgap_base::rng::Stream;
use std::collections::HashMap;

/// Standard deviation of embeddings and of an untied head.
const EMBEDDING_STD: f64 = 0.02;
/// Linear layers have `0.6 / sqrt(inputs)`; those that write into the residual stream also `/ sqrt(2 * layers)`.
const LINEAR_GAIN: f64 = 0.6;

/// All tensors of a model, f32 on the CPU, by Hugging Face name. Norms multiply by 1, biases are 0, the rest normal.
pub fn random(config: &Config, seed: u64) -> Result<HashMap<String, Tensor>> {
    let specs = expected_tensors(config).into_iter();
    specs.map(|spec| Ok((spec.name.clone(), tensor(config, seed, &spec.name, &spec.shape)?))).collect()
}

fn tensor(config: &Config, seed: u64, name: &str, shape: &[usize]) -> Result<Tensor> {
    let count = shape.iter().product();
    let values: Vec<f32> = if name.ends_with("norm.weight") {
        vec![if config.norm_offset { 0.0 } else { 1.0 }; count]
    } else if name.ends_with(".bias") {
        vec![0.0; count]
    } else {
        let std = std_dev(config, name, shape);
        let mut cursor = Stream::at(seed, &[b"initial weights", name.as_bytes()]).cursor();
        (0..count).map(|_| (cursor.normal() * std) as f32).collect()
    };
    Tensor::from_vec(values, shape, &Device::Cpu).map_err(tensor_error)
}

fn std_dev(config: &Config, name: &str, shape: &[usize]) -> f64 {
    if name.contains("embed_tokens") || name.starts_with("lm_head") {
        return EMBEDDING_STD;
    }
    let inputs = shape.last().copied().unwrap_or(1) as f64;
    let residual = name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight");
    let depth = if residual { (2.0 * config.layer_count as f64).sqrt() } else { 1.0 };
    LINEAR_GAIN / inputs.sqrt() / depth
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::tiny_config;

    fn values(tensors: &HashMap<String, Tensor>, name: &str) -> Vec<f32> {
        tensors[name].flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn scales_by_name() {
        let config = tiny_config();
        let tensors = random(&config, 3).unwrap();
        let std = |name: &str| {
            let values = values(&tensors, name);
            (values.iter().map(|x| f64::from(x * x)).sum::<f64>() / values.len() as f64).sqrt()
        };
        let near = |got: f64, want: f64| assert!((got / want - 1.0).abs() < 0.1, "{got} instead of {want}");
        near(std("model.embed_tokens.weight"), 0.02);
        near(std("model.layers.1.mlp.up_proj.weight"), 0.6 / 24f64.sqrt());
        near(std("model.layers.1.mlp.down_proj.weight"), 0.6 / 48f64.sqrt() / 2.0);
        assert!(values(&tensors, "model.norm.weight").iter().all(|x| *x == 1.0));
        assert!(values(&tensors, "model.layers.0.self_attn.q_proj.bias").iter().all(|x| *x == 0.0));
    }

    #[test]
    fn keyed_by_seed_and_name() {
        let config = tiny_config();
        let name = "model.layers.0.self_attn.q_proj.weight";
        let deeper = Config { layer_count: 3, ..config.clone() };
        assert_eq!(values(&random(&config, 3).unwrap(), name), values(&random(&deeper, 3).unwrap(), name));
        assert_ne!(values(&random(&config, 3).unwrap(), name), values(&random(&config, 4).unwrap(), name));
    }
}
