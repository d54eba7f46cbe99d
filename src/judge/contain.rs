//! contain: a process with limits and, on Linux, in a sandbox.
//!
//! This program starts itself again (`enter`), takes the limits on, and then becomes the program to be contained: nothing is
//! done between fork and exec. The process leads a group that nothing in it can leave, so that one signal ends all of it.

#[cfg(unix)]
mod keeper;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(unix)]
mod process;

#[cfg(unix)]
pub use process::{enter, run};

use mindgap_base::error::{Error, Result};
use serde::{Deserialize, Serialize};

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

#[cfg(not(unix))]
pub fn enter(_plan: &str) -> (u8, String) {
    (2, "a command as judge needs Linux or another Unix".to_string())
}
