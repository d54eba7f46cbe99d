//! Columns of more rows than memory should hold: arrays one after the other in a file without a name, read by position.

use super::{Store, fs};
use bytemuck::Pod;
use mindgap_base::error::{Error, Result};
use std::io::Write;
use std::marker::PhantomData;
use std::path::PathBuf;

/// Bytes that are held before they are written: what is small never sees a disk.
const HELD_BYTES: usize = 16 << 20;

/// Arrays, each of them pushed once and read as often as one likes.
pub struct Flat {
    folder: PathBuf,
    held_bytes_max: usize,
    file: Option<fs::File>,
    /// Bytes in the file; what is held follows them.
    written: u64,
    held: Vec<u8>,
}

/// Where an array of a [`Flat`] lies.
#[derive(Debug)]
pub struct Place<T> {
    at: u64,
    len: u32,
    of: PhantomData<T>,
}

impl<T> Clone for Place<T> {
    fn clone(&self) -> Place<T> {
        *self
    }
}

impl<T> Copy for Place<T> {}

impl Store {
    /// Holds what is pushed in memory up to 16 MiB, and the rest in the store's folder.
    pub fn flat(&self) -> Flat {
        Flat { folder: self.root.clone(), held_bytes_max: HELD_BYTES, file: None, written: 0, held: Vec::new() }
    }
}

impl Flat {
    /// Takes an array of less than 2^32 values. Other errors: the disk, once there is more than memory should hold.
    pub fn push<T: Pod>(&mut self, values: &[T]) -> Result<Place<T>> {
        let len = u32::try_from(values.len()).map_err(|_| Error::input("a row has more than 2^32 values"))?;
        let bytes: &[u8] = bytemuck::cast_slice(values);
        if !self.held.is_empty() && self.held.len() + bytes.len() > self.held_bytes_max {
            self.write()?;
        }
        let at = self.written + self.held.len() as u64;
        self.held.extend_from_slice(bytes);
        Ok(Place { at, len, of: PhantomData })
    }

    /// What was pushed there.
    pub fn get<T: Pod>(&self, place: Place<T>) -> Result<Vec<T>> {
        let mut values = vec![T::zeroed(); place.len as usize];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut values);
        match (place.at.checked_sub(self.written), &self.file) {
            (Some(at), _) => bytes.copy_from_slice(&self.held[at as usize..at as usize + bytes.len()]),
            (None, Some(file)) => read(file, bytes, place.at).map_err(|e| self.failed("read", e))?,
            (None, None) => return Err(Error::internal("a place of another file")),
        }
        Ok(values)
    }

    fn write(&mut self) -> Result<()> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => fs::nameless(&self.folder)?,
        };
        file.write_all(&self.held).map_err(|e| self.failed("write", e))?;
        self.file = Some(file);
        self.written += self.held.len() as u64;
        self.held.clear();
        Ok(())
    }

    fn failed(&self, what: &str, error: std::io::Error) -> Error {
        fs::error(&format!("{what} temporary file"), &self.folder, error)
    }
}

fn read(file: &fs::File, mut bytes: &mut [u8], mut at: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let count = fs::read_at(file, bytes, at)?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        at += count as u64;
        bytes = &mut bytes[count..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

        /// Whatever fits into memory, arrays come back as they were pushed, and no file is left.
        #[test]
        fn arrays_come_back(
            arrays in prop::collection::vec(prop::collection::vec(any::<u32>(), 0..40), 0..40),
            held_bytes_max in 0usize..2000,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let store = Store::open(folder.path().join("s")).unwrap();
            let before = fs::list(store.root()).unwrap();
            let mut flat = Flat { held_bytes_max, ..store.flat() };
            let mut places = Vec::new();
            for array in &arrays {
                let bytes: Vec<u8> = array.iter().map(|value| *value as u8).collect();
                places.push((flat.push(array).unwrap(), flat.push(&bytes).unwrap()));
                // What was pushed last is there before the end.
                prop_assert_eq!(&flat.get(places[places.len() - 1].0).unwrap(), array);
            }
            for (array, (values, bytes)) in arrays.iter().zip(places) {
                prop_assert_eq!(&flat.get(values).unwrap(), array);
                prop_assert!(flat.get(bytes).unwrap().iter().zip(array).all(|(byte, value)| *byte == *value as u8));
            }
            prop_assert_eq!(fs::list(store.root()).unwrap(), before);
        }
    }
}
