//! SGLang: the native `/generate`, where log-probs come with the token ids they belong to.

use super::wire::{Call, Completion, Draw, Ending, Fault, Place, Scoring, completion, lacking, parse};
use serde::Deserialize;
use serde_json::{Value, json};

const PATH: &str = "/generate";

#[derive(Deserialize)]
struct Answer {
    meta_info: Meta,
}

#[derive(Deserialize)]
struct Meta {
    finish_reason: Option<Finish>,
    prompt_tokens: Option<usize>,
    output_token_logprobs: Option<Vec<Token>>,
    input_token_logprobs: Option<Vec<Token>>,
    input_top_logprobs: Option<Vec<Option<Vec<Token>>>>,
}

#[derive(Deserialize)]
struct Finish {
    #[serde(rename = "type")]
    kind: String,
    matched: Option<Value>,
}

/// Log-prob, id, text.
#[derive(Deserialize)]
struct Token(Option<f32>, u32, #[allow(dead_code, reason = "read to know the shape")] Option<String>);

pub fn draw(draw: &Draw) -> Call {
    let sampling = draw.sampling;
    let mut params = json!({
        "max_new_tokens": draw.max_tokens,
        "min_new_tokens": 0,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": if sampling.top_k == 0 { -1 } else { i64::from(sampling.top_k) },
        "min_p": sampling.min_p,
        "stop": sampling.stop,
        "stop_token_ids": sampling.eos,
        // With it `stop_token_ids` would be ignored too.
        "ignore_eos": false,
    });
    if let Some(seed) = draw.seed {
        params["sampling_seed"] = seed.into();
    }
    call(draw.prompt_ids, params, -1, 0, draw.prompt_ids.len() + draw.max_tokens as usize)
}

/// What both kinds of request say alike. Log-probs of the prompt are given from token `from` on; none where it is -1. The answer
/// speaks of so many tokens.
fn call(input_ids: &[u32], mut params: Value, from: i64, top_k: usize, tokens: usize) -> Call {
    for (name, value) in [("frequency_penalty", 0.0), ("presence_penalty", 0.0), ("repetition_penalty", 1.0)] {
        params[name] = value.into();
    }
    for (name, value) in
        [("skip_special_tokens", false), ("spaces_between_special_tokens", false), ("no_stop_trim", true)]
    {
        params[name] = value.into();
    }
    params["n"] = 1.into();
    let body = json!({
        "input_ids": input_ids,
        "sampling_params": params,
        "return_logprob": true,
        "logprob_start_len": from,
        "top_logprobs_num": top_k,
        "return_text_in_logprobs": false,
        "stream": false,
    });
    Call { path: PATH, body, tokens }
}

pub fn read_completion(wanted: &Draw, body: &[u8]) -> Result<Completion, Fault> {
    let Answer { meta_info: meta } = parse(body)?;
    let ending = match &meta.finish_reason {
        Some(Finish { kind, matched: Some(Value::Number(token)) }) if kind == "stop" => {
            Ending::Token(token.as_u64().unwrap_or_default() as u32)
        }
        Some(Finish { kind, .. }) if kind == "stop" => Ending::Stop,
        Some(Finish { kind, .. }) if kind == "length" => Ending::Length,
        Some(Finish { kind, .. }) => Ending::Other(kind.clone()),
        None => Ending::Other("nothing".to_string()),
    };
    if let Ending::Other(reason) = &ending
        && meta.output_token_logprobs.is_none()
    {
        return Err(Fault::garbled(format!("a completion that ended with `{reason}`")));
    }
    if meta.prompt_tokens.is_some_and(|count| count != wanted.prompt_ids.len()) {
        return Err(Fault::garbled("a completion of another prompt"));
    }
    let tokens = meta.output_token_logprobs.ok_or_else(no_logprobs)?;
    let (token_ids, logprobs) = tokens.iter().map(|token| (token.1, token.0.unwrap_or(f32::NAN))).unzip();
    completion(wanted, token_ids, logprobs, ending)
}

/// Starts one token early: the first token given has no log-prob. The server reads no cached prefix past that start.
pub fn score(scoring: &Scoring) -> Call {
    let params = json!({
        "max_new_tokens": 1, "min_new_tokens": 0, "temperature": 0.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0,
        "sampling_seed": 0, "stop": [], "stop_token_ids": [], "ignore_eos": true,
    });
    call(scoring.token_ids, params, scoring.from as i64 - 1, scoring.top_k, scoring.answered())
}

pub fn read_scores(scoring: &Scoring, body: &[u8]) -> Result<Vec<Place>, Fault> {
    let Answer { meta_info: meta } = parse(body)?;
    let tokens = meta.input_token_logprobs.ok_or_else(no_logprobs)?;
    let expected = &scoring.token_ids[scoring.from - 1..];
    // The vocabulary's last token is named 0 in the prompt (0.5.23: what is not below it is taken for an image's place).
    let is = |told: u32, sent: u32| told == sent || (told == 0 && sent as usize + 1 == scoring.vocab_size);
    if tokens.len() != expected.len() || !tokens.iter().zip(expected).all(|(token, sent)| is(token.1, *sent)) {
        return Err(Fault::garbled("scores of other tokens than were sent"));
    }
    let mut likeliest = match (scoring.top_k, meta.input_top_logprobs) {
        (0, _) => Vec::new(),
        (_, Some(likeliest)) if likeliest.len() == tokens.len() => likeliest,
        (_, Some(likeliest)) => {
            let (places, tokens) = (likeliest.len(), tokens.len());
            return Err(Fault::garbled(format!("the likeliest tokens in {places} places of {tokens}")));
        }
        (_, None) => return Err(lacking("likeliest tokens", "`/generate` gives them for `top_logprobs_num`")),
    }
    .into_iter();
    let place = |token: &Token| {
        let top = likeliest.next().flatten().unwrap_or_default();
        let top = top.iter().map(|token| (token.1, token.0.unwrap_or(f32::NAN))).collect();
        Place { logprob: token.0.unwrap_or(f32::NAN), top }
    };
    Ok(tokens.iter().map(place).skip(1).collect())
}

fn no_logprobs() -> Fault {
    lacking("log-probs", "`/generate` gives them for `return_logprob`; a router in between must pass both on")
}
