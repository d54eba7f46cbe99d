//! The weights of a block for inference, in the form a runner computes with.

use super::tensor_error;
use crate::model::config::Config;
use candle_core::Tensor;
use mindgap_base::error::Result;

/// How a runner holds its weights.
pub trait Form {
    type Vector;
    type Linear;

    fn vector(tensor: Tensor) -> Result<Self::Vector>;

    /// A projection: weight `[out, in]` and perhaps a bias `[out]`.
    fn linear(weight: Tensor, bias: Option<Tensor>) -> Result<Self::Linear>;
}

/// One block.
pub struct Layer<F: Form> {
    pub input_norm: F::Vector,
    /// Queries, keys and values in one product.
    pub qkv: F::Linear,
    /// Norms of query and key heads (Qwen3).
    pub head_norms: Option<(F::Vector, F::Vector)>,
    pub o: F::Linear,
    pub post_norm: F::Vector,
    /// Gate and up in one product.
    pub gate_up: F::Linear,
    pub down: F::Linear,
}

/// Reads a checkpoint's tensors by name.
pub struct Load<'a> {
    pub tensor: &'a dyn Fn(&str) -> Result<Tensor>,
}

impl Load<'_> {
    pub fn vector<F: Form>(&self, name: &str) -> Result<F::Vector> {
        F::vector((self.tensor)(name)?)
    }

    /// Tensors one above the other, as one.
    fn joined(&self, names: &[String], what: &str) -> Result<Tensor> {
        let parts = names.iter().map(|name| (self.tensor)(&format!("{name}.{what}"))).collect::<Result<Vec<_>>>()?;
        if parts.len() == 1 { Ok(parts[0].clone()) } else { Tensor::cat(&parts, 0).map_err(tensor_error) }
    }

    /// Projections of one input, as one.
    pub fn linear<F: Form>(&self, names: &[String], bias: bool) -> Result<F::Linear> {
        let bias = bias.then(|| self.joined(names, "bias")).transpose()?;
        F::linear(self.joined(names, "weight")?, bias)
    }

    pub fn layer<F: Form>(&self, config: &Config, index: usize) -> Result<Layer<F>> {
        let at = |rest: &str| format!("model.layers.{index}.{rest}");
        let head_norms = if config.qk_norm {
            let q = self.vector::<F>(&at("self_attn.q_norm.weight"))?;
            Some((q, self.vector::<F>(&at("self_attn.k_norm.weight"))?))
        } else {
            None
        };
        let qkv = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"].map(at);
        let gate_up = ["mlp.gate_proj", "mlp.up_proj"].map(at);
        Ok(Layer {
            input_norm: self.vector::<F>(&at("input_layernorm.weight"))?,
            qkv: self.linear::<F>(&qkv, config.qkv_bias)?,
            head_norms,
            o: self.linear::<F>(&[at("self_attn.o_proj")], config.output_bias)?,
            post_norm: self.vector::<F>(&at("post_attention_layernorm.weight"))?,
            gate_up: self.linear::<F>(&gate_up, config.mlp_bias)?,
            down: self.linear::<F>(&[at("mlp.down_proj")], config.mlp_bias)?,
        })
    }
}
