//! Judge stages that looked at the same samples, two by two.

use super::made::Made;
use crate::report::Compared;
use crate::stage::Params;
use crate::stats::agreement::Agreement;
use mindgap_base::error::Result;
use mindgap_store::Table;
use mindgap_store::table::verdicts::{Verdict, VerdictRow};
use serde::Deserialize;
use std::collections::HashMap;

/// Every two judge stages of the same rollouts that have run, in the order of the file. Samples that one and the same judge looked at
/// in both are left out: where judges go by source, two stages may share some.
pub fn compared(made: &Made) -> Result<Vec<Compared>> {
    let judges: Vec<(&str, &str)> = made
        .pipeline
        .stages
        .iter()
        .filter_map(|spec| match &spec.params {
            Params::Judge(judge) if made.has(&spec.name) => Some((spec.name.as_str(), judge.rollouts.as_str())),
            _ => None,
        })
        .collect();
    let mut found = Vec::new();
    for (index, (first, rollouts)) in judges.iter().enumerate() {
        for (second, _) in judges[index + 1..].iter().filter(|(_, others)| others == rollouts) {
            let agreement = agreement(&made.table(first)?, &made.table(second)?)?;
            if agreement.samples() > 0 {
                found.push(Compared::new(rollouts, first, second, agreement));
            }
        }
    }
    Ok(found)
}

#[derive(Deserialize)]
struct Judged {
    problem_id: String,
    sample_index: u32,
    verdict: Verdict,
    judge_version: String,
}

/// Goes through the tables part by part.
fn agreement(first: &Table<VerdictRow>, second: &Table<VerdictRow>) -> Result<Agreement> {
    let read = |table: Table<VerdictRow>| -> Result<Vec<Judged>> {
        table.select(&["problem_id", "sample_index", "verdict", "judge_version"])
    };
    let mut agreement = Agreement::default();
    for part in second.parts() {
        let known = read(first.overlapping(&part.first, &part.last))?;
        let known: HashMap<(&str, u32), &Judged> =
            known.iter().map(|row| ((row.problem_id.as_str(), row.sample_index), row)).collect();
        for row in read(second.part(part))? {
            let other = known.get(&(row.problem_id.as_str(), row.sample_index));
            if let Some(other) = other.filter(|other| other.judge_version != row.judge_version) {
                agreement.add(other.verdict.is_correct(), row.verdict.is_correct());
            }
        }
    }
    Ok(agreement)
}
