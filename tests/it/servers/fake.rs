//! A server as vLLM and SGLang are: it runs the embedded policy with this crate's engine, so that what it answers are real tokens
//! and log-probs. It writes down what it was asked and what it drew, and can be told to misbehave.

use crate::support::root;
use mindgap_base::rng::Stream;
use mindgap_lm::engine::{self, Limits, Request, Sample, Sampling, ScoreRequest, StopReason, TokenScores};
use mindgap_lm::model::policy::{Policy, PolicyFiles};
use mindgap_lm::model::runner::Runner;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

/// Of the embedded policy's vocabulary.
const LAST_TOKEN: u32 = 440;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Program {
    Vllm,
    Sglang,
}

/// What an answer is replaced by.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// Status line, headers and body.
    Instead(&'static str, &'static str, &'static str),
    /// No answer at all; the connection stays.
    Silence,
    /// The connection ends.
    Close,
    /// The answer stops half way.
    Truncated,
    /// The completion was given up by the server.
    Abort,
    /// The first token of the completion is another one.
    Token(u32),
}

/// A request that was answered, or was to be.
#[derive(Clone, Debug)]
pub struct Seen {
    pub path: String,
    pub body: Value,
    pub authorization: Option<String>,
    /// Of those that draw more than the probe does: how many came before.
    pub number: usize,
}

impl Seen {
    /// A request for a sample of a pipeline: the probe draws 8 tokens.
    pub fn draws(&self) -> bool {
        let field = |name: &str| self.body[name].as_u64().or(self.body["sampling_params"][name].as_u64());
        field("max_tokens").or(field("max_new_tokens")).is_some_and(|tokens| tokens > 8)
    }
}

/// What a request gets instead of an answer.
pub type Misbehave = dyn Fn(&Seen) -> Option<Fault> + Send + Sync;

pub struct Manner {
    pub program: Program,
    /// Log-probs of sampled tokens after temperature and truncation (SGLang: after the temperature).
    pub processed: bool,
    pub token_ids: bool,
    pub model: &'static str,
    /// Folder of the tokenizer behind `/tokenize`.
    pub tokenizer: &'static str,
    pub max_model_len: u32,
    pub key: Option<&'static str>,
    /// Added to log-probs of every other scoring.
    pub score_error: f32,
    pub misbehave: Box<Misbehave>,
}

impl Manner {
    pub fn good(program: Program) -> Manner {
        Manner {
            program,
            processed: false,
            token_ids: true,
            model: "tiny",
            tokenizer: "data/base-policy",
            max_model_len: 4096,
            key: None,
            score_error: 0.0,
            misbehave: Box::new(|_| None),
        }
    }
}

/// A sample that was served.
#[derive(Clone, Debug)]
pub struct Served {
    pub prompt_ids: Vec<u32>,
    pub sample: Sample,
}

struct Shared {
    manner: Manner,
    tokenizer: Policy,
    seen: Mutex<Vec<Seen>>,
    served: Mutex<Vec<Served>>,
}

pub struct Fake {
    port: u16,
    shared: Arc<Shared>,
}

fn policy(folder: &str) -> Policy {
    let mut files = PolicyFiles::default();
    for entry in std::fs::read_dir(root().join(folder)).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_string();
        if PolicyFiles::wants(&name) {
            files.insert(name, std::fs::read(path).unwrap());
        }
    }
    Policy::from_files(files).unwrap()
}

/// What is served: the embedded policy, or as a program whatever folder it is told.
fn folder() -> String {
    std::env::var("FAKE_FOLDER").unwrap_or_else(|_| "data/base-policy".to_string())
}

fn runner() -> &'static Runner {
    static RUNNER: OnceLock<Runner> = OnceLock::new();
    RUNNER.get_or_init(|| policy(&folder()).runner().unwrap())
}

impl Fake {
    pub fn start(manner: Manner) -> Fake {
        Fake::at(0, manner)
    }

    /// At a port; at a free one where it is 0.
    pub fn at(port: u16, manner: Manner) -> Fake {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let tokenizer = policy(manner.tokenizer);
        let shared = Arc::new(Shared { manner, tokenizer, seen: Mutex::default(), served: Mutex::default() });
        let serving = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = serving.clone();
                std::thread::spawn(move || shared.connection(stream));
            }
        });
        Fake { port, shared }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }

    pub fn seen(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.shared.seen.lock().unwrap()
    }

    /// Samples whose answers were written, those of the probe left out.
    pub fn served(&self) -> Vec<Served> {
        self.shared.served.lock().unwrap().clone()
    }
}

impl Shared {
    fn connection(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while let Some(seen) = self.request(&mut reader) {
            if self.answer(&stream, &seen).is_none() {
                break;
            }
        }
    }

    fn request(&self, reader: &mut BufReader<TcpStream>) -> Option<Seen> {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
        let path = line.split(' ').nth(1)?.to_string();
        let (mut length, mut authorization) = (0, None);
        loop {
            line.clear();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().unwrap(),
                "authorization" => authorization = Some(value.to_string()),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
        let mut seen = self.seen.lock().unwrap();
        let number = seen.iter().filter(|request| request.draws()).count();
        seen.push(Seen { path, body, authorization, number });
        seen.last().cloned()
    }

    /// `None` where the connection is to end.
    fn answer(&self, mut stream: &TcpStream, seen: &Seen) -> Option<()> {
        let mut reply = |status: &str, headers: &str, body: &str| {
            // At once: a head alone waits for its receipt.
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).ok()
        };
        if let Some(key) = self.manner.key
            && seen.authorization.as_deref() != Some(&format!("Bearer {key}"))
        {
            // As some proxies do, it repeats what it was sent.
            return reply("401 Unauthorized", "", &format!("not allowed: {:?}", seen.authorization));
        }
        let fault = (self.manner.misbehave)(seen);
        match fault {
            Some(Fault::Instead(status, headers, body)) => return reply(status, headers, body),
            Some(Fault::Silence) => {
                std::thread::sleep(Duration::from_secs(600));
                return None;
            }
            Some(Fault::Close) => return None,
            _ => {}
        }
        let (mut value, served) = match seen.path.as_str() {
            "/v1/models" => (self.models(), None),
            "/health" => (Value::Null, None),
            "/version" if self.manner.program == Program::Vllm => (json!({"version": "0.99.0"}), None),
            "/get_server_info" if self.manner.program == Program::Sglang => (json!({"version": "0.9.9"}), None),
            "/tokenize" => {
                let text = seen.body["prompt"].as_str().unwrap();
                assert_eq!(seen.body["add_special_tokens"], false);
                (json!({"tokens": self.tokenizer.tokenizer().encode(text, false).unwrap()}), None)
            }
            "/v1/completions" if self.manner.program == Program::Vllm => self.vllm(&seen.body),
            "/generate" if self.manner.program == Program::Sglang => self.sglang(&seen.body),
            _ => return reply("404 Not Found", "", "{\"detail\":\"Not Found\"}"),
        };
        if matches!(fault, Some(Fault::Abort)) {
            match self.manner.program {
                Program::Vllm => value["choices"][0]["finish_reason"] = "abort".into(),
                Program::Sglang => value["meta_info"]["finish_reason"] = json!({"type": "abort"}),
            }
        }
        if let Some(Fault::Token(token)) = fault {
            match self.manner.program {
                Program::Vllm => value["choices"][0]["token_ids"][0] = token.into(),
                Program::Sglang => value["meta_info"]["output_token_logprobs"][0][1] = token.into(),
            }
        }
        let body = value.to_string();
        if matches!(fault, Some(Fault::Truncated)) {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{}", body.len(), &body[..body.len() / 2]);
            let _ = stream.write_all(head.as_bytes());
            return None;
        }
        if seen.draws() && fault.is_none() {
            self.served.lock().unwrap().extend(served);
        }
        reply("200 OK", "content-type: application/json\r\n", &body)
    }

    fn models(&self) -> Value {
        let owned_by = match self.manner.program {
            Program::Vllm => "vllm",
            Program::Sglang => "sglang",
        };
        json!({"object": "list", "data": [
            {"id": "other", "owned_by": owned_by, "max_model_len": 1},
            {"id": self.manner.model, "owned_by": owned_by, "max_model_len": self.manner.max_model_len},
        ]})
    }

    fn vllm(&self, body: &Value) -> (Value, Option<Served>) {
        assert_eq!(body["model"], self.manner.model);
        let ids = ids(&body["prompt"]);
        let mut choice = json!({"index": 0, "text": "never read", "logprobs": null, "prompt_logprobs": null});
        let mut served = None;
        if !body["prompt_logprobs"].is_null() {
            let (scores, top) = self.scores(&ids, body["prompt_logprobs"].as_u64().unwrap() as usize);
            // The likeliest, and the token itself.
            let entry = |((token, score), top): ((&u32, &f32), &Vec<(u32, f32)>)| -> Value {
                let all = top.iter().copied().chain([(*token, *score)]);
                all.map(|(token, score)| {
                    (token.to_string(), json!({"logprob": score, "rank": 1, "decoded_token": "x"}))
                })
                .collect()
            };
            let entries = ids[1..].iter().zip(&scores).zip(&top).map(entry);
            choice["prompt_logprobs"] = [Value::Null].into_iter().chain(entries).collect();
            choice["finish_reason"] = "length".into();
            choice["token_ids"] = json!([5]);
        } else {
            let draw = draw(&ids, body, "max_tokens", "seed");
            let (finish, stop) = match draw.sample.stop_reason {
                StopReason::Eos => ("stop", json!(draw.sample.token_ids.last())),
                StopReason::StopString => ("stop", json!("a stop string")),
                StopReason::MaxTokens => ("length", Value::Null),
            };
            choice["finish_reason"] = finish.into();
            choice["stop_reason"] = stop;
            choice["token_ids"] = json!(draw.sample.token_ids);
            choice["logprobs"] = json!({"token_logprobs": self.logprobs(&draw.sample, body, true)});
            served = Some(draw);
        }
        choice["prompt_token_ids"] = json!(ids);
        if body["return_token_ids"] != true || !self.manner.token_ids {
            choice.as_object_mut().unwrap().retain(|name, _| !name.ends_with("token_ids"));
        }
        (json!({"id": "cmpl-1", "object": "text_completion", "choices": [choice], "usage": {}}), served)
    }

    fn sglang(&self, body: &Value) -> (Value, Option<Served>) {
        assert_eq!(body["return_logprob"], true);
        let (ids, params) = (ids(&body["input_ids"]), &body["sampling_params"]);
        let draw = draw(&ids, params, "max_new_tokens", "sampling_seed");
        let triple = |(token, score): (&u32, Option<f32>)| json!([score, token, null]);
        let from = body["logprob_start_len"].as_i64().unwrap();
        let top_k = body["top_logprobs_num"].as_u64().unwrap() as usize;
        let (mut input, mut likeliest) = (Vec::new(), Vec::new());
        if let Ok(from) = usize::try_from(from) {
            let (scores, top) = self.scores(&ids, top_k);
            let known = scores[from..].iter().map(|score| Some(*score));
            // As 0.5.23 does.
            let named: Vec<u32> = ids[from..].iter().map(|id| if *id < LAST_TOKEN { *id } else { 0 }).collect();
            input = named.iter().zip([None].into_iter().chain(known)).map(triple).collect::<Vec<Value>>();
            let of_place = |top: &Vec<(u32, f32)>| top.iter().map(|(token, x)| triple((token, Some(*x)))).collect();
            likeliest = [Value::Null].into_iter().chain(top[from..].iter().map(of_place)).collect();
        }
        let logprobs = self.logprobs(&draw.sample, params, false);
        let output = draw.sample.token_ids.iter().zip(logprobs.into_iter().map(Some)).map(triple);
        let finish = match draw.sample.stop_reason {
            StopReason::Eos => json!({"type": "stop", "matched": draw.sample.token_ids.last()}),
            StopReason::StopString => json!({"type": "stop", "matched": "a stop string"}),
            StopReason::MaxTokens => json!({"type": "length", "length": draw.sample.token_ids.len()}),
        };
        let value = json!({"text": "never read", "meta_info": {
            "finish_reason": finish, "prompt_tokens": ids.len(), "completion_tokens": draw.sample.token_ids.len(),
            "output_token_logprobs": output.collect::<Vec<_>>(), "input_token_logprobs": input,
            "input_top_logprobs": if top_k > 0 { json!(likeliest) } else { Value::Null },
        }});
        (value, Some(draw))
    }

    /// Log-probs of sampled tokens, as the server is set to give them.
    fn logprobs(&self, sample: &Sample, params: &Value, truncation: bool) -> Vec<f32> {
        let (temperature, greedy) = (params["temperature"].as_f64().unwrap() as f32, params["temperature"] == 0.0);
        match self.manner.processed && !greedy {
            false => sample.logprob_policy.clone(),
            true if truncation => sample.logprob_behavior.clone(),
            // SGLang's know the temperature alone: exact where nothing is cut off.
            true => sample
                .logprob_policy
                .iter()
                .zip(&sample.logprob_behavior)
                .map(
                    |(policy, behavior)| {
                        if params["top_k"] == -1 && params["top_p"] == 1.0 { *behavior } else { policy / temperature }
                    },
                )
                .collect(),
        }
    }

    /// Log-probs of all tokens but the first, and the likeliest in their place.
    fn scores(&self, ids: &[u32], top_k: usize) -> (Vec<f32>, Vec<Vec<(u32, f32)>>) {
        let request = ScoreRequest::new(&ids[..1], &ids[1..]).with_top(top_k);
        let TokenScores { logprob_policy: scores, mut top, .. } =
            engine::score(runner(), &[request], &limits(), &|_| ()).unwrap().remove(0);
        top.resize(scores.len(), Vec::new());
        let before = self.seen.lock().unwrap().iter().filter(|seen| !seen.draws()).count();
        let error = if before % 2 == 0 { self.manner.score_error } else { 0.0 };
        (scores.into_iter().map(|score| score - error).collect(), top)
    }
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn limits() -> Limits<'static> {
    static NEVER: AtomicBool = AtomicBool::new(false);
    Limits { slots: 1, kv_budget_bytes: 1 << 30, threads: 1, cancel: &NEVER }
}

fn draw(prompt_ids: &[u32], params: &Value, max_tokens: &str, seed: &str) -> Served {
    let number = |name: &str| params[name].as_f64().unwrap_or_else(|| panic!("`{name}` is not said"));
    let sampling = Sampling {
        temperature: number("temperature") as f32,
        top_p: number("top_p") as f32,
        top_k: number("top_k").max(0.0) as u32,
        min_p: number("min_p") as f32,
        max_new_tokens: number(max_tokens) as u32,
        stop: serde_json::from_value(params["stop"].clone()).unwrap(),
        eos: ids(&params["stop_token_ids"]),
        speculate: 0,
    };
    let seed = number(seed) as u64;
    let request = Request::new(prompt_ids, vec![Stream::at(seed, &[b"served"])]);
    static TOKENIZER: OnceLock<Policy> = OnceLock::new();
    let tokenizer = TOKENIZER.get_or_init(|| policy(&folder())).tokenizer();
    let samples = engine::generate(runner(), Some(tokenizer), &[request], &sampling, &limits(), &|_| ()).unwrap();
    let sample = samples.into_iter().flatten().next().unwrap();
    Served { prompt_ids: prompt_ids.to_vec(), sample }
}

/// A port nobody listens on.
pub fn closed() -> String {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    format!("http://127.0.0.1:{port}/v1")
}

/// The command without what would send its requests elsewhere.
pub fn direct(store: &Path, args: &[&str]) -> std::process::Command {
    let mut command = crate::support::mindgap(store, args);
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command
}
