//! The problem tables: five training seeds, four tasks to learn one after the other, and six held-out benchmarks. And drafts of
//! somebody else's for a few problems.

use super::problem::{DOZEN, Kind, Problem};
use super::solution::{self, DEMONSTRATION, PolicyStyle};
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, FieldRef};
use mindgap_base::rng::{Cursor, Stream};
use mindgap_store::table::problems::Problem as Row;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use serde::Serialize;
use serde_json::json;
use std::collections::HashSet;
use std::sync::Arc;

pub const TRAIN_SEEDS: std::ops::Range<u64> = 0..5;
const TRAIN_PROBLEMS: usize = 512;
const TEST_PROBLEMS: usize = 128;
const TASK_PROBLEMS: usize = 256;
/// Tasks to learn one after the other, each of one family.
const TASKS: [Family; 4] = [Family::Facts, Family::Algebra, Family::Large, Family::Reword];
/// The benchmarks never change, whatever is trained on.
const TEST_SEED: u64 = 777;
/// Share of training problems with a number the policy does not know.
const FACTS_SHARE: f64 = 0.4;

/// The held-out benchmarks, in the order of the result tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Main,
    Long,
    Large,
    Reword,
    Algebra,
    Facts,
}

impl Family {
    pub const ALL: [Family; 6] =
        [Family::Main, Family::Long, Family::Large, Family::Reword, Family::Algebra, Family::Facts];

    pub fn name(self) -> &'static str {
        match self {
            Family::Main => "main",
            Family::Long => "long",
            Family::Large => "large",
            Family::Reword => "reword",
            Family::Algebra => "algebra",
            Family::Facts => "facts",
        }
    }

    fn draw(self, rng: &mut Cursor) -> Problem {
        let (kind, steps): (Kind, &[usize]) = match self {
            Family::Main => (Kind::Main, &[2, 3, 4]),
            Family::Long => (Kind::Main, &[5, 6]),
            Family::Large => (Kind::Large, &[1, 2]),
            Family::Reword => (Kind::Reword, &[2, 3, 4]),
            Family::Algebra => (Kind::Algebra, &[2]),
            Family::Facts => (Kind::Facts, &[2, 3, 4]),
        };
        let steps = *rng.choose(steps);
        Problem::draw(rng, kind, steps, DOZEN)
    }
}

/// One row of a problem table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TableRow {
    pub question: String,
    /// The expert's demonstration: always right, never in the policy's style.
    pub solution: String,
    pub answer: String,
    pub family: String,
    pub steps: u32,
}

/// Every file of `data/world`, by name, in a fixed order.
pub fn files() -> Vec<(String, Vec<TableRow>)> {
    let mut seen = HashSet::new();
    let tests = Family::ALL.map(|family| (format!("test-{}.parquet", family.name()), test(family, &mut seen)));
    let trains = TRAIN_SEEDS.map(|seed| (format!("train-{seed}.parquet"), train(seed, &seen)));
    let tasks = TASKS.map(|family| (format!("task-{}.parquet", family.name()), task(family, &seen)));
    trains.chain(tests.clone()).chain(tasks).collect()
}

/// The questions of all benchmarks: neither training nor pre-training may contain one.
pub fn test_questions() -> HashSet<String> {
    let mut seen = HashSet::new();
    for family in Family::ALL {
        test(family, &mut seen);
    }
    seen
}

/// A benchmark of distinct problems, none of them in `seen`; `seen` grows by them.
fn test(family: Family, seen: &mut HashSet<String>) -> Vec<TableRow> {
    let coordinates = |index: u64| vec![b"test".to_vec(), family.name().into(), index.to_le_bytes().to_vec()];
    (0..TEST_PROBLEMS as u64).map(|index| fresh_row(TEST_SEED, coordinates(index), seen, |_| family).0).collect()
}

/// Training problems of one seed: distinct, and not in any benchmark.
fn train(seed: u64, tests: &HashSet<String>) -> Vec<TableRow> {
    train_problems(seed, tests).into_iter().map(|(row, _)| row).collect()
}

fn train_problems(seed: u64, tests: &HashSet<String>) -> Vec<(TableRow, Problem)> {
    let mut seen = tests.clone();
    let family = |rng: &mut Cursor| if rng.uniform() < FACTS_SHARE { Family::Facts } else { Family::Main };
    let coordinates = |index: u64| vec![b"train".to_vec(), index.to_le_bytes().to_vec()];
    (0..TRAIN_PROBLEMS as u64).map(|index| fresh_row(seed, coordinates(index), &mut seen, family)).collect()
}

/// Training problems of one family: distinct, and not in any benchmark.
fn task(family: Family, tests: &HashSet<String>) -> Vec<TableRow> {
    let mut seen = tests.clone();
    let coordinates = |index: u64| vec![b"task".to_vec(), family.name().into(), index.to_le_bytes().to_vec()];
    (0..TASK_PROBLEMS as u64).map(|index| fresh_row(0, coordinates(index), &mut seen, |_| family).0).collect()
}

/// How whoever wrote the drafts writes: much as the policy does.
const DRAFTS_STYLE: PolicyStyle = PolicyStyle { noise: 0.05, hasty: 0.5 };
const DRAFTED_PROBLEMS: usize = 24;

/// JSON lines of drafts for the first problems of `train-0` in the order of their ids: two each, as a script around an engine
/// writes them. A few are cut off, and two rows are of no use.
pub fn drafts() -> (String, String) {
    let mut rows = train_problems(0, &test_questions());
    rows.sort_by_key(|(row, _)| Row::id(&row.question, &row.answer));
    let mut lines = Vec::new();
    for (index, (row, problem)) in (0u64..).zip(rows.iter().take(DRAFTED_PROBLEMS)) {
        let mut rng = Stream::at(0, &[b"drafts", &index.to_le_bytes()]).cursor();
        let outputs = [index % 6 == 5, false].map(|is_cut| {
            let text = solution::policy(&mut rng, problem, DRAFTS_STYLE);
            match is_cut {
                true => json!({"text": text[..text.len() / 2], "finish_reason": "length"}),
                false => json!({"text": text, "finish_reason": "stop"}),
            }
        });
        lines.push(json!({"prompt": row.question, "outputs": outputs}));
    }
    lines.insert(
        5,
        json!({"prompt": "How many hens has nobody?", "outputs": [{"text": "None.", "finish_reason": "stop"}]}),
    );
    lines.insert(9, json!({"prompt": rows[0].0.question, "outputs": [{"text": "", "finish_reason": "stop"}]}));
    ("drafts-0.jsonl".to_string(), lines.iter().map(|line| format!("{line}\n")).collect())
}

/// Draws from the stream at `coordinates` until the question is new.
fn fresh_row(
    seed: u64,
    coordinates: Vec<Vec<u8>>,
    seen: &mut HashSet<String>,
    family: impl Fn(&mut Cursor) -> Family,
) -> (TableRow, Problem) {
    let mut path: Vec<&[u8]> = vec![b"world v2"];
    path.extend(coordinates.iter().map(Vec::as_slice));
    let mut rng = Stream::at(seed, &path).cursor();
    loop {
        let family = family(&mut rng);
        let problem = family.draw(&mut rng);
        if seen.insert(problem.question.clone()) {
            let row = TableRow {
                solution: solution::expert(&mut rng, &problem, DEMONSTRATION),
                steps: problem.steps(),
                question: problem.question.clone(),
                answer: problem.answer.to_string(),
                family: family.name().to_string(),
            };
            return (row, problem);
        }
    }
}

/// A problem table as Parquet bytes.
pub fn parquet(rows: &[TableRow]) -> Vec<u8> {
    let text = |name| Arc::new(Field::new(name, DataType::Utf8, false));
    let steps = Arc::new(Field::new("steps", DataType::UInt32, false));
    let fields: Vec<FieldRef> = vec![text("question"), text("solution"), text("answer"), text("family"), steps];
    let batch = serde_arrow::to_record_batch(&fields, &rows).expect("rows have the fields above");
    write_parquet(&[batch])
}

/// Parquet bytes, the same wherever they are written: no default of the library is relied on.
pub fn write_parquet(batches: &[RecordBatch]) -> Vec<u8> {
    let level = ZstdLevel::try_new(9).expect("9 is a zstd level");
    let properties = WriterProperties::builder()
        .set_created_by("mindgap world v2".to_string())
        .set_writer_version(WriterVersion::PARQUET_2_0)
        .set_compression(Compression::ZSTD(level))
        .set_dictionary_enabled(true)
        .set_dictionary_page_size_limit(1 << 20)
        .set_data_page_size_limit(1 << 20)
        .set_data_page_row_count_limit(20_000)
        .set_write_batch_size(1024)
        .set_max_row_group_row_count(Some(16_384))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_statistics_truncate_length(Some(64))
        .set_column_index_truncate_length(Some(64))
        .set_offset_index_disabled(true)
        .set_bloom_filter_enabled(false)
        .build();
    let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
    let mut writer =
        ArrowWriter::try_new_with_options(Vec::new(), batches[0].schema(), options).expect("the schema is supported");
    for batch in batches {
        writer.write(batch).expect("memory does not refuse a write");
    }
    writer.into_inner().expect("memory does not refuse a write")
}
