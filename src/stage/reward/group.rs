//! What a sample is among the correct samples of its problem.

/// How likely each text is among the others, 0 to 1: the logistic function of its standardised mean log-prob (arXiv 2602.11220,
/// the distribution reward). 1/2 of one alone.
pub fn likelihoods(logprobs: &[f64]) -> Vec<f64> {
    let n = logprobs.len().max(1) as f64;
    let mean = logprobs.iter().sum::<f64>() / n;
    let deviation = (logprobs.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt();
    logprobs.iter().map(|x| 1.0 / (1.0 + ((mean - x) / (deviation + 1e-6)).exp())).collect()
}

/// What each adds to the diversity of all: the mean of `(1 - cos) / 2` over pairs, less that of the others alone, and no less than
/// 0 (arXiv 2602.11220, the diversity reward). 0 where there are fewer than two.
pub fn diversities(embeddings: &[Vec<f32>]) -> Vec<f64> {
    let n = embeddings.len();
    let distance = |a: usize, b: usize| (1.0 - cosine(&embeddings[a], &embeddings[b])) / 2.0;
    let to_others: Vec<f64> = (0..n).map(|a| (0..n).filter(|b| *b != a).map(|b| distance(a, b)).sum::<f64>()).collect();
    // Every pair counts twice in it.
    let twice: f64 = to_others.iter().sum();
    let mean = |twice: f64, n: usize| if n < 2 { 0.0 } else { twice / (n * (n - 1)) as f64 };
    to_others.iter().map(|own| (mean(twice, n) - mean(twice - 2.0 * own, n.saturating_sub(1))).max(0.0)).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_is_worth_most() {
        assert_eq!(likelihoods(&[-1.0]), [0.5]);
        assert_eq!(likelihoods(&[-1.0, -1.0]), [0.5, 0.5]);
        let found = likelihoods(&[-3.0, -1.0]);
        assert!((found[1] - 1.0 / (1.0 + (-1.0f64).exp())).abs() < 1e-5 && (found[0] + found[1] - 1.0).abs() < 1e-12);
        assert!(likelihoods(&[]).is_empty());
    }

    #[test]
    fn what_is_unlike_the_others_adds_to_them() {
        let [a, b] = [vec![1.0, 0.0], vec![0.0, 1.0]];
        assert_eq!(diversities(std::slice::from_ref(&a)), [0.0]);
        assert_eq!(diversities(&[a.clone(), b.clone()]), [0.5, 0.5]);
        let three = diversities(&[a.clone(), a.clone(), b]);
        assert!(three[2] > 0.3 && three[0] == 0.0 && three[1] == 0.0, "{three:?}");
        assert_eq!(diversities(&[a.clone(), a]), [0.0, 0.0]);
    }
}
