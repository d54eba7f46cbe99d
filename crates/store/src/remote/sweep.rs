//! Removes from the bucket what no finished stage reaches, while no worker is at work. Ages are told by the object store's clock.

use super::bucket::{Bucket, Entry};
use super::family::parse;
use super::lease::LEASES;
use super::pointers::pointer_key;
use super::{Remote, object_key};
use crate::{Garbage, Manifest, PartRecord, RECIPE, Rules};
use mindgap_base::address::Address;
use mindgap_base::error::{Error, Result};
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// What is younger than this stays, whatever is asked for: a manifest is brought before the pointer to it.
const YOUNG: Duration = Duration::from_secs(60 * 60);
/// What died so long ago does not come back.
const LEFT: Duration = Duration::from_secs(24 * 60 * 60);
const DELETED_TOGETHER: usize = 1000;

impl Remote {
    /// [`Store::collect_garbage`](crate::Store::collect_garbage), of the bucket. `manifest` reads one.
    pub(crate) fn collect_garbage(
        self: &Arc<Remote>,
        rules: &Rules,
        delete: bool,
        manifest: impl Fn(&Address) -> Result<Manifest>,
    ) -> Result<Garbage> {
        let _gate = if delete { Some(self.close_gate()?) } else { None };
        let pointers = self.read_pointers("stages/")?;
        let known: BTreeSet<&str> = pointers.iter().map(|(pipeline, ..)| pipeline.as_str()).collect();
        if let Some(unknown) = rules.forget.iter().find(|name| !known.contains(name.as_str())) {
            return Err(Error::usage(format!("the store knows no pipeline `{unknown}`"))
                .hint(format!("it knows {}", known.into_iter().collect::<Vec<_>>().join(", "))));
        }
        let (now, journals) = self.now_and("journals/")?;
        let mut sweep = Sweep {
            bucket: &*self.bucket,
            now,
            keep: rules.keep.max(YOUNG),
            objects: HashSet::new(),
            records: HashSet::new(),
            goes: Vec::new(),
            garbage: Garbage { pipelines: rules.forget.clone(), ..Garbage::default() },
        };
        for (pipeline, stage, pointer) in &pointers {
            if rules.forget.contains(pipeline) {
                sweep.goes.push(pointer_key(pipeline, stage));
                continue;
            }
            let read = manifest(&pointer.manifest).map_err(|e| {
                e.at(format!("stage `{stage}` of pipeline `{pipeline}`"))
                    .hint("nothing was removed; run the pipeline to make it again, or forget it with --forget")
            })?;
            sweep.objects.insert(object_key(&pointer.manifest));
            sweep.records.extend(read.parts.iter().map(|part| part.fingerprint.as_str().to_string()));
            read.parts.iter().for_each(|part| sweep.reach(part));
        }
        for family in self.bucket.folders("memo/")? {
            sweep.family(&family)?;
        }
        sweep.unreached_objects()?;
        sweep.leftovers(journals)?;
        let Sweep { goes, mut garbage, .. } = sweep;
        garbage.found = goes.len();
        if delete {
            // In the order found: who names comes before what is named.
            goes.chunks(DELETED_TOGETHER).try_for_each(|some| self.bucket.delete(some.to_vec()))?;
        }
        Ok(garbage)
    }
}

struct Sweep<'a> {
    bucket: &'a dyn Bucket,
    now: i64,
    keep: Duration,
    /// Keys of objects that stay.
    objects: HashSet<String>,
    /// Fingerprints of parts that finished stages reach.
    records: HashSet<String>,
    goes: Vec<String>,
    garbage: Garbage,
}

impl Sweep<'_> {
    fn age(&self, entry: &Entry) -> Duration {
        entry.age(self.now)
    }

    fn reach(&mut self, record: &PartRecord) {
        self.objects.extend(record.objects().map(|(address, _)| object_key(address)));
    }

    /// Records that a manifest reaches, or that are young, stay, with their objects.
    fn family(&mut self, family: &str) -> Result<()> {
        let part = |entry: &Entry| entry.name().strip_suffix(".json").unwrap_or_default().to_string();
        let (recipe, records): (Vec<Entry>, Vec<Entry>) =
            self.bucket.list(&format!("memo/{family}/"))?.into_iter().partition(|entry| entry.name() == RECIPE);
        let (reached, others): (Vec<Entry>, Vec<Entry>) =
            records.into_iter().partition(|entry| self.records.contains(&part(entry)));
        let (young, old): (Vec<Entry>, Vec<Entry>) = others.into_iter().partition(|entry| self.age(entry) < self.keep);
        let keys: Vec<String> = young.iter().map(|entry| entry.key.clone()).collect();
        for (entry, bytes) in young.iter().zip(self.bucket.get_many(&keys)?) {
            bytes.and_then(|bytes| parse(&bytes, &part(entry))).iter().for_each(|record| self.reach(record));
        }
        self.garbage.kept_recent += young.len() as u64;
        self.garbage.records += old.len() as u64;
        let is_empty = reached.is_empty() && young.is_empty();
        if is_empty || !old.is_empty() {
            // It names what is gone; the next worker writes it anew.
            self.goes.push(format!("index/{family}"));
        }
        self.goes.extend(old.into_iter().map(|entry| entry.key));
        let old_recipe = recipe.into_iter().filter(|entry| is_empty && self.age(entry) >= self.keep);
        let old_recipe: Vec<String> = old_recipe.map(|entry| entry.key).collect();
        self.goes.extend(old_recipe);
        Ok(())
    }

    fn unreached_objects(&mut self) -> Result<()> {
        for entry in self.bucket.list("objects/")? {
            if self.objects.contains(&entry.key) || self.age(&entry) < YOUNG {
                self.garbage.kept_objects += 1;
                self.garbage.kept_bytes += entry.bytes;
            } else {
                self.garbage.objects += 1;
                self.garbage.bytes += entry.bytes;
                self.goes.push(entry.key);
            }
        }
        Ok(())
    }

    /// Journals that nobody goes on with, and what processes that died left: leases and probes.
    fn leftovers(&mut self, journals: Vec<Entry>) -> Result<()> {
        let left = [self.bucket.list("probe/")?, self.bucket.list(LEASES)?].concat();
        let old_journals = journals.into_iter().filter(|entry| self.age(entry) >= self.keep);
        let old = left.into_iter().filter(|entry| self.age(entry) >= LEFT);
        let leftovers: Vec<String> = old_journals.chain(old).map(|entry| entry.key).collect();
        self.garbage.leftovers = leftovers.len() as u64;
        self.goes.extend(leftovers);
        Ok(())
    }
}
