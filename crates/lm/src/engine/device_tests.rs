//! The engine over the device runner, on the CPU as candle's device: it agrees with the CPU's own runner.

use super::tests::{Bench, GO, request, sampling, small};
use super::*;
use crate::model::runner::Runner;
use crate::model::runner::device::{DeviceRunner, draw};
use candle_core::{DType, Device, Tensor};
use mindgap_base::rng::Stream;

/// The same policy, and its weights in this type on a device.
fn on(device: &Device, dtype: DType) -> (Bench, Runner) {
    let bench = small();
    let transformer = bench.policy.transformer(dtype, device).unwrap();
    (bench, Runner::Device(DeviceRunner::from_transformer(&transformer).unwrap()))
}

fn limits(slots: usize, threads: usize) -> Limits<'static> {
    Limits { slots, kv_budget_bytes: 1 << 30, threads, cancel: &GO }
}

fn run(bench: &Bench, runner: &Runner, requests: &[Request], sampling: &Sampling, slots: usize) -> Vec<Vec<Sample>> {
    generate(runner, Some(bench.policy.tokenizer()), requests, sampling, &limits(slots, 2), &|_| ()).unwrap()
}

fn log_probs(scores: &[TokenScores]) -> impl Iterator<Item = f32> {
    scores.iter().flat_map(|s| s.logprob_policy.iter().copied())
}

fn entropies(scores: &[TokenScores]) -> impl Iterator<Item = f32> {
    scores.iter().flat_map(|s| s.entropy.iter().copied())
}

fn largest_gap(a: impl Iterator<Item = f32>, b: impl Iterator<Item = f32>) -> f32 {
    let gaps: Vec<f32> = a.zip(b).map(|(a, b)| (a - b).abs()).collect();
    assert!(!gaps.is_empty() && gaps.iter().all(|gap| gap.is_finite()));
    gaps.into_iter().fold(0.0, f32::max)
}

/// Greedy completions of prompts of different lengths are those of the CPU, in any number of slots.
fn greedy_is_the_same(device: &Device) {
    let (bench, runner) = on(device, DType::F32);
    let requests: Vec<Request> = (0..14).map(|i| request(i, 1 + i as usize % 3)).collect();
    // Greedy texts of this policy meet no EOS: rows leave where the model's positions end.
    let greedy = Sampling { temperature: 0.0, ..sampling(500) };
    let expected = bench.run(&requests, &greedy, 16, 1);
    let lengths: Vec<usize> = expected.iter().flatten().map(|sample| sample.token_ids.len()).collect();
    assert!(lengths.iter().min() < lengths.iter().max(), "rows should leave at different times");
    for slots in [64, 5, 1] {
        let found = run(&bench, &runner, &requests, &greedy, slots);
        for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
            assert_eq!((&found.token_ids, found.stop_reason), (&expected.token_ids, expected.stop_reason));
            let of = |sample: &Sample| sample.logprob_policy.clone().into_iter();
            let gap = largest_gap(of(found), of(expected));
            assert!(gap < 1e-4, "{slots} slots: {gap}");
        }
    }
}

#[test]
fn greedy_completions_are_those_of_the_cpu() {
    greedy_is_the_same(&Device::Cpu);
}

/// What is drawn has the log-probs that both runners find when they score it.
#[test]
fn samples_have_the_log_probs_of_scoring() {
    for (dtype, tolerance) in [(DType::F32, 1e-4), (DType::BF16, 0.25)] {
        let (bench, runner) = on(&Device::Cpu, dtype);
        let requests: Vec<Request> = (0..10).map(|i| request(i, 3)).collect();
        let samples = run(&bench, &runner, &requests, &sampling(50), 7);
        let mut to_score = Vec::new();
        for (request, samples) in requests.iter().zip(&samples) {
            let of = |s: &Sample| ScoreRequest::new(request.prompt_ids.clone(), &s.token_ids[..]);
            to_score.extend(samples.iter().map(of));
        }
        let drawn = || samples.iter().flatten().flat_map(|s| s.logprob_policy.clone());
        let scores = score(&runner, &to_score, &limits(1, 2), &|_| ()).unwrap();
        let of_cpu = score(&bench.runner, &to_score, &limits(1, 2), &|_| ()).unwrap();
        let gaps = [
            largest_gap(drawn(), log_probs(&scores)),
            largest_gap(drawn(), log_probs(&of_cpu)),
            largest_gap(entropies(&scores), entropies(&of_cpu)),
        ];
        assert!(gaps.iter().all(|gap| *gap < tolerance), "{dtype:?}: {gaps:?}");
    }
}

/// Tokens drawn where the logits are, are those that the host draws by the same numbers, but where one falls within rounding of a
/// border between two.
fn draws_are_those_of_the_host(device: &Device) {
    let uniforms = Stream::at(4, &[b"uniforms"]);
    for vocabulary in [441, 640, 151_936] {
        let rows = 40;
        let mut cursor = Stream::at(2, &[b"logits"]).cursor();
        // A few peaks above a floor, as a policy gives.
        let values: Vec<f32> = (0..rows * vocabulary).map(|_| (cursor.normal() * 3.0) as f32).collect();
        let logits = Tensor::new(&values[..], device).unwrap().reshape((rows, vocabulary)).unwrap();
        // Several tokens of a row, and none of another.
        let numbers: Vec<(usize, f64)> = (0..120).map(|i| (i % (rows - 1), uniforms.uniform(i as u64))).collect();
        for temperature in [1.0, 0.7, 1.6, 0.0] {
            let sampling = Sampling { temperature, ..Sampling::plain(1, &[]) };
            let mut sampler = sampler::Sampler::new(&sampling);
            let draws = draw(&logits, temperature, &numbers).unwrap();
            assert_eq!(draws.len(), numbers.len());
            let mut moved = 0;
            for (found, (row, uniform)) in draws.into_iter().zip(&numbers) {
                let (found, row) = (found.unwrap(), &values[row * vocabulary..][..vocabulary]);
                let expected = sampler.draw(row, *uniform).unwrap();
                if found.token_id != expected.token_id {
                    moved += 1;
                    continue;
                }
                let gaps = [
                    found.logprob_policy - expected.logprob_policy,
                    found.logprob_behavior - expected.logprob_behavior,
                ];
                assert!(gaps.iter().all(|gap| gap.abs() < 2e-5), "{found:?} {expected:?}");
            }
            assert!(moved <= usize::from(temperature > 0.0), "{vocabulary}, {temperature}: {moved} are others");
        }
    }
}

#[test]
fn draws_on_a_device_are_those_of_the_host() {
    draws_are_those_of_the_host(&Device::Cpu);
}

#[test]
fn draws_on_a_gpu_are_those_of_the_host() {
    if let Some(device) = crate::model::device::for_tests() {
        draws_are_those_of_the_host(&device);
    }
}

#[test]
fn the_lowest_id_of_equals_is_the_likeliest() {
    let mut values = vec![0.0f32; 300];
    [70, 71, 250].into_iter().for_each(|id| values[id] = 2.0);
    let logits = Tensor::new(&values[..], &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    let drawn = draw(&logits, 0.0, &[(0, 0.99)]).unwrap().remove(0).unwrap();
    assert_eq!((drawn.token_id, drawn.logprob_behavior), (70, 0.0));
}

/// A row that holds no numbers fails alone, at any temperature.
#[test]
fn rows_that_are_not_finite_are_errors() {
    let broken = [[0.0f32, f32::NAN, 1.0], [1.0, 2.0, 3.0], [0.0, f32::INFINITY, 1.0]];
    let logits = Tensor::new(&broken, &Device::Cpu).unwrap();
    for temperature in [1.0, 0.7, 0.0] {
        let draws = draw(&logits, temperature, &[(0, 0.5), (1, 0.5), (2, 0.5)]).unwrap();
        assert_eq!(draws.iter().map(|draw| draw.is_ok()).collect::<Vec<_>>(), [false, true, false], "{temperature}");
    }
}

/// What is sampled on a device are the CPU's samples, whether it draws there or, where something is cut off, on the host.
fn samples_are_the_same(device: &Device) {
    let (bench, runner) = on(device, DType::F32);
    let requests: Vec<Request> = (0..14).map(|i| request(i, 1 + i as usize % 4)).collect();
    for (temperature, top_p) in [(1.0, 1.0), (0.7, 1.0), (0.7, 0.9)] {
        let sampling = Sampling { temperature, top_p, ..sampling(40) };
        let expected = bench.run(&requests, &sampling, 16, 1);
        for slots in [64, 5] {
            let found = run(&bench, &runner, &requests, &sampling, slots);
            let pairs = || found.iter().flatten().zip(expected.iter().flatten());
            let same: Vec<_> = pairs().filter(|(found, expected)| found.token_ids == expected.token_ids).collect();
            assert!(same.len() + 1 >= pairs().count(), "{} of {}", same.len(), pairs().count());
            for of in [|s: &Sample| s.logprob_policy.clone(), |s: &Sample| s.logprob_behavior.clone()] {
                let gaps = largest_gap(same.iter().flat_map(|(a, _)| of(a)), same.iter().flat_map(|(_, b)| of(b)));
                assert!(gaps < 1e-4, "{temperature} {top_p}: {gaps}");
            }
        }
    }
}

#[test]
fn samples_of_a_device_are_those_of_the_cpu() {
    samples_are_the_same(&Device::Cpu);
}

#[test]
fn samples_of_a_gpu_are_those_of_the_cpu() {
    if let Some(device) = crate::model::device::for_tests() {
        samples_are_the_same(&device);
    }
}

/// A budget for two slots is kept: the same completions, two at a time.
#[test]
fn a_small_budget_is_kept() {
    let (bench, runner) = on(&Device::Cpu, DType::F32);
    let requests: Vec<Request> = (0..5).map(|i| request(i, 2)).collect();
    let greedy = Sampling { temperature: 0.0, ..sampling(30) };
    let Runner::Device(device) = &runner else { unreachable!() };
    let longest = requests.iter().map(|r| r.prompt_ids.len()).max().unwrap();
    let slot = crate::model::runner::Inference::slot_bytes(device, 0, longest, 30);
    let tight = |bytes: usize| {
        let limits = Limits { kv_budget_bytes: bytes, ..limits(64, 1) };
        generate(&runner, None, &requests, &greedy, &limits, &|_| ())
    };
    let tokens = |samples: &[Vec<Sample>]| samples.iter().flatten().map(|s| s.token_ids.clone()).collect::<Vec<_>>();
    assert_eq!(tokens(&tight(2 * slot).unwrap()), tokens(&bench.run(&requests, &greedy, 8, 1)));
    assert!(tight(slot - 1).unwrap_err().what().contains("one sequence of"));
}

#[test]
fn a_broken_policy_is_an_error() {
    let bench = small();
    let mut tensors = crate::model::testing::tiny_tensors(bench.policy.config(), 7);
    let nan = Tensor::new(&[f32::NAN; 24], &Device::Cpu).unwrap();
    tensors.insert("model.norm.weight".into(), nan);
    let broken =
        crate::model::transformer::Transformer::from_tensors(bench.policy.config(), tensors, DType::F32, &Device::Cpu);
    let runner = Runner::Device(DeviceRunner::from_transformer(&broken.unwrap()).unwrap());
    let error = generate(&runner, None, &[request(1, 2)], &sampling(5), &limits(4, 1), &|_| ()).unwrap_err();
    assert!(error.what().contains("not finite"));
    let to_score = ScoreRequest::new([1, 2], [3, 4]);
    assert!(score(&runner, &[to_score], &limits(4, 1), &|_| ()).unwrap_err().what().contains("not finite"));
}

#[test]
fn greedy_completions_on_a_gpu_are_those_of_the_cpu() {
    if let Some(device) = crate::model::device::for_tests() {
        greedy_is_the_same(&device);
    }
}

#[test]
fn bench_measures_a_device_as_it_does_the_cpu() {
    let (_, runner) = on(&Device::Cpu, DType::BF16);
    let plan = bench::Plan {
        prompt_tokens: 5,
        new_tokens: 4,
        batches: vec![1, 3],
        long: Some((2, 90)),
        score_sequences: 2,
        score_tokens: 6,
    };
    let ticks = std::cell::Cell::new(0.0);
    let clock = || {
        ticks.set(ticks.get() + 1.0);
        ticks.get()
    };
    let measured = bench::bench(&runner, &plan, &limits(1, 2), &clock).unwrap();
    let tokens: Vec<usize> = measured.iter().map(|m| m.tokens).collect();
    assert_eq!(tokens, [4, 4, 12, 12, 8, 12]);
    // One batch whatever the threads, and two bytes for every weight.
    assert!(measured.iter().all(|m| m.threads == 1 && m.seconds == 1.0));
    let weights = (runner.config().block_flops() + runner.config().head_flops()) / 2.0;
    assert_eq!(measured[0].bytes, 2.0 * weights * 4.0);
    let ceilings = bench::device_ceilings(&Device::Cpu, DType::BF16, (1000, 32), &clock).unwrap();
    assert_eq!((ceilings.read_bytes_per_second, ceilings.gemm_flops_per_second), (4000.0, 2.0 * 32.0 * 32.0 * 32.0));
}
