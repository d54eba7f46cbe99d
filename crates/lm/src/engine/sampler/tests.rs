use super::*;
use crate::engine::tests::{Bench, GO, small};
use crate::engine::{Limits, Request, ScoreRequest, score};
use crate::model::held::Held;
use crate::model::kv_cache::KvType;
use crate::model::ops::WeightType;
use candle_core::Device;
use mindgap_base::rng::Stream;

fn logits(count: usize) -> Vec<f32> {
    let mut cursor = Stream::at(11, &[b"logits"]).cursor();
    (0..count).map(|_| cursor.normal() as f32 * 2.0).collect()
}

fn sampling(temperature: f32, top_p: f32, top_k: u32, min_p: f32) -> Sampling {
    Sampling { temperature, top_p, top_k, min_p, ..Sampling::plain(1, &[]) }
}

/// The definition, in f64, with a full sort: probabilities after temperature and truncation.
fn exact(logits: &[f32], s: &Sampling) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::MIN, f32::max);
    let weights: Vec<f64> = logits.iter().map(|l| (f64::from(l - max) / f64::from(s.temperature)).exp()).collect();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| weights[*b].total_cmp(&weights[*a]).then(a.cmp(b)));
    if s.top_k > 0 {
        order.truncate(s.top_k as usize);
    }
    let total: f64 = order.iter().map(|i| weights[*i]).sum();
    let mut sum = 0.0;
    let mut keep = 0;
    while keep < order.len() && sum < f64::from(s.top_p) * total {
        sum += weights[order[keep]];
        keep += 1;
    }
    order.truncate(keep);
    order.retain(|i| weights[*i] >= f64::from(s.min_p));
    let kept: f64 = order.iter().map(|i| weights[*i]).sum();
    let mut probabilities = vec![0.0; logits.len()];
    for i in order {
        probabilities[i] = weights[i] / kept;
    }
    probabilities
}

/// Pearson's chi-square of counts against probabilities, and its degrees of freedom; cells that expect fewer than five
/// are joined.
fn chi_square(counts: &[usize], probabilities: &[f64]) -> (f64, f64) {
    let n: usize = counts.iter().sum();
    let (mut statistic, mut cells) = (0.0, 0);
    let (mut rest_count, mut rest_expected) = (0.0, 0.0);
    for (count, p) in counts.iter().zip(probabilities) {
        let expected = p * n as f64;
        if expected >= 5.0 {
            statistic += (*count as f64 - expected).powi(2) / expected;
            cells += 1;
        } else {
            rest_count += *count as f64;
            rest_expected += expected;
        }
    }
    if rest_expected > 0.0 {
        statistic += (rest_count - rest_expected).powi(2) / rest_expected;
        cells += 1;
    }
    (statistic, (cells - 1) as f64)
}

#[test]
fn twenty_thousand_draws_fit_the_exact_probabilities() {
    let logits = logits(300);
    for s in [
        sampling(1.0, 1.0, 0, 0.0),
        sampling(0.7, 1.0, 0, 0.0),
        sampling(1.0, 0.9, 0, 0.0),
        sampling(0.7, 0.9, 0, 0.0),
        sampling(1.3, 0.95, 40, 0.02),
    ] {
        let probabilities = exact(&logits, &s);
        let stream = Stream::at(5, &[b"draws"]);
        let mut sampler = Sampler::new(&s);
        let mut counts = vec![0; logits.len()];
        for position in 0..20_000 {
            let draw = sampler.draw(&logits, stream.uniform(position)).unwrap();
            counts[draw.token_id as usize] += 1;
            let p = probabilities[draw.token_id as usize];
            assert!((f64::from(draw.logprob_behavior) - p.ln()).abs() < 1e-4, "{s:?}: {draw:?}, {p}");
        }
        assert_fits(&counts, &probabilities, &format!("{s:?}"));
    }
}

/// Wilson and Hilferty: the cube root of chi-square / df is nearly normal. 3.1 standard deviations: p = 0.001.
fn assert_fits(counts: &[usize], probabilities: &[f64], what: &str) {
    let (statistic, df) = chi_square(counts, probabilities);
    let z = ((statistic / df).cbrt() - (1.0 - 2.0 / (9.0 * df))) / (2.0 / (9.0 * df)).sqrt();
    assert!(z < 3.1, "{what}: chi-square {statistic} at {df} degrees of freedom");
}

/// Tokens that decoding draws, in every type of weights, with keys and values in bf16, and on the instruction set of this process:
/// against the probabilities that scoring gives each token of the vocabulary.
#[test]
fn decoded_tokens_fit_their_probabilities_in_every_type() {
    const TEMPERATURE: f32 = 0.25;
    let policy = small().policy;
    let of = |(kind, keys_values)| Held { weights: Some(kind), keys_values };
    let weights = [WeightType::F32, WeightType::StoredBf16, WeightType::Bf16, WeightType::Int8];
    let narrow = (WeightType::Bf16, KvType::Bf16);
    for kind in weights.map(|kind| (kind, KvType::F32)).into_iter().chain([narrow]) {
        let bench = Bench { runner: policy.runner_on(&Device::Cpu, of(kind)).unwrap(), policy: small().policy };
        let prompt: Vec<u32> = (0..9).map(|i| 5 + 23 * i).collect();
        let streams = (0u64..8000).map(|i| Stream::at(3, &[&i.to_le_bytes()])).collect();
        let settings = Sampling { temperature: TEMPERATURE, ..Sampling::plain(2, &[]) };
        let request = Request::new(prompt.clone(), streams);
        let drawn = bench.run(std::slice::from_ref(&request), &settings, 64, 2).remove(0);
        let mut firsts = vec![0; 264];
        drawn.iter().for_each(|sample| firsts[sample.token_ids[0] as usize] += 1);
        let commonest = (0..264).max_by_key(|token| firsts[*token as usize]).unwrap();
        let mut seconds = vec![0; 264];
        let behind = drawn.iter().filter(|sample| sample.token_ids[0] == commonest);
        behind.for_each(|sample| seconds[sample.token_ids[1] as usize] += 1);
        let contexts = [(prompt.clone(), &firsts), ([prompt, vec![commonest]].concat(), &seconds)];
        for (context, counts) in contexts {
            let all: Vec<ScoreRequest> =
                (0..264u32).map(|token| ScoreRequest::new(context.clone(), vec![token])).collect();
            let limits = Limits { slots: 1, kv_budget_bytes: 1 << 30, threads: 2, cancel: &GO };
            let scores = score(&bench.runner, &all, &limits, &|_| ()).unwrap();
            let log_probs: Vec<f64> = scores.iter().map(|score| f64::from(score.logprob_policy[0])).collect();
            let total: f64 = log_probs.iter().map(|l| l.exp()).sum();
            assert!((total - 1.0).abs() < 1e-4, "{kind:?}: {total}");
            let weights: Vec<f64> = log_probs.iter().map(|l| (l / f64::from(TEMPERATURE)).exp()).collect();
            let kept: f64 = weights.iter().sum();
            let probabilities: Vec<f64> = weights.iter().map(|weight| weight / kept).collect();
            assert!(counts.iter().sum::<usize>() > 500, "{kind:?}: too few to tell");
            assert_fits(counts, &probabilities, &format!("{kind:?}"));
        }
    }
}

#[test]
fn behaviour_probabilities_sum_to_one() {
    let logits = logits(100);
    for s in
        [sampling(1.0, 1.0, 0, 0.0), sampling(0.7, 0.9, 0, 0.0), sampling(1.0, 1.0, 7, 0.0), sampling(0.5, 1.0, 0, 0.1)]
    {
        let mut sampler = Sampler::new(&s);
        let mut seen = vec![None; 100];
        for i in 0..50_000 {
            let draw = sampler.draw(&logits, f64::from(i) / 50_000.0).unwrap();
            seen[draw.token_id as usize] = Some(draw.logprob_behavior);
        }
        let missing: f64 = exact(&logits, &s).iter().zip(&seen).filter(|(_, s)| s.is_none()).map(|(p, _)| p).sum();
        let sum: f64 = seen.iter().flatten().map(|l| f64::from(*l).exp()).sum();
        assert!((sum + missing - 1.0).abs() < 1e-5, "{s:?}: {sum} + {missing}");
    }
}

#[test]
fn plain_draws_have_equal_log_probs_and_ascending_order() {
    let logits = logits(50);
    let s = Sampling::plain(1, &[]);
    let mut sampler = Sampler::new(&s);
    let mut last = 0;
    for i in 0..1000 {
        let draw = sampler.draw(&logits, f64::from(i) / 1000.0).unwrap();
        assert_eq!(draw.logprob_behavior, draw.logprob_policy);
        assert!(draw.token_id >= last, "the inverse of a CDF never falls");
        last = draw.token_id;
    }
}

#[test]
fn greedy_takes_the_lowest_of_equals() {
    let s = sampling(0.0, 1.0, 0, 0.0);
    let draw = Sampler::new(&s).draw(&[1.0, 3.0, 3.0, 2.0], 0.99).unwrap();
    assert_eq!((draw.token_id, draw.logprob_behavior), (1, 0.0));
    assert!(draw.logprob_policy < -0.5);
}

#[test]
fn a_large_vocabulary_is_cut_like_a_small_one() {
    let logits: Vec<f32> = logits(20_000).iter().map(|l| l * 0.3).collect();
    let s = sampling(1.0, 0.8, 0, 0.0);
    let kept = exact(&logits, &s).iter().filter(|p| **p > 0.0).count();
    let mut sampler = Sampler::new(&s);
    sampler.draw(&logits, 0.5).unwrap();
    let found = sampler.weights.iter().filter(|w| **w > 0.0).count();
    assert!(kept > SORTED && found.abs_diff(kept) <= 2, "{found} of {kept}");
}

#[test]
fn edges_of_the_uniform_stay_in_the_kept_set() {
    let s = sampling(1.0, 0.5, 0, 0.0);
    let logits = logits(200);
    let probabilities = exact(&logits, &s);
    for u in [0.0, 1.0 - f64::EPSILON / 2.0] {
        let draw = Sampler::new(&s).draw(&logits, u).unwrap();
        assert!(probabilities[draw.token_id as usize] > 0.0);
    }
}

#[test]
fn broken_logits_and_parameters_are_errors() {
    let s = Sampling::plain(1, &[]);
    for broken in [f32::NAN, f32::INFINITY] {
        assert!(Sampler::new(&s).draw(&[0.0, broken, 1.0], 0.5).is_err());
    }
    for (bad, name) in [
        (sampling(-1.0, 1.0, 0, 0.0), "temperature"),
        (sampling(f32::NAN, 1.0, 0, 0.0), "temperature"),
        (sampling(1.0, 0.0, 0, 0.0), "top_p"),
        (sampling(1.0, 1.0, 0, 1.5), "min_p"),
        (Sampling { max_new_tokens: 0, ..s.clone() }, "max_new_tokens"),
        (Sampling { stop: vec![String::new()], ..s.clone() }, "stop"),
    ] {
        assert!(bad.check().unwrap_err().what().contains(name));
    }
}

#[test]
fn runs_are_drawn_alike_by_any_number_of_samplers() {
    let sampling = Sampling { top_p: 0.9, ..Sampling::plain(1, &[]) };
    let logits: Vec<f32> = (0..21 * 50).map(|i| (i as f32 * 1.3).sin() * 4.0).collect();
    let streams: Vec<Stream> = (0..21u32).map(|i| Stream::at(3, &[&i.to_le_bytes()])).collect();
    let run = |(row, stream)| Run { request: 0, row, guesses: &[], stream, position: 2 };
    let runs: Vec<Run> = streams.iter().enumerate().map(run).collect();
    let draws = |count: usize| {
        let mut samplers: Vec<Sampler> = (0..count).map(|_| Sampler::new(&sampling)).collect();
        draw_runs(&mut samplers, &logits, 50, &runs).into_iter().collect::<Result<Vec<_>>>().unwrap()
    };
    assert_eq!(draws(1).len(), 21);
    assert!([2, 3, 5, 40].into_iter().all(|count| draws(count) == draws(1)));
}

/// A run ends behind the first token that was not guessed, and at EOS even if that was guessed.
#[test]
fn a_run_goes_on_while_guesses_are_right() {
    let logits: Vec<f32> = (0..4 * 50).map(|i| (i as f32 * 1.3).sin() * 4.0).collect();
    let stream = Stream::at(3, &[]);
    let plain = Sampling::plain(1, &[]);
    let drawn = |sampling: &Sampling, guesses: &[u32]| -> Vec<Draw> {
        let run = Run { request: 0, row: 0, guesses, stream: &stream, position: 7 };
        draw_runs(&mut [Sampler::new(sampling)], &logits, 50, &[run]).remove(0).unwrap()
    };
    let mut sampler = Sampler::new(&plain);
    let rows = logits.chunks(50).zip(7..);
    let alone: Vec<Draw> = rows.map(|(row, at)| sampler.draw(row, stream.uniform(at)).unwrap()).collect();
    let [a, b, c, _] = [0, 1, 2, 3].map(|i: usize| alone[i].token_id);
    assert_eq!(drawn(&plain, &[a, b, c]), alone);
    assert_eq!(drawn(&plain, &[a, b + 1, c]), alone[..2]);
    assert_eq!(drawn(&plain, &[a + 1, b, c]), alone[..1]);
    assert_eq!(drawn(&plain, &[a]), alone[..2]);
    assert_eq!(drawn(&Sampling::plain(1, &[b]), &[a, b, c]), alone[..2]);
}
