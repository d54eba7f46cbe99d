//! Runs what is missing, publishes it, records it. The only module that does.
//!
//! Order of publishing, so that nothing ever reads as complete but isn't: objects, then the part's record, then the stage's
//! manifest, then its pointer and view.

use super::plan::{StagePlan, stage_plan};
use super::session::{Bound, Session, manifest};
use super::spec::{Pipeline, StageSpec};
use crate::base::address::Address;
use crate::base::error::{Error, Kind, Result};
use crate::base::fingerprint::Fingerprint;
use crate::stage::{Context, Output, Tick};
use crate::store::parquet::Footer;
use crate::store::{Manifest, Oplog, PartRecord, Pointer, Store};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What happens during a run, for whoever shows it.
pub enum Event<'a> {
    StageStarted {
        plan: &'a StagePlan,
    },
    PartStarted {
        stage: &'a str,
        index: usize,
        count: usize,
    },
    Progress {
        stage: &'a str,
        tick: Tick,
    },
    /// Another process computes the part.
    Waiting {
        stage: &'a str,
    },
    StageDone {
        outcome: &'a Outcome,
    },
    /// A damaged object was found and dropped; the run starts over and makes it again.
    Repairing {
        address: &'a Address,
    },
}

/// What became of a stage.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    pub name: String,
    pub kind: &'static str,
    pub state: &'static str,
    pub fingerprint: Fingerprint,
    pub address: Address,
    pub rows: u64,
    pub parts: usize,
    pub computed_parts: usize,
    pub seconds: f64,
}

/// How a run is to be done.
pub struct Options<'a> {
    pub threads: usize,
    pub cancel: &'a AtomicBool,
    pub observer: &'a (dyn Fn(Event) + Sync),
}

/// Damaged objects are dropped and made again at most this often per run.
const REPAIRS: usize = 3;

/// Runs the selected stages and all they need.
pub fn run(pipeline: &Pipeline, store: &Store, names: &[String], options: &Options) -> Result<Vec<Outcome>> {
    let mut log = store.start_log()?;
    log.append(&json!({"event": "run", "time": Oplog::now(), "pipeline": pipeline.name, "stages": names,
        "file": pipeline.source.path, "text": pipeline.source.text, "version": env!("CARGO_PKG_VERSION")}))?;
    for attempt in 0.. {
        let mut runner =
            Runner { session: Session::new(pipeline, store)?, options, log: &mut log, outcomes: Vec::new() };
        let result = runner.run(names);
        let Runner { session, outcomes, .. } = runner;
        let Err(error) = result else {
            log.append(&json!({"event": "done", "time": Oplog::now()}))?;
            return Ok(outcomes);
        };
        // An error may come from a damaged input: drop it, so that the next attempt makes it again.
        if error.kind() == Kind::Input && attempt < REPAIRS && drop_damaged(&session, store, options)? {
            continue;
        }
        log.append(&json!({"event": "failed", "time": Oplog::now(), "error": error.to_string()}))?;
        return Err(error);
    }
    unreachable!("the loop returns")
}

fn drop_damaged(session: &Session, store: &Store, options: &Options) -> Result<bool> {
    let mut dropped = false;
    for address in session.objects() {
        if store.drop_if_damaged(address)? {
            (options.observer)(Event::Repairing { address });
            dropped = true;
        }
    }
    Ok(dropped)
}

struct Runner<'a, 'b> {
    session: Session<'a>,
    options: &'b Options<'b>,
    log: &'b mut Oplog,
    outcomes: Vec<Outcome>,
}

impl Runner<'_, '_> {
    fn run(&mut self, names: &[String]) -> Result<()> {
        for spec in self.session.pipeline.select(names)? {
            self.check_cancelled()?;
            let started = Instant::now();
            let mut bound = self.session.bind(spec).map_err(|e| e.at(format!("stage `{}`", spec.name)))?;
            let plan = stage_plan(self.session.store, spec, &bound)?;
            (self.options.observer)(Event::StageStarted { plan: &plan });
            let computed_parts = self.compute(spec, &mut bound).map_err(|e| e.at(format!("stage `{}`", spec.name)))?;
            let manifest = manifest(spec, &bound).ok_or_else(|| Error::internal("a computed stage misses a part"))?;
            let outcome = self.publish(spec, &bound, &manifest, computed_parts, started)?;
            (self.options.observer)(Event::StageDone { outcome: &outcome });
            self.outcomes.push(outcome);
            self.session.finish(spec, manifest);
        }
        Ok(())
    }

    fn check_cancelled(&self) -> Result<()> {
        match self.options.cancel.load(Ordering::Relaxed) {
            true => {
                Err(Error::interrupted("stopped; finished parts are kept").hint("run the same command again to go on"))
            }
            false => Ok(()),
        }
    }

    /// Computes every missing part, leaving those another process holds for later. Returns how many it computed.
    fn compute(&mut self, spec: &StageSpec, bound: &mut Bound) -> Result<usize> {
        let (mut computed, count) = (0, bound.parts.len());
        if bound.parts.iter().all(|part| part.record.is_some()) {
            return Ok(0);
        }
        // What parts made before hold serves the missing ones; each part made now serves the next.
        let mut earlier = self.session.store.family_parts(&bound.family)?;
        while bound.parts.iter().any(|part| part.record.is_none()) {
            let mut held_elsewhere = 0;
            for index in 0..count {
                if bound.parts[index].record.is_some() {
                    continue;
                }
                self.check_cancelled()?;
                let fingerprint = bound.parts[index].fingerprint.clone();
                let Some(_lock) = self.session.store.try_lock_part(&fingerprint)? else {
                    held_elsewhere += 1;
                    if bound.stage.ordered() { break } else { continue }
                };
                // It may have been published between planning and locking.
                let published = self.session.store.find_part(&bound.family, &fingerprint)?;
                let record = match published {
                    Some(record) => record,
                    None => {
                        (self.options.observer)(Event::PartStarted { stage: &spec.name, index, count });
                        computed += 1;
                        self.compute_part(spec, bound, index, &earlier)?
                    }
                };
                earlier.push(record.clone());
                bound.parts[index].record = Some(record);
            }
            if held_elsewhere > 0 {
                (self.options.observer)(Event::Waiting { stage: &spec.name });
                std::thread::sleep(Duration::from_millis(200));
                for part in bound.parts.iter_mut().filter(|part| part.record.is_none()) {
                    part.record = self.session.store.find_part(&bound.family, &part.fingerprint)?;
                    earlier.extend(part.record.clone());
                }
            }
        }
        Ok(computed)
    }

    fn compute_part(
        &mut self,
        spec: &StageSpec,
        bound: &Bound,
        index: usize,
        earlier: &[PartRecord],
    ) -> Result<PartRecord> {
        let started = Instant::now();
        let observer = self.options.observer;
        let tick = |tick: Tick| observer(Event::Progress { stage: &spec.name, tick });
        let context = Context {
            cancel: self.options.cancel,
            tick: &tick,
            threads: self.options.threads,
            footer: Footer { stage: &spec.name, fingerprint: bound.family.as_str() },
        };
        let part = &bound.parts[index];
        let output = bound.stage.run_part(&context, &part.part, earlier)?;
        let record = self.publish_part(bound, index, output)?;
        self.log.append(&json!({"event": "part", "time": Oplog::now(), "stage": spec.name, "part": index,
            "fingerprint": part.fingerprint, "seconds": started.elapsed().as_secs_f64()}))?;
        Ok(record)
    }

    fn publish_part(&self, bound: &Bound, index: usize, output: Output) -> Result<PartRecord> {
        let store = self.session.store;
        let mut tables: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for encoded in output.tables {
            tables.entry(encoded.table.to_string()).or_default().push(store.put_part(encoded)?);
        }
        let mut files = BTreeMap::new();
        for (name, bytes) in output.files {
            files.insert(name, (store.put(&bytes)?, bytes.len() as u64));
        }
        let part = &bound.parts[index];
        let record = PartRecord { fingerprint: part.fingerprint.clone(), span: part.part.span.clone(), tables, files };
        store.remember_part(&bound.recipe, &record)?;
        Ok(record)
    }

    fn publish(
        &mut self,
        spec: &StageSpec,
        bound: &Bound,
        manifest: &Manifest,
        computed_parts: usize,
        started: Instant,
    ) -> Result<Outcome> {
        let (store, pipeline) = (self.session.store, &self.session.pipeline.name);
        let fingerprint = bound.fingerprint();
        let address = store.put_manifest(manifest)?;
        store.set_pointer(
            pipeline,
            &spec.name,
            &Pointer { fingerprint: fingerprint.clone(), manifest: address.clone() },
        )?;
        store.publish_view(pipeline, &spec.name, &address, manifest)?;
        let outcome = Outcome {
            name: spec.name.clone(),
            kind: spec.params.kind(),
            state: "done",
            fingerprint,
            address: manifest.content(),
            rows: manifest.rows(),
            parts: manifest.parts.len(),
            computed_parts,
            seconds: started.elapsed().as_secs_f64(),
        };
        self.log.append(&json!({"event": "stage", "time": Oplog::now(), "outcome": outcome}))?;
        Ok(outcome)
    }
}
