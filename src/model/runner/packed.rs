//! Weights of a block in the kernels' layout.

use super::{Rows, tensor_error};
use crate::base::error::Result;
use crate::model::config::Config;
use crate::model::ops::Packed;
use candle_core::Tensor;

/// A projection in the kernel's layout.
pub struct Linear {
    pub weight: Packed,
    pub bias: Option<Vec<f32>>,
}

impl Linear {
    pub fn apply(&self, x: &Rows, out: &mut Rows) {
        self.weight.apply(&x.data, x.count(), self.bias.as_deref(), &mut out.data);
    }
}

/// One block.
pub struct Layer {
    pub input_norm: Vec<f32>,
    /// Queries, keys and values in one product.
    pub qkv: Linear,
    pub head_norms: Option<(Vec<f32>, Vec<f32>)>,
    pub o: Linear,
    pub post_norm: Vec<f32>,
    /// Gate and up in one product.
    pub gate_up: Linear,
    pub down: Linear,
}

/// Turns tensors into packed weights.
pub struct Load<'a> {
    pub tensor: &'a dyn Fn(&str) -> Result<Tensor>,
}

impl Load<'_> {
    pub fn vector(&self, name: &str) -> Result<Vec<f32>> {
        (self.tensor)(name)?.flatten_all().and_then(|t| t.to_vec1()).map_err(tensor_error)
    }

    /// Weights one above the other, as one.
    pub fn packed(&self, names: &[String]) -> Result<Packed> {
        let parts: Vec<Tensor> = names.iter().map(|name| (self.tensor)(name)).collect::<Result<_>>()?;
        let joined = if parts.len() == 1 { parts[0].clone() } else { Tensor::cat(&parts, 0).map_err(tensor_error)? };
        Packed::new(&joined).map_err(tensor_error)
    }

    fn linear(&self, names: &[String], bias: bool) -> Result<Linear> {
        let weights: Vec<String> = names.iter().map(|n| format!("{n}.weight")).collect();
        let mut joined = Vec::new();
        if bias {
            for name in names {
                joined.extend(self.vector(&format!("{name}.bias"))?);
            }
        }
        Ok(Linear { weight: self.packed(&weights)?, bias: bias.then_some(joined) })
    }

    pub fn layer(&self, config: &Config, index: usize) -> Result<Layer> {
        let at = |rest: &str| format!("model.layers.{index}.{rest}");
        let head_norms = if config.qk_norm {
            let q = self.vector(&at("self_attn.q_norm.weight"))?;
            Some((q, self.vector(&at("self_attn.k_norm.weight"))?))
        } else {
            None
        };
        let qkv = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"].map(at);
        let gate_up = ["mlp.gate_proj", "mlp.up_proj"].map(at);
        Ok(Layer {
            input_norm: self.vector(&at("input_layernorm.weight"))?,
            qkv: self.linear(&qkv, config.qkv_bias)?,
            head_norms,
            o: self.linear(&[at("self_attn.o_proj")], config.output_bias)?,
            post_norm: self.vector(&at("post_attention_layernorm.weight"))?,
            gate_up: self.linear(&gate_up, config.mlp_bias)?,
            down: self.linear(&[at("mlp.down_proj")], config.mlp_bias)?,
        })
    }
}
