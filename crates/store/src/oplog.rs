//! The log of runs: one file per run, one JSON line per event, append-only.

use super::seal::{seal, unseal};
use super::{Store, fs};
use mindgap_base::error::Result;
use serde_json::Value;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// An open run log.
pub struct Oplog {
    file: fs::Appender,
    path: PathBuf,
}

impl Oplog {
    /// Appends one event, an object whose first field is `event`. Lines are whole or, after a crash, the last one is ignored by
    /// readers; so is one that was changed after it was written.
    pub fn append(&mut self, event: &Value) -> Result<()> {
        let line = format!("{}\n", seal(&event.to_string()));
        self.file.append(line.as_bytes()).map_err(|e| fs::error("append to run log", &self.path, e))
    }

    /// Where it is. Logs of other programs that a run starts lie beside it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Seconds since 1970, for events. Never part of a fingerprint.
    pub fn now() -> f64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
    }
}

impl Store {
    /// Starts the log of a run.
    pub fn start_log(&self) -> Result<Oplog> {
        let folder = self.root.join("runs");
        fs::create_dir(&folder)?;
        loop {
            let path = folder.join(format!("{:017.6}-{}.jsonl", Oplog::now(), std::process::id()));
            match fs::Appender::create_new(&path) {
                // A process of this id, in another container, began in the same microsecond.
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(fs::error("create file", &path, e)),
                Ok(file) => return Ok(Oplog { file, path }),
            }
        }
    }

    /// Events of every run, oldest run first.
    pub fn logs(&self) -> Result<Vec<Vec<Value>>> {
        let folder = self.root.join("runs");
        let mut runs = Vec::new();
        for name in fs::list(&folder)?.into_iter().filter(|name| name.ends_with(".jsonl")) {
            let bytes = fs::read(&folder.join(name))?;
            let text = String::from_utf8_lossy(&bytes);
            runs.push(text.lines().filter_map(parse).collect());
        }
        Ok(runs)
    }
}

/// The event in a line, if it is as it was written; lines of earlier builds have no checksum.
fn parse(line: &str) -> Option<Value> {
    serde_json::from_str(&unseal(line.as_bytes(), "{\"event\":").ok()?).ok()
}
