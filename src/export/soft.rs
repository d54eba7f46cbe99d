//! A teacher's distributions beside the tokens, for trainings that ask no teacher: axolotl's plugin for distillation.

use super::lines;
use super::tokens::{Tokens, batch, list};
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field};
use mindgap_base::error::{Error, Result};
use mindgap_store::table::soft::Soft;
use serde::Serialize;
use std::sync::Arc;

/// A text that a teacher scored, and the prompt that the student is shown.
#[derive(Clone, Copy, Debug)]
pub struct Taught<'a> {
    pub prompt_ids: &'a [u32],
    pub soft: &'a Soft,
}

/// Entry `i` of a target column is the distribution in the place of token `i + 1`, as the trainer's logits are; it is empty where
/// that token is no target, which the collator fills and masks.
#[derive(Serialize)]
struct Distilled {
    #[serde(flatten)]
    tokens: Tokens,
    target_token_ids: Vec<Vec<u32>>,
    target_logprobs: Vec<Vec<f32>>,
    target_mask: Vec<Vec<i8>>,
}

/// The columns that axolotl's collator takes. Log-probs are those of the k tokens alone: they sum to one, as its loss expects.
/// Errors where it is not known what the student is shown.
pub fn distilled(texts: &[Taught]) -> Result<RecordBatch> {
    let rows: Vec<Distilled> = texts.iter().map(row).collect::<Result<_>>()?;
    let nested = |name: &str, item: DataType| list(name, DataType::List(Arc::new(Field::new("item", item, false))));
    let mut fields = Tokens::fields();
    fields.push(nested("target_token_ids", DataType::Int64));
    fields.push(nested("target_logprobs", DataType::Float32));
    fields.push(nested("target_mask", DataType::Int8));
    batch(&fields, &rows)
}

fn row(text: &Taught) -> Result<Distilled> {
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
    Ok(Distilled {
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

/// Where each row came from.
pub fn origins(texts: &[Taught]) -> String {
    lines(texts.iter().enumerate().map(|(row, text)| {
        let Soft { problem_id, choice_index, .. } = text.soft;
        Numbered { row, problem_id, choice_index: *choice_index }
    }))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{lineage, text};
    use super::super::{Export, Format, Options, Rows, export};
    use super::*;
    use mindgap_store::parquet::decode_batches;
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
        let texts = rows.iter().map(|soft| Taught { prompt_ids, soft }).collect();
        export(Format::AxolotlKd, Rows::Soft(texts), &Options::default(), None, &lineage())
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
        let table = decode_batches(written.files[0].bytes.clone()).unwrap().remove(0);
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

    #[test]
    fn a_prompt_must_be_known() {
        let error = written(&[], &[soft()]).unwrap_err();
        assert!(error.what().contains("a prompt that is not known"), "{error}");
    }
}
