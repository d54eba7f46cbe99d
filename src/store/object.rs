//! Objects: immutable files named by the blake3 of their bytes.

use super::{Store, fs};
use crate::base::address::Address;
use crate::base::error::{Error, Result};
use std::path::PathBuf;

impl Store {
    pub fn object_path(&self, address: &Address) -> PathBuf {
        self.root.join("objects").join(&address.as_str()[..2]).join(address.as_str())
    }

    /// Stores bytes; storing them again is a no-op.
    pub fn put(&self, bytes: &[u8]) -> Result<Address> {
        let address = Address::of(bytes);
        let path = self.object_path(&address);
        if std::fs::metadata(&path).is_ok_and(|m| m.len() == bytes.len() as u64) {
            return Ok(address);
        }
        fs::publish(&path, bytes, "object")?;
        Ok(address)
    }

    /// Reads and verifies. A damaged or missing object is an error that names it.
    pub fn get(&self, address: &Address) -> Result<Vec<u8>> {
        let path = self.object_path(address);
        let bytes = fs::read_if_present(&path)?.ok_or_else(|| {
            Error::input("object is missing from the store").at(path.display().to_string()).hint(REPAIR)
        })?;
        if Address::of(&bytes) != *address {
            let what = format!("object is damaged: its {} bytes no longer hash to its name", bytes.len());
            return Err(Error::input(what).at(path.display().to_string()).hint(REPAIR));
        }
        Ok(bytes)
    }

    /// True when the object is there with this many bytes. Its hash is checked when it is read.
    pub fn has(&self, address: &Address, bytes: u64) -> bool {
        std::fs::metadata(self.object_path(address)).is_ok_and(|m| m.len() == bytes)
    }

    /// Removes an object that nothing names any more.
    pub fn remove_object(&self, address: &Address) -> Result<()> {
        let path = self.object_path(address);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(fs::error("remove", &path, e)),
            _ => Ok(()),
        }
    }

    /// Removes an object whose bytes no longer match its name, so that the next run makes it again. True if it did.
    pub fn drop_if_damaged(&self, address: &Address) -> Result<bool> {
        let path = self.object_path(address);
        match fs::read_if_present(&path)? {
            Some(bytes) if Address::of(&bytes) == *address => Ok(false),
            Some(_) => std::fs::remove_file(&path).map(|()| true).map_err(|e| fs::error("remove damaged", &path, e)),
            None => Ok(true),
        }
    }
}

const REPAIR: &str = "`mindgap run` makes it again";
