//! Removes what no finished stage reaches. Safe beside running pipelines.
//!
//! Roots are the manifests that stages stand at, and part records used lately: an interrupted run has parts and no manifest
//! yet. Publishing and using a part hold the gate shared, a collection holds it alone; so what is found reachable stays so
//! until the collection ends, and a part that a run has taken over counts as used from then on. While a run works on a stage,
//! a lease keeps the stage's parts.

use super::manifest::PointerFile;
use super::{Pointer, RECIPE, Store, fs, parse_record};
use mindgap_base::address::Address;
use mindgap_base::error::{Error, Result};
use mindgap_base::fingerprint::Fingerprint;
use serde::Serialize;
use std::collections::{BTreeSet, HashSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// What a collection may take.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Pipelines whose stages no longer count.
    pub forget: Vec<String>,
    /// Parts used less than this long ago stay, whether a finished stage reaches them or not.
    pub keep: Duration,
}

/// What a collection removes, or would.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Garbage {
    pub pipelines: Vec<String>,
    pub objects: u64,
    pub bytes: u64,
    pub records: u64,
    pub views: u64,
    /// Temporary files of writers that died, and their locks.
    pub leftovers: u64,
    /// Objects that stay, and their bytes.
    pub kept_objects: u64,
    pub kept_bytes: u64,
    /// Part records that no finished stage reaches and that stay because they were used lately.
    pub kept_recent: u64,
    /// Whatever is to go, by path or by key.
    #[serde(skip)]
    pub(super) found: usize,
    #[serde(skip)]
    pub(super) paths: Vec<PathBuf>,
}

impl Garbage {
    /// Whether there is anything to remove.
    pub fn is_any(&self) -> bool {
        self.found > 0
    }
}

/// What must stay.
#[derive(Default)]
struct Live {
    objects: HashSet<Address>,
    records: HashSet<Fingerprint>,
    manifests: HashSet<Address>,
}

impl Store {
    /// Finds what nothing refers to, and with `delete` removes it. Waits for parts that are being published just now. Without
    /// `delete` nothing is changed, so that a read-only store will do.
    ///
    /// Errors: a pointer or manifest that cannot be read. What it reached is unknown, so nothing is removed.
    pub fn collect_garbage(&self, rules: &Rules, delete: bool) -> Result<Garbage> {
        if let Some(remote) = &self.remote {
            return remote.collect_garbage(rules, delete, |address| self.get_manifest(address));
        }
        let _gate = match delete {
            true => Some(self.gate()?.close()?),
            false => fs::Gate::open_existing(&self.gate_path())?.map(fs::Gate::close).transpose()?,
        };
        let mut garbage = Garbage::default();
        let mut live = Live::default();
        self.mark_pipelines(rules, &mut live, &mut garbage)?;
        self.mark_records(rules, &mut live, &mut garbage)?;
        self.sweep_views(&live, &mut garbage)?;
        self.sweep_objects(&live, &mut garbage)?;
        self.sweep_leftovers(rules, &mut garbage)?;
        garbage.found = garbage.paths.len();
        if delete {
            // In the order found: who names comes before what is named.
            garbage.paths.iter().try_for_each(|path| fs::remove(path))?;
        }
        Ok(garbage)
    }

    fn mark_pipelines(&self, rules: &Rules, live: &mut Live, garbage: &mut Garbage) -> Result<()> {
        let files = self.pointer_files()?;
        let pipelines: BTreeSet<&str> = files.iter().map(|file| file.pipeline.as_str()).collect();
        if let Some(unknown) = rules.forget.iter().find(|name| !pipelines.contains(name.as_str())) {
            let known: Vec<&str> = pipelines.into_iter().collect();
            return Err(Error::usage(format!("the store knows no pipeline `{unknown}`"))
                .hint(format!("it knows {}", known.join(", "))));
        }
        for PointerFile { pipeline, stage, path } in &files {
            if rules.forget.contains(pipeline) {
                garbage.paths.push(path.clone());
                let view = self.view_path(pipeline, stage);
                garbage.paths.extend(fs::link_target(&view).map(|_| view));
                continue;
            }
            self.mark_stage(self.pointer(pipeline, stage)?, live).map_err(|e| {
                e.at(format!("stage `{stage}` of pipeline `{pipeline}`"))
                    .hint("nothing was removed; run the pipeline to make it again, or forget it with --forget")
            })?;
        }
        for name in pipelines.into_iter().filter(|name| rules.forget.iter().any(|forgotten| forgotten == name)) {
            garbage.pipelines.push(name.to_string());
            // The folders go with the last of what is in them: a pipeline of an earlier build may lie inside another.
            let holds_others = files.iter().any(|file| file.pipeline.starts_with(&format!("{name}/")));
            if !name.is_empty() && !holds_others {
                garbage.paths.extend(["stages", "tables"].map(|kind| self.root.join(kind).join(name)));
            }
        }
        Ok(())
    }

    fn mark_stage(&self, pointer: Option<Pointer>, live: &mut Live) -> Result<()> {
        let pointer = pointer.ok_or_else(|| Error::input("the stage's pointer cannot be read"))?;
        if !live.manifests.insert(pointer.manifest.clone()) {
            return Ok(());
        }
        let manifest = self.get_manifest(&pointer.manifest)?;
        live.objects.insert(pointer.manifest);
        for part in manifest.parts {
            live.objects.extend(part.objects().map(|(address, _)| address.clone()));
            live.records.insert(part.fingerprint);
        }
        Ok(())
    }

    /// Records that a manifest reaches, that a run works with or that were used lately stay, with their objects.
    fn mark_records(&self, rules: &Rules, live: &mut Live, garbage: &mut Garbage) -> Result<()> {
        let memo = self.root.join("memo");
        for family in fs::folders(&memo)? {
            let folder = memo.join(&family);
            let names = fs::list(&folder)?;
            let records: Vec<&String> = names.iter().filter(|name| *name != RECIPE && !name.starts_with('.')).collect();
            let leased = fs::is_locked(&self.lease_path(&family))?;
            let mut kept = 0;
            for name in &records {
                let path = folder.join(name);
                let record = fs::read_if_present(&path)?.and_then(|bytes| parse_record(&path, &bytes).ok());
                let reached = record.as_ref().is_some_and(|record| live.records.contains(&record.fingerprint));
                let age = SystemTime::now().duration_since(fs::modified(&path)?).unwrap_or_default();
                match record {
                    Some(record) if reached || leased || age < rules.keep => {
                        garbage.kept_recent += u64::from(!reached);
                        live.objects.extend(record.objects().map(|(address, _)| address.clone()));
                        kept += 1;
                    }
                    _ => {
                        garbage.records += 1;
                        garbage.paths.push(path);
                    }
                }
            }
            if kept == 0 {
                garbage.paths.push(folder);
            }
        }
        Ok(())
    }

    fn sweep_views(&self, live: &Live, garbage: &mut Garbage) -> Result<()> {
        let views = self.root.join("views");
        for name in fs::list(&views)? {
            if !Address::parse(&name).is_some_and(|address| live.manifests.contains(&address)) {
                garbage.views += 1;
                garbage.paths.push(views.join(name));
            }
        }
        Ok(())
    }

    fn sweep_objects(&self, live: &Live, garbage: &mut Garbage) -> Result<()> {
        for (name, path) in self.object_files()? {
            let bytes = fs::size(&path)?;
            if Address::parse(&name).is_some_and(|address| live.objects.contains(&address)) {
                garbage.kept_objects += 1;
                garbage.kept_bytes += bytes;
            } else {
                garbage.objects += 1;
                garbage.bytes += bytes;
                garbage.paths.push(path);
            }
        }
        Ok(())
    }

    /// Temporary files: none is being written while the gate is closed. Locks that nobody holds, and journals of parts that
    /// nobody has gone on with for a while.
    fn sweep_leftovers(&self, rules: &Rules, garbage: &mut Garbage) -> Result<()> {
        let mut folders = vec![self.root.clone()];
        for kind in ["objects", "memo", "stages", "tables"] {
            let folder = self.root.join(kind);
            folders.extend(fs::folders(&folder)?.into_iter().map(|name| folder.join(name)));
        }
        let mut found = Vec::new();
        for folder in folders {
            let names = fs::list(&folder)?.into_iter().filter(|name| name.starts_with(fs::TEMP_PREFIX));
            found.extend(names.map(|name| folder.join(name)));
        }
        let (locks, journals) = (self.root.join("locks"), self.root.join("journals"));
        for name in fs::list(&journals)? {
            let (path, lock) = (journals.join(&name), locks.join(&name));
            let is_old = age(&path)?.is_some_and(|age| age >= rules.keep);
            if is_old && (!lock.exists() || fs::try_lock(&lock)?.is_some()) {
                found.push(path);
            }
        }
        let work = self.root.join("work");
        for name in fs::list(&work)? {
            let path = work.join(&name);
            let is_old = age(&path)?.is_some_and(|age| age >= rules.keep);
            if is_old && !fs::is_locked(&self.lease_path(&name))? {
                found.push(path);
            }
        }
        for name in fs::list(&locks)?.into_iter().filter(|name| name != GATE) {
            let path = locks.join(name);
            if !fs::is_locked(&path)? {
                found.push(path);
            }
        }
        garbage.leftovers = found.len() as u64;
        garbage.paths.extend(found);
        Ok(())
    }

    /// The gate between publishing and collecting.
    pub fn gate(&self) -> Result<fs::Gate> {
        fs::Gate::open(&self.gate_path())
    }

    fn gate_path(&self) -> PathBuf {
        self.root.join("locks").join(GATE)
    }
}

/// How long ago something was written; none where it is gone by now: runs remove journals and work folders of their own, without the
/// gate.
fn age(path: &Path) -> Result<Option<Duration>> {
    match fs::modified(path) {
        Ok(modified) => Ok(Some(SystemTime::now().duration_since(modified).unwrap_or_default())),
        Err(error) if error.io_kind() == Some(ErrorKind::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

const GATE: &str = "gate";
