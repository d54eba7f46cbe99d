//! JSON lines of conversations: TRL, axolotl, ms-swift, OpenRLHF, LLaMA-Factory.

use super::{Lineage, Origin, Target, lines};
use mindgap_lm::model::chat::Message;
use mindgap_store::table::rewrites::Source;
use serde::Serialize;
use serde_json::json;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// One turn of a conversation.
#[derive(Serialize)]
pub(super) struct Turn<'a> {
    pub role: &'a str,
    pub content: Cow<'a, str>,
    /// ms-swift: what multiplies the loss of this turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f32>,
}

impl<'a> Turn<'a> {
    pub fn assistant(content: Cow<'a, str>) -> Turn<'a> {
        Turn { role: "assistant", content, loss_scale: None }
    }

    pub fn of(message: &'a Message) -> Turn<'a> {
        Turn { role: &message.role, content: Cow::Borrowed(&message.content), loss_scale: None }
    }

    /// The turns in front of a target.
    pub fn before(target: &Target<'a>) -> Vec<Turn<'a>> {
        target.shown.messages.iter().map(Turn::of).collect()
    }

    /// The turns with the target.
    pub fn all(target: &Target<'a>) -> Vec<Turn<'a>> {
        let mut turns = Turn::before(target);
        turns.push(Turn::assistant(target.answer(&target.rewrite.completion)));
        turns
    }
}

type Kwargs<'a> = Option<&'a serde_json::Map<String, serde_json::Value>>;

#[derive(Serialize)]
struct PromptCompletion<'a> {
    prompt: Vec<Turn<'a>>,
    completion: [Turn<'a>; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    chat_template_kwargs: Kwargs<'a>,
    #[serde(flatten)]
    origin: Origin<'a>,
}

/// TRL's conversational prompt-completion: loss on the completion alone by default.
pub fn trl(targets: &[Target]) -> String {
    lines(targets.iter().map(|target| PromptCompletion {
        prompt: Turn::before(target),
        completion: [Turn::assistant(target.answer(&target.rewrite.completion))],
        chat_template_kwargs: target.kwargs(),
        origin: Origin::of(target),
    }))
}

#[derive(Serialize)]
struct Messages<'a> {
    messages: Vec<Turn<'a>>,
    #[serde(flatten)]
    origin: Origin<'a>,
}

impl<'a> Messages<'a> {
    fn of(target: &Target<'a>, loss_scale: Option<f32>) -> Messages<'a> {
        let mut messages = Turn::all(target);
        if let Some(answer) = messages.last_mut() {
            answer.loss_scale = loss_scale;
        }
        Messages { messages, origin: Origin::of(target) }
    }
}

/// axolotl's `type: chat_template`.
pub fn axolotl(targets: &[Target]) -> String {
    lines(targets.iter().map(|target| Messages::of(target, None)))
}

/// The targets that count. ms-swift scales the answer and leaves the end-of-sequence token its weight of 1, so that a row of
/// weight 0 would still train that.
pub fn weighted<'a>(targets: &[Target<'a>], weights: &BTreeMap<Source, f32>) -> Vec<Target<'a>> {
    let counts = |target: &&Target| weights.get(&target.rewrite.source).is_none_or(|weight| *weight > 0.0);
    targets.iter().filter(counts).copied().collect()
}

/// ms-swift's standard layout; a source's weight becomes `loss_scale` of the answer.
pub fn swift(targets: &[Target], weights: &BTreeMap<Source, f32>) -> String {
    lines(targets.iter().map(|target| Messages::of(target, weights.get(&target.rewrite.source).copied())))
}

#[derive(Serialize)]
struct InputOutput<'a> {
    input: Side<'a>,
    output: Side<'a>,
    #[serde(flatten)]
    origin: Origin<'a>,
}

/// OpenRLHF takes the user's turn and the answer as texts, or any other conversation and the answer as messages: both sides alike.
#[derive(Serialize)]
#[serde(untagged)]
enum Side<'a> {
    Text(Cow<'a, str>),
    Messages(Vec<Turn<'a>>),
}

/// OpenRLHF, with its keys given as `input` and `output`.
pub fn openrlhf(targets: &[Target]) -> String {
    let texts = targets.iter().all(|target| target.shown.messages.len() == 1);
    lines(targets.iter().map(|target| {
        let answer = target.answer(&target.rewrite.completion);
        let (input, output) = match texts {
            true => (Side::Text(Cow::Borrowed(&target.rewrite.prompt)), Side::Text(answer)),
            false => (Side::Messages(Turn::before(target)), Side::Messages(vec![Turn::assistant(answer)])),
        };
        InputOutput { input, output, origin: Origin::of(target) }
    }))
}

#[derive(Serialize)]
struct Alpaca<'a> {
    instruction: &'a str,
    input: &'a str,
    output: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system: Option<&'a str>,
    /// Earlier turns: the user's, and the answer to it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    history: Vec<[&'a str; 2]>,
    #[serde(flatten)]
    origin: Origin<'a>,
}

impl<'a> Alpaca<'a> {
    fn of(target: &Target<'a>) -> Alpaca<'a> {
        let messages = &target.shown.messages[..];
        let (system, turns) = match messages {
            [first, turns @ ..] if first.role == "system" => (Some(first.content.as_str()), turns),
            turns => (None, turns),
        };
        let pairs = turns.chunks_exact(2).map(|pair| [pair[0].content.as_str(), pair[1].content.as_str()]);
        Alpaca {
            instruction: &target.rewrite.prompt,
            input: "",
            output: target.answer(&target.rewrite.completion),
            system,
            history: pairs.collect(),
            origin: Origin::of(target),
        }
    }
}

/// LLaMA-Factory's alpaca layout.
pub fn llamafactory(targets: &[Target]) -> String {
    lines(targets.iter().map(Alpaca::of))
}

/// The entry LLaMA-Factory finds the file by.
pub fn dataset_info(targets: &[Target], lineage: &Lineage) -> String {
    let mut columns = json!({"prompt": "instruction", "query": "input", "response": "output"});
    let rows: Vec<Alpaca> = targets.iter().map(Alpaca::of).collect();
    for (column, used) in [
        ("system", rows.iter().any(|row| row.system.is_some())),
        ("history", rows.iter().any(|row| !row.history.is_empty())),
    ] {
        if used {
            columns[column] = column.into();
        }
    }
    let entry = json!({"file_name": "train.jsonl", "formatting": "alpaca", "columns": columns});
    let info = json!({ lineage.dataset_name(): entry });
    serde_json::to_string_pretty(&info).expect("plain data") + "\n"
}

#[cfg(test)]
mod tests {
    use super::super::testing::{files_of, lineage, text, text_of};
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
    fn swift_leaves_out_rows_of_weight_0() {
        let options = |expert| Options { weights: BTreeMap::from([(Source::Expert, expert)]), ..Options::default() };
        let files = files_of(Format::Swift, &options(0.0), false).unwrap();
        let (rows, card) = (text(&files[0]), text(files.last().unwrap()));
        assert_eq!(rows.lines().count(), 1);
        assert!(rows.contains(r#""source":"self""#), "{rows}");
        assert!(card.contains("1 rows (1 self, 0 guided, 0 expert)"), "{card}");
        let flag = "--is_binary_loss_scale false";
        assert!(!card.contains(flag), "the rows that are left carry no weights: {card}");
        assert!(text(files_of(Format::Swift, &options(0.5), false).unwrap().last().unwrap()).contains(flag));
        assert!(!text(files_of(Format::Swift, &Options::default(), false).unwrap().last().unwrap()).contains(flag));
        let nothing =
            Options { weights: Source::ALL.iter().map(|source| (*source, 0.0)).collect(), ..Options::default() };
        let error = files_of(Format::Swift, &nothing, false).unwrap_err();
        assert_eq!(error.what(), "there is no row to export");
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
        assert_eq!(super::dataset_info(&[], &lineage()), golden);
    }

    /// The texts of an export of conversations with all there can be.
    fn whole(format: Format) -> Vec<String> {
        files_of(format, &Options::default(), true).unwrap().iter().map(text).collect()
    }

    #[test]
    fn whole_conversations() {
        let first = |format| whole(format)[0].lines().next().unwrap().to_string();
        let before = r#"{"role":"system","content":"Be brief."},{"role":"user","content":"0?"},{"role":"assistant","content":"0."},{"role":"user","content":"1 + \"1\"?"}"#;
        let answer = r#"{"role":"assistant","content":"So: It is \\boxed{2}."}"#;
        let origin = r#""problem_id":"0a","choice_index":0,"source":"self"}"#;
        let trl = format!(
            r#"{{"prompt":[{before}],"completion":[{answer}],"chat_template_kwargs":{{"enable_thinking":false}},{origin}"#
        );
        assert_eq!(first(Format::Trl), trl);
        assert_eq!(first(Format::Axolotl), format!(r#"{{"messages":[{before},{answer}],{origin}"#));
        assert_eq!(first(Format::Swift), first(Format::Axolotl));
        let openrlhf = format!(r#"{{"input":[{before}],"output":[{answer}],{origin}"#);
        assert_eq!(first(Format::OpenRlhf), openrlhf);
        let alpaca = format!(
            r#"{{"instruction":"1 + \"1\"?","input":"","output":"So: It is \\boxed{{2}}.","system":"Be brief.","history":[["0?","0."]],{origin}"#
        );
        assert_eq!(first(Format::LlamaFactory), alpaca);
        let info = &whole(Format::LlamaFactory)[1];
        assert!(info.contains(r#""system": "system""#) && info.contains(r#""history": "history""#), "{info}");
        let pair = format!(
            r#"{{"prompt":[{before}],"chosen":[{answer}],"rejected":[{}],"chat_template_kwargs":{{"enable_thinking":false}},{origin}"#,
            answer.replace("{2}", "{3}")
        );
        assert_eq!(first(Format::Preference), pair);
        let card = whole(Format::Trl).pop().unwrap();
        for word in ["`enable_thinking`", "prefill", "4 turns"] {
            assert!(card.contains(word), "{word}: {card}");
        }
        for (format, told) in [
            (Format::LlamaFactory, "`mask_history: true`"),
            (Format::Swift, "`--loss_scale last_round`"),
            (Format::Axolotl, "earlier turns too; `--format pretokenized`"),
        ] {
            assert!(whole(format).pop().unwrap().contains(told), "{told}");
        }
        assert!(!card.contains("earlier turns"), "who trains on completions alone need not be told: {card}");
    }
}
