//! Judges at work: the verdict on one sample, and whether it may become a training target.

use super::model::{self, Said};
use super::refuse::Refuse;
use super::sources::{BySource, Named, Ready};
use super::unfinished::Unfinished;
use crate::judge::{Case, Judge};
use crate::stage::Context;
use crate::stage::spec::{Inputs, Origin};
use mindgap_base::error::Result;
use mindgap_base::fingerprint::Recipe;
use mindgap_math::Judgement;
use mindgap_store::table::Row;
use mindgap_store::table::judgements::JudgementRow;
use mindgap_store::table::problems::Problem;
use mindgap_store::table::rollouts::Rollout;
use mindgap_store::table::verdicts::{Verdict, VerdictRow};
use serde::Deserialize;
use serde_json::json;
use std::collections::HashMap;

const VERSION: u32 = 1;

/// What a verdict needs of a problem.
#[derive(Deserialize)]
pub struct Known {
    problem_id: String,
    answer: String,
    #[serde(default)]
    source: String,
    #[serde(default)]
    meta: Option<String>,
    #[serde(default)]
    pub(super) question: String,
    #[serde(default)]
    pub(super) solution: Option<String>,
}

impl Known {
    pub fn id(&self) -> &str {
        &self.problem_id
    }

    /// The problem, as far as it was read.
    pub(super) fn problem(&self) -> Problem {
        Problem {
            problem_id: self.problem_id.clone(),
            source: self.source.clone(),
            question: self.question.clone(),
            solution: self.solution.clone(),
            answer: self.answer.clone(),
            meta: self.meta.clone(),
        }
    }

    fn case<'a>(&'a self, rollout: &Rollout, response: &'a str) -> Case<'a> {
        Case {
            id: json!([rollout.problem_id, rollout.sample_index]),
            source: &self.source,
            question: &self.question,
            gold: &self.answer,
            response,
            meta: self.meta.as_deref().and_then(|meta| serde_json::from_str(meta).ok()).unwrap_or_default(),
        }
    }
}

/// The judges of a stage, ready, and what they refuse as targets.
pub struct Bench {
    pub(super) judges: BySource,
    pub(super) refuse: Refuse,
    unfinished: Unfinished,
}

impl Bench {
    /// What a judge stage says of judging, about samples of this origin. Errors: files that cannot be used.
    pub fn new(params: &super::Params, origin: &Origin, inputs: &Inputs) -> Result<Bench> {
        Ok(Bench {
            judges: params.judges().ready(inputs)?,
            refuse: Refuse::of(params, origin, inputs)?,
            unfinished: Unfinished::of(origin, inputs)?,
        })
    }

    /// What verdicts depend on, the judges of sources of their own aside.
    pub(super) fn recipe(&self) -> Recipe {
        let recipe =
            Recipe::new("judge", VERSION).with("schema", VerdictRow::VERSION).with("judge", &self.judges.default.name);
        self.unfinished.name_in(self.refuse.name_in(recipe))
    }

    /// All that verdicts depend on beside problems and samples.
    pub fn name(&self) -> String {
        self.recipe().with("judges", self.judges.names()).fingerprint().to_string()
    }

    pub fn is_command(&self) -> bool {
        self.judges.all().filter_map(Named::judge).any(Judge::is_command)
    }

    /// Whether policies judge, which [`Bench::ask`] asks.
    pub fn has_models(&self) -> bool {
        self.judges.all().any(|named| named.model().is_some())
    }

    /// Error where this machine cannot keep a program in that judges.
    pub fn check_machine(&self) -> Result<()> {
        self.judges.all().filter_map(Named::judge).try_for_each(Judge::check_machine)
    }

    /// The columns of the problems that are looked at.
    pub fn columns(&self) -> Vec<&'static str> {
        let sees_problem = self.judges.all().any(Named::sees_problem);
        let reads_solutions = self.refuse.reads_solutions();
        let mut columns = vec!["problem_id", "answer"];
        columns.extend((reads_solutions || sees_problem).then_some("question"));
        columns.extend((reads_solutions || self.has_models()).then_some("solution"));
        columns.extend((sees_problem || !self.judges.is_one()).then_some("source"));
        columns.extend(sees_problem.then_some("meta"));
        columns
    }

    /// Asks the policies that judge about the samples that are theirs; what they said before an interruption is in the journal.
    pub fn ask<'a>(
        &self,
        context: &Context,
        samples: &'a [Rollout],
        problems: &HashMap<&str, &'a Known>,
    ) -> Result<Said> {
        let mut said = Said::new();
        if !self.has_models() {
            return Ok(said);
        }
        let by_sample = |row: JudgementRow| ((row.problem_id.clone(), row.sample_index), row);
        let mut known: Said = context.journal.read()?.into_iter().map(by_sample).collect();
        let pair = |sample: &'a Rollout| {
            let known = problems.get(sample.problem_id.as_str()).filter(|_| sample.failure.is_none())?;
            Some((sample, *known))
        };
        for named in self.judges.all() {
            let Some(model) = named.model() else { continue };
            let is_its = |(_, known): &(&Rollout, &Known)| std::ptr::eq(self.judges.judge(&known.source), named);
            let pairs: Vec<(&Rollout, &Known)> = samples.iter().filter_map(pair).filter(is_its).collect();
            if !pairs.is_empty() {
                said.extend(model.ask(context, &named.name, &pairs, &mut known)?.into_iter().map(by_sample));
            }
        }
        Ok(said)
    }

    /// The verdict on a sample, with what policies that judge said of it and others.
    pub fn verdict(&self, rollout: &Rollout, known: &Known, said: &Said) -> Result<VerdictRow> {
        let named = self.judges.judge(&known.source);
        let judgement = match &named.judge {
            _ if rollout.failure.is_some() => nothing_to_judge(),
            Ready::Judge(judge) => judge.judge(&known.case(rollout, &rollout.said()))?,
            Ready::Model(_) => {
                let row = said.get(&(rollout.problem_id.clone(), rollout.sample_index));
                model::judgement(row.ok_or_else(|| model::not_asked(rollout))?)
            }
        };
        let judgement = self.unfinished.judged(rollout, judgement);
        let refused = self.refuse.reason(rollout, known, &judgement);
        Ok(VerdictRow {
            problem_id: rollout.problem_id.clone(),
            sample_index: rollout.sample_index,
            verdict: word(judgement.verdict),
            extracted: judgement.extracted,
            method: judgement.method,
            eligible: refused.is_none(),
            refused,
            judge_version: named.name.clone(),
        })
    }
}

/// On a sample that servers failed to draw: no judge is asked.
fn nothing_to_judge() -> Judgement {
    Judgement { verdict: mindgap_math::Verdict::NoAnswer, extracted: None, method: "failed".to_string() }
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
