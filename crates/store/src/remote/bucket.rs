//! What a remote store asks of an object store: whole objects by key, created or replaced under a condition.

use mindgap_base::error::{Error, Result};
use std::fmt;
use std::path::Path;
use std::time::Duration;

/// A place for objects by key, without the store's prefix. Calls wait; many threads may call at once.
pub trait Bucket: fmt::Debug + Send + Sync {
    /// An object and its version; none where there is none.
    fn get(&self, key: &str) -> Result<Option<(Vec<u8>, Version)>>;

    /// Many objects, side by side, in the order asked for.
    fn get_many(&self, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>>;

    /// An object piece by piece, for what memory should not hold. False where there is none.
    fn download(&self, key: &str, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<bool>;

    /// Writes an object, whatever was there.
    fn put(&self, key: &str, bytes: &[u8]) -> Result<()>;

    /// Writes an object from a file, in pieces where it is large.
    fn upload(&self, key: &str, file: &Path) -> Result<()>;

    /// Writes an object where there is none. `None` where there seems to be one: it may be one's own, written by a request whose
    /// answer was lost, or another writer's that did not come through. Whoever needs to know reads it.
    fn create(&self, key: &str, bytes: &[u8]) -> Result<Option<Version>>;

    /// Writes an object where it still has this version; `None` where it has not.
    fn replace(&self, key: &str, bytes: &[u8], version: &Version) -> Result<Option<Version>>;

    /// Every object whose key begins with `prefix`, which ends in `/`; sorted.
    fn list(&self, prefix: &str) -> Result<Vec<Entry>>;

    /// Names of the folders right below `prefix`, which ends in `/`; sorted.
    fn folders(&self, prefix: &str) -> Result<Vec<String>>;

    /// Removes objects; those that are gone are no error.
    fn delete(&self, keys: Vec<String>) -> Result<()>;

    /// Where a key is, for other programs.
    fn url(&self, key: &str) -> String;
}

/// What an object's content is known by: its etag, and its version where the bucket keeps those.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    pub etag: Option<String>,
    pub version: Option<String>,
}

/// An object in a listing.
#[derive(Clone, Debug)]
pub struct Entry {
    pub key: String,
    pub bytes: u64,
    /// When it was written by the clock of the object store, in milliseconds since 1970.
    pub modified: i64,
    pub version: Version,
}

impl Entry {
    /// How long ago it was written, at a moment by the object store's clock.
    pub fn age(&self, now: i64) -> Duration {
        Duration::from_millis((now - self.modified).max(0) as u64)
    }

    /// The last part of the key.
    pub fn name(&self) -> &str {
        self.key.rsplit('/').next().unwrap_or_default()
    }
}

/// Whether a store's name is a URL: `s3://bucket/prefix`, not a folder.
pub fn is_url(store: &Path) -> bool {
    store
        .to_str()
        .and_then(|text| text.split_once("://"))
        .is_some_and(|(scheme, _)| !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// Parts of `scheme://bucket/prefix`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub scheme: String,
    pub bucket: String,
    /// Without slashes at its ends; may be empty.
    pub prefix: String,
}

impl Url {
    pub fn parse(text: &str) -> Result<Url> {
        let wrong = |what: &str| {
            Error::usage(format!("`{text}` names no store: {what}"))
                .hint("write it as s3://bucket/prefix, gs://.. or az://..")
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("it is no URL"))?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(wrong("it has no bucket"));
        }
        if text.contains(['?', '#']) {
            return Err(wrong("a `?` or `#` has no meaning here; credentials belong into the environment"));
        }
        let prefix = prefix.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
        Ok(Url { scheme: scheme.to_string(), bucket: bucket.to_string(), prefix })
    }

    /// The key of an object of the store, in the bucket.
    #[cfg(any(test, feature = "remote"))]
    pub fn key(&self, key: &str) -> String {
        match self.prefix.as_str() {
            "" => key.to_string(),
            prefix => format!("{prefix}/{key}"),
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}/{}", self.scheme, self.bucket, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_told_from_folders() {
        for (text, is) in
            [("s3://b/p", true), ("gs://b", true), ("data/store", false), ("C:\\store", false), ("://x", false)]
        {
            assert_eq!(is_url(Path::new(text)), is, "{text}");
        }
        let url = Url::parse("s3://bucket//runs/a/").unwrap();
        assert_eq!((url.bucket.as_str(), url.prefix.as_str()), ("bucket", "runs/a"));
        assert_eq!((url.key("VERSION"), url.to_string()), ("runs/a/VERSION".into(), "s3://bucket/runs/a".into()));
        assert_eq!(Url::parse("s3://bucket").unwrap().key("VERSION"), "VERSION");
        for text in ["s3:///prefix", "s3://bucket/p?secret=1"] {
            assert!(Url::parse(text).unwrap_err().to_string().contains("names no store"), "{text}");
        }
    }
}
