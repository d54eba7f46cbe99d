//! A process beside the run that ends what the run leaves when it is killed: it is told of every group that begins and ends, and
//! ends those that are left when it is told no more, because the pipe to it closes with the run, however that ends.

use super::plan::{Plan, end_group};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::io::{BufRead, Result, Write};
use std::process::{ChildStdin, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

/// The run's end of the pipe.
pub struct Keeper(Mutex<ChildStdin>);

impl Keeper {
    /// The one of this process, started when it is first asked for.
    pub fn get() -> Result<&'static Keeper> {
        static KEEPER: OnceLock<Keeper> = OnceLock::new();
        static STARTING: Mutex<()> = Mutex::new(());
        let _one_at_a_time = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(keeper) = KEEPER.get() {
            return Ok(keeper);
        }
        let mut command = Plan::Keep.command()?;
        let started = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let pipe = started?.stdin.take().expect("the pipe was asked for");
        Ok(KEEPER.get_or_init(|| Keeper(Mutex::new(pipe))))
    }

    /// A group begins.
    pub fn keep(&self, group: u32) -> Result<()> {
        self.tell(&format!("+{group}\n"))
    }

    /// A group has ended: its number may soon be another's.
    pub fn let_go(&self, group: u32) -> Result<()> {
        self.tell(&format!("-{group}\n"))
    }

    /// In one piece: lines of several threads do not mix.
    fn tell(&self, line: &str) -> Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes())
    }
}

/// In the new process: listens until the run has ended, and ends what it left.
pub fn watch() {
    let mut groups = BTreeSet::new();
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let (sign, number) = line.split_at_checked(1).unwrap_or_default();
        // a group of its own, and none that means this one, or everybody
        let Some(group) = number.parse::<i32>().ok().filter(|group| *group > 1) else { continue };
        match sign {
            "+" => groups.insert(group),
            _ => groups.remove(&group),
        };
    }
    for group in groups {
        // one that has ended meanwhile is no loss
        let _ = end_group(Pid::from_raw(group));
    }
}
