//! What the work folder of another program's training holds when it begins: the recipe, the policy, and the rows in the order in which
//! they are trained on.

use super::super::TrainStage;
use super::{External, steps};
use crate::export::IGNORED;
use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use mindgap_base::error::{Error, Result};
use mindgap_lm::model::policy::Policy;
use mindgap_lm::train::{Accumulation, TooLong, TrainExample, TrainerParams};
use mindgap_store::fs;
use mindgap_store::parquet::Foreign;
use mindgap_store::table::rewrites::Source;
use serde::Serialize;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;

/// One row of `train.parquet`. Every step has `batch_size` of them: where the plan has fewer, the rest are without targets.
#[derive(Clone, Serialize)]
struct Row {
    step: u32,
    input_ids: Vec<u32>,
    /// Not shifted.
    labels: Vec<i64>,
    /// What multiplies the loss of each target: the step's loss is the sum of `factor * weight * -log p`.
    factor: f64,
    source: &'static str,
    /// Per token; 0 where it is not known.
    logprob_behavior: Vec<f32>,
    logprob_reference: Vec<f32>,
}

impl Row {
    /// One of this step without a target, as short as can be.
    fn filler(&self) -> Row {
        let length = self.input_ids.len().min(2);
        let column = |values: &[f32]| values[..length].to_vec();
        Row {
            step: self.step,
            input_ids: self.input_ids[..length].to_vec(),
            labels: vec![IGNORED; length],
            factor: 0.0,
            source: self.source,
            logprob_behavior: column(&self.logprob_behavior),
            logprob_reference: column(&self.logprob_reference),
        }
    }
}

impl TrainStage {
    /// Makes the folder ready, or finds it so: what another start of this training left there stays.
    pub(super) fn prepare(&self, external: &External, folder: &Path) -> Result<steps::Plan> {
        let policy = crate::policy::load_speaker(&self.policy)?;
        let params = self.params.trainer_params(self.steps.len() as u32, policy.eos_token_ids())?;
        let examples = self.data.examples(&self.store)?;
        let taken = &self.steps[..self.steps_taken()];
        let rates = (0..taken.len() as u32).map(|step| params.schedule.learning_rate(step)).collect();
        let recipe = self.recipe_for(&params, &policy, rates);
        let text = serde_json::to_string_pretty(&recipe).expect("a recipe is plain data");
        let place = folder.join("recipe.json");
        let is_ready = fs::read_if_present(&place)?.is_some_and(|found| found == text.as_bytes());
        let mut file = if is_ready { None } else { Some(self.begin(external, folder, &params)?) };
        let mut plan = steps::Plan { steps: Vec::new(), clip_norm: params.clip_norm };
        for (step, planned) in taken.iter().enumerate() {
            let made = step_rows(step as u32, &examples.rows(&planned.rows)?, &params)?;
            plan.steps.push(steps::Planned {
                learning_rate: params.schedule.learning_rate(step as u32),
                target_tokens: made.iter().flat_map(|row| &row.labels).filter(|label| **label != IGNORED).count()
                    as u64,
                input_tokens: made.iter().map(|row| row.input_ids.len() as u64).sum(),
            });
            if let Some(file) = &mut file {
                let missing = self.params.batch_size as usize - made.len();
                let filler = made[0].filler();
                file.add(made.into_iter().chain(std::iter::repeat_n(filler, missing)))?;
            }
        }
        if let Some(file) = file {
            file.publish()?;
            // The last: it says that the rest is there.
            fs::publish(&place, text.as_bytes(), "work")?;
        }
        Ok(plan)
    }

    /// Lays everything into the folder that is not a row of training, and begins the file for those.
    fn begin(&self, external: &External, folder: &Path, params: &TrainerParams) -> Result<RowFile> {
        fs::create_dir(folder)?;
        for (name, script) in external.kind.shipped().into_iter().flat_map(|shipped| shipped.files()) {
            fs::publish(&folder.join(name), script.as_bytes(), "work")?;
        }
        fs::publish_link(&folder.join("policy"), &self.policy.folder()?)?;
        if let Some(held_out) = &self.held_out {
            let rows = step_rows(0, &held_out.examples(&self.store)?.all()?, params)?;
            let mut file = RowFile::beside(&folder.join("eval.parquet"))?;
            file.add(rows)?;
            file.publish()?;
        }
        RowFile::beside(&folder.join("train.parquet"))
    }

    /// Everything the program is to know beyond the rows.
    fn recipe_for(&self, params: &TrainerParams, policy: &Policy, rates: Vec<f64>) -> serde_json::Value {
        json!({
            "format": 1,
            "loss": params.loss,
            "steps": rates.len(),
            "batch_size": self.params.batch_size,
            "learning_rates": rates,
            "optimizer": params.optimizer,
            "clip_norm": params.clip_norm,
            "seed": params.seed,
            "dtype": self.params.dtype,
            "lora": params.lora,
            "gradient_checkpointing": params.gradient_checkpointing,
            "micro_batch_tokens": params.packing.micro_batch_tokens,
            "checkpoint_steps": self.params.checkpoint_steps,
            "eval_steps": self.held_out.as_ref().map(|_| self.params.eval_steps),
            "eos_token_ids": policy.eos_token_ids(),
        })
    }
}

/// The rows of one step, with their shares in its loss.
fn step_rows(step: u32, batch: &[TrainExample], params: &TrainerParams) -> Result<Vec<Row>> {
    let longest = params.packing.max_length;
    let mut rows = Vec::with_capacity(batch.len());
    let mut total = 0.0;
    for example in batch {
        let whole = example.token_ids.len();
        if whole > longest && params.packing.too_long == TooLong::Error {
            return Err(Error::input(format!("{whole} tokens, and `max_length` is {longest}")).at(&example.name));
        }
        if let Some((what, hint)) = params.loss.missing(example) {
            let error = Error::input(format!("loss `{}` needs {what} for every row", params.loss.name()));
            return Err(error.at(&example.name).hint(hint));
        }
        let length = whole.min(longest);
        let label = |i: usize| if example.loss_mask[i] { i64::from(example.token_ids[i]) } else { IGNORED };
        let labels: Vec<i64> = (0..length).map(label).collect();
        let targets = labels.iter().filter(|label| **label != IGNORED).count();
        let column = |values: &Option<Vec<f32>>| values.as_ref().map_or(vec![0.0; length], |v| v[..length].to_vec());
        let weight = f64::from(example.weight);
        let length_of_row = match params.accumulation {
            Accumulation::TokenMean | Accumulation::MicroBatchSum { .. } => None,
            Accumulation::LongestOfProblem => Some(example.longest.unwrap_or(targets as u32)),
            Accumulation::RowMean => Some(targets as u32),
            Accumulation::Constant { length } => Some(length),
        };
        total += match length_of_row {
            None => weight * targets as f64,
            Some(_) => weight * f64::from(u8::from(targets > 0)),
        };
        let factor = weight / length_of_row.map_or(1.0, |length| f64::from(length.max(1)));
        rows.push(Row {
            step,
            input_ids: example.token_ids[..length].to_vec(),
            labels,
            factor,
            source: Source::ALL.get(example.source as usize).map_or("", |source| source.as_str()),
            logprob_behavior: column(&example.logprob_behavior),
            logprob_reference: column(&example.logprob_reference),
        });
    }
    // A step without a target has no loss.
    rows.iter_mut().for_each(|row| row.factor = if total > 0.0 { row.factor / total } else { 0.0 });
    Ok(rows)
}

/// A Parquet file of rows, which are written as they come.
struct RowFile {
    file: Foreign<fs::Draft>,
    fields: Vec<FieldRef>,
    waiting: Vec<Row>,
}

/// Rows of a row group.
const GROUP: usize = 1024;

impl RowFile {
    fn beside(path: &Path) -> Result<RowFile> {
        let field = |name: &str, kind: DataType| -> FieldRef { Arc::new(Field::new(name, kind, false)) };
        let list = |item: DataType| DataType::List(Arc::new(Field::new("item", item, false)));
        let fields = vec![
            field("step", DataType::UInt32),
            field("input_ids", list(DataType::Int64)),
            field("labels", list(DataType::Int64)),
            field("factor", DataType::Float64),
            field("source", DataType::Utf8),
            field("logprob_behavior", list(DataType::Float32)),
            field("logprob_reference", list(DataType::Float32)),
        ];
        let file = Foreign::beside(path, Arc::new(Schema::new(fields.clone())))?;
        Ok(RowFile { file, fields, waiting: Vec::new() })
    }

    fn add(&mut self, rows: impl IntoIterator<Item = Row>) -> Result<()> {
        self.waiting.extend(rows);
        if self.waiting.len() >= GROUP { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<()> {
        let batch = serde_arrow::to_record_batch(&self.fields, &self.waiting)
            .map_err(|e| Error::internal("rows do not fit their schema").source(e))?;
        self.waiting.clear();
        self.file.write(&batch)
    }

    fn publish(mut self) -> Result<()> {
        self.write()?;
        self.file.publish("work")
    }
}
