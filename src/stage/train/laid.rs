//! The rows of a training with the columns that losses ask for, laid out one after the other: a step reads those it takes.
//!
//! Tables are read by part, and what is as long as a row goes into a [`Flat`]. Memory holds a part and some hundred bytes of each row.

use super::rows::{Keyed, Kind, Rows};
use super::weights::Key;
use mindgap_base::error::{Error, Result};
use mindgap_lm::train::{SoftTargets, TrainExample};
use mindgap_store::table::rewrites::Source;
use mindgap_store::table::soft::Soft;
use mindgap_store::{Flat, Place, Store};
use std::collections::HashMap;

/// The rows of one portion, in order.
pub struct Laid {
    columns: Flat,
    rows: Vec<Row>,
}

/// A row: what is small of it, and where the rest lies.
struct Row {
    key: Keyed,
    /// Where it comes from, for errors.
    name: String,
    source: u32,
    weight: f32,
    /// Targets, before any were left out for want of soft ones; and those of the longest row of its problem.
    target_count: u32,
    longest: Option<u32>,
    advantage: Option<f32>,
    token_ids: Place<u32>,
    /// Per token: it is a target.
    loss_mask: Place<u8>,
    /// Of the last tokens: the prompt's have none.
    behavior: Option<Place<f32>>,
    reference: Option<Place<f32>>,
    soft: Option<LaidSoft>,
}

#[derive(Clone, Copy)]
struct LaidSoft {
    k: u32,
    /// The token that the first are told of.
    first: u32,
    ids: Place<u32>,
    logprobs: Place<f32>,
}

/// The source of rows that have none, as the trainer's metrics number them; others have [`Source`] as a number.
const NO_SOURCE: u32 = Source::ALL.len() as u32;

/// Rows by problem and target or sample.
type ByText = HashMap<(String, u32), usize>;

impl Laid {
    pub fn of(rows: &Rows, store: &Store) -> Result<Laid> {
        let mut laid = Laid { columns: store.flat(), rows: Vec::new() };
        laid.lay(rows)?;
        laid.add_reference(rows)?;
        laid.add_weights(rows)?;
        laid.add_rewards(rows)?;
        laid.add_soft(rows)?;
        Ok(laid)
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Where each row comes from, in order.
    pub fn names(&self) -> Vec<String> {
        self.rows.iter().map(|row| row.name.clone()).collect()
    }

    /// One row, whole.
    pub fn example(&self, index: usize) -> Result<TrainExample> {
        let row = &self.rows[index];
        let token_ids = self.columns.get(row.token_ids)?;
        let column = |place: Option<Place<f32>>| {
            place.map(|place| Ok(of_last(token_ids.len(), self.columns.get(place)?))).transpose()
        };
        let soft = |soft: LaidSoft| {
            let (ids, logprobs) = (self.columns.get(soft.ids)?.into(), self.columns.get(soft.logprobs)?.into());
            Ok(SoftTargets { k: soft.k as usize, first: soft.first as usize, ids, logprobs })
        };
        Ok(TrainExample {
            name: row.name.clone(),
            loss_mask: self.columns.get(row.loss_mask)?.into_iter().map(|is_target| is_target == 1).collect(),
            source: row.source,
            weight: row.weight,
            longest: row.longest,
            logprob_reference: column(row.reference)?,
            logprob_behavior: column(row.behavior)?,
            soft: row.soft.map(soft).transpose()?,
            advantage: row.advantage,
            token_ids,
        })
    }

    /// Tokens, masks and what a row of its own table says, by part; rows of one problem together.
    fn lay(&mut self, rows: &Rows) -> Result<()> {
        match &rows.table {
            Kind::Texts(texts) => {
                for part in texts.parts() {
                    for text in texts.read(part)?.into_iter().filter(|text| rows.wants(text.source)) {
                        let token_ids = [&text.prompt_ids[..], &text.token_ids].concat();
                        let prompt = text.prompt_ids.len().max(1);
                        let mask: Vec<bool> = (0..token_ids.len()).map(|token| token >= prompt).collect();
                        let behavior =
                            text.logprob_behavior.as_deref().map(|own| self.columns.push(own)).transpose()?;
                        let name = texts.place(&text);
                        let key = Keyed { id: text.problem_id, index: Some(text.index) };
                        let source = text.source as u32;
                        let row = Row { behavior, source, ..self.row(key, name, &token_ids, &mask)? };
                        self.rows.push(row);
                    }
                }
                self.rows.sort_by(|a, b| (&a.key.id, a.key.index).cmp(&(&b.key.id, b.key.index)));
            }
            Kind::Documents(table) => {
                for part in table.parts() {
                    for row in table.read(part)? {
                        let name = format!("example `{}`", row.example_id);
                        let key = Keyed { id: row.example_id, index: None };
                        let row = self.row(key, name, &row.token_ids, &row.loss_mask)?;
                        self.rows.push(row);
                    }
                }
            }
        }
        Ok(())
    }

    fn row(&mut self, key: Keyed, name: String, token_ids: &[u32], loss_mask: &[bool]) -> Result<Row> {
        Ok(Row {
            key,
            name,
            source: NO_SOURCE,
            weight: 1.0,
            target_count: loss_mask.iter().filter(|is_target| **is_target).count() as u32,
            longest: None,
            advantage: None,
            token_ids: self.columns.push(token_ids)?,
            loss_mask: self.push_mask(loss_mask)?,
            behavior: None,
            reference: None,
            soft: None,
        })
    }

    fn push_mask(&mut self, mask: &[bool]) -> Result<Place<u8>> {
        self.columns.push(&mask.iter().map(|is_target| u8::from(*is_target)).collect::<Vec<u8>>())
    }

    fn by_text(&self) -> ByText {
        let keyed = |(at, row): (usize, &Row)| Some(((row.key.id.clone(), row.key.index?), at));
        self.rows.iter().enumerate().filter_map(keyed).collect()
    }

    /// Log-probs under the reference. A target cut off where it was scored has none: the loss says so, if it needs one.
    fn add_reference(&mut self, rows: &Rows) -> Result<()> {
        let Some(reference) = &rows.reference else { return Ok(()) };
        let by_text = self.by_text();
        for part in reference.parts() {
            for scored in reference.read(part)? {
                let Some(at) = by_text.get(&(scored.problem_id, scored.choice_index)) else { continue };
                if scored.logprob_policy.len() == self.rows[*at].target_count as usize {
                    self.rows[*at].reference = Some(self.columns.push(&scored.logprob_policy)?);
                }
            }
        }
        Ok(())
    }

    /// Weights, and the longest of each problem.
    fn add_weights(&mut self, rows: &Rows) -> Result<()> {
        let weights = rows.weights.as_ref().map(|weights| weights.read(rows.key())?.non_negative()).transpose()?;
        for row in &mut self.rows {
            let weight = weights.as_ref().map_or(Ok(1.0), |weights| weights.of(&row.key.id, row.key.index))?;
            row.weight = weight as f32 * rows.weight;
        }
        if rows.key() != Key::Example {
            for group in self.problems() {
                let longest = group.iter().map(|row| row.target_count).max();
                group.iter_mut().for_each(|row| row.longest = longest);
            }
        }
        Ok(())
    }

    /// Advantages: rewards against those of the same problem.
    fn add_rewards(&mut self, rows: &Rows) -> Result<()> {
        let (Some(rewards), Some(scale)) = (&rows.rewards, rows.needs.scale) else { return Ok(()) };
        let rewards = rewards.read(rows.key())?;
        for group in self.problems() {
            let of_row = |row: &Row| rewards.of(&row.key.id, row.key.index);
            let own = group.iter().map(of_row).collect::<Result<Vec<f64>>>()?;
            for (advantage, row) in scale.advantages(&own).into_iter().zip(group) {
                row.advantage = Some(advantage as f32);
            }
        }
        Ok(())
    }

    /// The rows of each problem.
    fn problems(&mut self) -> impl Iterator<Item = &mut [Row]> {
        self.rows.chunk_by_mut(|a, b| a.key.id == b.key.id)
    }

    /// What a teacher says; rows of which it says nothing are left out. Tokens past what was scored are no targets.
    fn add_soft(&mut self, rows: &Rows) -> Result<()> {
        let Some(table) = &rows.soft else { return Ok(()) };
        let by_text = self.by_text();
        for part in table.parts() {
            for soft in table.read(part)?.into_iter().filter(|soft| soft.k > 0) {
                if let Some(at) = by_text.get(&(soft.problem_id.clone(), soft.choice_index)) {
                    self.soften(*at, &soft, rows.needs.skip)?;
                }
            }
        }
        self.rows.retain(|row| row.soft.is_some());
        Ok(())
    }

    fn soften(&mut self, at: usize, soft: &Soft, skip: usize) -> Result<()> {
        let row = &self.rows[at];
        let (token_ids, mut mask) = (self.columns.get(row.token_ids)?, self.columns.get(row.loss_mask)?);
        let first = mask.iter().position(|is_target| *is_target == 1).unwrap_or(token_ids.len());
        if !token_ids[first..].starts_with(&soft.token_ids) {
            return Err(Error::input("the soft targets are of other tokens").at(&row.name).hint(
                "`soft` must name a soft stage over the rows that are trained on: their samples, or their targets",
            ));
        }
        let scored = first + soft.token_ids.len();
        for (token, is_target) in mask.iter_mut().enumerate() {
            *is_target &= u8::from(token >= first + skip && token < scored);
        }
        let (ids, logprobs) = (self.columns.push(&soft.top_ids)?, self.columns.push(&soft.top_logprobs)?);
        self.rows[at].loss_mask = self.columns.push(&mask)?;
        self.rows[at].soft = Some(LaidSoft { k: soft.k, first: first as u32, ids, logprobs });
        Ok(())
    }
}

/// A column over all tokens; what the first entries hold is never read.
fn of_last(count: usize, own: Vec<f32>) -> Vec<f32> {
    let mut column = vec![0.0; count - own.len()];
    column.extend(own);
    column
}

#[cfg(test)]
mod tests;
