//! Rows of a part that is not finished: appended as they come, durable when `append` returns, read again by whoever takes the
//! part up, and gone once it is published. Only the holder of a part's lock touches its journal.
//!
//! A journal of rows is a sequence of frames: the length of the bytes (u64, little-endian), their blake3, the bytes, which are
//! the rows as Parquet. Reading ends at the first frame that is cut off or damaged; what comes after it is dropped.
//!
//! A journal of work that is one growing whole (a training) is a snapshot instead: bytes, and their blake3 behind them, replaced
//! by the next.

use super::parquet::{Encoded, decode_batches};
use super::remote::RemoteJournal;
use super::{Store, fault, fs};
use crate::table::{Row, from_batches};
use mindgap_base::address::Address;
use mindgap_base::error::Result;
use mindgap_base::fingerprint::Fingerprint;
use std::collections::HashSet;
use std::path::PathBuf;

/// Takes the next bytes of what is written piece by piece.
pub type Put<'a> = dyn FnMut(&[u8]) -> Result<()> + 'a;

/// The journal of one part.
pub struct Journal {
    path: PathBuf,
    /// Where it is in the bucket of a remote store.
    remote: Option<RemoteJournal>,
}

const LENGTH: usize = 8;
const HEADER: usize = LENGTH + blake3::OUT_LEN;

impl Store {
    pub fn journal(&self, part: &Fingerprint) -> Journal {
        let remote = self.remote.as_ref().map(|remote| RemoteJournal::new(remote, part));
        Journal { path: self.root.join("journals").join(part.as_str()), remote }
    }
}

impl Journal {
    /// All rows that are whole, in the order they came. Drops what is not, so that more can be appended.
    pub fn read<R: Row>(&self) -> Result<Vec<R>> {
        if let Some(remote) = &self.remote {
            self.merge(remote)?;
        }
        let Some(bytes) = fs::read_if_present(&self.path)? else { return Ok(Vec::new()) };
        let (mut rows, mut good) = (Vec::new(), 0);
        while let Some(frame) = frame(&bytes[good..]) {
            // Rows of another shape are as good as damaged: they are made again.
            let Ok(more) = decode_batches(frame.to_vec()).and_then(|batches| from_batches::<R>(&batches)) else {
                break;
            };
            rows.extend(more);
            good += HEADER + frame.len();
        }
        if good < bytes.len() {
            fs::publish(&self.path, &bytes[..good], "journal")?;
        }
        Ok(rows)
    }

    /// Puts the frames in the bucket before those that are here alone, and sends the latter after them.
    fn merge(&self, remote: &RemoteJournal) -> Result<()> {
        let there = remote.frames()?;
        let here = fs::read_if_present(&self.path)?.unwrap_or_default();
        let known: HashSet<&[u8]> = frames(&there).collect();
        let more: Vec<u8> = frames(&here).filter(|frame| !known.contains(frame)).flatten().copied().collect();
        if !there.is_empty() {
            fs::create_dir(self.path.parent().expect("a journal lies in a folder"))?;
            fs::publish(&self.path, &[&there[..], &more].concat(), "journal")?;
        }
        if more.is_empty() { Ok(()) } else { remote.append(&more) }
    }

    /// Adds rows. They are durable afterwards.
    pub fn append(&self, rows: Encoded) -> Result<()> {
        let hash = blake3::hash(&rows.bytes);
        let length = (rows.bytes.len() as u64).to_le_bytes();
        let frame = [&length[..], hash.as_bytes(), &rows.bytes].concat();
        let folder = self.path.parent().expect("a journal lies in a folder");
        fs::create_dir(folder)?;
        let mut file = fs::Appender::open(&self.path)?;
        file.append(&frame).map_err(|e| fs::error("append to journal", &self.path, e))?;
        file.sync().map_err(|e| fs::error("sync", &self.path, e))?;
        fs::sync_dir(folder)?;
        fault::point("journal.synced");
        self.remote.as_ref().map_or(Ok(()), |remote| remote.append(&frame))
    }

    /// Replaces the journal by a snapshot: `write` gives its bytes, piece by piece. It is durable afterwards; until then the one
    /// before stays.
    pub fn replace(&self, mut write: impl FnMut(&mut Put) -> Result<()>) -> Result<()> {
        fs::create_dir(self.path.parent().expect("a journal lies in a folder"))?;
        let mut draft = fs::Draft::beside(&self.path)?;
        let mut hasher = blake3::Hasher::new();
        let failed = |e| fs::error("write journal", &self.path, e);
        write(&mut |bytes| {
            hasher.update(bytes);
            draft.append(bytes).map_err(failed)
        })?;
        let hash = hasher.finalize();
        draft.append(hash.as_bytes()).map_err(failed)?;
        draft.publish(&self.path, "snapshot")?;
        self.remote.as_ref().map_or(Ok(()), |remote| remote.bring_snapshot(&self.path, &hash))
    }

    /// The snapshot, if there is a whole one.
    pub fn snapshot(&self) -> Result<Option<Snapshot>> {
        let mut snapshot = self.read_snapshot()?;
        if let Some(remote) = &self.remote {
            remote.fetch_snapshot(&self.path, snapshot.as_ref().map(Snapshot::hash))?;
            snapshot = self.read_snapshot()?;
        }
        Ok(snapshot)
    }

    fn read_snapshot(&self) -> Result<Option<Snapshot>> {
        if !self.path.exists() {
            return Ok(None);
        }
        let mapped = fs::map(&self.path)?;
        let is_whole = mapped.split_last_chunk::<{ blake3::OUT_LEN }>().is_some_and(|(bytes, hash)| {
            let hash = blake3::Hash::from(*hash);
            Address::of(bytes) == hash.into()
        });
        Ok(is_whole.then_some(Snapshot { mapped }))
    }

    /// Forgets the rows: they are published.
    pub fn remove(&self) -> Result<()> {
        self.remote.as_ref().map_or(Ok(()), RemoteJournal::remove)?;
        if !self.path.exists() {
            return Ok(());
        }
        fs::remove(&self.path)?;
        fs::sync_dir(self.path.parent().expect("a journal lies in a folder"))
    }
}

/// A snapshot's bytes.
pub struct Snapshot {
    mapped: memmap2::Mmap,
}

impl Snapshot {
    pub fn bytes(&self) -> &[u8] {
        &self.mapped[..self.mapped.len() - blake3::OUT_LEN]
    }

    /// The last bytes of a snapshot are the hash of those before.
    fn hash(&self) -> blake3::Hash {
        let hash = self.mapped.last_chunk::<{ blake3::OUT_LEN }>().expect("a whole snapshot ends in its hash");
        blake3::Hash::from(*hash)
    }
}

/// The whole frames that `bytes` begins with, each with its header.
fn frames(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (whole, after) = rest.split_at(HEADER + frame(rest)?.len());
        rest = after;
        Some(whole)
    })
}

/// The bytes of the frame that `bytes` begins with, if it is whole.
fn frame(bytes: &[u8]) -> Option<&[u8]> {
    let length = u64::from_le_bytes(bytes.get(..LENGTH)?.try_into().ok()?);
    let end = HEADER.checked_add(usize::try_from(length).ok()?)?;
    let content = bytes.get(HEADER..end)?;
    let hash: [u8; blake3::OUT_LEN] = bytes[LENGTH..HEADER].try_into().ok()?;
    (Address::of(content) == blake3::Hash::from(hash).into()).then_some(content)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::parquet::Footer;
    use crate::table::problems::Problem;
    use crate::table::verdicts::VerdictRow;
    use mindgap_base::error::Error;
    use mindgap_base::fingerprint::Recipe;

    pub(crate) fn rows(ids: &[&str]) -> Vec<Problem> {
        let row = |id: &&str| Problem {
            problem_id: id.to_string(),
            source: "test".into(),
            question: "?".into(),
            solution: None,
            answer: "1".into(),
            meta: None,
        };
        ids.iter().map(row).collect()
    }

    fn append(journal: &Journal, ids: &[&str]) {
        let footer = Footer { stage: "s", fingerprint: "f" };
        journal.append(Encoded::new(&rows(ids), &footer).unwrap()).unwrap();
    }

    /// Goal: whatever happened to the file, what is read is a prefix of what was appended, and appending goes on behind it.
    #[test]
    fn whole_frames_survive_whatever_happens_to_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let journal = store.journal(&Recipe::new("part", 1).fingerprint());
        assert!(journal.read::<Problem>().unwrap().is_empty());
        append(&journal, &["a", "b"]);
        append(&journal, &["c"]);
        let whole = std::fs::read(&journal.path).unwrap();
        assert_eq!(journal.read::<Problem>().unwrap(), rows(&["a", "b", "c"]));
        let first = HEADER + frame(&whole).unwrap().len();
        for cut in (0..whole.len()).step_by(97).chain([first - 1, first, first + 1, whole.len() - 1]) {
            std::fs::write(&journal.path, &whole[..cut]).unwrap();
            let expected: &[&str] = if cut < first { &[] } else { &["a", "b"] };
            assert_eq!(journal.read::<Problem>().unwrap(), rows(expected), "cut after {cut} bytes");
        }
        for flipped in [3, LENGTH, HEADER + 5, first + 1, first + HEADER + 9] {
            let mut bytes = whole.clone();
            bytes[flipped] ^= 0x40;
            std::fs::write(&journal.path, bytes).unwrap();
            let expected: &[&str] = if flipped < first { &[] } else { &["a", "b"] };
            assert_eq!(journal.read::<Problem>().unwrap(), rows(expected), "byte {flipped} flipped");
        }
        append(&journal, &["d"]);
        assert_eq!(journal.read::<Problem>().unwrap(), rows(&["a", "b", "d"]));
        // Rows of another table are no rows of this one.
        assert!(journal.read::<VerdictRow>().unwrap().is_empty());
        journal.remove().unwrap();
        assert!(!journal.path.exists());
        journal.remove().unwrap();
    }

    /// Goal: a snapshot is there whole or not at all, and the next one takes its place.
    #[test]
    fn a_snapshot_is_whole_or_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let journal = store.journal(&Recipe::new("part", 1).fingerprint());
        assert!(journal.snapshot().unwrap().is_none());
        for pieces in [&[&b"some"[..], b" bytes"][..], &[], &[b"other bytes"]] {
            journal.replace(|put| pieces.iter().try_for_each(|piece| put(piece))).unwrap();
            assert_eq!(journal.snapshot().unwrap().unwrap().bytes(), pieces.concat());
        }
        let failed = journal.replace(|put| put(b"half").and_then(|()| Err(Error::internal("no"))));
        assert!(failed.is_err());
        assert_eq!(journal.snapshot().unwrap().unwrap().bytes(), b"other bytes");
        let whole = std::fs::read(&journal.path).unwrap();
        for length in [0, 5, whole.len() - 1] {
            std::fs::write(&journal.path, &whole[..length]).unwrap();
            assert!(journal.snapshot().unwrap().is_none(), "cut after {length} bytes");
        }
        let mut flipped = whole.clone();
        flipped[3] ^= 1;
        std::fs::write(&journal.path, flipped).unwrap();
        assert!(journal.snapshot().unwrap().is_none());
        // Rows and snapshots are not taken for each other.
        std::fs::write(&journal.path, &whole).unwrap();
        assert!(journal.read::<Problem>().unwrap().is_empty());
    }
}
