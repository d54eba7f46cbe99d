//! One problem's targets: its candidates, the choice, and the rows that tell both.

use super::Params;
use super::samples::{Candidate, Encoded, Likelihoods, Samples};
use super::thoughts::{Thoughts, Unthought};
use crate::stage::template::Template;
use mindgap_base::error::{Error, Result};
use mindgap_lm::model::chat::Conversation;
use mindgap_lm::model::policy::{Policy, Prompt};
use mindgap_store::table::problems::Problem;
use mindgap_store::table::rewrites::{self, Outcome, Refused, Rewrite, Source, Untargeted};
use mindgap_store::table::rollouts::{PromptKind, Rollout};
use mindgap_store::table::verdicts::Refusal;

/// Rows of a part, by table.
#[derive(Default)]
pub struct Rows {
    pub rewrites: Vec<Rewrite>,
    pub untargeted: Vec<Untargeted>,
    pub refused: Vec<Refused>,
    pub candidates: Vec<rewrites::Candidate>,
}

/// What all problems of a part have in common.
pub struct Maker<'a> {
    pub params: &'a Params,
    pub template: &'a Template,
    pub policy: &'a Policy,
    pub likelihoods: &'a Likelihoods,
}

/// The training prompt of a problem.
struct Shown<'a> {
    conversation: Conversation,
    prompt: Prompt,
    /// Where targets are to do without thoughts.
    unthought: Option<Unthought<'a>>,
}

impl Shown<'_> {
    /// A text as it may be a target; none where it is thoughts alone and targets are to do without.
    fn without_thoughts(&self, text: &str) -> Option<String> {
        self.unthought.as_ref().map_or_else(|| Some(text.to_string()), |unthought| unthought.text(text))
    }
}

impl Maker<'_> {
    /// Chooses among the samples of a problem, by source, and adds the rows that say so.
    pub fn choose(&self, problem: &Problem, samples: &[Samples], rows: &mut Rows) -> Result<()> {
        let conversation = self.template.render(problem)?;
        let unthought = match self.params.thoughts {
            Thoughts::Keep => None,
            Thoughts::Drop => Some(Unthought::behind(self.policy, &conversation)?),
        };
        let shown = Shown { prompt: self.policy.prompt(&conversation)?, conversation, unthought };
        let attempts = samples.iter().map(|samples| samples.attempts(problem)).sum();
        let mut decided = Vec::new();
        for rank in &self.params.order {
            let is_decided = decided.iter().any(|(_, outcome)| *outcome == Outcome::Chosen);
            let mut candidates = Vec::new();
            for source in rank.sources() {
                match samples.iter().find(|samples| samples.source() == *source) {
                    Some(samples) => candidates.extend(self.correct(problem, samples, &shown)?),
                    None if is_decided || !self.params.fallback => {}
                    None => candidates.extend(self.expert(problem, &shown)?),
                }
            }
            match is_decided {
                true => decided.extend(candidates.into_iter().map(|candidate| match candidate.refused {
                    Some(_) => (candidate, Outcome::Refused),
                    None => (candidate, Outcome::Left),
                })),
                false => decided.extend(self.params.rule().decide(&problem.problem_id, candidates)?),
            }
        }
        let chosen = decided.iter().filter(|(_, outcome)| *outcome == Outcome::Chosen).map(|(candidate, _)| candidate);
        for candidate in chosen.clone() {
            fits(candidate, &shown.conversation)?;
        }
        let before = rows.rewrites.len();
        let targets = chosen.enumerate().map(|(index, chosen)| self.row(problem, &shown, attempts, index, chosen));
        rows.rewrites.extend(targets);
        if rows.rewrites.len() == before && self.params.fallback {
            let expert = decided.iter().find(|(candidate, _)| candidate.rollout.is_none());
            let reason = match attempts {
                _ if expert.is_some_and(|(expert, _)| expert.refused == Some(Refusal::OnlyThoughts)) => {
                    "no sample to choose, and the expert's solution is thoughts alone"
                }
                _ if expert.is_some() => "no sample to choose, and the expert solution is longer than `max_tokens`",
                _ if problem.solution.is_some() => "no sample to choose, and `order` does not ask the expert",
                0 => "no samples and no expert solution",
                _ => "no sample to choose and no expert solution",
            };
            let problem_id = problem.problem_id.clone();
            rows.untargeted.push(Untargeted { problem_id, attempts, reason: reason.to_string() });
        }
        let mut told: Vec<rewrites::Candidate> = decided.iter().filter_map(|decided| told(problem, decided)).collect();
        told.sort_by_key(|row| (row.source, row.stage_index, row.sample_index));
        rows.refused.extend(told.iter().filter_map(|row| {
            let (problem_id, source) = (row.problem_id.clone(), row.source);
            Some(Refused { problem_id, source, sample_index: row.sample_index, reason: row.reason? })
        }));
        rows.candidates.extend(told);
        Ok(())
    }

    fn correct<'a>(&self, problem: &Problem, samples: &'a Samples, shown: &Shown) -> Result<Vec<Candidate<'a>>> {
        let encode = |rollout: &Rollout, is_foreign: bool| {
            let is_imported = rollout.prompt_kind == PromptKind::Imported;
            if !is_foreign && (!is_imported || shown.conversation.prefill.is_empty()) {
                return shown.unthought.as_ref().map_or(Ok(Encoded::AsDrawn), |unthought| unthought.sample(rollout));
            }
            let completion = shown.conversation.behind_prefill(&rollout.completion);
            let Some(completion) = shown.without_thoughts(&completion) else { return Ok(Encoded::OnlyThoughts) };
            let token_ids = self.policy.target_ids(&shown.prompt, &completion)?;
            Ok(Encoded::Anew { completion, token_ids })
        };
        samples.correct(problem, self.likelihoods, &self.params.limits(), &encode)
    }

    /// The expert's solution. It is refused where it is too long or thoughts alone, and for nothing else.
    fn expert<'a>(&self, problem: &'a Problem, shown: &Shown) -> Result<Option<Candidate<'a>>> {
        let Some(solution) = &problem.solution else { return Ok(None) };
        let behind = shown.conversation.behind_prefill(solution);
        let answer = shown.without_thoughts(&behind);
        let has_answer = answer.is_some();
        let completion = answer.unwrap_or_else(|| behind.into_owned());
        let token_ids = self.policy.target_ids(&shown.prompt, &completion)?;
        let refused = match self.params.limits().is_too_long(&token_ids) {
            _ if !has_answer => Some(Refusal::OnlyThoughts),
            true => Some(Refusal::TooLong),
            false => None,
        };
        Ok(Some(Candidate {
            source: Source::Expert,
            stage_index: 0,
            rollout: None,
            completion: completion.into(),
            refused,
            token_ids: token_ids.into(),
            likelihood: self.likelihoods.of_expert(&problem.problem_id),
            score: None,
        }))
    }

    fn row(&self, problem: &Problem, shown: &Shown, attempts: u32, index: usize, chosen: &Candidate) -> Rewrite {
        let Shown { conversation, prompt, .. } = shown;
        let stages = self.params.judged().into_iter().find(|(source, _, _)| *source == chosen.source);
        Rewrite {
            problem_id: problem.problem_id.clone(),
            choice_index: index as u32,
            source: chosen.source,
            prompt: conversation.question().to_string(),
            completion: chosen.completion.to_string(),
            prompt_ids: prompt.ids.clone(),
            token_ids: chosen.token_ids.to_vec(),
            logprob_behavior: chosen.logprob_behavior(),
            sample_index: chosen.rollout.map(|rollout| rollout.sample_index),
            round: self.params.round,
            attempts,
            conversation: (!conversation.is_plain())
                .then(|| serde_json::to_string(conversation).expect("a conversation is plain data")),
            stage_index: stages.filter(|(_, _, stages)| stages.len() > 1).map(|_| chosen.stage_index),
            score: chosen.score,
        }
    }
}

/// The row about a sample; none about the expert's solution.
fn told(problem: &Problem, (candidate, outcome): &(Candidate, Outcome)) -> Option<rewrites::Candidate> {
    Some(rewrites::Candidate {
        problem_id: problem.problem_id.clone(),
        source: candidate.source,
        stage_index: candidate.stage_index,
        sample_index: candidate.rollout?.sample_index,
        outcome: *outcome,
        reason: candidate.refused,
        token_count: candidate.token_ids.len() as u32,
        logprob: candidate.likelihood,
        score: candidate.score,
    })
}

/// A sample's tokens stand behind the prefill it was drawn with, and can be trained on behind no other.
fn fits(sample: &Candidate, shown: &Conversation) -> Result<()> {
    let Some(rollout) = sample.rollout.filter(|rollout| rollout.token_ids == *sample.token_ids) else { return Ok(()) };
    let drawn = rollout.prefill.as_deref().unwrap_or_default();
    if drawn == shown.prefill || rollout.prompt_kind == PromptKind::Imported {
        return Ok(());
    }
    let (index, prefill) = (rollout.sample_index, &shown.prefill);
    Err(Error::usage(format!("sample {index} begins with the prefill `{drawn}`, the training prompt with `{prefill}`"))
        .hint("give the rewrite stage and the rollouts templates with the same `prefill`"))
}
