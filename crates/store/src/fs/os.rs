//! What systems do differently.
//!
//! Everywhere the bytes of a file are durable before it gets its name, and the name is given in one step. On Unix names are durable
//! when their folder is synced. Windows keeps names in the file system's own journal: after a power cut the latest ones may be
//! missing, which is work to be done again, and none is half there. There a link to a folder is switched in two steps where the
//! system does not replace it in one, and whoever may make no symbolic links gets hard links to files and junctions to folders.

#[cfg(unix)]
pub use unix::*;
#[cfg(windows)]
pub use windows::*;

#[cfg(unix)]
mod unix {
    use std::fs::{self, File, Metadata};
    use std::io::Result;
    use std::os::unix::fs::{FileExt, MetadataExt};
    use std::path::Path;

    /// Reads at a place, which leaves the file's own place to others.
    pub fn read_at(file: &File, buffer: &mut [u8], at: u64) -> Result<usize> {
        file.read_at(buffer, at)
    }

    /// Whether an open file is the one that bears the name.
    pub fn is_same_file(file: &File, path: &Path) -> bool {
        let id = |found: Metadata| (found.dev(), found.ino());
        let (open, named) = (file.metadata().map(id), fs::metadata(path).map(id));
        matches!((open, named), (Ok(open), Ok(named)) if open == named)
    }

    /// A link to a file or a folder; `target` starts at the link's folder.
    pub fn link(target: &Path, link: &Path) -> Result<()> {
        std::os::unix::fs::symlink(target, link)
    }

    /// Makes the names in a folder durable.
    pub fn sync_folder(folder: &Path) -> Result<()> {
        File::open(folder)?.sync_all()
    }

    /// Replaces what bears the name `to` in one step.
    pub fn rename(from: &Path, to: &Path) -> Result<()> {
        fs::rename(from, to)
    }

    /// Removes a file or a link.
    pub fn remove_file(path: &Path, _found: &Metadata) -> Result<()> {
        fs::remove_file(path)
    }
}

#[cfg(windows)]
mod windows {
    use std::fs::{self, File, Metadata};
    use std::io::Result;
    use std::os::windows::fs::{FileExt, FileTypeExt, OpenOptionsExt, symlink_dir, symlink_file};
    use std::path::{Path, PathBuf};

    /// The error of one who may make no symbolic links: neither an administrator nor in developer mode.
    const PRIVILEGE_NOT_HELD: i32 = 1314;
    /// What it takes to open a folder.
    const BACKUP_SEMANTICS: u32 = 0x0200_0000;

    /// Reads at a place. The file's own place moves with it, so nobody may write there any more.
    pub fn read_at(file: &File, buffer: &mut [u8], at: u64) -> Result<usize> {
        file.seek_read(buffer, at)
    }

    pub fn is_same_file(file: &File, path: &Path) -> bool {
        let open = file.try_clone().and_then(same_file::Handle::from_file);
        let named = same_file::Handle::from_path(path);
        matches!((open, named), (Ok(open), Ok(named)) if open == named)
    }

    pub fn link(target: &Path, link: &Path) -> Result<()> {
        let found: PathBuf = link.parent().unwrap_or(Path::new("")).join(target);
        // Relative targets are written with the separators of the system, or they lead nowhere.
        let written: PathBuf = target.components().collect();
        let is_folder = found.is_dir();
        let linked = if is_folder { symlink_dir(&written, link) } else { symlink_file(&written, link) };
        match linked {
            Err(e) if e.raw_os_error() == Some(PRIVILEGE_NOT_HELD) && is_folder => {
                junction::create(found.canonicalize()?, link)
            }
            Err(e) if e.raw_os_error() == Some(PRIVILEGE_NOT_HELD) => fs::hard_link(found.canonicalize()?, link),
            other => other,
        }
    }

    /// What of it the system does for those who ask: not every file system flushes folders.
    pub fn sync_folder(folder: &Path) -> Result<()> {
        File::options().write(true).custom_flags(BACKUP_SEMANTICS).open(folder)?.sync_all()
    }

    pub fn rename(from: &Path, to: &Path) -> Result<()> {
        let failed = match fs::rename(from, to) {
            Ok(()) => return Ok(()),
            Err(e) => e,
        };
        match leads_to_folder(to) {
            true => fs::remove_dir(to).and_then(|()| fs::rename(from, to)),
            false => Err(failed),
        }
    }

    pub fn remove_file(path: &Path, found: &Metadata) -> Result<()> {
        match found.file_type().is_symlink_dir() {
            true => fs::remove_dir(path),
            false => fs::remove_file(path),
        }
    }

    /// Whether a name is a link to a folder.
    fn leads_to_folder(path: &Path) -> bool {
        fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_symlink_dir())
    }
}
