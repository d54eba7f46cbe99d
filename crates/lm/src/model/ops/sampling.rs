//! From a row of logits to what sampling and scoring need: its log-sum-exp, and weights to draw from.

use super::logprobs::{ENTRIES, Tally};
use super::simd::{self, LANES, vectorised};

/// Entries whose weights are summed together by [`softmax_weights`].
pub const BLOCK: usize = 4 * LANES;

/// Log-sum-exp and entropy of a row of logits, to the same bits as [`super::token_logprobs`] finds them.
pub fn tally(logits: &[f32]) -> Tally {
    let mut tally = Tally::default();
    for chunk in logits.chunks(ENTRIES) {
        tally.add(chunk);
    }
    tally
}

vectorised! {
    /// The largest logit; minus infinity of none. NaN is passed over.
    pub fn max(logits: &[f32]) -> f32 {
        simd::max(logits)
    }
}

vectorised! {
    /// `weights[i] = e^((logits[i] - max) * inverse_temperature)`, and the sum of every [`BLOCK`] of them.
    pub fn softmax_weights(logits: &[f32], max: f32, inverse_temperature: f32, weights: &mut [f32], sums: &mut [f32]) {
        let blocks = logits.chunks(BLOCK).zip(weights.chunks_mut(BLOCK));
        for ((logits, weights), sum) in blocks.zip(sums) {
            for (logit, weight) in logits.iter().zip(weights.iter_mut()) {
                *weight = simd::exp((logit - max) * inverse_temperature);
            }
            *sum = block_sum(weights);
        }
    }
}

vectorised! {
    /// The sum of every [`BLOCK`] of weights.
    pub fn block_sums(weights: &[f32], sums: &mut [f32]) {
        for (weights, sum) in weights.chunks(BLOCK).zip(sums) {
            *sum = block_sum(weights);
        }
    }
}

/// The entry at which the running sum of weights passes `target`, and the sum of those before it, which begins with `before`.
/// Where rounding keeps the sum below, the last one with any weight takes what is left.
pub fn passing(weights: &[f32], before: f64, target: f64) -> (usize, f64) {
    let (mut found, mut sum) = ((0, before), before);
    for (index, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
        found = (index, sum);
        sum += f64::from(*weight);
        if sum > target {
            break;
        }
    }
    found
}

#[inline(always)]
fn block_sum(weights: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let rows = weights.chunks_exact(LANES);
    let tail = rows.remainder();
    for row in rows {
        for i in 0..LANES {
            lanes[i] += row[i];
        }
    }
    for (lane, weight) in lanes.iter_mut().zip(tail) {
        *lane += weight;
    }
    simd::join(lanes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_pass_their_target_at_an_entry_with_weight() {
        let weights = [0.0, 1.0, 0.0, 2.0, 0.0];
        for (before, target, found) in [
            (0.0, 0.0, (1, 0.0)),
            (0.0, 0.9, (1, 0.0)),
            (0.0, 1.0, (3, 1.0)),
            (4.0, 4.5, (1, 4.0)),
            (0.0, 3.0, (3, 1.0)),
            (0.0, 9.0, (3, 1.0)),
        ] {
            assert_eq!(passing(&weights, before, target), found, "{before} {target}");
        }
    }

    #[test]
    fn weights_and_their_sums() {
        let logits: Vec<f32> = (0..150).map(|i| (i as f32 * 1.7).sin() * 5.0).collect();
        let (mut weights, mut sums) = (vec![0.0; 150], vec![0.0; 3]);
        let max = max(&logits);
        softmax_weights(&logits, max, 0.5, &mut weights, &mut sums);
        for (logit, weight) in logits.iter().zip(&weights) {
            assert!((f64::from(*weight) - (f64::from(logit - max) * 0.5).exp()).abs() < 1e-6);
        }
        let mut again = vec![0.0; 3];
        block_sums(&weights, &mut again);
        assert_eq!(sums, again);
        let exact: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
        assert!((f64::from(tally(&logits).log_sum_exp()) - exact.ln()).abs() < 1e-6);
    }
}
