//! The engine against transformers: checkpoints made by it, with its token ids, log-probs and greedy continuations. The
//! fixtures are made by `tests/fixtures/model/make.py`.

use candle_core::{DType, Device};
use mindgap::policy::PolicyHandle;
use mindgap_base::rng::Stream;
use mindgap_lm::engine::{Limits, Request, Sampling, ScoreRequest, StopReason, generate, score};
use mindgap_lm::model::chat::{Conversation, Message};
use mindgap_lm::model::policy::{Policy, PolicyFiles};
use mindgap_lm::model::runner::Runner;
use mindgap_lm::model::runner::device::DeviceRunner;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

const CHECKPOINTS: [&str; 3] = ["qwen2", "qwen3", "llama3-sharded-bf16"];

#[derive(Deserialize)]
pub struct Expected {
    texts: Vec<Text>,
    chats: Vec<Chat>,
    scores: Vec<Scores>,
    greedy: Greedy,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
    ids_special: Vec<u32>,
}

#[derive(Deserialize)]
struct Chat {
    messages: Vec<Turn>,
    text: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Turn {
    role: String,
    content: String,
}

#[derive(Deserialize)]
struct Scores {
    prompt_ids: Vec<u32>,
    token_ids: Vec<u32>,
    logprob_policy: Vec<f32>,
    entropy: Vec<f32>,
}

#[derive(Deserialize)]
struct Greedy {
    prompt_ids: Vec<u32>,
    token_ids: Vec<u32>,
}

pub fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/model").join(name)
}

fn files(name: &str) -> PolicyFiles {
    let mut files = PolicyFiles::default();
    for entry in std::fs::read_dir(folder(name)).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if PolicyFiles::wants(&name) {
            files.insert(name, std::fs::read(entry.path()).unwrap());
        }
    }
    files
}

pub fn load(name: &str) -> (Policy, Expected) {
    let expected = std::fs::read(folder(name).join("expected.json")).unwrap();
    (Policy::from_files(files(name)).unwrap(), serde_json::from_slice(&expected).unwrap())
}

static GO: AtomicBool = AtomicBool::new(false);

fn limits(threads: usize) -> Limits<'static> {
    Limits { slots: 8, kv_budget_bytes: 1 << 28, threads, cancel: &GO }
}

#[test]
fn token_ids_agree_with_transformers() {
    for name in CHECKPOINTS {
        let (policy, expected) = load(name);
        for Text { text, ids, ids_special } in expected.texts {
            assert_eq!(policy.tokenizer().encode(&text, false).unwrap(), ids, "{name}: {text}");
            assert_eq!(policy.tokenizer().encode(&text, true).unwrap(), ids_special, "{name}: {text}");
        }
        for chat in expected.chats {
            let turns = chat.messages.into_iter();
            let messages: Vec<Message> = turns.map(|t| Message { role: t.role, content: t.content }).collect();
            let template = policy.chat().unwrap();
            assert_eq!(template.render(&messages, true, &serde_json::Value::Null).unwrap(), chat.text, "{name}");
            let shown = Conversation { messages, ..Conversation::default() };
            assert_eq!(policy.prompt(&shown).unwrap().ids, chat.ids, "{name}");
        }
    }
}

/// Control tokens spelled in a question are letters, and the same ids as transformers makes of them.
#[test]
fn spelled_control_tokens_agree_with_transformers() {
    #[derive(Deserialize)]
    struct Spelled {
        checkpoint: String,
        question: String,
        ids: Vec<u32>,
    }
    let rows: Vec<Spelled> = serde_json::from_slice(&std::fs::read(folder("controls.json")).unwrap()).unwrap();
    assert_eq!(rows.len(), 5 * CHECKPOINTS.len());
    for Spelled { checkpoint, question, ids } in rows {
        let policy = Policy::from_files(files(&checkpoint)).unwrap();
        assert_eq!(policy.prompt_ids(&question).unwrap(), ids, "{checkpoint}: {question:?}");
    }
}

/// A file that repeats what another says changes no recipe; one that says more does.
#[test]
fn a_map_of_special_tokens_counts_where_it_says_something_new() {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder("qwen2")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    let names = |map: &str| {
        std::fs::write(copy.path().join("special_tokens_map.json"), map).unwrap();
        let handle = PolicyHandle::of_folder("copy", copy.path(), PolicyFiles::wants).unwrap();
        handle.file_names().any(|name| name == "special_tokens_map.json")
    };
    assert!(!names(r#"{"eos_token": {"content": "<|im_end|>"}}"#));
    assert!(names(r#"{"eos_token": "<|im_end|>", "bos_token": "<|endoftext|>"}"#));
}

/// The CPU's runner, and the one for devices, in f32 on the CPU.
fn runners(policy: &Policy) -> [Runner; 2] {
    let transformer = policy.transformer(DType::F32, &Device::Cpu).unwrap();
    [policy.runner().unwrap(), Runner::Device(DeviceRunner::from_transformer(&transformer).unwrap())]
}

/// Differences of log-probs and entropies from those of transformers: the largest, and their mean.
fn differences(runner: &Runner, expected: &Expected) -> (f32, f32) {
    let request = |s: &Scores| ScoreRequest::new(&s.prompt_ids[..], &s.token_ids[..]);
    let requests: Vec<ScoreRequest> = expected.scores.iter().map(request).collect();
    let scores = score(runner, &requests, &limits(2), &|_| ()).unwrap();
    let mut all = Vec::new();
    for (found, expected) in scores.iter().zip(&expected.scores) {
        assert_eq!(found.logprob_policy.len(), expected.logprob_policy.len());
        let log_probs = found.logprob_policy.iter().zip(&expected.logprob_policy);
        let entropies = found.entropy.iter().zip(&expected.entropy);
        all.extend(log_probs.chain(entropies).map(|(a, b)| (a - b).abs()));
    }
    (all.iter().copied().fold(0.0, f32::max), all.iter().sum::<f32>() / all.len() as f32)
}

#[test]
fn log_probs_agree_with_transformers() {
    for name in CHECKPOINTS {
        let (policy, expected) = load(name);
        for runner in runners(&policy) {
            let (worst, _) = differences(&runner, &expected);
            assert!(worst < 2e-4, "{name}: largest difference {worst}");
        }
    }
}

/// On a device a checkpoint runs in the type it is stored in. The expected numbers are f32's, and these random checkpoints have
/// logits far apart: bf16 rounds those around 30 to multiples of 0.125.
#[test]
fn a_device_runs_a_checkpoint_in_its_own_type() {
    for name in CHECKPOINTS {
        let (policy, expected) = load(name);
        let runner =
            DeviceRunner::from_checkpoint(policy.config(), &policy.checkpoint().unwrap(), &Device::Cpu).unwrap();
        let narrow = name.ends_with("bf16");
        assert_eq!(runner.dtype(), if narrow { DType::BF16 } else { DType::F32 }, "{name}");
        let (worst, mean) = differences(&Runner::Device(runner), &expected);
        let (most, usual) = if narrow { (0.5, 0.06) } else { (2e-4, 2e-5) };
        assert!(worst < most && mean < usual, "{name}: at most {worst}, on average {mean}");
    }
}

#[test]
fn greedy_continuations_are_identical_to_transformers() {
    for name in CHECKPOINTS {
        let (policy, expected) = load(name);
        let Greedy { prompt_ids, token_ids } = expected.greedy;
        let request = [Request::new(prompt_ids, vec![Stream::at(0, &[])])];
        let sampling = Sampling { temperature: 0.0, ..Sampling::plain(200, &[]) };
        for runner in runners(&policy) {
            let samples = generate(&runner, None, &request, &sampling, &limits(1), &|_| ()).unwrap();
            assert_eq!(samples[0][0].token_ids, token_ids, "{name}");
            assert_eq!(samples[0][0].stop_reason, StopReason::MaxTokens);
        }
    }
}

/// The definition in the other direction: the whole conversation, from text to text.
#[test]
fn a_conversation_from_text_to_text() {
    let (policy, _) = load("qwen2");
    assert_eq!(policy.eos_token_ids(), [379, 377]);
    assert_eq!(policy.end_token_id(), Some(379));
    let prompt_ids = policy.prompt_ids("What is 12 + 30?").unwrap();
    let streams: Vec<Stream> = (0..6u8).map(|i| Stream::at(3, &[&[i]])).collect();
    let request = Request::new(prompt_ids, streams);
    let sampling = Sampling::plain(60, policy.eos_token_ids());
    let runner = policy.runner().unwrap();
    let samples = &generate(&runner, None, &[request], &sampling, &limits(2), &|_| ()).unwrap()[0];
    for sample in samples {
        let text = policy.tokenizer().decode(&sample.token_ids, true).unwrap();
        assert!(!text.contains("<|im_end|>"));
        assert_eq!(sample.logprob_behavior, sample.logprob_policy);
    }
}

#[test]
fn damaged_checkpoints_are_named() {
    let error = |change: &dyn Fn(&mut PolicyFiles)| {
        let mut files = files("llama3-sharded-bf16");
        change(&mut files);
        Policy::from_files(files).err().expect("this checkpoint is damaged").to_string()
    };
    let shard = "model-00002-of-00003.safetensors";
    let whole = std::fs::read(folder("llama3-sharded-bf16").join(shard)).unwrap();
    let cut = whole[..whole.len() / 2].to_vec();
    assert!(error(&|f| f.insert(shard, cut.clone())).contains(shard));
    let index = br#"{"weight_map": {"model.norm.weight": "model-00009.safetensors"}}"#;
    assert!(error(&|f| f.insert("model.safetensors.index.json", index)).contains("model-00009.safetensors"));
    let config = std::fs::read_to_string(folder("llama3-sharded-bf16").join("config.json")).unwrap();
    let wider = config.replace("\"intermediate_size\": 96", "\"intermediate_size\": 128");
    let message = error(&|f| f.insert("config.json", wider.clone()));
    assert!(message.contains("[96, 48]") && message.contains("[128, 48]"), "{message}");
    assert!(error(&|f| f.insert("tokenizer.json", b"[]")).contains("tokenizer.json"));
}
