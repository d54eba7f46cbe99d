//! One micro-batch forward and backward: log-probs of its targets, their weights, and from these the gradients.

use super::gradients::Collector;
use super::loss::{StepFacts, Token};
use super::metrics::Sums;
use super::packing::{MicroBatch, TrainExample};
use super::params::{Accumulation, TrainerParams};
use crate::model::ops::{self, tape};
use crate::model::tensor_error;
use crate::model::transformer::Transformer;
use candle_core::Tensor;
use mindgap_base::error::{Error, Result};

/// The policy in its several roles.
pub(super) struct Policies {
    /// Over the variables: its results lead back to them.
    pub model: Transformer,
    /// Over the same memory, without gradients.
    pub plain: Transformer,
    /// As it was at first, for a penalty on leaving it.
    pub reference: Option<Transformer>,
    /// As it was some steps ago.
    pub old: Option<Transformer>,
}

/// What the micro-batches of a step share.
pub(super) struct Pass<'a> {
    pub policies: &'a Policies,
    pub params: &'a TrainerParams,
    pub examples: &'a [&'a TrainExample],
    pub facts: StepFacts,
    pub shares: Shares,
}

/// The rows' shares in the loss of a step. They are the same however the step is cut.
pub(super) struct Shares {
    /// What multiplies the loss of every token, by example.
    rows: Vec<f64>,
    /// What the step's sum is divided by.
    total: f64,
}

impl Shares {
    pub fn of(examples: &[&TrainExample], batches: &[MicroBatch], accumulation: Accumulation) -> Shares {
        let weight = |example: usize| f64::from(examples[example].weight);
        let targets = || batches.iter().flat_map(|batch| &batch.origins).map(|origin| origin.example);
        let all = 0..examples.len();
        match accumulation {
            Accumulation::LongestOfProblem => {
                let mut lengths = vec![0u32; examples.len()];
                targets().for_each(|example| lengths[example] += 1);
                let longest = |example: usize| f64::from(examples[example].longest.unwrap_or(lengths[example]).max(1));
                Shares {
                    rows: all.clone().map(|example| weight(example) / longest(example)).collect(),
                    total: all.filter(|example| lengths[*example] > 0).map(weight).sum(),
                }
            }
            Accumulation::TokenMean | Accumulation::MicroBatchSum { .. } => {
                Shares { rows: all.map(weight).collect(), total: targets().map(weight).sum() }
            }
        }
    }
}

/// A micro-batch's part of the loss: the sum of `values * factors` over the terms.
pub(super) struct Objective {
    /// Log-probs of the targets, and divergences from the reference if the loss has such a penalty.
    pub terms: Vec<(Tensor, Tensor)>,
    pub sums: Sums,
}

impl Pass<'_> {
    /// Adds the gradients of one micro-batch, and returns its sums.
    pub fn backward(&self, batch: &MicroBatch, gradients: &mut Collector) -> Result<Sums> {
        let sums = match self.params.gradient_checkpointing {
            true => self.backward_by_blocks(batch, gradients)?,
            false => self.backward_at_once(batch, gradients)?,
        };
        gradients.end_batch()?;
        Ok(sums)
    }

    fn backward_at_once(&self, batch: &MicroBatch, gradients: &mut Collector) -> Result<Sums> {
        let model = &self.policies.model;
        let recorded = tape::record(|| {
            picked(model, batch).and_then(|hidden| self.objective(model, &hidden, batch)).map_err(Failed)
        });
        let (objective, tape) = recorded.map_err(|Failed(error)| error)?;
        tape.backward(objective.terms, &mut |variable, own| gradients.take(variable, own)).map_err(tensor_error)?;
        Ok(objective.sums)
    }

    /// The sums of one micro-batch, without gradients.
    pub fn evaluate(&self, batch: &MicroBatch) -> Result<Sums> {
        let plain = &self.policies.plain;
        Ok(self.objective(plain, &picked(plain, batch)?, batch)?.sums)
    }

    /// What is known about the micro-batch's targets before any weight.
    pub fn facts(&self, batch: &MicroBatch) -> Result<Vec<Token>> {
        let picked = picked(&self.policies.plain, batch)?;
        Ok(self.tokens(&self.policies.plain, &picked, batch)?.1)
    }

    /// From the hidden states that predict the targets.
    pub(super) fn objective(&self, model: &Transformer, hidden: &Tensor, batch: &MicroBatch) -> Result<Objective> {
        let loss = &self.params.loss;
        let (log_probs, mut tokens) = self.tokens(model, hidden, batch)?;
        let reference = self.policies.reference.as_ref().map(|policy| Ok((policy, picked(policy, batch)?)));
        let reference = reference.transpose()?;
        self.complete(&mut tokens, (model, hidden), reference.as_ref(), batch)?;
        let weights = loss.weights(&tokens, &self.facts);
        let row_factor = |token: &Token| self.shares.rows[token.example];
        let divisor = match self.params.accumulation {
            Accumulation::TokenMean | Accumulation::LongestOfProblem => self.shares.total,
            Accumulation::MicroBatchSum { ranks } => f64::from(ranks) * tokens.iter().map(row_factor).sum::<f64>(),
        };
        let mut sums = Sums::default();
        sums.input_tokens = batch.token_ids.len() as u64;
        sums.add_tokens(&tokens, &weights, |token| self.examples[token.example].source);
        let factor = |token: &Token, weight: f32| row_factor(token) * f64::from(weight) / divisor;
        let factors = |weights: &[f32], sign: f64| -> Vec<f32> {
            tokens.iter().zip(weights).map(|(token, weight)| (sign * factor(token, *weight)) as f32).collect()
        };
        let mut terms = vec![(log_probs, factors(&weights, -1.0))];
        if let (Some(shares), Some((policy, there))) = (loss.reference_kl(&tokens), &reference) {
            let kl = ops::reference_kl(hidden, model.head(), (there, policy.head())).map_err(tensor_error)?;
            terms.push((kl, factors(&shares, 1.0)));
            // A cross-entropy is the divergence and what no policy can change: the reference's own entropy.
            let own = tokens.iter().zip(&shares);
            let own =
                own.filter_map(|(token, share)| Some(factor(token, *share) * f64::from(token.reference_entropy?)));
            sums.loss += own.sum::<f64>();
        }
        let terms = terms.into_iter().map(|(values, factors)| {
            let own = values.to_vec1::<f32>().map_err(tensor_error)?;
            sums.loss += own.iter().zip(&factors).map(|(x, factor)| f64::from(*x) * f64::from(*factor)).sum::<f64>();
            let factors = Tensor::from_vec(factors, own.len(), values.device()).map_err(tensor_error)?;
            Ok((values, factors))
        });
        let terms = terms.collect::<Result<_>>()?;
        Ok(Objective { terms, sums })
    }

    /// Log-probs of the targets, as a tensor and as facts with the rows' stored columns.
    fn tokens(&self, model: &Transformer, picked: &Tensor, batch: &MicroBatch) -> Result<(Tensor, Vec<Token>)> {
        let (log_probs, entropy) = ops::token_logprobs(picked, model.head(), &batch.targets).map_err(tensor_error)?;
        let values = log_probs.to_vec1::<f32>().map_err(tensor_error)?;
        let mut tokens = Vec::with_capacity(values.len());
        for (i, origin) in batch.origins.iter().enumerate() {
            let example = self.examples[origin.example];
            let reference = example.logprob_reference.as_ref().map(|column| column[origin.token]);
            if reference.is_none() && self.params.loss.needs_reference() {
                let name = self.params.loss.name();
                let error = Error::input(format!("loss `{name}` needs reference log-probs for every row"))
                    .hint("give the train stage a `logprobs` input made under the reference policy");
                return Err(example.locate(error, origin.example));
            }
            tokens.push(Token {
                example: origin.example,
                logprob: values[i],
                entropy: entropy[i],
                reference,
                reference_entropy: None,
                behavior: example.logprob_behavior.as_ref().map(|column| column[origin.token]),
                old: None,
                top_entropy: None,
                eos: self.params.eos_token_ids.contains(&batch.targets[i]),
            });
        }
        Ok((log_probs, tokens))
    }

    /// Adds the facts that only some losses ask for.
    fn complete(
        &self,
        tokens: &mut [Token],
        (model, picked): (&Transformer, &Tensor),
        reference: Option<&(&Transformer, Tensor)>,
        batch: &MicroBatch,
    ) -> Result<()> {
        if let (true, Some((policy, hidden))) = (self.params.loss.compares_with_held(), reference) {
            let (log_probs, entropy) =
                ops::token_logprobs(hidden, policy.head(), &batch.targets).map_err(tensor_error)?;
            let log_probs = log_probs.to_vec1::<f32>().map_err(tensor_error)?;
            for (token, (log_prob, entropy)) in tokens.iter_mut().zip(log_probs.into_iter().zip(entropy)) {
                (token.reference, token.reference_entropy) = (Some(log_prob), Some(entropy));
            }
        }
        if let (Some(_), Some(old)) = (self.params.loss.refresh_steps(), &self.policies.old) {
            let hidden = self::picked(old, batch)?;
            let log_probs = ops::token_logprobs(&hidden, old.head(), &batch.targets).map_err(tensor_error)?.0;
            for (token, value) in tokens.iter_mut().zip(log_probs.to_vec1::<f32>().map_err(tensor_error)?) {
                token.old = Some(value);
            }
        }
        if let Some(k) = self.params.loss.top_k() {
            let entropy = ops::top_entropy(picked, model.head(), k as usize).map_err(tensor_error)?;
            for (token, value) in tokens.iter_mut().zip(entropy) {
                token.top_entropy = Some(value);
            }
        }
        Ok(())
    }
}

/// Hidden states of the rows that predict the targets.
fn picked(model: &Transformer, batch: &MicroBatch) -> Result<Tensor> {
    pick(&model.hidden(&batch.token_ids, &batch.segments)?, batch)
}

/// The rows of these hidden states that predict the targets.
pub(super) fn pick(hidden: &Tensor, batch: &MicroBatch) -> Result<Tensor> {
    let rows = Tensor::new(&batch.rows[..], hidden.device()).map_err(tensor_error)?;
    ops::embedding(hidden, &rows).map_err(tensor_error)
}

/// Carries an error of ours through a recording, which itself can only fail with candle's.
pub(super) struct Failed(pub Error);

impl From<candle_core::Error> for Failed {
    fn from(error: candle_core::Error) -> Failed {
        Failed(tensor_error(error))
    }
}
