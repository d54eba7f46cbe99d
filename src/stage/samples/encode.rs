//! A completion in the tokens of a policy.

use super::gather::Held;
use crate::stage::template::Template;
use mindgap_base::error::Result;
use mindgap_lm::model::policy::{Policy, Prompt};
use mindgap_store::table::imports::TokensFrom;
use mindgap_store::table::problems::Problem;
use mindgap_store::table::rollouts::{PromptKind, Rollout, StopReason};

/// Encodes texts as the experts' solutions are encoded, and takes ids that are given.
pub struct Encoder<'a> {
    policy: &'a Policy,
    template: &'a Template,
    end: u32,
    needs_prompts: bool,
}

/// What a completion is in tokens.
pub struct Encoded {
    token_ids: Vec<u32>,
    stop_reason: StopReason,
    special_count: u32,
    pub tokens_from: TokensFrom,
}

impl<'a> Encoder<'a> {
    /// Error where the policy names no end of a turn.
    pub fn new(policy: &'a Policy, template: &'a Template) -> Result<Encoder<'a>> {
        Ok(Encoder { policy, template, end: policy.target_end()?, needs_prompts: policy.targets_need_prompts()? })
    }

    /// Whether tokens depend on the training prompt.
    pub fn needs_prompts(&self) -> bool {
        self.needs_prompts
    }

    /// What a problem's completions stand behind: whatever the assistant's turn is to begin with is still part of them.
    pub fn prompt(&self, problem: &Problem) -> Result<Prompt> {
        let mut shown = self.template.render(problem)?;
        shown.prefill.clear();
        self.policy.prompt(&shown).map_err(|e| e.at(format!("problem `{}`", problem.problem_id)))
    }

    pub fn row(&self, held: &Held, prompt: Option<&Prompt>) -> Result<Encoded> {
        self.encode(held, prompt).map_err(|e| e.at(format!("problem `{}`", super::problem_id(held.problem))))
    }

    fn encode(&self, held: &Held, prompt: Option<&Prompt>) -> Result<Encoded> {
        let completion = &held.completion;
        let given = completion.token_ids.as_deref().map(|ids| self.fitting(ids, &completion.text)).transpose()?;
        let (mut token_ids, given_end, tokens_from) = match given {
            Some(Some((inside, end))) => (inside.to_vec(), end, TokensFrom::Given),
            Some(None) => (self.policy.text_ids(prompt, &completion.text)?, None, TokensFrom::Misfit),
            None => (self.policy.text_ids(prompt, &completion.text)?, None, TokensFrom::Encoded),
        };
        let special_count = self.policy.tokenizer().stray_specials(&token_ids)? as u32;
        let end = given_end.or((!completion.is_cut).then_some(self.end));
        token_ids.extend(end);
        let stop_reason = if end.is_some() { StopReason::Eos } else { StopReason::MaxTokens };
        Ok(Encoded { token_ids, stop_reason, special_count, tokens_from })
    }

    /// Given ids without their end and what is padded behind it, and that end; none where they are not this text.
    fn fitting<'i>(&self, ids: &'i [u32], text: &str) -> Result<Option<(&'i [u32], Option<u32>)>> {
        let tokenizer = self.policy.tokenizer();
        if ids.iter().any(|id| tokenizer.token(*id).is_none()) {
            return Ok(None);
        }
        let tail = ids.iter().rposition(|id| !tokenizer.is_special(*id)).map_or(0, |last| last + 1);
        let is_end = |id: &u32| self.policy.eos_token_ids().contains(id);
        let (inside, end) = match ids[tail..].iter().position(is_end) {
            Some(at) => (&ids[..tail + at], Some(ids[tail + at])),
            None => (ids, None),
        };
        Ok((!inside.is_empty() && tokenizer.text(inside)? == text).then_some((inside, end)))
    }
}

impl Encoded {
    pub fn rollout(self, problem_id: String, sample_index: u32, completion: String) -> Rollout {
        Rollout {
            problem_id,
            sample_index,
            prompt_kind: PromptKind::Imported,
            completion,
            prompt_ids: Vec::new(),
            token_ids: self.token_ids,
            logprob_behavior: None,
            logprob_policy: None,
            stop_reason: self.stop_reason,
            special_count: self.special_count,
            seed: 0,
            prefill: None,
            engine: None,
            failure: None,
        }
    }
}
