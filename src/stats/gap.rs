//! The policy gap: how likely a policy finds target tokens, and how uneven the importance ratios over them are.

use super::metrics::effective_sample_size;

/// Bound on 1/p and on p/b over tokens. Unclipped, one or two tokens decide every variance: the mean of 1/p under the policy
/// itself is the size of the vocabulary.
pub const RATIO_CLIP: f64 = 100.0;

/// A token below this probability counts as improbable; the same bound as `low_weight_share` of train_steps.
pub const LOW_PROBABILITY: f64 = 0.05;

/// One scored target. Log-probs are natural, per token.
#[derive(Clone, Copy, Debug)]
pub struct Scored<'a> {
    pub policy: &'a [f32],
    /// Of the policy that sampled it, under the prompt then used; as many as `policy`. `None` for the expert's.
    pub behavior: Option<&'a [f32]>,
    /// The last token is the end of the sequence.
    pub ended: bool,
}

/// Figures over a set of targets. See `table::gaps` for what each means.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicyGap {
    pub rows: usize,
    pub tokens: usize,
    pub mean_logprob: f64,
    pub mean_row_logprob: f64,
    pub low_probability_share: f64,
    pub ratio_variance: f64,
    pub ess_tokens: f64,
    pub ess_rows: f64,
    pub eos_probability: Option<f64>,
    pub sampled: Option<BehaviorGap>,
}

/// The part that needs behaviour log-probs: only over targets that have them.
#[derive(Clone, Debug, PartialEq)]
pub struct BehaviorGap {
    pub rows: usize,
    pub tokens: usize,
    /// Mean of log b - log p: an unbiased estimate of KL(b, p) per token, as the tokens were drawn from b.
    pub kl_per_token: f64,
    pub ratio_variance: f64,
    pub ess_tokens: f64,
    pub ess_rows: f64,
}

/// The gap of a set of targets; all zeros of nothing.
pub fn policy_gap(targets: &[Scored]) -> PolicyGap {
    let logprobs = || targets.iter().flat_map(|target| target.policy).map(|lp| f64::from(*lp));
    let tokens = logprobs().count();
    if tokens == 0 {
        return PolicyGap { rows: targets.len(), ..PolicyGap::default() };
    }
    let inverse = || logprobs().map(|lp| (-lp).exp().min(RATIO_CLIP));
    let row_sums: Vec<f64> = targets.iter().map(|target| sum(target.policy)).collect();
    let ends: Vec<f64> =
        targets.iter().filter(|t| t.ended).filter_map(|t| t.policy.last()).map(|lp| f64::from(*lp).exp()).collect();
    let total: f64 = row_sums.iter().sum();
    PolicyGap {
        rows: targets.len(),
        tokens,
        mean_logprob: total / tokens as f64,
        mean_row_logprob: total / targets.len() as f64,
        low_probability_share: logprobs().filter(|lp| lp.exp() < LOW_PROBABILITY).count() as f64 / tokens as f64,
        ratio_variance: variance(inverse()),
        ess_tokens: effective_sample_size(inverse()),
        ess_rows: ess_of_logs(row_sums.iter().map(|sum| -sum)),
        eos_probability: (!ends.is_empty()).then(|| ends.iter().sum::<f64>() / ends.len() as f64),
        sampled: behavior_gap(targets),
    }
}

fn behavior_gap(targets: &[Scored]) -> Option<BehaviorGap> {
    let pairs: Vec<(&[f32], &[f32])> = targets.iter().filter_map(|t| Some((t.policy, t.behavior?))).collect();
    let log_ratios = || {
        pairs
            .iter()
            .flat_map(|(policy, behavior)| policy.iter().zip(*behavior).map(|(p, b)| f64::from(*p) - f64::from(*b)))
    };
    let tokens = log_ratios().count();
    if tokens == 0 {
        return None;
    }
    let ratios = || log_ratios().map(|log| log.exp().min(RATIO_CLIP));
    Some(BehaviorGap {
        rows: pairs.len(),
        tokens,
        kl_per_token: 0.0 - log_ratios().sum::<f64>() / tokens as f64,
        ratio_variance: variance(ratios()),
        ess_tokens: effective_sample_size(ratios()),
        ess_rows: ess_of_logs(pairs.iter().map(|(policy, behavior)| sum(policy) - sum(behavior))),
    })
}

fn sum(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value)).sum()
}

/// Population variance.
fn variance(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let n = values.clone().count().max(1) as f64;
    let mean = values.clone().sum::<f64>() / n;
    values.map(|value| (value - mean).powi(2)).sum::<f64>() / n
}

/// Effective sample size of weights given by their logarithms, which may be beyond what exp can hold.
fn ess_of_logs(logs: impl Iterator<Item = f64> + Clone) -> f64 {
    let largest = logs.clone().fold(f64::NEG_INFINITY, f64::max);
    effective_sample_size(logs.map(|log| (log - largest).exp()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-6, "{a} is not {b}");
    }

    /// By hand: p = 1/2, 1/4 | 1/100 of which the last ends; behaviour of the first row 1/2, 1/2.
    #[test]
    fn figures_by_hand() {
        let ln = |p: f32| p.ln();
        let (first, second, behavior) = ([ln(0.5), ln(0.25)], [ln(0.01)], [ln(0.5), ln(0.5)]);
        let targets = [
            Scored { policy: &first, behavior: Some(&behavior), ended: false },
            Scored { policy: &second, behavior: None, ended: true },
        ];
        let gap = policy_gap(&targets);
        assert_eq!((gap.rows, gap.tokens), (2, 3));
        near(gap.mean_logprob, (0.5f64 * 0.25 * 0.01).ln() / 3.0);
        near(gap.mean_row_logprob, (0.5f64 * 0.25 * 0.01).ln() / 2.0);
        near(gap.low_probability_share, 1.0 / 3.0);
        // Weights 2, 4, 100: mean 106/3, squares 4 + 16 + 10000.
        near(gap.ess_tokens / (106.0 * 106.0 / 10020.0), 1.0);
        near(gap.ratio_variance / (10020.0 / 3.0 - (106.0f64 / 3.0).powi(2)), 1.0);
        // Row weights 8 and 100.
        near(gap.ess_rows, 108.0 * 108.0 / 10064.0);
        near(gap.eos_probability.unwrap(), 0.01);
        let sampled = gap.sampled.unwrap();
        assert_eq!((sampled.rows, sampled.tokens), (1, 2));
        near(sampled.kl_per_token, 2f64.ln() / 2.0);
        near(sampled.ess_tokens, 1.5 * 1.5 / 1.25);
        near(sampled.ess_rows, 1.0);
    }

    #[test]
    fn on_policy_samples_have_no_gap() {
        let logprobs = [-0.1f32, -2.0, -0.7];
        let targets = [Scored { policy: &logprobs, behavior: Some(&logprobs), ended: true }; 5];
        let sampled = policy_gap(&targets).sampled.unwrap();
        near(sampled.kl_per_token, 0.0);
        near(sampled.ratio_variance, 0.0);
        near(sampled.ess_tokens, 15.0);
        near(sampled.ess_rows, 5.0);
    }

    #[test]
    fn clip_and_log_space_keep_extremes_finite() {
        let row = [-1000.0f32; 4];
        let gap = policy_gap(&[Scored { policy: &row, behavior: None, ended: true }; 2]);
        near(gap.ess_tokens, 8.0);
        near(gap.ess_rows, 2.0);
        near(gap.eos_probability.unwrap(), 0.0);
        assert_eq!(policy_gap(&[]), PolicyGap::default());
    }
}
