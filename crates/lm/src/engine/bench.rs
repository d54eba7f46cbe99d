//! Speed of generation and scoring on this machine, beside what the machine can do at most. Plain numbers out; the clock comes
//! from the caller.

use super::{Limits, Progress, Request, Sampling, ScoreRequest, generate, score};
use crate::model::ops::simd::sum;
use crate::model::ops::team::Team;
use crate::model::ops::weight::Scratch;
use crate::model::ops::{Weight, WeightType};
use crate::model::runner::Runner;
use crate::model::tensor_error;
use candle_core::{DType, Device, Tensor};
use mindgap_base::error::Result;
use mindgap_base::rng::Stream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    pub prompt_tokens: usize,
    pub new_tokens: usize,
    /// Sequences side by side; each is measured with prompts of their own and with one shared prompt.
    pub batches: Vec<usize>,
    /// Sequences side by side that end with so many tokens each, the prompt they share included.
    pub long: Option<(usize, usize)>,
    /// Sequences scored, each of `score_tokens` tokens.
    pub score_sequences: usize,
    pub score_tokens: usize,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            prompt_tokens: 64,
            new_tokens: 64,
            batches: vec![1, 16, 64],
            long: None,
            score_sequences: 8,
            score_tokens: 256,
        }
    }
}

impl Plan {
    /// What suits this device: a GPU is also given as many rows as it is by default, and long ones.
    pub fn on(device: &Device) -> Plan {
        match device {
            Device::Cpu => Plan::default(),
            _ => Plan { batches: vec![1, 16, 64, 256], long: Some((256, 2048)), ..Plan::default() },
        }
    }

    /// Sequences side by side, whether they share a prompt, and how long prompts are.
    fn cases(&self, positions: usize) -> Vec<(usize, bool, usize)> {
        let both =
            self.batches.iter().flat_map(|batch| [false, true].map(|shared| (*batch, shared, self.prompt_tokens)));
        let long =
            self.long.map(|(batch, tokens)| (batch, true, tokens.min(positions).saturating_sub(self.new_tokens)));
        both.chain(long.filter(|(.., prompt_tokens)| *prompt_tokens > 0)).collect()
    }
}

/// One timed run.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// `generate`, `score` or `train`.
    pub what: &'static str,
    pub batch: usize,
    pub shared_prompt: bool,
    /// Of each prompt; 0 where nothing is generated.
    pub prompt_tokens: usize,
    /// Tokens drawn, scored (prompt included) or trained on.
    pub tokens: usize,
    pub seconds: f64,
    /// Floating-point operations done in weight products.
    pub flops: f64,
    /// Bytes of weights read while decoding, once per step and worker; 0 where each read serves many rows.
    pub bytes: f64,
    /// Threads that had work.
    pub threads: usize,
}

/// What one thread of this machine reaches while all are at work, or a device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceilings {
    pub read_bytes_per_second: f64,
    /// Of the product at many rows, in the weights' type.
    pub gemm_flops_per_second: f64,
}

/// Times generation and scoring on random prompts. `clock` gives seconds; only differences are used. EOS is ignored, so that
/// every run has the same length.
pub fn bench(runner: &Runner, plan: &Plan, limits: &Limits, clock: &dyn Fn() -> f64) -> Result<Vec<Measured>> {
    let quiet = |_: Progress| ();
    let mut all = Vec::new();
    if let Runner::Device(_) = runner {
        // The first use of an operator loads its kernel.
        let sampling = Sampling::plain(2, &[]);
        generate(
            runner,
            None,
            &requests(runner, plan.prompt_tokens, 2, false),
            &sampling,
            &Limits { slots: 2, ..*limits },
            &quiet,
        )?;
    }
    for (batch, shared_prompt, prompt_tokens) in plan.cases(runner.config().max_positions) {
        let requests = requests(runner, prompt_tokens, batch, shared_prompt);
        let sampling = Sampling::plain(plan.new_tokens as u32, &[]);
        let workers = runner.workers(limits.threads).clamp(1, batch);
        let threads = workers * runner.crew(limits.threads);
        let limits = Limits { slots: batch.div_ceil(threads), ..*limits };
        let start = clock();
        let samples = generate(runner, None, &requests, &sampling, &limits, &quiet)?;
        let seconds = clock() - start;
        let tokens = samples.iter().flatten().map(|s| s.token_ids.len()).sum();
        let prompts: usize = requests.iter().map(|r| r.prompt_ids.len()).sum();
        // The last token of a sample is drawn and not fed; the prompts' last rows alone reach the head.
        let fed = prompts + tokens - batch;
        let config = runner.config();
        let logits = tokens + requests.len() - batch;
        let flops = fed as f64 * config.block_flops() + logits as f64 * config.head_flops();
        // Two operations with each weight. The first token of a sample comes with its prompt.
        let weights = (config.block_flops() + config.head_flops()) / 2.0;
        let bytes = weights * runner.weight_bytes() * (workers * plan.new_tokens) as f64;
        let what = "generate";
        all.push(Measured { what, batch, shared_prompt, prompt_tokens, tokens, seconds, flops, bytes, threads });
    }
    if plan.score_sequences > 0 {
        let to_score: Vec<ScoreRequest> = (0..plan.score_sequences)
            .map(|i| ScoreRequest::new(random_ids(runner, i, 1), random_ids(runner, i + 1000, plan.score_tokens)))
            .collect();
        let start = clock();
        score(runner, &to_score, limits, &quiet)?;
        let (seconds, tokens) = (clock() - start, plan.score_sequences * plan.score_tokens);
        let flops = tokens as f64 * (runner.config().block_flops() + runner.config().head_flops());
        let batch = plan.score_sequences;
        let threads = runner.scoring_workers(limits.threads).clamp(1, batch);
        let (what, shared_prompt, prompt_tokens, bytes) = ("score", false, 0, 0.0);
        all.push(Measured { what, batch, shared_prompt, prompt_tokens, tokens, seconds, flops, bytes, threads });
    }
    Ok(all)
}

fn requests(runner: &Runner, prompt_tokens: usize, batch: usize, shared_prompt: bool) -> Vec<Request> {
    let stream = |i: usize| Stream::at(0, &[b"bench", &i.to_le_bytes()]);
    let prompt = |i| random_ids(runner, i, prompt_tokens);
    if shared_prompt {
        return vec![Request::new(prompt(0), (0..batch).map(stream).collect())];
    }
    (0..batch).map(|i| Request::new(prompt(i), vec![stream(i)])).collect()
}

fn random_ids(runner: &Runner, index: usize, count: usize) -> Arc<[u32]> {
    let mut cursor = Stream::at(1, &[b"bench", &index.to_le_bytes()]).cursor();
    (0..count).map(|_| cursor.below(runner.config().vocab_size as u64) as u32).collect()
}

/// Numbers that are copied and the side of the square matrices multiplied, large enough for a GPU.
pub const DEVICE_CEILINGS: (usize, usize) = (128 << 20, 8192);

/// Random numbers, which a GPU multiplies more slowly than zeros: normal ones of this spread, some million of them over and over.
pub fn random_tensor(shape: &[usize], spread: f64, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
    let count = shape.iter().product::<usize>();
    let mut cursor = Stream::at(2, &[b"bench"]).cursor();
    let numbers: Vec<f32> = (0..count.min(PATTERN)).map(|_| (cursor.normal() * spread) as f32).collect();
    let pattern = Tensor::new(&numbers[..], device)?.to_dtype(dtype)?;
    pattern.repeat(count.div_ceil(PATTERN).max(1))?.narrow(0, 0, count)?.contiguous()?.reshape(shape)
}

const PATTERN: usize = 1 << 20;

/// What a device reaches: copies so many numbers of this type, counted as read and written, and multiplies square matrices.
pub fn device_ceilings(
    device: &Device,
    dtype: DType,
    (count, side): (usize, usize),
    clock: &dyn Fn() -> f64,
) -> Result<Ceilings> {
    let timed = |run: &dyn Fn() -> candle_core::Result<Tensor>| -> candle_core::Result<f64> {
        let mut best = f64::INFINITY;
        for _ in 0..3 {
            device.synchronize()?;
            let start = clock();
            run()?;
            device.synchronize()?;
            best = best.min(clock() - start);
        }
        Ok(best.max(1e-9))
    };
    let measure = || -> candle_core::Result<Ceilings> {
        let numbers = random_tensor(&[count], 1.0, dtype, device)?;
        let matrix = random_tensor(&[side, side], 1.0, dtype, device)?;
        Ok(Ceilings {
            read_bytes_per_second: (2 * count * dtype.size_in_bytes()) as f64 / timed(&|| numbers.copy())?,
            gemm_flops_per_second: 2.0 * (side as f64).powi(3) / timed(&|| matrix.matmul(&matrix))?,
        })
    };
    measure().map_err(tensor_error)
}

/// Products that are timed together.
const PRODUCTS: usize = 16;

/// What each of so many threads reaches while all are at work: reading 128 MB of its own, multiplying by weights of this type.
pub fn ceilings(weights: WeightType, threads: usize, clock: &(dyn Fn() -> f64 + Sync)) -> Result<Ceilings> {
    let (rows, inputs, outputs) = (512, 512, 1536);
    let weight = Tensor::full(0.5f32, (outputs, inputs), &Device::Cpu).and_then(|w| Weight::new(&w, weights));
    let weight = weight.map_err(tensor_error)?;
    let read_bytes = 128 << 20;
    let seconds = |work: &(dyn Fn() + Sync)| {
        // All begin at once; the slowest counts.
        let ready = Barrier::new(threads);
        let timed = || {
            ready.wait();
            let start = clock();
            work();
            clock() - start
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(timed)).collect();
            workers.into_iter().map(|worker| worker.join().expect("it only computes")).fold(0.0, f64::max)
        })
    };
    let best = |work: &(dyn Fn() + Sync)| (0..3).map(|_| seconds(work)).fold(f64::INFINITY, f64::min).max(1e-9);
    let buffers: Vec<Vec<f32>> = (0..threads).map(|_| vec![1.0; read_bytes / size_of::<f32>()]).collect();
    let next = AtomicUsize::new(0);
    let read = best(&|| {
        std::hint::black_box(sum(&buffers[next.fetch_add(1, Ordering::Relaxed) % threads]));
    });
    let x = vec![0.25; rows * inputs];
    let multiply = best(&|| {
        let (mut team, mut scratch, mut out) = (Team::new(1), Scratch::default(), vec![0.0; rows * outputs]);
        // Of so many the first, which meets fresh memory, weighs little.
        for _ in 0..PRODUCTS {
            weight.apply(&mut team, &x, 0..outputs, None, &mut out, &mut scratch);
        }
        std::hint::black_box(out);
    });
    Ok(Ceilings {
        read_bytes_per_second: read_bytes as f64 / read,
        gemm_flops_per_second: 2.0 * (PRODUCTS * rows * inputs * outputs) as f64 / multiply,
    })
}
