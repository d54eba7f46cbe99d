//! Every kernel against its reference composition (value and gradients), against finite differences, and against itself in
//! other batches, bit for bit.

use super::*;
use candle_core::{Device, TensorId, Var};
use mindgap_base::rng::Stream;
use std::collections::HashMap;

/// Gradients of all variables, from that of an output.
fn gradients(tape: tape::Tape, seed: (Tensor, Tensor)) -> HashMap<TensorId, Tensor> {
    let mut found = HashMap::new();
    let mut take = |variable: &Tensor, own| {
        found.insert(variable.id(), own);
        Ok(())
    };
    tape.backward(vec![seed], &mut take).expect("the op has a backward");
    found
}

fn normal(name: &str, shape: (usize, usize), std: f64) -> Var {
    let mut cursor = Stream::at(7, &[name.as_bytes()]).cursor();
    let data: Vec<f32> = (0..shape.0 * shape.1).map(|_| (cursor.normal() * std) as f32).collect();
    Var::from_vec(data, shape, &Device::Cpu).expect("the data fills the shape")
}

fn flat(t: &Tensor) -> Vec<f32> {
    t.flatten_all().and_then(|t| t.to_vec1()).expect("f32 on the CPU")
}

/// Angles of the first `positions` positions of each segment.
fn angles(segments: &Segments, head_dim: usize) -> (Tensor, Tensor) {
    let positions = segments.positions();
    let angle = |i: usize| {
        let frequency = 10_000f64.powf(-((i % (head_dim / 2)) as f64) / (head_dim / 2) as f64);
        f64::from(positions[i / (head_dim / 2)]) * frequency
    };
    let shape = (positions.len(), head_dim / 2);
    let make = |f: fn(f64) -> f64| (0..shape.0 * shape.1).map(|i| f(angle(i)) as f32).collect::<Vec<_>>();
    let tensor = |data| Tensor::from_vec(data, shape, &Device::Cpu).expect("the data fills the shape");
    (tensor(make(f64::cos)), tensor(make(f64::sin)))
}

fn assert_close(got: &[f32], want: &[f32], tolerance: f32, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    let scale = want.iter().fold(1e-3f32, |a, b| a.max(b.abs()));
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= tolerance * scale, "{what}[{i}]: {got} instead of {want}");
    }
}

type Op<'a> = &'a (dyn Fn(&[Tensor]) -> Result<Tensor> + Sync);

/// A factor for every output.
fn factors(out: &Tensor) -> Result<Tensor> {
    let factors: Vec<f32> = (0..out.elem_count()).map(|i| ((i * 37 % 101) as f32 / 50.0) - 1.0).collect();
    Tensor::from_vec(factors, out.shape(), out.device())
}

/// A scalar whose gradient reaches every output with its own factor.
fn probe(out: &Tensor) -> Result<Tensor> {
    (out * factors(out)?)?.sum_all()
}

fn value_and_gradients(op: Op, inputs: &[Var]) -> (Vec<f32>, Vec<Vec<f32>>) {
    let tensors: Vec<Tensor> = inputs.iter().map(|v| v.as_tensor().clone()).collect();
    let out = op(&tensors).expect("the op runs");
    let grads = probe(&out).and_then(|p| p.backward()).expect("the op has a backward");
    let gradient = |t: &Tensor| flat(grads.get(t).expect("every input gets a gradient"));
    (flat(&out), tensors.iter().map(gradient).collect())
}

/// The same through the tape, without kernels: as on a GPU.
fn composed_value_and_gradients(op: Op, inputs: &[Var]) -> (Vec<f32>, Vec<Vec<f32>>) {
    let tensors: Vec<Tensor> = inputs.iter().map(|v| v.as_tensor().clone()).collect();
    without_kernels(|| {
        let (out, tape) = tape::record(|| op(&tensors)).expect("the op runs");
        assert!(!out.track_op(), "the op leaves a graph of candle's behind");
        let mut gradients = gradients(tape, (out.clone(), factors(&out).unwrap()));
        let of = |t: &Tensor| flat(&gradients.remove(&t.id()).expect("every input gets a gradient"));
        (flat(&out), tensors.iter().map(of).collect())
    })
}

/// Kernel equals reference, on the tape or in candle's graph, and the kernel's gradient predicts what a small move of each input does.
fn check(name: &str, kernel: Op, reference: Op, inputs: &[Var]) {
    let (value, gradients) = value_and_gradients(kernel, inputs);
    let (want, want_gradients) = value_and_gradients(reference, inputs);
    assert_close(&value, &want, 3e-6, name);
    let (composed, composed_gradients) = composed_value_and_gradients(kernel, inputs);
    assert_close(&composed, &want, 3e-6, &format!("{name}, composed"));
    for (i, (got, want)) in composed_gradients.iter().zip(&want_gradients).enumerate() {
        assert_close(got, want, 1e-5, &format!("{name}, composed: gradient of input {i}"));
    }
    for (i, (got, want)) in gradients.iter().zip(&want_gradients).enumerate() {
        assert_close(got, want, 1e-5, &format!("{name}, gradient of input {i}"));
        assert!(got.iter().any(|g| *g != 0.0), "{name}: gradient of input {i} is zero");
    }
    for (i, input) in inputs.iter().enumerate() {
        let direction = flat(normal(&format!("{name} direction {i}"), (1, input.elem_count()), 1.0).as_tensor());
        let step = 2e-3f32;
        let moved = |sign: f32| -> f64 {
            let data = flat(input.as_tensor()).iter().zip(&direction).map(|(x, d)| x + sign * step * d).collect();
            let mut tensors: Vec<Tensor> = inputs.iter().map(|v| v.as_tensor().clone()).collect();
            tensors[i] = Tensor::from_vec::<_, f32>(data, input.shape(), &Device::Cpu).expect("same shape");
            let out = flat(&kernel(&tensors).expect("the op runs"));
            out.iter().enumerate().map(|(i, x)| f64::from(*x) * (f64::from((i * 37 % 101) as f32 / 50.0) - 1.0)).sum()
        };
        let difference = (moved(1.0) - moved(-1.0)) / (2.0 * f64::from(step));
        let predicted: f64 = gradients[i].iter().zip(&direction).map(|(g, d)| f64::from(g * d)).sum();
        let size = gradients[i].iter().map(|g| f64::from(g * g)).sum::<f64>().sqrt();
        assert!(
            (difference - predicted).abs() < 5e-3 * size,
            "{name} input {i}: {difference} but {predicted} predicted"
        );
    }
}

#[test]
fn linear_with_and_without_bias() {
    let (x, w, b) = (normal("x", (13, 70), 1.0), normal("w", (101, 70), 0.3), normal("b", (1, 101), 1.0));
    let b = Var::from_tensor(&b.flatten_all().unwrap().detach()).unwrap();
    check(
        "linear",
        &|t| linear(&t[0], &t[1], None, DType::F32),
        &|t| reference::linear(&t[0], &t[1], None),
        &[x.clone(), w.clone()],
    );
    check(
        "linear with bias",
        &|t| linear(&t[0], &t[1], Some(&t[2]), DType::F32),
        &|t| reference::linear(&t[0], &t[1], Some(&t[2])),
        &[x, w, b],
    );
}

#[test]
fn embedding_rows() {
    let ids = Tensor::new(&[3u32, 0, 3, 5, 1, 3], &Device::Cpu).unwrap();
    let w = normal("table", (6, 10), 1.0);
    check("embedding", &|t| embedding(&t[0], &ids), &|t| reference::embedding(&t[0], &ids), &[w]);
    let bad = Tensor::new(&[9u32], &Device::Cpu).unwrap();
    assert!(embedding(&normal("table", (6, 10), 1.0), &bad).is_err());
}

#[test]
fn rms_norm_over_rows_and_over_groups() {
    let w = Var::from_tensor(&(normal("w", (1, 20), 0.5).flatten_all().unwrap() + 1.0).unwrap()).unwrap();
    for features in [20, 60] {
        let x = normal("x", (7, features), 2.0);
        check(
            "rms norm",
            &|t| rms_norm(&t[0], &t[1], 1e-6),
            &|t| reference::rms_norm(&t[0], &t[1], 1e-6),
            &[x, w.clone()],
        );
    }
}

#[test]
fn rope_turns_halves() {
    let segments = Segments::new(&[5, 9]);
    let (cos, sin) = angles(&segments, 8);
    let x = normal("x", (14, 24), 1.0);
    check("rope", &|t| rope(&t[0], &cos, &sin, 8), &|t| reference::rope(&t[0], &cos, &sin, 8), &[x]);
}

/// Some features of a head turn, the others do not.
#[test]
fn rope_turns_a_part_of_a_head() {
    let segments = Segments::new(&[5, 9]);
    let (cos, sin) = angles(&segments, 8);
    let x = normal("x", (14, 36), 1.0);
    check(
        "partial rope",
        &|t| rope(&t[0], &cos, &sin, 12),
        &|t| reference::rope(&t[0], &cos, &sin, 12),
        std::slice::from_ref(&x),
    );
    let turned = flat(&rope(&x, &cos, &sin, 12).unwrap());
    let still = |values: &[f32]| values.chunks(12).flat_map(|head| head[8..].to_vec()).collect::<Vec<_>>();
    assert_eq!(still(&turned), still(&flat(&x)));
}

#[test]
fn attention_over_groups_and_segments() {
    for (lengths, heads, key_heads, head_dim) in [
        (&[1usize, 40, 3, 70][..], 4, 2, 8),
        (&[5, 0, 7], 6, 2, 32),
        (&[33], 3, 3, 16),
        (&[6, 6, 6, 2, 0, 2, 9], 4, 2, 8),
    ] {
        let segments = Segments::new(lengths);
        let rows = segments.total();
        let inputs = [
            normal("q", (rows, heads * head_dim), 1.0),
            normal("k", (rows, key_heads * head_dim), 1.0),
            normal("v", (rows, key_heads * head_dim), 1.0),
        ];
        check(
            "attention",
            &|t| attention(&t[0], &t[1], &t[2], &segments, Heads::plain(head_dim)),
            &|t| reference::attention(&t[0], &t[1], &t[2], &segments, Heads::plain(head_dim)),
            &inputs,
        );
    }
}

/// A window shorter and longer than a tile and than the text, a bound of the scores, another scale.
#[test]
fn attention_in_windows_and_under_a_bound() {
    let segments = Segments::new(&[1, 40, 3, 70]);
    let inputs = [normal("q", (114, 32), 2.0), normal("k", (114, 16), 2.0), normal("v", (114, 16), 1.0)];
    for (window, softcap, scale) in [
        (Some(2), None, None),
        (Some(5), Some(2.0), None),
        (Some(33), None, Some(0.7)),
        (Some(500), Some(1.5), Some(0.2)),
        (None, Some(50.0), None),
    ] {
        let heads = Heads { dim: 8, scale, softcap, window };
        check(
            &format!("attention {heads:?}"),
            &|t| attention(&t[0], &t[1], &t[2], &segments, heads),
            &|t| reference::attention(&t[0], &t[1], &t[2], &segments, heads),
            &inputs,
        );
    }
}

/// One operator on the tape, the sum of two products in candle's graph: values and all five gradients agree.
#[test]
fn adapted_projection() {
    let (x, w) = (normal("x", (13, 70), 1.0), normal("w", (101, 70), 0.3));
    let (a, b, bias) = (normal("a", (4, 70), 0.3), normal("b", (101, 4), 0.5), normal("bias", (1, 101), 1.0));
    let bias = Var::from_tensor(&bias.flatten_all().unwrap().detach()).unwrap();
    let vars = [&x, &w, &a, &b, &bias];
    let forward = || {
        let adapter = Adapter { a: a.as_tensor().clone(), b: b.as_tensor().clone(), scale: 1.5 };
        adapted(&x, &w, Some(&bias), &adapter, DType::F32)
    };
    let seed = normal("seed", (13, 101), 1.0).as_detached_tensor();
    let want = forward().unwrap();
    let gradients = (&want * &seed).unwrap().sum_all().unwrap().backward().unwrap();
    let (got, tape) = tape::record(forward).unwrap();
    assert_close(&flat(&got), &flat(&want), 3e-6, "adapted");
    let mut found = std::collections::HashMap::new();
    let mut take = |variable: &Tensor, own: Tensor| {
        found.insert(variable.id(), own);
        Ok(())
    };
    tape.backward(vec![(got, seed)], &mut take).unwrap();
    for (i, var) in vars.into_iter().enumerate() {
        let want = gradients.get(var).unwrap();
        assert_close(&flat(&found[&var.as_tensor().id()]), &flat(want), 1e-5, &format!("gradient of input {i}"));
    }
}

#[test]
fn swiglu_elementwise() {
    let (gate, up) = (normal("gate", (5, 37), 3.0), normal("up", (5, 37), 1.0));
    check("swiglu", &|t| swiglu(&t[0], &t[1]), &|t| reference::swiglu(&t[0], &t[1]), &[gate.clone(), up.clone()]);
    check("geglu", &|t| geglu(&t[0], &t[1]), &|t| reference::geglu(&t[0], &t[1]), &[gate, up]);
}

#[test]
fn parts_of_a_product_and_offsets_of_norms() {
    let x = normal("x", (5, 12), 1.0);
    let part = |t: &[Tensor]| t[0].narrow(1, 3, 7)?.contiguous();
    check("columns", &|t| columns(&t[0], 3..10), &|t| part(t), std::slice::from_ref(&x));
    check("add one", &|t| add_one(&t[0]), &|t| &t[0] + 1.0, &[x]);
}

#[test]
fn token_logprobs_over_small_and_chunked_vocabularies() {
    for (rows, entries, softcap) in
        [(11, 50, None), (130, 1100, None), (130, 1100, Some(1.5)), (3, 2100, None), (600, 50, Some(3.0))]
    {
        let (hidden, weight) = (normal("hidden", (rows, 24), 1.0), normal("head", (entries, 24), 0.4));
        let targets: Vec<u32> = (0..rows).map(|i| (i * 7919 % entries) as u32).collect();
        let head = |t: &[Tensor]| Head { softcap, ..Head::plain(&t[1]) };
        check(
            "log-probs",
            &|t| Ok(token_logprobs(&t[0], &head(t), &targets)?.0),
            &|t| Ok(reference::token_logprobs(&t[0], &head(t), &ids(&targets, rows.into()))?.0),
            &[hidden.clone(), weight.clone()],
        );
        let head = Head { softcap, ..Head::plain(&weight) };
        let entropy = token_logprobs(&hidden, &head, &targets).unwrap().1;
        let targets = ids(&targets, rows.into());
        assert_close(&entropy, &reference::token_logprobs(&hidden, &head, &targets).unwrap().1, 1e-5, "entropy");
    }
    let (hidden, head) = (normal("hidden", (2, 24), 1.0), Head::plain(&normal("head", (5, 24), 0.4)));
    assert!(token_logprobs(&hidden, &head, &[0, 5]).is_err());
    assert!(token_logprobs(&hidden, &head, &[0]).is_err());
}

fn ids(ids: &[u32], shape: Shape) -> Tensor {
    Tensor::from_slice(ids, shape, &Device::Cpu).unwrap()
}

#[test]
fn log_probs_of_several_targets_a_row() {
    for (rows, entries, width, softcap) in [(5, 40, 3, None), (130, 1100, 20, None), (131, 2100, 2, Some(1.5))] {
        let (hidden, weight) = (normal("hidden", (rows, 24), 1.0), normal("head", (entries, 24), 0.4));
        let targets: Vec<u32> = (0..rows * width).map(|i| (i * 7919 % entries) as u32).collect();
        let head = |t: &[Tensor]| Head { softcap, ..Head::plain(&t[1]) };
        let wide = |t: &[Tensor]| Ok(chosen_logprobs(&t[0], &head(t), &targets, width)?.0);
        let plain =
            |t: &[Tensor]| Ok(reference::token_logprobs(&t[0], &head(t), &ids(&targets, (rows, width).into()))?.0);
        check("log-probs of several", &wide, &plain, &[hidden.clone(), weight.clone()]);
        let first: Vec<u32> = targets.chunks(width).map(|row| row[0]).collect();
        let head = Head { softcap, ..Head::plain(&weight) };
        let (all, entropy) = chosen_logprobs(&hidden, &head, &targets, width).unwrap();
        let alone = token_logprobs(&hidden, &head, &first).unwrap();
        assert_eq!(flat(&all.narrow(1, 0, 1).unwrap()), flat(&alone.0), "one target is as one of several, to the bit");
        assert_eq!(entropy, alone.1);
    }
    let (hidden, head) = (normal("hidden", (2, 24), 1.0), Head::plain(&normal("head", (5, 24), 0.4)));
    for (targets, width) in [(vec![0, 1, 2], 2), (vec![0, 1, 2, 5], 2), (vec![], 0)] {
        assert!(chosen_logprobs(&hidden, &head, &targets, width).is_err());
    }
}

#[test]
fn divergence_from_a_reference_of_another_width() {
    for (rows, entries, softcap) in [(7, 40, None), (130, 1100, None), (130, 1100, Some(2.0)), (300, 20, None)] {
        let (hidden, weight) = (normal("hidden", (rows, 24), 1.0), normal("head", (entries, 24), 0.4));
        let (other_hidden, other_head) = (normal("other", (rows, 16), 1.0), normal("other head", (entries, 16), 0.5));
        let other_head = Head { softcap: softcap.map(|cap| cap + 1.0), ..Head::plain(&other_head) };
        let other = (other_hidden.as_tensor(), &other_head);
        let head = |t: &[Tensor]| Head { softcap, ..Head::plain(&t[1]) };
        check(
            "reference kl",
            &|t| reference_kl(&t[0], &head(t), other),
            &|t| reference::reference_kl(&t[0], &head(t), other),
            &[hidden.clone(), weight.clone()],
        );
        let head = Head { softcap, ..Head::plain(&weight) };
        let same = flat(&reference_kl(&hidden, &head, (&hidden, &head)).unwrap());
        assert!(same.iter().all(|kl| *kl < 1e-5));
    }
}

#[test]
fn entropy_of_the_likeliest_tokens() {
    for softcap in [None, Some(1.0)] {
        let (hidden, weight) = (normal("hidden", (9, 24), 1.0), normal("head", (1100, 24), 0.4));
        let head = Head { softcap, ..Head::plain(&weight) };
        let top = top_entropy(&hidden, &head, 20).unwrap();
        assert_close(&top, &reference::top_entropy(&hidden, &head, 20).unwrap(), 1e-5, "top entropy");
        assert!(top.iter().all(|h| (0.0..=20f32.ln() + 1e-5).contains(h)));
        let all = top_entropy(&hidden, &head, 1100).unwrap();
        assert_close(&all, &token_logprobs(&hidden, &head, &[0; 9]).unwrap().1, 1e-4, "entropy of all");
    }
}

/// Row `row` alone gives the bits it has among its neighbours.
#[test]
fn a_row_does_not_depend_on_its_batch() {
    let bits = |t: &Tensor| flat(t).iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let (x, w) = (normal("x", (400, 96), 1.0), normal("w", (150, 96), 0.3));
    let (gain, targets) = (normal("gain", (1, 96), 1.0).flatten_all().unwrap(), vec![17u32; 400]);
    let head = Head::plain(&w);
    let all = (
        bits(&linear(&x, &w, None, DType::F32).unwrap()),
        bits(&rms_norm(&x, &gain, 1e-6).unwrap()),
        bits(&token_logprobs(&x, &head, &targets).unwrap().0),
    );
    for (row, count) in [(0, 1), (9, 1), (9, 8), (391, 9), (13, 200)] {
        let some = x.narrow(0, row, count).unwrap();
        assert_eq!(bits(&linear(&some, &w, None, DType::F32).unwrap()), all.0[row * 150..(row + count) * 150]);
        assert_eq!(bits(&rms_norm(&some, &gain, 1e-6).unwrap()), all.1[row * 96..(row + count) * 96]);
        assert_eq!(bits(&token_logprobs(&some, &head, &targets[..count]).unwrap().0), all.2[row..row + count]);
    }
}

/// A sequence has the same attention alone, packed among others, and one token after the other over cached keys in blocks.
#[test]
fn attention_is_the_same_alone_packed_and_cached() {
    attention_is_the_same(Heads::plain(16));
    attention_is_the_same(Heads { softcap: Some(2.0), window: Some(39), ..Heads::plain(16) });
}

fn attention_is_the_same(kind: Heads) {
    let (heads, key_heads, hd, length) = (4, 2, 16, 77);
    let segments = Segments::new(&[20, length, 45]);
    let rows = segments.total();
    let q = normal("q", (rows, heads * hd), 1.0);
    let (k, v) = (normal("k", (rows, key_heads * hd), 1.0), normal("v", (rows, key_heads * hd), 1.0));
    let packed = attention(&q, &k, &v, &segments, kind).unwrap();
    let packed = flat(&packed.narrow(0, 20, length).unwrap());
    let own = |t: &Var| t.narrow(0, 20, length).unwrap().contiguous().unwrap();
    let (q, k, v) = (own(&q), own(&k), own(&v));
    let alone = flat(&attention(&q, &k, &v, &Segments::new(&[length]), kind).unwrap());
    assert_eq!(alone, packed);
    let (q, k, v) = (flat(&q), flat(&k), flat(&v));
    let (shared, mut scratch) = (30, AttentionScratch::default());
    for position in shared..length {
        for key_head in 0..key_heads {
            // Transposed keys in a cache with room to spare; the first 30 positions lie in a block of their own.
            let capacity = 100;
            let mut keys = vec![f32::NAN; hd * capacity];
            for j in 0..=position {
                for d in 0..hd {
                    keys[d * capacity + j] = k[j * key_heads * hd + key_head * hd + d];
                }
            }
            let block = |from: usize, to: usize| KeyValues {
                keys: Matrix::F32(&keys[from..]),
                key_stride: capacity,
                values: Matrix::F32(&v[from * key_heads * hd + key_head * hd..]),
                value_stride: key_heads * hd,
                len: to - from,
            };
            let group = heads / key_heads;
            let first = position * heads * hd + key_head * group * hd;
            let queries = Queries { data: &q[first..], stride: hd, rows: group, heads: kind };
            let mut out = vec![0.0; group * hd];
            let seen = kind.first_seen(position);
            let blocks = [block(seen.min(shared), shared), block(seen.max(shared), position + 1)];
            attend(queries, &blocks, Visible::All, &mut out, hd, &mut scratch);
            assert_eq!(out, packed[first..first + group * hd], "position {position}, key head {key_head}");
        }
    }
}

/// What a composition holds at once is bounded, whatever the micro-batch.
#[test]
fn compositions_go_by_in_pieces() {
    let pieces: Vec<_> = reference::logit_pieces(2048 + 5).collect();
    assert!(pieces.iter().all(|piece| piece.len() <= 256));
    assert!(pieces.into_iter().flatten().eq(0..2053));
    let mut lengths = vec![500; 9];
    lengths.extend([3000, 7, 0, 7]);
    let segments = Segments::new(&lengths);
    let runs = segments.runs();
    let sizes: Vec<_> = runs.iter().map(|run| (run.rows.len(), run.length)).collect();
    assert_eq!(sizes, [(2000, 500), (2000, 500), (500, 500), (3000, 3000), (14, 7)]);
    assert!(runs.into_iter().flat_map(|run| run.rows).eq(0..segments.total()));
}

/// A frozen weight gets no gradient, and what needs none is not computed.
#[test]
fn frozen_inputs_cost_nothing() {
    let (x, w) = (normal("x", (5, 8), 1.0), normal("w", (6, 8), 1.0).as_detached_tensor());
    without_kernels(|| {
        let (out, tape) = tape::record(|| linear(&x, &w, None, DType::F32)).unwrap();
        let gradients = gradients(tape, (out.clone(), out.ones_like().unwrap()));
        assert!(gradients.contains_key(&x.id()) && !gradients.contains_key(&w.id()));
    });
}
