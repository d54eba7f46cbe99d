//! logprob: rewrites + policy -> logprobs.  Teacher-forced, per token, given the plain training prompt.

use super::backend::Lazy;
use super::cost::{Cost, Footprint, tokens};
use super::{Context, Inputs, Part, Reference, Stage, StageParams, Wants};
use crate::policy::PolicyHandle;
use mindgap_base::error::Result;
use mindgap_base::fingerprint::Recipe;
use mindgap_lm::engine::{ScoreRequest, TokenScores};
use mindgap_store::table::Row;
use mindgap_store::table::logprobs::Logprob;
use mindgap_store::table::rewrites::Rewrite;
use mindgap_store::{PartRecord, PartRef, Span, Table};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const VERSION: u32 = 1;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    pub rewrites: String,
    pub policy: String,
}

impl StageParams for Params {
    /// Names are all there is.
    fn validate(&self) -> Result<()> {
        Ok(())
    }

    fn references(&self) -> Vec<Reference> {
        vec![
            Reference::new("rewrites", &self.rewrites, Wants::Rewrites),
            Reference::new("policy", &self.policy, Wants::Policy),
        ]
    }

    fn footprint(&self) -> Option<Footprint<'_>> {
        Some(Footprint::of_engine(&self.policy))
    }

    fn bind(&self, inputs: &Inputs) -> Result<Box<dyn Stage>> {
        Ok(Box::new(LogprobStage {
            rewrites: inputs.table(&self.rewrites)?,
            policy: inputs.policy(&self.policy)?,
            loaded: Lazy::default(),
        }))
    }
}

pub struct LogprobStage {
    rewrites: Table<Rewrite>,
    policy: PolicyHandle,
    loaded: Lazy,
}

impl Stage for LogprobStage {
    fn recipe(&self) -> Recipe {
        Recipe::new("logprob", VERSION).with("schema", Logprob::VERSION).with("policy", self.policy.digest())
    }

    fn main_table(&self) -> Option<&'static str> {
        Some(Logprob::TABLE)
    }

    fn parts(&self) -> Result<Vec<Part>> {
        let part = |(index, rewrites): (usize, &PartRef)| Part {
            span: Span { first: rewrites.first.clone(), last: rewrites.last.clone(), samples: None },
            key: vec![rewrites.content.to_string()],
            rows: rewrites.rows,
            index,
        };
        Ok(self.rewrites.parts().iter().enumerate().map(part).collect())
    }

    fn cost(&self, missing: &[&Part], _rows: u64, _earlier: &[PartRecord]) -> Result<Option<Cost>> {
        let tokens = tokens(missing.iter().map(|part| &self.rewrites.parts()[part.index]));
        tokens.map(|tokens| Cost::new(&self.policy, tokens, false)).transpose()
    }

    fn run_part(&self, context: &Context, part: &Part, _earlier: &[PartRecord]) -> Result<()> {
        let rewrites = self.rewrites.read(&self.rewrites.parts()[part.index])?;
        let loaded = self.loaded.get(&self.policy, context)?;
        let scored = |row: &Rewrite| row.token_ids.len().min(loaded.scored_room(&row.prompt_ids));
        let mut known: BTreeMap<(String, u32), Logprob> = BTreeMap::new();
        for row in context.journal.read::<Logprob>()? {
            known.insert((row.problem_id.clone(), row.choice_index), row);
        }
        let (mut rows, mut wanted) = (Vec::new(), Vec::new());
        for rewrite in &rewrites {
            let count = scored(rewrite);
            match known.remove(&(rewrite.problem_id.clone(), rewrite.choice_index)) {
                Some(row) if row.token_ids == rewrite.token_ids[..count] => rows.push(row),
                _ => wanted.push(rewrite),
            }
        }
        let request = |row: &&Rewrite| {
            let name = format!("problem `{}`, target {}", row.problem_id, row.choice_index);
            ScoreRequest::new(row.prompt_ids.as_slice(), &row.token_ids[..scored(row)]).named(name)
        };
        loaded.score(context, wanted.iter().map(request).collect(), |scores| {
            let first = rows.len();
            rows.extend(scores.into_iter().map(|(index, scores)| row(wanted[index], scores)));
            context.journal.append(context.encode(&rows[first..])?)
        })?;
        rows.sort_by(|a, b| (&a.problem_id, a.choice_index).cmp(&(&b.problem_id, b.choice_index)));
        context.store(&rows)
    }
}

fn row(rewrite: &Rewrite, scores: TokenScores) -> Logprob {
    let count = scores.logprob_policy.len();
    let behavior = rewrite.logprob_behavior.as_ref().map(|values| values[..count.min(values.len())].to_vec());
    Logprob {
        problem_id: rewrite.problem_id.clone(),
        choice_index: rewrite.choice_index,
        source: rewrite.source,
        prompt_token_count: rewrite.prompt_ids.len() as u32,
        token_ids: rewrite.token_ids[..count].to_vec(),
        logprob_policy: scores.logprob_policy,
        logprob_behavior: behavior,
        entropy: scores.entropy,
    }
}
