//! Policies in GGUF files, against transformers' reader of the same files: log-probs of tokens, tokens of texts. The fixtures are
//! made by `tests/fixtures/gguf/make.py`. A real file is read where `MINDGAP_GGUF` names one.

use super::support::{SMALL, by_stage, fails, json, ok, pipeline, scratch};
use candle_core::{DType, Device};
use mindgap::policy::{PolicyHandle, described, gguf_policy, load_policy};
use mindgap_base::rng::Stream;
use mindgap_lm::engine::{Limits, Request, Sampling, ScoreRequest, generate, score};
use mindgap_lm::model::policy::{GGUF, Policy, PolicyFiles};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

#[derive(Deserialize)]
struct Expected {
    token_ids: Vec<u32>,
    logprob_policy: Vec<f32>,
    texts: Vec<Text>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
}

static GO: AtomicBool = AtomicBool::new(false);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf")
}

fn expected(name: &str) -> Expected {
    let all: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(&std::fs::read(folder().join("expected.json")).unwrap()).unwrap();
    serde_json::from_value(all[name].clone()).unwrap()
}

fn policy(name: &str) -> Policy {
    let handle = gguf_policy(name, &folder(), &format!("{name}.gguf"), None).unwrap();
    load_policy(&handle).unwrap()
}

fn largest_gap(policy: &Policy, expected: &Expected) -> f32 {
    let limits = Limits { slots: 1, kv_budget_bytes: 1 << 26, threads: 1, cancel: &GO };
    let request = ScoreRequest::new(&expected.token_ids[..1], &expected.token_ids[1..]);
    let found = score(&policy.runner().unwrap(), &[request], &limits, &|_| ()).unwrap();
    assert_eq!(found[0].logprob_policy.len(), expected.logprob_policy.len());
    let gaps = found[0].logprob_policy.iter().zip(&expected.logprob_policy).map(|(a, b)| (a - b).abs());
    gaps.fold(0.0, f32::max)
}

#[test]
fn a_gguf_file_agrees_with_transformers() {
    for name in ["llama", "gemma3"] {
        let (policy, expected) = (policy(name), expected(name));
        let gap = largest_gap(&policy, &expected);
        assert!(gap < 2e-4, "{name}: largest difference {gap}");
        for Text { text, ids } in expected.texts {
            assert_eq!(policy.tokenizer().encode(&text, false).unwrap(), ids, "{name}: {text}");
        }
    }
    let llama = policy("llama");
    assert!(llama.prompt_ids("hi").is_ok() && llama.tokenizer().encode("hi", true).unwrap().len() == 3);
    let text = "What is the answer?\n\nboxed {1} é 数";
    let gemma = policy("gemma3");
    let ids = gemma.tokenizer().encode(text, false).unwrap();
    assert_eq!(gemma.tokenizer().decode(&ids, true).unwrap(), text);
}

/// What the file stands for is a folder: with the dequantised weights beside it, it is the same policy.
#[test]
fn a_gguf_file_becomes_a_folder() {
    let (original, expected) = (policy("gemma3"), expected("gemma3"));
    let handle = gguf_policy("gemma3", &folder(), "gemma3.gguf", None).unwrap();
    assert!(handle.digest()["quantisation"].starts_with("Q8_0 (") && handle.digest().contains_key(GGUF));
    let mut files = PolicyFiles::default();
    for (name, bytes) in described(&handle).unwrap() {
        files.insert(name, bytes);
    }
    let tensors = original.checkpoint().unwrap().tensors(original.config(), DType::F32, &Device::Cpu).unwrap();
    let mut weights = Vec::new();
    let mut put = |more: &[u8]| {
        weights.extend_from_slice(more);
        Ok(())
    };
    mindgap_lm::model::weights::write(&tensors.into_iter().collect(), &mut put).unwrap();
    files.insert("model.safetensors", weights);
    let again = Policy::from_files(files).unwrap();
    assert_eq!(again.config(), original.config());
    assert_eq!(again.eos_token_ids(), original.eos_token_ids());
    assert!(largest_gap(&again, &expected) < 2e-4);
}

/// Another tokenizer from a folder; the command line takes the file too.
#[test]
fn a_tokenizer_beside_the_file_and_the_command_line() {
    let beside = folder().join("../model/llama3-sharded-bf16");
    let handle = gguf_policy("llama", &folder(), "llama.gguf", Some(beside.to_str().unwrap())).unwrap();
    let policy = load_policy(&handle).unwrap();
    for Text { text, ids } in expected("llama").texts {
        assert_eq!(policy.tokenizer().encode(&text, false).unwrap(), ids, "{text}");
    }
    let file = folder().join("llama.gguf");
    let arguments =
        ["generate", "--policy", file.to_str().unwrap(), "--prompt", "hi", "-n", "2", "--max-new-tokens", "4"];
    let output = ok(scratch().path(), &arguments);
    assert_eq!(output.lines().count(), 2, "{output}");
    let error = gguf_policy("x", &folder(), "make.py", None).unwrap_err().to_string();
    assert!(error.contains("make.py") && error.contains("GGUF"), "{error}");
}

/// Sampled, judged, rewritten and trained: what comes out is a folder, which samples like any other. A second run finds all done.
#[test]
fn a_pipeline_trains_a_gguf_policy_into_a_folder() {
    let scratch = scratch();
    let gguf = "{ gguf = \"FIXTURES/gguf/llama.gguf\" }";
    let text = SMALL.replace("{ path = \"DATA/base-policy\" }", gguf).replace("limit = 24", "limit = 4");
    let file = pipeline(scratch.path(), "gguf.toml", &text);
    let (store, file) = (scratch.path().join("store"), file.to_str().unwrap());
    let run = |args: &[&str]| json(&ok(&store, args));
    run(&["run", file, "--json"]);
    let again = by_stage(&run(&["run", file, "--json"]), "computed_parts");
    assert!(again.len() == 6 && again.iter().all(|(_, parts)| *parts == 0), "{again:?}");
    let folder = ok(&store, &["path", file, "train"]);
    let files: Vec<String> = std::fs::read_dir(folder.trim())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    for name in
        ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
    {
        assert!(files.iter().any(|file| file == name), "{name} is not among {files:?}");
    }
    assert!(!files.iter().any(|file| file.ends_with(".gguf")));
    let arguments = ["generate", "--policy", folder.trim(), "--prompt", "hi", "--max-new-tokens", "4"];
    assert_eq!(ok(&store, &arguments).lines().count(), 1);
    let bad = SMALL.replace("{ path = \"DATA/base-policy\" }", "{ gguf = \"x.gguf\", path = \"y\" }");
    let bad = pipeline(scratch.path(), "bad.toml", &bad);
    assert!(fails(&store, &["plan", bad.to_str().unwrap()], 2).contains("names not exactly one of"));
}

/// A file of a real model: its tokens are those of the folder in `MINDGAP_GGUF_FOLDER`, and it says something.
#[test]
fn a_real_gguf_file() {
    let Ok(file) = std::env::var("MINDGAP_GGUF") else {
        eprintln!("skipped: MINDGAP_GGUF names no file");
        return;
    };
    let policy = load_policy(&gguf_policy("real", Path::new(""), &file, None).unwrap()).unwrap();
    if let Ok(folder) = std::env::var("MINDGAP_GGUF_FOLDER") {
        let bytes = std::fs::read(Path::new(&folder).join("tokenizer.json")).unwrap();
        let other = mindgap_lm::model::tokenizer::Tokenizer::from_bytes(&bytes).unwrap();
        for text in ["What is 12 + 30?  \n\n  x² ≤ √2 naïve café 数学 don't I'll 1234567", " a\tb\r\n😀👩‍🚀"]
        {
            let own = policy.tokenizer().encode(text, false).unwrap();
            assert_eq!(own, other.encode(text, false).unwrap(), "{text}");
            assert_eq!(policy.tokenizer().decode(&own, true).unwrap(), text);
        }
    }
    let text = "The capital of France is Paris. The capital of Germany is Berlin.";
    let ids = policy.tokenizer().encode(text, true).unwrap();
    let limits = Limits { slots: 1, kv_budget_bytes: 1 << 28, threads: 1, cancel: &GO };
    let scores =
        score(&policy.runner().unwrap(), &[ScoreRequest::new(&ids[..1], &ids[1..])], &limits, &|_| ()).unwrap();
    let mean = scores[0].logprob_policy.iter().sum::<f32>() / (ids.len() - 1) as f32;
    eprintln!("{mean} nats per token of a plain text");
    assert!(mean > -4.0, "{mean} nats per token of a plain text");
}

#[derive(Deserialize)]
struct Peer {
    texts: Vec<Text>,
    scores: Vec<PeerScores>,
    greedy: Vec<PeerGreedy>,
    likeliest: Vec<PeerLikeliest>,
}

#[derive(Deserialize)]
struct PeerScores {
    ids: Vec<u32>,
    log_probs: Vec<f32>,
}

#[derive(Deserialize)]
struct PeerGreedy {
    ids: Vec<u32>,
    next: Vec<u32>,
}

#[derive(Deserialize)]
struct PeerLikeliest {
    ids: Vec<u32>,
    top: Vec<(u32, f32)>,
}

/// A real policy against what `tests/peers/models.py` wrote about it: transformers' numbers of a folder to 2e-3, llama.cpp's of a
/// GGUF file as closely as its 8-bit activations allow.
#[test]
fn a_real_policy_agrees_with_its_peer() {
    let (Ok(peer), Ok(path)) = (std::env::var("MINDGAP_PEER"), std::env::var("MINDGAP_PEER_POLICY")) else {
        eprintln!("skipped: MINDGAP_PEER and MINDGAP_PEER_POLICY name no peer's numbers and no policy");
        return;
    };
    let peer: Peer = serde_json::from_slice(&std::fs::read(peer).unwrap()).unwrap();
    let handle = match path.ends_with(".gguf") {
        true => gguf_policy("real", Path::new(""), &path, None),
        false => PolicyHandle::of_folder("real", Path::new(&path), PolicyFiles::wants),
    };
    let policy = load_policy(&handle.unwrap()).unwrap();
    for Text { text, ids } in peer.texts {
        assert_eq!(policy.tokenizer().encode(&text, false).unwrap(), ids, "{text}");
    }
    let runner = policy.runner().unwrap();
    let limits = Limits { slots: 1, kv_budget_bytes: 1 << 30, threads: 1, cancel: &GO };
    for PeerScores { ids, log_probs } in peer.scores {
        let found = score(&runner, &[ScoreRequest::new(&ids[..1], &ids[1..])], &limits, &|_| ()).unwrap();
        let gaps = found[0].logprob_policy.iter().zip(&log_probs).map(|(a, b)| (a - b).abs());
        let worst = gaps.fold(0.0, f32::max);
        eprintln!("{} tokens: largest difference {worst:e}", ids.len());
        assert!(worst < 2e-3 && found[0].logprob_policy.len() == log_probs.len());
    }
    for PeerGreedy { ids, next } in peer.greedy {
        let sampling = Sampling { temperature: 0.0, ..Sampling::plain(next.len() as u32, &[]) };
        let request = Request::new(ids, vec![Stream::at(0, &[])]);
        let samples = generate(&runner, None, &[request], &sampling, &limits, &|_| ()).unwrap();
        assert_eq!(samples[0][0].token_ids, next);
        eprintln!("{} greedy tokens are identical", next.len());
    }
    let (mut squares, mut count, mut same, asked) = (0.0f64, 0, 0, peer.likeliest.len());
    for PeerLikeliest { ids, top } in peer.likeliest {
        let requests: Vec<ScoreRequest> = top.iter().map(|(id, _)| ScoreRequest::new(&ids[..], vec![*id])).collect();
        let found = score(&runner, &requests, &limits, &|_| ()).unwrap();
        let own: Vec<f32> = found.iter().map(|scores| scores.logprob_policy[0]).collect();
        squares += own.iter().zip(&top).map(|(a, (_, b))| f64::from(a - b).powi(2)).sum::<f64>();
        count += top.len();
        same += usize::from(own.iter().all(|log_prob| *log_prob <= own[0]));
    }
    if count > 0 {
        let gap = (squares / count as f64).sqrt();
        eprintln!(
            "likeliest tokens: root mean square difference {gap:.4} nats, the first is the same {same} times of {asked}"
        );
        assert!(gap < 0.3 && same * 10 >= asked * 9);
    }
}
