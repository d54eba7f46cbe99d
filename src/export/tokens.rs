//! Token ids and labels as this crate's trainer sees them: chat template applied, end-of-sequence token a target.

use super::{Origin, Target, lines};
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, FieldRef};
use mindgap_base::error::{Error, Result};
use serde::Serialize;
use std::sync::Arc;

/// A label that counts in no loss.
pub const IGNORED: i64 = -100;

/// A row.
#[derive(Serialize)]
pub(super) struct Tokens {
    pub input_ids: Vec<u32>,
    attention_mask: Vec<i8>,
    labels: Vec<i64>,
}

/// Exactly the three columns axolotl asks for; TRL reads two of them. Labels are not shifted: `labels[i]` is `input_ids[i]`
/// or ignored.
pub fn pretokenized(targets: &[Target]) -> Result<RecordBatch> {
    let tokens = |target: &Target| Tokens::of(&target.rewrite.prompt_ids, &target.rewrite.token_ids);
    let rows: Vec<Tokens> = targets.iter().map(tokens).collect();
    batch(&Tokens::fields(), &rows)
}

impl Tokens {
    pub fn of(prompt_ids: &[u32], token_ids: &[u32]) -> Tokens {
        let input_ids: Vec<u32> = prompt_ids.iter().chain(token_ids).copied().collect();
        // Nothing predicts the first token, so it is never a target.
        let first_target = prompt_ids.len().max(1);
        let label = |(index, id): (usize, &u32)| if index < first_target { IGNORED } else { i64::from(*id) };
        let labels = input_ids.iter().enumerate().map(label).collect();
        Tokens { attention_mask: vec![1; input_ids.len()], labels, input_ids }
    }

    pub fn fields() -> Vec<FieldRef> {
        let columns = [("input_ids", DataType::Int64), ("attention_mask", DataType::Int8), ("labels", DataType::Int64)];
        columns.into_iter().map(|(name, item)| list(name, item)).collect()
    }
}

/// A column of lists.
pub(super) fn list(name: &str, item: DataType) -> FieldRef {
    Arc::new(Field::new(name, DataType::List(Arc::new(Field::new("item", item, false))), false))
}

pub(super) fn batch<T: Serialize>(fields: &[FieldRef], rows: &[T]) -> Result<RecordBatch> {
    serde_arrow::to_record_batch(fields, &rows).map_err(|e| Error::internal("tokens do not fit their schema").source(e))
}

#[derive(Serialize)]
struct Numbered<'a> {
    row: usize,
    #[serde(flatten)]
    origin: Origin<'a>,
}

/// Where each row came from: a file of its own, as the table must hold no other columns.
pub fn origins(targets: &[Target]) -> String {
    lines(targets.iter().enumerate().map(|(row, target)| Numbered { row, origin: Origin::of(target) }))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{problems, rewrites, shown, table_of};
    use super::super::{Format, Target};
    use super::*;
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Int8Type, Int64Type};

    #[test]
    fn prompt_and_target_with_the_prompt_ignored() {
        let table = table_of(Format::Pretokenized, false);
        let names: Vec<_> = table.schema().fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(names, ["input_ids", "attention_mask", "labels"]);
        let column = |index: usize| table.column(index).as_list::<i32>().value(1);
        assert_eq!(column(0).as_primitive::<Int64Type>().values(), &[5, 6, 9, 8, 1]);
        assert_eq!(column(1).as_primitive::<Int8Type>().values(), &[1; 5]);
        assert_eq!(column(2).as_primitive::<Int64Type>().values(), &[-100, -100, 9, 8, 1]);
        assert_eq!(table.column(0).null_count(), 0);
    }

    #[test]
    fn the_first_token_is_never_a_target() {
        assert_eq!(Tokens::of(&[], &[7, 8, 1]).labels, [IGNORED, 8, 1]);
    }

    #[test]
    fn rows_are_numbered() {
        let (problems, rewrites, shown) = (problems(), rewrites(), shown(false));
        let target =
            |i: usize| Target { rewrite: &rewrites[i], problem: &problems[i], shown: &shown[i], incorrect: None };
        let golden = r#"{"row":0,"problem_id":"0a","choice_index":0,"source":"self"}
{"row":1,"problem_id":"0b","choice_index":0,"source":"expert"}
"#;
        assert_eq!(origins(&[target(0), target(1)]), golden);
    }
}
