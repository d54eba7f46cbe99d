//! Policies of the hub, against a small server that answers as the real one does: the listing, `resolve` with a relative
//! redirect for small files and one to another host for large ones, ETags, commits, ranges. No network is needed.

use crate::support::{SMALL, by_stage, json, mindgap, pipeline, root};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Arc, Mutex};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const WEIGHTS: &str = "model.safetensors";

/// How the server misbehaves.
#[derive(Clone, Copy, Default)]
struct Manner {
    /// The first answer with weights ends after so many bytes.
    break_after: Option<usize>,
    /// And later ones do not come at all.
    then_silent: bool,
    /// Ranges get the whole file.
    ignores_ranges: bool,
    gated: bool,
    /// The listing fails so often with 503 first.
    busy: usize,
}

#[derive(Clone, Debug)]
struct Request {
    method: String,
    path: String,
    range: Option<String>,
    authorization: Option<String>,
}

struct Server {
    port: u16,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    fn start(manner: Manner) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let requests = seen.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // One at a time; every answer ends its connection.
                let _ = serve(stream, port, manner, &requests);
            }
        });
        Server { port, seen }
    }

    fn requests(&self, method: &str, part: &str) -> Vec<Request> {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|r| r.method == method && r.path.contains(part)).cloned().collect()
    }
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let first = lines.next()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_string(), words.next()?.to_string());
    let mut request = Request { method, path, range: None, authorization: None };
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ")?;
        match name.to_ascii_lowercase().as_str() {
            "range" => request.range = Some(value.to_string()),
            "authorization" => request.authorization = Some(value.to_string()),
            "accept-encoding" => assert_eq!(value, "identity", "compressed answers have no ranges"),
            _ => {}
        }
    }
    Some(request)
}

fn serve(mut stream: TcpStream, port: u16, manner: Manner, seen: &Mutex<Vec<Request>>) -> std::io::Result<()> {
    let Some(request) = read_request(&stream) else { return Ok(()) };
    let earlier = seen.lock().unwrap().iter().filter(|r| r.method == request.method && r.path == request.path).count();
    seen.lock().unwrap().push(request.clone());
    let mut plain = |status: &str, headers: &str, body: &str| {
        write!(
            stream,
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n{body}",
            body.len()
        )
    };
    let path = request.path.as_str();
    if let Some(rest) = path.strip_prefix("/api/models/") {
        return match rest {
            _ if earlier < manner.busy => plain("503 Service Unavailable", "", ""),
            "org/tiny/revision/main" | "org/tiny/revision/v1" => {
                let names = [
                    "README.md",
                    "config.json",
                    "generation_config.json",
                    "tokenizer.json",
                    "tokenizer_config.json",
                    WEIGHTS,
                ];
                let siblings: Vec<_> = names.iter().map(|name| serde_json::json!({"rfilename": name})).collect();
                plain("200 OK", "", &serde_json::json!({"sha": COMMIT, "siblings": siblings}).to_string())
            }
            _ if rest.starts_with("org/tiny/") => plain("404 Not Found", "x-error-code: RevisionNotFound\r\n", ""),
            _ => plain("401 Unauthorized", "x-error-code: RepoNotFound\r\n", ""),
        };
    }
    if manner.gated {
        return plain("403 Forbidden", "x-error-code: GatedRepo\r\n", "");
    }
    let file = path.rsplit('/').next().unwrap();
    let bytes = std::fs::read(root().join("data/base-policy").join(file))?;
    let known = format!("x-repo-commit: {COMMIT}\r\n");
    if path.starts_with("/org/tiny/resolve/") && file == WEIGHTS {
        let headers = format!(
            "{known}x-linked-etag: \"weights-etag\"\r\nx-linked-size: {}\r\nlocation: http://localhost:{port}/cdn/{file}\r\n",
            bytes.len()
        );
        return plain("302 Found", &headers, "");
    }
    if path.starts_with("/org/tiny/resolve/") {
        return plain("307 Temporary Redirect", &format!("{known}location: /api-cache/{file}\r\n"), "");
    }
    let etag = file.replace(['.', '_'], "-");
    let from = request.range.as_ref().filter(|_| !manner.ignores_ranges);
    let from: usize = from.map_or(0, |r| r.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap());
    let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
    let whole = bytes.len();
    let mut body = &bytes[from..];
    let length = body.len();
    if file == WEIGHTS && request.method == "GET" {
        match (earlier, manner) {
            (0, Manner { break_after: Some(count), .. }) => body = &body[..count],
            (1.., Manner { then_silent: true, .. }) => return Ok(()),
            _ => {}
        }
    }
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\netag: W/\"{etag}\"\r\n{known}\
         content-range: bytes {from}-{}/{whole}\r\nconnection: close\r\n\r\n",
        whole - 1
    )?;
    match request.method.as_str() {
        "HEAD" => Ok(()),
        _ => stream.write_all(body),
    }
}

/// The command, with a cache of its own and this server as the hub.
fn hub(folder: &Path, port: u16, args: &[&str]) -> std::process::Command {
    let mut command = mindgap(&folder.join("store"), args);
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command.env("HF_HOME", folder.join("hf")).env("HF_ENDPOINT", format!("http://127.0.0.1:{port}/"));
    command
}

fn model(folder: &Path) -> PathBuf {
    folder.join("hf/hub/models--org--tiny")
}

#[track_caller]
fn done(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn refused(mut command: std::process::Command, code: i32, says: &[&str]) {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    for word in says {
        assert!(stderr.contains(word), "`{word}` is not in:\n{stderr}");
    }
}

const ASK: &[&str] = &["--prompt", "2 + 3 = ?", "-n", "2", "--max-new-tokens", "20", "--seed", "1"];

fn generate(policy: &str) -> Vec<&str> {
    [&["generate", "--policy", policy], ASK].concat()
}

/// A port nobody listens on.
fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Goal: a model of the hub gives what its folder gives; the cache has the layout of the hub's own tools; the token reaches
/// the hub and no other host; afterwards no network is needed.
#[test]
fn fetched_once_then_offline() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(Manner { busy: 1, ..Manner::default() });
    let expected = done(hub(folder.path(), 1, &generate("data/base-policy")).output().unwrap());
    let args = generate("hub:org/tiny");
    let mut first = hub(folder.path(), server.port, &args);
    let output = first.env("HF_TOKEN", "secret").output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains("download of model.safetensors"), "{stderr}");
    assert_eq!(done(output), expected);

    let model = model(folder.path());
    assert_eq!(std::fs::read_to_string(model.join("refs/main")).unwrap(), COMMIT);
    let link = std::fs::read_link(model.join("snapshots").join(COMMIT).join(WEIGHTS)).unwrap();
    assert_eq!(link, Path::new("../../blobs/weights-etag"));
    assert!(!model.join("snapshots").join(COMMIT).join("README.md").exists(), "only what a policy needs");
    let token = Some("Bearer secret".to_string());
    let to_hub = [server.requests("GET", "/api/"), server.requests("HEAD", ""), server.requests("GET", "/api-cache/")];
    assert!(to_hub.concat().iter().all(|r| r.authorization == token));
    assert_eq!(server.requests("GET", "/cdn/")[0].authorization, None);

    let count = server.seen.lock().unwrap().len();
    assert_eq!(done(hub(folder.path(), server.port, &args).output().unwrap()), expected);
    assert_eq!(server.seen.lock().unwrap().len(), count, "a complete model is not asked for again");
    assert_eq!(done(hub(folder.path(), closed_port(), &args).output().unwrap()), expected);
    done(
        hub(folder.path(), closed_port(), &generate("hub:org/tiny@main")).env("HF_HUB_OFFLINE", "1").output().unwrap(),
    );
}

/// Goal: a connection that breaks goes on where it stopped, in the same process.
#[test]
fn a_broken_connection_resumes() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(Manner { break_after: Some(100_000), ..Manner::default() });
    done(hub(folder.path(), server.port, &generate("hub:org/tiny@v1")).output().unwrap());
    let ranges: Vec<_> = server.requests("GET", "/cdn/").into_iter().map(|r| r.range).collect();
    assert_eq!(ranges, [None, Some("bytes=100000-".to_string())]);
    let original = std::fs::read(root().join("data/base-policy").join(WEIGHTS)).unwrap();
    assert!(std::fs::read(model(folder.path()).join("blobs/weights-etag")).unwrap() == original);
}

/// Goal: what an ended process left is taken up by the next, also when the server sends all of it again. Nothing reads as
/// complete in between.
#[test]
fn a_broken_download_resumes_in_the_next_process() {
    let original = std::fs::read(root().join("data/base-policy").join(WEIGHTS)).unwrap();
    for ignores_ranges in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let args = generate("hub:org/tiny");
        let broken = Server::start(Manner { break_after: Some(70_000), then_silent: true, ..Manner::default() });
        refused(hub(folder.path(), broken.port, &args), 4, &["hub cannot be reached", "goes on where it stopped"]);
        let blobs = model(folder.path()).join("blobs");
        assert_eq!(std::fs::metadata(blobs.join("weights-etag.incomplete")).unwrap().len(), 70_000);
        assert!(!model(folder.path()).join("refs/main").exists());

        let server = Server::start(Manner { ignores_ranges, ..Manner::default() });
        done(hub(folder.path(), server.port, &args).output().unwrap());
        assert_eq!(server.requests("GET", "/cdn/")[0].range.as_deref(), Some("bytes=70000-"));
        assert!(server.requests("GET", "tokenizer.json").is_empty(), "finished files are not fetched again");
        assert!(std::fs::read(blobs.join("weights-etag")).unwrap() == original);
    }
}

#[test]
fn refusals_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let ask = |port: u16, policy: &str| hub(folder.path(), port, &generate(policy));
    let server = Server::start(Manner::default());
    refused(ask(server.port, "hub:org/none"), 3, &["no model `org/none` on the hub", "set HF_TOKEN"]);
    refused(ask(server.port, "hub:org/tiny@v9"), 3, &["`org/tiny` has no revision `v9`"]);
    refused(ask(server.port, "hub:../tiny"), 2, &["not the id of a model", "`org/name`"]);
    let gated = Server::start(Manner { gated: true, ..Manner::default() });
    refused(ask(gated.port, "hub:org/tiny"), 3, &["`org/tiny` is gated", "ask for access", "set HF_TOKEN"]);
    refused(ask(closed_port(), "hub:org/tiny"), 4, &["hub cannot be reached", "HF_ENDPOINT"]);
    let mut offline = ask(server.port, "hub:org/tiny");
    offline.env("HF_HUB_OFFLINE", "1");
    refused(offline, 4, &["not complete in the cache", "HF_HUB_OFFLINE is set"]);
}

/// Goal: recipes depend on the files' bytes, not on where they came from: a pipeline over the hub names and finds what one
/// over a folder made.
#[test]
fn recipes_do_not_know_the_hub() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(Manner::default());
    let text = SMALL.replace("path = \"DATA/base-policy\"", "hub = \"org/tiny\", revision = \"v1\"");
    let from_hub = pipeline(folder.path(), "hub.toml", &text);
    let from_folder = pipeline(folder.path(), "folder.toml", SMALL);
    let run = |file: &Path| {
        let args = ["run", file.to_str().unwrap(), "rollouts", "--json"];
        json(&done(hub(folder.path(), server.port, &args).output().unwrap()))
    };
    let (first, second) = (run(&from_folder), run(&from_hub));
    assert_eq!(by_stage(&first, "fingerprint"), by_stage(&second, "fingerprint"));
    assert!(by_stage(&second, "computed_parts").iter().all(|(_, parts)| parts == 0));

    let unused = SMALL.replace("[policies]", "[policies]\nother = { hub = \"org/none\" }");
    run(&pipeline(folder.path(), "unused.toml", &unused));
    assert!(server.requests("GET", "org/none").is_empty(), "a policy that no stage uses is not fetched");

    let mixed = text.replace("revision = \"v1\"", "path = \"here\"");
    let file = pipeline(folder.path(), "mixed.toml", &mixed);
    refused(hub(folder.path(), server.port, &["plan", file.to_str().unwrap()]), 2, &["exactly one of", "mixed.toml:4"]);
}

/// Goal: a policy on servers may take its tokenizer from the hub. No weights are fetched, and the recipe is that of the folder.
#[test]
fn tokenizers_of_served_policies_come_without_weights() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(Manner::default());
    let plan = |tokenizer: &str| {
        let spec = format!("server = \"http://127.0.0.1:1/v1\", model = \"tiny\", tokenizer = \"{tokenizer}\"");
        let text = SMALL.split("[stages.train]").next().unwrap().replace("path = \"DATA/base-policy\"", &spec);
        let file = pipeline(folder.path(), "served.toml", &text);
        done(hub(folder.path(), closed_port(), &["run", file.to_str().unwrap(), "problems"]).output().unwrap());
        let args = ["plan", file.to_str().unwrap(), "rollouts", "--json"];
        json(&done(hub(folder.path(), server.port, &args).output().unwrap()))
    };
    let (from_folder, from_hub) = (plan("DATA/base-policy"), plan("hub:org/tiny@v1"));
    assert_eq!(by_stage(&from_folder, "fingerprint"), by_stage(&from_hub, "fingerprint"));
    assert!(!server.requests("GET", "tokenizer.json").is_empty());
    assert!(server.requests("HEAD", WEIGHTS).is_empty() && server.requests("GET", WEIGHTS).is_empty());
}
