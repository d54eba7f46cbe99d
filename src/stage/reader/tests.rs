use super::*;
use arrow::array::{ArrayRef, Float32Array, Float64Array, ListArray, RecordBatch, StringArray, StructArray};
use arrow::datatypes::{Field as ArrowField, Int32Type, UInt32Type};
use flate2::write::GzEncoder;
use mindgap_store::table::Row as _;
use parquet::arrow::ArrowWriter;
use parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};
use parquet::file::properties::WriterProperties;
use proptest::prelude::*;
use std::io::{Seek, Write};
use std::sync::Arc;

/// The two tables.
#[derive(Debug, PartialEq)]
pub struct Ingested {
    pub problems: Vec<Problem>,
    pub rejects: Vec<Reject>,
}

/// Ingests files of these names and bytes.
fn ingest(files: &[(&str, &[u8])], format: Format, mapping: &Mapping) -> Result<Ingested> {
    ingest_clean(files, format, mapping, &BTreeSet::new())
}

fn ingest_clean(
    files: &[(&str, &[u8])],
    format: Format,
    mapping: &Mapping,
    clean: &BTreeSet<Rule>,
) -> Result<Ingested> {
    // Nothing but nameless files is made in it.
    let store = Store::look(std::env::temp_dir())?;
    let mut ingest = Ingest::new(&store, files.iter().map(|(file, _)| *file).collect());
    for (index, (file, bytes)) in files.iter().enumerate() {
        let mut content = store.nameless_file()?;
        content.write_all(bytes).expect("the scratch folder is writable");
        content.rewind().expect("a file has a front");
        let content = Content { file, bytes: &content, format };
        let input = Input { content, source: "test", mapping, clean };
        ingest.read(index, &input, &mut || Ok(()))?;
    }
    let mut problems = Vec::new();
    let rejects = ingest.problems(&mut |problem| {
        problems.push(problem);
        Ok(None)
    })?;
    Ok(Ingested { problems, rejects: rejects.sorted()?.collect::<Result<_>>()? })
}

fn one(bytes: &[u8], format: Format, mapping: &Mapping) -> Result<Ingested> {
    ingest(&[("a.jsonl", bytes)], format, mapping)
}

fn jsonl(text: &str) -> Result<Ingested> {
    one(text.as_bytes(), Format::Jsonl, &Mapping::default())
}

/// The only problem of one line.
pub fn only(line: &str) -> Problem {
    let out = jsonl(line).expect("can be read");
    assert_eq!(out.rejects, []);
    let [problem] = &out.problems[..] else { panic!("{} problems", out.problems.len()) };
    problem.clone()
}

/// The reason why the last of these lines was rejected.
pub fn reason(lines: &str) -> String {
    let good = r#"{"question":"good","answer":"1"}"#;
    let out = jsonl(&format!("{good}\n{lines}")).expect("can be read");
    out.rejects.last().expect("rejected").reason.clone()
}

#[test]
fn math_500() {
    let p = only(
        r#"{"problem":"What is $1+1$?","solution":"It is $\\boxed{2}$.","answer":"2","level":1,"unique_id":"test/1.json"}"#,
    );
    assert_eq!((p.question.as_str(), p.answer.as_str(), p.source.as_str()), ("What is $1+1$?", "2", "test"));
    assert_eq!(p.solution.as_deref(), Some("It is $\\boxed{2}$."));
    assert_eq!(p.meta.as_deref(), Some(r#"{"id":"test/1.json","level":1}"#));
    assert_eq!(p.problem_id, Problem::id("What is $1+1$?", "2"));
}

#[test]
fn gsm8k() {
    let p = only(r#"{"question":"Eggs?","answer":"16 - 3 = <<16-3=13>>13\nSo 13.\n#### 1,300","idx":4}"#);
    assert_eq!(p.answer, "1,300");
    assert_eq!(p.solution.as_deref(), Some("16 - 3 = <<16-3=13>>13\nSo 13.\n#### 1,300"));
    assert_eq!(p.meta.as_deref(), Some(r#"{"id":4}"#));
}

#[test]
fn olympiad_bench() {
    let p = only(
        r#"{"id":1,"context":null,"question":"Q","solution":["first way","second way"],"final_answer":["$1$","$2$"],"unit":null}"#,
    );
    assert_eq!((p.answer.as_str(), p.solution.as_deref()), ("$1$, $2$", Some("first way")));
    assert_eq!(p.meta.as_deref(), Some(r#"{"id":1}"#));
}

#[test]
fn aime_and_amc() {
    let p = only(r#"{"id":60,"problem":"Q","solution":"S","answer":"204","url":"u","question":"Q"}"#);
    assert_eq!(p.meta.as_deref(), Some(r#"{"id":60,"url":"u"}"#));
    assert_eq!((p.question.as_str(), p.answer.as_str()), ("Q", "204"));
    for (number, text) in [("27.0", "27"), ("-3.0", "-3"), ("0.25", "0.25"), ("12", "12"), ("1e-7", "0.0000001")] {
        assert_eq!(only(&format!(r#"{{"problem":"P","answer":{number}}}"#)).answer, text);
    }
}

#[test]
fn answer_from_the_solution() {
    let minerva =
        r#"{"problem":"P","solution":"so $\\boxed{3}$, hence $s=\\boxed{\\frac{1}{2}} \\mathrm{~cm}$","idx":0}"#;
    assert_eq!(only(minerva).answer, "\\frac{1}{2}");
    let null = r#"{"problem":"P","solution":"\\boxed{7}","answer":null}"#;
    assert_eq!(only(null).answer, "7");
    let worked = r#"{"question":"Q","answer":"We add. $\\boxed{5}$"}"#;
    assert_eq!((only(worked).answer.as_str(), only(worked).solution.as_deref()), ("5", Some("We add. $\\boxed{5}$")));
    let sentences = "Orders rose in all businesses. They came to 2.3 billion in the year.";
    let concluded = format!(r#"{{"question":"Q","answer":"{sentences}"}}"#);
    assert_eq!(
        (only(&concluded).answer.as_str(), only(&concluded).solution.as_deref()),
        ("2.3 billion", Some(sentences))
    );
    // What is listed is answers, as spans of a text are.
    let listed = format!(r#"{{"question":"Q","answer":["{sentences}"]}}"#);
    assert_eq!((only(&listed).answer.as_str(), only(&listed).solution.as_deref()), (sentences, None));
    assert_eq!(only(r#"{"question":"Q","answer":"\\boxed{5}"}"#).solution, None);
}

#[test]
fn rows_laid_out_for_trainers() {
    let verl = r#"{"data_source":"numina","prompt":[{"role":"user","content":"Q, boxed please"}],"reward_model":{"style":"rule","ground_truth":"8"},"extra_info":{"index":3,"question":"Q","answer":"A full text. \\boxed{8}"}}"#;
    let p = only(verl);
    assert_eq!((p.question.as_str(), p.answer.as_str()), ("Q", "8"));
    assert_eq!(p.solution.as_deref(), Some("A full text. \\boxed{8}"));
    let messages = r#"{"messages":[{"role":"system","content":"S"},{"role":"user","content":"Q"},{"role":"assistant","content":"\\boxed{8}!"}]}"#;
    let p = only(messages);
    assert_eq!((p.question.as_str(), p.answer.as_str(), p.solution.as_deref()), ("Q", "8", Some("\\boxed{8}!")));
    let sharegpt = r#"{"conversations":[{"from":"human","value":"Q"},{"from":"gpt","value":"\\boxed{8}"}]}"#;
    assert_eq!(only(sharegpt).question, "Q");
}

#[test]
fn named_fields_and_paths() {
    let mapping = Mapping {
        question: Some("task.text".into()),
        answer: Some("key".into()),
        id: Some("n".into()),
        source: Some("set".into()),
        ..Mapping::default()
    };
    let line = br#"{"task":{"text":"Q"},"key":5,"n":"x1","set":"mine","question":"not this"}"#;
    let p = one(line, Format::Jsonl, &mapping).expect("can be read").problems.remove(0);
    assert_eq!((p.question.as_str(), p.answer.as_str(), p.source.as_str()), ("Q", "5", "mine"));
    assert_eq!(p.meta.as_deref(), Some(r#"{"id":"x1","question":"not this"}"#));
}

#[test]
fn every_bad_row_has_its_reason() {
    let cases = [
        (r#"{"question":"Q","answer":"1"#, "the JSON ends too early: a truncated line"),
        (r#"{"question":"Q","answer":NaN}"#, "`NaN` at column 26 is not JSON"),
        (r#"{"question":"Q","answer":-Infinity}"#, "`Infinity` at column 27 is not JSON"),
        (r#"{"question":"Q",}"#, "invalid JSON at column 17"),
        (r#""text""#, "not a JSON object"),
        (r#"{"q":"Q","answer":"1"}"#, "no `question` or `problem`"),
        (r#"{"question":" \n","answer":"1"}"#, "empty question"),
        (r#"{"question":7,"answer":"1"}"#, "the question is a number, not text"),
        (r#"{"question":"Q"}"#, "no gold answer: no `answer` or `final_answer`, and no solution to take it from"),
        (
            r#"{"question":"Q","solution":"as said","answer":" "}"#,
            "no gold answer: no `answer` or `final_answer`, and the solution has no `\\boxed{}`, no `####` and announces none",
        ),
        (
            r#"{"question":"Q","solution":"\\boxed{1"}"#,
            "no gold answer: no `answer` or `final_answer`, and the solution has no `\\boxed{}`, no `####` and announces none",
        ),
        (r#"{"question":"Q","answer":"nan"}"#, "the answer is not a number (`NaN`)"),
        (r#"{"question":"Q","answer":"None"}"#, "no gold answer: it says `None`"),
        (r#"{"question":"Q","answer":{"a":1}}"#, "the answer is an object, not text or a number"),
        (r#"{"question":"Q","answer":1e300}"#, "the answer `1e+300` is too large to be read exactly; write it as text"),
        (r#"{"question":"Q","solution":{"a":3},"answer":"1"}"#, "the solution is an object, not text"),
        (r#"{"question":"Q","answer":"proof","solution":"So \\boxed{1}."}"#, "no gold answer: it says `proof`"),
        (r#"{"question":"Q","answer":"\\text{N/A}","solution":"Done."}"#, "no gold answer: it says `\\text{N/A}`"),
        (r#"{"question":"Q","solution":"So \\boxed{\\text{proof}}."}"#, "no gold answer: it says `\\text{proof}`"),
        (
            r#"{"question":"Q","answer":"He ate 3 more apples than she did. She ate 5, he ate 8."}"#,
            "no gold answer: the answer is a worked text that states none, and its last sentence has not one number",
        ),
        (r#"{"question":"Q","answer":"A","choices":4}"#, "`choices` cannot be read as choices"),
        (r#"{"question":"good","answer":"1","id":9}"#, "duplicate of line 1"),
        (
            r#"{"question":[{"role":"user","content":"a"},{"role":"user","content":"b"}],"answer":"1"}"#,
            "the conversation has 2 user turns, not one",
        ),
    ];
    for (line, expected) in cases {
        assert_eq!(reason(line), expected, "{line}");
    }
}

#[test]
fn rejects_name_line_and_excerpt() {
    let mut bytes = b"\xEF\xBB\xBF{\"question\":\"Q\",\"answer\":\"1\"}\r\n\r\n".to_vec();
    bytes.extend(b"{\"question\":\"\xff\"}\n");
    bytes.extend(format!("{{\"question\":\"{}\"}}", "x".repeat(500)).bytes());
    let out = one(&bytes, Format::Jsonl, &Mapping::default()).expect("can be read");
    assert_eq!(out.problems.len(), 1);
    assert_eq!((out.rejects[0].line, out.rejects[0].reason.as_str()), (3, "invalid UTF-8 at byte 13 of the line"));
    assert_eq!((out.rejects[1].line, out.rejects[1].excerpt.len()), (4, 120));
}

#[test]
fn duplicates_across_files_name_the_file() {
    let line = &br#"{"question":"Q","answer":"1"}"#[..];
    let files = [("b.jsonl", line), ("a.jsonl", line), ("b.jsonl", line)];
    let out = ingest(&files, Format::Jsonl, &Mapping::default()).expect("can be read");
    assert_eq!(out.problems.len(), 1);
    let rejects: Vec<_> = out.rejects.iter().map(|r| (r.file.as_str(), r.line, r.reason.as_str())).collect();
    assert_eq!(rejects, [("a.jsonl", 1, "duplicate of line 1 of `b.jsonl`"), ("b.jsonl", 1, "duplicate of line 1")]);
}

#[test]
fn order_of_rows_does_not_change_the_table() {
    let (a, b) = (r#"{"question":"A","answer":"1"}"#, r#"{"question":"B","answer":"2"}"#);
    let (forth, back) = (jsonl(&format!("{a}\n{b}\n")), jsonl(&format!("{b}\n{a}")));
    assert_eq!(forth.expect("can be read").problems, back.expect("can be read").problems);
}

#[test]
fn gzip_is_recognised() {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(br#"{"question":"Q","answer":"1"}"#).expect("to memory");
    let packed = encoder.finish().expect("to memory");
    let mapping = Mapping::default();
    assert_eq!(one(&packed, Format::Jsonl, &mapping).expect("can be read").problems[0].answer, "1");
    let error = one(&packed[..packed.len() - 9], Format::Jsonl, &mapping).expect_err("cut off");
    assert_eq!(error.what(), "the gzip data is damaged or ends too early");
}

fn parquet_bytes(columns: Vec<(&str, ArrayRef)>) -> Vec<u8> {
    let columns = columns.into_iter().map(|(name, column)| (name, column, true));
    let batch = RecordBatch::try_from_iter_with_nullable(columns).expect("columns of one length");
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).expect("a schema Parquet knows");
    writer.write(&batch).expect("to memory");
    writer.into_inner().expect("to memory")
}

/// What becomes of these columns.
pub fn out_of_parquet(columns: Vec<(&str, ArrayRef)>) -> Ingested {
    one(&parquet_bytes(columns), Format::Parquet, &Mapping::default()).expect("can be read")
}

/// Goal: every way to compress that writers offer is read.
#[test]
fn parquet_of_all_codecs() {
    let codecs = [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(GzipLevel::default()),
        Compression::BROTLI(BrotliLevel::default()),
        Compression::ZSTD(ZstdLevel::default()),
        Compression::LZ4,
        Compression::LZ4_RAW,
    ];
    let column = || Arc::new(StringArray::from(vec!["5"])) as ArrayRef;
    for codec in codecs {
        let batch = RecordBatch::try_from_iter([("question", column()), ("answer", column())]).expect("one length");
        let properties = WriterProperties::builder().set_compression(codec).build();
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).expect("a codec");
        writer.write(&batch).expect("to memory");
        let bytes = writer.into_inner().expect("to memory");
        let out = one(&bytes, Format::Parquet, &Mapping::default()).expect("can be read");
        assert_eq!(out.problems[0].answer, "5", "{codec}");
    }
}

/// Goal: cleaning changes the solution alone, and says what it did; the id stays.
#[test]
fn cleaning_is_told_in_meta() {
    let line = br#"{"question":"Q <<1+1=2>>","answer":"1+1=<<1+1=2>>2\n#### 2","idx":4}"#;
    let rules = BTreeSet::from([Rule::CalculatorMarks, Rule::BoxedAnswer, Rule::Notes]);
    let files = [("a.jsonl", &line[..])];
    let out = ingest_clean(&files, Format::Jsonl, &Mapping::default(), &rules).expect("can be read");
    let plain = ingest(&files, Format::Jsonl, &Mapping::default()).expect("can be read");
    let (cleaned, plain) = (&out.problems[0], &plain.problems[0]);
    assert_eq!(cleaned.solution.as_deref(), Some("1+1=2\nThe final answer is $\\boxed{2}$."));
    let meta = r#"{"id":4,"original_solution":"1+1=<<1+1=2>>2\n#### 2","cleaned":["calculator_marks","boxed_answer"]}"#;
    assert_eq!(cleaned.meta.as_deref(), Some(meta));
    assert_eq!((&cleaned.problem_id, &cleaned.question), (&plain.problem_id, &plain.question));
    let counts = Problem::counts(&out.problems);
    let counts: Vec<(&str, u64)> = counts.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    assert_eq!(counts, [("boxed_answer", 1), ("calculator_marks", 1), ("with_solution", 1)]);
}

#[test]
fn parquet_of_many_types() {
    let struct_of = |name: &str, values: ArrayRef| {
        Arc::new(StructArray::from(vec![(Arc::new(ArrowField::new(name, values.data_type().clone(), true)), values)]))
            as ArrayRef
    };
    let strings = |values: Vec<Option<&str>>| Arc::new(StringArray::from(values)) as ArrayRef;
    let info = struct_of("question", strings(vec![Some("A"), Some("B"), Some("C"), Some("D")]));
    let truth: ArrayRef = Arc::new(Float64Array::from(vec![Some(27.0), Some(f64::NAN), None, Some(0.5)]));
    let bytes = parquet_bytes(vec![
        ("extra_info", info),
        ("reward_model", struct_of("ground_truth", truth)),
        ("score", Arc::new(Float32Array::from(vec![0.1, 0.2, 0.3, 0.4]))),
        ("steps", Arc::new(arrow::array::UInt32Array::from(vec![1, 2, 3, 4]))),
    ]);
    let out = one(&bytes, Format::Parquet, &Mapping::default()).expect("can be read");
    let mut answers: Vec<_> = out.problems.iter().map(|p| (p.question.as_str(), p.answer.as_str())).collect();
    answers.sort_unstable();
    assert_eq!(answers, [("A", "27"), ("D", "0.5")]);
    let first = out.problems.iter().find(|p| p.question == "A").expect("kept");
    assert_eq!(first.meta.as_deref(), Some(r#"{"score":0.1,"steps":1}"#));
    let reasons: Vec<_> = out.rejects.iter().map(|r| (r.line, r.reason.as_str())).collect();
    let missing = "no gold answer: no `answer` or `final_answer`, and no solution to take it from";
    assert_eq!(reasons, [(2, "the answer is not a number (`NaN`)"), (3, missing)]);
    assert!(out.rejects[0].excerpt.starts_with(r#"{"extra_info":{"question":"B"}"#), "{}", out.rejects[0].excerpt);
}

#[test]
fn parquet_lists_and_dictionaries() {
    let dictionary: arrow::array::DictionaryArray<Int32Type> = vec!["A", "B"].into_iter().collect();
    let numbers =
        ListArray::from_iter_primitive::<UInt32Type, _, _>([Some(vec![Some(1), Some(2)]), Some(vec![Some(3)])]);
    let bytes = parquet_bytes(vec![("problem", Arc::new(dictionary)), ("final_answer", Arc::new(numbers))]);
    let out = one(&bytes, Format::Parquet, &Mapping::default()).expect("can be read");
    let mut answers: Vec<_> = out.problems.iter().map(|p| (p.question.as_str(), p.answer.as_str())).collect();
    answers.sort_unstable();
    assert_eq!(answers, [("A", "1, 2"), ("B", "3")]);
}

/// What, and a part of the hint, of an error about a whole file.
fn whole(bytes: &[u8], format: Format, mapping: &Mapping) -> (String, String) {
    let error = one(bytes, format, mapping).expect_err("not a table of problems");
    assert_eq!(error.place(), Some("a.jsonl"));
    assert_eq!(error.kind().exit_code(), 3);
    (error.what().to_string(), error.remedy().unwrap_or_default().to_string())
}

#[test]
fn a_file_of_another_schema_is_an_error() {
    let line = br#"{"question":"Q","anwser":"1"}"#;
    let named = Mapping { answer: Some("answer".into()), ..Mapping::default() };
    let (what, hint) = whole(line, Format::Jsonl, &named);
    assert_eq!(
        (what.as_str(), hint.as_str()),
        ("unknown field `answer`", "did you mean `anwser`? its fields are `anwser`, `question`")
    );
    let (what, hint) = whole(br#"{"text":"Q"}"#, Format::Jsonl, &Mapping::default());
    assert_eq!(what, "no field looks like the question");
    assert_eq!(hint, "name it in the pipeline (`fields.question = \"...\"`); its fields are `text`");
    assert_eq!(whole(line, Format::Jsonl, &Mapping::default()).0, "no field looks like the answer");
    let column: ArrayRef = Arc::new(StringArray::from(vec!["Q"]));
    let bytes = parquet_bytes(vec![("text", column)]);
    assert_eq!(whole(&bytes, Format::Parquet, &Mapping::default()).0, "no field looks like the question");
    assert_eq!(whole(&bytes, Format::Jsonl, &Mapping::default()).0, "no field looks like the question");
    let mut damaged = bytes.clone();
    let end = damaged.len() - 12;
    damaged[end - 40..end].fill(0xAA);
    assert_eq!(
        whole(&damaged, Format::Parquet, &Mapping::default()).0,
        "the Parquet file is damaged or of an unknown kind"
    );
}

#[test]
fn files_that_are_no_table_at_all() {
    let mapping = Mapping::default();
    assert_eq!(whole(b"", Format::Jsonl, &mapping).0, "no rows");
    assert_eq!(whole(b" \n\n", Format::Jsonl, &mapping).0, "no rows");
    assert_eq!(whole(b"[{\"question\":\"Q\"}]", Format::Jsonl, &mapping).0, "a JSON array, not JSON lines");
    assert_eq!(whole(b"hello\n", Format::Jsonl, &mapping).0, "no line is a JSON object: invalid JSON at column 1");
    assert_eq!(whole(b"hello", Format::Parquet, &mapping).0, "not a Parquet file: the magic bytes `PAR1` are missing");
}

proptest! {
    /// Every non-blank line is a problem or a reject, whatever the bytes.
    #[test]
    fn total_on_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400), parquet in any::<bool>()) {
        let format = if parquet { Format::Parquet } else { Format::Jsonl };
        if let Ok(out) = one(&bytes, format, &Mapping::default()) {
            let lines = bytes.split(|b| *b == b'\n').filter(|line| !line.trim_ascii().is_empty()).count();
            prop_assert_eq!(out.problems.len() + out.rejects.len(), lines);
        }
    }

    /// A good line cut anywhere, or with a byte changed, is a reject, an error or another row: never a panic.
    #[test]
    fn damaged_lines_are_rejects(cut in 0usize..70, byte in any::<u8>()) {
        let good = br#"{"question":"Q","answer":"1","solution":["a",{"role":"user"}]}"#;
        let mut bytes = [&good[..], b"\n", &good[..cut.min(good.len())]].concat();
        one(&bytes, Format::Jsonl, &Mapping::default()).ok();
        bytes[cut.min(good.len() - 1)] = byte;
        let lines = bytes.split(|b| *b == b'\n').filter(|line| !line.trim_ascii().is_empty()).count();
        if let Ok(out) = one(&bytes, Format::Jsonl, &Mapping::default()) {
            prop_assert_eq!(out.problems.len() + out.rejects.len(), lines);
        }
    }
}
