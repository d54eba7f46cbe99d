//! Texts that a teacher scored, with the prompts that the student is shown.

use super::Made;
use crate::export::Taught;
use crate::stage::soft;
use mindgap_base::error::{Error, Result};
use mindgap_store::Table;
use mindgap_store::table::rewrites::Rewrite;
use mindgap_store::table::rollouts::Rollout;
use mindgap_store::table::soft::Soft;
use serde::Deserialize;
use std::collections::HashMap;

/// What an export of soft targets is made of.
pub struct TaughtTexts {
    /// By problem and text.
    prompts: HashMap<(String, u32), Vec<u32>>,
    soft: Table<Soft>,
}

#[derive(Deserialize)]
struct Text {
    problem_id: String,
    #[serde(alias = "sample_index")]
    choice_index: u32,
    prompt_ids: Vec<u32>,
}

impl TaughtTexts {
    /// The texts of the soft stage `stage`.
    pub fn new(made: &Made, stage: &str, params: &soft::Params) -> Result<TaughtTexts> {
        let texts: Vec<Text> = match (&params.rewrites, &params.rollouts) {
            (Some(rewrites), _) => {
                made.finished(rewrites)?;
                made.table::<Rewrite>(rewrites)?.select(&["problem_id", "choice_index", "prompt_ids"])?
            }
            (None, rollouts) => {
                let rollouts = rollouts.as_deref().unwrap_or_default();
                made.finished(rollouts)?;
                made.table::<Rollout>(rollouts)?.select(&["problem_id", "sample_index", "prompt_ids"])?
            }
        };
        let prompts = texts.into_iter().map(|text| ((text.problem_id, text.choice_index), text.prompt_ids)).collect();
        Ok(TaughtTexts { prompts, soft: made.table(stage)? })
    }

    pub fn count(&self) -> usize {
        self.soft.row_count() as usize
    }

    /// Calls `take` with one after the other, in order; one part of the table is held at a time. Error where the text of a row is
    /// not there, as after a change of the texts alone.
    pub fn each(&self, mut take: impl FnMut(Taught) -> Result<()>) -> Result<()> {
        for part in self.soft.parts() {
            for soft in &self.soft.read(part)? {
                let prompt_ids = self.prompts.get(&(soft.problem_id.clone(), soft.choice_index)).ok_or_else(|| {
                    Error::input("the text is no longer among those of the stage that it was scored for")
                        .at(format!("problem `{}`, text {}", soft.problem_id, soft.choice_index))
                        .hint("the texts were changed after they were scored: run the soft stage again")
                })?;
                take(Taught { prompt_ids, soft })?;
            }
        }
        Ok(())
    }
}
