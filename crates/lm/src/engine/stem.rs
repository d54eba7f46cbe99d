//! The beginning that prompts of different problems share (a system prompt, examples): it goes through the model once per worker.

use super::Limits;
use crate::model::config::Config;
use crate::model::runner::{Feed, Session};
use mindgap_base::error::Result;
use std::collections::HashMap;

/// Tokens of a beginning worth keeping apart.
const SHORTEST: usize = 32;

/// What the prompts of a call begin with; empty where nothing is worth sharing.
pub struct Stem<'a> {
    config: &'a Config,
    token_ids: &'a [u32],
}

impl<'a> Stem<'a> {
    /// Of the prompts that agree in their first tokens with most others, all that they have in common; a token at least stays with
    /// each.
    pub fn of(config: &'a Config, prompts: impl Iterator<Item = &'a [u32]>) -> Stem<'a> {
        let mut groups: HashMap<&[u32], (usize, &[u32])> = HashMap::new();
        let is_short = |tokens: usize| !config.is_long(tokens);
        for prompt in prompts.filter(|prompt| prompt.len() > SHORTEST && is_short(prompt.len() + 1)) {
            let before_last = &prompt[..prompt.len() - 1];
            let (count, common) = groups.entry(&prompt[..SHORTEST]).or_insert((0, before_last));
            *count += 1;
            *common = &common[..shared(common, before_last)];
        }
        let several = groups.into_values().filter(|(count, _)| *count > 1);
        // Of equals the smaller: the order of a map must not decide.
        let largest = several.max_by(|(a, x), (b, y)| a.cmp(b).then(y.cmp(x)));
        Stem { config, token_ids: largest.map_or(&[], |(_, common)| common) }
    }

    pub fn len(&self) -> usize {
        self.token_ids.len()
    }

    /// How many tokens of a prompt lie in the stem: none where it begins with another, or its text of so many tokens turns by the
    /// frequencies for long ones.
    pub fn under(&self, prompt_ids: &[u32], tokens: usize) -> usize {
        match prompt_ids.starts_with(self.token_ids) && !self.config.is_long(tokens) {
            true => self.len(),
            false => 0,
        }
    }

    /// The same for a prompt that is sampled from.
    pub fn under_prompt(&self, prompt_ids: &[u32]) -> usize {
        self.under(prompt_ids, prompt_ids.len() + 1)
    }

    /// Runs it through the model, so many rows at a time.
    pub fn prefill<S: Session>(&self, session: &mut S, call_rows: usize, limits: &Limits) -> Result<S::Prompt> {
        let mut sequence = session.open(self.len())?;
        for token_ids in self.token_ids.chunks(call_rows) {
            limits.check_cancel()?;
            session.logits(&mut [Feed { sequence: &mut sequence, token_ids, want: 0 }], &mut Vec::new())?;
        }
        Ok(session.freeze(sequence))
    }
}

/// Length of the common beginning.
fn shared(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests;
