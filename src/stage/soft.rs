//! soft: rollouts or rewrites + a teacher -> soft.  What the teacher would have said in place of each token, teacher-forced: its
//! likeliest tokens with their log-probs, and the probability of the rest.
//!
//! The teacher is another policy of the same tokenizer, or the same policy with another prompt: the expert solution in front of
//! it, say (self-distillation, arXiv 2601.19897). A table is made once, and serves every loss, seed and round. Some 8 k bytes a
//! token before compression.

use super::backend::{By, Lazy, Loaded, abreast, few_failed};
use super::cost::{Cost, Footprint, tokens};
use super::template::Template;
use super::texts::{Text, Texts};
use super::{Context, Inputs, Part, Reference, Stage, StageParams, Wants};
use crate::policy::{PolicyHandle, left_out};
use mindgap_base::error::{Error, Result};
use mindgap_base::fingerprint::Recipe;
use mindgap_lm::engine::{ScoreRequest, TokenScores};
use mindgap_store::table::Row;
use mindgap_store::table::problems::Problem;
use mindgap_store::table::soft::Soft;
use mindgap_store::{PartRecord, PartRef, Span, Table};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

const VERSION: u32 = 1;
/// More would be a vocabulary, not a summary of one.
const MOST_K: u32 = 1024;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The samples scored: a rollout stage.
    pub rollouts: Option<String>,
    /// The targets scored: a rewrite stage.
    pub rewrites: Option<String>,
    /// The teacher: a policy of the same tokenizer.
    pub policy: String,
    /// The prompt that the teacher is shown in place of the text's own: a template over the problem. With `problems`.
    pub template: Option<String>,
    /// The problems that `template` is filled from.
    pub problems: Option<String>,
    /// Likeliest tokens told in the place of each token.
    #[serde(default = "k")]
    pub k: u32,
}

fn k() -> u32 {
    20
}

impl StageParams for Params {
    fn validate(&self) -> Result<()> {
        if self.rewrites.is_some() == self.rollouts.is_some() {
            return Err(Error::usage("a soft stage scores either `rewrites` or `rollouts`"));
        }
        if self.template.is_some() != self.problems.is_some() {
            return Err(Error::usage("`template` and `problems` go together")
                .hint("a template is filled from problems; without one a text keeps its own prompt"));
        }
        match (1..=MOST_K).contains(&self.k) {
            true => Ok(()),
            false => Err(Error::usage(format!("`k` is `{}`; it must be 1 to {MOST_K}", self.k))),
        }
    }

    fn references(&self) -> Vec<Reference> {
        let mut references = vec![Reference::new("policy", &self.policy, Wants::Policy)];
        references.extend(self.rewrites.iter().map(|name| Reference::new("rewrites", name, Wants::Rewrites)));
        references.extend(self.rollouts.iter().map(|name| Reference::new("rollouts", name, Wants::Rollouts)));
        references.extend(self.problems.iter().map(|name| Reference::new("problems", name, Wants::Problems)));
        references
    }

    fn footprint(&self) -> Option<Footprint<'_>> {
        Some(Footprint::of_engine(&self.policy))
    }

    fn bind(&self, inputs: &Inputs) -> Result<Box<dyn Stage>> {
        let shown = match &self.problems {
            Some(problems) => Some((inputs.table(problems)?, inputs.template(self.template.as_deref())?)),
            None => None,
        };
        Ok(Box::new(SoftStage {
            texts: Texts::of(self.rewrites.as_deref(), self.rollouts.as_deref(), inputs)?,
            policy: inputs.policy(&self.policy)?,
            shown,
            k: self.k,
            loaded: Lazy::default(),
        }))
    }
}

pub struct SoftStage {
    texts: Texts,
    policy: PolicyHandle,
    /// What the teacher is shown, where it is not a text's own prompt.
    shown: Option<(Table<Problem>, Template)>,
    k: u32,
    loaded: Lazy,
}

impl Stage for SoftStage {
    fn abreast(&self) -> usize {
        abreast(&self.policy)
    }

    fn recipe(&self) -> Recipe {
        let recipe = Recipe::new("soft", VERSION)
            .with("schema", Soft::VERSION)
            .with("policy", self.policy.digest())
            .with("k", self.k);
        match &self.shown {
            Some((_, template)) => template.name_in(recipe),
            None => recipe,
        }
    }

    fn remarks(&self) -> Result<Vec<String>> {
        Ok(left_out(&self.policy)?.into_iter().collect())
    }

    fn main_table(&self) -> Option<&'static str> {
        Some(Soft::TABLE)
    }

    fn parts(&self) -> Result<Vec<Part>> {
        let part = |(index, texts): (usize, &PartRef)| {
            let mut key = vec![texts.content.to_string()];
            if let Some((problems, _)) = &self.shown {
                let problems = problems.overlapping(&texts.first, &texts.last);
                key.extend(problems.contents().iter().map(|content| format!("problems {content}")));
            }
            let span = Span { first: texts.first.clone(), last: texts.last.clone(), samples: None };
            Part { span, key, rows: texts.rows, index }
        };
        Ok(self.texts.parts().iter().enumerate().map(part).collect())
    }

    fn cost(&self, missing: &[&Part], _rows: u64, _earlier: &[PartRecord]) -> Result<Option<Cost>> {
        let tokens = tokens(missing.iter().map(|part| &self.texts.parts()[part.index]));
        tokens.map(|tokens| Cost::new(&self.policy, tokens, false)).transpose()
    }

    /// Texts of problems without the solution that the template shows have no teacher, and no row.
    fn run_part(&self, context: &Context, part: &Part, earlier: &[PartRecord]) -> Result<()> {
        let loaded = self.loaded.get(&self.policy, context)?;
        let mut known: BTreeMap<(String, u32), Soft> = BTreeMap::new();
        for row in context.journal.read::<Soft>()? {
            known.insert((row.problem_id.clone(), row.choice_index), row);
        }
        let prompts = self.prompts(&loaded, &part.span)?;
        let (mut rows, mut wanted) = (Vec::new(), Vec::new());
        for text in self.texts.read(&self.texts.parts()[part.index])? {
            self.check_tokens(&loaded, &text)?;
            let prompt_ids = match &prompts {
                Some(prompts) => prompts.get(&text.problem_id).cloned(),
                None if text.prompt_ids.is_empty() => {
                    return Err(Error::input("imported samples were drawn with a prompt that is not known")
                        .at(self.texts.place(&text))
                        .hint("say what the teacher is shown: `template` and `problems`"));
                }
                None => Some(text.prompt_ids.clone()),
            };
            let Some(prompt_ids) = prompt_ids else { continue };
            let count = text.token_ids.len().min(loaded.scored_room(&prompt_ids));
            match known.remove(&(text.problem_id.clone(), text.index)) {
                Some(row) if row.token_ids == text.token_ids[..count] => rows.push(row),
                _ => wanted.push((text, prompt_ids, count)),
            }
        }
        let requests = wanted.iter().map(|(text, prompt_ids, count)| {
            let request = ScoreRequest::new(prompt_ids.as_slice(), &text.token_ids[..*count]);
            request.named(self.texts.place(text)).with_top(self.k as usize)
        });
        let mut failed = Vec::new();
        loaded.score(context, requests.collect(), |scores| {
            let first = rows.len();
            for (index, scores) in scores {
                let (text, prompt_ids, count) = &wanted[index];
                match scores {
                    Ok(scores) => rows.push(row(text, prompt_ids.len(), *count, scores)),
                    Err(why) => {
                        let untold = By { what: TokenScores::default(), engine: None };
                        failed.push(Soft { failure: Some(why), ..row(text, prompt_ids.len(), 0, untold) });
                    }
                }
            }
            context.keep(&rows[first..])
        })?;
        rows.append(&mut failed);
        few_failed(rows.iter().map(|row| row.failure.as_ref()), earlier, Soft::TABLE)?;
        rows.sort_by(|a, b| (&a.problem_id, a.choice_index).cmp(&(&b.problem_id, b.choice_index)));
        context.store(&rows)
    }
}

impl SoftStage {
    /// What the teacher is shown, by problem, where it is not a text's own prompt.
    fn prompts(&self, loaded: &Loaded, span: &Span) -> Result<Option<HashMap<String, Vec<u32>>>> {
        let Some((problems, template)) = &self.shown else { return Ok(None) };
        let needs_solution = template.shows_solution();
        let mut prompts = HashMap::new();
        for problem in problems.overlapping(&span.first, &span.last).read_all()? {
            if problem.solution.is_some() || !needs_solution {
                let shown = template.render(&problem)?;
                let prompt =
                    loaded.policy.prompt(&shown).map_err(|e| e.at(format!("problem `{}`", problem.problem_id)))?;
                prompts.insert(problem.problem_id, prompt.ids);
            }
        }
        Ok(Some(prompts))
    }

    /// Error: the tokens mean another text to the teacher.
    fn check_tokens(&self, loaded: &Loaded, text: &Text) -> Result<()> {
        let (tokenizer, ids) = (loaded.policy.tokenizer(), &text.token_ids);
        let ended = ids.last().is_some_and(|last| loaded.policy.eos_token_ids().contains(last));
        let found = tokenizer.text(&ids[..ids.len() - usize::from(ended)]);
        match found.is_ok_and(|found| found.ends_with(&text.completion)) {
            true => Ok(()),
            false => Err(Error::usage(format!(
                "the tokens are those of another tokenizer than policy `{}` has",
                self.policy.name
            ))
            .at(self.texts.place(text))
            .hint(
                "a teacher tells log-probs of its own tokens: name a policy with the tokenizer that the texts are in",
            )),
        }
    }
}

fn row(text: &Text, prompt_token_count: usize, count: usize, scored: By<TokenScores>) -> Soft {
    let By { what: scores, engine } = scored;
    let k = scores.top.first().map_or(0, Vec::len);
    let tail =
        |top: &Vec<(u32, f32)>| (1.0 - top.iter().map(|(_, x)| f64::from(*x).exp()).sum::<f64>()).max(0.0) as f32;
    Soft {
        problem_id: text.problem_id.clone(),
        choice_index: text.index,
        prompt_token_count: prompt_token_count as u32,
        token_ids: text.token_ids[..count].to_vec(),
        logprob_teacher: scores.logprob_policy,
        k: k as u32,
        top_ids: scores.top.iter().flatten().map(|(token, _)| *token).collect(),
        top_logprobs: scores.top.iter().flatten().map(|(_, value)| *value).collect(),
        tail: scores.top.iter().map(tail).collect(),
        engine,
        failure: None,
    }
}
