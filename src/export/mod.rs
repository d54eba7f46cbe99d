//! Training targets, prompts and a teacher's distributions in the layouts other trainers read. Values in, file contents out:
//! reading and writing are elsewhere, but that distributions, which can be more than memory holds, wait in a file.
//!
//! Text layouts leave the chat template and the end-of-sequence token to the trainer; only `pretokenized` carries the very
//! tokens.

mod card;
mod drift;
mod messages;
mod preference;
mod prompts;
mod soft;
mod tokens;
mod verl;

pub use card::Lineage;
pub use drift::Drift;
pub use preference::Rejected;
pub use prompts::Prompt;
pub use soft::{Distilled, Distiller, Taught};
pub use tokens::IGNORED;

use arrow::array::RecordBatch;
use bytes::Bytes;
use clap::ValueEnum;
use mindgap_base::address::Address;
use mindgap_base::error::{Error, Result};
use mindgap_lm::model::chat::Conversation;
use mindgap_store::parquet::{Footer, encode_foreign};
use mindgap_store::table::problems::Problem;
use mindgap_store::table::rewrites::{Rewrite, Source};
use serde::Serialize;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// A layout some trainer reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// TRL: prompt and completion as conversations
    Trl,
    /// verl: one conversation per row
    Verl,
    /// verl as the paper's code reads it, single turn
    VerlPaper,
    /// LLaMA-Factory: instruction, input and output
    #[value(name = "llamafactory")]
    LlamaFactory,
    /// axolotl: conversations
    Axolotl,
    /// ms-swift: conversations, with row weights
    Swift,
    /// OpenRLHF: input and output
    #[value(name = "openrlhf")]
    OpenRlhf,
    /// The very tokens, for any trainer that takes them
    Pretokenized,
    /// Pairs of a target and a worse answer
    Preference,
    /// TRL's SDFT: a prompt, and what the teacher is shown besides
    TrlSdft,
    /// TRL's GRPO: a prompt and the answer
    TrlGrpo,
    /// verl's GRPO: a prompt and the answer
    VerlGrpo,
    /// ms-swift's OPSD: a prompt, the teacher's prompt and the answer
    SwiftOpsd,
    /// ms-swift's GRPO: a prompt and the answer
    SwiftGrpo,
    /// axolotl's distillation: the very tokens, and the teacher's likeliest in the place of each
    AxolotlKd,
}

/// What the rows of a layout are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// What a rewrite stage chose.
    Targets,
    /// What the policy is shown for each problem, by a rewrite, rollout or soft stage.
    Prompts,
    /// What a soft stage's teacher said of each text.
    Soft,
}

impl Format {
    /// As it is written on the command line.
    pub fn name(self) -> String {
        let value = self.to_possible_value().expect("no format is hidden");
        value.get_name().to_string()
    }

    pub fn content(self) -> Content {
        match self {
            Format::TrlSdft | Format::TrlGrpo | Format::VerlGrpo | Format::SwiftOpsd | Format::SwiftGrpo => {
                Content::Prompts
            }
            Format::AxolotlKd => Content::Soft,
            _ => Content::Targets,
        }
    }

    /// All files of an export.
    pub fn files(self) -> impl Iterator<Item = &'static str> {
        [Some(self.file()), self.companion(), Some("README.md")].into_iter().flatten()
    }

    /// The file that lies beside the rows: what a trainer finds them by, or where they came from.
    fn companion(self) -> Option<&'static str> {
        match self {
            Format::LlamaFactory => Some("dataset_info.json"),
            Format::Pretokenized | Format::AxolotlKd => Some("rows.jsonl"),
            _ => None,
        }
    }

    /// The file of the rows.
    fn file(self) -> &'static str {
        match self {
            Format::Verl | Format::VerlPaper | Format::VerlGrpo | Format::Pretokenized | Format::AxolotlKd => {
                "train.parquet"
            }
            _ => "train.jsonl",
        }
    }
}

/// What an export is made of.
#[derive(Clone, Debug)]
pub enum Rows<'a> {
    Targets(Vec<Target<'a>>),
    Prompts(Vec<Prompt<'a>>),
    Soft(Distilled),
}

impl<'a> Rows<'a> {
    fn len(&self) -> usize {
        match self {
            Rows::Targets(targets) => targets.len(),
            Rows::Prompts(prompts) => prompts.len(),
            Rows::Soft(texts) => texts.rows,
        }
    }

    /// What the policy is shown, where the layout has it as messages.
    fn shown(&self) -> Vec<&'a Conversation> {
        match self {
            Rows::Targets(targets) => targets.iter().map(|target| target.shown).collect(),
            Rows::Prompts(prompts) => prompts.iter().map(|prompt| prompt.shown).collect(),
            Rows::Soft(_) => Vec::new(),
        }
    }

    /// Those that the layout takes.
    fn kept(self, format: Format, options: &Options) -> Result<Rows<'a>> {
        Ok(match self {
            Rows::Targets(targets) if format == Format::Preference => {
                Rows::Targets(preference::pairable(&targets, options.rejected))
            }
            Rows::Targets(targets) => Rows::Targets(messages::weighted(&targets, &options.weights)),
            Rows::Prompts(prompts) => Rows::Prompts(prompts::usable(format, &prompts)?),
            Rows::Soft(texts) => Rows::Soft(texts),
        })
    }
}

/// A training target, its problem, and a worse answer where the layout asks for one.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    pub rewrite: &'a Rewrite,
    pub problem: &'a Problem,
    /// What the policy is shown in front of the target.
    pub shown: &'a Conversation,
    /// The completion of an incorrect sample.
    pub incorrect: Option<&'a str>,
}

impl<'a> Target<'a> {
    /// The assistant's whole turn with a completion: behind the prefill, if there is one.
    fn answer(&self, completion: &'a str) -> Cow<'a, str> {
        match self.shown.prefill.as_str() {
            "" => Cow::Borrowed(completion),
            prefill => Cow::Owned([prefill, completion].concat()),
        }
    }

    /// Variables of the chat template, where some are set.
    fn kwargs(&self) -> Option<&'a serde_json::Map<String, serde_json::Value>> {
        Some(&self.shown.template_kwargs).filter(|kwargs| !kwargs.is_empty())
    }
}

/// What may be asked of an export.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Weight of a source's rows; 1 where nothing is said. Only `swift` can carry it; rows of weight 0 are left out.
    pub weights: BTreeMap<Source, f32>,
    /// What the rejected answer of `preference` is.
    pub rejected: Rejected,
}

/// A file to be written.
#[derive(Debug)]
pub struct File {
    pub name: &'static str,
    pub bytes: Bytes,
}

/// The files of one export: the rows first, what describes them last.
#[derive(Debug)]
pub struct Export {
    pub files: Vec<File>,
    /// Rows written: problems without a pair and rows of weight 0 are left out.
    pub rows: usize,
}

/// Lays the rows out, which are of the format's [`Content`]. `drift` is what becomes of their tokens elsewhere, where that is
/// known. Errors if there is nothing to write, or something the layout cannot carry.
pub fn export(
    format: Format,
    rows: Rows,
    options: &Options,
    drift: Option<&Drift>,
    lineage: &Lineage,
) -> Result<Export> {
    if !options.weights.is_empty() && format != Format::Swift {
        let error = Error::usage(format!("`{}` has no row weights", format.name()));
        return Err(error.hint("`--weight` is for `--format swift`, which carries it as `loss_scale`"));
    }
    let kept = rows.kept(format, options)?;
    if kept.len() == 0 {
        return Err(Error::input("there is no row to export").at(format!("stage `{}`", lineage.stage)));
    }
    let rows = encoded(format, &kept, options, lineage)?;
    let card = card::card(format, &kept, options, drift, lineage, &Address::of(&rows));
    let mut files = vec![File { name: format.file(), bytes: rows }];
    let beside = format.companion().zip(beside(format, &kept, lineage));
    files.extend(beside.map(|(name, text)| File { name, bytes: text.into() }));
    files.push(File { name: "README.md", bytes: card.into() });
    Ok(Export { files, rows: kept.len() })
}

/// The bytes of the rows' file.
fn encoded(format: Format, rows: &Rows, options: &Options, lineage: &Lineage) -> Result<Bytes> {
    let footer = Footer { stage: lineage.stage, fingerprint: lineage.fingerprint };
    let table = |batch: RecordBatch| encode_foreign(&batch, &footer).map(Bytes::from);
    use Rows::{Prompts, Soft, Targets};
    Ok(match (format, rows) {
        (Format::Trl, Targets(targets)) => messages::trl(targets).into(),
        (Format::Axolotl, Targets(targets)) => messages::axolotl(targets).into(),
        (Format::Swift, Targets(targets)) => messages::swift(targets, &options.weights).into(),
        (Format::OpenRlhf, Targets(targets)) => messages::openrlhf(targets).into(),
        (Format::LlamaFactory, Targets(targets)) => messages::llamafactory(targets).into(),
        (Format::Preference, Targets(targets)) => preference::pairs(targets, options.rejected).into(),
        (Format::Verl, Targets(targets)) => table(verl::current(targets)?)?,
        (Format::VerlPaper, Targets(targets)) => table(verl::paper(targets)?)?,
        (Format::Pretokenized, Targets(targets)) => table(tokens::pretokenized(targets)?)?,
        (Format::TrlSdft, Prompts(prompts)) => prompts::trl_sdft(prompts)?.into(),
        (Format::TrlGrpo, Prompts(prompts)) => prompts::trl_grpo(prompts).into(),
        (Format::SwiftOpsd, Prompts(prompts)) => prompts::swift_opsd(prompts)?.into(),
        (Format::SwiftGrpo, Prompts(prompts)) => prompts::swift_grpo(prompts).into(),
        (Format::VerlGrpo, Prompts(prompts)) => table(verl::grpo(prompts)?)?,
        (Format::AxolotlKd, Soft(texts)) => texts.table.clone(),
        _ => return Err(Error::internal(format!("`{}` is not made of these rows", format.name()))),
    })
}

/// What stands in the layout's companion.
fn beside(format: Format, rows: &Rows, lineage: &Lineage) -> Option<String> {
    match rows {
        Rows::Targets(targets) if format == Format::LlamaFactory => Some(messages::dataset_info(targets, lineage)),
        Rows::Targets(targets) if format == Format::Pretokenized => Some(tokens::origins(targets)),
        Rows::Soft(texts) => Some(texts.origins.clone()),
        _ => None,
    }
}

/// Which row of the store a row came from; extra columns that every reader of JSON lines here leaves alone.
#[derive(Serialize)]
struct Origin<'a> {
    problem_id: &'a str,
    choice_index: u32,
    source: Source,
}

impl<'a> Origin<'a> {
    fn of(target: &Target<'a>) -> Origin<'a> {
        let row = target.rewrite;
        Origin { problem_id: &row.problem_id, choice_index: row.choice_index, source: row.source }
    }
}

/// JSON lines.
fn lines<T: Serialize>(rows: impl IntoIterator<Item = T>) -> String {
    let line = |row: T| serde_json::to_string(&row).expect("rows are plain data") + "\n";
    rows.into_iter().map(line).collect()
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use mindgap_lm::model::chat::Message;
    use mindgap_store::parquet::decode_batches;

    pub fn problems() -> Vec<Problem> {
        let problem = |id: &str, question: &str, answer: &str| Problem {
            problem_id: id.into(),
            source: "world".into(),
            question: question.into(),
            solution: Some(format!("Let k = 1. Therefore \\boxed{{{answer}}}.")),
            answer: answer.into(),
            meta: None,
        };
        vec![problem("0a", "1 + \"1\"?", "2"), problem("0b", "2 + 2?\nSay.", "4")]
    }

    pub fn rewrites() -> Vec<Rewrite> {
        let rewrite = |id: &str, source: Source, prompt: &str, completion: &str, ids: [u32; 3]| Rewrite {
            problem_id: id.into(),
            choice_index: 0,
            source,
            prompt: prompt.into(),
            completion: completion.into(),
            prompt_ids: vec![5, 6],
            token_ids: ids.to_vec(),
            logprob_behavior: None,
            sample_index: None,
            round: 0,
            attempts: 2,
            conversation: None,
            stage_index: None,
            score: None,
        };
        vec![
            rewrite("0a", Source::SelfAligned, "1 + \"1\"?", "It is \\boxed{2}.", [7, 8, 1]),
            rewrite("0b", Source::Expert, "2 + 2?\nSay.", "Let k = 1. Therefore \\boxed{4}.", [9, 8, 1]),
        ]
    }

    /// What the policy is shown for both targets: the user's turn, or all there can be.
    pub fn shown(whole: bool) -> Vec<Conversation> {
        let plain = rewrites().into_iter().map(|rewrite| Conversation::user(rewrite.prompt));
        plain.map(|shown| if whole { around(shown) } else { shown }).collect()
    }

    fn around(shown: Conversation) -> Conversation {
        let before = [("system", "Be brief."), ("user", "0?"), ("assistant", "0.")];
        let before = before.map(|(role, content)| Message::new(role, content));
        let template_kwargs = serde_json::Map::from_iter([("enable_thinking".to_string(), false.into())]);
        Conversation { messages: [&before[..], &shown.messages].concat(), prefill: "So: ".to_string(), template_kwargs }
    }

    pub fn lineage() -> Lineage<'static> {
        Lineage { pipeline: "demo", stage: "rewrites", fingerprint: "f1", address: "b1", stale: &[] }
    }

    /// The files of an export of the two targets, with the conversations of [`shown`].
    pub fn files_of(format: Format, options: &Options, whole: bool) -> Result<Vec<File>> {
        let (problems, rewrites, shown) = (problems(), rewrites(), shown(whole));
        let incorrect = [Some("It is \\boxed{3}."), None];
        let targets: Vec<Target> = rewrites
            .iter()
            .zip(&problems)
            .zip(&shown)
            .zip(incorrect)
            .map(|(((rewrite, problem), shown), incorrect)| Target { rewrite, problem, shown, incorrect })
            .collect();
        Ok(export(format, Rows::Targets(targets), options, None, &lineage())?.files)
    }

    /// Nothing, of the kind that a layout is made of.
    pub fn nothing(format: Format) -> Rows<'static> {
        match format.content() {
            Content::Targets => Rows::Targets(Vec::new()),
            Content::Prompts => Rows::Prompts(Vec::new()),
            Content::Soft => Rows::Soft(Distilled::default()),
        }
    }

    pub fn text(file: &File) -> String {
        String::from_utf8(file.bytes.to_vec()).unwrap()
    }

    /// The rows' file as text.
    pub fn text_of(format: Format, options: &Options) -> String {
        text(&files_of(format, options, false).unwrap()[0])
    }

    /// The rows' file as a table.
    pub fn table_of(format: Format, whole: bool) -> RecordBatch {
        let file = files_of(format, &Options::default(), whole).unwrap().remove(0);
        decode_batches(file.bytes.to_vec()).unwrap().remove(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weighted(weights: [(Source, f32); 1]) -> Options {
        Options { weights: BTreeMap::from(weights), ..Options::default() }
    }

    #[test]
    fn weights_are_refused_where_they_would_be_lost() {
        let options = weighted([(Source::Expert, 0.5)]);
        let error = export(Format::Trl, testing::nothing(Format::Trl), &options, None, &testing::lineage());
        let error = error.unwrap_err();
        assert_eq!(error.what(), "`trl` has no row weights");
    }

    #[test]
    fn nothing_to_write_is_an_error() {
        for format in Format::value_variants() {
            let nothing = testing::nothing(*format);
            let error = export(*format, nothing, &Options::default(), None, &testing::lineage()).unwrap_err();
            assert_eq!(error.what(), "there is no row to export");
        }
    }

    /// Loaders keep what they read by the configuration's name: it must change with the rows, and with nothing else.
    #[test]
    fn the_card_names_its_configuration_by_the_rows() {
        let name = |format, options: &Options, whole| {
            let files = testing::files_of(format, options, whole).unwrap();
            let card = testing::text(files.last().unwrap());
            let name = card.lines().find_map(|line| line.strip_prefix("- config_name: ")).unwrap().to_string();
            assert_eq!(name, format!("rows-{}", Address::of(&files[0].bytes).short()));
            name
        };
        let plain = Options::default();
        for format in [Format::Trl, Format::Verl, Format::Swift, Format::Pretokenized] {
            assert_eq!(name(format, &plain, false), name(format, &plain, false), "{format:?}");
        }
        assert_ne!(name(Format::Trl, &plain, false), name(Format::Trl, &plain, true));
        assert_ne!(name(Format::Verl, &plain, false), name(Format::Verl, &plain, true));
        let expert = weighted([(Source::Expert, 0.5)]);
        assert_ne!(name(Format::Swift, &plain, false), name(Format::Swift, &expert, false));
    }
}
