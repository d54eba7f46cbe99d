//! Files: the only place that creates, syncs and renames them. Every error names its path.

use super::fault;
use crate::base::address::Address;
use crate::base::error::{Error, Result};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// What went wrong with a path, and what usually helps.
pub fn error(action: &str, path: &Path, source: std::io::Error) -> Error {
    let hint = match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Some("free some space and run the same command again: finished parts are kept")
        }
        ErrorKind::PermissionDenied => {
            Some("check who owns the folder, or choose another store with --store or MINDGAP_STORE")
        }
        ErrorKind::ReadOnlyFilesystem => Some("choose a writable store with --store or MINDGAP_STORE"),
        ErrorKind::AlreadyExists => Some("remove it first, or choose another folder: nothing is overwritten"),
        ErrorKind::NotFound => Some("check the path; relative paths in a pipeline file start at that file's folder"),
        _ => None,
    };
    let kind_error = match source.kind() {
        ErrorKind::NotFound | ErrorKind::IsADirectory | ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
            Error::input(format!("cannot {action}"))
        }
        _ => Error::environment(format!("cannot {action}")),
    };
    let error = kind_error.at(path.display().to_string()).source(source);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|e| error("read file", path, e))
}

/// The hash of a file's bytes, which are read in pieces.
pub fn address(path: &Path) -> Result<Address> {
    let mut hasher = blake3::Hasher::new();
    let file = File::open(path).map_err(|e| error("open file", path, e))?;
    hasher.update_reader(file).map_err(|e| error("read file", path, e))?;
    Ok(hasher.finalize().into())
}

/// Maps a file read only. It must not be changed in place while mapped; objects of the store never are.
pub fn map(path: &Path) -> Result<memmap2::Mmap> {
    let file = std::fs::File::open(path).map_err(|e| error("open file", path, e))?;
    // SAFETY: the mapping is read only, and files that are mapped are replaced as a whole, never rewritten.
    unsafe { memmap2::Mmap::map(&file) }.map_err(|e| error("map file", path, e))
}

pub fn read_if_present(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(error("read file", path, e)),
    }
}

pub fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| error("create folder", path, e))
}

/// Names in a folder, sorted; an absent folder is empty.
pub fn list(path: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(error("list folder", path, e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| error("list folder", path, e))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Publishes `bytes` at `path` whole or not at all: temp file, sync, rename, sync of the folder.
/// `name` is the fault point's prefix.
pub fn publish(path: &Path, bytes: &[u8], name: &str) -> Result<()> {
    let folder = path.parent().expect("a published file has a folder");
    create_dir(folder)?;
    let mut temp = temp_in(folder)?;
    temp.write_all(bytes).map_err(|e| error("write", path, e))?;
    fault::point(&format!("{name}.written"));
    temp.as_file().sync_all().map_err(|e| error("sync", path, e))?;
    fault::point(&format!("{name}.synced"));
    temp.persist(path).map_err(|e| error("rename into", path, e.error))?;
    sync_dir(folder)?;
    fault::point(&format!("{name}.renamed"));
    Ok(())
}

/// Writes a file of the user's, whole or not at all. A file that is there already stays, and is an error.
pub fn publish_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create_dir(folder)?;
    let mut temp = temp_in(folder)?;
    temp.write_all(bytes).map_err(|e| error("write", path, e))?;
    temp.as_file().sync_all().map_err(|e| error("sync", path, e))?;
    temp.persist_noclobber(path).map_err(|e| error("create file", path, e.error))?;
    sync_dir(folder)
}

fn temp_in(folder: &Path) -> Result<tempfile::NamedTempFile> {
    tempfile::Builder::new()
        .prefix(".tmp-")
        // Others may read, as the umask allows: stores are shared.
        .permissions(fs::Permissions::from_mode(0o666))
        .tempfile_in(folder)
        .map_err(|e| error("create a temporary file in", folder, e))
}

/// Points `link` at `target` (relative to the link's folder), replacing what was there in one step.
pub fn publish_link(link: &Path, target: &Path) -> Result<()> {
    let folder = link.parent().expect("a link has a folder");
    create_dir(folder)?;
    let temp = folder.join(format!(".tmp-link-{}", std::process::id()));
    let _ = fs::remove_file(&temp);
    std::os::unix::fs::symlink(target, &temp).map_err(|e| error("create link", &temp, e))?;
    fs::rename(&temp, link).map_err(|e| error("rename into", link, e))?;
    sync_dir(folder)?;
    fault::point("view.linked");
    Ok(())
}

pub fn sync_dir(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|f| f.sync_all()).map_err(|e| error("sync folder", folder, e))
}

/// Takes an advisory lock on `path` without waiting. `None` while another process holds it; the lock ends with the
/// returned file, or with the process, however it ends.
pub fn try_lock(path: &Path) -> Result<Option<File>> {
    create_dir(path.parent().expect("a lock file has a folder"))?;
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(|e| error("open lock file", path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(e)) => Err(error("lock", path, e)),
    }
}
