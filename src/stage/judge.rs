//! judge: rollouts + problems -> verdicts.  One part per part of rollouts; a new judge re-samples nothing.

use super::{Context, Inputs, Part, Reference, Stage, StageParams, Tick, Wants};
use clap::ValueEnum;
use mindgap_base::error::{Error, Result};
use mindgap_base::fingerprint::Recipe;
use mindgap_math::{Judge, boxed_count};
use mindgap_store::table::Row;
use mindgap_store::table::problems::Problem;
use mindgap_store::table::rollouts::Rollout;
use mindgap_store::table::verdicts::{Verdict, VerdictRow};
use mindgap_store::{PartRecord, Span, Table};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

const VERSION: u32 = 1;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    pub rollouts: String,
    pub problems: String,
    #[serde(default)]
    pub judge: JudgeKind,
    /// Relative tolerance of the `numeric` judge.
    #[serde(default = "rel_tol")]
    pub rel_tol: f64,
    /// Absolute tolerance of the `numeric` judge.
    #[serde(default)]
    pub abs_tol: f64,
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

/// The default relative tolerance of the `numeric` judge.
pub fn rel_tol() -> f64 {
    1e-6
}

impl JudgeKind {
    /// The judge of this kind; only `numeric` looks at the tolerances.
    pub fn with(self, rel_tol: f64, abs_tol: f64) -> Result<Judge> {
        for (name, value) in [("rel_tol", rel_tol), ("abs_tol", abs_tol)] {
            if !value.is_finite() || value < 0.0 {
                return Err(Error::usage(format!("`{name}` is `{value}`, it must be 0 or more")));
            }
        }
        Ok(match self {
            JudgeKind::Math => Judge::Math(Default::default()),
            JudgeKind::Exact => Judge::Exact,
            JudgeKind::Numeric => Judge::Numeric { rel_tol, abs_tol },
            JudgeKind::Choice => Judge::Choice,
            JudgeKind::Json => Judge::Json,
        })
    }
}

impl StageParams for Params {
    fn validate(&self) -> Result<()> {
        self.judge.with(self.rel_tol, self.abs_tol).map(drop)
    }

    fn references(&self) -> Vec<Reference> {
        vec![
            Reference::new("rollouts", &self.rollouts, Wants::Rollouts),
            Reference::new("problems", &self.problems, Wants::Problems),
        ]
    }

    fn bind(&self, inputs: &Inputs) -> Result<Box<dyn Stage>> {
        Ok(Box::new(JudgeStage {
            judge: self.judge.with(self.rel_tol, self.abs_tol)?,
            rollouts: inputs.table(&self.rollouts)?,
            problems: inputs.table(&self.problems)?,
        }))
    }

    fn read_along(&self) -> Option<&str> {
        Some(&self.rollouts)
    }
}

#[derive(Deserialize)]
struct Gold {
    problem_id: String,
    answer: String,
}

pub struct JudgeStage {
    judge: Judge,
    rollouts: Table<Rollout>,
    problems: Table<Problem>,
}

impl Stage for JudgeStage {
    fn recipe(&self) -> Recipe {
        Recipe::new("judge", VERSION).with("schema", VerdictRow::VERSION).with("judge", self.judge.name())
    }

    fn main_table(&self) -> Option<&'static str> {
        Some(VerdictRow::TABLE)
    }

    /// The gold answer is part of a problem's id, so verdicts depend on the rollouts' rows alone.
    fn parts(&self) -> Result<Vec<Part>> {
        let part = |(index, rollouts): (usize, &mindgap_store::PartRef)| Part {
            span: Span { first: rollouts.first.clone(), last: rollouts.last.clone(), samples: None },
            key: vec![rollouts.content.to_string()],
            rows: rollouts.rows,
            index,
        };
        Ok(self.rollouts.parts().iter().enumerate().map(part).collect())
    }

    fn run_part(&self, context: &Context, part: &Part, _earlier: &[PartRecord]) -> Result<()> {
        let rollouts = self.rollouts.read(&self.rollouts.parts()[part.index])?;
        let mut answers = HashMap::new();
        let problems = self.problems.overlapping(&part.span.first, &part.span.last);
        for Gold { problem_id, answer } in problems.select(&["problem_id", "answer"])? {
            answers.insert(problem_id, answer);
        }
        let judge_version = self.judge.name();
        let verdict = |rollout: &Rollout| -> Result<VerdictRow> {
            let answer = answers.get(&rollout.problem_id).ok_or_else(|| {
                Error::input(format!("rollouts hold problem `{}`, the problems do not", rollout.problem_id))
                    .hint("judge with the problems the rollouts were drawn from")
            })?;
            let judgement = self.judge.judge(answer, &rollout.said());
            Ok(VerdictRow {
                problem_id: rollout.problem_id.clone(),
                sample_index: rollout.sample_index,
                verdict: word(judgement.verdict),
                extracted: judgement.extracted,
                method: judgement.method,
                eligible: eligible(rollout),
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

/// A sample with two boxed answers, a special token inside, or no end is never a training target, however right it is:
/// it may have gone on past its answer and come out right by accident.
fn eligible(rollout: &Rollout) -> bool {
    rollout.stop_reason.is_complete() && rollout.special_count == 0 && boxed_count(&rollout.said()) <= 1
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
