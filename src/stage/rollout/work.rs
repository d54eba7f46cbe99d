//! How much a part has to draw, told without drawing: from counts where they are kept, else from a few columns.

use super::adaptive::Adaptive;
use super::{RolloutStage, samples_key, solved};
use crate::stage::{Part, Work};
use mindgap_base::error::Result;
use mindgap_base::fingerprint::Fingerprint;
use mindgap_store::table::rollouts::PromptKind;
use mindgap_store::{PartRecord, PartRef};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

impl RolloutStage {
    /// What a part has to draw, and what of it earlier parts hold. Reads only what counts kept beside the parts leave open.
    pub(super) fn count(&self, family: &Fingerprint, part: &Part, earlier: &[PartRecord]) -> Result<Work> {
        let (from, to) = part.span.samples.expect("a rollout part has a sample range");
        let overlapping: Vec<&PartRecord> = earlier.iter().filter(|record| overlaps(record, part)).collect();
        if let Some(adaptive) = &self.adaptive {
            return self.count_waves(adaptive, part, &overlapping, earlier);
        }
        // Such a part holds its whole range of samples of every problem there is to sample.
        let same_problems =
            |record: &&PartRecord| with_samples_of(part, record).fingerprint(family) == record.fingerprint;
        if let Some(problems) = self.count_tasks(part).filter(|_| overlapping.iter().all(same_problems)) {
            let holds = |record: &&PartRecord, sample: u32| {
                record.span.samples.is_some_and(|(from, to)| (from..to).contains(&sample))
            };
            let held = |sample: &u32| overlapping.iter().any(|record| holds(record, *sample));
            let reusable = problems * (from..to).filter(held).count() as u64;
            return Ok(Work { rows: problems * u64::from(to - from), reusable });
        }
        let (problems, known) = (self.problem_ids(part)?, self.known_samples(&overlapping)?);
        let reusable = |id: &String| (from..to).filter(|sample| known.contains(&(id.clone(), *sample))).count() as u64;
        let rows = problems.len() as u64 * u64::from(to - from);
        Ok(Work { rows, reusable: problems.iter().map(reusable).sum() })
    }

    /// How many samples a part that is drawn in waves is expected to have.
    fn count_waves(
        &self,
        adaptive: &Adaptive,
        part: &Part,
        overlapping: &[&PartRecord],
        earlier: &[PartRecord],
    ) -> Result<Work> {
        let asked = self.asked(overlapping)?;
        let problems = self.problem_ids(part)?;
        let held = |id: &String| asked.get(id).copied().unwrap_or(0).min(adaptive.most);
        let reusable = problems.iter().map(|id| u64::from(held(id))).sum();
        let fared = match adaptive.fared.get() {
            Some(fared) => *fared,
            None => {
                let all = self.asked(&earlier.iter().collect::<Vec<_>>())?;
                *adaptive.fared.get_or_init(|| adaptive.fared(all.values().copied()))
            }
        };
        let expected: f64 = problems.iter().map(|id| adaptive.expected(held(id), fared)).sum();
        Ok(Work { rows: (expected.round() as u64).max(reusable), reusable })
    }

    /// How many samples of parts that are drawn in waves there may be, beyond those that are known.
    pub(super) fn most_missing(&self, adaptive: &Adaptive, parts: &[&Part], earlier: &[PartRecord]) -> Result<u64> {
        let asked = self.asked(&earlier.iter().collect::<Vec<_>>())?;
        let mut most = 0;
        for part in parts {
            let held = |id: &String| asked.get(id).copied().unwrap_or(0).min(adaptive.most);
            most += self.problem_ids(part)?.iter().map(|id| u64::from(adaptive.most - held(id))).sum::<u64>();
        }
        Ok(most)
    }

    /// How many samples of a problem are known, the first ones.
    fn asked(&self, earlier: &[&PartRecord]) -> Result<BTreeMap<String, u32>> {
        let mut asked: BTreeMap<String, u32> = BTreeMap::new();
        for (id, _) in self.known_samples(earlier)? {
            *asked.entry(id).or_default() += 1;
        }
        Ok(asked)
    }

    /// How many problems of a part are to be sampled, by the counts kept beside the tables' parts; none where these cannot say.
    fn count_tasks(&self, part: &Part) -> Option<u64> {
        let (first, last) = (&part.span.first, &part.span.last);
        let problems = self.problems.overlapping(first, last);
        let whole = |part: &PartRef| part.first >= *first && part.last <= *last;
        problems.parts().iter().all(whole).then_some(())?;
        let rows: u64 = problems.parts().iter().map(|part| part.rows).sum();
        if self.params.prompt_kind == PromptKind::Guided {
            let has_solutions = |part: &PartRef| part.counts.get("with_solution") == Some(&part.rows);
            problems.parts().iter().all(has_solutions).then_some(())?;
        }
        match &self.unsolved[..] {
            [] => Some(rows),
            // What is solved by a part and what by another may be one problem, unless their ids tell them apart.
            [verdicts] if self.same_problems => {
                let verdicts = verdicts.overlapping(first, last);
                let within = verdicts.parts().iter().all(whole);
                let apart = verdicts.parts().windows(2).all(|pair| pair[0].last < pair[1].first);
                let solved =
                    verdicts.parts().iter().map(|part| part.counts.get("solved_problems")).sum::<Option<u64>>();
                solved.filter(|_| within && apart).and_then(|solved| rows.checked_sub(solved))
            }
            _ => None,
        }
    }

    /// Ids of the tasks, without their texts.
    fn problem_ids(&self, part: &Part) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Id {
            problem_id: String,
            #[serde(default)]
            solution: Option<String>,
        }
        let solved = solved(&self.unsolved, &part.span)?;
        let problems = self.problems.overlapping(&part.span.first, &part.span.last);
        let columns: &[&str] = match self.params.prompt_kind {
            PromptKind::Plain | PromptKind::Imported => &["problem_id"],
            PromptKind::Guided => &["problem_id", "solution"],
        };
        let rows: Vec<Id> = problems.select(columns)?;
        let wanted = |row: &Id| {
            part.span.holds(&row.problem_id)
                && !solved.contains(&row.problem_id)
                && self.can_be_prompted(row.solution.is_some())
        };
        Ok(rows.into_iter().filter(wanted).map(|row| row.problem_id).collect())
    }

    /// The keys of the rows of earlier parts.
    fn known_samples(&self, earlier: &[&PartRecord]) -> Result<BTreeSet<(String, u32)>> {
        #[derive(Deserialize)]
        struct Key {
            problem_id: String,
            sample_index: u32,
        }
        let mut known = BTreeSet::new();
        for record in earlier {
            let rows: Vec<Key> = self.rollouts(record).select(&["problem_id", "sample_index"])?;
            known.extend(rows.into_iter().map(|row| (row.problem_id, row.sample_index)));
        }
        Ok(known)
    }
}

/// Whether an earlier part may hold rows of this one.
pub(super) fn overlaps(earlier: &PartRecord, part: &Part) -> bool {
    let (from, to) = part.span.samples.expect("a rollout part has a sample range");
    earlier.span.samples.is_some_and(|(a, b)| a < to && b > from)
        && earlier.span.first <= part.span.last
        && earlier.span.last >= part.span.first
}

/// What the part of an earlier record would be if it had the problems of this one.
fn with_samples_of(part: &Part, earlier: &PartRecord) -> Part {
    let mut like = part.clone();
    if let (Some((from, to)), Some(samples)) = (earlier.span.samples, like.key.last_mut()) {
        *samples = samples_key(from, to);
    }
    like
}
