//! A training under way: steps, evaluations, the best weights so far, and the checkpoint that holds it all.

use super::data::Examples;
use crate::stage::Context;
use candle_core::{Device, Tensor};
use mindgap_base::error::{Error, Result};
use mindgap_lm::model::policy::Blob;
use mindgap_lm::model::tensor_error;
use mindgap_lm::model::tensors::{self, Put, TensorFile};
use mindgap_lm::train::{PlannedStep, StepMetrics, TrainExample, Trainer};
use mindgap_store::parquet::decode_batches;
use mindgap_store::table::rewrites::Source;
use mindgap_store::table::train_steps::{TrainEval, TrainStep};
use mindgap_store::table::{Row, from_batches};
use mindgap_store::{Journal, Snapshot};
use std::collections::BTreeMap;

/// The trainer, its rows, and what the stage remembers beside it.
pub struct Run {
    pub trainer: Trainer,
    pub examples: Examples,
    pub held_out: Option<Vec<TrainExample>>,
    pub best: Option<Best>,
}

/// The weights with the lowest held-out negative log-prob so far.
pub struct Best {
    nll: f64,
    pub weights: BTreeMap<String, Tensor>,
}

/// What a part has to say so far.
#[derive(Default)]
pub struct Said {
    pub rows: Vec<TrainStep>,
    pub evals: Vec<TrainEval>,
}

/// A checkpoint in the middle of a part.
struct Kept(Snapshot);

impl Blob for Kept {
    fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }
}

fn rows<R: Row>(bytes: Vec<u8>) -> Result<Vec<R>> {
    from_batches(&decode_batches(bytes)?)
}

/// Tables as Parquet beside the tensors of a kept training.
const STEPS: &str = "said.steps";
const EVALS: &str = "said.evals";

const BEST_NLL: &str = "best-nll";
const BEST: &str = "best.";

impl Run {
    pub fn steps_done(&self) -> usize {
        self.trainer.steps_done() as usize
    }

    pub fn step(&mut self, planned: &PlannedStep) -> Result<StepMetrics> {
        let rows = self.examples.rows(&planned.rows)?;
        self.trainer.step(&rows.iter().collect::<Vec<_>>())
    }

    /// Measures held-out rows where there are some, and keeps the weights if they are the best so far.
    pub fn evaluate(&mut self) -> Result<Option<TrainEval>> {
        let Some(held_out) = &self.held_out else { return Ok(None) };
        let rows: Vec<&TrainExample> = held_out.iter().collect();
        let metrics = self.trainer.evaluate(&rows).map_err(|e| e.at("held-out rows"))?;
        let best = self.best.as_ref().is_none_or(|best| metrics.nll < best.nll);
        if best {
            self.best = Some(Best { nll: metrics.nll, weights: self.trainer.weights()? });
        }
        let of = |source: Source| nll_of(&metrics, source);
        Ok(Some(TrainEval {
            step: metrics.step,
            nll: metrics.nll,
            loss: (!self.trainer.needs_columns()).then_some(metrics.loss),
            token_count: metrics.token_count,
            eos_probability: metrics.eos_probability,
            nll_self: of(Source::SelfAligned),
            nll_guided: of(Source::Guided),
            nll_expert: of(Source::Expert),
            nll_teacher: of(Source::Teacher),
            best,
        }))
    }

    /// Writes the checkpoint: the trainer's state, and the best weights where there are some.
    pub fn save(&self, put: &mut Put) -> Result<()> {
        tensors::write(&self.state()?, None, put)
    }

    /// The same in the middle of a part, with what the part has to say so far.
    pub fn keep(&self, said: &Said, context: &Context) -> Result<()> {
        let mut state = self.state()?;
        for (name, rows) in [(STEPS, context.encode(&said.rows)?), (EVALS, context.encode(&said.evals)?)] {
            let length = rows.bytes.len();
            state.insert(name.to_string(), Tensor::from_vec(rows.bytes, length, &Device::Cpu).map_err(tensor_error)?);
        }
        context.journal.replace(|put| tensors::write(&state, None, put))
    }

    /// Goes on from what an interrupted run of this part kept, if it kept anything.
    pub fn take_up(&mut self, journal: &Journal) -> Result<Option<Said>> {
        let Some(kept) = journal.snapshot()?.map(Kept) else { return Ok(None) };
        let file = TensorFile::open(&kept)?;
        let bytes = |name: &str| file.tensor(name)?.to_vec1::<u8>().map_err(tensor_error);
        let said = Said { rows: rows(bytes(STEPS)?)?, evals: rows(bytes(EVALS)?)? };
        self.restore(&kept)?;
        Ok(Some(said))
    }

    fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut state = self.trainer.state()?;
        if let Some(best) = &self.best {
            state.insert(BEST_NLL.to_string(), Tensor::new(&[best.nll], &Device::Cpu).map_err(tensor_error)?);
            state.extend(best.weights.iter().map(|(name, tensor)| (format!("{BEST}{name}"), tensor.clone())));
        }
        Ok(state)
    }

    /// Goes back to a checkpoint.
    pub fn restore(&mut self, saved: &dyn Blob) -> Result<()> {
        let saved = TensorFile::open(saved)?;
        self.trainer.restore(&saved)?;
        if saved.contains(BEST_NLL) {
            let nll = saved.tensor(BEST_NLL)?.to_vec1::<f64>().map_err(tensor_error)?.first().copied();
            let nll = nll.ok_or_else(|| Error::input(format!("saved `{BEST_NLL}` is empty")))?;
            self.best = Some(Best { nll, weights: saved.with_prefix(BEST)? });
        }
        Ok(())
    }
}

/// Mean negative log-prob over the rows of a source, where there are some.
fn nll_of(metrics: &StepMetrics, source: Source) -> Option<f64> {
    metrics.sources.iter().find(|sums| sums.source == source as u32).map(|sums| sums.nll)
}

pub fn to_row(metrics: StepMetrics) -> TrainStep {
    let of = |source: Source| nll_of(&metrics, source);
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
        nll_self: of(Source::SelfAligned),
        nll_guided: of(Source::Guided),
        nll_expert: of(Source::Expert),
        nll_teacher: of(Source::Teacher),
        skipped: metrics.skipped,
    }
}
