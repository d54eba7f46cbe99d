//! The rows a train stage reads: rewrites or documents, with the columns that losses ask for.

use super::super::Inputs;
use super::super::cost::tokens;
use super::super::spec::SourceFile;
use super::{Params, RowWeights};
use mindgap_base::address::Address;
use mindgap_base::error::{Error, Result};
use mindgap_lm::train::TrainExample;
use mindgap_store::Table;
use mindgap_store::parquet::decode_batches;
use mindgap_store::table::Row;
use mindgap_store::table::examples::Example;
use mindgap_store::table::logprobs::Logprob;
use mindgap_store::table::rewrites::{Rewrite, Source};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};

/// What a policy is trained or evaluated on.
pub enum Data {
    Rewrites { rewrites: Table<Rewrite>, reference: Option<Table<Logprob>>, sources: Vec<Source> },
    Examples(Table<Example>),
}

/// The source of rows that have none, as the trainer's metrics number them; rewrites have [`Source`] as a number.
const NO_SOURCE: u32 = Source::ALL.len() as u32;

/// What it takes to count the rows of some sources.
#[derive(Deserialize)]
struct OfSource {
    source: Source,
}

impl Data {
    /// The rows trained on.
    pub fn of(params: &Params, inputs: &Inputs) -> Result<Data> {
        let mut data = Data::named(&params.data, inputs)?;
        if let Data::Rewrites { reference, sources, .. } = &mut data {
            *reference = params.logprobs.as_ref().map(|name| inputs.table(name)).transpose()?;
            *sources = params.sources.clone();
        }
        Ok(data)
    }

    /// All rows of a stage.
    pub fn named(name: &str, inputs: &Inputs) -> Result<Data> {
        let is_rewrites = inputs.manifest(name).is_some_and(|m| m.main_table.as_deref() == Some(Rewrite::TABLE));
        Ok(match is_rewrites {
            true => Data::Rewrites { rewrites: inputs.table(name)?, reference: None, sources: Vec::new() },
            false => Data::Examples(inputs.table(name)?),
        })
    }

    pub fn contents(&self) -> Vec<&Address> {
        match self {
            Data::Rewrites { rewrites, .. } => rewrites.contents(),
            Data::Examples(table) => table.contents(),
        }
    }

    /// Contents of the log-probs under a reference policy, where there are some.
    pub fn reference_contents(&self) -> Option<Vec<&Address>> {
        match self {
            Data::Rewrites { reference: Some(reference), .. } => Some(reference.contents()),
            _ => None,
        }
    }

    /// The rows, in table order.
    pub fn examples(&self, weights: Option<&Weights>) -> Result<Vec<TrainExample>> {
        match self {
            Data::Rewrites { rewrites, reference, sources } => {
                let mut columns = match reference {
                    Some(table) => by_target(table.read_all()?),
                    None => HashMap::new(),
                };
                let wanted = |row: &Rewrite| sources.is_empty() || sources.contains(&row.source);
                let rows = rewrites.read_all()?.into_iter().filter(wanted);
                rows.map(|row| {
                    let column = columns.remove(&(row.problem_id.clone(), row.choice_index));
                    let weight = weights.map_or(Ok(1.0), |w| w.of(&row.problem_id, Some(row.choice_index)))?;
                    Ok(TrainExample { weight, ..from_rewrite(&row, column) })
                })
                .collect()
            }
            Data::Examples(table) => {
                let rows = table.read_all()?.into_iter();
                rows.map(|row| {
                    let weight = weights.map_or(Ok(1.0), |w| w.of(&row.example_id, None))?;
                    let name = format!("example `{}`", row.example_id);
                    Ok(TrainExample { name, weight, ..TrainExample::new(row.token_ids, row.loss_mask, NO_SOURCE) })
                })
                .collect()
            }
        }
    }

    /// Tokens of all rows, of other sources too, if their parts say.
    pub fn tokens(&self) -> Option<u64> {
        match self {
            Data::Examples(table) => tokens(table.parts()),
            Data::Rewrites { rewrites, .. } => tokens(rewrites.parts()),
        }
    }

    pub fn row_count(&self) -> Result<usize> {
        match self {
            Data::Examples(table) => Ok(table.parts().iter().map(|part| part.rows as usize).sum()),
            Data::Rewrites { rewrites, sources, .. } if sources.is_empty() => {
                Ok(rewrites.parts().iter().map(|part| part.rows as usize).sum())
            }
            Data::Rewrites { rewrites, sources, .. } => {
                let rows: Vec<OfSource> = rewrites.select(&["source"])?;
                Ok(rows.iter().filter(|row| sources.contains(&row.source)).count())
            }
        }
    }

    fn key(&self) -> &'static str {
        match self {
            Data::Rewrites { .. } => "problem_id",
            Data::Examples(_) => "example_id",
        }
    }
}

/// Reference log-probs by problem and choice.
fn by_target(rows: Vec<Logprob>) -> HashMap<(String, u32), Vec<f32>> {
    rows.into_iter().map(|row| ((row.problem_id, row.choice_index), row.logprob_policy)).collect()
}

fn from_rewrite(row: &Rewrite, reference: Option<Vec<f32>>) -> TrainExample {
    let token_ids: Vec<u32> = row.prompt_ids.iter().chain(&row.token_ids).copied().collect();
    let loss_mask = (0..token_ids.len()).map(|i| i >= row.prompt_ids.len().max(1)).collect();
    let mut example = TrainExample::new(token_ids, loss_mask, row.source as u32);
    example.name = format!("problem `{}`, target {}", row.problem_id, row.choice_index);
    // Columns over prompt and target; what the prompt's entries hold is never read.
    let whole = |target: Vec<f32>| {
        let mut column = vec![0.0; row.prompt_ids.len()];
        column.extend(target);
        column
    };
    // A target cut off where it was scored has no reference: the loss says so, if it needs one.
    example.logprob_reference = reference.filter(|column| column.len() == row.token_ids.len()).map(whole);
    example.logprob_behavior = row.logprob_behavior.clone().map(whole);
    example
}

/// Row weights from a file, by the data's key; a row of the file without a choice stands for all of its problem.
pub struct Weights {
    rows: HashMap<(String, Option<u32>), f32>,
    place: String,
}

impl Weights {
    /// Errors: a column the file lacks, a key given twice, a weight that is no number, or negative.
    pub fn read(params: &RowWeights, file: &SourceFile, data: &Data) -> Result<Weights> {
        let place = file.path.display().to_string();
        let mut rows = HashMap::new();
        for batch in decode_batches(file.read()?).map_err(|e| e.at(&place))? {
            for name in [data.key(), params.column.as_str()] {
                if batch.column_by_name(name).is_none() {
                    return Err(Error::input(format!("row weights have no column `{name}`")).at(&place));
                }
            }
            let wanted = |name: &str| [data.key(), params.column.as_str(), "choice_index"].contains(&name);
            let columns: Vec<usize> =
                batch.schema().fields().iter().enumerate().filter(|(_, f)| wanted(f.name())).map(|(i, _)| i).collect();
            let failed = |e: Box<dyn std::error::Error + Send + Sync>| {
                Error::input("row weights must be strings and numbers").at(&place).source(e)
            };
            let batch = batch.project(&columns).map_err(|e| failed(e.into()))?;
            let read: Vec<BTreeMap<String, Value>> =
                serde_arrow::from_record_batch(&batch).map_err(|e| failed(e.into()))?;
            for row in read {
                let key = row.get(data.key()).and_then(Value::as_str).unwrap_or_default().to_string();
                let choice = row.get("choice_index").and_then(Value::as_u64).map(|choice| choice as u32);
                let weight = row.get(&params.column).and_then(Value::as_f64).map(|weight| weight as f32);
                let Some(weight) = weight.filter(|weight| weight.is_finite() && *weight >= 0.0) else {
                    return Err(
                        Error::input(format!("the weight of row `{key}` must be a non-negative number")).at(&place)
                    );
                };
                if rows.insert((key.clone(), choice), weight).is_some() {
                    return Err(Error::input(format!("row `{key}` has two weights")).at(&place));
                }
            }
        }
        Ok(Weights { rows, place })
    }

    fn of(&self, key: &str, choice: Option<u32>) -> Result<f32> {
        let found = self.rows.get(&(key.to_string(), choice)).or_else(|| self.rows.get(&(key.to_string(), None)));
        found.copied().ok_or_else(|| {
            Error::input(format!("row `{key}` of the training data has no weight"))
                .at(&self.place)
                .hint("the file of row weights must hold every row; give 0 to leave one out")
        })
    }
}
