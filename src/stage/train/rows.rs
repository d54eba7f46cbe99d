//! The rows of one stage that are trained on: rewrites, samples or documents, with the columns that losses ask for.

use super::super::Inputs;
use super::super::cost::tokens;
use super::super::texts::source_of;
use super::Params;
use super::mix::Portion;
use super::weights::{Key, WeightsOf};
use mindgap_base::address::Address;
use mindgap_base::error::{Error, Result};
use mindgap_lm::train::loss::Scale;
use mindgap_lm::train::{Loss, SoftTargets, TrainExample};
use mindgap_store::Table;
use mindgap_store::table::Row;
use mindgap_store::table::examples::Example;
use mindgap_store::table::logprobs::Logprob;
use mindgap_store::table::problems::Problem;
use mindgap_store::table::rewrites::{Rewrite, Source};
use mindgap_store::table::rollouts::{PromptKind, Rollout};
use mindgap_store::table::soft::Soft;
use serde::Deserialize;
use std::collections::{HashMap, HashSet};

/// Rows of one stage, and what stands beside them.
pub struct Rows {
    table: Kind,
    reference: Option<Table<Logprob>>,
    sources: Vec<Source>,
    pub weight: f32,
    pub weights: Option<WeightsOf>,
    pub highest: Option<WeightsOf>,
    /// Problems of whose sources equally many rows are taken.
    pub per_source: Option<Table<Problem>>,
    pub soft: Option<Table<Soft>>,
    pub rewards: Option<WeightsOf>,
    needs: Needs,
}

/// What the loss makes of what stands beside the rows.
#[derive(Clone, Copy, Default)]
pub struct Needs {
    /// How rewards become advantages.
    scale: Option<Scale>,
    /// First tokens of a text that are no targets.
    skip: usize,
}

impl Needs {
    pub fn of(params: &Params) -> Result<Needs> {
        let loss = Loss::from_value(&params.loss)?;
        Ok(Needs { scale: loss.scale(), skip: loss.distill().map_or(0, |distill| distill.skip as usize) })
    }
}

enum Kind {
    Rewrites(Table<Rewrite>),
    Rollouts(Table<Rollout>),
    Examples(Table<Example>),
}

/// The source of rows that have none, as the trainer's metrics number them; others have [`Source`] as a number.
const NO_SOURCE: u32 = Source::ALL.len() as u32;

/// A row by its key, without its tokens.
struct Keyed {
    id: String,
    /// Of its target or sample.
    index: Option<u32>,
    source: Option<Source>,
}

#[derive(Deserialize)]
struct Target {
    problem_id: String,
    choice_index: u32,
    source: Source,
}

#[derive(Deserialize)]
struct Sample {
    problem_id: String,
    sample_index: u32,
    prompt_kind: PromptKind,
}

#[derive(Deserialize)]
struct Document {
    example_id: String,
}

#[derive(Deserialize)]
struct Scored {
    problem_id: String,
    choice_index: u32,
}

#[derive(Deserialize)]
struct SourceOf {
    problem_id: String,
    source: String,
}

impl Rows {
    pub fn new(portion: &Portion, inputs: &Inputs, needs: &Needs) -> Result<Rows> {
        let name = &portion.from;
        let table = match inputs.manifest(name).and_then(|manifest| manifest.main_table.as_deref()) {
            Some(Rewrite::TABLE) => Kind::Rewrites(inputs.table(name)?),
            Some(Rollout::TABLE) => Kind::Rollouts(inputs.table(name)?),
            _ => Kind::Examples(inputs.table(name)?),
        };
        let is_of_problems = !matches!(table, Kind::Examples(_));
        let column = |name: &str, column: &str| WeightsOf::stage(name, column, inputs);
        let table_of = |name: &Option<String>| name.as_ref().filter(|_| is_of_problems).cloned();
        Ok(Rows {
            reference: table_of(&portion.logprobs).map(|name| inputs.table(&name)).transpose()?,
            sources: portion.sources.clone(),
            weight: portion.weight,
            weights: portion.row_weights.as_ref().map(|weights| WeightsOf::of(weights, inputs)).transpose()?,
            highest: portion.highest.as_ref().map(|of| column(&of.from, &of.column)).transpose()?,
            per_source: portion.per_source.as_ref().map(|name| inputs.table(name)).transpose()?,
            soft: table_of(&portion.soft).map(|name| inputs.table(&name)).transpose()?,
            rewards: portion.rewards.as_ref().map(|of| column(&of.from, &of.column)).transpose()?,
            needs: *needs,
            table,
        })
    }

    pub fn contents(&self) -> Vec<&Address> {
        match &self.table {
            Kind::Rewrites(table) => table.contents(),
            Kind::Rollouts(table) => table.contents(),
            Kind::Examples(table) => table.contents(),
        }
    }

    pub fn reference_contents(&self) -> Option<Vec<&Address>> {
        self.reference.as_ref().map(Table::contents)
    }

    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Tokens of the table's parts, if they say, and its rows.
    pub fn tokens(&self) -> (Option<u64>, u64) {
        match &self.table {
            Kind::Rewrites(table) => (tokens(table.parts()), table.row_count()),
            Kind::Rollouts(table) => (tokens(table.parts()), table.row_count()),
            Kind::Examples(table) => (tokens(table.parts()), table.row_count()),
        }
    }

    pub fn row_count(&self) -> Result<usize> {
        match (&self.table, &self.soft) {
            (Kind::Rewrites(table), None) if self.sources.is_empty() => Ok(table.row_count() as usize),
            (Kind::Rollouts(table), None) if self.sources.is_empty() => Ok(table.row_count() as usize),
            (Kind::Examples(table), _) => Ok(table.row_count() as usize),
            _ => Ok(self.keys()?.len()),
        }
    }

    /// Sizes of the groups that compare with each other: the samples of each problem, where there are rewards.
    pub fn groups(&self) -> Result<Option<Vec<u32>>> {
        if self.rewards.is_none() {
            return Ok(None);
        }
        let keys = self.keys()?;
        Ok(Some(keys.chunk_by(|a, b| a.id == b.id).map(|group| group.len() as u32).collect()))
    }

    /// What rows are chosen by, in order.
    pub fn values(&self) -> Result<Option<Vec<f64>>> {
        let Some(highest) = &self.highest else { return Ok(None) };
        let values = highest.read(self.key())?;
        self.keys()?.iter().map(|row| values.of(&row.id, row.index)).collect::<Result<_>>().map(Some)
    }

    /// The source of every row's problem, in order, where rows are taken by it.
    pub fn problem_sources(&self) -> Result<Option<Vec<String>>> {
        let Some(problems) = &self.per_source else { return Ok(None) };
        let rows: Vec<SourceOf> = problems.select(&["problem_id", "source"])?;
        let known: HashMap<String, String> = rows.into_iter().map(|row| (row.problem_id, row.source)).collect();
        let source = |row: &Keyed| {
            known.get(&row.id).cloned().ok_or_else(|| {
                Error::input(format!("problem `{}` is none of those that `per_source` names", row.id))
                    .hint("name the ingest stage that the rows' problems are of")
            })
        };
        self.keys()?.iter().map(source).collect::<Result<_>>().map(Some)
    }

    fn key(&self) -> Key {
        match &self.table {
            Kind::Rewrites(_) => Key::Target,
            Kind::Rollouts(_) => Key::Sample,
            Kind::Examples(_) => Key::Example,
        }
    }

    /// The rows that are trained on, in order, samples sorted by problem: of the sources wanted, and those a teacher says something of where one is
    /// named.
    fn keys(&self) -> Result<Vec<Keyed>> {
        let mut keys: Vec<Keyed> = match &self.table {
            Kind::Rewrites(table) => {
                let rows: Vec<Target> = table.select(&["problem_id", "choice_index", "source"])?;
                let keyed =
                    |row: Target| Keyed { id: row.problem_id, index: Some(row.choice_index), source: Some(row.source) };
                rows.into_iter().map(keyed).collect()
            }
            Kind::Rollouts(table) => {
                let mut rows: Vec<Sample> = table.select(&["problem_id", "sample_index", "prompt_kind"])?;
                rows.sort_by(|a, b| (&a.problem_id, a.sample_index).cmp(&(&b.problem_id, b.sample_index)));
                let keyed = |row: Sample| Keyed {
                    id: row.problem_id,
                    index: Some(row.sample_index),
                    source: Some(source_of(row.prompt_kind)),
                };
                rows.into_iter().map(keyed).collect()
            }
            Kind::Examples(table) => {
                let rows: Vec<Document> = table.select(&["example_id"])?;
                rows.into_iter().map(|row| Keyed { id: row.example_id, index: None, source: None }).collect()
            }
        };
        keys.retain(|row| self.wants(row.source));
        if let Some(soft) = &self.soft {
            let rows: Vec<Scored> = soft.select(&["problem_id", "choice_index"])?;
            let scored: HashSet<(String, u32)> =
                rows.into_iter().map(|row| (row.problem_id, row.choice_index)).collect();
            keys.retain(|row| row.index.is_some_and(|index| scored.contains(&(row.id.clone(), index))));
        }
        Ok(keys)
    }

    fn wants(&self, source: Option<Source>) -> bool {
        self.sources.is_empty() || source.is_none_or(|source| self.sources.contains(&source))
    }

    /// The rows that are trained on, in the order of their keys.
    pub fn examples(&self) -> Result<Vec<TrainExample>> {
        let (mut keys, mut examples) = (Vec::new(), Vec::new());
        match &self.table {
            Kind::Rewrites(table) => {
                for row in table.read_all()?.into_iter().filter(|row| self.wants(Some(row.source))) {
                    let name = format!("problem `{}`, target {}", row.problem_id, row.choice_index);
                    examples.push(text(name, &row.prompt_ids, &row.token_ids, row.logprob_behavior, row.source));
                    keys.push(Keyed { id: row.problem_id, index: Some(row.choice_index), source: Some(row.source) });
                }
            }
            Kind::Rollouts(table) => {
                let mut rows = table.read_all()?;
                // Parts hold some samples of each problem; those of one problem belong together.
                rows.sort_by(|a, b| (&a.problem_id, a.sample_index).cmp(&(&b.problem_id, b.sample_index)));
                for row in rows {
                    let source = source_of(row.prompt_kind);
                    if self.wants(Some(source)) {
                        let name = format!("problem `{}`, sample {}", row.problem_id, row.sample_index);
                        examples.push(text(name, &row.prompt_ids, &row.token_ids, row.logprob_behavior, source));
                        keys.push(Keyed { id: row.problem_id, index: Some(row.sample_index), source: Some(source) });
                    }
                }
            }
            Kind::Examples(table) => {
                for row in table.read_all()? {
                    let name = format!("example `{}`", row.example_id);
                    examples.push(TrainExample { name, ..TrainExample::new(row.token_ids, row.loss_mask, NO_SOURCE) });
                    keys.push(Keyed { id: row.example_id, index: None, source: None });
                }
            }
        }
        self.add_reference(&keys, &mut examples)?;
        self.add_weights(&keys, &mut examples)?;
        self.add_rewards(&keys, &mut examples)?;
        self.add_soft(&keys, examples)
    }

    /// Columns over prompt and target; what the prompt's entries hold is never read.
    fn add_reference(&self, keys: &[Keyed], examples: &mut [TrainExample]) -> Result<()> {
        let Some(reference) = &self.reference else { return Ok(()) };
        let rows = reference.read_all()?.into_iter();
        let mut columns: HashMap<(String, u32), Vec<f32>> =
            rows.map(|row| ((row.problem_id, row.choice_index), row.logprob_policy)).collect();
        for (key, example) in keys.iter().zip(examples) {
            let column = key.index.and_then(|index| columns.remove(&(key.id.clone(), index)));
            // A target cut off where it was scored has no reference: the loss says so, if it needs one.
            let count = example.loss_mask.iter().filter(|is_target| **is_target).count();
            example.logprob_reference = column
                .filter(|column| column.len() == count)
                .map(|column| whole(example.token_ids.len() - count, column));
        }
        Ok(())
    }

    /// Weights, and the longest of each problem.
    fn add_weights(&self, keys: &[Keyed], examples: &mut [TrainExample]) -> Result<()> {
        let weights = self.weights.as_ref().map(|weights| weights.read(self.key())?.non_negative()).transpose()?;
        let mut longest: HashMap<&str, u32> = HashMap::new();
        if self.key() != Key::Example {
            for (key, example) in keys.iter().zip(&*examples) {
                let count = example.loss_mask.iter().filter(|is_target| **is_target).count() as u32;
                let most = longest.entry(&key.id).or_default();
                *most = (*most).max(count);
            }
        }
        for (key, example) in keys.iter().zip(examples) {
            let weight = weights.as_ref().map_or(Ok(1.0), |weights| weights.of(&key.id, key.index))?;
            example.weight = weight as f32 * self.weight;
            example.longest = longest.get(key.id.as_str()).copied();
        }
        Ok(())
    }

    /// Advantages: rewards against those of the same problem.
    fn add_rewards(&self, keys: &[Keyed], examples: &mut [TrainExample]) -> Result<()> {
        let (Some(rewards), Some(scale)) = (&self.rewards, self.needs.scale) else { return Ok(()) };
        let rewards = rewards.read(self.key())?;
        let mut examples = examples.iter_mut();
        for group in keys.chunk_by(|a, b| a.id == b.id) {
            let own = group.iter().map(|row| rewards.of(&row.id, row.index)).collect::<Result<Vec<f64>>>()?;
            for (advantage, example) in scale.advantages(&own).into_iter().zip(&mut examples) {
                example.advantage = Some(advantage as f32);
            }
        }
        Ok(())
    }

    /// What a teacher says; rows of which it says nothing are left out. Tokens past what was scored are no targets.
    fn add_soft(&self, keys: &[Keyed], examples: Vec<TrainExample>) -> Result<Vec<TrainExample>> {
        let Some(soft) = &self.soft else { return Ok(examples) };
        let rows = soft.read_all()?.into_iter();
        let mut by_text: HashMap<(String, u32), Soft> =
            rows.map(|row| ((row.problem_id.clone(), row.choice_index), row)).collect();
        let mut taken = Vec::with_capacity(examples.len());
        for (key, mut example) in keys.iter().zip(examples) {
            let Some(row) = key.index.and_then(|index| by_text.remove(&(key.id.clone(), index))) else { continue };
            let first = example.loss_mask.iter().position(|is_target| *is_target).unwrap_or(example.token_ids.len());
            if !example.token_ids[first..].starts_with(&row.token_ids) {
                return Err(Error::input("the soft targets are of other tokens").at(&example.name).hint(
                    "`soft` must name a soft stage over the rows that are trained on: their samples, or their targets",
                ));
            }
            let scored = first + row.token_ids.len();
            for (token, is_target) in example.loss_mask.iter_mut().enumerate() {
                *is_target &= token >= first + self.needs.skip && token < scored;
            }
            let (ids, logprobs) = (row.top_ids.into(), row.top_logprobs.into());
            example.soft = Some(SoftTargets { k: row.k as usize, first, ids, logprobs });
            taken.push(example);
        }
        Ok(taken)
    }
}

fn text(name: String, prompt: &[u32], target: &[u32], behavior: Option<Vec<f32>>, source: Source) -> TrainExample {
    let token_ids = [prompt, target].concat();
    let loss_mask = (0..token_ids.len()).map(|i| i >= prompt.len().max(1)).collect();
    let logprob_behavior = behavior.map(|column| whole(prompt.len(), column));
    TrainExample { name, logprob_behavior, ..TrainExample::new(token_ids, loss_mask, source as u32) }
}

/// A column over prompt and target.
fn whole(prompt: usize, target: Vec<f32>) -> Vec<f32> {
    let mut column = vec![0.0; prompt];
    column.extend(target);
    column
}
