//! What a checkpoint's `config.json` says about the transformer: one flat description of every family.
//!
//! Read from bytes and checked once. An unknown architecture, or a feature that would change the numbers and is not
//! implemented, is refused: a forward pass that is silently slightly wrong is the worst result there is.

mod fields;
mod read;
mod rope;
mod text_part;

pub use rope::{Rope, RopeScaling};
pub use text_part::text_part;
pub(super) use text_part::{is_of_text_part, text_tensor};

use fields::bad;
use mindgap_base::error::Result;
use serde_json::Value;

/// The families implemented here; what they differ in are fields of [`Config`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    Qwen2,
    Qwen3,
    Llama,
    Mistral,
    Gemma2,
    Gemma3,
    Phi3,
    SmolLm3,
    Olmo2,
    Olmo3,
    Granite,
}

impl Architecture {
    const ALL: [Architecture; 11] = [
        Architecture::Qwen2,
        Architecture::Qwen3,
        Architecture::Llama,
        Architecture::Mistral,
        Architecture::Gemma2,
        Architecture::Gemma3,
        Architecture::Phi3,
        Architecture::SmolLm3,
        Architecture::Olmo2,
        Architecture::Olmo3,
        Architecture::Granite,
    ];

    /// `model_type` in config.json.
    pub fn model_type(self) -> &'static str {
        match self {
            Architecture::Qwen2 => "qwen2",
            Architecture::Qwen3 => "qwen3",
            Architecture::Llama => "llama",
            Architecture::Mistral => "mistral",
            Architecture::Gemma2 => "gemma2",
            Architecture::Gemma3 => "gemma3_text",
            Architecture::Phi3 => "phi3",
            Architecture::SmolLm3 => "smollm3",
            Architecture::Olmo2 => "olmo2",
            Architecture::Olmo3 => "olmo3",
            Architecture::Granite => "granite",
        }
    }

    /// The entry of `architectures` in config.json.
    pub fn class_name(self) -> &'static str {
        match self {
            Architecture::Qwen2 => "Qwen2ForCausalLM",
            Architecture::Qwen3 => "Qwen3ForCausalLM",
            Architecture::Llama => "LlamaForCausalLM",
            Architecture::Mistral => "MistralForCausalLM",
            Architecture::Gemma2 => "Gemma2ForCausalLM",
            Architecture::Gemma3 => "Gemma3ForCausalLM",
            Architecture::Phi3 => "Phi3ForCausalLM",
            Architecture::SmolLm3 => "SmolLM3ForCausalLM",
            Architecture::Olmo2 => "Olmo2ForCausalLM",
            Architecture::Olmo3 => "Olmo3ForCausalLM",
            Architecture::Granite => "GraniteForCausalLM",
        }
    }
}

/// The function of the feed-forward's gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    Silu,
    /// GELU by its tanh approximation.
    GeluTanh,
}

/// Where a block's RMS norms stand: before attention and feed-forward, after them (before their sum with the residual), or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norms {
    Before,
    After,
    Both,
}

/// What the RMS norms of queries and keys go over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    None,
    /// Each head by itself.
    Heads,
    /// All heads together.
    Whole,
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
    /// That of windowed layers, where it is another one.
    pub local_rope: Option<Rope>,
    /// Share of a head's features that turn, the first ones.
    pub rotary_share: f64,
    /// Layers whose queries and keys do not turn.
    pub unrotated_layers: Vec<usize>,
    /// Layers in which a token sees the last `window` tokens only, itself among them.
    pub windowed_layers: Vec<usize>,
    pub window: usize,
    pub tie_word_embeddings: bool,
    /// Bias on the query, key and value projections.
    pub qkv_bias: bool,
    /// Bias on the attention output projection.
    pub output_bias: bool,
    /// Bias on the three feed-forward projections.
    pub mlp_bias: bool,
    /// RMS norms of queries and keys before the rotation.
    pub qk_norm: QkNorm,
    pub norms: Norms,
    /// Norms multiply by 1 and their weight.
    pub norm_offset: bool,
    pub activation: Activation,
    /// Query, key and value projections are one tensor, gate and up another.
    pub fused_projections: bool,
    /// Scores are multiplied by it; `1 / sqrt(head_dim)` where nothing is said.
    pub attention_scale: Option<f64>,
    /// Scores are bounded by it.
    pub attention_softcap: Option<f32>,
    /// Logits are bounded by it.
    pub logit_softcap: Option<f32>,
    /// Embeddings are multiplied by it.
    pub embedding_scale: f32,
    /// What a block adds to the residual is multiplied by it.
    pub residual_scale: f32,
    /// Logits are multiplied by it, before they are bounded.
    pub logit_scale: f32,
    pub bos_token_id: Option<u32>,
    /// From config.json; `generation_config.json` has precedence (see `policy`).
    pub eos_token_ids: Vec<u32>,
    /// Standard deviation of random initial weights.
    pub initializer_range: f64,
}

impl Config {
    /// Reads config.json; of a checkpoint that also sees images its text part. Errors: not JSON, an architecture or feature not
    /// implemented, a missing or impossible number.
    pub fn from_json(bytes: &[u8]) -> Result<Config> {
        match text_part(bytes)? {
            Some(text) => read::config(&text),
            None => read::config(bytes),
        }
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
        if !(self.rotary_share > 0.0 && self.rotary_share <= 1.0) {
            return Err(bad(format!("`partial_rotary_factor` {} is not between 0 and 1", self.rotary_share)));
        }
        if !self.rotary_dim().is_multiple_of(2) || self.rotary_dim() == 0 {
            let (head, turned) = (self.head_dim, self.rotary_dim());
            return Err(bad(match head == turned {
                true => format!("`head_dim` {head} is odd; rotary embedding needs pairs"),
                false => format!("{turned} of {head} features of a head turn; rotary embedding needs pairs"),
            }));
        }
        if !(self.rms_norm_eps.is_finite() && self.rms_norm_eps >= 0.0) {
            return Err(bad(format!("`rms_norm_eps` {} is not a small positive number", self.rms_norm_eps)));
        }
        self.ropes().try_for_each(|rope| rope.check(self.rotary_dim()))
    }

    /// Columns of all query heads together.
    pub fn query_width(&self) -> usize {
        self.head_count * self.head_dim
    }

    /// Columns of all key (or value) heads together.
    pub fn kv_width(&self) -> usize {
        self.kv_head_count * self.head_dim
    }

    /// Features of a head that turn.
    pub fn rotary_dim(&self) -> usize {
        (self.head_dim as f64 * self.rotary_share) as usize
    }

    /// Rotary embeddings: one, or that of layers without a window and that of the others.
    pub fn ropes(&self) -> impl Iterator<Item = &Rope> {
        std::iter::once(&self.rope).chain(&self.local_rope)
    }

    /// Keys that a token of a layer sees, where it does not see all before it.
    pub fn window_of(&self, layer: usize) -> Option<usize> {
        (self.windowed_layers.contains(&layer) && self.window < self.max_positions).then_some(self.window)
    }

    /// Which of [`Config::ropes`] a layer turns by, if it turns.
    pub fn rope_of(&self, layer: usize) -> Option<usize> {
        let local = self.local_rope.is_some() && self.windowed_layers.contains(&layer);
        (!self.unrotated_layers.contains(&layer)).then_some(usize::from(local))
    }

    /// A text of so many tokens turns by the frequencies for long ones.
    pub fn is_long(&self, tokens: usize) -> bool {
        self.rope.border().is_some_and(|border| tokens > border)
    }

    /// Tokens of the longest text that goes on after a beginning of so many tokens. One that begins below the border of long
    /// texts ends there: behind it all of its keys would be others.
    pub fn longest_after(&self, tokens: usize) -> usize {
        match self.rope.border() {
            Some(border) if tokens < border => border.min(self.max_positions),
            _ => self.max_positions,
        }
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
