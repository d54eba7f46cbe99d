//! verl: Parquet with nested messages. The layouts of its current trainers, and that of the paper's fork.

use super::messages::Turn;
use super::{Origin, Prompt, Target};
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use mindgap_base::error::{Error, Result};
use mindgap_store::table::problems::Problem;
use serde::Serialize;
use std::borrow::Cow;
use std::sync::Arc;

#[derive(Serialize)]
struct Current<'a> {
    messages: Vec<Turn<'a>>,
    /// A switch of thinking models that verl reads by row; its column is there where the chat template is told.
    enable_thinking: Option<bool>,
    data_source: &'a str,
    extra_info: Origin<'a>,
}

/// `messages`, as the engine's SFT trainer reads them.
pub fn current(targets: &[Target]) -> Result<RecordBatch> {
    let extra = [text("problem_id"), field("choice_index", DataType::UInt32), text("source")];
    let rows: Vec<Current> = targets.iter().map(current_row).collect();
    let mut fields = vec![turns("messages"), text("data_source"), record("extra_info", extra)];
    if rows.iter().any(|row| row.enable_thinking.is_some()) {
        fields.insert(1, Arc::new(Field::new("enable_thinking", DataType::Boolean, true)));
    }
    batch(&fields, &rows)
}

fn current_row<'a>(target: &Target<'a>) -> Current<'a> {
    let Target { problem, shown, .. } = *target;
    let enable_thinking = shown.template_kwargs.get("enable_thinking").and_then(serde_json::Value::as_bool);
    Current {
        messages: Turn::all(target),
        enable_thinking,
        data_source: &problem.source,
        extra_info: Origin::of(target),
    }
}

/// What reinforcement learning reads.
#[derive(Serialize)]
struct Prompted<'a, E> {
    data_source: &'a str,
    prompt: Vec<Turn<'a>>,
    ability: &'static str,
    reward_model: RewardModel<'a>,
    extra_info: E,
}

impl<'a, E> Prompted<'a, E> {
    fn of(problem: &'a Problem, prompt: Vec<Turn<'a>>, extra_info: E) -> Prompted<'a, E> {
        let reward_model = RewardModel { style: "rule", ground_truth: &problem.answer };
        Prompted { data_source: &problem.source, prompt, ability: "math", reward_model, extra_info }
    }

    fn fields<const N: usize>(extra: [FieldRef; N]) -> [FieldRef; 5] {
        [
            text("data_source"),
            turns("prompt"),
            text("ability"),
            record("reward_model", [text("style"), text("ground_truth")]),
            record("extra_info", extra),
        ]
    }
}

#[derive(Serialize)]
struct RewardModel<'a> {
    style: &'static str,
    ground_truth: &'a str,
}

#[derive(Serialize)]
struct ExtraInfo<'a> {
    split: &'static str,
    index: i64,
    answer: Cow<'a, str>,
    question: &'a str,
    problem_id: &'a str,
    source: &'a str,
}

/// The single-turn layout of the paper's scripts: trained on are `extra_info.question` and `extra_info.answer`.
pub fn paper(targets: &[Target]) -> Result<RecordBatch> {
    if targets.iter().any(|target| target.shown.messages.len() > 1) {
        let error = Error::usage("`verl-paper` has no place for a system turn or earlier turns");
        return Err(error.hint("`--format verl` has"));
    }
    let extra = [
        text("split"),
        field("index", DataType::Int64),
        text("answer"),
        text("question"),
        text("problem_id"),
        text("source"),
    ];
    let rows: Vec<Prompted<ExtraInfo>> = targets.iter().enumerate().map(paper_row).collect();
    batch(&Prompted::<ExtraInfo>::fields(extra), &rows)
}

fn paper_row<'a>((index, target): (usize, &Target<'a>)) -> Prompted<'a, ExtraInfo<'a>> {
    let Target { rewrite, problem, .. } = *target;
    let extra_info = ExtraInfo {
        split: "train",
        index: index as i64,
        answer: target.answer(&rewrite.completion),
        question: &rewrite.prompt,
        problem_id: &rewrite.problem_id,
        source: rewrite.source.as_str(),
    };
    Prompted::of(problem, Turn::before(target), extra_info)
}

#[derive(Serialize)]
struct Numbered<'a> {
    split: &'static str,
    index: i64,
    problem_id: &'a str,
}

/// Problems for reinforcement learning.
pub fn grpo(prompts: &[Prompt]) -> Result<RecordBatch> {
    let rows: Vec<Prompted<Numbered>> = prompts.iter().enumerate().map(grpo_row).collect();
    let extra = [text("split"), field("index", DataType::Int64), text("problem_id")];
    batch(&Prompted::<Numbered>::fields(extra), &rows)
}

fn grpo_row<'a>((index, prompt): (usize, &Prompt<'a>)) -> Prompted<'a, Numbered<'a>> {
    let problem = prompt.problem;
    let extra_info = Numbered { split: "train", index: index as i64, problem_id: &problem.problem_id };
    Prompted::of(problem, prompt.turns(), extra_info)
}

fn field(name: &str, kind: DataType) -> FieldRef {
    Arc::new(Field::new(name, kind, false))
}

fn text(name: &str) -> FieldRef {
    field(name, DataType::Utf8)
}

fn record<const N: usize>(name: &str, fields: [FieldRef; N]) -> FieldRef {
    field(name, DataType::Struct(Fields::from(fields.to_vec())))
}

fn turns(name: &str) -> FieldRef {
    field(name, DataType::List(record("item", [text("role"), text("content")])))
}

fn batch<T: Serialize>(fields: &[FieldRef], rows: &[T]) -> Result<RecordBatch> {
    serde_arrow::to_record_batch(fields, &rows).map_err(|e| Error::internal("rows do not fit verl's layout").source(e))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{files_of, problems, shown, table_of};
    use super::super::{Format, Options, Prompt};
    use arrow::array::RecordBatch;
    use serde_json::{Value, json};

    fn rows(batch: &RecordBatch) -> Vec<Value> {
        serde_arrow::from_record_batch(batch).unwrap()
    }

    #[test]
    fn current() {
        let golden = json!({
            "messages": [{"role": "user", "content": "2 + 2?\nSay."},
                {"role": "assistant", "content": "Let k = 1. Therefore \\boxed{4}."}],
            "data_source": "world",
            "extra_info": {"problem_id": "0b", "choice_index": 0, "source": "expert"},
        });
        let rows = rows(&table_of(Format::Verl, false));
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[1], golden);
    }

    #[test]
    fn whole_conversations() {
        let row = &rows(&table_of(Format::Verl, true))[0];
        assert_eq!(row["enable_thinking"], false);
        assert_eq!(row["messages"].as_array().unwrap().len(), 5);
        assert_eq!(row["messages"][4]["content"], "So: It is \\boxed{2}.");
        let error = files_of(Format::VerlPaper, &Options::default(), true).unwrap_err();
        assert!(error.what().contains("no place for a system turn"), "{error}");
    }

    #[test]
    fn paper() {
        let golden = json!({
            "data_source": "world",
            "prompt": [{"role": "user", "content": "1 + \"1\"?"}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "2"},
            "extra_info": {"split": "train", "index": 0, "answer": "It is \\boxed{2}.", "question": "1 + \"1\"?",
                "problem_id": "0a", "source": "self"},
        });
        assert_eq!(rows(&table_of(Format::VerlPaper, false))[0], golden);
    }

    #[test]
    fn grpo() {
        let (problems, shown) = (problems(), shown(true));
        let prompt = Prompt { problem: &problems[1], shown: &shown[1], taught: None };
        let row = rows(&super::grpo(&[prompt]).unwrap()).remove(0);
        assert_eq!(row["prompt"].as_array().unwrap().len(), 4);
        assert_eq!(row["prompt"][3], json!({"role": "user", "content": "2 + 2?\nSay."}));
        assert_eq!(row["reward_model"], json!({"style": "rule", "ground_truth": "4"}));
        assert_eq!(row["extra_info"], json!({"split": "train", "index": 0, "problem_id": "0b"}));
        assert_eq!((&row["data_source"], &row["ability"]), (&json!("world"), &json!("math")));
    }
}
