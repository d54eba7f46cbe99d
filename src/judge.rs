//! judge: whether a response is right: by rules (`mindgap-math`), by a JSON schema, or by a program of the user's. What a policy says
//! as judge is read here too; it is asked by the stage.

mod command;
pub mod model;
mod schema;
mod spec;

pub use command::Command;
pub use schema::Schema;
pub use spec::{JudgeKind, JudgeSpec, Setting};

use mindgap_base::error::Result;
use mindgap_math::Judgement;
use serde::Serialize;
use serde_json::Value;

/// A judge that is ready: its files are read.
pub enum Judge {
    Rules(mindgap_math::Judge),
    Schema(Schema),
    Command(Command),
}

/// What is judged. A command is shown all of it, the others look at `gold` and `response`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Case<'a> {
    pub id: Value,
    pub source: &'a str,
    pub question: &'a str,
    pub gold: &'a str,
    pub response: &'a str,
    pub meta: Value,
}

impl Judge {
    /// Errors: what keeps this judge from judging anything at all. What is wrong with one case is a verdict.
    pub fn judge(&self, case: &Case) -> Result<Judgement> {
        match self {
            Judge::Rules(rules) => Ok(rules.judge(case.gold, case.response)),
            Judge::Schema(schema) => Ok(schema.judge(case.gold, case.response)),
            Judge::Command(command) => command.judge(case),
        }
    }

    /// The judge with its version, the options that differ from the defaults, and the hashes of its files. Part of fingerprints.
    pub fn name(&self) -> String {
        match self {
            Judge::Rules(rules) => rules.name(),
            Judge::Schema(schema) => schema.name(),
            Judge::Command(command) => command.name(),
        }
    }

    /// It looks at more of a problem than its question and its answer, and takes its time.
    pub fn is_command(&self) -> bool {
        matches!(self, Judge::Command(_))
    }

    /// Errors: this machine cannot judge with it.
    pub fn check_machine(&self) -> Result<()> {
        match self {
            Judge::Command(command) => command.check_machine(),
            Judge::Rules(_) | Judge::Schema(_) => Ok(()),
        }
    }
}
