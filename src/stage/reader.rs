//! ingest: source files -> problems, and the rows that could not become one. And the completions that rows of other files hold
//! (`completions.rs`).
//!
//! No more of a file is held than the row at hand: rows are sorted by id outside of memory, then handed on one by one. Field
//! names come from the pipeline, or are guessed among the spellings of well-known data sets. A bad row is a row of `rejects`
//! with its line and reason; a file in which a named field exists nowhere, or in which no row has a question, is an error:
//! every row would be rejected for the same reason.

mod answers;
mod choices;
mod clean;
mod completions;
mod fields;
mod problem;
mod rows;
mod values;

pub use clean::Rule;
pub use completions::{Answered, Completion, CompletionFields, Present, answered, check_completions};
pub use fields::collect_names;
pub use rows::{Row, rows};

use fields::Field;
use mindgap_base::error::{Error, Result};
use mindgap_store::fs::File;
use mindgap_store::table::problems::{Problem, Reject};
use mindgap_store::{Sorter, Store};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;

/// Bumped whenever the same bytes would give other rows.
pub const VERSION: u32 = 4;

/// What the name of a source file says of its layout. A Parquet file is recognised under any name, and so is gzip around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line.
    Jsonl,
    /// Apache Parquet.
    Parquet,
}

/// Which field of the source holds what. A name may be a path (`extra_info.question`). What is not named is guessed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mapping {
    /// The problem as shown to the policy: text, or chat messages with one user turn. Where it is guessed, the row's context
    /// and choices become part of it; a field that is named is taken as it is.
    pub question: Option<String>,
    /// The expert's worked solution: text, a list of which the first is taken, or chat messages. A text that is an answer and
    /// no work is no solution.
    pub solution: Option<String>,
    /// The gold final answer: text, a number, or a list that is joined with commas. Text that holds a whole solution
    /// (one that boxes an answer, announces it as in `#### 18`, or is prose) counts as solution and answer. Text that says
    /// there is no answer (`proof`, `N/A`) is none.
    pub answer: Option<String>,
    /// The scale of a numeric answer, put behind each of its numbers: `million` of an answer 24 is the gold answer `24 million`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<String>,
    /// The answer is its field as it is: code, calls of tools, schemas. No statement is looked for in it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub verbatim: bool,
    /// The source's own id, kept in `meta`.
    pub id: Option<String>,
    /// A field that names the source of each row; without it all rows get the name of the input.
    pub source: Option<String>,
}

/// What a file holds.
#[derive(Clone, Copy, Debug)]
pub struct Content<'a> {
    /// What errors and rejects call the file.
    pub file: &'a str,
    /// Read from the front.
    pub bytes: &'a File,
    pub format: Format,
}

/// One file of problems.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    pub content: Content<'a>,
    /// `source` of its problems.
    pub source: &'a str,
    pub mapping: &'a Mapping,
    /// What is done to the experts' solutions.
    pub clean: &'a BTreeSet<Rule>,
}

/// Rows on their way from the inputs to the two tables: each ends up in one of them.
pub struct Ingest<'a> {
    store: &'a Store,
    /// Names of all inputs.
    files: Vec<&'a str>,
    /// By problem id, then in the order read.
    rows: Sorter<24>,
    row_count: u64,
    rejects: Rejects<'a>,
}

/// A row that may become a problem, and what it takes to refuse it as a duplicate.
#[derive(Serialize, Deserialize)]
struct Candidate {
    /// Number of the input.
    input: usize,
    line: u64,
    excerpt: String,
    problem: Problem,
}

impl<'a> Ingest<'a> {
    /// `files` are the names of the inputs to come.
    pub fn new(store: &'a Store, files: Vec<&'a str>) -> Ingest<'a> {
        Ingest { rejects: Rejects::new(store, files.clone()), store, files, rows: store.sorter(), row_count: 0 }
    }

    /// Reads the input of number `index`; `on_row` is called before every row.
    ///
    /// Errors: bytes that are not of the format, no rows, a mapped field that no row has, no question or no answer field.
    pub fn read(&mut self, index: usize, input: &Input, on_row: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let mut columns = BTreeSet::new();
        let (mut line_count, mut object_count, mut problem_count) = (0u64, 0u64, 0u64);
        let mut first_reason = None;
        let store = self.store;
        let file = input.content.file;
        rows::rows(&input.content, store, &mut |line, row| {
            on_row()?;
            line_count += 1;
            let outcome = row.object().and_then(|object| {
                object_count += 1;
                fields::collect_names(&object, &mut columns);
                problem::problem(input, &object)
            });
            let excerpt = row.excerpt();
            match outcome {
                Ok(problem) => {
                    problem_count += 1;
                    self.push(Candidate { input: index, line, excerpt, problem })
                }
                Err(reason) => {
                    first_reason.get_or_insert_with(|| reason.clone());
                    self.rejects.push(index, 0, Reject { file: file.to_string(), line, reason, excerpt })
                }
            }
        })?;
        check_whole(file, line_count, object_count, first_reason)?;
        check_columns(input, &columns, problem_count > 0)
    }

    fn push(&mut self, row: Candidate) -> Result<()> {
        let mut key = [0; 24];
        key[..16].copy_from_slice(row.problem.problem_id.as_bytes());
        key[16..].copy_from_slice(&self.row_count.to_be_bytes());
        self.row_count += 1;
        self.rows.push(key, &serde_json::to_vec(&row).expect("a row is plain data"))
    }

    /// Shows every problem, sorted by id, no two alike: of two rows with the same question and answer the first read is kept.
    /// `visit` may refuse one, and says why.
    pub fn problems(mut self, visit: &mut dyn FnMut(Problem) -> Result<Option<String>>) -> Result<Rejects<'a>> {
        let mut kept: Option<(String, usize, u64)> = None;
        for row in self.rows.sorted()? {
            let Candidate { input, line, excerpt, problem } = serde_json::from_slice(&row?.1)
                .map_err(|e| Error::internal("a sorted row came back damaged").source(e))?;
            match &kept {
                Some((id, first_input, first_line)) if *id == problem.problem_id => {
                    let (file, first_file) = (self.files[input], self.files[*first_input]);
                    let reason = match file == first_file {
                        true => format!("duplicate of line {first_line}"),
                        false => format!("duplicate of line {first_line} of `{first_file}`"),
                    };
                    self.rejects.push(input, 0, Reject { file: file.to_string(), line, reason, excerpt })?;
                }
                _ => {
                    kept = Some((problem.problem_id.clone(), input, line));
                    if let Some(reason) = visit(problem)? {
                        let file = self.files[input].to_string();
                        self.rejects.push(input, 0, Reject { file, line, reason, excerpt })?;
                    }
                }
            }
        }
        Ok(self.rejects)
    }
}

/// Rows that were refused.
pub struct Rejects<'a> {
    /// Names of all inputs.
    files: Vec<&'a str>,
    /// By file name, line, number of the input, as two inputs may have one name, and place in the row.
    by_place: Sorter<24>,
    pub count: u64,
}

impl<'a> Rejects<'a> {
    pub fn new(store: &Store, files: Vec<&'a str>) -> Rejects<'a> {
        Rejects { files, by_place: store.sorter(), count: 0 }
    }

    /// Takes what was refused of an input: a row, or the item of that number in it.
    pub fn push(&mut self, input: usize, item: u32, reject: Reject) -> Result<()> {
        let rank = self.files.iter().filter(|file| **file < reject.file.as_str()).count() as u64;
        let within = (input as u64) << 32 | u64::from(item);
        let mut key = [0; 24];
        for (bytes, number) in key.chunks_exact_mut(8).zip([rank, reject.line, within]) {
            bytes.copy_from_slice(&number.to_be_bytes());
        }
        self.count += 1;
        self.by_place.push(key, &serde_json::to_vec(&reject).expect("a row is plain data"))
    }

    /// Sorted by file and line.
    pub fn sorted(self) -> Result<impl Iterator<Item = Result<Reject>>> {
        let read = |row: Result<(_, Vec<u8>)>| {
            serde_json::from_slice(&row?.1).map_err(|e| Error::internal("a sorted row came back damaged").source(e))
        };
        Ok(self.by_place.sorted()?.map(read))
    }
}

/// A file of which nothing at all could be read.
pub fn check_whole(file: &str, line_count: u64, object_count: u64, first_reason: Option<String>) -> Result<()> {
    if line_count == 0 {
        return Err(Error::input("no rows").at(file).hint("the file is empty; is it the right one?"));
    }
    if object_count == 0 {
        let reason = first_reason.unwrap_or_default();
        return Err(Error::input(format!("no line is a JSON object: {reason}"))
            .at(file)
            .hint("such a file has one JSON object per line, or is a Parquet file"));
    }
    Ok(())
}

/// The fields of a file, for people.
fn known(columns: &BTreeSet<String>) -> String {
    format!("its fields are {}", fields::quoted(columns.iter().filter(|name| !name.contains('.'))))
}

/// A field that the pipeline names and that no row of the file has.
fn unknown_field(file: &str, name: &str, columns: &BTreeSet<String>) -> Error {
    let hint = match fields::nearest(name, columns) {
        Some(near) => format!("did you mean `{near}`? {}", known(columns)),
        None => known(columns),
    };
    Error::input(format!("unknown field `{name}`")).at(file).hint(hint)
}

/// A file in which nothing is called as the field may be.
fn no_field(file: &str, what: &str, columns: &BTreeSet<String>) -> Error {
    let hint = format!("name it in the pipeline (`fields.{what} = \"...\"`); {}", known(columns));
    Error::input(format!("no field looks like the {what}")).at(file).hint(hint)
}

/// A file of another schema: a mapped field that exists nowhere, or nothing to guess from.
fn check_columns(input: &Input, columns: &BTreeSet<String>, kept_any: bool) -> Result<()> {
    let (file, mapping) = (input.content.file, input.mapping);
    let named = [&mapping.question, &mapping.solution, &mapping.answer, &mapping.scale, &mapping.id, &mapping.source];
    if let Some(name) = named.into_iter().flatten().find(|name| !columns.contains(name.as_str())) {
        return Err(unknown_field(file, name, columns));
    }
    if kept_any {
        return Ok(());
    }
    let missing = |field: Field, named: &Option<String>| named.is_none() && !field.is_among(columns);
    let what = match () {
        _ if missing(Field::Question, &mapping.question) => "question",
        _ if missing(Field::Answer, &mapping.answer) && missing(Field::Solution, &mapping.solution) => "answer",
        _ => return Ok(()),
    };
    Err(no_field(file, what, columns))
}

/// The text of a value that stands for an answer: text, a number, or a list; empty where it is blank. Or why it is none.
pub fn answer(value: &Value) -> Result<String, String> {
    Ok(values::answer_text(value)?.unwrap_or_default())
}

/// The same, and of a whole solution the answer it states: what ingest makes the reference.
pub fn gold(value: &Value) -> Result<String, String> {
    Ok(problem::gold(&answer(value)?, values::is_list(value)))
}

#[cfg(test)]
mod data_sets;
#[cfg(test)]
mod tests;
