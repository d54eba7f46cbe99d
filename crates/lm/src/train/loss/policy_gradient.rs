//! Rewards in place of labels: GRPO (arXiv 2402.03300), its bounds and its penalty, and CHORD (arXiv 2508.11408), which mixes it
//! with supervised rows.
//!
//! With r the probability of a token under the policy over that under the policy that drew it, and A the advantage of its sample,
//! a token's loss is `-min(r A, clip(r) A)`, and `kl (e^d - d - 1)`, d the reference's log-prob less the policy's. Both are
//! functions of the log-prob alone: their slope is a weight.

use super::token::Token;
use super::weights::phi_weight;
use mindgap_base::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// The loss of samples with rewards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grpo {
    /// The ratio is bounded to `1 - clip_low ..= 1 + clip_high`.
    pub clip_low: f32,
    pub clip_high: f32,
    /// Weight of the divergence from a reference policy, whose log-probs the rows must carry; 0 is none.
    pub kl: f32,
    /// What advantages are divided by.
    pub scale: Scale,
}

impl Default for Grpo {
    fn default() -> Grpo {
        Grpo { clip_low: 0.2, clip_high: 0.2, kl: 0.0, scale: Scale::Group }
    }
}

/// What an advantage, a reward less the mean of its group, is divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// The standard deviation of the group.
    #[default]
    Group,
    /// Nothing: arXiv 2503.20783 (Dr. GRPO).
    None,
}

/// Added to a standard deviation.
const EPSILON: f64 = 1e-4;

impl Scale {
    /// Advantages of one group, from its rewards. The deviation is that of a sample (n - 1); a group of one has none, and no
    /// advantage.
    pub fn advantages(self, rewards: &[f64]) -> Vec<f64> {
        let n = rewards.len() as f64;
        let mean = rewards.iter().sum::<f64>() / n;
        let squares: f64 = rewards.iter().map(|reward| (reward - mean).powi(2)).sum();
        let scale = match self {
            Scale::Group if n > 1.0 => (squares / (n - 1.0)).sqrt() + EPSILON,
            _ => 1.0,
        };
        rewards.iter().map(|reward| (reward - mean) / scale).collect()
    }
}

impl Grpo {
    /// Errors: a parameter outside its range.
    pub fn check(&self) -> Result<()> {
        if !(0.0..1.0).contains(&self.clip_low) || !self.clip_high.is_finite() || self.clip_high < 0.0 {
            let (low, high) = (self.clip_low, self.clip_high);
            return Err(Error::usage(format!("`clip_low` is `{low}` and `clip_high` `{high}`"))
                .hint("`clip_low` is 0 or more and below 1, `clip_high` 0 or more"));
        }
        match self.kl >= 0.0 && self.kl.is_finite() {
            true => Ok(()),
            false => Err(Error::usage(format!("`kl` is `{}`; it must be 0 or more", self.kl))),
        }
    }

    /// Rows must carry log-probs under a reference policy.
    pub fn compares(&self) -> bool {
        self.kl > 0.0
    }

    /// Ratio, and the loss of it before and after the bound, less its sign.
    fn gains(&self, token: &Token) -> (f32, f32) {
        let advantage = token.advantage.unwrap_or_default();
        let ratio = (token.logprob - token.behavior.unwrap_or(token.logprob)).exp();
        (ratio * advantage, ratio.clamp(1.0 - self.clip_low, 1.0 + self.clip_high) * advantage)
    }

    /// The reference's log-prob less the policy's.
    fn behind(&self, token: &Token) -> f32 {
        token.reference.map_or(0.0, |reference| reference - token.logprob)
    }
}

/// Minus the loss's slope by the log-prob.
pub fn weight(grpo: &Grpo, token: &Token) -> f32 {
    let (free, bounded) = grpo.gains(token);
    let gain = if free <= bounded { free } else { 0.0 };
    gain + grpo.kl * grpo.behind(token).exp_m1()
}

/// The loss of a token.
pub fn value(grpo: &Grpo, token: &Token) -> f32 {
    let (free, bounded) = grpo.gains(token);
    let behind = grpo.behind(token);
    grpo.kl * (behind.exp_m1() - behind) - free.min(bounded)
}

/// `(1 - mu)` times the loss of the samples with rewards, and mu times that of the others: each a mean of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Chord {
    pub grpo: Grpo,
    /// The largest mu, after `warmup_steps`, in which it grows from 0.
    pub mu_peak: f64,
    /// The smallest, `decay_steps` later: half a cosine lies between. Where they are 0 it is `mu_peak` always.
    pub mu_valley: f64,
    pub warmup_steps: u32,
    pub decay_steps: u32,
    /// Supervised tokens weigh `p (1 - p)`, and not 1.
    pub phi: bool,
    /// The share of a step's rows that are supervised.
    pub expert_share: f64,
}

impl Default for Chord {
    fn default() -> Chord {
        Chord {
            grpo: Grpo::default(),
            mu_peak: 0.9,
            mu_valley: 0.05,
            warmup_steps: 0,
            decay_steps: 200,
            phi: false,
            expert_share: 0.2,
        }
    }
}

impl Chord {
    /// Errors: a parameter outside its range.
    pub fn check(&self) -> Result<()> {
        self.grpo.check()?;
        for (name, value) in [("mu_peak", self.mu_peak), ("mu_valley", self.mu_valley)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(Error::usage(format!("`{name}` of loss `chord` is `{value}`, outside 0 to 1")));
            }
        }
        match self.expert_share > 0.0 && self.expert_share < 1.0 {
            true => Ok(()),
            false => {
                let share = self.expert_share;
                Err(Error::usage(format!(
                    "`expert_share` of loss `chord` is `{share}`; it must be above 0 and below 1"
                )))
            }
        }
    }

    /// The supervised part of the loss at a step.
    pub fn mu(&self, step: u32) -> f64 {
        if step < self.warmup_steps {
            return self.mu_peak * f64::from(step) / f64::from(self.warmup_steps);
        }
        let share = match self.decay_steps {
            0 => return self.mu_peak,
            steps => (f64::from(step - self.warmup_steps) / f64::from(steps)).min(1.0),
        };
        self.mu_valley + 0.5 * (self.mu_peak - self.mu_valley) * (1.0 + (std::f64::consts::PI * share).cos())
    }

    /// The weight of a supervised token.
    pub fn expert_weight(&self, token: &Token) -> f32 {
        if self.phi { phi_weight(token) } else { 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(logprob: f32, advantage: f32) -> Token {
        Token { logprob, behavior: Some(-1.0), advantage: Some(advantage), reference: Some(-1.2), ..Token::default() }
    }

    /// Against finite differences of the loss, inside the bounds, outside, and with a penalty.
    #[test]
    fn weights_are_slopes() {
        for kl in [0.0, 0.1] {
            let grpo = Grpo { kl, ..Grpo::default() };
            for logprob in [-2.0, -1.15, -1.0, -0.9, -0.3] {
                for advantage in [-1.5, 0.7] {
                    let at = |by: f32| f64::from(value(&grpo, &token(logprob + by, advantage)));
                    let wanted = -(at(1e-2) - at(-1e-2)) / 2e-2;
                    let found = f64::from(weight(&grpo, &token(logprob, advantage)));
                    assert!((found - wanted).abs() < 2e-3, "{logprob} {advantage}: {found}, {wanted}");
                }
            }
        }
    }

    #[test]
    fn advantages_compare_with_the_group() {
        assert_eq!(Scale::None.advantages(&[1.0, 0.0]), [0.5, -0.5]);
        let scaled = Scale::Group.advantages(&[1.0, 0.0, 0.0]);
        assert!((scaled[0] - 2.0 / 3.0 / (3f64.sqrt().recip() + 1e-4)).abs() < 1e-12);
        assert_eq!(Scale::Group.advantages(&[0.4, 0.4]), [0.0, 0.0]);
        assert_eq!(Scale::Group.advantages(&[3.0]), [0.0]);
    }

    #[test]
    fn the_supervised_part_rises_and_falls() {
        let chord = Chord { warmup_steps: 4, decay_steps: 10, mu_peak: 0.8, mu_valley: 0.2, ..Chord::default() };
        let mu: Vec<f64> = [0, 2, 4, 9, 14, 99].map(|step| chord.mu(step)).to_vec();
        let expected = [0.0, 0.4, 0.8, 0.5, 0.2, 0.2];
        assert!(mu.iter().zip(expected).all(|(found, wanted)| (found - wanted).abs() < 1e-12), "{mu:?}");
        assert_eq!(Chord { decay_steps: 0, mu_peak: 0.1, ..Chord::default() }.mu(7), 0.1);
    }

    #[test]
    fn parameters_outside_their_range_are_errors() {
        for wrong in [
            Grpo { clip_low: 1.0, ..Grpo::default() },
            Grpo { clip_high: f32::INFINITY, ..Grpo::default() },
            Grpo { kl: -0.1, ..Grpo::default() },
        ] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
        for wrong in [Chord { mu_peak: 1.1, ..Chord::default() }, Chord { expert_share: 1.0, ..Chord::default() }] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
    }
}
