//! What a run is told, and what it tells.

use super::plan::StagePlan;
use super::session::Bound;
use super::spec::StageSpec;
use crate::net::hub::Transfer;
use crate::stage::Tick;
use candle_core::Device;
use mindgap_base::address::Address;
use mindgap_base::error::{Error, Result};
use mindgap_base::fingerprint::Fingerprint;
use mindgap_store::{Failures, LeftOut};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// What happens during a run, for whoever shows it.
pub enum Event<'a> {
    /// A file of a policy comes from the hub.
    Download {
        transfer: Transfer<'a>,
    },
    StageStarted {
        plan: &'a StagePlan,
    },
    PartStarted {
        stage: &'a str,
        index: usize,
        count: usize,
    },
    Progress {
        stage: &'a str,
        tick: Tick,
    },
    /// Another process computes the part.
    Waiting {
        stage: &'a str,
    },
    StageDone {
        outcome: &'a Outcome,
    },
    /// A damaged object was found and dropped; the run starts over and makes it again.
    Repairing {
        address: &'a Address,
    },
}

/// What became of a stage.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    pub name: String,
    pub kind: &'static str,
    pub state: &'static str,
    pub fingerprint: Fingerprint,
    /// Absent while only a share of the parts is there.
    pub address: Option<Address>,
    pub rows: u64,
    /// What is counted beside the main table, by name; nothing while only a share of the parts is there.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub counts: BTreeMap<String, u64>,
    /// Rows of the input that became none of the main table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_out: Option<LeftOut>,
    /// Rows that servers failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failures: Option<Failures>,
    pub parts: usize,
    pub computed_parts: usize,
    pub seconds: f64,
}

/// How a run is to be done.
pub struct Options<'a> {
    pub threads: usize,
    /// Where policies run.
    pub device: &'a Device,
    pub cancel: &'a AtomicBool,
    pub way: Way,
    pub observer: &'a (dyn Fn(Event) + Sync),
}

/// What a run takes up, and in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// One stage after the other; of the selected stages only this share of the parts, where one is given.
    Run { share: Option<Share> },
    /// Parts of any stage that is ready, beside other workers.
    Work,
}

/// One of several equal shares of a stage's parts, for schedulers that start many processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// From 0.
    pub index: usize,
    pub count: usize,
}

impl Share {
    pub(super) fn holds(self, part: usize) -> bool {
        part % self.count == self.index
    }
}

impl Outcome {
    /// A stage of which only a share was computed, and whose other parts are not there yet.
    pub(super) fn partial(spec: &StageSpec, bound: &Bound, computed_parts: usize, started: Instant) -> Outcome {
        let records = bound.parts.iter().filter_map(|part| part.record.as_ref());
        let table = bound.stage.main_table().unwrap_or_default();
        let rows = records.filter_map(|record| record.tables.get(table)).flatten().map(|part| part.rows).sum();
        Outcome {
            name: spec.name.clone(),
            kind: spec.params.kind(),
            state: "partial",
            fingerprint: bound.fingerprint(),
            address: None,
            rows,
            counts: BTreeMap::new(),
            left_out: None,
            failures: None,
            parts: bound.parts.len(),
            computed_parts,
            seconds: started.elapsed().as_secs_f64(),
        }
    }

    /// Error where a stage made nothing of any row of its input: what follows it would run over nothing, or fail without the cause.
    pub(super) fn check_any_left(&self) -> Result<()> {
        let Some(left_out) = self.left_out.as_ref().filter(|_| self.rows == 0) else { return Ok(()) };
        let (count, table, name) = (left_out.rows, left_out.table, &self.name);
        let whole = if count == 1 { "the only row is".to_string() } else { format!("all {count} rows are") };
        Err(Error::input(format!("{whole} in `{table}`: {}", left_out.why()))
            .hint(format!("mindgap show PIPELINE {name} --table {table} shows them")))
    }
}
