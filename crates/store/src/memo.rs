//! The memory: which part recipe gave which part. One folder per stage recipe, so that parts of the same recipe find each
//! other: rows already drawn for some problems serve a part that covers them again.

use super::remote::PartLease;
use super::seal::{seal, unseal};
use super::{PartRecord, Store, fs};
use mindgap_base::error::Result;
use mindgap_base::fingerprint::{Fingerprint, Recipe};
use std::fs::File;
use std::path::{Path, PathBuf};

impl Store {
    fn family_path(&self, family: &Fingerprint) -> PathBuf {
        self.root.join("memo").join(family.as_str())
    }

    /// The part of this fingerprint, if it was made and all its objects are still there in full size.
    pub fn find_part(&self, family: &Fingerprint, part: &Fingerprint) -> Result<Option<PartRecord>> {
        if let Some(remote) = &self.remote {
            return remote.find_part(family, part);
        }
        self.read_record(&self.family_path(family).join(format!("{part}.json")))
    }

    /// The same of many parts, in their order. A remote store is not asked for each.
    pub fn find_parts(&self, family: &Fingerprint, parts: &[&Fingerprint]) -> Result<Vec<Option<PartRecord>>> {
        match &self.remote {
            Some(remote) => remote.find_parts(family, parts, &self.root),
            None => parts.iter().map(|part| self.find_part(family, part)).collect(),
        }
    }

    /// Every part made with this stage recipe.
    pub fn family_parts(&self, family: &Fingerprint) -> Result<Vec<PartRecord>> {
        if let Some(remote) = &self.remote {
            return remote.family_parts(family, &self.root);
        }
        let mut parts = Vec::new();
        for path in self.record_paths(family.as_str())? {
            parts.extend(self.read_record(&path)?);
        }
        Ok(parts)
    }

    /// Files of the part records in a family's folder, sorted.
    pub(super) fn record_paths(&self, family: &str) -> Result<Vec<PathBuf>> {
        let folder = self.root.join("memo").join(family);
        let is_record = |name: &String| name.ends_with(".json") && name != RECIPE && !name.starts_with('.');
        Ok(fs::list(&folder)?.into_iter().filter(is_record).map(|name| folder.join(name)).collect())
    }

    /// A record that is not as it was written, or lacks an object, counts as not made: it can be made again.
    fn read_record(&self, path: &Path) -> Result<Option<PartRecord>> {
        let Some(bytes) = fs::read_if_present(path)? else { return Ok(None) };
        let Ok(record) = parse_record(path, &bytes) else { return Ok(None) };
        let published = fs::modified(path)?;
        let whole = record.objects().all(|(address, bytes)| self.is_whole(address, bytes, published));
        Ok(whole.then_some(record))
    }

    /// Remembers a part. Its objects must be durable already. Gives the record that counts: of a remote store, that of whoever was
    /// first.
    pub fn remember_part(&self, recipe: &Recipe, record: &PartRecord) -> Result<PartRecord> {
        if let Some(remote) = &self.remote {
            return remote.commit(recipe, record, &self.root);
        }
        self.check_place()?;
        let folder = self.family_path(&recipe.fingerprint());
        self.remember_recipe(recipe)?;
        fs::publish(&folder.join(record_name(record)), &format_record(record), "memo")?;
        Ok(record.clone())
    }

    /// Remembers of a part that it no longer has a file, which nothing needs any more.
    pub fn amend_part(&self, recipe: &Recipe, record: &PartRecord) -> Result<()> {
        match &self.remote {
            Some(remote) => remote.amend(&recipe.fingerprint(), record),
            None => self.remember_part(recipe, record).map(drop),
        }
    }

    /// Writes the recipe down, unless it is, and makes durable what is remembered of it.
    pub(super) fn remember_recipe(&self, recipe: &Recipe) -> Result<()> {
        if let Some(remote) = &self.remote {
            return remote.bring_recipe(recipe);
        }
        let path = self.family_path(&recipe.fingerprint()).join(RECIPE);
        let bytes = serde_json::to_vec_pretty(recipe).expect("a recipe is plain data");
        match fs::read_if_present(&path)?.as_ref() == Some(&bytes) {
            true => fs::settle(&path),
            false => fs::publish(&path, &bytes, "recipe"),
        }
    }

    /// Marks parts as used now: a collection leaves them alone for a while. Call it with the gate passed. Records that are
    /// gone are left out. Nothing is collected in a remote store while workers are at work.
    pub fn mark_used<'a>(&self, family: &Fingerprint, parts: impl Iterator<Item = &'a PartRecord>) -> Result<()> {
        if self.remote.is_some() {
            return Ok(());
        }
        let folder = self.family_path(family);
        parts.map(|part| folder.join(record_name(part))).try_for_each(|path| fs::touch(&path))
    }

    /// Every stage recipe that ever made a part.
    pub fn recipes(&self) -> Result<Vec<Recipe>> {
        if let Some(remote) = &self.remote {
            return remote.recipes();
        }
        let folder = self.root.join("memo");
        let mut recipes = Vec::new();
        for family in fs::folders(&folder)? {
            let bytes = fs::read_if_present(&folder.join(family).join(RECIPE))?;
            recipes.extend(bytes.and_then(|bytes| serde_json::from_slice::<Recipe>(&bytes).ok()));
        }
        Ok(recipes)
    }

    /// Takes the right to compute a part; `None` while another process holds it. `note` says which part it is, to those who look at
    /// the workers of a remote store.
    pub fn try_lock_part(&self, part: &Fingerprint, note: &str) -> Result<Option<PartLock>> {
        let Some(file) = fs::try_lock(&self.root.join("locks").join(part.as_str()))? else { return Ok(None) };
        let lease = match &self.remote {
            None => None,
            Some(remote) => match remote.lease_part(part, note)? {
                None => return Ok(None),
                lease => lease,
            },
        };
        Ok(Some(PartLock { lease, _file: file }))
    }
}

/// The right to compute a part, until it is dropped: among the processes of this machine, and of a remote store among all that are
/// heard of.
pub struct PartLock {
    lease: Option<PartLease>,
    _file: File,
}

impl PartLock {
    /// Says how far the part is, to the same. It is told at the next renewal.
    pub fn note(&self, note: impl FnOnce() -> String) {
        if let Some(lease) = &self.lease {
            lease.note(note());
        }
    }
}

pub(super) const RECIPE: &str = "recipe.json";

pub(super) fn record_name(record: &PartRecord) -> String {
    format!("{}.json", record.fingerprint)
}

/// How the records of builds begin that kept no checksum.
const UNSEALED: &str = "{\"fingerprint\":";

/// The bytes of a record's file.
pub(super) fn format_record(record: &PartRecord) -> Vec<u8> {
    seal(&serde_json::to_string(record).expect("a part record is plain data")).into_bytes()
}

/// The record in a file, if its bytes are as they were written and the file bears its name; else what is wrong with it.
pub(super) fn parse_record(path: &Path, bytes: &[u8]) -> Result<PartRecord, &'static str> {
    let record = parse_line(bytes)?;
    match path.file_name().is_some_and(|name| *name == *record_name(&record)) {
        true => Ok(record),
        false => Err("it is the record of another part"),
    }
}

/// The record in some bytes, if they are as they were written.
pub(super) fn parse_line(bytes: &[u8]) -> Result<PartRecord, &'static str> {
    let json = unseal(bytes, UNSEALED)?;
    serde_json::from_str(&json).map_err(|_| "not a part record")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::SEAL;
    use crate::{PartRef, Span};
    use std::collections::BTreeMap;

    /// A store in which one part is remembered, and its record's file.
    fn remembered() -> (tempfile::TempDir, Store, Fingerprint, PartRecord, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let (object, weights) = (b"rows of a table".to_vec(), b"weights".to_vec());
        let address = store.put(&object).unwrap();
        let part = PartRef {
            content: address.clone(),
            address,
            rows: 64,
            bytes: object.len() as u64,
            first: "0a1b".into(),
            last: "f00d".into(),
            counts: BTreeMap::from([("solved_problems".to_string(), 12)]),
        };
        let recipe = Recipe::new("judge", 3);
        let record = PartRecord {
            fingerprint: Recipe::new("part", 1).fingerprint(),
            span: Span { first: "0a1b".into(), last: "f00d".into(), samples: Some((0, 4)) },
            tables: BTreeMap::from([("verdicts".to_string(), vec![part])]),
            files: BTreeMap::from([("weights".to_string(), (store.put(&weights).unwrap(), weights.len() as u64))]),
        };
        store.remember_part(&recipe, &record).unwrap();
        let family = recipe.fingerprint();
        let path = store.record_paths(family.as_str()).unwrap().remove(0);
        (folder, store, family, record, path)
    }

    /// Goal: no flipped bit of a record, wherever it is, makes another record of it.
    #[test]
    fn a_flipped_bit_is_never_believed() {
        let (_folder, store, family, record, path) = remembered();
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(store.find_part(&family, &record.fingerprint).unwrap(), Some(record.clone()));
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(parse_record(&path, &bytes).is_err(), "bit {bit}: {}", String::from_utf8_lossy(&bytes));
        }
        // The same through the store, on the field that says which problems a part covers.
        let changed = String::from_utf8(whole).unwrap().replace("0a1b", "0a1c");
        std::fs::write(&path, changed).unwrap();
        assert_eq!(store.find_part(&family, &record.fingerprint).unwrap(), None);
        assert_eq!(store.family_parts(&family).unwrap(), []);
    }

    /// Goal: a record under the name of another part is not that part's; nor is one cut short.
    #[test]
    fn a_record_belongs_to_its_name() {
        let (_folder, store, family, record, path) = remembered();
        let other = Recipe::new("part", 2).fingerprint();
        std::fs::copy(&path, path.with_file_name(format!("{other}.json"))).unwrap();
        assert_eq!(store.find_part(&family, &other).unwrap(), None);
        assert_eq!(store.family_parts(&family).unwrap(), [record]);
        let bytes = std::fs::read(&path).unwrap();
        assert!((0..bytes.len()).all(|cut| parse_record(&path, &bytes[..cut]).is_err()));
    }

    /// Goal: records of builds that kept no checksum are read.
    #[test]
    fn records_without_a_checksum_are_read() {
        let (_folder, store, family, record, path) = remembered();
        std::fs::write(&path, serde_json::to_vec(&record).unwrap()).unwrap();
        assert_eq!(store.find_part(&family, &record.fingerprint).unwrap(), Some(record.clone()));
        store.remember_part(&Recipe::new("judge", 3), &record).unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().starts_with(SEAL));
    }
}
