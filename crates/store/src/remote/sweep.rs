//! Removes from the bucket what no finished stage reaches, while no worker is at work. Ages are told by the object store's clock.

use super::bucket::Entry;
use super::family::parse;
use super::pointers::pointer_key;
use super::{Remote, object_key};
use crate::{Garbage, Manifest, RECIPE, Rules};
use mindgap_base::address::Address;
use mindgap_base::error::{Error, Result};
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// What is younger than this stays, whatever is asked for: a manifest is brought before the pointer to it.
const YOUNG: Duration = Duration::from_secs(60 * 60);

impl Remote {
    /// [`Store::collect_garbage`](crate::Store::collect_garbage), of the bucket. `manifest` reads one.
    pub(crate) fn collect_garbage(
        self: &Arc<Remote>,
        rules: &Rules,
        delete: bool,
        manifest: impl Fn(&Address) -> Result<Manifest>,
    ) -> Result<Garbage> {
        let _gate = if delete { Some(self.close_gate()?) } else { None };
        let mut garbage = Garbage::default();
        let (mut keys, mut objects, mut records) = (Vec::new(), HashSet::new(), HashSet::new());
        let pointers = self.read_pointers("stages/")?;
        let known: BTreeSet<&str> = pointers.iter().map(|(pipeline, ..)| pipeline.as_str()).collect();
        if let Some(unknown) = rules.forget.iter().find(|name| !known.contains(name.as_str())) {
            return Err(Error::usage(format!("the store knows no pipeline `{unknown}`"))
                .hint(format!("it knows {}", known.into_iter().collect::<Vec<_>>().join(", "))));
        }
        garbage.pipelines = rules.forget.clone();
        for (pipeline, stage, pointer) in &pointers {
            if rules.forget.contains(pipeline) {
                keys.push(pointer_key(pipeline, stage));
                continue;
            }
            let read = manifest(&pointer.manifest).map_err(|e| {
                e.at(format!("stage `{stage}` of pipeline `{pipeline}`"))
                    .hint("nothing was removed; run the pipeline to make it again, or forget it with --forget")
            })?;
            objects.insert(object_key(&pointer.manifest));
            for part in read.parts {
                objects.extend(part.objects().map(|(address, _)| object_key(address)));
                records.insert(part.fingerprint.as_str().to_string());
            }
        }
        let (now, journals) = self.now_and("journals/")?;
        let age = |entry: &Entry| Duration::from_millis((now - entry.modified).max(0) as u64);
        let keep = rules.keep.max(YOUNG);
        for family in self.bucket.folders("memo/")? {
            let entries = self.bucket.list(&format!("memo/{family}/"))?;
            let stays = |entry: &&Entry| {
                let part = entry.name().strip_suffix(".json").unwrap_or_default();
                entry.name() != RECIPE && (records.contains(part) || age(entry) < keep)
            };
            let recent: Vec<&Entry> = entries.iter().filter(stays).collect();
            let unreached: Vec<&Entry> = recent
                .iter()
                .copied()
                .filter(|entry| !records.contains(entry.name().strip_suffix(".json").unwrap_or_default()))
                .collect();
            let names: Vec<String> = unreached.iter().map(|entry| entry.key.clone()).collect();
            for (entry, bytes) in unreached.iter().zip(self.bucket.get_many(&names)?) {
                let part = entry.name().strip_suffix(".json").unwrap_or_default();
                let record = bytes.and_then(|bytes| parse(&bytes, part));
                objects
                    .extend(record.iter().flat_map(|record| record.objects()).map(|(address, _)| object_key(address)));
            }
            garbage.kept_recent += unreached.len() as u64;
            let goes: Vec<&Entry> = entries.iter().filter(|entry| entry.name() != RECIPE && !stays(entry)).collect();
            garbage.records += goes.len() as u64;
            if !goes.is_empty() || recent.is_empty() {
                // It names what is gone; the next worker writes it anew.
                keys.push(format!("index/{family}"));
            }
            let all = recent.is_empty() && entries.iter().all(|entry| age(entry) >= keep);
            let goes = goes.into_iter().chain(entries.iter().filter(|entry| all && entry.name() == RECIPE));
            keys.extend(goes.map(|entry| entry.key.clone()));
        }
        for entry in self.bucket.list("objects/")? {
            if objects.contains(&entry.key) || age(&entry) < YOUNG {
                garbage.kept_objects += 1;
                garbage.kept_bytes += entry.bytes;
            } else {
                garbage.objects += 1;
                garbage.bytes += entry.bytes;
                keys.push(entry.key);
            }
        }
        let old = journals.into_iter().filter(|entry| age(entry) >= keep).map(|entry| entry.key);
        let probes = self.bucket.list("probe/")?.into_iter().filter(|entry| age(entry) >= YOUNG).map(|entry| entry.key);
        let leftovers: Vec<String> = old.chain(probes).collect();
        garbage.leftovers = leftovers.len() as u64;
        keys.extend(leftovers);
        garbage.found = keys.len();
        if delete && !keys.is_empty() {
            // In the order found: who names comes before what is named.
            for some in keys.chunks(DELETED_TOGETHER) {
                self.bucket.delete(some.to_vec())?;
            }
        }
        Ok(garbage)
    }
}

const DELETED_TOGETHER: usize = 1000;
