//! What an answer that comes without thoughts has in front of it, as the policy's chat template writes it.

use super::Policy;
use crate::model::chat::{Conversation, Message};
use mindgap_base::error::Result;
use mindgap_math::thoughts;

impl Policy {
    /// What stands between a prompt and an answer without thoughts.
    ///
    /// Where the prompt has begun thoughts (DeepSeek R1's ends in `<think>` and a line break), what ends them. Where the template
    /// puts an empty block in front of such an answer, that block, as Qwen3 was trained on (arXiv:2505.09388, table 9). Else
    /// nothing: other templates leave thoughts out of earlier turns and put nothing in their place.
    pub fn without_thoughts(&self, conversation: &Conversation) -> Result<String> {
        let Conversation { messages, prefill, .. } = conversation;
        let before = self.rendered(messages, false, conversation)?;
        let prompt = self.rendered(messages, true, conversation)? + prefill;
        let shared = before.char_indices().zip(prompt.chars()).take_while(|((_, a), b)| a == b);
        let begins = shared.last().map_or(0, |((at, c), _)| at + c.len_utf8());
        let turn = &prompt[begins..];
        if let Some((open, close)) = thoughts::begun(turn) {
            return Ok(if turn.ends_with(open) { close.to_string() } else { format!("\n{close}\n\n") });
        }
        const ANSWER: &str = "answer";
        let answered = [&messages[..], &[Message::new("assistant", [prefill, ANSWER].concat())]].concat();
        let whole = self.rendered(&answered, false, conversation)?;
        let between = whole.strip_prefix(&prompt).and_then(|rest| rest.split_once(ANSWER)).map(|(between, _)| between);
        Ok(between.filter(|between| thoughts::is_empty_block(between)).unwrap_or_default().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::tiny_policy_files;

    const QWEN3: &str = include_str!("../../../../../tests/fixtures/model/templates/qwen3.jinja");
    /// What of DeepSeek-R1-Distill's template makes a turn of each.
    const R1: &str = "{% for m in messages %}{% if m.role == 'user' %}{{ '<|user|>' + m.content }}{% else %}\
        {% set content = m.content %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}\
        {% endif %}{{ '<|assistant|>' + content + '<|end|>' }}{% endif %}{% endfor %}\
        {% if add_generation_prompt %}{{ '<|assistant|><think>\\n' }}{% endif %}";
    /// As DeepSeek-V3.1's: thoughts are begun without a line break, or ended at once.
    const V31: &str = "{% for m in messages %}{% if m.role == 'user' %}{{ '<|user|>' + m.content }}{% else %}\
        {{ '<|assistant|></think>' + m.content + '<|end|>' }}{% endif %}{% endfor %}\
        {% if add_generation_prompt %}{{ '<|assistant|>' + ('<think>' if thinking else '</think>') }}{% endif %}";
    /// As GLM-4.5's.
    const GLM: &str = "{% for m in messages %}{{ '<|' + m.role + '|>\\n' }}{% if m.role == 'assistant' %}\
        {{ '<think></think>\\n' }}{% endif %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>\n\
        {% endif %}";
    const PLAIN: &str = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}\
        {% if add_generation_prompt %}<|assistant|>{% endif %}";

    fn placed(template: &str, kwargs: &str, prefill: &str, question: &str) -> String {
        let mut files = tiny_policy_files(1);
        let config = serde_json::json!({"eos_token": "<|end|>", "chat_template": template});
        files.insert("tokenizer_config.json", config.to_string());
        let shown = Conversation {
            prefill: prefill.to_string(),
            template_kwargs: serde_json::from_str(kwargs).unwrap(),
            ..Conversation::user(question)
        };
        Policy::from_files(files).unwrap().without_thoughts(&shown).unwrap()
    }

    #[test]
    fn templates_differ_in_what_they_put_there() {
        for (template, kwargs, prefill, wanted) in [
            (QWEN3, "{}", "", "<think>\n\n</think>\n\n"),
            (QWEN3, r#"{"enable_thinking": false}"#, "", ""),
            (QWEN3, "{}", "So", ""),
            (QWEN3, "{}", "<think>\nLet me see.", "\n</think>\n\n"),
            (R1, "{}", "", "\n</think>\n\n"),
            (R1, "{}", "Hm.\n</think>\n\n", ""),
            (V31, r#"{"thinking": true}"#, "", "</think>"),
            (V31, r#"{"thinking": false}"#, "", ""),
            (GLM, "{}", "", "<think></think>\n"),
            (PLAIN, "{}", "", ""),
            (PLAIN, "{}", "<think>", "</think>"),
        ] {
            assert_eq!(placed(template, kwargs, prefill, "2 + 2?"), wanted, "{template} {kwargs} {prefill}");
            let spelled = placed(template, kwargs, prefill, "What does <think> do?");
            assert_eq!(spelled, wanted, "a question may spell a tag");
        }
    }
}
