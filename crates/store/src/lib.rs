//! The store: content-addressed files, and the memory of which recipe made which.
//!
//! Layout, write order and promises: docs/design/store.md. The only module that touches files.

mod check;
pub mod fault;
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
mod sort;
mod version;
mod view;

pub use check::{Checked, Finding, Problem};
pub use gc::{Garbage, Rules};
pub use handle::{Parts, Table};
pub use journal::{Journal, Snapshot};
pub use lease::Lease;
pub use manifest::{Input, LeftOut, Manifest, Origin, PartRecord, PartRef, Pointer, Span};
pub use object::ObjectWriter;
pub use oplog::Oplog;
pub use sort::{Sorted, Sorter};

use memo::{RECIPE, parse_record};
use mindgap_base::error::{Error, Result};
use std::path::{Path, PathBuf};
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

/// A folder of tables, policies and the recipes that made them.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Opens a store to write to, creating it where there is none. Refuses a folder of another version.
    pub fn open(root: impl Into<PathBuf>) -> Result<Store> {
        let store = Store { root: root.into() };
        fs::create_dir(&store.root)?;
        store.settle_version()?;
        Ok(store)
    }

    /// Opens a store to look into, without a change to the disk. One that is not there is an empty one.
    pub fn look(root: impl Into<PathBuf>) -> Result<Store> {
        let store = Store { root: root.into() };
        store.version()?;
        Ok(store)
    }

    /// Opens a store that must be there, to look into.
    pub fn look_existing(root: &Path) -> Result<Store> {
        let store = Store { root: root.to_path_buf() };
        match root.is_dir() && (store.version()? != Version::Absent || store.has_layout()) {
            true => Ok(store),
            false => Err(Error::usage("there is no store here")
                .at(root.display().to_string())
                .hint("name it with --store or MINDGAP_STORE; `mindgap run` makes one")),
        }
    }

    /// A file for what need not outlive it; see [`fs::nameless`].
    pub fn nameless_file(&self) -> Result<fs::File> {
        fs::nameless(&self.root)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }
}
