//! sources: files -> problems and rejects.  Reads the files, hands their bytes to `ingest`, cuts the problems into parts.

use super::buckets::{at_least_one, cut};
use super::ingest::{self, Format, Input, Mapping};
use super::spec::SourceFile;
use super::{Context, Inputs, Output, Part, Stage};
use crate::base::error::{Error, Result};
use crate::base::fingerprint::Recipe;
use crate::store::{PartRecord, Span};
use crate::table::Row;
use crate::table::problems::{Problem, Reject};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Files of problems: JSON lines or Parquet, plain or gzip.
    pub files: Vec<File>,
    #[serde(default)]
    pub fields: Mapping,
    /// At most this many problems of each source, the first by id; 0 takes all.
    #[serde(default)]
    pub limit: u32,
    /// Problems per part, on average.
    #[serde(default = "part_problems")]
    pub part_problems: u32,
}

/// A file, alone or with a name for its problems' `source`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum File {
    Path(String),
    Named { path: String, source: String },
}

impl File {
    fn path(&self) -> &str {
        match self {
            File::Path(path) | File::Named { path, .. } => path,
        }
    }

    /// The name given, or the file's name up to its first dot.
    fn source(&self) -> String {
        match self {
            File::Named { source, .. } => source.clone(),
            File::Path(path) => {
                let name = path.rsplit('/').next().unwrap_or(path);
                name.split('.').next().unwrap_or(name).to_string()
            }
        }
    }

    fn format(&self) -> Format {
        match self.path().trim_end_matches(".gz").rsplit('.').next() {
            Some("parquet" | "pq") => Format::Parquet,
            _ => Format::Jsonl,
        }
    }
}

fn part_problems() -> u32 {
    128
}

impl Params {
    pub fn validate(&self) -> Result<()> {
        if self.files.is_empty() {
            return Err(Error::usage("`files` is empty").hint("name at least one file of problems"));
        }
        at_least_one(self.part_problems, "part_problems")
    }

    pub fn bind(&self, inputs: &Inputs) -> Result<SourcesStage> {
        let files = self.files.iter().map(|file| inputs.file(file.path())).collect::<Result<_>>()?;
        Ok(SourcesStage { params: self.clone(), files })
    }
}

pub struct SourcesStage {
    params: Params,
    files: Vec<SourceFile>,
}

impl Stage for SourcesStage {
    fn recipe(&self) -> Recipe {
        let p = &self.params;
        let files: Vec<String> = p
            .files
            .iter()
            .zip(&self.files)
            .map(|(file, found)| format!("{} {}", file.source(), found.address))
            .collect();
        Recipe::new("ingest", ingest::VERSION)
            .with("schema", (Problem::VERSION, Reject::VERSION))
            .with("files", files)
            .with("fields", &p.fields)
            .with("limit", p.limit)
            .with("part_problems", p.part_problems)
    }

    fn main_table(&self) -> Option<&'static str> {
        Some(Problem::TABLE)
    }

    /// One unit of work: duplicates are found across all files.
    fn parts(&self) -> Result<Vec<Part>> {
        Ok(vec![Part { span: Span::default(), key: Vec::new(), rows: 0, index: 0 }])
    }

    fn run_part(&self, context: &Context, _part: &Part, _earlier: &[PartRecord]) -> Result<Output> {
        let named: Vec<(String, String)> =
            self.params.files.iter().map(|file| (file.path().to_string(), file.source())).collect();
        let bytes = self.files.iter().map(SourceFile::read).collect::<Result<Vec<_>>>()?;
        let inputs: Vec<Input> = named
            .iter()
            .zip(&self.params.files)
            .zip(&bytes)
            .map(|(((file, source), spec), bytes)| Input {
                file,
                source,
                bytes,
                format: spec.format(),
                mapping: &self.params.fields,
            })
            .collect();
        let ingested = ingest::ingest(&inputs)?;
        let problems = self.limited(ingested.problems);
        let mut tables = Vec::new();
        for range in cut(&problems, |problem| &problem.problem_id, self.params.part_problems) {
            tables.push(context.encode(&problems[range])?);
        }
        if problems.is_empty() {
            tables.push(context.encode::<Problem>(&[])?);
        }
        tables.push(context.encode(&ingested.rejects)?);
        Ok(Output { tables, files: Vec::new() })
    }
}

impl SourcesStage {
    fn limited(&self, mut problems: Vec<Problem>) -> Vec<Problem> {
        if self.params.limit > 0 {
            let mut taken: BTreeMap<String, u32> = BTreeMap::new();
            problems.retain(|problem| {
                let count = taken.entry(problem.source.clone()).or_default();
                *count += 1;
                *count <= self.params.limit
            });
        }
        problems
    }
}
