//! The operators of one transformer, differentiable, on packed rows: activations are `[T, features]`, T the tokens of several
//! sequences one after the other, without a batch dimension and without padding.
//!
//! Each operator has two forms: [`mod@reference`] composes candle ops and runs anywhere (on the tape through [`composed`]); on the
//! CPU, where activations are f32, a kernel with its own backward takes over. In the kernels every output row is the result of the same sequence of float operations whatever
//! the number of rows, its neighbours or the number of threads: a batch of one equals a batch of n bit for bit.
//! Where micro-batches run side by side an operator uses one thread, else it may share its rows among several ([`wide`]).

mod cpu;
pub mod isa;
mod segments;
pub(crate) mod simd;

mod adapted;
pub mod attention;
mod composed;
pub mod divergence;
pub mod embedding;
mod factor;
pub mod gated;
pub mod gemm;
pub mod linear;
pub mod lines;
pub mod logprobs;
pub mod norm;
pub mod reference;
pub mod rope;
pub mod sampling;
pub mod tape;
pub mod team;
pub mod top;
pub mod weight;
pub mod wide;

#[cfg(test)]
mod tests;

pub use adapted::Adapter;
pub use attention::{Heads, KeyValues, Queries, Scratch as AttentionScratch, Visible, attend};
#[cfg(test)]
pub(crate) use cpu::without_kernels;
pub use factor::Matrix;
pub use gemm::PANEL;
pub use segments::Segments;
pub use weight::{Weight, WeightType};

use composed::Cut;

use candle_core::{DType, Device, Result, Shape, Tensor, bail};
use std::ops::Range;

/// What logits are made with.
#[derive(Clone)]
pub struct Head {
    /// `[vocab_size, hidden_size]`.
    pub weight: Tensor,
    /// Logits are bounded by it: `cap * tanh(x / cap)`.
    pub softcap: Option<f32>,
    /// What the factors of products are; see [`linear()`].
    pub products: DType,
}

impl Head {
    /// Without a bound, in f32.
    pub fn plain(weight: &Tensor) -> Head {
        Head { weight: weight.clone(), softcap: None, products: DType::F32 }
    }

    /// The same with another tensor in place of the weight.
    fn with(&self, weight: &Tensor) -> Head {
        Head { weight: weight.clone(), ..*self }
    }

    fn detached(&self) -> Head {
        self.with(&self.weight.detach())
    }
}

/// Kernels of ours apply to these tensors: f32 on the CPU.
pub fn has_kernels(tensors: &[&Tensor]) -> bool {
    cpu::ready(tensors)
}

/// `x @ w^T + bias`: x `[T, in]`, w `[out, in]`, bias `[out]` -> `[T, out]`, in the type of x.
///
/// Where `products` is bf16 and the processor has dot products of it, a kernel rounds the factors of this product and of its
/// gradients to bf16 and sums in f32.
pub fn linear(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, products: DType) -> Result<Tensor> {
    match cpu::ready(&[x]) && cpu::holds(w) {
        true => linear::linear(x, w, bias, products),
        false => composed::linear(x, w, bias),
    }
}

/// A projection with an adapter: [`linear()`] and `scale * (x @ a^T) @ b^T`.
pub fn adapted(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, adapter: &Adapter, products: DType) -> Result<Tensor> {
    let Adapter { a, b, scale: factor } = adapter;
    let on_graph = !tape::is_recording() && [x, w, a, b].into_iter().any(Tensor::track_op);
    if cpu::ready(&[x, a, b]) && cpu::holds(w) && !on_graph {
        return adapted::adapted(x, w, bias, adapter, products);
    }
    let narrow = scale(&linear(x, a, None, products)?, *factor)?;
    add(&linear(x, w, bias, products)?, &linear(&narrow, b, None, products)?)
}

/// The type of activations of a model whose products have this type: kernels keep them in f32.
pub fn activation_type(products: DType, device: &Device) -> DType {
    if cpu::are_on(device) { DType::F32 } else { products }
}

/// The type of norms and biases of a model whose matrices are held in this one.
pub fn vector_type(held: DType, device: &Device) -> DType {
    if cpu::are_on(device) { DType::F32 } else { held }
}

/// x in another type.
pub fn cast(x: &Tensor, dtype: DType) -> Result<Tensor> {
    if x.dtype() == dtype { Ok(x.clone()) } else { composed::whole(&[x], move |t| t[0].to_dtype(dtype)) }
}

/// Rows `ids` (u32, `[T]`) of w `[V, H]` -> `[T, H]`. Also picks rows of activations.
pub fn embedding(w: &Tensor, ids: &Tensor) -> Result<Tensor> {
    if cpu::holds(w) { embedding::embedding(w, ids) } else { composed::embedding(w, ids) }
}

/// Columns of x, `[T, columns.len()]`.
pub fn columns(x: &Tensor, columns: Range<usize>) -> Result<Tensor> {
    composed::whole(&[x], move |t| t[0].narrow(1, columns.start, columns.len())?.contiguous())
}

/// `w + 1`, in f32: what norms with an offset multiply by.
pub fn add_one(w: &Tensor) -> Result<Tensor> {
    composed::whole(&[w], |t| t[0].to_dtype(DType::F32)? + 1.0)
}

/// `x / sqrt(mean(x^2) + eps) * w`: w `[H]`; each row of x holds one or more groups of H features.
pub fn rms_norm(x: &Tensor, w: &Tensor, eps: f64) -> Result<Tensor> {
    if cpu::ready(&[x, w]) {
        return norm::rms_norm(x, w, eps);
    }
    composed::whole(&[x, w], move |t| reference::rms_norm(&t[0], &t[1], eps))
}

/// Rotary embedding of x `[T, heads * head_dim]`, by the angles whose cosines and sines are given: `[T, pairs]`, f32. Halves
/// layout: feature i of a head turns with i + pairs; those from 2 pairs on do not turn.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor, head_dim: usize) -> Result<Tensor> {
    if cpu::ready(&[x, cos, sin]) {
        return rope::rope(x, cos, sin, head_dim);
    }
    composed::whole(&[x, cos, sin], move |t| reference::rope(&t[0], &t[1], &t[2], head_dim))
}

/// Causal attention inside each segment: q `[T, heads * head_dim]`, k and v `[T, key_heads * head_dim]` ->
/// `[T, heads * head_dim]`. Query head h reads key head h / (heads / key_heads).
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, segments: &Segments, heads: Heads) -> Result<Tensor> {
    if cpu::ready(&[q, k, v]) {
        return attention::attention(q, k, v, segments, heads);
    }
    let t = composed::constants(&[q, k, v]);
    let output = reference::attention(&t[0], &t[1], &t[2], segments, heads)?;
    let runs = segments.runs();
    let forward = move |t: &[Tensor], rows: Range<usize>| {
        // A piece is a run: its segments are as long as its first.
        let length = runs.iter().find(|run| run.rows == rows).map_or(rows.len(), |run| run.length);
        reference::attention_of_run(&t[0], &t[1], &t[2], length, heads)
    };
    let pieces = segments.runs().into_iter().map(|run| run.rows);
    composed::note(&[q, k, v], &[Cut::Rows; 3], pieces, forward, &output);
    Ok(output)
}

/// `silu(gate) * up`, elementwise.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if cpu::ready(&[gate, up]) {
        return gated::gated(gate, up, gated::Gate::Silu);
    }
    composed::whole(&[gate, up], |t| reference::swiglu(&t[0], &t[1]))
}

/// `gelu(gate) * up`, elementwise, GELU by its tanh approximation.
pub fn geglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if cpu::ready(&[gate, up]) {
        return gated::gated(gate, up, gated::Gate::Gelu);
    }
    composed::whole(&[gate, up], |t| reference::geglu(&t[0], &t[1]))
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

/// Log-prob of each row's target under the softmax of the head's logits: hidden `[N, H]`, head `[V, H]` -> `[N]` f32,
/// differentiable; and the entropy of each distribution in nats, detached. Logits exist for a chunk at a time.
pub fn token_logprobs(hidden: &Tensor, head: &Head, targets: &[u32]) -> Result<(Tensor, Vec<f32>)> {
    if targets.len() != hidden.dim(0)? {
        bail!("{} targets for {} rows", targets.len(), hidden.dim(0)?);
    }
    logprobs_of(hidden, head, targets, targets.len().into())
}

/// The same of several targets a row, `[N, width]` row after row -> `[N, width]` f32.
pub fn chosen_logprobs(hidden: &Tensor, head: &Head, targets: &[u32], width: usize) -> Result<(Tensor, Vec<f32>)> {
    let rows = hidden.dim(0)?;
    if targets.len() != rows * width || width == 0 {
        bail!("{} targets for {rows} rows of {width}", targets.len());
    }
    logprobs_of(hidden, head, targets, (rows, width).into())
}

fn logprobs_of(hidden: &Tensor, head: &Head, targets: &[u32], shape: Shape) -> Result<(Tensor, Vec<f32>)> {
    let weight = &head.weight;
    if cpu::ready(&[hidden]) && cpu::holds(weight) {
        return logprobs::chosen_logprobs(hidden, head, targets, shape);
    }
    let t = composed::constants(&[hidden, weight]);
    let targets = Tensor::from_slice(targets, &shape, hidden.device())?;
    let (log_probs, entropy) = reference::token_logprobs(&t[0], &head.with(&t[1]), &targets)?;
    let like = head.detached();
    let forward = move |t: &[Tensor], rows: Range<usize>| {
        let targets = targets.narrow(0, rows.start, rows.len())?;
        Ok(reference::logprobs_of_rows(&t[0], &like.with(&t[1]), &targets)?.0)
    };
    let pieces = reference::logit_pieces(hidden.dim(0)?);
    composed::note(&[hidden, weight], &[Cut::Rows, Cut::Whole], pieces, forward, &log_probs);
    Ok((log_probs, entropy))
}

/// KL(reference, own) of each row's next-token distributions, nats: own `hidden` `[N, H]` and `head` `[V, H]`, differentiable;
/// the reference's of its own width, frozen -> `[N]` f32.
pub fn reference_kl(hidden: &Tensor, head: &Head, reference: (&Tensor, &Head)) -> Result<Tensor> {
    if cpu::ready(&[hidden, reference.0]) && cpu::holds(&head.weight) && cpu::holds(&reference.1.weight) {
        return divergence::reference_kl(hidden, head, reference);
    }
    let (other_hidden, other_head) = (reference.0.detach(), reference.1.weight.detach());
    let inputs = [hidden, &head.weight, &other_hidden, &other_head];
    let t = composed::constants(&inputs);
    let (own, other) = (head.detached(), reference.1.detached());
    let kl = move |t: &[Tensor]| reference::reference_kl(&t[0], &own.with(&t[1]), (&t[2], &other.with(&t[3])));
    let output = kl(&t)?;
    let forward = move |t: &[Tensor], _: Range<usize>| kl(t);
    let pieces = reference::logit_pieces(hidden.dim(0)?);
    composed::note(&inputs, &[Cut::Rows, Cut::Whole, Cut::Rows, Cut::Whole], pieces, forward, &output);
    Ok(output)
}

/// Entropy of the k likeliest next tokens, renormalised, of each row, in nats; detached.
pub fn top_entropy(hidden: &Tensor, head: &Head, k: usize) -> Result<Vec<f32>> {
    if cpu::ready(&[hidden]) && cpu::holds(&head.weight) {
        divergence::top_entropy(hidden, head, k)
    } else {
        reference::top_entropy(hidden, head, k)
    }
}
