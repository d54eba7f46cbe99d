//! Packed against padded training, on the rows of a rewrite stage:
//!
//!   make demo
//!   cargo bench --bench packing -- data/store/tables/demo/rewrites data/base-policy
//!
//! The trainer only knows packed sequences. A padded batch costs what a batch of equally long rows costs, so the padding is
//! put in front of each row, where it is not a target but goes through the model all the same. One thread; tokens that
//! are not padding per CPU-second, the variants in alternation.

#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a program of its own")]

use candle_core::{DType, Device};
use mindgap::policy::{PolicyHandle, load_policy};
use mindgap_base::rng::Stream;
use mindgap_lm::model::policy::{Policy, PolicyFiles};
use mindgap_lm::train::{
    Accumulation, AdamWParams, Loss, PackingParams, Rounding, Schedule, TooLong, TrainExample, Trainer, TrainerParams,
};
use mindgap_store::parquet::decode_batches;
use mindgap_store::table::from_batches;
use mindgap_store::table::rewrites::Rewrite;
use std::path::Path;

const BATCH_ROWS: usize = 32;
const STEPS: usize = 12;
const ROUNDS: usize = 5;

type Failure = Box<dyn std::error::Error>;

fn rows(folder: &Path) -> Result<Vec<TrainExample>, Failure> {
    let mut paths: Vec<_> = std::fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "parquet"));
    paths.sort();
    let mut rows = Vec::new();
    for path in paths {
        for row in from_batches::<Rewrite>(&decode_batches(std::fs::read(path)?)?)? {
            let ids: Vec<u32> = row.prompt_ids.iter().chain(&row.token_ids).copied().collect();
            let mask = (0..ids.len()).map(|i| i >= row.prompt_ids.len()).collect();
            rows.push(TrainExample::new(ids, mask, 0));
        }
    }
    Stream::at(0, &[b"packing bench"]).cursor().shuffle(&mut rows);
    Ok(rows)
}

/// Rows made as long as the longest of each micro-batch.
fn padded(rows: &[TrainExample], micro_batch: usize) -> Vec<TrainExample> {
    let pad = |row: &TrainExample, length: usize| {
        let missing = length - row.token_ids.len();
        let ids = std::iter::repeat_n(0, missing).chain(row.token_ids.iter().copied()).collect();
        let mask = std::iter::repeat_n(false, missing).chain(row.loss_mask.iter().copied()).collect();
        TrainExample::new(ids, mask, 0)
    };
    let longest = |rows: &[TrainExample]| rows.iter().map(|row| row.token_ids.len()).max().unwrap_or(0);
    // Micro-batches do not reach over the end of a step.
    let steps = rows.chunks(BATCH_ROWS).flat_map(|step| step.chunks(micro_batch));
    steps.flat_map(|rows| rows.iter().map(|row| pad(row, longest(rows))).collect::<Vec<_>>()).collect()
}

fn policy(folder: &Path) -> Result<Policy, Failure> {
    Ok(load_policy(&PolicyHandle::of_folder("policy", folder, PolicyFiles::wants)?)?)
}

fn trainer(policy: &Policy, packing: PackingParams) -> Result<Trainer, Failure> {
    let params = TrainerParams {
        loss: Loss::Sft {},
        optimizer: AdamWParams::default(),
        schedule: Schedule::constant(1e-4, 1000),
        packing,
        clip_norm: 1.0,
        accumulation: Accumulation::TokenMean,
        eos_token_ids: policy.eos_token_ids().to_vec(),
        skip_limit: 1,
        dtype: DType::F32,
        rounding: Rounding::Kept,
        lora: None,
        seed: 0,
        gradient_checkpointing: std::env::var_os("CHECKPOINTING").is_some(),
    };
    let tensors = policy.checkpoint()?.tensors(policy.config(), DType::F32, &Device::Cpu)?;
    Ok(Trainer::new(policy.config(), tensors, params, &Device::Cpu)?)
}

/// Processor time of this process so far.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

struct Variant {
    name: String,
    rows: Vec<TrainExample>,
    packing: PackingParams,
    rates: Vec<f64>,
}

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let [table, checkpoint] = &args[..] else { return Err("name a folder of rewrites and a policy folder".into()) };
    let (rows, policy) = (rows(Path::new(table))?, policy(Path::new(checkpoint))?);
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global()?;
    let real = |rows: &[TrainExample]| rows.iter().map(|row| row.token_ids.len()).sum::<usize>();
    let packing = |rows: usize| PackingParams {
        micro_batch_tokens: if rows == 0 { 1024 } else { usize::MAX },
        micro_batch_rows: rows,
        max_length: 4096,
        too_long: TooLong::Error,
    };
    let mut variants =
        vec![Variant { name: "packed".into(), rows: rows.clone(), packing: packing(0), rates: Vec::new() }];
    for size in [4, 8, BATCH_ROWS] {
        let rows = padded(&rows, size);
        variants.push(Variant { name: format!("padded by {size}"), rows, packing: packing(size), rates: Vec::new() });
    }
    let used = (STEPS * BATCH_ROWS).min(rows.len());
    for _ in 0..ROUNDS {
        for variant in &mut variants {
            let mut trainer = trainer(&policy, variant.packing)?;
            let start = cpu_seconds();
            for step in variant.rows[..used].chunks(BATCH_ROWS) {
                trainer.step(&step.iter().collect::<Vec<_>>())?;
            }
            variant.rates.push(real(&rows[..used]) as f64 / (cpu_seconds() - start));
        }
    }
    println!("{} rows, {} tokens, {:.1} a row", rows.len(), real(&rows), real(&rows) as f64 / rows.len() as f64);
    for variant in &mut variants {
        let share = 1.0 - real(&rows[..used]) as f64 / real(&variant.rows[..used]) as f64;
        variant.rates.sort_by(f64::total_cmp);
        println!(
            "{:<14} padding {:5.1} %   {:6.0} tokens per CPU-second (median of {ROUNDS})",
            variant.name,
            100.0 * share,
            variant.rates[ROUNDS / 2]
        );
    }
    Ok(())
}
