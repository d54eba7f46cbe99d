//! What is found out about a server before it is trusted: that it serves the model, that its tokens are ours, and what its
//! log-probs mean. Twelve short requests.

use super::pool::Pool;
use super::wire::{Call, Draw, Fault, Scoring, lacking, parse};
use crate::policy::Api;
use mindgap_base::error::{Error, Result};
use mindgap_lm::engine::Sampling;
use mindgap_lm::model::chat::Message;
use mindgap_lm::model::policy::Policy;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// What a server must agree to.
pub struct Expected {
    /// A conversation as the chat template writes it, and its tokens.
    text: String,
    pub token_ids: Vec<u32>,
    eos: Vec<u32>,
    /// Tokens the policy has.
    pub vocab_size: usize,
}

/// Digits, signs, letters beyond ASCII, white space of several kinds: where tokenizers differ.
const QUESTION: &str =
    "Compute 12345 + 67.89 - x\u{b2} \u{2264} \\frac{1}{2}.\n\n  \tna\u{ef}ve \u{6570}\u{5b66} \u{1f600}  don't\n";

impl Expected {
    pub fn of(policy: &Policy) -> Result<Expected> {
        let token_ids = policy.prompt_ids(QUESTION)?;
        let chat = policy.chat().expect("a prompt was rendered by it");
        let text = chat.render(&[Message::user(QUESTION)], true, &Value::Null)?;
        let vocab_size = policy.config().vocab_size;
        Ok(Expected { text, token_ids, eos: policy.eos_token_ids().to_vec(), vocab_size })
    }
}

/// What is known of a server.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    pub api: Api,
    pub max_model_len: Option<u32>,
    /// Log-probs of sampled tokens are those after the temperature.
    pub tempered: bool,
    /// And after top_k, top_p and min_p.
    pub truncated: bool,
    /// The program and its version, as far as it says.
    pub engine: Arc<str>,
}

/// Models of a server that are named, at most.
const NAMED: usize = 20;
/// Tokens drawn to compare log-probs.
const TOKENS: u32 = 8;
/// Samples at a temperature of 2: one alone may end at once, or be of tokens that are likely at any temperature.
const HOT: u32 = 4;
/// Mean difference of log-probs that rounding may explain: samples and prompts go through other kernels, in 16 bits.
const ROUNDING: f32 = 0.25;
/// Mean difference that a temperature of 2 makes at least. What lies between counts as none, which is the safe side: then
/// log-probs at other temperatures are refused.
const TEMPERED: f32 = 0.5;

/// Errors: the server does not answer, does not serve the model, tokenizes otherwise, or its log-probs contradict each other.
pub fn probe(pool: &Pool, root: &str, expected: &Expected) -> Result<Facts, Fault> {
    let probe = Probe { pool, root, expected, model: &pool.served.model, timeout: pool.timeout(TOKENS) };
    let (api, max_model_len) = probe.model()?;
    probe.tokens()?;
    let drawer = Drawer { probe, api };
    let greedy = drawer.draw(&Sampling { temperature: 0.0, ..drawer.sampling() }, 1)?;
    let cut = drawer.draw(&Sampling { temperature: 2.0, top_k: 1, ..drawer.sampling() }, 1)?;
    let hot = Sampling { temperature: 2.0, ..drawer.sampling() };
    let mut drawn = vec![greedy, cut];
    for seed in 1..=HOT {
        drawn.push(drawer.draw(&hot, seed)?);
    }
    let scores = drawn.iter().map(|sample| drawer.score(&sample.0)).collect::<Result<Vec<_>, _>>()?;
    // The other way round: a cached prefix must not change a score.
    for (sample, first) in drawn.iter().zip(&scores).rev() {
        let second = drawer.score(&sample.0)?;
        if difference(first, &second) > ROUNDING {
            return Err(Fault::Lasting(contradiction(
                "the same tokens get other log-probs when scored again",
                first,
                &second,
            )));
        }
    }
    let told: Vec<&[f32]> = drawn.iter().map(|sample| &sample.1[..]).collect();
    if difference(told[0], &scores[0]) > ROUNDING {
        let error = contradiction("tokens get other log-probs when sampled than when scored", told[0], &scores[0]);
        return Err(Fault::Lasting(error));
    }
    let tempered = difference(&told[2..].concat(), &scores[2..].concat()) > TEMPERED;
    // The one token that is left has probability 1; without the cut it has less at this temperature, however sure the model is.
    let truncated = tempered && told[1].iter().all(|value| *value > -1e-3);
    let engine = drawer.probe.engine(api).into();
    Ok(Facts { api, max_model_len, tempered, truncated, engine })
}

fn contradiction(what: &str, a: &[f32], b: &[f32]) -> Error {
    Error::environment(format!("{what}: {a:.3?} and {b:.3?}")).hint(
        "start vLLM with `--no-enable-prefix-caching`, SGLang with `--disable-radix-cache`; one of them may spoil the \
         log-probs of prompts",
    )
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f32>() / a.len().max(1) as f32
}

struct Probe<'a> {
    pool: &'a Pool,
    root: &'a str,
    expected: &'a Expected,
    model: &'a str,
    timeout: Duration,
}

impl Probe<'_> {
    /// The program that serves the model, and the longest sequence it takes.
    fn model(&self) -> Result<(Api, Option<u32>), Fault> {
        #[derive(Deserialize)]
        struct Models {
            data: Vec<Model>,
        }
        #[derive(Deserialize)]
        struct Model {
            id: String,
            owned_by: Option<String>,
            max_model_len: Option<u32>,
        }
        let models: Models = parse(&self.pool.get(self.root, "/v1/models", self.timeout)?)?;
        let Some(model) = models.data.iter().find(|model| model.id == self.model) else {
            let served: Vec<&str> = models.data.iter().take(NAMED).map(|model| model.id.as_str()).collect();
            return Err(Fault::Lasting(Error::environment(format!("the server has no model `{}`", self.model)).hint(
                format!("it serves {}: `model` must be that, or start it with --served-model-name", served.join(", ")),
            )));
        };
        let api = match (self.pool.served.api, model.owned_by.as_deref()) {
            (Some(api), _) => api,
            (None, Some("vllm")) => Api::Vllm,
            (None, Some("sglang")) => Api::Sglang,
            (None, _) => {
                return Err(Fault::Lasting(
                    Error::environment("the server does not say which program it is")
                        .hint("set `api` of the policy to \"vllm\" or \"sglang\""),
                ));
            }
        };
        Ok((api, model.max_model_len))
    }

    /// What people call the program: `vllm 0.10.2`. Only its name where it tells no version.
    fn engine(&self, api: Api) -> String {
        #[derive(Deserialize)]
        struct Said {
            version: String,
        }
        let said = self.pool.get(self.root, api.version_path(), self.timeout).and_then(|body| parse::<Said>(&body));
        match said {
            Ok(Said { version }) => format!("{} {version}", api.name()),
            Err(_) => api.name().to_string(),
        }
    }

    fn tokens(&self) -> Result<(), Fault> {
        #[derive(Deserialize)]
        struct Tokenized {
            tokens: Option<Vec<u32>>,
        }
        let body = json!({ "model": self.model, "prompt": self.expected.text, "add_special_tokens": false });
        let tokens = self.expected.text.len();
        let answer = self.pool.post(self.root, &Call { path: "/tokenize", body, tokens }, self.timeout)?;
        let Tokenized { tokens } = parse(&answer)?;
        let tokens = tokens
            .ok_or_else(|| lacking("`tokens` for `/tokenize`", "vLLM and newer versions of SGLang have that path"))?;
        let ours = &self.expected.token_ids;
        if tokens == *ours {
            return Ok(());
        }
        let index = tokens.iter().zip(ours).take_while(|(a, b)| a == b).count();
        let token = |ids: &[u32]| ids.get(index).map_or("nothing".to_string(), ToString::to_string);
        let (theirs, ours) = (token(&tokens), token(ours));
        Err(Fault::Lasting(
            Error::environment(format!(
                "the server tokenizes otherwise than `{}`: token {index} of a probe is {theirs} there, {ours} here",
                self.pool.served.tokenizer
            ))
            .hint("`tokenizer` must be the folder or hub id of the checkpoint that is served"),
        ))
    }
}

struct Drawer<'a> {
    probe: Probe<'a>,
    api: Api,
}

impl Drawer<'_> {
    /// Nothing ends it early but EOS.
    fn sampling(&self) -> Sampling {
        Sampling::plain(TOKENS, &self.probe.expected.eos)
    }

    /// Tokens and log-probs.
    fn draw(&self, sampling: &Sampling, seed: u32) -> Result<(Vec<u32>, Vec<f32>), Fault> {
        let prompt_ids = &self.probe.expected.token_ids;
        let vocab_size = self.probe.expected.vocab_size;
        let seed = self.probe.pool.served.seed.then_some(seed);
        let draw = Draw { prompt_ids, sampling, max_tokens: TOKENS, seed, vocab_size };
        let answer =
            self.probe.pool.post(self.probe.root, &self.api.draw(self.probe.model, &draw), self.probe.timeout)?;
        let completion = self.api.read_completion(&draw, &answer)?;
        Ok((completion.token_ids, completion.logprobs))
    }

    fn score(&self, token_ids: &[u32]) -> Result<Vec<f32>, Fault> {
        let prompt_ids = &self.probe.expected.token_ids;
        let (all, salt) = ([prompt_ids, token_ids].concat(), self.probe.pool.salt());
        let vocab_size = self.probe.expected.vocab_size;
        let scoring = Scoring { token_ids: &all, from: prompt_ids.len(), top_k: 0, salt: &salt, vocab_size };
        let answer =
            self.probe.pool.post(self.probe.root, &self.api.score(self.probe.model, &scoring), self.probe.timeout)?;
        Ok(self.api.read_scores(&scoring, &answer)?.logprob_policy)
    }
}
