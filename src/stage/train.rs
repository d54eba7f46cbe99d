//! train: rewrites (or examples) + policy -> a new policy and train_steps.  A part is a span of steps that ends in a
//! checkpoint; the batch plan is fixed before the first step.

use super::policy::load_policy;
use super::{Context, Inputs, Output, Part, Reference, Stage, Tick, Wants};
use crate::base::address::Address;
use crate::base::error::{Error, Result};
use crate::base::fingerprint::Recipe;
use crate::model::policy::Policy;
use crate::model::weights::serialize;
use crate::store::{PartRecord, PolicyHandle, Span, Store, Table};
use crate::table::Row;
use crate::table::examples::Example;
use crate::table::logprobs::Logprob;
use crate::table::rewrites::Rewrite;
use crate::table::train_steps::{BatchPlan, TrainStep};
use crate::train::{
    Accumulation, AdamWParams, Decay, Loss, PackingParams, PlanLength, PlanParams, PlannedStep, Schedule, StepMetrics,
    TooLong, TrainExample, Trainer, TrainerParams, init, plan,
};
use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

const VERSION: u32 = 1;
/// Weights, moments and counters of a checkpoint that is not the last.
const STATE_FILE: &str = "trainer.safetensors";
/// The weights of the finished policy.
const WEIGHTS_FILE: &str = "model.safetensors";
/// Names of the sources, in the order of their numbers in the trainer's metrics.
const SOURCES: [&str; 3] = ["self", "guided", "expert"];

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// What is trained on: a rewrite stage, or a documents stage.
    pub data: String,
    /// The policy to start from.
    pub policy: String,
    /// Start from random weights drawn from this seed, of the shape the policy's config says.
    pub init_seed: Option<u64>,
    /// Log-probs of the data's targets under a frozen reference policy, for losses that compare with one.
    pub logprobs: Option<String>,
    /// Only rows of these sources; all where none is named.
    #[serde(default)]
    pub sources: Vec<String>,
    /// Name of a loss, or a table with its name and parameters. See docs/design/loss.md.
    pub loss: serde_json::Value,
    pub learning_rate: f64,
    pub batch_size: u32,
    /// Passes over the data. Either this or `steps`.
    pub epochs: Option<u32>,
    /// Optimizer steps. Either this or `epochs`.
    pub steps: Option<u32>,
    /// End after this many steps of the schedule. Checkpoints are shared with runs that go further.
    pub stop_step: Option<u32>,
    #[serde(default)]
    pub warmup_steps: u32,
    /// Share of all steps; added to `warmup_steps`.
    #[serde(default)]
    pub warmup_ratio: f64,
    #[serde(default = "cosine")]
    pub schedule: Decay,
    /// Learning rate at the end, as a share of the peak.
    #[serde(default)]
    pub floor_share: f64,
    #[serde(default = "decay_share")]
    pub decay_share: f64,
    #[serde(default)]
    pub optimizer: AdamWParams,
    #[serde(default = "clip_norm")]
    pub clip_norm: f64,
    #[serde(default)]
    pub seed: u64,
    #[serde(default)]
    pub drop_last: bool,
    #[serde(default = "micro_batch_tokens")]
    pub micro_batch_tokens: u32,
    #[serde(default = "max_length")]
    pub max_length: u32,
    #[serde(default = "too_long")]
    pub too_long: TooLong,
    /// Steps between checkpoints.
    #[serde(default = "checkpoint_steps")]
    pub checkpoint_steps: u32,
}

fn cosine() -> Decay {
    Decay::Cosine
}
fn decay_share() -> f64 {
    0.1
}
fn clip_norm() -> f64 {
    1.0
}
fn micro_batch_tokens() -> u32 {
    1024
}
fn max_length() -> u32 {
    2048
}
fn too_long() -> TooLong {
    TooLong::TruncateRight
}
fn checkpoint_steps() -> u32 {
    100
}

impl Params {
    pub fn validate(&self) -> Result<()> {
        Loss::from_value(&self.loss)?;
        for (name, value) in [("batch_size", self.batch_size), ("checkpoint_steps", self.checkpoint_steps)] {
            super::buckets::at_least_one(value, name)?;
        }
        if self.stop_step == Some(0) {
            return Err(Error::usage("`stop_step` must be at least 1"));
        }
        if self.epochs.is_some() == self.steps.is_some() {
            return Err(Error::usage("give either `epochs` or `steps`"));
        }
        if let Some(unknown) = self.sources.iter().find(|source| !SOURCES.contains(&source.as_str())) {
            return Err(Error::usage(format!("unknown source `{unknown}`")).hint("sources are self, guided, expert"));
        }
        Ok(())
    }

    pub fn references(&self) -> Vec<Reference> {
        vec![
            Reference::new("data", &self.data, Wants::Trainable),
            Reference::new("policy", &self.policy, Wants::Policy),
        ]
    }

    pub fn bind(&self, inputs: &Inputs) -> Result<TrainStage> {
        let is_rewrites = inputs.manifest(&self.data).is_some_and(|m| m.main_table.as_deref() == Some(Rewrite::TABLE));
        let data = match is_rewrites {
            true => Data::Rewrites {
                rewrites: inputs.table(&self.data)?,
                reference: self.logprobs.as_ref().map(|name| inputs.table(name)).transpose()?,
            },
            false => Data::Examples(inputs.table(&self.data)?),
        };
        let policy = inputs.policy(&self.policy)?;
        Ok(TrainStage { steps: data.plan(self)?, params: self.clone(), data, policy, store: inputs.store.clone() })
    }
}

/// The files of a finished train stage that make a policy.
pub fn policy_files(files: BTreeMap<String, (Address, u64)>) -> BTreeMap<String, (Address, u64)> {
    files.into_iter().filter(|(name, _)| name != STATE_FILE).collect()
}

/// What a policy is trained on.
enum Data {
    Rewrites { rewrites: Table<Rewrite>, reference: Option<Table<Logprob>> },
    Examples(Table<Example>),
}

impl Data {
    fn contents(&self) -> Vec<&Address> {
        match self {
            Data::Rewrites { rewrites, .. } => rewrites.contents(),
            Data::Examples(table) => table.contents(),
        }
    }

    /// The rows trained on, in table order.
    fn examples(&self, params: &Params) -> Result<Vec<TrainExample>> {
        let wanted = |row: &Rewrite| params.sources.is_empty() || params.sources.contains(&row.source);
        Ok(match self {
            Data::Rewrites { rewrites, reference } => {
                let mut columns = match reference {
                    Some(table) => by_target(table.read_all()?),
                    None => HashMap::new(),
                };
                let rows = rewrites.read_all()?.into_iter().filter(wanted);
                rows.map(|row| {
                    let column = columns.remove(&(row.problem_id.clone(), row.choice_index));
                    from_rewrite(&row, column)
                })
                .collect()
            }
            Data::Examples(table) => {
                let rows = table.read_all()?.into_iter();
                rows.map(|row| TrainExample::new(row.token_ids, row.loss_mask, SOURCES.len() as u32)).collect()
            }
        })
    }

    fn row_count(&self, params: &Params) -> Result<usize> {
        match self {
            Data::Examples(table) => Ok(table.parts().iter().map(|part| part.rows as usize).sum()),
            Data::Rewrites { .. } => Ok(self.examples(params)?.len()),
        }
    }

    fn plan(&self, params: &Params) -> Result<Vec<PlannedStep>> {
        let row_count = self.row_count(params)?;
        let length = match (params.epochs, params.steps) {
            (Some(epochs), _) => PlanLength::Epochs(epochs),
            (None, steps) => PlanLength::Steps(steps.unwrap_or(0)),
        };
        let (batch_size, seed, drop_last) = (params.batch_size as usize, params.seed, params.drop_last);
        plan(&PlanParams { row_count, batch_size, length, seed, drop_last }).map_err(|e| {
            e.at(format!("training data `{}`", params.data))
                .hint("problems without an expert solution need a correct sample to be trained on; see the table `untargeted`")
        })
    }
}

/// Reference log-probs by problem and choice.
fn by_target(rows: Vec<Logprob>) -> HashMap<(String, u32), Vec<f32>> {
    rows.into_iter().map(|row| ((row.problem_id, row.choice_index), row.logprob_policy)).collect()
}

fn from_rewrite(row: &Rewrite, reference: Option<Vec<f32>>) -> TrainExample {
    let token_ids: Vec<u32> = row.prompt_ids.iter().chain(&row.token_ids).copied().collect();
    let loss_mask = (0..token_ids.len()).map(|i| i >= row.prompt_ids.len().max(1)).collect();
    let source = SOURCES.iter().position(|source| *source == row.source).unwrap_or(SOURCES.len());
    let mut example = TrainExample::new(token_ids, loss_mask, source as u32);
    // Columns over prompt and target; what the prompt's entries hold is never read.
    let whole = |target: Vec<f32>| {
        let mut column = vec![0.0; row.prompt_ids.len()];
        column.extend(target);
        column
    };
    // A target cut off where it was scored has no reference: the loss says so, if it needs one.
    example.logprob_reference = reference.filter(|column| column.len() == row.token_ids.len()).map(whole);
    example.logprob_behavior = row.logprob_behavior.clone().map(whole);
    example
}

pub struct TrainStage {
    params: Params,
    data: Data,
    policy: PolicyHandle,
    steps: Vec<PlannedStep>,
    store: Store,
}

impl Stage for TrainStage {
    fn recipe(&self) -> Recipe {
        let p = &self.params;
        let policy = self.policy.digest().into_iter();
        let policy: BTreeMap<_, _> =
            policy.filter(|(f, _)| p.init_seed.is_none() || !f.contains("safetensors")).collect();
        let recipe = Recipe::new("train", VERSION)
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
        match &self.data {
            Data::Rewrites { reference: Some(reference), .. } => recipe.with("logprobs", reference.contents()),
            _ => recipe,
        }
    }

    fn main_table(&self) -> Option<&'static str> {
        None
    }

    fn ordered(&self) -> bool {
        true
    }

    fn parts(&self) -> Result<Vec<Part>> {
        let size = self.params.checkpoint_steps as usize;
        let part = |(index, steps): (usize, &[PlannedStep])| {
            let (first, last) = (index * size, index * size + steps.len() - 1);
            let span = Span { first: first.to_string(), last: last.to_string(), samples: None };
            // The last part publishes a policy, the others what it takes to go on.
            let result = if last + 1 == self.steps_taken() { "policy" } else { "checkpoint" };
            Part { span, key: vec![format!("steps {first}..={last}: {result}")], rows: steps.len() as u64, index }
        };
        Ok(self.steps[..self.steps_taken()].chunks(size).enumerate().map(part).collect())
    }

    fn run_part(&self, context: &Context, part: &Part, earlier: &[PartRecord]) -> Result<Output> {
        let policy = load_policy(&self.policy)?;
        let examples = self.data.examples(&self.params)?;
        let mut trainer = self.trainer(&policy)?;
        let first = part.index * self.params.checkpoint_steps as usize;
        if part.index > 0 {
            self.restore(&mut trainer, first, earlier)?;
        }
        let steps = &self.steps[first..first + part.rows as usize];
        let (mut rows, mut tokens) = (Vec::new(), 0);
        for (done, planned) in steps.iter().enumerate() {
            context.check_cancelled()?;
            let batch: Vec<&TrainExample> = planned.rows.iter().map(|row| &examples[*row as usize]).collect();
            let metrics = trainer.step(&batch)?;
            tokens += metrics.input_token_count;
            let note = format!("step {}  loss {:.4}  nll {:.4}", metrics.step, metrics.loss, metrics.nll);
            (context.tick)(Tick { rows_done: done as u64 + 1, rows_total: part.rows, tokens, note });
            rows.push(to_row(metrics));
        }
        let mut tables = vec![context.encode(&rows)?];
        if part.index == 0 {
            tables.push(context.encode(&self.batch_plan())?);
        }
        let is_last = first + steps.len() == self.steps_taken();
        let files = if is_last { self.policy_output(&policy, &trainer)? } else { vec![state_file(&trainer)?] };
        Ok(Output { tables, files })
    }
}

impl TrainStage {
    fn steps_taken(&self) -> usize {
        self.params.stop_step.map_or(self.steps.len(), |stop| (stop as usize).min(self.steps.len()))
    }

    fn trainer(&self, policy: &Policy) -> Result<Trainer> {
        let p = &self.params;
        let total_steps = self.steps.len() as u32;
        let params = TrainerParams {
            loss: Loss::from_value(&p.loss)?,
            optimizer: p.optimizer,
            schedule: Schedule {
                peak: p.learning_rate,
                total_steps,
                warmup_steps: p.warmup_steps + (p.warmup_ratio * f64::from(total_steps)).round() as u32,
                decay: p.schedule,
                floor_share: p.floor_share,
                decay_share: p.decay_share,
            },
            packing: PackingParams {
                micro_batch_tokens: p.micro_batch_tokens as usize,
                micro_batch_rows: 0,
                max_length: p.max_length as usize,
                too_long: p.too_long,
            },
            clip_norm: p.clip_norm,
            accumulation: Accumulation::TokenMean,
            eos_token_ids: policy.eos_token_ids().to_vec(),
            skip_limit: 10,
            dtype: DType::F32,
        };
        let tensors = match p.init_seed {
            Some(seed) => init::random(policy.config(), seed)?,
            None => policy.checkpoint()?.tensors(policy.config(), DType::F32, &Device::Cpu)?,
        };
        Trainer::new(policy.config(), tensors, params, &Device::Cpu)
    }

    /// Goes on from the checkpoint that ends where this part starts.
    fn restore(&self, trainer: &mut Trainer, first: usize, earlier: &[PartRecord]) -> Result<()> {
        let ends_here = |record: &&PartRecord| record.span.last == (first - 1).to_string();
        let checkpoint = earlier.iter().filter(ends_here).find_map(|record| record.files.get(STATE_FILE));
        let (address, _) =
            checkpoint.ok_or_else(|| Error::internal(format!("no checkpoint ends before step {first}")))?;
        let state = candle_core::safetensors::load_buffer(&self.store.get(address)?, &Device::Cpu)
            .map_err(|e| Error::input("checkpoint does not load").source(e))?;
        trainer.restore(&state)
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
    fn policy_output(&self, policy: &Policy, trainer: &Trainer) -> Result<Vec<(String, Vec<u8>)>> {
        let mut files = Vec::new();
        for name in self.policy.file_names().filter(|name| !name.contains("safetensors")) {
            files.push((name.to_string(), policy.files().get(name).unwrap_or_default().to_vec()));
        }
        files.push((WEIGHTS_FILE.to_string(), serialize(&trainer.weights()?)?));
        Ok(files)
    }
}

fn state_file(trainer: &Trainer) -> Result<(String, Vec<u8>)> {
    let state: BTreeMap<_, _> = trainer.state()?.into_iter().collect();
    let bytes =
        safetensors::serialize(state, None).map_err(|e| Error::internal("cannot write a checkpoint").source(e))?;
    Ok((STATE_FILE.to_string(), bytes))
}

fn to_row(metrics: StepMetrics) -> TrainStep {
    let nll = |name: &str| {
        let number = SOURCES.iter().position(|source| *source == name)? as u32;
        metrics.sources.iter().find(|source| source.source == number).map(|source| source.nll)
    };
    TrainStep {
        step: metrics.step,
        loss: metrics.loss,
        nll: metrics.nll,
        grad_norm: metrics.grad_norm,
        learning_rate: metrics.learning_rate,
        token_count: metrics.token_count,
        weight_mean: metrics.weight_mean,
        weight_var: metrics.weight_var,
        ess: metrics.ess,
        clipped: metrics.clipped,
        low_weight_share: metrics.low_weight_share,
        eos_probability: metrics.eos_probability,
        nll_self: nll("self"),
        nll_guided: nll("guided"),
        nll_expert: nll("expert"),
        skipped: metrics.skipped,
    }
}
