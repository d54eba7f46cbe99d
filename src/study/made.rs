//! What the stages of a pipeline made, and whether the pipeline file still asks for it.
//!
//! One rule for everything that shows results: shown is what a stage made last under its name, whatever the pipeline file
//! asks for now; where that is something else, the result is stale, and the reasons are those of `plan`.

use crate::pipeline::{Pipeline, plan_at_hand, stale};
use crate::stage::{Params, rewrite};
use mindgap_base::error::{Error, Result};
use mindgap_store::table::Row;
use mindgap_store::{Manifest, Pointer, Store, Table};
use std::cell::OnceCell;
use std::collections::BTreeMap;

/// The newest results of a pipeline's stages.
pub struct Made<'a> {
    pub store: &'a Store,
    pub pipeline: &'a Pipeline,
    stages: BTreeMap<&'a str, (Pointer, OnceCell<Manifest>)>,
    /// Reasons by stage; the error where a policy or a file that recipes depend on is not here to compare with.
    stale: Result<BTreeMap<String, Vec<String>>>,
}

/// Stages named in a note, at most.
const NAMED: usize = 3;

impl<'a> Made<'a> {
    /// What the stages made. Whether it is stale is looked up for the named ones and those they need; for all where none is
    /// named. Nothing is fetched for that.
    pub fn new(store: &'a Store, pipeline: &'a Pipeline, names: &[String]) -> Result<Made<'a>> {
        let mut stages = BTreeMap::new();
        for spec in &pipeline.stages {
            if let Some(pointer) = store.pointer(&pipeline.name, &spec.name)? {
                stages.insert(spec.name.as_str(), (pointer, OnceCell::new()));
            }
        }
        let stale = match stages.is_empty() {
            true => Ok(BTreeMap::new()),
            false => plan_at_hand(pipeline, store, names).and_then(|plans| stale(store, &pipeline.name, &plans)),
        };
        Ok(Made { store, pipeline, stages, stale })
    }

    pub fn has(&self, stage: &str) -> bool {
        self.stages.contains_key(stage)
    }

    /// The newest manifest of a stage, if it ever finished.
    pub fn manifest(&self, stage: &str) -> Result<Option<&Manifest>> {
        let Some((pointer, manifest)) = self.stages.get(stage) else { return Ok(None) };
        match manifest.get() {
            Some(manifest) => Ok(Some(manifest)),
            None => {
                let read = self.store.get_manifest(&pointer.manifest)?;
                Ok(Some(manifest.get_or_init(|| read)))
            }
        }
    }

    /// The same of a stage that must have run.
    pub fn finished(&self, stage: &str) -> Result<&Manifest> {
        self.manifest(stage)?.ok_or_else(|| {
            Error::usage(format!("stage `{stage}` of pipeline `{}` has not run yet", self.pipeline.name))
                .hint("run it first: mindgap run PIPELINE STAGE")
        })
    }

    /// A table of a stage; without parts where the stage has not run.
    pub fn table<R: Row>(&self, stage: &str) -> Result<Table<R>> {
        let manifest = self.manifest(stage)?;
        Ok(Table::new(self.store, manifest.map(|m| m.table(R::TABLE)).unwrap_or_default()))
    }

    /// Why a stage's result is stale; nothing where it is current, or where that is not known.
    pub fn stale(&self, stage: &str) -> &[String] {
        self.stale.as_ref().ok().and_then(|stale| stale.get(stage)).map_or(&[], Vec::as_slice)
    }

    /// Whether it is known which results are stale.
    pub fn is_compared(&self) -> bool {
        self.stale.is_ok()
    }

    /// What to tell whoever is shown results of these stages: which are stale and why, or why that is not known.
    pub fn notes<'s>(&self, shown: impl IntoIterator<Item = &'s str>) -> Vec<String> {
        if let Err(error) = &self.stale {
            return vec![format!("it is not known whether the pipeline file still asks for this: {}", error.what())];
        }
        let stale: Vec<&str> = shown.into_iter().filter(|stage| !self.stale(stage).is_empty()).collect();
        let note = |stage: &&str| format!("stage `{stage}` is stale: {}", self.stale(stage).join("; "));
        let mut notes: Vec<String> = stale.iter().take(NAMED).map(note).collect();
        if stale.len() > NAMED {
            notes.push(format!("{} more stages are stale; `mindgap status` names them", stale.len() - NAMED));
        }
        notes
    }
}

/// How stages relate, from the pipeline file.
impl<'a> Made<'a> {
    /// Names of all stages, in order.
    pub fn stage_names(&self) -> impl Iterator<Item = &'a str> {
        self.pipeline.stages.iter().map(|spec| spec.name.as_str())
    }

    fn params(&self, stage: &str) -> Option<&'a Params> {
        self.pipeline.stages.iter().find(|spec| spec.name == stage).map(|spec| &spec.params)
    }

    /// The rollouts a verdict stage judged.
    pub fn rollouts_of(&self, verdicts: &str) -> Result<&'a str> {
        match self.params(verdicts) {
            Some(Params::Judge(judge)) => Ok(&judge.rollouts),
            _ => Err(Error::internal(format!("`{verdicts}` is not a judge stage"))),
        }
    }

    /// What the policy is called whose samples a verdict stage judged.
    pub fn label_of(&self, verdicts: &str) -> Result<String> {
        match self.params(self.rollouts_of(verdicts)?) {
            Some(Params::Rollout(rollout)) => Ok(rollout.label.clone().unwrap_or_else(|| rollout.policy.clone())),
            Some(Params::Samples(_)) => Ok(self.rollouts_of(verdicts)?.to_string()),
            _ => Err(Error::internal(format!("`{verdicts}` judges no rollouts"))),
        }
    }

    /// Rewrite stages that choose among samples, with their names.
    pub fn cascades(&self) -> impl Iterator<Item = (&'a str, &'a rewrite::Params)> {
        self.pipeline.stages.iter().filter_map(|spec| match &spec.params {
            Params::Rewrite(params) if !params.is_baseline() => Some((spec.name.as_str(), params)),
            _ => None,
        })
    }

    /// Logprob stages that score targets: name, the rewrite stage scored, the policy.
    pub fn scored(&self) -> impl Iterator<Item = Scored<'a>> {
        self.pipeline.stages.iter().filter_map(|spec| match &spec.params {
            Params::Logprob(p) => {
                let rewrites = p.rewrites.as_deref()?;
                match self.params(rewrites) {
                    Some(Params::Rewrite(of)) => Some(Scored { stage: &spec.name, rewrites, of, policy: &p.policy }),
                    _ => None,
                }
            }
            _ => None,
        })
    }
}

#[derive(Clone, Copy)]
pub struct Scored<'a> {
    pub stage: &'a str,
    pub rewrites: &'a str,
    pub of: &'a rewrite::Params,
    pub policy: &'a str,
}
