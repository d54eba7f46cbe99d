//! The stages, in data-flow order. Each reads tables and policies through read handles and hands rows and files to the
//! executor, which publishes them.

mod backend;
mod buckets;
mod column;
mod cost;
pub mod difficulty;
pub mod documents;
pub mod evaluate;
pub mod gap;
pub mod ingest;
#[doc(hidden)]
pub mod reader;
pub mod judge;
pub mod logprob;
pub mod reward;
pub mod rewrite;
pub mod rollout;
pub mod samples;
pub mod soft;
mod spec;
mod template;
mod texts;
pub mod train;

pub use cost::{Cost, Footprint, Holds};
pub use spec::{Inputs, KINDS, Params, Reference, StageParams, Wants};
pub use train::policy_files;

use crate::server::Launcher;
use candle_core::Device;
use mindgap_base::error::{Error, Result};
use mindgap_base::fingerprint::{Fingerprint, Recipe};
use mindgap_lm::engine::Limits;
use mindgap_lm::model::tensors::Put;
use mindgap_store::parquet::{Encoded, Footer};
use mindgap_store::table::Row;
use mindgap_store::{Journal, PartRecord, Span};
use std::sync::atomic::{AtomicBool, Ordering};

/// A stage with its inputs resolved: it knows its recipe and its parts, and can compute any part.
pub trait Stage: Sync {
    /// Everything all parts depend on: stage version, parameters, policy, template.
    fn recipe(&self) -> Recipe;

    /// The table people mean when they name the stage; `None` for a policy.
    fn main_table(&self) -> Option<&'static str>;

    /// How the work is cut. A part's key says what its rows depend on beyond the recipe.
    fn parts(&self) -> Result<Vec<Part>>;

    /// What says which parts there are and is part of neither recipe nor input: told where a part is missing.
    fn cut(&self) -> Recipe {
        Recipe::default()
    }

    /// Computes one part, and stores it through the context. `earlier` are finished parts of the same recipe: rows to reuse, a checkpoint to go on from.
    fn run_part(&self, context: &Context, part: &Part, earlier: &[PartRecord]) -> Result<()>;

    /// What a missing part would take. `family` is the fingerprint of the recipe.
    fn work(&self, _family: &Fingerprint, part: &Part, _earlier: &[PartRecord]) -> Result<Work> {
        Ok(Work { rows: part.rows, reusable: 0 })
    }

    /// What missing parts would cost that have so many rows to make; none where it is hardly anything, or cannot be told.
    fn cost(&self, _missing: &[&Part], _rows: u64, _earlier: &[PartRecord]) -> Result<Option<Cost>> {
        Ok(None)
    }

    /// What people should know before missing parts are computed.
    fn remarks(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Parts that may be computed at once. More than one where servers do the work: one ends while the next begins.
    fn abreast(&self) -> usize {
        1
    }

    /// A file of the parts before this one that nothing needs any more once this one is published.
    fn superseded(&self, _part: &Part) -> Option<&'static str> {
        None
    }
}

/// One unit of work of a stage.
#[derive(Clone, Debug)]
pub struct Part {
    pub span: Span,
    /// What the rows depend on beyond the recipe: content addresses, unit digests.
    pub key: Vec<String>,
    /// Rows it will have, where that is known without reading anything.
    pub rows: u64,
    pub index: usize,
}

/// Rows of a missing part, and how many of them parts made before hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    pub rows: u64,
    pub reusable: u64,
}

impl Part {
    pub fn fingerprint(&self, family: &Fingerprint) -> Fingerprint {
        Recipe::new("part", 1).with("family", family).with("key", &self.key).fingerprint()
    }
}

/// Where what a part turns out to be goes: parts of tables, and files.
pub trait Sink: Sync {
    fn put_table(&self, encoded: Encoded) -> Result<()>;

    /// `write` gives the file's bytes, piece by piece.
    fn put_file(&self, name: &str, write: &mut dyn FnMut(&mut Put) -> Result<()>) -> Result<()>;
}

/// What a running stage may use of the world.
pub struct Context<'a> {
    pub cancel: &'a AtomicBool,
    /// Called now and then with the progress inside the current part; cheap.
    pub tick: &'a (dyn Fn(Tick) + Sync),
    pub sink: &'a dyn Sink,
    pub threads: usize,
    /// Where policies run. No recipe knows it: what was computed is the record, on whatever device.
    pub device: &'a Device,
    /// Starts the servers of policies that are run by one.
    pub launcher: &'a Launcher,
    /// Stage name and fingerprint for the footers.
    pub footer: Footer<'a>,
    /// Keeps rows of this part before it is finished, and has those an interrupted run kept.
    pub journal: &'a Journal,
}

/// Progress inside a part.
#[derive(Clone, Debug, Default)]
pub struct Tick {
    pub rows_done: u64,
    pub rows_total: u64,
    /// Tokens generated, scored or trained on since the part began.
    pub tokens: u64,
    /// What `tokens` will be at the end of the part, as far as one can tell; 0 where nobody can.
    pub tokens_expected: u64,
    /// The latest figures, for people: a loss, say.
    pub note: String,
}

impl Tick {
    /// The progress of two parts as of one.
    pub fn and(self, other: Tick) -> Tick {
        Tick {
            rows_done: self.rows_done + other.rows_done,
            rows_total: self.rows_total + other.rows_total,
            tokens: self.tokens + other.tokens,
            tokens_expected: self.tokens_expected + other.tokens_expected,
            note: if other.note.is_empty() { self.note } else { other.note },
        }
    }
}

impl Context<'_> {
    /// What the engine may use, once its policy is loaded.
    pub fn limits(&self) -> Result<Limits<'_>> {
        Limits::on(self.device, self.threads, self.cancel)
    }

    pub fn encode<R: Row>(&self, rows: &[R]) -> Result<Encoded> {
        Encoded::new(rows, &self.footer)
    }

    /// Journals rows of this part, for a run that goes on after this one. Rows that servers failed are not kept: it asks again.
    pub fn keep<R: Row>(&self, rows: &[R]) -> Result<()> {
        match rows {
            [] => Ok(()),
            rows => self.journal.append(self.encode(rows)?),
        }
    }

    /// Stores rows as a part of their table.
    pub fn store<R: Row>(&self, rows: &[R]) -> Result<()> {
        self.sink.put_table(self.encode(rows)?)
    }

    /// Stores a file of the part; `write` gives its bytes, piece by piece.
    pub fn put_file(&self, name: &str, mut write: impl FnMut(&mut Put) -> Result<()>) -> Result<()> {
        self.sink.put_file(name, &mut write)
    }

    /// An error once the run was asked to stop.
    pub fn check_cancelled(&self) -> Result<()> {
        match self.cancel.load(Ordering::Relaxed) {
            true => Err(Error::interrupted("stopped in the middle of a part")),
            false => Ok(()),
        }
    }
}
