//! ingest: files -> problems and rejects.  Hands the files to the reader, refuses what benchmarks have or what nearly repeats
//! another problem, and cuts the rest into parts.

mod contamination;
mod similar;
mod words;

use super::buckets::{at_least_one, starts_range};
use super::reader::{self, Content, Format, Ingest, Input, Mapping, Rejects, Rule};
use super::spec::SourceFile;
use super::{Context, Inputs, Part, Reference, Stage, StageParams, Tick, Wants};
use contamination::Benchmarks;
use mindgap_base::error::{Error, Result};
use mindgap_base::fingerprint::Recipe;
use mindgap_store::table::Row;
use mindgap_store::table::problems::{Problem, Reject};
use mindgap_store::{PartRecord, Span, Store, Table};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use similar::Kept;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub use super::reader::{answer, gold};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Files of problems: JSON lines or Parquet, plain or gzip.
    pub files: Vec<File>,
    #[serde(default)]
    pub fields: Mapping,
    /// What is done to the experts' solutions; nothing by default. What a rule changed is told in `meta`.
    #[serde(default)]
    pub clean: BTreeSet<Rule>,
    /// At most this many problems of each source, the first by id; 0 takes all.
    #[serde(default)]
    pub limit: u32,
    /// Only problems whose ids lie in this share of all there can be: `[0.0, 0.9]` is nine tenths of a file and `[0.9, 1.0]` the
    /// rest of it. Which problem falls where depends on nothing else.
    pub share: Option<[f64; 2]>,
    /// Refuse problems that are benchmarks' too.
    pub decontaminate: Option<Decontaminate>,
    /// Refuse problems whose question shares at least this much with that of a problem before it, by id: the Jaccard index of
    /// runs of five words, 0.8 say.
    pub near_duplicates: Option<f64>,
    /// Problems per part, on average.
    #[serde(default = "part_problems")]
    pub part_problems: u32,
}

/// What may not be trained on.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decontaminate {
    /// Ingest stages of benchmarks: a problem is refused if it asks what one of them asks.
    pub against: Vec<String>,
    /// Words in a run that must not stand in a benchmark's question too.
    #[serde(default = "ngram")]
    pub ngram: u32,
}

/// As for GPT-3 (arXiv 2005.14165, appendix C).
fn ngram() -> u32 {
    13
}

/// A file, alone or with a name for its problems' `source`.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum File {
    Path(String),
    Named(Named),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    path: String,
    source: String,
}

/// By hand, so that an error names the key that is wrong.
impl<'de> Deserialize<'de> for File {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<File, D::Error> {
        struct FileVisitor;
        impl<'de> Visitor<'de> for FileVisitor {
            type Value = File;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a path, or a table with `path` and `source`")
            }

            fn visit_str<E: serde::de::Error>(self, path: &str) -> Result<File, E> {
                Ok(File::Path(path.to_string()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<File, A::Error> {
                Named::deserialize(MapAccessDeserializer::new(map)).map(File::Named)
            }
        }
        deserializer.deserialize_any(FileVisitor)
    }
}

impl File {
    pub(super) fn path(&self) -> &str {
        match self {
            File::Path(path) | File::Named(Named { path, .. }) => path,
        }
    }

    /// The name given.
    pub(super) fn named_source(&self) -> Option<&str> {
        match self {
            File::Named(named) => Some(&named.source),
            File::Path(_) => None,
        }
    }

    /// The name given, or the file's name up to its first dot.
    fn source(&self) -> String {
        match self {
            File::Named(named) => named.source.clone(),
            File::Path(path) => {
                let name = path.rsplit('/').next().unwrap_or(path);
                name.split('.').next().unwrap_or(name).to_string()
            }
        }
    }

    pub(super) fn format(&self) -> Format {
        match self.path().trim_end_matches(".gz").rsplit('.').next() {
            Some("parquet" | "pq") => Format::Parquet,
            _ => Format::Jsonl,
        }
    }
}

fn part_problems() -> u32 {
    128
}

impl StageParams for Params {
    fn validate(&self) -> Result<()> {
        if self.files.is_empty() {
            return Err(Error::usage("`files` is empty").hint("name at least one file of problems"));
        }
        if let Some([from, to]) = self.share
            && !(0.0 <= from && from < to && to <= 1.0)
        {
            return Err(Error::usage(format!(
                "`share` is [{from}, {to}]; it begins at 0 or later, ends at 1 or earlier"
            ))
            .hint("`share = [0.0, 0.9]` trains on what `share = [0.9, 1.0]` holds out"));
        }
        if self.fields.verbatim && self.fields.scale.is_some() {
            return Err(Error::usage("`fields` has both `verbatim` and `scale`")
                .hint("a verbatim answer is its field as it is, without a scale"));
        }
        if let Some(Decontaminate { against, ngram }) = &self.decontaminate {
            at_least_one(*ngram, "ngram")?;
            if against.is_empty() {
                return Err(Error::usage("`against` of `decontaminate` names no stage")
                    .hint("name the ingest stages of the benchmarks"));
            }
        }
        if let Some(least) = self.near_duplicates
            && !(similar::LEAST..=1.0).contains(&least)
        {
            let what = format!("`near_duplicates` is `{least}`; it must be between {} and 1", similar::LEAST);
            return Err(Error::usage(what).hint("0.8 takes two questions for one if they share four fifths"));
        }
        at_least_one(self.part_problems, "part_problems")
    }

    fn references(&self) -> Vec<Reference> {
        self.benchmarks().map(|name| Reference::new("decontaminate", name, Wants::Problems)).collect()
    }

    fn bind(&self, inputs: &Inputs) -> Result<Box<dyn Stage>> {
        let files = self.files.iter().map(|file| inputs.file(file.path())).collect::<Result<_>>()?;
        let benchmarks = self.benchmarks().map(|name| inputs.table(name)).collect::<Result<_>>()?;
        Ok(Box::new(SourcesStage { params: self.clone(), files, benchmarks, store: inputs.store.clone() }))
    }

    fn lists(&mut self) -> Vec<(&'static str, &mut Vec<String>)> {
        self.decontaminate.iter_mut().map(|params| ("decontaminate", &mut params.against)).collect()
    }
}

impl Params {
    fn benchmarks(&self) -> impl Iterator<Item = &String> {
        self.decontaminate.iter().flat_map(|params| &params.against)
    }
}

pub struct SourcesStage {
    params: Params,
    files: Vec<SourceFile>,
    /// What the problems are compared with.
    benchmarks: Vec<Table<Problem>>,
    store: Store,
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
        let mut recipe = Recipe::new("ingest", reader::VERSION)
            .with("schema", (Problem::VERSION, Reject::VERSION))
            .with("files", files)
            .with("fields", &p.fields)
            .with("limit", p.limit)
            .with("part_problems", p.part_problems);
        if !p.clean.is_empty() {
            recipe = recipe.with("clean", &p.clean);
        }
        if let Some(share) = p.share {
            recipe = recipe.with("share", share);
        }
        if let Some(params) = &p.decontaminate {
            recipe = recipe.with("decontaminate", (contamination::VERSION, params.ngram));
        }
        if let Some(least) = p.near_duplicates {
            recipe = recipe.with("near_duplicates", (similar::VERSION, least));
        }
        recipe
    }

    fn main_table(&self) -> Option<&'static str> {
        Some(Problem::TABLE)
    }

    /// One unit of work: duplicates are found across all files.
    fn parts(&self) -> Result<Vec<Part>> {
        let contents = self.benchmarks.iter().flat_map(Table::contents);
        let key = contents.map(|content| format!("benchmark {content}")).collect();
        Ok(vec![Part { span: Span::default(), key, rows: 0, index: 0 }])
    }

    fn run_part(&self, context: &Context, _part: &Part, _earlier: &[PartRecord]) -> Result<()> {
        let mut ingest = Ingest::new(&self.store, self.params.files.iter().map(File::path).collect());
        let mut rows_read = 0;
        for (index, (file, found)) in self.params.files.iter().zip(&self.files).enumerate() {
            let source = file.source();
            found.with(|content| {
                let Params { fields: mapping, clean, .. } = &self.params;
                let content = Content { file: file.path(), bytes: content, format: file.format() };
                let input = Input { content, source: &source, mapping, clean };
                ingest.read(index, &input, &mut || {
                    rows_read += 1;
                    self.tell(context, rows_read, 0)
                })
            })?;
        }
        let benchmarks = self.read_benchmarks(context)?;
        let mut kept = self.params.near_duplicates.map(Kept::new);
        let (mut problems, mut taken, mut made, mut rows_done) = (Vec::new(), BTreeMap::new(), false, 0);
        let rejects = ingest.problems(&mut |problem| {
            rows_done += 1;
            self.tell(context, rows_done, rows_read)?;
            let count: &mut u32 = taken.entry(problem.source.clone()).or_default();
            let is_full = self.params.limit > 0 && *count >= self.params.limit;
            if is_full || !self.is_in_share(&problem) {
                return Ok(None);
            }
            let refused = benchmarks.as_ref().and_then(|benchmarks| benchmarks.reason(&problem.question));
            let near = || kept.as_mut().and_then(|kept| kept.reason(&problem.problem_id, &problem.question));
            if let Some(reason) = refused.or_else(near) {
                return Ok(Some(reason));
            }
            *count += 1;
            if !problems.is_empty() && starts_range(&problem.problem_id, self.params.part_problems) {
                made = true;
                context.store(&problems)?;
                problems.clear();
            }
            problems.push(problem);
            Ok(None)
        })?;
        if !problems.is_empty() || !made {
            context.store(&problems)?;
        }
        store_rejects(context, rejects)
    }
}

/// Stores what was refused, in parts.
pub(super) fn store_rejects(context: &Context, rejects: Rejects) -> Result<()> {
    let mut rejects = rejects.sorted()?.peekable();
    loop {
        let part = rejects.by_ref().take(PART_REJECTS).collect::<Result<Vec<Reject>>>()?;
        context.store(&part)?;
        if rejects.peek().is_none() {
            return Ok(());
        }
    }
}

/// Rejects per part: what the store's Parquet files have in a row group.
const PART_REJECTS: usize = 65_536;
/// Rows between two looks at whether the run is to stop.
const TELL_ROWS: u64 = 1024;

impl SourcesStage {
    fn tell(&self, context: &Context, rows_done: u64, rows_total: u64) -> Result<()> {
        if !rows_done.is_multiple_of(TELL_ROWS) {
            return Ok(());
        }
        let note = if rows_total == 0 { "rows read".to_string() } else { String::new() };
        (context.tick)(Tick { rows_done, rows_total, note, ..Tick::default() });
        context.check_cancelled()
    }

    fn is_in_share(&self, problem: &Problem) -> bool {
        let Some([from, to]) = self.params.share else { return true };
        let id = u64::from_str_radix(&problem.problem_id, 16).expect("ids are 16 hexadecimal digits");
        let at = id as f64 / 2f64.powi(64);
        from <= at && (at < to || to == 1.0)
    }

    /// The questions of all benchmarks, if there are any to compare with.
    fn read_benchmarks(&self, context: &Context) -> Result<Option<Benchmarks>> {
        let Some(params) = &self.params.decontaminate else { return Ok(None) };
        let mut benchmarks = Benchmarks::new(params.ngram);
        for table in &self.benchmarks {
            for part in table.parts() {
                context.check_cancelled()?;
                for problem in table.read(part)? {
                    benchmarks.add(&problem.source, &problem.problem_id, &problem.question);
                }
            }
        }
        Ok(Some(benchmarks))
    }
}
