//! Reads everything in the bucket and says what is wrong with it.

use super::family::parse;
use super::{Remote, object_key};
use crate::{Checked, Finding, Manifest, PartRecord, Problem, RECIPE};
use mindgap_base::address::Address;
use mindgap_base::error::Result;
use mindgap_base::fingerprint::Recipe;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

impl Remote {
    /// [`Store::check`](crate::Store::check), of the bucket: objects hash to their names; records, recipes, pointers and manifests
    /// parse, bear their names and name what is there. Damaged objects go, and records that name one or a missing one: no worker
    /// reads what it only takes over, so they would stay.
    pub(crate) fn check(&self, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<Checked> {
        let mut checked = Checked::default();
        let entries = self.bucket.list("objects/")?;
        let (done, total) = (AtomicU64::new(0), entries.len() as u64);
        let hashed: Vec<(String, u64, bool)> = entries
            .par_iter()
            .map(|entry| {
                let mut hasher = blake3::Hasher::new();
                let there = self.bucket.download(&entry.key, &mut |piece| {
                    hasher.update(piece);
                    Ok(())
                })?;
                progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);
                let good = there && Address::from(hasher.finalize()).as_str() == entry.name();
                Ok((entry.key.clone(), entry.bytes, good))
            })
            .collect::<Result<_>>()?;
        let mut found = Vec::new();
        for (key, bytes, good) in &hashed {
            checked.objects += 1;
            checked.bytes += bytes;
            if !good {
                found.push((Problem::Damaged, key.clone(), "its bytes no longer hash to its name".to_string()));
            }
        }
        let mut goes: Vec<String> = found.iter().map(|(_, key, _)| key.clone()).collect();
        // By key; none for one that is damaged.
        let sizes: BTreeMap<&str, Option<u64>> =
            hashed.iter().map(|(key, bytes, good)| (key.as_str(), good.then_some(*bytes))).collect();
        let misses = |record: &PartRecord| -> Vec<String> {
            let wrong = record.objects().filter_map(|(address, bytes)| match sizes.get(object_key(address).as_str()) {
                None => Some(format!("object {address} is not there")),
                Some(None) => Some(format!("object {address} is damaged")),
                Some(Some(found)) if *found != bytes => {
                    Some(format!("object {address} has {found} bytes, not {bytes}"))
                }
                Some(_) => None,
            });
            wrong.collect()
        };
        for family in self.bucket.folders("memo/")? {
            let keys: Vec<String> =
                self.bucket.list(&format!("memo/{family}/"))?.into_iter().map(|entry| entry.key).collect();
            for (key, bytes) in keys.iter().zip(self.bucket.get_many(&keys)?) {
                let (Some(bytes), Some(name)) = (bytes, key.rsplit('/').next()) else { continue };
                if name == RECIPE {
                    let recipe = serde_json::from_slice::<Recipe>(&bytes);
                    if !recipe.is_ok_and(|recipe| recipe.fingerprint().as_str() == family) {
                        found.push((Problem::Unreadable, key.clone(), "not the recipe its folder is named by".into()));
                    }
                    continue;
                }
                checked.records += 1;
                match parse(&bytes, name.strip_suffix(".json").unwrap_or_default()) {
                    Some(record) => {
                        let misses = misses(&record);
                        goes.extend((!misses.is_empty()).then(|| key.clone()));
                        found.extend(misses.into_iter().map(|what| (Problem::Missing, key.clone(), what)));
                    }
                    None => found.push((
                        Problem::Unreadable,
                        key.clone(),
                        "not the part record of this name as it was written".into(),
                    )),
                }
            }
        }
        let stages: Vec<String> = self.bucket.list("stages/")?.into_iter().map(|entry| entry.key).collect();
        let readable = self.read_pointers("stages/")?;
        for key in &stages {
            let pointer =
                readable.iter().find(|(pipeline, stage, _)| *key == super::pointers::pointer_key(pipeline, stage));
            let Some((_, _, pointer)) = pointer else {
                found.push((Problem::Unreadable, key.clone(), "not a pointer".into()));
                continue;
            };
            let manifest = self.bucket.get(&object_key(&pointer.manifest))?;
            match manifest.and_then(|(bytes, _)| serde_json::from_slice::<Manifest>(&bytes).ok()) {
                None => {
                    found.push((Problem::Missing, key.clone(), format!("manifest {} is not there", pointer.manifest)))
                }
                Some(manifest) => {
                    checked.manifests += 1;
                    let wrong = manifest.parts.iter().flat_map(misses);
                    found.extend(wrong.map(|what| (Problem::Missing, key.clone(), what)));
                }
            }
        }
        if !goes.is_empty() {
            // A store that cannot be written to is reported all the same.
            let _ = self.bucket.delete(goes);
        }
        let finding = |(problem, key, what): (Problem, String, String)| Finding {
            problem,
            path: PathBuf::from(self.bucket.url(&key)),
            what,
        };
        checked.findings = found.into_iter().map(finding).collect();
        Ok(checked)
    }
}
