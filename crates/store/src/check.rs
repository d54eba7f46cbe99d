//! Looks at everything in a store and says what is wrong with it. Changes nothing but the time of damaged objects: they are
//! touched, so that the next run does not take them for good.

use super::manifest::PointerFile;
use super::parquet::{self, FileFacts};
use super::{Manifest, PartRecord, PartRef, Pointer, RECIPE, Store, Version, check_name, fs, parse_record};
use crate::table::{Declared, declared};
use bytes::Bytes;
use mindgap_base::address::Address;
use mindgap_base::error::Result;
use mindgap_base::fingerprint::Recipe;
use rayon::prelude::*;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Something wrong in a store.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    pub problem: Problem,
    pub path: PathBuf,
    pub what: String,
}

/// Kinds of findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Problem {
    /// An object's bytes do not hash to its name: flipped bytes, a truncated file.
    Damaged,
    /// A record or manifest names an object that is not there.
    Missing,
    /// A Parquet file has not the columns, rows or keys that its footer and its record say.
    Schema,
    /// A pointer, manifest, record, recipe or `VERSION` that does not parse, does not match its name, or was changed after
    /// it was written; pointers of a pipeline whose name is a path.
    Unreadable,
    /// A link of the human view that leads nowhere, or to another version than the pointer.
    View,
}

/// What a check looked at, and what it found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Checked {
    pub objects: u64,
    pub bytes: u64,
    pub records: u64,
    pub manifests: u64,
    pub findings: Vec<Finding>,
}

/// What is known of an object after it was read.
enum Object {
    Good { bytes: u64, parquet: Option<FileFacts> },
    Damaged,
}

impl Store {
    /// Reads every object, record, manifest and link. `progress` is called with objects done and objects in all.
    pub fn check(&self, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<Checked> {
        if let Some(remote) = &self.remote {
            return remote.check(progress);
        }
        let mut check = Check { store: self, tables: declared(), checked: Checked::default(), objects: HashMap::new() };
        check.objects(progress)?;
        check.version()?;
        check.records()?;
        check.pointers()?;
        check.checked.findings.sort_by(|a, b| (&a.path, &a.what).cmp(&(&b.path, &b.what)));
        check.checked.findings.dedup();
        Ok(check.checked)
    }
}

struct Check<'a> {
    store: &'a Store,
    tables: Vec<Declared>,
    checked: Checked,
    objects: HashMap<String, Object>,
}

impl Check<'_> {
    fn found(&mut self, problem: Problem, path: &Path, what: impl Into<String>) {
        self.checked.findings.push(Finding { problem, path: path.to_path_buf(), what: what.into() });
    }

    fn version(&mut self) -> Result<()> {
        if self.store.version()? != Version::Ours {
            self.found(Problem::Unreadable, &self.store.version_path(), "missing, cut short or changed");
        }
        Ok(())
    }

    /// Reads every object, on all threads.
    fn objects(&mut self, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<()> {
        let paths = self.store.object_files()?;
        let (done, total) = (AtomicU64::new(0), paths.len() as u64);
        let read = |(name, path): &(String, PathBuf)| -> Result<(String, PathBuf, Object)> {
            // Mapped, not read: weights may be larger than memory.
            let bytes = Bytes::from_owner(fs::map(path)?);
            let object = match Address::of(&bytes).as_str() == name {
                true => Object::Good { bytes: bytes.len() as u64, parquet: parquet::facts(bytes) },
                false => Object::Damaged,
            };
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);
            Ok((name.clone(), path.clone(), object))
        };
        for (name, path, object) in paths.par_iter().map(read).collect::<Result<Vec<_>>>()? {
            self.checked.objects += 1;
            match &object {
                Object::Good { bytes, parquet } => {
                    self.checked.bytes += bytes;
                    let wrong = parquet.as_ref().and_then(|facts| self.misfit(facts));
                    if let Some(what) = wrong {
                        self.found(Problem::Schema, &path, what);
                    }
                }
                Object::Damaged => {
                    self.found(Problem::Damaged, &path, "its bytes no longer hash to its name");
                    // A store that cannot be written to is reported all the same.
                    let _ = fs::touch(&path);
                }
            }
            self.objects.insert(name, object);
        }
        Ok(())
    }

    /// How a Parquet file differs from the table its footer names. A table of another schema version is let be.
    fn misfit(&self, facts: &FileFacts) -> Option<String> {
        let table = facts.footer.get("mindgap.table")?;
        let version = facts.footer.get("mindgap.schema_version")?;
        let Some(declared) = self.tables.iter().find(|declared| declared.name == table) else {
            return Some(format!("its footer names a table `{table}` that this build does not know"));
        };
        if declared.version.to_string() != *version {
            return None;
        }
        let there = |name: &str| facts.columns.iter().any(|(column, _)| column == name);
        let columns = declared.columns.iter().filter(|column| !column.optional || there(column.name));
        let wanted: Vec<(String, String)> =
            columns.map(|column| (column.name.to_string(), column.data_type.to_string())).collect();
        (facts.columns != wanted)
            .then(|| format!("its columns are not those of `{table}` v{version}: {}", first_difference(facts, &wanted)))
    }

    /// Every part record: it parses, and what it names is there and is what it says.
    fn records(&mut self) -> Result<()> {
        let memo = self.store.root.join("memo");
        for family in fs::folders(&memo)? {
            let folder = memo.join(&family);
            for name in fs::list(&folder)?.into_iter().filter(|name| !name.starts_with('.')) {
                let path = folder.join(&name);
                let Some(bytes) = fs::read_if_present(&path)? else { continue };
                if name == RECIPE {
                    let fits = |recipe: &Recipe| recipe.fingerprint().as_str() == family;
                    if !serde_json::from_slice::<Recipe>(&bytes).is_ok_and(|recipe| fits(&recipe)) {
                        self.found(Problem::Unreadable, &path, "not the recipe its folder is named by");
                    }
                    continue;
                }
                self.checked.records += 1;
                match parse_record(&path, &bytes) {
                    Ok(record) => self.record(&path, &record),
                    Err(wrong) => self.found(Problem::Unreadable, &path, wrong),
                }
            }
        }
        Ok(())
    }

    fn record(&mut self, path: &Path, record: &PartRecord) {
        for (address, bytes) in record.objects() {
            self.present(path, address, bytes);
        }
        for (table, parts) in &record.tables {
            for part in parts {
                self.part(path, table, part);
            }
        }
    }

    /// The object is there in the size that `path` says. A damaged one was reported already.
    fn present(&mut self, path: &Path, address: &Address, bytes: u64) {
        match self.objects.get(address.as_str()) {
            None => self.found(Problem::Missing, path, format!("object {address} is not there")),
            Some(Object::Good { bytes: found, .. }) if *found != bytes => {
                self.found(Problem::Unreadable, path, format!("object {address} has {found} bytes, not {bytes}"));
            }
            Some(_) => {}
        }
    }

    /// The Parquet file holds the rows that `path` says.
    fn part(&mut self, path: &Path, table: &str, part: &PartRef) {
        let Some(Object::Good { parquet, .. }) = self.objects.get(part.address.as_str()) else { return };
        let wrong = match parquet {
            None => Some("is not a Parquet file".to_string()),
            Some(facts) if facts.footer.get("mindgap.table").is_none_or(|name| name != table) => {
                Some(format!("is not a part of table `{table}`"))
            }
            Some(facts) if facts.rows != part.rows => {
                Some(format!("has {} rows, the record says {}", facts.rows, part.rows))
            }
            Some(facts) if facts.content != part.content => Some("holds other rows than the record says".to_string()),
            Some(_) => None,
        };
        if let Some(wrong) = wrong {
            self.found(Problem::Schema, path, format!("object {} {wrong}", part.address));
        }
    }

    /// Every pointer: its manifest is there and whole, and the view shows it.
    fn pointers(&mut self) -> Result<()> {
        let (mut seen, mut strays) = (BTreeSet::new(), BTreeSet::new());
        for PointerFile { pipeline, stage, path } in self.store.pointer_files()? {
            let is_stray = check_name(&pipeline).is_err();
            match self.store.pointer(&pipeline, &stage)? {
                None => self.found(Problem::Unreadable, &path, "not a pointer to a manifest"),
                Some(pointer) => {
                    if seen.insert(pointer.manifest.clone()) {
                        self.manifest(&path, &pointer);
                    }
                    if !is_stray {
                        self.view(&pipeline, &stage, &pointer);
                    }
                }
            }
            if is_stray {
                strays.insert(pipeline);
            }
        }
        strays.iter().for_each(|pipeline| self.stray(pipeline));
        Ok(())
    }

    /// Pointers of a pipeline whose name is no single file name. An earlier build made them; no run can use them.
    fn stray(&mut self, pipeline: &str) {
        let folder = self.store.root.join("stages").join(pipeline);
        let what = format!(
            "the pipeline's name `{pipeline}` is not one file name: give it another and run it, which reuses its parts, \
             then `mindgap gc --forget '{pipeline}' --delete`"
        );
        self.found(Problem::Unreadable, &folder, what);
    }

    fn manifest(&mut self, path: &Path, pointer: &Pointer) {
        self.checked.manifests += 1;
        match self.objects.get(pointer.manifest.as_str()) {
            None => self.found(Problem::Missing, path, format!("manifest {} is not there", pointer.manifest)),
            Some(Object::Damaged) => {}
            Some(Object::Good { .. }) => match self.store.get_manifest(&pointer.manifest) {
                Err(error) => self.found(Problem::Unreadable, path, error.to_string()),
                Ok(Manifest { parts, .. }) => parts.iter().for_each(|part| self.record(path, part)),
            },
        }
    }

    fn view(&mut self, pipeline: &str, stage: &str, pointer: &Pointer) {
        let link = self.store.view_path(pipeline, stage);
        let wanted = pointer.manifest.as_str();
        match std::fs::read_link(&link) {
            Err(_) => self.found(Problem::View, &link, "there is no view of the stage"),
            Ok(target) if target.file_name().is_none_or(|name| name != wanted) => {
                self.found(Problem::View, &link, "the view shows another version than the stage's newest");
            }
            Ok(_) => dead_links(&link).into_iter().for_each(|path| self.found(Problem::View, &path, "leads nowhere")),
        }
    }
}

/// Links in a view's folder, and its folders, whose target is gone.
fn dead_links(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return vec![folder.to_path_buf()] };
    let mut dead = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        match std::fs::metadata(&path) {
            Err(_) => dead.push(path),
            Ok(kind) if kind.is_dir() => dead.extend(dead_links(&path)),
            Ok(_) => {}
        }
    }
    dead
}

fn first_difference(facts: &FileFacts, wanted: &[(String, String)]) -> String {
    let found: BTreeMap<&String, &String> = facts.columns.iter().map(|(name, kind)| (name, kind)).collect();
    for (name, kind) in wanted {
        match found.get(name) {
            None => return format!("no column `{name}`"),
            Some(other) if *other != kind => return format!("`{name}` is {other}, not {kind}"),
            Some(_) => {}
        }
    }
    "it has columns too many, or in another order".to_string()
}
