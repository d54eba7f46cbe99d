//! The batch plan: which rows each step sees, fixed before the first step, so that a resumed run cannot see others.

use mindgap_base::error::{Error, Result};
use mindgap_base::rng::Stream;
use serde::{Deserialize, Serialize};

/// How long training goes on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlanLength {
    /// Passes over the rows.
    Epochs(u32),
    /// Optimizer steps, over as many passes as they take.
    Steps(u32),
}

/// What the plan depends on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlanParams {
    pub row_count: usize,
    /// Rows per step.
    pub batch_size: usize,
    pub length: PlanLength,
    pub seed: u64,
    /// Leave out the last batch of a pass when it has fewer than `batch_size` rows. Otherwise it is a smaller step.
    pub drop_last: bool,
}

impl PlanParams {
    /// Errors: a batch without rows, a training without steps. How many rows there are does not matter.
    pub fn check(&self) -> Result<()> {
        let (name, value) = match self.length {
            PlanLength::Epochs(epochs) => ("epochs", epochs as usize),
            PlanLength::Steps(steps) => ("steps", steps as usize),
        };
        match [("batch_size", self.batch_size), (name, value)].iter().find(|(_, value)| *value == 0) {
            Some((name, _)) => Err(Error::usage(format!("`{name}` must be at least 1"))),
            None => Ok(()),
        }
    }
}

/// One optimizer step of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedStep {
    /// Pass over the rows, 0-based.
    pub epoch: u32,
    /// Row numbers in reading order.
    pub rows: Vec<u32>,
}

/// Each pass is a permutation of its own, drawn from (seed, epoch). Errors: no rows, no batch size, or a plan without steps.
pub fn plan(params: &PlanParams) -> Result<Vec<PlannedStep>> {
    params.check()?;
    let PlanParams { row_count, batch_size, length, seed, drop_last } = *params;
    if row_count == 0 {
        return Err(Error::input("there is no row to train on"));
    }
    if drop_last && row_count < batch_size {
        return Err(Error::input(format!("a pass over {row_count} rows has no full batch of {batch_size}"))
            .hint("lower `batch_size`, or set `drop_last = false`"));
    }
    let wanted = match length {
        PlanLength::Epochs(_) => usize::MAX,
        PlanLength::Steps(steps) => steps as usize,
    };
    let mut steps = Vec::new();
    for epoch in 0.. {
        if steps.len() >= wanted || matches!(length, PlanLength::Epochs(epochs) if epoch == epochs) {
            break;
        }
        let mut rows: Vec<u32> = (0..row_count as u32).collect();
        Stream::at(seed, &[b"batch plan", &epoch.to_le_bytes()]).cursor().shuffle(&mut rows);
        for batch in rows.chunks(batch_size).filter(|b| !drop_last || b.len() == batch_size) {
            steps.push(PlannedStep { epoch, rows: batch.to_vec() });
        }
    }
    steps.truncate(wanted);
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARAMS: PlanParams =
        PlanParams { row_count: 10, batch_size: 4, length: PlanLength::Epochs(2), seed: 1, drop_last: false };

    #[test]
    fn a_pass_sees_every_row_once() {
        let steps = plan(&PARAMS).unwrap();
        assert_eq!(steps.iter().map(|s| s.rows.len()).collect::<Vec<_>>(), [4, 4, 2, 4, 4, 2]);
        for epoch in 0..2 {
            let mut rows: Vec<u32> = steps.iter().filter(|s| s.epoch == epoch).flat_map(|s| s.rows.clone()).collect();
            rows.sort();
            assert_eq!(rows, (0..10).collect::<Vec<u32>>());
        }
        assert_ne!(steps[0].rows, steps[3].rows);
        assert_ne!(plan(&PlanParams { seed: 2, ..PARAMS }).unwrap(), steps);
    }

    #[test]
    fn lengths_and_remainders() {
        let count = |params| plan(&params).unwrap().len();
        assert_eq!(count(PlanParams { drop_last: true, ..PARAMS }), 4);
        assert_eq!(count(PlanParams { length: PlanLength::Steps(7), ..PARAMS }), 7);
        let (short, long) = (PlanLength::Steps(3), PlanLength::Steps(8));
        let all = plan(&PlanParams { length: long, ..PARAMS }).unwrap();
        assert_eq!(plan(&PlanParams { length: short, ..PARAMS }).unwrap(), all[..3]);
    }

    #[test]
    fn impossible_plans_are_errors() {
        assert!(plan(&PlanParams { row_count: 0, ..PARAMS }).is_err());
        assert!(plan(&PlanParams { batch_size: 0, ..PARAMS }).is_err());
        assert!(plan(&PlanParams { length: PlanLength::Steps(0), ..PARAMS }).is_err());
        let error = plan(&PlanParams { row_count: 3, drop_last: true, ..PARAMS }).unwrap_err();
        assert!(error.what().contains("no full batch of 4"));
    }
}
