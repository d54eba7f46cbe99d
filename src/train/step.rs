//! The trainer: packed micro-batches forward and backward in parallel, gradients summed in micro-batch order, one update.
//!
//! How a step is cut into micro-batches depends on its examples and parameters only, and sums run in a fixed order, so the
//! number of threads cannot change a bit. Nothing else is remembered between steps than what [`Trainer::state`] returns.

use super::adamw::{AdamW, AdamWParams};
use super::gradients::Gradients;
use super::loss::{Loss, StepFacts, Talr, Token};
use super::metrics::{StepMetrics, Sums};
use super::packing::{MicroBatch, PackingParams, TrainExample, pack};
use super::schedule::Schedule;
use crate::base::error::{Error, Result};
use crate::model::config::Config;
use crate::model::ops::{self, tape};
use crate::model::tensor_error;
use crate::model::transformer::Transformer;
use crate::model::weights::expected_tensors;
use candle_core::{DType, Device, Tensor, Var};
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap};

/// What the loss of a step is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accumulation {
    /// One weighted mean over all target tokens of the step.
    TokenMean,
    /// Every micro-batch by its own tokens, the sum not divided: what the paper's released trainer does.
    MicroBatchSum,
}

/// What a trainer depends on besides its initial weights.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainerParams {
    pub loss: Loss,
    pub optimizer: AdamWParams,
    pub schedule: Schedule,
    pub packing: PackingParams,
    /// Largest global gradient norm; 0 does not clip.
    pub clip_norm: f64,
    pub accumulation: Accumulation,
    /// For the metrics and for `eos_weight` of the loss.
    pub eos_token_ids: Vec<u32>,
    /// Steps in a row without an update after which training stops with an error.
    pub skip_limit: u32,
    /// What weights and activations are held in; gradients' sums and moments are always f32.
    pub dtype: DType,
}

/// A policy being trained.
pub struct Trainer {
    config: Config,
    params: TrainerParams,
    vars: BTreeMap<String, Var>,
    /// Over the variables: its results lead back to them.
    model: Transformer,
    /// Over the same memory, without gradients.
    plain: Transformer,
    /// The policy of some steps ago, for losses that need it.
    old: Option<(BTreeMap<String, Tensor>, Transformer)>,
    optimizer: AdamW,
    step: u32,
    skipped_in_a_row: u32,
}

impl Trainer {
    /// Takes initial weights by Hugging Face name. Errors: a parameter outside its range, a missing or misshapen tensor.
    pub fn new(
        config: &Config,
        mut tensors: HashMap<String, Tensor>,
        params: TrainerParams,
        device: &Device,
    ) -> Result<Trainer> {
        params.loss.check()?;
        params.schedule.check()?;
        let mut vars = BTreeMap::new();
        for spec in expected_tensors(config) {
            let Some(tensor) = tensors.remove(&spec.name) else {
                return Err(Error::input(format!(
                    "tensor `{}` is missing; expected shape {:?}",
                    spec.name, spec.shape
                )));
            };
            // A copy: an update must not reach into tensors that others hold.
            let var = tensor
                .to_device(device)
                .and_then(|t| t.to_dtype(params.dtype)?.copy())
                .and_then(|t| Var::from_tensor(&t))
                .map_err(tensor_error)?;
            vars.insert(spec.name, var);
        }
        let build = |tensor: fn(&Var) -> Tensor| {
            let tensors = vars.iter().map(|(name, var)| (name.clone(), tensor(var))).collect();
            Transformer::from_tensors(config, tensors, params.dtype, device)
        };
        let model = build(|var| var.as_tensor().clone())?;
        let plain = build(Var::as_detached_tensor)?;
        let optimizer = AdamW::new(params.optimizer, &vars)?;
        let config = config.clone();
        Ok(Trainer { config, params, vars, model, plain, old: None, optimizer, step: 0, skipped_in_a_row: 0 })
    }

    /// Steps taken, skipped ones included; the next step's number.
    pub fn steps_done(&self) -> u32 {
        self.step
    }

    /// Copies of the weights by name.
    pub fn weights(&self) -> Result<BTreeMap<String, Tensor>> {
        let copy =
            |(name, var): (&String, &Var)| Ok((name.clone(), var.as_detached_tensor().copy().map_err(tensor_error)?));
        self.vars.iter().map(copy).collect()
    }

    /// One optimizer step over these examples. A loss or gradient that is not finite, or a step without any target, makes
    /// no update and says so in the metrics; after `skip_limit` such steps in a row it is an error.
    pub fn step(&mut self, examples: &[&TrainExample]) -> Result<StepMetrics> {
        self.refresh_old()?;
        let batches = pack(examples, &self.params.packing)?;
        let total = total_weight(examples, &batches);
        let facts = StepFacts { step: self.step, talr: self.talr(examples, &batches)? };
        let (mut sums, mut gradients) = (Sums::default(), None::<Gradients>);
        let width = 2 * rayon::current_num_threads().max(1);
        for wave in batches.chunks(width) {
            let passes: Vec<Result<(Gradients, Sums)>> =
                wave.par_iter().map(|batch| self.backward(examples, batch, &facts, total)).collect();
            for pass in passes {
                let (own, own_sums) = pass?;
                sums.add(&own_sums);
                match &mut gradients {
                    None => gradients = Some(own),
                    Some(gradients) => gradients.add(&own)?,
                }
            }
        }
        let loss = match self.params.accumulation {
            Accumulation::TokenMean => sums.loss,
            Accumulation::MicroBatchSum => sums.loss / batches.len().max(1) as f64,
        };
        let mut metrics = sums.metrics(self.step, loss);
        self.update(gradients, &mut metrics)?;
        self.step += 1;
        Ok(metrics)
    }

    /// Loss and metrics of examples without an update, as if they were one step.
    pub fn evaluate(&self, examples: &[&TrainExample]) -> Result<StepMetrics> {
        let batches = pack(examples, &self.params.packing)?;
        let total = total_weight(examples, &batches);
        let facts = StepFacts { step: self.step, talr: self.talr(examples, &batches)? };
        let passes: Vec<Result<Sums>> =
            batches.par_iter().map(|batch| Ok(self.forward(&self.plain, examples, batch, &facts, total)?.2)).collect();
        let mut sums = Sums::default();
        for pass in passes {
            sums.add(&pass?);
        }
        let mut metrics = sums.metrics(self.step, sums.loss);
        metrics.learning_rate = self.params.schedule.learning_rate(self.step);
        Ok(metrics)
    }

    /// Everything a resumed trainer needs: weights, moments, counters.
    pub fn state(&self) -> Result<HashMap<String, Tensor>> {
        let mut state = self.optimizer.state()?;
        state.extend(self.weights()?.into_iter().map(|(name, tensor)| (format!("weights.{name}"), tensor)));
        if let Some((tensors, _)) = &self.old {
            state.extend(tensors.iter().map(|(name, tensor)| (format!("old.{name}"), tensor.clone())));
        }
        let counters = [self.step, self.optimizer.updates(), self.skipped_in_a_row].map(i64::from);
        state.insert(COUNTERS.to_string(), Tensor::new(&counters, &Device::Cpu).map_err(tensor_error)?);
        Ok(state)
    }

    /// Goes back to a saved state of a trainer with the same model and parameters. Errors name what is missing or misshapen.
    pub fn restore(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let counters = take(state, COUNTERS)?.to_vec1::<i64>().map_err(tensor_error)?;
        let counters: Vec<u32> = counters.iter().filter_map(|c| u32::try_from(*c).ok()).collect();
        let [step, updates, skipped] = counters[..] else {
            return Err(Error::input(format!("saved `{COUNTERS}` does not hold three counts")));
        };
        let mut weights = Vec::new();
        for (name, var) in &self.vars {
            let key = format!("weights.{name}");
            let tensor = take(state, &key)?;
            if tensor.shape() != var.shape() {
                let (found, expected) = (tensor.dims(), var.dims());
                return Err(Error::input(format!("saved `{key}` has shape {found:?} instead of {expected:?}")));
            }
            let tensor = tensor.to_device(var.device()).and_then(|t| t.to_dtype(var.dtype()));
            weights.push((var, tensor.map_err(tensor_error)?));
        }
        self.optimizer.restore(state, updates)?;
        for (var, tensor) in weights {
            var.set(&tensor).map_err(tensor_error)?;
        }
        let old: BTreeMap<String, Tensor> =
            state.iter().filter_map(|(key, t)| Some((key.strip_prefix("old.")?.to_string(), t.clone()))).collect();
        self.old = if old.is_empty() { None } else { Some(self.frozen(old)?) };
        (self.step, self.skipped_in_a_row) = (step, skipped);
        Ok(())
    }

    /// Gradients and sums of one micro-batch.
    fn backward(
        &self,
        examples: &[&TrainExample],
        batch: &MicroBatch,
        facts: &StepFacts,
        total: f64,
    ) -> Result<(Gradients, Sums)> {
        if self.model.device().is_cpu() && self.params.dtype == DType::F32 {
            let ((log_probs, shares, sums), tape) =
                tape::record(|| self.forward(&self.model, examples, batch, facts, total).map_err(Failed))
                    .map_err(|Failed(error)| error)?;
            let mut gradients = tape.backward(&log_probs, shares).map_err(tensor_error)?;
            return Ok((Gradients::take(|var| gradients.remove(var), &self.vars)?, sums));
        }
        let (log_probs, shares, sums) = self.forward(&self.model, examples, batch, facts, total)?;
        let objective = (log_probs * shares).and_then(|x| x.sum_all()).map_err(tensor_error)?;
        let mut gradients = objective.backward().map_err(tensor_error)?;
        Ok((Gradients::take(|var| gradients.remove(var), &self.vars)?, sums))
    }

    /// The micro-batch's log-probs, each one's factor in the loss, and its sums.
    fn forward(
        &self,
        model: &Transformer,
        examples: &[&TrainExample],
        batch: &MicroBatch,
        facts: &StepFacts,
        total: f64,
    ) -> Result<(Tensor, Tensor, Sums)> {
        let (log_probs, mut tokens) = self.tokens(model, examples, batch)?;
        self.add_old(&mut tokens, batch)?;
        let weights = self.params.loss.weights(&tokens, facts);
        let row_weight = |token: &Token| f64::from(examples[token.example].weight);
        let divisor = match self.params.accumulation {
            Accumulation::TokenMean => total,
            Accumulation::MicroBatchSum => tokens.iter().map(row_weight).sum(),
        };
        let shares = tokens.iter().zip(&weights).map(|(t, w)| (-row_weight(t) * f64::from(*w) / divisor) as f32);
        let shares: Vec<f32> = shares.collect();
        let mut sums = Sums::default();
        sums.input_tokens = batch.token_ids.len() as u64;
        sums.add_tokens(&tokens, &weights, |token| examples[token.example].source);
        sums.loss = tokens.iter().zip(&shares).map(|(t, share)| f64::from(t.logprob) * f64::from(*share)).sum();
        let shares = Tensor::from_vec(shares, tokens.len(), log_probs.device()).map_err(tensor_error)?;
        Ok((log_probs, shares, sums))
    }

    /// Log-probs of a micro-batch's targets under a model, as a tensor and as facts.
    fn tokens(
        &self,
        model: &Transformer,
        examples: &[&TrainExample],
        batch: &MicroBatch,
    ) -> Result<(Tensor, Vec<Token>)> {
        let (log_probs, entropy) = target_logprobs(model, batch)?;
        let values = log_probs.to_vec1::<f32>().map_err(tensor_error)?;
        let mut tokens = Vec::with_capacity(values.len());
        for (i, origin) in batch.origins.iter().enumerate() {
            let example = examples[origin.example];
            let reference = example.logprob_reference.as_ref().map(|column| column[origin.token]);
            if reference.is_none() && self.params.loss.needs_reference() {
                let name = self.params.loss.name();
                return Err(Error::input(format!("loss `{name}` needs reference log-probs for every row"))
                    .at(format!("row {} of the batch", origin.example))
                    .hint("give the train stage a `logprobs` input made under the reference policy"));
            }
            tokens.push(Token {
                example: origin.example,
                logprob: values[i],
                entropy: entropy[i],
                reference,
                behavior: example.logprob_behavior.as_ref().map(|column| column[origin.token]),
                old: None,
                top_entropy: None,
                eos: self.params.eos_token_ids.contains(&batch.targets[i]),
            });
        }
        Ok((log_probs, tokens))
    }

    /// Fills in the log-probs under the old policy, if the loss has one.
    fn add_old(&self, tokens: &mut [Token], batch: &MicroBatch) -> Result<()> {
        let Some((_, old)) = &self.old else { return Ok(()) };
        let values = target_logprobs(old, batch)?.0.to_vec1::<f32>().map_err(tensor_error)?;
        for (token, value) in tokens.iter_mut().zip(values) {
            token.old = Some(value);
        }
        Ok(())
    }

    /// Statistics of the whole step, for a loss that needs them.
    fn talr(&self, examples: &[&TrainExample], batches: &[MicroBatch]) -> Result<Option<Talr>> {
        if !self.params.loss.needs_step_statistics() {
            return Ok(None);
        }
        let passes: Vec<Result<Vec<Token>>> =
            batches.par_iter().map(|batch| Ok(self.tokens(&self.plain, examples, batch)?.1)).collect();
        let mut tokens = Vec::new();
        for pass in passes {
            tokens.extend(pass?);
        }
        Ok(Some(Talr::of(&tokens)))
    }

    /// Replaces the old policy by the current one when its time has come.
    fn refresh_old(&mut self) -> Result<()> {
        if let Some(steps) = self.params.loss.refresh_steps()
            && (self.old.is_none() || self.step.is_multiple_of(steps))
        {
            self.old = Some(self.frozen(self.weights()?)?);
        }
        Ok(())
    }

    fn frozen(&self, tensors: BTreeMap<String, Tensor>) -> Result<(BTreeMap<String, Tensor>, Transformer)> {
        let own = tensors.clone().into_iter().collect();
        let model = Transformer::from_tensors(&self.config, own, self.params.dtype, self.plain.device())?;
        Ok((tensors, model))
    }

    /// Clips and updates, or skips; completes the metrics.
    fn update(&mut self, gradients: Option<Gradients>, metrics: &mut StepMetrics) -> Result<()> {
        metrics.learning_rate = self.params.schedule.learning_rate(self.step);
        let Some(gradients) = gradients else { return self.skip(metrics, "no target token in this step".to_string()) };
        metrics.grad_norm = gradients.norm()?;
        if !metrics.loss.is_finite() || !metrics.grad_norm.is_finite() {
            let reason = format!("loss `{}`, gradient norm `{}`", metrics.loss, metrics.grad_norm);
            return self.skip(metrics, reason);
        }
        metrics.clipped = self.params.clip_norm > 0.0 && metrics.grad_norm > self.params.clip_norm;
        let scale = if metrics.clipped { self.params.clip_norm / (metrics.grad_norm + 1e-6) } else { 1.0 };
        self.optimizer.update(&self.vars, gradients.tensors(), scale, metrics.learning_rate)?;
        self.skipped_in_a_row = 0;
        Ok(())
    }

    fn skip(&mut self, metrics: &mut StepMetrics, reason: String) -> Result<()> {
        self.skipped_in_a_row += 1;
        if self.skipped_in_a_row >= self.params.skip_limit.max(1) {
            let (count, step) = (self.skipped_in_a_row, self.step);
            return Err(Error::check(format!("{count} steps in a row made no update: {reason}"))
                .at(format!("step {step}"))
                .hint("lower the learning rate, or look for rows with extreme weights in this step's batch"));
        }
        metrics.skipped = Some(reason);
        Ok(())
    }
}

/// Carries an error of ours through a recording, which itself can only fail with candle's.
struct Failed(Error);

impl From<candle_core::Error> for Failed {
    fn from(error: candle_core::Error) -> Failed {
        Failed(tensor_error(error))
    }
}

const COUNTERS: &str = "trainer.counters";

fn take<'a>(state: &'a HashMap<String, Tensor>, key: &str) -> Result<&'a Tensor> {
    state.get(key).ok_or_else(|| Error::input(format!("saved state has no tensor `{key}`")))
}

/// Sum of the row weights over all target tokens.
fn total_weight(examples: &[&TrainExample], batches: &[MicroBatch]) -> f64 {
    batches.iter().flat_map(|b| &b.origins).map(|origin| f64::from(examples[origin.example].weight)).sum()
}

/// Log-probs of the targets and entropies of their distributions.
fn target_logprobs(model: &Transformer, batch: &MicroBatch) -> Result<(Tensor, Vec<f32>)> {
    let hidden = model.hidden(&batch.token_ids, &batch.segments)?;
    let rows = Tensor::new(&batch.rows[..], hidden.device()).map_err(tensor_error)?;
    let picked = ops::embedding(&hidden, &rows).map_err(tensor_error)?;
    ops::token_logprobs(&picked, model.head(), &batch.targets).map_err(tensor_error)
}
