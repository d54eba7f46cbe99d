//! The rows of one stage that are trained on: which they are, and what stands beside them.

use super::super::Inputs;
use super::super::cost::tokens;
use super::super::texts::Texts;
use super::Params;
use super::mix::Portion;
use super::weights::{Key, WeightsOf};
use mindgap_base::address::Address;
use mindgap_base::error::{Error, Result};
use mindgap_lm::train::Loss;
use mindgap_lm::train::loss::Scale;
use mindgap_store::Table;
use mindgap_store::table::Row;
use mindgap_store::table::examples::Example;
use mindgap_store::table::logprobs::Logprob;
use mindgap_store::table::problems::Problem;
use mindgap_store::table::rewrites::{Rewrite, Source};
use mindgap_store::table::rollouts::Rollout;
use mindgap_store::table::soft::Soft;
use serde::Deserialize;
use std::collections::{HashMap, HashSet};

/// Rows of one stage, and what stands beside them.
pub struct Rows {
    pub table: Kind,
    pub reference: Option<Table<Logprob>>,
    pub sources: Vec<Source>,
    pub weight: f32,
    pub weights: Option<WeightsOf>,
    pub highest: Option<WeightsOf>,
    /// Problems of whose sources equally many rows are taken.
    pub per_source: Option<Table<Problem>>,
    pub soft: Option<Table<Soft>>,
    pub rewards: Option<WeightsOf>,
    pub needs: Needs,
}

/// What the loss makes of what stands beside the rows.
#[derive(Clone, Copy, Default)]
pub struct Needs {
    /// How rewards become advantages.
    pub scale: Option<Scale>,
    /// First tokens of a text that are no targets.
    pub skip: usize,
}

impl Needs {
    pub fn of(params: &Params) -> Result<Needs> {
        let loss = Loss::from_value(&params.loss)?;
        Ok(Needs { scale: loss.scale(), skip: loss.distill().map_or(0, |distill| distill.skip as usize) })
    }
}

pub enum Kind {
    Texts(Texts),
    Documents(Table<Example>),
}

/// A row by its key.
#[derive(Debug)]
pub struct Keyed {
    pub id: String,
    /// Of its target or sample.
    pub index: Option<u32>,
}

#[derive(Deserialize)]
struct Document {
    example_id: String,
}

#[derive(Deserialize)]
struct Scored {
    problem_id: String,
    choice_index: u32,
    /// 0 where nothing is told of any token.
    k: u32,
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
            Some(Rewrite::TABLE) => Kind::Texts(Texts::Rewrites(inputs.table(name)?)),
            Some(Rollout::TABLE) => Kind::Texts(Texts::Rollouts(inputs.table(name)?)),
            _ => Kind::Documents(inputs.table(name)?),
        };
        let is_of_problems = matches!(table, Kind::Texts(_));
        let logprobs = portion.logprobs.as_ref().filter(|_| is_of_problems);
        let column = |name: &str, column: &str| WeightsOf::stage(name, column, inputs);
        Ok(Rows {
            reference: logprobs.map(|name| inputs.table(name)).transpose()?,
            sources: portion.sources.clone(),
            weight: portion.weight,
            weights: portion.row_weights.as_ref().map(|weights| WeightsOf::of(weights, inputs)).transpose()?,
            highest: portion.highest.as_ref().map(|of| column(&of.from, &of.column)).transpose()?,
            per_source: portion.per_source.as_ref().map(|name| inputs.table(name)).transpose()?,
            soft: portion.soft.as_ref().map(|name| inputs.table(name)).transpose()?,
            rewards: portion.rewards.as_ref().map(|of| column(&of.from, &of.column)).transpose()?,
            needs: *needs,
            table,
        })
    }

    pub fn contents(&self) -> Vec<&Address> {
        match &self.table {
            Kind::Texts(texts) => texts.contents(),
            Kind::Documents(table) => table.contents(),
        }
    }

    pub fn reference_contents(&self) -> Option<Vec<&Address>> {
        self.reference.as_ref().map(Table::contents)
    }

    /// Tokens of the table's parts, if they say, and its rows.
    pub fn tokens(&self) -> (Option<u64>, u64) {
        match &self.table {
            Kind::Texts(texts) => (tokens(texts.parts()), texts.row_count()),
            Kind::Documents(table) => (tokens(table.parts()), table.row_count()),
        }
    }

    pub fn row_count(&self) -> Result<usize> {
        match (&self.table, &self.soft) {
            (Kind::Texts(texts), None) if self.sources.is_empty() => Ok(texts.row_count() as usize),
            (Kind::Documents(table), _) => Ok(table.row_count() as usize),
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

    pub fn key(&self) -> Key {
        match &self.table {
            Kind::Texts(Texts::Rewrites(_)) => Key::Target,
            Kind::Texts(Texts::Rollouts(_)) => Key::Sample,
            Kind::Documents(_) => Key::Example,
        }
    }

    /// The rows that are trained on, in order, those of a problem together: of the sources wanted, and those a teacher says something
    /// of where one is named.
    fn keys(&self) -> Result<Vec<Keyed>> {
        let texts = match &self.table {
            Kind::Texts(texts) => texts,
            Kind::Documents(table) => {
                let rows: Vec<Document> = table.select(&["example_id"])?;
                return Ok(rows.into_iter().map(|row| Keyed { id: row.example_id, index: None }).collect());
            }
        };
        let scored: Option<HashSet<(String, u32)>> = match &self.soft {
            None => None,
            Some(soft) => {
                let rows: Vec<Scored> = soft.select(&["problem_id", "choice_index", "k"])?;
                let told = rows.into_iter().filter(|row| row.k > 0);
                Some(told.map(|row| (row.problem_id, row.choice_index)).collect())
            }
        };
        let mut keys = Vec::new();
        for text in texts.keys()?.into_iter().filter(|text| self.wants(text.source)) {
            let key = (text.problem_id, text.index);
            if scored.as_ref().is_none_or(|scored| scored.contains(&key)) {
                keys.push(Keyed { id: key.0, index: Some(key.1) });
            }
        }
        Ok(keys)
    }

    pub fn wants(&self, source: Source) -> bool {
        self.sources.is_empty() || self.sources.contains(&source)
    }
}
