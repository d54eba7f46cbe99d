//! A program in a process of its own: started, fed, watched, ended with all that it started.

use super::keeper::{self, Keeper};
use super::{End, Ended, Limits};
use mindgap_base::error::{Error, Result};
use mindgap_store::fs;
use nix::errno::Errno;
use nix::libc::{SIGXCPU, SIGXFSZ};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// What the new process is told.
#[derive(Serialize, Deserialize)]
pub enum Plan {
    /// To become a program.
    Become { words: Vec<String>, limits: Limits, parent: u32 },
    /// To end what a killed run leaves.
    Keep,
}

impl Plan {
    /// This program, started to do so.
    pub fn command(&self) -> std::io::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([ENTER, &serde_json::to_string(self).expect("a plan is plain data")]).process_group(0);
        Ok(command)
    }
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

/// Runs a program on an input, within limits.
///
/// Errors: a process that cannot be started or contained.
pub fn run(words: &[String], input: &[u8], limits: &Limits) -> Result<Ended> {
    let failed = |what: &str, e: std::io::Error| Error::environment(what.to_string()).at(words.join(" ")).source(e);
    let scratch = tempfile::tempdir().map_err(|e| failed("cannot make a scratch folder", e))?;
    let plan = Plan::Become { words: words.to_vec(), limits: limits.clone(), parent: std::process::id() };
    let keeper = Keeper::get().map_err(|e| failed("cannot start a process", e))?;
    let mut command = plan.command().map_err(|e| failed("cannot find this program", e))?;
    command
        .current_dir(scratch.path())
        .env_clear()
        .envs(VARIABLES.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        .envs([("HOME", scratch.path()), ("TMPDIR", scratch.path())])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| failed("cannot start a process", e))?;
    let kept = keeper.keep(child.id());
    let ended = std::thread::scope(|scope| {
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        scope.spawn(move || feed(stdin, input));
        let stdout = scope.spawn(move || said(stdout));
        let stderr = scope.spawn(move || said(stderr));
        let end = watch(&mut child, keeper, limits, scratch.path());
        let said = |reader: std::thread::ScopedJoinHandle<Vec<u8>>| reader.join().expect("a reader does not panic");
        end.map(|end| Ended { end, stdout: said(stdout), stderr: without(&said(stderr), scratch.path()) })
    });
    let ended = kept.and(ended).map_err(|e| failed("cannot wait for a process", e))?;
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
fn watch(child: &mut Child, keeper: &Keeper, limits: &Limits, scratch: &Path) -> std::io::Result<End> {
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
    end_group(pid(child))?;
    keeper.let_go(child.id())?;
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
    if super::linux::memory_of(group).is_some_and(|bytes| bytes > limits.memory_mib << 20) {
        return Some(End::Memory);
    }
    None
}

/// Whether a process has ended, where possible without taking note of it.
fn has_ended(child: &mut Child) -> std::io::Result<bool> {
    #[cfg(target_os = "linux")]
    let ended = super::linux::has_ended(pid(child))?;
    #[cfg(not(target_os = "linux"))]
    let ended = child.try_wait()?.is_some();
    Ok(ended)
}

/// Ends all processes of a group.
pub fn end_group(group: Pid) -> std::io::Result<()> {
    match killpg(group, Signal::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        // all that is left of the group has ended
        Err(Errno::EPERM) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id() as i32)
}

/// In the new process: takes the limits on and becomes the program. Comes back with an exit code and what is to be said where
/// that fails.
pub fn enter(plan: &str) -> (u8, String) {
    let failed = |why: String| (FAILED_CODE as u8, format!("{FAILED}{why}"));
    let (words, limits, parent) = match serde_json::from_str(plan) {
        Ok(Plan::Become { words, limits, parent }) => (words, limits, parent),
        Ok(Plan::Keep) => {
            keeper::watch();
            return (0, String::new());
        }
        Err(e) => return failed(format!("not a plan: {e}")),
    };
    #[cfg(target_os = "linux")]
    if let Err(why) = super::linux::confine(&limits) {
        return failed(why);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = limits;
    // A run that ended before it could be noticed leaves nobody to judge for.
    if nix::unistd::getppid().as_raw() as u32 != parent {
        return failed("the run has ended".to_string());
    }
    let (program, arguments) = words.split_first().expect("a command has a program");
    let error = Command::new(program).args(arguments).exec();
    failed(format!("`{program}`: {error}"))
}
