//! The device runner against the CPU runner, both on the CPU.

use super::super::cpu::CpuRunner;
use super::super::{Feed, Session};
use super::*;
use crate::model::ops::WeightType;
use crate::model::testing::{every_shape, tiny_config, tiny_tensors};

fn build(config: &Config, dtype: DType) -> (CpuRunner, DeviceRunner) {
    let transformer = Transformer::from_tensors(config, tiny_tensors(config, 5), dtype, &Device::Cpu).unwrap();
    (
        CpuRunner::from_transformer(&transformer, WeightType::F32).unwrap(),
        DeviceRunner::from_transformer(&transformer).unwrap(),
    )
}

fn tokens(count: usize, seed: u32) -> Vec<u32> {
    (0..count as u32).map(|i| (i * 7 + seed * 13 + i * i) % 61).collect()
}

fn largest_gap(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!(a.iter().map(Vec::len).collect::<Vec<_>>(), b.iter().map(Vec::len).collect::<Vec<_>>());
    let gaps = a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (a - b).abs());
    gaps.fold(0.0, |largest, gap| if gap.is_nan() { f32::INFINITY } else { largest.max(gap) })
}

/// A prompt in uneven pieces beside others, logits wanted of some rows.
fn prefill<S: Session>(session: &mut S, lengths: &[usize], pieces: &[usize]) -> Vec<Vec<f32>> {
    let texts: Vec<Vec<u32>> = lengths.iter().zip(1..).map(|(length, seed)| tokens(*length, seed)).collect();
    let mut sequences: Vec<_> = lengths.iter().map(|length| session.open(*length).unwrap()).collect();
    let (mut fed, mut all) = (0, Vec::new());
    for piece in pieces {
        let mut feeds = Vec::new();
        for (text, sequence) in texts.iter().zip(&mut sequences) {
            let token_ids = &text[fed.min(text.len())..(fed + piece).min(text.len())];
            feeds.push(Feed { sequence, token_ids, want: token_ids.len().div_ceil(2) });
        }
        let mut logits = Vec::new();
        session.logits(&mut feeds, &mut logits).unwrap();
        all.push(logits);
        fed += piece;
    }
    all
}

#[test]
fn prompts_of_any_length_in_any_pieces() {
    for config in every_shape() {
        let (cpu, device) = build(&config, DType::F32);
        let (lengths, pieces) = ([70, 9, 31], [1, 20, 49]);
        let found = prefill(&mut device.session(0, 0, 0, 1).unwrap(), &lengths, &pieces);
        let expected = prefill(&mut cpu.session(0, 0, 0, 1).unwrap(), &lengths, &pieces);
        let gap = largest_gap(&found, &expected);
        assert!(gap < 1e-4, "{:?}: {gap}", config.architecture);
    }
}

/// Longer than the tiles of queries whose scores exist at once, in one call and across two.
#[test]
fn long_prompts_go_by_in_tiles() {
    let (cpu, device) = build(&Config { max_positions: 2048, ..tiny_config() }, DType::F32);
    let found = prefill(&mut device.session(0, 0, 0, 1).unwrap(), &[1300], &[1100, 200]);
    let expected = prefill(&mut cpu.session(0, 0, 0, 1).unwrap(), &[1300], &[1100, 200]);
    let gap = largest_gap(&found, &expected);
    assert!(gap < 1e-4, "{gap}");
}

struct Sample<S: Session> {
    sequence: S::Sequence,
    next: u32,
}

fn start<S: Session>(session: &mut S, samples: &mut Vec<Sample<S>>, prompt: &S::Prompt) {
    let next = samples.len() as u32 * 11 + 3;
    samples.push(Sample { sequence: session.start(prompt).unwrap(), next });
}

/// One token for every sample, each a different one; the newest sample is fed first.
fn decode<S: Session>(session: &mut S, samples: &mut [Sample<S>]) -> Vec<f32> {
    let ids: Vec<[u32; 1]> = samples.iter().rev().map(|sample| [sample.next]).collect();
    let mut feeds = Vec::new();
    for (sample, token_ids) in samples.iter_mut().rev().zip(&ids) {
        sample.next = (sample.next * 5 + 1) % 61;
        feeds.push(Feed { sequence: &mut sample.sequence, token_ids, want: 1 });
    }
    let mut logits = Vec::new();
    session.logits(&mut feeds, &mut logits).unwrap();
    logits
}

/// Prompts shared by samples that come and go: slots are taken again, left empty in the middle, and filled up.
fn script<S: Session>(session: &mut S) -> Vec<Vec<f32>> {
    let prompt = |session: &mut S, length: usize, seed: u32| {
        let (text, mut sequence) = (tokens(length, seed), session.open(length).unwrap());
        let mut feed = [Feed { sequence: &mut sequence, token_ids: &text, want: 0 }];
        session.logits(&mut feed, &mut Vec::new()).unwrap();
        session.freeze(sequence)
    };
    let (long, short) = (prompt(session, 40, 1), prompt(session, 5, 2));
    let (mut samples, mut all) = (Vec::new(), Vec::new());
    for prompt in [&long, &long, &short, &long] {
        start(session, &mut samples, prompt);
    }
    assert_eq!(session.free_slots(), 0);
    all.push(decode(session, &mut samples));
    all.push(decode(session, &mut samples));
    // A slot is taken again at once by another prompt's sample, shorter than what lay there.
    session.retire(samples.remove(0).sequence);
    start(session, &mut samples, &short);
    all.push(decode(session, &mut samples));
    // Two leave, none enters.
    session.retire(samples.remove(1).sequence);
    session.retire(samples.remove(0).sequence);
    for _ in 0..3 {
        all.push(decode(session, &mut samples));
    }
    session.release(long);
    start(session, &mut samples, &short);
    session.release(short);
    all.push(decode(session, &mut samples));
    for sample in samples {
        session.retire(sample.sequence);
    }
    assert_eq!(session.free_slots(), 4);
    all
}

#[test]
fn samples_share_prompts_and_slots_are_used_again() {
    for config in every_shape() {
        let (cpu, device) = build(&config, DType::F32);
        let found = script(&mut device.session(4, 40, 12, 1).unwrap());
        let expected = script(&mut cpu.session(4, 40, 12, 1).unwrap());
        let gap = largest_gap(&found, &expected);
        assert!(gap < 1e-4, "{:?}: {gap}", config.architecture);
    }
}

/// Weights, activations and cache in bf16 or f16 follow f32 on the same rounded weights as closely as these types can.
#[test]
fn narrow_types_stay_close() {
    for (dtype, tolerance) in [(DType::BF16, 0.3), (DType::F16, 0.04)] {
        for config in every_shape() {
            let (cpu, device) = build(&config, dtype);
            assert_eq!(device.dtype, dtype);
            let found = script(&mut device.session(4, 40, 12, 1).unwrap());
            let expected = script(&mut cpu.session(4, 40, 12, 1).unwrap());
            let gap = largest_gap(&found, &expected);
            assert!(gap > 0.0 && gap < tolerance, "{:?} {dtype:?}: {gap}", config.architecture);
        }
    }
}

#[test]
fn slots_take_the_memory_that_was_stated() {
    let (_, device) = build(&tiny_config(), DType::BF16);
    let session = device.session(5, 40, 50, 1).unwrap();
    // Two layers, two key heads of 8 numbers of 2 bytes, keys and values; 90 tokens in a room of 128.
    assert_eq!(session.bytes(), 5 * 128 * 2 * 2 * 2 * 8 * 2);
    assert!(session.bytes() <= 5 * device.slot_bytes(0, 40, 50));
}

#[test]
fn scores_are_log_probs_entropies_and_the_likeliest_tokens() {
    fn of_top(top: &[(u32, f32)]) -> Vec<f32> {
        top.iter().flat_map(|(token, log_prob)| [*token as f32, *log_prob]).collect()
    }
    let (cpu, device) = build(&tiny_config(), DType::F32);
    let text = tokens(30, 4);
    fn scores<S: Session>(mut session: S, text: &[u32]) -> Vec<Vec<f32>> {
        let mut sequence = session.open(text.len()).unwrap();
        let mut feeds = [Feed { sequence: &mut sequence, token_ids: &text[..29], want: 20 }];
        let scores = session.scores(&mut feeds, &text[10..], 4).unwrap().into_iter();
        scores.map(|score| [vec![score.logprob, score.entropy], of_top(&score.top)].concat()).collect()
    }
    let found = scores(device.session(0, 0, 0, 1).unwrap(), &text);
    assert_eq!(found.len(), 20);
    assert!(largest_gap(&found, &scores(cpu.session(0, 0, 0, 1).unwrap(), &text)) < 1e-4);
}

#[test]
fn impossible_feeds_are_errors() {
    let (_, device) = build(&tiny_config(), DType::F32);
    let mut session = device.session(2, 10, 10, 1).unwrap();
    let mut what = |token_ids: &[u32], room: usize| {
        let mut sequence = session.open(room).unwrap();
        let mut feeds = [Feed { sequence: &mut sequence, token_ids, want: 1 }];
        session.logits(&mut feeds, &mut Vec::new()).unwrap_err().what().to_string()
    };
    assert!(what(&[99], 5).contains("token id 99"));
    assert!(what(&[1; 97], 100).contains("97 tokens"));
    assert!(what(&[1; 6], 5).contains("room"));
    let mut prompt = session.open(3).unwrap();
    session.logits(&mut [Feed { sequence: &mut prompt, token_ids: &[1, 2, 3], want: 0 }], &mut Vec::new()).unwrap();
    let mut first = session.start(&prompt).unwrap();
    session.start(&prompt).unwrap();
    // One of two slots in use is left out.
    let mut feeds = [Feed { sequence: &mut first, token_ids: &[1], want: 1 }];
    assert!(session.logits(&mut feeds, &mut Vec::new()).unwrap_err().what().contains("every slot in use"));
}

/// Kernels of our own against candle's operators on the same GPU, and against the CPU, for every kind of model and type.
#[test]
fn kernels_of_a_gpu_are_close_to_operators() {
    let Some(gpu) = crate::model::device::for_tests() else { return };
    for (dtype, tolerance) in [(DType::F32, 1e-4), (DType::BF16, 0.3), (DType::F16, 0.04)] {
        for config in every_shape() {
            let (cpu, _) = build(&config, dtype);
            let there = || {
                let tensors = tiny_tensors(&config, 5).into_iter();
                let tensors = tensors.map(|(name, tensor)| (name, tensor.to_device(&gpu).unwrap())).collect();
                let transformer = Transformer::from_tensors(&config, tensors, dtype, &gpu).unwrap();
                DeviceRunner::from_transformer(&transformer).unwrap()
            };
            let (fused, mut plain) = (there(), there());
            let of_heads = fused.layers[0].qk_norms.as_ref().is_none_or(|(q, _)| q.dims() == [config.head_dim]);
            assert_eq!(fused.kernels.is_some(), of_heads, "{:?}", config.architecture);
            plain.kernels = None;
            let found = script(&mut fused.session(4, 40, 12, 1).unwrap());
            for expected in
                [script(&mut plain.session(4, 40, 12, 1).unwrap()), script(&mut cpu.session(4, 40, 12, 1).unwrap())]
            {
                let gap = largest_gap(&found, &expected);
                assert!(gap < tolerance, "{:?} {dtype:?}: {gap}", config.architecture);
            }
        }
    }
}

/// Attention by hand over heads of every size, groups that take several blocks, windows and bounds, rows of any length.
#[test]
#[cfg(feature = "cuda")]
fn attention_of_a_gpu_is_that_of_a_loop() {
    let Some(gpu) = crate::model::device::for_tests() else { return };
    let (rows, key_heads, capacity) = (3, 2, 192);
    let numbers = |count: usize, seed: usize| -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + seed * 104729) % 1009) as f32 / 504.5 - 1.0).collect()
    };
    for (dim, group, window, softcap) in [
        (8, 1, None, None),
        (40, 3, Some(5), None),
        (64, 4, None, Some(2.0)),
        (128, 7, Some(70), None),
        (256, 5, None, None),
    ] {
        let config = Config { head_dim: dim, kv_head_count: key_heads, head_count: group * key_heads, ..tiny_config() };
        let kernels = Kernels::of(&config, &[], DType::F32, &gpu).unwrap().unwrap();
        let heads = group * key_heads;
        let (q, positions) = (numbers(rows * heads * dim, 1), [0u32, 131, 190]);
        let (keys, values) =
            (numbers(rows * key_heads * capacity * dim, 2), numbers(rows * key_heads * capacity * dim, 3));
        let shape = (rows, key_heads, capacity, dim);
        let slots = cache::KeyValues {
            keys: Tensor::from_slice(&keys, shape, &gpu).unwrap(),
            values: Tensor::from_slice(&values, shape, &gpu).unwrap(),
        };
        let kind = crate::model::ops::Heads { dim, scale: None, softcap, window };
        let (q_there, at) = (Tensor::from_slice(&q, (rows, heads, dim), &gpu), Tensor::new(&positions, &gpu));
        let found = kernels.attend(&q_there.unwrap(), &at.unwrap(), &slots, kind).unwrap().to_vec2::<f32>().unwrap();
        for (row, position) in positions.iter().enumerate() {
            for head in 0..heads {
                let slot = (row * key_heads + head / group) * capacity;
                let query = &q[(row * heads + head) * dim..][..dim];
                let of = |all: &'_ [f32], token: usize, i: usize| f64::from(all[(slot + token) * dim + i]);
                let seen = kind.first_seen(*position as usize)..*position as usize + 1;
                let score = |token: usize| {
                    let dot: f64 = (0..dim).map(|i| f64::from(query[i]) * of(&keys, token, i)).sum();
                    softcap.map_or(dot, |cap| f64::from(cap) * (dot / f64::from(cap)).tanh())
                };
                let scores: Vec<f64> = seen.clone().map(score).collect();
                let most = scores.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
                let total: f64 = weights.iter().sum();
                for i in 0..dim {
                    let sum: f64 =
                        seen.clone().zip(&weights).map(|(token, weight)| weight * of(&values, token, i)).sum();
                    let gap = (f64::from(found[row][head * dim + i]) - sum / total).abs();
                    assert!(gap < 1e-5, "dim {dim}, row {row}, head {head}, feature {i}: {gap}");
                }
            }
        }
    }
}
