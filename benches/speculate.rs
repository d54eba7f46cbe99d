//! Sampling with and without guesses of the next tokens (`speculate` of rollout stages):
//!
//!   cargo bench --bench speculate -- POLICY PROMPTS
//!
//! POLICY is a folder in Hugging Face layout, PROMPTS JSON lines {"prompt"}, 8 or more: rollouts' prompts, filled in. For batches
//! of 1, 4 and 16 samples, on one thread: tokens per step, the share of guesses that came out, and CPU-seconds of both ways in
//! alternation. Ends with an error if a sample differs. MOST, ROUNDS and TOKENS, from the environment, say how many tokens are
//! guessed at most, how often it is all done, and how long samples are at most; WEIGHTS what the weights are held in.

#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a program of its own")]

use candle_core::Device;
use mindgap::policy::{PolicyHandle, load_policy};
use mindgap_base::rng::Stream;
use mindgap_lm::engine::{Limits, Progress, Request, Sample, Sampling, generate};
use mindgap_lm::model::chat::Conversation;
use mindgap_lm::model::held::Held;
use mindgap_lm::model::ops::WeightType;
use mindgap_lm::model::policy::{Policy, PolicyFiles};
use mindgap_lm::model::runner::Runner;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

type Failure = Box<dyn std::error::Error>;

fn policy(folder: &Path) -> Result<Policy, Failure> {
    Ok(load_policy(&PolicyHandle::of_folder("policy", folder, PolicyFiles::wants)?)?)
}

/// Samples of the first prompts: 3 prompts for a batch of 1, 6 for one of 4, 8 with two samples each for one of 16.
fn requests(policy: &Policy, prompts: &[String], batch: usize) -> Result<Vec<Request>, Failure> {
    let mut requests = Vec::new();
    for (index, prompt) in prompts.iter().take((batch + 2).min(8)).enumerate() {
        let stream = |sample: usize| Stream::at(0, &[&index.to_le_bytes(), &sample.to_le_bytes()]);
        let prompt_ids = policy.prompt(&Conversation::user(prompt))?.ids;
        requests.push(Request::new(prompt_ids, (0..batch.div_ceil(8)).map(stream).collect()));
    }
    Ok(requests)
}

/// Processor time of this process so far.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// One call.
struct Run {
    samples: Vec<Vec<Sample>>,
    end: Progress,
    /// Reports of progress: one per step, and one at the end.
    reports: usize,
    seconds: f64,
}

fn run(runner: &Runner, requests: &[Request], sampling: &Sampling, slots: usize) -> Result<Run, Failure> {
    static GO: AtomicBool = AtomicBool::new(false);
    let limits = Limits { slots, kv_budget_bytes: 4 << 30, threads: 1, cancel: &GO };
    let progress = Mutex::new((Progress::default(), 0));
    let watch = |now: Progress| {
        let mut progress = progress.lock().unwrap_or_else(|e| e.into_inner());
        *progress = (now, progress.1 + 1);
    };
    let start = cpu_seconds();
    let samples = generate(runner, None, requests, sampling, &limits, &watch)?;
    let (end, reports) = *progress.lock().unwrap_or_else(|e| e.into_inner());
    Ok(Run { samples, end, reports, seconds: cpu_seconds() - start })
}

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let [folder, prompts] = &args[..] else { return Err("name a policy folder and a file of prompts".into()) };
    let number = |name: &str, default| std::env::var(name).map_or(Ok(default), |text| text.parse::<u32>());
    let (most, rounds, tokens) = (number("MOST", 8)?, number("ROUNDS", 1)?, number("TOKENS", 160)?);
    let policy = policy(Path::new(folder))?;
    let mut texts = Vec::new();
    for line in std::fs::read_to_string(prompts)?.lines() {
        let row: serde_json::Value = serde_json::from_str(line)?;
        texts.push(row["prompt"].as_str().ok_or("a line without `prompt`")?.to_string());
    }
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global()?;
    let weights = match std::env::var("WEIGHTS") {
        Ok(name) => Some(WeightType::named(&name).ok_or("WEIGHTS is f32, bf16 or int8")?),
        Err(_) => None,
    };
    let runner = policy.runner_on(&Device::Cpu, Held { weights, ..Held::default() })?;
    for batch in [1, 4, 16] {
        let requests = requests(&policy, &texts, batch)?;
        for _ in 0..rounds {
            let plain = Sampling::plain(tokens, policy.eos_token_ids());
            let without = run(&runner, &requests, &plain, batch)?;
            let with = run(&runner, &requests, &Sampling { speculate: most, ..plain }, batch)?;
            if with.samples != without.samples {
                return Err("guesses changed a sample".into());
            }
            let right = 100.0 * with.end.guessed_right as f64 / with.end.guessed.max(1) as f64;
            println!(
                "batch {batch:2}: {} tokens; steps {} and {}; {} guesses, {right:.0} % right; CPU-s {:.1} and {:.1}: {:.2}x",
                with.end.new_tokens,
                without.reports - 1,
                with.reports - 1,
                with.end.guessed,
                without.seconds,
                with.seconds,
                without.seconds / with.seconds
            );
        }
    }
    Ok(())
}
