//! Training targets in the layouts other trainers read. Values in, file contents out: reading and writing are elsewhere.
//!
//! Text layouts leave the chat template and the end-of-sequence token to the trainer; only `pretokenized` carries the very
//! tokens.

mod card;
mod drift;
mod messages;
mod preference;
mod tokens;
mod verl;

pub use card::Lineage;
pub use drift::Drift;
pub use preference::Rejected;
pub use tokens::IGNORED;

use arrow::array::RecordBatch;
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
}

impl Format {
    /// As it is written on the command line.
    pub fn name(self) -> String {
        let value = self.to_possible_value().expect("no format is hidden");
        value.get_name().to_string()
    }

    /// The file of the rows.
    fn file(self) -> &'static str {
        match self {
            Format::Verl | Format::VerlPaper | Format::Pretokenized => "train.parquet",
            _ => "train.jsonl",
        }
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
    pub bytes: Vec<u8>,
}

/// The files of one export: the rows first, what describes them last.
#[derive(Debug)]
pub struct Export {
    pub files: Vec<File>,
    /// Rows written: problems without a pair and rows of weight 0 are left out.
    pub rows: usize,
}

/// Lays the targets out. `drift` is what becomes of their tokens elsewhere, where that is known. Errors if there is nothing to
/// write, or an option the layout cannot carry.
pub fn export(
    format: Format,
    targets: &[Target],
    options: &Options,
    drift: Option<&Drift>,
    lineage: &Lineage,
) -> Result<Export> {
    if !options.weights.is_empty() && format != Format::Swift {
        let error = Error::usage(format!("`{}` has no row weights", format.name()));
        return Err(error.hint("`--weight` is for `--format swift`, which carries it as `loss_scale`"));
    }
    let kept = match format {
        Format::Preference => preference::pairable(targets, options.rejected),
        _ => messages::weighted(targets, &options.weights),
    };
    if kept.is_empty() {
        return Err(Error::input("there is no row to export").at(format!("stage `{}`", lineage.stage)));
    }
    let rows = rows(format, &kept, options, lineage)?;
    let card = card::card(format, &kept, options, drift, lineage, &Address::of(&rows));
    let mut files = vec![File { name: format.file(), bytes: rows }];
    match format {
        Format::LlamaFactory => {
            files.push(File { name: "dataset_info.json", bytes: messages::dataset_info(&kept, lineage).into_bytes() })
        }
        Format::Pretokenized => files.push(File { name: "rows.jsonl", bytes: tokens::origins(&kept).into_bytes() }),
        _ => {}
    }
    files.push(File { name: "README.md", bytes: card.into_bytes() });
    Ok(Export { files, rows: kept.len() })
}

/// The bytes of the rows' file.
fn rows(format: Format, targets: &[Target], options: &Options, lineage: &Lineage) -> Result<Vec<u8>> {
    let table =
        |batch: RecordBatch| encode_foreign(&batch, &Footer { stage: lineage.stage, fingerprint: lineage.fingerprint });
    Ok(match format {
        Format::Trl => messages::trl(targets).into_bytes(),
        Format::Axolotl => messages::axolotl(targets).into_bytes(),
        Format::Swift => messages::swift(targets, &options.weights).into_bytes(),
        Format::OpenRlhf => messages::openrlhf(targets).into_bytes(),
        Format::LlamaFactory => messages::llamafactory(targets).into_bytes(),
        Format::Preference => preference::pairs(targets, options.rejected).into_bytes(),
        Format::Verl => table(verl::current(targets)?)?,
        Format::VerlPaper => table(verl::paper(targets)?)?,
        Format::Pretokenized => table(tokens::pretokenized(targets)?)?,
    })
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
fn lines<T: Serialize>(rows: impl Iterator<Item = T>) -> String {
    let line = |row: T| serde_json::to_string(&row).expect("rows are plain data") + "\n";
    rows.map(line).collect()
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
        Ok(export(format, &targets, options, None, &lineage())?.files)
    }

    pub fn text(file: &File) -> String {
        String::from_utf8(file.bytes.clone()).unwrap()
    }

    /// The rows' file as text.
    pub fn text_of(format: Format, options: &Options) -> String {
        text(&files_of(format, options, false).unwrap()[0])
    }

    /// The rows' file as a table.
    pub fn table_of(format: Format, whole: bool) -> RecordBatch {
        let file = files_of(format, &Options::default(), whole).unwrap().remove(0);
        decode_batches(file.bytes).unwrap().remove(0)
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
        let error = export(Format::Trl, &[], &options, None, &testing::lineage()).unwrap_err();
        assert_eq!(error.what(), "`trl` has no row weights");
    }

    #[test]
    fn nothing_to_write_is_an_error() {
        for format in Format::value_variants() {
            let error = export(*format, &[], &Options::default(), None, &testing::lineage()).unwrap_err();
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
