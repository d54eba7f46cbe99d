//! child: other programs in processes of their own: within limits and, on Linux, in a sandbox; or beside this one until they are told
//! to end.
//!
//! This program starts itself again (`enter`), takes limits on where there are some, and then becomes the other program: nothing is
//! done between fork and exec. The process leads a group, which a sandbox keeps it from leaving, so that one signal ends all of it.
//! A keeper beside the run ends what a killed run leaves.

#[cfg(unix)]
mod keeper;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(unix)]
mod plan;
#[cfg(unix)]
mod process;
#[cfg(unix)]
mod program;

#[cfg(unix)]
pub use plan::enter;
#[cfg(unix)]
pub use process::run;
#[cfg(unix)]
pub use program::Program;

use mindgap_base::error::{Error, Result};
use mindgap_store::fs;
use serde::{Deserialize, Serialize};
use std::path::Path;

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

/// Whether a program of this name is where programs are looked for.
pub fn is_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| fs::is_there(&folder.join(program)))
}

/// Whether there is a program of this name, or at this path.
pub fn is_program(program: &str) -> bool {
    if program.contains('/') { fs::is_there(Path::new(program)) } else { is_on_path(program) }
}

/// The last lines of a log that say something.
pub fn last_lines(log: &Path, count: usize) -> Vec<String> {
    let lines = lines_at_end(log, 8 << 10);
    lines[lines.len().saturating_sub(count)..].to_vec()
}

/// The end of a log: its last lines, and above them the last error that is named further up, as Python's programs do. What they
/// say behind it is about their own end.
pub fn end_of_log(log: &Path) -> String {
    /// Lines that are told.
    const TOLD: usize = 15;
    /// Errors that only say of another that it was.
    const OF_OTHERS: [&str; 2] = ["EngineDeadError", "ChildFailedError"];
    let is_cause = |line: &&String| line.contains("Error: ") && !OF_OTHERS.iter().any(|other| line.contains(other));
    let last = last_lines(log, TOLD);
    let error = lines_at_end(log, 256 << 10).iter().rfind(is_cause).filter(|error| !last.contains(error)).cloned();
    let above = error.into_iter().flat_map(|error| [error, "..".to_string()]);
    above.chain(last).map(|line| format!("\n    {line}")).collect()
}

/// Lines that say something, in so many bytes of a log's end.
fn lines_at_end(log: &Path, bytes: u64) -> Vec<String> {
    let text = fs::read_end(log, bytes).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    // Programs draw progress bars over each other.
    let lines = text.split(['\n', '\r']).map(|line| line.chars().filter(|c| !c.is_control()).collect::<String>());
    lines.filter(|line| !line.trim().is_empty()).collect()
}

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

/// Processes are started, limited and ended as Unix does it.
#[cfg(not(unix))]
pub fn run(words: &[String], _input: &[u8], _limits: &Limits) -> Result<Ended> {
    Err(Error::environment("a command as judge needs Linux or another Unix")
        .at(words.join(" "))
        .hint("on Windows it can be had in the Linux subsystem (WSL)"))
}

/// Never started: see [`Program::start`].
#[cfg(not(unix))]
pub struct Program(std::convert::Infallible);

#[cfg(not(unix))]
impl Program {
    pub fn start(_words: &[String], _variables: &[(&str, String)], _log: fs::File) -> std::io::Result<Program> {
        Err(std::io::Error::other(
            "programs beside this one need Linux or another Unix; on Windows: its Linux subsystem (WSL)",
        ))
    }

    pub fn ended(&mut self) -> std::io::Result<Option<std::process::ExitStatus>> {
        match self.0 {}
    }

    pub fn end(&mut self) -> std::io::Result<()> {
        match self.0 {}
    }
}

#[cfg(not(unix))]
pub fn enter(_plan: &str) -> (u8, String) {
    (2, "a command as judge needs Linux or another Unix".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: of an engine whose worker died, the worker's error is told, though much was said behind it.
    #[test]
    fn the_end_of_a_log_names_the_cause() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let cause = "(Worker) RuntimeError: no kernel for heads of 16";
        let rest: String = (0..20).map(|i| format!("INFO shutdown {i}\n")).collect();
        let write = |text: String| fs::publish(&log, text.as_bytes(), "log").unwrap();
        write(format!("begun\n{cause}\n(API) EngineDeadError: see above\n{rest}"));
        let told = end_of_log(&log);
        assert!(told.starts_with(&format!("\n    {cause}\n    ..\n    INFO shutdown 5\n")), "{told}");
        // One that is among the last lines is told once.
        write(format!("begun\n{cause}\nended\n"));
        assert_eq!(end_of_log(&log), format!("\n    begun\n    {cause}\n    ended"));
    }
}
