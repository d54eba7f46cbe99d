//! contain: a process with limits and, on Linux, in a sandbox.
//!
//! This program starts itself again (`enter`), takes the limits on, and then becomes the program to be contained: nothing is
//! done between fork and exec. The process leads a group that nothing in it can leave, so that one signal ends all of it.

#[cfg(target_os = "linux")]
mod linux;

use mindgap_base::error::{Error, Result};
use mindgap_store::fs;
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// What a process may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Of the clock on the wall, and of each process's own.
    pub seconds: u64,
    /// Address space of each process, and what all together use.
    pub memory_mib: u64,
    /// Processes and threads at a time.
    pub processes: u64,
    /// Each file, and all that are left in the scratch folder together.
    pub file_mib: u64,
    /// No network, and nothing is written outside of a scratch folder.
    pub sandbox: bool,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { seconds: 10, memory_mib: 2048, processes: 32, file_mib: 64, sandbox: true }
    }
}

impl Limits {
    /// Those that are not the usual ones: `seconds=60`.
    pub fn differing(&self) -> Vec<String> {
        let usual = Limits::default();
        let numbers = [
            ("seconds", self.seconds, usual.seconds),
            ("memory_mib", self.memory_mib, usual.memory_mib),
            ("processes", self.processes, usual.processes),
            ("file_mib", self.file_mib, usual.file_mib),
        ];
        let others = numbers.iter().filter(|(_, own, usual)| own != usual);
        let mut parts: Vec<String> = others.map(|(name, own, _)| format!("{name}={own}")).collect();
        parts.extend((!self.sandbox).then(|| "sandbox=false".to_string()));
        parts
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Exit(i32),
    Signal(i32),
    /// It took too long.
    Time,
    /// All of it used too much memory.
    Memory,
    /// It wrote too much.
    FileSize,
}

pub struct Ended {
    pub end: End,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// What the new process is told.
#[derive(Serialize, Deserialize)]
struct Plan {
    words: Vec<String>,
    limits: Limits,
}

/// The name this program answers to when it is to contain itself.
const ENTER: &str = "contained";
/// The exit code that says a process could not be contained; what it says begins with `FAILED` then.
const FAILED_CODE: i32 = 125;
const FAILED: &str = "cannot contain the command: ";

/// Bytes that are read of what a process says.
const OUTPUT_BYTES: u64 = 1 << 20;

/// Variables that are passed on. No other is: they may hold secrets.
const VARIABLES: [&str; 3] = ["PATH", "LANG", "LC_ALL"];

/// Errors: no sandbox on this machine.
pub fn check() -> Result<()> {
    #[cfg(target_os = "linux")]
    let available = linux::check();
    #[cfg(not(target_os = "linux"))]
    let available: Result<(), String> = Err("it needs Linux".to_string());
    available.map_err(|why| {
        Error::environment(format!("no sandbox for the judge's command: {why}"))
            .hint("`sandbox = false` runs it without one: only where you trust what it runs")
    })
}

/// Runs a program on an input, within limits.
///
/// Errors: a process that cannot be started or contained.
pub fn run(words: &[String], input: &[u8], limits: &Limits) -> Result<Ended> {
    let failed = |what: &str, e: std::io::Error| Error::environment(what.to_string()).at(words.join(" ")).source(e);
    let scratch = tempfile::tempdir().map_err(|e| failed("cannot make a scratch folder", e))?;
    let plan = Plan { words: words.to_vec(), limits: limits.clone() };
    let own = std::env::current_exe().map_err(|e| failed("cannot find this program", e))?;
    let mut command = Command::new(own);
    command
        .args([ENTER, &serde_json::to_string(&plan).expect("a plan is plain data")])
        .current_dir(scratch.path())
        .env_clear()
        .envs(VARIABLES.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        .envs([("HOME", scratch.path()), ("TMPDIR", scratch.path())])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let mut child = command.spawn().map_err(|e| failed("cannot start a process", e))?;
    let ended = std::thread::scope(|scope| {
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        scope.spawn(move || feed(stdin, input));
        let stdout = scope.spawn(move || said(stdout));
        let stderr = scope.spawn(move || said(stderr));
        let end = watch(&mut child, limits, scratch.path());
        let said = |reader: std::thread::ScopedJoinHandle<Vec<u8>>| reader.join().expect("a reader does not panic");
        end.map(|end| Ended { end, stdout: said(stdout), stderr: without(&said(stderr), scratch.path()) })
    });
    let ended = ended.map_err(|e| failed("cannot wait for a process", e))?;
    if ended.end == End::Exit(FAILED_CODE)
        && let Some(why) = String::from_utf8_lossy(&ended.stderr).strip_prefix(FAILED)
    {
        return Err(Error::environment(format!("{FAILED}{}", why.trim())).at(words.join(" ")));
    }
    Ok(ended)
}

/// What a process does not read is not its fault.
fn feed(stdin: Option<ChildStdin>, input: &[u8]) {
    if let Some(mut stdin) = stdin {
        let _ = stdin.write_all(input);
    }
}

/// The start of what a process says. Behind it the pipe is closed.
fn said(pipe: Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        let _ = pipe.take(OUTPUT_BYTES).read_to_end(&mut bytes);
    }
    bytes
}

/// What is said, without the name of a folder that is another one every time.
fn without(said: &[u8], folder: &Path) -> Vec<u8> {
    String::from_utf8_lossy(said).replace(&folder.display().to_string(), ".").into_bytes()
}

/// Time between two looks at what all processes of a group use together.
const LOOK: Duration = Duration::from_millis(50);

/// Waits until the leader ends or all of it went beyond a limit, and ends the group.
fn watch(child: &mut Child, limits: &Limits, scratch: &Path) -> std::io::Result<End> {
    let start = Instant::now();
    let (mut pause, mut looked) = (Duration::from_micros(200), start);
    let mut beyond = None;
    while beyond.is_none() && !has_ended(child)? {
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
        if looked.elapsed() >= LOOK {
            beyond = excess(child.id(), limits, scratch);
            looked = Instant::now();
        }
        if start.elapsed() >= Duration::from_secs(limits.seconds) {
            beyond = Some(End::Time);
        }
    }
    // The leader is not yet waited for, so its number is still the group's.
    end_group(child)?;
    let status = child.wait()?;
    Ok(match (beyond, status.code(), status.signal()) {
        (Some(beyond), ..) => beyond,
        (_, Some(code), _) => End::Exit(code),
        (.., Some(SIGXFSZ)) => End::FileSize,
        (.., Some(SIGXCPU)) => End::Time,
        (.., signal) => End::Signal(signal.unwrap_or_default()),
    })
}

/// The limit that a group is beyond.
fn excess(group: u32, limits: &Limits, scratch: &Path) -> Option<End> {
    // a folder that cannot be looked into may hold anything
    if fs::bytes_below(scratch).is_none_or(|bytes| bytes > limits.file_mib << 20) {
        return Some(End::FileSize);
    }
    #[cfg(target_os = "linux")]
    if linux::memory_of(group).is_some_and(|bytes| bytes > limits.memory_mib << 20) {
        return Some(End::Memory);
    }
    None
}

use nix::libc::{SIGXCPU, SIGXFSZ};

/// Whether a process has ended, where possible without taking note of it.
fn has_ended(child: &mut Child) -> std::io::Result<bool> {
    #[cfg(target_os = "linux")]
    let ended = linux::has_ended(pid(child))?;
    #[cfg(not(target_os = "linux"))]
    let ended = child.try_wait()?.is_some();
    Ok(ended)
}

fn end_group(child: &Child) -> std::io::Result<()> {
    use nix::errno::Errno;
    use nix::sys::signal::{Signal, killpg};
    match killpg(pid(child), Signal::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        // all that is left of the group has ended
        Err(Errno::EPERM) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn pid(child: &Child) -> nix::unistd::Pid {
    nix::unistd::Pid::from_raw(child.id() as i32)
}

/// In the new process: takes the limits on and becomes the program. Comes back with an exit code and what is to be said where
/// that fails.
pub fn enter(plan: &str) -> (u8, String) {
    let failed = |why: String| (FAILED_CODE as u8, format!("{FAILED}{why}"));
    let plan: Plan = match serde_json::from_str(plan) {
        Ok(plan) => plan,
        Err(e) => return failed(format!("not a plan: {e}")),
    };
    #[cfg(target_os = "linux")]
    if let Err(why) = linux::confine(&plan.limits) {
        return failed(why);
    }
    let (program, arguments) = plan.words.split_first().expect("a command has a program");
    let error = Command::new(program).args(arguments).exec();
    failed(format!("`{program}`: {error}"))
}
