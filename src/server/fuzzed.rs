//! What fuzz targets call.

use super::wire::{Draw, Scoring};
use crate::policy::Api;
use mindgap_lm::engine::Sampling;

/// Reads an answer as of both programs, to a request for a sample and for scores. What is read fits what was asked.
pub fn answer(body: &[u8]) {
    let sampling = Sampling::plain(4, &[7]);
    let draw = Draw { prompt_ids: &[11, 12], sampling: &sampling, max_tokens: 4, seed: Some(1), vocab_size: 100 };
    let scoring = Scoring { token_ids: &[11, 12, 13, 7], from: 2, top_k: 2, salt: "s", vocab_size: 100 };
    for api in [Api::Vllm, Api::Sglang] {
        if let Ok(completion) = api.read_completion(&draw, body) {
            assert_eq!(completion.token_ids.len(), completion.logprobs.len());
            assert!((1..=4).contains(&completion.token_ids.len()) && completion.token_ids.iter().all(|id| *id < 100));
            assert!(completion.logprobs.iter().all(|value| value.is_finite() && *value <= 0.0));
        }
        if let Ok(scores) = api.read_scores(&scoring, body) {
            let top = scores.top.iter().flatten().map(|(_, value)| value);
            assert!(scores.logprob_policy.len() == 2 && scores.top.iter().all(|top| top.len() <= 2));
            assert!(scores.logprob_policy.iter().chain(top).all(|value| value.is_finite() && *value <= 0.0));
        }
    }
}
