//! What stages and policies name: whether it is there, whether it is of the kind that is needed, and the order that follows.

use super::excerpt::did_you_mean;
use super::spec::{Reader, StageSpec};
use crate::policy::{PolicySource, PolicySpec};
use crate::stage::{Reference, Wants};
use mindgap_base::error::Result;
use std::collections::{BTreeMap, HashSet};

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

    /// Stages in an order in which each comes after what it needs, else in file order.
    pub fn sorted(&self, policies: &BTreeMap<String, PolicySpec>, mut left: Vec<StageSpec>) -> Result<Vec<StageSpec>> {
        let mut sorted: Vec<StageSpec> = Vec::new();
        while !left.is_empty() {
            let names: HashSet<String> = left.iter().map(|stage| stage.name.clone()).collect();
            let waits = |stage: &StageSpec| -> bool {
                stage.params.references().iter().any(|r| resolve(policies, r).is_some_and(|name| names.contains(name)))
            };
            let (blocked, ready): (Vec<_>, Vec<_>) = left.into_iter().partition(waits);
            if ready.is_empty() {
                let names: Vec<&str> = blocked.iter().map(|stage| stage.name.as_str()).collect();
                let error = self.error(&blocked[0].path(), format!("stages need each other: {}", names.join(", ")));
                return Err(error.hint("a pipeline flows one way: break the cycle"));
            }
            sorted.extend(ready);
            left = blocked;
        }
        Ok(sorted)
    }
}
