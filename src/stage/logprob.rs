//! logprob: rewrites + policy -> logprobs.  Teacher-forced, per token, given the plain training prompt.

use super::policy::load_policy;
use super::{Context, Inputs, Output, Part, Reference, Stage, Tick, Wants};
use crate::base::error::Result;
use crate::base::fingerprint::Recipe;
use crate::engine::{self, ScoreRequest};
use crate::model::policy::Policy;
use crate::model::runner::Runner;
use crate::store::{PartRecord, PartRef, PolicyHandle, Span, Table};
use crate::table::Row;
use crate::table::logprobs::Logprob;
use crate::table::rewrites::Rewrite;
use serde::{Deserialize, Serialize};
use std::sync::OnceLock;

const VERSION: u32 = 1;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    pub rewrites: String,
    pub policy: String,
}

impl Params {
    pub fn references(&self) -> Vec<Reference> {
        vec![
            Reference::new("rewrites", &self.rewrites, Wants::Rewrites),
            Reference::new("policy", &self.policy, Wants::Policy),
        ]
    }

    pub fn bind(&self, inputs: &Inputs) -> Result<LogprobStage> {
        Ok(LogprobStage {
            rewrites: inputs.table(&self.rewrites)?,
            policy: inputs.policy(&self.policy)?,
            loaded: OnceLock::new(),
        })
    }
}

pub struct LogprobStage {
    rewrites: Table<Rewrite>,
    policy: PolicyHandle,
    /// Kept from part to part: a large policy takes long to read and to bring to a device.
    loaded: OnceLock<(Policy, Runner)>,
}

impl LogprobStage {
    fn loaded(&self, context: &Context) -> Result<&(Policy, Runner)> {
        if let Some(loaded) = self.loaded.get() {
            return Ok(loaded);
        }
        let policy = load_policy(&self.policy)?;
        let runner = policy.runner_on(context.device).map_err(|e| e.at(format!("policy `{}`", self.policy.name)))?;
        Ok(self.loaded.get_or_init(|| (policy, runner)))
    }
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

    fn run_part(&self, context: &Context, part: &Part, _earlier: &[PartRecord]) -> Result<Output> {
        let rewrites = self.rewrites.read(&self.rewrites.parts()[part.index])?;
        let (policy, runner) = self.loaded(context)?;
        let positions = policy.config().max_positions;
        let requests: Vec<ScoreRequest> = rewrites
            .iter()
            .map(|row| {
                let room = positions.saturating_sub(row.prompt_ids.len());
                let scored = &row.token_ids[..row.token_ids.len().min(room)];
                ScoreRequest { prompt_ids: row.prompt_ids.as_slice().into(), token_ids: scored.into() }
            })
            .collect();
        let limits = context.limits()?;
        let on_progress = |progress: engine::Progress| {
            let rows_total = rewrites.len() as u64;
            (context.tick)(Tick {
                rows_done: progress.done as u64,
                rows_total,
                tokens: progress.new_tokens as u64,
                note: String::new(),
            });
        };
        let scores = engine::score(runner, &requests, &limits, &on_progress)?;
        let rows: Vec<Logprob> = rewrites
            .into_iter()
            .zip(scores)
            .map(|(row, scores)| {
                let count = scores.logprob_policy.len();
                let behavior = row.logprob_behavior.map(|values| values[..count.min(values.len())].to_vec());
                Logprob {
                    problem_id: row.problem_id,
                    choice_index: row.choice_index,
                    source: row.source,
                    prompt_token_count: row.prompt_ids.len() as u32,
                    token_ids: row.token_ids[..count].to_vec(),
                    logprob_policy: scores.logprob_policy,
                    logprob_behavior: behavior,
                    entropy: scores.entropy,
                }
            })
            .collect();
        Ok(Output { tables: vec![context.encode(&rows)?], files: Vec::new() })
    }
}
