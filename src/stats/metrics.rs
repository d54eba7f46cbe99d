//! pass@k, maj@k, bootstrap intervals, effective sample size.

use mindgap_base::rng::Stream;
use std::collections::BTreeMap;

/// Arithmetic mean; 0 of nothing.
pub fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (mut sum, mut count) = (0.0, 0u64);
    for value in values {
        sum += value;
        count += 1;
    }
    if count == 0 { 0.0 } else { sum / count as f64 }
}

/// Standard error of the mean: sample standard deviation over the square root of n; 0 below two values.
pub fn standard_error(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    if values.len() < 2 {
        return 0.0;
    }
    let centre = mean(values.iter().copied());
    let squares: f64 = values.iter().map(|value| (value - centre).powi(2)).sum();
    (squares / (n - 1.0) / n).sqrt()
}

/// Unbiased estimate of the chance that at least one of `k` samples is correct, from `n >= k` samples of which `c` are
/// (Chen et al. 2021, "Evaluating large language models trained on code", equation 1). With fewer than `k` samples, `k = n`.
pub fn pass_at_k(n: u64, c: u64, k: u64) -> f64 {
    let k = k.min(n);
    if n - c < k {
        return if c == 0 { 0.0 } else { 1.0 };
    }
    let all_wrong: f64 = (n - c + 1..=n).map(|i| 1.0 - k as f64 / i as f64).product();
    1.0 - all_wrong
}

/// Whether the most frequent answer is correct; ties go to the answer given first. Samples without an answer do not vote.
pub fn majority_correct<A: Ord>(votes: impl IntoIterator<Item = (Option<A>, bool)>) -> bool {
    let mut ballots: BTreeMap<A, (usize, usize, bool)> = BTreeMap::new();
    for (order, (answer, correct)) in votes.into_iter().enumerate() {
        if let Some(answer) = answer {
            ballots.entry(answer).or_insert((0, order, correct)).0 += 1;
        }
    }
    let winner = ballots.into_values().max_by_key(|&(count, order, _)| (count, std::cmp::Reverse(order)));
    winner.is_some_and(|(_, _, correct)| correct)
}

/// Percentile bootstrap interval of the mean, resampling `values` with replacement.
pub fn bootstrap_interval(values: &[f64], level: f64, resamples: u32, seed: u64) -> (f64, f64) {
    if values.is_empty() {
        return (0.0, 0.0);
    }
    let mut means: Vec<f64> = (0..resamples)
        .map(|i| {
            let mut draws = Stream::at(seed, &[b"bootstrap", &i.to_le_bytes()]).cursor();
            mean((0..values.len()).map(|_| *draws.choose(values)))
        })
        .collect();
    means.sort_by(f64::total_cmp);
    let at = |q: f64| means[((q * (means.len() - 1) as f64).round() as usize).min(means.len() - 1)];
    (at((1.0 - level) / 2.0), at((1.0 + level) / 2.0))
}

/// Effective sample size of weights: (sum w)^2 / sum w^2, between 1 and n; 0 of nothing.
pub fn effective_sample_size(weights: impl IntoIterator<Item = f64>) -> f64 {
    let (sum, squares) = weights.into_iter().fold((0.0, 0.0), |(s, q), w| (s + w, q + w * w));
    if squares == 0.0 { 0.0 } else { sum * sum / squares }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against counting all subsets.
    #[test]
    fn pass_at_k_counts_subsets() {
        for n in 1..=8u32 {
            for c in 0..=n {
                for k in 1..=n {
                    let subsets: Vec<u32> = (0u32..1 << n).filter(|s| s.count_ones() == k).collect();
                    let hits = subsets.iter().filter(|s| *s & ((1 << c) - 1) != 0).count();
                    let exact = hits as f64 / subsets.len() as f64;
                    let estimate = pass_at_k(n.into(), c.into(), k.into());
                    assert!((estimate - exact).abs() < 1e-12, "n {n}, c {c}, k {k}: {estimate} and {exact}");
                }
            }
        }
    }

    #[test]
    fn majority_needs_votes_and_breaks_ties_by_order() {
        assert!(majority_correct([(Some("4"), true), (Some("5"), false), (Some("4"), true)]));
        assert!(!majority_correct([(Some("5"), false), (Some("4"), true)]));
        assert!(!majority_correct([(None::<&str>, false)]));
    }

    #[test]
    fn interval_holds_the_mean_and_shrinks_with_n() {
        let values = |n: usize| (0..n).map(|i| f64::from(u8::from(i % 2 == 0))).collect::<Vec<_>>();
        let (low, high) = bootstrap_interval(&values(100), 0.95, 1000, 0);
        assert!(low < 0.5 && high > 0.5 && high - low < 0.25, "{low}..{high}");
        let (low, high) = bootstrap_interval(&values(10_000), 0.95, 1000, 0);
        assert!(high - low < 0.025, "{low}..{high}");
    }

    #[test]
    fn ess_of_equal_weights_is_n() {
        assert!((effective_sample_size([0.3; 7]) - 7.0).abs() < 1e-9);
        assert!((effective_sample_size([1.0, 0.0, 0.0]) - 1.0).abs() < 1e-9);
    }
}
