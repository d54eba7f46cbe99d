//! Servers that are started for a policy: one program at a time, on a free port of this machine, restarted when it crashes, ended when
//! another policy's turn comes and with the run.

use super::devices;
use crate::child::{Program, end_of_log, is_program, last_lines};
use crate::net::http::{Http, free_port};
use crate::policy::{Api, Launched, PolicyHandle, Served};
use mindgap_base::error::{Error, Result};
use mindgap_store::fs;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Ends of the program in a row, with no answer between them, after which it is not started again.
const CRASHES: u32 = 3;
/// How often a program that starts is asked whether it serves.
const LOOK: Duration = Duration::from_millis(200);
const HEALTH: Duration = Duration::from_secs(5);

/// Starts servers for one run, one at a time.
pub struct Launcher {
    /// The run's log: those of servers lie beside it.
    log: PathBuf,
    current: Mutex<Option<Arc<Running>>>,
}

impl Launcher {
    pub fn new(log: &Path) -> Launcher {
        Launcher { log: log.to_path_buf(), current: Mutex::default() }
    }

    /// The server of a policy: the one that runs, if it is that, else one that is started when the other has ended. It may take
    /// minutes until it answers; [`Running::state`] says how far it is.
    pub fn serve(&self, handle: &PolicyHandle, launched: &Launched) -> Result<Arc<Running>> {
        let mut current = self.lock();
        let purpose = (handle.digest().into_iter().map(|(k, v)| (k.to_string(), v)).collect(), launched.clone());
        if let Some(running) = current.as_ref().filter(|running| running.purpose == purpose && !running.is_over()) {
            return Ok(running.clone());
        }
        // What it holds must be free before the next one is started.
        if let Some(before) = current.take() {
            before.end();
        }
        let log = self.log.with_extension(format!("{}.log", handle.name));
        let running = Arc::new(Running::start(handle, launched, purpose, log)?);
        *current = Some(running.clone());
        Ok(running)
    }

    /// The policy whose server runs, if one does.
    pub fn serving(&self) -> Option<String> {
        self.lock().as_ref().filter(|running| !running.is_over()).map(|running| running.served.model.clone())
    }

    /// Ends the server that runs, if one does: what it held is free then.
    pub fn end(&self) {
        if let Some(running) = self.lock().take() {
            running.end();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Running>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        self.end();
    }
}

/// What a server serves, and how it was told to.
type Purpose = (BTreeMap<String, String>, Launched);

/// A server under supervision.
pub struct Running {
    purpose: Purpose,
    served: Served,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// How far a server is.
#[derive(Clone, Debug)]
pub enum State {
    /// Other programs use the GPUs it is to have.
    Waiting(String),
    Starting(Instant),
    Up,
    /// It will not be started again.
    Over(String),
}

struct Shared {
    name: String,
    words: Vec<String>,
    variables: Vec<(&'static str, String)>,
    health: String,
    log: PathBuf,
    state: Mutex<State>,
    /// Answers that came from it.
    answers: AtomicU64,
    stop: AtomicBool,
}

impl Running {
    fn start(handle: &PolicyHandle, launched: &Launched, purpose: Purpose, log: PathBuf) -> Result<Running> {
        let folder = handle.folder()?;
        let port = free_port().map_err(|e| Error::environment("cannot find a free port").source(e))?;
        let words = words(launched, &folder, &handle.name, port);
        if launched.launch.is_none() {
            check_program(&words[0], launched.engine)?;
        }
        let served = launched.served(&handle.name, folder.display().to_string(), port);
        let shared = Arc::new(Shared {
            name: format!("{} for policy `{}`", launched.engine.name(), handle.name),
            words,
            variables: vec![
                ("MODEL_FOLDER", folder.display().to_string()),
                ("MODEL_NAME", handle.name.clone()),
                ("PORT", port.to_string()),
            ],
            health: format!("http://127.0.0.1:{port}/health"),
            log,
            state: Mutex::new(State::Starting(Instant::now())),
            answers: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let supervisor = shared.clone();
        let thread = std::thread::Builder::new().name("supervisor".to_string()).spawn(move || supervisor.supervise());
        let thread = thread.map_err(|e| Error::environment("cannot start a thread").source(e))?;
        Ok(Running { purpose, served, shared, thread: Mutex::new(Some(thread)) })
    }

    /// How it is spoken to.
    pub fn served(&self) -> &Served {
        &self.served
    }

    pub fn state(&self) -> State {
        self.shared.lock().clone()
    }

    fn is_over(&self) -> bool {
        matches!(self.state(), State::Over(_))
    }

    /// It gave an answer: ends of it before that are no longer counted.
    pub fn answered(&self) {
        self.shared.answers.fetch_add(1, Ordering::Relaxed);
    }

    /// What it is doing, for people; empty while it serves.
    pub fn note(&self) -> String {
        let Shared { name, log, .. } = &*self.shared;
        match self.state() {
            State::Up | State::Over(_) => String::new(),
            State::Waiting(why) => format!("{name} waits: {why}"),
            State::Starting(since) => {
                let last = last_lines(log, 1).pop().unwrap_or_default();
                format!("starting {name}, {} s: {last}", since.elapsed().as_secs())
            }
        }
    }

    /// Why it is not to be expected any more.
    pub fn over(&self) -> Option<Error> {
        let State::Over(why) = self.state() else { return None };
        let Shared { name, log, .. } = &*self.shared;
        Some(
            Error::environment(format!("{name} {why}; the end of its log:{}", end_of_log(log)))
                .at(log.display().to_string())
                .hint("mend `args` or `launch` of the policy; what is finished is kept, so the same command goes on"),
        )
    }

    /// Ends it, and waits until all of it has ended.
    fn end(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // It does not panic; if it did, its program ended with it.
            let _ = thread.join();
        }
    }
}

/// How one life of a program ended.
enum Life {
    /// As it was told to.
    Told,
    Crashed {
        how: String,
        served: bool,
    },
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: State) {
        *self.lock() = state;
    }

    fn is_told(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Keeps the program running until it is told to end, or crashes too often.
    fn supervise(&self) {
        let why = match self.keep_running() {
            Ok(None) => return,
            Ok(Some(why)) => why,
            Err(e) => format!("cannot be run: {e}"),
        };
        self.set(State::Over(why));
    }

    fn keep_running(&self) -> Result<Option<String>> {
        let Some(_devices) = devices::take(|why| self.set(State::Waiting(why)), || self.is_told())? else {
            return Ok(None);
        };
        let (mut crashes, mut ever_served) = (0, false);
        loop {
            let before = self.answers.load(Ordering::Relaxed);
            let (how, served) = match self.live()? {
                Life::Told => return Ok(None),
                Life::Crashed { how, served } => (how, served),
            };
            ever_served |= served;
            crashes = if self.answers.load(Ordering::Relaxed) > before { 1 } else { crashes + 1 };
            if !ever_served {
                return Ok(Some(format!("ended before it served anything, with {how}")));
            }
            if crashes == CRASHES {
                return Ok(Some(format!("ended {CRASHES} times without an answer in between, last with {how}")));
            }
        }
    }

    /// Starts the program and waits for its end.
    fn live(&self) -> Result<Life> {
        self.set(State::Starting(Instant::now()));
        let failed =
            |e: std::io::Error| Error::environment("cannot run the program").at(self.words.join(" ")).source(e);
        let log = fs::Appender::open(&self.log)?.into_file();
        let mut program = Program::start(&self.words, &self.variables, log).map_err(failed)?;
        let (http, mut served) = (Http::direct(1), false);
        loop {
            if self.is_told() {
                program.end().map_err(failed)?;
                return Ok(Life::Told);
            }
            if let Some(how) = program.ended().map_err(failed)? {
                return Ok(Life::Crashed { how: how.to_string(), served });
            }
            // A program without this path answers too.
            if !served && http.get(&self.health, HEALTH).is_ok_and(|answer| matches!(answer.status, 200 | 404)) {
                served = true;
                self.set(State::Up);
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// The program and its arguments.
fn words(launched: &Launched, folder: &Path, name: &str, port: u16) -> Vec<String> {
    if let Some(line) = &launched.launch {
        return ["/bin/sh", "-c", line].map(str::to_string).to_vec();
    }
    let (folder, port) = (folder.display().to_string(), port.to_string());
    let own: &[&str] = match launched.engine {
        // Its log-probs are those of the policy's distribution otherwise, whatever the temperature.
        Api::Vllm => &[
            &folder,
            "--host",
            "127.0.0.1",
            "--port",
            &port,
            "--served-model-name",
            name,
            "--logprobs-mode",
            "processed_logprobs",
        ],
        Api::Sglang => &["--model-path", &folder, "--host", "127.0.0.1", "--port", &port, "--served-model-name", name],
    };
    let longest = match launched.engine {
        Api::Vllm => "--max-model-len",
        Api::Sglang => "--context-length",
    };
    let mut words = program(launched.engine);
    words.extend(own.iter().map(ToString::to_string));
    words.extend(launched.max_model_len.iter().flat_map(|tokens| [longest.to_string(), tokens.to_string()]));
    // Behind ours: of an argument given twice the last counts.
    words.extend(launched.args.iter().cloned());
    words
}

/// How the program is called on this machine: as a variable says, or as it is installed.
fn program(engine: Api) -> Vec<String> {
    let (variable, usual) = match engine {
        Api::Vllm => ("MINDGAP_VLLM", "vllm serve"),
        Api::Sglang => ("MINDGAP_SGLANG", "python3 -m sglang.launch_server"),
    };
    let said = std::env::var(variable).ok().filter(|said| !said.trim().is_empty());
    said.as_deref().unwrap_or(usual).split_whitespace().map(str::to_string).collect()
}

/// A server program that is on this machine, beside a GPU it could use.
pub fn engine_at_hand() -> Option<Api> {
    let is_here = |engine: &Api| program(*engine).first().is_some_and(|program| is_program(program));
    // SGLang is a module of a Python: only whoever says which one has it.
    let sglang = std::env::var_os("MINDGAP_SGLANG").map(|_| Api::Sglang);
    [Some(Api::Vllm), sglang].into_iter().flatten().find(is_here).filter(|_| devices::are_here())
}

fn check_program(program: &str, engine: Api) -> Result<()> {
    if is_program(program) {
        return Ok(());
    }
    let (variable, example) = match engine {
        Api::Vllm => ("MINDGAP_VLLM", "/opt/vllm/bin/vllm serve"),
        Api::Sglang => ("MINDGAP_SGLANG", "/opt/sglang/bin/python -m sglang.launch_server"),
    };
    Err(Error::environment(format!("cannot find the program `{program}`")).hint(format!(
        "install {}, or say in the environment variable {variable} how it is called here: `{example}`",
        engine.name()
    )))
}
