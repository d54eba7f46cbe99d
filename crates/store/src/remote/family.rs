//! Part records in the bucket. A listing says which there are; an index object holds many at once, so that no request is made per part.

use super::bucket::Entry;
use super::{Remote, lock};
use crate::memo::{format_record, parse_line, record_name};
use crate::{PartRecord, RECIPE, fs};
use mindgap_base::error::{Error, Result};
use mindgap_base::fingerprint::{Fingerprint, Recipe};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// Records that may be fetched one by one before an index is asked for, or written.
const DIRECT: usize = 64;
/// A listing this young is not asked for again.
const FRESH: Duration = Duration::from_secs(1);
/// How often a record is tried to be committed.
const TRIES: usize = 5;

/// What is known of each family's records.
#[derive(Debug, Default)]
pub(crate) struct Families(BTreeMap<Fingerprint, Family>);

#[derive(Debug, Default)]
struct Family {
    records: Records,
    listed: Option<Instant>,
    /// Records that the index in the bucket lacks, as far as is known.
    unindexed: usize,
    has_recipe: bool,
}

impl Remote {
    /// Every part of a family that is committed.
    pub(crate) fn family_parts(&self, family: &Fingerprint, cache: &Path) -> Result<Vec<PartRecord>> {
        self.list_family(family, cache)?;
        let families = lock(&self.families);
        let known = families.0.get(family).into_iter().flat_map(|known| known.records.values());
        Ok(known.map(|(_, record)| record.clone()).collect())
    }

    /// Those of some parts that are committed, in their order.
    pub(crate) fn find_parts(
        &self,
        family: &Fingerprint,
        parts: &[&Fingerprint],
        cache: &Path,
    ) -> Result<Vec<Option<PartRecord>>> {
        self.list_family(family, cache)?;
        let families = lock(&self.families);
        let known = families.0.get(family).expect("it was listed");
        Ok(parts.iter().map(|part| known.records.get(part.as_str()).map(|(_, record)| record.clone())).collect())
    }

    /// One part, as it is now.
    pub(crate) fn find_part(&self, family: &Fingerprint, part: &Fingerprint) -> Result<Option<PartRecord>> {
        let found = self.bucket.get(&record_key(family, part))?;
        let read = found.and_then(|(bytes, _)| Some((bytes.len() as u64, parse(&bytes, part.as_str())?)));
        Ok(read.map(|(size, record)| {
            self.know(family, size, record.clone());
            record
        }))
    }

    /// Brings what is known of a family up to what is in the bucket: one listing, at most one index, and the records that it lacks.
    fn list_family(&self, family: &Fingerprint, cache: &Path) -> Result<()> {
        let is_fresh = |known: &Family| known.listed.is_some_and(|at| at.elapsed() < FRESH);
        if lock(&self.families).0.get(family).is_some_and(is_fresh) {
            return Ok(());
        }
        let asked = Instant::now();
        let before = lock(&self.families).0.entry(family.clone()).or_default().records.clone();
        let mut gathered = Gathered::new(self.bucket.list(&format!("memo/{family}/"))?, before.clone());
        let kept = cache.join("index").join(family.as_str());
        if gathered.missing().len() > DIRECT
            && let Some(lines) = fs::read_if_present(&kept)?
        {
            gathered.take(&lines);
        }
        if gathered.missing().len() > DIRECT
            && let Some((lines, _)) = self.bucket.get(&index_key(family))?
        {
            gathered.take(&lines);
            fs::publish(&kept, &lines, "index")?;
        }
        let names = gathered.missing();
        let keys: Vec<String> = names.iter().map(|name| format!("memo/{family}/{name}.json")).collect();
        for (name, bytes) in names.iter().zip(self.bucket.get_many(&keys)?) {
            // What cannot be read counts as not made, and is written again by whoever makes it.
            let record = bytes.as_deref().and_then(|bytes| Some((bytes.len() as u64, parse(bytes, name)?)));
            gathered.records.extend(record.map(|record| (name.clone(), record)));
        }
        let mut families = lock(&self.families);
        let known = families.0.entry(family.clone()).or_default();
        known.unindexed += names.len();
        // What this process committed meanwhile stays.
        let since = std::mem::take(&mut known.records).into_iter().filter(|(name, _)| !before.contains_key(name));
        gathered.records.extend(since);
        known.records = gathered.records;
        known.listed = Some(asked);
        Ok(())
    }

    /// Commits a part: whoever is first wins, and everyone gets the winner's record. A lost answer does no harm.
    pub(crate) fn commit(&self, recipe: &Recipe, record: &PartRecord, cache: &Path) -> Result<PartRecord> {
        let family = recipe.fingerprint();
        let (key, bytes) = (record_key(&family, &record.fingerprint), format_record(record));
        let mut failed = None;
        for _ in 0..TRIES {
            // What is asked for twice does no harm: only the last of the errors is told.
            match self.bring_recipe(recipe).and_then(|()| self.bucket.create(&key, &bytes)) {
                Ok(Some(_)) => {
                    self.know(&family, bytes.len() as u64, record.clone());
                    self.index_sometimes(&family, cache)?;
                    return Ok(record.clone());
                }
                // Somebody's, or ours with an answer that was lost.
                Ok(None) => {}
                Err(error) => failed = Some(error),
            }
            let Ok(found) = self.bucket.get(&key) else { continue };
            if let Some((found, version)) = found {
                if let Some(winner) = parse(&found, record.fingerprint.as_str()) {
                    self.know(&family, found.len() as u64, winner.clone());
                    return Ok(winner);
                }
                // What cannot be read is nobody's.
                self.bucket.replace(&key, &bytes, &version)?;
            }
        }
        Err(failed.unwrap_or_else(|| {
            Error::environment("cannot commit a part: its record is neither there nor can be created")
                .at(self.bucket.url(&key))
                .hint("run the same command again: what was made is kept in the cache")
        }))
    }

    /// Writes a record anew that says less than before: a file that nothing needs any more.
    pub(crate) fn amend(&self, family: &Fingerprint, record: &PartRecord) -> Result<()> {
        let bytes = format_record(record);
        self.bucket.put(&record_key(family, &record.fingerprint), &bytes)?;
        self.know(family, bytes.len() as u64, record.clone());
        Ok(())
    }

    /// Forgets records that name an object, here and in the bucket: their parts are to be made again.
    pub(crate) fn forget_parts_of(&self, names: impl Fn(&PartRecord) -> bool) -> Result<()> {
        let mut keys = Vec::new();
        for (family, known) in &mut lock(&self.families).0 {
            let of = |record: &PartRecord| names(record).then(|| record_key(family, &record.fingerprint));
            keys.extend(known.records.values().filter_map(|(_, record)| of(record)));
            known.records.retain(|_, (_, record)| !names(record));
        }
        if keys.is_empty() { Ok(()) } else { self.bucket.delete(keys) }
    }

    /// The recipe, once.
    pub(crate) fn bring_recipe(&self, recipe: &Recipe) -> Result<()> {
        let family = recipe.fingerprint();
        if lock(&self.families).0.entry(family.clone()).or_default().has_recipe {
            return Ok(());
        }
        let bytes = serde_json::to_vec_pretty(recipe).expect("a recipe is plain data");
        self.bucket.create(&format!("memo/{family}/{RECIPE}"), &bytes)?;
        lock(&self.families).0.entry(family).or_default().has_recipe = true;
        Ok(())
    }

    /// Every stage recipe that ever made a part.
    pub(crate) fn recipes(&self) -> Result<Vec<Recipe>> {
        let key = |family: String| format!("memo/{family}/{RECIPE}");
        let keys: Vec<String> = self.bucket.folders("memo/")?.into_iter().map(key).collect();
        let read = self.bucket.get_many(&keys)?.into_iter().flatten();
        Ok(read.filter_map(|bytes| serde_json::from_slice(&bytes).ok()).collect())
    }

    fn know(&self, family: &Fingerprint, size: u64, record: PartRecord) {
        let mut families = lock(&self.families);
        let known = families.0.entry(family.clone()).or_default();
        known.records.insert(record.fingerprint.as_str().to_string(), (size, record));
        known.unindexed += 1;
    }

    /// Writes the index once it lacks many records.
    fn index_sometimes(&self, family: &Fingerprint, cache: &Path) -> Result<()> {
        let is_due = lock(&self.families).0.get(family).is_some_and(|known| known.unindexed >= DIRECT);
        if is_due { self.write_index(family, cache) } else { Ok(()) }
    }

    /// Writes the index of a family, if it lacks records and there are more than are fetched one by one.
    pub(crate) fn write_index(&self, family: &Fingerprint, cache: &Path) -> Result<()> {
        self.list_family(family, cache)?;
        let lines = {
            let mut families = lock(&self.families);
            let Some(known) = families.0.get_mut(family) else { return Ok(()) };
            if known.unindexed == 0 || known.records.len() <= DIRECT {
                return Ok(());
            }
            known.unindexed = 0;
            known
                .records
                .values()
                .flat_map(|(_, record)| [format_record(record), b"\n".to_vec()].concat())
                .collect::<Vec<u8>>()
        };
        self.bucket.put(&index_key(family), &lines)
    }
}

/// By the part's fingerprint: the size of the record's object, and the record.
type Records = BTreeMap<String, (u64, PartRecord)>;

/// Records of the parts that a listing has, as far as they are gathered.
struct Gathered {
    /// Size of each record's object.
    listed: BTreeMap<String, u64>,
    records: Records,
}

impl Gathered {
    /// With those that are known and still as they were.
    fn new(entries: Vec<Entry>, known: Records) -> Gathered {
        let part = |entry: &Entry| Some((entry.name().strip_suffix(".json")?.to_string(), entry.bytes));
        let listed: BTreeMap<String, u64> =
            entries.iter().filter(|entry| entry.name() != RECIPE).filter_map(part).collect();
        let records = known.into_iter().filter(|(name, (size, _))| listed.get(name) == Some(size)).collect();
        Gathered { listed, records }
    }

    fn missing(&self) -> Vec<String> {
        self.listed.keys().filter(|name| !self.records.contains_key(*name)).cloned().collect()
    }

    /// Takes what fits the listing from the lines of an index.
    fn take(&mut self, lines: &[u8]) {
        for line in lines.split(|&byte| byte == b'\n') {
            let Ok(record) = parse_line(line) else { continue };
            let (name, size) = (record.fingerprint.as_str().to_string(), line.len() as u64);
            if self.listed.get(&name) == Some(&size) {
                self.records.insert(name, (size, record));
            }
        }
    }
}

pub(crate) fn record_key(family: &Fingerprint, part: &Fingerprint) -> String {
    format!("memo/{family}/{part}.json")
}

/// Outside of `memo/`, so that listing a family lists its parts alone.
fn index_key(family: &Fingerprint) -> String {
    format!("index/{family}")
}

/// The record in an object of this name, if it is one.
pub(crate) fn parse(bytes: &[u8], part: &str) -> Option<PartRecord> {
    let record = parse_line(bytes).ok()?;
    (record_name(&record).strip_suffix(".json") == Some(part)).then_some(record)
}
