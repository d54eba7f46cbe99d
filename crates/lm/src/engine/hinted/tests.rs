use super::super::tests::{Bench, GO, sampling, small};
use super::super::{Request, ScoreRequest, TokenScores, score};
use super::*;

fn requests(count: u32, samples: u32) -> Vec<HintedRequest> {
    let request = |index: u32| {
        let plain: Vec<u32> = (0..4 + index % 7).map(|i| (i * 31 + index * 7) % 260).collect();
        let hint: Vec<u32> = (0..9 + index % 5).map(|i| (i * 17 + index * 3) % 260).collect();
        HintedRequest {
            name: format!("request {index}"),
            hinted_ids: [plain.clone(), hint].concat().into(),
            prompt_ids: plain.into(),
            samples: (0..samples).map(|sample| Stream::at(1, &[&index.to_le_bytes(), &sample.to_le_bytes()])).collect(),
        }
    };
    (0..count).map(request).collect()
}

fn run(bench: &Bench, requests: &[HintedRequest], beta: f32, slots: usize, threads: usize) -> Vec<Vec<Sample>> {
    let limits = Limits { slots, kv_budget_bytes: 1 << 30, threads, cancel: &GO };
    let mut samples: Vec<Vec<Sample>> = requests.iter().map(|r| vec![Sample::empty(); r.samples.len()]).collect();
    let take = |finished: Vec<Finished>| {
        finished.into_iter().for_each(|(request, index, sample)| samples[request][index] = sample);
        Ok(())
    };
    generate_hinted(&bench.runner, None, requests, &sampling(30), beta, &limits, &|_| (), take).unwrap();
    samples
}

#[test]
fn a_sample_is_the_same_alone_and_in_any_batch() {
    let bench = small();
    let requests = requests(9, 3);
    let full = run(&bench, &requests, 0.7, 64, 1);
    let lengths: Vec<usize> = full.iter().flatten().map(|sample| sample.token_ids.len()).collect();
    assert!(lengths.iter().min() < lengths.iter().max(), "rows should leave at different times");
    for (slots, threads) in [(64, 2), (3, 1), (1, 2)] {
        assert_eq!(run(&bench, &requests, 0.7, slots, threads), full, "{slots} slots, {threads} threads");
    }
}

/// Without a hint's share it is ordinary sampling, to the bit but for the mixture's own normalisation.
#[test]
fn without_a_share_the_hint_changes_nothing() {
    let bench = small();
    let requests = requests(6, 2);
    let plain: Vec<Request> = requests.iter().map(|r| Request::new(r.prompt_ids.clone(), r.samples.clone())).collect();
    let (hinted, plain) = (run(&bench, &requests, 0.0, 8, 1), bench.run(&plain, &sampling(30), 8, 1));
    for (hinted, plain) in hinted.iter().flatten().zip(plain.iter().flatten()) {
        assert_eq!(hinted.token_ids, plain.token_ids);
        assert_eq!(hinted.logprob_policy, plain.logprob_policy);
        let near = hinted.logprob_behavior.iter().zip(&plain.logprob_behavior).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!(near, "{:?}", hinted.logprob_behavior);
    }
}

/// Of every token drawn, the log-prob under the mixture as the paper's formula gives it from both contexts' whole distributions.
#[test]
fn log_probs_are_those_of_the_published_mixture() {
    let bench = small();
    let vocabulary = bench.runner.config().vocab_size;
    let limits = Limits { slots: 8, kv_budget_bytes: 1 << 30, threads: 1, cancel: &GO };
    let requests = requests(4, 2);
    for beta in [0.7, 50.0] {
        for (request, samples) in requests.iter().zip(run(&bench, &requests, beta, 8, 1)) {
            for sample in samples {
                let whole = |prompt_ids: &Arc<[u32]>| -> TokenScores {
                    let to_score = ScoreRequest::new(prompt_ids.clone(), &sample.token_ids[..]).with_top(vocabulary);
                    score(&bench.runner, &[to_score], &limits, &|_| ()).unwrap().remove(0)
                };
                let (plain, hinted) = (whole(&request.prompt_ids), whole(&request.hinted_ids));
                assert_eq!(sample.logprob_policy, plain.logprob_policy);
                for (position, token) in sample.token_ids.iter().enumerate() {
                    let by_token = |scores: &TokenScores| {
                        let mut all = vec![0.0f64; vocabulary];
                        scores.top[position].iter().for_each(|(token, x)| all[*token as usize] = f64::from(*x));
                        all
                    };
                    let (p, q) = (by_token(&plain), by_token(&hinted));
                    let entropy: f64 = -p.iter().map(|x| x.exp() * x).sum::<f64>();
                    let share = if position == 0 { 0.0 } else { f64::from(beta) * entropy / (vocabulary as f64).ln() };
                    let share = share.min(1.0);
                    let mixed: Vec<f64> = p.iter().zip(&q).map(|(p, q)| (1.0 - share) * p + share * q).collect();
                    let wanted = mixed[*token as usize] - mixed.iter().map(|x| x.exp()).sum::<f64>().ln();
                    let found = f64::from(sample.logprob_behavior[position]);
                    assert!((found - wanted).abs() < 2e-4, "beta {beta}, token {position}: {found}, {wanted}");
                }
            }
        }
    }
}

#[test]
fn bad_input_is_an_error() {
    let bench = small();
    let limits = Limits { slots: 8, kv_budget_bytes: 1 << 30, threads: 1, cancel: &GO };
    let generate = |requests: &[HintedRequest], beta: f32| {
        generate_hinted(&bench.runner, None, requests, &sampling(4), beta, &limits, &|_| (), |_| Ok(()))
    };
    assert!(generate(&requests(1, 1), -1.0).unwrap_err().what().contains("beta"));
    let mut empty = requests(1, 1);
    empty[0].hinted_ids = Vec::new().into();
    let error = generate(&empty, 0.7).unwrap_err();
    assert_eq!((error.what(), error.places()), ("prompt is empty", &["request 0".to_string()][..]));
}
