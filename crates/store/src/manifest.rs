//! What a stage produced: the parts of its tables and its files, by address.

use super::seal::{seal, unseal};
use super::table::{COUNTED, LEFT_OUT, TAKEN};
use super::{Store, check_name, fs};
use mindgap_base::address::Address;
use mindgap_base::error::{Error, Result};
use mindgap_base::fingerprint::{Fingerprint, Recipe};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// One Parquet file of a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartRef {
    pub address: Address,
    /// blake3 of the file before its footer: the rows alone, whatever recipe the footer names. Consumers depend on this.
    pub content: Address,
    pub rows: u64,
    pub bytes: u64,
    /// First and last value of the key's first column; empty strings for an empty part.
    pub first: String,
    pub last: String,
    /// [`Row::counts`](crate::table::Row::counts); parts of earlier builds lack them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counts: BTreeMap<String, u64>,
}

/// The slice of a stage that a part covers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// First and last problem id, or step range as text.
    pub first: String,
    pub last: String,
    /// Sample indices `[from, to)`, where the stage samples.
    pub samples: Option<(u32, u32)>,
}

impl Span {
    /// Whether a problem lies between its first and its last.
    pub fn holds(&self, problem_id: &str) -> bool {
        self.first.as_str() <= problem_id && problem_id <= self.last.as_str()
    }
}

/// A finished part of a stage: the unit of work, of durability and of reuse.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartRecord {
    pub fingerprint: Fingerprint,
    pub span: Span,
    /// Parquet files by table name.
    pub tables: BTreeMap<String, Vec<PartRef>>,
    /// Other files by name: a policy's, a checkpoint's.
    pub files: BTreeMap<String, (Address, u64)>,
}

impl PartRecord {
    /// Every object this part consists of, with its size.
    pub fn objects(&self) -> impl Iterator<Item = (&Address, u64)> {
        let tables = self.tables.values().flatten().map(|part| (&part.address, part.bytes));
        tables.chain(self.files.values().map(|(address, bytes)| (address, *bytes)))
    }
}

/// A finished stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub kind: String,
    /// The recipe shared by all parts.
    pub recipe: Recipe,
    /// The table a reader means when it names the stage.
    pub main_table: Option<String>,
    pub parts: Vec<PartRecord>,
}

impl Manifest {
    /// Parts of one table, in key order of the stage's parts.
    pub fn table(&self, name: &str) -> Vec<PartRef> {
        self.parts.iter().filter_map(|part| part.tables.get(name)).flatten().cloned().collect()
    }

    pub fn table_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.parts.iter().flat_map(|part| part.tables.keys().map(String::as_str)).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Files of the last part: a policy is complete with its last span of steps.
    pub fn files(&self) -> BTreeMap<String, (Address, u64)> {
        self.parts.last().map(|part| part.files.clone()).unwrap_or_default()
    }

    pub fn rows(&self) -> u64 {
        self.main_table.as_deref().map_or(0, |table| self.table(table).iter().map(|part| part.rows).sum())
    }

    /// [`Row::counts`](crate::table::Row::counts) of a table. Empty where a part with rows has none: it is of an earlier build.
    pub fn counts(&self, table: &str) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for part in self.table(table).into_iter().filter(|part| part.rows > 0) {
            if part.counts.is_empty() {
                return BTreeMap::new();
            }
            part.counts.into_iter().for_each(|(name, count)| *counts.entry(name).or_default() += count);
        }
        counts
    }

    /// What is counted of the main table, and of those beside it that say more of its rows.
    pub fn main_counts(&self) -> BTreeMap<String, u64> {
        let mut counts = self.main_table.as_deref().map(|table| self.counts(table)).unwrap_or_default();
        COUNTED.into_iter().for_each(|table| counts.extend(self.counts(table)));
        counts
    }

    /// What became no row of the main table.
    pub fn left_out(&self) -> Option<LeftOut> {
        LEFT_OUT.into_iter().find_map(|table| {
            let mut reasons = self.counts(table);
            let taken = reasons.remove(TAKEN).unwrap_or_default();
            let rows = self.table(table).iter().map(|part| part.rows).sum::<u64>() - taken;
            (rows > 0).then_some(LeftOut { table, rows, reasons })
        })
    }

    /// The address of what was made, apart from how: equal rows and files give equal addresses.
    pub fn content(&self) -> Address {
        let tables: BTreeMap<&str, Vec<Address>> = self
            .table_names()
            .into_iter()
            .map(|name| (name, self.table(name).into_iter().map(|part| part.content).collect()))
            .collect();
        let bytes = serde_json::to_vec(&(tables, self.files())).expect("addresses are plain data");
        Address::of(&bytes)
    }
}

/// Rows of a stage's input that it made nothing of.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LeftOut {
    /// The table that has them, and says why.
    pub table: &'static str,
    pub rows: u64,
    /// How many for which reason.
    pub reasons: BTreeMap<String, u64>,
}

impl LeftOut {
    /// The commonest reasons with their counts, as people read them.
    pub fn why(&self) -> String {
        let mut reasons: Vec<(&String, &u64)> = self.reasons.iter().collect();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let named: Vec<String> =
            reasons.iter().take(NAMED).map(|(reason, count)| format!("{reason} ({count})")).collect();
        let more = if reasons.len() > NAMED { ", ..." } else { "" };
        named.join(", ") + more
    }
}

/// Reasons named to people, at most.
const NAMED: usize = 3;

/// Where a pipeline's stage stands: its newest manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pointer {
    pub fingerprint: Fingerprint,
    pub manifest: Address,
    /// Pointers of earlier builds lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

impl Pointer {
    /// The bytes of its file.
    pub(super) fn format(&self) -> Vec<u8> {
        seal(&serde_json::to_string(self).expect("a pointer is plain data")).into_bytes()
    }

    /// The pointer in a file, if its bytes are as they were written; those of earlier builds have no checksum.
    pub(super) fn parse(bytes: &[u8]) -> Option<Pointer> {
        serde_json::from_str(&unseal(bytes, "{\n  \"fingerprint\":").ok()?).ok()
    }
}

/// What a stage was made of, so that a later miss can be explained. Nothing is decided from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// Fingerprint of the recipe its parts share.
    pub recipe: Fingerprint,
    /// What says which parts there are, beyond recipe and inputs.
    pub cut: Recipe,
    /// The tables it read, by stage.
    pub inputs: BTreeMap<String, Input>,
}

/// A table that a stage read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// [`Manifest::content`].
    pub address: Address,
    pub rows: u64,
}

/// A pointer's file, and whose it is.
pub(super) struct PointerFile {
    pub pipeline: String,
    pub stage: String,
    pub path: PathBuf,
}

impl Store {
    /// Stores a manifest. What is remembered of its parts is durable by then.
    pub fn put_manifest(&self, manifest: &Manifest) -> Result<Address> {
        self.remember_recipe(&manifest.recipe)?;
        let bytes = serde_json::to_vec_pretty(manifest).expect("a manifest is plain data");
        let address = self.put(&bytes)?;
        super::fault::point("manifest.renamed");
        if let Some(remote) = &self.remote {
            remote.write_index(&manifest.recipe.fingerprint(), &self.root)?;
        }
        Ok(address)
    }

    pub fn get_manifest(&self, address: &Address) -> Result<Manifest> {
        let bytes = self.get(address)?;
        serde_json::from_slice(&bytes).map_err(|e| {
            Error::input("not a manifest of this version").at(self.object_path(address).display().to_string()).source(e)
        })
    }

    fn pointer_path(&self, pipeline: &str, stage: &str) -> PathBuf {
        self.root.join("stages").join(pipeline).join(format!("{stage}.json"))
    }

    /// The stage's pointer, if it ever finished. A pointer that does not parse counts as none: it can be made again.
    pub fn pointer(&self, pipeline: &str, stage: &str) -> Result<Option<Pointer>> {
        if let Some(remote) = &self.remote {
            return remote.pointer(pipeline, stage);
        }
        let bytes = fs::read_if_present(&self.pointer_path(pipeline, stage))?;
        Ok(bytes.and_then(|bytes| Pointer::parse(&bytes)))
    }

    /// The files of all pointers. Earlier builds took any text for a pipeline's name: their pointers may lie in a folder
    /// of a folder (of pipeline `team/exp`), or in none (of a pipeline with an empty name).
    pub(super) fn pointer_files(&self) -> Result<Vec<PointerFile>> {
        let stages = self.root.join("stages");
        let (mut files, mut open) = (Vec::new(), vec![String::new()]);
        while let Some(pipeline) = open.pop() {
            for name in fs::list(&stages.join(&pipeline))? {
                let path = stages.join(&pipeline).join(&name);
                if path.is_dir() {
                    open.push(if pipeline.is_empty() { name } else { format!("{pipeline}/{name}") });
                } else if let Some(stage) = name.strip_suffix(".json").filter(|_| !name.starts_with('.')) {
                    files.push(PointerFile { pipeline: pipeline.clone(), stage: stage.to_string(), path });
                }
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    /// The pointers of all pipelines that can be read.
    pub fn pointers(&self) -> Result<Vec<Pointer>> {
        if let Some(remote) = &self.remote {
            return Ok(remote.read_pointers("stages/")?.into_iter().map(|(.., pointer)| pointer).collect());
        }
        let mut pointers = Vec::new();
        for file in self.pointer_files()? {
            pointers.extend(self.pointer(&file.pipeline, &file.stage)?);
        }
        Ok(pointers)
    }

    /// Errors: a name that is no single file or folder of the store.
    pub fn set_pointer(&self, pipeline: &str, stage: &str, pointer: &Pointer) -> Result<()> {
        for name in [pipeline, stage] {
            check_name(name).map_err(|wrong| Error::internal(format!("name `{name}` {wrong}")))?;
        }
        if let Some(remote) = &self.remote {
            return remote.set_pointer(pipeline, stage, pointer);
        }
        let path = self.pointer_path(pipeline, stage);
        let bytes = pointer.format();
        match fs::read_if_present(&path)?.is_some_and(|found| found == bytes) {
            true => fs::settle(&path),
            false => fs::publish(&path, &bytes, "pointer"),
        }
    }
}
