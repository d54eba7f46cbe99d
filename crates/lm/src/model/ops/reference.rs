//! Every operator as a composition of candle's differentiable ops: slow, obvious, right on any device and dtype. It is the
//! oracle of the CPU kernels and the path taken everywhere else.
//!
//! Norms, rotary embeddings, softmax and log-probs are computed in f32 whatever the dtype of the activations.

use super::divergence::entropy_of;
use super::segments::{Run, Segments};
use super::top::Top;
use super::{Head, Heads};
use candle_core::{D, DType, Result, Tensor, bail};
use std::ops::Range;

/// Rows of logits that exist at once: with a vocabulary of 150,000 some 150 MB, where the logits of 2,048 rows would take 1.2 GB.
const LOGIT_ROWS: usize = 256;

/// `x @ w^T + bias`: x `[T, in]`, w `[out, in]`, bias `[out]` -> `[T, out]`; in the type of x.
pub fn linear(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let y = x.matmul(&w.to_dtype(x.dtype())?.t()?)?;
    match bias {
        Some(bias) => y.broadcast_add(&bias.to_dtype(x.dtype())?),
        None => Ok(y),
    }
}

/// Rows `ids` (u32, `[T]`) of w `[V, H]` -> `[T, H]`.
pub fn embedding(w: &Tensor, ids: &Tensor) -> Result<Tensor> {
    w.index_select(ids, 0)
}

/// `x / sqrt(mean(x^2) + eps) * w` over groups of H = len(w) features.
pub fn rms_norm(x: &Tensor, w: &Tensor, eps: f64) -> Result<Tensor> {
    let size = w.dim(0)?;
    let groups = x.reshape(((), size))?.to_dtype(DType::F32)?;
    let mean_square = (groups.sqr()?.sum_keepdim(D::Minus1)? / size as f64)?;
    let normed = groups.broadcast_div(&(mean_square + eps)?.sqrt()?)?;
    // A weight in f32 stays so.
    normed.to_dtype(w.dtype())?.broadcast_mul(w)?.to_dtype(x.dtype())?.reshape(x.shape())
}

/// Rotary embedding, halves layout: feature i of a head turns with feature i + pairs, and those from 2 pairs on do not turn.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor, head_dim: usize) -> Result<Tensor> {
    let (rows, features) = x.dims2()?;
    let half = cos.dim(1)?;
    let heads = x.reshape((rows, features / head_dim, head_dim))?.to_dtype(DType::F32)?;
    let (a, b) = (heads.narrow(2, 0, half)?, heads.narrow(2, half, half)?);
    let (cos, sin) = (cos.unsqueeze(1)?, sin.unsqueeze(1)?);
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    let still = heads.narrow(2, 2 * half, head_dim - 2 * half)?;
    let parts = if 2 * half == head_dim { vec![first, second] } else { vec![first, second, still] };
    Tensor::cat(&parts, 2)?.reshape((rows, features))?.to_dtype(x.dtype())
}

/// Causal attention inside each segment; query head h reads key/value head h / (query heads / key heads). Scores exist for
/// one run of segments at a time, and never across segments.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, segments: &Segments, heads: Heads) -> Result<Tensor> {
    if segments.total() != q.dim(0)? {
        bail!("segments hold {} rows, activations {}", segments.total(), q.dim(0)?);
    }
    let mut parts = Vec::new();
    for Run { rows, length } in segments.runs() {
        let part = |x: &Tensor| x.narrow(0, rows.start, rows.len());
        parts.push(attention_of_run(&part(q)?, &part(k)?, &part(v)?, length, heads)?);
    }
    if parts.is_empty() { q.zeros_like() } else { Tensor::cat(&parts, 0) }
}

/// The same for segments of one length. The query heads of a key head are rows of one product: keys are never repeated.
pub fn attention_of_run(q: &Tensor, k: &Tensor, v: &Tensor, length: usize, heads: Heads) -> Result<Tensor> {
    let head_dim = heads.dim;
    let ((rows, features), key_heads) = (q.dims2()?, k.dim(1)? / head_dim);
    let (count, group) = (rows / length, features / head_dim / key_heads);
    let by_key_head = |x: &Tensor, group: usize| {
        let x = x.reshape((count, length, key_heads, group, head_dim))?.permute((0, 2, 3, 1, 4))?;
        x.reshape((count * key_heads, group * length, head_dim))
    };
    let (q, k, v) = (by_key_head(q, group)?, by_key_head(k, 1)?, by_key_head(v, 1)?);
    let mask = causal_mask(&Tensor::arange(0, length as u32, q.device())?, length, heads.window)?;
    let scores = bounded((q.matmul(&k.t()?)?.to_dtype(DType::F32)? * heads.exact_scale())?, heads.softcap)?;
    let scores = scores.reshape((count * key_heads * group, length, length))?.broadcast_add(&mask)?;
    let probs = softmax(&scores)?.to_dtype(q.dtype())?.reshape((count * key_heads, group * length, length))?;
    let out = probs.matmul(&v)?.reshape((count, key_heads, group, length, head_dim))?;
    out.permute((0, 3, 1, 2, 4))?.reshape((rows, features))
}

/// `cap * tanh(x / cap)`, or x where there is no cap.
pub fn bounded(x: Tensor, cap: Option<f32>) -> Result<Tensor> {
    match cap {
        None => Ok(x),
        Some(cap) => (x / f64::from(cap))?.tanh()? * f64::from(cap),
    }
}

/// `gelu(gate) * up`, GELU by its tanh approximation.
pub fn geglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.gelu()? * up
}

/// `silu(gate) * up`.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.silu()? * up
}

/// Logits in f32, `[N, V]`.
pub fn logits(hidden: &Tensor, head: &Head) -> Result<Tensor> {
    bounded(linear(hidden, &head.weight, None)?.to_dtype(DType::F32)?, head.softcap)
}

/// Log-probs of each row's targets (u32, `[N]` or `[N, width]`) under the softmax of the head's logits, and the entropy of that
/// distribution in nats.
pub fn token_logprobs(hidden: &Tensor, head: &Head, targets: &Tensor) -> Result<(Tensor, Vec<f32>)> {
    let rows = hidden.dim(0)?;
    if rows == 0 {
        return Ok((Tensor::zeros(targets.shape(), DType::F32, hidden.device())?, Vec::new()));
    }
    let (mut log_probs, mut entropy) = (Vec::new(), Vec::with_capacity(rows));
    for piece in logit_pieces(rows) {
        let part = |x: &Tensor| x.narrow(0, piece.start, piece.len());
        let (own, log_softmax) = logprobs_of_rows(&part(hidden)?, head, &part(targets)?)?;
        log_probs.push(own);
        let detached = log_softmax.detach();
        let per_row = (detached.exp()? * &detached)?.sum(1)?.neg()?;
        entropy.extend(per_row.to_vec1::<f32>()?);
    }
    Ok((Tensor::cat(&log_probs, 0)?, entropy))
}

/// Rows whose logits exist at once.
pub fn logit_pieces(rows: usize) -> impl Iterator<Item = Range<usize>> {
    (0..rows).step_by(LOGIT_ROWS).map(move |start| start..rows.min(start + LOGIT_ROWS))
}

/// Log-probs of some rows' targets (u32, `[N]` or `[N, width]`), and all log-probs `[N, V]`.
pub fn logprobs_of_rows(hidden: &Tensor, head: &Head, targets: &Tensor) -> Result<(Tensor, Tensor)> {
    let log_softmax = log_softmax(&logits(hidden, head)?)?;
    let chosen = match targets.rank() {
        1 => log_softmax.gather(&targets.unsqueeze(1)?, 1)?.squeeze(1)?,
        _ => log_softmax.gather(&targets.contiguous()?, 1)?,
    };
    Ok((chosen, log_softmax))
}

/// KL divergence from the reference's next-token distributions to one's own, per row.
pub fn reference_kl(hidden: &Tensor, head: &Head, reference: (&Tensor, &Head)) -> Result<Tensor> {
    let rows = hidden.dim(0)?;
    let frozen = reference.1.detached();
    let mut parts = Vec::new();
    for piece in logit_pieces(rows) {
        let log_softmax_of = |hidden: &Tensor, head: &Head| -> Result<Tensor> {
            log_softmax(&logits(&hidden.narrow(0, piece.start, piece.len())?, head)?)
        };
        let other = log_softmax_of(&reference.0.detach(), &frozen)?;
        let gap = (&other - log_softmax_of(hidden, head)?)?;
        parts.push((other.exp()? * gap)?.sum(1)?);
    }
    if parts.is_empty() { Tensor::zeros(0, DType::F32, hidden.device()) } else { Tensor::cat(&parts, 0) }
}

/// Entropy of the k likeliest tokens, renormalised, per row.
pub fn top_entropy(hidden: &Tensor, head: &Head, k: usize) -> Result<Vec<f32>> {
    Ok(top(hidden, head, k)?.iter().map(|top| entropy_of(&top.values())).collect())
}

/// The k likeliest tokens and their log-probs, per row.
pub fn top(hidden: &Tensor, head: &Head, k: usize) -> Result<Vec<Top>> {
    let (rows, mut found) = (hidden.dim(0)?, Vec::new());
    let frozen = head.detached();
    for piece in logit_pieces(rows) {
        let logits = logits(&hidden.narrow(0, piece.start, piece.len())?.detach(), &frozen)?;
        for row in log_softmax(&logits)?.to_vec2::<f32>()? {
            let mut top = Top::new(k);
            top.add(0, &row);
            found.push(top);
        }
    }
    Ok(found)
}

/// Softmax over the last dimension, differentiable.
fn softmax(x: &Tensor) -> Result<Tensor> {
    let shifted = x.broadcast_sub(&x.detach().max_keepdim(D::Minus1)?)?;
    let exp = shifted.exp()?;
    exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)
}

/// Log-softmax over the last dimension, differentiable.
fn log_softmax(x: &Tensor) -> Result<Tensor> {
    let shifted = x.broadcast_sub(&x.detach().max_keepdim(D::Minus1)?)?;
    shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(D::Minus1)?.log()?)
}

/// `[rows, keys]`: 0 where key j is not later than the row's position (u32, `[rows]`) and in its window, if there is one; minus
/// infinity elsewhere.
pub fn causal_mask(positions: &Tensor, keys: usize, window: Option<usize>) -> Result<Tensor> {
    let (rows, device) = (positions.dim(0)?, positions.device());
    let key = Tensor::arange(0, keys as u32, device)?.unsqueeze(0)?;
    let later = key.broadcast_gt(&positions.unsqueeze(1)?)?;
    let all = |value: f32| Tensor::new(value, device)?.broadcast_as((rows, keys));
    let (hidden, seen) = (all(f32::NEG_INFINITY)?, all(0.0)?);
    let Some(window) = window else { return later.where_cond(&hidden, &seen) };
    let reached = key.broadcast_add(&Tensor::new(&[[window as u32]], device)?)?;
    let earlier = reached.broadcast_le(&positions.unsqueeze(1)?)?;
    later.where_cond(&hidden, &earlier.where_cond(&hidden, &seen)?)
}
