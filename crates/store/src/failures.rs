//! Rows that servers failed: how many a stage has, and the first ones by name.

use super::Store;
use super::manifest::{Manifest, PartRef};
use super::table::judgements::JudgementRow;
use super::table::logprobs::Logprob;
use super::table::rollouts::Rollout;
use super::table::soft::Soft;
use super::table::{FAILED, Row};
use mindgap_base::error::Result;
use serde::{Deserialize, Serialize};

/// Rows that are named, at most.
const NAMED: usize = 5;

/// What servers failed of a stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Failures {
    pub table: &'static str,
    pub rows: u64,
    /// The first ones.
    pub first: Vec<Failure>,
}

/// A row that servers failed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Failure {
    pub problem_id: String,
    /// What they said.
    pub why: String,
}

impl Failures {
    /// The first ones as people read them, a line each.
    pub fn lines(&self) -> Vec<String> {
        let more = self.rows - self.first.len() as u64;
        let named = self.first.iter().map(|Failure { problem_id, why }| format!("problem `{problem_id}`: {why}"));
        named.chain((more > 0).then(|| format!("and {more} more"))).collect()
    }
}

impl Store {
    /// What servers failed of a stage; none where it is nothing. Only parts with such rows are read.
    pub fn failures(&self, manifest: &Manifest) -> Result<Option<Failures>> {
        let found = [
            self.failed::<Rollout>(manifest)?,
            self.failed::<Logprob>(manifest)?,
            self.failed::<JudgementRow>(manifest)?,
            self.failed::<Soft>(manifest)?,
        ];
        Ok(found.into_iter().flatten().next())
    }

    fn failed<R: Row>(&self, manifest: &Manifest) -> Result<Option<Failures>> {
        #[derive(Deserialize)]
        struct Told {
            problem_id: String,
            failure: Option<String>,
        }
        let count = |part: &PartRef| part.counts.get(FAILED).copied().unwrap_or_default();
        let (mut rows, mut first) = (0, Vec::new());
        for part in manifest.table(R::TABLE).iter().filter(|part| count(part) > 0) {
            rows += count(part);
            if first.len() < NAMED {
                let told = self.read_columns::<R, Told>(part, &["problem_id", "failure"])?.into_iter();
                let named = told.filter_map(|Told { problem_id, failure }| Some(Failure { problem_id, why: failure? }));
                first.extend(named.take(NAMED - first.len()));
            }
        }
        Ok((rows > 0).then_some(Failures { table: R::TABLE, rows, first }))
    }
}
