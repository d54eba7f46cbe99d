//! Keeps the parts of a stage in use while a run works on it.

use super::{PartRecord, Store, fs};
use mindgap_base::error::Result;
use mindgap_base::fingerprint::Fingerprint;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How often records are marked again. Collections count in days.
const INTERVAL: Duration = Duration::from_secs(10 * 60);

/// A run's use of one family's records: while it is held, by any number of runs, no collection takes them. What it renews
/// counts as used then, too, so that a run that is killed finds its parts whatever time it took to make them.
pub struct Lease<'a> {
    store: &'a Store,
    family: Fingerprint,
    interval: Duration,
    renewed: Mutex<Instant>,
    /// Ends with the process, however that ends.
    _held: fs::Gate,
}

impl Store {
    /// A lease on a family's records, which were just marked as used. Call it with the gate passed.
    pub fn lease(&self, family: &Fingerprint) -> Result<Lease<'_>> {
        let held = fs::Gate::open(&self.lease_path(family.as_str()))?.pass()?;
        let renewed = Mutex::new(Instant::now());
        Ok(Lease { store: self, family: family.clone(), interval: INTERVAL, renewed, _held: held })
    }

    pub(super) fn lease_path(&self, family: &str) -> PathBuf {
        self.root.join("locks").join(format!("{family}.lease"))
    }
}

impl Lease<'_> {
    /// Marks the records as used now, if that is due. Cheap when it is not; else it waits for a collection that is at work.
    pub fn renew(&self, records: &[PartRecord]) -> Result<()> {
        // Another thread that holds it marks the same records.
        let Ok(mut renewed) = self.renewed.try_lock() else { return Ok(()) };
        if renewed.elapsed() >= self.interval {
            let _gate = self.store.gate()?.pass()?;
            self.store.mark_used(&self.family, records.iter())?;
            *renewed = Instant::now();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Rules, Span};
    use mindgap_base::fingerprint::Recipe;
    use std::collections::BTreeMap;
    use std::time::SystemTime;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    /// Goal: while a lease is held, a collection takes nothing of the family. Afterwards it leaves what was renewed in time, and
    /// takes the rest; to renew what is gone is no error.
    #[test]
    fn leased_parts_outlive_a_collection() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let recipe = Recipe::new("rollout", 1);
        let record = |part: u32| PartRecord {
            fingerprint: Recipe::new("part", part).fingerprint(),
            span: Span::default(),
            tables: BTreeMap::new(),
            files: BTreeMap::from([("rows".into(), (store.put(&[part as u8]).unwrap(), 1))]),
        };
        let records = [record(0), record(1)];
        for record in &records {
            store.remember_part(&recipe, record).unwrap();
        }
        let family = recipe.fingerprint();
        for path in store.record_paths(family.as_str()).unwrap() {
            let file = std::fs::File::options().append(true).open(path).unwrap();
            file.set_modified(SystemTime::now() - 8 * DAY).unwrap();
        }
        let collected = |keep: Duration| {
            let garbage = store.collect_garbage(&Rules { forget: Vec::new(), keep }, true).unwrap();
            (garbage.kept_recent, garbage.records)
        };
        let lease = store.lease(&family).unwrap();
        // Not due yet: nothing is marked.
        lease.renew(&records).unwrap();
        assert_eq!(collected(Duration::ZERO), (2, 0));
        let due = Lease { interval: Duration::ZERO, ..lease };
        due.renew(&records[..1]).unwrap();
        drop(due);
        assert_eq!(collected(7 * DAY), (1, 1));
        assert_eq!(store.family_parts(&family).unwrap(), records[..1]);
        let due = Lease { interval: Duration::ZERO, ..store.lease(&family).unwrap() };
        due.renew(&records).unwrap();
    }
}
