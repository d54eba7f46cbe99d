//! Numbers by row of the training data, from a file or from a column of a stage: what weighs rows, or chooses among them.

use super::super::Inputs;
use super::super::column::{Number, Numbers};
use super::super::spec::SourceFile;
use super::RowWeights;
use mindgap_base::error::{Error, Result};
use mindgap_store::parquet::decode_batches;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};

/// What rows are told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Target,
    Sample,
    Example,
}

impl Key {
    fn column(self) -> &'static str {
        match self {
            Key::Target | Key::Sample => "problem_id",
            Key::Example => "example_id",
        }
    }

    /// What tells rows of one problem apart.
    fn index(self) -> &'static str {
        match self {
            Key::Sample => "sample_index",
            Key::Target | Key::Example => "choice_index",
        }
    }

    fn of(self, number: &Number) -> Option<u32> {
        match self {
            Key::Sample => number.sample_index.or(number.choice_index),
            Key::Target | Key::Example => number.choice_index,
        }
    }
}

/// Where weights come from, before they are read.
pub enum WeightsOf {
    File { file: SourceFile, column: String },
    Stage { numbers: Numbers, place: String },
}

impl WeightsOf {
    pub fn of(params: &RowWeights, inputs: &Inputs) -> Result<WeightsOf> {
        let column = params.column.clone();
        match (&params.file, &params.from) {
            (Some(file), _) => Ok(WeightsOf::File { file: inputs.file(file)?, column }),
            (None, from) => WeightsOf::stage(from.as_deref().unwrap_or_default(), &column, inputs),
        }
    }

    pub fn stage(from: &str, column: &str, inputs: &Inputs) -> Result<WeightsOf> {
        let place = format!("column `{column}` of stage `{from}`");
        Ok(WeightsOf::Stage { numbers: Numbers::of(inputs, from, column)?, place })
    }

    /// What they depend on, and the column.
    pub fn named(&self) -> Value {
        match self {
            WeightsOf::File { file, column } => serde_json::json!((&file.address, column)),
            WeightsOf::Stage { numbers, .. } => {
                serde_json::json!(numbers.all_contents().collect::<Vec<_>>())
            }
        }
    }

    /// Reads them, by the key of the data's rows.
    ///
    /// Errors: a column the file lacks, a key given twice, a value that is no number.
    pub fn read(&self, key: Key) -> Result<Weights> {
        match self {
            WeightsOf::File { file, column } => of_file(file, column, key),
            WeightsOf::Stage { numbers, place } => {
                let mut weights = Weights { rows: HashMap::new(), place: place.clone() };
                for number in numbers.read_all()? {
                    let index = key.of(&number);
                    weights.add(number.problem_id, index, Some(number.value))?;
                }
                Ok(weights)
            }
        }
    }
}

/// Weights by the data's key; one without a choice stands for all of its problem.
pub struct Weights {
    rows: HashMap<(String, Option<u32>), f64>,
    place: String,
}

fn of_file(file: &SourceFile, column: &str, key: Key) -> Result<Weights> {
    let data_key = key.column();
    let place = file.path.display().to_string();
    let mut weights = Weights { rows: HashMap::new(), place: place.clone() };
    for batch in decode_batches(file.read()?).map_err(|e| e.at(&place))? {
        for name in [data_key, column] {
            if batch.column_by_name(name).is_none() {
                return Err(Error::input(format!("row weights have no column `{name}`")).at(&place));
            }
        }
        let wanted = |name: &str| [data_key, column, key.index()].contains(&name);
        let columns: Vec<usize> =
            batch.schema().fields().iter().enumerate().filter(|(_, f)| wanted(f.name())).map(|(i, _)| i).collect();
        let failed = |e: Box<dyn std::error::Error + Send + Sync>| {
            Error::input("row weights must be strings and numbers").at(&place).source(e)
        };
        let batch = batch.project(&columns).map_err(|e| failed(e.into()))?;
        let read: Vec<BTreeMap<String, Value>> =
            serde_arrow::from_record_batch(&batch).map_err(|e| failed(e.into()))?;
        for row in read {
            let id = row.get(data_key).and_then(Value::as_str).unwrap_or_default().to_string();
            let choice = row.get(key.index()).and_then(Value::as_u64).map(|choice| choice as u32);
            weights.add(id, choice, row.get(column).and_then(Value::as_f64))?;
        }
    }
    Ok(weights)
}

impl Weights {
    fn add(&mut self, key: String, choice: Option<u32>, weight: Option<f64>) -> Result<()> {
        let weight = weight.filter(|weight| weight.is_finite()).ok_or_else(|| self.negative(&key))?;
        if self.rows.insert((key.clone(), choice), weight).is_some() {
            return Err(Error::input(format!("row `{key}` has two weights")).at(&self.place));
        }
        Ok(())
    }

    /// Error: one that is negative.
    pub fn non_negative(self) -> Result<Weights> {
        match self.rows.iter().filter(|(_, weight)| **weight < 0.0).map(|((key, _), _)| key).min() {
            Some(key) => Err(self.negative(key)),
            None => Ok(self),
        }
    }

    fn negative(&self, key: &str) -> Error {
        Error::input(format!("the weight of row `{key}` must be a non-negative number")).at(&self.place)
    }

    pub fn of(&self, key: &str, choice: Option<u32>) -> Result<f64> {
        let found = self.rows.get(&(key.to_string(), choice)).or_else(|| self.rows.get(&(key.to_string(), None)));
        found.copied().ok_or_else(|| {
            Error::input(format!("row `{key}` of the training data has no weight"))
                .at(&self.place)
                .hint("row weights must hold every row; give 0 to leave one out")
        })
    }
}
