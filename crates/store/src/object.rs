//! Objects: immutable files named by the blake3 of their bytes.

use super::{Store, fs};
use mindgap_base::address::Address;
use mindgap_base::error::{Error, Result};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

impl Store {
    pub fn object_path(&self, address: &Address) -> PathBuf {
        self.root.join("objects").join(&address.as_str()[..2]).join(address.as_str())
    }

    /// Stores bytes. Those that are there already stay, unless they are damaged.
    pub fn put(&self, bytes: &[u8]) -> Result<Address> {
        let address = Address::of(bytes);
        let path = self.object_path(&address);
        match fs::read_if_present(&path)?.is_some_and(|found| found == bytes) {
            true => fs::settle(&path)?,
            false => fs::publish(&path, bytes, "object")?,
        }
        self.bring(&address)?;
        Ok(address)
    }

    /// An object whose bytes come one piece after the other, for what memory should not hold.
    pub fn writer(&self) -> Result<ObjectWriter<'_>> {
        // Which folder it belongs to is known when all of it is.
        let draft = fs::Draft::beside(&self.root.join("object"))?;
        Ok(ObjectWriter { store: self, draft, hasher: blake3::Hasher::new(), held: Vec::new(), written: 0 })
    }

    /// Reads and verifies. A damaged or missing object is an error that names it.
    pub fn get(&self, address: &Address) -> Result<Vec<u8>> {
        let path = self.object_path(address);
        self.whole(address, || fs::read_if_present(&path))
    }

    /// Maps and verifies, with the errors of [`Store::get`]: weights, which would otherwise be in memory twice.
    pub fn map(&self, address: &Address) -> Result<memmap2::Mmap> {
        let path = self.object_path(address);
        self.whole(address, || if path.exists() { fs::map(&path).map(Some) } else { Ok(None) })
    }

    /// What `read` reads, if it hashes to its name; of a remote store, after it was fetched.
    fn whole<B: AsRef<[u8]>>(&self, address: &Address, read: impl Fn() -> Result<Option<B>>) -> Result<B> {
        let is_whole = |found: &Option<B>| found.as_ref().is_some_and(|found| Address::of(found.as_ref()) == *address);
        let mut found = read()?;
        if !is_whole(&found) && self.fetch(address)? {
            found = read()?;
        }
        let what = match found {
            Some(found) if Address::of(found.as_ref()) == *address => return Ok(found),
            Some(found) => format!("object is damaged: its {} bytes no longer hash to its name", found.as_ref().len()),
            None => "object is missing from the store".to_string(),
        };
        let at = self.object_path(address).display().to_string();
        Err(Error::input(what).at(at).hint(REPAIR).damaged(address.clone()))
    }

    /// Fetches an object of a remote store into the cache; false where it is not there, or the store is a folder.
    fn fetch(&self, address: &Address) -> Result<bool> {
        match &self.remote {
            Some(remote) => remote.fetch(address, &self.object_path(address)),
            None => Ok(false),
        }
    }

    /// Fetches an object that the cache lacks, for programs that open its file themselves and verify nothing.
    pub(super) fn fetch_missing(&self, address: &Address) -> Result<()> {
        if self.remote.is_some() && !self.object_path(address).exists() && !self.fetch(address)? {
            return Err(Error::input("object is missing from the store").damaged(address.clone()).hint(REPAIR));
        }
        Ok(())
    }

    /// Brings a stored object to the bucket of a remote store.
    fn bring(&self, address: &Address) -> Result<()> {
        self.remote.as_ref().map_or(Ok(()), |remote| remote.bring(address, &self.object_path(address)))
    }

    /// Where an object is for other programs: its file, or its URL.
    pub fn object_url(&self, address: &Address) -> String {
        match &self.remote {
            Some(remote) => remote.object_url(address),
            None => self.object_path(address).display().to_string(),
        }
    }

    /// Name and path of every file among the objects, temporary files left out.
    pub(super) fn object_files(&self) -> Result<Vec<(String, PathBuf)>> {
        let folder = self.root.join("objects");
        let mut files = Vec::new();
        for group in fs::folders(&folder)? {
            let names = fs::list(&folder.join(&group))?.into_iter().filter(|name| !name.starts_with('.'));
            files.extend(names.map(|name| (name.clone(), folder.join(&group).join(name))));
        }
        Ok(files)
    }

    /// True when the object is there with this many bytes and was not written to since its record was published or used:
    /// objects never change. One that was is hashed. Every object is hashed when it is read, too.
    pub(super) fn is_whole(&self, address: &Address, bytes: u64, published: SystemTime) -> bool {
        let path = self.object_path(address);
        let Ok(found) = std::fs::metadata(&path) else { return false };
        let touched = found.modified().is_ok_and(|modified| modified + CLOCK_STEP > published);
        found.len() == bytes && (!touched || fs::address(&path).is_ok_and(|hash| hash == *address))
    }

    /// Removes an object that nothing names any more.
    pub fn remove_object(&self, address: &Address) -> Result<()> {
        fs::remove(&self.object_path(address))?;
        self.remote.as_ref().map_or(Ok(()), |remote| remote.remove_object(address))
    }

    /// Removes an object whose bytes no longer match its name, so that the next run makes it again. True if it did.
    pub fn drop_if_damaged(&self, address: &Address) -> Result<bool> {
        let path = self.object_path(address);
        if path.exists() && fs::address(&path)? == *address {
            return Ok(false);
        }
        fs::remove(&path)?;
        if let Some(remote) = &self.remote
            && !remote.fetch(address, &path).unwrap_or(false)
        {
            remote.remove_object(address)?;
            remote.forget_parts_of(|record| record.objects().any(|(named, _)| named == address))?;
        }
        Ok(true)
    }
}

/// File times are taken from a clock that moves in steps; a write may bear a time this much before it happened.
const CLOCK_STEP: Duration = Duration::from_millis(20);

const REPAIR: &str = "`mindgap run` makes it again";

/// An object on its way into the store. Nothing is left of it unless [`ObjectWriter::finish`] is called.
pub struct ObjectWriter<'a> {
    store: &'a Store,
    draft: fs::Draft,
    hasher: blake3::Hasher,
    /// Bytes that are not written yet.
    held: Vec<u8>,
    written: u64,
}

/// Bytes that are gathered for one write.
const HELD_BYTES: usize = 1 << 20;

impl ObjectWriter<'_> {
    /// Adds bytes at the end.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.held.extend_from_slice(bytes);
        if self.held.len() < HELD_BYTES { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<()> {
        self.draft.append(&self.held).map_err(|e| fs::error("write object", &self.store.root, e))?;
        self.written += self.held.len() as u64;
        self.held.clear();
        Ok(())
    }

    /// Stores the object: its address, and its size in bytes. One that is there already stays, unless it is damaged.
    pub fn finish(mut self) -> Result<(Address, u64)> {
        self.flush()?;
        let address: Address = self.hasher.finalize().into();
        let path = self.store.object_path(&address);
        if path.is_file() && fs::address(&path)? == address {
            fs::settle(&path)?;
        } else {
            fs::create_dir(path.parent().expect("an object has a folder"))?;
            self.draft.publish(&path, "object")?;
        }
        self.store.bring(&address)?;
        Ok((address, self.written))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streamed(store: &Store, bytes: &[u8], piece: usize) -> Result<(Address, u64)> {
        let mut writer = store.writer()?;
        bytes.chunks(piece).try_for_each(|piece| writer.append(piece))?;
        writer.finish()
    }

    fn files(store: &Store) -> Vec<String> {
        fs::list(&store.root).unwrap().into_iter().filter(|name| name.starts_with(fs::TEMP_PREFIX)).collect()
    }

    /// Goal: an object that comes in pieces is the one that comes at once; one that is there stays unless it is damaged; one that
    /// is given up leaves nothing.
    #[test]
    fn pieces_make_the_same_object() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let bytes: Vec<u8> = (0..3 * HELD_BYTES as u32 / 2).map(|i| (i % 251) as u8).collect();
        for (length, piece) in [(0, 1), (1, 1), (1000, 7), (HELD_BYTES, HELD_BYTES), (bytes.len(), 4093)] {
            let bytes = &bytes[..length];
            let (address, size) = streamed(&store, bytes, piece).unwrap();
            assert_eq!((&address, size), (&Address::of(bytes), length as u64));
            assert_eq!(store.get(&address).unwrap(), bytes);
            assert_eq!(store.put(bytes).unwrap(), address);
            let path = store.object_path(&address);
            let written = fs::modified(&path).unwrap();
            streamed(&store, bytes, piece).unwrap();
            assert_eq!(fs::modified(&path).unwrap(), written, "an object that is there is not written again");
            std::fs::write(&path, b"damaged").unwrap();
            streamed(&store, bytes, piece).unwrap();
            assert_eq!(store.get(&address).unwrap(), bytes);
        }
        let mut given_up = store.writer().unwrap();
        given_up.append(&bytes).unwrap();
        assert_eq!(files(&store).len(), 1);
        drop(given_up);
        assert!(files(&store).is_empty());
    }

    /// Goal: a mapped object is verified as one that is read.
    #[test]
    fn mapped_objects_are_verified() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let address = store.put(b"some bytes").unwrap();
        assert_eq!(&store.map(&address).unwrap()[..], b"some bytes");
        let path = store.object_path(&address);
        std::fs::write(&path, b"some bites").unwrap();
        let (read, mapped) = (store.get(&address).unwrap_err(), store.map(&address).unwrap_err());
        assert!(mapped.what().contains("its 10 bytes no longer hash to its name"), "{mapped}");
        assert_eq!(mapped.to_string(), read.to_string());
        std::fs::remove_file(&path).unwrap();
        let (read, mapped) = (store.get(&address).unwrap_err(), store.map(&address).unwrap_err());
        assert!(mapped.what().contains("missing from the store"), "{mapped}");
        assert_eq!(mapped.to_string(), read.to_string());
    }
}
