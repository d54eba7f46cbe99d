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
use std::collections::BTreeMap;
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
    #[cfg(feature = "remote")]
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
    /// Says how far the holder is, to those who look at the workers. It is told at the next renewal.
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
    pub(crate) fn lease_part(self: &Arc<Remote>, part: &Fingerprint, note: &str) -> Result<Option<PartLease>> {
        let key = lease_key(part.as_str());
        if self.seen_held(part.as_str()) == Some(true) {
            return Ok(None);
        }
        let content = self.content(note.to_string(), 0);
        let mut taken = match self.bucket.create(&key, &content) {
            Ok(Some(version)) => Some(version),
            // It may be this process's own, by a request whose answer was lost.
            Ok(None) => self.own_version(&key)?,
            Err(error) => Some(self.own_version(&key)?.ok_or(error)?),
        };
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
        let held = Held { version, note: note.to_string(), lost: false };
        lock(&self.leases).held.insert(part.as_str().to_string(), held);
        let lease = PartLease { remote: self.clone(), part: part.as_str().to_string() };
        self.start_renewing()?;
        self.check_gate()?;
        Ok(Some(lease))
    }

    /// The version of a lease that is this process's; none where it is another's, or gone.
    fn own_version(&self, key: &str) -> Result<Option<Version>> {
        let found = self.bucket.get(key)?;
        let is_mine = |bytes: &[u8]| serde_json::from_slice::<Content>(bytes).is_ok_and(|it| it.nonce == self.nonce);
        Ok(found.filter(|(bytes, _)| is_mine(bytes)).map(|(_, version)| version))
    }

    pub(super) fn content(&self, note: String, written: u64) -> Vec<u8> {
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
        entry.age(now) <= self.lease_time.0
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
        let old: Vec<String> =
            clocks.iter().filter(|clock| clock.age(now) > CLOCK_TIME).map(|clock| clock.key.clone()).collect();
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
                let seconds = entry.age(now).as_secs();
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
                Ok(Some(version)) => Ok(Some(version)),
                // Another's, gone, or ours with an answer that was lost.
                Ok(None) => self.own_version(&key),
                Err(error) => Err(error),
            };
            let Ok(renewed) = renewed else { continue };
            if let Some(held) = lock(&self.leases).held.get_mut(&part) {
                held.lost = renewed.is_none();
                held.version = renewed.unwrap_or(version);
            }
        }
    }
}

pub(super) const LEASES: &str = "leases/";
const CLOCK: &str = "clock-";
const CLOCK_TIME: Duration = Duration::from_secs(24 * 60 * 60);

fn lease_key(part: &str) -> String {
    format!("{LEASES}{part}")
}

/// This process, as people would find it.
fn owner() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    format!("{}:{}", host.as_deref().unwrap_or("host").trim(), std::process::id())
}
