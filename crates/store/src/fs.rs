//! Files: the only place that creates, syncs and renames them. Every error names its path.

mod lock;
mod os;
mod publish;

pub use lock::{Gate, is_locked, try_lock};
pub use os::read_at;
#[cfg(feature = "remote")]
pub(crate) use publish::nonce;
pub use publish::{Draft, TEMP_PREFIX, nameless, publish, publish_folder, publish_link, publish_new};

use super::fault::{Change, announce};
use mindgap_base::address::Address;
use mindgap_base::error::{Error, Result};
use std::collections::BTreeSet;
use std::fs;
pub use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

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
        ErrorKind::InvalidInput => Some("name a file; what comes from a pipe is to be written into one first"),
        ErrorKind::NotFound => Some("check the path; relative paths in a pipeline file start at that file's folder"),
        _ => None,
    };
    let kind_error = match source.kind() {
        ErrorKind::NotFound
        | ErrorKind::InvalidInput
        | ErrorKind::IsADirectory
        | ErrorKind::NotADirectory
        | ErrorKind::AlreadyExists => Error::input(format!("cannot {action}")),
        _ => Error::environment(format!("cannot {action}")),
    };
    let error = kind_error.at(path.display().to_string()).source(source);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// Refuses what is no file and may have no end: pipes, devices, sockets. A folder is found out by reading it.
fn check_kind(path: &Path) -> std::io::Result<()> {
    let kind = fs::metadata(path)?.file_type();
    match kind.is_file() || kind.is_dir() {
        true => Ok(()),
        false => Err(std::io::Error::new(ErrorKind::InvalidInput, "it is a pipe, a device or a socket, not a file")),
    }
}

pub fn read(path: &Path) -> Result<Vec<u8>> {
    check_kind(path).and_then(|()| fs::read(path)).map_err(|e| error("read file", path, e))
}

/// A file to read from the front; it may be a pipe.
pub fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|e| error("open file", path, e))
}

/// The hash of a file's bytes, which are read in pieces.
pub fn address(path: &Path) -> Result<Address> {
    check_kind(path).map_err(|e| error("read file", path, e))?;
    address_of(&open(path)?, path)
}

/// The hash of an open file's bytes, from where it stands.
pub fn address_of(file: &File, path: &Path) -> Result<Address> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file).map_err(|e| error("read file", path, e))?;
    Ok(hasher.finalize().into())
}

/// At most this many bytes of a file's end.
pub fn read_end(path: &Path, bytes: u64) -> Result<Vec<u8>> {
    let mut file = open(path)?;
    let failed = |e| error("read file", path, e);
    let from = size(path)?.saturating_sub(bytes);
    file.seek(SeekFrom::Start(from)).map_err(failed)?;
    let mut end = Vec::new();
    file.take(bytes).read_to_end(&mut end).map_err(failed)?;
    Ok(end)
}

/// Maps a file read only. Objects of the store are never changed in place. A checkpoint of the user's own may be: bytes
/// changed while mapped are found by whoever compares the hash afterwards, a file cut short ends the process (SIGBUS).
#[expect(unsafe_code, reason = "mapping a file")]
pub fn map(path: &Path) -> Result<memmap2::Mmap> {
    check_kind(path).map_err(|e| error("map file", path, e))?;
    let file = open(path)?;
    // SAFETY: the mapping is read only. Objects of the store are replaced as a whole, never rewritten. For a user's file that
    // cannot be promised; the same holds of every program that maps a checkpoint, and reading a 15 GB file into memory
    // beside its converted weights is the alternative.
    unsafe { memmap2::Mmap::map(&file) }.map_err(|e| error("map file", path, e))
}

/// A file without a name of this process's own, which nobody else can cut short; `folder` is where it lies.
#[expect(unsafe_code, reason = "as for any mapping")]
pub fn map_own(file: &File, folder: &Path) -> Result<memmap2::Mmap> {
    // SAFETY: the mapping is read only, and nobody else can open the file.
    unsafe { memmap2::Mmap::map(file) }.map_err(|e| error("map a file in", folder, e))
}

pub fn read_if_present(path: &Path) -> Result<Option<Vec<u8>>> {
    match check_kind(path).and_then(|()| fs::read(path)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(error("read file", path, e)),
    }
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

/// Names of the folders in a folder, sorted; an absent folder is empty.
pub fn folders(path: &Path) -> Result<Vec<String>> {
    Ok(list(path)?.into_iter().filter(|name| path.join(name).is_dir()).collect())
}

/// Size of a file in bytes.
pub fn size(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path).map_err(|e| error("look at", path, e))?.len())
}

/// True for a folder; where there is nothing, an error that says what it was wanted for.
pub fn is_dir(action: &str, path: &Path) -> Result<bool> {
    fs::metadata(path).map(|m| m.is_dir()).map_err(|e| error(action, path, e))
}

/// Bytes of all files below a folder, links not followed; none where one cannot be looked into.
pub fn bytes_below(folder: &Path) -> Option<u64> {
    let gone = |e: std::io::Error| (e.kind() == ErrorKind::NotFound).then_some(0);
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) => return gone(e),
    };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(what) if what.is_dir() => bytes_below(&entry.path()),
        Ok(what) => Some(what.len()),
        Err(e) => gone(e),
    };
    entries.map(|entry| size(entry.ok()?)).sum()
}

/// Whether a path leads to something; a dangling link leads to nothing.
pub fn is_there(path: &Path) -> bool {
    path.exists()
}

/// Where a symbolic link points; `None` where there is none.
pub fn link_target(path: &Path) -> Option<PathBuf> {
    fs::read_link(path).ok()
}

/// Creates a folder and those above it, durably: a synced file in a folder that a power cut takes away is lost with it.
pub fn create_dir(path: &Path) -> Result<()> {
    // Folders whose own names this process knows to be durable. One that is merely there may come from a process that died
    // before it synced.
    static DURABLE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let durable = || DURABLE.lock().unwrap_or_else(|e| e.into_inner());
    let there = path.is_dir();
    if there && durable().contains(path) {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if !there {
        parent.map_or(Ok(()), create_dir)?;
        let created = announce(Change::CreateDir(path)).and_then(|()| fs::create_dir(path));
        match created {
            // Another process was first.
            Err(e) if e.kind() == ErrorKind::AlreadyExists && path.is_dir() => {}
            other => other.map_err(|e| error("create folder", path, e))?,
        }
    }
    sync_dir(parent.unwrap_or(Path::new(".")))?;
    durable().insert(path.to_path_buf());
    Ok(())
}

/// Makes the names in a folder durable, as far as the system lets it ([`os`]).
pub fn sync_dir(folder: &Path) -> Result<()> {
    let synced = announce(Change::SyncDir(folder)).and_then(|()| os::sync_folder(folder));
    match synced {
        // The folder above a store need not be ours to open, and some file systems sync no folders.
        Err(e) if matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::InvalidInput) => Ok(()),
        other => other.map_err(|e| error("sync folder", folder, e)),
    }
}

/// Makes the name of something found there durable: whoever published it may have died before it synced the folder.
pub fn settle(path: &Path) -> Result<()> {
    sync_dir(path.parent().expect("what is published has a folder"))
}

/// Memory this process holds now, in bytes; none where the system does not say.
pub fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Bytes of memory that processes may still take: of the machine, or of this process's group where that is less. None where the
/// system does not tell.
pub fn available_bytes() -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    let number = |file: &str| fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok()?.trim().parse::<u64>().ok();
    let of_group = number("memory.max").map(|limit| limit.saturating_sub(number("memory.current").unwrap_or(0)));
    Some((kibibytes * 1024).min(of_group.unwrap_or(u64::MAX)))
}

/// Removes a file, a link, or a folder with all in it; one that is gone already is no error.
pub fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => {
            list(path)?.iter().try_for_each(|name| remove(&path.join(name)))?;
            announce(Change::Remove(path)).and_then(|()| fs::remove_dir(path))
        }
        Ok(found) => announce(Change::Remove(path)).and_then(|()| os::remove_file(path, &found)),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(error("remove", path, e)),
        _ => Ok(()),
    }
}

/// A file that grows at its end.
pub struct Appender {
    file: File,
    path: PathBuf,
}

impl Appender {
    /// Opens a file, creating it where there is none. Others may read it, as the umask allows: stores are shared.
    pub fn open(path: &Path) -> Result<Appender> {
        let file = announce(Change::Create(path)).and_then(|()| File::options().create(true).append(true).open(path));
        Ok(Appender { file: file.map_err(|e| error("create file", path, e))?, path: path.to_path_buf() })
    }

    /// Creates a file where there is none; one that is there is the error `AlreadyExists`.
    pub fn create_new(path: &Path) -> std::io::Result<Appender> {
        let file =
            announce(Change::Create(path)).and_then(|()| File::options().create_new(true).append(true).open(path))?;
        Ok(Appender { file, path: path.to_path_buf() })
    }

    /// The file itself, for a program that writes into it.
    pub fn into_file(self) -> File {
        self.file
    }

    /// Writes bytes; they are not durable yet.
    pub fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        announce(Change::Append(&self.path, bytes)).and_then(|()| self.file.write_all(bytes))
    }

    /// Makes what was appended durable.
    pub fn sync(&self) -> std::io::Result<()> {
        announce(Change::SyncFile(&self.path)).and_then(|()| self.file.sync_all())
    }

    /// Gives a file that is whole now its final name.
    pub fn publish(self, path: &Path) -> Result<()> {
        self.sync().map_err(|e| error("sync", &self.path, e))?;
        announce(Change::Rename { from: &self.path, to: path })
            .and_then(|()| os::rename(&self.path, path))
            .map_err(|e| error("rename into", path, e))?;
        settle(path)
    }
}

/// When a file was last written, or touched.
pub fn modified(path: &Path) -> Result<SystemTime> {
    fs::metadata(path).and_then(|found| found.modified()).map_err(|e| error("look at", path, e))
}

/// Marks a file as used now; one that is gone is no error.
pub fn touch(path: &Path) -> Result<()> {
    let touched = File::options().append(true).open(path).and_then(|file| file.set_modified(SystemTime::now()));
    match touched {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(error("mark as used", path, e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::watched;
    use std::cell::RefCell;
    use std::rc::Rc;

    /// Goal: a temporary name that another process takes at the last moment is left to it, whatever is being published.
    /// The watcher is that process: it is shown each change before it is made.
    #[test]
    fn a_temporary_name_is_never_shared() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path();
        type Publish = fn(&Path) -> Result<()>;
        let publishing: [(&str, Publish); 4] = [
            ("file", |path| publish(path, b"ours", "file")),
            ("link", |path| publish_link(path, Path::new("ours"))),
            ("folder", |path| publish_folder(path, &[("inside".into(), "ours".into())])),
            ("nameless", |path| nameless(path.parent().expect("a folder")).map(drop)),
        ];
        for (name, publish) in publishing {
            let taken = Rc::new(RefCell::new(Vec::new()));
            let theirs = taken.clone();
            let race = move |change: Change| {
                let (Change::Create(path) | Change::CreateDir(path) | Change::Link { link: path, .. }) = change else {
                    return Ok(());
                };
                let is_temporary = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(TEMP_PREFIX));
                if is_temporary && theirs.borrow().len() < 2 {
                    fs::write(path, "theirs")?;
                    theirs.borrow_mut().push(path.to_path_buf());
                }
                Ok(())
            };
            watched(race, || publish(&folder.join(name))).unwrap();
            assert_eq!(taken.borrow().len(), 2, "two names were taken before `{name}` got one");
            for path in taken.borrow().iter() {
                assert_eq!(fs::read(path).unwrap(), b"theirs", "`{name}` wrote to a file of another process");
            }
        }
        assert_eq!(fs::read(folder.join("file")).unwrap(), b"ours");
        assert_eq!(link_target(&folder.join("link")), Some("ours".into()));
        assert_eq!(link_target(&folder.join("folder/inside")), Some("ours".into()));
        assert_eq!(list(folder).unwrap().len(), 3 + 8, "what was published, and the names others took");
    }
}
