//! A remote store on a bucket in memory, with the faults that buckets have.

use super::bucket::{Bucket, Entry, Url, Version};
use super::cloud::Cloud;
use super::{LeaseTime, Remote, lock};
use crate::journal::tests::rows;
use crate::parquet::{Encoded, Footer};
use crate::table::problems::Problem as Row;
use crate::{Manifest, PartRecord, Pointer, Problem, Rules, Span, Store};
use mindgap_base::address::Address;
use mindgap_base::error::{Error, Result};
use mindgap_base::fingerprint::{Fingerprint, Recipe};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const HOUR: i64 = 60 * 60 * 1000;

/// What may go wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// An answer 500, or none, and nothing was done.
    Fails,
    /// A time-out after it was done.
    LostAnswer,
    /// An answer 409 or 412 though nothing is there.
    Refused,
    /// A body that is cut short.
    CutShort,
    /// The condition is not looked at.
    Unconditional,
}

/// A bucket with faults at the next requests whose key begins so, and a clock that is wrong by some milliseconds.
#[derive(Debug)]
struct Faulty {
    inner: Cloud,
    faults: Mutex<Vec<(&'static str, Fault)>>,
    clock: i64,
    /// By which objects look older than they are; clocks do not.
    age: i64,
    requests: AtomicU64,
}

impl Faulty {
    fn take(&self, key: &str, kinds: &[Fault]) -> Option<Fault> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let mut faults = lock(&self.faults);
        let at = faults.iter().position(|(prefix, fault)| key.starts_with(prefix) && kinds.contains(fault))?;
        Some(faults.remove(at).1)
    }

    fn broken() -> Error {
        Error::environment("the bucket does not answer")
    }

    fn write<T>(&self, key: &str, refused: T, write: impl FnOnce() -> Result<T>) -> Result<T> {
        match self.take(key, &[Fault::Fails, Fault::LostAnswer, Fault::Refused]) {
            Some(Fault::Fails) => Err(Faulty::broken()),
            Some(Fault::LostAnswer) => write().and(Err(Faulty::broken())),
            Some(_) => Ok(refused),
            None => write(),
        }
    }

    fn read(&self, key: &str, bytes: Vec<u8>) -> Vec<u8> {
        match self.take(key, &[Fault::CutShort]) {
            Some(_) => bytes[..bytes.len() / 2].to_vec(),
            None => bytes,
        }
    }
}

impl Bucket for Faulty {
    fn get(&self, key: &str) -> Result<Option<(Vec<u8>, Version)>> {
        Ok(self.inner.get(key)?.map(|(bytes, version)| (self.read(key, bytes), version)))
    }
    fn get_many(&self, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>> {
        keys.iter().map(|key| Ok(self.get(key)?.map(|(bytes, _)| bytes))).collect()
    }
    fn download(&self, key: &str, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<bool> {
        self.get(key)?.map_or(Ok(false), |(bytes, _)| take(&bytes).map(|()| true))
    }
    fn put(&self, key: &str, bytes: &[u8]) -> Result<()> {
        self.write(key, (), || self.inner.put(key, bytes))
    }
    fn upload(&self, key: &str, file: &Path) -> Result<()> {
        self.write(key, (), || self.inner.upload(key, file))
    }
    fn create(&self, key: &str, bytes: &[u8]) -> Result<Option<Version>> {
        if self.take(key, &[Fault::Unconditional]).is_some() {
            return self.inner.put(key, bytes).map(|()| Some(Version::default()));
        }
        self.write(key, None, || self.inner.create(key, bytes))
    }
    fn replace(&self, key: &str, bytes: &[u8], version: &Version) -> Result<Option<Version>> {
        self.write(key, None, || self.inner.replace(key, bytes, version))
    }
    fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let mut entries = self.inner.list(prefix)?;
        for entry in &mut entries {
            let age = if entry.name().starts_with("clock-") { 0 } else { self.age };
            entry.modified += self.clock - age;
        }
        Ok(entries)
    }
    fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        self.inner.folders(prefix)
    }
    fn delete(&self, keys: Vec<String>) -> Result<()> {
        self.inner.delete(keys)
    }
    fn url(&self, key: &str) -> String {
        self.inner.url(key)
    }
}

/// A worker's store: a cache of its own on a bucket of this name.
struct Machine {
    store: Store,
    bucket: Arc<Faulty>,
    _cache: tempfile::TempDir,
}

fn machine_with(name: &str, lease: Duration, clock: i64, age: i64) -> Machine {
    let cache = tempfile::tempdir().unwrap();
    let inner = Cloud::open(&Url::parse(&format!("memory://{name}/prefix")).unwrap()).unwrap();
    let bucket = Arc::new(Faulty { inner, faults: Mutex::default(), clock, age, requests: AtomicU64::new(0) });
    let remote = Arc::new(Remote::new(bucket.clone(), LeaseTime(lease)));
    let store = Store { root: cache.path().to_path_buf(), remote: Some(remote) };
    store.settle_version().unwrap();
    store.remote.as_ref().unwrap().settle().unwrap();
    Machine { store, bucket, _cache: cache }
}

fn machine(name: &str) -> Machine {
    machine_with(name, Duration::from_secs(60), 0, 0)
}

impl Machine {
    fn remote(&self) -> &Arc<Remote> {
        self.store.remote.as_ref().unwrap()
    }

    fn fault(&self, prefix: &'static str, fault: Fault) {
        lock(&self.bucket.faults).push((prefix, fault));
    }

    /// A part with one object of these bytes, stored.
    fn part(&self, number: u32, bytes: &[u8]) -> PartRecord {
        let address = self.store.put(bytes).unwrap();
        PartRecord {
            fingerprint: part(number),
            span: Span::default(),
            tables: BTreeMap::new(),
            files: BTreeMap::from([("rows".into(), (address, bytes.len() as u64))]),
        }
    }
}

fn part(number: u32) -> Fingerprint {
    Recipe::new("part", number).fingerprint()
}

fn recipe() -> Recipe {
    Recipe::new("rollout", 1)
}

fn only(record: &PartRecord) -> Address {
    record.files["rows"].0.clone()
}

/// Goal: what one machine stores and commits another finds, reads verified, and keeps; a damaged copy in its cache is fetched anew.
#[test]
fn another_machine_finds_what_one_made() {
    let (a, b) = (machine("found"), machine("found"));
    let record = a.part(1, b"rows");
    assert_eq!(a.store.remember_part(&recipe(), &record).unwrap(), record);
    let family = recipe().fingerprint();
    assert_eq!(b.store.find_parts(&family, &[&part(1), &part(2)]).unwrap(), [Some(record.clone()), None]);
    assert_eq!(b.store.family_parts(&family).unwrap(), std::slice::from_ref(&record));
    let address = only(&record);
    assert_eq!(b.store.get(&address).unwrap(), b"rows");
    std::fs::write(b.store.object_path(&address), b"rots").unwrap();
    assert_eq!(&b.store.map(&address).unwrap()[..], b"rows");
    let missing = b.store.get(&Address::of(b"never stored")).unwrap_err().to_string();
    assert!(missing.contains("missing from the store"), "{missing}");

    let manifest = Manifest { kind: "rollout".into(), recipe: recipe(), main_table: None, parts: vec![record] };
    let address = a.store.put_manifest(&manifest).unwrap();
    let pointer = Pointer { fingerprint: family, manifest: address, origin: None };
    a.store.set_pointer("demo", "rollouts", &pointer).unwrap();
    assert_eq!(b.store.pointer("demo", "rollouts").unwrap(), Some(pointer.clone()));
    assert_eq!(b.store.get_manifest(&pointer.manifest).unwrap().content(), manifest.content());
    assert_eq!(b.store.recipes().unwrap(), [recipe()]);
    b.store.fetch_view("demo", "rollouts").unwrap();
    assert_eq!(std::fs::read(b.store.view_path("demo", "rollouts").join("rows")).unwrap(), b"rows");
    assert!(b.store.check(&|_, _| {}).unwrap().findings.is_empty());
}

/// Goal: of two that commit the same part, both go on with the record of the first, whatever answer the bucket gave.
#[test]
fn whoever_commits_first_wins() {
    for faults in [
        &[][..],
        &[Fault::LostAnswer],
        &[Fault::Fails],
        &[Fault::Refused],
        &[Fault::Refused, Fault::LostAnswer],
        &[Fault::Fails, Fault::Fails, Fault::Refused],
    ] {
        let name =
            format!("commit{}", faults.iter().map(|fault| format!("-{fault:?}").to_lowercase()).collect::<String>());
        let (a, b) = (machine(&name), machine(&name));
        let (first, second) = (a.part(1, b"the first"), b.part(1, b"the second"));
        faults.iter().for_each(|fault| a.fault("memo/", *fault));
        assert_eq!(a.store.remember_part(&recipe(), &first).unwrap(), first, "{name}");
        faults.iter().for_each(|fault| b.fault("memo/", *fault));
        assert_eq!(b.store.remember_part(&recipe(), &second).unwrap(), first, "{name}");
        let found = machine(&name).store.family_parts(&recipe().fingerprint()).unwrap();
        assert_eq!(found, [first], "{name}");
    }
}

/// Goal: a bucket that never answers is an error that ends, not a wait; what cannot be read counts as not made and is written anew.
#[test]
fn what_cannot_be_committed_is_told() {
    let a = machine("silent");
    let record = a.part(1, b"rows");
    (0..9).for_each(|_| a.fault("memo/", Fault::Fails));
    let error = a.store.remember_part(&recipe(), &record).unwrap_err().to_string();
    assert!(error.contains("the bucket does not answer"), "{error}");
    lock(&a.bucket.faults).clear();
    let key = super::family::record_key(&recipe().fingerprint(), &part(1));
    a.bucket.put(&key, b"{\"checksum\":\"of something else").unwrap();
    assert_eq!(a.store.find_part(&recipe().fingerprint(), &part(1)).unwrap(), None);
    assert_eq!(a.store.remember_part(&recipe(), &record).unwrap(), record);
    assert_eq!(machine("silent").store.find_part(&recipe().fingerprint(), &part(1)).unwrap(), Some(record));
}

/// Goal: an answer that is cut short is asked for again; an object that is damaged in the bucket is told, dropped with the parts that
/// name it, and can be made again.
#[test]
fn damage_in_the_bucket_is_found() {
    let (a, b) = (machine("damage"), machine("damage"));
    let record = a.part(1, b"some rows");
    a.store.remember_part(&recipe(), &record).unwrap();
    b.fault("objects/", Fault::CutShort);
    assert_eq!(b.store.get(&only(&record)).unwrap(), b"some rows");
    let key = super::object_key(&only(&record));
    a.bucket.put(&key, b"some rots").unwrap();
    let c = machine("damage");
    c.store.family_parts(&recipe().fingerprint()).unwrap();
    let error = c.store.get(&only(&record)).unwrap_err();
    assert_eq!(error.damaged_object(), Some(&only(&record)));
    let found = c.store.check(&|_, _| {}).unwrap().findings;
    let kinds: Vec<Problem> = found.iter().map(|finding| finding.problem).collect();
    assert_eq!(kinds, [Problem::Missing, Problem::Damaged], "the record that names the object, and the object");
    assert_eq!(machine("damage").store.family_parts(&recipe().fingerprint()).unwrap(), []);
    a.bucket.put(&key, b"some rots").unwrap();
    assert!(c.store.drop_if_damaged(&only(&record)).unwrap());
    assert_eq!(c.store.find_part(&recipe().fingerprint(), &part(1)).unwrap(), None);
    assert_eq!(c.part(1, b"some rows"), record);
    assert_eq!(c.store.get(&only(&record)).unwrap(), b"some rows");
}

/// Goal: a held part is nobody else's; one that is given back is free at once; one whose holder is not heard of is taken over after
/// its time, by the bucket's clock: the machines' own do not matter.
#[test]
fn leases_are_held_given_back_and_taken_over() {
    let lease = Duration::from_millis(600);
    for (name, clock) in [("lease", 0), ("lease-early", -HOUR), ("lease-late", HOUR)] {
        let machines = [(); 2].map(|()| machine_with(name, lease, clock, 0));
        let [a, b] = &machines;
        let held = a.store.try_lock_part(&part(1), "rollouts 1/4").unwrap().expect("nobody holds it");
        assert_eq!(b.store.workers().unwrap()[0].note, "rollouts 1/4");
        held.note(|| "rollouts 1/4, 3 of 8 rows".into());
        // Longer than the lease: it is renewed.
        for _ in 0..5 {
            assert!(b.store.try_lock_part(&part(1), "rollouts 1/4").unwrap().is_none(), "{name}");
            std::thread::sleep(lease / 3);
        }
        let workers = b.store.workers().unwrap();
        assert_eq!(
            workers.iter().map(|worker| worker.note.as_str()).collect::<Vec<_>>(),
            ["rollouts 1/4, 3 of 8 rows"]
        );
        drop(held);
        assert!(b.store.workers().unwrap().is_empty());
        std::thread::sleep(lease / 2);
        drop(b.store.try_lock_part(&part(1), "rollouts 1/4").unwrap().expect("it was given back"));
        // Of one who died.
        a.bucket.put("leases/dead", b"{}").unwrap();
        a.bucket
            .put(&format!("leases/{}", part(2)), br#"{"nonce":"dead","owner":"gone:1","note":"","written":1}"#)
            .unwrap();
        assert!(b.store.try_lock_part(&part(2), "rollouts 1/4").unwrap().is_none(), "{name}: taken over too early");
        std::thread::sleep(lease * 2);
        let taken = b.store.try_lock_part(&part(2), "rollouts 1/4").unwrap().expect("its time is over");
        assert!(a.store.try_lock_part(&part(2), "rollouts 1/4").unwrap().is_none(), "{name}: taken over twice");
        drop(taken);
    }
}

/// Goal: a lease whose making was confirmed by no answer is held all the same; one that another has taken over is not given back.
#[test]
fn leases_outlive_lost_answers() {
    let a = machine("lease-lost");
    a.fault("leases/", Fault::LostAnswer);
    let held = a.store.try_lock_part(&part(1), "rollouts 1/4").unwrap();
    assert!(held.is_some());
    let key = format!("leases/{}", part(1));
    a.bucket.put(&key, br#"{"nonce":"another","owner":"b:2","note":"","written":1}"#).unwrap();
    a.remote().renew(1);
    drop(held);
    assert!(a.bucket.get(&key).unwrap().is_some(), "the other's lease was removed");
    a.fault("leases/", Fault::Fails);
    assert!(a.store.try_lock_part(&part(3), "rollouts 1/4").is_err());
}

/// Goal: rows that a lost machine journaled are found by the next, once each, in their order; after the part they are gone.
#[test]
fn journals_outlive_their_machine() {
    let (a, b) = (machine("journal"), machine("journal"));
    let encode = |ids: &[&str]| Encoded::new(&rows(ids), &Footer { stage: "s", fingerprint: "f" }).unwrap();
    {
        let journal = a.store.journal(&part(1));
        journal.append(encode(&["a"])).unwrap();
        journal.append(encode(&["b"])).unwrap();
    }
    let journal = b.store.journal(&part(1));
    let ids = |journal: &crate::Journal| -> Vec<String> {
        journal.read::<Row>().unwrap().into_iter().map(|row| row.problem_id).collect()
    };
    assert_eq!(ids(&journal), ["a", "b"]);
    journal.append(encode(&["c"])).unwrap();
    drop(journal);
    // The first comes back, with what it had.
    let journal = a.store.journal(&part(1));
    assert_eq!(ids(&journal), ["a", "b", "c"]);
    assert_eq!(ids(&journal), ["a", "b", "c"]);
    journal.remove().unwrap();
    drop(journal);
    assert_eq!(ids(&machine("journal").store.journal(&part(1))), Vec::<String>::new());

    let write = |journal: &crate::Journal, text: &[u8]| journal.replace(|put| put(text)).unwrap();
    let journal = a.store.journal(&part(2));
    write(&journal, b"step 1");
    write(&journal, b"step 2");
    let found = b.store.journal(&part(2)).snapshot().unwrap().unwrap();
    assert_eq!(found.bytes(), b"step 2");
    let listed = a.bucket.list(&format!("journals/{}/", part(2))).unwrap();
    assert_eq!(listed.len(), 1, "the one before is removed");
}

/// Goal: a family of many parts is known by a bounded number of requests, from the index that workers write.
#[test]
fn many_parts_are_found_by_few_requests() {
    let a = machine("index");
    let records: Vec<PartRecord> = (0..200).map(|number| a.part(number, b"same")).collect();
    for record in &records {
        a.store.remember_part(&recipe(), record).unwrap();
    }
    let b = machine("index");
    let before = b.bucket.requests.load(Ordering::Relaxed);
    let names: Vec<&Fingerprint> = records.iter().map(|record| &record.fingerprint).collect();
    let found = b.store.find_parts(&recipe().fingerprint(), &names).unwrap();
    assert_eq!(found.into_iter().flatten().collect::<Vec<_>>(), records);
    let asked = b.bucket.requests.load(Ordering::Relaxed) - before;
    assert!(asked < 70, "a listing, an index and what it lacks: {asked} requests");
    let c = Store { root: b.store.root.clone(), remote: machine("index").store.remote };
    assert_eq!(c.family_parts(&recipe().fingerprint()).unwrap().len(), 200, "by the index in the cache");
}

/// Goal: a collection leaves what stages reach and what is young, takes the rest, and works only while nobody else does.
#[test]
fn collections_work_alone() {
    let a = machine("gc");
    let (kept, lost) = (a.part(1, b"kept"), a.part(2, b"lost"));
    for record in [&kept, &lost] {
        a.store.remember_part(&recipe(), record).unwrap();
    }
    let manifest = Manifest { kind: "rollout".into(), recipe: recipe(), main_table: None, parts: vec![kept.clone()] };
    let address = a.store.put_manifest(&manifest).unwrap();
    let pointer = Pointer { fingerprint: recipe().fingerprint(), manifest: address, origin: None };
    a.store.set_pointer("demo", "rollouts", &pointer).unwrap();
    let rules = Rules { forget: Vec::new(), keep: Duration::ZERO };
    assert!(!a.store.collect_garbage(&rules, true).unwrap().is_any(), "all of it is young");
    let later = machine_with("gc", Duration::from_secs(60), 0, 2 * HOUR);
    let held = a.store.try_lock_part(&part(3), "rollouts 1/4").unwrap();
    let now = machine_with("gc", Duration::from_secs(60), 0, 0);
    let refused = now.store.collect_garbage(&rules, true).unwrap_err().to_string();
    assert!(refused.contains("workers are at work on the store: 1"), "{refused}");
    drop(held);
    let garbage = later.store.collect_garbage(&rules, true).unwrap();
    assert_eq!((garbage.objects, garbage.records, garbage.kept_objects), (1, 1, 2));
    let b = machine("gc");
    assert_eq!(b.store.family_parts(&recipe().fingerprint()).unwrap(), std::slice::from_ref(&kept));
    assert_eq!(b.store.get(&only(&kept)).unwrap(), b"kept");
    assert!(b.store.get(&only(&lost)).is_err());
    a.bucket.put("gates/gc", b"{}").unwrap();
    let refused = b.store.try_lock_part(&part(4), "rollouts 1/4").map(drop).unwrap_err().to_string();
    assert!(refused.contains("a collection is at work"), "{refused}");
    assert!(b.store.workers().unwrap().is_empty(), "the lease is given back");
}

/// Goal: a bucket that ignores conditions, and one of another layout, are refused before anything is written.
#[test]
fn other_buckets_are_refused() {
    let open = |name: &str, fault: Option<Fault>, version: Option<&[u8]>| {
        let inner = Cloud::open(&Url::parse(&format!("memory://{name}")).unwrap()).unwrap();
        let bucket =
            Arc::new(Faulty { inner, faults: Mutex::default(), clock: 0, age: 0, requests: AtomicU64::new(0) });
        version.iter().for_each(|version| bucket.put("VERSION", version).unwrap());
        (0..2).for_each(|_| lock(&bucket.faults).extend(fault.map(|fault| ("probe/", fault))));
        Remote::new(bucket, LeaseTime::default()).settle()
    };
    let error = open("unconditional", Some(Fault::Unconditional), None).unwrap_err().to_string();
    assert!(error.contains("does not write objects under a condition"), "{error}");
    let error = open("later", None, Some(b"mindgap remote store 2\n")).unwrap_err().to_string();
    assert!(error.contains("`mindgap remote store 2`"), "{error}");
    open("sound", None, None).unwrap();
}
