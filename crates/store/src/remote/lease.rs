//! The right to compute a part, for a while. It saves work and decides nothing: who holds one that ran out can only compute what
//! another computes too, and the first to commit wins.
//!
//! A lease is an object. Its holder writes it anew every third of its time, under the condition that it is still its own. It has run
//! out when the object store's clock says that it was not written for its time; what "now" is there is told by an object just written.

use super::bucket::{Entry, Version};
use super::{Remote, lock};
use mindgap_base::error::{Error, Result};
use mindgap_base::fingerprint::Fingerprint;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// How long leases last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeaseTime(pub Duration);

impl Default for LeaseTime {
    fn default() -> LeaseTime {
        LeaseTime(Duration::from_secs(60))
    }
}

impl LeaseTime {
    /// `MINDGAP_LEASE_SECONDS`, where it is set.
    pub fn from_env() -> Result<LeaseTime> {
        let Ok(text) = std::env::var("MINDGAP_LEASE_SECONDS") else { return Ok(LeaseTime::default()) };
        match text.parse() {
            Ok(seconds @ 3..=86_400) => Ok(LeaseTime(Duration::from_secs(seconds))),
            _ => Err(Error::usage(format!("MINDGAP_LEASE_SECONDS is `{text}`"))
                .hint("leases last 3 to 86400 seconds; 60 where nothing is said")),
        }
    }

    /// How often a holder writes its leases anew.
    fn renewal(self) -> Duration {
        self.0 / 3
    }

    /// How long what was seen of others' leases is believed.
    fn look(self) -> Duration {
        (self.0 / 12).clamp(Duration::from_millis(250), Duration::from_secs(5))
    }
}

/// What this process holds, and what it saw of others.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    held: BTreeMap<String, Held>,
    seen: Option<Seen>,
    is_renewing: bool,
}

#[derive(Debug)]
struct Held {
    version: Version,
    /// What the holder does, for people.
    note: String,
    lost: bool,
}

/// Leases at a moment.
#[derive(Debug)]
struct Seen {
    at: Instant,
    /// In milliseconds by the object store's clock.
    now: i64,
    leases: BTreeMap<String, Entry>,
}

/// What a lease's object says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Content {
    nonce: String,
    owner: String,
    note: String,
    /// So that each writing has another etag.
    written: u64,
}

/// A worker that holds a lease now.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Worker {
    pub owner: String,
    /// What it works on, and how far it is.
    pub note: String,
    pub part: String,
    /// Seconds since it was last heard of.
    pub seconds: u64,
}

/// A lease that is held, until it is dropped.
pub struct PartLease {
    remote: Arc<Remote>,
    part: String,
}

impl PartLease {
    /// Says what is being done, for those who look at the workers. It is told at the next renewal.
    pub fn note(&self, note: String) {
        if let Some(held) = lock(&self.remote.leases).held.get_mut(&self.part) {
            held.note = note;
        }
    }
}

impl Drop for PartLease {
    fn drop(&mut self) {
        let held = lock(&self.remote.leases).held.remove(&self.part);
        if held.is_some_and(|held| !held.lost) {
            // What stays runs out.
            let _ = self.remote.bucket.delete(vec![lease_key(&self.part)]);
        }
    }
}

impl Remote {
    /// Takes a part's lease, or takes one over that has run out; `None` while another holds it.
    ///
    /// Errors: a collection is at work.
    pub(crate) fn lease_part(self: &Arc<Remote>, part: &Fingerprint) -> Result<Option<PartLease>> {
        let key = lease_key(part.as_str());
        if self.seen_held(part.as_str()) == Some(true) {
            return Ok(None);
        }
        let content = self.content(String::new(), 0);
        let mut taken = self.bucket.create(&key, &content).or_else(|error| self.is_mine(&key, error))?;
        if taken.is_none() {
            self.see_leases()?;
            let seen = lock(&self.leases).seen.as_ref().and_then(|seen| seen.leases.get(part.as_str()).cloned());
            taken = match (seen, self.seen_held(part.as_str())) {
                // Gone since: the next look finds it free.
                (None, _) | (_, Some(true)) => None,
                (Some(entry), _) => self.bucket.replace(&key, &content, &entry.version)?,
            };
        }
        let Some(version) = taken else { return Ok(None) };
        let held = Held { version, note: String::new(), lost: false };
        lock(&self.leases).held.insert(part.as_str().to_string(), held);
        let lease = PartLease { remote: self.clone(), part: part.as_str().to_string() };
        self.start_renewing()?;
        self.check_gate()?;
        Ok(Some(lease))
    }

    /// A request to create a lease whose answer was lost may have created it.
    fn is_mine(&self, key: &str, error: Error) -> Result<Option<Version>> {
        let Some((bytes, version)) = self.bucket.get(key)? else { return Err(error) };
        let content: Content = serde_json::from_slice(&bytes).unwrap_or_default();
        Ok((content.nonce == self.nonce).then_some(version))
    }

    fn content(&self, note: String, written: u64) -> Vec<u8> {
        let content = Content { nonce: self.nonce.clone(), owner: owner(), note, written };
        serde_json::to_vec(&content).expect("a lease is plain data")
    }

    /// Whether another holds a lease that has not run out, as far as was seen lately; `None` where nobody looked.
    fn seen_held(&self, part: &str) -> Option<bool> {
        let leases = lock(&self.leases);
        let seen = leases.seen.as_ref().filter(|seen| seen.at.elapsed() < self.lease_time.look())?;
        seen.leases.get(part).map(|entry| self.is_alive(entry, seen.now))
    }

    fn is_alive(&self, entry: &Entry, now: i64) -> bool {
        now - entry.modified <= self.lease_time.0.as_millis() as i64
    }

    /// Looks at all leases, unless that was done just now.
    fn see_leases(&self) -> Result<()> {
        if lock(&self.leases).seen.as_ref().is_some_and(|seen| seen.at.elapsed() < self.lease_time.look()) {
            return Ok(());
        }
        let seen = self.look_at_leases()?;
        lock(&self.leases).seen = Some(seen);
        Ok(())
    }

    fn look_at_leases(&self) -> Result<Seen> {
        let at = Instant::now();
        let (now, entries) = self.now_and(LEASES)?;
        let leases = entries.into_iter().map(|entry| (entry.name().to_string(), entry)).collect();
        Ok(Seen { at, now, leases })
    }

    /// The object store's time in milliseconds, and what is below a prefix just then.
    pub(crate) fn now_and(&self, prefix: &str) -> Result<(i64, Vec<Entry>)> {
        let key = format!("{prefix}{CLOCK}{}", self.nonce);
        self.bucket.put(&key, b"now")?;
        let (clocks, entries): (Vec<Entry>, Vec<Entry>) =
            self.bucket.list(prefix)?.into_iter().partition(|entry| entry.name().starts_with(CLOCK));
        let own = clocks.iter().find(|clock| clock.key == key);
        let now = own.map(|clock| clock.modified).ok_or_else(|| {
            Error::environment("the bucket does not list what was just written")
                .at(self.bucket.url(&key))
                .hint("leases need a bucket whose listings are up to date, as those of S3, GCS and Azure")
        })?;
        // Of processes that are gone.
        let old = |clock: &Entry| now - clock.modified > 24 * 60 * 60 * 1000;
        let old: Vec<String> = clocks.iter().filter(|clock| old(clock)).map(|clock| clock.key.clone()).collect();
        if !old.is_empty() {
            self.bucket.delete(old)?;
        }
        Ok((now, entries))
    }

    /// Workers that hold a lease now.
    pub(crate) fn workers(&self) -> Result<Vec<Worker>> {
        let Seen { now, leases, .. } = self.look_at_leases()?;
        let alive: Vec<&Entry> = leases.values().filter(|entry| self.is_alive(entry, now)).collect();
        let keys: Vec<String> = alive.iter().map(|entry| entry.key.clone()).collect();
        let read = alive.iter().zip(self.bucket.get_many(&keys)?);
        Ok(read
            .filter_map(|(entry, bytes)| {
                let content: Content = serde_json::from_slice(&bytes?).ok()?;
                let seconds = (now - entry.modified).max(0) as u64 / 1000;
                Some(Worker { owner: content.owner, note: content.note, part: entry.name().to_string(), seconds })
            })
            .collect())
    }

    /// Starts the thread that renews, if there is none. It ends with the store.
    fn start_renewing(self: &Arc<Remote>) -> Result<()> {
        if std::mem::replace(&mut lock(&self.leases).is_renewing, true) {
            return Ok(());
        }
        let (remote, every) = (Arc::downgrade(self), self.lease_time.renewal());
        let renew = move || {
            let mut written = 0;
            loop {
                std::thread::sleep(every);
                let Some(remote) = Weak::upgrade(&remote) else { return };
                written += 1;
                remote.renew(written);
            }
        };
        let started = std::thread::Builder::new().name("leases".to_string()).spawn(renew);
        started.map(drop).map_err(|e| Error::environment("cannot start a thread").source(e))
    }

    /// Writes every held lease anew. One that is another's by now is lost; one that cannot be written is tried again next time.
    pub(super) fn renew(&self, written: u64) {
        let held: Vec<(String, Version, String)> = {
            let leases = lock(&self.leases);
            let held = leases.held.iter().filter(|(_, held)| !held.lost);
            held.map(|(part, held)| (part.clone(), held.version.clone(), held.note.clone())).collect()
        };
        for (part, version, note) in held {
            let key = lease_key(&part);
            let renewed = match self.bucket.replace(&key, &self.content(note, written), &version) {
                Ok(Some(version)) => Some(version),
                // Another's, gone, or ours with an answer that was lost.
                Ok(None) => match self.is_mine(&key, Error::environment("the lease is gone")) {
                    Ok(mine) => mine,
                    Err(_) => None,
                },
                Err(_) => continue,
            };
            if let Some(held) = lock(&self.leases).held.get_mut(&part) {
                held.lost = renewed.is_none();
                held.version = renewed.unwrap_or(version);
            }
        }
    }

    /// Lets a collection through, alone: nobody may hold a lease.
    pub(crate) fn close_gate(self: &Arc<Remote>) -> Result<Gate> {
        if self.bucket.create(GATE, &self.content("collecting".into(), 0))?.is_none() {
            let (now, entries) = self.now_and(GATES)?;
            let gate = entries.into_iter().find(|entry| entry.key == GATE);
            let over = match &gate {
                Some(gate) if !self.is_alive_for(gate, now, GATE_TIME) => {
                    self.bucket.replace(GATE, &self.content("collecting".into(), 1), &gate.version)?.is_some()
                }
                _ => false,
            };
            if !over {
                return Err(Error::environment("another collection is at work on the store")
                    .at(self.bucket.url(GATE))
                    .hint("wait for it to end; one that died is taken over after an hour"));
            }
        }
        let gate = Gate { remote: self.clone() };
        let workers = self.workers()?;
        let owners: BTreeSet<&str> = workers.iter().map(|worker| worker.owner.as_str()).collect();
        match owners.len() {
            0 => Ok(gate),
            count => Err(Error::environment(format!("{count} workers are at work on the store"))
                .at(owners.into_iter().collect::<Vec<_>>().join(", "))
                .hint("collect when they are done")),
        }
    }

    fn is_alive_for(&self, entry: &Entry, now: i64, time: Duration) -> bool {
        now - entry.modified <= time.as_millis() as i64
    }

    /// Refuses to begin a part while a collection is at work. Called with a lease held: either sees the other.
    fn check_gate(&self) -> Result<()> {
        match self.bucket.get(GATE)? {
            None => Ok(()),
            Some(_) => Err(Error::environment("a collection is at work on the store")
                .at(self.bucket.url(GATE))
                .hint("run the same command again when `mindgap gc` has ended")),
        }
    }
}

/// Nobody begins a part while it is held.
pub(crate) struct Gate {
    remote: Arc<Remote>,
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = self.remote.bucket.delete(vec![GATE.to_string()]);
    }
}

const LEASES: &str = "leases/";
const GATES: &str = "gates/";
const GATE: &str = "gates/gc";
const GATE_TIME: Duration = Duration::from_secs(60 * 60);
const CLOCK: &str = "clock-";

fn lease_key(part: &str) -> String {
    format!("{LEASES}{part}")
}

/// This process, as people would find it.
fn owner() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    format!("{}:{}", host.as_deref().unwrap_or("host").trim(), std::process::id())
}
