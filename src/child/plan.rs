//! What this program is told when it is started again to become another one, or to look after those that it starts.

use super::Limits;
use super::keeper;
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// What the new process is told.
#[derive(Serialize, Deserialize)]
pub enum Plan {
    /// To become a program, within limits where some are given.
    Become { words: Vec<String>, limits: Option<Limits>, parent: u32 },
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
pub const FAILED_CODE: i32 = 125;
pub const FAILED: &str = "cannot contain the command: ";

/// Signals all processes of a group. One that has ended is no loss.
pub fn signal_group(group: Pid, signal: Signal) -> std::io::Result<()> {
    match killpg(group, signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        // all that is left of the group has ended
        Err(Errno::EPERM) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Ends all processes of a group.
pub fn end_group(group: Pid) -> std::io::Result<()> {
    signal_group(group, Signal::SIGKILL)
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
    if let Err(why) =
        super::linux::end_with_parent().and_then(|()| limits.map_or(Ok(()), |limits| super::linux::confine(&limits)))
    {
        return failed(why);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = limits;
    // A run that ended before it could be noticed leaves nobody to work for.
    if nix::unistd::getppid().as_raw() as u32 != parent {
        return failed("the run has ended".to_string());
    }
    let (program, arguments) = words.split_first().expect("a command has a program");
    let error = Command::new(program).args(arguments).exec();
    failed(format!("`{program}`: {error}"))
}
