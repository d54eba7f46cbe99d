//! What policies have kept, over replications: backward transfer, retention, and how far they have moved.

use super::{Accuracy, Study, paired, percent};
use crate::stage::{Params, evaluate};
use crate::stats::crossed::Interval;
use crate::stats::metrics::mean;
use crate::study::Made;
use mindgap_base::error::Result;
use mindgap_store::table::evals::Forgetting;
use serde::Serialize;

/// One policy, in points; nothing where there is nothing to compare.
#[derive(Serialize)]
pub struct Kept {
    pub policy: String,
    /// Over the tasks learned before its own: accuracy now, minus right after learning the task.
    pub bwt: Option<Interval>,
    /// Over benchmarks nothing was trained for: accuracy minus the base policy's.
    pub retention: Option<Interval>,
    /// KL(policy, base) per token, nats: the mean of the replications, the lowest and the highest.
    pub kl_per_token: Option<Interval>,
}

/// Of the policies that evaluate stages compare with a base. The sequences are those of the first such stage.
pub fn kept(made: &Made, study: &Study) -> Result<Vec<Kept>> {
    let compares = |spec: &&crate::pipeline::StageSpec| match &spec.params {
        Params::Evaluate(params) => params.base.is_some(),
        _ => false,
    };
    let stages: Vec<_> = made.pipeline.stages.iter().filter(compares).collect();
    let Some(Params::Evaluate(params)) = stages.first().map(|spec| &spec.params) else { return Ok(Vec::new()) };
    let mut told: Vec<Forgetting> = Vec::new();
    for spec in &stages {
        told.extend(made.table::<Forgetting>(&spec.name)?.read_all()?);
    }
    let base = params.base.as_deref().unwrap_or_default();
    let untouched: Vec<String> = study.benchmarks.iter().filter(|name| params.is_untouched(name)).cloned().collect();
    let mut kept = Vec::new();
    for policy in study.names.iter().filter(|name| *name != base) {
        let moved: Vec<f64> =
            told.iter().filter(|row| row.policy == *policy).filter_map(|row| row.kl_per_token).collect();
        kept.push(Kept {
            policy: policy.clone(),
            bwt: bwt(study, params, policy)?,
            retention: over(study, policy, base, &untouched)?,
            kl_per_token: (!moved.is_empty()).then(|| Interval {
                mean: mean(moved.iter().copied()),
                low: moved.iter().copied().fold(f64::INFINITY, f64::min),
                high: moved.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            }),
        });
    }
    Ok(kept)
}

fn bwt(study: &Study, params: &evaluate::Params, policy: &str) -> Result<Option<Interval>> {
    let mut differences = Accuracy::new();
    for task in params.steps_before(policy).unwrap_or_default() {
        differences.extend(of(&paired(study.of(policy)?, study.of(&task.policy)?), study, &task.learned));
    }
    Ok((!differences.is_empty()).then(|| percent(&differences)))
}

fn over(study: &Study, policy: &str, base: &str, benchmarks: &[String]) -> Result<Option<Interval>> {
    let differences = of(&paired(study.of(policy)?, study.of(base)?), study, benchmarks);
    Ok((!differences.is_empty()).then(|| percent(&differences)))
}

/// The values of some benchmarks.
fn of(values: &Accuracy, study: &Study, benchmarks: &[String]) -> Accuracy {
    let named = study.benchmarks.iter().zip(values).filter(|(name, _)| benchmarks.contains(name));
    named.map(|(_, stratum)| stratum.clone()).collect()
}
