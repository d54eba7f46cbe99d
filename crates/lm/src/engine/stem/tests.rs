use super::*;
use crate::engine::tests::GO;
use crate::engine::{Progress, Request, Sample, Sampling, ScoreRequest, TokenScores, generate, score};
use crate::model::kv_cache::KvShape;
use crate::model::runner::Runner;
use crate::model::runner::device::DeviceRunner;
use crate::model::testing::{every_shape, tiny_config, tiny_tensors};
use crate::model::transformer::Transformer;
use candle_core::{DType, Device};
use mindgap_base::rng::Stream;
use std::sync::Mutex;

fn build(config: &Config) -> (Transformer, Runner) {
    let transformer = Transformer::from_tensors(config, tiny_tensors(config, 5), DType::F32, &Device::Cpu).unwrap();
    let runner = Runner::from_transformer(&transformer).unwrap();
    (transformer, runner)
}

/// So many prompts that agree in `shared` tokens and no more.
fn prompts(count: u32, shared: u32) -> Vec<Vec<u32>> {
    let prompt = |index: u32| {
        let rest = (0..1 + index * 5 % 12).map(move |i| (index + i * 13) % 61);
        (0..shared).map(|i| (i * i + 3 * i) % 61).chain(rest).collect()
    };
    (0..count).map(prompt).collect()
}

fn request((index, prompt): (usize, &Vec<u32>)) -> Request {
    let stream = |sample: u64| Stream::at(4, &[&index.to_le_bytes(), &sample.to_le_bytes()]);
    Request::new(prompt.as_slice(), (0..3).map(stream).collect())
}

fn limits(slots: usize, threads: usize) -> Limits<'static> {
    Limits { slots, kv_budget_bytes: 1 << 30, threads, cancel: &GO }
}

fn draw(runner: &Runner, requests: &[Request], sampling: &Sampling, limits: &Limits) -> (Vec<Vec<Sample>>, Progress) {
    let last = Mutex::new(Progress::default());
    let samples =
        generate(runner, None, requests, sampling, limits, &|progress| *last.lock().unwrap() = progress).unwrap();
    (samples, last.into_inner().unwrap())
}

#[test]
fn the_largest_group_counts() {
    let config = tiny_config();
    let of = |prompts: &[Vec<u32>]| Stem::of(&config, prompts.iter().map(Vec::as_slice)).len();
    assert_eq!(of(&[]), 0);
    assert_eq!(of(&prompts(1, 40)), 0, "nothing to share with");
    assert_eq!(of(&prompts(5, 40)), 40);
    assert_eq!(of(&prompts(5, 20)), 0, "too little");
    let mut mixed = prompts(5, 40);
    mixed.extend(prompts(3, 50).into_iter().map(|prompt| prompt.into_iter().rev().collect()));
    mixed.push(vec![1; 3]);
    let stem = Stem::of(&config, mixed.iter().map(Vec::as_slice));
    assert_eq!((stem.len(), stem.under(&mixed[4], 90), stem.under(&mixed[5], 90)), (40, 40, 0));
    // A prompt that says no more than the others share keeps its last token.
    let mut short = prompts(5, 40);
    short.push(short[0][..36].to_vec());
    assert_eq!(of(&short), 35);
    assert_eq!(of(&[vec![7; 50], vec![7; 50]]), 49);
}

/// Goal: prompts that share their beginning give the samples that each gives alone, to the bit, for windows and long texts
/// too, and the beginning is computed once per thread.
#[test]
fn a_shared_beginning_changes_no_sample() {
    for config in every_shape() {
        let (_, runner) = build(&config);
        let mut prompts = prompts(9, 33);
        prompts.push(vec![5; 3]);
        let requests: Vec<Request> = prompts.iter().enumerate().map(request).collect();
        let sampling = Sampling { temperature: 0.8, eos: vec![3], ..Sampling::plain(30, &[]) };
        let alone: Vec<Vec<Sample>> = requests
            .iter()
            .map(|request| draw(&runner, std::slice::from_ref(request), &sampling, &limits(64, 1)).0.concat())
            .collect();
        for (slots, threads, speculate) in [(64, 1, 0), (3, 1, 0), (4, 2, 0), (3, 1, 8)] {
            let sampling = Sampling { speculate, ..sampling.clone() };
            let (samples, progress) = draw(&runner, &requests, &sampling, &limits(slots, threads));
            let context = format!("{:?}, {slots} slots, {threads} threads", config.architecture);
            assert_eq!(samples, alone, "{context}");
            let stem = Stem::of(&config, prompts.iter().map(Vec::as_slice));
            assert_eq!(stem.len(), 33, "{context}");
            let apart: usize = prompts.iter().map(|prompt| prompt.len() - stem.under_prompt(prompt)).sum();
            let whole: usize = prompts.iter().map(Vec::len).sum();
            assert!(apart + 3 * 33 < whole || config.is_long(60), "{context}");
            let stems = [33, 33 * threads];
            assert!(stems.map(|stem| apart + stem).contains(&progress.prompt_tokens), "{context}: {progress:?}");
        }
    }
}

#[test]
fn a_shared_beginning_changes_no_score() {
    for config in every_shape() {
        let (_, runner) = build(&config);
        let mut prompts = prompts(9, 33);
        prompts.push(vec![5; 3]);
        let answer = |index: usize| (0..index as u32 * 3 % 20).map(|i| (i * 7 + index as u32) % 61).collect::<Vec<_>>();
        let requests: Vec<ScoreRequest> =
            prompts.iter().enumerate().map(|(i, prompt)| ScoreRequest::new(prompt.as_slice(), answer(i))).collect();
        let of = |requests: &[ScoreRequest], threads| {
            let last = Mutex::new(Progress::default());
            let scores =
                score(&runner, requests, &limits(1, threads), &|progress| *last.lock().unwrap() = progress).unwrap();
            (scores, last.into_inner().unwrap())
        };
        let alone: Vec<TokenScores> =
            requests.iter().flat_map(|request| of(std::slice::from_ref(request), 1).0).collect();
        for threads in [1, 2] {
            let (scores, progress) = of(&requests, threads);
            assert_eq!(scores, alone, "{:?}", config.architecture);
            let is_less = progress.prompt_tokens < prompts.iter().map(Vec::len).sum();
            assert!(is_less || config.is_long(60), "{progress:?}");
        }
    }
}

/// Goal: a beginning longer than a call's rows is fed in pieces.
#[test]
fn a_long_beginning_comes_in_pieces() {
    let config = Config { max_positions: 2000, window: 2000, ..tiny_config() };
    let (_, runner) = build(&config);
    let requests: Vec<Request> = prompts(3, 1300).iter().enumerate().map(request).collect();
    let sampling = Sampling::plain(5, &[]);
    let (together, progress) = draw(&runner, &requests, &sampling, &limits(4, 1));
    assert_eq!(progress.prompt_tokens, 1300 + 1 + 6 + 11);
    for (request, samples) in requests.iter().zip(&together) {
        assert_eq!(&draw(&runner, std::slice::from_ref(request), &sampling, &limits(4, 1)).0[0], samples);
    }
}

/// Goal: the budget counts the beginning once per thread and no prompt twice; where it is kept, samples are the same.
#[test]
fn the_budget_counts_it_once() {
    let config = tiny_config();
    let (_, runner) = build(&config);
    let requests: Vec<Request> = prompts(8, 50).iter().enumerate().map(request).collect();
    let sampling = Sampling::plain(20, &[]);
    let (expected, _) = draw(&runner, &requests, &sampling, &limits(64, 1));
    let shape = KvShape::of(&config, Default::default());
    let (stem, slot) = (shape.bytes(50), shape.bytes(12) + shape.bytes(20));
    for (sequences, threads) in [(1, 2), (4, 1)] {
        let tight = Limits { kv_budget_bytes: stem + sequences * slot, ..limits(64, threads) };
        assert_eq!(draw(&runner, &requests, &sampling, &tight).0, expected);
    }
    let less = Limits { kv_budget_bytes: stem + slot - 1, ..limits(64, 1) };
    let error = generate(&runner, None, &requests, &sampling, &less, &|_| ()).unwrap_err();
    assert!(error.what().contains(&format!("62 + 20 tokens take {} bytes", stem + slot)), "{error}");
}

#[test]
fn a_device_shares_it_too() {
    let config = tiny_config();
    let (transformer, runner) = build(&config);
    let device = Runner::Device(DeviceRunner::from_transformer(&transformer).unwrap());
    let prompts = prompts(6, 40);
    let requests: Vec<Request> = prompts.iter().enumerate().map(request).collect();
    let greedy = Sampling { temperature: 0.0, ..Sampling::plain(30, &[]) };
    let tokens = |samples: Vec<Vec<Sample>>| samples.concat().into_iter().map(|s| s.token_ids).collect::<Vec<_>>();
    let (found, progress) = draw(&device, &requests, &greedy, &limits(5, 1));
    assert_eq!(tokens(found), tokens(draw(&runner, &requests, &greedy, &limits(5, 1)).0));
    assert_eq!(progress.prompt_tokens, 40 + prompts.iter().map(|prompt| prompt.len() - 40).sum::<usize>());
}
