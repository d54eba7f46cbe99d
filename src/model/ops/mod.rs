//! The operators of one transformer, differentiable, on packed rows: activations are `[T, features]`, T the tokens of several
//! sequences one after the other, without a batch dimension and without padding.
//!
//! Each operator has two forms: [`reference`] composes candle ops and runs anywhere; on the CPU in f32 a kernel with its own
//! backward takes over. In the kernels every output row is the result of the same sequence of float operations whatever
//! the number of rows, its neighbours or the number of threads: a batch of one equals a batch of n bit for bit.
//! An operator uses one thread; parallelism belongs to the callers.

mod cpu;
mod segments;
mod simd;

pub mod attention;
pub mod divergence;
pub mod embedding;
pub mod gemm;
pub mod linear;
pub mod logprobs;
pub mod norm;
pub mod reference;
pub mod rope;
pub mod sampling;
pub mod swiglu;
pub mod tape;

#[cfg(test)]
mod tests;

pub use attention::{KeyValues, Queries, Visible, attend};
pub use gemm::PANEL;
pub use linear::{Packed, linear_packed};
pub use segments::Segments;

use candle_core::{Result, Tensor};

/// `x @ w^T + bias`: x `[T, in]`, w `[out, in]`, bias `[out]` -> `[T, out]`.
pub fn linear(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    if cpu::ready(&[x, w]) { linear::linear(x, w, bias) } else { reference::linear(x, w, bias) }
}

/// Rows `ids` (u32, `[T]`) of w `[V, H]` -> `[T, H]`. Also picks rows of activations.
pub fn embedding(w: &Tensor, ids: &Tensor) -> Result<Tensor> {
    if cpu::ready(&[w]) { embedding::embedding(w, ids) } else { reference::embedding(w, ids) }
}

/// `x / sqrt(mean(x^2) + eps) * w`: w `[H]`; each row of x holds one or more groups of H features.
pub fn rms_norm(x: &Tensor, w: &Tensor, eps: f64) -> Result<Tensor> {
    if cpu::ready(&[x, w]) { norm::rms_norm(x, w, eps) } else { reference::rms_norm(x, w, eps) }
}

/// Rotary embedding of x `[T, heads * head_dim]`, halves layout (feature i turns with i + head_dim / 2), by the angles whose
/// cosines and sines are given: `[T, head_dim / 2]`, f32.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor, head_dim: usize) -> Result<Tensor> {
    if cpu::ready(&[x, cos, sin]) { rope::rope(x, cos, sin, head_dim) } else { reference::rope(x, cos, sin, head_dim) }
}

/// Causal attention inside each segment, scale 1 / sqrt(head_dim): q `[T, heads * head_dim]`, k and v
/// `[T, key_heads * head_dim]` -> `[T, heads * head_dim]`. Query head h reads key head h / (heads / key_heads).
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, segments: &Segments, head_dim: usize) -> Result<Tensor> {
    if cpu::ready(&[q, k, v]) {
        attention::attention(q, k, v, segments, head_dim)
    } else {
        reference::attention(q, k, v, segments, head_dim)
    }
}

/// `silu(gate) * up`, elementwise.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if cpu::ready(&[gate, up]) { swiglu::swiglu(gate, up) } else { reference::swiglu(gate, up) }
}

/// `x + y`, of one shape.
pub fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    if cpu::ready(&[x, y]) { tape::add(x, y) } else { x + y }
}

/// `factor * x`.
pub fn scale(x: &Tensor, factor: f32) -> Result<Tensor> {
    if cpu::ready(&[x]) { tape::scale(x, factor) } else { x * f64::from(factor) }
}

/// Log-prob of each row's target under `softmax(hidden @ head^T)`: hidden `[N, H]`, head `[V, H]` -> `[N]` f32,
/// differentiable; and the entropy of each distribution in nats, detached. Logits exist for a chunk at a time.
pub fn token_logprobs(hidden: &Tensor, head: &Tensor, targets: &[u32]) -> Result<(Tensor, Vec<f32>)> {
    if cpu::ready(&[hidden, head]) {
        logprobs::token_logprobs(hidden, head, targets)
    } else {
        reference::token_logprobs(hidden, head, targets)
    }
}

/// KL(reference, own) of each row's next-token distributions, nats: own `hidden` `[N, H]` and `head` `[V, H]`, differentiable;
/// the reference's of its own width, frozen -> `[N]` f32.
pub fn reference_kl(hidden: &Tensor, head: &Tensor, reference: (&Tensor, &Tensor)) -> Result<Tensor> {
    if cpu::ready(&[hidden, head, reference.0, reference.1]) {
        divergence::reference_kl(hidden, head, reference)
    } else {
        reference::reference_kl(hidden, head, reference)
    }
}

/// Entropy of the k likeliest next tokens, renormalised, of each row, in nats; detached.
pub fn top_entropy(hidden: &Tensor, head: &Tensor, k: usize) -> Result<Vec<f32>> {
    if cpu::ready(&[hidden, head]) {
        divergence::top_entropy(hidden, head, k)
    } else {
        reference::top_entropy(hidden, head, k)
    }
}
