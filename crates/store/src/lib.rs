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
mod manifest;
mod memo;
mod object;
mod oplog;
pub mod parquet;
mod sort;
mod view;

pub use check::{Checked, Finding, Problem};
pub use gc::{Garbage, Rules};
pub use handle::{Parts, Table};
pub use journal::Journal;
pub use manifest::{Input, Manifest, Origin, PartRecord, PartRef, Pointer, Span};
pub use oplog::Oplog;
pub use sort::{Sorted, Sorter};

use memo::RECIPE;
use mindgap_base::error::{Error, Result};
use std::path::{Path, PathBuf};

/// Layout version, in `<store>/VERSION`.
const VERSION: &str = "mindgap store 1\n";

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
        if !store.has_version()? {
            fs::publish(&store.root.join("VERSION"), VERSION.as_bytes(), "version")?;
        }
        Ok(store)
    }

    /// Opens a store to look into, without a change to the disk. One that is not there is an empty one.
    pub fn look(root: impl Into<PathBuf>) -> Result<Store> {
        let store = Store { root: root.into() };
        store.has_version()?;
        Ok(store)
    }

    /// Opens a store that must be there, to look into.
    pub fn look_existing(root: &Path) -> Result<Store> {
        match root.join("VERSION").is_file() {
            true => Store::look(root),
            false => Err(Error::usage("there is no store here")
                .at(root.display().to_string())
                .hint("name it with --store or MINDGAP_STORE; `mindgap run` makes one")),
        }
    }

    /// Whether the store says which layout it has. Another than ours is an error; none is what a new store has, and a blank
    /// one what a power cut leaves on a file system that orders nothing.
    fn has_version(&self) -> Result<bool> {
        match fs::read_if_present(&self.root.join("VERSION"))? {
            None => Ok(false),
            Some(found) if found.iter().all(|&byte| byte == 0) => Ok(false),
            Some(found) if found == VERSION.as_bytes() => Ok(true),
            Some(found) => {
                let found = String::from_utf8_lossy(&found).trim().to_string();
                Err(Error::input(format!("store has layout `{found}`, this build reads `{}`", VERSION.trim()))
                    .at(self.root.display().to_string())
                    .hint("choose another store with --store or MINDGAP_STORE"))
            }
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
