//! The batch plan: which rows each step sees, fixed before the first step, so that a resumed run cannot see others.

use mindgap_base::error::{Error, Result};
use mindgap_base::rng::Stream;
use serde::{Deserialize, Serialize};
use std::ops::Range;

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
#[derive(Clone, Debug, PartialEq)]
pub struct PlanParams {
    /// Rows that each step takes some of. A pass is one over the first of them; the others go round as often as that takes.
    pub strata: Vec<Stratum>,
    pub length: PlanLength,
    pub seed: u64,
    /// Leave out the last batch of a pass when it has fewer rows than it should. Otherwise it is a smaller step.
    pub drop_last: bool,
}

/// Rows that follow each other, and how a step takes of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Stratum {
    pub row_count: usize,
    /// Rows per step.
    pub batch_size: usize,
    /// How many rows in a row belong together, in order: a step takes whole groups, until it has `batch_size` rows or more. None
    /// where every row is for itself.
    pub groups: Option<Vec<u32>>,
}

impl Stratum {
    /// Batches of a pass: numbers of rows.
    fn pass(&self, seed: u64, index: usize, epoch: u32) -> Vec<Vec<u32>> {
        let of_stratum = (index as u32).to_le_bytes();
        let key: [&[u8]; 3] = [b"batch plan", &epoch.to_le_bytes(), &of_stratum];
        // The first stratum is drawn as it was before there were others.
        let mut stream = Stream::at(seed, if index == 0 { &key[..2] } else { &key }).cursor();
        let Some(groups) = &self.groups else {
            let mut rows: Vec<u32> = (0..self.row_count as u32).collect();
            stream.shuffle(&mut rows);
            return rows.chunks(self.batch_size).map(<[u32]>::to_vec).collect();
        };
        let mut first = 0;
        let mut groups: Vec<Range<u32>> = groups
            .iter()
            .map(|size| {
                first += size;
                first - size..first
            })
            .collect();
        stream.shuffle(&mut groups);
        let mut batches: Vec<Vec<u32>> = Vec::new();
        for group in groups {
            match batches.last_mut().filter(|batch| batch.len() < self.batch_size) {
                Some(batch) => batch.extend(group),
                None => batches.push(group.collect()),
            }
        }
        batches
    }
}

impl PlanParams {
    /// Errors: a batch without rows, a training without steps. How many rows there are does not matter.
    pub fn check(&self) -> Result<()> {
        let (name, value) = match self.length {
            PlanLength::Epochs(epochs) => ("epochs", epochs as usize),
            PlanLength::Steps(steps) => ("steps", steps as usize),
        };
        let batches = self.strata.iter().map(|stratum| ("batch_size", stratum.batch_size));
        match batches.chain([(name, value)]).find(|(_, value)| *value == 0) {
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
    let PlanParams { strata, length, seed, drop_last } = params;
    if strata.is_empty() || strata.iter().any(|stratum| stratum.row_count == 0) {
        return Err(Error::input("there is no row to train on"));
    }
    if let Some(Stratum { row_count, batch_size, .. }) =
        strata.iter().find(|stratum| *drop_last && stratum.row_count < stratum.batch_size)
    {
        return Err(Error::input(format!("a pass over {row_count} rows has no full batch of {batch_size}"))
            .hint("lower `batch_size`, or set `drop_last = false`"));
    }
    let wanted = match length {
        PlanLength::Epochs(_) => usize::MAX,
        PlanLength::Steps(steps) => *steps as usize,
    };
    let batches = |(index, stratum): (usize, &Stratum), epoch: u32| {
        let pass = stratum.pass(*seed, index, epoch).into_iter();
        let first: u32 = strata[..index].iter().map(|stratum| stratum.row_count as u32).sum();
        let moved = pass.map(move |batch| batch.into_iter().map(|row| first + row).collect::<Vec<u32>>());
        moved.filter(|batch| !drop_last || batch.len() >= stratum.batch_size).collect::<Vec<_>>()
    };
    let mut others: Vec<_> =
        strata.iter().enumerate().skip(1).map(|stratum| (0..).flat_map(move |epoch| batches(stratum, epoch))).collect();
    let mut steps = Vec::new();
    for epoch in 0.. {
        if steps.len() >= wanted || matches!(length, PlanLength::Epochs(epochs) if epoch == *epochs) {
            break;
        }
        for mut rows in batches((0, &strata[0]), epoch) {
            rows.extend(others.iter_mut().flat_map(|batches| batches.next().expect("it goes round")));
            steps.push(PlannedStep { epoch, rows });
        }
    }
    steps.truncate(wanted);
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(row_count: usize, batch_size: usize) -> PlanParams {
        let strata = vec![Stratum { row_count, batch_size, groups: None }];
        PlanParams { strata, length: PlanLength::Epochs(2), seed: 1, drop_last: false }
    }

    #[test]
    fn a_pass_sees_every_row_once() {
        let params = rows(10, 4);
        let steps = plan(&params).unwrap();
        assert_eq!(steps.iter().map(|s| s.rows.len()).collect::<Vec<_>>(), [4, 4, 2, 4, 4, 2]);
        for epoch in 0..2 {
            let mut rows: Vec<u32> = steps.iter().filter(|s| s.epoch == epoch).flat_map(|s| s.rows.clone()).collect();
            rows.sort();
            assert_eq!(rows, (0..10).collect::<Vec<u32>>());
        }
        assert_ne!(steps[0].rows, steps[3].rows);
        assert_ne!(plan(&PlanParams { seed: 2, ..params }).unwrap(), steps);
    }

    #[test]
    fn lengths_and_remainders() {
        let count = |params| plan(&params).unwrap().len();
        assert_eq!(count(PlanParams { drop_last: true, ..rows(10, 4) }), 4);
        assert_eq!(count(PlanParams { length: PlanLength::Steps(7), ..rows(10, 4) }), 7);
        let (short, long) = (PlanLength::Steps(3), PlanLength::Steps(8));
        let all = plan(&PlanParams { length: long, ..rows(10, 4) }).unwrap();
        assert_eq!(plan(&PlanParams { length: short, ..rows(10, 4) }).unwrap(), all[..3]);
    }

    #[test]
    fn impossible_plans_are_errors() {
        assert!(plan(&rows(0, 4)).is_err());
        assert!(plan(&rows(10, 0)).is_err());
        assert!(plan(&PlanParams { length: PlanLength::Steps(0), ..rows(10, 4) }).is_err());
        let error = plan(&PlanParams { drop_last: true, ..rows(3, 4) }).unwrap_err();
        assert!(error.what().contains("no full batch of 4"));
    }
    #[test]
    fn groups_stay_together_and_strata_go_round() {
        let (sizes, of_group) = (vec![3, 1, 2, 3, 1], [0, 0, 0, 1, 2, 2, 3, 3, 3, 4]);
        let grouped = Stratum { row_count: 10, batch_size: 4, groups: Some(sizes.clone()) };
        let beside = Stratum { row_count: 3, batch_size: 2, groups: None };
        let params = PlanParams { strata: vec![grouped, beside], ..rows(0, 1) };
        let steps = plan(&params).unwrap();
        let mut seen = [0; 3];
        for step in &steps {
            let (own, others): (Vec<u32>, Vec<u32>) = step.rows.iter().partition(|row| **row < 10);
            let groups: std::collections::BTreeSet<usize> = own.iter().map(|row| of_group[*row as usize]).collect();
            assert_eq!(groups.iter().map(|group| sizes[*group] as usize).sum::<usize>(), own.len(), "{own:?}");
            assert!((1..=2).contains(&others.len()));
            others.iter().for_each(|row| seen[*row as usize - 10] += 1);
        }
        for epoch in 0..2 {
            let mut own: Vec<u32> = steps.iter().filter(|s| s.epoch == epoch).flat_map(|s| s.rows.clone()).collect();
            own.retain(|row| *row < 10);
            own.sort_unstable();
            assert_eq!(own, (0..10).collect::<Vec<u32>>());
        }
        assert!(seen.iter().max().unwrap() - seen.iter().min().unwrap() <= 1, "{seen:?}");
    }
}
