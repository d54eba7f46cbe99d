//! Keeps collections and workers apart: a collection closes the gate and then looks for leases, a worker takes a lease and then looks
//! at the gate. So one of the two sees the other.

use super::Remote;
use mindgap_base::error::{Error, Result};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

const GATES: &str = "gates/";
const GATE: &str = "gates/gc";
/// A gate that was closed longer ago was left by a process that died.
const GATE_TIME: Duration = Duration::from_secs(60 * 60);

/// Nobody begins a part while it is held.
pub(crate) struct Gate {
    remote: Arc<Remote>,
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = self.remote.bucket.delete(vec![GATE.to_string()]);
    }
}

impl Remote {
    /// Lets a collection through, alone. Errors: another collection, or workers.
    pub(crate) fn close_gate(self: &Arc<Remote>) -> Result<Gate> {
        let content = self.content("collecting".into(), 0);
        if self.bucket.create(GATE, &content)?.is_none() {
            let (now, entries) = self.now_and(GATES)?;
            let left = entries.into_iter().find(|entry| entry.key == GATE && entry.age(now) > GATE_TIME);
            let taken = left.map_or(Ok(None), |left| self.bucket.replace(GATE, &content, &left.version))?;
            taken.ok_or_else(|| self.collecting("wait for it to end; one that died is taken over after an hour"))?;
        }
        let gate = Gate { remote: self.clone() };
        let workers = self.workers()?;
        let owners: BTreeSet<&str> = workers.iter().map(|worker| worker.owner.as_str()).collect();
        match owners.len() {
            0 => Ok(gate),
            count => Err(Error::environment(format!("workers are at work on the store: {count}"))
                .at(owners.into_iter().collect::<Vec<_>>().join(", "))
                .hint("collect when they are done")),
        }
    }

    /// Refuses to begin a part while a collection is at work. Called with a lease held.
    pub(super) fn check_gate(&self) -> Result<()> {
        if self.bucket.get(GATE)?.is_none() {
            return Ok(());
        }
        let (now, entries) = self.now_and(GATES)?;
        match entries.iter().any(|entry| entry.key == GATE && entry.age(now) <= GATE_TIME) {
            true => Err(self.collecting("run the same command again when `mindgap gc` has ended")),
            false => Ok(()),
        }
    }

    fn collecting(&self, hint: &str) -> Error {
        Error::environment("a collection is at work on the store").at(self.bucket.url(GATE)).hint(hint)
    }
}
