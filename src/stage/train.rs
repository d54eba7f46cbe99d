//! train: rewrites (or examples) + policy -> a new policy, train_steps and train_evals.  A part is a span of steps that ends
//! in a checkpoint; the batch plan is fixed before the first step.

mod data;
mod dtype;
mod external;
mod fits;
mod laid;
mod mix;
mod params;
mod rows;
mod run;
mod weights;

pub use dtype::Dtype;
pub use external::{External, TrainedBy};
pub use mix::{DataOf, Highest, Portion};
pub use params::{Keep, Normalise, Params, Publish, RowWeights};

use super::{Context, Cost, Inputs, Part, Stage, Tick};
use crate::policy::{PolicyHandle, described, left_out, load_policy};
use candle_core::Device;
use data::Data;
use mindgap_base::address::Address;
use mindgap_base::error::Result;
use mindgap_base::fingerprint::Recipe;
use mindgap_lm::train::{PlannedStep, Rounding, Trainer, init};
use mindgap_store::table::Row;
use mindgap_store::table::train_steps::{BatchPlan, TrainEval, TrainStep};
use mindgap_store::{PartRecord, Span, Store};
use run::{Run, Said, to_row};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const VERSION: u32 = 1;
/// Bumped whenever adapters can come out differently.
const LORA_VERSION: u32 = 2;
/// Weights, moments and counters of a checkpoint that is not the last.
const STATE_FILE: &str = "trainer.safetensors";
/// The weights of the finished policy.
const WEIGHTS_FILE: &str = "model.safetensors";

/// How often a training is kept in the middle of a part, where its checkpoints are further apart. No result depends on it.
const KEEP_EVERY: Duration = Duration::from_secs(300);

/// The files of a finished train stage that make a policy.
pub fn policy_files(files: BTreeMap<String, (Address, u64)>) -> BTreeMap<String, (Address, u64)> {
    files.into_iter().filter(|(name, _)| name != STATE_FILE).collect()
}

pub struct TrainStage {
    params: Params,
    data: Data,
    held_out: Option<Data>,
    policy: PolicyHandle,
    steps: Vec<PlannedStep>,
    store: Store,
    /// The training after the last part that was computed, so that the next one need not read it again.
    live: Mutex<Option<Run>>,
}

impl TrainStage {
    fn bind(params: &Params, inputs: &Inputs) -> Result<TrainStage> {
        let data = Data::of(params, inputs)?;
        let held_out = params.eval_data.as_ref().map(|name| Data::named(name, inputs)).transpose()?;
        let policy = inputs.policy(&params.policy)?;
        let steps = params.plan(data.strata(params.batch_size, params.expert_share()?)?)?;
        let (params, store, live) = (params.clone(), inputs.store.clone(), Mutex::default());
        Ok(TrainStage { params, data, held_out, policy, steps, store, live })
    }
}

impl Stage for TrainStage {
    /// What was added later is named only where it is used, so that older results stay known.
    fn recipe(&self) -> Recipe {
        let p = &self.params;
        let policy = self.policy.digest().into_iter();
        let policy: BTreeMap<_, _> =
            policy.filter(|(f, _)| p.init_seed.is_none() || !f.contains("safetensors")).collect();
        let mut recipe = Recipe::new("train", VERSION)
            .with("schema", (TrainStep::VERSION, BatchPlan::VERSION))
            .with("data", self.data.named_in_recipe())
            .with("policy", policy)
            .with("init_seed", p.init_seed)
            .with("sources", &p.sources)
            .with("loss", &p.loss)
            .with("learning_rate", p.learning_rate)
            .with("batch_size", p.batch_size)
            .with("epochs", p.epochs)
            .with("steps", p.steps)
            .with("warmup", (p.warmup_steps, p.warmup_ratio))
            .with("schedule", (p.schedule, p.floor_share, p.decay_share))
            .with("optimizer", p.optimizer)
            .with("clip_norm", p.clip_norm)
            .with("seed", p.seed)
            .with("drop_last", p.drop_last)
            .with("packing", (p.micro_batch_tokens, p.max_length, p.too_long))
            .with("checkpoint_steps", p.checkpoint_steps);
        for (name, contents) in self.data.beside() {
            recipe = recipe.with(name, contents);
        }
        if let Some(held_out) = &self.held_out {
            recipe = recipe.with("evaluation", (TrainEval::VERSION, held_out.named_in_recipe(), p.eval_steps));
        }
        if p.reference_quirks {
            recipe = recipe.with("reference_quirks", true);
        }
        if let Some(lora) = &p.lora {
            recipe = recipe.with("lora", (LORA_VERSION, lora));
        }
        if p.normalise != Normalise::default() {
            recipe = recipe.with("normalise", p.normalise);
        }
        if let Some(trainer) = p.trainer.other() {
            recipe = recipe.with("trainer", trainer.named_in_recipe());
        }
        if p.dtype != Dtype::default() {
            recipe = recipe.with("dtype", (p.dtype, p.has_master_weights()));
        }
        if p.rounding() == Rounding::Stochastic && p.trainer.other().is_none() {
            recipe = recipe.with("rounding", "stochastic");
        }
        recipe
    }

    fn remarks(&self) -> Result<Vec<String>> {
        Ok(left_out(&self.policy)?.into_iter().collect())
    }

    fn main_table(&self) -> Option<&'static str> {
        None
    }

    fn parts(&self) -> Result<Vec<Part>> {
        let size = self.part_steps();
        let part = |(index, steps): (usize, &[PlannedStep])| {
            let (first, last) = (index * size, index * size + steps.len() - 1);
            let span = Span { first: first.to_string(), last: last.to_string(), samples: None };
            // The last part publishes a policy, the others what it takes to go on.
            let result = match self.params.publish {
                _ if last + 1 < self.steps_taken() => "checkpoint",
                Publish::Last => "policy",
                Publish::Best => "best policy",
            };
            Part { span, key: vec![format!("steps {first}..={last}: {result}")], rows: steps.len() as u64, index }
        };
        Ok(self.steps[..self.steps_taken()].chunks(size).enumerate().map(part).collect())
    }

    fn cut(&self) -> Recipe {
        Recipe::default().with("stop_step", self.params.stop_step).with("publish", self.params.publish)
    }

    fn cost(&self, missing: &[&Part], _rows: u64, _earlier: &[PartRecord]) -> Result<Option<Cost>> {
        let (Some(tokens), rows) = (self.data.tokens()?, self.data.row_count()?) else { return Ok(None) };
        let steps = missing.iter().flat_map(|part| {
            let first = part.index * self.part_steps();
            &self.steps[first..first + part.rows as usize]
        });
        let trained: u64 = steps.map(|step| step.rows.len() as u64).sum();
        let cost = Cost::new(&self.policy, tokens * trained / rows.max(1) as u64, false)?;
        Ok(Some(Cost { by: self.params.trainer.other().map(External::name), ..cost }))
    }

    fn superseded(&self, part: &Part) -> Option<&'static str> {
        let more = part.index + 1 < self.steps_taken().div_ceil(self.part_steps());
        (self.params.keep_checkpoints == Keep::Last && more).then_some(STATE_FILE)
    }

    fn run_part(&self, context: &Context, part: &Part, earlier: &[PartRecord]) -> Result<()> {
        if let Some(trainer) = self.params.trainer.other() {
            return self.run_elsewhere(trainer, context);
        }
        let first = part.index * self.part_steps();
        let end = first + part.rows as usize;
        let mut run = self.run_before(first, context, earlier)?;
        let mut said = run.take_up(context.journal)?.unwrap_or_default();
        let from = run.steps_done();
        let (mut tokens, mut evaluated, mut kept) = (0, String::new(), Instant::now());
        if from == 0 {
            said.evals.extend(run.evaluate()?);
        }
        for step in from..end {
            if context.check_cancelled().is_err() && step > from {
                run.keep(&said, context)?;
            }
            context.check_cancelled()?;
            let metrics = run.step(&self.steps[step])?;
            tokens += metrics.input_token_count;
            let note = format!("step {}  loss {:.4}  nll {:.4}", metrics.step, metrics.loss, metrics.nll);
            said.rows.push(to_row(metrics));
            if self.evaluates_after(step + 1)
                && let Some(eval) = run.evaluate()?
            {
                evaluated = format!("  held-out nll {:.4}", eval.nll);
                said.evals.push(eval);
            }
            let note = format!("{note}{evaluated}");
            let (rows_done, rows_total) = ((step + 1 - from) as u64, (end - from) as u64);
            (context.tick)(Tick { rows_done, rows_total, tokens, note, ..Tick::default() });
            if kept.elapsed() > KEEP_EVERY && step + 1 < end {
                run.keep(&said, context)?;
                kept = Instant::now();
            }
        }
        let Said { mut rows, mut evals } = said;
        // Steps taken again on the way here belong to earlier parts.
        rows.retain(|row: &TrainStep| row.step as usize >= first);
        evals.retain(|eval: &TrainEval| first == 0 || eval.step as usize > first);
        context.store(&rows)?;
        if part.index == 0 {
            context.store(&self.batch_plan()?)?;
        }
        if self.held_out.is_some() {
            context.store(&evals)?;
        }
        if end == self.steps_taken() {
            return self.store_policy(context, &run);
        }
        context.put_file(STATE_FILE, |put| run.save(put))?;
        *self.live() = Some(run);
        Ok(())
    }
}

impl TrainStage {
    fn steps_taken(&self) -> usize {
        self.params.stop_step.map_or(self.steps.len(), |stop| (stop as usize).min(self.steps.len()))
    }

    /// Steps of a part. Another program goes through all of them at once, and keeps its own checkpoints.
    fn part_steps(&self) -> usize {
        match self.params.trainer.other() {
            Some(_) => self.steps_taken().max(1),
            None => self.params.checkpoint_steps as usize,
        }
    }

    fn evaluates_after(&self, steps_done: usize) -> bool {
        let every = self.params.eval_steps as usize;
        steps_done == self.steps_taken() || (every > 0 && steps_done.is_multiple_of(every))
    }

    fn live(&self) -> MutexGuard<'_, Option<Run>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The training before a step: as the part before left it in memory, else from the last checkpoint that is not past it.
    fn run_before(&self, step: usize, context: &Context, earlier: &[PartRecord]) -> Result<Run> {
        let live = self.live().take();
        if let Some(run) = live.filter(|run| run.steps_done() == step) {
            return Ok(run);
        }
        // What a server holds of the machine is wanted now.
        context.launcher.end();
        let mut run = self.start(context.device)?;
        let checkpoints = earlier.iter().filter_map(|record| {
            let done = record.span.last.parse::<usize>().ok()? + 1;
            let (address, _) = record.files.get(STATE_FILE)?;
            (done <= step).then_some((done, address))
        });
        if let Some((done, address)) = checkpoints.max() {
            let saved = self.store.map(address)?;
            run.restore(&saved).map_err(|e| e.at(format!("checkpoint after {done} steps")))?;
        }
        Ok(run)
    }

    /// The training before its first step.
    fn start(&self, device: &Device) -> Result<Run> {
        let policy = load_policy(&self.policy)?;
        let params = self.params.trainer_params(self.steps.len() as u32, policy.eos_token_ids())?;
        let tensors = match self.params.init_seed {
            Some(seed) => init::random(policy.config(), seed)?,
            None => policy.checkpoint()?.tensors(policy.config(), params.initial_type(device), device)?,
        };
        Ok(Run {
            examples: self.data.examples(&self.store)?,
            held_out: self.held_out.as_ref().map(|data| data.examples(&self.store)?.all()).transpose()?,
            trainer: Trainer::new(policy.config(), tensors, params, device)?,
            best: None,
        })
    }

    /// The plan, with the portion of each row where there are several.
    fn batch_plan(&self) -> Result<Vec<BatchPlan>> {
        let mut ends = Vec::new();
        for size in self.data.sizes()? {
            ends.push(ends.last().unwrap_or(&0) + size);
        }
        let portion = |row: &u32| ends.partition_point(|end| *end <= *row as usize) as u32;
        let row = |(step, planned): (usize, &PlannedStep)| BatchPlan {
            step: step as u32,
            epoch: planned.epoch,
            rows: planned.rows.clone(),
            portions: self.data.is_mixed().then(|| planned.rows.iter().map(portion).collect()),
        };
        Ok(self.steps.iter().enumerate().map(row).collect())
    }

    /// Stores what the trained policy has beside its weights: the files of the one it was trained from, in which the type is its own.
    fn store_small_files(&self, context: &Context) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut files = described(&self.policy)?;
        if let Some(config) = files.get_mut("config.json") {
            *config = self.params.dtype.named_in(config);
        }
        for (name, bytes) in &files {
            context.put_file(name, |put| put(bytes))?;
        }
        Ok(files)
    }

    /// The policy's own files with the new weights in one file.
    fn store_policy(&self, context: &Context, run: &Run) -> Result<()> {
        self.store_small_files(context)?;
        let weights = match (self.params.publish, &run.best) {
            (Publish::Best, Some(best)) => best.weights.clone(),
            _ => run.trainer.live_weights(),
        };
        context.put_file(WEIGHTS_FILE, |put| run.trainer.write_policy(&weights, put))
    }
}
