//! Examples become micro-batches: sequences one after the other, without padding, in the order given.
//!
//! A token counts where the loss mask is true; it is predicted by the row before it. What follows an example's last target
//! can influence nothing and is left out, and so is the last target itself as an input.

use super::loss::SoftTargets;
use crate::model::ops::Segments;
use mindgap_base::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// One training row.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainExample {
    /// Where it comes from, for errors: a problem, say. Empty where nobody said.
    pub name: String,
    /// Prompt and target together.
    pub token_ids: Vec<u32>,
    /// Per token: it is a target. The first token never is, as nothing predicts it.
    pub loss_mask: Vec<bool>,
    /// Group for the metrics, such as self, guided, expert.
    pub source: u32,
    /// What multiplies the loss of all its tokens; 0 or more.
    pub weight: f32,
    /// Targets of the longest row of its problem, for a mean that is taken by problem; its own where nobody said.
    pub longest: Option<u32>,
    /// Per token, for losses that compare with a frozen reference policy: natural log-prob.
    pub logprob_reference: Option<Vec<f32>>,
    /// Per token, for losses that compare with the policy the tokens were sampled from: natural log-prob.
    pub logprob_behavior: Option<Vec<f32>>,
    /// What a teacher would have said in place of its targets.
    pub soft: Option<SoftTargets>,
    /// For losses of rewards: what its reward is above the mean of its problem's, scaled.
    pub advantage: Option<f32>,
}

impl TrainExample {
    /// A row of weight 1 without stored log-probs.
    pub fn new(token_ids: Vec<u32>, loss_mask: Vec<bool>, source: u32) -> TrainExample {
        TrainExample {
            name: String::new(),
            token_ids,
            loss_mask,
            source,
            weight: 1.0,
            longest: None,
            logprob_reference: None,
            logprob_behavior: None,
            soft: None,
            advantage: None,
        }
    }

    /// Says of an error that it is about this example, the `index`th of its batch.
    pub(super) fn locate(&self, error: Error, index: usize) -> Error {
        let error = if self.name.is_empty() { error } else { error.at(&self.name) };
        error.at(format!("row {index} of the batch"))
    }
}

/// What to do with an example longer than `max_length`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TooLong {
    Error,
    /// Keep the first `max_length` tokens.
    TruncateRight,
}

/// How examples are packed. The result is a function of these and the examples, never of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PackingParams {
    /// Tokens per micro-batch; a longer example is a micro-batch of its own.
    pub micro_batch_tokens: usize,
    /// Rows per micro-batch; 0 is no bound.
    pub micro_batch_rows: usize,
    /// Tokens per example, prompt and target together.
    pub max_length: usize,
    pub too_long: TooLong,
}

impl Default for PackingParams {
    fn default() -> PackingParams {
        PackingParams { micro_batch_tokens: 1024, micro_batch_rows: 0, max_length: 2048, too_long: TooLong::Error }
    }
}

impl PackingParams {
    /// Errors: no room for tokens, or for a target after the token that predicts it.
    pub fn check(&self) -> Result<()> {
        for (name, value, least) in
            [("micro_batch_tokens", self.micro_batch_tokens, 1), ("max_length", self.max_length, 2)]
        {
            if value < least {
                return Err(Error::usage(format!("`{name}` is `{value}`; it must be at least {least}")));
            }
        }
        Ok(())
    }
}

/// Packed sequences and their targets.
#[derive(Clone, Debug)]
pub struct MicroBatch {
    /// Inputs of all sequences.
    pub token_ids: Vec<u32>,
    pub segments: Segments,
    /// Per target: the packed row that predicts it, the token, and where it came from.
    pub rows: Vec<u32>,
    pub targets: Vec<u32>,
    pub origins: Vec<Origin>,
}

/// Where a target came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Index into the step's examples.
    pub example: usize,
    /// Index into the example's tokens.
    pub token: usize,
}

/// Packs the examples of one step. Errors name the example: a mask of another length, a target at its first token, a
/// column of another length, soft targets that leave a target out, a weight that is negative, a weight or advantage that is not
/// finite, or too many tokens.
pub fn pack(examples: &[&TrainExample], params: &PackingParams) -> Result<Vec<MicroBatch>> {
    let mut batches = Vec::new();
    let mut open = Open::default();
    for (index, example) in examples.iter().enumerate() {
        let length = input_length(example, params).map_err(|e| example.locate(e, index))?;
        if length == 0 {
            continue;
        }
        let tokens_full = open.token_ids.len() + length > params.micro_batch_tokens;
        let rows_full = params.micro_batch_rows > 0 && open.lengths.len() >= params.micro_batch_rows;
        if !open.lengths.is_empty() && (tokens_full || rows_full) {
            batches.push(std::mem::take(&mut open).close());
        }
        open.add(index, example, length);
    }
    if !open.lengths.is_empty() {
        batches.push(open.close());
    }
    Ok(batches)
}

/// Tokens of the example that are inputs: those before its last target. 0 if it has no target or no weight.
fn input_length(example: &TrainExample, params: &PackingParams) -> Result<usize> {
    let length = example.token_ids.len();
    let columns = [&example.logprob_reference, &example.logprob_behavior];
    if example.loss_mask.len() != length || columns.iter().any(|c| c.as_ref().is_some_and(|c| c.len() != length)) {
        return Err(Error::input(format!("an example of {length} tokens has a mask or column of another length")));
    }
    if example.loss_mask.first() == Some(&true) {
        return Err(Error::input("the first token of an example is a target, but nothing predicts it"));
    }
    if let Some(soft) = &example.soft {
        let untold = |token: &usize| example.loss_mask[*token] && soft.of(*token).is_none_or(|(ids, _)| ids.is_empty());
        if let Some(token) = (0..length).find(untold) {
            return Err(Error::input(format!("token {token} of an example is a target without soft targets")));
        }
    }
    if let Some(advantage) = example.advantage.filter(|advantage| !advantage.is_finite()) {
        return Err(Error::input(format!("an example's advantage is `{advantage}`")));
    }
    if !example.weight.is_finite() || example.weight < 0.0 {
        return Err(Error::input(format!("example weight `{}` must be a non-negative number", example.weight)));
    }
    let kept = match params.too_long {
        TooLong::Error if length > params.max_length => {
            return Err(Error::input(format!("an example of {length} tokens, more than {}", params.max_length))
                .hint("raise `max_length`, or set `too_long = \"truncate_right\"`"));
        }
        _ => length.min(params.max_length),
    };
    if example.weight == 0.0 {
        return Ok(0);
    }
    Ok(example.loss_mask[..kept].iter().rposition(|target| *target).unwrap_or(0))
}

#[derive(Default)]
struct Open {
    token_ids: Vec<u32>,
    lengths: Vec<usize>,
    rows: Vec<u32>,
    targets: Vec<u32>,
    origins: Vec<Origin>,
}

impl Open {
    fn add(&mut self, index: usize, example: &TrainExample, length: usize) {
        let start = self.token_ids.len();
        self.token_ids.extend_from_slice(&example.token_ids[..length]);
        self.lengths.push(length);
        for token in (1..=length).filter(|token| example.loss_mask[*token]) {
            self.rows.push((start + token - 1) as u32);
            self.targets.push(example.token_ids[token]);
            self.origins.push(Origin { example: index, token });
        }
    }

    fn close(self) -> MicroBatch {
        let segments = Segments::new(&self.lengths);
        let Open { token_ids, rows, targets, origins, .. } = self;
        MicroBatch { token_ids, segments, rows, targets, origins }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(length: u32, prompt: usize) -> TrainExample {
        let mask = (0..length as usize).map(|i| i >= prompt).collect();
        TrainExample::new((100..100 + length).collect(), mask, 0)
    }

    fn params(tokens: usize) -> PackingParams {
        PackingParams { micro_batch_tokens: tokens, max_length: 8, ..PackingParams::default() }
    }

    #[test]
    fn packs_in_order_without_the_last_target() {
        let (a, b, c) = (example(5, 2), example(4, 1), example(8, 6));
        let batches = pack(&[&a, &b, &c], &params(8)).unwrap();
        assert_eq!(batches.len(), 2);
        assert_eq!(batches[0].token_ids, [100, 101, 102, 103, 100, 101, 102]);
        assert_eq!(batches[0].segments, Segments::new(&[4, 3]));
        assert_eq!(batches[0].rows, [1, 2, 3, 4, 5, 6]);
        assert_eq!(batches[0].targets, [102, 103, 104, 101, 102, 103]);
        assert_eq!(batches[0].origins[3], Origin { example: 1, token: 1 });
        assert_eq!(batches[1].targets, [106, 107]);
    }

    #[test]
    fn what_cannot_matter_is_left_out() {
        let mut tail = example(6, 2);
        tail.loss_mask[4] = false;
        tail.loss_mask[5] = false;
        let mut weightless = example(5, 1);
        weightless.weight = 0.0;
        let no_target = example(3, 3);
        let batches = pack(&[&weightless, &tail, &no_target], &params(8)).unwrap();
        assert_eq!(batches.len(), 1);
        assert_eq!(batches[0].token_ids, [100, 101, 102]);
        assert_eq!(batches[0].targets, [102, 103]);
    }

    #[test]
    fn bounds() {
        let (short, long) = (example(4, 1), example(9, 1));
        assert!(pack(&[&short, &long], &params(99)).unwrap_err().to_string().contains("9 tokens, more than 8"));
        let truncating = PackingParams { too_long: TooLong::TruncateRight, ..params(2) };
        let batches = pack(&[&short, &long], &truncating).unwrap();
        assert_eq!(batches.iter().map(|b| b.token_ids.len()).collect::<Vec<_>>(), [3, 7]);
        let rows = PackingParams { micro_batch_rows: 2, ..params(99) };
        assert_eq!(pack(&[&short, &short, &short], &rows).unwrap().len(), 2);
    }

    #[test]
    fn bad_examples_are_named() {
        let mut wrong = example(4, 1);
        wrong.loss_mask.pop();
        let good = example(4, 1);
        assert_eq!(pack(&[&good, &wrong], &params(8)).unwrap_err().places(), ["row 1 of the batch"]);
        let named = TrainExample { name: "problem `p`".into(), ..wrong };
        assert_eq!(pack(&[&good, &named], &params(8)).unwrap_err().places(), ["row 1 of the batch", "problem `p`"]);
        assert!(pack(&[&example(4, 0)], &params(8)).is_err());
        let nan = TrainExample { weight: f32::NAN, ..good };
        assert!(pack(&[&nan], &params(8)).is_err());
    }
}
