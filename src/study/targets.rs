//! Training targets of a rewrite stage, each with its problem and a worse answer.

use super::Made;
use super::frame;
use crate::export::Target;
use mindgap_base::error::{Error, Result};
use mindgap_lm::model::tokenizer::Tokenizer;
use mindgap_store::Table;
use mindgap_store::table::problems::Problem;
use mindgap_store::table::rewrites::Rewrite;
use mindgap_store::table::rollouts::Rollout;
use mindgap_store::table::verdicts::{Verdict, VerdictRow};
use polars::prelude::{DataFrame, DataFrameJoinOps, JoinArgs, JoinType, UniqueKeepStrategy};
use std::collections::HashMap;

/// What an export is made of.
pub struct Targets {
    pub rewrites: Vec<Rewrite>,
    problems: HashMap<String, Problem>,
    incorrect: HashMap<String, String>,
}

impl Targets {
    /// The targets of `stage`, with the problems of `problems`. `incorrect` are completions by problem.
    pub fn new(made: &Made, stage: &str, problems: &str, incorrect: HashMap<String, String>) -> Result<Targets> {
        made.finished(problems)?;
        let problems = made.table::<Problem>(problems)?.read_all()?.into_iter();
        Ok(Targets {
            rewrites: made.table::<Rewrite>(stage)?.read_all()?,
            problems: problems.map(|problem| (problem.problem_id.clone(), problem)).collect(),
            incorrect,
        })
    }

    /// The targets in the order of their table. Error where the problem of one is not there, as after a change of the problems
    /// alone.
    pub fn list(&self) -> Result<Vec<Target<'_>>> {
        self.rewrites.iter().map(|rewrite| self.target(rewrite)).collect()
    }

    fn target<'a>(&'a self, rewrite: &'a Rewrite) -> Result<Target<'a>> {
        let id = &rewrite.problem_id;
        let problem = self.problems.get(id).ok_or_else(|| {
            Error::input(format!("the problem `{id}` of a target is no longer among the problems"))
                .hint("the problems were changed after the targets were made: run the stage again")
        })?;
        Ok(Target { rewrite, problem, incorrect: self.incorrect.get(id).map(String::as_str) })
    }

    /// How many targets were sampled as other tokens than their text encodes to.
    pub fn drifting(&self, tokenizer: &Tokenizer) -> Result<usize> {
        let mut count = 0;
        for row in &self.rewrites {
            let encoded = tokenizer.encode(&row.completion, false)?;
            // One more: the end-of-sequence token, which is not in the text.
            let same = row.token_ids.starts_with(&encoded) && row.token_ids.len() <= encoded.len() + 1;
            count += usize::from(!same);
        }
        Ok(count)
    }
}

/// The completion of the first sample of each problem that was judged incorrect, by problem. Of several verdict stages the
/// lowest sample index counts, then the stage named first.
pub fn incorrect_samples(made: &Made, verdicts: &[String]) -> Result<HashMap<String, String>> {
    let mut first: HashMap<String, (u32, String)> = HashMap::new();
    for name in verdicts {
        let rollouts = made.rollouts_of(name)?;
        made.finished(name)?;
        made.finished(rollouts)?;
        let (verdicts, rollouts) = (made.table::<VerdictRow>(name)?, made.table::<Rollout>(rollouts)?);
        let wrong = first_incorrect(made, &verdicts)?;
        // Completions are large: part by part.
        for part in rollouts.parts() {
            let part = std::slice::from_ref(part);
            let samples = frame::read::<Rollout>(made.store, part, &["problem_id", "sample_index", "completion"])?;
            let key = ["problem_id", "sample_index"];
            let samples = samples.join(&wrong, key, key, JoinArgs::new(JoinType::Semi), None).map_err(frame::failed)?;
            let completions = frame::texts(&samples, "problem_id")?.zip(frame::texts(&samples, "completion")?);
            for ((id, completion), index) in completions.zip(frame::numbers(&samples, "sample_index")?) {
                if first.get(id).is_none_or(|(lowest, _)| index < *lowest) {
                    first.insert(id.to_string(), (index, completion.to_string()));
                }
            }
        }
    }
    Ok(first.into_iter().map(|(id, (_, completion))| (id, completion)).collect())
}

/// Problem and lowest index of the samples judged incorrect: verdicts are in the order of their key.
fn first_incorrect(made: &Made, verdicts: &Table<VerdictRow>) -> Result<DataFrame> {
    let judged = frame::read::<VerdictRow>(made.store, verdicts.parts(), &["problem_id", "sample_index", "verdict"])?;
    let wrong = frame::having(&judged, "verdict", Verdict::Incorrect.as_str())?;
    let by_problem = ["problem_id".to_string()];
    let first = wrong.unique_stable(Some(&by_problem), UniqueKeepStrategy::First, None);
    first.and_then(|first| first.select(["problem_id", "sample_index"])).map_err(frame::failed)
}
