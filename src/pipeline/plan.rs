//! What would run, and why. Computes nothing and changes nothing in the store.

use super::estimate::Estimate;
use super::explain::why;
use super::session::{Bound, LookedUp, Session, manifest};
use super::spec::{Pipeline, StageSpec};
use crate::net::hub::Watch;
use crate::server::engine_at_hand;
use crate::stage::{Cost, Holds, Part, Work};
use mindgap_base::error::Result;
use mindgap_base::fingerprint::Fingerprint;
use mindgap_store::{PartRecord, Store};
use rayon::prelude::*;
use serde::Serialize;

/// A stage's standing.
#[derive(Clone, Debug, Serialize)]
pub struct StagePlan {
    pub name: String,
    pub kind: &'static str,
    /// Absent while an input is not there yet.
    pub fingerprint: Option<Fingerprint>,
    pub parts_hit: usize,
    pub parts_miss: usize,
    pub rows_hit: u64,
    pub rows_miss: u64,
    /// What is missing would take so much; absent where that is hardly anything, or cannot be told.
    pub estimate: Option<Estimate>,
    /// Bytes of memory it cannot do without, where a policy runs in this process.
    pub least_memory: Option<u64>,
    /// Stages it waits for.
    pub waits_for: Vec<String>,
    pub why: Vec<String>,
    /// What people should know before what is missing is computed.
    pub remarks: Vec<String>,
}

/// Plans the selected stages. A policy of the hub is fetched if it is not there: its bytes are part of every recipe.
pub fn plan(pipeline: &Pipeline, store: &Store, names: &[String], watch: &Watch) -> Result<Vec<StagePlan>> {
    plans(Session::new(pipeline, store, names, watch)?, names)
}

/// The same from what this machine has: nothing is fetched. Error where a policy or a file that is asked for is not here.
pub fn plan_at_hand(pipeline: &Pipeline, store: &Store, names: &[String]) -> Result<Vec<StagePlan>> {
    plans(Session::at_hand(pipeline, store, names)?, names)
}

fn plans(mut session: Session, names: &[String]) -> Result<Vec<StagePlan>> {
    let mut plans = Vec::new();
    for spec in session.pipeline.select(names)? {
        let waits_for: Vec<String> = session.waiting_for(spec).into_iter().map(str::to_string).collect();
        if !waits_for.is_empty() {
            plans.push(StagePlan { least_memory: session.least_memory(spec)?, ..waiting(spec, waits_for) });
            continue;
        }
        let bound = session.bind(spec).map_err(|e| session.locate(e, spec))?;
        plans.push(stage_plan(&session, spec, &bound).map_err(|e| session.locate(e, spec))?);
        if let Some(manifest) = manifest(spec, &bound) {
            session.finish(spec, manifest);
        }
    }
    Ok(plans)
}

fn waiting(spec: &StageSpec, waits_for: Vec<String>) -> StagePlan {
    StagePlan {
        name: spec.name.clone(),
        kind: spec.params.kind(),
        fingerprint: None,
        parts_hit: 0,
        parts_miss: 0,
        rows_hit: 0,
        rows_miss: 0,
        estimate: None,
        least_memory: None,
        why: vec![format!("waits for {}", waits_for.join(", "))],
        waits_for,
        remarks: Vec::new(),
    }
}

/// Hits, misses and the reason of one stage whose inputs are there.
pub fn stage_plan(session: &Session, spec: &StageSpec, bound: &Bound) -> Result<StagePlan> {
    let rows = |record: &PartRecord| {
        bound
            .stage
            .main_table()
            .and_then(|table| record.tables.get(table))
            .map_or(0, |parts| parts.iter().map(|p| p.rows).sum())
    };
    let hits: Vec<&PartRecord> = bound.parts.iter().filter_map(|part| part.record.as_ref()).collect();
    let (parts_hit, parts_miss) = (hits.len(), bound.parts.len() - hits.len());
    let mut rows_hit: u64 = hits.iter().map(|record| rows(record)).sum();
    let mut rows_miss = 0;
    let earlier = if parts_miss > 0 { session.store.family_parts(&bound.family)? } else { Vec::new() };
    // What is missing may have to be read to be counted: on all threads.
    let missing: Vec<&LookedUp> = bound.parts.iter().filter(|part| part.record.is_none()).collect();
    let work = missing.par_iter().map(|missing| bound.stage.work(&bound.family, &missing.part, &earlier));
    for Work { rows, reusable } in work.collect::<Result<Vec<_>>>()? {
        rows_hit += reusable;
        rows_miss += rows - reusable.min(rows);
    }
    let cost = match parts_miss {
        0 => None,
        _ => {
            let parts: Vec<&Part> = missing.iter().map(|missing| &missing.part).collect();
            bound.stage.cost(&parts, rows_miss, &earlier)?
        }
    };
    let kind = spec.params.kind();
    let estimate = cost.map(|cost| Ok(session.speeds()?.estimate(kind, &cost))).transpose()?;
    let mut remarks = if parts_miss > 0 { bound.stage.remarks()? } else { Vec::new() };
    remarks.extend(cost.map(|cost| elsewhere(session, spec, cost)).transpose()?.flatten());
    let why = match parts_miss {
        0 => Vec::new(),
        _ => why(session, spec, bound)?,
    };
    Ok(StagePlan {
        name: spec.name.clone(),
        kind: spec.params.kind(),
        fingerprint: Some(bound.fingerprint()),
        parts_hit,
        parts_miss,
        rows_hit,
        rows_miss,
        estimate,
        least_memory: if parts_miss > 0 { session.least_memory(spec)? } else { None },
        waits_for: Vec::new(),
        why,
        remarks,
    })
}

/// What sampling or scoring would take in a server program that is on this machine, beside a GPU it could use.
fn elsewhere(session: &Session, spec: &StageSpec, cost: Cost) -> Result<Option<String>> {
    let runs = matches!(spec.params.footprint(), Some(footprint) if footprint.holds == Holds::Weights);
    let Some(engine) = engine_at_hand().filter(|_| runs && cost.by.is_none()) else { return Ok(None) };
    let there = session.speeds()?.estimate(spec.params.kind(), &Cost { by: Some(engine.name()), ..cost });
    let takes = match there.seconds {
        Some(seconds) if seconds < 600.0 => format!("about {} seconds", seconds.ceil()),
        Some(seconds) => format!("about {:.1} hours", seconds / 3600.0),
        None => "how long is known once a part ran there".to_string(),
    };
    Ok(Some(format!("`engine = \"{}\"` of its policy runs it on the GPU here: {takes}", engine.name())))
}
