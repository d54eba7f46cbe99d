//! Texts of problems that a policy scores: targets, or samples.

use super::Inputs;
use mindgap_base::address::Address;
use mindgap_base::error::Result;
use mindgap_store::table::rewrites::{Rewrite, Source};
use mindgap_store::table::rollouts::{PromptKind, Rollout};
use mindgap_store::{PartRef, Table};
use serde::Deserialize;

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

/// Which text of which problem, and what it counts as.
pub struct TextKey {
    pub problem_id: String,
    pub index: u32,
    pub source: Source,
}

#[derive(Deserialize)]
struct Target {
    problem_id: String,
    choice_index: u32,
    source: Source,
}

#[derive(Deserialize)]
struct Sample {
    problem_id: String,
    sample_index: u32,
    prompt_kind: PromptKind,
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

    /// Content addresses of all parts.
    pub fn contents(&self) -> Vec<&Address> {
        self.parts().iter().map(|part| &part.content).collect()
    }

    pub fn row_count(&self) -> u64 {
        self.parts().iter().map(|part| part.rows).sum()
    }

    /// The keys of all texts, those of one problem together: parts hold some samples of each.
    pub fn keys(&self) -> Result<Vec<TextKey>> {
        let mut keys: Vec<TextKey> = match self {
            Texts::Rewrites(table) => {
                let rows: Vec<Target> = table.select(&["problem_id", "choice_index", "source"])?;
                let key = |r: Target| TextKey { problem_id: r.problem_id, index: r.choice_index, source: r.source };
                rows.into_iter().map(key).collect()
            }
            Texts::Rollouts(table) => {
                let rows: Vec<Sample> = table.select(&["problem_id", "sample_index", "prompt_kind"])?;
                let source = |row: &Sample| source_of(row.prompt_kind);
                let key = |r: Sample| TextKey { source: source(&r), problem_id: r.problem_id, index: r.sample_index };
                rows.into_iter().map(key).collect()
            }
        };
        keys.sort_by(|a, b| (&a.problem_id, a.index).cmp(&(&b.problem_id, b.index)));
        Ok(keys)
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
        self.place_of(&text.problem_id, text.index)
    }

    pub fn place_of(&self, problem_id: &str, index: u32) -> String {
        format!("problem `{problem_id}`, {} {index}", self.word())
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
fn source_of(prompt_kind: PromptKind) -> Source {
    match prompt_kind {
        PromptKind::Plain => Source::SelfAligned,
        PromptKind::Guided => Source::Guided,
        PromptKind::Imported => Source::Teacher,
    }
}
