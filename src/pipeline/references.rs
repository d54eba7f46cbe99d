//! What stages and policies name: whether it is there, whether it is of the kind that is needed, and the order that follows.

use super::excerpt::did_you_mean;
use super::spec::{Reader, StageSpec};
use crate::policy::{PolicySource, PolicySpec};
use crate::stage::{Reference, Wants};
use mindgap_base::error::Result;
use std::collections::{BTreeMap, HashMap};

/// The stage a reference leads to: through a named policy, if it is one; none where the policy is of no stage.
pub fn resolve<'a>(policies: &'a BTreeMap<String, PolicySpec>, reference: &'a Reference) -> Option<&'a str> {
    match (reference.wants, policies.get(&reference.name).map(|spec| &spec.source)) {
        (Wants::Policy, Some(PolicySource::Stage(stage))) => Some(stage),
        (Wants::Policy, Some(_)) => None,
        _ => Some(&reference.name),
    }
}

impl Reader<'_> {
    pub fn check_references(&self, policies: &BTreeMap<String, PolicySpec>, stages: &[StageSpec]) -> Result<()> {
        for (name, policy) in policies {
            let PolicySource::Stage(target) = &policy.source else { continue };
            let reference = Reference::new("stage", target, Wants::Policy);
            self.check_reference(
                &["policies", name],
                &format!("policy `{name}`"),
                &reference,
                &BTreeMap::new(),
                stages,
            )?;
        }
        for stage in stages {
            for reference in stage.params.references() {
                let path = [&stage.path()[..], &[reference.field]].concat();
                self.check_reference(&path, &format!("stage `{}`", stage.name), &reference, policies, stages)?;
                let trained = policies.get(&reference.name).filter(|_| stage.params.trains());
                if let Some(PolicySpec { source: PolicySource::Server(_), .. }) = trained {
                    let what =
                        format!("stage `{}`: `{}` is on servers and cannot be trained", stage.name, reference.name);
                    return Err(self.error(&path, what).hint(
                        "train a policy whose weights are here: { path = \"..\" } or { hub = \"..\" }; or take the targets to another \
                         trainer with `mindgap export`",
                    ));
                }
                if let Some((key, kind)) = trained.and_then(|spec| spec.held.said().next()) {
                    let (name, stage) = (&reference.name, &stage.name);
                    let what = format!("stage `{stage}`: `{name}` has {key} = \"{kind}\", which is not for training");
                    return Err(self.error(&path, what).hint(format!(
                        "`{key}` is what a policy samples and scores with; name the same policy again without it, and train that",
                    )));
                }
            }
        }
        Ok(())
    }

    fn check_reference(
        &self,
        path: &[&str],
        who: &str,
        reference: &Reference,
        policies: &BTreeMap<String, PolicySpec>,
        stages: &[StageSpec],
    ) -> Result<()> {
        let Reference { field, name, wants } = reference;
        if *wants == Wants::Policy && policies.contains_key(name) {
            return Ok(());
        }
        let fits = |stage: &&StageSpec| wants.kinds().contains(&stage.params.kind());
        match stages.iter().find(|stage| stage.name == *name) {
            Some(stage) if fits(&stage) => Ok(()),
            Some(stage) => {
                let (kind, kinds) = (stage.params.kind(), wants.kinds().join("` or `"));
                Err(self.error(
                    path,
                    format!("{who}: `{field}` names `{name}`, a `{kind}` stage; it needs a `{kinds}` stage"),
                ))
            }
            None => {
                let mut candidates: Vec<&str> = stages.iter().filter(fits).map(|stage| stage.name.as_str()).collect();
                if *wants == Wants::Policy {
                    candidates.extend(policies.keys().map(String::as_str));
                }
                let hint = did_you_mean(name, candidates.iter().copied());
                Err(self.error(path, format!("{who}: `{field}` names `{name}`, which does not exist")).hint(hint))
            }
        }
    }

    /// Stages in an order in which each comes after what it needs: those that need nothing, those that need only them, and so on,
    /// each in file order.
    pub fn sorted(&self, policies: &BTreeMap<String, PolicySpec>, stages: Vec<StageSpec>) -> Result<Vec<StageSpec>> {
        let places: HashMap<&str, usize> =
            stages.iter().enumerate().map(|(place, stage)| (stage.name.as_str(), place)).collect();
        let needs: Vec<Vec<usize>> = stages
            .iter()
            .map(|stage| {
                let references = stage.params.references();
                references.iter().filter_map(|r| places.get(resolve(policies, r)?).copied()).collect()
            })
            .collect();
        let mut needed_by = vec![Vec::new(); stages.len()];
        for (place, needs) in needs.iter().enumerate() {
            needs.iter().for_each(|&need| needed_by[need].push(place));
        }
        let mut missing: Vec<usize> = needs.iter().map(Vec::len).collect();
        let mut level: Vec<usize> = (0..stages.len()).filter(|&place| missing[place] == 0).collect();
        let mut order = Vec::new();
        while !level.is_empty() {
            let mut next = Vec::new();
            for &dependent in level.iter().flat_map(|&place| &needed_by[place]) {
                missing[dependent] -= 1;
                if missing[dependent] == 0 {
                    next.push(dependent);
                }
            }
            next.sort_unstable();
            order.append(&mut level);
            level = next;
        }
        if order.len() < stages.len() {
            let blocked: Vec<&StageSpec> =
                stages.iter().zip(&missing).filter(|(_, missing)| **missing > 0).map(|(stage, _)| stage).collect();
            let names: Vec<&str> = blocked.iter().map(|stage| stage.name.as_str()).collect();
            let error = self.error(&blocked[0].path(), format!("stages need each other: {}", names.join(", ")));
            return Err(error.hint("a pipeline flows one way: break the cycle"));
        }
        let mut stages: Vec<Option<StageSpec>> = stages.into_iter().map(Some).collect();
        Ok(order.into_iter().filter_map(|place| stages[place].take()).collect())
    }
}
