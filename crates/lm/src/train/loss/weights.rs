//! The weight of every token under each loss.

use super::{Level, Loss, StepFacts, Token, policy_gradient};

impl Loss {
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
            Loss::ChordPhi {} => map(tokens, phi_weight),
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
            Loss::Distill(ref distill) => distill.mixed_weights(tokens),
            Loss::Grpo(ref grpo) => map(tokens, |t| policy_gradient::weight(grpo, t)),
            Loss::Chord(ref chord) => map(tokens, |t| match t.advantage {
                Some(_) => policy_gradient::weight(&chord.grpo, t),
                None => chord.expert_weight(t),
            }),
        }
    }
}

/// Log-odds of the target in [`Loss::Gift`]'s distribution beyond what the reference gives it: `log(q (e^beta - 1))`.
pub(super) fn gain(token: &Token, beta: f32) -> f32 {
    let reference = token.reference.expect("the trainer asks the reference it holds");
    reference + beta + (-(-beta).exp()).ln_1p()
}

/// `p (1 - p)`.
pub(super) fn phi_weight(token: &Token) -> f32 {
    token.logprob.exp() * -token.logprob.exp_m1()
}

pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

pub(super) fn map(tokens: &[Token], weight: impl Fn(&Token) -> f32) -> Vec<f32> {
    tokens.iter().map(weight).collect()
}

/// One weight for all tokens of an example.
fn per_sequence(tokens: &[Token], weight: impl Fn(&[Token]) -> f32) -> Vec<f32> {
    let sequences = tokens.chunk_by(|a, b| a.example == b.example);
    sequences.flat_map(|sequence| std::iter::repeat_n(weight(sequence), sequence.len())).collect()
}
