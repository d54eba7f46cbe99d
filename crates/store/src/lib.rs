//! The store: content-addressed files, and the memory of which recipe made which.
//!
//! Layout, write order and promises: docs/design/store.md. The only module that touches files.

mod check;
mod failures;
#[doc(hidden)]
pub mod fuzzed;
pub mod fault;
mod flat;
pub mod fs;
mod gc;
mod handle;
pub mod table;
mod journal;
mod lease;
mod manifest;
mod memo;
mod object;
mod oplog;
pub mod parquet;
mod remote;
mod seal;
mod sort;
mod version;
mod view;

pub use check::{Checked, Finding, Problem};
pub use failures::{Failure, Failures};
pub use flat::{Flat, Place};
pub use gc::{Garbage, Rules};
pub use handle::{Parts, Table};
pub use journal::{Journal, Snapshot};
pub use lease::Lease;
pub use manifest::{Input, LeftOut, Manifest, Origin, PartRecord, PartRef, Pointer, Span};
pub use memo::PartLock;
pub use object::ObjectWriter;
pub use oplog::Oplog;
pub use remote::{Worker, is_url};
pub use sort::{Sorted, Sorter};

use memo::{RECIPE, parse_record};
use mindgap_base::error::{Error, Result};
use remote::{Remote, cache_folder};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use version::Version;

/// What is wrong with a name of a pipeline or a stage, if anything: it becomes one file or folder of the store.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'+');
    match name.bytes().next() {
        None => Err("is empty"),
        Some(b'.') => Err("starts with `.`"),
        _ if !name.bytes().all(fine) => Err("holds other characters than letters, digits, `_`, `-`, `.`, `+`"),
        _ => Ok(()),
    }
}

/// A folder of tables, policies and the recipes that made them; or a bucket of the same, and a folder that caches its objects.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    remote: Option<Arc<Remote>>,
}

impl Store {
    /// Opens a store to write to, creating it where there is none: a folder, or `s3://bucket/prefix`. Refuses one of another version.
    pub fn open(place: impl Into<PathBuf>) -> Result<Store> {
        let store = Store::at(place.into())?;
        fs::create_dir(&store.root)?;
        store.settle_version()?;
        store.remote.as_ref().map_or(Ok(()), |remote| remote.settle())?;
        Ok(store)
    }

    /// The store of this name, which need not be there.
    fn at(place: PathBuf) -> Result<Store> {
        match place.to_str().filter(|_| is_url(&place)) {
            None => Ok(Store { root: place, remote: None }),
            Some(url) => Ok(Store { root: cache_folder(url)?, remote: Some(Remote::open(url)?) }),
        }
    }

    /// Opens a store to look into, without a change to the disk. One that is not there is an empty one.
    pub fn look(place: impl Into<PathBuf>) -> Result<Store> {
        let store = Store::at(place.into())?;
        store.version()?;
        store.remote.as_ref().map_or(Ok(true), |remote| remote.is_there())?;
        Ok(store)
    }

    /// Opens a store that must be there, to look into.
    pub fn look_existing(place: &Path) -> Result<Store> {
        let store = Store::at(place.to_path_buf())?;
        let is_there = match &store.remote {
            Some(remote) => remote.is_there()?,
            None => place.is_dir() && (store.version()? != Version::Absent || store.has_layout()),
        };
        match is_there {
            true => Ok(store),
            false => Err(Error::usage("there is no store here")
                .at(place.display().to_string())
                .hint("name it with --store or MINDGAP_STORE; `mindgap run` makes one")),
        }
    }

    /// A file for what need not outlive it; see [`fs::nameless`].
    pub fn nameless_file(&self) -> Result<fs::File> {
        fs::nameless(&self.root)
    }

    /// The store's folder; of a remote store its cache.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether it is in a bucket, beside other workers on other machines.
    pub fn is_remote(&self) -> bool {
        self.remote.is_some()
    }

    /// Workers that are at a part now, as far as the store knows: those of a folder's store are not told.
    pub fn workers(&self) -> Result<Vec<Worker>> {
        self.remote.as_ref().map_or(Ok(Vec::new()), |remote| remote.workers())
    }
}
