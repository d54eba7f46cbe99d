//! What gets its name once it is whole: files, links and folders are made beside it under another, and renamed.

use super::{Appender, create_dir, error, os, remove, settle, sync_dir};
use crate::fault::{self, Change, announce};
use mindgap_base::error::Result;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// 16 hexadecimal digits that nobody else has.
pub(crate) fn nonce() -> String {
    // A new hasher's keys are random; so is its hash of nothing.
    format!("{:016x}", RandomState::new().build_hasher().finish())
}

/// A name beside the final one, for what is not whole yet. What bears it is removed unless it was renamed away.
struct Temp {
    path: PathBuf,
    renamed: bool,
}

/// How the names of unfinished files, links and folders begin. A process that is killed leaves them behind.
pub const TEMP_PREFIX: &str = ".tmp-";

impl Temp {
    /// Makes something new beside `path`; `make` fails with `AlreadyExists` where the name is taken. Names are random,
    /// because processes in containers, or on several hosts, may have equal ids.
    fn beside<T>(path: &Path, what: &str, make: impl Fn(&Path) -> std::io::Result<T>) -> Result<(Temp, T)> {
        let folder = path.parent().expect("what is published has a folder");
        create_dir(folder)?;
        loop {
            let temp = folder.join(format!("{TEMP_PREFIX}{}", nonce()));
            match make(&temp) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(error(&format!("create {what}"), path, e)),
                Ok(made) => return Ok((Temp { path: temp, renamed: false }, made)),
            }
        }
    }

    fn rename(mut self, to: &Path) -> std::io::Result<()> {
        announce(Change::Rename { from: &self.path, to }).and_then(|()| os::rename(&self.path, to))?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.renamed {
            let _ = remove(&self.path);
        }
    }
}

/// A file that is being written and has no name yet. It is removed unless it is published.
pub struct Draft {
    temp: Temp,
    file: Appender,
}

impl Draft {
    /// An empty file in the folder of `path`.
    pub fn beside(path: &Path) -> Result<Draft> {
        let (temp, file) = Temp::beside(path, "file", Appender::create_new)?;
        Ok(Draft { temp, file })
    }

    /// Writes bytes; they are not durable yet.
    pub fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.file.append(bytes)
    }

    /// Gives the file its name once it is durable: sync, rename, sync of the name's folder, which exists.
    /// `name` is the fault point's prefix.
    pub fn publish(self, path: &Path, name: &str) -> Result<()> {
        fault::point(&format!("{name}.written"));
        self.file.sync().map_err(|e| error("sync", path, e))?;
        fault::point(&format!("{name}.synced"));
        self.temp.rename(path).map_err(|e| error("rename into", path, e))?;
        settle(path)?;
        fault::point(&format!("{name}.renamed"));
        Ok(())
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.append(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Publishes `bytes` at `path` whole or not at all: temporary file, sync, rename, sync of the folder.
/// `name` is the fault point's prefix.
pub fn publish(path: &Path, bytes: &[u8], name: &str) -> Result<()> {
    let mut draft = Draft::beside(path)?;
    draft.append(bytes).map_err(|e| error("write", path, e))?;
    draft.publish(path, name)
}

/// Writes a file of the user's, whole or not at all. A file that is there already stays, and is an error.
pub fn publish_new(path: &Path, bytes: &[u8]) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(_) => Err(error("create file", path, ErrorKind::AlreadyExists.into())),
        Err(_) => publish(path, bytes, "file"),
    }
}

/// A file in `folder` to write and read that has no name: nothing is left of it, however the process ends.
pub fn nameless(folder: &Path) -> Result<File> {
    let create = |path: &Path| {
        announce(Change::Create(path)).and_then(|()| File::options().create_new(true).read(true).write(true).open(path))
    };
    Ok(Temp::beside(&folder.join("nameless"), "temporary file", create)?.1)
}

/// Points `link` at `target` (relative to the link's folder), replacing what was there in one step.
pub fn publish_link(link: &Path, target: &Path) -> Result<()> {
    let (temp, ()) = Temp::beside(link, "link", |path| symlink(path, target))?;
    temp.rename(link).map_err(|e| error("rename into", link, e))?;
    settle(link)?;
    fault::point("view.linked");
    Ok(())
}

/// Publishes a folder of links, whole or not at all, unless it is there. Links are (path inside the folder, target).
pub fn publish_folder(folder: &Path, links: &[(PathBuf, PathBuf)]) -> Result<()> {
    if folder.is_dir() {
        return settle(folder);
    }
    let create = |path: &Path| announce(Change::CreateDir(path)).and_then(|()| fs::create_dir(path));
    let (temp, ()) = Temp::beside(folder, "folder", create)?;
    let mut folders = BTreeSet::from([temp.path.clone()]);
    for (inside, target) in links {
        let link = temp.path.join(inside);
        let parent = link.parent().expect("a link has a folder").to_path_buf();
        if folders.insert(parent.clone()) {
            create_dir(&parent)?;
        }
        symlink(&link, target).map_err(|e| error("create link", &link, e))?;
    }
    // The names inside must be durable before the folder's own: a half view that is there would stay.
    folders.iter().try_for_each(|folder| sync_dir(folder))?;
    match temp.rename(folder) {
        Err(e) if !folder.is_dir() => Err(error("rename into", folder, e)),
        // Renamed, or another process built the same folder first.
        _ => settle(folder),
    }
}

fn symlink(link: &Path, target: &Path) -> std::io::Result<()> {
    announce(Change::Link { target, link }).and_then(|()| os::link(target, link))
}
