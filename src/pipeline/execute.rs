//! Runs what is missing, publishes it, records it. The only module that does.
//!
//! Order of publishing, so that nothing ever reads as complete but isn't: objects, then the part's record, then the stage's
//! manifest, then its pointer and view.

use super::estimate::check_memory;
use super::outcome::{Event, Options, Outcome, Share, Way};
use super::parts::{Begun, Swept};
use super::plan::stage_plan;
use super::session::{Session, manifest};
use super::spec::{Pipeline, StageSpec};
use crate::net::hub::{Transfer, Watch};
use crate::server::Launcher;
use crate::stage::Holds;
use mindgap_base::address::Address;
use mindgap_base::error::{Error, Kind, Result};
use mindgap_lm::model::ops::isa::Isa;
use mindgap_store::fs;
use mindgap_store::{Oplog, Pointer, Store};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often a run drops the same damaged object and makes it again, and how often it makes parts of a stage again that
/// were removed meanwhile.
const REPAIRS: usize = 3;
/// How long to wait for parts that others hold before the next look.
const LOCAL_WAIT: Duration = Duration::from_millis(200);
const REMOTE_WAIT: Duration = Duration::from_secs(1);

/// Runs the selected stages and all they need.
pub fn run(pipeline: &Pipeline, store: &Store, names: &[String], options: &Options) -> Result<Vec<Outcome>> {
    let mut log = store.start_log()?;
    log.append(&json!({"event": "run", "time": Oplog::now(), "pipeline": pipeline.name, "stages": names,
        "file": pipeline.source.path, "text": pipeline.source.text, "version": env!("CARGO_PKG_VERSION"),
        "kernels": Isa::current().name()}))?;
    let launcher = Launcher::new(log.path());
    // Of the time and the process.
    let hash = blake3::hash(log.path().as_os_str().as_encoded_bytes());
    let place = usize::from(u16::from_le_bytes([hash.as_bytes()[0], hash.as_bytes()[1]]));
    let mut repairs = BTreeMap::new();
    loop {
        let on_transfer = |transfer: Transfer| (options.observer)(Event::Download { transfer });
        let watch = Watch { cancel: options.cancel, on_transfer: &on_transfer };
        let session = Session::new(pipeline, store, names, &watch)?;
        let mut runner =
            Runner { session, options, launcher: &launcher, log: Mutex::new(&mut log), place, outcomes: Vec::new() };
        let result = match options.way {
            Way::Run { share } => runner.run(names, share),
            Way::Work => runner.work(names),
        };
        let Runner { outcomes, .. } = runner;
        let Err(error) = result else {
            log.append(&json!({"event": "done", "time": Oplog::now()}))?;
            return Ok(outcomes);
        };
        if drop_damaged(store, &error, &mut repairs, options)? {
            continue;
        }
        // What stopped the run may well keep the log from being written; the first error is the one to tell.
        let event = if error.kind() == Kind::Interrupted { "stopped" } else { "failed" };
        let _ = log.append(&json!({"event": event, "time": Oplog::now(), "error": error.to_string()}));
        return Err(match error.kind() {
            Kind::Interrupted => error.hint("finished parts are kept; run the same command again to go on"),
            _ => error,
        });
    }
}

/// Drops the object that an error says is damaged, so that the next attempt makes it again. True if it did.
fn drop_damaged(
    store: &Store,
    error: &Error,
    repairs: &mut BTreeMap<Address, usize>,
    options: &Options,
) -> Result<bool> {
    let Some(address) = error.damaged_object() else { return Ok(false) };
    let count = repairs.entry(address.clone()).or_default();
    *count += 1;
    if *count > REPAIRS || !store.drop_if_damaged(address)? {
        return Ok(false);
    }
    (options.observer)(Event::Repairing { address });
    Ok(true)
}

/// A run at work.
pub(super) struct Runner<'a, 'b> {
    pub session: Session<'a>,
    pub options: &'b Options<'b>,
    pub launcher: &'b Launcher,
    log: Mutex<&'b mut Oplog>,
    /// Any number, another one in each run.
    pub place: usize,
    outcomes: Vec<Outcome>,
}

impl<'a> Runner<'a, '_> {
    fn run(&mut self, names: &[String], share: Option<Share>) -> Result<()> {
        let targets = self.targets(names, share)?;
        let mut left = self.session.pipeline.select(names)?;
        while !left.is_empty() {
            let spec = left.remove(self.next(&left));
            self.check_cancelled()?;
            let share = share.filter(|_| targets.contains(&spec.name));
            let outcome = self.stage(spec, names, share).map_err(|e| self.session.locate(e, spec))?;
            (self.options.observer)(Event::StageDone { outcome: &outcome });
            outcome.check_any_left().map_err(|e| self.session.locate(e, spec))?;
            self.outcomes.push(outcome);
        }
        Ok(())
    }

    /// Takes parts of any stage whose inputs are there, until all stages are done: one of many workers. Where others hold what is
    /// left of a stage, it goes on with another.
    fn work(&mut self, names: &[String]) -> Result<()> {
        let mut left = self.session.pipeline.select(names)?;
        let mut begun: BTreeMap<&str, Begun> = BTreeMap::new();
        while !left.is_empty() {
            let mut ready: Vec<&StageSpec> =
                left.iter().copied().filter(|spec| self.session.waiting_for(spec).is_empty()).collect();
            let next = self.next(&ready);
            ready.rotate_left(next);
            let mut waits_for = None;
            for spec in ready {
                self.check_cancelled()?;
                let worked = self.work_on(spec, names, &mut begun).map_err(|e| self.session.locate(e, spec))?;
                let Some(outcome) = worked else {
                    waits_for.get_or_insert(spec);
                    continue;
                };
                (self.options.observer)(Event::StageDone { outcome: &outcome });
                outcome.check_any_left().map_err(|e| self.session.locate(e, spec))?;
                self.outcomes.push(outcome);
                begun.remove(spec.name.as_str());
                left.retain(|other| other.name != spec.name);
                waits_for = None;
                break;
            }
            if let Some(spec) = waits_for {
                self.wait(spec);
            }
        }
        Ok(())
    }

    /// One look at a stage's parts: its outcome, if they are all there then.
    fn work_on<'s>(
        &mut self,
        spec: &'s StageSpec,
        names: &[String],
        all: &mut BTreeMap<&'s str, Begun<'a>>,
    ) -> Result<Option<Outcome>> {
        let mut begun = match all.remove(spec.name.as_str()) {
            Some(mut begun) => {
                self.catch_up(&mut begun)?;
                begun
            }
            None => self.begin(spec, names)?,
        };
        let outcome = match self.sweep(spec, &mut begun, None)? {
            Swept::HeldElsewhere => None,
            Swept::All => match self.publish(spec, &mut begun)? {
                Some(outcome) => Some(outcome),
                None => {
                    begun.earlier = self.earlier(&begun.bound)?;
                    None
                }
            },
        };
        all.insert(&spec.name, begun);
        Ok(outcome)
    }

    /// Which of the stages that are left comes next: the first that leaves the server that runs where it is, which took minutes to
    /// start, else the first.
    fn next(&self, left: &[&StageSpec]) -> usize {
        let Some(serving) = self.launcher.serving() else { return 0 };
        let leaves_it = |spec: &StageSpec| match spec.params.footprint() {
            None => true,
            Some(footprint) => footprint.holds == Holds::Weights && footprint.policy == serving,
        };
        let is_next = |spec: &&StageSpec| leaves_it(spec) && self.session.waiting_for(spec).is_empty();
        left.iter().position(is_next).unwrap_or(0)
    }

    /// Refuses to begin a stage that this machine's memory cannot hold, or that such a stage waits for.
    fn check_memory(&self, spec: &StageSpec, names: &[String]) -> Result<()> {
        let (pipeline, available) = (self.session.pipeline, fs::available_bytes());
        let mut waiting: BTreeSet<&str> = BTreeSet::from([spec.name.as_str()]);
        for stage in pipeline.select(names)? {
            if stage.name != spec.name && !pipeline.needs(stage).iter().any(|need| waiting.contains(need)) {
                continue;
            }
            waiting.insert(&stage.name);
            if let Some(needed) = self.session.least_memory(stage)? {
                check_memory(stage.params.kind(), needed, available).map_err(|e| self.session.locate(e, stage))?;
            }
        }
        Ok(())
    }

    /// Computes what is missing of a stage and publishes it, again where parts were removed in between.
    fn stage(&mut self, spec: &StageSpec, names: &[String], share: Option<Share>) -> Result<Outcome> {
        let mut begun = self.begin(spec, names)?;
        for _ in 0..=REPAIRS {
            while self.sweep(spec, &mut begun, share)? == Swept::HeldElsewhere {
                self.wait(spec);
                self.catch_up(&mut begun)?;
            }
            if manifest(spec, &begun.bound).is_none() {
                return Ok(Outcome::partial(spec, &begun.bound, begun.computed, begun.started));
            }
            if let Some(outcome) = self.publish(spec, &mut begun)? {
                return Ok(outcome);
            }
            begun.earlier = self.earlier(&begun.bound)?;
        }
        Err(Error::environment("parts of the stage were removed from the store again and again while it ran")
            .hint("find out what else removes files there, then run the same command again"))
    }

    /// Looks a stage up, and says what is about to be done.
    fn begin(&self, spec: &StageSpec, names: &[String]) -> Result<Begun<'a>> {
        let started = Instant::now();
        let (bound, lease) = self.take(spec)?;
        let plan = stage_plan(&self.session, spec, &bound)?;
        if plan.parts_miss > 0 {
            self.check_memory(spec, names)?;
        }
        (self.options.observer)(Event::StageStarted { plan: &plan });
        // What parts made before hold serves the missing ones; each part made now serves the next.
        let earlier = if plan.parts_miss > 0 { self.earlier(&bound)? } else { Vec::new() };
        Ok(Begun { bound, lease, earlier, computed: 0, started })
    }

    fn wait(&self, spec: &StageSpec) {
        (self.options.observer)(Event::Waiting { stage: &spec.name });
        std::thread::sleep(if self.session.store.is_remote() { REMOTE_WAIT } else { LOCAL_WAIT });
    }

    /// The stages of which only a share is computed: those asked for by name. What they need is computed in full.
    fn targets(&self, names: &[String], share: Option<Share>) -> Result<BTreeSet<String>> {
        if share.is_none() {
            return Ok(BTreeSet::new());
        }
        let named = |spec: &&StageSpec| names.contains(&spec.name) || names.contains(&spec.written);
        let targets: Vec<&StageSpec> = self.session.pipeline.stages.iter().filter(named).collect();
        if targets.is_empty() {
            return Err(Error::usage("a share of the parts is of named stages, and none is named")
                .hint("name the stage to share: mindgap run PIPELINE rollouts --part 1/4"));
        }
        for spec in &targets {
            if spec.params.trains() {
                return Err(Error::usage(format!(
                    "stage `{}` cannot be shared: each part needs the one before",
                    spec.name
                )));
            }
            let others: BTreeSet<&str> = targets.iter().map(|target| target.name.as_str()).collect();
            if let Some(need) = self.session.pipeline.needs(spec).into_iter().find(|need| others.contains(need)) {
                return Err(Error::usage(format!("stage `{}` needs all of `{need}`, which is shared too", spec.name))
                    .hint("share one stage at a time"));
            }
        }
        Ok(targets.into_iter().map(|spec| spec.name.clone()).collect())
    }

    pub(super) fn log(&self, event: &Value) -> Result<()> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).append(event)
    }

    pub(super) fn check_cancelled(&self) -> Result<()> {
        match self.options.cancel.load(Ordering::Relaxed) {
            true => Err(Error::interrupted("stopped between two parts")),
            false => Ok(()),
        }
    }

    /// Publishes a stage, unless parts of it were removed since they were looked up or made: then nothing is published, and
    /// `bound` says which are missing.
    fn publish(&mut self, spec: &StageSpec, begun: &mut Begun) -> Result<Option<Outcome>> {
        let Begun { bound, computed, started, .. } = begun;
        let (store, pipeline) = (self.session.store, &self.session.pipeline.name);
        let fingerprint = bound.fingerprint();
        let _gate = store.gate()?.pass()?;
        bound.look_up(store)?;
        let Some(manifest) = manifest(spec, bound) else { return Ok(None) };
        let address = store.put_manifest(&manifest)?;
        let origin = Some(self.session.origin(spec, bound));
        let pointer = Pointer { fingerprint: fingerprint.clone(), manifest: address.clone(), origin };
        store.set_pointer(pipeline, &spec.name, &pointer)?;
        store.publish_view(pipeline, &spec.name, &address, &manifest)?;
        let outcome = Outcome {
            name: spec.name.clone(),
            kind: spec.params.kind(),
            state: "done",
            fingerprint,
            address: Some(manifest.content()),
            rows: manifest.rows(),
            counts: manifest.main_counts(),
            left_out: manifest.left_out(),
            failures: store.failures(&manifest)?,
            parts: manifest.parts.len(),
            computed_parts: *computed,
            seconds: started.elapsed().as_secs_f64(),
        };
        self.log(&json!({"event": "stage", "time": Oplog::now(), "outcome": outcome}))?;
        self.session.finish(spec, manifest);
        Ok(Some(outcome))
    }
}
