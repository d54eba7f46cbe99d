//! Journals in the bucket, so that samples that were paid for outlive the machine they were drawn on: frames as small objects that
//! never change, and snapshots by their hash.

use super::{Remote, lock};
use crate::fs;
use mindgap_base::error::Result;
use mindgap_base::fingerprint::Fingerprint;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Rows wait this long, at most, for others to travel with; a machine that is lost loses no more than that.
const EVERY: Duration = Duration::from_secs(2);
/// And this many bytes.
const BYTES: usize = 1 << 20;

/// What of a part's journal is in the bucket.
#[derive(Debug)]
pub(crate) struct RemoteJournal {
    remote: Arc<Remote>,
    prefix: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Frames that are not there yet.
    pending: Vec<u8>,
    since: Option<Instant>,
    /// Keys of this part's journal that are known to be there.
    keys: Vec<String>,
}

impl RemoteJournal {
    pub(crate) fn new(remote: &Arc<Remote>, part: &Fingerprint) -> RemoteJournal {
        RemoteJournal { remote: remote.clone(), prefix: format!("journals/{part}/"), state: Mutex::default() }
    }

    /// The frames there, in the order they were written.
    pub(crate) fn frames(&self) -> Result<Vec<u8>> {
        let keys: Vec<String> = self.list(FRAMES)?;
        let frames = self.remote.bucket.get_many(&keys)?;
        lock(&self.state).keys = keys;
        Ok(frames.into_iter().flatten().flatten().collect())
    }

    fn list(&self, kind: &str) -> Result<Vec<String>> {
        let entries = self.remote.bucket.list(&self.prefix)?;
        Ok(entries.into_iter().filter(|entry| entry.name().starts_with(kind)).map(|entry| entry.key).collect())
    }

    /// Adds frames, which may wait for a moment.
    pub(crate) fn append(&self, frames: &[u8]) -> Result<()> {
        let due = {
            let mut state = lock(&self.state);
            state.pending.extend_from_slice(frames);
            let waited = state.since.get_or_insert_with(Instant::now).elapsed();
            waited >= EVERY || state.pending.len() >= BYTES
        };
        if due { self.flush() } else { Ok(()) }
    }

    /// Brings what waits.
    pub(crate) fn flush(&self) -> Result<()> {
        let (frames, key) = {
            let mut state = lock(&self.state);
            state.since = None;
            if state.pending.is_empty() {
                return Ok(());
            }
            let frames = std::mem::take(&mut state.pending);
            let key = format!("{}{FRAMES}{:08}-{}", self.prefix, state.keys.len(), hash(&frames));
            state.keys.push(key.clone());
            (frames, key)
        };
        self.remote.bucket.put(&key, &frames)
    }

    /// Brings a snapshot whose last bytes are its hash, then removes those before it.
    pub(crate) fn bring_snapshot(&self, path: &Path, hash: &blake3::Hash) -> Result<()> {
        let key = format!("{}{SNAPSHOT}{}", self.prefix, hash.to_hex());
        self.remote.bucket.upload(&key, path)?;
        let older: Vec<String> = self.list(SNAPSHOT)?.into_iter().filter(|other| *other != key).collect();
        lock(&self.state).keys = vec![key];
        if older.is_empty() { Ok(()) } else { self.remote.bucket.delete(older) }
    }

    /// Fetches the newest snapshot to `path`, unless the one that is there, of this hash, is it.
    pub(crate) fn fetch_snapshot(&self, path: &Path, here: Option<blake3::Hash>) -> Result<()> {
        let mut entries = self.remote.bucket.list(&self.prefix)?;
        entries.retain(|entry| entry.name().starts_with(SNAPSHOT));
        entries.sort_by_key(|entry| entry.modified);
        lock(&self.state).keys = entries.iter().map(|entry| entry.key.clone()).collect();
        let Some(newest) = entries.pop() else { return Ok(()) };
        if here.is_some_and(|hash| newest.name().ends_with(hash.to_hex().as_str())) {
            return Ok(());
        }
        let mut draft = fs::Draft::beside(path)?;
        let there = self
            .remote
            .bucket
            .download(&newest.key, &mut |piece| draft.append(piece).map_err(|e| fs::error("write journal", path, e)))?;
        // A damaged one is found by its hash when it is read.
        if there { draft.publish(path, "snapshot") } else { Ok(()) }
    }

    /// Forgets the journal: the part is committed.
    pub(crate) fn remove(&self) -> Result<()> {
        let keys = std::mem::take(&mut *lock(&self.state)).keys;
        if keys.is_empty() { Ok(()) } else { self.remote.bucket.delete(keys) }
    }
}

impl Drop for RemoteJournal {
    /// A run that is stopped, or that failed, keeps its last rows, too.
    fn drop(&mut self) {
        let _ = self.flush();
    }
}

const FRAMES: &str = "frames-";
const SNAPSHOT: &str = "snapshot-";

fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..16].to_string()
}
