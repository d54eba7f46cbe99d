//! How far each stage is, and what it made last.

use crate::pipeline::{Pipeline, StagePlan, stale};
use mindgap_base::address::Address;
use mindgap_base::error::Result;
use mindgap_base::fingerprint::Fingerprint;
use mindgap_store::{Manifest, Store};
use serde::Serialize;

/// A stage's standing. `state`, `fingerprint` and the parts are of what the pipeline file asks for now; `address` and `rows`
/// are of what is there: of the newest result where the stage is done or its result stale, else of the parts made so far.
#[derive(Serialize)]
pub struct StageStatus {
    pub name: String,
    pub kind: &'static str,
    /// `done`, `partial` or `missing`.
    pub state: &'static str,
    pub fingerprint: Option<Fingerprint>,
    pub address: Option<Address>,
    pub rows: u64,
    pub parts: usize,
    pub parts_done: usize,
    /// Why the newest result is not what the file asks for now; empty where it is, or where there is none.
    pub stale: Vec<String>,
}

/// The standing of every planned stage. `plans` are those of the whole pipeline.
pub fn status(store: &Store, pipeline: &Pipeline, plans: Vec<StagePlan>) -> Result<Vec<StageStatus>> {
    let mut stale = stale(store, &pipeline.name, &plans)?;
    plans
        .into_iter()
        .map(|plan| {
            let state = match &plan {
                StagePlan { waits_for, .. } if !waits_for.is_empty() => "missing",
                StagePlan { parts_miss: 0, .. } => "done",
                StagePlan { parts_hit: 0, rows_hit: 0, .. } => "missing",
                _ => "partial",
            };
            let stale = stale.remove(&plan.name).unwrap_or_default();
            let is_shown = state == "done" || !stale.is_empty();
            let pointer = store.pointer(&pipeline.name, &plan.name)?.filter(|_| is_shown);
            let manifest = pointer.and_then(|pointer| store.get_manifest(&pointer.manifest).ok());
            Ok(StageStatus {
                name: plan.name,
                kind: plan.kind,
                state,
                fingerprint: plan.fingerprint,
                address: manifest.as_ref().map(Manifest::content),
                rows: manifest.as_ref().map_or(plan.rows_hit, Manifest::rows),
                parts: plan.parts_hit + plan.parts_miss,
                parts_done: plan.parts_hit,
                stale,
            })
        })
        .collect()
}
