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
//!
//! Three need more than a token's own probabilities: `distill` a teacher's likeliest tokens ([`distill`]), `grpo` an advantage
//! ([`policy_gradient`]), and `chord` rows of both an advantage and without.

pub mod distill;
pub mod policy_gradient;
mod token;
mod weights;

pub use distill::{Distill, SoftTargets};
pub use policy_gradient::{Chord, Grpo, Scale};
pub use token::{StepFacts, Talr, Token};

use super::packing::TrainExample;
use mindgap_base::error::{Error, Result};
use serde::{Deserialize, Serialize};
use weights::{gain, map, sigmoid};

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
    Distill(Distill),
    Grpo(Grpo),
    Chord(Chord),
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
    const NAMES: [&str; 15] = [
        "sft",
        "dft",
        "importance",
        "iw-sft",
        "psft",
        "idft",
        "eaft",
        "chord-phi",
        "talr",
        "asft",
        "power",
        "gift",
        "distill",
        "grpo",
        "chord",
    ];

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
            Loss::Distill(_) => "distill",
            Loss::Grpo(_) => "grpo",
            Loss::Chord(_) => "chord",
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
            Loss::Distill(ref distill) => distill.check(),
            Loss::Grpo(ref grpo) => grpo.check(),
            Loss::Chord(ref chord) => chord.check(),
            _ => Ok(()),
        }
    }

    /// What a row must carry and does not: its name, and where it comes from.
    pub fn missing(&self, row: &TrainExample) -> Option<(&'static str, &'static str)> {
        let reference = (
            row.logprob_reference.is_none(),
            ("reference log-probs", "give the train stage a `logprobs` input made under the reference policy"),
        );
        let soft = (row.soft.is_none(), ("soft targets", "name the soft stage that scored the data in `soft`"));
        let advantage = (row.advantage.is_none(), ("a reward", "name a column of rewards of the data in `rewards`"));
        let behavior = (
            row.logprob_behavior.is_none(),
            ("log-probs of the policy it was drawn from", "rows with rewards must be samples that were drawn here"),
        );
        let needed = match self {
            Loss::IwSft { .. } => vec![reference],
            Loss::Distill(distill) if distill.clip.is_some() => vec![soft, behavior],
            Loss::Distill(_) => vec![soft],
            Loss::Grpo(grpo) => {
                [vec![advantage, behavior], grpo.compares().then_some(reference).into_iter().collect()].concat()
            }
            Loss::Chord(chord) if row.advantage.is_some() => {
                [vec![behavior], chord.grpo.compares().then_some(reference).into_iter().collect()].concat()
            }
            _ => Vec::new(),
        };
        needed.into_iter().find_map(|(is_missing, what)| is_missing.then_some(what))
    }

    /// What goes by a teacher's distributions.
    pub fn distill(&self) -> Option<&Distill> {
        match self {
            Loss::Distill(distill) => Some(distill),
            _ => None,
        }
    }

    /// What the samples with rewards and the other rows make of the loss, where it is a sum of two means.
    pub fn parts(&self, step: u32) -> Option<[f64; 2]> {
        match self {
            Loss::Chord(chord) => Some([1.0 - chord.mu(step), chord.mu(step)]),
            _ => None,
        }
    }

    /// How advantages are scaled, where rows carry some.
    pub fn scale(&self) -> Option<Scale> {
        match self {
            Loss::Grpo(grpo) => Some(grpo.scale),
            Loss::Chord(chord) => Some(chord.grpo.scale),
            _ => None,
        }
    }

    /// What the loss of tokens is, where it is not their weight times the negative log-prob; their mean is told, the weights make
    /// the gradient.
    pub fn values(&self, tokens: &[Token]) -> Option<Vec<f32>> {
        let of_sample = |grpo: &Grpo, token: &Token, weight: f32| match token.advantage {
            Some(_) => policy_gradient::value(grpo, token),
            None => -weight * token.logprob,
        };
        match self {
            Loss::Grpo(grpo) => Some(map(tokens, |token| of_sample(grpo, token, 1.0))),
            Loss::Chord(chord) => Some(map(tokens, |token| of_sample(&chord.grpo, token, chord.expert_weight(token)))),
            _ => None,
        }
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
}

#[cfg(test)]
mod tests;
