//! What a weight may depend on: facts about a token, and statistics of the step it belongs to.

/// What is known about one target token when its weight is decided.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Token {
    /// The example it belongs to; tokens of one example follow each other.
    pub example: usize,
    /// Under the policy being trained, natural.
    pub logprob: f32,
    /// Of the policy's distribution, nats.
    pub entropy: f32,
    /// Under the frozen reference policy. Present where the rows have it, or if [`super::Loss::compares_with_held`].
    pub reference: Option<f32>,
    /// Entropy of the reference policy's distribution, nats. Present if [`super::Loss::compares_with_held`].
    pub reference_entropy: Option<f32>,
    /// Under the policy it was sampled from, and the prompt then used; unknown for expert rows.
    pub behavior: Option<f32>,
    /// What its sample's reward is above the mean of its problem's, scaled; none of rows without rewards.
    pub advantage: Option<f32>,
    /// Under the policy some steps ago, if there is one.
    pub old: Option<f32>,
    /// Entropy of the k likeliest tokens, renormalised. Present if [`super::Loss::top_k`].
    pub top_entropy: Option<f32>,
    /// The token ends a sequence.
    pub eos: bool,
}

/// What a weight may depend on beyond its micro-batch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepFacts {
    /// 0-based.
    pub step: u32,
    /// For [`super::Loss::Talr`]: the temperature and the mean of the weights over the whole step.
    pub talr: Option<Talr>,
}

/// Statistics of a whole step for [`super::Loss::Talr`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Talr {
    pub temperature: f32,
    pub mean: f32,
}

impl Talr {
    /// From all target tokens of a step. The temperature is kept above 1e-3, so that a step the policy knows by heart
    /// does not divide by nothing.
    pub fn of(tokens: &[Token]) -> Talr {
        let mut means: Vec<f32> = tokens
            .chunk_by(|a, b| a.example == b.example)
            .map(|sequence| -sequence.iter().map(|t| t.logprob).sum::<f32>() / sequence.len() as f32)
            .collect();
        means.sort_by(f32::total_cmp);
        let (low, high) = ((means.len().max(1) - 1) / 2, means.len() / 2);
        let temperature = means.get(low).zip(means.get(high)).map_or(1.0, |(a, b)| 0.5 * (a + b)).max(1e-3);
        let sum: f64 = tokens.iter().map(|t| f64::from((t.logprob / temperature).exp())).sum();
        Talr { temperature, mean: ((sum / tokens.len().max(1) as f64) as f32).max(f32::MIN_POSITIVE) }
    }
}
