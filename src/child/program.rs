//! A program beside this one: started in a group of its own, told to end, and ended with this one however that ends.

use super::keeper::Keeper;
use super::plan::{Plan, end_group, signal_group};
use mindgap_store::fs::File;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::io::Result;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A running program. Dropped, it is ended at once, with all that it started.
pub struct Program {
    child: Child,
    /// Nothing of it is left.
    gone: bool,
}

/// How long a program may take to end that was told to.
const GRACE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(50);

impl Program {
    /// Starts `words`, with these variables beside this program's own. What it says goes to `log`. The thread that starts it must
    /// outlive it: on Linux the program ends with that.
    pub fn start(words: &[String], variables: &[(&str, String)], log: File) -> Result<Program> {
        let keeper = Keeper::get()?;
        let plan = Plan::Become { words: words.to_vec(), limits: None, parent: std::process::id() };
        let mut command = plan.command()?;
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stderr(log.try_clone()?).stdout(log);
        let program = Program { child: command.spawn()?, gone: false };
        keeper.keep(program.child.id())?;
        Ok(program)
    }

    /// How it ended; none while it runs. Of what it started nothing is left then.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        #[cfg(target_os = "linux")]
        if !self.gone {
            if !super::linux::has_ended(self.group())? {
                return Ok(None);
            }
            // The leader is not yet waited for, so its number is still the group's.
            end_group(self.group())?;
        }
        let Some(status) = self.child.try_wait()? else { return Ok(None) };
        if !self.gone {
            self.let_go()?;
        }
        Ok(Some(status))
    }

    /// Tells it to end, and waits until all of it has; what takes too long is ended.
    pub fn end(&mut self) -> Result<()> {
        if self.gone {
            return Ok(());
        }
        signal_group(self.group(), Signal::SIGTERM)?;
        let start = Instant::now();
        while start.elapsed() < GRACE {
            if self.ended()?.is_some() {
                return Ok(());
            }
            std::thread::sleep(LOOK);
        }
        self.kill()
    }

    fn kill(&mut self) -> Result<()> {
        if self.gone {
            return Ok(());
        }
        end_group(self.group())?;
        self.child.wait()?;
        self.let_go()
    }

    fn let_go(&mut self) -> Result<()> {
        self.gone = true;
        Keeper::get()?.let_go(self.child.id())
    }

    fn group(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = self.kill();
    }
}
