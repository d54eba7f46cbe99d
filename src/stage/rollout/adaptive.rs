//! Sampling in waves: easy problems stop early, hard ones are asked again.
//!
//! The first wave draws `samples` of every problem; each further one as many again as a problem has, up to `max_samples`, of the
//! problems with fewer than `until_correct` samples that are correct and fit to be targets. Sample `i` of a problem is the same
//! however many are drawn, so the rows are a part of those that drawing all at once gives.

use super::{Known, Params, RolloutStage, Task};
use crate::stage::backend::Loaded;
use crate::stage::buckets::at_least_one;
use crate::stage::judge::{self, Bench};
use crate::stage::{Context, Inputs, Params as StageParams, Tick};
use mindgap_base::error::{Error, Result};
use mindgap_store::Span;
use mindgap_store::table::rollouts::Rollout;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::OnceLock;

/// Until when a problem is asked.
pub struct Adaptive {
    until_correct: u32,
    first: u32,
    pub most: u32,
    bench: Bench,
    /// What says when a problem is asked no more: the samples themselves do not depend on it.
    pub key: String,
    /// How problems fared when this stage was planned: earlier parts are read for it once.
    pub fared: OnceLock<Option<Fared>>,
}

/// How problems fared that were asked: those with most samples are open still.
#[derive(Clone, Copy)]
pub struct Fared {
    most: u32,
    /// Share of the problems that a wave leaves open.
    survival: f64,
}

/// Errors: parameters that belong together and are not, or contradict each other.
pub fn check(params: &Params) -> Result<()> {
    let given = [params.until_correct.is_some(), params.max_samples.is_some(), params.judge.is_some()];
    match given {
        [false, false, false] => return Ok(()),
        [true, true, true] => {}
        _ => {
            return Err(Error::usage("`until_correct`, `max_samples` and `judge` belong together")
                .hint("until_correct = 1, max_samples = 16, judge = \"verdicts\": the judge stage of these rollouts"));
        }
    }
    at_least_one(params.until_correct.unwrap_or(1), "until_correct")?;
    match params.max_samples.is_some_and(|most| most < params.samples) {
        true => Err(Error::usage("`max_samples` is below `samples`, the samples that every problem gets")),
        false => Ok(()),
    }
}

impl Adaptive {
    pub fn of(params: &Params, inputs: &Inputs) -> Result<Option<Adaptive>> {
        let (Some(until_correct), Some(most), Some(name)) = (params.until_correct, params.max_samples, &params.judge)
        else {
            return Ok(None);
        };
        let judge = judge_of(name, inputs)?;
        if judge.policies().next().is_some() {
            return Err(Error::usage(format!("`judge` names `{name}`, where a policy judges"))
                .hint("between two waves, rules, schemas and commands judge"));
        }
        let bench = Bench::new(judge, &params.origin(), inputs)?;
        let key = format!("{} and on, until {until_correct} correct by {}", params.samples, bench.name());
        Ok(Some(Adaptive { until_correct, first: params.samples, most, bench, key, fared: OnceLock::new() }))
    }

    /// What is known of how problems fare, by how many samples each has; none where no problem was asked.
    pub fn fared(&self, asked: impl Iterator<Item = u32>) -> Option<Fared> {
        let asked: Vec<u32> = asked.collect();
        let most = *asked.iter().max()?;
        let open = asked.iter().filter(|count| **count == most).count() as f64;
        let waves = self.waves().take_while(|wave| wave.end <= most).count().max(1) as f64;
        Some(Fared { most, survival: (open / asked.len() as f64).powf(1.0 / waves) })
    }

    /// How many samples a problem is expected to have that has so many: as many as there may be where nothing is known, no more where
    /// it stopped before others.
    pub fn expected(&self, held: u32, fared: Option<Fared>) -> f64 {
        let Some(Fared { most, survival }) = fared else { return f64::from(self.most) };
        if held > 0 && held < most {
            return f64::from(held);
        }
        let mut open = 1.0;
        let mut expected = f64::from(held);
        for wave in self.waves().filter(|wave| wave.end > held) {
            open *= if wave.start == 0 { 1.0 } else { survival };
            expected += open * f64::from(wave.end - wave.start.max(held));
        }
        expected
    }

    /// Ranges of samples, wave by wave: 0..2, 2..4, 4..8 and so on.
    fn waves(&self) -> impl Iterator<Item = Range<u32>> {
        let ends = std::iter::successors(Some(self.first), |end| end.checked_mul(2));
        let ends = ends.take_while(|end| *end < self.most).chain([self.most]);
        ends.scan(0, |from, end| Some(std::mem::replace(from, end)..end))
    }
}

fn judge_of<'a>(name: &str, inputs: &'a Inputs) -> Result<&'a judge::Params> {
    match inputs.params.get(name) {
        Some(StageParams::Judge(judge)) => Ok(judge),
        Some(_) => Err(Error::usage(format!("`judge` names `{name}`, which is no judge stage"))),
        None => Err(Error::usage(format!("`judge` names `{name}`, which does not exist"))
            .hint("name the judge stage that judges these rollouts")),
    }
}

impl RolloutStage {
    pub(super) fn draw_in_waves(
        &self,
        adaptive: &Adaptive,
        context: &Context,
        loaded: &Loaded,
        known: &mut Known,
        tasks: &[Task],
        span: &Span,
    ) -> Result<Vec<Rollout>> {
        adaptive.bench.check_machine()?;
        let problems = self.problems.overlapping(&span.first, &span.last);
        let problems: Vec<judge::Known> = problems.select(&adaptive.bench.columns())?;
        let problems: HashMap<&str, &judge::Known> = problems.iter().map(|known| (known.id(), known)).collect();
        let mut open: Vec<&Task> = tasks.iter().collect();
        let mut correct: BTreeMap<&str, u32> = BTreeMap::new();
        let mut rows: Vec<Rollout> = Vec::new();
        for (number, wave) in adaptive.waves().enumerate() {
            if open.is_empty() {
                break;
            }
            let (before, left) = (rows.len() as u64, open.len());
            let tick = |tick: Tick| {
                let wave = format!("wave {}, {left} problems", number + 1);
                let note = if tick.note.is_empty() { wave } else { format!("{wave}, {}", tick.note) };
                let (rows_done, rows_total) = (before + tick.rows_done, before + tick.rows_total);
                (context.tick)(Tick { rows_done, rows_total, note, ..tick });
            };
            let drawn = self.draw(
                &Context { tick: &tick, footer: context.footer.clone(), ..*context },
                loaded,
                known,
                &open,
                wave,
            )?;
            for row in &drawn {
                let Some(known) = problems.get(row.problem_id.as_str()) else { continue };
                let is_fit = adaptive.bench.verdict(row, known, &judge::Said::new())?.may_be_chosen();
                *correct.entry(known.id()).or_default() += u32::from(is_fit);
            }
            let failed: BTreeSet<String> =
                drawn.iter().filter(|row| row.failure.is_some()).map(|row| row.problem_id.clone()).collect();
            rows.extend(drawn);
            open.retain(|task| !failed.contains(&task.problem_id));
            open.retain(|task| correct.get(task.problem_id.as_str()).is_none_or(|n| *n < adaptive.until_correct));
        }
        Ok(rows)
    }
}
