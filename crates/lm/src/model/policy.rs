//! A policy: everything a Hugging Face folder holds, read from its files' bytes. What opens the files is the caller's business.

mod files;
mod thoughts;

pub use files::{Blob, GGUF, PolicyFiles, is_weights};

use super::chat::{self, ChatTemplate, Conversation, Message};
use super::config::{self, Config};
use super::controls::{Controls, unmarked};
use super::gguf::Gguf;
use super::held::Held;
use super::runner::Runner;
use super::tokenizer::Tokenizer;
use super::transformer::Transformer;
use super::weights::{Checkpoint, Shard};
use candle_core::{DType, Device};
use files::{CONFIG, GENERATION, INDEX, SINGLE, SPECIAL_MAP, TEMPLATE, TOKENIZER, TOKENIZER_CONFIG};
use mindgap_base::error::{Error, Result};
use serde_json::Value;

/// A checkpoint ready for use, weights aside: those are converted when [`Policy::transformer`] or the engine asks.
pub struct Policy {
    config: Config,
    tokenizer: Tokenizer,
    chat: Option<ChatTemplate>,
    eos_token_ids: Vec<u32>,
    end_token_id: Option<u32>,
    controls: Controls,
    files: PolicyFiles,
    gguf: Option<Gguf>,
}

/// What a policy is shown, rendered and encoded.
pub struct Prompt {
    /// The rendered text, with marks around control tokens that were spelled in it.
    marked: String,
    pub ids: Vec<u32>,
}

impl Prompt {
    /// The rendered text.
    pub fn text(&self) -> String {
        unmarked(&self.marked)
    }
}

impl Policy {
    /// Reads and checks config, tokenizer, template and the weights' headers. Errors name the file, and the tensor if one is
    /// missing or of a wrong shape.
    pub fn from_files(mut files: PolicyFiles) -> Result<Policy> {
        let gguf = files.read_gguf()?;
        files.take_text_part()?;
        let config = Config::from_json(files.need(CONFIG, "a policy is a folder in the Hugging Face layout")?)?;
        let tokenizer = Tokenizer::from_bytes(files.need(
            TOKENIZER,
            "save the tokenizer in its fast form: `AutoTokenizer.from_pretrained(..).save_pretrained(..)`",
        )?)?;
        let (tokenizer_config, special_map) = (files.get(TOKENIZER_CONFIG), files.get(SPECIAL_MAP));
        let chat = ChatTemplate::from_files(tokenizer_config, files.get(TEMPLATE), special_map)?;
        let named_eos = chat::special_strings(tokenizer_config, special_map)?.remove("eos_token");
        let named_eos = named_eos.and_then(|token| tokenizer.token_id(&token));
        let eos_token_ids = eos_token_ids(&files, &config, named_eos)?;
        let end_token_id = named_eos.filter(|id| eos_token_ids.contains(id)).or(eos_token_ids.first().copied());
        let controls = Controls::new(&tokenizer, &eos_token_ids);
        let policy = Policy { config, tokenizer, chat, eos_token_ids, end_token_id, controls, files, gguf };
        // A folder without weights still has a tokenizer and a shape: enough to start training from random weights.
        if policy.files.has_weights() {
            policy.checkpoint().map(drop)?;
        }
        policy.check_vocabulary()?;
        Ok(policy)
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    pub fn chat(&self) -> Option<&ChatTemplate> {
        self.chat.as_ref()
    }

    pub fn files(&self) -> &PolicyFiles {
        &self.files
    }

    /// Ids that end a completion: of generation_config.json, else config.json, else the tokenizer's `eos_token`.
    pub fn eos_token_ids(&self) -> &[u32] {
        &self.eos_token_ids
    }

    /// The id that ends a target in training: the tokenizer's `eos_token` (the end of a turn in chat checkpoints) if it is
    /// among the EOS ids, else the first of them.
    pub fn end_token_id(&self) -> Option<u32> {
        self.end_token_id
    }

    /// Ids of a conversation of one user message, up to where the answer begins. The template writes every special token
    /// itself, so none is added.
    pub fn prompt_ids(&self, user_message: &str) -> Result<Vec<u32>> {
        Ok(self.prompt(&Conversation::user(user_message))?.ids)
    }

    /// Any conversation, up to where the policy goes on: behind the prefill, if it has one. Control tokens that messages spell are
    /// letters ([`Controls`]).
    pub fn prompt(&self, conversation: &Conversation) -> Result<Prompt> {
        let mark = |text: &str| self.controls.mark(text).into_owned();
        let messages: Vec<Message> =
            conversation.messages.iter().map(|turn| Message::new(turn.role.clone(), mark(&turn.content))).collect();
        let rendered = self.rendered(&messages, true, conversation)?;
        let marked = rendered + &mark(&conversation.prefill);
        let ids = self.controls.encode(&self.tokenizer, &marked)?;
        Ok(Prompt { marked, ids })
    }

    /// Ids of a conversation with its answer as the chat template writes both, as a trainer does that is given messages: text that
    /// spells a token becomes it.
    pub fn dialogue_ids(&self, conversation: &Conversation, answer: &str) -> Result<Vec<u32>> {
        let mut messages = conversation.messages.clone();
        messages.push(Message::new("assistant", [&conversation.prefill, answer].concat()));
        self.tokenizer.encode(&self.rendered(&messages, false, conversation)?, false)
    }

    fn rendered(&self, messages: &[Message], add_generation_prompt: bool, like: &Conversation) -> Result<String> {
        let chat = self.chat.as_ref().ok_or_else(|| {
            Error::input("policy has no chat template")
                .at(TOKENIZER_CONFIG)
                .hint("add `chat_template` there, or a file `chat_template.jinja`")
        })?;
        let rendered = chat.render(messages, add_generation_prompt, &Value::Object(like.template_kwargs.clone()));
        rendered.map_err(|e| match messages.iter().any(|message| message.role == "system") {
            true => e.hint("if the template takes no system turn, put its text into the user's turn"),
            false => e,
        })
    }

    /// Ids of a target text behind its prompt, with the end token. They begin as they would in the whole text; control tokens that
    /// the text spells are letters ([`Controls`]). Errors if the policy names no EOS.
    pub fn target_ids(&self, prompt: &Prompt, completion: &str) -> Result<Vec<u32>> {
        let end = self.target_end()?;
        let mut ids = self.text_ids(Some(prompt), completion)?;
        ids.push(end);
        Ok(ids)
    }

    /// The token that ends a target. Errors if the policy names no EOS.
    pub fn target_end(&self) -> Result<u32> {
        self.end_token_id.ok_or_else(|| {
            Error::input("policy names no EOS token").hint("set `eos_token_id` in `generation_config.json`")
        })
    }

    /// Whether a target's ids depend on the prompt it stands behind.
    pub fn targets_need_prompts(&self) -> Result<bool> {
        self.tokenizer.puts_a_space()
    }

    /// Ids of a target text without the end token. The prompt must be given where [`Policy::targets_need_prompts`].
    pub fn text_ids(&self, prompt: Option<&Prompt>, completion: &str) -> Result<Vec<u32>> {
        let marked = self.controls.mark(completion);
        match (self.tokenizer.puts_a_space()?, prompt) {
            (false, _) => self.controls.encode(&self.tokenizer, &marked),
            (true, Some(prompt)) => self.behind(prompt, &marked),
            (true, None) => Err(Error::internal("a target of this tokenizer needs its prompt")),
        }
    }

    /// Ids of a text as they are behind a prompt, for tokenizers that put a space in front of what they are given.
    fn behind(&self, prompt: &Prompt, marked: &str) -> Result<Vec<u32>> {
        let encode = |text: &str| self.controls.encode(&self.tokenizer, text);
        if let Some(ids) = encode(&[&prompt.marked, marked].concat())?.strip_prefix(prompt.ids.as_slice()) {
            return Ok(ids.to_vec());
        }
        // Prompt and text share a token: as behind a line break.
        let (line, both) = (encode("\n")?, encode(&["\n", marked].concat())?);
        Ok(both.strip_prefix(line.as_slice()).unwrap_or(&both).to_vec())
    }

    /// The transformer over tensors: differentiable ops, any device.
    pub fn transformer(&self, dtype: DType, device: &Device) -> Result<Transformer> {
        let tensors = self.checkpoint()?.tensors(&self.config, dtype, device)?;
        Transformer::from_tensors(&self.config, tensors, dtype, device)
    }

    /// The transformer for sampling and scoring on the CPU.
    pub fn runner(&self) -> Result<Runner> {
        self.runner_on(&Device::Cpu, Held::default())
    }

    /// The same on any device.
    pub fn runner_on(&self, device: &Device, held: Held) -> Result<Runner> {
        Runner::from_checkpoint(&self.config, &self.checkpoint()?, device, held)
    }

    /// The checked weights, not yet converted.
    pub fn checkpoint(&self) -> Result<Checkpoint<'_>> {
        if let Some(gguf) = &self.gguf {
            return Checkpoint::of_gguf(&self.config, gguf, self.files.blob(GGUF, "")?);
        }
        let names = self.files.weight_files()?;
        let hint = "the index names it; copy or download the whole checkpoint";
        let shards: Result<Vec<Shard>> =
            names.iter().map(|name| Ok(Shard { name: name.clone(), blob: self.files.blob(name, hint)? })).collect();
        let index = if names.len() == 1 && names[0] == SINGLE { None } else { self.files.get(INDEX) };
        Checkpoint::open(&self.config, &shards?, index)
    }

    fn check_vocabulary(&self) -> Result<()> {
        let entries = self.tokenizer.vocab_size();
        if entries > self.config.vocab_size {
            return Err(Error::input(format!(
                "tokenizer has {entries} entries, the embedding only {} rows",
                self.config.vocab_size
            ))
            .at(TOKENIZER)
            .hint("the tokenizer and the weights must come from the same checkpoint"));
        }
        Ok(())
    }
}

fn eos_token_ids(files: &PolicyFiles, config: &Config, named: Option<u32>) -> Result<Vec<u32>> {
    if let Some(bytes) = files.get(GENERATION) {
        let value: Value =
            serde_json::from_slice(bytes).map_err(|e| Error::input("not valid JSON").at(GENERATION).source(e))?;
        let ids = config::token_ids(value.get("eos_token_id"))
            .ok_or_else(|| Error::input("`eos_token_id` is not a token id or a list of them").at(GENERATION))?;
        if !ids.is_empty() {
            return Ok(ids);
        }
    }
    if !config.eos_token_ids.is_empty() {
        return Ok(config.eos_token_ids.clone());
    }
    Ok(named.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::{space_tokenizer, tiny_policy_files};

    fn without(name: &str) -> String {
        let mut files = tiny_policy_files(1);
        files.remove(name);
        Policy::from_files(files)
            .and_then(|p| p.runner().and(p.prompt_ids("hi")))
            .err()
            .map(|e| e.to_string())
            .unwrap_or_default()
    }

    #[test]
    fn missing_files_are_named() {
        assert!(without("config.json").contains("`config.json`"));
        assert!(without("tokenizer.json").contains("`tokenizer.json`"));
        assert!(without("model.safetensors").contains("`model.safetensors`"));
        assert!(without("tokenizer_config.json").contains("no chat template"));
        assert_eq!(without("generation_config.json"), "");
    }

    #[test]
    fn prompt_and_target() {
        let policy = Policy::from_files(tiny_policy_files(1)).unwrap();
        let prompt = policy.prompt(&Conversation::user("2+2?")).unwrap();
        assert_eq!(prompt.text(), "<|user|>2+2?<|end|><|assistant|>");
        assert_eq!(policy.tokenizer().decode(&prompt.ids, false).unwrap(), prompt.text());
        let target = policy.target_ids(&prompt, "4").unwrap();
        assert_eq!(policy.tokenizer().decode(&target, false).unwrap(), "4<|end|>");
        assert_eq!(policy.eos_token_ids(), [policy.end_token_id().unwrap(), 0]);
        assert_eq!(policy.files().relevant().unwrap().last().unwrap(), "model.safetensors");
    }

    /// Ids of a target are those that transformers gives the whole text behind its prompt, here with tokenizers that put a space
    /// in front of what they are given (transformers 5.24).
    #[test]
    fn targets_begin_as_in_the_whole_text() {
        let tokens = |scheme: &str, answer_mark: &str, completion: &str| {
            let mut files = tiny_policy_files(1);
            let template =
                format!("{{% for m in messages %}}<|user|>{{{{ m.content }}}}<|end|>{{% endfor %}}{answer_mark}");
            let config = serde_json::json!({"eos_token": "<|end|>", "chat_template": template});
            files.insert("tokenizer.json", space_tokenizer(scheme));
            files.insert("tokenizer_config.json", config.to_string());
            let policy = Policy::from_files(files).unwrap();
            let prompt = policy.prompt(&Conversation::user("say?")).unwrap();
            let ids = policy.target_ids(&prompt, completion).unwrap();
            let names: Vec<String> = ids.iter().map(|id| policy.tokenizer().token(*id).unwrap()).collect();
            names.join(" ")
        };
        for scheme in ["always", "first", "never"] {
            assert_eq!(tokens(scheme, "<|assistant|>\\n", "We say"), "We ▁say <|end|>", "{scheme}");
            assert_eq!(tokens(scheme, "a:", "\nWe"), "\n We <|end|>", "{scheme}");
            assert_eq!(tokens(scheme, "a:", " We"), "▁We <|end|>", "{scheme}");
        }
        assert_eq!(
            tokens("always", "<|assistant|>", "We say"),
            "▁We ▁say <|end|>",
            "a space behind every special token"
        );
        assert_eq!(tokens("first", "<|assistant|>", "We say"), "We ▁say <|end|>");
        assert_eq!(tokens("first", "a:", "We<|end|>"), "We < | e n d | > <|end|>", "spelled, it ends nothing");
    }

    #[test]
    fn control_tokens_in_questions_and_targets_are_letters() {
        let policy = Policy::from_files(tiny_policy_files(1)).unwrap();
        let question = "a<|end|><|assistant|>b";
        let prompt = policy.prompt(&Conversation::user(question)).unwrap();
        assert_eq!(prompt.text(), format!("<|user|>{question}<|end|><|assistant|>"));
        assert_eq!(policy.tokenizer().decode(&prompt.ids, false).unwrap(), prompt.text());
        let special = |ids: &[u32]| ids.iter().filter(|id| policy.tokenizer().is_special(**id)).count();
        assert_eq!(special(&prompt.ids), 3, "the template's own");
        let target = policy.target_ids(&prompt, "x<|end|>y").unwrap();
        assert_eq!((special(&target), target.len()), (1, 10), "the end alone");
    }

    #[test]
    fn whole_conversations() {
        let policy = Policy::from_files(tiny_policy_files(1)).unwrap();
        let shown = Conversation {
            messages: ["system", "user"].map(|role| Message::new(role, "x")).to_vec(),
            prefill: "So".into(),
            ..Conversation::default()
        };
        let prompt = policy.prompt(&shown).unwrap();
        assert_eq!(prompt.text(), "<|system|>x<|end|><|user|>x<|end|><|assistant|>So");
        let whole = policy.dialogue_ids(&shown, " it is.").unwrap();
        let ours = [prompt.ids.clone(), policy.target_ids(&prompt, " it is.").unwrap()].concat();
        assert_eq!(whole, ours);
    }

    #[test]
    fn special_tokens_may_have_a_file_of_their_own() {
        let mut files = tiny_policy_files(1);
        let config =
            serde_json::json!({"eos_token": "<|end|>", "chat_template": "{{ bos_token }}{{ messages[0].content }}"});
        files.insert("tokenizer_config.json", config.to_string());
        let prompt = |files: &PolicyFiles| Policy::from_files(files.clone()).unwrap().prompt_ids("x").unwrap();
        assert_eq!(prompt(&files).len(), 1);
        files.insert("special_tokens_map.json", br#"{"bos_token": {"content": "<|user|>"}}"#);
        assert_eq!(prompt(&files)[..1], [1]);
        assert_eq!(prompt(&files).len(), 2);
    }

    #[test]
    fn a_template_without_system_turns_says_so() {
        let mut files = tiny_policy_files(1);
        let template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turns') }}{% endif %}";
        let config = serde_json::json!({"eos_token": "<|end|>", "chat_template": template});
        files.insert("tokenizer_config.json", config.to_string());
        let shown = Conversation { messages: vec![Message::new("system", "x")], ..Conversation::default() };
        let error = Policy::from_files(files).unwrap().prompt(&shown).err().unwrap();
        assert!(error.what().contains("no system turns"), "{error}");
        assert!(error.remedy().is_some_and(|hint| hint.contains("the user's turn")), "{error}");
    }

    #[test]
    fn eos_precedence() {
        let mut files = tiny_policy_files(1);
        files.insert("generation_config.json", b"{\"eos_token_id\": [7, 9]}");
        assert_eq!(Policy::from_files(files.clone()).unwrap().eos_token_ids(), [7, 9]);
        files.insert("generation_config.json", b"{}");
        assert_eq!(Policy::from_files(files.clone()).unwrap().eos_token_ids(), [2]);
        files.insert("generation_config.json", b"{\"eos_token_id\": \"x\"}");
        assert!(Policy::from_files(files).is_err());
    }

    #[test]
    fn files_of_a_folder() {
        assert!(PolicyFiles::wants("model-00001-of-00002.safetensors") && PolicyFiles::wants("tokenizer.json"));
        assert!(!PolicyFiles::wants("optimizer.safetensors") && !PolicyFiles::wants("README.md"));
    }
}
