//! Advisory locks on files: one process alone, or many together. A lock ends with the process, however that ends.

use super::os::is_same_file;
use super::{File, create_dir, error};
use crate::fault::{Change, announce};
use mindgap_base::error::Result;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Takes an advisory lock on `path` without waiting. `None` while another process holds it; the lock ends with the
/// returned file, or with the process, however it ends.
pub fn try_lock(path: &Path) -> Result<Option<File>> {
    create_dir(path.parent().expect("a lock file has a folder"))?;
    let file = announce(Change::Create(path))
        .and_then(|()| File::options().create(true).truncate(false).write(true).open(path))
        .map_err(|e| error("open lock file", path, e))?;
    match file.try_lock() {
        // A collection may have removed the file in between: then this lock is on a name that others no longer see.
        Ok(()) if !is_same_file(&file, path) => try_lock(path),
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(e)) => Err(error("lock", path, e)),
    }
}

/// Whether a process holds the lock on `path`. Asks without a change to the disk.
pub fn is_locked(path: &Path) -> Result<bool> {
    match open_lock(path)?.map(|file| file.try_lock()) {
        None | Some(Ok(())) => Ok(false),
        Some(Err(fs::TryLockError::WouldBlock)) => Ok(true),
        Some(Err(fs::TryLockError::Error(e))) => Err(error("lock", path, e)),
    }
}

/// A lock file that is there. Reading must do where writing is not allowed; some network file systems want to write.
fn open_lock(path: &Path) -> Result<Option<File>> {
    match File::options().read(true).write(true).open(path).or_else(|_| File::open(path)) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(error("open lock file", path, e)),
    }
}

/// A lock that many may hold together and one may hold alone. Both wait.
pub struct Gate {
    file: File,
    path: PathBuf,
}

impl Gate {
    pub fn open(path: &Path) -> Result<Gate> {
        create_dir(path.parent().expect("a lock file has a folder"))?;
        let file = announce(Change::Create(path))
            .and_then(|()| File::options().create(true).truncate(false).write(true).open(path));
        Ok(Gate { file: file.map_err(|e| error("open lock file", path, e))?, path: path.to_path_buf() })
    }

    /// Opens it where it is there, without a change to the disk. Where it is not, nobody writes.
    pub fn open_existing(path: &Path) -> Result<Option<Gate>> {
        Ok(open_lock(path)?.map(|file| Gate { file, path: path.to_path_buf() }))
    }

    /// Holds it together with others, until the result is dropped.
    pub fn pass(self) -> Result<Gate> {
        self.file.lock_shared().map_err(|e| error("lock", &self.path, e))?;
        Ok(self)
    }

    /// Holds it alone, until the result is dropped.
    pub fn close(self) -> Result<Gate> {
        self.file.lock().map_err(|e| error("lock", &self.path, e))?;
        Ok(self)
    }
}
