//! The parts of a stage: taken, computed, published.

use super::estimate::Speed;
use super::execute::Runner;
use super::outcome::{Event, Share, Way};
use super::session::Bound;
use super::sink::Made;
use super::spec::StageSpec;
use crate::stage::{Context, Part, Tick};
use mindgap_base::error::Result;
use mindgap_base::fingerprint::Fingerprint;
use mindgap_store::parquet::Footer;
use mindgap_store::{Lease, Oplog, PartLock, PartRecord, fs};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// A stage that is being worked on.
pub(super) struct Begun<'a> {
    pub bound: Bound,
    pub lease: Lease<'a>,
    /// Finished parts of the same recipe.
    pub earlier: Vec<PartRecord>,
    pub computed: usize,
    pub started: Instant,
}

/// What a look at every part of a stage found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Swept {
    /// Every part that was asked for is there.
    All,
    HeldElsewhere,
}

/// What a worker says it is at.
fn progress_note(stage: &str, index: usize, count: usize, tick: &Tick) -> String {
    format!("{stage} {}/{count}, {} of {} rows", index + 1, tick.rows_done, tick.rows_total)
}

/// Parameters of the policy a part runs, 0 where it runs none; and the program that runs it, where this one does not.
fn part_parameters(bound: &Bound, part: &Part) -> Result<(u64, Option<String>)> {
    let cost = bound.stage.cost(&[part], part.rows, &[])?;
    Ok(cost.map_or((0, None), |cost| (cost.parameters, cost.by.map(str::to_string))))
}

impl<'a> Runner<'a, '_> {
    /// Looks up the stage's parts, marks those found as used before a collection can take them, and keeps the stage's parts.
    pub(super) fn take(&self, spec: &StageSpec) -> Result<(Bound, Lease<'a>)> {
        let store = self.session.store;
        let _gate = store.gate()?.pass()?;
        let bound = self.session.bind(spec)?;
        let found = bound.parts.iter().filter_map(|part| part.record.as_ref());
        store.mark_used(&bound.family, found)?;
        let lease = store.lease(&bound.family)?;
        Ok((bound, lease))
    }

    /// Parts made before with the same recipe, marked as used.
    pub(super) fn earlier(&self, bound: &Bound) -> Result<Vec<PartRecord>> {
        let _gate = self.session.store.gate()?.pass()?;
        let earlier = self.session.store.family_parts(&bound.family)?;
        self.session.store.mark_used(&bound.family, earlier.iter())?;
        Ok(earlier)
    }

    /// Looks up what others have made meanwhile.
    pub(super) fn catch_up(&self, begun: &mut Begun) -> Result<()> {
        let Begun { bound, earlier, .. } = begun;
        let missing: Vec<usize> = (0..bound.parts.len()).filter(|&index| bound.parts[index].record.is_none()).collect();
        let fingerprints: Vec<&Fingerprint> = missing.iter().map(|&index| &bound.parts[index].fingerprint).collect();
        let found = self.session.store.find_parts(&bound.family, &fingerprints)?;
        for (index, record) in missing.into_iter().zip(found) {
            earlier.extend(record.clone());
            bound.parts[index].record = record;
        }
        Ok(())
    }

    /// Computes every missing part once, leaving those another process holds.
    pub(super) fn sweep(&mut self, spec: &StageSpec, begun: &mut Begun<'a>, share: Option<Share>) -> Result<Swept> {
        let count = begun.bound.parts.len();
        let first = match self.options.way {
            // Workers that begin together do not want the same part.
            Way::Work if !spec.params.trains() => self.place % count.max(1),
            _ => 0,
        };
        let mut held_elsewhere = false;
        for index in (0..count).map(|index| (first + index) % count) {
            if begun.bound.parts[index].record.is_some() || share.is_some_and(|share| !share.holds(index)) {
                continue;
            }
            self.check_cancelled()?;
            begun.lease.renew(&begun.earlier)?;
            let fingerprint = begun.bound.parts[index].fingerprint.clone();
            let Some(lock) = self.session.store.try_lock_part(&fingerprint)? else {
                held_elsewhere = true;
                if spec.params.trains() { break } else { continue }
            };
            // It may have been published between planning and locking.
            let record = match self.session.store.find_part(&begun.bound.family, &fingerprint)? {
                Some(record) => {
                    if self.session.store.is_remote() {
                        // Then others may have, too: one request tells.
                        self.catch_up(begun)?;
                    }
                    record
                }
                None => {
                    (self.options.observer)(Event::PartStarted { stage: &spec.name, index, count });
                    begun.computed += 1;
                    self.compute_part(spec, begun, index, &lock)?
                }
            };
            begun.earlier.push(record.clone());
            begun.bound.parts[index].record = Some(record);
            self.drop_superseded(begun, index)?;
        }
        Ok(if held_elsewhere { Swept::HeldElsewhere } else { Swept::All })
    }

    /// Removes what a new part makes superfluous: first the mention of it, so that no record ever misses a file.
    fn drop_superseded(&self, begun: &mut Begun, index: usize) -> Result<()> {
        let Begun { bound, earlier, .. } = begun;
        let Some(name) = bound.stage.superseded(&bound.parts[index].part) else { return Ok(()) };
        let _gate = self.session.store.gate()?.pass()?;
        let recipe = &bound.recipe;
        for record in bound.parts[..index].iter_mut().filter_map(|part| part.record.as_mut()) {
            if let Some((address, _)) = record.files.remove(name) {
                for known in earlier.iter_mut().filter(|known| known.fingerprint == record.fingerprint) {
                    known.files.remove(name);
                }
                self.session.store.amend_part(recipe, record)?;
                self.session.store.remove_object(&address)?;
            }
        }
        Ok(())
    }

    fn compute_part(&mut self, spec: &StageSpec, begun: &Begun, index: usize, lock: &PartLock) -> Result<PartRecord> {
        let Begun { bound, lease, earlier, .. } = begun;
        let started = Instant::now();
        let observer = self.options.observer;
        let made = Made::new(self.session.store);
        let tokens = AtomicU64::new(0);
        let tick = |tick: Tick| {
            tokens.store(tick.tokens, Ordering::Relaxed);
            // What cannot be marked is kept by the lease; should it go, publishing finds out.
            let _ = lease.renew(earlier);
            lock.note(|| progress_note(&spec.name, index, bound.parts.len(), &tick));
            observer(Event::Progress { stage: &spec.name, tick });
        };
        let part = &bound.parts[index];
        let journal = self.session.store.journal(&part.fingerprint);
        let context = Context {
            cancel: self.options.cancel,
            tick: &tick,
            sink: &made,
            threads: self.options.threads,
            device: self.options.device,
            launcher: self.launcher,
            footer: Footer { stage: &spec.name, fingerprint: bound.family.as_str() },
            journal: &journal,
        };
        bound.stage.run_part(&context, &part.part, earlier)?;
        let record = self.publish_part(bound, index, made)?;
        journal.remove()?;
        // What another program worked in, where one did.
        fs::remove(&self.session.store.work_path(bound.family.as_str()))?;
        let (parameters, by) = part_parameters(bound, &part.part)?;
        let speed = Speed {
            kind: spec.params.kind().to_string(),
            parameters,
            by,
            tokens: tokens.into_inner(),
            seconds: started.elapsed().as_secs_f64(),
        };
        let mut event = json!({"event": "part", "time": Oplog::now(), "stage": spec.name, "part": index,
            "fingerprint": part.fingerprint});
        if let (Value::Object(event), Ok(Value::Object(speed))) = (&mut event, serde_json::to_value(&speed)) {
            event.extend(speed);
        }
        self.log.append(&event)?;
        Ok(record)
    }

    fn publish_part(&self, bound: &Bound, index: usize, made: Made) -> Result<PartRecord> {
        let mut objects = made.open()?;
        let part = &bound.parts[index];
        let (fingerprint, span) = (part.fingerprint.clone(), part.part.span.clone());
        let (tables, files) = (std::mem::take(&mut objects.tables), std::mem::take(&mut objects.files));
        let record = PartRecord { fingerprint, span, tables, files };
        self.session.store.remember_part(&bound.recipe, &record)
    }
}
