//! What a checkpoint's `config.json` says about the transformer: one flat description for Qwen2/2.5, Qwen3 and Llama 3.x.
//!
//! Read from bytes, checked once, and written back in the spelling every Hugging Face reader understands. An unknown
//! architecture, or a feature that would change the numbers (a sliding window in force, an unknown RoPE scaling, another
//! activation), is refused: a forward pass that is silently slightly wrong is the worst result there is.

use mindgap_base::error::{Error, Result};
use serde_json::{Map, Value, json};

/// The families implemented here; they differ only in biases and query/key norms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    Qwen2,
    Qwen3,
    Llama,
}

impl Architecture {
    const ALL: [Architecture; 3] = [Architecture::Qwen2, Architecture::Qwen3, Architecture::Llama];

    /// `model_type` in config.json.
    pub fn model_type(self) -> &'static str {
        match self {
            Architecture::Qwen2 => "qwen2",
            Architecture::Qwen3 => "qwen3",
            Architecture::Llama => "llama",
        }
    }

    /// The entry of `architectures` in config.json.
    pub fn class_name(self) -> &'static str {
        match self {
            Architecture::Qwen2 => "Qwen2ForCausalLM",
            Architecture::Qwen3 => "Qwen3ForCausalLM",
            Architecture::Llama => "LlamaForCausalLM",
        }
    }
}

/// How rotary frequencies are stretched beyond the pre-training length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    /// Every frequency divided by `factor`.
    Linear {
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a smooth passage between.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_positions: usize,
    },
}

/// Rotary position embedding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    pub theta: f64,
    pub scaling: RopeScaling,
}

impl Rope {
    /// Inverse frequencies, one per pair of dimensions (`head_dim / 2`). f32 arithmetic in the order of the reference
    /// implementation, so that long positions agree with it to the last bit that matters.
    pub fn inverse_frequencies(&self, head_dim: usize) -> Vec<f32> {
        let plain = (0..head_dim / 2).map(|i| {
            let exponent = (2 * i) as f32 / head_dim as f32;
            1.0 / (self.theta as f32).powf(exponent)
        });
        plain.map(|frequency| self.scaled(frequency)).collect()
    }

    fn scaled(&self, frequency: f32) -> f32 {
        match self.scaling {
            RopeScaling::None => frequency,
            RopeScaling::Linear { factor } => frequency / factor as f32,
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => {
                let (factor, low, high) = (factor as f32, low_freq_factor as f32, high_freq_factor as f32);
                let original = original_max_positions as f32;
                let wavelength = 2.0 * std::f32::consts::PI / frequency;
                if wavelength > original / low {
                    frequency / factor
                } else if wavelength < original / high {
                    frequency
                } else {
                    let smooth = (original / wavelength - low) / (high - low);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            }
        }
    }
}

/// The shape of one decoder-only transformer.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub architecture: Architecture,
    /// Rows of the embedding; may exceed the tokenizer's entries (padded vocabulary).
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub layer_count: usize,
    pub head_count: usize,
    pub kv_head_count: usize,
    /// Width of one head; not always `hidden_size / head_count`.
    pub head_dim: usize,
    /// Longest sequence, prompt and completion together.
    pub max_positions: usize,
    pub rms_norm_eps: f64,
    pub rope: Rope,
    pub tie_word_embeddings: bool,
    /// Bias on the query, key and value projections.
    pub qkv_bias: bool,
    /// Bias on the attention output projection.
    pub output_bias: bool,
    /// Bias on the three feed-forward projections.
    pub mlp_bias: bool,
    /// RMS norm of each query and key head before the rotation.
    pub qk_norm: bool,
    pub bos_token_id: Option<u32>,
    /// From config.json; `generation_config.json` has precedence (see `policy`).
    pub eos_token_ids: Vec<u32>,
    /// Standard deviation of random initial weights.
    pub initializer_range: f64,
}

const FILE: &str = "config.json";

impl Config {
    /// Reads config.json. Errors: not JSON, an architecture or feature not implemented, a missing or impossible number.
    pub fn from_json(bytes: &[u8]) -> Result<Config> {
        let value: Value =
            serde_json::from_slice(bytes).map_err(|e| Error::input("config is not valid JSON").at(FILE).source(e))?;
        let fields = Fields(value.as_object().ok_or_else(|| bad("config is not a JSON object"))?);
        let architecture = architecture(&fields)?;
        refuse_unsupported(&fields)?;

        let hidden_size = fields.size("hidden_size")?;
        let head_count = fields.size("num_attention_heads")?;
        let layer_count = fields.size("num_hidden_layers")?;
        let max_positions = fields.size("max_position_embeddings")?;
        refuse_sliding_window(&fields, max_positions)?;
        let attention_bias = fields.flag("attention_bias", false)?;
        let (qkv_bias, output_bias) = match architecture {
            Architecture::Qwen2 => (true, false),
            Architecture::Qwen3 | Architecture::Llama => (attention_bias, attention_bias),
        };
        let config = Config {
            architecture,
            vocab_size: fields.size("vocab_size")?,
            hidden_size,
            intermediate_size: fields.size("intermediate_size")?,
            layer_count,
            head_count,
            kv_head_count: fields.optional_size("num_key_value_heads")?.unwrap_or(head_count),
            head_dim: match fields.optional_size("head_dim")? {
                Some(head_dim) => head_dim,
                None if architecture == Architecture::Qwen3 => 128,
                None => hidden_size / head_count,
            },
            max_positions,
            rms_norm_eps: fields.number("rms_norm_eps", Some(1e-6))?,
            rope: rope(&fields, max_positions)?,
            tie_word_embeddings: fields.flag("tie_word_embeddings", false)?,
            qkv_bias,
            output_bias,
            mlp_bias: architecture == Architecture::Llama && fields.flag("mlp_bias", false)?,
            qk_norm: architecture == Architecture::Qwen3,
            bos_token_id: fields.token_ids("bos_token_id")?.first().copied(),
            eos_token_ids: fields.token_ids("eos_token_id")?,
            initializer_range: fields.number("initializer_range", Some(0.02))?,
        };
        config.check()?;
        Ok(config)
    }

    /// Errors if the sizes cannot make a transformer. Also for configs built in code.
    pub fn check(&self) -> Result<()> {
        let sizes = [self.vocab_size, self.hidden_size, self.intermediate_size, self.layer_count, self.head_count];
        if sizes.contains(&0) || self.kv_head_count == 0 || self.head_dim == 0 || self.max_positions == 0 {
            return Err(bad("every size in the config must be at least 1"));
        }
        if !self.head_count.is_multiple_of(self.kv_head_count) {
            return Err(bad(format!(
                "`num_attention_heads` {} is not a multiple of `num_key_value_heads` {}",
                self.head_count, self.kv_head_count
            )));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(bad(format!("`head_dim` {} is odd; rotary embedding needs pairs", self.head_dim)));
        }
        if !(self.rms_norm_eps.is_finite() && self.rms_norm_eps >= 0.0) {
            return Err(bad(format!("`rms_norm_eps` {} is not a small positive number", self.rms_norm_eps)));
        }
        if !(self.rope.theta.is_finite() && self.rope.theta > 0.0) {
            return Err(bad(format!("`rope_theta` {} is not a positive number", self.rope.theta)));
        }
        Ok(())
    }

    /// Columns of all query heads together.
    pub fn query_width(&self) -> usize {
        self.head_count * self.head_dim
    }

    /// Columns of all key (or value) heads together.
    pub fn kv_width(&self) -> usize {
        self.kv_head_count * self.head_dim
    }

    /// Trainable numbers in the checkpoint.
    pub fn parameter_count(&self) -> usize {
        super::weights::expected_tensors(self).iter().map(|t| t.shape.iter().product::<usize>()).sum()
    }

    /// Floating-point operations of one token in the blocks' weight products: two per weight.
    pub fn block_flops(&self) -> f64 {
        let attention = self.hidden_size * (2 * self.query_width() + 2 * self.kv_width());
        2.0 * (self.layer_count * (attention + 3 * self.hidden_size * self.intermediate_size)) as f64
    }

    /// Those of one row of logits.
    pub fn head_flops(&self) -> f64 {
        2.0 * (self.vocab_size * self.hidden_size) as f64
    }

    /// config.json, with keys in a fixed order. `dtype` is the weights' type on disk (`float32`, `bfloat16`, `float16`).
    pub fn to_json(&self, dtype: &str) -> String {
        let mut value = json!({
            "architectures": [self.architecture.class_name()],
            "model_type": self.architecture.model_type(),
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.layer_count,
            "num_attention_heads": self.head_count,
            "num_key_value_heads": self.kv_head_count,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": self.max_positions,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope.theta,
            "rope_scaling": self.scaling_json(),
            "tie_word_embeddings": self.tie_word_embeddings,
            "attention_dropout": 0.0,
            "initializer_range": self.initializer_range,
            "use_cache": true,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": match self.eos_token_ids.as_slice() {
                [] => Value::Null,
                [one] => json!(one),
                several => json!(several),
            },
            "torch_dtype": dtype,
        });
        let fields = value.as_object_mut().expect("built as an object above");
        match self.architecture {
            Architecture::Qwen2 => {
                fields.insert("use_sliding_window".into(), json!(false));
            }
            Architecture::Qwen3 => {
                fields.insert("use_sliding_window".into(), json!(false));
                fields.insert("attention_bias".into(), json!(self.qkv_bias));
            }
            Architecture::Llama => {
                fields.insert("attention_bias".into(), json!(self.qkv_bias));
                fields.insert("mlp_bias".into(), json!(self.mlp_bias));
            }
        }
        serde_json::to_string_pretty(&value).expect("plain JSON prints") + "\n"
    }

    fn scaling_json(&self) -> Value {
        match self.rope.scaling {
            RopeScaling::None => Value::Null,
            RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original_max_positions,
            }),
        }
    }
}

fn architecture(fields: &Fields) -> Result<Architecture> {
    let model_type = fields.text("model_type");
    let class = fields.0.get("architectures").and_then(|v| v.get(0)).and_then(Value::as_str);
    // A class that is not a plain causal language model (a classifier, an embedding model) has another head.
    if let Some(class) = class {
        if let Some(found) = Architecture::ALL.into_iter().find(|a| a.class_name() == class) {
            return Ok(found);
        }
    } else if let Some(found) = Architecture::ALL.into_iter().find(|a| Some(a.model_type()) == model_type) {
        return Ok(found);
    }
    let named = class.or(model_type).unwrap_or("(none named)");
    let known = Architecture::ALL.map(|a| format!("`{}`", a.class_name())).join(", ");
    Err(bad(format!("unknown architecture `{named}`")).hint(format!("implemented: {known}")))
}

fn refuse_unsupported(fields: &Fields) -> Result<()> {
    let activation = fields.text("hidden_act").unwrap_or("silu");
    if activation != "silu" && activation != "swish" {
        return Err(bad(format!("activation `{activation}` is not implemented; expected `silu`")));
    }
    if let Some(quantization) = fields.0.get("quantization_config").filter(|v| !v.is_null()) {
        let method = quantization.get("quant_method").and_then(Value::as_str).unwrap_or("unknown");
        return Err(bad(format!("weights are quantized (`{method}`)")).hint("use the f32, bf16 or f16 checkpoint"));
    }
    Ok(())
}

/// A window changes the numbers only where a sequence can be longer than it. Qwen2.5 carries `sliding_window` with
/// `use_sliding_window: false`, which means full attention; newer files say it per layer in `layer_types`.
fn refuse_sliding_window(fields: &Fields, max_positions: usize) -> Result<()> {
    let per_layer = fields.0.get("layer_types").and_then(Value::as_array);
    let windowed = match per_layer {
        Some(types) => types.iter().any(|t| t.as_str() != Some("full_attention")),
        None => fields.flag("use_sliding_window", false)?,
    };
    let window = fields.optional_size("sliding_window")?;
    if windowed && window.is_none_or(|w| w < max_positions) {
        let said = window.map_or("unstated".to_string(), |w| w.to_string());
        return Err(bad(format!("sliding-window attention (window {said}) is not implemented"))
            .hint("use a checkpoint with full attention (`use_sliding_window: false`)"));
    }
    Ok(())
}

/// Reads `rope_theta` + `rope_scaling`, or the newer `rope_parameters` that holds both.
fn rope(fields: &Fields, max_positions: usize) -> Result<Rope> {
    let newer = fields.0.get("rope_parameters").and_then(Value::as_object);
    let scaling = newer.or_else(|| fields.0.get("rope_scaling").and_then(Value::as_object));
    let theta = match newer.and_then(|map| map.get("rope_theta")) {
        Some(theta) => theta.as_f64().ok_or_else(|| bad("`rope_theta` is not a number"))?,
        None => fields.number("rope_theta", Some(10_000.0))?,
    };
    let Some(map) = scaling else { return Ok(Rope { theta, scaling: RopeScaling::None }) };
    let inner = Fields(map);
    let kind = inner.text("rope_type").or_else(|| inner.text("type")).unwrap_or("default");
    let scaling = match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: inner.number("factor", None)? },
        "llama3" => RopeScaling::Llama3 {
            factor: inner.number("factor", None)?,
            low_freq_factor: inner.number("low_freq_factor", None)?,
            high_freq_factor: inner.number("high_freq_factor", None)?,
            original_max_positions: inner.optional_size("original_max_position_embeddings")?.unwrap_or(max_positions),
        },
        other => {
            return Err(bad(format!("RoPE scaling `{other}` is not implemented"))
                .hint("implemented: `default`, `linear`, `llama3`; remove `rope_scaling` to use the trained length"));
        }
    };
    Ok(Rope { theta, scaling })
}

fn bad(what: impl Into<String>) -> Error {
    Error::input(what).at(FILE)
}

/// Typed access to a JSON object, with errors that name the key. A JSON `null` counts as absent.
struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    fn present(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|v| !v.is_null())
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.present(key).and_then(Value::as_str)
    }

    fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.present(key) else { return Ok(None) };
        match value.as_u64() {
            // 2^31 bounds every product of two sizes below 2^62, so that no shape can overflow.
            Some(n) if n > 0 && n < 1 << 31 => Ok(Some(n as usize)),
            _ => Err(bad(format!("`{key}` is `{value}`; expected a positive whole number"))),
        }
    }

    fn size(&self, key: &str) -> Result<usize> {
        self.optional_size(key)?.ok_or_else(|| bad(format!("`{key}` is missing")))
    }

    fn number(&self, key: &str, default: Option<f64>) -> Result<f64> {
        match (self.present(key), default) {
            (Some(value), _) => value.as_f64().ok_or_else(|| bad(format!("`{key}` is `{value}`; expected a number"))),
            (None, Some(default)) => Ok(default),
            (None, None) => Err(bad(format!("`{key}` is missing"))),
        }
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.present(key) {
            None => Ok(default),
            Some(value) => {
                value.as_bool().ok_or_else(|| bad(format!("`{key}` is `{value}`; expected `true` or `false`")))
            }
        }
    }

    fn token_ids(&self, key: &str) -> Result<Vec<u32>> {
        token_ids(self.present(key)).ok_or_else(|| bad(format!("`{key}` is not a token id or a list of them")))
    }
}

/// One id, a list of ids, or nothing; `None` when it is something else.
pub(super) fn token_ids(value: Option<&Value>) -> Option<Vec<u32>> {
    let one = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::Array(items)) => items.iter().map(one).collect(),
        Some(single) => Some(vec![one(single)?]),
    }
}

#[cfg(test)]
mod tests;
