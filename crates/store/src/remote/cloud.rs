//! S3, Google Cloud Storage and Azure by the `object_store` crate. Nothing outside this file waits for anything in another way than
//! by calling: one runtime, of the calling thread, serves all of them.

use super::bucket::{Bucket, Entry, Url, Version};
use super::profile;
use crate::fs;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use mindgap_base::error::{Error, Result};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::memory::InMemory;
use object_store::path::Path as Key;
use object_store::{
    Error as Fault, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, PutResult, UpdateVersion,
    WriteMultipart,
};
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// Objects above this many bytes travel in pieces of it.
const PIECE: u64 = 8 << 20;
/// Pieces, or small objects, under way together.
const ABREAST: usize = 16;
const PIECES_ABREAST: usize = 4;
/// Between readings of an answer that breaks off.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LAST_WAIT: Duration = Duration::from_secs(2);

/// A bucket behind `object_store`.
pub struct Cloud {
    store: Arc<dyn ObjectStore>,
    url: Url,
    runtime: Runtime,
}

impl fmt::Debug for Cloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.url)
    }
}

impl Cloud {
    /// Opens the bucket that a URL names, with the credentials of the environment. Asks nothing yet.
    pub fn open(url: &Url) -> Result<Cloud> {
        // The one of ureq. Whoever was first is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| Error::environment("cannot start the store's runtime").source(e))?;
        // Whoever is built inside of the runtime may use its clock.
        let store = runtime.block_on(async { backend(url) })?;
        Ok(Cloud { store, url: url.clone(), runtime })
    }

    fn key(&self, key: &str) -> Key {
        Key::from(self.url.key(key))
    }

    fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    async fn read(&self, key: &str) -> Result<Option<(Vec<u8>, Version)>> {
        let location = self.key(key);
        let read = || async {
            let found = self.store.get(&location).await?;
            let version = Version { etag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
            Ok((found.bytes().await?.to_vec(), version))
        };
        present(whole(read).await).map_err(|fault| self.failed("read object", key, fault))
    }

    fn entry(&self, meta: ObjectMeta) -> Entry {
        let key = meta.location.to_string();
        let inside = key.strip_prefix(&self.url.prefix).unwrap_or(&key).trim_start_matches('/').to_string();
        Entry {
            key: inside,
            bytes: meta.size,
            modified: meta.last_modified.timestamp_millis(),
            version: Version { etag: meta.e_tag, version: meta.version },
        }
    }

    fn failed(&self, action: &str, key: &str, fault: Fault) -> Error {
        let error = Error::environment(format!("cannot {action}")).at(self.url(key));
        let hint = match &fault {
            Fault::PermissionDenied { .. } | Fault::Unauthenticated { .. } => {
                "check the credentials in the environment, and that they may read, write, list and delete under the prefix"
            }
            Fault::NotFound { .. } => "make the bucket first, or name another store with --store or MINDGAP_STORE",
            _ => "check endpoint, region and credentials; what is finished is kept, so the same command goes on",
        };
        error.source(without_secrets(&fault.to_string())).hint(hint)
    }
}

impl Bucket for Cloud {
    fn get(&self, key: &str) -> Result<Option<(Vec<u8>, Version)>> {
        self.wait(self.read(key))
    }

    fn get_many(&self, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>> {
        let read = |key: String| async move { Ok(self.read(&key).await?.map(|(bytes, _)| bytes)) };
        self.wait(stream::iter(keys.to_vec()).map(read).buffered(ABREAST).try_collect())
    }

    fn download(&self, key: &str, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<bool> {
        let failed = |fault| self.failed("read object", key, fault);
        let location = self.key(key);
        let Some(meta) = present(self.wait(self.store.head(&location))).map_err(failed)? else { return Ok(false) };
        if meta.size <= PIECE {
            let Some((bytes, _)) = self.get(key)? else { return Ok(false) };
            return take(&bytes).map(|()| true);
        }
        let pieces = (0..meta.size).step_by(PIECE as usize).map(|from| from..(from + PIECE).min(meta.size));
        let (store, location) = (&self.store, &location);
        let read = |range: std::ops::Range<u64>| whole(move || store.get_range(location, range.clone()));
        self.wait(async {
            let mut pieces = stream::iter(pieces).map(read).buffered(PIECES_ABREAST);
            while let Some(piece) = pieces.next().await {
                take(&piece.map_err(failed)?)?;
            }
            Ok(true)
        })
    }

    fn put(&self, key: &str, bytes: &[u8]) -> Result<()> {
        let payload = PutPayload::from(bytes.to_vec());
        let put = self.wait(self.store.put(&self.key(key), payload));
        put.map(drop).map_err(|fault| self.failed("write object", key, fault))
    }

    fn upload(&self, key: &str, file: &Path) -> Result<()> {
        if fs::size(file)? <= PIECE {
            return self.put(key, &fs::read(file)?);
        }
        let mut from = fs::open(file)?;
        let failed = |fault| self.failed("write object", key, fault);
        self.wait(async {
            let parts = self.store.put_multipart(&self.key(key)).await.map_err(failed)?;
            let mut writer = WriteMultipart::new_with_chunk_size(parts, PIECE as usize);
            match send(&mut from, &mut writer).await {
                Ok(()) => writer.finish().await.map(drop).map_err(failed),
                Err(error) => {
                    // Parts that were sent are paid for until they are given up.
                    let _ = writer.abort().await;
                    Err(match error {
                        Broken::File(e) => fs::error("read file", file, e),
                        Broken::Bucket(fault) => failed(fault),
                    })
                }
            }
        })
    }

    fn create(&self, key: &str, bytes: &[u8]) -> Result<Option<Version>> {
        let options = PutOptions::from(PutMode::Create);
        match self.wait(self.store.put_opts(&self.key(key), bytes.to_vec().into(), options)) {
            Err(Fault::AlreadyExists { .. } | Fault::Precondition { .. }) => Ok(None),
            put => put.map(|put| Some(version(put))).map_err(|fault| self.failed("create object", key, fault)),
        }
    }

    fn replace(&self, key: &str, bytes: &[u8], old: &Version) -> Result<Option<Version>> {
        let old = UpdateVersion { e_tag: old.etag.clone(), version: old.version.clone() };
        let options = PutOptions::from(PutMode::Update(old));
        match self.wait(self.store.put_opts(&self.key(key), bytes.to_vec().into(), options)) {
            // Gone is changed, too; some answer 409 while another writer is at it.
            Err(Fault::Precondition { .. } | Fault::NotFound { .. } | Fault::AlreadyExists { .. }) => Ok(None),
            put => put.map(|put| Some(version(put))).map_err(|fault| self.failed("replace object", key, fault)),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        let listed: Result<Vec<ObjectMeta>, Fault> = self.wait(self.store.list(Some(&self.key(prefix))).try_collect());
        let listed = listed.map_err(|fault| self.failed("list objects", prefix, fault))?;
        let mut entries: Vec<Entry> = listed.into_iter().map(|meta| self.entry(meta)).collect();
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(entries)
    }

    fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        let listed = self.wait(self.store.list_with_delimiter(Some(&self.key(prefix))));
        let listed = listed.map_err(|fault| self.failed("list objects", prefix, fault))?;
        let mut names: Vec<String> =
            listed.common_prefixes.iter().filter_map(|key| key.filename().map(str::to_string)).collect();
        names.sort();
        Ok(names)
    }

    fn delete(&self, keys: Vec<String>) -> Result<()> {
        let first = keys.first().cloned().unwrap_or_default();
        let locations: Vec<Result<Key, Fault>> = keys.iter().map(|key| Ok(self.key(key))).collect();
        let removed = self.store.delete_stream(stream::iter(locations).boxed());
        let gone = |removed: Result<Key, Fault>| async {
            match removed {
                Ok(_) | Err(Fault::NotFound { .. }) => Ok(()),
                Err(fault) => Err(fault),
            }
        };
        let removed: Result<(), Fault> = self.wait(removed.then(gone).try_collect());
        removed.map_err(|fault| self.failed("remove objects", &first, fault))
    }

    fn url(&self, key: &str) -> String {
        format!("{}://{}/{}", self.url.scheme, self.url.bucket, self.url.key(key))
    }
}

/// The client of a URL's scheme.
fn backend(url: &Url) -> Result<Arc<dyn ObjectStore>> {
    let text = url.to_string();
    let failed = |fault: Fault| {
        Error::environment("cannot open the store").source(without_secrets(&fault.to_string())).at(&text).hint(
            "credentials, region and endpoint come from the environment: AWS_*, GOOGLE_*, AZURE_* (docs/scale.md)",
        )
    };
    Ok(match url.scheme.as_str() {
        "s3" | "s3a" => {
            let mut builder = profile::apply(AmazonS3Builder::from_env())?.with_url(&text);
            let endpoint = builder.get_config_value(&AmazonS3ConfigKey::Endpoint);
            if endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")) {
                builder = builder.with_allow_http(true);
            }
            Arc::new(builder.build().map_err(failed)?)
        }
        "gs" => Arc::new(GoogleCloudStorageBuilder::from_env().with_url(&text).build().map_err(failed)?),
        "az" | "abfs" | "abfss" | "azure" => {
            Arc::new(MicrosoftAzureBuilder::from_env().with_url(&text).build().map_err(failed)?)
        }
        "memory" => memory(&url.bucket),
        scheme => {
            return Err(Error::usage(format!("no store is known by `{scheme}://`"))
                .at(text)
                .hint("s3://, gs:// and az:// are; a folder is named by its path"));
        }
    })
}

/// Objects in this process's memory, by the name of their bucket: for tests.
fn memory(bucket: &str) -> Arc<dyn ObjectStore> {
    static BUCKETS: Mutex<BTreeMap<String, Arc<InMemory>>> = Mutex::new(BTreeMap::new());
    let mut buckets = BUCKETS.lock().unwrap_or_else(PoisonError::into_inner);
    buckets.entry(bucket.to_string()).or_default().clone()
}

/// What an upload broke off at.
enum Broken {
    File(std::io::Error),
    Bucket(Fault),
}

async fn send(from: &mut impl Read, writer: &mut WriteMultipart) -> Result<(), Broken> {
    let mut piece = vec![0; PIECE as usize];
    loop {
        writer.wait_for_capacity(PIECES_ABREAST).await.map_err(Broken::Bucket)?;
        match from.read(&mut piece).map_err(Broken::File)? {
            0 => return Ok(()),
            read => writer.write(&piece[..read]),
        }
    }
}

/// Reads again what broke off: requests are repeated by the client, answers whose body ends early are not.
async fn whole<T, F: Future<Output = Result<T, Fault>>>(read: impl Fn() -> F) -> Result<T, Fault> {
    let mut wait = FIRST_WAIT;
    loop {
        match read().await {
            Err(Fault::Generic { .. }) if wait <= LAST_WAIT => tokio::time::sleep(wait).await,
            read => return read,
        }
        wait *= 2;
    }
}

fn version(put: PutResult) -> Version {
    Version { etag: put.e_tag, version: put.version }
}

fn present<T>(read: Result<T, Fault>) -> Result<Option<T>, Fault> {
    match read {
        Err(Fault::NotFound { .. }) => Ok(None),
        read => read.map(Some),
    }
}

/// A message without the queries of the URLs in it: some services sign there.
fn without_secrets(message: &str) -> String {
    let mut kept = String::new();
    let mut rest = message;
    while let Some(query) = rest.find('?').filter(|_| rest.contains("://")) {
        let end = rest[query..]
            .find(|c: char| c.is_whitespace() || matches!(c, ')' | '"' | '\''))
            .unwrap_or(rest.len() - query);
        kept += &rest[..query];
        kept += "?..";
        rest = &rest[query + end..];
    }
    kept + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_of_urls_are_not_told() {
        let told = without_secrets("error (https://a.blob.core.windows.net/c/k?sv=1&sig=SECRET) after 3 retries");
        assert_eq!(told, "error (https://a.blob.core.windows.net/c/k?..) after 3 retries");
        assert_eq!(without_secrets("what? nothing"), "what? nothing");
    }
}
