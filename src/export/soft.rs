//! A teacher's distributions beside the tokens, for trainings that ask no teacher: axolotl's plugin for distillation.

use super::tokens::{Tokens, batch, list};
use super::{Lineage, lines};
use arrow::datatypes::{DataType, Field, FieldRef};
use bytes::Bytes;
use mindgap_base::error::{Error, Result};
use mindgap_store::fs::File;
use mindgap_store::parquet::{Footer, Foreign};
use mindgap_store::table::soft::Soft;
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;

/// A text that a teacher scored, and the prompt that the student is shown.
#[derive(Clone, Copy, Debug)]
pub struct Taught<'a> {
    pub prompt_ids: &'a [u32],
    pub soft: &'a Soft,
}

/// The rows of [`super::Format::AxolotlKd`], laid out.
#[derive(Clone, Debug, Default)]
pub struct Distilled {
    /// The table.
    pub(super) table: Bytes,
    /// Where each row came from, as JSON lines.
    pub(super) origins: String,
    pub(super) rows: usize,
}

/// Entry `i` of a target column is the distribution in the place of token `i + 1`, as the trainer's logits are; it is empty where
/// that token is no target, which the collator fills and masks.
#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    tokens: Tokens,
    target_token_ids: Vec<Vec<u32>>,
    target_logprobs: Vec<Vec<f32>>,
    target_mask: Vec<Vec<i8>>,
}

/// The columns that axolotl's collator takes. Log-probs are those of the k tokens alone: they sum to one, as its loss expects.
fn fields() -> Vec<FieldRef> {
    let nested = |name: &str, item: DataType| list(name, DataType::List(Arc::new(Field::new("item", item, false))));
    let mut fields = Tokens::fields();
    fields.push(nested("target_token_ids", DataType::Int64));
    fields.push(nested("target_logprobs", DataType::Float32));
    fields.push(nested("target_mask", DataType::Int8));
    fields
}

/// Likeliest tokens, over all places, of a row group: some 50 MB while they are laid out.
const GROUP_ENTRIES: usize = 1 << 21;

/// Lays texts out as they come: written ones are not held, as there can be more than memory holds.
pub struct Distiller<'a> {
    folder: &'a Path,
    lineage: &'a Lineage<'a>,
    file: Option<Foreign<File>>,
    waiting: Vec<Row>,
    waiting_entries: usize,
    made: Distilled,
}

impl<'a> Distiller<'a> {
    /// Rows wait in a file without a name in `folder`, which is made with the first of them.
    pub fn new(folder: &'a Path, lineage: &'a Lineage<'a>) -> Distiller<'a> {
        Distiller { folder, lineage, file: None, waiting: Vec::new(), waiting_entries: 0, made: Distilled::default() }
    }

    /// Texts without a token are left out. Error where it is not known what the student is shown.
    pub fn add(&mut self, text: Taught) -> Result<()> {
        let Soft { problem_id, choice_index, token_ids, top_ids, .. } = text.soft;
        if token_ids.is_empty() {
            return Ok(());
        }
        self.waiting.push(row(&text)?);
        let origin = Numbered { row: self.made.rows, problem_id, choice_index: *choice_index };
        self.made.origins.push_str(&lines([origin]));
        self.made.rows += 1;
        self.waiting_entries += top_ids.len();
        if self.waiting_entries >= GROUP_ENTRIES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<()> {
        let batch = batch(&fields(), &self.waiting)?;
        self.waiting.clear();
        self.waiting_entries = 0;
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let Lineage { stage, fingerprint, .. } = *self.lineage;
                let footer = Footer { stage, fingerprint };
                self.file.insert(Foreign::nameless(self.folder, batch.schema(), &footer)?)
            }
        };
        file.write(&batch)
    }

    pub fn finish(mut self) -> Result<Distilled> {
        if !self.waiting.is_empty() {
            self.write()?;
        }
        if let Some(file) = self.file {
            self.made.table = file.bytes()?;
        }
        Ok(self.made)
    }
}

fn row(text: &Taught) -> Result<Row> {
    let Taught { prompt_ids, soft } = *text;
    if prompt_ids.is_empty() {
        return Err(Error::input("imported samples were drawn with a prompt that is not known")
            .at(format!("problem `{}`, sample {}", soft.problem_id, soft.choice_index))
            .hint("make targets of them with a rewrite stage, and a soft stage of those"));
    }
    let k = soft.k as usize;
    let tokens = Tokens::of(prompt_ids, &soft.token_ids);
    // Places that no target is behind: the prompt but for its last token, and the last token of all.
    let before = std::iter::repeat_n(None, prompt_ids.len() - 1);
    let places: Vec<Option<usize>> = before.chain((0..soft.token_ids.len()).map(Some)).chain([None]).collect();
    let of_place = |place: &Option<usize>| place.map(|token| token * k..(token + 1) * k).unwrap_or_default();
    Ok(Row {
        tokens,
        target_token_ids: places.iter().map(|place| soft.top_ids[of_place(place)].to_vec()).collect(),
        target_logprobs: places.iter().map(|place| normalised(&soft.top_logprobs[of_place(place)])).collect(),
        target_mask: places.iter().map(|place| vec![1; of_place(place).len()]).collect(),
    })
}

/// Log-probs of a distribution over these tokens alone.
fn normalised(logprobs: &[f32]) -> Vec<f32> {
    let total = logprobs.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln();
    logprobs.iter().map(|x| (f64::from(*x) - total) as f32).collect()
}

#[derive(Serialize)]
struct Numbered<'a> {
    row: usize,
    problem_id: &'a str,
    choice_index: u32,
}

#[cfg(test)]
mod tests {
    use super::super::testing::{lineage, text};
    use super::super::{Export, Format, Options, Rows, export};
    use super::*;
    use mindgap_store::parquet::decode_batches;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use serde_json::{Value, json};

    fn soft() -> Soft {
        Soft {
            problem_id: "0a".to_string(),
            choice_index: 1,
            prompt_token_count: 9,
            token_ids: vec![7, 1],
            logprob_teacher: vec![0.5f32.ln(), 0.25f32.ln()],
            k: 2,
            top_ids: vec![7, 8, 3, 1],
            top_logprobs: [0.5f32, 0.125, 0.5, 0.25].map(f32::ln).to_vec(),
            tail: vec![0.375, 0.25],
            engine: None,
            failure: None,
        }
    }

    fn written(prompt_ids: &[u32], rows: &[Soft]) -> Result<Export> {
        let (folder, lineage) = (tempfile::tempdir().unwrap(), lineage());
        let mut distiller = Distiller::new(folder.path(), &lineage);
        rows.iter().try_for_each(|soft| distiller.add(Taught { prompt_ids, soft }))?;
        export(Format::AxolotlKd, Rows::Soft(distiller.finish()?), &Options::default(), None, &lineage)
    }

    #[test]
    fn a_distribution_stands_where_the_token_before_its_own_does() {
        let silent = Soft {
            token_ids: vec![],
            logprob_teacher: vec![],
            top_ids: vec![],
            top_logprobs: vec![],
            tail: vec![],
            k: 0,
            ..soft()
        };
        let written = written(&[5, 6], &[soft(), silent]).unwrap();
        assert_eq!(written.rows, 1, "a text without tokens teaches nothing");
        let table = decode_batches(written.files[0].bytes.to_vec()).unwrap().remove(0);
        let mut rows: Vec<Value> = serde_arrow::from_record_batch(&table).unwrap();
        let row = rows.remove(0);
        for (column, golden) in [
            ("input_ids", json!([5, 6, 7, 1])),
            ("attention_mask", json!([1, 1, 1, 1])),
            ("labels", json!([-100, -100, 7, 1])),
            ("target_token_ids", json!([[], [7, 8], [3, 1], []])),
            ("target_mask", json!([[], [1, 1], [1, 1], []])),
        ] {
            assert_eq!(row[column], golden, "{column}");
        }
        let probability = |place: usize, nth: usize| row["target_logprobs"][place][nth].as_f64().unwrap().exp();
        for (place, golden) in [(1, [0.8, 0.2]), (2, [2.0 / 3.0, 1.0 / 3.0])] {
            assert!((0..2).all(|nth| (probability(place, nth) - golden[nth]).abs() < 1e-6), "{row}");
        }
        assert_eq!(text(&written.files[1]), "{\"row\":0,\"problem_id\":\"0a\",\"choice_index\":1}\n");
        let card = text(&written.files[2]);
        for word in ["1 rows, one for each text", "kd_normalize_topk: true", "train.parquet"] {
            assert!(card.contains(word), "{word}: {card}");
        }
    }

    /// What is full is written and let go; the rows are those that came, in order.
    #[test]
    fn long_tables_are_written_in_groups() {
        let long = |choice_index: u32| {
            let (count, k) = (GROUP_ENTRIES / 2048, 1024);
            Soft {
                choice_index,
                token_ids: vec![7; count],
                logprob_teacher: vec![0.0; count],
                k: k as u32,
                top_ids: vec![choice_index; count * k],
                top_logprobs: vec![0.0; count * k],
                tail: vec![0.0; count],
                ..soft()
            }
        };
        let written = written(&[5, 6], &[long(3), long(4), long(5)]).unwrap();
        let reader = SerializedFileReader::new(written.files[0].bytes.clone()).unwrap();
        let groups = reader.metadata().row_groups();
        assert_eq!(groups.iter().map(|group| group.num_rows()).collect::<Vec<_>>(), [2, 1]);
        for (row, line) in text(&written.files[1]).lines().enumerate() {
            assert_eq!(line, format!("{{\"row\":{row},\"problem_id\":\"0a\",\"choice_index\":{}}}", row + 3));
        }
        let tables = decode_batches(written.files[0].bytes.to_vec()).unwrap();
        let rows: Vec<Value> =
            tables.iter().flat_map(|table| serde_arrow::from_record_batch::<Vec<Value>>(table).unwrap()).collect();
        let first = |row: &Value| row["target_token_ids"][1][0].as_u64().unwrap();
        assert_eq!(rows.iter().map(first).collect::<Vec<_>>(), [3, 4, 5]);
    }

    #[test]
    fn a_prompt_must_be_known() {
        let error = written(&[], &[soft()]).unwrap_err();
        assert!(error.what().contains("a prompt that is not known"), "{error}");
    }
}
