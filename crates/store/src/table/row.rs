//! `row!` and the trait it implements.

use super::Word;
use arrow::array::{Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use mindgap_base::error::{Error, Result};
use serde::{Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One column of a table, as documented in `docs/tables`.
pub struct Column {
    pub name: &'static str,
    pub data_type: DataType,
    pub nullable: bool,
    /// Left out of parts in which no row has it: parts that do not need it stay as they were before there was one.
    pub optional: bool,
    /// What a text may be; empty where any text may stand.
    pub words: &'static [Word],
    pub doc: &'static str,
}

/// A row type. `check` states what holds between rows, and is run before writing and after reading.
pub trait Row: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {
    /// The table's name: a plural noun.
    const TABLE: &'static str;
    /// Version of the schema.
    const VERSION: u32;
    /// Columns of the key; tables are sorted by it.
    const KEY: &'static [&'static str];
    /// One line on what the table is.
    const DOC: &'static str;
    /// Columns that a part lacks where none of its rows has them.
    const OPTIONAL: &'static [&'static str];
    /// Columns in which null came to be allowed: where no row of a part has it, the part is written as before.
    const SELDOM_NULL: &'static [&'static str];

    fn columns() -> Vec<Column>;

    /// What must hold in each row beyond its types.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// Counts kept beside a part, for plans that must not read it and for people. The rows are sorted by the key.
    fn counts(_rows: &[Self]) -> BTreeMap<String, u64> {
        BTreeMap::new()
    }

    fn schema() -> SchemaRef {
        let fields: Vec<Field> =
            Self::columns().into_iter().map(|c| Field::new(c.name, c.data_type, c.nullable)).collect();
        Arc::new(Schema::new(fields))
    }
}

/// The Arrow type of a Rust type.
pub trait ColumnType {
    const NULLABLE: bool = false;
    const WORDS: &'static [Word] = &[];
    fn data_type() -> DataType;
}

macro_rules! column_types {
    ($($rust:ty => $arrow:ident),*) => {$(
        impl ColumnType for $rust {
            fn data_type() -> DataType { DataType::$arrow }
        }
    )*};
}
column_types!(String => Utf8, u32 => UInt32, u64 => UInt64, f32 => Float32, f64 => Float64, bool => Boolean);

impl<T: ColumnType> ColumnType for Option<T> {
    const NULLABLE: bool = true;
    const WORDS: &'static [Word] = T::WORDS;
    fn data_type() -> DataType {
        T::data_type()
    }
}

impl<T: ColumnType> ColumnType for Vec<T> {
    fn data_type() -> DataType {
        DataType::List(Arc::new(Field::new("item", T::data_type(), T::NULLABLE)))
    }
}

/// Declares a row type. Doc comments become the column documentation of `docs/tables`.
macro_rules! row {
    (
        #[doc = $table_doc:literal]
        $name:ident in $table:literal v $version:literal key [$($key:ident),+] {
            $(#[doc = $doc:literal] $field:ident: $ty:ty,)+
        }
        $(optional [$($optional:ident),+])?
        $(seldom_null [$($seldom_null:ident),+])?
        $(check($self:ident) $check:block)?
        $(counts($rows:ident) $counts:block)?
    ) => {
        #[doc = $table_doc]
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        pub struct $name { $(#[doc = $doc] pub $field: $ty,)+ }

        impl $crate::table::Row for $name {
            const TABLE: &'static str = $table;
            const VERSION: u32 = $version;
            const KEY: &'static [&'static str] = &[$(stringify!($key)),+];
            const DOC: &'static str = $table_doc;
            const OPTIONAL: &'static [&'static str] = &[$($(stringify!($optional)),+)?];
            const SELDOM_NULL: &'static [&'static str] = &[$($(stringify!($seldom_null)),+)?];
            fn columns() -> Vec<$crate::table::Column> {
                vec![$($crate::table::Column {
                    name: stringify!($field),
                    data_type: <$ty as $crate::table::ColumnType>::data_type(),
                    nullable: <$ty as $crate::table::ColumnType>::NULLABLE,
                    optional: Self::OPTIONAL.contains(&stringify!($field)),
                    words: <$ty as $crate::table::ColumnType>::WORDS,
                    doc: $doc,
                }),+]
            }
            $(fn check(&$self) -> mindgap_base::error::Result<()> $check)?
            $(fn counts($rows: &[Self]) -> std::collections::BTreeMap<String, u64> $counts)?
        }
    };
}
pub(crate) use row;

/// Rows as one Arrow batch, without the optional columns that none of them has, and with those that are seldom null declared
/// never null where they are not. Every row is checked first.
pub fn to_batch<R: Row>(rows: &[R]) -> Result<RecordBatch> {
    for row in rows {
        row.check()?;
    }
    let fields: Vec<FieldRef> = R::schema().fields().iter().cloned().collect();
    let misfit = |e| Error::internal(format!("rows do not fit the schema of `{}`", R::TABLE)).source(e);
    let batch = serde_arrow::to_record_batch(&fields, &rows).map_err(misfit)?;
    let unused = |index: &usize| {
        R::OPTIONAL.contains(&fields[*index].name().as_str()) && batch.column(*index).null_count() == batch.num_rows()
    };
    let used: Vec<usize> = (0..fields.len()).filter(|index| !unused(index)).collect();
    let as_written = |index: &usize| {
        let (field, null_count) = (&fields[*index], batch.column(*index).null_count());
        match R::SELDOM_NULL.contains(&field.name().as_str()) && null_count == 0 {
            true => field.as_ref().clone().with_nullable(false),
            false => field.as_ref().clone(),
        }
    };
    let schema = Schema::new(used.iter().map(as_written).collect::<Vec<Field>>());
    let columns = used.iter().map(|index| batch.column(*index).clone()).collect();
    RecordBatch::try_new(Arc::new(schema), columns).map_err(|e| Error::internal("columns of a batch").source(e))
}

/// Rows of Arrow batches. The schema must be the table's own, optional columns aside; every row is checked.
pub fn from_batches<R: Row>(batches: &[RecordBatch]) -> Result<Vec<R>> {
    let mut rows = Vec::with_capacity(batches.iter().map(RecordBatch::num_rows).sum());
    for batch in batches {
        for column in R::columns() {
            match batch.schema().field_with_name(column.name) {
                Err(_) if column.optional => {}
                Err(_) => return Err(Error::input(format!("table `{}` has no column `{}`", R::TABLE, column.name))),
                Ok(field) if *field.data_type() != column.data_type => {
                    let (name, found, wanted) = (column.name, field.data_type(), column.data_type);
                    return Err(Error::input(format!("column `{name}` of `{}` is {found}, not {wanted}", R::TABLE)));
                }
                Ok(_) => {}
            }
        }
        let part: Vec<R> = serde_arrow::from_record_batch(batch).map_err(|e| misfit::<R>(batch, e))?;
        rows.extend(part);
    }
    for row in &rows {
        row.check()?;
    }
    Ok(rows)
}

/// Why a batch could not be read as rows: the first unknown word where there is one, which the reader's own error tells
/// without its table.
pub(crate) fn misfit<R: Row>(batch: &RecordBatch, error: serde_arrow::Error) -> Error {
    for Column { name, words, .. } in R::columns().into_iter().filter(|column| !column.words.is_empty()) {
        let texts = batch.column_by_name(name).and_then(|array| array.as_any().downcast_ref::<StringArray>());
        let unknown = |text: &&str| words.iter().all(|word| word.text != *text);
        if let Some(text) = texts.and_then(|texts| texts.iter().flatten().find(unknown)) {
            let known: Vec<String> = words.iter().map(|word| format!("`{}`", word.text)).collect();
            let what = format!("column `{name}` of `{}` holds `{text}`, it may hold {}", R::TABLE, known.join(", "));
            return Error::input(what).hint("the file is damaged, or a later version of mindgap wrote it");
        }
    }
    Error::input(format!("rows do not fit the schema of `{}`", R::TABLE)).source(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::verdicts::{Refusal, Verdict, VerdictRow};

    fn batch(verdict: &str) -> RecordBatch {
        let row = VerdictRow {
            problem_id: "0a".to_string(),
            sample_index: 0,
            verdict: Verdict::BudgetExceeded,
            extracted: None,
            method: "steps".to_string(),
            eligible: false,
            refused: Some(Refusal::NoBox),
            judge_version: "math-1".to_string(),
        };
        let batch = to_batch(&[row]).unwrap();
        let mut columns = batch.columns().to_vec();
        assert_eq!(&*columns[2], &StringArray::from(vec!["budget_exceeded"]) as &dyn Array, "the word itself");
        columns[2] = Arc::new(StringArray::from(vec![verdict]));
        RecordBatch::try_new(batch.schema(), columns).unwrap()
    }

    /// A part that has no use for an optional column is the part it was before there was one.
    #[test]
    fn optional_columns_are_written_where_a_row_has_them() {
        use crate::table::rewrites::{Rewrite, Source};
        let row = |conversation: Option<&str>| Rewrite {
            problem_id: "0a".to_string(),
            choice_index: 0,
            source: Source::Expert,
            prompt: "1+1?".to_string(),
            completion: "2".to_string(),
            prompt_ids: vec![1],
            token_ids: vec![2],
            logprob_behavior: None,
            sample_index: None,
            round: 0,
            attempts: 0,
            conversation: conversation.map(str::to_string),
            stage_index: None,
            score: None,
        };
        for (rows, has) in [(vec![row(None)], false), (vec![row(None), row(Some("{}"))], true), (vec![], false)] {
            let batch = to_batch(&rows).unwrap();
            assert_eq!(batch.column_by_name("conversation").is_some(), has);
            assert!(batch.column_by_name("sample_index").is_some(), "null, and never left out");
            assert_eq!(from_batches::<Rewrite>(&[batch]).unwrap(), rows);
        }
    }

    /// A part in which nothing is null has the bytes it had before null was allowed, and older parts are read.
    #[test]
    fn columns_that_are_seldom_null_are_written_as_before() {
        use crate::parquet::{Encoded, Footer, decode_batches};
        use crate::table::rollouts::{PromptKind, Rollout, StopReason};
        mod before {
            use crate::table::rollouts::{PromptKind, StopReason};
            crate::table::row::row! {
                /// The table before rows without log-probs.
                Rollout in "rollouts" v 1 key [problem_id, sample_index] {
                    /// As now
                    problem_id: String,
                    /// As now
                    sample_index: u32,
                    /// As now
                    prompt_kind: PromptKind,
                    /// As now
                    completion: String,
                    /// As now
                    prompt_ids: Vec<u32>,
                    /// As now
                    token_ids: Vec<u32>,
                    /// Never null
                    logprob_behavior: Vec<f32>,
                    /// Never null
                    logprob_policy: Vec<f32>,
                    /// As now
                    stop_reason: StopReason,
                    /// As now
                    special_count: u32,
                    /// As now
                    seed: u64,
                    /// As now
                    prefill: Option<String>,
                }
                optional [prefill]
            }
        }
        let sampled = |id: &str, logprobs: &[f32]| Rollout {
            problem_id: id.to_string(),
            sample_index: 0,
            prompt_kind: PromptKind::Plain,
            completion: "2".to_string(),
            prompt_ids: vec![1],
            token_ids: vec![2; logprobs.len()],
            logprob_behavior: Some(logprobs.to_vec()),
            logprob_policy: Some(logprobs.to_vec()),
            stop_reason: StopReason::Eos,
            special_count: 0,
            seed: 7,
            prefill: None,
            engine: None,
            failure: None,
        };
        let older = |row: &Rollout| before::Rollout {
            problem_id: row.problem_id.clone(),
            sample_index: row.sample_index,
            prompt_kind: row.prompt_kind,
            completion: row.completion.clone(),
            prompt_ids: row.prompt_ids.clone(),
            token_ids: row.token_ids.clone(),
            logprob_behavior: row.logprob_behavior.clone().unwrap(),
            logprob_policy: row.logprob_policy.clone().unwrap(),
            stop_reason: row.stop_reason,
            special_count: row.special_count,
            seed: row.seed,
            prefill: row.prefill.clone(),
        };
        let imported = Rollout {
            prompt_kind: PromptKind::Imported,
            prompt_ids: Vec::new(),
            logprob_behavior: None,
            logprob_policy: None,
            ..sampled("0c", &[-0.5])
        };
        let rows = vec![sampled("0a", &[-0.5, 0.0]), sampled("0b", &[])];
        let footer = Footer { stage: "rollouts", fingerprint: "f" };
        for rows in [rows.clone(), Vec::new()] {
            let now = Encoded::new(&rows, &footer).unwrap().bytes;
            let then = Encoded::new(&rows.iter().map(older).collect::<Vec<_>>(), &footer).unwrap().bytes;
            assert_eq!(now, then, "{} rows", rows.len());
            assert_eq!(from_batches::<Rollout>(&decode_batches(then).unwrap()).unwrap(), rows);
        }
        for rows in [vec![imported.clone()], [rows, vec![imported]].concat()] {
            let batch = to_batch(&rows).unwrap();
            assert_eq!(batch.column_by_name("logprob_policy").unwrap().null_count(), 1);
            assert_eq!(from_batches::<Rollout>(&[batch]).unwrap(), rows);
        }
    }

    #[test]
    fn an_unknown_word_is_an_error_that_names_it_and_its_column() {
        let rows: Vec<VerdictRow> = from_batches(&[batch("no_answer")]).unwrap();
        assert_eq!(rows[0].verdict, Verdict::NoAnswer);
        let error = from_batches::<VerdictRow>(&[batch("maybe")]).unwrap_err();
        let known = "`correct`, `incorrect`, `no_answer`, `unparsed`, `budget_exceeded`";
        assert_eq!(error.what(), format!("column `verdict` of `verdicts` holds `maybe`, it may hold {known}"));
    }
}
