//! The trainer: packed micro-batches forward and backward in parallel, gradients summed in micro-batch order, one update.
//!
//! How a step is cut into micro-batches depends on its examples and parameters only, and sums run in a fixed order, so the
//! number of threads cannot change a bit. Nothing else is remembered between steps than what [`Trainer::state`] returns.

use super::adamw::AdamW;
use super::gradients::{Collector, Gradients};
use super::loss::{Loss, StepFacts, Talr, Token};
use super::metrics::{StepMetrics, Sums};
use super::packing::{MicroBatch, TrainExample, pack};
use super::params::{Accumulation, TrainerParams};
use super::pass::{Pass, Policies, Shares};
use crate::model::config::Config;
use crate::model::ops;
use crate::model::tensor_error;
use crate::model::tensors::{Put, TensorFile};
use crate::model::transformer::{Numbers, Transformer, check_token_ids};
use crate::model::weights::{self, expected_tensors};
use candle_core::{DType, Device, Tensor, Var};
use mindgap_base::error::{Error, Result};
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap};

/// A policy being trained.
pub struct Trainer {
    config: Config,
    params: TrainerParams,
    /// Weights that are not trained: the policy's own where adapters are trained, else none.
    frozen: HashMap<String, Tensor>,
    /// What is trained.
    vars: BTreeMap<String, Var>,
    policies: Policies,
    /// The values of `vars` behind `policies.old`, for the saved state.
    old_weights: BTreeMap<String, Tensor>,
    optimizer: AdamW,
    step: u32,
    skipped_in_a_row: u32,
    device: Device,
}

impl Trainer {
    /// Takes initial weights by Hugging Face name. Errors: a parameter outside its range, a missing or misshapen tensor.
    pub fn new(
        config: &Config,
        mut tensors: HashMap<String, Tensor>,
        params: TrainerParams,
        device: &Device,
    ) -> Result<Trainer> {
        params.check()?;
        let mut frozen = HashMap::new();
        for spec in expected_tensors(config) {
            let Some(tensor) = tensors.remove(&spec.name) else {
                return Err(Error::input(format!(
                    "tensor `{}` is missing; expected shape {:?}",
                    spec.name, spec.shape
                )));
            };
            let held = params.initial_type(device);
            let held = if spec.shape.len() == 1 { ops::vector_type(held, device) } else { held };
            let tensor = tensor.to_device(device).and_then(|t| t.to_dtype(held)).map_err(tensor_error)?;
            frozen.insert(spec.name, tensor);
        }
        let trained = match &params.lora {
            Some(lora) => lora.init(config, params.seed)?,
            None => std::mem::take(&mut frozen).into_iter().collect(),
        };
        let mut vars = BTreeMap::new();
        for (name, tensor) in trained {
            // A copy: an update must not reach into tensors that others hold.
            let tensor = tensor.to_device(device).and_then(|t| t.to_dtype(params.trained_type(device))?.copy());
            vars.insert(name, tensor.and_then(|t| Var::from_tensor(&t)).map_err(tensor_error)?);
        }
        if params.rounds(device) {
            round(&vars, params.dtype)?;
        }
        let over = |tensor: fn(&Var) -> Tensor| {
            let trained = vars.iter().map(|(name, var)| (name.clone(), tensor(var))).collect();
            transformer(config, &params, &frozen, trained, device)
        };
        let reference = match (params.loss.holds_reference(), &params.lora) {
            (false, _) => None,
            // Without its adapters the policy is what it was at first.
            (true, Some(_)) => {
                Some(Transformer::from_tensors(config, frozen.clone(), numbers(&params, device), device)?)
            }
            (true, None) => Some(transformer(config, &params, &frozen, copies(&vars)?, device)?),
        };
        let policies = Policies {
            model: over(|var| var.as_tensor().clone())?,
            plain: over(Var::as_detached_tensor)?,
            reference,
            old: None,
        };
        Ok(Trainer {
            config: config.clone(),
            optimizer: AdamW::new(params.optimizer, &vars)?
                .rounding(params.rounds_stochastically().then_some(params.seed)),
            params,
            frozen,
            vars,
            policies,
            old_weights: BTreeMap::new(),
            step: 0,
            skipped_in_a_row: 0,
            device: device.clone(),
        })
    }

    /// Steps taken, skipped ones included; the next step's number.
    pub fn steps_done(&self) -> u32 {
        self.step
    }

    /// Copies in the host's memory of what is trained, by name: all weights, or the adapters.
    pub fn weights(&self) -> Result<BTreeMap<String, Tensor>> {
        copies(&self.vars)
    }

    /// The same without a copy: it shares the trainer's memory, and the next step changes it.
    pub fn live_weights(&self) -> BTreeMap<String, Tensor> {
        self.vars.iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect()
    }

    /// A tensor of the whole policy, from what [`Trainer::weights`] gave: an adapter is merged into it. In the host's memory, in
    /// the trainer's `dtype`.
    pub fn policy_tensor(&self, trained: &BTreeMap<String, Tensor>, name: &str) -> Result<Tensor> {
        let missing = || Error::internal(format!("no tensor `{name}` was trained"));
        let tensor = match &self.params.lora {
            Some(lora) => lora.merged(name, self.frozen.get(name).ok_or_else(missing)?, trained)?,
            None => trained.get(name).ok_or_else(missing)?.clone(),
        };
        tensor.to_dtype(self.params.dtype).and_then(|t| t.to_device(&Device::Cpu)).map_err(tensor_error)
    }

    /// The whole policy as a file, a tensor at a time.
    pub fn write_policy(&self, trained: &BTreeMap<String, Tensor>, put: &mut Put) -> Result<()> {
        weights::write_each(&self.config, self.params.dtype, |name| self.policy_tensor(trained, name), put)
    }

    /// One optimizer step over these examples. A loss or gradient that is not finite, or a step without any target, makes
    /// no update and says so in the metrics; after `skip_limit` such steps in a row it is an error. Errors name the step, and
    /// the example where it is one's.
    pub fn step(&mut self, examples: &[&TrainExample]) -> Result<StepMetrics> {
        let step = self.step;
        self.take_step(examples).map_err(|e| e.at(format!("step {step}")))
    }

    fn take_step(&mut self, examples: &[&TrainExample]) -> Result<StepMetrics> {
        self.refresh_old()?;
        let batches = self.pack(examples)?;
        let pass = self.pass(examples, &batches)?;
        let (mut sums, mut gradients) = (Sums::default(), Gradients::default());
        if self.has_one_batch_at_a_time() {
            let mut collector = Collector::new(&self.vars);
            batches.iter().try_for_each(|batch| {
                sums.add(&pass.backward(batch, &mut collector)?);
                Ok(())
            })?;
            gradients = collector.into_sums();
        } else {
            let work = |batch: &MicroBatch| {
                let mut collector = Collector::new(&self.vars);
                let sums = pass.backward(batch, &mut collector)?;
                Ok((collector.into_sums(), sums))
            };
            self.for_each(&batches, work, |(own, own_sums)| {
                sums.add(&own_sums);
                gradients.add(own)
            })?;
        }
        let mut metrics = sums.metrics(self.step, self.mean_loss(&sums, batches.len()));
        self.update((!batches.is_empty()).then_some(gradients), &mut metrics)?;
        self.step += 1;
        Ok(metrics)
    }

    /// On a device, and where the weights are many: the activations and gradients of one micro-batch exist at a time, and its
    /// operators share the threads.
    fn has_one_batch_at_a_time(&self) -> bool {
        !self.device.is_cpu() || self.config.parameter_count() > SIDE_BY_SIDE
    }

    /// Micro-batches of examples whose tokens are all in the vocabulary.
    fn pack(&self, examples: &[&TrainExample]) -> Result<Vec<MicroBatch>> {
        for (index, example) in examples.iter().enumerate() {
            check_token_ids(&self.config, &example.token_ids).map_err(|e| example.locate(e, index))?;
        }
        pack(examples, &self.params.packing)
    }

    /// The loss needs more of every row than its tokens.
    pub fn needs_columns(&self) -> bool {
        self.params.loss.missing(&TrainExample::new(Vec::new(), Vec::new(), 0)).is_some()
    }

    /// Loss and metrics of examples without an update, as if they were one step. Where the loss needs what some row
    /// lacks, they are those of `sft`.
    pub fn evaluate(&self, examples: &[&TrainExample]) -> Result<StepMetrics> {
        let batches = self.pack(examples)?;
        let mut plain = self.params.clone();
        plain.loss = Loss::Sft {};
        let lacking = examples.iter().any(|row| self.params.loss.missing(row).is_some());
        let mut pass = self.pass(examples, &batches)?;
        if lacking {
            pass.params = &plain;
        }
        let mut sums = Sums::default();
        self.for_each(
            &batches,
            |batch| pass.evaluate(batch),
            |own| {
                sums.add(&own);
                Ok(())
            },
        )?;
        let mut metrics = sums.metrics(self.step, self.mean_loss(&sums, batches.len()));
        metrics.learning_rate = self.params.schedule.learning_rate(self.step);
        Ok(metrics)
    }

    /// Does the work of every micro-batch and takes the results in order: one after the other, or some side by side, one per
    /// thread.
    fn for_each<T: Send>(
        &self,
        batches: &[MicroBatch],
        work: impl Fn(&MicroBatch) -> Result<T> + Sync,
        mut take: impl FnMut(T) -> Result<()>,
    ) -> Result<()> {
        if self.has_one_batch_at_a_time() {
            return batches.iter().try_for_each(|batch| take(work(batch)?));
        }
        for wave in batches.chunks(2 * rayon::current_num_threads().max(1)) {
            let results: Vec<Result<T>> = wave.par_iter().map(&work).collect();
            results.into_iter().try_for_each(|result| take(result?))?;
        }
        Ok(())
    }

    fn mean_loss(&self, sums: &Sums, batch_count: usize) -> f64 {
        match self.params.accumulation {
            Accumulation::MicroBatchSum { ranks } => sums.loss * f64::from(ranks) / batch_count.max(1) as f64,
            _ => sums.loss,
        }
    }

    /// Everything a resumed trainer needs: weights, moments, counters. It shares the trainer's memory, and the next step changes
    /// it: to be written now.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut state = self.optimizer.state();
        state.extend(self.live_weights().into_iter().map(|(name, tensor)| (format!("weights.{name}"), tensor)));
        state.extend(self.old_weights.iter().map(|(name, tensor)| (format!("{OLD}{name}"), tensor.clone())));
        let counters = [self.step, self.optimizer.updates(), self.skipped_in_a_row].map(i64::from);
        state.insert(COUNTERS.to_string(), Tensor::new(&counters, &Device::Cpu).map_err(tensor_error)?);
        Ok(state)
    }

    /// Goes back to a saved state of a trainer with the same model and parameters, a tensor at a time. Errors name what is
    /// missing or misshapen; nothing is changed then.
    pub fn restore(&mut self, saved: &TensorFile) -> Result<()> {
        let counters = saved.tensor(COUNTERS)?.to_vec1::<i64>().map_err(tensor_error)?;
        let counters: Vec<u32> = counters.iter().filter_map(|c| u32::try_from(*c).ok()).collect();
        let [step, updates, skipped] = counters[..] else {
            return Err(Error::input(format!("saved `{COUNTERS}` does not hold three counts")));
        };
        let key = |name: &String| format!("weights.{name}");
        self.vars.iter().try_for_each(|(name, var)| saved.check(&key(name), var.dims()))?;
        self.optimizer.restore(saved, updates)?;
        for (name, var) in &self.vars {
            let tensor = saved.tensor(&key(name))?.to_dtype(var.dtype()).and_then(|t| t.to_device(var.device()));
            tensor.and_then(|t| var.set(&t)).map_err(tensor_error)?;
        }
        let old = match self.params.loss.refresh_steps() {
            Some(_) => saved.with_prefix(OLD)?,
            None => BTreeMap::new(),
        };
        if !old.is_empty() {
            self.set_old(old)?;
        }
        (self.step, self.skipped_in_a_row) = (step, skipped);
        Ok(())
    }

    /// What all micro-batches of a step share.
    fn pass<'a>(&'a self, examples: &'a [&'a TrainExample], batches: &[MicroBatch]) -> Result<Pass<'a>> {
        let facts = StepFacts { step: self.step, talr: None };
        let shares = Shares::of(examples, batches, self.params.accumulation, self.params.loss.parts(self.step));
        let mut pass = Pass { policies: &self.policies, params: &self.params, examples, facts, shares };
        if self.params.loss.needs_step_statistics() {
            let mut tokens: Vec<Token> = Vec::new();
            self.for_each(
                batches,
                |batch| pass.facts(batch),
                |own| {
                    tokens.extend(own);
                    Ok(())
                },
            )?;
            pass.facts.talr = Some(Talr::of(&tokens));
        }
        Ok(pass)
    }

    /// Replaces the old policy by the current one when its time has come.
    fn refresh_old(&mut self) -> Result<()> {
        if let Some(steps) = self.params.loss.refresh_steps()
            && (self.policies.old.is_none() || self.step.is_multiple_of(steps))
        {
            self.set_old(self.weights()?)?;
        }
        Ok(())
    }

    fn set_old(&mut self, tensors: BTreeMap<String, Tensor>) -> Result<()> {
        let old = transformer(&self.config, &self.params, &self.frozen, tensors.clone(), &self.device)?;
        self.policies.old = Some(old);
        self.old_weights = tensors;
        Ok(())
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
        if self.params.rounds(&self.device) && !self.params.rounds_stochastically() {
            round(&self.vars, self.params.dtype)?;
        }
        self.skipped_in_a_row = 0;
        Ok(())
    }

    fn skip(&mut self, metrics: &mut StepMetrics, reason: String) -> Result<()> {
        self.skipped_in_a_row += 1;
        if self.skipped_in_a_row >= self.params.skip_limit.max(1) {
            let count = self.skipped_in_a_row;
            return Err(Error::check(format!("{count} steps in a row made no update: {reason}"))
                .hint("lower the learning rate, or look for rows with extreme weights in this step's batch"));
        }
        metrics.skipped = Some(reason);
        Ok(())
    }
}

/// A transformer over what is trained and what is not.
fn transformer(
    config: &Config,
    params: &TrainerParams,
    frozen: &HashMap<String, Tensor>,
    trained: BTreeMap<String, Tensor>,
    device: &Device,
) -> Result<Transformer> {
    let Some(lora) = &params.lora else {
        return Transformer::from_tensors(config, trained.into_iter().collect(), numbers(params, device), device);
    };
    let mut model = Transformer::from_tensors(config, frozen.clone(), numbers(params, device), device)?;
    lora.attach(&mut model, &trained)?;
    Ok(model)
}

fn numbers(params: &TrainerParams, device: &Device) -> Numbers {
    Numbers { held: params.initial_type(device), products: params.dtype }
}

/// Rounds variables to another type, and leaves them in theirs.
fn round(vars: &BTreeMap<String, Var>, dtype: DType) -> Result<()> {
    let round = |var: &Var| var.set(&var.as_detached_tensor().to_dtype(dtype)?.to_dtype(var.dtype())?);
    vars.values().try_for_each(round).map_err(tensor_error)
}

/// Copies in the host's memory: a device has none to spare for a second set of weights.
fn copies(vars: &BTreeMap<String, Var>) -> Result<BTreeMap<String, Tensor>> {
    let copy = |var: &Var| match var.device() {
        Device::Cpu => var.as_detached_tensor().copy(),
        _ => var.as_detached_tensor().to_device(&Device::Cpu),
    };
    vars.iter().map(|(name, var)| Ok((name.clone(), copy(var).map_err(tensor_error)?))).collect()
}

/// Parameters up to which micro-batches go side by side, each with gradients of its own.
const SIDE_BY_SIDE: usize = 50_000_000;

const COUNTERS: &str = "trainer.counters";
/// How the names of the old policy's weights begin.
const OLD: &str = "old.";
