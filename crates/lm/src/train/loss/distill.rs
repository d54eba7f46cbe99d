//! A teacher's distributions in place of labels (arXiv 2306.13649; of a policy by itself arXiv 2601.19897).
//!
//! Of each distribution the teacher's k likeliest tokens are known, and all others as one: the tail. With t the teacher's and p
//! the policy's probabilities of these k + 1, a token's loss is a divergence between them:
//!
//! | divergence | value |
//! |---|---|
//! | `forward` | `sum t log(t / p)` |
//! | `reverse` | `sum p log(p / t)` |
//! | `js` | `alpha sum t log(t / m) + (1 - alpha) sum p log(p / m)`, `m = alpha t + (1 - alpha) p` |
//!
//! As the tail is 1 less the others, all of them are functions of the k log-probs, and so are their slopes: with g the derivative
//! by a probability, `p_i (g_i - g_tail)`.

use super::token::Token;
use mindgap_base::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Which divergence, and what is done to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Distill {
    pub divergence: Divergence,
    /// The teacher's share in the mixture of `js`.
    pub alpha: f64,
    /// First tokens of each text that are not trained on.
    pub skip: u32,
    /// Multiply each token with the probability it has over that it was drawn with, at most this; not where none is given.
    pub clip: Option<f32>,
    /// A share of an ordinary loss beside it.
    pub mix: Option<Mix>,
}

impl Default for Distill {
    fn default() -> Distill {
        Distill { divergence: Divergence::Forward, alpha: 0.5, skip: 0, clip: None, mix: None }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Divergence {
    Forward,
    Reverse,
    Js,
}

/// `share` of this loss of the tokens themselves, and `1 - share` of the divergence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mix {
    pub loss: Hard,
    pub share: f32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hard {
    Sft,
    Dft,
}

/// The teacher's likeliest tokens in place of an example's last tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct SoftTargets {
    /// Tokens told of each place.
    pub k: usize,
    /// The example's token that the first are told of.
    pub first: usize,
    /// `[tokens, k]`, and their natural log-probs.
    pub ids: Arc<[u32]>,
    pub logprobs: Arc<[f32]>,
}

impl SoftTargets {
    /// What is told in place of an example's token: ids and log-probs.
    pub fn of(&self, token: usize) -> Option<(&[u32], &[f32])> {
        let place = token.checked_sub(self.first)?;
        let range = place * self.k..(place + 1) * self.k;
        Some((self.ids.get(range.clone())?, self.logprobs.get(range)?))
    }
}

/// A tail of less is not told from none: 1 less a sum of f32 is no nearer.
const LEAST: f64 = 1e-7;

impl Distill {
    /// Errors: a parameter outside its range.
    pub fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::usage(format!("loss `distill`: {what}")));
        if !(self.alpha > 0.0 && self.alpha < 1.0) {
            return wrong(format!("`alpha` is `{}`; it must be above 0 and below 1", self.alpha));
        }
        if let Some(clip) = self.clip.filter(|clip| !(*clip > 0.0 && clip.is_finite())) {
            return wrong(format!("`clip` is `{clip}`, not above 0"));
        }
        match self.mix {
            Some(mix) if !(0.0..=1.0).contains(&mix.share) => {
                wrong(format!("`share` of `mix` is `{}`, outside 0 to 1", mix.share))
            }
            _ => Ok(()),
        }
    }

    /// Weights of the tokens themselves: those of the loss that is mixed in.
    pub fn mixed_weights(&self, tokens: &[Token]) -> Vec<f32> {
        let weight = |token: &Token| match self.mix {
            None => 0.0,
            Some(Mix { loss: Hard::Sft, share }) => share,
            Some(Mix { loss: Hard::Dft, share }) => share * token.logprob.exp(),
        };
        tokens.iter().map(weight).collect()
    }

    /// What multiplies the divergence at a token; a constant to the gradient.
    pub fn share(&self, token: &Token) -> f32 {
        let ratio = match (self.clip, token.behavior) {
            (Some(clip), Some(behavior)) => (token.logprob - behavior).exp().min(clip),
            _ => 1.0,
        };
        ratio * (1.0 - self.mix.map_or(0.0, |mix| mix.share))
    }

    /// The divergence at one token, and its slopes by the policy's log-probs of the teacher's tokens.
    pub fn divergence(&self, teacher: &[f32], policy: &[f32], slopes: &mut [f32]) -> f32 {
        let (t_tail, p_tail) = (tail(teacher), tail(policy));
        let (mut value, tail_slope) = match t_tail.max(p_tail) > LEAST {
            true => self.term(t_tail.max(LEAST).ln(), p_tail.max(LEAST).ln()),
            false => (0.0, 0.0),
        };
        // A tail at its floor does not move.
        let tail_slope = if p_tail > LEAST { tail_slope } else { 0.0 };
        for ((t, p), slope) in teacher.iter().zip(policy).zip(slopes) {
            let (term, own) = self.term(f64::from(*t), f64::from(*p));
            value += term;
            *slope = (f64::from(*p).exp() * (own - tail_slope)) as f32;
        }
        value as f32
    }

    /// One of the k + 1, by its log-probs: its part of the divergence, and the derivative by the policy's probability, up to what
    /// is the same of all.
    fn term(&self, t: f64, p: f64) -> (f64, f64) {
        match self.divergence {
            Divergence::Forward => (t.exp() * (t - p), -(t - p).exp()),
            Divergence::Reverse => (p.exp() * (p - t), p - t),
            Divergence::Js => {
                let m = (self.alpha * t.exp() + (1.0 - self.alpha) * p.exp()).ln();
                let value = self.alpha * t.exp() * (t - m) + (1.0 - self.alpha) * p.exp() * (p - m);
                (value, (1.0 - self.alpha) * (p - m))
            }
        }
    }
}

/// The probability of all others.
fn tail(logprobs: &[f32]) -> f64 {
    1.0 - logprobs.iter().map(|x| f64::from(*x).exp()).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logprobs(values: &[f32]) -> Vec<f32> {
        values.iter().map(|p| p.ln()).collect()
    }

    fn of(divergence: Divergence) -> Distill {
        Distill { divergence, alpha: 0.3, ..Distill::default() }
    }

    /// Against finite differences by every log-prob, with a tail and without, and with one that is next to nothing.
    #[test]
    fn slopes_are_derivatives() {
        let cases = [
            (vec![0.5, 0.2, 0.1], vec![0.1, 0.4, 0.3]),
            (vec![0.7, 0.2999], vec![0.25, 0.5]),
            (vec![0.9, 0.05, 0.01], vec![0.001, 0.002, 0.9]),
        ];
        for kind in [Divergence::Forward, Divergence::Reverse, Divergence::Js] {
            for (teacher, policy) in &cases {
                let (distill, teacher, policy) = (of(kind), logprobs(teacher), logprobs(policy));
                let mut slopes = vec![0.0; policy.len()];
                distill.divergence(&teacher, &policy, &mut slopes);
                for index in 0..policy.len() {
                    let at = |by: f32| {
                        let mut moved = policy.clone();
                        moved[index] += by;
                        f64::from(distill.divergence(&teacher, &moved, &mut vec![0.0; policy.len()]))
                    };
                    let step = 2e-3;
                    let wanted = (at(step) - at(-step)) / f64::from(2.0 * step);
                    let found = f64::from(slopes[index]);
                    assert!(
                        (found - wanted).abs() < 2e-3 * wanted.abs().max(0.1),
                        "{kind:?} {index}: {found}, {wanted}"
                    );
                }
            }
        }
    }

    #[test]
    fn nothing_is_lost_between_equals() {
        for kind in [Divergence::Forward, Divergence::Reverse, Divergence::Js] {
            for p in [vec![0.5, 0.3], vec![0.5, 0.5], vec![1.0]] {
                let p = logprobs(&p);
                let mut slopes = vec![0.0; p.len()];
                assert!(of(kind).divergence(&p, &p, &mut slopes).abs() < 1e-6, "{kind:?}");
                // What is the same of all has no slope once logits make the probabilities.
                let total: f32 = slopes.iter().sum();
                assert!(
                    slopes.iter().zip(&p).all(|(slope, p)| (slope - total * p.exp()).abs() < 1e-6),
                    "{kind:?}: {slopes:?}"
                );
            }
        }
    }

    #[test]
    fn parameters_outside_their_range_are_errors() {
        for wrong in [
            Distill { alpha: 0.0, ..of(Divergence::Js) },
            Distill { alpha: f64::NAN, ..of(Divergence::Js) },
            Distill { clip: Some(0.0), ..Distill::default() },
            Distill { mix: Some(Mix { loss: Hard::Sft, share: 1.5 }), ..Distill::default() },
        ] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
    }
}
