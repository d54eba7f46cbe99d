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
        if fs::read_if_present(&path)?.is_some_and(|found| found == bytes) {
            fs::settle(&path)?;
            return Ok(address);
        }
        fs::publish(&path, bytes, "object")?;
        Ok(address)
    }

    /// Reads and verifies. A damaged or missing object is an error that names it.
    pub fn get(&self, address: &Address) -> Result<Vec<u8>> {
        let found = fs::read_if_present(&self.object_path(address))?;
        self.verified(address, found)
    }

    /// Maps and verifies, with the errors of [`Store::get`]: weights, which would otherwise be in memory twice.
    pub fn map(&self, address: &Address) -> Result<memmap2::Mmap> {
        let path = self.object_path(address);
        let found = if path.exists() { Some(fs::map(&path)?) } else { None };
        self.verified(address, found)
    }

    fn verified<B: AsRef<[u8]>>(&self, address: &Address, found: Option<B>) -> Result<B> {
        let what = match found {
            Some(found) if Address::of(found.as_ref()) == *address => return Ok(found),
            Some(found) => format!("object is damaged: its {} bytes no longer hash to its name", found.as_ref().len()),
            None => "object is missing from the store".to_string(),
        };
        let at = self.object_path(address).display().to_string();
        Err(Error::input(what).at(at).hint(REPAIR).damaged(address.clone()))
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
        fs::remove(&self.object_path(address))
    }

    /// Removes an object whose bytes no longer match its name, so that the next run makes it again. True if it did.
    pub fn drop_if_damaged(&self, address: &Address) -> Result<bool> {
        let path = self.object_path(address);
        if path.exists() && fs::address(&path)? == *address {
            return Ok(false);
        }
        fs::remove(&path).map(|()| true)
    }
}

/// File times are taken from a clock that moves in steps; a write may bear a time this much before it happened.
const CLOCK_STEP: Duration = Duration::from_millis(20);

const REPAIR: &str = "`mindgap run` makes it again";
