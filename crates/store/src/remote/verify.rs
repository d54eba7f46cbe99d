//! Reads everything in the bucket and says what is wrong with it.

use super::bucket::Bucket;
use super::family::parse;
use super::pointers::pointer_key;
use super::{Remote, object_key};
use crate::{Checked, Finding, Manifest, PartRecord, Problem, RECIPE};
use mindgap_base::address::Address;
use mindgap_base::error::Result;
use mindgap_base::fingerprint::Recipe;
use rayon::prelude::*;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

impl Remote {
    /// [`Store::check`](crate::Store::check), of the bucket: objects hash to their names; records, recipes, pointers and manifests
    /// parse, bear their names and name what is there. Damaged objects go, and records that name one or a missing one: no worker
    /// reads what it only takes over, so they would stay.
    pub(crate) fn check(&self, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<Checked> {
        let mut verify =
            Verify { bucket: &*self.bucket, sizes: HashMap::new(), goes: Vec::new(), checked: Checked::default() };
        verify.objects(progress)?;
        for family in self.bucket.folders("memo/")? {
            verify.family(&family)?;
        }
        verify.stages(
            &self.read_pointers("stages/")?.iter().map(|(a, b, c)| (pointer_key(a, b), &c.manifest)).collect(),
        )?;
        let Verify { goes, mut checked, .. } = verify;
        if !goes.is_empty() {
            // A store that cannot be written to is reported all the same.
            let _ = self.bucket.delete(goes);
        }
        checked.findings.sort_by(|a, b| (&a.path, &a.what).cmp(&(&b.path, &b.what)));
        Ok(checked)
    }
}

struct Verify<'a> {
    bucket: &'a dyn Bucket,
    /// Of every object, by key; none for a damaged one.
    sizes: HashMap<String, Option<u64>>,
    /// Keys of what is to be made again.
    goes: Vec<String>,
    checked: Checked,
}

impl Verify<'_> {
    fn found(&mut self, problem: Problem, key: &str, what: impl Into<String>) {
        let path = PathBuf::from(self.bucket.url(key));
        self.checked.findings.push(Finding { problem, path, what: what.into() });
    }

    /// Reads every object, several at a time.
    fn objects(&mut self, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<()> {
        let entries = self.bucket.list("objects/")?;
        let (done, total) = (AtomicU64::new(0), entries.len() as u64);
        let is_whole = |key: &str, name: &str| -> Result<bool> {
            let mut hasher = blake3::Hasher::new();
            let there = self.bucket.download(key, &mut |piece| {
                hasher.update(piece);
                Ok(())
            })?;
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);
            Ok(there && Address::from(hasher.finalize()).as_str() == name)
        };
        let whole: Vec<bool> =
            entries.par_iter().map(|entry| is_whole(&entry.key, entry.name())).collect::<Result<_>>()?;
        for (entry, whole) in entries.into_iter().zip(whole) {
            self.checked.objects += 1;
            self.checked.bytes += entry.bytes;
            if !whole {
                self.found(Problem::Damaged, &entry.key, "its bytes no longer hash to its name");
                self.goes.push(entry.key.clone());
            }
            self.sizes.insert(entry.key, whole.then_some(entry.bytes));
        }
        Ok(())
    }

    /// What is wrong with the objects that a record names.
    fn misses(&self, record: &PartRecord) -> Vec<String> {
        let wrong = record.objects().filter_map(|(address, bytes)| match self.sizes.get(&object_key(address)) {
            None => Some(format!("object {address} is not there")),
            Some(None) => Some(format!("object {address} is damaged")),
            Some(Some(found)) if *found != bytes => Some(format!("object {address} has {found} bytes, not {bytes}")),
            Some(_) => None,
        });
        wrong.collect()
    }

    fn family(&mut self, family: &str) -> Result<()> {
        let keys: Vec<String> =
            self.bucket.list(&format!("memo/{family}/"))?.into_iter().map(|entry| entry.key).collect();
        for (key, bytes) in keys.iter().zip(self.bucket.get_many(&keys)?) {
            let (Some(bytes), Some(name)) = (bytes, key.rsplit('/').next()) else { continue };
            if name == RECIPE {
                let recipe = serde_json::from_slice::<Recipe>(&bytes);
                if !recipe.is_ok_and(|recipe| recipe.fingerprint().as_str() == family) {
                    self.found(Problem::Unreadable, key, "not the recipe its folder is named by");
                }
                continue;
            }
            self.checked.records += 1;
            let Some(record) = parse(&bytes, name.strip_suffix(".json").unwrap_or_default()) else {
                self.found(Problem::Unreadable, key, "not the part record of this name as it was written");
                continue;
            };
            let misses = self.misses(&record);
            self.goes.extend((!misses.is_empty()).then(|| key.clone()));
            misses.into_iter().for_each(|what| self.found(Problem::Missing, key, what));
        }
        Ok(())
    }

    /// Every pointer, and the manifest it names; `readable` has those that can be read.
    fn stages(&mut self, readable: &HashMap<String, &Address>) -> Result<()> {
        for key in self.bucket.list("stages/")?.into_iter().map(|entry| entry.key) {
            let Some(manifest) = readable.get(&key) else {
                self.found(Problem::Unreadable, &key, "not a pointer");
                continue;
            };
            let read = self.bucket.get(&object_key(manifest))?;
            match read.and_then(|(bytes, _)| serde_json::from_slice::<Manifest>(&bytes).ok()) {
                None => self.found(Problem::Missing, &key, format!("manifest {manifest} is not there")),
                Some(manifest) => {
                    self.checked.manifests += 1;
                    let misses: Vec<String> = manifest.parts.iter().flat_map(|part| self.misses(part)).collect();
                    misses.into_iter().for_each(|what| self.found(Problem::Missing, &key, what));
                }
            }
        }
        Ok(())
    }
}
