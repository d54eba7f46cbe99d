//! Runs what is missing, publishes it, records it. The only module that does.
//!
//! Order of publishing, so that nothing ever reads as complete but isn't: objects, then the part's record, then the stage's
//! manifest, then its pointer and view.

use super::estimate::{Speed, check_memory};
use super::outcome::{Event, Options, Outcome, Share};
use super::plan::stage_plan;
use super::session::{Bound, Session, manifest};
use super::sink::Made;
use super::spec::{Pipeline, StageSpec};
use crate::net::hub::{Transfer, Watch};
use crate::server::Launcher;
use crate::stage::{Context, Holds, Part, Tick};
use mindgap_base::address::Address;
use mindgap_base::error::{Error, Kind, Result};
use mindgap_lm::model::ops::isa::Isa;
use mindgap_store::fs;
use mindgap_store::parquet::Footer;
use mindgap_store::{Lease, Oplog, PartRecord, Pointer, Store};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often a run drops the same damaged object and makes it again, and how often it makes parts of a stage again that
/// were removed meanwhile.
const REPAIRS: usize = 3;

/// Runs the selected stages and all they need.
pub fn run(pipeline: &Pipeline, store: &Store, names: &[String], options: &Options) -> Result<Vec<Outcome>> {
    let mut log = store.start_log()?;
    log.append(&json!({"event": "run", "time": Oplog::now(), "pipeline": pipeline.name, "stages": names,
        "file": pipeline.source.path, "text": pipeline.source.text, "version": env!("CARGO_PKG_VERSION"),
        "kernels": Isa::current().name()}))?;
    let launcher = Launcher::new(log.path());
    let mut repairs = BTreeMap::new();
    loop {
        let on_transfer = |transfer: Transfer| (options.observer)(Event::Download { transfer });
        let watch = Watch { cancel: options.cancel, on_transfer: &on_transfer };
        let session = Session::new(pipeline, store, names, &watch)?;
        let mut runner = Runner { session, options, launcher: &launcher, log: &mut log, outcomes: Vec::new() };
        let result = runner.run(names);
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

/// Parameters of the policy a part runs, 0 where it runs none; and the program that runs it, where this one does not.
fn part_parameters(bound: &Bound, part: &Part) -> Result<(u64, Option<String>)> {
    let cost = bound.stage.cost(&[part], part.rows, &[])?;
    Ok(cost.map_or((0, None), |cost| (cost.parameters, cost.by.map(str::to_string))))
}

struct Runner<'a, 'b> {
    session: Session<'a>,
    options: &'b Options<'b>,
    launcher: &'b Launcher,
    log: &'b mut Oplog,
    outcomes: Vec<Outcome>,
}

impl<'a> Runner<'a, '_> {
    fn run(&mut self, names: &[String]) -> Result<()> {
        let targets = self.targets(names)?;
        let mut left = self.session.pipeline.select(names)?;
        while !left.is_empty() {
            let spec = left.remove(self.next(&left));
            self.check_cancelled()?;
            let share = self.options.share.filter(|_| targets.contains(&spec.name));
            let outcome = self.stage(spec, names, share).map_err(|e| self.session.locate(e, spec))?;
            (self.options.observer)(Event::StageDone { outcome: &outcome });
            outcome.check_any_left().map_err(|e| self.session.locate(e, spec))?;
            self.outcomes.push(outcome);
        }
        Ok(())
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
        let started = Instant::now();
        let (mut bound, lease) = self.take(spec)?;
        let plan = stage_plan(&self.session, spec, &bound)?;
        if plan.parts_miss > 0 {
            self.check_memory(spec, names)?;
        }
        (self.options.observer)(Event::StageStarted { plan: &plan });
        let mut computed_parts = 0;
        for _ in 0..=REPAIRS {
            computed_parts += self.compute(spec, &mut bound, share, &lease)?;
            if manifest(spec, &bound).is_none() {
                return Ok(Outcome::partial(spec, &bound, computed_parts, started));
            }
            if let Some(outcome) = self.publish(spec, &mut bound, computed_parts, started)? {
                return Ok(outcome);
            }
        }
        Err(Error::environment("parts of the stage were removed from the store again and again while it ran")
            .hint("find out what else removes files there, then run the same command again"))
    }

    /// The stages of which only a share is computed: those asked for by name. What they need is computed in full.
    fn targets(&self, names: &[String]) -> Result<BTreeSet<String>> {
        if self.options.share.is_none() {
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

    /// Looks up the stage's parts, marks those found as used before a collection can take them, and keeps the stage's parts.
    fn take(&self, spec: &StageSpec) -> Result<(Bound, Lease<'a>)> {
        let store = self.session.store;
        let _gate = store.gate()?.pass()?;
        let bound = self.session.bind(spec)?;
        let found = bound.parts.iter().filter_map(|part| part.record.as_ref());
        store.mark_used(&bound.family, found)?;
        let lease = store.lease(&bound.family)?;
        Ok((bound, lease))
    }

    /// Parts made before with the same recipe, marked as used.
    fn earlier(&self, bound: &Bound) -> Result<Vec<PartRecord>> {
        let _gate = self.session.store.gate()?.pass()?;
        let earlier = self.session.store.family_parts(&bound.family)?;
        self.session.store.mark_used(&bound.family, earlier.iter())?;
        Ok(earlier)
    }

    fn check_cancelled(&self) -> Result<()> {
        match self.options.cancel.load(Ordering::Relaxed) {
            true => Err(Error::interrupted("stopped between two parts")),
            false => Ok(()),
        }
    }

    /// Computes every missing part, leaving those another process holds for later. Returns how many it computed.
    fn compute(&mut self, spec: &StageSpec, bound: &mut Bound, share: Option<Share>, lease: &Lease) -> Result<usize> {
        let wanted = |index: usize| share.is_none_or(|share| share.holds(index));
        let (mut computed, count) = (0, bound.parts.len());
        let missing = |bound: &Bound| (0..count).any(|index| wanted(index) && bound.parts[index].record.is_none());
        if !missing(bound) {
            return Ok(0);
        }
        // What parts made before hold serves the missing ones; each part made now serves the next.
        let mut earlier = self.earlier(bound)?;
        while missing(bound) {
            let mut held_elsewhere = 0;
            for index in (0..count).filter(|index| wanted(*index)) {
                if bound.parts[index].record.is_some() {
                    continue;
                }
                self.check_cancelled()?;
                lease.renew(&earlier)?;
                let fingerprint = bound.parts[index].fingerprint.clone();
                let Some(_lock) = self.session.store.try_lock_part(&fingerprint)? else {
                    held_elsewhere += 1;
                    if spec.params.trains() { break } else { continue }
                };
                // It may have been published between planning and locking.
                let published = self.session.store.find_part(&bound.family, &fingerprint)?;
                let record = match published {
                    Some(record) => record,
                    None => {
                        (self.options.observer)(Event::PartStarted { stage: &spec.name, index, count });
                        computed += 1;
                        self.compute_part(spec, bound, index, &earlier, lease)?
                    }
                };
                earlier.push(record.clone());
                bound.parts[index].record = Some(record);
                self.drop_superseded(bound, index, &mut earlier)?;
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

    /// Removes what a new part makes superfluous: first the mention of it, so that no record ever misses a file.
    fn drop_superseded(&self, bound: &mut Bound, index: usize, earlier: &mut [PartRecord]) -> Result<()> {
        let Some(name) = bound.stage.superseded(&bound.parts[index].part) else { return Ok(()) };
        let _gate = self.session.store.gate()?.pass()?;
        let recipe = &bound.recipe;
        for record in bound.parts[..index].iter_mut().filter_map(|part| part.record.as_mut()) {
            if let Some((address, _)) = record.files.remove(name) {
                for known in earlier.iter_mut().filter(|known| known.fingerprint == record.fingerprint) {
                    known.files.remove(name);
                }
                self.session.store.remember_part(recipe, record)?;
                self.session.store.remove_object(&address)?;
            }
        }
        Ok(())
    }

    fn compute_part(
        &mut self,
        spec: &StageSpec,
        bound: &Bound,
        index: usize,
        earlier: &[PartRecord],
        lease: &Lease,
    ) -> Result<PartRecord> {
        let started = Instant::now();
        let observer = self.options.observer;
        let made = Made::new(self.session.store);
        let tokens = AtomicU64::new(0);
        let tick = |tick: Tick| {
            tokens.store(tick.tokens, Ordering::Relaxed);
            // What cannot be marked is kept by the lease; should it go, publishing finds out.
            let _ = lease.renew(earlier);
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
        self.session.store.remember_part(&bound.recipe, &record)?;
        Ok(record)
    }

    /// Publishes a stage, unless parts of it were removed since they were looked up or made: then nothing is published, and
    /// `bound` says which are missing.
    fn publish(
        &mut self,
        spec: &StageSpec,
        bound: &mut Bound,
        computed_parts: usize,
        started: Instant,
    ) -> Result<Option<Outcome>> {
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
            parts: manifest.parts.len(),
            computed_parts,
            seconds: started.elapsed().as_secs_f64(),
        };
        self.log.append(&json!({"event": "stage", "time": Oplog::now(), "outcome": outcome}))?;
        self.session.finish(spec, manifest);
        Ok(Some(outcome))
    }
}
