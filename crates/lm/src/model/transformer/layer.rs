//! The tensors of a transformer in their places, and what each does to rows.

use super::FUSED;
use crate::model::config::{Config, QkNorm};
use crate::model::ops::{self, Adapter, Heads};
use crate::model::tensor_error;
use crate::model::weights::NormNames;
use candle_core::{DType, Tensor};
use mindgap_base::error::Result;
use std::collections::HashMap;

/// A projection: weight `[out, in]` and perhaps a bias `[out]` and an adapter.
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    products: DType,
    pub adapter: Option<Adapter>,
}

impl Linear {
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (w, bias) = (&self.weight, self.bias.as_ref());
        let y = match &self.adapter {
            None => ops::linear(x, w, bias, self.products),
            Some(adapter) => ops::adapted(x, w, bias, adapter, self.products),
        };
        y.map_err(tensor_error)
    }
}

/// Projections of one input: each its own, or one for all.
pub enum Joint {
    Apart(Vec<Linear>),
    /// And the columns of each.
    Fused(Linear, Vec<usize>),
}

impl Joint {
    /// One result for each.
    pub fn forward(&self, x: &Tensor) -> Result<Vec<Tensor>> {
        let (linear, widths) = match self {
            Joint::Apart(all) => return all.iter().map(|linear| linear.forward(x)).collect(),
            Joint::Fused(linear, widths) => (linear, widths),
        };
        let (y, mut first) = (linear.forward(x)?, 0);
        let mut part = |width: &usize| {
            first += width;
            ops::columns(&y, first - width..first).map_err(tensor_error)
        };
        widths.iter().map(&mut part).collect()
    }
}

/// An RMS norm.
pub struct Norm {
    weight: Tensor,
    /// 1 is added to the weight.
    offset: bool,
    eps: f64,
}

impl Norm {
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let weight = if self.offset { ops::add_one(&self.weight) } else { Ok(self.weight.clone()) };
        weight.and_then(|weight| ops::rms_norm(x, &weight, self.eps)).map_err(tensor_error)
    }
}

/// The tensors of one block.
pub struct Layer {
    pub attention_input: Option<Norm>,
    pub qkv: Joint,
    /// Norms of queries and keys.
    pub qk_norms: Option<(Norm, Norm)>,
    pub heads: Heads,
    /// Which rotary embedding queries and keys turn by.
    pub rope: Option<usize>,
    pub o: Linear,
    pub attention_output: Option<Norm>,
    pub feed_forward_input: Option<Norm>,
    pub gate_up: Joint,
    pub down: Linear,
    pub feed_forward_output: Option<Norm>,
}

impl Layer {
    /// A projection by its name in the checkpoint.
    pub fn projection(&mut self, name: &str) -> Option<&mut Linear> {
        match name {
            "self_attn.o_proj" => return Some(&mut self.o),
            "mlp.down_proj" => return Some(&mut self.down),
            _ => {}
        }
        for ((fused, parts), joint) in FUSED.into_iter().zip([&mut self.qkv, &mut self.gate_up]) {
            match joint {
                Joint::Fused(linear, _) if fused == name => return Some(linear),
                Joint::Apart(all) => {
                    if let Some(index) = parts.iter().position(|part| *part == name) {
                        return all.get_mut(index);
                    }
                }
                Joint::Fused(..) => {}
            }
        }
        None
    }
}

/// Moves checked tensors into their places.
pub struct Take {
    pub tensors: HashMap<String, Tensor>,
    pub products: DType,
}

impl Take {
    pub fn tensor(&mut self, name: &str) -> Tensor {
        self.tensors.remove(name).expect("every expected tensor was checked before")
    }

    pub fn norm(&mut self, config: &Config, name: &str) -> Norm {
        let weight = self.tensor(&format!("{name}.weight"));
        Norm { weight, offset: config.norm_offset, eps: config.rms_norm_eps }
    }

    fn linear(&mut self, name: &str, bias: bool) -> Linear {
        let weight = self.tensor(&format!("{name}.weight"));
        let bias = bias.then(|| self.tensor(&format!("{name}.bias")));
        Linear { weight, bias, products: self.products, adapter: None }
    }

    pub fn layer(&mut self, config: &Config, index: usize) -> Layer {
        let at = |rest: &str| format!("model.layers.{index}.{rest}");
        let names = NormNames::of(config.norms);
        let mut norm = |name: Option<&str>| name.map(|name| self.norm(config, &at(name)));
        let (attention_input, attention_output) = (norm(names.attention_input), norm(names.attention_output));
        let (feed_forward_input, feed_forward_output) =
            (norm(names.feed_forward_input), norm(names.feed_forward_output));
        let qk_norms = (config.qk_norm != QkNorm::None)
            .then(|| (self.norm(config, &at("self_attn.q_norm")), self.norm(config, &at("self_attn.k_norm"))));
        let mut joint = |(fused, parts): (&str, &[&str]), widths: &[usize], bias: bool| match config.fused_projections {
            true => Joint::Fused(self.linear(&at(fused), bias), widths.to_vec()),
            false => Joint::Apart(parts.iter().map(|part| self.linear(&at(part), bias)).collect()),
        };
        let [attention, feed_forward] = FUSED;
        let (query, kv, ffn) = (config.query_width(), config.kv_width(), config.intermediate_size);
        Layer {
            qkv: joint(attention, &[query, kv, kv], config.qkv_bias),
            gate_up: joint(feed_forward, &[ffn, ffn], config.mlp_bias),
            attention_input,
            qk_norms,
            heads: Heads::of(config, index),
            rope: config.rope_of(index),
            o: self.linear(&at("self_attn.o_proj"), config.output_bias),
            attention_output,
            feed_forward_input,
            down: self.linear(&at("mlp.down_proj"), config.mlp_bias),
            feed_forward_output,
        }
    }
}
