//! score, generate: the compute libraries alone, over JSON lines.

use super::pipelines::watched;
use super::{args, render};
use crate::net::hub::{Hub, HubModel};
use crate::policy::{PolicyHandle, gguf_policy, hub_policy, load_policy};
use crate::stage::rollout::stop_reason;
use mindgap_base::error::{Error, Result};
use mindgap_base::rng::Stream;
use mindgap_lm::engine::{self, Limits, Request, Sampling, ScoreRequest};
use mindgap_lm::model::chat::{Conversation, Message};
use mindgap_lm::model::policy::{Policy, PolicyFiles};
use mindgap_store::fs;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

#[derive(Deserialize)]
struct Scored {
    #[serde(flatten)]
    prompt: Prompt,
    completion: String,
}

/// A row of a file: `prompt`, or `messages`.
#[derive(Deserialize)]
struct Prompt {
    #[serde(default)]
    id: Value,
    prompt: Option<String>,
    messages: Option<Vec<Message>>,
    #[serde(default)]
    template_kwargs: serde_json::Map<String, Value>,
}

impl Prompt {
    /// What the policy is shown. Where the last message is the assistant's, the policy goes on with it.
    fn shown(&self, system: Option<&str>) -> Result<Conversation> {
        let mut messages = match (&self.prompt, &self.messages) {
            (Some(prompt), None) => vec![Message::user(prompt)],
            (None, Some(messages)) if !messages.is_empty() => messages.clone(),
            _ => return Err(Error::input("a row needs either `prompt` or `messages`")),
        };
        let prefill = match messages.pop_if(|last| last.role == "assistant") {
            Some(last) => last.content,
            None => String::new(),
        };
        messages.splice(0..0, system.map(|system| Message::new("system", system)));
        Ok(Conversation { messages, prefill, template_kwargs: self.template_kwargs.clone() })
    }

    /// The prompt as it is, for `--raw`.
    fn raw(&self) -> Result<&str> {
        self.prompt.as_deref().ok_or_else(|| Error::usage("`--raw` takes rows with `prompt`"))
    }
}

pub fn score(args: args::Score, threads: usize, cancel: Arc<AtomicBool>) -> Result<()> {
    let device = args.compute.device()?;
    let policy = load(&args.policy)?;
    let rows: Vec<Scored> = read_lines(&args.file)?;
    let mut requests = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        let tokens = || -> Result<(Vec<u32>, Vec<u32>)> {
            if !args.raw {
                let prompt = policy.prompt(&row.prompt.shown(args.system.as_deref())?)?;
                let token_ids = policy.target_ids(&prompt, &row.completion)?;
                return Ok((prompt.ids, token_ids));
            }
            let tokenizer = policy.tokenizer();
            Ok((tokenizer.encode(row.prompt.raw()?, false)?, tokenizer.encode(&row.completion, false)?))
        };
        let place = format!("row {} of {}", index + 1, args.file.display());
        let (prompt_ids, token_ids) = tokens().map_err(|e| e.at(&place))?;
        requests.push(ScoreRequest::new(prompt_ids, token_ids).named(place));
    }
    let runner = policy.runner_on(&device, args.holding.held())?;
    let limits = Limits::on(&device, threads, &cancel)?;
    let scores = counted("scored", |watch| engine::score(&runner, &requests, &limits, watch))?;
    for ((row, request), scores) in rows.iter().zip(&requests).zip(scores) {
        let ids: &[u32] = &request.token_ids;
        render::json(&json!({"id": row.prompt.id, "token_ids": ids, "logprob_policy": scores.logprob_policy,
            "entropy": scores.entropy, "prompt_token_count": request.prompt_ids.len()}))?;
    }
    Ok(())
}

pub fn generate(args: args::Generate, threads: usize, cancel: Arc<AtomicBool>) -> Result<()> {
    let device = args.compute.device()?;
    let policy = load(&args.policy)?;
    let rows: Vec<Prompt> = match (&args.prompt, &args.file) {
        (Some(prompt), _) => vec![Prompt {
            id: Value::from(0),
            prompt: Some(prompt.clone()),
            messages: None,
            template_kwargs: Default::default(),
        }],
        (None, Some(file)) => read_lines(file)?,
        (None, None) => unreachable!("clap requires a file or a prompt"),
    };
    let sampling = Sampling {
        temperature: args.temperature,
        top_p: args.top_p,
        top_k: args.top_k,
        min_p: args.min_p,
        max_new_tokens: args.max_new_tokens,
        stop: args.stop,
        eos: policy.eos_token_ids().to_vec(),
        speculate: args.speculate,
    };
    let mut requests = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        let prompt_ids = match args.raw {
            true => row.raw().and_then(|prompt| policy.tokenizer().encode(prompt, false)),
            false => row.shown(args.system.as_deref()).and_then(|shown| Ok(policy.prompt(&shown)?.ids)),
        };
        let prompt_ids = prompt_ids.map_err(|e| e.at(format!("row {}", index + 1)))?;
        let key = match (&row.prompt, &row.messages) {
            (Some(prompt), _) => prompt.clone(),
            (None, messages) => json!(messages).to_string(),
        };
        let stream = |sample: u32| Stream::at(args.seed, &[b"generate", key.as_bytes(), &sample.to_le_bytes()]);
        requests.push(Request::new(prompt_ids, (0..args.samples).map(stream).collect()));
    }
    let runner = policy.runner_on(&device, args.holding.held())?;
    let limits = Limits::on(&device, threads, &cancel)?;
    let tokenizer = Some(policy.tokenizer());
    let results =
        counted("samples", |watch| engine::generate(&runner, tokenizer, &requests, &sampling, &limits, watch))?;
    for (row, samples) in rows.iter().zip(results) {
        for (sample_index, sample) in samples.into_iter().enumerate() {
            render::json(&json!({"id": row.id, "sample_index": sample_index,
                "completion": policy.tokenizer().text(&sample.token_ids)?, "token_ids": sample.token_ids,
                "logprob_behavior": sample.logprob_behavior, "logprob_policy": sample.logprob_policy,
                "stop_reason": stop_reason(sample.stop_reason)}))?;
        }
    }
    Ok(())
}

/// Runs the engine with its progress shown.
fn counted<T>(what: &'static str, work: impl FnOnce(&(dyn Fn(engine::Progress) + Sync)) -> Result<T>) -> Result<T> {
    let counter = render::Counter::new(what);
    let result = work(&|progress| counter.show_tokens(progress));
    counter.finish();
    result
}

/// A folder, a GGUF file, or `hub:org/name` with `@revision` where not `main` is meant.
pub fn load(policy: &str) -> Result<Policy> {
    let handle = match policy.strip_prefix("hub:") {
        Some(model) => {
            let model = HubModel::parse(model)?;
            watched(|watch| hub_policy(policy, &Hub::from_env(), &model, Some(watch)))?
        }
        None if policy.ends_with(".gguf") => gguf_policy(policy, Path::new(""), policy, None)?,
        None => PolicyHandle::of_folder(policy, Path::new(policy), PolicyFiles::wants)?,
    };
    load_policy(&handle)
}

fn read_text(file: &Path) -> Result<String> {
    let bytes = if file.as_os_str() == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).map_err(|e| Error::environment("cannot read stdin").source(e))?;
        bytes
    } else {
        fs::read(file)?
    };
    String::from_utf8(bytes).map_err(|e| {
        let line = e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        Error::input("not UTF-8").at(format!("{}:{line}", file.display()))
    })
}

fn read_lines<T: DeserializeOwned>(file: &Path) -> Result<Vec<T>> {
    let text = read_text(file)?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(number, line)| parse_line(file, number, line)).collect()
}

/// One line of a file; `number` counts from 0. A byte order mark in front of the first is passed over.
pub fn parse_line<T: DeserializeOwned>(file: &Path, number: usize, line: &str) -> Result<T> {
    let line = if number == 0 { line.trim_start_matches('\u{feff}') } else { line };
    serde_json::from_str(line)
        .map_err(|e| Error::input(format!("bad JSON line: {e}")).at(format!("{}:{}", file.display(), number + 1)))
}
