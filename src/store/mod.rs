//! The store: content-addressed files, and the memory of which recipe made which.
//!
//! Layout, write order and promises: docs/design/store.md. The only module that touches files.

mod check;
pub mod fault;
pub mod fs;
mod gc;
mod handle;
pub mod http;
pub mod hub;
mod journal;
mod manifest;
mod memo;
mod object;
mod oplog;
pub mod parquet;
mod served;
mod view;

pub use check::{Checked, Finding, Problem};
pub use gc::{Garbage, Rules};
pub use handle::{PolicyHandle, Table};
pub use journal::Journal;
pub use manifest::{Manifest, PartRecord, PartRef, Pointer, Span};
pub use oplog::Oplog;
pub use served::{Api, Served};

use crate::base::error::{Error, Result};
use memo::RECIPE;
use std::path::{Path, PathBuf};

/// Layout version, in `<store>/VERSION`.
const VERSION: &str = "mindgap store 1\n";

/// A folder of tables, policies and the recipes that made them.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Opens a store, creating it where there is none. Refuses a folder of another version.
    pub fn open(root: impl Into<PathBuf>) -> Result<Store> {
        let root = root.into();
        fs::create_dir(&root)?;
        let version = root.join("VERSION");
        let publish = || fs::publish(&version, VERSION.as_bytes(), "version");
        match fs::read_if_present(&version)? {
            // Blank after a power cut on a file system that orders nothing.
            Some(found) if found.iter().all(|&byte| byte == 0) => publish()?,
            None => publish()?,
            Some(found) if found == VERSION.as_bytes() => {}
            Some(found) => {
                let found = String::from_utf8_lossy(&found).trim().to_string();
                return Err(Error::input(format!("store has layout `{found}`, this build reads `{}`", VERSION.trim()))
                    .at(root.display().to_string())
                    .hint("choose another store with --store or MINDGAP_STORE"));
            }
        }
        Ok(Store { root })
    }

    /// Opens a store that must be there: for commands that only look.
    pub fn open_existing(root: &Path) -> Result<Store> {
        match root.join("VERSION").is_file() {
            true => Store::open(root),
            false => Err(Error::usage("there is no store here")
                .at(root.display().to_string())
                .hint("name it with --store or MINDGAP_STORE; `mindgap run` makes one")),
        }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }
}
