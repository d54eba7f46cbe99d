//! The Hugging Face hub: files of a model repository, kept in the cache that all of the hub's tools share
//! (`blobs/ETAG`, `snapshots/COMMIT/NAME`, `refs/REVISION`). The layout comes from `hf-hub`; the transfer is our own, because
//! 0.5 asks for compressed ranges, which the hub's servers answer with the whole file, and 1.0 cannot resume.
//!
//! A broken download goes on where it stopped, in this process or the next. A revision points at its commit only after all
//! wanted files of that commit are there.

use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use mindgap_base::error::{Error, Result};
use mindgap_store::fs;
use serde::Deserialize;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use ureq::config::RedirectAuthHeaders;
use ureq::http::{Response, StatusCode, Uri};
use ureq::{Agent, Body};

/// A model repository at a revision: a branch, a tag or a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubModel {
    /// `org/name`.
    pub id: String,
    pub revision: String,
}

impl HubModel {
    pub fn new(id: &str, revision: Option<&str>) -> Result<HubModel> {
        let plain = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        };
        let revision = revision.unwrap_or("main");
        if id.split('/').count() > 2 || !id.split('/').all(plain) {
            return Err(Error::usage(format!("`{id}` is not the id of a model on the hub"))
                .hint("an id is `org/name`; a folder is given as a path"));
        }
        if !revision.split('/').all(plain) {
            return Err(Error::usage(format!("`{revision}` is not a revision")).hint("a branch, a tag or a commit"));
        }
        Ok(HubModel { id: id.to_string(), revision: revision.to_string() })
    }

    /// `org/name`, with `@revision` where not `main` is meant.
    pub fn parse(text: &str) -> Result<HubModel> {
        let (id, revision) = text.split_once('@').map_or((text, None), |(id, revision)| (id, Some(revision)));
        HubModel::new(id, revision)
    }

    fn at(&self, revision: &str) -> Repo {
        Repo::with_revision(self.id.clone(), RepoType::Model, revision.to_string())
    }
}

impl std::fmt::Display for HubModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {}", self.id, self.revision)
    }
}

/// How far the download of a file is, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Transfer<'a> {
    pub file: &'a str,
    pub done: u64,
    pub total: u64,
}

/// Who watches a download, and may stop it.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    pub cancel: &'a AtomicBool,
    pub on_transfer: &'a dyn Fn(Transfer),
}

/// What a revision is on the hub now.
#[derive(Clone, Debug, Deserialize)]
pub struct Listing {
    #[serde(rename = "sha")]
    pub commit: String,
    siblings: Vec<Sibling>,
}

#[derive(Clone, Debug, Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Listing {
    /// Files of the repository, paths from its root.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.siblings.iter().map(|sibling| sibling.rfilename.as_str())
    }
}

/// The hub as the environment describes it.
pub struct Hub {
    cache: Cache,
    endpoint: String,
    token: Option<String>,
    /// Only the cache is asked.
    offline: bool,
    /// Follows redirects; the token goes to the endpoint's host alone.
    agent: Agent,
    /// Follows none, to see the headers of the redirecting response.
    direct: Agent,
}

/// What the hub says of a file before it is fetched.
struct FileHead {
    etag: String,
    size: u64,
}

/// Tries of a request that gets no answer, or one that says to come back later.
const TRIES: u32 = 3;
/// Connections in a row that may break without bringing a byte.
const STALLS: u32 = 5;
const SILENCE: Duration = Duration::from_secs(60);

impl Hub {
    /// Reads `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN` and `HF_HUB_OFFLINE`, as the hub's own tools do. Without
    /// `HF_TOKEN` the token that `hf auth login` stored is used.
    pub fn from_env() -> Hub {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let cache = match set("HF_HUB_CACHE") {
            Some(folder) => Cache::new(folder.into()),
            None => Cache::from_env(),
        };
        let token = set("HF_TOKEN").or_else(|| Cache::from_env().token());
        let offline =
            set("HF_HUB_OFFLINE").is_some_and(|value| !["0", "false", "no", "off"].contains(&&*value.to_lowercase()));
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_string());
        Hub::new(cache.path(), endpoint.trim_end_matches('/'), token, offline)
    }

    pub fn new(cache: &Path, endpoint: &str, token: Option<String>, offline: bool) -> Hub {
        let config = || {
            Agent::config_builder()
                .http_status_as_error(false)
                .redirect_auth_headers(RedirectAuthHeaders::SameHost)
                .user_agent(concat!("mindgap/", env!("CARGO_PKG_VERSION")))
                .timeout_connect(Some(Duration::from_secs(20)))
                .timeout_recv_response(Some(SILENCE))
                .timeout_per_read(Some(SILENCE))
        };
        Hub {
            cache: Cache::new(cache.to_path_buf()),
            endpoint: endpoint.to_string(),
            token,
            offline,
            agent: config().build().into(),
            direct: config().max_redirects(0).build().into(),
        }
    }

    fn cached(&self, model: &HubModel) -> CacheRepo {
        self.cache.repo(model.at(&model.revision))
    }

    fn folder(&self, model: &HubModel) -> PathBuf {
        self.cache.path().join(model.at(&model.revision).folder_name())
    }

    /// Where the cache keeps the files of a commit.
    pub fn commit_folder(&self, model: &HubModel, commit: &str) -> PathBuf {
        self.cached(model).pointer_path(commit)
    }

    /// Folder of the files that the cache holds of a revision, if it knows which commit that is.
    pub fn snapshot(&self, model: &HubModel) -> Result<Option<PathBuf>> {
        let reference = self.folder(model).join("refs").join(&model.revision);
        let commit = match fs::read_if_present(&reference)? {
            Some(bytes) => String::from_utf8_lossy(&bytes).trim().to_string(),
            None => model.revision.clone(), // a commit names itself
        };
        let folder = self.commit_folder(model, &commit);
        Ok(fs::is_there(&folder).then_some(folder))
    }

    /// Asks the hub which commit the revision is, and for its files.
    pub fn list(&self, model: &HubModel) -> Result<Listing> {
        if self.offline {
            return Err(Error::environment(format!("`{}` is not complete in the cache", model.id))
                .at(self.cache.path().display().to_string())
                .hint("HF_HUB_OFFLINE is set: unset it to download the model"));
        }
        let revision = model.revision.replace('/', "%2F");
        let url = format!("{}/api/models/{}/revision/{revision}", self.endpoint, model.id);
        let mut answer = self.ask(&url, || self.request(&self.agent, "GET", &url, None))?;
        self.check(model, &url, &answer)?;
        let bytes =
            answer.body_mut().with_config().limit(64 << 20).read_to_vec().map_err(|e| self.unreachable(&url, e))?;
        let listing: Listing = serde_json::from_slice(&bytes).map_err(|e| {
            let error = Error::environment("the answer is not a listing of a model's files").at(&*url).source(e);
            error.hint("does HF_ENDPOINT name a Hugging Face hub?")
        })?;
        match is_plain(&listing.commit) {
            true => Ok(listing),
            false => Err(Error::environment(format!("the hub names no commit: `{}`", listing.commit)).at(url)),
        }
    }

    /// Brings one file of a commit into the cache. Waits while another process downloads it.
    pub fn download(&self, model: &HubModel, commit: &str, name: &str, watch: &Watch) -> Result<()> {
        let pointer = self.commit_folder(model, commit).join(name);
        let folder = self.folder(model);
        if fs::is_there(&pointer) {
            return Ok(());
        }
        let url = format!("{}/{}/resolve/{commit}/{name}", self.endpoint, model.id);
        let head = self.head(model, &url)?;
        let blob = folder.join("blobs").join(&head.etag);
        let locks = self.cache.path().join(".locks").join(model.at(commit).folder_name());
        let lock = loop {
            check_cancel(watch)?;
            match fs::try_lock(&locks.join(format!("{}.lock", head.etag)))? {
                Some(lock) => break lock,
                None => std::thread::sleep(Duration::from_millis(200)),
            }
        };
        if !fs::is_there(&blob) {
            fs::create_dir(&folder.join("blobs"))?;
            let part = blob.with_file_name(format!("{}.incomplete", head.etag));
            self.transfer(model, &url, name, &head, &part, watch)?.publish(&blob)?;
        }
        // A link from the snapshot to the blob, as the hub's tools make it.
        let target = Path::new("../../blobs").join(&head.etag);
        fs::create_dir(pointer.parent().expect("a pointer lies in its commit's folder"))?;
        fs::publish_link(&pointer, &target)?;
        drop(lock);
        Ok(())
    }

    /// Makes the revision stand for this commit, once its files are there.
    pub fn point(&self, model: &HubModel, commit: &str) -> Result<()> {
        if model.revision == commit {
            return Ok(());
        }
        let reference = self.folder(model).join("refs").join(&model.revision);
        fs::publish(&reference, commit.as_bytes(), "hub_ref")
    }

    /// The rest of a file, appended to what an earlier try left.
    fn transfer(
        &self,
        model: &HubModel,
        url: &str,
        name: &str,
        head: &FileHead,
        part: &Path,
        watch: &Watch,
    ) -> Result<fs::Appender> {
        let mut file = fs::Appender::open(part)?;
        let mut done = fs::size(part)?;
        let mut stalls = 0;
        while done < head.size {
            check_cancel(watch)?;
            let answer = self.ask(url, || self.request(&self.agent, "GET", url, (done > 0).then_some(done)))?;
            self.check(model, url, &answer)?;
            if answer.status() != StatusCode::PARTIAL_CONTENT && done > 0 {
                // The whole file comes again: what is there would be doubled.
                fs::remove(part)?;
                (file, done) = (fs::Appender::open(part)?, 0);
            }
            let before = done;
            let mut body = answer.into_body().into_reader();
            let mut buffer = vec![0; 1 << 18];
            let cause = loop {
                check_cancel(watch)?;
                match body.read(&mut buffer) {
                    Ok(0) => break None,
                    Ok(count) => {
                        file.append(&buffer[..count]).map_err(|e| fs::error("write", part, e))?;
                        done += count as u64;
                        (watch.on_transfer)(Transfer { file: name, done, total: head.size });
                    }
                    Err(e) => break Some(ureq::Error::from(e)),
                }
            };
            stalls = if done > before { 0 } else { stalls + 1 };
            if stalls == STALLS {
                return Err(self.unreachable(url, cause.unwrap_or(ureq::Error::ConnectionFailed)));
            }
            std::thread::sleep(backoff(stalls));
        }
        if done > head.size {
            fs::remove(part)?;
            return Err(Error::environment(format!("the hub sent {done} bytes of a file of {}", head.size))
                .at(url)
                .hint("run the same command again: the file is downloaded anew"));
        }
        Ok(file)
    }

    /// ETag and size of a file: of the response that redirects to another host, if one does.
    fn head(&self, model: &HubModel, url: &str) -> Result<FileHead> {
        let mut url = url.to_string();
        for _ in 0..5 {
            let answer = self.ask(&url, || self.request(&self.direct, "HEAD", &url, None))?;
            let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
            let elsewhere = header("location").filter(|_| answer.status().is_redirection());
            match elsewhere {
                Some(path) if path.starts_with('/') => {
                    url = format!("{}{path}", origin(&url));
                    continue;
                }
                None => self.check(model, &url, &answer)?,
                Some(_) => {}
            }
            let etag = header("x-linked-etag").or_else(|| header("etag")).unwrap_or_default();
            let etag = etag.trim_start_matches("W/").trim_matches('"').to_string();
            // The length of a redirecting answer is its own.
            let length = header("content-length").filter(|_| elsewhere.is_none());
            let size = header("x-linked-size").or(length).and_then(|size| size.parse().ok());
            return match size {
                Some(size) if is_plain(&etag) => Ok(FileHead { etag, size }),
                _ => Err(Error::environment("the hub does not say what the file is: no ETag or no size")
                    .at(url)
                    .hint("does HF_ENDPOINT name a Hugging Face hub?")),
            };
        }
        Err(Error::environment("the hub redirects without end").at(url))
    }

    fn request(
        &self,
        agent: &Agent,
        method: &str,
        url: &str,
        from: Option<u64>,
    ) -> Result<Response<Body>, ureq::Error> {
        let mut request = if method == "HEAD" { agent.head(url) } else { agent.get(url) };
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(from) = from {
            request = request.header("range", format!("bytes={from}-"));
        }
        // A compressed file has other bytes and no ranges.
        request.header("accept-encoding", "identity").call()
    }

    /// Asks again a few times where the answer may be better later.
    fn ask(&self, url: &str, send: impl Fn() -> Result<Response<Body>, ureq::Error>) -> Result<Response<Body>> {
        let mut tries = 0;
        loop {
            tries += 1;
            match send() {
                Ok(answer) if busy(answer.status()) && tries < TRIES => {}
                Ok(answer) => return Ok(answer),
                Err(_) if tries < TRIES => {}
                Err(e) => return Err(self.unreachable(url, e)),
            }
            std::thread::sleep(backoff(tries));
        }
    }

    /// Turns a refusal into an error that says what to do.
    fn check(&self, model: &HubModel, url: &str, answer: &Response<Body>) -> Result<()> {
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let code = answer.headers().get("x-error-code").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (id, page) = (&model.id, format!("{}/{}", self.endpoint, model.id));
        let login = match self.token {
            Some(_) => "the account of HF_TOKEN must have access",
            None => "then set HF_TOKEN to an access token of your account",
        };
        let error = match (status.as_u16(), code) {
            (_, "GatedRepo") | (403, _) => {
                Error::input(format!("`{id}` is gated")).hint(format!("ask for access at {page}; {login}"))
            }
            (_, "RevisionNotFound") => Error::input(format!("`{id}` has no revision `{}`", model.revision))
                .hint(format!("see its branches and tags at {page}")),
            (404, "EntryNotFound") => Error::input(format!("`{id}` has no such file")),
            (401 | 404, _) => Error::input(format!("no model `{id}` on the hub, or it is private"))
                .hint(format!("check the id; if {page} is a private model, {login}")),
            _ => Error::environment(format!("the hub answers {status}")).hint("try again later"),
        };
        Err(error.at(url))
    }

    fn unreachable(&self, url: &str, cause: ureq::Error) -> Error {
        Error::environment("the hub cannot be reached").at(url).source(cause).hint(
            "check the network and HF_ENDPOINT, then run the same command again: it goes on where it stopped; a model that is \
             complete in the cache needs no network, nor does a folder: { path = \"..\" }",
        )
    }
}

fn check_cancel(watch: &Watch) -> Result<()> {
    match watch.cancel.load(Ordering::Relaxed) {
        true => Err(Error::interrupted("stopped during a download").hint("run the same command again to go on")),
        false => Ok(()),
    }
}

fn busy(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error()
}

/// None at first, then 0.2, 0.8, 1.8 .. seconds.
fn backoff(tries: u32) -> Duration {
    Duration::from_millis(200) * tries * tries
}

/// Scheme and host of a URL.
fn origin(url: &str) -> String {
    let uri: Uri = url.parse().unwrap_or_default();
    let (scheme, authority) = (uri.scheme_str().unwrap_or("https"), uri.authority().map_or("", |a| a.as_str()));
    format!("{scheme}://{authority}")
}

/// Fit to be the name of a file.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}
