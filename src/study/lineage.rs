//! One problem through all tables.

use super::Made;
use super::rows::{JsonRow, json_rows};
use arrow::array::{AsArray, RecordBatch};
use mindgap_base::error::{Error, Result};
use mindgap_store::table::declared;
use mindgap_store::{Parts, parquet};

/// A row of a problem, where it stands.
pub struct Found<'a> {
    pub stage: &'a str,
    pub table: &'a str,
    pub row: JsonRow,
}

/// The key column that leads from table to table.
const ID: &str = "problem_id";

/// Passes on everything that was made of the problems whose id starts with `id`, stage by stage. Only parts whose key range
/// may hold such an id are read. Error where there is nothing.
pub fn lineage(made: &Made, id: &str, take: &mut dyn FnMut(Found) -> Result<()>) -> Result<()> {
    let mut found = false;
    for stage in made.stage_names() {
        let Some(manifest) = made.manifest(stage)? else { continue };
        let by_problem = |table: &&str| declared().iter().any(|known| known.name == *table && known.key[0] == ID);
        for table in manifest.table_names().into_iter().filter(by_problem) {
            // The last of all texts that start with `id`, as far as ids go.
            for part in Parts::new(manifest.table(table)).overlapping(id, &format!("{id}{}", char::MAX)) {
                for batch in parquet::batches(made.store.get(&part.address)?, None)? {
                    for row in rows_of_problem(&batch?, id)? {
                        found = true;
                        take(Found { stage, table, row })?;
                    }
                }
            }
        }
    }
    match found {
        true => Ok(()),
        false => Err(Error::usage(format!("no finished stage holds a problem whose id starts with `{id}`"))
            .hint("ids are in the column `problem_id`: mindgap show PIPELINE problems")),
    }
}

fn rows_of_problem(batch: &RecordBatch, id: &str) -> Result<Vec<JsonRow>> {
    let ids = batch.column_by_name(ID).and_then(|column| column.as_string_opt::<i32>());
    let ids = ids.ok_or_else(|| Error::input(format!("a table of problems has no column `{ID}` of texts")))?;
    let mut found = Vec::new();
    for index in (0..batch.num_rows()).filter(|&index| ids.value(index).starts_with(id)) {
        found.extend(json_rows(&batch.slice(index, 1))?);
    }
    Ok(found)
}
