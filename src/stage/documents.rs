//! documents: text segments + tokenizer -> examples.  For pre-training; each segment says whether it is trained on.

use super::spec::SourceFile;
use super::{Context, Inputs, Part, Reference, Stage, StageParams, Tick, Wants};
use crate::policy::PolicyHandle;
use crate::policy::load_policy;
use arrow::array::RecordBatch;
use mindgap_base::address::Address;
use mindgap_base::error::{Error, Result};
use mindgap_base::fingerprint::Recipe;
use mindgap_lm::model::tokenizer::Tokenizer;
use mindgap_store::parquet::decode_batches;
use mindgap_store::table::Row;
use mindgap_store::table::examples::Example;
use mindgap_store::{PartRecord, Span};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

const VERSION: u32 = 2;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Parquet files with a column `segments`: list of (text, label), `label` true where the text is trained on.
    pub files: Vec<String>,
    /// Whose tokenizer.
    pub policy: String,
}

impl StageParams for Params {
    fn validate(&self) -> Result<()> {
        match self.files.is_empty() {
            true => Err(Error::usage("`files` is empty").hint("name at least one Parquet file of documents")),
            false => Ok(()),
        }
    }

    fn references(&self) -> Vec<Reference> {
        vec![Reference::new("policy", &self.policy, Wants::Policy)]
    }

    fn bind(&self, inputs: &Inputs) -> Result<Box<dyn Stage>> {
        let files = self.files.iter().map(|path| inputs.file(path)).collect::<Result<_>>()?;
        Ok(Box::new(DocumentsStage { files, policy: inputs.policy(&self.policy)? }))
    }
}

pub struct DocumentsStage {
    files: Vec<SourceFile>,
    policy: PolicyHandle,
}

/// A row of the source file.
#[derive(Deserialize)]
struct Document {
    segments: Vec<Segment>,
    source: Option<String>,
}

#[derive(Deserialize)]
struct Segment {
    text: String,
    label: bool,
}

impl Stage for DocumentsStage {
    fn recipe(&self) -> Recipe {
        let tokenizer: BTreeMap<_, _> =
            self.policy.digest().into_iter().filter(|(file, _)| file.starts_with("tokenizer")).collect();
        Recipe::new("documents", VERSION).with("schema", Example::VERSION).with("tokenizer", tokenizer)
    }

    fn main_table(&self) -> Option<&'static str> {
        Some(Example::TABLE)
    }

    /// One part per file.
    fn parts(&self) -> Result<Vec<Part>> {
        let part = |(index, file): (usize, &SourceFile)| {
            let name = file.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            let span = Span { first: name.clone(), last: name, samples: None };
            Part { span, key: vec![file.address.to_string()], rows: 0, index }
        };
        Ok(self.files.iter().enumerate().map(part).collect())
    }

    fn cut(&self) -> Recipe {
        let files: BTreeMap<String, &Address> =
            self.files.iter().map(|file| (file.path.display().to_string(), &file.address)).collect();
        Recipe::default().with("files", files)
    }

    fn run_part(&self, context: &Context, part: &Part, _earlier: &[PartRecord]) -> Result<()> {
        let file = &self.files[part.index];
        let policy = load_policy(&self.policy)?;
        let at = || file.path.display().to_string();
        let mut rows = Vec::new();
        for batch in decode_batches(file.read()?).map_err(|e| e.at(at()))? {
            context.check_cancelled()?;
            rows.extend(examples(policy.tokenizer(), &batch).map_err(|e| e.at(at()))?);
            (context.tick)(Tick { rows_done: rows.len() as u64, ..Tick::default() });
        }
        number_repeats(&mut rows);
        rows.sort_by(|a, b| a.example_id.cmp(&b.example_id));
        context.store(&rows)
    }
}

/// A document that occurs again is a row of its own: how often it occurs is part of the data.
fn number_repeats(rows: &mut [Example]) {
    let mut seen: HashMap<String, u32> = HashMap::new();
    for row in rows {
        let count = seen.entry(row.example_id.clone()).or_default();
        if *count > 0 {
            row.example_id = format!("{}-{count}", row.example_id);
        }
        *count += 1;
    }
}

fn examples(tokenizer: &Tokenizer, batch: &RecordBatch) -> Result<Vec<Example>> {
    let documents: Vec<Document> = serde_arrow::from_record_batch(batch).map_err(|e| {
        Error::input("file holds no column `segments` of lists of (text, label)")
            .source(e)
            .hint("`text` is a string, `label` is true where the text is trained on")
    })?;
    documents.par_iter().map(|document| example(tokenizer, document)).collect()
}

fn example(tokenizer: &Tokenizer, document: &Document) -> Result<Example> {
    let (mut token_ids, mut loss_mask) = (Vec::new(), Vec::new());
    let mut identity = String::new();
    for segment in &document.segments {
        token_ids.extend(tokenizer.encode(&segment.text, false)?);
        loss_mask.resize(token_ids.len(), segment.label);
        identity.push_str(&format!("{} {} {}\n", segment.text.len(), segment.label, segment.text));
    }
    if let Some(first) = loss_mask.first_mut() {
        *first = false;
    }
    let example_id = Address::of(identity.as_bytes()).as_str()[..16].to_string();
    Ok(Example { example_id, source: document.source.clone().unwrap_or_default(), token_ids, loss_mask })
}
