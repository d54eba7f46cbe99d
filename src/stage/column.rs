//! Numbers of any stage's tables: what samples are ranked by and rows weighed with.

use super::Inputs;
use arrow::datatypes::DataType;
use mindgap_base::error::{Error, Result};
use mindgap_store::table::{Declared, declared};
use mindgap_store::{Manifest, PartRef, Span, Store};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A column of some stages.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnOf {
    /// The stages.
    pub from: Vec<String>,
    /// The column: numbers, truth values (1 and 0), or lists of numbers, of which the mean is taken.
    pub column: String,
}

/// What a table tells of its rows, beside the problem.
const KEYS: [&str; 3] = ["sample_index", "choice_index", "token_ids"];

/// A column of numbers of one finished stage.
#[derive(Clone)]
pub struct Numbers {
    store: Store,
    table: &'static str,
    /// The key, what else tells rows apart, and the column itself.
    columns: Vec<&'static str>,
    column: &'static str,
    parts: Vec<PartRef>,
}

/// One value, and what it is of.
#[derive(Debug, PartialEq)]
pub struct Number {
    pub problem_id: String,
    pub sample_index: Option<u32>,
    pub choice_index: Option<u32>,
    pub token_ids: Option<Vec<u32>>,
    pub value: f64,
}

impl Numbers {
    /// Error: no table of the stage has such a column of numbers.
    pub fn of(inputs: &Inputs, stage: &str, column: &str) -> Result<Numbers> {
        let manifest = inputs.manifest(stage);
        let manifest = manifest.ok_or_else(|| Error::internal(format!("stage `{stage}` is used before it is done")))?;
        let tables = tables(manifest);
        let found = tables.iter().find_map(|table| {
            let found = table.columns.iter().find(|found| found.name == column && is_number(&found.data_type))?;
            Some((table, found.name))
        });
        let Some((table, column)) = found else {
            let numbers = tables.iter().flat_map(|table| &table.columns).filter(|found| is_number(&found.data_type));
            let known: Vec<&str> = numbers.map(|found| found.name).collect();
            let error = Error::usage(format!("stage `{stage}` has no column `{column}` of numbers"));
            return Err(error.hint(match known.is_empty() {
                true => "it has none".to_string(),
                false => format!("it has: {}", known.join(", ")),
            }));
        };
        let told = |key: &&'static str| *key != column && table.columns.iter().any(|found| found.name == *key);
        let columns = ["problem_id"].into_iter().chain(KEYS.into_iter().filter(told)).chain([column]).collect();
        let parts = manifest.table(table.name);
        Ok(Numbers { store: inputs.store.clone(), table: table.name, columns, column, parts })
    }

    /// Rows are told apart by their tokens, and not by the samples of one stage.
    pub fn knows_tokens(&self) -> bool {
        self.columns.contains(&"token_ids")
    }

    fn overlapping<'a>(&'a self, first: &'a str, last: &'a str) -> impl Iterator<Item = &'a PartRef> {
        let meets = move |part: &&PartRef| part.rows > 0 && *part.first <= *last && *part.last >= *first;
        self.parts.iter().filter(meets)
    }

    /// What the values of a range of problems depend on.
    pub fn contents(&self, first: &str, last: &str) -> Vec<String> {
        self.overlapping(first, last).map(|part| format!("{} {}", self.column, part.content)).collect()
    }

    /// What all values depend on.
    pub fn all_contents(&self) -> impl Iterator<Item = String> {
        self.parts.iter().map(|part| format!("{} {}", self.column, part.content))
    }

    /// The values of a span of problems; rows without one are left out.
    pub fn read(&self, span: &Span) -> Result<Vec<Number>> {
        let mut numbers = Vec::new();
        for part in self.overlapping(&span.first, &span.last) {
            let rows = self.store.read_json(self.table, part, &self.columns)?;
            numbers.extend(rows.iter().filter_map(|row| number(row, self.column)));
        }
        Ok(numbers)
    }

    /// The values of all problems.
    pub fn read_all(&self) -> Result<Vec<Number>> {
        let (first, last) = (self.parts.iter().map(|part| &part.first), self.parts.iter().map(|part| &part.last));
        let (first, last) = (first.min().cloned().unwrap_or_default(), last.max().cloned().unwrap_or_default());
        self.read(&Span { first, last, samples: None })
    }
}

/// The stage's tables of problems, the one people mean first.
fn tables(manifest: &Manifest) -> Vec<Declared> {
    let names = manifest.table_names();
    let mut tables: Vec<Declared> =
        declared().into_iter().filter(|table| names.contains(&table.name) && table.key[0] == "problem_id").collect();
    tables.sort_by_key(|table| Some(table.name) != manifest.main_table.as_deref());
    tables
}

fn is_number(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(item) => is_number(item.data_type()),
        DataType::Boolean => true,
        other => other.is_numeric(),
    }
}

fn number(row: &Map<String, Value>, column: &str) -> Option<Number> {
    let index = |key: &str| row.get(key).and_then(Value::as_u64).map(|value| value as u32);
    let tokens = row.get("token_ids").and_then(Value::as_array);
    let tokens = tokens.map(|ids| ids.iter().filter_map(Value::as_u64).map(|id| id as u32).collect());
    Some(Number {
        problem_id: row.get("problem_id")?.as_str()?.to_string(),
        sample_index: index("sample_index"),
        choice_index: index("choice_index"),
        token_ids: tokens,
        value: value(row.get(column)?)?,
    })
}

fn value(found: &Value) -> Option<f64> {
    match found {
        Value::Bool(truth) => Some(f64::from(u8::from(*truth))),
        Value::Array(items) => {
            let values: Vec<f64> = items.iter().filter_map(value).collect();
            (!values.is_empty() && values.len() == items.len()).then(|| crate::stats::metrics::mean(values))
        }
        other => other.as_f64().filter(|value| value.is_finite()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_value_is_a_number_a_truth_or_the_mean_of_a_list() {
        assert_eq!(value(&json!(2)), Some(2.0));
        assert_eq!(value(&json!(true)), Some(1.0));
        assert_eq!(value(&json!([-1.0, -2.0])), Some(-1.5));
        assert_eq!([json!([]), json!(null), json!("2"), json!([1.0, null])].map(|found| value(&found)), [None; 4]);
        let row = json!({"problem_id": "0a", "sample_index": 3, "score": 0.5});
        let expected = Number {
            problem_id: "0a".to_string(),
            sample_index: Some(3),
            choice_index: None,
            token_ids: None,
            value: 0.5,
        };
        assert_eq!(number(row.as_object().unwrap(), "score"), Some(expected));
        assert_eq!(number(row.as_object().unwrap(), "other"), None);
    }
}
