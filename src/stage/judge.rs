//! judge: rollouts + problems -> verdicts.  One part per part of rollouts; a new judge re-samples nothing.
//!
//! A verdict says two things: whether the answer is right, and whether the sample may become a training target.

mod refuse;

use super::{Context, Inputs, Part, Reference, Stage, StageParams, Tick, Wants};
use clap::ValueEnum;
use mindgap_base::error::{Error, Result};
use mindgap_base::fingerprint::Recipe;
use mindgap_math::{Judge, Options};
use mindgap_store::table::Row;
use mindgap_store::table::problems::Problem;
use mindgap_store::table::rollouts::Rollout;
use mindgap_store::table::verdicts::{Refusal, Verdict, VerdictRow};
use mindgap_store::{PartRecord, Span, Table};
use rayon::prelude::*;
use refuse::Refuse;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fmt;

const VERSION: u32 = 1;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    pub rollouts: String,
    pub problems: String,
    #[serde(default)]
    pub judge: JudgeKind,
    /// Options of the `math` judge by name, where they differ from its defaults: `{ scale = "from_gold", named_sums = false }`.
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
    /// samples that were shown the expert's solution.
    #[serde(default = "refuse::default")]
    pub refuse: Vec<Refusal>,
    /// Share of a sample's wording that may be the expert's, before the sample counts as `copied`.
    #[serde(default = "refuse::copied_limit")]
    pub copied_limit: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum JudgeKind {
    /// Mathematical equality of final answers
    #[default]
    Math,
    /// The same text
    Exact,
    /// Numbers within a tolerance
    Numeric,
    /// A multiple-choice letter
    Choice,
    /// Equal JSON values
    Json,
}

/// The value of an option, as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Setting {
    Flag(bool),
    Number(u64),
    Word(String),
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Setting::Flag(flag) => flag.fmt(f),
            Setting::Number(number) => number.fmt(f),
            Setting::Word(word) => word.fmt(f),
        }
    }
}

/// The default relative tolerance of the `numeric` judge.
pub fn rel_tol() -> f64 {
    1e-6
}

impl JudgeKind {
    /// The judge of this kind; only `math` has options, and only `numeric` looks at the tolerances.
    pub fn with(self, options: &BTreeMap<String, Setting>, rel_tol: f64, abs_tol: f64) -> Result<Judge> {
        if self != JudgeKind::Math && !options.is_empty() {
            return Err(Error::usage("options belong to the judge `math`; the others have none"));
        }
        for (name, value) in [("rel_tol", rel_tol), ("abs_tol", abs_tol)] {
            if !value.is_finite() || value < 0.0 {
                return Err(Error::usage(format!("`{name}` is `{value}`, it must be 0 or more")));
            }
        }
        Ok(match self {
            JudgeKind::Math => Judge::Math(conventions(options)?),
            JudgeKind::Exact => Judge::Exact,
            JudgeKind::Numeric => Judge::Numeric { rel_tol, abs_tol },
            JudgeKind::Choice => Judge::Choice,
            JudgeKind::Json => Judge::Json,
        })
    }
}

fn conventions(settings: &BTreeMap<String, Setting>) -> Result<Options> {
    let mut options = Options::default();
    for (name, value) in settings {
        options.set(name, &value.to_string()).map_err(Error::usage)?;
    }
    Ok(options)
}

impl Params {
    fn judge(&self) -> Result<Judge> {
        self.judge.with(&self.options, self.rel_tol, self.abs_tol)
    }
}

impl StageParams for Params {
    fn validate(&self) -> Result<()> {
        self.judge()?;
        refuse::check(&self.refuse, self.copied_limit)
    }

    fn references(&self) -> Vec<Reference> {
        vec![
            Reference::new("rollouts", &self.rollouts, Wants::Rollouts),
            Reference::new("problems", &self.problems, Wants::Problems),
        ]
    }

    fn bind(&self, inputs: &Inputs) -> Result<Box<dyn Stage>> {
        Ok(Box::new(JudgeStage {
            judge: self.judge()?,
            rollouts: inputs.table(&self.rollouts)?,
            problems: inputs.table(&self.problems)?,
            refuse: Refuse::of(self, inputs)?,
        }))
    }

    fn read_along(&self) -> Option<&str> {
        Some(&self.rollouts)
    }
}

/// What a verdict needs of a problem.
#[derive(Deserialize)]
struct Known {
    problem_id: String,
    answer: String,
    #[serde(default)]
    question: String,
    #[serde(default)]
    solution: Option<String>,
}

pub struct JudgeStage {
    judge: Judge,
    rollouts: Table<Rollout>,
    problems: Table<Problem>,
    refuse: Refuse,
}

impl Stage for JudgeStage {
    fn recipe(&self) -> Recipe {
        let recipe = Recipe::new("judge", VERSION).with("schema", VerdictRow::VERSION).with("judge", self.judge.name());
        self.refuse.name_in(recipe)
    }

    fn main_table(&self) -> Option<&'static str> {
        Some(VerdictRow::TABLE)
    }

    /// The question and the gold answer are a problem's id, so verdicts depend on the rollouts' rows, and on the problems only
    /// where the expert's solutions are looked at.
    fn parts(&self) -> Result<Vec<Part>> {
        let part = |(index, rollouts): (usize, &mindgap_store::PartRef)| {
            let mut key = vec![rollouts.content.to_string()];
            if self.refuse.reads_solutions() {
                let problems = self.problems.overlapping(&rollouts.first, &rollouts.last);
                key.extend(problems.contents().iter().map(|content| format!("problems {content}")));
            }
            let span = Span { first: rollouts.first.clone(), last: rollouts.last.clone(), samples: None };
            Part { span, key, rows: rollouts.rows, index }
        };
        Ok(self.rollouts.parts().iter().enumerate().map(part).collect())
    }

    fn run_part(&self, context: &Context, part: &Part, _earlier: &[PartRecord]) -> Result<()> {
        let rollouts = self.rollouts.read(&self.rollouts.parts()[part.index])?;
        let problems = self.problems.overlapping(&part.span.first, &part.span.last);
        let columns: &[&str] = match self.refuse.reads_solutions() {
            true => &["problem_id", "answer", "question", "solution"],
            false => &["problem_id", "answer"],
        };
        let problems: Vec<Known> = problems.select(columns)?;
        let problems: HashMap<&str, &Known> = problems.iter().map(|known| (known.problem_id.as_str(), known)).collect();
        let judge_version = self.judge.name();
        let verdict = |rollout: &Rollout| -> Result<VerdictRow> {
            let known = problems.get(rollout.problem_id.as_str()).ok_or_else(|| {
                Error::input(format!("rollouts hold problem `{}`, the problems do not", rollout.problem_id))
                    .hint("judge with the problems the rollouts were drawn from")
            })?;
            let judgement = self.judge.judge(&known.answer, &rollout.said());
            let refused = self.refuse.reason(rollout, known, &judgement);
            Ok(VerdictRow {
                problem_id: rollout.problem_id.clone(),
                sample_index: rollout.sample_index,
                verdict: word(judgement.verdict),
                extracted: judgement.extracted,
                method: judgement.method,
                eligible: refused.is_none(),
                refused,
                judge_version: judge_version.clone(),
            })
        };
        let rows = rollouts.par_iter().map(verdict).collect::<Result<Vec<_>>>()?;
        (context.tick)(Tick { rows_done: rows.len() as u64, rows_total: rows.len() as u64, ..Tick::default() });
        context.store(&rows)
    }
}

/// What the verifier says, as the table says it.
fn word(verdict: mindgap_math::Verdict) -> Verdict {
    match verdict {
        mindgap_math::Verdict::Correct => Verdict::Correct,
        mindgap_math::Verdict::Incorrect => Verdict::Incorrect,
        mindgap_math::Verdict::NoAnswer => Verdict::NoAnswer,
        mindgap_math::Verdict::Unparsed => Verdict::Unparsed,
        mindgap_math::Verdict::BudgetExceeded => Verdict::BudgetExceeded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_the_verifier_says() {
        use mindgap_math::Verdict::{BudgetExceeded, Correct, Incorrect, NoAnswer, Unparsed};
        let all = [Correct, Incorrect, NoAnswer, Unparsed, BudgetExceeded];
        assert_eq!(all.map(|verdict| word(verdict).as_str()), all.map(mindgap_math::Verdict::as_str));
        assert_eq!(all.map(word).as_slice(), Verdict::ALL);
    }
}
