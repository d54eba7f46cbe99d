//! Rotary position embedding: frequencies, and the ways they are stretched beyond the pre-training length.

use super::fields::{Fields, bad};
use mindgap_base::error::Result;
use serde_json::Value;

/// How rotary frequencies are stretched beyond the pre-training length.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    /// Every frequency divided by `factor`.
    Linear {
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a smooth passage between.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_positions: usize,
    },
    /// YaRN (arXiv 2309.00071): low frequencies divided by `factor`, a linear passage between two numbers of turns.
    Yarn {
        factor: f64,
        original_max_positions: usize,
        beta_fast: f64,
        beta_slow: f64,
        /// The borders of the passage are whole features.
        truncate: bool,
        /// Cosines and sines are multiplied by it.
        attention_factor: f64,
    },
    /// LongRoPE (arXiv 2402.13753): a divisor for every frequency, others for texts longer than the original length.
    LongRope {
        short: Vec<f64>,
        long: Vec<f64>,
        original_max_positions: usize,
        /// Cosines and sines are multiplied by it.
        attention_factor: f64,
    },
}

/// Rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    pub theta: f64,
    pub scaling: RopeScaling,
}

impl Rope {
    pub fn plain(theta: f64) -> Rope {
        Rope { theta, scaling: RopeScaling::None }
    }

    /// Inverse frequencies, one per pair of the `dim` features that turn; `long` for texts beyond the original length. f32
    /// arithmetic in the order of the reference implementation, so that long positions agree with it to the last bit that
    /// matters.
    pub fn inverse_frequencies(&self, dim: usize, long: bool) -> Vec<f32> {
        let turns = (0..dim / 2).map(|i| (self.theta as f32).powf((2 * i) as f32 / dim as f32));
        match &self.scaling {
            RopeScaling::None => turns.map(|turn| 1.0 / turn).collect(),
            RopeScaling::Linear { factor } => turns.map(|turn| 1.0 / turn / *factor as f32).collect(),
            RopeScaling::Llama3 { .. } => turns.map(|turn| self.between(1.0 / turn)).collect(),
            RopeScaling::Yarn { factor, .. } => {
                let (low, high) = self.passage(dim);
                let mix = |(i, turn): (usize, f32)| {
                    let kept = 1.0 - ((i as f32 - low) / (high - low)).clamp(0.0, 1.0);
                    1.0 / (*factor as f32 * turn) * (1.0 - kept) + 1.0 / turn * kept
                };
                turns.enumerate().map(mix).collect()
            }
            RopeScaling::LongRope { short, long: stretched, .. } => {
                let divisors = if long { stretched } else { short };
                turns.zip(divisors).map(|(turn, divisor)| 1.0 / (*divisor as f32 * turn)).collect()
            }
        }
    }

    /// Cosines and sines are multiplied by it.
    pub fn attention_factor(&self) -> f32 {
        match self.scaling {
            RopeScaling::Yarn { attention_factor, .. } | RopeScaling::LongRope { attention_factor, .. } => {
                attention_factor as f32
            }
            _ => 1.0,
        }
    }

    /// Texts longer than this turn by other frequencies.
    pub fn border(&self) -> Option<usize> {
        match self.scaling {
            RopeScaling::LongRope { original_max_positions, .. } => Some(original_max_positions),
            _ => None,
        }
    }

    /// Llama 3.1's passage.
    fn between(&self, frequency: f32) -> f32 {
        let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } = self.scaling
        else {
            return frequency;
        };
        let (factor, low, high) = (factor as f32, low_freq_factor as f32, high_freq_factor as f32);
        let original = original_max_positions as f32;
        let wavelength = 2.0 * std::f32::consts::PI / frequency;
        if wavelength > original / low {
            frequency / factor
        } else if wavelength < original / high {
            frequency
        } else {
            let smooth = (original / wavelength - low) / (high - low);
            (1.0 - smooth) * frequency / factor + smooth * frequency
        }
    }

    /// The pairs of features between which YaRN passes from kept to divided frequencies.
    fn passage(&self, dim: usize) -> (f32, f32) {
        let RopeScaling::Yarn { original_max_positions, beta_fast, beta_slow, truncate, .. } = self.scaling else {
            return (0.0, 1.0);
        };
        let place = |turns: f64| {
            let wave = original_max_positions as f64 / (turns * 2.0 * std::f64::consts::PI);
            dim as f64 * wave.ln() / (2.0 * self.theta.ln())
        };
        let (low, high) = (place(beta_fast), place(beta_slow));
        let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
        let (low, high) = (low.max(0.0), high.min(dim as f64 - 1.0));
        (low as f32, if low == high { high + 0.001 } else { high } as f32)
    }

    /// Errors: numbers that cannot make frequencies for `dim` features.
    pub(super) fn check(&self, dim: usize) -> Result<()> {
        let mut numbers = vec![("rope_theta", self.theta)];
        match &self.scaling {
            RopeScaling::None => {}
            RopeScaling::Linear { factor } => numbers.push(("factor", *factor)),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, .. } => numbers.extend([
                ("factor", *factor),
                ("low_freq_factor", *low_freq_factor),
                ("high_freq_factor", *high_freq_factor),
            ]),
            RopeScaling::Yarn { factor, beta_fast, beta_slow, attention_factor, .. } => numbers.extend([
                ("factor", *factor),
                ("beta_fast", *beta_fast),
                ("beta_slow", *beta_slow),
                ("attention_factor", *attention_factor),
            ]),
            RopeScaling::LongRope { short, long, attention_factor, .. } => {
                for (name, factors) in [("short_factor", short), ("long_factor", long)] {
                    if factors.len() != dim / 2 {
                        return Err(bad(format!("`{name}` holds {} numbers; expected {}", factors.len(), dim / 2)));
                    }
                    numbers.extend(factors.iter().map(|factor| (name, *factor)));
                }
                numbers.push(("attention_factor", *attention_factor));
            }
        }
        match numbers.iter().find(|(_, number)| !(number.is_finite() && *number > 0.0)) {
            Some((name, number)) => Err(bad(format!("`{name}` {number} is not a positive number"))),
            None => Ok(()),
        }
    }
}

/// What a rotary table is read from.
pub(super) struct Source<'a> {
    /// `rope_theta` where the table does not say.
    pub theta: f64,
    pub max_positions: usize,
    /// `original_max_position_embeddings` beside the table.
    pub original: Option<usize>,
    /// Older names of LongRoPE (Phi-3).
    pub phi: bool,
    /// The older place of `partial_rotary_factor`, or 1.
    pub share: f64,
    pub table: Option<Fields<'a>>,
}

impl Source<'_> {
    /// The embedding, and the share of a head's features that turn.
    pub fn read(&self) -> Result<(Rope, f64)> {
        let Some(table) = &self.table else { return Ok((Rope::plain(self.theta), self.share)) };
        let theta = table.number("rope_theta", Some(self.theta))?;
        let share = table.number("partial_rotary_factor", Some(self.share))?;
        Ok((Rope { theta, scaling: self.scaling(table)? }, share))
    }

    fn scaling(&self, table: &Fields) -> Result<RopeScaling> {
        let kind = table.text("rope_type").or_else(|| table.text("type")).unwrap_or("default");
        let kind = if self.phi && ["su", "yarn"].contains(&kind) { "longrope" } else { kind };
        let here = table.optional_size("original_max_position_embeddings")?;
        if let (Some(here), Some(beside)) = (here, self.original)
            && here != beside
        {
            return Err(bad(format!(
                "`original_max_position_embeddings` is {here} in one place and {beside} in another"
            )));
        }
        let original_max_positions = self.original.or(here).unwrap_or(self.max_positions);
        let stretched = self.max_positions as f64 / original_max_positions as f64;
        match kind {
            "default" => Ok(RopeScaling::None),
            // Its base grows with texts longer than `max_position_embeddings`, and there are none.
            "dynamic" => match here {
                Some(here) if here != self.max_positions => {
                    Err(bad("RoPE scaling `dynamic` with `original_max_position_embeddings` is not implemented"))
                }
                _ => Ok(RopeScaling::None),
            },
            "linear" => Ok(RopeScaling::Linear { factor: table.number("factor", None)? }),
            "llama3" => Ok(RopeScaling::Llama3 {
                factor: table.number("factor", None)?,
                low_freq_factor: table.number("low_freq_factor", None)?,
                high_freq_factor: table.number("high_freq_factor", None)?,
                original_max_positions,
            }),
            "yarn" => {
                let factor = table.number("factor", Some(stretched))?;
                Ok(RopeScaling::Yarn {
                    factor,
                    original_max_positions,
                    beta_fast: table.number("beta_fast", Some(32.0))?,
                    beta_slow: table.number("beta_slow", Some(1.0))?,
                    truncate: table.flag("truncate", true)?,
                    attention_factor: yarn_attention_factor(table, factor)?,
                })
            }
            "longrope" => {
                let factor = table.number("factor", Some(stretched))?;
                let usual = match factor > 1.0 {
                    true => (1.0 + factor.ln() / (original_max_positions as f64).ln()).sqrt(),
                    false => 1.0,
                };
                Ok(RopeScaling::LongRope {
                    short: table.numbers("short_factor")?,
                    long: table.numbers("long_factor")?,
                    original_max_positions,
                    attention_factor: table.number("attention_factor", Some(usual))?,
                })
            }
            other => Err(bad(format!("RoPE scaling `{other}` is not implemented")).hint(
                "implemented: `default`, `linear`, `dynamic`, `llama3`, `yarn`, `longrope`; remove `rope_scaling` to use \
                 the trained length",
            )),
        }
    }
}

fn yarn_attention_factor(table: &Fields, factor: f64) -> Result<f64> {
    let grown = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
    let scales = (table.number("mscale", Some(0.0))?, table.number("mscale_all_dim", Some(0.0))?);
    let usual = match scales {
        (own, all) if own != 0.0 && all != 0.0 => grown(own) / grown(all),
        _ => grown(1.0),
    };
    table.number("attention_factor", Some(usual))
}

/// The table of rotary parameters under its newer or its older name. Errors where the two say different things.
pub(super) fn table<'a>(fields: &Fields<'a>) -> Result<Option<Fields<'a>>> {
    let newer = fields.present("rope_parameters").and_then(Value::as_object).map(Fields);
    let older = fields.present("rope_scaling").and_then(Value::as_object).map(Fields);
    if let (Some(newer), Some(older)) = (&newer, &older) {
        let differs = |key: &&String| *key != "type" && newer.present(key) != older.present(key);
        if let Some(key) = older.0.keys().find(differs) {
            return Err(bad(format!("`{key}` of `rope_scaling` is not that of `rope_parameters`")));
        }
    }
    Ok(newer.or(older))
}
