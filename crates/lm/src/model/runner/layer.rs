//! The weights of a block for inference, in the form a runner computes with.

use super::tensor_error;
use crate::model::config::{Config, QkNorm};
use crate::model::ops::{self, Heads};
use crate::model::transformer::FUSED;
use crate::model::weights::NormNames;
use candle_core::Tensor;
use mindgap_base::error::Result;

/// How a runner holds its weights.
pub trait Form {
    type Vector;
    type Linear;

    fn vector(&self, tensor: Tensor) -> Result<Self::Vector>;

    /// A projection: weight `[out, in]` and perhaps a bias `[out]`.
    fn linear(&self, weight: Tensor, bias: Option<Tensor>) -> Result<Self::Linear>;
}

/// One block.
pub struct Layer<F: Form> {
    pub attention_input: Option<F::Vector>,
    /// Queries, keys and values in one product.
    pub qkv: F::Linear,
    /// Norms of queries and keys.
    pub qk_norms: Option<(F::Vector, F::Vector)>,
    pub heads: Heads,
    /// Which rotary embedding queries and keys turn by.
    pub rope: Option<usize>,
    pub o: F::Linear,
    pub attention_output: Option<F::Vector>,
    pub feed_forward_input: Option<F::Vector>,
    /// Gate and up in one product.
    pub gate_up: F::Linear,
    pub down: F::Linear,
    pub feed_forward_output: Option<F::Vector>,
}

/// Reads a checkpoint's tensors by name, and turns them into a form.
pub struct Load<'a, F> {
    pub form: F,
    pub config: &'a Config,
    pub tensor: &'a dyn Fn(&str) -> Result<Tensor>,
}

impl<F: Form> Load<'_, F> {
    pub fn vector(&self, name: &str) -> Result<F::Vector> {
        self.form.vector((self.tensor)(name)?)
    }

    /// What a norm multiplies by; in f32 where that is more than its weight.
    pub fn norm(&self, name: &str) -> Result<F::Vector> {
        let weight = (self.tensor)(&format!("{name}.weight"))?;
        self.form.vector(if self.config.norm_offset {
            ops::add_one(&weight.detach()).map_err(tensor_error)?
        } else {
            weight
        })
    }

    /// Tensors one above the other, as one.
    fn joined(&self, names: &[String], what: &str) -> Result<Tensor> {
        let parts = names.iter().map(|name| (self.tensor)(&format!("{name}.{what}"))).collect::<Result<Vec<_>>>()?;
        if parts.len() == 1 { Ok(parts[0].clone()) } else { Tensor::cat(&parts, 0).map_err(tensor_error) }
    }

    /// Projections of one input, as one.
    pub fn linear(&self, names: &[String], bias: bool) -> Result<F::Linear> {
        let bias = bias.then(|| self.joined(names, "bias")).transpose()?;
        self.form.linear(self.joined(names, "weight")?, bias)
    }

    pub fn layer(&self, index: usize) -> Result<Layer<F>> {
        let config = self.config;
        let at = |rest: &str| format!("model.layers.{index}.{rest}");
        let names = NormNames::of(config.norms);
        let norm = |name: Option<&str>| name.map(|name| self.norm(&at(name))).transpose();
        let qk_norms = match config.qk_norm {
            QkNorm::None => None,
            _ => Some((self.norm(&at("self_attn.q_norm"))?, self.norm(&at("self_attn.k_norm"))?)),
        };
        let joint = |(fused, parts): (&str, &[&str]), bias: bool| match config.fused_projections {
            true => self.linear(&[at(fused)], bias),
            false => self.linear(&parts.iter().map(|part| at(part)).collect::<Vec<_>>(), bias),
        };
        let [attention, feed_forward] = FUSED;
        Ok(Layer {
            attention_input: norm(names.attention_input)?,
            qkv: joint(attention, config.qkv_bias)?,
            qk_norms,
            heads: Heads::of(config, index),
            rope: config.rope_of(index),
            o: self.linear(&[at("self_attn.o_proj")], config.output_bias)?,
            attention_output: norm(names.attention_output)?,
            feed_forward_input: norm(names.feed_forward_input)?,
            gate_up: joint(feed_forward, config.mlp_bias)?,
            down: self.linear(&[at("mlp.down_proj")], config.mlp_bias)?,
            feed_forward_output: norm(names.feed_forward_output)?,
        })
    }
}
