//! The layout version of a store, in `<store>/VERSION`.

use super::{Store, fs};
use mindgap_base::address::Address;
use mindgap_base::error::{Error, Result};
use std::path::PathBuf;

/// Layouts 0, 3, 5 and 9 are never given out: one flipped bit makes them of 1. A later layout must also name its folders otherwise,
/// or a damaged `VERSION` of it would be taken for one of this layout.
const VERSION: &str = "mindgap store 1\n";

/// How the names of layouts begin.
const LAYOUT: &str = "mindgap store ";

/// What a store says of its layout, another one aside: that is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Ours,
    /// No file: a new store, or one that lost it.
    Absent,
    /// A file that once said this layout.
    Damaged,
}

impl Store {
    pub(super) fn version_path(&self) -> PathBuf {
        self.root.join("VERSION")
    }

    /// Which layout the store says it has. A file that is cut short, changed by an editor or by a flipped bit counts as damaged;
    /// so does any other that names no layout, if what lies beside it is a store's.
    ///
    /// Errors: the name of another layout, or a folder of something else.
    pub(super) fn version(&self) -> Result<Version> {
        let Some(found) = fs::read_if_present(&self.version_path())? else { return Ok(Version::Absent) };
        if found == VERSION.as_bytes() {
            return Ok(Version::Ours);
        }
        let text = String::from_utf8_lossy(&found);
        let names_layout = text.trim_end().strip_prefix(LAYOUT).is_some_and(|layout| layout.parse::<u32>().is_ok());
        if was_ours(&found) || (!names_layout && self.has_layout()) {
            return Ok(Version::Damaged);
        }
        let found: String = text.trim().chars().take(40).collect();
        let what = match names_layout {
            true => format!("store has layout `{found}`, this build reads `{}`", VERSION.trim_end()),
            false => format!("the folder is no store: its file `VERSION` says `{}`", found.escape_debug()),
        };
        Err(Error::input(what)
            .at(self.root.display().to_string())
            .hint("choose another store with --store or MINDGAP_STORE"))
    }

    /// Writes the version where it is not whole.
    pub(super) fn settle_version(&self) -> Result<()> {
        match self.version()? {
            Version::Ours => Ok(()),
            Version::Absent | Version::Damaged => fs::publish(&self.version_path(), VERSION.as_bytes(), "version"),
        }
    }

    /// An error where the store is no longer where it was opened: what is written there would be lost to it.
    pub(super) fn check_place(&self) -> Result<()> {
        match fs::is_there(&self.version_path()) {
            true => Ok(()),
            false => {
                Err(Error::environment("the store is gone from its place: it was moved or removed while it was in use")
                    .at(self.root.display().to_string())
                    .hint("move it back, or name its new place with --store, and run the same command again"))
            }
        }
    }

    /// Whether the folder holds what only a store holds: recipes by fingerprint or objects by address.
    pub(super) fn has_layout(&self) -> bool {
        let recipes = fs::folders(&self.root.join("memo")).unwrap_or_default();
        let is_hash = |name: &str| Address::parse(name).is_some();
        recipes.iter().any(|name| is_hash(name))
            || self.object_files().is_ok_and(|files| files.iter().any(|(name, _)| is_hash(name)))
    }
}

/// Whether these bytes are what a power cut, an editor or a flipped bit makes of the version.
fn was_ours(found: &[u8]) -> bool {
    let cut = VERSION.as_bytes().starts_with(found);
    let blank = found.iter().all(|&byte| byte == 0);
    let edited = found.trim_ascii() == VERSION.trim_end().as_bytes();
    let flipped: u32 = found.iter().zip(VERSION.bytes()).map(|(found, ours)| (found ^ ours).count_ones()).sum();
    cut || blank || edited || (found.len() == VERSION.len() && flipped == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a store whose `VERSION` holds `found` is taken for, and what opening it leaves there.
    fn opened(found: &[u8], holds_an_object: bool) -> Result<(Version, Vec<u8>)> {
        let folder = tempfile::tempdir().unwrap();
        if holds_an_object {
            Store::open(folder.path()).unwrap().put(b"rows").unwrap();
        }
        let path = folder.path().join("VERSION");
        std::fs::write(&path, found).unwrap();
        let version = Store { root: folder.path().to_path_buf(), remote: None }.version()?;
        assert!(
            Store::look_existing(folder.path()).is_ok() && std::fs::read(&path).unwrap() == found,
            "looking writes"
        );
        Store::open(folder.path())?;
        Ok((version, std::fs::read(&path).unwrap()))
    }

    /// Goal: a version that was ours is written anew, in a store that holds nothing yet, too.
    #[test]
    fn a_damaged_version_is_written_again() {
        let ours = VERSION.as_bytes();
        let cuts = (0..ours.len()).map(|cut| ours[..cut].to_vec());
        let flips = (0..ours.len() * 8).map(|bit| {
            let mut bytes = ours.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            bytes
        });
        let others = [&b"mindgap store 1\r\n"[..], b"\n mindgap store 1 \n", &[0; 16]].map(<[u8]>::to_vec);
        for found in cuts.chain(flips).chain(others) {
            assert_eq!(opened(&found, false).unwrap(), (Version::Damaged, ours.to_vec()), "{found:?}");
        }
        assert_eq!(opened(ours, false).unwrap(), (Version::Ours, ours.to_vec()));
    }

    /// Goal: what never was ours is written over only in a folder that is a store.
    #[test]
    fn anything_else_needs_a_store_around_it() {
        for found in [&b"mindgap store 1\nmindgap store 1\n"[..], b"garbage", b"1.2.3\n", b"\xFF\xFE"] {
            assert_eq!(opened(found, true).unwrap(), (Version::Damaged, VERSION.as_bytes().to_vec()), "{found:?}");
            let error = opened(found, false).unwrap_err().to_string();
            assert!(error.contains("the folder is no store") && error.contains("--store"), "{error}");
        }
    }

    /// Goal: another layout is refused, whatever lies beside it.
    #[test]
    fn another_layout_is_refused() {
        for found in ["mindgap store 2\n", "mindgap store 10\n", "mindgap store 11\n", "mindgap store 2\r\n"] {
            for holds_an_object in [false, true] {
                let error = opened(found.as_bytes(), holds_an_object).unwrap_err().to_string();
                assert!(error.contains(&format!("store has layout `{}`", found.trim())), "{error}");
            }
        }
    }
}
