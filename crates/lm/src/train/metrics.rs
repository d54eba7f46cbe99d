//! What a step reports, summed over its micro-batches in order.

use super::loss::Token;

/// What happened in one optimizer step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepMetrics {
    /// 0-based.
    pub step: u32,
    /// Weighted mean over target tokens of token weight times negative log-prob, and any penalty.
    pub loss: f64,
    /// Mean over target tokens of the negative log-prob, nats.
    pub nll: f64,
    /// Global L2 norm of the gradient, before clipping.
    pub grad_norm: f64,
    pub learning_rate: f64,
    /// Target tokens.
    pub token_count: u64,
    /// Tokens that went through the model.
    pub input_token_count: u64,
    pub weight_mean: f64,
    pub weight_var: f64,
    /// `(sum w)^2 / sum w^2` of the token weights, between 1 and `token_count`.
    pub ess: f64,
    /// Share of target tokens with a weight below 0.05.
    pub low_weight_share: f64,
    /// Mean probability of the end of sequence where it is the target; none if it never is.
    pub eos_probability: Option<f64>,
    /// By source number, sorted.
    pub sources: Vec<SourceMetrics>,
    /// The gradient was clipped.
    pub clipped: bool,
    /// Why no update was made: the loss or the gradient is not finite, or there was no target at all.
    pub skipped: Option<String>,
}

/// Target tokens of one source.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SourceMetrics {
    pub source: u32,
    pub token_count: u64,
    /// Mean negative log-prob, nats.
    pub nll: f64,
    pub weight_mean: f64,
}

/// Sums from which the metrics are made. Kept in f64, added in micro-batch order.
#[derive(Clone, Debug, Default)]
pub(super) struct Sums {
    pub tokens: u64,
    pub input_tokens: u64,
    /// Numerator of the loss.
    pub loss: f64,
    nll: f64,
    weight: f64,
    weight_square: f64,
    low: u64,
    eos: u64,
    eos_probability: f64,
    /// (source, tokens, nll, weight), sorted by source.
    sources: Vec<(u32, u64, f64, f64)>,
}

/// Token weights below this count as low.
const LOW_WEIGHT: f32 = 0.05;

impl Sums {
    /// Takes in the tokens of a micro-batch with their weights and sources.
    pub fn add_tokens(&mut self, tokens: &[Token], weights: &[f32], source_of: impl Fn(&Token) -> u32) {
        for (token, weight) in tokens.iter().zip(weights) {
            let (nll, w) = (-f64::from(token.logprob), f64::from(*weight));
            self.tokens += 1;
            self.nll += nll;
            self.weight += w;
            self.weight_square += w * w;
            self.low += u64::from(*weight < LOW_WEIGHT);
            if token.eos {
                self.eos += 1;
                self.eos_probability += f64::from(token.logprob).exp();
            }
            self.add_source((source_of(token), 1, nll, w));
        }
    }

    fn add_source(&mut self, (source, tokens, nll, weight): (u32, u64, f64, f64)) {
        let at = self.sources.binary_search_by_key(&source, |s| s.0).unwrap_or_else(|at| {
            self.sources.insert(at, (source, 0, 0.0, 0.0));
            at
        });
        let sum = &mut self.sources[at];
        *sum = (source, sum.1 + tokens, sum.2 + nll, sum.3 + weight);
    }

    pub fn add(&mut self, other: &Sums) {
        self.tokens += other.tokens;
        self.input_tokens += other.input_tokens;
        self.loss += other.loss;
        self.nll += other.nll;
        self.weight += other.weight;
        self.weight_square += other.weight_square;
        self.low += other.low;
        self.eos += other.eos;
        self.eos_probability += other.eos_probability;
        other.sources.iter().for_each(|sum| self.add_source(*sum));
    }

    /// The metrics of a step whose loss has this value; gradient and update are filled in by the caller.
    pub fn metrics(&self, step: u32, loss: f64) -> StepMetrics {
        let n = self.tokens.max(1) as f64;
        let mean = self.weight / n;
        StepMetrics {
            step,
            loss,
            nll: self.nll / n,
            grad_norm: 0.0,
            learning_rate: 0.0,
            token_count: self.tokens,
            input_token_count: self.input_tokens,
            weight_mean: mean,
            weight_var: (self.weight_square / n - mean * mean).max(0.0),
            ess: if self.weight_square > 0.0 { self.weight * self.weight / self.weight_square } else { 0.0 },
            low_weight_share: self.low as f64 / n,
            eos_probability: (self.eos > 0).then(|| self.eos_probability / self.eos as f64),
            sources: self.sources.iter().map(source_metrics).collect(),
            clipped: false,
            skipped: None,
        }
    }
}

fn source_metrics(&(source, token_count, nll, weight): &(u32, u64, f64, f64)) -> SourceMetrics {
    let n = token_count as f64;
    SourceMetrics { source, token_count, nll: nll / n, weight_mean: weight / n }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_in_parts_equal_sums_at_once() {
        let token = |example, logprob, eos| Token { example, logprob, eos, ..Token::default() };
        let tokens = [token(0, -1.0, false), token(0, -2.0, true), token(1, -3.0, false)];
        let weights = [1.0, 0.01, 0.5];
        let source = |t: &Token| t.example as u32;
        let (mut whole, mut parts) = (Sums::default(), Sums::default());
        whole.add_tokens(&tokens, &weights, source);
        for i in [2, 0, 1] {
            let mut part = Sums::default();
            part.add_tokens(&tokens[i..=i], &weights[i..=i], source);
            parts.add(&part);
        }
        let metrics = whole.metrics(3, 0.25);
        assert_eq!(parts.metrics(3, 0.25), metrics);
        assert_eq!((metrics.step, metrics.loss, metrics.nll, metrics.token_count), (3, 0.25, 2.0, 3));
        assert!((metrics.low_weight_share - 1.0 / 3.0).abs() < 1e-12);
        assert!((metrics.ess - 1.51f64.powi(2) / 1.2501).abs() < 1e-6);
        assert!((metrics.eos_probability.unwrap() - (-2f64).exp()).abs() < 1e-12);
        let sources = metrics.sources;
        assert_eq!((sources[0].token_count, sources[0].nll, sources[1].nll), (2, 1.5, 3.0));
    }
}
