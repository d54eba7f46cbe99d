//! The servers of a policy: who is asked next, what is tried again and where, who is left alone for a while.
//!
//! A server is probed before its first request, and again whenever it was given up: it may have come back with other weights.
//! Three failures in a row give it up for a time that grows; then the probe is what finds out whether it is back, so no
//! request waits for a server that only seems alive.

use super::aside::{Aside, Unanswered};
use super::launch::{Running, State as Life};
use super::probe::{self, Expected, Facts};
use super::wire::{Blame, Call, Fault};
use crate::net::http::{Answer, Http};
use crate::policy::Served;
use mindgap_base::error::{Error, Result};
use mindgap_base::rng::Stream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Bad answers to one request, after which it is given up.
const TRIES: u32 = 6;
/// Failures in a row that give a server up.
const FAILURES: u32 = 3;
/// Probes that every server must fail before a policy counts as not served, if none ever answered.
const FIRST_PROBES: u32 = 3;
/// The same of a server that was started for the run, and runs.
const LAUNCHED_PROBES: u32 = 20;
const WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// Longest wait that a server's `Retry-After` is given.
const LONGEST_ASKED: Duration = Duration::from_secs(300);
/// How often whoever waits looks around.
const LOOK: Duration = Duration::from_millis(50);

pub struct Pool {
    http: Http,
    pub served: Served,
    pub expected: Expected,
    /// Where the server was started for this run: what is known of its program.
    running: Option<Arc<Running>>,
    state: Mutex<State>,
    changed: Condvar,
    pub aside: Aside,
    salt: String,
    count: AtomicU64,
}

struct State {
    servers: Vec<Server>,
    /// When a server last answered well.
    progress: Instant,
    /// Whether any ever did.
    reached: bool,
}

#[derive(Clone, Default)]
struct Server {
    /// Root of its URL, without `/v1`.
    root: String,
    in_flight: u32,
    /// What its probe found; none before it, and while the server is given up.
    facts: Option<Arc<Facts>>,
    probing: bool,
    /// In a row.
    failures: u32,
    /// Times it was given up since it last answered well.
    given_up: u32,
    until: Option<Instant>,
    /// What went wrong first since it last answered well, and last.
    first: String,
    last: String,
    /// It answered its last probe, and badly.
    fails_probes: bool,
    /// What it said when it had too much to do, and until when it asked to be left alone.
    busy: Option<(String, Instant)>,
}

impl Server {
    /// What is wrong, for people. What came first is often the cause: behind it a server only refuses connections.
    fn trouble(&self) -> String {
        if let (true, Some((said, _))) = (self.last.is_empty(), &self.busy) {
            return said.clone();
        }
        match self.first == self.last {
            true => self.last.clone(),
            false => format!("{}; first: {}", self.last, self.first),
        }
    }
}

impl State {
    /// What is waited for where every server has too much to do.
    fn busy(&self) -> Option<String> {
        let now = Instant::now();
        let waits = self.servers.iter().map(|server| server.busy.as_ref().filter(|(_, until)| *until > now));
        let (said, until) = waits.collect::<Option<Vec<_>>>()?.into_iter().min_by_key(|(_, until)| *until)?;
        Some(format!("asked to wait {} s: {said}", until.duration_since(now).as_secs() + 1))
    }
}

/// A server that may be asked now.
struct Turn {
    index: usize,
    root: String,
    facts: Option<Arc<Facts>>,
}

impl Pool {
    pub fn new(served: &Served, expected: Expected, running: Option<Arc<Running>>) -> Result<Pool> {
        let root = |url: &String| {
            let url = url.trim_end_matches('/');
            url.strip_suffix("/v1").unwrap_or(url).to_string()
        };
        let servers = served.endpoints.iter().map(|url| Server { root: root(url), ..Server::default() }).collect();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let http = match running {
            Some(_) => Http::direct(served.in_flight as usize),
            None => Http::new(served.api_key()?, served.in_flight as usize),
        };
        Ok(Pool {
            http,
            served: served.clone(),
            expected,
            running,
            state: Mutex::new(State { servers, progress: Instant::now(), reached: false }),
            changed: Condvar::new(),
            aside: Aside::default(),
            salt: blake3::hash(format!("{now} {}", std::process::id()).as_bytes()).to_hex()[..16].to_string(),
            count: AtomicU64::new(0),
        })
    }

    /// Requests that may be under way together.
    pub fn width(&self) -> usize {
        self.served.endpoints.len() * self.served.in_flight as usize
    }

    /// Begins a stretch of work: no server is expected to have answered before it.
    pub fn begin(&self) {
        self.lock().progress = Instant::now();
    }

    /// A text that no other request has.
    pub fn salt(&self) -> String {
        format!("{}-{}", self.salt, self.count.fetch_add(1, Ordering::Relaxed))
    }

    /// Servers that are left alone now, in words; empty where all are well.
    pub fn note(&self) -> String {
        if let Some(note) = self.running.as_ref().map(|running| running.note()).filter(|note| !note.is_empty()) {
            return note;
        }
        let state = self.lock();
        let out: Vec<&Server> = state.servers.iter().filter(|server| server.until.is_some()).collect();
        match out.first() {
            None => state.busy().unwrap_or_default(),
            Some(server) => {
                let silent = match state.progress.elapsed().as_secs() {
                    0..10 => String::new(),
                    seconds => format!(", no answer for {seconds} s"),
                };
                format!("{} of {} servers out{silent}: {}", out.len(), state.servers.len(), server.trouble())
            }
        }
    }

    /// How long a request may take that asks for so many tokens.
    pub fn timeout(&self, tokens: u32) -> Duration {
        match self.served.timeout_seconds {
            Some(seconds) => Duration::from_secs(seconds.into()),
            // 5 tokens a second: a server under full load that also queues.
            None => Duration::from_secs(120 + u64::from(tokens) / 5),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks one server after another until an answer can be read. `call` makes the request for a server, `read` takes the
    /// answer. Errors: what no server would answer better, a request they refuse or answer badly again and again, no answer
    /// from anyone for as long as patience lasts (and half a minute), `stop`.
    pub fn ask<T>(
        &self,
        stop: &AtomicBool,
        timeout: Duration,
        call: impl Fn(&Facts) -> Result<Call, Fault>,
        read: impl Fn(&Facts, &[u8]) -> Result<T, Fault>,
    ) -> Result<T, Unanswered> {
        let (mut tries, mut attempts, mut avoid) = (0, 0, None);
        loop {
            let turn = self.acquire(stop, timeout, avoid)?;
            let outcome = self.turn(&turn, timeout, &call, &read);
            self.release(&turn, &outcome);
            let at = |error: Error| error.at(format!("{} of policy served as `{}`", turn.root, self.served.model));
            let (what, after, blame) = match outcome {
                Ok(value) => return Ok(value),
                Err(Fault::Lasting(error)) => return Err(Unanswered::Ends(at(error))),
                Err(Fault::Refused(error)) => return Err(Unanswered::Failed(at(error))),
                Err(Fault::Passing { what, after, blame }) => (what, after, blame),
            };
            tries += u32::from(blame == Blame::Request);
            if tries == TRIES {
                let error = Error::environment(format!("a request failed {TRIES} times, last with {what}"));
                return Err(Unanswered::Failed(at(error.hint(KEPT))));
            }
            avoid = Some(turn.index);
            self.pause(stop, self.asked(after).max(jitter(backoff(attempts))))?;
            attempts += 1;
        }
    }

    /// How long a server that asks for it is left alone.
    fn asked(&self, after: Option<Duration>) -> Duration {
        let patience = Duration::from_secs(self.served.patience_seconds.into());
        after.unwrap_or_default().min(LONGEST_ASKED).min(patience)
    }

    fn turn<T>(
        &self,
        turn: &Turn,
        timeout: Duration,
        call: &impl Fn(&Facts) -> Result<Call, Fault>,
        read: &impl Fn(&Facts, &[u8]) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let facts = match &turn.facts {
            Some(facts) => facts.clone(),
            None => {
                let found = probe::probe(self, &turn.root, &self.expected);
                let mut state = self.lock();
                state.reached |= found.is_ok();
                let server = &mut state.servers[turn.index];
                server.probing = false;
                server.fails_probes = matches!(found, Err(Fault::Passing { blame: Blame::Request, .. }));
                let facts = Arc::new(found.map_err(Fault::of_server)?);
                (server.facts, server.failures, server.until) = (Some(facts.clone()), 0, None);
                facts
            }
        };
        let body = self.post(&turn.root, &call(&facts)?, timeout)?;
        read(&facts, &body)
    }

    /// Waits for a server that may be asked: the one with the least to do of those that fail least. One that is not probed
    /// yet is given to one request only.
    fn acquire(&self, stop: &AtomicBool, timeout: Duration, avoid: Option<usize>) -> Result<Turn> {
        let mut state = self.lock();
        loop {
            check(stop)?;
            if self.is_starting(&mut state)? {
                state = self.wait(state);
                continue;
            }
            self.check_reached(&state)?;
            self.check_progress(&state, timeout)?;
            let now = Instant::now();
            let free = |server: &Server| {
                server.until.is_none_or(|until| now >= until)
                    && match server.facts {
                        Some(_) => server.in_flight < self.served.in_flight,
                        None => !server.probing,
                    }
            };
            let choice = state.servers.iter().enumerate().filter(|(_, server)| free(server));
            let key = |(index, server): &(usize, &Server)| (Some(*index) == avoid, server.failures, server.in_flight);
            if let Some(index) = choice.min_by_key(key).map(|(index, _)| index) {
                let server = &mut state.servers[index];
                server.in_flight += 1;
                server.probing = server.facts.is_none();
                return Ok(Turn { index, root: server.root.clone(), facts: server.facts.clone() });
            }
            state = self.wait(state);
        }
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Whether the program behind the server is being started: it has all the time it takes, and is probed as soon as it is up.
    fn is_starting(&self, state: &mut State) -> Result<bool> {
        let Some(running) = &self.running else { return Ok(false) };
        match running.state() {
            Life::Up => return Ok(false),
            Life::Waiting(_) | Life::Starting(_) => {}
            Life::Over(_) => return running.over().map_or(Ok(false), Err),
        }
        state.progress = Instant::now();
        for server in &mut state.servers {
            (server.facts, server.until, server.given_up) = (None, None, 0);
        }
        Ok(true)
    }

    fn release<T>(&self, turn: &Turn, outcome: &Result<T, Fault>) {
        let mut state = self.lock();
        if outcome.is_ok() {
            state.progress = Instant::now();
            self.running.iter().for_each(|running| running.answered());
        }
        let server = &mut state.servers[turn.index];
        server.in_flight -= 1;
        match outcome {
            // An answer from before the server was given up does not bring it back.
            Ok(_) if server.facts.is_some() => {
                (server.failures, server.given_up, server.until, server.busy) = (0, 0, None, None);
            }
            Err(Fault::Passing { what, after, blame: Blame::Load }) if server.facts.is_some() => {
                server.busy = Some((what.clone(), Instant::now() + self.asked(*after)));
            }
            Err(Fault::Passing { what, after, .. }) => {
                if server.failures == 0 && server.given_up == 0 {
                    server.first = what.clone();
                }
                server.failures += 1;
                server.last = what.clone();
                let waiting = server.until.is_some_and(|until| Instant::now() < until);
                if (server.failures >= FAILURES || server.facts.is_none()) && !waiting {
                    server.facts = None;
                    server.given_up += 1;
                    let half = backoff(server.given_up) / 2;
                    let wait = self.asked(*after).max(half + jitter(half));
                    server.until = Some(Instant::now() + wait);
                }
            }
            _ => {}
        }
        drop(state);
        self.changed.notify_all();
    }

    fn check_reached(&self, state: &State) -> Result<()> {
        // Whoever keeps the program finds out whether it still runs; one that is ending may take a while.
        let enough = if self.running.is_some() { LAUNCHED_PROBES } else { FIRST_PROBES };
        if state.reached || state.servers.iter().any(|server| server.given_up < enough) {
            return Ok(());
        }
        let each: Vec<String> =
            state.servers.iter().map(|server| format!("{}: {}", server.root, server.trouble())).collect();
        let (model, is_there) = (&self.served.model, state.servers.iter().any(|server| server.fails_probes));
        let error = match is_there {
            true => Error::environment(format!("the servers of `{model}` answer and fail every probe"))
                .hint("their logs say why; docs/servers.md says what a probe asks, and which versions were met"),
            false => Error::environment(format!("no server of `{model}` answers"))
                .hint("start them first (docs/servers.md), and check the URLs in `server`"),
        };
        Err(error.at(each.join("; ")))
    }

    fn check_progress(&self, state: &State, timeout: Duration) -> Result<()> {
        let silent = state.progress.elapsed();
        // Requests that wait for their next try are no sign of a silent server.
        let patience = Duration::from_secs(self.served.patience_seconds.into());
        if silent < patience.max(timeout).max(LONGEST_WAIT * 2) {
            return Ok(());
        }
        let last =
            state.servers.iter().map(|server| format!("{}: {}", server.root, server.trouble())).collect::<Vec<_>>();
        Err(Error::environment(format!("no server gave an answer for {} seconds", silent.as_secs()))
            .at(last.join("; "))
            .hint(KEPT))
    }

    /// One exchange with one server; the body of a good answer.
    pub fn post(&self, root: &str, call: &Call, timeout: Duration) -> Result<Vec<u8>, Fault> {
        let json = serde_json::to_vec(&call.body).expect("a request is plain data");
        self.read(call.path, self.http.post(&format!("{root}{}", call.path), &json, call.tokens, timeout))
    }

    pub fn get(&self, root: &str, path: &'static str, timeout: Duration) -> Result<Vec<u8>, Fault> {
        self.read(path, self.http.get(&format!("{root}{path}"), timeout))
    }

    fn read(&self, path: &str, answer: Result<Answer, String>) -> Result<Vec<u8>, Fault> {
        let Answer { status, retry_after, body } = match answer {
            Ok(answer) => answer,
            Err(what) => return Err(Fault::Passing { what, after: None, blame: Blame::Server }),
        };
        let said = self.http.quote(&body);
        let what = format!("status {status} for `{path}`: {said}");
        let passing = |blame| Err(Fault::Passing { what: what.clone(), after: retry_after, blame });
        let lasting = |message: String, hint: &str| Err(Fault::Lasting(Error::environment(message).hint(hint)));
        match status {
            200..=299 => Ok(body),
            429 => passing(Blame::Load),
            408 | 425 | 502..=504 => passing(Blame::Server),
            500.. => passing(Blame::Request),
            401 | 403 => lasting(
                format!("the server refuses access: {what}"),
                "put its key into an environment variable, and that variable's name into `api_key_env`",
            ),
            404 => lasting(
                format!("the server does not know what it is asked for: {what}"),
                "check `model` and `server`: a base URL is `http://host:8000/v1`",
            ),
            300..=399 => lasting(format!("the server sends elsewhere: {what}"), "name the final URL in `server`"),
            _ => Err(Fault::Refused(
                Error::environment(format!("the server refuses a request: {what}"))
                    .hint("docs/servers.md names the versions that were met"),
            )),
        }
    }

    /// Sleeps, unless `stop` is set meanwhile.
    fn pause(&self, stop: &AtomicBool, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            check(stop)?;
            std::thread::sleep(LOOK.min(end.saturating_duration_since(Instant::now())));
        }
        check(stop)
    }
}

pub const KEPT: &str = "what is finished is kept: run the same command again to go on";

fn check(stop: &AtomicBool) -> Result<()> {
    match stop.load(Ordering::Relaxed) {
        true => Err(Error::interrupted("stopped before all requests were answered").hint(KEPT)),
        false => Ok(()),
    }
}

/// 0.5, 1, 2 .. 15 seconds.
fn backoff(times: u32) -> Duration {
    (WAIT * 2u32.saturating_pow(times.min(16))).min(LONGEST_WAIT)
}

/// Anything up to `most`: those who failed together must not come back together.
fn jitter(most: Duration) -> Duration {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let stream = Stream::at(std::process::id().into(), &[b"jitter"]);
    most.mul_f64(stream.uniform(COUNT.fetch_add(1, Ordering::Relaxed)))
}
