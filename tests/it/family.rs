//! The rest of the family: choices among samples, sampling in waves, mixtures of tables, and what is forgotten.

mod adaptive;
mod choices;
mod forgetting;
mod mixtures;

use crate::support::run_here;
use mindgap_store::table::Row;
use mindgap_store::{Manifest, Store};
use std::path::Path;

/// Runs a pipeline file in a fresh store.
struct Ran {
    store: Store,
    name: String,
}

impl Ran {
    fn new(store: &Path, file: &Path) -> Ran {
        run_here(store, file).unwrap_or_else(|e| panic!("{e}"));
        let name = file.file_stem().unwrap().to_str().unwrap().to_string();
        Ran { store: Store::open(store).unwrap(), name }
    }

    fn manifest(&self, stage: &str) -> Manifest {
        let pointer = self.store.pointer(&self.name, stage).unwrap().expect("the stage has run");
        self.store.get_manifest(&pointer.manifest).unwrap()
    }

    fn rows<R: Row>(&self, stage: &str) -> Vec<R> {
        self.store.read_rows(&self.manifest(stage).table(R::TABLE)).unwrap()
    }
}
