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

/// Takes targets one by one, so that none need be held, all of them twice: a variance asks for the mean first. Of a target one
/// number stays, its log-prob.
#[derive(Clone, Debug, Default)]
pub struct Gather {
    row_logprobs: Vec<f64>,
    low_count: usize,
    end_count: usize,
    end_probability_sum: f64,
    /// 1/p by token.
    inverse: Weights,
    behavior: BehaviorGather,
}

#[derive(Clone, Debug, Default)]
struct BehaviorGather {
    /// log p - log b by row.
    row_log_ratios: Vec<f64>,
    log_ratio_sum: f64,
    /// p/b by token.
    ratios: Weights,
}

/// Sums over weights.
#[derive(Clone, Debug, Default)]
struct Weights {
    count: usize,
    sum: f64,
    squares: f64,
    /// Of the distances from the mean, squared.
    deviations: f64,
}

impl Gather {
    /// The first time.
    pub fn add(&mut self, target: &Scored) {
        self.row_logprobs.push(sum(target.policy));
        for logprob in target.policy.iter().map(|lp| f64::from(*lp)) {
            self.low_count += usize::from(logprob.exp() < LOW_PROBABILITY);
            self.inverse.add(inverse(logprob));
        }
        if let Some(last) = target.policy.last().filter(|_| target.ended) {
            self.end_count += 1;
            self.end_probability_sum += f64::from(*last).exp();
        }
        if let Some(behavior) = target.behavior {
            self.behavior.row_log_ratios.push(sum(target.policy) - sum(behavior));
            for log_ratio in log_ratios(target) {
                self.behavior.log_ratio_sum += log_ratio;
                self.behavior.ratios.add(ratio(log_ratio));
            }
        }
    }

    /// The second time, once all were added.
    pub fn add_again(&mut self, target: &Scored) {
        target.policy.iter().for_each(|lp| self.inverse.add_again(inverse(f64::from(*lp))));
        log_ratios(target).for_each(|log_ratio| self.behavior.ratios.add_again(ratio(log_ratio)));
    }

    /// The gap; all zeros of nothing.
    pub fn finish(self) -> PolicyGap {
        let (rows, tokens) = (self.row_logprobs.len(), self.inverse.count);
        if tokens == 0 {
            return PolicyGap { rows, ..PolicyGap::default() };
        }
        let total: f64 = self.row_logprobs.iter().sum();
        PolicyGap {
            rows,
            tokens,
            mean_logprob: total / tokens as f64,
            mean_row_logprob: total / rows as f64,
            low_probability_share: self.low_count as f64 / tokens as f64,
            ratio_variance: self.inverse.variance(),
            ess_tokens: self.inverse.effective_sample_size(),
            ess_rows: ess_of_logs(self.row_logprobs.iter().map(|sum| -sum)),
            eos_probability: (self.end_count > 0).then(|| self.end_probability_sum / self.end_count as f64),
            sampled: self.behavior.finish(),
        }
    }
}

impl BehaviorGather {
    fn finish(self) -> Option<BehaviorGap> {
        let tokens = self.ratios.count;
        (tokens > 0).then(|| BehaviorGap {
            rows: self.row_log_ratios.len(),
            tokens,
            kl_per_token: 0.0 - self.log_ratio_sum / tokens as f64,
            ratio_variance: self.ratios.variance(),
            ess_tokens: self.ratios.effective_sample_size(),
            ess_rows: ess_of_logs(self.row_log_ratios.iter().copied()),
        })
    }
}

impl Weights {
    fn add(&mut self, weight: f64) {
        self.count += 1;
        self.sum += weight;
        self.squares += weight * weight;
    }

    fn add_again(&mut self, weight: f64) {
        self.deviations += (weight - self.sum / self.count as f64).powi(2);
    }

    /// Population variance.
    fn variance(&self) -> f64 {
        self.deviations / self.count.max(1) as f64
    }

    fn effective_sample_size(&self) -> f64 {
        if self.squares == 0.0 { 0.0 } else { self.sum * self.sum / self.squares }
    }
}

fn inverse(logprob: f64) -> f64 {
    (-logprob).exp().min(RATIO_CLIP)
}

fn ratio(log_ratio: f64) -> f64 {
    log_ratio.exp().min(RATIO_CLIP)
}

fn log_ratios(target: &Scored) -> impl Iterator<Item = f64> {
    let pairs = target.policy.iter().zip(target.behavior.unwrap_or_default());
    pairs.map(|(p, b)| f64::from(*p) - f64::from(*b))
}

fn sum(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value)).sum()
}

/// Effective sample size of weights given by their logarithms, which may be beyond what exp can hold.
fn ess_of_logs(logs: impl Iterator<Item = f64> + Clone) -> f64 {
    let largest = logs.clone().fold(f64::NEG_INFINITY, f64::max);
    effective_sample_size(logs.map(|log| (log - largest).exp()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy_gap(targets: &[Scored]) -> PolicyGap {
        let mut gather = Gather::default();
        targets.iter().for_each(|target| gather.add(target));
        targets.iter().for_each(|target| gather.add_again(target));
        gather.finish()
    }

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
