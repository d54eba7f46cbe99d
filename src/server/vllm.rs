//! vLLM: `/v1/completions` with token ids in and out (`return_token_ids`, since 0.10.2) and `prompt_logprobs`.

use super::wire::{Call, Completion, Draw, Ending, Fault, Place, Scoring, completion, lacking, parse};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const PATH: &str = "/v1/completions";
const NEWER: &str = "vLLM 0.10.2 or newer answers `return_token_ids`; if something stands between, it must pass it on";

const PASSED_ON: &str =
    "vLLM gives them when asked; if something stands between, it must pass on what is asked and what comes back";

#[derive(Deserialize)]
struct Answer {
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    finish_reason: Option<String>,
    stop_reason: Option<Value>,
    token_ids: Option<Vec<u32>>,
    prompt_token_ids: Option<Vec<u32>>,
    logprobs: Option<Logprobs>,
    prompt_logprobs: Option<Vec<Option<BTreeMap<String, Entry>>>>,
}

#[derive(Deserialize)]
struct Logprobs {
    token_logprobs: Vec<Option<f32>>,
}

#[derive(Deserialize)]
struct Entry {
    logprob: f32,
}

/// Everything both kinds of request say alike.
fn base(model: &str, prompt_ids: &[u32], max_tokens: u32) -> Value {
    json!({
        "model": model,
        "prompt": prompt_ids,
        "max_tokens": max_tokens,
        "n": 1,
        "stream": false,
        "echo": false,
        "add_special_tokens": false,
        "return_token_ids": true,
        "skip_special_tokens": false,
        "spaces_between_special_tokens": false,
        "include_stop_str_in_output": true,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "min_tokens": 0,
        // Only the policy's own EOS tokens end a completion: they are in `stop_token_ids`.
        "ignore_eos": true,
    })
}

pub fn draw(model: &str, draw: &Draw) -> Call {
    let sampling = draw.sampling;
    let mut body = base(model, draw.prompt_ids, draw.max_tokens);
    body["temperature"] = sampling.temperature.into();
    body["top_p"] = sampling.top_p.into();
    body["top_k"] = if sampling.top_k == 0 { Value::from(-1) } else { sampling.top_k.into() };
    body["min_p"] = sampling.min_p.into();
    if let Some(seed) = draw.seed {
        body["seed"] = seed.into();
    }
    body["stop"] = json!(sampling.stop);
    body["stop_token_ids"] = json!(sampling.eos);
    // The sampled token's alone.
    body["logprobs"] = 0.into();
    Call { path: PATH, body, tokens: draw.prompt_ids.len() + draw.max_tokens as usize }
}

pub fn read_completion(wanted: &Draw, body: &[u8]) -> Result<Completion, Fault> {
    let choice = choice(body)?;
    let token_ids = choice.token_ids.ok_or_else(|| lacking("token ids", NEWER))?;
    match choice.prompt_token_ids {
        Some(ids) if ids == wanted.prompt_ids => {}
        Some(_) => return Err(Fault::garbled("a completion of another prompt")),
        None => return Err(lacking("token ids of the prompt", NEWER)),
    }
    let logprobs = choice.logprobs.ok_or_else(|| lacking("log-probs", PASSED_ON))?;
    let logprobs = logprobs.token_logprobs.into_iter().map(|value| value.unwrap_or(f32::NAN)).collect();
    let ending = match (choice.finish_reason.as_deref(), choice.stop_reason) {
        (Some("stop"), Some(Value::Number(token))) => Ending::Token(token.as_u64().unwrap_or_default() as u32),
        (Some("stop"), _) => Ending::Stop,
        (Some("length"), _) => Ending::Length,
        (reason, _) => Ending::Other(reason.unwrap_or("nothing").to_string()),
    };
    completion(wanted, token_ids, logprobs, ending)
}

/// One token is drawn too, as older versions want; its log-prob is not asked for.
pub fn score(model: &str, scoring: &Scoring) -> Call {
    let mut body = base(model, scoring.token_ids, 1);
    for (name, value) in [("temperature", 0.0), ("top_p", 1.0), ("min_p", 0.0)] {
        body[name] = value.into();
    }
    body["top_k"] = Value::from(-1);
    body["seed"] = 0.into();
    body["stop"] = json!([]);
    body["stop_token_ids"] = json!([]);
    // The likeliest token's too, where that is another: 0 has been taken for none.
    body["prompt_logprobs"] = scoring.top_k.max(1).into();
    body["cache_salt"] = scoring.salt.into();
    Call { path: PATH, body, tokens: scoring.answered() }
}

/// Beside the likeliest the answer has the token itself, where it is none of them.
pub fn read_scores(scoring: &Scoring, body: &[u8]) -> Result<Vec<Place>, Fault> {
    let choice = choice(body)?;
    let entries = choice.prompt_logprobs.ok_or_else(|| lacking("`prompt_logprobs`", PASSED_ON))?;
    if entries.len() != scoring.token_ids.len() {
        return Err(Fault::garbled(format!("{} scores of {} tokens", entries.len(), scoring.token_ids.len())));
    }
    let of_token = |(entry, token): (&Option<BTreeMap<String, Entry>>, &u32)| {
        let missing = || Fault::garbled(format!("no score of token {token}"));
        let entry = entry.as_ref().ok_or_else(missing)?;
        let logprob = entry.get(&token.to_string()).ok_or_else(missing)?.logprob;
        let top = entry.iter().filter_map(|(token, entry)| Some((token.parse().ok()?, entry.logprob)));
        Ok(Place { logprob, top: if scoring.top_k > 0 { top.collect() } else { Vec::new() } })
    };
    entries.iter().zip(scoring.token_ids).skip(scoring.from).map(of_token).collect()
}

fn choice(body: &[u8]) -> Result<Choice, Fault> {
    let mut answer: Answer = parse(body)?;
    match answer.choices.len() {
        1 => Ok(answer.choices.remove(0)),
        count => Err(Fault::garbled(format!("{count} choices where 1 was asked for"))),
    }
}
