//! judge: rollouts + problems -> verdicts.  One part per part of rollouts; a new judge re-samples nothing.
//!
//! A verdict says two things: whether the answer is right, and whether the sample may become a training target.

mod bench;
mod model;
mod refuse;
mod sources;
mod unfinished;

pub use bench::{Bench, Known};
pub use model::Said;

use super::backend::few_failed;
use super::{Context, Cost, Footprint, Inputs, Part, Reference, Stage, StageParams, Tick, Wants};
use crate::judge::{JudgeKind, JudgeSpec, Setting};
use mindgap_base::error::{Error, Result};
use mindgap_base::fingerprint::Recipe;
use mindgap_store::table::Row;
use mindgap_store::table::judgements::JudgementRow;
use mindgap_store::table::problems::Problem;
use mindgap_store::table::rollouts::Rollout;
use mindgap_store::table::verdicts::{Refusal, VerdictRow};
use mindgap_store::{PartRecord, Span, Table};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sources::{Judges, Named};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    pub rollouts: String,
    pub problems: String,
    /// The judge: a word (`"math"`), a table of a kind and its options (`{ kind = "numeric", rel_tol = 1e-2 }`), or a `default`
    /// and judges `by_source` of the problems, where `name-*` stands for all sources whose names start so.
    #[serde(default)]
    pub judge: Judges,
    /// Options of the judge, of the default one where there are several: `{ scale = "from_gold", named_sums = false }`.
    #[serde(default)]
    pub options: BTreeMap<String, Setting>,
    /// Relative tolerance of the `numeric` judge.
    #[serde(default = "rel_tol")]
    pub rel_tol: f64,
    /// Absolute tolerance of the `numeric` judge.
    #[serde(default)]
    pub abs_tol: f64,
    /// Why a correct sample is no training target, beyond what always refuses it (an answer that is cut off, given twice, or has
    /// special tokens inside). `no_box` looks only where the rollouts' prompt template asks for a box; the others look only at
    /// samples that were shown the expert's solution, and at imported ones.
    #[serde(default = "refuse::default")]
    pub refuse: Vec<Refusal>,
    /// Share of a sample's wording that may be the expert's, before the sample counts as `copied`.
    #[serde(default = "refuse::copied_limit")]
    pub copied_limit: f64,
}

/// The default relative tolerance of the `numeric` judge.
fn rel_tol() -> f64 {
    1e-6
}

impl Params {
    /// The judges, with what the stage says of the default one.
    fn judges(&self) -> Judges {
        let mut judges = self.judge.clone();
        let options = &mut judges.default.options;
        for (name, value) in &self.options {
            options.insert(name.clone(), value.clone());
        }
        if judges.default.kind == JudgeKind::Numeric {
            for (name, value) in [("rel_tol", self.rel_tol), ("abs_tol", self.abs_tol)] {
                options.entry(name.to_string()).or_insert(Setting::Decimal(value));
            }
        }
        judges
    }

    /// The policies that judge.
    pub fn policies(&self) -> impl Iterator<Item = &str> {
        let Judges { default, by_source } = &self.judge;
        let of_default = default.kind.policy(&self.options).or_else(|| default.kind.policy(&default.options));
        of_default.into_iter().chain(by_source.values().filter_map(|spec| spec.kind.policy(&spec.options)))
    }
}

impl StageParams for Params {
    fn validate(&self) -> Result<()> {
        self.judges().check()?;
        let numeric = JudgeSpec {
            kind: JudgeKind::Numeric,
            options: [("rel_tol", self.rel_tol), ("abs_tol", self.abs_tol)]
                .map(|(name, value)| (name.to_string(), Setting::Decimal(value)))
                .into(),
        };
        numeric.check()?;
        refuse::check(&self.refuse, self.copied_limit)
    }

    fn references(&self) -> Vec<Reference> {
        let mut references = vec![
            Reference::new("rollouts", &self.rollouts, Wants::Rollouts),
            Reference::new("problems", &self.problems, Wants::Problems),
        ];
        references.extend(self.policies().map(|policy| Reference::new("judge", policy, Wants::Policy)));
        references
    }

    fn footprint(&self) -> Option<Footprint<'_>> {
        self.policies().next().map(Footprint::of_engine)
    }

    fn bind(&self, inputs: &Inputs) -> Result<Box<dyn Stage>> {
        Ok(Box::new(JudgeStage {
            bench: Bench::new(self, &inputs.origin(&self.rollouts)?, inputs)?,
            rollouts: inputs.table(&self.rollouts)?,
            problems: inputs.table(&self.problems)?,
        }))
    }

    fn read_along(&self) -> Option<&str> {
        Some(&self.rollouts)
    }
}

#[derive(Deserialize)]
struct Sourced {
    source: String,
}

pub struct JudgeStage {
    bench: Bench,
    rollouts: Table<Rollout>,
    problems: Table<Problem>,
}

impl Stage for JudgeStage {
    fn abreast(&self) -> usize {
        self.bench.judges.all().filter_map(|judge| Some(judge.model()?.abreast())).min().unwrap_or(1)
    }

    fn recipe(&self) -> Recipe {
        self.bench.recipe()
    }

    /// A part depends on the judges of its own sources: those that are not the default one are in its key.
    fn cut(&self) -> Recipe {
        match self.bench.judges.names() {
            names if names.is_empty() => Recipe::default(),
            names => Recipe::default().with("judge", names),
        }
    }

    fn main_table(&self) -> Option<&'static str> {
        Some(VerdictRow::TABLE)
    }

    /// The question and the gold answer are a problem's id, so verdicts depend on the rollouts' rows, and on the problems only
    /// where more of them is looked at: the expert's solutions, what a command or a policy is shown, sources with different judges.
    fn parts(&self) -> Result<Vec<Part>> {
        let part = |(index, rollouts): (usize, &mindgap_store::PartRef)| {
            let mut key = vec![rollouts.content.to_string()];
            let problems = self.problems.overlapping(&rollouts.first, &rollouts.last);
            let (judges, sees_problem) = self.bench.judges.key(&self.sources(&problems)?);
            if self.bench.refuse.reads_solutions() || sees_problem {
                key.extend(problems.contents().iter().map(|content| format!("problems {content}")));
            }
            key.extend(judges);
            let span = Span { first: rollouts.first.clone(), last: rollouts.last.clone(), samples: None };
            Ok(Part { span, key, rows: rollouts.rows, index })
        };
        self.rollouts.parts().iter().enumerate().map(part).collect()
    }

    fn remarks(&self) -> Result<Vec<String>> {
        self.bench.check_machine()?;
        let sources = self.sources(&self.problems)?;
        let idle = self.bench.judges.without_source(&sources);
        let mut remarks: Vec<String> =
            idle.map(|name| format!("`by_source` names `{name}`, and no problem has such a source")).collect();
        for model in self.bench.judges.all().filter_map(Named::model) {
            remarks.extend(model.remark()?);
        }
        Ok(remarks)
    }

    /// What texts of the default judge cost; the others' samples are not counted before they are read.
    fn cost(&self, _missing: &[&Part], rows: u64, _earlier: &[PartRecord]) -> Result<Option<Cost>> {
        self.bench.judges.default.model().map_or(Ok(None), |model| model.cost(rows))
    }

    fn run_part(&self, context: &Context, part: &Part, earlier: &[PartRecord]) -> Result<()> {
        let rollouts = self.rollouts.read(&self.rollouts.parts()[part.index])?;
        let problems = self.problems.overlapping(&part.span.first, &part.span.last);
        let problems: Vec<Known> = problems.select(&self.bench.columns())?;
        let problems: HashMap<&str, &Known> = problems.iter().map(|known| (known.id(), known)).collect();
        self.bench.check_machine()?;
        let said = self.bench.ask(context, &rollouts, &problems)?;
        few_failed(said.values().map(|row| row.failure.as_ref()), earlier, JudgementRow::TABLE)?;
        // What commands have said is kept as they go: they are slow. A journal holds rows of one table, those of policies where some judge.
        let is_kept = self.bench.is_command() && !self.bench.has_models();
        let mut rows: Vec<VerdictRow> = if is_kept { context.journal.read()? } else { Vec::new() };
        let done = AtomicU64::new(rows.len() as u64);
        let tick = |rows_done| (context.tick)(Tick { rows_done, rows_total: rollouts.len() as u64, ..Tick::default() });
        let verdict = |rollout: &Rollout| -> Result<VerdictRow> {
            let known = problems.get(rollout.problem_id.as_str()).ok_or_else(|| {
                Error::input(format!("rollouts hold problem `{}`, the problems do not", rollout.problem_id))
                    .hint("judge with the problems the rollouts were drawn from")
            })?;
            context.check_cancelled()?;
            let row = self.bench.verdict(rollout, known, &said)?;
            tick(done.fetch_add(1, Ordering::Relaxed) + 1);
            Ok(row)
        };
        let at_once = if is_kept { JOURNALED_ROWS } else { rollouts.len().max(1) };
        for left in rollouts[rows.len().min(rollouts.len())..].chunks(at_once) {
            let more = left.par_iter().map(verdict).collect::<Result<Vec<_>>>()?;
            if is_kept {
                context.journal.append(context.encode(&more)?)?;
            }
            rows.extend(more);
        }
        self.bench.check_machine()?;
        if !said.is_empty() {
            let mut said: Vec<JudgementRow> = said.into_values().collect();
            said.sort_by(|a, b| (&a.problem_id, a.sample_index).cmp(&(&b.problem_id, b.sample_index)));
            context.store(&said)?;
        }
        context.store(&rows)
    }
}

/// Verdicts of commands that are kept at once.
const JOURNALED_ROWS: usize = 64;

impl JudgeStage {
    /// The sources of problems; nothing is read where they make no difference.
    fn sources(&self, problems: &Table<Problem>) -> Result<BTreeSet<String>> {
        if self.bench.judges.is_one() {
            return Ok(BTreeSet::from([String::new()]));
        }
        Ok(problems.select::<Sourced>(&["source"])?.into_iter().map(|row| row.source).collect())
    }
}
