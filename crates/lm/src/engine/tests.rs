//! Properties of the engine on a small random policy: a sample is a function of its coordinates alone.

use super::*;
use crate::model::policy::Policy;
use crate::model::runner::Runner;
use crate::model::testing::tiny_policy_files;
use mindgap_base::rng::Stream;

pub(super) struct Bench {
    pub policy: Policy,
    pub runner: Runner,
}

pub(super) fn small() -> Bench {
    let policy = Policy::from_files(tiny_policy_files(7)).unwrap();
    let runner = policy.runner().unwrap();
    Bench { policy, runner }
}

pub(super) static GO: AtomicBool = AtomicBool::new(false);

pub(super) fn request(index: u64, samples: usize) -> Request {
    let length = 3 + (index as usize * 5) % 17;
    let prompt_ids: Vec<u32> = (0..length as u32).map(|i| (i * 31 + index as u32 * 7) % 260).collect();
    let stream = |sample: usize| Stream::at(1, &[&index.to_le_bytes(), &sample.to_le_bytes()]);
    Request::new(prompt_ids, (0..samples).map(stream).collect())
}

pub(super) fn sampling(max_new_tokens: u32) -> Sampling {
    // Several EOS ids, so that rows leave at different times.
    Sampling { eos: vec![2, 0, 17, 99, 200], ..Sampling::plain(max_new_tokens, &[]) }
}

impl Bench {
    pub(super) fn run(
        &self,
        requests: &[Request],
        sampling: &Sampling,
        slots: usize,
        threads: usize,
    ) -> Vec<Vec<Sample>> {
        let limits = Limits { slots, kv_budget_bytes: 1 << 30, threads, cancel: &GO };
        generate(&self.runner, Some(self.policy.tokenizer()), requests, sampling, &limits, &|_| ()).unwrap()
    }
}

#[test]
fn a_sample_is_the_same_alone_and_in_any_batch() {
    let bench = small();
    let requests: Vec<Request> = (0..20).map(|i| request(i, 4)).collect();
    for sampling in [
        sampling(60),
        Sampling { temperature: 0.7, top_p: 0.9, ..sampling(60) },
        Sampling { temperature: 0.0, ..sampling(60) },
    ] {
        let full = bench.run(&requests, &sampling, 64, 1);
        let lengths: Vec<usize> = full.iter().flatten().map(|s| s.token_ids.len()).collect();
        if sampling.temperature > 0.0 {
            assert!(lengths.iter().min() < lengths.iter().max(), "rows should leave at different times");
        }
        for (slots, threads) in [(64, 2), (3, 1), (5, 2), (1, 1)] {
            assert_eq!(bench.run(&requests, &sampling, slots, threads), full, "{slots} slots, {threads} threads");
        }
        for (index, request) in requests.iter().enumerate() {
            for (j, stream) in request.samples.iter().enumerate() {
                let alone = Request::new(request.prompt_ids.clone(), vec![*stream]);
                assert_eq!(bench.run(&[alone], &sampling, 64, 2)[0][0], full[index][j]);
            }
        }
    }
}

/// Adding tokens to the allowance continues a sample, it does not change it.
#[test]
fn a_longer_allowance_continues_the_same_sample() {
    let bench = small();
    let requests: Vec<Request> = (0..6).map(|i| request(i, 2)).collect();
    let (short, long) = (bench.run(&requests, &sampling(10), 8, 1), bench.run(&requests, &sampling(40), 8, 1));
    for (short, long) in short.iter().flatten().zip(long.iter().flatten()) {
        assert_eq!(short.token_ids[..], long.token_ids[..short.token_ids.len()]);
        assert_eq!(short.logprob_policy[..], long.logprob_policy[..short.token_ids.len()]);
    }
}

#[test]
fn scores_equal_the_log_probs_of_decoding_bit_for_bit() {
    let bench = small();
    let requests: Vec<Request> = (0..12).map(|i| request(i, 3)).collect();
    let samples = bench.run(&requests, &sampling(50), 16, 2);
    let mut to_score = Vec::new();
    for (request, samples) in requests.iter().zip(&samples) {
        for sample in samples {
            to_score.push(ScoreRequest::new(request.prompt_ids.clone(), &sample.token_ids[..]));
        }
    }
    for threads in [1, 2] {
        let limits = Limits { slots: 1, kv_budget_bytes: 1 << 30, threads, cancel: &GO };
        let scores = score(&bench.runner, &to_score, &limits, &|_| ()).unwrap();
        for (score, sample) in scores.iter().zip(samples.iter().flatten()) {
            assert_eq!(score.logprob_policy, sample.logprob_policy);
            assert_eq!(sample.logprob_behavior, sample.logprob_policy);
            assert!(score.entropy.iter().all(|e| *e > 0.0 && *e < (264f32).ln()));
        }
    }
}

#[test]
fn stop_reasons_and_limits() {
    let bench = small();
    let requests: Vec<Request> = (0..8).map(|i| request(i, 4)).collect();
    let sampling = sampling(12);
    for sample in bench.run(&requests, &sampling, 8, 1).iter().flatten() {
        let ended = sample.token_ids.iter().position(|t| sampling.eos.contains(t));
        match sample.stop_reason {
            StopReason::Eos => assert_eq!(ended, Some(sample.token_ids.len() - 1)),
            StopReason::MaxTokens => assert_eq!((ended, sample.token_ids.len()), (None, 12)),
            StopReason::StopString => panic!("no stop string was given"),
        }
        assert!(sample.logprob_policy.iter().all(|l| *l <= 0.0 && l.is_finite()));
    }
    // The model has 96 positions: the prompt and the completion fill them.
    let filled = bench.run(&requests, &Sampling::plain(500, &[]), 8, 1);
    for (request, sample) in requests.iter().zip(&filled) {
        assert_eq!(sample[0].token_ids.len(), 96 - request.prompt_ids.len());
        assert_eq!(sample[0].stop_reason, StopReason::MaxTokens);
    }
}

#[test]
fn stop_strings_end_a_sample_where_they_are_complete() {
    let bench = small();
    let requests: Vec<Request> = (0..4).map(|i| request(i, 4)).collect();
    let free = bench.run(&requests, &Sampling::plain(40, &[]), 8, 1);
    let text = |ids: &[u32]| bench.policy.tokenizer().decode(ids, true).unwrap();
    // Two neighbouring printable characters of one of the samples: bytes are tokens here, so they cross a border.
    let all = text(&free[1][2].token_ids);
    let printable: Vec<char> = all.chars().collect();
    let pair = printable.windows(2).find(|w| w.iter().all(char::is_ascii_graphic)).expect("some printable pair");
    let stop: String = pair.iter().collect();
    let sampling = Sampling { stop: vec![stop.clone()], ..Sampling::plain(40, &[]) };
    let stopped = bench.run(&requests, &sampling, 8, 2);
    for (free, stopped) in free.iter().flatten().zip(stopped.iter().flatten()) {
        let ids = &stopped.token_ids;
        assert_eq!(ids[..], free.token_ids[..ids.len()]);
        assert_eq!(stopped.stop_reason == StopReason::StopString, text(&free.token_ids).contains(&stop));
        if stopped.stop_reason == StopReason::StopString {
            assert!(text(ids).contains(&stop) && !text(&ids[..ids.len() - 1]).contains(&stop));
        }
    }
    assert_eq!(stopped[1][2].stop_reason, StopReason::StopString);
}

#[test]
fn bad_requests_are_errors() {
    let bench = small();
    let limits = Limits { slots: 4, kv_budget_bytes: 1 << 30, threads: 1, cancel: &GO };
    let run = |prompt: &[u32], limits: &Limits, sampling: &Sampling| {
        let request = Request::new(prompt, vec![Stream::at(1, &[])]);
        generate(&bench.runner, None, &[request], sampling, limits, &|_| ()).unwrap_err().to_string()
    };
    let plain = sampling(5);
    assert!(run(&[], &limits, &plain).contains("prompt is empty"));
    assert!(run(&[1; 96], &limits, &plain).contains("96 tokens"));
    assert!(run(&[264], &limits, &plain).contains("token id 264"));
    assert!(run(&[1], &limits, &Sampling { top_p: 2.0, ..plain.clone() }).contains("`top_p`"));
    assert!(run(&[1], &limits, &Sampling { stop: vec!["x".into()], ..plain.clone() }).contains("tokenizer"));
    assert!(run(&[1], &Limits { kv_budget_bytes: 100, ..limits }, &plain).contains("one sequence of 1 + 5 tokens"));
    let stop = AtomicBool::new(true);
    assert!(run(&[1], &Limits { cancel: &stop, ..limits }, &plain).contains("stopped"));
    let scored = |prompt: &[u32], ids: &[u32]| {
        let request = ScoreRequest::new(prompt, ids);
        score(&bench.runner, &[request], &limits, &|_| ()).map_err(|e| e.to_string())
    };
    assert!(scored(&[], &[1]).unwrap_err().contains("prompt is empty"));
    assert!(scored(&[1; 90], &[1; 7]).unwrap_err().contains("97 tokens"));
    assert!(scored(&[1], &[300]).unwrap_err().contains("token id 300"));
    assert_eq!(scored(&[1, 2], &[]).unwrap(), [TokenScores::default()]);
}

/// A budget for two sequences is kept, and changes nothing but the speed.
#[test]
fn a_small_budget_gives_the_same_samples() {
    let bench = small();
    let requests: Vec<Request> = (0..5).map(|i| request(i, 3)).collect();
    let shape = crate::model::kv_cache::KvShape::of(bench.policy.config(), Default::default());
    let bytes = 2 * (shape.bytes(19) + shape.bytes(30));
    let limits = Limits { slots: 64, kv_budget_bytes: bytes, threads: 1, cancel: &GO };
    let tight = generate(&bench.runner, None, &requests, &sampling(30), &limits, &|_| ()).unwrap();
    assert_eq!(tight, bench.run(&requests, &sampling(30), 64, 1));
}

/// More threads than sequences fit: some threads do nothing, and the samples are the same.
#[test]
fn a_budget_below_a_sequence_per_thread_uses_fewer_threads() {
    let bench = small();
    let requests: Vec<Request> = (0..40).map(|i| request(i, 2)).collect();
    let shape = crate::model::kv_cache::KvShape::of(bench.policy.config(), Default::default());
    let sequence = shape.bytes(19) + shape.bytes(30);
    let of_budget = |kv_budget_bytes| {
        let limits = Limits { slots: 64, kv_budget_bytes, threads: 16, cancel: &GO };
        generate(&bench.runner, None, &requests, &sampling(30), &limits, &|_| ())
    };
    let expected = bench.run(&requests, &sampling(30), 64, 1);
    for sequences in [1, 3, 15] {
        assert_eq!(of_budget(sequences * sequence).unwrap(), expected, "room for {sequences}");
    }
    assert!(of_budget(sequence - 1).unwrap_err().what().contains("one sequence of 19 + 30 tokens"));
}

#[test]
fn progress_ends_complete() {
    let bench = small();
    let requests: Vec<Request> = (0..5).map(|i| request(i, 3)).collect();
    let last = std::sync::Mutex::new(Progress::default());
    let limits = Limits { slots: 4, kv_budget_bytes: 1 << 30, threads: 1, cancel: &GO };
    let results =
        generate(&bench.runner, None, &requests, &sampling(9), &limits, &|p| *last.lock().unwrap() = p).unwrap();
    let last = *last.lock().unwrap();
    assert_eq!((last.done, last.total), (15, 15));
    assert_eq!(last.new_tokens, results.iter().flatten().map(|s| s.token_ids.len()).sum::<usize>());
    assert_eq!(last.prompt_tokens, requests.iter().map(|r| r.prompt_ids.len()).sum::<usize>());
}

#[test]
fn a_policy_with_nan_is_an_error() {
    let bench = small();
    let nan = candle_core::Tensor::new(&[f32::NAN; 24], &candle_core::Device::Cpu).unwrap();
    let config = bench.policy.config();
    let mut tensors = crate::model::testing::tiny_tensors(config, 7);
    tensors.insert("model.norm.weight".into(), nan);
    let cpu = candle_core::Device::Cpu;
    let broken =
        crate::model::transformer::Transformer::from_tensors(config, tensors, candle_core::DType::F32, &cpu).unwrap();
    let runner = Runner::from_transformer(&broken).unwrap();
    let limits = Limits { slots: 4, kv_budget_bytes: 1 << 30, threads: 2, cancel: &GO };
    let error = generate(&runner, None, &[request(1, 2)], &sampling(5), &limits, &|_| ()).unwrap_err();
    assert!(error.what().contains("not finite"));
    assert_eq!(error.places(), ["request 0"]);
    let named = request(1, 2).named("problem `p`");
    let error = generate(&runner, None, &[named], &sampling(5), &limits, &|_| ()).unwrap_err();
    assert_eq!(error.places(), ["problem `p`"]);
}

#[test]
fn bench_counts_what_it_ran() {
    let bench = small();
    let plan = bench::Plan {
        prompt_tokens: 5,
        new_tokens: 4,
        batches: vec![1, 3],
        long: Some((2, 90)),
        score_sequences: 2,
        score_tokens: 6,
    };
    let limits = Limits { slots: 1, kv_budget_bytes: 1 << 28, threads: 1, cancel: &GO };
    let ticks = std::cell::Cell::new(0.0);
    let clock = || {
        ticks.set(ticks.get() + 1.0);
        ticks.get()
    };
    let measured = bench::bench(&bench.runner, &plan, &limits, &clock).unwrap();
    let tokens: Vec<usize> = measured.iter().map(|m| m.tokens).collect();
    assert_eq!(tokens, [4, 4, 12, 12, 8, 12]);
    assert!(measured.iter().all(|m| m.seconds == 1.0 && m.flops > 0.0));
    // One prompt instead of three.
    assert!(measured[3].flops < measured[2].flops);
}
