//! Texts of problems that a policy scores: targets, or samples.

use super::Inputs;
use mindgap_base::error::Result;
use mindgap_store::table::rewrites::{Rewrite, Source};
use mindgap_store::table::rollouts::{PromptKind, Rollout};
use mindgap_store::{PartRef, Table};

/// What is scored.
pub enum Texts {
    Rewrites(Table<Rewrite>),
    Rollouts(Table<Rollout>),
}

/// One text and its prompt.
pub struct Text {
    pub problem_id: String,
    /// Of the target, or of the sample.
    pub index: u32,
    pub source: Source,
    /// What it was drawn with, or is trained with; empty of imported samples, whose prompt nobody knows.
    pub prompt_ids: Vec<u32>,
    pub token_ids: Vec<u32>,
    /// The tokens as text, special ones left out.
    pub completion: String,
    pub logprob_behavior: Option<Vec<f32>>,
}

impl Texts {
    /// Those of one of two stages: the first if there is one.
    pub fn of(rewrites: Option<&str>, rollouts: Option<&str>, inputs: &Inputs) -> Result<Texts> {
        Ok(match rewrites {
            Some(rewrites) => Texts::Rewrites(inputs.table(rewrites)?),
            None => Texts::Rollouts(inputs.table(rollouts.unwrap_or_default())?),
        })
    }

    pub fn parts(&self) -> &[PartRef] {
        match self {
            Texts::Rewrites(table) => table.parts(),
            Texts::Rollouts(table) => table.parts(),
        }
    }

    pub fn word(&self) -> &'static str {
        match self {
            Texts::Rewrites(_) => "target",
            Texts::Rollouts(_) => "sample",
        }
    }

    pub fn read(&self, part: &PartRef) -> Result<Vec<Text>> {
        Ok(match self {
            Texts::Rewrites(table) => table.read(part)?.into_iter().map(Text::of_target).collect(),
            Texts::Rollouts(table) => table.read(part)?.into_iter().map(Text::of_sample).collect(),
        })
    }

    /// Where a text is, for errors.
    pub fn place(&self, text: &Text) -> String {
        format!("problem `{}`, {} {}", text.problem_id, self.word(), text.index)
    }
}

impl Text {
    fn of_target(row: Rewrite) -> Text {
        Text {
            problem_id: row.problem_id,
            index: row.choice_index,
            source: row.source,
            prompt_ids: row.prompt_ids,
            token_ids: row.token_ids,
            completion: row.completion,
            logprob_behavior: row.logprob_behavior,
        }
    }

    fn of_sample(row: Rollout) -> Text {
        Text {
            problem_id: row.problem_id,
            index: row.sample_index,
            source: source_of(row.prompt_kind),
            prompt_ids: row.prompt_ids,
            token_ids: row.token_ids,
            completion: row.completion,
            logprob_behavior: row.logprob_behavior,
        }
    }
}

/// What a sample counts as where sources are told apart.
pub fn source_of(prompt_kind: PromptKind) -> Source {
    match prompt_kind {
        PromptKind::Plain => Source::SelfAligned,
        PromptKind::Guided => Source::Guided,
        PromptKind::Imported => Source::Teacher,
    }
}
