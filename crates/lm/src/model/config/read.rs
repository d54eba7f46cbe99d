//! config.json, read and refused.
//!
//! transformers fills in what a file does not say by the class of its `model_type`; so do the defaults here. What would
//! change the numbers and is not implemented is refused by its name: unknown kinds, keys of other families, two places that
//! contradict each other.

use super::fields::{FILE, Fields, bad};
use super::rope::{self, Rope, Source};
use super::{Activation, Architecture, Config, Norms, QkNorm};
use Architecture::{Gemma2, Gemma3, Granite, Llama, Mistral, Olmo2, Olmo3, Phi3, Qwen2, Qwen3, SmolLm3};
use mindgap_base::error::{Error, Result};
use serde_json::Value;

pub(super) fn config(bytes: &[u8]) -> Result<Config> {
    let value: Value =
        serde_json::from_slice(bytes).map_err(|e| Error::input("config is not valid JSON").at(FILE).source(e))?;
    let fields = Fields(value.as_object().ok_or_else(|| bad("config is not a JSON object"))?);
    let architecture = architecture(&fields)?;
    refuse_foreign(&fields, architecture)?;
    let hidden_size = fields.size_up_to("hidden_size", 1 << 20)?;
    let head_count = fields.size("num_attention_heads")?;
    let layer_count = fields.size_up_to("num_hidden_layers", 10_000)?;
    let max_positions = fields.size("max_position_embeddings")?;
    let gemma = matches!(architecture, Gemma2 | Gemma3);
    let bias = fields.flag("attention_bias", false)?;
    let (rope, local_rope, rotary_share) = ropes(&fields, architecture, max_positions)?;
    let (windowed_layers, window) = windows(&fields, architecture, layer_count, max_positions)?;
    let config = Config {
        architecture,
        vocab_size: fields.size_up_to("vocab_size", 1 << 26)?,
        hidden_size,
        intermediate_size: fields.size_up_to("intermediate_size", 1 << 24)?,
        layer_count,
        head_count,
        kv_head_count: fields.optional_size("num_key_value_heads")?.unwrap_or(match architecture {
            Gemma2 | Gemma3 | SmolLm3 => 4,
            Mistral => 8,
            _ => head_count,
        }),
        head_dim: fields.optional_size("head_dim")?.unwrap_or(match architecture {
            Qwen3 => 128,
            Gemma2 | Gemma3 => 256,
            _ => hidden_size / head_count,
        }),
        max_positions,
        rms_norm_eps: fields
            .number("rms_norm_eps", Some(if matches!(architecture, Phi3 | Olmo2 | Olmo3) { 1e-5 } else { 1e-6 }))?,
        rope,
        local_rope: local_rope.filter(|_| !windowed_layers.is_empty()),
        rotary_share,
        unrotated_layers: unrotated(&fields, architecture, layer_count)?,
        windowed_layers,
        window,
        tie_word_embeddings: fields.flag("tie_word_embeddings", gemma || architecture == SmolLm3)?,
        qkv_bias: bias || architecture == Qwen2,
        output_bias: bias && architecture != Qwen2,
        mlp_bias: fields.flag("mlp_bias", false)?,
        qk_norm: match architecture {
            Qwen3 | Gemma3 => QkNorm::Heads,
            Olmo2 | Olmo3 => QkNorm::Whole,
            _ => QkNorm::None,
        },
        norms: match architecture {
            Gemma2 | Gemma3 => Norms::Both,
            Olmo2 | Olmo3 => Norms::After,
            _ => Norms::Before,
        },
        norm_offset: gemma,
        activation: activation(&fields, architecture)?,
        fused_projections: architecture == Phi3,
        attention_scale: match architecture {
            Gemma2 | Gemma3 => Some(fields.positive("query_pre_attn_scalar", 256.0)?.powf(-0.5)),
            Granite => Some(fields.positive("attention_multiplier", 1.0)?),
            _ => None,
        },
        attention_softcap: fields.softcap("attn_logit_softcapping", (architecture == Gemma2).then_some(50.0))?,
        logit_softcap: fields.softcap("final_logit_softcapping", (architecture == Gemma2).then_some(30.0))?,
        embedding_scale: match gemma {
            true => (hidden_size as f64).sqrt() as f32,
            false => fields.positive("embedding_multiplier", 1.0)? as f32,
        },
        residual_scale: fields.positive("residual_multiplier", 1.0)? as f32,
        logit_scale: (1.0 / fields.positive("logits_scaling", 1.0)?) as f32,
        bos_token_id: fields.token_ids("bos_token_id")?.first().copied(),
        eos_token_ids: fields.token_ids("eos_token_id")?,
        initializer_range: fields.number("initializer_range", Some(0.02))?,
    };
    if architecture == Gemma3 && config.attention_softcap.is_some() {
        return Err(bad("`attn_logit_softcapping` of a Gemma 3 is said, and transformers does not apply it"));
    }
    config.check()?;
    Ok(config)
}

fn architecture(fields: &Fields) -> Result<Architecture> {
    let model_type = fields.text("model_type");
    let class = fields.0.get("architectures").and_then(|v| v.get(0)).and_then(Value::as_str);
    // A class that is not a plain causal language model (a classifier, an embedding model) has another head.
    let found = match class {
        Some(class) => Architecture::ALL.into_iter().find(|a| a.class_name() == class),
        None => Architecture::ALL.into_iter().find(|a| Some(a.model_type()) == model_type),
    };
    if let Some(found) = found {
        return match model_type {
            Some(model_type) if model_type != found.model_type() => {
                Err(bad(format!("`model_type` is `{model_type}`, and `architectures` names `{}`", found.class_name())))
            }
            _ => Ok(found),
        };
    }
    let error = bad(format!("unknown architecture `{}`", class.or(model_type).unwrap_or("(none named)")));
    let known = Architecture::ALL.map(|a| format!("`{}`", a.class_name())).join(", ");
    Err(error.hint(format!("implemented: {known}")))
}

/// Keys that change the arithmetic of some family, the value that leaves it alone, and the families that read them here.
const KEYS: &[(&str, Neutral, &[Architecture])] = &[
    ("quantization_config", Neutral::Absent, &[]),
    ("attention_bias", Neutral::Off, &[Qwen3, Llama, Gemma2, Gemma3, SmolLm3, Olmo2, Olmo3, Granite]),
    ("mlp_bias", Neutral::Off, &[Llama, SmolLm3, Granite]),
    ("attn_logit_softcapping", Neutral::Absent, &[Gemma2, Gemma3]),
    ("final_logit_softcapping", Neutral::Absent, &[Gemma2, Gemma3]),
    ("query_pre_attn_scalar", Neutral::Absent, &[Gemma2, Gemma3]),
    ("embedding_multiplier", Neutral::One, &[Granite]),
    ("attention_multiplier", Neutral::Absent, &[Granite]),
    ("residual_multiplier", Neutral::One, &[Granite]),
    ("logits_scaling", Neutral::One, &[Granite]),
    ("no_rope_layers", Neutral::Ones, &[SmolLm3]),
    ("partial_rotary_factor", Neutral::One, &[Phi3]),
    ("use_bidirectional_attention", Neutral::Off, &[]),
    ("use_qk_norm", Neutral::Off, &[]),
    ("clip_qkv", Neutral::Absent, &[]),
    ("logit_scale", Neutral::One, &[]),
    ("attention_chunk_size", Neutral::Absent, &[]),
    ("kv_lora_rank", Neutral::Absent, &[]),
    ("num_experts", Neutral::Off, &[]),
    ("num_local_experts", Neutral::Off, &[]),
    ("n_routed_experts", Neutral::Off, &[]),
    ("parallel_attn", Neutral::Off, &[]),
    ("alibi", Neutral::Off, &[]),
    ("rope_interleaved", Neutral::Off, &[]),
    ("lm_head_bias", Neutral::Off, &[]),
    ("use_mrope", Neutral::Off, &[]),
    ("resid_pdrop", Neutral::Off, &[]),
    ("embd_pdrop", Neutral::Off, &[]),
];

/// What leaves the arithmetic alone; a key that is absent always does.
#[derive(Clone, Copy, PartialEq)]
enum Neutral {
    Absent,
    /// False, or nought.
    Off,
    One,
    /// A list of ones.
    Ones,
}

impl Neutral {
    fn is(self, value: &Value) -> bool {
        match self {
            Neutral::Absent => false,
            Neutral::Off => value.as_bool() == Some(false) || value.as_f64() == Some(0.0),
            Neutral::One => value.as_f64() == Some(1.0),
            Neutral::Ones => value.as_array().is_some_and(|list| list.iter().all(|one| one.as_f64() == Some(1.0))),
        }
    }
}

fn refuse_foreign(fields: &Fields, architecture: Architecture) -> Result<()> {
    if let Some(quantization) = fields.present("quantization_config") {
        let method = quantization.get("quant_method").and_then(Value::as_str).unwrap_or("unknown");
        return Err(bad(format!("weights are quantized (`{method}`)")).hint("use the f32, bf16 or f16 checkpoint"));
    }
    for (key, neutral, readers) in KEYS {
        let Some(value) = fields.present(key) else { continue };
        // Qwen2 has its biases whatever the key says.
        let read = readers.contains(&architecture) || (*key == "attention_bias" && architecture == Qwen2);
        if !read && !neutral.is(value) {
            let class = architecture.class_name();
            return Err(bad(format!("`{key}` is `{value}`, which is not implemented for `{class}`")));
        }
    }
    Ok(())
}

fn activation(fields: &Fields, architecture: Architecture) -> Result<Activation> {
    let gemma = matches!(architecture, Gemma2 | Gemma3);
    // Gemma's older files say `hidden_act` too, and transformers goes by the other key.
    let (key, usual) = if gemma { ("hidden_activation", "gelu_pytorch_tanh") } else { ("hidden_act", "silu") };
    match fields.text(key).unwrap_or(usual) {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
        other => {
            Err(bad(format!("activation `{other}` is not implemented"))
                .hint("implemented: `silu`, `gelu_pytorch_tanh`"))
        }
    }
}

/// The embedding of all layers, or of those without a window; another for those with one; and the share of a head that turns.
fn ropes(fields: &Fields, architecture: Architecture, max_positions: usize) -> Result<(Rope, Option<Rope>, f64)> {
    let table = rope::table(fields)?;
    let theta = fields.number(
        "rope_theta",
        Some(match architecture {
            SmolLm3 => 2e6,
            Olmo3 => 5e5,
            Gemma3 => 1e6,
            _ => 1e4,
        }),
    )?;
    let source = |table| Source { theta, max_positions, original: None, phi: architecture == Phi3, share: 1.0, table };
    let local_theta = match architecture {
        Gemma3 => fields.number("rope_local_base_freq", Some(1e4))?,
        _ => theta,
    };
    let named = |key: &str| table.as_ref().and_then(|t| t.present(key)).and_then(Value::as_object).map(Fields);
    let (full, local) = (named("full_attention"), named("sliding_attention"));
    if full.is_some() || local.is_some() {
        if !matches!(architecture, Gemma3 | Olmo3) {
            return Err(bad(format!(
                "`rope_parameters` by kind of layer are not those of `{}`",
                architecture.class_name()
            )));
        }
        let (full, share) = source(full).read()?;
        let (local, _) = Source { theta: local_theta, ..source(local) }.read()?;
        return finished(full, Some(local), share);
    }
    if let Some(inside) = table.as_ref().and_then(|t| t.present("rope_theta"))
        && let Some(beside) = fields.present("rope_theta")
        && inside.as_f64() != beside.as_f64()
    {
        return Err(bad(format!("`rope_theta` is {beside} in one place and {inside} in another")));
    }
    let original = fields.optional_size("original_max_position_embeddings")?.filter(|_| architecture == Phi3);
    let share = fields.number("partial_rotary_factor", Some(1.0))?;
    let (full, share) = Source { original, share, ..source(table) }.read()?;
    if share != 1.0 && architecture != Phi3 {
        let class = architecture.class_name();
        return Err(bad(format!("`partial_rotary_factor` is `{share}`, which is not implemented for `{class}`")));
    }
    let local = matches!(architecture, Gemma3 | Olmo3)
        .then(|| Rope::plain(if architecture == Olmo3 { full.theta } else { local_theta }));
    finished(full, local, share)
}

fn finished(full: Rope, local: Option<Rope>, share: f64) -> Result<(Rope, Option<Rope>, f64)> {
    match local {
        Some(local) if local.border().is_some() => {
            Err(bad("RoPE scaling `longrope` of windowed layers is not implemented"))
        }
        local => Ok((full.clone(), local.filter(|local| *local != full), share)),
    }
}

/// The layers that see a window, and how many keys it holds. A window that no text outgrows is none.
fn windows(
    fields: &Fields,
    architecture: Architecture,
    layer_count: usize,
    max_positions: usize,
) -> Result<(Vec<usize>, usize)> {
    let usual = matches!(architecture, Gemma2 | Gemma3 | Olmo3 | Mistral | Qwen2 | Qwen3).then_some(4096);
    let window = match fields.0.contains_key("sliding_window") {
        true => fields.optional_size("sliding_window")?,
        false => usual,
    };
    let reads_types = matches!(architecture, Qwen2 | Qwen3 | Gemma2 | Gemma3 | Olmo3 | SmolLm3);
    let switch = match architecture {
        Qwen2 | Qwen3 | SmolLm3 => fields.flag("use_sliding_window", false)?,
        Llama | Olmo2 | Granite => false,
        _ => true,
    };
    let stride = match architecture {
        Gemma2 => 2,
        Olmo3 => 4,
        _ => fields.optional_size("sliding_window_pattern")?.unwrap_or(6),
    };
    let first = fields.number("max_window_layers", Some(28.0))? as usize;
    let unrotated = unrotated(fields, architecture, layer_count)?;
    let by_rule = |layer: usize| match architecture {
        Gemma2 | Gemma3 | Olmo3 => !(layer + 1).is_multiple_of(stride),
        Qwen2 | Qwen3 => layer >= first,
        SmolLm3 => unrotated.contains(&layer),
        _ => true,
    };
    let listed = match fields.present("layer_types") {
        None => None,
        Some(types) => Some(layer_types(types, layer_count)?),
    };
    if let Some(listed) = &listed {
        let pattern = fields.present("sliding_window_pattern").is_some() && architecture == Gemma3;
        let contradicted = if reads_types {
            (listed.iter().any(|windowed| *windowed) && !switch && window.is_none_or(|w| w < max_positions))
                || (pattern && (0..layer_count).any(|layer| listed[layer] != by_rule(layer)))
        } else {
            let all = switch && window.is_some_and(|w| w < max_positions);
            listed.iter().any(|windowed| *windowed != all)
        };
        if contradicted {
            return Err(bad("`layer_types` and the keys of the sliding window contradict each other")
                .hint("`layer_types` names the layers that `sliding_window` applies to"));
        }
    }
    let windowed = |layer: &usize| switch && listed.as_ref().map_or_else(|| by_rule(*layer), |list| list[*layer]);
    let layers: Vec<usize> = (0..layer_count).filter(windowed).collect();
    match window {
        Some(window) if window < max_positions => Ok((layers, window)),
        // Gemma 3's windowed layers also turn by frequencies of their own.
        _ if matches!(architecture, Gemma3 | Olmo3) => Ok((layers, max_positions)),
        _ => Ok((Vec::new(), max_positions)),
    }
}

fn layer_types(types: &Value, layer_count: usize) -> Result<Vec<bool>> {
    let list = types.as_array().ok_or_else(|| bad("`layer_types` is not a list"))?;
    if list.len() != layer_count {
        return Err(bad(format!("`layer_types` names {} layers of {layer_count}", list.len())));
    }
    list.iter()
        .map(|kind| match kind.as_str() {
            Some("full_attention") => Ok(false),
            Some("sliding_attention") => Ok(true),
            _ => Err(bad(format!("layers of type `{}` are not implemented", kind.as_str().unwrap_or("(no text)")))),
        })
        .collect()
}

/// Layers without a rotary embedding.
fn unrotated(fields: &Fields, architecture: Architecture, layer_count: usize) -> Result<Vec<usize>> {
    if architecture != SmolLm3 {
        return Ok(Vec::new());
    }
    let Some(list) = fields.present("no_rope_layers") else {
        let stride = fields.optional_size("no_rope_layer_interval")?.unwrap_or(4);
        return Ok((0..layer_count).filter(|layer| (layer + 1).is_multiple_of(stride)).collect());
    };
    // A one says that a layer has the embedding.
    let list: Option<Vec<bool>> = list
        .as_array()
        .and_then(|list| list.iter().map(|one| one.as_u64().filter(|one| *one < 2).map(|one| one == 0)).collect());
    match list {
        Some(list) if list.len() >= layer_count => Ok((0..layer_count).filter(|layer| list[*layer]).collect()),
        _ => Err(bad(format!("`no_rope_layers` is not a list of a 0 or 1 for each of {layer_count} layers"))),
    }
}
