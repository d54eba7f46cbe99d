use super::*;
use crate::model::kv_cache::KvType;
use crate::model::ops::isa::Isa;
use crate::model::ops::{Segments, WeightType};
use crate::model::testing::{every_shape, tiny_config, tiny_tensors};

fn build(config: &Config) -> (Transformer, CpuRunner) {
    let transformer = Transformer::from_tensors(config, tiny_tensors(config, 5), DType::F32, &Device::Cpu).unwrap();
    let runner = CpuRunner::from_transformer(&transformer, WeightType::F32).unwrap();
    (transformer, runner)
}

fn tokens(count: usize, seed: u32) -> Vec<u32> {
    (0..count as u32).map(|i| (i * 7 + seed * 13 + i * i) % 61).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn packed_hidden(transformer: &Transformer, ids: &[u32]) -> Vec<f32> {
    let hidden = transformer.hidden(ids, &Segments::new(&[ids.len()])).unwrap();
    hidden.flatten_all().unwrap().to_vec1().unwrap()
}

/// Hidden states of three sequences side by side, prefilled in uneven pieces and decoded token by token.
fn cached_hidden(runner: &CpuRunner, sequences: &[Vec<u32>; 3], threads: usize) -> [Vec<f32>; 3] {
    let config = runner.config();
    let mut caches: Vec<Sequence> = (0..3).map(|_| Sequence::new(runner.kv_shape(), 80)).collect();
    for (cache, sequence) in caches.iter_mut().zip(sequences) {
        cache.set_long(config.is_long(sequence.len()));
    }
    let mut found = [const { Vec::new() }; 3];
    let mut workspace = Workspace::new(threads);
    let mut taken = [0; 3];
    for round in 0.. {
        let pieces = [[1, 33, 2, 1], [5, 1, 1, 17], [1, 1, 1, 1]];
        let mut feeds = Vec::new();
        let mut sizes = [0; 3];
        for (i, cache) in caches.iter_mut().enumerate() {
            sizes[i] = pieces[i][round % 4].min(sequences[i].len() - taken[i]);
            let token_ids = &sequences[i][taken[i]..taken[i] + sizes[i]];
            feeds.push(Feed { sequence: cache, token_ids, want: sizes[i] });
        }
        if sizes == [0; 3] {
            break;
        }
        let mut hidden = runner.step(&mut workspace, &mut feeds).unwrap();
        for i in 0..3 {
            let (mine, rest) = hidden.split_at(sizes[i] * config.hidden_size);
            found[i].extend_from_slice(mine);
            hidden = rest;
            taken[i] += sizes[i];
        }
    }
    found
}

/// On one thread and on three, sequences equal the packed forward bit for bit.
#[test]
fn cached_equals_packed_bit_for_bit() {
    for config in every_shape() {
        let (transformer, runner) = build(&config);
        let sequences = [tokens(70, 1), tokens(40, 2), tokens(9, 3)];
        for threads in [1, 3] {
            for (found, sequence) in cached_hidden(&runner, &sequences, threads).iter().zip(&sequences) {
                assert_eq!(bits(found), bits(&packed_hidden(&transformer, sequence)), "{:?}", config.architecture);
            }
        }
    }
}

/// Weights in bf16 are those weights in f32: the same bits. Weights of 8 bits are near. Neither depends on company or threads.
#[test]
fn narrow_weights_are_the_policy_or_near_it() {
    for config in every_shape() {
        let round = |t: &Tensor| t.to_dtype(DType::BF16).and_then(|t| t.to_dtype(DType::F32)).unwrap();
        let tensors = tiny_tensors(&config, 5).iter().map(|(name, tensor)| (name.clone(), round(tensor))).collect();
        let transformer = Transformer::from_tensors(&config, tensors, DType::F32, &Device::Cpu).unwrap();
        let sequences = [tokens(70, 1), tokens(40, 2), tokens(9, 3)];
        // Where dot products of bytes are taken, activations have 8 bits.
        let bound = if Isa::current() < Isa::Bf16 { 1e-3 } else { 1e-2 };
        let [full, bf16, int8] = [WeightType::F32, WeightType::StoredBf16, WeightType::Int8].map(|kind| {
            let runner = CpuRunner::from_transformer(&transformer, kind).unwrap();
            let [one, three] = [1, 3].map(|threads| cached_hidden(&runner, &sequences, threads).map(|x| bits(&x)));
            assert_eq!(one, three, "{kind:?}");
            let alone = cached_hidden(&runner, &[sequences[0].clone(), vec![1], vec![2]], 2);
            assert_eq!(bits(&alone[0]), one[0], "{kind:?} in other company");
            one
        });
        assert!(full == bf16, "{:?}", config.architecture);
        let value = |bits: &Vec<u32>| bits.iter().map(|bits| f32::from_bits(*bits)).collect::<Vec<f32>>();
        for (full, int8) in full.iter().map(value).zip(int8.iter().map(value)) {
            let gap: f32 = full.iter().zip(&int8).map(|(x, y)| (x - y) * (x - y)).sum();
            let size: f32 = full.iter().map(|x| x * x).sum();
            assert!(gap > 0.0 && gap < bound * size, "{:?}: {gap} of {size}", config.architecture);
        }
    }
}

/// Keys and values in bf16 are near those in f32, and depend neither on company nor on threads.
#[test]
fn narrow_keys_and_values_are_near() {
    for config in every_shape() {
        let sequences = [tokens(70, 1), tokens(40, 2), tokens(9, 3)];
        let full = cached_hidden(&build(&config).1, &sequences, 1);
        let runner = build(&config).1.caching_in(KvType::Bf16);
        let [one, three] = [1, 3].map(|threads| cached_hidden(&runner, &sequences, threads).map(|x| bits(&x)));
        assert_eq!(one, three, "{:?}", config.architecture);
        let alone = cached_hidden(&runner, &[sequences[0].clone(), vec![1], vec![2]], 2);
        assert_eq!(bits(&alone[0]), one[0], "{:?} in other company", config.architecture);
        for (full, narrow) in full.iter().zip(&one) {
            let narrow = narrow.iter().map(|bits| f32::from_bits(*bits));
            let gap: f32 = full.iter().zip(narrow).map(|(x, y)| (x - y) * (x - y)).sum();
            let size: f32 = full.iter().map(|x| x * x).sum();
            let relative = (gap / size).sqrt();
            assert!(relative > 0.0 && relative < 1e-2, "{:?}: {relative}", config.architecture);
        }
    }
}

#[test]
fn a_shared_prefix_changes_nothing() {
    let config = tiny_config();
    let (transformer, runner) = build(&config);
    let (prompt, rest) = (tokens(21, 1), tokens(6, 9));
    let mut workspace = Workspace::new(1);
    let mut sequence = Sequence::new(runner.kv_shape(), prompt.len());
    runner.step(&mut workspace, &mut [Feed { sequence: &mut sequence, token_ids: &prompt, want: 0 }]).unwrap();
    let prefix = sequence.into_prefix();
    let mut sample = Sequence::new(runner.kv_shape(), rest.len());
    sample.start_after(&prefix);
    let mut found = Vec::new();
    for token in &rest {
        let token_ids = std::slice::from_ref(token);
        let feed = Feed { sequence: &mut sample, token_ids, want: 1 };
        found.extend_from_slice(runner.step(&mut workspace, &mut [feed]).unwrap());
    }
    let all = packed_hidden(&transformer, &[&prompt[..], &rest[..]].concat());
    assert_eq!(bits(&found), bits(&all[prompt.len() * config.hidden_size..]));
}

#[test]
fn bad_tokens_and_lengths_are_errors() {
    let (_, runner) = build(&tiny_config());
    let mut workspace = Workspace::new(1);
    let mut sequence = Sequence::new(runner.kv_shape(), 200);
    let mut step = |token_ids: &[u32]| {
        let feed = Feed { sequence: &mut sequence, token_ids, want: 1 };
        runner.step(&mut workspace, &mut [feed]).map(|_| ()).unwrap_err().what().to_string()
    };
    assert!(step(&[99]).contains("token id 99"));
    assert!(step(&[1; 97]).contains("97 tokens"));
}
