//! Answers as the programs write them, field for field: vLLM's `CompletionResponse` (0.11) and SGLang's `/generate` (0.5).

use super::wire::{Draw, Fault, Scoring};
use super::{check_context, check_meaning, probe::Facts};
use crate::policy::Api;
use mindgap_lm::engine::{Sampling, StopReason};
use serde_json::{Value, json};

const EOS: u32 = 151_645;
const VOCAB: usize = 151_936;

fn vllm(choice: &Value) -> Vec<u8> {
    let answer = json!({"id": "cmpl-7", "object": "text_completion", "created": 1_764_000_000, "model": "m",
        "choices": [choice], "service_tier": null, "system_fingerprint": null,
        "usage": {"prompt_tokens": 2, "total_tokens": 4, "completion_tokens": 2, "prompt_tokens_details": null},
        "kv_transfer_params": null});
    answer.to_string().into_bytes()
}

fn vllm_choice() -> Value {
    json!({"index": 0, "text": " 4<|im_end|>", "finish_reason": "stop", "stop_reason": EOS,
        "token_ids": [220, EOS], "prompt_token_ids": [11, 12], "prompt_logprobs": null,
        "logprobs": {"text_offset": [0, 2], "tokens": [" 4", "<|im_end|>"], "token_logprobs": [-0.25, -0.0001],
            "top_logprobs": [{" 4": -0.25}, {"<|im_end|>": -0.0001}]}})
}

fn sglang(meta: &Value) -> Vec<u8> {
    json!({"text": " 4", "output_ids": [220, EOS], "meta_info": meta}).to_string().into_bytes()
}

fn sglang_meta() -> Value {
    json!({"id": "5d", "finish_reason": {"type": "stop", "matched": EOS}, "prompt_tokens": 2, "weight_version": "default",
        "total_retractions": 0, "input_token_logprobs": [], "completion_tokens": 2, "cached_tokens": 0, "e2e_latency": 0.2,
        "output_token_logprobs": [[-0.25, 220, null], [-0.0001, EOS, null]]})
}

fn sampling(stop: &[&str]) -> Sampling {
    Sampling { stop: stop.iter().map(|text| text.to_string()).collect(), ..Sampling::plain(2, &[EOS]) }
}

/// The fault, in words: whether it lasts, and what it says.
#[track_caller]
fn fault<T: std::fmt::Debug>(outcome: Result<T, Fault>) -> (bool, String) {
    match outcome.unwrap_err() {
        Fault::Passing { what, .. } => (false, what),
        Fault::Lasting(error) | Fault::Refused(error) => (true, error.to_string()),
    }
}

#[test]
fn completions_are_read() {
    let sampling = sampling(&[]);
    let draw = Draw { prompt_ids: &[11, 12], sampling: &sampling, max_tokens: 2, seed: Some(1), vocab_size: VOCAB };
    for (api, body) in [(Api::Vllm, vllm(&vllm_choice())), (Api::Sglang, sglang(&sglang_meta()))] {
        let completion = api.read_completion(&draw, &body).unwrap();
        assert_eq!(completion.token_ids, [220, EOS]);
        assert_eq!(completion.logprobs, [-0.25, -0.0001]);
        assert_eq!(completion.stop_reason, StopReason::Eos);
    }
}

#[test]
fn ends_are_told_apart() {
    let (plain, strings) = (sampling(&[]), sampling(&["\n\n"]));
    let vllm = |sampling: &Sampling, finish: &str, stop: Value, last: u32| {
        let draw = Draw { prompt_ids: &[11, 12], sampling, max_tokens: 2, seed: Some(1), vocab_size: VOCAB };
        let mut choice = vllm_choice();
        (choice["finish_reason"], choice["stop_reason"], choice["token_ids"][1]) = (finish.into(), stop, last.into());
        Api::Vllm.read_completion(&draw, &vllm(&choice)).map(|completion| completion.stop_reason)
    };
    let sglang = |sampling: &Sampling, finish: Value, last: u32| {
        let draw = Draw { prompt_ids: &[11, 12], sampling, max_tokens: 2, seed: Some(1), vocab_size: VOCAB };
        let mut meta = sglang_meta();
        (meta["finish_reason"], meta["output_token_logprobs"][1][1]) = (finish, last.into());
        Api::Sglang.read_completion(&draw, &sglang(&meta)).map(|completion| completion.stop_reason)
    };
    assert_eq!(vllm(&plain, "length", Value::Null, 7).unwrap(), StopReason::MaxTokens);
    assert_eq!(vllm(&strings, "stop", "\n\n".into(), 7).unwrap(), StopReason::StopString);
    assert_eq!(sglang(&plain, json!({"type": "length", "length": 2}), 7).unwrap(), StopReason::MaxTokens);
    // The last token that fits may be the end all the same.
    assert_eq!(sglang(&plain, json!({"type": "length", "length": 2}), EOS).unwrap(), StopReason::Eos);
    assert_eq!(sglang(&strings, json!({"type": "stop", "matched": "\n\n"}), 7).unwrap(), StopReason::StopString);
    for outcome in [vllm(&plain, "stop", 7.into(), 7), sglang(&plain, json!({"type": "stop", "matched": 7}), 7)] {
        let (lasting, what) = fault(outcome);
        assert!(lasting && what.contains("ends completions at token 7"), "{what}");
    }
    for outcome in [vllm(&plain, "abort", Value::Null, 7), sglang(&plain, json!({"type": "abort", "message": "x"}), 7)]
    {
        let (lasting, what) = fault(outcome);
        assert!(!lasting && what.contains("`abort`"), "{what}");
    }
}

#[test]
fn answers_to_something_else_are_refused() {
    let sampling = sampling(&[]);
    let draw = Draw { prompt_ids: &[11, 12], sampling: &sampling, max_tokens: 2, seed: Some(1), vocab_size: VOCAB };
    let changed = |name: &str, value: Value| {
        let mut choice = vllm_choice();
        choice[name] = value;
        fault(Api::Vllm.read_completion(&draw, &vllm(&choice)))
    };
    assert!(changed("prompt_token_ids", json!([11, 13])).1.contains("another prompt"));
    assert!(changed("token_ids", json!([220])).1.contains("1 tokens with 2 log-probs"));
    assert!(changed("token_ids", json!([])).1.contains("0 tokens"));
    assert!(changed("logprobs", json!({"token_logprobs": [-0.25, null]})).1.contains("NaN"));
    assert!(changed("logprobs", json!({"token_logprobs": [-0.25, -9999.0]})).1.contains("-9999"));
    let (lasting, what) = changed("token_ids", Value::Null);
    assert!(lasting && what.contains("0.10.2"), "{what}");
    let error = br#"{"error": {"message": "no", "type": "BadRequestError", "code": 400}}"#;
    assert!(!fault(Api::Vllm.read_completion(&draw, error)).0);
    assert!(!fault(Api::Sglang.read_completion(&draw, error)).0);
}

#[test]
fn tokens_outside_the_vocabulary_are_refused() {
    let sampling = sampling(&[]);
    let draw = Draw { prompt_ids: &[11, 12], sampling: &sampling, max_tokens: 2, seed: Some(1), vocab_size: VOCAB };
    let (mut choice, mut meta) = (vllm_choice(), sglang_meta());
    for token in [VOCAB as u32 - 1, VOCAB as u32, u32::MAX] {
        choice["token_ids"][0] = token.into();
        meta["output_token_logprobs"][0][1] = token.into();
        for (api, body) in [(Api::Vllm, vllm(&choice)), (Api::Sglang, sglang(&meta))] {
            let outcome = api.read_completion(&draw, &body);
            if (token as usize) < VOCAB {
                assert_eq!(outcome.unwrap().token_ids, [token, EOS]);
                continue;
            }
            let (lasting, what) = fault(outcome);
            assert!(
                lasting && what.contains(&format!("drew token {token}, outside")) && what.contains("151936"),
                "{what}"
            );
        }
    }
}

#[test]
fn scores_are_of_the_tokens_sent() {
    let token_ids = [11, 12, 220, EOS];
    let scoring = Scoring { token_ids: &token_ids, from: 2, top_k: 0, salt: "s", vocab_size: 151936 };
    let scores = |api: Api, body: &[u8]| api.read_scores(&scoring, body).map(|scores| scores.logprob_policy);
    let entry = |token: u32, value: f32, rank: u32| json!({token.to_string(): {"logprob": value, "rank": rank, "decoded_token": "x"}});
    let mut unlikely = entry(220, -3.5, 4);
    unlikely["9"] = json!({"logprob": -0.5, "rank": 1, "decoded_token": "y"});
    let mut choice = vllm_choice();
    choice["prompt_logprobs"] = json!([null, entry(12, -1.0, 1), unlikely, entry(EOS, -0.125, 1)]);
    assert_eq!(scores(Api::Vllm, &vllm(&choice)).unwrap(), [-3.5, -0.125]);
    choice["prompt_logprobs"][2] = entry(9, -0.5, 1);
    assert!(fault(scores(Api::Vllm, &vllm(&choice))).1.contains("no score of token 220"));

    let mut meta = sglang_meta();
    meta["input_token_logprobs"] = json!([[null, 12, null], [-3.5, 220, null], [-0.125, EOS, null]]);
    assert_eq!(scores(Api::Sglang, &sglang(&meta)).unwrap(), [-3.5, -0.125]);
    assert_eq!(Api::Sglang.score("m", &scoring).body["logprob_start_len"], 1);
    meta["input_token_logprobs"] = json!([[-3.5, 220, null], [-0.125, EOS, null]]);
    assert!(fault(scores(Api::Sglang, &sglang(&meta))).1.contains("other tokens"));
}

/// Goal: SGLang names the last token of the vocabulary 0 where it tells of a prompt; no other.
#[test]
fn the_last_token_of_the_vocabulary_by_another_name() {
    let read = |sent: u32, told: u32| {
        let token_ids = [11, 12, sent];
        let scoring = Scoring { token_ids: &token_ids, from: 2, top_k: 0, salt: "s", vocab_size: 441 };
        let mut meta = sglang_meta();
        meta["input_token_logprobs"] = json!([[null, 12, null], [-3.5, told, null]]);
        Api::Sglang.read_scores(&scoring, &sglang(&meta)).map(|scores| scores.logprob_policy)
    };
    assert_eq!(read(440, 0).unwrap(), [-3.5]);
    assert_eq!(read(440, 440).unwrap(), [-3.5]);
    for (sent, told) in [(439, 0), (440, 439), (0, 440)] {
        assert!(fault(read(sent, told)).1.contains("other tokens"), "{sent} told as {told}");
    }
}

/// Goal: the likeliest tokens in each place come in falling order, whether or not the scored one is among them; too few are an error.
#[test]
fn the_likeliest_tokens_of_every_place() {
    let token_ids = [11, 12, 220, EOS];
    let scoring = Scoring { token_ids: &token_ids, from: 2, top_k: 2, salt: "s", vocab_size: 151936 };
    let entry = |tokens: &[(u32, f32)]| -> serde_json::Value {
        tokens.iter().map(|(token, value)| (token.to_string(), json!({"logprob": value}))).collect()
    };
    let mut choice = vllm_choice();
    let (first, second) = (entry(&[(220, -3.5), (9, -0.5), (7, -1.5)]), entry(&[(EOS, -0.125), (8, -2.5)]));
    choice["prompt_logprobs"] = json!([null, entry(&[(12, -1.0)]), first, second]);
    let expected = [vec![(9, -0.5), (7, -1.5)], vec![(EOS, -0.125), (8, -2.5)]];
    assert_eq!(Api::Vllm.score("m", &scoring).body["prompt_logprobs"], 2);
    let found = Api::Vllm.read_scores(&scoring, &vllm(&choice)).unwrap();
    assert_eq!((found.logprob_policy, found.top), (vec![-3.5, -0.125], expected.to_vec()));
    choice["prompt_logprobs"][3] = entry(&[(EOS, -0.125)]);
    assert!(fault(Api::Vllm.read_scores(&scoring, &vllm(&choice))).1.contains("1 of the 2 likeliest"));

    let mut meta = sglang_meta();
    meta["input_token_logprobs"] = json!([[null, 12, null], [-3.5, 220, null], [-0.125, EOS, null]]);
    meta["input_top_logprobs"] =
        json!([null, [[-0.5, 9, null], [-1.5, 7, null]], [[-0.125, EOS, null], [-2.5, 8, null]]]);
    assert_eq!(Api::Sglang.score("m", &scoring).body["top_logprobs_num"], 2);
    let found = Api::Sglang.read_scores(&scoring, &sglang(&meta)).unwrap();
    assert_eq!((found.logprob_policy, found.top), (vec![-3.5, -0.125], expected.to_vec()));
    meta["input_top_logprobs"] = json!([null]);
    assert!(fault(Api::Sglang.read_scores(&scoring, &sglang(&meta))).1.contains("1 places of 3"));
    meta.as_object_mut().unwrap().remove("input_top_logprobs");
    assert!(fault(Api::Sglang.read_scores(&scoring, &sglang(&meta))).1.contains("no likeliest tokens"));
}

#[test]
fn what_cannot_be_told_is_an_error() {
    let facts = |tempered: bool, truncated: bool| Facts {
        api: Api::Vllm,
        max_model_len: Some(10),
        tempered,
        truncated,
        engine: "vllm".into(),
    };
    let warm = Sampling { temperature: 0.7, ..sampling(&[]) };
    let cut = Sampling { top_p: 0.9, ..sampling(&[]) };
    assert!(check_meaning(&facts(false, false), &warm, true).is_err());
    assert!(check_meaning(&facts(true, false), &warm, true).is_ok());
    assert!(check_meaning(&facts(true, false), &cut, true).is_err());
    assert!(check_meaning(&facts(true, true), &cut, true).is_ok());
    assert!(check_context(&facts(true, true), 4, 6).is_ok());
    assert!(check_context(&facts(true, true), 5, 6).unwrap_err().to_string().contains("context of 10 tokens"));
}
