//! The parts of a stage: taken, computed, published.

use super::estimate::Speed;
use super::execute::Runner;
use super::outcome::{Event, Share, Way};
use super::session::Bound;
use super::sink::Made;
use super::spec::StageSpec;
use crate::stage::{Context, Part, Tick};
use mindgap_base::error::{Error, Kind, Result};
use mindgap_base::fingerprint::Fingerprint;
use mindgap_store::parquet::Footer;
use mindgap_store::{Lease, Oplog, PartRecord, fs};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::thread;
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

impl Begun<'_> {
    fn take_in(&mut self, index: usize, taken: Taken) {
        self.computed += usize::from(taken.is_computed);
        self.earlier.push(taken.record.clone());
        self.bound.parts[index].record = Some(taken.record);
    }
}

/// A part that is there now.
struct Taken {
    record: PartRecord,
    /// By this run.
    is_computed: bool,
}

/// What a look at every part of a stage found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Swept {
    /// Every part that was asked for is there.
    All,
    HeldElsewhere,
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
        let order = (0..count).map(|index| (first + index) % count);
        let wanted: Vec<usize> = order.filter(|index| share.is_none_or(|share| share.holds(*index))).collect();
        match begun.bound.stage.abreast() {
            1 => self.sweep_in_order(spec, begun, &wanted),
            abreast => self.sweep_abreast(spec, begun, &wanted, abreast),
        }
    }

    fn sweep_in_order(&self, spec: &StageSpec, begun: &mut Begun<'a>, wanted: &[usize]) -> Result<Swept> {
        let count = begun.bound.parts.len();
        let mut swept = Swept::All;
        for &index in wanted {
            if begun.bound.parts[index].record.is_some() {
                continue;
            }
            begun.lease.renew(&begun.earlier)?;
            let tell = |tick: Tick| (self.options.observer)(Event::Progress { stage: &spec.name, tick });
            let begin = || (self.options.observer)(Event::PartStarted { stage: &spec.name, index, count });
            let Some(taken) = self.take_part(spec, begun, index, &begin, &tell)? else {
                swept = Swept::HeldElsewhere;
                if spec.params.trains() { break } else { continue }
            };
            if !taken.is_computed && self.session.store.is_remote() {
                // Where one was made meanwhile others may have been, too: one request tells.
                self.catch_up(begun)?;
            }
            begun.take_in(index, taken);
            self.drop_superseded(begun, index)?;
        }
        Ok(swept)
    }

    /// The same, several parts at a time: where the work is done by servers, they have something to do while a part waits for the last
    /// of its samples. Shown as one part, with the progress of all.
    fn sweep_abreast(&self, spec: &StageSpec, begun: &mut Begun, wanted: &[usize], abreast: usize) -> Result<Swept> {
        let missing: Vec<usize> =
            wanted.iter().copied().filter(|&index| begun.bound.parts[index].record.is_none()).collect();
        begun.lease.renew(&begun.earlier)?;
        let (next, failed, held) = (AtomicUsize::new(0), AtomicBool::new(false), AtomicBool::new(false));
        let (ticks, shown) = (Mutex::new(BTreeMap::new()), Once::new());
        let take = |index: usize| {
            let begin = || {
                let count = begun.bound.parts.len();
                shown.call_once(|| (self.options.observer)(Event::PartStarted { stage: &spec.name, index, count }));
            };
            let tell = |tick: Tick| {
                let mut ticks = ticks.lock().unwrap_or_else(PoisonError::into_inner);
                ticks.insert(index, tick);
                let tick = ticks.values().cloned().reduce(Tick::and).unwrap_or_default();
                (self.options.observer)(Event::Progress { stage: &spec.name, tick });
            };
            self.take_part(spec, begun, index, &begin, &tell)
        };
        let work = || {
            let mut taken = Vec::new();
            while !failed.load(Ordering::Relaxed) {
                let Some(&index) = missing.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                match take(index).inspect_err(|_| failed.store(true, Ordering::Relaxed))? {
                    Some(part) => taken.push((index, part)),
                    None => held.store(true, Ordering::Relaxed),
                }
            }
            Ok(taken)
        };
        let taken: Vec<Result<Vec<(usize, Taken)>>> = thread::scope(|scope| {
            let threads: Vec<_> = (0..abreast.min(missing.len())).map(|_| scope.spawn(work)).collect();
            let ended = threads.into_iter().map(|thread| thread.join());
            ended.map(|end| end.unwrap_or_else(|panic| resume_unwind(panic))).collect()
        });
        // Of several errors the first of a thread that did not merely stop is told.
        let mut error: Option<Error> = None;
        for taken in taken {
            match taken {
                Ok(taken) => taken.into_iter().for_each(|(index, taken)| begun.take_in(index, taken)),
                Err(other) if error.as_ref().is_none_or(|error| error.kind() == Kind::Interrupted) => {
                    error = Some(other)
                }
                Err(_) => {}
            }
        }
        match error {
            Some(error) => Err(error),
            None if held.into_inner() => Ok(Swept::HeldElsewhere),
            None => Ok(Swept::All),
        }
    }

    /// Takes a part and computes it, unless it is there by now; `None` while another process holds it. `begin` is called before
    /// anything is computed.
    fn take_part(
        &self,
        spec: &StageSpec,
        begun: &Begun,
        index: usize,
        begin: &dyn Fn(),
        tell: &(dyn Fn(Tick) + Sync),
    ) -> Result<Option<Taken>> {
        self.check_cancelled()?;
        let fingerprint = &begun.bound.parts[index].fingerprint;
        let note = format!("{} {}/{}", spec.name, index + 1, begun.bound.parts.len());
        let Some(lock) = self.session.store.try_lock_part(fingerprint, &note)? else { return Ok(None) };
        let tell = |tick: Tick| {
            lock.note(|| format!("{note}, {} of {} rows", tick.rows_done, tick.rows_total));
            tell(tick);
        };
        // It may have been published between planning and locking.
        Ok(Some(match self.session.store.find_part(&begun.bound.family, fingerprint)? {
            Some(record) => Taken { record, is_computed: false },
            None => {
                begin();
                Taken { record: self.compute_part(spec, begun, index, &tell)?, is_computed: true }
            }
        }))
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

    fn compute_part(
        &self,
        spec: &StageSpec,
        begun: &Begun,
        index: usize,
        tell: &(dyn Fn(Tick) + Sync),
    ) -> Result<PartRecord> {
        let Begun { bound, lease, earlier, .. } = begun;
        let started = Instant::now();
        let made = Made::new(self.session.store);
        let tokens = AtomicU64::new(0);
        let tick = |tick: Tick| {
            tokens.store(tick.tokens, Ordering::Relaxed);
            // What cannot be marked is kept by the lease; should it go, publishing finds out.
            let _ = lease.renew(earlier);
            tell(tick);
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
        self.log(&event)?;
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
