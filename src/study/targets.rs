//! Training targets of a rewrite stage, each with its problem and a worse answer.

use super::Made;
use super::frame;
use crate::export::{Drift, Target};
use mindgap_base::error::{Error, Result};
use mindgap_lm::model::chat::Conversation;
use mindgap_lm::model::policy::Policy;
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
    /// What the policy was shown for each.
    shown: Vec<Conversation>,
    problems: HashMap<String, Problem>,
    incorrect: HashMap<String, String>,
}

impl Targets {
    /// The targets of `stage`, with the problems of `problems`. `incorrect` are completions by problem.
    pub fn new(made: &Made, stage: &str, problems: &str, incorrect: HashMap<String, String>) -> Result<Targets> {
        let rewrites = made.table::<Rewrite>(stage)?.read_all()?;
        Ok(Targets {
            shown: rewrites.iter().map(shown).collect::<Result<_>>()?,
            rewrites,
            problems: problems_of(made, problems)?,
            incorrect,
        })
    }

    /// The targets in the order of their table. Error where the problem of one is not there, as after a change of the problems
    /// alone.
    pub fn list(&self) -> Result<Vec<Target<'_>>> {
        self.rewrites.iter().zip(&self.shown).map(|(rewrite, shown)| self.target(rewrite, shown)).collect()
    }

    fn target<'a>(&'a self, rewrite: &'a Rewrite, shown: &'a Conversation) -> Result<Target<'a>> {
        let id = &rewrite.problem_id;
        let problem = self.problems.get(id).ok_or_else(|| no_longer_there(id))?;
        Ok(Target { rewrite, problem, shown, incorrect: self.incorrect.get(id).map(String::as_str) })
    }

    /// How a trainer's tokens differ that is given texts and renders them with the policy's own chat template.
    pub fn drift(&self, policy: &Policy) -> Result<Drift> {
        let mut drift = Drift::default();
        for (row, shown) in self.rewrites.iter().zip(&self.shown) {
            let ended = row.token_ids.last().is_some_and(|id| policy.eos_token_ids().contains(id));
            let ours: Vec<u32> = row.prompt_ids.iter().chain(&row.token_ids).copied().collect();
            // A template that refuses the conversation with its answer leaves the trainer nothing of the row.
            let theirs = policy.dialogue_ids(shown, &row.completion).unwrap_or_default();
            let Some(behind) = theirs.strip_prefix(ours.as_slice()) else {
                drift.retokenized += 1;
                continue;
            };
            // The template ends a turn that the row leaves open.
            let behind = behind.get(usize::from(!ended)..).unwrap_or_default();
            if !behind.is_empty() {
                if drift.lengthened == 0 {
                    drift.behind = policy.tokenizer().decode(behind, false)?;
                }
                drift.lengthened += 1;
            }
        }
        drift.dated = policy.chat().is_some_and(|chat| chat.asked_for_date());
        Ok(drift)
    }
}

/// The problems of a stage that must have run, by id.
pub(super) fn problems_of(made: &Made, stage: &str) -> Result<HashMap<String, Problem>> {
    made.finished(stage)?;
    let problems = made.table::<Problem>(stage)?.read_all()?.into_iter();
    Ok(problems.map(|problem| (problem.problem_id.clone(), problem)).collect())
}

pub(super) fn no_longer_there(problem_id: &str) -> Error {
    Error::input(format!("the problem `{problem_id}` of a row is no longer among the problems"))
        .hint("the problems were changed after the stage had run: run it again")
}

/// What the policy is shown in the training prompt of a row.
pub(super) fn shown(row: &Rewrite) -> Result<Conversation> {
    match &row.conversation {
        None => Ok(Conversation::user(&row.prompt)),
        Some(text) => serde_json::from_str(text).map_err(|e| {
            let at = format!("table `rewrites`, column `conversation`, problem `{}`", row.problem_id);
            Error::input(format!("not a conversation: {e}")).at(at)
        }),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{PolicyHandle, load_policy};
    use mindgap_lm::model::policy::PolicyFiles;
    use mindgap_store::table::rewrites::Source;
    use serde_json::{Value as Json, json};
    use std::path::Path;

    /// What becomes of these answers to a question with the chat template of a checkpoint.
    fn drift(checkpoint: &str, kwargs: Json, answers: &[&str]) -> Drift {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/model").join(checkpoint);
        let handle = PolicyHandle::of_folder(checkpoint, &folder, PolicyFiles::wants).unwrap();
        let policy = load_policy(&handle).unwrap();
        let Json::Object(template_kwargs) = kwargs else { panic!("variables have names") };
        let conversation = Conversation { template_kwargs, ..Conversation::user("2 + 3?") };
        let prompt = policy.prompt(&conversation).unwrap();
        let row = |answer: &&str| Rewrite {
            problem_id: "0a".to_string(),
            choice_index: 0,
            source: Source::Expert,
            prompt: "2 + 3?".to_string(),
            completion: answer.to_string(),
            prompt_ids: prompt.ids.clone(),
            token_ids: policy.target_ids(&prompt, answer).unwrap(),
            logprob_behavior: None,
            sample_index: None,
            round: 0,
            attempts: 0,
            conversation: Some(serde_json::to_string(&conversation).unwrap()),
            stage_index: None,
            score: None,
        };
        let rewrites: Vec<Rewrite> = answers.iter().map(row).collect();
        let shown = rewrites.iter().map(|row| shown(row).unwrap()).collect();
        Targets { rewrites, shown, problems: HashMap::new(), incorrect: HashMap::new() }.drift(&policy).unwrap()
    }

    #[test]
    fn what_chat_templates_change() {
        let plain = ["It is 5.", " It is 6.\n"];
        let thought = ["<think>\nwhy\n</think>\n\nIt is 5."];
        let longer = |lengthened| Drift { lengthened, behind: "\n".to_string(), ..Drift::default() };
        assert_eq!(drift("qwen2", json!({}), &plain), longer(2), "a line break behind the end");
        let trimmed = drift("llama3-sharded-bf16", json!({}), &plain);
        assert_eq!(trimmed, Drift { retokenized: 1, dated: true, ..Drift::default() }, "answers are trimmed");
        let dated = drift("llama3-sharded-bf16", json!({"date_string": "26 Jul 2024"}), &plain);
        assert_eq!(dated, Drift { dated: false, ..trimmed }, "who is told a date does not ask");
        let filled = drift("qwen3", json!({}), &plain);
        assert_eq!(filled, Drift { retokenized: 2, ..Drift::default() }, "empty thoughts are put in");
        assert_eq!(drift("qwen3", json!({"enable_thinking": false}), &plain[..1]), longer(1), "as in the prompt");
        assert_eq!(drift("qwen3", json!({}), &thought), longer(1));
    }
}
