//! Sorts more rows than memory should hold: sorted runs in a file without a name, merged when they are read.

use super::{Store, fs};
use mindgap_base::error::{Error, Result};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{BufReader, Cursor, Read, Write};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// Bytes of rows that are held before a run is written.
const HELD_BYTES: usize = 32 << 20;
/// Bytes read ahead of every run. With runs of `HELD_BYTES`, merging holds a thousandth of what was pushed.
const READ_BYTES: usize = 32 << 10;

/// Takes rows in any order: a key of `N` bytes, by which they are sorted, and a value. No two keys may be equal.
pub struct Sorter<const N: usize> {
    folder: PathBuf,
    held_bytes_max: usize,
    /// Rows one after the other: key, length of the value (u32, little endian), value.
    held: Vec<u8>,
    /// Where each begins.
    starts: Vec<usize>,
    file: Option<Arc<fs::File>>,
    /// Where each run lies in the file.
    runs: Vec<Range<u64>>,
}

/// The rows in the order of their keys.
pub struct Sorted<const N: usize> {
    folder: PathBuf,
    runs: Vec<Box<dyn Read>>,
    /// The next row of every run that has one, and whose it is.
    next: BinaryHeap<Reverse<Row<N>>>,
}

/// Key, number of the run, value: ordered by the key, which is unique.
type Row<const N: usize> = ([u8; N], usize, Vec<u8>);

impl Store {
    /// A sorter that writes what it cannot hold into the store's folder, where there is room for what it becomes.
    pub fn sorter<const N: usize>(&self) -> Sorter<N> {
        Sorter {
            folder: self.root.clone(),
            held_bytes_max: HELD_BYTES,
            held: Vec::new(),
            starts: Vec::new(),
            file: None,
            runs: Vec::new(),
        }
    }
}

impl<const N: usize> Sorter<N> {
    /// Takes a row of less than 4 GiB. Other errors: the disk, once there is more than memory should hold.
    pub fn push(&mut self, key: [u8; N], value: &[u8]) -> Result<()> {
        let length = u32::try_from(value.len()).map_err(|_| Error::input("a row is larger than 4 GiB"))?;
        if !self.starts.is_empty() && self.held.len() + N + 4 + value.len() > self.held_bytes_max {
            self.write_run()?;
        }
        self.starts.push(self.held.len());
        self.held.extend(key);
        self.held.extend(length.to_le_bytes());
        self.held.extend(value);
        Ok(())
    }

    /// Ends the input.
    pub fn sorted(mut self) -> Result<Sorted<N>> {
        let mut runs: Vec<Box<dyn Read>> = Vec::new();
        match self.file.is_some() {
            true => self.write_run()?,
            false => {
                let mut run = Vec::with_capacity(self.held.len());
                self.rows().for_each(|row| run.extend(row));
                runs.push(Box::new(Cursor::new(run)));
            }
        }
        if let Some(file) = &self.file {
            for run in &self.runs {
                let section = Section { file: file.clone(), at: run.start, end: run.end };
                runs.push(Box::new(BufReader::with_capacity(READ_BYTES, section)));
            }
        }
        let mut sorted = Sorted { folder: self.folder, runs, next: BinaryHeap::new() };
        (0..sorted.runs.len()).try_for_each(|run| sorted.refill(run))?;
        Ok(sorted)
    }

    /// The rows held, by key.
    fn rows(&mut self) -> impl Iterator<Item = &[u8]> {
        let Sorter { held, starts, .. } = self;
        let held: &[u8] = held;
        starts.sort_unstable_by_key(|&start| &held[start..start + N]);
        starts.iter().map(move |&start| {
            let value = start + N + 4;
            let length = u32::from_le_bytes(held[value - 4..value].try_into().expect("4 bytes"));
            &held[start..value + length as usize]
        })
    }

    fn write_run(&mut self) -> Result<()> {
        let file = match &self.file {
            Some(file) => file.clone(),
            None => self.file.insert(Arc::new(fs::nameless(&self.folder)?)).clone(),
        };
        let begin = self.runs.last().map_or(0, |run| run.end);
        let folder = self.folder.clone();
        let mut writer = std::io::BufWriter::with_capacity(1 << 20, &*file);
        let written = self.rows().try_fold(0, |sum, row| writer.write_all(row).map(|()| sum + row.len() as u64));
        let written = written.and_then(|sum| writer.flush().map(|()| sum));
        let length = written.map_err(|e| fs::error("write temporary file", &folder, e))?;
        drop(writer);
        self.runs.push(begin..begin + length);
        self.held.clear();
        self.starts.clear();
        Ok(())
    }
}

impl<const N: usize> Sorted<N> {
    fn refill(&mut self, run: usize) -> Result<()> {
        let row = read_row(&mut self.runs[run]).map_err(|e| fs::error("read temporary file", &self.folder, e))?;
        self.next.extend(row.map(|(key, value)| Reverse((key, run, value))));
        Ok(())
    }
}

impl<const N: usize> Iterator for Sorted<N> {
    type Item = Result<([u8; N], Vec<u8>)>;

    fn next(&mut self) -> Option<Self::Item> {
        let Reverse((key, run, value)) = self.next.pop()?;
        Some(self.refill(run).map(|()| (key, value)))
    }
}

/// The next row of a run; none at its end.
fn read_row<const N: usize>(run: &mut impl Read) -> std::io::Result<Option<([u8; N], Vec<u8>)>> {
    let mut key = [0; N];
    // A run ends between two rows.
    if run.read(&mut key[..1])? == 0 {
        return Ok(None);
    }
    run.read_exact(&mut key[1..])?;
    let mut length = [0; 4];
    run.read_exact(&mut length)?;
    let mut value = vec![0; u32::from_le_bytes(length) as usize];
    run.read_exact(&mut value)?;
    Ok(Some((key, value)))
}

/// A range of a file, read by position: many read it side by side.
struct Section {
    file: Arc<fs::File>,
    at: u64,
    end: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let read = fs::read_at(&self.file, &mut buffer[..most], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

        /// Whatever fits into memory, rows come back as a sort in memory has them, and no file is left.
        #[test]
        fn rows_come_back_in_order(
            values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..60),
            held_bytes_max in 1usize..600,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let store = Store::open(folder.path()).unwrap();
            let mut sorter = Sorter { held_bytes_max, ..store.sorter::<12>() };
            let mut expected = Vec::new();
            for (index, value) in values.into_iter().enumerate() {
                let mut key = [0; 12];
                key[..8].copy_from_slice(&blake3::hash(&value).as_bytes()[..8]);
                key[8..].copy_from_slice(&(index as u32).to_be_bytes());
                sorter.push(key, &value).unwrap();
                expected.push((key, value));
            }
            expected.sort();
            let sorted: Vec<_> = sorter.sorted().unwrap().map(Result::unwrap).collect();
            prop_assert_eq!(sorted, expected);
            prop_assert_eq!(fs::list(folder.path()).unwrap(), ["VERSION"]);
        }
    }
}
