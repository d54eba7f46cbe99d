//! What a policy is shown for each problem, and its teacher.

use super::Made;
use super::targets::{no_longer_there, problems_of, shown};
use crate::export::{Drift, Prompt};
use crate::stage::{Inputs, Params, rewrite, rollout, soft};
use mindgap_base::error::{Error, Result};
use mindgap_lm::model::chat::Conversation;
use mindgap_lm::model::policy::Policy;
use mindgap_store::table::problems::Problem;
use mindgap_store::table::rewrites::Rewrite;
use mindgap_store::table::rollouts::Rollout;
use mindgap_store::table::soft::Soft;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap, HashSet};

/// What an export of prompts is made of.
pub struct Prompts<'a> {
    /// The policy that is shown them.
    pub policy: &'a str,
    rows: Vec<Row>,
}

struct Row {
    problem: Problem,
    shown: Conversation,
    /// The tokens that the stage made of it.
    prompt_ids: Vec<u32>,
    taught: Option<Conversation>,
}

impl<'a> Prompts<'a> {
    /// Those of a rewrite, rollout or soft stage: one for each problem that it has a row of, in order. A soft stage has the
    /// prompts of the texts that it scores, and shows its teacher what its template says.
    pub fn new(made: &'a Made, stage: &str) -> Result<Prompts<'a>> {
        made.finished(stage)?;
        match &made.pipeline.stage(stage)?.params {
            Params::Rewrite(params) => Prompts::of_rewrites(made, stage, params),
            Params::Rollout(params) => Prompts::of_rollouts(made, stage, params),
            Params::Soft(params) => Prompts::of_soft(made, stage, params),
            params => {
                Err(Error::usage(format!("stage `{stage}` is a `{}` stage: its prompts are not known", params.kind()))
                    .hint("prompts are those of a rewrite, rollout or soft stage"))
            }
        }
    }

    fn of_rewrites(made: &Made, stage: &str, params: &'a rewrite::Params) -> Result<Prompts<'a>> {
        let mut problems = problems_of(made, &params.problems)?;
        let mut rows: Vec<Row> = Vec::new();
        for target in made.table::<Rewrite>(stage)?.read_all()? {
            if rows.last().is_none_or(|row| row.problem.problem_id != target.problem_id) {
                let shown = shown(&target)?;
                rows.push(Row::of(&mut problems, &target.problem_id, |_| Ok(shown), target.prompt_ids)?);
            }
        }
        Ok(Prompts { policy: &params.policy, rows })
    }

    fn of_rollouts(made: &Made, stage: &str, params: &'a rollout::Params) -> Result<Prompts<'a>> {
        #[derive(Deserialize)]
        struct Sample {
            problem_id: String,
            prompt_ids: Vec<u32>,
        }
        let mut problems = problems_of(made, &params.problems)?;
        let template = template(made, params.template.as_deref())?;
        let samples: Vec<Sample> = made.table::<Rollout>(stage)?.select(&["problem_id", "prompt_ids"])?;
        // Parts are cut by ranges of samples too.
        let prompts: BTreeMap<String, Vec<u32>> =
            samples.into_iter().map(|sample| (sample.problem_id, sample.prompt_ids)).collect();
        let row = |(id, prompt_ids): (String, Vec<u32>)| Row::of(&mut problems, &id, &template, prompt_ids);
        Ok(Prompts { policy: &params.policy, rows: prompts.into_iter().map(row).collect::<Result<_>>()? })
    }

    fn of_soft(made: &'a Made, stage: &str, params: &'a soft::Params) -> Result<Prompts<'a>> {
        #[derive(Deserialize)]
        struct Scored {
            problem_id: String,
        }
        let texts = params.rewrites.as_deref().or(params.rollouts.as_deref()).unwrap_or_default();
        let mut prompts = Prompts::new(made, texts)?;
        let scored: Vec<Scored> = made.table::<Soft>(stage)?.select(&["problem_id"])?;
        let scored: HashSet<String> = scored.into_iter().map(|row| row.problem_id).collect();
        prompts.rows.retain(|row| scored.contains(&row.problem.problem_id));
        if let Some(path) = &params.template {
            let template = template(made, Some(path))?;
            for row in &mut prompts.rows {
                row.taught = Some(template(&row.problem)?);
            }
        }
        Ok(prompts)
    }

    pub fn count(&self) -> usize {
        self.rows.len()
    }

    pub fn list(&self) -> Vec<Prompt<'_>> {
        self.rows.iter().map(Row::prompt).collect()
    }

    /// How a trainer's tokens differ that renders the prompts with the policy's own chat template.
    pub fn drift(&self, policy: &Policy) -> Result<Drift> {
        let mut drift = Drift::default();
        for row in &self.rows {
            drift.retokenized += usize::from(policy.prompt(&row.shown)?.ids != row.prompt_ids);
        }
        drift.dated = policy.chat().is_some_and(|chat| chat.asked_for_date());
        Ok(drift)
    }
}

impl Row {
    /// Takes the problem out of `problems`: error where it is not there, as after a change of the problems alone.
    fn of(
        problems: &mut HashMap<String, Problem>,
        id: &str,
        shown: impl FnOnce(&Problem) -> Result<Conversation>,
        prompt_ids: Vec<u32>,
    ) -> Result<Row> {
        let problem = problems.remove(id).ok_or_else(|| no_longer_there(id))?;
        Ok(Row { shown: shown(&problem)?, problem, prompt_ids, taught: None })
    }

    fn prompt(&self) -> Prompt<'_> {
        Prompt { problem: &self.problem, shown: &self.shown, taught: self.taught.as_ref() }
    }
}

/// What a template of the pipeline's shows for a problem.
fn template(made: &Made, path: Option<&str>) -> Result<impl Fn(&Problem) -> Result<Conversation>> {
    let (manifests, params, policies) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let folder = &made.pipeline.folder;
    let inputs = Inputs { store: made.store, folder, manifests: &manifests, params: &params, policies: &policies };
    let template = inputs.template(path)?;
    Ok(move |problem: &Problem| template.render(problem))
}
