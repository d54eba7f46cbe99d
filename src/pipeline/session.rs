//! One pass over a pipeline: the stages found finished so far, and the policies they resolve to.

use super::estimate::Speeds;
use super::spec::{Pipeline, StageSpec};
use crate::net::hub::{Hub, Watch};
use crate::policy::{
    PolicyHandle, PolicySource, PolicySpec, Runs, gguf_policy, hub_policy, policy_config, served_policy, usual_weights,
};
use crate::stage::{Holds, Inputs, Params, Part, Stage, policy_files};
use mindgap_base::error::{Error, Result};
use mindgap_base::fingerprint::{Fingerprint, Recipe};
use mindgap_lm::model::policy::PolicyFiles;
use mindgap_store::{Input, Manifest, Origin, PartRecord, Store};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::OnceLock;

pub struct Session<'a> {
    pub pipeline: &'a Pipeline,
    pub store: &'a Store,
    manifests: BTreeMap<String, Manifest>,
    policies: BTreeMap<String, PolicyHandle>,
    params: BTreeMap<String, Params>,
    /// Read when they are asked for.
    speeds: OnceLock<Speeds>,
}

/// A stage with its inputs resolved and its parts looked up.
pub struct Bound {
    pub stage: Box<dyn Stage>,
    pub recipe: Recipe,
    pub family: Fingerprint,
    pub parts: Vec<LookedUp>,
}

pub struct LookedUp {
    pub part: Part,
    pub fingerprint: Fingerprint,
    /// The finished part, if it is known.
    pub record: Option<PartRecord>,
}

impl Bound {
    /// Looks every part up again: what was made since is there, what was taken is not.
    pub fn look_up(&mut self, store: &Store) -> Result<()> {
        let fingerprints: Vec<&Fingerprint> = self.parts.iter().map(|part| &part.fingerprint).collect();
        let found = store.find_parts(&self.family, &fingerprints)?;
        self.parts.iter_mut().zip(found).for_each(|(part, record)| part.record = record);
        Ok(())
    }

    /// The fingerprint of the whole stage: its recipe and its parts'.
    pub fn fingerprint(&self) -> Fingerprint {
        let parts: Vec<&Fingerprint> = self.parts.iter().map(|part| &part.fingerprint).collect();
        Recipe::new("whole stage", 1).with("recipe", &self.family).with("parts", parts).fingerprint()
    }
}

impl<'a> Session<'a> {
    /// Hashes the policies that the selected stages use, after fetching those of the hub that are not there yet.
    pub fn new(pipeline: &'a Pipeline, store: &'a Store, selected: &[String], watch: &Watch) -> Result<Session<'a>> {
        Session::with_policies(pipeline, store, selected, Some(watch))
    }

    /// The same from what this machine has: nothing is fetched. Error where a policy is not here.
    pub fn at_hand(pipeline: &'a Pipeline, store: &'a Store, selected: &[String]) -> Result<Session<'a>> {
        Session::with_policies(pipeline, store, selected, None)
    }

    fn with_policies(
        pipeline: &'a Pipeline,
        store: &'a Store,
        selected: &[String],
        watch: Option<&Watch>,
    ) -> Result<Session<'a>> {
        let references = pipeline.select(selected)?.into_iter().flat_map(|stage| stage.params.references());
        let used: BTreeSet<String> = references.map(|reference| reference.name).collect();
        let mut policies = BTreeMap::new();
        for (name, spec) in pipeline.policies.iter().filter(|(name, _)| used.contains(*name)) {
            let handle = match &spec.source {
                PolicySource::Path(path) => {
                    PolicyHandle::of_folder(name, &pipeline.folder.join(path), PolicyFiles::wants)
                }
                PolicySource::Gguf { file, tokenizer } => {
                    gguf_policy(name, &pipeline.folder, file, tokenizer.as_deref())
                }
                PolicySource::Hub(model) => hub_policy(name, &Hub::from_env(), model, watch),
                PolicySource::Server(served) => served_policy(name, &pipeline.folder, served, watch),
                PolicySource::Stage(_) => continue,
            };
            let locate = |e: Error| e.at(format!("policy `{name}`")).at(&pipeline.source.path);
            policies.insert(name.clone(), as_said(handle.map_err(locate)?, spec));
        }
        let params = pipeline.stages.iter().map(|stage| (stage.name.clone(), stage.params.clone())).collect();
        let speeds = OnceLock::new();
        Ok(Session { pipeline, store, manifests: BTreeMap::new(), policies, params, speeds })
    }

    /// Says of an error which stage of which pipeline it is about.
    pub fn locate(&self, error: Error, stage: &StageSpec) -> Error {
        error.at(stage.place()).at(&self.pipeline.source.path)
    }

    /// Stages that `stage` reads from and that are not finished.
    pub fn waiting_for(&self, stage: &StageSpec) -> Vec<&'a str> {
        self.pipeline.needs(stage).into_iter().filter(|name| !self.manifests.contains_key(*name)).collect()
    }

    /// Bytes of memory the stage cannot do without: what runs in this process of a policy that is here, or of the one it is trained
    /// from. None where that is not known, or servers hold the weights.
    pub fn least_memory(&self, spec: &StageSpec) -> Result<Option<u64>> {
        let Some(footprint) = spec.params.footprint() else { return Ok(None) };
        let elsewhere = |policy: &&PolicyHandle| matches!(policy.runs(), Runs::Served(_));
        let Some(policy) = self.origin_of(footprint.policy).filter(|policy| !elsewhere(policy)) else {
            return Ok(None);
        };
        let said = self.pipeline.policies.get(footprint.policy);
        let bytes = match footprint.holds {
            Holds::Nothing => return Ok(None),
            Holds::Weights if said.is_some_and(|spec| spec.launched.is_some()) => return Ok(None),
            Holds::Training { bytes_per_parameter } => bytes_per_parameter as f64,
            Holds::Weights => {
                let weights = said.and_then(|spec| spec.held.weights);
                weights.map_or_else(|| usual_weights(policy), Ok)?.bytes()
            }
        };
        Ok(Some((policy_config(policy)?.parameter_count() as f64 * bytes) as u64))
    }

    /// The policy of this name, or the one that the stage of this name starts from: it has the same shape.
    fn origin_of(&self, name: &str) -> Option<&PolicyHandle> {
        if let Some(policy) = self.policies.get(name) {
            return Some(policy);
        }
        let stage = match self.pipeline.policies.get(name).map(|spec| &spec.source) {
            Some(PolicySource::Stage(stage)) => stage,
            _ => name,
        };
        let trained = self.params.get(stage).filter(|params| params.trains())?;
        self.origin_of(trained.footprint()?.policy)
    }

    /// What is known of this machine's speed.
    pub fn speeds(&self) -> Result<&Speeds> {
        if let Some(speeds) = self.speeds.get() {
            return Ok(speeds);
        }
        let speeds = Speeds::of(self.store)?;
        Ok(self.speeds.get_or_init(|| speeds))
    }

    /// Resolves a stage's inputs, cuts it into parts and looks each up. All it needs must be finished.
    pub fn bind(&self, spec: &StageSpec) -> Result<Bound> {
        let inputs = Inputs {
            store: self.store,
            folder: &self.pipeline.folder,
            manifests: &self.manifests,
            params: &self.params,
            policies: &self.policies,
        };
        let stage = spec.params.bind(&inputs)?;
        let recipe = match &spec.salt {
            None => stage.recipe(),
            Some(salt) => stage.recipe().with("salt", salt),
        };
        let family = recipe.fingerprint();
        let unknown = |part: Part| LookedUp { fingerprint: part.fingerprint(&family), part, record: None };
        let parts = stage.parts()?.into_iter().map(unknown).collect();
        let mut bound = Bound { stage, recipe, family, parts };
        bound.look_up(self.store)?;
        Ok(bound)
    }

    /// What a stage is made of: all it needs must be finished. A table that neither a part's key nor the recipe names is no
    /// input: verdicts, say, do not depend on more of the problems than their rollouts do.
    pub fn origin(&self, spec: &StageSpec, bound: &Bound) -> Origin {
        let keys = bound.parts.iter().flat_map(|part| &part.part.key).flat_map(|key| key.split(' '));
        let mut named: HashSet<&str> = keys.collect();
        bound.recipe.fields().for_each(|(_, value)| texts(value, &mut named));
        let inputs = self.pipeline.needs(spec).into_iter().filter_map(|name| {
            let manifest = self.manifests.get(name)?;
            let table = manifest.table(manifest.main_table.as_deref()?);
            table.iter().any(|part| named.contains(part.content.as_str())).then_some(())?;
            Some((name.to_string(), Input { address: manifest.content(), rows: manifest.rows() }))
        });
        Origin { recipe: bound.family.clone(), cut: bound.stage.cut(), inputs: inputs.collect() }
    }

    /// Takes a finished stage in, for those that read from it.
    pub fn finish(&mut self, spec: &StageSpec, manifest: Manifest) {
        for (name, policy) in &self.pipeline.policies {
            if policy.source == PolicySource::Stage(spec.name.clone()) {
                let handle = PolicyHandle::of_objects(name, self.store, policy_files(manifest.files()));
                self.policies.insert(name.clone(), as_said(handle, policy));
            }
        }
        self.manifests.insert(spec.name.clone(), manifest);
    }
}

/// The policy held, and run, as the pipeline says.
fn as_said(handle: PolicyHandle, spec: &PolicySpec) -> PolicyHandle {
    let handle = handle.held_in(spec.held);
    match &spec.launched {
        Some(launched) => handle.run_by(Runs::Launched(launched.clone())),
        None => handle,
    }
}

/// All texts in a value.
fn texts<'v>(value: &'v Value, found: &mut HashSet<&'v str>) {
    match value {
        Value::String(text) => drop(found.insert(text)),
        Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
        Value::Object(fields) => fields.values().for_each(|item| texts(item, found)),
        _ => {}
    }
}

/// The manifest of a stage all of whose parts are finished, in part order; `None` while one is missing.
pub fn manifest(spec: &StageSpec, bound: &Bound) -> Option<Manifest> {
    let parts: Option<Vec<PartRecord>> = bound.parts.iter().map(|part| part.record.clone()).collect();
    Some(Manifest {
        kind: spec.params.kind().to_string(),
        recipe: bound.recipe.clone(),
        main_table: bound.stage.main_table().map(str::to_string),
        parts: parts?,
    })
}
