//! A program within limits: started, fed, watched, ended with all that it started.

use super::keeper::Keeper;
use super::plan::{FAILED, FAILED_CODE, Plan, end_group};
use super::{End, Ended, Limits};
use mindgap_base::error::{Error, Result};
use mindgap_store::fs;
use nix::libc::{SIGXCPU, SIGXFSZ};
use nix::unistd::Pid;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::time::{Duration, Instant};

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
    let plan = Plan::Become { words: words.to_vec(), limits: Some(limits.clone()), parent: std::process::id() };
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

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id() as i32)
}
