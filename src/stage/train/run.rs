//! A training under way: steps, evaluations, the best weights so far, and the checkpoint that holds it all.

use candle_core::{Device, Tensor};
use mindgap_base::error::{Error, Result};
use mindgap_lm::model::tensor_error;
use mindgap_lm::train::{StepMetrics, TrainExample, Trainer};
use mindgap_store::table::rewrites::Source;
use mindgap_store::table::train_steps::{TrainEval, TrainStep};
use std::collections::{BTreeMap, HashMap};

/// The trainer, and what the stage remembers beside it.
pub struct Run {
    pub trainer: Trainer,
    pub best: Option<Best>,
}

/// The weights with the lowest held-out negative log-prob so far.
pub struct Best {
    nll: f64,
    pub weights: BTreeMap<String, Tensor>,
}

const BEST_NLL: &str = "best-nll";
const BEST: &str = "best.";

impl Run {
    /// Measures held-out rows, and keeps the weights if they are the best so far.
    pub fn evaluate(&mut self, held_out: &[TrainExample]) -> Result<TrainEval> {
        let rows: Vec<&TrainExample> = held_out.iter().collect();
        let metrics = self.trainer.evaluate(&rows)?;
        let best = self.best.as_ref().is_none_or(|best| metrics.nll < best.nll);
        if best {
            self.best = Some(Best { nll: metrics.nll, weights: self.trainer.weights()? });
        }
        let of = |source: Source| nll_of(&metrics, source);
        Ok(TrainEval {
            step: metrics.step,
            nll: metrics.nll,
            loss: (!self.trainer.needs_reference()).then_some(metrics.loss),
            token_count: metrics.token_count,
            eos_probability: metrics.eos_probability,
            nll_self: of(Source::SelfAligned),
            nll_guided: of(Source::Guided),
            nll_expert: of(Source::Expert),
            best,
        })
    }

    /// The checkpoint: the trainer's state, and the best weights where there are some.
    pub fn save(&self) -> Result<Vec<u8>> {
        let mut state: BTreeMap<String, Tensor> = self.trainer.state()?.into_iter().collect();
        if let Some(best) = &self.best {
            state.insert(BEST_NLL.to_string(), Tensor::new(&[best.nll], &Device::Cpu).map_err(tensor_error)?);
            state.extend(best.weights.iter().map(|(name, tensor)| (format!("{BEST}{name}"), tensor.clone())));
        }
        safetensors::serialize(state, None).map_err(|e| Error::internal("cannot write a checkpoint").source(e))
    }

    /// Goes back to a checkpoint.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<()> {
        let state: HashMap<String, Tensor> = candle_core::safetensors::load_buffer(bytes, &Device::Cpu)
            .map_err(|e| Error::input("checkpoint does not load").source(e))?;
        self.trainer.restore(&state)?;
        if let Some(nll) = state.get(BEST_NLL) {
            let nll = nll.to_vec1::<f64>().map_err(tensor_error)?.first().copied();
            let nll = nll.ok_or_else(|| Error::input(format!("saved `{BEST_NLL}` is empty")))?;
            let own = |(name, tensor): (&String, &Tensor)| Some((name.strip_prefix(BEST)?.to_string(), tensor.clone()));
            self.best = Some(Best { nll, weights: state.iter().filter_map(own).collect() });
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
        skipped: metrics.skipped,
    }
}
