//! What a part makes goes into the store as it comes, before any record names it.

use crate::stage::Sink;
use mindgap_base::address::Address;
use mindgap_base::error::Result;
use mindgap_lm::model::tensors::Put;
use mindgap_store::fs::Gate;
use mindgap_store::parquet::Encoded;
use mindgap_store::{PartRef, Store};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a part has made so far, in the store. From the first object on the gate is passed, so that no collection takes what no
/// record names yet.
pub struct Made<'a> {
    store: &'a Store,
    objects: Mutex<Objects>,
}

#[derive(Default)]
pub struct Objects {
    gate: Option<Gate>,
    pub tables: BTreeMap<String, Vec<PartRef>>,
    pub files: BTreeMap<String, (Address, u64)>,
}

impl<'a> Made<'a> {
    pub fn new(store: &'a Store) -> Made<'a> {
        Made { store, objects: Mutex::default() }
    }

    pub fn open(&self) -> Result<MutexGuard<'_, Objects>> {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        if objects.gate.is_none() {
            objects.gate = Some(self.store.gate()?.pass()?);
        }
        Ok(objects)
    }
}

impl Sink for Made<'_> {
    fn put_table(&self, encoded: Encoded) -> Result<()> {
        let mut objects = self.open()?;
        let table = encoded.table.to_string();
        objects.tables.entry(table).or_default().push(self.store.put_part(encoded)?);
        Ok(())
    }

    fn put_file(&self, name: &str, write: &mut dyn FnMut(&mut Put) -> Result<()>) -> Result<()> {
        let mut objects = self.open()?;
        let mut writer = self.store.writer()?;
        write(&mut |bytes| writer.append(bytes))?;
        objects.files.insert(name.to_string(), writer.finish()?);
        Ok(())
    }
}
