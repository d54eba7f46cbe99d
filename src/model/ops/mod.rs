//! The operators of one transformer, differentiable, on packed rows: activations are `[T, features]`, T the tokens of several
//! sequences one after the other, without a batch dimension and without padding.
//!
//! Each operator has two forms: [`reference`] composes candle ops and runs anywhere; on the CPU in f32 a kernel with its own
//! backward takes over. In the kernels every output row is the result of the same sequence of float operations whatever
//! the number of rows, its neighbours or the number of threads: a batch of one equals a batch of n bit for bit.
//! An operator uses one thread; parallelism belongs to the callers.

mod segments;

pub mod reference;

pub use segments::Segments;

use candle_core::{Result, Tensor};

/// `x @ w^T + bias`: x `[T, in]`, w `[out, in]`, bias `[out]` -> `[T, out]`.
pub fn linear(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    reference::linear(x, w, bias)
}

/// Rows `ids` (u32, `[T]`) of w `[V, H]` -> `[T, H]`. Also picks rows of activations.
pub fn embedding(w: &Tensor, ids: &Tensor) -> Result<Tensor> {
    reference::embedding(w, ids)
}

/// `x / sqrt(mean(x^2) + eps) * w`: w `[H]`; each row of x holds one or more groups of H features.
pub fn rms_norm(x: &Tensor, w: &Tensor, eps: f64) -> Result<Tensor> {
    reference::rms_norm(x, w, eps)
}

/// Rotary embedding of x `[T, heads * head_dim]`, halves layout (feature i turns with i + head_dim / 2), by the angles whose
/// cosines and sines are given: `[T, head_dim / 2]`, f32.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor, head_dim: usize) -> Result<Tensor> {
    reference::rope(x, cos, sin, head_dim)
}

/// Causal attention inside each segment, scale 1 / sqrt(head_dim): q `[T, heads * head_dim]`, k and v
/// `[T, key_heads * head_dim]` -> `[T, heads * head_dim]`. Query head h reads key head h / (heads / key_heads).
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, segments: &Segments, head_dim: usize) -> Result<Tensor> {
    reference::attention(q, k, v, segments, head_dim)
}

/// `silu(gate) * up`, elementwise.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    reference::swiglu(gate, up)
}

/// Log-prob of each row's target under `softmax(hidden @ head^T)`: hidden `[N, H]`, head `[V, H]` -> `[N]` f32,
/// differentiable; and the entropy of each distribution in nats, detached. Logits exist for a chunk of rows at a time.
pub fn token_logprobs(hidden: &Tensor, head: &Tensor, targets: &[u32]) -> Result<(Tensor, Vec<f32>)> {
    reference::token_logprobs(hidden, head, targets)
}
