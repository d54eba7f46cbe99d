//! One loss for the whole family: the mean over a step's target tokens of `weight * -log p`, the weight detached.
//!
//! A member of the family is a weight function of what is known about a token. Formulas, with p the policy's probability of
//! the token, q the reference's, b the behaviour policy's, o the policy's own some steps ago, H the entropy in nats:
//!
//! | name | weight | source |
//! |---|---|---|
//! | `sft` | 1 | |
//! | `dft` | max(p, floor) | arXiv 2508.05629 |
//! | `importance` | clip(p / b) per token, or of the product over the sequence; b = 1 where unknown | arXiv 2509.15157 |
//! | `iw-sft` | clip(exp(T mean(log p - log q))) per sequence, or clip(p / q) per token | arXiv 2507.12856 |
//! | `psft` | p / o, and 0 above 1 + clip | arXiv 2508.17784 |
//! | `idft` | p^g', g' = 1 + s (clip(exp(-(log p + H) / b)) - 1) | arXiv 2602.12222 |
//! | `eaft` | (H of the k likeliest tokens, renormalised, / ln k)^a | LLaMA-Factory, axolotl |
//! | `chord-phi` | p (1 - p) | arXiv 2508.11408 |
//! | `talr` | p^(1/tau) over its mean, tau the step's median of the sequences' mean loss | arXiv 2509.20758 |
//! | `asft` | p, and a penalty `kl * KL(q, p)` | arXiv 2509.23753 |
//! | `power` | p^q, q a number; 0 where p is not in `min_p` to `max_p` | arXiv 2510.00526 |
//! | `gift` | a = q g / (1 + q g), g = e^beta - 1, and a penalty `(1 - a) KL(q, p)` | arXiv 2601.09233 |

mod token;

pub use token::{StepFacts, Talr, Token};

use mindgap_base::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Over what a ratio of probabilities is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Token,
    Sequence,
}

/// The loss and its parameters, all resolved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Loss {
    Sft {},
    Dft {
        /// Smallest weight; 0 is the paper's form.
        #[serde(default)]
        floor: f32,
        /// Weight of end-of-sequence targets in place of the formula's.
        #[serde(default)]
        eos_weight: Option<f32>,
    },
    Importance {
        #[serde(default = "defaults::token")]
        level: Level,
        #[serde(default)]
        clip_low: f32,
        #[serde(default = "defaults::importance_clip_high")]
        clip_high: f32,
    },
    IwSft {
        #[serde(default = "defaults::sequence")]
        level: Level,
        /// Multiplies the mean log ratio of a sequence; not used per token.
        #[serde(default = "defaults::iw_temperature")]
        temperature: f32,
        #[serde(default)]
        clip_low: f32,
        #[serde(default = "defaults::iw_clip_high")]
        clip_high: f32,
    },
    Psft {
        #[serde(default = "defaults::psft_clip")]
        clip: f32,
        /// Steps after which the old policy is the current one again.
        #[serde(default = "defaults::psft_refresh")]
        refresh_steps: u32,
    },
    Idft {
        #[serde(default = "defaults::one")]
        scale: f32,
        #[serde(default = "defaults::idft_low")]
        clip_low: f32,
        #[serde(default = "defaults::idft_high")]
        clip_high: f32,
        /// Steps over which s grows from 0 to 1.
        #[serde(default)]
        warmup_steps: u32,
    },
    Eaft {
        #[serde(default = "defaults::one")]
        power: f32,
        #[serde(default = "defaults::eaft_k")]
        k: u32,
    },
    ChordPhi {},
    Talr {},
    Asft {
        #[serde(default = "defaults::asft_kl")]
        kl: f32,
    },
    Power {
        /// 0 is `sft`, 1 is `dft`; a larger one leans on what the policy finds likely.
        #[serde(default = "defaults::one")]
        q: f32,
        /// Tokens less likely than this weigh nothing.
        #[serde(default)]
        min_p: f32,
        /// Tokens likelier than this weigh nothing.
        #[serde(default = "defaults::one")]
        max_p: f32,
    },
    Gift {
        /// What a target gains over its log-prob under the reference, in nats.
        #[serde(default = "defaults::gift_beta")]
        beta: f32,
    },
}

mod defaults {
    use super::Level;
    pub fn token() -> Level {
        Level::Token
    }
    pub fn sequence() -> Level {
        Level::Sequence
    }
    pub fn one() -> f32 {
        1.0
    }
    pub fn importance_clip_high() -> f32 {
        2.0
    }
    pub fn iw_temperature() -> f32 {
        2.0
    }
    pub fn iw_clip_high() -> f32 {
        16.0
    }
    pub fn psft_clip() -> f32 {
        0.28
    }
    pub fn psft_refresh() -> u32 {
        8
    }
    pub fn idft_low() -> f32 {
        0.1
    }
    pub fn idft_high() -> f32 {
        2.0
    }
    pub fn eaft_k() -> u32 {
        20
    }
    pub fn asft_kl() -> f32 {
        0.05
    }
    pub fn gift_beta() -> f32 {
        20.0
    }
}

impl Loss {
    const NAMES: [&str; 12] =
        ["sft", "dft", "importance", "iw-sft", "psft", "idft", "eaft", "chord-phi", "talr", "asft", "power", "gift"];

    /// From a name alone (`"dft"`) or a table with the name and parameters (`{"name": "dft", "floor": 0.1}`). Errors: an
    /// unknown name or parameter, a value outside its range.
    pub fn from_value(value: &serde_json::Value) -> Result<Loss> {
        let table = match value {
            serde_json::Value::String(name) => serde_json::json!({ "name": name }),
            other => other.clone(),
        };
        let name = table.get("name").and_then(|n| n.as_str()).unwrap_or_default().to_string();
        if !Loss::NAMES.contains(&name.as_str()) {
            let nearest = Loss::NAMES.iter().min_by_key(|known| strsim::damerau_levenshtein(known, &name));
            let error = Error::usage(format!("unknown loss `{name}`; there are `{}`", Loss::NAMES.join("`, `")));
            return Err(error.hint(format!("did you mean `{}`?", nearest.unwrap_or(&"sft"))));
        }
        let loss: Loss = serde_json::from_value(table)
            .map_err(|e| Error::usage(format!("bad parameter of loss `{name}`: {}", e.to_string().to_lowercase())))?;
        loss.check()?;
        Ok(loss)
    }

    /// The loss's name as it is written in a pipeline.
    pub fn name(&self) -> &'static str {
        match self {
            Loss::Sft {} => "sft",
            Loss::Dft { .. } => "dft",
            Loss::Importance { .. } => "importance",
            Loss::IwSft { .. } => "iw-sft",
            Loss::Psft { .. } => "psft",
            Loss::Idft { .. } => "idft",
            Loss::Eaft { .. } => "eaft",
            Loss::ChordPhi {} => "chord-phi",
            Loss::Talr {} => "talr",
            Loss::Asft { .. } => "asft",
            Loss::Power { .. } => "power",
            Loss::Gift { .. } => "gift",
        }
    }

    /// Errors: a parameter outside its range.
    pub fn check(&self) -> Result<()> {
        let positive = |name: &str, x: f32| match x > 0.0 && x.is_finite() {
            true => Ok(()),
            false => Err(Error::usage(format!("`{name}` of loss `{}` is `{x}`, not above 0", self.name()))),
        };
        let clip = |low: f32, high: f32| match low >= 0.0 && low <= high {
            true => Ok(()),
            false => Err(Error::usage(format!("loss `{}` clips to `{low}`..`{high}`", self.name()))),
        };
        match *self {
            Loss::Dft { floor, .. } if !(0.0..=1.0).contains(&floor) => {
                Err(Error::usage(format!("`floor` of loss `dft` is `{floor}`, outside 0 to 1")))
            }
            Loss::Dft { eos_weight: Some(weight), .. } if !weight.is_finite() || weight < 0.0 => {
                Err(Error::usage(format!("`eos_weight` of loss `dft` is `{weight}`; it must be 0 or more")))
            }
            Loss::Importance { clip_low, clip_high, .. } => clip(clip_low, clip_high),
            Loss::IwSft { clip_low, clip_high, temperature, .. } => {
                clip(clip_low, clip_high).and_then(|()| positive("temperature", temperature))
            }
            Loss::Psft { clip, refresh_steps } => {
                positive("refresh_steps", refresh_steps as f32).and_then(|()| positive("clip", clip))
            }
            Loss::Idft { scale, clip_low, clip_high, .. } => {
                clip(clip_low, clip_high).and_then(|()| positive("scale", scale))
            }
            Loss::Eaft { power, k } => {
                positive("power", power).and_then(|()| positive("k", k.saturating_sub(1) as f32))
            }
            Loss::Asft { kl } => clip(kl, f32::MAX),
            Loss::Power { q, .. } if !q.is_finite() || q < 0.0 => {
                Err(Error::usage(format!("`q` of loss `power` is `{q}`; it must be 0 or more"))
                    .hint("0 is `sft`, 1 is `dft`"))
            }
            Loss::Power { min_p, max_p, .. } if !(0.0 <= min_p && min_p < max_p && max_p <= 1.0) => {
                let what = format!("loss `power` keeps tokens with p from `{min_p}` to `{max_p}`");
                Err(Error::usage(what).hint("`min_p` is 0 or more, `max_p` 1 or less, and the first is the smaller"))
            }
            Loss::Gift { beta } => positive("beta", beta),
            _ => Ok(()),
        }
    }

    /// Every row must carry log-probs under a reference policy.
    pub fn needs_reference(&self) -> bool {
        matches!(self, Loss::IwSft { .. })
    }

    /// The trainer must hold the policy it starts from: the reference of these losses.
    pub fn holds_reference(&self) -> bool {
        matches!(self, Loss::Asft { .. } | Loss::Gift { .. })
    }

    /// The weights depend on the held reference's log-prob of the target.
    pub fn compares_with_held(&self) -> bool {
        matches!(self, Loss::Gift { .. })
    }

    /// What multiplies `KL(reference, policy)` at every target, where the loss has such a term.
    pub fn reference_kl(&self, tokens: &[Token]) -> Option<Vec<f32>> {
        match *self {
            Loss::Asft { kl } => Some(vec![kl; tokens.len()]),
            Loss::Gift { beta } => Some(map(tokens, |t| sigmoid(-gain(t, beta)))),
            _ => None,
        }
    }

    /// The trainer must hold the policy of some steps ago, refreshed after so many steps.
    pub fn refresh_steps(&self) -> Option<u32> {
        match self {
            Loss::Psft { refresh_steps, .. } => Some(*refresh_steps),
            _ => None,
        }
    }

    /// The weights need the entropy of the k likeliest tokens.
    pub fn top_k(&self) -> Option<u32> {
        match self {
            Loss::Eaft { k, .. } => Some(*k),
            _ => None,
        }
    }

    /// The weights need [`Talr`], from a pass over the whole step.
    pub fn needs_step_statistics(&self) -> bool {
        matches!(self, Loss::Talr {})
    }

    /// The weight of every token. Pure; the result is a constant to the gradient.
    pub fn weights(&self, tokens: &[Token], facts: &StepFacts) -> Vec<f32> {
        match *self {
            Loss::Sft {} => vec![1.0; tokens.len()],
            Loss::Dft { floor, eos_weight } => map(tokens, |t| match eos_weight {
                Some(weight) if t.eos => weight,
                _ => t.logprob.exp().max(floor),
            }),
            Loss::Importance { level, clip_low, clip_high } => {
                let ratio = |t: &Token| t.logprob - t.behavior.unwrap_or(0.0);
                match level {
                    Level::Token => map(tokens, |t| ratio(t).exp().clamp(clip_low, clip_high)),
                    Level::Sequence => per_sequence(tokens, |sequence| {
                        sequence.iter().map(ratio).sum::<f32>().exp().clamp(clip_low, clip_high)
                    }),
                }
            }
            Loss::IwSft { level, temperature, clip_low, clip_high } => {
                let ratio = |t: &Token| t.logprob - t.reference.expect("rows without reference log-probs were refused");
                match level {
                    Level::Token => map(tokens, |t| ratio(t).exp().clamp(clip_low, clip_high)),
                    Level::Sequence => per_sequence(tokens, |sequence| {
                        let mean = sequence.iter().map(ratio).sum::<f32>() / sequence.len() as f32;
                        (temperature * mean).exp().clamp(clip_low, clip_high)
                    }),
                }
            }
            Loss::Psft { clip, .. } => map(tokens, |t| {
                // Before the first step the old policy is the current one.
                let ratio = (t.logprob - t.old.unwrap_or(t.logprob)).exp();
                if ratio > 1.0 + clip { 0.0 } else { ratio }
            }),
            Loss::Idft { scale, clip_low, clip_high, warmup_steps } => {
                let share = if facts.step >= warmup_steps { 1.0 } else { facts.step as f32 / warmup_steps as f32 };
                map(tokens, |t| {
                    let gamma = (-(t.logprob + t.entropy) / scale).exp().clamp(clip_low, clip_high);
                    (t.logprob * (1.0 + share * (gamma - 1.0))).exp()
                })
            }
            Loss::Eaft { power, k } => map(tokens, |t| {
                let entropy = t.top_entropy.expect("the trainer computes the top entropy");
                (entropy / (k as f32).ln()).clamp(0.0, 1.0).powf(power)
            }),
            Loss::ChordPhi {} => map(tokens, |t| t.logprob.exp() * -t.logprob.exp_m1()),
            Loss::Talr {} => {
                let talr = facts.talr.expect("the trainer computes the step's statistics");
                map(tokens, |t| (t.logprob / talr.temperature).exp() / talr.mean)
            }
            Loss::Asft { .. } => map(tokens, |t| t.logprob.exp()),
            Loss::Power { q, min_p, max_p } => map(tokens, |t| {
                // Rounding may take a certain token's log-prob above 0.
                let is_kept = (min_p..=max_p).contains(&t.logprob.exp().min(1.0));
                if is_kept { (q * t.logprob).exp() } else { 0.0 }
            }),
            Loss::Gift { beta } => map(tokens, |t| sigmoid(gain(t, beta))),
        }
    }
}

/// Log-odds of the target in [`Loss::Gift`]'s distribution beyond what the reference gives it: `log(q (e^beta - 1))`.
fn gain(token: &Token, beta: f32) -> f32 {
    let reference = token.reference.expect("the trainer asks the reference it holds");
    reference + beta + (-(-beta).exp()).ln_1p()
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

fn map(tokens: &[Token], weight: impl Fn(&Token) -> f32) -> Vec<f32> {
    tokens.iter().map(weight).collect()
}

/// One weight for all tokens of an example.
fn per_sequence(tokens: &[Token], weight: impl Fn(&[Token]) -> f32) -> Vec<f32> {
    let sequences = tokens.chunk_by(|a, b| a.example == b.example);
    sequences.flat_map(|sequence| std::iter::repeat_n(weight(sequence), sequence.len())).collect()
}

#[cfg(test)]
mod tests;
