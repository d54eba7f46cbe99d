//! An object store as S3 is, over HTTP: whole objects by key, conditional writes, listings in pages, uploads in parts. It counts
//! what it is asked and can be told to misbehave. Signatures are not looked at.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a request gets in place of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This status and nothing done.
    Status(u16),
    /// It is done, and the connection ends without an answer.
    LostAnswer,
    /// The body of the answer ends half way.
    CutShort,
}

/// A request as far as faults depend on it.
#[derive(Clone, Debug)]
pub struct Asked {
    /// `PUT`, `GET`, `LIST`, `DELETE`, `HEAD` or `POST`.
    pub kind: &'static str,
    pub key: String,
    /// How many came before.
    pub number: u64,
}

pub type Misbehave = dyn Fn(&Asked) -> Option<Fault> + Send + Sync;

#[derive(Clone)]
struct Object {
    bytes: Vec<u8>,
    etag: String,
    modified: SystemTime,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<String, BTreeMap<u32, Vec<u8>>>,
    counts: BTreeMap<&'static str, u64>,
    bytes: u64,
    number: u64,
}

struct Shared {
    state: Mutex<State>,
    misbehave: Box<Misbehave>,
    /// Added to its clock.
    ahead: Duration,
}

pub struct S3 {
    port: u16,
    shared: Arc<Shared>,
}

/// Keys in a page of a listing.
const PAGE: usize = 100;

impl S3 {
    pub fn start() -> S3 {
        S3::with(Duration::ZERO, |_| None)
    }

    /// One whose clock is ahead, and that misbehaves.
    pub fn with(ahead: Duration, misbehave: impl Fn(&Asked) -> Option<Fault> + Send + Sync + 'static) -> S3 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared { state: Mutex::default(), misbehave: Box::new(misbehave), ahead });
        let serving = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = serving.clone();
                std::thread::spawn(move || shared.serve(stream));
            }
        });
        S3 { port, shared }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Requests by kind so far.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.shared.lock().counts.clone()
    }

    /// Bytes written and read so far.
    pub fn bytes(&self) -> u64 {
        self.shared.lock().bytes
    }

    pub fn keys(&self) -> Vec<String> {
        self.shared.lock().objects.keys().cloned().collect()
    }

    pub fn read(&self, key: &str) -> Option<Vec<u8>> {
        self.shared.lock().objects.get(key).map(|object| object.bytes.clone())
    }

    /// Puts an object there, as another client would.
    pub fn write(&self, key: &str, bytes: &[u8]) {
        self.shared.store(key, bytes.to_vec());
    }
}

struct Request {
    method: String,
    key: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn new(status: u16) -> Answer {
        Answer { status, headers: Vec::new(), body: Vec::new() }
    }

    fn error(status: u16, code: &str) -> Answer {
        let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{code}</Message></Error>");
        Answer { body: body.into_bytes(), ..Answer::new(status) }
    }

    fn xml(body: String) -> Answer {
        Answer { body: body.into_bytes(), ..Answer::new(200) }
    }

    fn with(mut self, name: &'static str, value: String) -> Answer {
        self.headers.push((name, value));
        self
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn now(&self) -> SystemTime {
        SystemTime::now() + self.ahead
    }

    fn store(&self, key: &str, bytes: Vec<u8>) -> String {
        let etag = format!("\"{}\"", &blake3::hash(&bytes).to_hex()[..32]);
        let object = Object { bytes, etag: etag.clone(), modified: self.now() };
        self.lock().objects.insert(key.to_string(), object);
        etag
    }

    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut stream = stream;
        while let Some(request) = read_request(&mut reader) {
            let kind = match request.method.as_str() {
                "GET" if request.query.contains_key("list-type") => "LIST",
                "POST" if request.query.contains_key("delete") => "DELETE",
                "GET" => "GET",
                "PUT" => "PUT",
                "HEAD" => "HEAD",
                "DELETE" => "DELETE",
                _ => "POST",
            };
            let asked = {
                let mut state = self.lock();
                *state.counts.entry(kind).or_default() += 1;
                state.bytes += request.body.len() as u64;
                state.number += 1;
                let key = if kind == "LIST" { request.query["prefix"].clone() } else { request.key.clone() };
                Asked { kind, key, number: state.number - 1 }
            };
            let fault = (self.misbehave)(&asked);
            let answer = match fault {
                Some(Fault::Status(status)) => Answer::error(status, "Fault"),
                _ => self.answer(&request, kind),
            };
            if fault == Some(Fault::LostAnswer) {
                return;
            }
            self.lock().bytes += answer.body.len() as u64;
            let mut head = format!("HTTP/1.1 {} Status\r\nContent-Length: {}\r\n", answer.status, answer.body.len());
            for (name, value) in &answer.headers {
                head += &format!("{name}: {value}\r\n");
            }
            head += "\r\n";
            let body = if request.method == "HEAD" { &[][..] } else { &answer.body };
            let body = if fault == Some(Fault::CutShort) { &body[..body.len() / 2] } else { body };
            // At once: a head alone waits for its receipt.
            if stream.write_all(&[head.as_bytes(), body].concat()).is_err()
                || fault.is_some_and(|f| f == Fault::CutShort)
            {
                return;
            }
        }
    }

    fn answer(&self, request: &Request, kind: &str) -> Answer {
        let key = &request.key;
        match (request.method.as_str(), kind) {
            (_, "LIST") => self.list(&request.query),
            ("POST", "DELETE") => {
                let body = String::from_utf8_lossy(&request.body);
                let keys = body.split("<Key>").skip(1).map(|piece| piece.split("</Key>").next().unwrap());
                let mut state = self.lock();
                let removed: String = keys
                    .map(|key| {
                        state.objects.remove(key);
                        format!("<Deleted><Key>{key}</Key></Deleted>")
                    })
                    .collect();
                Answer::xml(format!("<DeleteResult>{removed}</DeleteResult>"))
            }
            ("DELETE", _) => {
                self.lock().objects.remove(key);
                Answer::new(204)
            }
            ("POST", _) if request.query.contains_key("uploads") => {
                let mut state = self.lock();
                let id = format!("upload-{}", state.uploads.len());
                state.uploads.insert(id.clone(), BTreeMap::new());
                Answer::xml(format!(
                    "<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>k</Key><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
                ))
            }
            ("POST", _) => {
                let parts = self.lock().uploads[&request.query["uploadId"]].clone();
                let etag = self.store(key, parts.into_values().flatten().collect());
                Answer::xml(format!(
                    "<CompleteMultipartUploadResult><ETag>{etag}</ETag></CompleteMultipartUploadResult>"
                ))
            }
            ("PUT", _) if request.query.contains_key("partNumber") => {
                let number = request.query["partNumber"].parse().unwrap();
                let mut state = self.lock();
                let parts = state.uploads.get_mut(&request.query["uploadId"]).unwrap();
                parts.insert(number, request.body.clone());
                Answer::new(200).with("ETag", format!("\"part-{number}\""))
            }
            ("PUT", _) => self.put(request),
            _ => self.get(request),
        }
    }

    fn put(&self, request: &Request) -> Answer {
        let mut state = self.lock();
        let found = state.objects.get(&request.key).map(|object| object.etag.clone());
        let refused = match (request.headers.get("if-none-match"), request.headers.get("if-match")) {
            (Some(_), _) if found.is_some() => Some(412),
            (_, Some(_)) if found.is_none() => Some(404),
            (_, Some(etag)) if found.as_ref() != Some(etag) => Some(412),
            _ => None,
        };
        match refused {
            Some(status) => Answer::error(status, "PreconditionFailed"),
            None => {
                // As `store`, with the condition still true.
                let etag = format!("\"{}\"", &blake3::hash(&request.body).to_hex()[..32]);
                let object = Object { bytes: request.body.clone(), etag: etag.clone(), modified: self.now() };
                state.objects.insert(request.key.clone(), object);
                Answer::new(200).with("ETag", etag)
            }
        }
    }

    fn get(&self, request: &Request) -> Answer {
        let state = self.lock();
        let Some(object) = state.objects.get(&request.key) else { return Answer::error(404, "NoSuchKey") };
        let answer = match request.headers.get("range").and_then(|range| range.strip_prefix("bytes=")) {
            Some(range) => {
                let (from, to) = range.split_once('-').unwrap();
                let from: usize = from.parse().unwrap();
                let to = to.parse::<usize>().unwrap().min(object.bytes.len() - 1);
                let body = object.bytes[from..=to].to_vec();
                Answer { body, ..Answer::new(206) }
                    .with("Content-Range", format!("bytes {from}-{to}/{}", object.bytes.len()))
            }
            None => Answer { body: object.bytes.clone(), ..Answer::new(200) },
        };
        answer.with("ETag", object.etag.clone()).with("Last-Modified", http_date(object.modified))
    }

    fn list(&self, query: &BTreeMap<String, String>) -> Answer {
        let prefix = &query["prefix"];
        let after = query.get("continuation-token").or(query.get("start-after")).cloned().unwrap_or_default();
        let folders = query.contains_key("delimiter");
        let state = self.lock();
        let (mut contents, mut prefixes, mut next) = (String::new(), Vec::<String>::new(), None);
        let keys = state.objects.iter().filter(|(key, _)| key.starts_with(prefix.as_str()) && **key > after);
        for (count, (key, object)) in keys.enumerate() {
            if count == PAGE {
                break;
            }
            next = Some(key.clone());
            match key[prefix.len()..].split_once('/').filter(|_| folders) {
                Some((folder, _)) => {
                    let folder = format!("{prefix}{folder}/");
                    if prefixes.last() != Some(&folder) {
                        prefixes.push(folder);
                    }
                }
                None => {
                    contents += &format!(
                        "<Contents><Key>{key}</Key><Size>{}</Size><ETag>{}</ETag><LastModified>{}</LastModified></Contents>",
                        object.bytes.len(),
                        object.etag.replace('"', "&quot;"),
                        xml_date(object.modified)
                    );
                }
            }
        }
        let more = next
            .as_ref()
            .is_some_and(|last| state.objects.keys().any(|key| key.starts_with(prefix.as_str()) && key > last));
        let prefixes: String =
            prefixes.iter().map(|p| format!("<CommonPrefixes><Prefix>{p}</Prefix></CommonPrefixes>")).collect();
        let token = next.filter(|_| more).map(|key| format!("<NextContinuationToken>{key}</NextContinuationToken>"));
        Answer::xml(format!(
            "<ListBucketResult><IsTruncated>{more}</IsTruncated>{}{contents}{prefixes}</ListBucketResult>",
            token.unwrap_or_default()
        ))
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_string(), words.next()?.to_string());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_string());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    // Without the bucket.
    let key = decoded(path.trim_start_matches('/').split_once('/').map_or("", |(_, key)| key));
    let query = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name), decoded(value))
    });
    Some(Request { method, key, query: query.collect(), headers, body })
}

fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| u8::from_str_radix(&text[at + 1..at + 3], 16).unwrap());
        out.push(hex.unwrap_or(bytes[at]));
        at += if hex.is_some() { 3 } else { 1 };
    }
    String::from_utf8(out).unwrap()
}

/// Year, month, day, hour, minute, second, millisecond, day of the week.
fn civil(time: SystemTime) -> [u64; 8] {
    let since = time.duration_since(UNIX_EPOCH).unwrap();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Howard Hinnant's days to civil.
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    [
        year,
        month,
        doy - (153 * mp + 2) / 5 + 1,
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        since.subsec_millis().into(),
        (days + 4) % 7,
    ]
}

fn xml_date(time: SystemTime) -> String {
    let [year, month, day, hour, minute, second, milli, _] = civil(time);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

fn http_date(time: SystemTime) -> String {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    let [year, month, day, hour, minute, second, _, weekday] = civil(time);
    let (month, weekday) = (MONTHS[month as usize - 1], DAYS[weekday as usize]);
    format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
}
