//! bench: speed of a policy on this machine, beside what the machine can do.

use super::{args, policies, render};
use crate::base::error::Result;
use crate::engine::bench::{Ceilings, Measured, Plan, bench as measure, ceilings};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

pub fn bench(args: args::Bench, threads: usize, cancel: Arc<AtomicBool>) -> Result<()> {
    let policy = policies::load(&args.policy)?;
    let started = Instant::now();
    let clock = || started.elapsed().as_secs_f64();
    let ceilings = ceilings(&clock);
    let runs = measure(&policy.runner()?, &Plan::default(), &policies::limits(threads, &cancel), &clock)?;
    if args.json {
        let runs: Vec<Value> = runs.iter().map(|run| as_json(run, &ceilings, threads)).collect();
        return render::json(&json!({"threads": threads, "runs": runs,
            "read_bytes_per_second_per_core": ceilings.read_bytes_per_second,
            "gemm_flops_per_second_per_core": ceilings.gemm_flops_per_second}));
    }
    let (read, gemm) = (ceilings.read_bytes_per_second / 1e9, ceilings.gemm_flops_per_second / 1e9);
    render::out(&format!("one core reads {read:.1} GB/s and multiplies at {gemm:.0} GFLOP/s; {threads} threads\n"))?;
    render::out(&format!(
        "{:<10} {:>6} {:>8} {:>12} {:>18}",
        "what", "batch", "prompts", "tokens/s", "of the gemm rate"
    ))?;
    for run in &runs {
        let prompts = if run.shared_prompt { "shared" } else { "own" };
        let (rate, share) = (run.tokens as f64 / run.seconds, 100.0 * gemm_share(run, &ceilings, threads));
        render::out(&format!("{:<10} {:>6} {prompts:>8} {rate:>12.0} {share:>16.1} %", run.what, run.batch))?;
    }
    Ok(())
}

fn gemm_share(run: &Measured, ceilings: &Ceilings, threads: usize) -> f64 {
    run.flops / run.seconds / (ceilings.gemm_flops_per_second * threads as f64)
}

fn as_json(run: &Measured, ceilings: &Ceilings, threads: usize) -> Value {
    json!({"what": run.what, "batch": run.batch, "shared_prompt": run.shared_prompt, "tokens": run.tokens,
        "seconds": run.seconds, "tokens_per_second": run.tokens as f64 / run.seconds,
        "gemm_share": gemm_share(run, ceilings, threads)})
}
