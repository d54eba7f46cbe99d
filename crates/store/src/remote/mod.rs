//! Stores on object storage: the same keys as in a folder, in a bucket. The folder beside it is a cache of objects.
//!
//! Commits are the truth: objects are named by their bytes, a part's record is created once, and whoever comes second takes over what
//! is there. Leases only save work. Nothing is decided by the clock of a client. docs/design/store.md says it in full.

mod bucket;
#[cfg(feature = "remote")]
mod cloud;
mod family;
mod gate;
mod journal;
mod lease;
mod pointers;
#[cfg(feature = "remote")]
mod profile;
mod sweep;
mod verify;

pub use bucket::is_url;
pub(crate) use family::Families;
pub(crate) use journal::RemoteJournal;
pub use lease::Worker;
pub(crate) use lease::{LeaseTime, PartLease};

use crate::fs;
use bucket::{Bucket, Url};
use lease::Leases;
use mindgap_base::address::Address;
use mindgap_base::error::{Error, Result};
use pointers::Pointers;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A store's bucket, and what this process knows of what is in it.
#[derive(Debug)]
pub struct Remote {
    pub(crate) bucket: Arc<dyn Bucket>,
    /// Who this process is, in leases.
    nonce: String,
    families: Mutex<Families>,
    leases: Mutex<Leases>,
    pointers: Mutex<Pointers>,
    /// Objects known to be there.
    there: Mutex<BTreeSet<Address>>,
    lease_time: LeaseTime,
}

/// What the bucket's `VERSION` says.
const VERSION: &[u8] = b"mindgap remote store 1\n";

impl Remote {
    #[cfg(feature = "remote")]
    pub(crate) fn new(bucket: Arc<dyn Bucket>, lease_time: LeaseTime) -> Remote {
        Remote {
            bucket,
            nonce: fs::nonce(),
            families: Mutex::default(),
            leases: Mutex::default(),
            pointers: Mutex::default(),
            there: Mutex::default(),
            lease_time,
        }
    }

    /// The bucket that a URL names.
    #[cfg(feature = "remote")]
    pub(crate) fn open(url: &str) -> Result<Arc<Remote>> {
        let bucket = Arc::new(cloud::Cloud::open(&Url::parse(url)?)?);
        Ok(Arc::new(Remote::new(bucket, LeaseTime::from_env()?)))
    }

    #[cfg(not(feature = "remote"))]
    pub(crate) fn open(url: &str) -> Result<Arc<Remote>> {
        Err(Error::usage("this build keeps stores in folders only")
            .at(url)
            .hint("build it with `--features remote`, or name a folder with --store or MINDGAP_STORE"))
    }

    /// Whether there is a store. Error for another layout.
    pub(crate) fn is_there(&self) -> Result<bool> {
        match self.bucket.get("VERSION")? {
            None => Ok(false),
            Some((found, _)) if found == VERSION => Ok(true),
            Some((found, _)) => {
                let found: String = String::from_utf8_lossy(&found).trim().chars().take(40).collect();
                Err(Error::input(format!("the store has layout `{}`, this build reads another", found.escape_debug()))
                    .at(self.bucket.url("VERSION"))
                    .hint("choose another store with --store or MINDGAP_STORE"))
            }
        }
    }

    /// Makes a store where there is none, if the bucket can hold one.
    pub(crate) fn settle(&self) -> Result<()> {
        if self.is_there()? {
            return Ok(());
        }
        if !self.keeps_conditions()? {
            return Err(Error::environment(
                "the bucket does not write objects under a condition, which workers need to agree",
            )
            .at(self.bucket.url(""))
            .hint("`If-None-Match: *` and `If-Match` must be honoured on PUT: S3, MinIO, R2, GCS and Azure do"));
        }
        self.bucket.create("VERSION", VERSION)?;
        Ok(())
    }

    /// Whether of two that create an object one is told that it is there, and of two that replace the same version, too. Tried again
    /// where an answer was lost: then the first of the two may be told so.
    fn keeps_conditions(&self) -> Result<bool> {
        let mut tried = Ok(false);
        for number in 0..PROBES {
            let key = format!("probe/{}-{number}", self.nonce);
            let conclusion = self.probe(&key);
            self.bucket.delete(vec![key])?;
            match conclusion {
                Ok(Some(keeps)) => return Ok(keeps),
                Ok(None) => {}
                Err(error) => tried = Err(error),
            }
        }
        tried
    }

    fn probe(&self, key: &str) -> Result<Option<bool>> {
        let first = self.bucket.create(key, b"first")?;
        if self.bucket.create(key, b"second")?.is_some() {
            return Ok(Some(false));
        }
        let Some(first) = first else { return Ok(None) };
        let replaced = self.bucket.replace(key, b"third", &first)?;
        if self.bucket.replace(key, b"fourth", &first)?.is_some() {
            return Ok(Some(false));
        }
        Ok(replaced.map(|_| true))
    }

    /// Brings an object to the bucket, unless this process did or saw it there.
    pub(crate) fn bring(&self, address: &Address, path: &Path) -> Result<()> {
        if lock(&self.there).contains(address) {
            return Ok(());
        }
        self.bucket.upload(&object_key(address), path)?;
        lock(&self.there).insert(address.clone());
        Ok(())
    }

    /// Fetches an object into the cache at `path`, verified; false where it is not in the bucket. What does not hash to its name is
    /// fetched again some times: an answer may be cut short on its way.
    pub(crate) fn fetch(&self, address: &Address, path: &Path) -> Result<bool> {
        for _ in 0..FETCHES {
            let mut draft = fs::Draft::beside(path)?;
            let mut hasher = blake3::Hasher::new();
            let is_there = self.bucket.download(&object_key(address), &mut |piece| {
                hasher.update(piece);
                draft.append(piece).map_err(|e| fs::error("write", path, e))
            })?;
            if !is_there {
                return Ok(false);
            }
            if Address::from(hasher.finalize()) == *address {
                draft.publish(path, "object")?;
                lock(&self.there).insert(address.clone());
                return Ok(true);
            }
        }
        Err(Error::input("object is damaged in the bucket: its bytes do not hash to its name")
            .at(self.object_url(address))
            .hint("`mindgap run` makes it again")
            .damaged(address.clone()))
    }

    /// Removes an object from the bucket.
    pub(crate) fn remove_object(&self, address: &Address) -> Result<()> {
        lock(&self.there).remove(address);
        self.bucket.delete(vec![object_key(address)])
    }

    pub(crate) fn object_url(&self, address: &Address) -> String {
        self.bucket.url(&object_key(address))
    }
}

/// How often it is tried to find out whether a bucket keeps conditions.
const PROBES: usize = 5;

/// How often an object is fetched that arrives damaged.
const FETCHES: usize = 3;

pub(crate) fn object_key(address: &Address) -> String {
    format!("objects/{}/{address}", &address.as_str()[..2])
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The cache folder of a remote store: in `MINDGAP_CACHE`, else in the user's cache folder.
pub(crate) fn cache_folder(url: &str) -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = variable("MINDGAP_CACHE").or_else(|| {
        let users = variable("XDG_CACHE_HOME")
            .or_else(|| Some(variable("HOME").or_else(|| variable("USERPROFILE"))?.join(".cache")));
        users.map(|users| users.join("mindgap"))
    });
    let folder = folder.ok_or_else(|| {
        Error::environment("there is no folder to keep a remote store's cache in").hint("set MINDGAP_CACHE to one")
    })?;
    let url = Url::parse(url)?;
    let name = format!("{}-{}-{}", url.scheme, url.bucket, Address::of(url.to_string().as_bytes()).short());
    Ok(folder.join(name))
}

#[cfg(all(test, feature = "remote"))]
mod tests;
