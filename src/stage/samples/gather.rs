//! Completions on their way from the files to the problems they answer.

use super::matching::Known;
use crate::stage::reader::{
    Completion, CompletionFields, Content, Present, Rejects, Row, answered, check_completions, check_whole,
    collect_names, rows,
};
use mindgap_base::error::{Error, Result};
use mindgap_store::table::imports::{MatchedBy, Reasoning};
use mindgap_store::table::problems::Reject;
use mindgap_store::{Sorter, Store};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Rows that are read before all threads look at them, at most, and their bytes.
const BATCH_ROWS: usize = 2048;
const BATCH_BYTES: usize = 16 << 20;
/// Problem, place in the row, hash of what is said, number in the order read: what is equal but for the last is equal.
const KEY_BYTES: usize = 8 + 4 + 8 + 8;

/// A completion of a problem.
#[derive(Debug, Serialize, Deserialize)]
pub struct Held {
    /// In the sorted rows' keys.
    #[serde(skip)]
    pub problem: u64,
    /// Its place among the completions of its row; in the key too.
    #[serde(skip)]
    pub item: u32,
    /// Number of the input.
    pub input: usize,
    pub line: u64,
    pub matched_by: MatchedBy,
    pub doubt: Option<String>,
    pub completion: Completion,
}

/// A completion as it comes out of the sort.
pub struct Sorted {
    pub problem: u64,
    item: u32,
    value: Vec<u8>,
}

impl Held {
    pub fn read(sorted: &Sorted) -> Result<Held> {
        let held: Held = serde_json::from_slice(&sorted.value)
            .map_err(|e| Error::internal("a sorted row came back damaged").source(e))?;
        Ok(Held { problem: sorted.problem, item: sorted.item, ..held })
    }
}

/// What a row turned out to be.
#[derive(Default)]
struct Looked {
    is_object: bool,
    present: Present,
    /// Key but for the last number, and value.
    held: Vec<([u8; KEY_BYTES], Vec<u8>)>,
    /// Place in the row, and why.
    refused: Vec<(u32, String)>,
    excerpt: String,
}

pub struct Gather<'a> {
    store: &'a Store,
    known: &'a Known,
    fields: &'a CompletionFields,
    reasoning: Reasoning,
    rows: Sorter<KEY_BYTES>,
    row_count: u64,
    rejects: Rejects<'a>,
}

impl<'a> Gather<'a> {
    /// `files` are the names of the inputs to come.
    pub fn new(
        store: &'a Store,
        known: &'a Known,
        fields: &'a CompletionFields,
        reasoning: Reasoning,
        files: Vec<&'a str>,
    ) -> Gather<'a> {
        let rejects = Rejects::new(store, files);
        Gather { store, known, fields, reasoning, rows: store.sorter(), row_count: 0, rejects }
    }

    /// Reads the input of number `index`; `on_rows` is told how many rows were read since it was called last.
    ///
    /// Errors: bytes that are not of the format, no rows, a named field that no row has, nothing to guess from.
    pub fn read(
        &mut self,
        index: usize,
        content: &Content,
        source: Option<&str>,
        on_rows: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let mut file = FileSeen::default();
        let (mut batch, mut bytes): (Vec<(u64, Row)>, usize) = (Vec::new(), 0);
        let store = self.store;
        rows(content, store, &mut |line, row| {
            bytes += row.size();
            batch.push((line, row));
            if batch.len() < BATCH_ROWS && bytes < BATCH_BYTES {
                return Ok(());
            }
            bytes = 0;
            on_rows(batch.len() as u64)?;
            self.take(index, content.file, source, &std::mem::take(&mut batch), &mut file)
        })?;
        on_rows(batch.len() as u64)?;
        self.take(index, content.file, source, &batch, &mut file)?;
        check_whole(content.file, file.line_count, file.object_count, file.first_reason)?;
        check_completions(content.file, self.fields, file.present, &file.columns)
    }

    fn take(
        &mut self,
        input: usize,
        file: &str,
        source: Option<&str>,
        batch: &[(u64, Row)],
        seen: &mut FileSeen,
    ) -> Result<()> {
        // People are told the fields of the first rows: others have the same.
        if seen.line_count == 0 {
            let objects = batch.iter().filter_map(|(_, row)| row.object().ok());
            objects.for_each(|object| collect_names(&object, &mut seen.columns));
        }
        let looked: Vec<Looked> = batch.par_iter().map(|(line, row)| self.look(input, *line, row, source)).collect();
        for ((line, _), looked) in batch.iter().zip(looked) {
            seen.line_count += 1;
            seen.object_count += u64::from(looked.is_object);
            seen.present = seen.present.or(looked.present);
            for (mut key, value) in looked.held {
                key[KEY_BYTES - 8..].copy_from_slice(&self.row_count.to_be_bytes());
                self.row_count += 1;
                self.rows.push(key, &value)?;
            }
            for (item, reason) in looked.refused {
                seen.first_reason.get_or_insert_with(|| reason.clone());
                let (file, excerpt) = (file.to_string(), looked.excerpt.clone());
                self.rejects.push(input, item, Reject { file, line: *line, reason, excerpt })?;
            }
        }
        Ok(())
    }

    fn look(&self, input: usize, line: u64, row: &Row, source: Option<&str>) -> Looked {
        let mut looked = Looked::default();
        let found = row.object().and_then(|object| {
            looked.is_object = true;
            let (present, answered) = answered(&object, self.fields, self.reasoning);
            looked.present = present;
            let answered = answered?;
            let matched = self.known.find(&answered, source, self.fields)?;
            Ok((answered.completions, matched))
        });
        match found {
            Err(reason) => looked.refused.push((0, reason)),
            Ok((completions, matched)) => {
                for (item, completion) in (0u32..).zip(completions) {
                    match completion {
                        Err(reason) => looked.refused.push((item, reason)),
                        Ok(completion) => {
                            let key = key(matched.problem, item, &completion);
                            let held = Held {
                                problem: matched.problem,
                                item,
                                input,
                                line,
                                matched_by: matched.by,
                                doubt: matched.doubt.clone(),
                                completion,
                            };
                            looked.held.push((key, serde_json::to_vec(&held).expect("a row is plain data")));
                        }
                    }
                }
            }
        }
        if !looked.refused.is_empty() {
            looked.excerpt = row.excerpt();
        }
        looked
    }

    /// Ends the input: how many completions there are, these sorted, and what was refused.
    pub fn finish(self) -> Result<(u64, impl Iterator<Item = Result<Sorted>>, Rejects<'a>)> {
        let read = |row: Result<([u8; KEY_BYTES], Vec<u8>)>| {
            let (key, value) = row?;
            let problem = u64::from_be_bytes(key[..8].try_into().expect("8 bytes"));
            let item = u32::from_be_bytes(key[8..12].try_into().expect("4 bytes"));
            Ok(Sorted { problem, item, value })
        };
        Ok((self.row_count, self.rows.sorted()?.map(read), self.rejects))
    }
}

/// What was met in a file.
#[derive(Default)]
struct FileSeen {
    line_count: u64,
    object_count: u64,
    first_reason: Option<String>,
    present: Present,
    columns: BTreeSet<String>,
}

/// The order of a problem's samples: by their place in their rows, then by all there is to them.
fn key(problem: u64, item: u32, completion: &Completion) -> [u8; KEY_BYTES] {
    let said = serde_json::to_vec(completion).expect("a row is plain data");
    let mut key = [0; KEY_BYTES];
    key[..8].copy_from_slice(&problem.to_be_bytes());
    key[8..12].copy_from_slice(&item.to_be_bytes());
    key[12..20].copy_from_slice(&blake3::hash(&said).as_bytes()[..8]);
    key
}
