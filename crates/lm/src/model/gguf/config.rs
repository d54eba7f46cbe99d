//! config.json from metadata. What llama.cpp knows of a family by its name alone is filled in here.

use super::{Gguf, bad};
use crate::model::policy::Blob;
use candle_core::Device;
use mindgap_base::error::Result;
use serde_json::{Map, Value, json};
use std::io::Cursor;

/// llama.cpp's names of the families, and ours in config.json.
const FAMILIES: [(&str, &str, &str); 9] = [
    ("llama", "llama", "LlamaForCausalLM"),
    ("qwen2", "qwen2", "Qwen2ForCausalLM"),
    ("qwen3", "qwen3", "Qwen3ForCausalLM"),
    ("gemma2", "gemma2", "Gemma2ForCausalLM"),
    ("gemma3", "gemma3_text", "Gemma3ForCausalLM"),
    ("phi3", "phi3", "Phi3ForCausalLM"),
    ("smollm3", "smollm3", "SmolLM3ForCausalLM"),
    ("olmo2", "olmo2", "Olmo2ForCausalLM"),
    ("granite", "granite", "GraniteForCausalLM"),
];

/// Metadata that change the arithmetic of models not implemented here.
const FOREIGN: [&str; 6] = [
    "expert_count",
    "attention.kv_lora_rank",
    "attention.clamp_kqv",
    "attention.max_alibi_bias",
    "attention.chunk_size",
    "use_parallel_residual",
];

impl Gguf {
    /// Errors: a family or a feature that is not implemented, a missing number.
    pub(super) fn config(&self, blob: &dyn Blob) -> Result<Value> {
        let own = self.architecture.as_str();
        let Some((_, model_type, class)) = FAMILIES.iter().find(|(name, ..)| *name == own) else {
            let known = FAMILIES.map(|(name, ..)| format!("`{name}`")).join(", ");
            return Err(bad(format!("unknown architecture `{own}`")).hint(format!("implemented: {known}")));
        };
        let neutral = |key: &&str| self.number(&self.key(key)).is_ok_and(|number| number.is_none_or(|n| n == 0.0));
        if let Some(key) = FOREIGN.iter().find(|key| !neutral(key)) {
            return Err(bad(format!("`{}` is not implemented", self.key(key))));
        }
        if self.list("tokenizer.ggml.tokens").is_err() && self.value("tokenizer.ggml.tokens").is_some() {
            return Err(bad("`tokenizer.ggml.tokens` is not a list"));
        }
        let embedding = self.content.tensor_infos.get("token_embd.weight");
        let embedding = embedding.ok_or_else(|| bad("tensor `token_embd.weight` is missing"))?;
        let (layers, hidden, heads) =
            (self.size("block_count")?, self.size("embedding_length")?, self.size("attention.head_count")?);
        let head_dim = self.size_or("attention.key_length", hidden / heads.max(1))?;
        if self.size_or("attention.value_length", head_dim)? != head_dim {
            return Err(bad("keys and values of different widths are not implemented"));
        }
        let positions = self.size("context_length")?;
        let mut config = json!({
            "architectures": [class],
            "model_type": model_type,
            "vocab_size": embedding.shape.dims().first(),
            "hidden_size": hidden,
            "intermediate_size": self.size("feed_forward_length")?,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": self.size_or("attention.head_count_kv", heads)?,
            "head_dim": head_dim,
            "max_position_embeddings": positions,
            "rms_norm_eps": self.own_number("attention.layer_norm_rms_epsilon")?,
            "tie_word_embeddings": !self.has("output.weight"),
            "bos_token_id": self.optional_size("tokenizer.ggml.bos_token_id")?,
            "eos_token_id": self.optional_size("tokenizer.ggml.eos_token_id")?,
            "torch_dtype": "float32",
        });
        let fields = config.as_object_mut().expect("built as an object");
        let biased = |tensor: &str| self.has(&format!("blk.0.{tensor}.bias"));
        if own != "qwen2" && (biased("attn_q") || biased("attn_output")) {
            fields.insert("attention_bias".into(), json!(true));
        }
        if biased("ffn_up") || biased("ffn_down") {
            fields.insert("mlp_bias".into(), json!(true));
        }
        self.family(fields, (layers, hidden, heads, head_dim))?;
        self.rope(fields, blob, positions, head_dim)?;
        Ok(config)
    }

    /// What only some families have.
    fn family(&self, fields: &mut Map<String, Value>, sizes: (usize, usize, usize, usize)) -> Result<()> {
        let (layers, hidden, heads, head_dim) = sizes;
        let window = self.optional_size(&self.key("attention.sliding_window"))?.filter(|window| *window > 0);
        let mut set = |key: &str, value: Value| drop(fields.insert(key.to_string(), value));
        match self.architecture.as_str() {
            "gemma2" | "gemma3" => {
                // The two largest divide by another number than the width of a head.
                let largest = if self.architecture == "gemma2" { 46 } else { 62 };
                let scalar = if layers == largest { hidden / heads } else { head_dim };
                set("query_pre_attn_scalar", json!(scalar));
                let usual = if self.architecture == "gemma2" { [Some(50.0), Some(30.0)] } else { [None, None] };
                let keys = [
                    ("attn_logit_softcapping", "attn_logit_softcapping"),
                    ("final_logit_softcapping", "final_logit_softcapping"),
                ];
                for ((ours, theirs), usual) in keys.into_iter().zip(usual) {
                    let cap = self.number(&self.key(theirs))?.or(usual).filter(|cap| *cap > 0.0);
                    set(ours, json!(cap));
                }
                set("sliding_window", json!(window.unwrap_or(4096)));
            }
            "granite" => {
                set("attention_multiplier", json!(self.own_number("attention.scale")?));
                for (ours, theirs) in [
                    ("embedding_multiplier", "embedding_scale"),
                    ("residual_multiplier", "residual_scale"),
                    ("logits_scaling", "logit_scale"),
                ] {
                    set(ours, json!(self.own_number(theirs)?));
                }
            }
            // OLMo 3 goes by the older name, and by its window.
            "olmo2" if window.is_some() => {
                set("model_type", json!("olmo3"));
                set("architectures", json!(["Olmo3ForCausalLM"]));
                set("sliding_window", json!(window));
            }
            "smollm3" => set("no_rope_layer_interval", json!(4)),
            "phi3" => set("sliding_window", json!(window)),
            "qwen2" | "qwen3" if window.is_none() => set("use_sliding_window", json!(false)),
            // A Mistral of old goes by this name, and by its window.
            "llama" if window.is_some() => {
                set("model_type", json!("mistral"));
                set("architectures", json!(["MistralForCausalLM"]));
                set("sliding_window", json!(window));
            }
            other if window.is_some() => {
                return Err(bad(format!("a sliding window of `{other}` is not implemented")));
            }
            _ => {}
        }
        Ok(())
    }

    fn rope(&self, fields: &mut Map<String, Value>, blob: &dyn Blob, positions: usize, head_dim: usize) -> Result<()> {
        let own = self.architecture.as_str();
        let theta = self.number(&self.key("rope.freq_base"))?.unwrap_or(if own == "gemma3" { 1e6 } else { 1e4 });
        let turned = self.size_or("rope.dimension_count", head_dim)?;
        if turned != head_dim && own != "phi3" {
            return Err(bad(format!(
                "{turned} of {head_dim} features of a head turn, which is not implemented for `{own}`"
            )));
        }
        let factor = self.number(&self.key("rope.scaling.factor"))?;
        let original = self.optional_size(&self.key("rope.scaling.original_context_length"))?;
        let attention = self.number(&self.key("rope.scaling.attn_factor"))?;
        let kind = self.text(&self.key("rope.scaling.type")).unwrap_or("none");
        let mut table = match kind {
            "none" => json!({"rope_type": "default"}),
            "linear" => json!({"rope_type": "linear", "factor": factor}),
            "yarn" => json!({
                "rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original,
                "attention_factor": attention,
            }),
            // Its factors are tensors.
            "longrope" => json!({}),
            other => return Err(bad(format!("RoPE scaling `{other}` is not implemented"))),
        };
        // A divisor for every frequency: Llama 3.1's scaling is written as one, and LongRoPE is two.
        let factors = |name: &str| self.has(name).then(|| self.vector(blob, name)).transpose();
        let (short, long) = (factors("rope_factors_short.weight")?, factors("rope_factors_long.weight")?);
        let (short, long, border, grown) = match (factors("rope_freqs.weight")?, short.zip(long)) {
            (Some(only), None) => (only.clone(), only, positions, Some(1.0)),
            (None, Some((short, long))) => (short, long, original.unwrap_or(positions), attention),
            (Some(_), Some(_)) => return Err(bad("frequencies have two kinds of divisors")),
            (None, None) if kind == "longrope" => return Err(bad("tensor `rope_factors_long.weight` is missing")),
            (None, None) => (Vec::new(), Vec::new(), 0, None),
        };
        if !short.is_empty() {
            table = json!({
                "rope_type": "longrope", "short_factor": short, "long_factor": long,
                "original_max_position_embeddings": border, "attention_factor": grown,
            });
            if own == "phi3" {
                fields.insert("original_max_position_embeddings".into(), json!(border));
            }
        }
        table["rope_theta"] = json!(theta);
        if turned != head_dim {
            table["partial_rotary_factor"] = json!(turned as f64 / head_dim as f64);
        }
        let by_layer = fields["model_type"] == "gemma3_text" || fields["model_type"] == "olmo3";
        fields.insert(
            "rope_parameters".into(),
            match by_layer {
                false => table,
                true => {
                    let local = self.number(&self.key("rope.freq_base_swa"))?;
                    let local = local.unwrap_or(if own == "gemma3" { 1e4 } else { theta });
                    json!({
                        "full_attention": table,
                        "sliding_attention": {"rope_type": "default", "rope_theta": local},
                    })
                }
            },
        );
        Ok(())
    }

    fn vector(&self, blob: &dyn Blob, name: &str) -> Result<Vec<f64>> {
        let tensor = self.content.tensor(&mut Cursor::new(blob.bytes()), name, &Device::Cpu);
        let values = tensor.and_then(|t| t.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>());
        Ok(values
            .map_err(|e| bad(format!("tensor `{name}` cannot be read")).source(e))?
            .into_iter()
            .map(f64::from)
            .collect())
    }

    fn key(&self, rest: &str) -> String {
        format!("{}.{rest}", self.architecture)
    }

    fn size(&self, rest: &str) -> Result<usize> {
        let key = self.key(rest);
        self.optional_size(&key)?.ok_or_else(|| bad(format!("`{key}` is missing")))
    }

    fn size_or(&self, rest: &str, usual: usize) -> Result<usize> {
        Ok(self.optional_size(&self.key(rest))?.unwrap_or(usual))
    }

    fn own_number(&self, rest: &str) -> Result<f64> {
        let key = self.key(rest);
        self.number(&key)?.ok_or_else(|| bad(format!("`{key}` is missing")))
    }
}
