//! samples: files of completions + problems -> rollouts.  Text from elsewhere, in the tokens of a policy.
//!
//! No log-probs: who wrote a text, and under what prompt, is not known. Everything else is as of samples drawn here. Rows are sorted
//! by problem outside of memory; of a problem, samples are ordered by their place in the rows and then by what they say, so that
//! neither the order of the rows nor that of the files matters.

mod encode;
mod gather;
mod matching;

use super::buckets::{at_least_one, starts_range};
use super::ingest::{File, store_rejects};
use super::reader::{CompletionFields, Content, Rejects};
use super::spec::{Origin, SourceFile};
use super::template::Template;
use super::{Context, Inputs, Part, Reference, Stage, StageParams, Tick, Wants};
use crate::policy::{PolicyHandle, load_speaker};
use encode::{Encoded, Encoder};
use gather::{Gather, Held, Sorted};
use matching::{Known, normal};
use mindgap_base::error::{Error, Result};
use mindgap_base::fingerprint::Recipe;
use mindgap_lm::model::policy::Prompt;
use mindgap_store::table::Row;
use mindgap_store::table::imports::{Import, Reasoning};
use mindgap_store::table::problems::{Problem, Reject};
use mindgap_store::table::rollouts::{PromptKind, Rollout};
use mindgap_store::{PartRecord, Span, Store, Table};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::mpsc::{self, SyncSender};

/// Bumped whenever the same bytes would give other rows.
const VERSION: u32 = 1;
/// Rows that are encoded at once, all of a problem's among them.
const CHUNK_ROWS: usize = 4096;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// What the completions answer.
    pub problems: String,
    /// Its tokenizer is the one texts are encoded in.
    pub policy: String,
    /// Files of completions: JSON lines or Parquet, plain or gzip. Where a file has a `source`, it is about problems of that source
    /// alone.
    pub files: Vec<File>,
    #[serde(default)]
    pub fields: CompletionFields,
    /// Prompt template of the training prompt; the problem alone where none is named. Judges look for the box it asks for, and rows
    /// find their problem by it.
    pub template: Option<String>,
    /// What is done with reasoning that an API puts beside its answer.
    #[serde(default = "left_out")]
    pub reasoning: Reasoning,
    /// Problems per part, on average.
    #[serde(default = "part_problems")]
    pub part_problems: u32,
}

fn left_out() -> Reasoning {
    Reasoning::LeftOut
}
fn part_problems() -> u32 {
    1024
}

impl Params {
    pub fn origin(&self) -> Origin<'_> {
        Origin { problems: &self.problems, template: self.template.as_deref(), prompt_kind: PromptKind::Imported }
    }
}

impl StageParams for Params {
    fn validate(&self) -> Result<()> {
        if self.files.is_empty() {
            return Err(Error::usage("`files` is empty").hint("name at least one file of completions"));
        }
        at_least_one(self.part_problems, "part_problems")
    }

    fn references(&self) -> Vec<Reference> {
        vec![
            Reference::new("problems", &self.problems, Wants::Problems),
            Reference::new("policy", &self.policy, Wants::Policy),
        ]
    }

    fn bind(&self, inputs: &Inputs) -> Result<Box<dyn Stage>> {
        Ok(Box::new(SamplesStage {
            files: self.files.iter().map(|file| inputs.file(file.path())).collect::<Result<_>>()?,
            problems: inputs.table(&self.problems)?,
            policy: inputs.policy(&self.policy)?,
            template: inputs.template(self.template.as_deref())?,
            store: inputs.store.clone(),
            params: self.clone(),
        }))
    }
}

pub struct SamplesStage {
    params: Params,
    files: Vec<SourceFile>,
    problems: Table<Problem>,
    policy: PolicyHandle,
    template: Template,
    store: Store,
}

impl Stage for SamplesStage {
    /// Of the policy only tokenizer and template matter.
    fn recipe(&self) -> Recipe {
        let p = &self.params;
        let of = |(file, found): (&File, &SourceFile)| format!("{:?} {}", file.named_source(), found.address);
        let recipe = Recipe::new("samples", VERSION)
            .with("schema", (Rollout::VERSION, Import::VERSION, Reject::VERSION))
            .with("files", p.files.iter().zip(&self.files).map(of).collect::<Vec<String>>())
            .with("fields", &p.fields)
            .with("tokenizer", self.policy.tokenizer_digest())
            .with("reasoning", p.reasoning)
            .with("part_problems", p.part_problems);
        self.template.name_in(recipe)
    }

    fn main_table(&self) -> Option<&'static str> {
        Some(Rollout::TABLE)
    }

    /// One unit of work, as any row may be of any problem. Its tables are cut where ids say so.
    fn parts(&self) -> Result<Vec<Part>> {
        let key = self.problems.contents().into_iter().map(ToString::to_string).collect();
        Ok(vec![Part { span: Span::default(), key, rows: 0, index: 0 }])
    }

    fn run_part(&self, context: &Context, _part: &Part, _earlier: &[PartRecord]) -> Result<()> {
        let policy = load_speaker(&self.policy)?;
        let encoder =
            Encoder::new(&policy, &self.template).map_err(|e| e.at(format!("policy `{}`", self.policy.name)))?;
        let known = Known::read(&self.problems, matching::frames(&policy, &self.template))?;
        let names: Vec<&str> = self.params.files.iter().map(File::path).collect();
        let mut gather = Gather::new(&self.store, &known, &self.params.fields, self.params.reasoning, names.clone());
        let mut rows_read = 0;
        for (index, (file, found)) in self.params.files.iter().zip(&self.files).enumerate() {
            found.with(|bytes| {
                let content = Content { file: file.path(), bytes, format: file.format() };
                gather.read(index, &content, file.named_source(), &mut |count| {
                    rows_read += count;
                    let note = "rows read".to_string();
                    (context.tick)(Tick { rows_done: rows_read, note, ..Tick::default() });
                    context.check_cancelled()
                })
            })?;
        }
        let (rows_total, sorted, mut rejects) = gather.finish()?;
        // Parts are written while the next rows are encoded.
        let (sender, parts) = mpsc::sync_channel(1);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| parts.into_iter().try_for_each(|part| store_part(context, part)));
            let made =
                self.make(context, &encoder, Gathered { rows_total, sorted, names: &names }, &mut rejects, sender);
            let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            written.and(made)
        })?;
        store_rejects(context, rejects)
    }
}

/// What was read of the files, ready to be encoded.
struct Gathered<'a, I> {
    rows_total: u64,
    sorted: I,
    /// Names of the files.
    names: &'a [&'a str],
}

type PartRows = (Vec<Rollout>, Vec<Import>);

fn store_part(context: &Context, (rollouts, imports): PartRows) -> Result<()> {
    context.store(&rollouts)?;
    context.store(&imports)
}

impl SamplesStage {
    /// Encodes all completions, problem by problem, and sends them on in parts.
    fn make(
        &self,
        context: &Context,
        encoder: &Encoder,
        gathered: Gathered<impl Iterator<Item = Result<Sorted>>>,
        rejects: &mut Rejects,
        sender: SyncSender<PartRows>,
    ) -> Result<()> {
        let Gathered { rows_total, sorted, names } = gathered;
        let mut out = Out::new(sender, self.params.part_problems);
        let (mut chunk, mut rows_done): (Vec<Sorted>, u64) = (Vec::new(), 0);
        for row in sorted {
            let row = row?;
            if chunk.len() >= CHUNK_ROWS && chunk.last().is_some_and(|last| last.problem != row.problem) {
                rows_done += chunk.len() as u64;
                self.deliver(encoder, &std::mem::take(&mut chunk), names, rejects, &mut out)?;
                (context.tick)(Tick { rows_done, rows_total, ..Tick::default() });
                context.check_cancelled()?;
            }
            chunk.push(row);
        }
        self.deliver(encoder, &chunk, names, rejects, &mut out)?;
        out.finish()
    }

    /// Turns all completions of some problems into rows.
    fn deliver(
        &self,
        encoder: &Encoder,
        chunk: &[Sorted],
        names: &[&str],
        rejects: &mut Rejects,
        out: &mut Out,
    ) -> Result<()> {
        let (Some(first), Some(last)) = (chunk.first(), chunk.last()) else { return Ok(()) };
        let held: Vec<Held> = chunk.par_iter().map(Held::read).collect::<Result<_>>()?;
        let mut problems: HashMap<u64, Problem> = HashMap::new();
        if encoder.needs_prompts() || held.iter().any(|held| held.doubt.is_some()) {
            let table = self.problems.overlapping(&problem_id(first.problem), &problem_id(last.problem));
            for row in table.read_all()? {
                problems.insert(matching::number(&row.problem_id)?, row);
            }
        }
        let mut ids: Vec<u64> =
            if encoder.needs_prompts() { chunk.iter().map(|row| row.problem).collect() } else { vec![] };
        ids.dedup();
        let prompts = ids.par_iter().map(|id| Ok((*id, encoder.prompt(&problems[id])?)));
        let prompts: HashMap<u64, Prompt> = prompts.collect::<Result<_>>()?;
        let encoded = held.par_iter().map(|held| {
            let asks = |asked: &String| asked.contains(&normal(&problems[&held.problem].question));
            match held.doubt.as_ref().is_none_or(asks) {
                true => encoder.row(held, prompts.get(&held.problem)).map(Some),
                false => Ok(None),
            }
        });
        let encoded: Vec<Option<Encoded>> = encoded.collect::<Result<_>>()?;
        for (held, encoded) in held.into_iter().zip(encoded) {
            let (file, line) = (names[held.input].to_string(), held.line);
            match encoded {
                Some(encoded) => out.push(held, file, encoded)?,
                None => {
                    let reason = "its id is that of a problem that asks something else".to_string();
                    let excerpt = held.completion.text.chars().take(EXCERPT_CHARS).collect();
                    rejects.push(held.input, held.item, Reject { file, line, reason, excerpt })?;
                }
            }
        }
        Ok(())
    }
}

/// Characters that are kept of a completion that is refused when its row is no longer at hand.
const EXCERPT_CHARS: usize = 120;

/// Rows on their way into parts.
struct Out {
    sender: SyncSender<PartRows>,
    part_problems: u32,
    rollouts: Vec<Rollout>,
    imports: Vec<Import>,
    made: bool,
}

impl Out {
    fn new(sender: SyncSender<PartRows>, part_problems: u32) -> Out {
        Out { sender, part_problems, rollouts: Vec::new(), imports: Vec::new(), made: false }
    }

    /// Takes the next sample in the order of problems.
    fn push(&mut self, held: Held, file: String, encoded: Encoded) -> Result<()> {
        let problem_id = problem_id(held.problem);
        let before = self.rollouts.last().filter(|last| last.problem_id == problem_id).map(|last| last.sample_index);
        if before.is_none() && !self.rollouts.is_empty() && starts_range(&problem_id, self.part_problems) {
            self.send()?;
        }
        let sample_index = before.map_or(0, |before| before + 1);
        self.imports.push(Import {
            problem_id: problem_id.clone(),
            sample_index,
            file,
            line: held.line,
            item_index: held.item,
            matched_by: held.matched_by,
            tokens_from: encoded.tokens_from,
            reasoning: held.completion.reasoning,
        });
        self.rollouts.push(encoded.rollout(problem_id, sample_index, held.completion.text));
        Ok(())
    }

    fn send(&mut self) -> Result<()> {
        self.made = true;
        let part = (std::mem::take(&mut self.rollouts), std::mem::take(&mut self.imports));
        self.sender.send(part).map_err(|_| Error::internal("nobody writes the parts any more"))
    }

    /// Sends what is left; an empty part where there was nothing.
    fn finish(mut self) -> Result<()> {
        match self.rollouts.is_empty() && self.made {
            true => Ok(()),
            false => self.send(),
        }
    }
}

/// A problem's id as tables have it.
fn problem_id(number: u64) -> String {
    format!("{number:016x}")
}
