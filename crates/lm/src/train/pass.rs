//! One micro-batch forward and backward: log-probs of its targets, their weights, and from these the gradients.

use super::gradients::Collector;
use super::loss::{StepFacts, Token};
use super::metrics::Sums;
use super::packing::{MicroBatch, Origin, TrainExample};
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
    /// `parts` are what samples with rewards and what other rows make of the loss, where it is a sum of two means.
    pub fn of(
        examples: &[&TrainExample],
        batches: &[MicroBatch],
        accumulation: Accumulation,
        parts: Option<[f64; 2]>,
    ) -> Shares {
        let targets = || batches.iter().flat_map(|batch| &batch.origins).map(|origin| origin.example);
        let mut lengths = vec![0u32; examples.len()];
        targets().for_each(|example| lengths[example] += 1);
        // What a row's sum over its tokens is divided by; none where tokens are what is counted.
        let divisor = |example: usize| match accumulation {
            Accumulation::TokenMean | Accumulation::MicroBatchSum { .. } => None,
            Accumulation::LongestOfProblem => Some(examples[example].longest.unwrap_or(lengths[example])),
            Accumulation::RowMean => Some(lengths[example]),
            Accumulation::Constant { length } => Some(length),
        };
        let weight = |example: usize| f64::from(examples[example].weight);
        let row = |example: usize| weight(example) / divisor(example).map_or(1.0, |length| f64::from(length.max(1)));
        // What is counted of the rows of which this holds.
        let total = |holds: &dyn Fn(usize) -> bool| -> f64 {
            match divisor(0) {
                None => targets().filter(|example| holds(*example)).map(weight).sum(),
                Some(_) => (0..examples.len()).filter(|e| lengths[*e] > 0 && holds(*e)).map(weight).sum(),
            }
        };
        let all = 0..examples.len();
        let Some(parts) = parts else {
            return Shares { rows: all.map(row).collect(), total: total(&|_| true) };
        };
        let part = |example: usize| usize::from(examples[example].advantage.is_none());
        let totals = [0, 1].map(|wanted| total(&|example| part(example) == wanted));
        let scaled =
            |example: usize| row(example) * parts[part(example)] / totals[part(example)].max(f64::MIN_POSITIVE);
        Shares { rows: all.map(scaled).collect(), total: 1.0 }
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
            Accumulation::MicroBatchSum { ranks } => f64::from(ranks) * tokens.iter().map(row_factor).sum::<f64>(),
            _ => self.shares.total,
        };
        let mut sums = Sums::default();
        sums.input_tokens = batch.token_ids.len() as u64;
        sums.add_tokens(&tokens, &weights, |token| self.examples[token.example].source);
        let factor = |token: &Token, weight: f32| row_factor(token) * f64::from(weight) / divisor;
        let factors = |weights: &[f32], sign: f64| -> Vec<f32> {
            tokens.iter().zip(weights).map(|(token, weight)| (sign * factor(token, *weight)) as f32).collect()
        };
        // Slopes by the log-probs; and the loss of every token where it is not the slope times the log-prob.
        let (slopes, told) = match self.soft_targets(batch) {
            None => (factors(&weights, -1.0), loss.values(&tokens)),
            Some(soft) => {
                let soft = self.distilled(soft, &flat(&log_probs)?, &tokens, &weights);
                let of_token = |(token, (slopes, _)): (&Token, &(Vec<f32>, f32))| -> Vec<f32> {
                    slopes.iter().map(|slope| factor(token, *slope) as f32).collect()
                };
                let slopes = tokens.iter().zip(&soft).flat_map(of_token).collect();
                (slopes, Some(soft.into_iter().map(|(_, value)| value).collect::<Vec<f32>>()))
            }
        };
        let mut terms = vec![(log_probs, slopes)];
        if let (Some(shares), Some((policy, there))) = (loss.reference_kl(&tokens), &reference) {
            let kl = ops::reference_kl(hidden, model.head(), (there, policy.head())).map_err(tensor_error)?;
            terms.push((kl, factors(&shares, 1.0)));
            // A cross-entropy is the divergence and what no policy can change: the reference's own entropy.
            let own = tokens.iter().zip(&shares);
            let own =
                own.filter_map(|(token, share)| Some(factor(token, *share) * f64::from(token.reference_entropy?)));
            sums.loss += own.sum::<f64>();
        }
        for (index, (values, slopes)) in terms.iter().enumerate() {
            sums.loss += match &told {
                Some(told) if index == 0 => {
                    tokens.iter().zip(told).map(|(token, value)| factor(token, *value)).sum::<f64>()
                }
                _ => flat(values)?.iter().zip(slopes).map(|(x, slope)| f64::from(*x) * f64::from(*slope)).sum(),
            };
        }
        let terms = terms.into_iter().map(|(values, slopes)| {
            let slopes = Tensor::from_vec(slopes, values.shape(), values.device()).map_err(tensor_error)?;
            Ok((values, slopes))
        });
        let terms = terms.collect::<Result<_>>()?;
        Ok(Objective { terms, sums })
    }

    /// What the teacher says in place of every target, where the loss goes by it: ids and log-probs.
    fn soft_targets<'b>(&'b self, batch: &'b MicroBatch) -> Option<Vec<(&'b [u32], &'b [f32])>> {
        self.params.loss.distill()?;
        batch.origins.iter().map(|origin| self.row(origin).soft.as_ref()?.of(origin.token)).collect()
    }

    /// Of every target the slopes by its own log-prob and those of the teacher's tokens behind it, and its loss.
    fn distilled(
        &self,
        soft: Vec<(&[u32], &[f32])>,
        log_probs: &[f32],
        tokens: &[Token],
        weights: &[f32],
    ) -> Vec<(Vec<f32>, f32)> {
        let distill = self.params.loss.distill().expect("there are soft targets");
        let width = log_probs.len() / tokens.len().max(1);
        let mut of_tokens = Vec::with_capacity(tokens.len());
        for (index, ((_, teacher), token)) in soft.into_iter().zip(tokens).enumerate() {
            let (told, share, weight) = (1..=teacher.len(), distill.share(token), weights[index]);
            let mut slopes = vec![0.0; width];
            let own = &log_probs[index * width..][told.clone()];
            let value = distill.divergence(teacher, own, &mut slopes[told]);
            slopes.iter_mut().for_each(|slope| *slope *= share);
            slopes[0] = -weight;
            of_tokens.push((slopes, share * value - weight * token.logprob));
        }
        of_tokens
    }

    /// Log-probs of the targets, as a tensor and as facts with the rows' stored columns. Where a teacher says something in their
    /// place, the tensor has those of its tokens behind each: `[targets, 1 + k]`.
    fn tokens(&self, model: &Transformer, picked: &Tensor, batch: &MicroBatch) -> Result<(Tensor, Vec<Token>)> {
        let missing = |origin: &Origin| Some((origin.example, self.params.loss.missing(self.row(origin))?));
        let mut examples = batch.origins.chunk_by(|a, b| a.example == b.example).map(|origins| &origins[0]);
        if let Some((index, (what, hint))) = examples.find_map(missing) {
            let name = self.params.loss.name();
            let error = Error::input(format!("loss `{name}` needs {what} for every row")).hint(hint);
            return Err(self.examples[index].locate(error, index));
        }
        let (log_probs, entropy) = match self.soft_targets(batch) {
            None => ops::token_logprobs(picked, model.head(), &batch.targets),
            Some(soft) => {
                let (chosen, width) = chosen(&batch.targets, &soft);
                ops::chosen_logprobs(picked, model.head(), &chosen, width)
            }
        }
        .map_err(tensor_error)?;
        let values = flat(&log_probs)?;
        let width = values.len() / batch.origins.len().max(1);
        let mut tokens = Vec::with_capacity(batch.origins.len());
        for (i, origin) in batch.origins.iter().enumerate() {
            let example = self.row(origin);
            tokens.push(Token {
                example: origin.example,
                logprob: values[i * width],
                entropy: entropy[i],
                reference: example.logprob_reference.as_ref().map(|column| column[origin.token]),
                reference_entropy: None,
                behavior: example.logprob_behavior.as_ref().map(|column| column[origin.token]),
                advantage: example.advantage,
                old: None,
                top_entropy: None,
                eos: self.params.eos_token_ids.contains(&batch.targets[i]),
            });
        }
        Ok((log_probs, tokens))
    }

    fn row(&self, origin: &Origin) -> &TrainExample {
        self.examples[origin.example]
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

fn flat(values: &Tensor) -> Result<Vec<f32>> {
    values.flatten_all().and_then(|values| values.to_vec1()).map_err(tensor_error)
}

/// Every target and the teacher's tokens behind it, `[targets, width]`, and the width. Where the teacher says less, the target
/// itself fills the row: it has no slope there.
fn chosen(targets: &[u32], soft: &[(&[u32], &[f32])]) -> (Vec<u32>, usize) {
    let width = 1 + soft.iter().map(|(ids, _)| ids.len()).max().unwrap_or(0);
    let mut chosen = Vec::with_capacity(width * targets.len());
    for (index, (target, (ids, _))) in targets.iter().zip(soft).enumerate() {
        chosen.push(*target);
        chosen.extend_from_slice(ids);
        chosen.resize((index + 1) * width, *target);
    }
    (chosen, width)
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
