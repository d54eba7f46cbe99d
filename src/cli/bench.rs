//! bench: speed of a policy on this machine, beside what the machine can do.

use super::{args, policies, render};
use crate::pipeline::Speed;
use candle_core::{DType, Device};
use mindgap_base::error::Result;
use mindgap_lm::engine::Limits;
use mindgap_lm::engine::bench::{
    Ceilings, DEVICE_CEILINGS, Measured, Plan, bench as measure, ceilings as measured_ceilings, device_ceilings,
};
use mindgap_lm::model::ops::WeightType;
use mindgap_lm::model::ops::isa::Isa;
use mindgap_lm::model::policy::Policy;
use mindgap_lm::model::runner::Runner;
use mindgap_lm::train;
use mindgap_store::{Oplog, Store};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// Parameters up to which training is measured: weights, gradients and moments take 16 bytes each.
const TRAINABLE: usize = 1_000_000_000;

pub fn bench(store: &Path, args: args::Bench, threads: usize, cancel: Arc<AtomicBool>) -> Result<()> {
    let device = args.compute.device()?;
    let policy = policies::load(&args.policy)?;
    let started = Instant::now();
    let clock = || started.elapsed().as_secs_f64();
    let (ceilings, weights, runs) = {
        let runner = policy.runner_on(&device, args.holding.held())?;
        let ceilings = match &runner {
            Runner::Cpu(runner) => measured_ceilings(runner.weights(), threads, &clock)?,
            Runner::Device(runner) => device_ceilings(&device, runner.dtype(), DEVICE_CEILINGS, &clock)?,
        };
        let weights = match &runner {
            Runner::Cpu(runner) => runner.weights().name(),
            Runner::Device(runner) => runner.dtype().as_str(),
        };
        let runs = measure(&runner, &Plan::default(), &Limits::on(&device, threads, &cancel)?, &clock)?;
        (ceilings, weights, runs)
    };
    let mut runs: Vec<(Measured, Ceilings)> = runs.into_iter().map(|run| (run, ceilings)).collect();
    if let Some(step) = training(&policy, threads, &device, &clock)? {
        // Trained in f32.
        let own = if device.is_cpu() { measured_ceilings(WeightType::F32, threads, &clock)? } else { ceilings };
        runs.push((step, own));
    }
    keep(store, &runs, policy.config().parameter_count() as u64)?;
    if args.json {
        let runs: Vec<Value> = runs.iter().map(|(run, ceilings)| as_json(run, ceilings)).collect();
        return render::json(
            &json!({"device": args.compute.name(), "threads": threads, "parameters": policy.config().parameter_count(), "runs": runs,
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
        "{:<9} {:>6} {:>8} {:>12} {:>17} {:>17}",
        "what", "batch", "prompts", "tokens/s", "of the gemm rate", "of the read rate"
    ))?;
    for (run, ceilings) in &runs {
        let prompts = match (run.what, run.shared_prompt) {
            ("generate", true) => "shared",
            ("generate", false) => "own",
            _ => "-",
        };
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let read = read_share(run, ceilings).map_or("-".to_string(), percent);
        let (rate, gemm) = (run.tokens as f64 / run.seconds, percent(gemm_share(run, ceilings)));
        render::out(&format!("{:<9} {:>6} {prompts:>8} {rate:>12.0} {gemm:>17} {read:>17}", run.what, run.batch))?;
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

/// One step of training, unless its state would not fit an ordinary machine.
fn training(policy: &Policy, threads: usize, device: &Device, clock: &dyn Fn() -> f64) -> Result<Option<Measured>> {
    let parameters = policy.config().parameter_count();
    if parameters > TRAINABLE {
        render::note(&format!(
            "training is not measured: {parameters} parameters need {} GB",
            parameters * 16 / 1_000_000_000
        ));
        return Ok(None);
    }
    let checkpoint = policy.checkpoint()?;
    // As the engine: f32 on the CPU, the checkpoint's own type elsewhere.
    let (dtype, threads) = if device.is_cpu() { (DType::F32, threads) } else { (checkpoint.dtype(), 1) };
    let tensors = checkpoint.tensors(policy.config(), dtype, device)?;
    let step = train::bench::bench(policy.config(), tensors, dtype, device, clock)?;
    Ok(Some(Measured {
        what: "train",
        batch: step.rows,
        shared_prompt: false,
        tokens: step.tokens,
        seconds: step.seconds,
        flops: step.flops,
        bytes: 0.0,
        threads,
    }))
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
    json!({"what": run.what, "batch": run.batch, "shared_prompt": run.shared_prompt, "tokens": run.tokens,
        "seconds": run.seconds, "tokens_per_second": run.tokens as f64 / run.seconds, "threads": run.threads,
        "gemm_share": gemm_share(run, ceilings), "read_share": read_share(run, ceilings)})
}
