//! logprob: rewrites or rollouts + policy -> logprobs.  Teacher-forced, per token: targets given the plain training prompt, samples
//! given the prompt they were drawn with.

use super::backend::{By, Lazy, abreast, few_failed};
use super::cost::{Cost, Footprint, tokens};
use super::texts::{Text, Texts};
use super::{Context, Inputs, Part, Reference, Stage, StageParams, Wants};
use crate::policy::{PolicyHandle, left_out};
use mindgap_base::error::{Error, Result};
use mindgap_base::fingerprint::Recipe;
use mindgap_lm::engine::{ScoreRequest, TokenScores};
use mindgap_store::table::Row;
use mindgap_store::table::logprobs::Logprob;
use mindgap_store::{PartRecord, PartRef, Span};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const VERSION: u32 = 1;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The targets scored: a rewrite stage.
    pub rewrites: Option<String>,
    /// The samples scored: a rollout stage.
    pub rollouts: Option<String>,
    pub policy: String,
}

impl StageParams for Params {
    fn validate(&self) -> Result<()> {
        match self.rewrites.is_some() == self.rollouts.is_some() {
            true => Err(Error::usage("a logprob stage scores either `rewrites` or `rollouts`")),
            false => Ok(()),
        }
    }

    fn references(&self) -> Vec<Reference> {
        let mut references = vec![Reference::new("policy", &self.policy, Wants::Policy)];
        references.extend(self.rewrites.iter().map(|name| Reference::new("rewrites", name, Wants::Rewrites)));
        references.extend(self.rollouts.iter().map(|name| Reference::new("rollouts", name, Wants::Rollouts)));
        references
    }

    fn footprint(&self) -> Option<Footprint<'_>> {
        Some(Footprint::of_engine(&self.policy))
    }

    fn bind(&self, inputs: &Inputs) -> Result<Box<dyn Stage>> {
        let texts = Texts::of(self.rewrites.as_deref(), self.rollouts.as_deref(), inputs)?;
        Ok(Box::new(LogprobStage { texts, policy: inputs.policy(&self.policy)?, loaded: Lazy::default() }))
    }
}

pub struct LogprobStage {
    texts: Texts,
    policy: PolicyHandle,
    loaded: Lazy,
}

impl Stage for LogprobStage {
    fn abreast(&self) -> usize {
        abreast(&self.policy)
    }

    fn recipe(&self) -> Recipe {
        Recipe::new("logprob", VERSION).with("schema", Logprob::VERSION).with("policy", self.policy.digest())
    }

    fn remarks(&self) -> Result<Vec<String>> {
        Ok(left_out(&self.policy)?.into_iter().collect())
    }

    fn main_table(&self) -> Option<&'static str> {
        Some(Logprob::TABLE)
    }

    fn parts(&self) -> Result<Vec<Part>> {
        let part = |(index, texts): (usize, &PartRef)| Part {
            span: Span { first: texts.first.clone(), last: texts.last.clone(), samples: None },
            key: vec![texts.content.to_string()],
            rows: texts.rows,
            index,
        };
        Ok(self.texts.parts().iter().enumerate().map(part).collect())
    }

    fn cost(&self, missing: &[&Part], _rows: u64, _earlier: &[PartRecord]) -> Result<Option<Cost>> {
        let tokens = tokens(missing.iter().map(|part| &self.texts.parts()[part.index]));
        tokens.map(|tokens| Cost::new(&self.policy, tokens, false)).transpose()
    }

    fn run_part(&self, context: &Context, part: &Part, earlier: &[PartRecord]) -> Result<()> {
        let texts = self.texts.read(&self.texts.parts()[part.index])?;
        if let Some(text) = texts.iter().find(|text| text.prompt_ids.is_empty()) {
            return Err(Error::input("imported samples were drawn with a prompt that is not known")
                .at(self.texts.place(text))
                .hint("score them as targets: name a rewrite stage that keeps them in `rewrites`"));
        }
        let loaded = self.loaded.get(&self.policy, context)?;
        let scored = |row: &Text| row.token_ids.len().min(loaded.scored_room(&row.prompt_ids));
        let mut known: BTreeMap<(String, u32), Logprob> = BTreeMap::new();
        for row in context.journal.read::<Logprob>()? {
            known.insert((row.problem_id.clone(), row.choice_index), row);
        }
        let (mut rows, mut wanted) = (Vec::new(), Vec::new());
        for text in &texts {
            let count = scored(text);
            match known.remove(&(text.problem_id.clone(), text.index)) {
                Some(row) if row.token_ids == text.token_ids[..count] => rows.push(row),
                _ => wanted.push(text),
            }
        }
        let request = |row: &&Text| {
            ScoreRequest::new(row.prompt_ids.as_slice(), &row.token_ids[..scored(row)]).named(self.texts.place(row))
        };
        let mut failed = Vec::new();
        loaded.score(context, wanted.iter().map(request).collect(), |scores| {
            let first = rows.len();
            for (index, scores) in scores {
                match scores {
                    Ok(scores) => rows.push(row(wanted[index], scores)),
                    Err(why) => {
                        let row = row(wanted[index], By { what: TokenScores::default(), engine: None });
                        failed.push(Logprob { failure: Some(why), ..row });
                    }
                }
            }
            context.keep(&rows[first..])
        })?;
        rows.append(&mut failed);
        few_failed(rows.iter().map(|row| row.failure.as_ref()), earlier, Logprob::TABLE)?;
        rows.sort_by(|a, b| (&a.problem_id, a.choice_index).cmp(&(&b.problem_id, b.choice_index)));
        context.store(&rows)
    }
}

fn row(text: &Text, scored: By<TokenScores>) -> Logprob {
    let By { what: scores, engine } = scored;
    let count = scores.logprob_policy.len();
    let behavior = text.logprob_behavior.as_ref().map(|values| values[..count.min(values.len())].to_vec());
    Logprob {
        problem_id: text.problem_id.clone(),
        choice_index: text.index,
        source: text.source,
        prompt_token_count: text.prompt_ids.len() as u32,
        token_ids: text.token_ids[..count].to_vec(),
        logprob_policy: scores.logprob_policy,
        logprob_behavior: behavior,
        entropy: scores.entropy,
        engine,
        failure: None,
    }
}
