//! bench: speed of a policy on this machine, beside what the machine can do.

use super::{args, policies, render};
use crate::pipeline::Speed;
use candle_core::{DType, Device, Tensor};
use mindgap_base::error::Result;
use mindgap_lm::engine::Limits;
use mindgap_lm::engine::bench::{
    Ceilings, DEVICE_CEILINGS, Measured, Plan, bench as measure, ceilings as measured_ceilings, device_ceilings,
    random_tensor,
};
use mindgap_lm::model::config::Config;
use mindgap_lm::model::held::Held;
use mindgap_lm::model::ops::WeightType;
use mindgap_lm::model::ops::isa::Isa;
use mindgap_lm::model::policy::Policy;
use mindgap_lm::model::runner::Runner;
use mindgap_lm::model::runner::cpu::CpuRunner;
use mindgap_lm::model::tensor_error;
use mindgap_lm::model::transformer::Transformer;
use mindgap_lm::model::weights::expected_tensors;
use mindgap_lm::train;
use mindgap_lm::train::bench::Trained;
use mindgap_store::{Oplog, Store, fs};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// Parameters up to which the training of all weights is measured: weights, gradients and moments take 16 bytes each.
const TRAINABLE: usize = 1_000_000_000;

/// What is measured.
enum Subject {
    Policy(Box<Policy>),
    /// Random weights.
    Shape(Box<Config>),
}

impl Subject {
    fn of(args: &args::Bench) -> Result<Subject> {
        match (&args.policy, &args.config) {
            (_, Some(file)) => {
                let config = Config::from_json(&fs::read(file)?).map_err(|e| e.at(file.display().to_string()))?;
                Ok(Subject::Shape(Box::new(config)))
            }
            (policy, None) => Ok(Subject::Policy(Box::new(policies::load(policy.as_deref().unwrap_or_default())?))),
        }
    }

    fn config(&self) -> &Config {
        match self {
            Subject::Policy(policy) => policy.config(),
            Subject::Shape(config) => config,
        }
    }

    fn runner(&self, device: &Device, held: Held) -> Result<Runner> {
        match self {
            Subject::Policy(policy) => policy.runner_on(device, held),
            Subject::Shape(config) => random_runner(config, device, held),
        }
    }

    /// Weights to train, and the type of products.
    fn tensors(&self, device: &Device) -> Result<(HashMap<String, Tensor>, DType)> {
        // As the engine: f32 on the CPU, the checkpoint's own type elsewhere.
        let on = |own: DType| if device.is_cpu() { DType::F32 } else { own };
        match self {
            Subject::Policy(policy) => {
                let checkpoint = policy.checkpoint()?;
                let dtype = on(checkpoint.dtype());
                Ok((checkpoint.tensors(policy.config(), dtype, device)?, dtype))
            }
            Subject::Shape(config) => Ok((random_tensors(config, on(DType::BF16), device)?, on(DType::BF16))),
        }
    }
}

pub fn bench(store: &Path, args: args::Bench, threads: usize, cancel: Arc<AtomicBool>) -> Result<()> {
    let device = args.compute.device()?;
    let subject = Subject::of(&args)?;
    let started = Instant::now();
    let clock = || started.elapsed().as_secs_f64();
    let (ceilings, weights, runs) = {
        let runner = subject.runner(&device, args.holding.held())?;
        let ceilings = match &runner {
            Runner::Cpu(runner) => measured_ceilings(runner.weights(), threads, &clock)?,
            Runner::Device(runner) => device_ceilings(&device, runner.dtype(), DEVICE_CEILINGS, &clock)?,
        };
        let weights = match &runner {
            Runner::Cpu(runner) => runner.weights().name(),
            Runner::Device(runner) => runner.dtype().as_str(),
        };
        let runs = measure(&runner, &Plan::on(&device), &Limits::on(&device, threads, &cancel)?, &clock)?;
        (ceilings, weights, runs)
    };
    let mut runs: Vec<(Measured, Ceilings)> = runs.into_iter().map(|run| (run, ceilings)).collect();
    let steps = training(&subject, threads, &device, &clock)?;
    if !steps.is_empty() {
        // Trained in f32.
        let own = if device.is_cpu() { measured_ceilings(WeightType::F32, threads, &clock)? } else { ceilings };
        runs.extend(steps.into_iter().map(|step| (step, own)));
    }
    let parameters = subject.config().parameter_count();
    keep(store, &runs, parameters as u64)?;
    if args.json {
        let runs: Vec<Value> = runs.iter().map(|(run, ceilings)| as_json(run, ceilings)).collect();
        return render::json(
            &json!({"device": args.compute.name(), "threads": threads, "parameters": parameters, "runs": runs,
            "weights": weights, "kernels": Isa::current().name(),
            "read_bytes_per_second_per_core": ceilings.read_bytes_per_second,
            "gemm_flops_per_second_per_core": ceilings.gemm_flops_per_second}),
        );
    }
    let (read, gemm) = (ceilings.read_bytes_per_second / 1e9, ceilings.gemm_flops_per_second / 1e9);
    let who = match device.is_cpu() {
        true => format!("with all at work, each of {threads} threads ({})", Isa::current().name()),
        false => args.compute.name().to_string(),
    };
    render::out(&format!("{who} reads {read:.1} GB/s and multiplies by {weights} weights at {gemm:.0} GFLOP/s\n"))?;
    render::out(&format!(
        "{:<9} {:>6} {:>12} {:>12} {:>17} {:>17}",
        "what", "batch", "prompts", "tokens/s", "of the gemm rate", "of the read rate"
    ))?;
    for (run, ceilings) in &runs {
        let prompts = match (run.what, run.shared_prompt) {
            ("generate", true) => format!("shared {:>5}", run.prompt_tokens),
            ("generate", false) => format!("own {:>5}", run.prompt_tokens),
            _ => "-".to_string(),
        };
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let read = read_share(run, ceilings).map_or("-".to_string(), percent);
        let (rate, gemm) = (run.tokens as f64 / run.seconds, percent(gemm_share(run, ceilings)));
        render::out(&format!("{:<9} {:>6} {prompts:>12} {rate:>12.0} {gemm:>17} {read:>17}", run.what, run.batch))?;
    }
    Ok(())
}

/// Writes the speeds down in the store's log, for plans to go by: of generation that of the largest batch with prompts of their
/// own.
fn keep(store: &Path, runs: &[(Measured, Ceilings)], parameters: u64) -> Result<()> {
    let mut log = Store::open(store)?.start_log()?;
    let runs = || runs.iter().map(|(run, _)| run);
    let generation = runs().filter(|run| run.what == "generate" && !run.shared_prompt).max_by_key(|run| run.batch);
    let of = |kind: &str, run: Option<&Measured>| {
        run.map(|run| Speed {
            kind: kind.to_string(),
            parameters,
            tokens: run.tokens as u64,
            seconds: run.seconds,
            by: None,
        })
    };
    let named = |what: &str| runs().find(|run| run.what == what);
    let speeds = [of("rollout", generation), of("logprob", named("score")), of("train", named("train"))];
    for speed in speeds.into_iter().flatten() {
        log.append(
            &json!({"event": "bench", "time": Oplog::now(), "kind": speed.kind, "parameters": speed.parameters,
            "tokens": speed.tokens, "seconds": speed.seconds}),
        )?;
    }
    Ok(())
}

/// A step of training all weights, unless its state would not fit an ordinary machine, and one of adapters.
fn training(subject: &Subject, threads: usize, device: &Device, clock: &dyn Fn() -> f64) -> Result<Vec<Measured>> {
    let parameters = subject.config().parameter_count();
    let mut what = vec![("adapters", Trained::Adapters)];
    match parameters > TRAINABLE {
        true => render::note(&format!(
            "training all weights is not measured: {parameters} parameters need {} GB",
            parameters * 16 / 1_000_000_000
        )),
        false => what.insert(0, ("train", Trained::Weights)),
    }
    let threads = if device.is_cpu() { threads } else { 1 };
    let timed = |(what, trained)| {
        let (tensors, dtype) = subject.tensors(device)?;
        let step = train::bench::bench(subject.config(), tensors, trained, dtype, device, clock)?;
        Ok(Measured {
            what,
            batch: step.rows,
            shared_prompt: false,
            prompt_tokens: 0,
            tokens: step.tokens,
            seconds: step.seconds,
            flops: step.flops,
            bytes: 0.0,
            threads,
        })
    };
    what.into_iter().map(timed).collect()
}

fn random_tensors(config: &Config, dtype: DType, device: &Device) -> Result<HashMap<String, Tensor>> {
    let specs = expected_tensors(config).into_iter();
    let random = |shape: &[usize]| random_tensor(shape, 0.02, dtype, device).map_err(tensor_error);
    specs.map(|spec| Ok((spec.name, random(&spec.shape)?))).collect()
}

fn random_runner(config: &Config, device: &Device, held: Held) -> Result<Runner> {
    let tensors = random_tensors(config, DType::BF16, device)?;
    let transformer = Transformer::from_tensors(config, tensors, DType::BF16, device)?;
    match device {
        Device::Cpu => {
            let weights = held.weights.unwrap_or(WeightType::StoredBf16);
            Ok(Runner::Cpu(CpuRunner::from_transformer(&transformer, weights)?.caching_in(held.keys_values)))
        }
        _ => Runner::from_transformer(&transformer),
    }
}

/// Share of what the threads that had work could multiply.
fn gemm_share(run: &Measured, ceilings: &Ceilings) -> f64 {
    run.flops / run.seconds / (ceilings.gemm_flops_per_second * run.threads as f64)
}

/// Share of what they could read from memory; more than all of it when the weights stay in the caches.
fn read_share(run: &Measured, ceilings: &Ceilings) -> Option<f64> {
    (run.bytes > 0.0).then(|| run.bytes / run.seconds / (ceilings.read_bytes_per_second * run.threads as f64))
}

fn as_json(run: &Measured, ceilings: &Ceilings) -> Value {
    json!({"what": run.what, "batch": run.batch, "shared_prompt": run.shared_prompt,
        "prompt_tokens": run.prompt_tokens, "tokens": run.tokens,
        "seconds": run.seconds, "tokens_per_second": run.tokens as f64 / run.seconds, "threads": run.threads,
        "gemm_share": gemm_share(run, ceilings), "read_share": read_share(run, ceilings)})
}
