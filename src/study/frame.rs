//! Columns of tables as polars frames.

use mindgap_base::error::{Error, Result};
use mindgap_store::parquet::{Encoded, Footer};
use mindgap_store::table::Row;
use mindgap_store::{PartRef, Store};
use polars::prelude::*;
use std::io::Cursor;

/// Some columns of parts of a table as one frame, in reading order. The hash of every part is checked.
pub fn read<R: Row>(store: &Store, parts: &[PartRef], columns: &[&str]) -> Result<DataFrame> {
    // An empty part, so that a table without any still has its columns with their types.
    let mut frame = decode(Encoded::new::<R>(&[], &Footer { stage: "", fingerprint: "" })?.bytes, columns)?;
    for part in parts {
        let at = || format!("table `{}`, object {}", R::TABLE, part.address);
        let read = decode(store.get(&part.address)?, columns).map_err(|e| e.at(at()))?;
        frame.vstack_mut_owned(read).map_err(|e| Error::input("columns are of other types").at(at()).source(e))?;
    }
    Ok(frame)
}

fn decode(bytes: Vec<u8>, columns: &[&str]) -> Result<DataFrame> {
    let columns = columns.iter().map(|column| column.to_string()).collect();
    // Parts are small, and several threads would fight over each.
    let reader = ParquetReader::new(Cursor::new(bytes)).with_columns(Some(columns));
    reader
        .read_parallel(ParallelStrategy::None)
        .finish()
        .map_err(|e| Error::input("not a readable Parquet file").source(e))
}

/// A computation on columns that cannot fail for tables of the declared types.
pub fn failed(error: PolarsError) -> Error {
    Error::internal("columns cannot be computed").source(error)
}

/// The rows whose text in `column` is `value`.
pub fn having(frame: &DataFrame, column: &str, value: &str) -> Result<DataFrame> {
    let texts = frame.column(column).and_then(|column| column.str()).map_err(failed)?;
    frame.filter(&texts.equal(value)).map_err(failed)
}

/// Distinct values of `column` in order of first appearance, and in `count` how many rows have each.
pub fn counts(frame: &DataFrame, column: &str, count: &str) -> Result<DataFrame> {
    let grouped = frame.group_by_stable([column]).map_err(failed)?;
    let mut counts = grouped.select([column]).count().map_err(failed)?;
    counts.set_column_names(&[column, count]).map_err(failed)?;
    Ok(counts)
}

/// The columns of `other` beside the rows of `frame` of equal `key`, in the order of `frame`; empty where there is none.
pub fn beside(frame: &DataFrame, other: &DataFrame, key: &str) -> Result<DataFrame> {
    let args = JoinArgs { maintain_order: MaintainOrderJoin::Left, ..JoinArgs::new(JoinType::Left) };
    frame.join(other, [key], [key], args, None).map_err(failed)
}

/// A column of texts, empty ones as "".
pub fn texts<'f>(frame: &'f DataFrame, column: &str) -> Result<impl Iterator<Item = &'f str>> {
    let column = frame.column(column).and_then(|column| column.str()).map_err(failed)?;
    Ok(column.iter().map(Option::unwrap_or_default))
}

/// A column of counts, empty ones as 0.
pub fn numbers<'f>(frame: &'f DataFrame, column: &str) -> Result<impl Iterator<Item = u32> + 'f> {
    let column = frame.column(column).and_then(|column| column.u32()).map_err(failed)?;
    Ok(column.iter().map(Option::unwrap_or_default))
}
