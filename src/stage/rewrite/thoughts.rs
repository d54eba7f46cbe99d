//! Targets without thoughts: what a sample or an expert thought before the answer is cut off, and what the policy's chat template
//! has in its place is put there.

use super::samples::Encoded;
use mindgap_base::error::Result;
use mindgap_lm::model::chat::Conversation;
use mindgap_lm::model::policy::{Policy, Prompt};
use mindgap_math::thoughts::answer_start;
use mindgap_store::table::rollouts::{Rollout, StopReason};
use serde::{Deserialize, Serialize};

/// Whether targets have the thoughts in front of their answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Thoughts {
    #[default]
    Keep,
    /// Of a sample without thoughts nothing changes. Other tokens than those that were drawn have no log-probs of their drawing.
    Drop,
}

/// Cuts thoughts off texts that stand behind one prompt.
pub struct Unthought<'a> {
    policy: &'a Policy,
    prompt: Prompt,
    /// What stands in front of the answer instead.
    instead: String,
}

impl<'a> Unthought<'a> {
    pub fn behind(policy: &'a Policy, shown: &Conversation) -> Result<Unthought<'a>> {
        Ok(Unthought { policy, prompt: policy.prompt(shown)?, instead: policy.without_thoughts(shown)? })
    }

    /// A text that was not drawn, as the chat template has it without thoughts. None where it is nothing but thoughts.
    pub fn text(&self, text: &str) -> Option<String> {
        let answer = &text[answer_start(text)..];
        let is_whole = answer.len() == text.len() && self.instead.is_empty();
        let answer = if is_whole { answer } else { answer.trim_start() };
        (!answer.trim().is_empty()).then(|| [&self.instead, answer].concat())
    }

    /// A sample without its thoughts, as a target. One that has none stays as it was drawn.
    pub fn sample(&self, rollout: &Rollout) -> Result<Encoded> {
        if answer_start(&rollout.completion) == 0 {
            return Ok(Encoded::AsDrawn);
        }
        match self.text(&rollout.completion) {
            Some(completion) => {
                let token_ids = self.token_ids(rollout, &completion)?;
                Ok(Encoded::Anew { completion, token_ids })
            }
            None => Ok(Encoded::OnlyThoughts),
        }
    }

    /// Tokens of the answer stay those that were drawn, where one of them begins with it.
    fn token_ids(&self, rollout: &Rollout, text: &str) -> Result<Vec<u32>> {
        let answer = &text[self.instead.len()..];
        let ended = usize::from(rollout.stop_reason == StopReason::Eos);
        let inside = &rollout.token_ids[..rollout.token_ids.len() - ended];
        match self.first_of(answer, inside)? {
            Some(first) => {
                let mut ids = match self.instead.is_empty() {
                    true => Vec::new(),
                    false => self.policy.target_ids(&self.prompt, &self.instead)?,
                };
                // The end.
                ids.pop();
                ids.extend(&rollout.token_ids[first..]);
                Ok(ids)
            }
            None => self.policy.target_ids(&self.prompt, text),
        }
    }

    /// The index from which on tokens spell a text and nothing else.
    fn first_of(&self, text: &str, ids: &[u32]) -> Result<Option<usize>> {
        let spelled = |first: usize| self.policy.tokenizer().text(&ids[first..]);
        let (mut low, mut high) = (0, ids.len());
        while low < high {
            let middle = (low + high) / 2;
            match spelled(middle)?.len() > text.len() {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        Ok((spelled(low)? == text).then_some(low))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mindgap_lm::model::policy::PolicyFiles;
    use mindgap_store::table::rollouts::PromptKind;

    macro_rules! fixture {
        ($file:literal) => {
            include_bytes!(concat!("../../../tests/fixtures/model/", $file))
        };
    }

    const TAGS: [&str; 2] = ["<think>", "</think>"];

    /// A policy with Qwen3's chat template, whose vocabulary has the tags as tokens (special ones or not), or spells them.
    fn policy(tags_are: Option<&str>) -> Policy {
        let mut files = PolicyFiles::default();
        files.insert("config.json", fixture!("qwen3/config.json"));
        files.insert("generation_config.json", fixture!("qwen3/generation_config.json"));
        files.insert("tokenizer_config.json", fixture!("qwen3/tokenizer_config.json"));
        files.insert("chat_template.jinja", fixture!("templates/qwen3.jinja"));
        let mut tokenizer: serde_json::Value = serde_json::from_slice(fixture!("qwen3/tokenizer.json")).unwrap();
        for (id, tag) in (380..).zip(TAGS).filter(|_| tags_are.is_some()) {
            let special = tags_are == Some("special");
            tokenizer["added_tokens"].as_array_mut().unwrap().push(serde_json::json!({"id": id, "content": tag,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": special}));
        }
        files.insert("tokenizer.json", tokenizer.to_string());
        Policy::from_files(files).unwrap()
    }

    fn drawn(policy: &Policy, text: &str, stop_reason: StopReason) -> Rollout {
        let mut token_ids = policy.tokenizer().encode(text, false).unwrap();
        if stop_reason == StopReason::Eos {
            token_ids.push(policy.end_token_id().unwrap());
        }
        Rollout {
            problem_id: "0a".to_string(),
            sample_index: 0,
            prompt_kind: PromptKind::Plain,
            completion: text.to_string(),
            prompt_ids: vec![1],
            logprob_behavior: Some(vec![-1.0; token_ids.len()]),
            logprob_policy: Some(vec![-1.0; token_ids.len()]),
            token_ids,
            stop_reason,
            special_count: 0,
            seed: 0,
            prefill: None,
            engine: None,
            failure: None,
        }
    }

    /// Text and tokens as a target; none of one that is nothing but thoughts.
    fn dropped(unthought: &Unthought, rollout: &Rollout) -> Option<(String, Vec<u32>)> {
        match unthought.sample(rollout).unwrap() {
            Encoded::AsDrawn => Some((rollout.completion.clone(), rollout.token_ids.clone())),
            Encoded::Anew { completion, token_ids } => Some((completion, token_ids)),
            Encoded::OnlyThoughts => None,
        }
    }

    fn shown(kwargs: &str) -> Conversation {
        Conversation { template_kwargs: serde_json::from_str(kwargs).unwrap(), ..Conversation::user("2 + 2?") }
    }

    /// Goal: whatever the tags are in the vocabulary, a target is what the chat template writes of an answer alone, to the token.
    #[test]
    fn targets_are_what_the_template_writes() {
        for tags_are in [None, Some("words"), Some("special")] {
            let policy = policy(tags_are);
            for (kwargs, block) in [("{}", "<think>\n\n</think>\n\n"), (r#"{"enable_thinking": false}"#, "")] {
                let shown = shown(kwargs);
                let unthought = Unthought::behind(&policy, &shown).unwrap();
                let prompt = policy.prompt(&shown).unwrap();
                for (text, answer) in [
                    ("<think>\nTwo and two.\n</think>\n\nIt is 4.", "It is 4."),
                    ("Two and two.</think>It is 4.", "It is 4."),
                    ("<think>a</think>So <think>b</think>\nIt is 4.\n", "It is 4.\n"),
                ] {
                    let rollout = drawn(&policy, text, StopReason::Eos);
                    let (completion, token_ids) = dropped(&unthought, &rollout).unwrap();
                    assert_eq!(completion, [block, answer].concat(), "{text}");
                    let whole = policy.dialogue_ids(&shown, answer).unwrap();
                    let ours = [&prompt.ids[..], &token_ids[..]].concat();
                    assert_eq!(whole[..ours.len()], ours, "{tags_are:?} {kwargs} {text}");
                    assert_eq!(unthought.text(text).unwrap(), completion);
                }
            }
        }
    }

    #[test]
    fn drawn_tokens_of_the_answer_stay() {
        let policy = policy(Some("words"));
        let unthought = Unthought::behind(&policy, &shown("{}")).unwrap();
        // Letter by letter, as no tokenizer would encode it.
        let mut rollout = drawn(&policy, "<think>\nhm\n</think>\n\n", StopReason::StopString);
        let letters: Vec<u32> =
            "composed".chars().map(|c| policy.tokenizer().token_id(&c.to_string()).unwrap()).collect();
        assert_ne!(policy.tokenizer().encode("composed", false).unwrap(), letters);
        rollout.token_ids.extend(&letters);
        rollout.completion += "composed";
        let (completion, token_ids) = dropped(&unthought, &rollout).unwrap();
        assert!(token_ids.ends_with(&letters), "{token_ids:?}");
        assert_eq!(policy.tokenizer().text(&token_ids).unwrap(), completion);
    }

    #[test]
    fn samples_without_an_answer_or_thoughts() {
        let policy = policy(None);
        let unthought = Unthought::behind(&policy, &shown("{}")).unwrap();
        for text in ["<think>\n4", "<think>4</think>\n", "<think>a</think>4<think>b"] {
            assert_eq!(dropped(&unthought, &drawn(&policy, text, StopReason::Eos)), None, "{text}");
            assert_eq!(unthought.text(text), None);
        }
        for text in ["It is 4.", " 4 </ think>", "a < b"] {
            let rollout = drawn(&policy, text, StopReason::Eos);
            assert!(matches!(unthought.sample(&rollout).unwrap(), Encoded::AsDrawn), "{text}");
        }
        assert_eq!(unthought.text("It is 4.").unwrap(), "<think>\n\n</think>\n\nIt is 4.");
        let plain = Unthought::behind(&policy, &shown(r#"{"enable_thinking": false}"#)).unwrap();
        assert_eq!(plain.text(" It is 4.").unwrap(), " It is 4.", "a space behind a prefill stays");
    }
}
