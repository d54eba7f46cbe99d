//! Texts that a teacher scored, with the prompts that the student is shown.

use super::Made;
use crate::export::Taught;
use crate::stage::soft;
use mindgap_base::error::{Error, Result};
use mindgap_store::table::rewrites::Rewrite;
use mindgap_store::table::rollouts::Rollout;
use mindgap_store::table::soft::Soft;
use serde::Deserialize;
use std::collections::HashMap;

/// What an export of soft targets is made of.
pub struct TaughtTexts {
    rows: Vec<(Vec<u32>, Soft)>,
}

#[derive(Deserialize)]
struct Text {
    problem_id: String,
    #[serde(alias = "sample_index")]
    choice_index: u32,
    prompt_ids: Vec<u32>,
}

impl TaughtTexts {
    /// The rows of the soft stage `stage`, in order. Error where the text of one is not there, as after a change of the texts
    /// alone.
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
        let texts = texts.into_iter().map(|text| ((text.problem_id, text.choice_index), text.prompt_ids));
        let mut prompts: HashMap<(String, u32), Vec<u32>> = texts.collect();
        let with_prompt = |soft: Soft| {
            let prompt_ids = prompts.remove(&(soft.problem_id.clone(), soft.choice_index)).ok_or_else(|| {
                Error::input("the text is no longer among those of the stage that it was scored for")
                    .at(format!("problem `{}`, text {}", soft.problem_id, soft.choice_index))
                    .hint("the texts were changed after they were scored: run the soft stage again")
            })?;
            Ok((prompt_ids, soft))
        };
        let rows = made.table::<Soft>(stage)?.read_all()?.into_iter().map(with_prompt).collect::<Result<_>>()?;
        Ok(TaughtTexts { rows })
    }

    pub fn count(&self) -> usize {
        self.rows.len()
    }

    pub fn list(&self) -> Vec<Taught<'_>> {
        self.rows.iter().map(|(prompt_ids, soft)| Taught { prompt_ids, soft }).collect()
    }
}
