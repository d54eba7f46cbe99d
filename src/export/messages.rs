//! JSON lines of conversations: TRL, axolotl, ms-swift, OpenRLHF, LLaMA-Factory.

use super::{Lineage, Origin, Target, lines};
use mindgap_store::table::rewrites::Source;
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;

/// One turn of a conversation.
#[derive(Serialize)]
pub(super) struct Turn<'a> {
    pub role: &'static str,
    pub content: &'a str,
    /// ms-swift: what multiplies the loss of this turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f32>,
}

impl<'a> Turn<'a> {
    pub fn user(content: &'a str) -> Turn<'a> {
        Turn { role: "user", content, loss_scale: None }
    }
    pub fn assistant(content: &'a str) -> Turn<'a> {
        Turn { role: "assistant", content, loss_scale: None }
    }
}

#[derive(Serialize)]
struct PromptCompletion<'a> {
    prompt: [Turn<'a>; 1],
    completion: [Turn<'a>; 1],
    #[serde(flatten)]
    origin: Origin<'a>,
}

/// TRL's conversational prompt-completion: loss on the completion alone by default.
pub fn trl(targets: &[Target]) -> String {
    lines(targets.iter().map(|target| PromptCompletion {
        prompt: [Turn::user(&target.rewrite.prompt)],
        completion: [Turn::assistant(&target.rewrite.completion)],
        origin: Origin::of(target),
    }))
}

#[derive(Serialize)]
struct Messages<'a> {
    messages: [Turn<'a>; 2],
    #[serde(flatten)]
    origin: Origin<'a>,
}

impl<'a> Messages<'a> {
    fn of(target: &Target<'a>, loss_scale: Option<f32>) -> Messages<'a> {
        let answer = Turn { loss_scale, ..Turn::assistant(&target.rewrite.completion) };
        Messages { messages: [Turn::user(&target.rewrite.prompt), answer], origin: Origin::of(target) }
    }
}

/// axolotl's `type: chat_template`.
pub fn axolotl(targets: &[Target]) -> String {
    lines(targets.iter().map(|target| Messages::of(target, None)))
}

/// ms-swift's standard layout; a source's weight becomes `loss_scale` of the answer.
pub fn swift(targets: &[Target], weights: &BTreeMap<Source, f32>) -> String {
    lines(targets.iter().map(|target| Messages::of(target, weights.get(&target.rewrite.source).copied())))
}

#[derive(Serialize)]
struct InputOutput<'a> {
    input: &'a str,
    output: &'a str,
    #[serde(flatten)]
    origin: Origin<'a>,
}

/// OpenRLHF, with its keys given as `input` and `output`.
pub fn openrlhf(targets: &[Target]) -> String {
    lines(targets.iter().map(|target| InputOutput {
        input: &target.rewrite.prompt,
        output: &target.rewrite.completion,
        origin: Origin::of(target),
    }))
}

#[derive(Serialize)]
struct Alpaca<'a> {
    instruction: &'a str,
    input: &'a str,
    output: &'a str,
    #[serde(flatten)]
    origin: Origin<'a>,
}

/// LLaMA-Factory's alpaca layout.
pub fn llamafactory(targets: &[Target]) -> String {
    lines(targets.iter().map(|target| Alpaca {
        instruction: &target.rewrite.prompt,
        input: "",
        output: &target.rewrite.completion,
        origin: Origin::of(target),
    }))
}

/// The entry LLaMA-Factory finds the file by.
pub fn dataset_info(lineage: &Lineage) -> String {
    let columns = json!({"prompt": "instruction", "query": "input", "response": "output"});
    let entry = json!({"file_name": "train.jsonl", "formatting": "alpaca", "columns": columns});
    let info = json!({ lineage.dataset_name(): entry });
    serde_json::to_string_pretty(&info).expect("plain data") + "\n"
}

#[cfg(test)]
mod tests {
    use super::super::testing::{lineage, text_of};
    use super::super::{Format, Options};
    use mindgap_store::table::rewrites::Source;
    use std::collections::BTreeMap;

    fn plain(format: Format) -> String {
        text_of(format, &Options::default())
    }

    #[test]
    fn trl() {
        let golden = r#"{"prompt":[{"role":"user","content":"1 + \"1\"?"}],"completion":[{"role":"assistant","content":"It is \\boxed{2}."}],"problem_id":"0a","choice_index":0,"source":"self"}
{"prompt":[{"role":"user","content":"2 + 2?\nSay."}],"completion":[{"role":"assistant","content":"Let k = 1. Therefore \\boxed{4}."}],"problem_id":"0b","choice_index":0,"source":"expert"}
"#;
        assert_eq!(plain(Format::Trl), golden);
    }

    #[test]
    fn axolotl() {
        let golden = r#"{"messages":[{"role":"user","content":"1 + \"1\"?"},{"role":"assistant","content":"It is \\boxed{2}."}],"problem_id":"0a","choice_index":0,"source":"self"}
{"messages":[{"role":"user","content":"2 + 2?\nSay."},{"role":"assistant","content":"Let k = 1. Therefore \\boxed{4}."}],"problem_id":"0b","choice_index":0,"source":"expert"}
"#;
        assert_eq!(plain(Format::Axolotl), golden);
        assert_eq!(plain(Format::Swift), golden, "without weights the layouts are the same");
    }

    #[test]
    fn swift_carries_the_weight_of_a_source() {
        let options = Options { weights: BTreeMap::from([(Source::Expert, 0.25)]), ..Options::default() };
        let text = text_of(Format::Swift, &options);
        let answers: Vec<&str> = text.lines().map(|line| line.split("assistant").nth(1).unwrap()).collect();
        let [own, expert] = answers[..] else { panic!("two rows") };
        let golden = r#"","content":"It is \\boxed{2}."}],"problem_id":"0a","choice_index":0,"source":"self"}"#;
        assert_eq!(own, golden);
        let golden = r#"","content":"Let k = 1. Therefore \\boxed{4}.","loss_scale":0.25}],"problem_id":"0b","choice_index":0,"source":"expert"}"#;
        assert_eq!(expert, golden);
    }

    #[test]
    fn openrlhf() {
        let golden = r#"{"input":"1 + \"1\"?","output":"It is \\boxed{2}.","problem_id":"0a","choice_index":0,"source":"self"}
{"input":"2 + 2?\nSay.","output":"Let k = 1. Therefore \\boxed{4}.","problem_id":"0b","choice_index":0,"source":"expert"}
"#;
        assert_eq!(plain(Format::OpenRlhf), golden);
    }

    #[test]
    fn llamafactory() {
        let golden = r#"{"instruction":"1 + \"1\"?","input":"","output":"It is \\boxed{2}.","problem_id":"0a","choice_index":0,"source":"self"}
{"instruction":"2 + 2?\nSay.","input":"","output":"Let k = 1. Therefore \\boxed{4}.","problem_id":"0b","choice_index":0,"source":"expert"}
"#;
        assert_eq!(plain(Format::LlamaFactory), golden);
        let golden = r#"{
  "demo-rewrites": {
    "file_name": "train.jsonl",
    "formatting": "alpaca",
    "columns": {
      "prompt": "instruction",
      "query": "input",
      "response": "output"
    }
  }
}
"#;
        assert_eq!(super::dataset_info(&lineage()), golden);
    }
}
