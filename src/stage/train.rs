//! train: rewrites (or examples) + policy -> a new policy, train_steps and train_evals.  A part is a span of steps that ends
//! in a checkpoint; the batch plan is fixed before the first step.

mod data;
mod params;
mod run;

pub use params::{Dtype, Keep, Params, Publish, RowWeights};

use super::spec::SourceFile;
use super::{Context, Inputs, Output, Part, Stage, Tick};
use crate::policy::PolicyHandle;
use crate::policy::load_policy;
use candle_core::Device;
use data::{Data, Weights};
use mindgap_base::address::Address;
use mindgap_base::error::Result;
use mindgap_base::fingerprint::Recipe;
use mindgap_lm::model::policy::Policy;
use mindgap_lm::model::weights::serialize;
use mindgap_lm::train::{PlannedStep, TrainExample, Trainer, init};
use mindgap_store::table::Row;
use mindgap_store::table::train_steps::{BatchPlan, TrainEval, TrainStep};
use mindgap_store::{PartRecord, Span, Store};
use run::{Run, to_row};
use std::collections::BTreeMap;

const VERSION: u32 = 1;
/// Weights, moments and counters of a checkpoint that is not the last.
const STATE_FILE: &str = "trainer.safetensors";
/// The weights of the finished policy.
const WEIGHTS_FILE: &str = "model.safetensors";

/// The files of a finished train stage that make a policy.
pub fn policy_files(files: BTreeMap<String, (Address, u64)>) -> BTreeMap<String, (Address, u64)> {
    files.into_iter().filter(|(name, _)| name != STATE_FILE).collect()
}

pub struct TrainStage {
    params: Params,
    data: Data,
    /// The file of row weights.
    weights: Option<SourceFile>,
    held_out: Option<Data>,
    policy: PolicyHandle,
    steps: Vec<PlannedStep>,
    store: Store,
}

impl TrainStage {
    fn bind(params: &Params, inputs: &Inputs) -> Result<TrainStage> {
        let data = Data::of(params, inputs)?;
        let weights = params.row_weights.as_ref().map(|weights| inputs.file(&weights.file)).transpose()?;
        let held_out = params.eval_data.as_ref().map(|name| Data::named(name, inputs)).transpose()?;
        let policy = inputs.policy(&params.policy)?;
        let steps = params.plan(data.row_count()?)?;
        Ok(TrainStage { params: params.clone(), data, weights, held_out, policy, steps, store: inputs.store.clone() })
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
            .with("data", self.data.contents())
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
        if let Some(contents) = self.data.reference_contents() {
            recipe = recipe.with("logprobs", contents);
        }
        if let (Some(weights), Some(file)) = (&p.row_weights, &self.weights) {
            recipe = recipe.with("row_weights", (&file.address, &weights.column));
        }
        if let Some(held_out) = &self.held_out {
            recipe = recipe.with("evaluation", (TrainEval::VERSION, held_out.contents(), p.eval_steps));
        }
        if p.reference_quirks {
            recipe = recipe.with("reference_quirks", true);
        }
        if let Some(lora) = &p.lora {
            recipe = recipe.with("lora", lora);
        }
        if p.dtype != Dtype::default() {
            recipe = recipe.with("dtype", p.dtype);
        }
        recipe
    }

    fn main_table(&self) -> Option<&'static str> {
        None
    }

    fn parts(&self) -> Result<Vec<Part>> {
        let size = self.params.checkpoint_steps as usize;
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

    fn superseded(&self, part: &Part) -> Option<&'static str> {
        let more = part.index + 1 < self.steps_taken().div_ceil(self.params.checkpoint_steps as usize);
        (self.params.keep_checkpoints == Keep::Last && more).then_some(STATE_FILE)
    }

    fn run_part(&self, context: &Context, part: &Part, earlier: &[PartRecord]) -> Result<Output> {
        let policy = load_policy(&self.policy)?;
        let weights = match (&self.params.row_weights, &self.weights) {
            (Some(params), Some(file)) => Some(Weights::read(params, file, &self.data)?),
            _ => None,
        };
        let examples = self.data.examples(weights.as_ref())?;
        let held_out = self.held_out.as_ref().map(|data| data.examples(None)).transpose()?;
        let mut run = Run { trainer: self.trainer(&policy, context.device)?, best: None };
        let first = part.index * self.params.checkpoint_steps as usize;
        let end = first + part.rows as usize;
        let from = self.restore(&mut run, first, earlier)?;
        let (mut rows, mut evals, mut tokens, mut evaluated) = (Vec::new(), Vec::new(), 0, String::new());
        if from == 0 {
            evals.extend(held_out.as_ref().map(|rows| run.evaluate(rows)).transpose()?);
        }
        for step in from..end {
            context.check_cancelled()?;
            let batch: Vec<&TrainExample> = self.steps[step].rows.iter().map(|row| &examples[*row as usize]).collect();
            let metrics = run.trainer.step(&batch)?;
            tokens += metrics.input_token_count;
            let note = format!("step {}  loss {:.4}  nll {:.4}", metrics.step, metrics.loss, metrics.nll);
            rows.push(to_row(metrics));
            if let Some(held_out) = held_out.as_ref().filter(|_| self.evaluates_after(step + 1)) {
                let eval = run.evaluate(held_out)?;
                evaluated = format!("  held-out nll {:.4}", eval.nll);
                evals.push(eval);
            }
            let note = format!("{note}{evaluated}");
            let (rows_done, rows_total) = ((step + 1 - from) as u64, (end - from) as u64);
            (context.tick)(Tick { rows_done, rows_total, tokens, note });
        }
        // Steps taken again on the way here belong to earlier parts.
        rows.retain(|row: &TrainStep| row.step as usize >= first);
        evals.retain(|eval: &TrainEval| first == 0 || eval.step as usize > first);
        let mut tables = vec![context.encode(&rows)?];
        if part.index == 0 {
            tables.push(context.encode(&self.batch_plan())?);
        }
        if held_out.is_some() {
            tables.push(context.encode(&evals)?);
        }
        let files = match end == self.steps_taken() {
            true => self.policy_output(&policy, &run)?,
            false => vec![(STATE_FILE.to_string(), run.save()?)],
        };
        Ok(Output { tables, files })
    }
}

impl TrainStage {
    fn steps_taken(&self) -> usize {
        self.params.stop_step.map_or(self.steps.len(), |stop| (stop as usize).min(self.steps.len()))
    }

    fn evaluates_after(&self, steps_done: usize) -> bool {
        let every = self.params.eval_steps as usize;
        steps_done == self.steps_taken() || (every > 0 && steps_done.is_multiple_of(every))
    }

    fn trainer(&self, policy: &Policy, device: &Device) -> Result<Trainer> {
        let params = self.params.trainer(self.steps.len() as u32, policy.eos_token_ids())?;
        let tensors = match self.params.init_seed {
            Some(seed) => init::random(policy.config(), seed)?,
            None => policy.checkpoint()?.tensors(policy.config(), self.params.dtype.into(), device)?,
        };
        Trainer::new(policy.config(), tensors, params, device)
    }

    /// Goes back to the last checkpoint at or before a part's first step; returns the step it leads to, 0 where there is none.
    fn restore(&self, run: &mut Run, first: usize, earlier: &[PartRecord]) -> Result<usize> {
        let checkpoints = earlier.iter().filter_map(|record| {
            let step = record.span.last.parse::<usize>().ok()? + 1;
            let (address, _) = record.files.get(STATE_FILE)?;
            (step <= first).then_some((step, address))
        });
        let Some((step, address)) = checkpoints.max() else { return Ok(0) };
        run.restore(&self.store.get(address)?)?;
        Ok(step)
    }

    fn batch_plan(&self) -> Vec<BatchPlan> {
        let row = |(step, planned): (usize, &PlannedStep)| BatchPlan {
            step: step as u32,
            epoch: planned.epoch,
            rows: planned.rows.clone(),
        };
        self.steps.iter().enumerate().map(row).collect()
    }

    /// The policy's own files with the new weights in one file.
    fn policy_output(&self, policy: &Policy, run: &Run) -> Result<Vec<(String, Vec<u8>)>> {
        let mut files = Vec::new();
        for name in self.policy.file_names().filter(|name| !name.contains("safetensors")) {
            let bytes = policy.files().get(name).unwrap_or_default();
            let bytes = if name == "config.json" { self.params.dtype.named_in(bytes) } else { bytes.to_vec() };
            files.push((name.to_string(), bytes));
        }
        let weights = match (self.params.publish, &run.best) {
            (Publish::Best, Some(best)) => best.weights.clone(),
            _ => run.trainer.weights()?,
        };
        files.push((WEIGHTS_FILE.to_string(), serialize(&run.trainer.policy_weights(weights)?)?));
        Ok(files)
    }
}
