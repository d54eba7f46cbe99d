//! Rows of one table to look at: those that fit conditions, some of their columns, and no more than are asked for.

use super::{Condition, Made};
use crate::pipeline::did_you_mean;
use arrow::array::RecordBatch;
use mindgap_base::error::{Error, Result};
use mindgap_store::table::{Row, declared, train_steps::TrainStep};
use mindgap_store::{fs, parquet};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

pub type JsonRow = Map<String, Value>;

/// Which rows of a table, and which of their columns: all where none is named.
pub struct Query<'a> {
    pub conditions: &'a [Condition],
    pub columns: &'a [String],
    pub limit: usize,
}

/// Rows of the table, and those among them that fit.
pub struct Seen {
    pub all: u64,
    pub fitting: u64,
}

/// Takes a row, and its number in the table.
pub type Take<'a> = &'a mut dyn FnMut(u64, JsonRow) -> Result<()>;

/// Passes rows of a stage's table on, its main one unless another is named, up to the limit. Parts behind it are not read, but
/// for the columns that conditions compare: the rows that fit are counted to the end.
///
/// Errors: a table that the stage did not make.
pub fn rows_of_stage(made: &Made, stage: &str, table: Option<&str>, query: &Query, take: Take) -> Result<Seen> {
    let manifest = made.finished(stage)?;
    let names = manifest.table_names();
    if let Some(table) = table.filter(|table| !names.contains(table)) {
        let hint = did_you_mean(table, names.iter().copied());
        return Err(Error::usage(format!("stage `{stage}` has no table `{table}`")).hint(hint));
    }
    let table = table.or(manifest.main_table.as_deref()).unwrap_or(TrainStep::TABLE);
    let known = declared().into_iter().find(|known| known.name == table).map(|known| known.columns);
    let known: Vec<&str> = known.iter().flatten().map(|column| column.name).collect();
    let mut scan = Scan::new(table, &known, query, take)?;
    for part in manifest.table(table) {
        match scan.wanted() {
            None => scan.count(part.rows),
            Some(columns) => scan.add_all(made.store.get(&part.address)?, part.rows, columns.as_deref())?,
        }
    }
    Ok(scan.seen)
}

/// The same of a Parquet file anywhere. Returns what its footer says of where it came from too.
pub fn rows_of_file(
    path: &Path,
    query: &Query,
    footer: impl FnOnce(&BTreeMap<String, String>, u64) -> Result<()>,
    take: Take,
) -> Result<Seen> {
    let name = path.display().to_string();
    let bytes = fs::read(path)?;
    let facts = parquet::facts(bytes.clone().into())
        .ok_or_else(|| Error::input("not a readable Parquet file").at(name.clone()))?;
    let ours = facts.footer.into_iter().filter(|(key, _)| key.starts_with("mindgap.")).collect();
    footer(&ours, facts.rows)?;
    let known: Vec<&str> = facts.columns.iter().map(|(column, _)| column.as_str()).collect();
    let mut scan = Scan::new(&name, &known, query, take)?;
    match scan.wanted() {
        None => scan.count(facts.rows),
        Some(columns) => scan.add_all(bytes, facts.rows, columns.as_deref()).map_err(|e| e.at(name.clone()))?,
    }
    Ok(scan.seen)
}

struct Scan<'a> {
    query: &'a Query<'a>,
    take: Take<'a>,
    seen: Seen,
}

impl<'a> Scan<'a> {
    /// Error where a column is asked for that the table lacks.
    fn new(table: &str, known: &[&str], query: &'a Query, take: Take<'a>) -> Result<Scan<'a>> {
        let compared = query.conditions.iter().map(|condition| &condition.column);
        if let Some(name) = query.columns.iter().chain(compared).find(|name| !known.contains(&name.as_str())) {
            let error = Error::usage(format!("table `{table}` has no column `{name}`"));
            return Err(error.hint(did_you_mean(name, known.iter().copied())));
        }
        Ok(Scan { query, take, seen: Seen { all: 0, fitting: 0 } })
    }

    fn is_full(&self) -> bool {
        self.seen.fitting >= self.query.limit as u64
    }

    /// The columns to read of what comes next, `Some(None)` for all; `None` where nothing need be read any more.
    fn wanted(&self) -> Option<Option<Vec<&'a str>>> {
        let Query { conditions, columns, .. } = self.query;
        let compared = conditions.iter().map(|condition| condition.column.as_str());
        match (self.is_full(), conditions.is_empty(), columns.is_empty()) {
            (true, true, _) => None,
            (true, false, _) => Some(Some(compared.collect())),
            (false, _, true) => Some(None),
            (false, _, false) => Some(Some(columns.iter().map(String::as_str).chain(compared).collect())),
        }
    }

    /// Takes rows in unread.
    fn count(&mut self, rows: u64) {
        self.seen.all += rows;
        if self.query.conditions.is_empty() {
            self.seen.fitting += rows;
        }
    }

    /// Takes a file of so many rows in, those unread that are beyond the limit.
    fn add_all(&mut self, bytes: Vec<u8>, rows: u64, columns: Option<&[&str]>) -> Result<()> {
        let end = self.seen.all + rows;
        for batch in parquet::batches(bytes, columns)? {
            if self.wanted().is_none() {
                break;
            }
            self.add(&batch?)?;
        }
        self.count(end - self.seen.all);
        Ok(())
    }

    fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut fitting: Vec<usize> = (0..batch.num_rows()).collect();
        for condition in self.query.conditions {
            let column = batch.column(index_of(batch, &condition.column)?);
            fitting = condition.fitting(column, &fitting)?;
        }
        let room = (self.query.limit as u64).saturating_sub(self.seen.fitting);
        for index in fitting.iter().take(room as usize) {
            // One row at a time: lists of tokens are large as JSON.
            for row in json_rows(&self.shown(batch)?.slice(*index, 1))? {
                (self.take)(self.seen.all + *index as u64, row)?;
            }
        }
        self.seen.fitting += fitting.len() as u64;
        self.seen.all += batch.num_rows() as u64;
        Ok(())
    }

    /// The columns asked for, in that order, each once.
    fn shown(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        if self.query.columns.is_empty() {
            return Ok(batch.clone());
        }
        let mut indices = Vec::new();
        for name in self.query.columns {
            let index = index_of(batch, name)?;
            if !indices.contains(&index) {
                indices.push(index);
            }
        }
        batch.project(&indices).map_err(|e| Error::internal("columns of a batch").source(e))
    }
}

/// Where a column is that the table should have. Parts of an earlier build may lack it.
fn index_of(batch: &RecordBatch, name: &str) -> Result<usize> {
    batch.schema().index_of(name).map_err(|_| Error::input(format!("a part of the table has no column `{name}`")))
}

/// The rows of a batch as JSON objects.
pub fn json_rows(batch: &RecordBatch) -> Result<Vec<JsonRow>> {
    serde_arrow::from_record_batch(batch).map_err(|e| Error::input("rows cannot be shown").source(e))
}
