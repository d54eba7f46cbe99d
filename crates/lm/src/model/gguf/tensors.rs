//! Tensors by their Hugging Face names: other names, rows in another order, weights of norms with 1 added.

use super::{Gguf, bad};
use crate::model::config::{Architecture, Config};
use crate::model::policy::Blob;
use crate::model::tensor_error;
use crate::model::weights::{NormNames, TensorSpec, expected_tensors};
use candle_core::{DType, Device, Tensor};
use mindgap_base::error::{Error, Result};
use std::collections::HashSet;
use std::io::Cursor;

/// Divisors of rotary frequencies, which the config holds.
const OF_ROPE: [&str; 3] = ["rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"];

/// The name in the file.
fn own_name(config: &Config, name: &str) -> Option<String> {
    match name {
        "model.embed_tokens.weight" => return Some("token_embd.weight".into()),
        "model.norm.weight" => return Some("output_norm.weight".into()),
        "lm_head.weight" => return Some("output.weight".into()),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (place, kind) = rest.rsplit_once('.')?;
    let norms = NormNames::of(config.norms);
    let own = match place {
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.qkv_proj" => "attn_qkv",
        "self_attn.o_proj" => "attn_output",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "mlp.gate_proj" => "ffn_gate",
        // Gate and up in one tensor go by the name of the second.
        "mlp.up_proj" | "mlp.gate_up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        norm if Some(norm) == norms.attention_input => "attn_norm",
        norm if Some(norm) == norms.attention_output => "post_attention_norm",
        norm if Some(norm) == norms.feed_forward_input => "ffn_norm",
        norm if Some(norm) == norms.feed_forward_output => "post_ffw_norm",
        _ => return None,
    };
    Some(format!("blk.{layer}.{own}.{kind}"))
}

pub(super) fn check(gguf: &Gguf, config: &Config) -> Result<()> {
    let mut known: HashSet<String> = OF_ROPE.map(str::to_string).into();
    for TensorSpec { name, shape } in expected_tensors(config) {
        let own = own_name(config, &name).ok_or_else(|| Error::internal(format!("`{name}` has no name in GGUF")))?;
        let Some(info) = gguf.content.tensor_infos.get(&own) else {
            return Err(bad(format!("tensor `{own}` is missing; expected shape {shape:?}")));
        };
        if info.shape.dims() != shape {
            let found = info.shape.dims();
            return Err(bad(format!("tensor `{own}` has shape {found:?}; the metadata expect {shape:?}")));
        }
        known.insert(own);
    }
    let mut unknown: Vec<&String> = gguf.content.tensor_infos.keys().filter(|name| !known.contains(*name)).collect();
    unknown.sort();
    match unknown.first() {
        Some(name) => Err(bad(format!("tensor `{name}` has no place in the model that the metadata describe"))),
        None => Ok(()),
    }
}

pub(super) fn load(
    gguf: &Gguf,
    blob: &dyn Blob,
    config: &Config,
    name: &str,
    to: DType,
    device: &Device,
) -> Result<Tensor> {
    let own = own_name(config, name).ok_or_else(|| Error::internal(format!("`{name}` has no name in GGUF")))?;
    let failed = |e: candle_core::Error| bad(format!("tensor `{own}` cannot be read")).source(e);
    let quantised = gguf.content.tensor(&mut Cursor::new(blob.bytes()), &own, &Device::Cpu).map_err(failed)?;
    let mut tensor = quantised.dequantize(&Device::Cpu).map_err(failed)?;
    if let Some(info) = gguf.content.tensor_infos.get(&own) {
        let start = (gguf.content.tensor_data_offset + info.offset) as usize;
        blob.done_with(start..start + quantised.storage_size_in_bytes());
    }
    let projection = name.rsplit('.').nth(1).unwrap_or_default();
    if config.norm_offset && name.ends_with("norm.weight") {
        tensor = (tensor - 1.0).map_err(tensor_error)?;
    }
    if turns_pairs(config.architecture) && ["q_proj", "k_proj"].contains(&projection) {
        tensor = halves(&tensor, config.head_dim).map_err(tensor_error)?;
    }
    tensor.to_dtype(to).and_then(|t| t.to_device(device)).map_err(tensor_error)
}

/// llama.cpp turns neighbouring features of these families' heads together, and keeps the rows of queries and keys so.
fn turns_pairs(architecture: Architecture) -> bool {
    use Architecture::{Granite, Llama, Mistral, SmolLm3};
    matches!(architecture, Llama | Mistral | SmolLm3 | Granite)
}

/// Of each head: rows a0 b0 a1 b1 .. become a0 a1 .. b0 b1 ..
fn halves(rows: &Tensor, head_dim: usize) -> candle_core::Result<Tensor> {
    let (count, rest) = (rows.dim(0)?, rows.elem_count() / rows.dim(0)?);
    let pairs = rows.reshape((count / head_dim, head_dim / 2, 2, rest))?;
    pairs.transpose(1, 2)?.contiguous()?.reshape(rows.shape())
}
