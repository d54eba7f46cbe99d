//! The operators of one transformer, differentiable, on packed rows: activations are `[T, features]`, T the tokens of several
//! sequences one after the other, without a batch dimension and without padding.
//!
//! Each operator has two forms: [`reference`] composes candle ops and runs anywhere (on the tape through [`composed`]); on the
//! CPU in f32 a kernel with its own backward takes over. In the kernels every output row is the result of the same sequence of float operations whatever
//! the number of rows, its neighbours or the number of threads: a batch of one equals a batch of n bit for bit.
//! An operator uses one thread; parallelism belongs to the callers.

mod cpu;
mod segments;
mod simd;

pub mod attention;
mod composed;
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
#[cfg(test)]
pub(crate) use cpu::without_kernels;
pub use gemm::PANEL;
pub use linear::{Packed, linear_packed};
pub use segments::Segments;

use composed::Cut;

use candle_core::{Result, Tensor};
use std::ops::Range;

/// Kernels of ours apply to these tensors: f32 on the CPU.
pub fn has_kernels(tensors: &[&Tensor]) -> bool {
    cpu::ready(tensors)
}

/// `x @ w^T + bias`: x `[T, in]`, w `[out, in]`, bias `[out]` -> `[T, out]`.
pub fn linear(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    if cpu::ready(&[x, w]) { linear::linear(x, w, bias) } else { composed::linear(x, w, bias) }
}

/// Rows `ids` (u32, `[T]`) of w `[V, H]` -> `[T, H]`. Also picks rows of activations.
pub fn embedding(w: &Tensor, ids: &Tensor) -> Result<Tensor> {
    if cpu::ready(&[w]) { embedding::embedding(w, ids) } else { composed::embedding(w, ids) }
}

/// `x / sqrt(mean(x^2) + eps) * w`: w `[H]`; each row of x holds one or more groups of H features.
pub fn rms_norm(x: &Tensor, w: &Tensor, eps: f64) -> Result<Tensor> {
    if cpu::ready(&[x, w]) {
        return norm::rms_norm(x, w, eps);
    }
    composed::whole(&[x, w], move |t| reference::rms_norm(&t[0], &t[1], eps))
}

/// Rotary embedding of x `[T, heads * head_dim]`, halves layout (feature i turns with i + head_dim / 2), by the angles whose
/// cosines and sines are given: `[T, head_dim / 2]`, f32.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor, head_dim: usize) -> Result<Tensor> {
    if cpu::ready(&[x, cos, sin]) {
        return rope::rope(x, cos, sin, head_dim);
    }
    composed::whole(&[x, cos, sin], move |t| reference::rope(&t[0], &t[1], &t[2], head_dim))
}

/// Causal attention inside each segment, scale 1 / sqrt(head_dim): q `[T, heads * head_dim]`, k and v
/// `[T, key_heads * head_dim]` -> `[T, heads * head_dim]`. Query head h reads key head h / (heads / key_heads).
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, segments: &Segments, head_dim: usize) -> Result<Tensor> {
    if cpu::ready(&[q, k, v]) {
        return attention::attention(q, k, v, segments, head_dim);
    }
    let t = composed::constants(&[q, k, v]);
    let output = reference::attention(&t[0], &t[1], &t[2], segments, head_dim)?;
    let runs = segments.runs();
    let forward = move |t: &[Tensor], rows: Range<usize>| {
        // A piece is a run: its segments are as long as its first.
        let length = runs.iter().find(|run| run.rows == rows).map_or(rows.len(), |run| run.length);
        reference::attention_of_run(&t[0], &t[1], &t[2], length, head_dim)
    };
    let pieces = segments.runs().into_iter().map(|run| run.rows);
    composed::note(&[q, k, v], &[Cut::Rows; 3], pieces, forward, &output);
    Ok(output)
}

/// `silu(gate) * up`, elementwise.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if cpu::ready(&[gate, up]) {
        return swiglu::swiglu(gate, up);
    }
    composed::whole(&[gate, up], |t| reference::swiglu(&t[0], &t[1]))
}

/// `x + y`, of one shape.
pub fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    tape::add(x, y)
}

/// `factor * x`.
pub fn scale(x: &Tensor, factor: f32) -> Result<Tensor> {
    if cpu::ready(&[x]) {
        return tape::scale(x, factor);
    }
    composed::whole(&[x], move |t| &t[0] * f64::from(factor))
}

/// Log-prob of each row's target under `softmax(hidden @ head^T)`: hidden `[N, H]`, head `[V, H]` -> `[N]` f32,
/// differentiable; and the entropy of each distribution in nats, detached. Logits exist for a chunk at a time.
pub fn token_logprobs(hidden: &Tensor, head: &Tensor, targets: &[u32]) -> Result<(Tensor, Vec<f32>)> {
    if cpu::ready(&[hidden, head]) {
        return logprobs::token_logprobs(hidden, head, targets);
    }
    let t = composed::constants(&[hidden, head]);
    let (log_probs, entropy) = reference::token_logprobs(&t[0], &t[1], targets)?;
    let targets = Tensor::new(targets, hidden.device())?;
    let forward = move |t: &[Tensor], rows: Range<usize>| {
        let targets = targets.narrow(0, rows.start, rows.len())?;
        Ok(reference::logprobs_of_rows(&t[0], &t[1], &targets)?.0)
    };
    let pieces = reference::logit_pieces(hidden.dim(0)?);
    composed::note(&[hidden, head], &[Cut::Rows, Cut::Whole], pieces, forward, &log_probs);
    Ok((log_probs, entropy))
}

/// KL(reference, own) of each row's next-token distributions, nats: own `hidden` `[N, H]` and `head` `[V, H]`, differentiable;
/// the reference's of its own width, frozen -> `[N]` f32.
pub fn reference_kl(hidden: &Tensor, head: &Tensor, reference: (&Tensor, &Tensor)) -> Result<Tensor> {
    if cpu::ready(&[hidden, head, reference.0, reference.1]) {
        return divergence::reference_kl(hidden, head, reference);
    }
    let (other_hidden, other_head) = (reference.0.detach(), reference.1.detach());
    let inputs = [hidden, head, &other_hidden, &other_head];
    let t = composed::constants(&inputs);
    let output = reference::reference_kl(&t[0], &t[1], (&t[2], &t[3]))?;
    let forward = |t: &[Tensor], _: Range<usize>| reference::reference_kl(&t[0], &t[1], (&t[2], &t[3]));
    let pieces = reference::logit_pieces(hidden.dim(0)?);
    composed::note(&inputs, &[Cut::Rows, Cut::Whole, Cut::Rows, Cut::Whole], pieces, forward, &output);
    Ok(output)
}

/// Entropy of the k likeliest next tokens, renormalised, of each row, in nats; detached.
pub fn top_entropy(hidden: &Tensor, head: &Tensor, k: usize) -> Result<Vec<f32>> {
    if cpu::ready(&[hidden, head]) {
        divergence::top_entropy(hidden, head, k)
    } else {
        reference::top_entropy(hidden, head, k)
    }
}
