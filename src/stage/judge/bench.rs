//! Judges at work: the verdict on one sample, and whether it may become a training target.

use super::refuse::Refuse;
use super::sources::BySource;
use super::unfinished::Unfinished;
use crate::judge::{Case, Judge};
use crate::stage::spec::{Inputs, Origin};
use mindgap_base::error::Result;
use mindgap_base::fingerprint::Recipe;
use mindgap_store::table::Row;
use mindgap_store::table::rollouts::Rollout;
use mindgap_store::table::verdicts::{Verdict, VerdictRow};
use serde::Deserialize;
use serde_json::json;

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
            judges: params.judges().ready(inputs.folder)?,
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
        self.judges.all().any(Judge::is_command)
    }

    /// Error where this machine cannot keep a program in that judges.
    pub fn check_machine(&self) -> Result<()> {
        self.judges.all().try_for_each(Judge::check_machine)
    }

    /// The columns of the problems that are looked at.
    pub fn columns(&self) -> Vec<&'static str> {
        let is_command = self.is_command();
        let mut columns = vec!["problem_id", "answer"];
        columns.extend((self.refuse.reads_solutions() || is_command).then_some("question"));
        columns.extend(self.refuse.reads_solutions().then_some("solution"));
        columns.extend((is_command || !self.judges.is_one()).then_some("source"));
        columns.extend(is_command.then_some("meta"));
        columns
    }

    pub fn verdict(&self, rollout: &Rollout, known: &Known) -> Result<VerdictRow> {
        let named = self.judges.judge(&known.source);
        let judgement = named.judge.judge(&known.case(rollout, &rollout.said()))?;
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
