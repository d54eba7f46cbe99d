//! The embedded world: the checked-in files are what the generator writes, and the tokenizer fits the text.

#[path = "../../examples/world/corpus.rs"]
mod corpus;
#[path = "../../examples/world/problem.rs"]
mod problem;
#[path = "../../examples/world/skeleton.rs"]
mod skeleton;
#[path = "../../examples/world/solution.rs"]
mod solution;
#[path = "../../examples/world/tables.rs"]
mod tables;

use mindgap_lm::model::chat::{ChatTemplate, Message};
use mindgap_lm::model::tokenizer::Tokenizer;
use minijinja::{Environment, context};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use proptest::prelude::*;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    let path = repository(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn tokenizer() -> Tokenizer {
    Tokenizer::from_bytes(read("data/base-policy/tokenizer.json").as_bytes()).expect("the checked-in tokenizer loads")
}

fn encode(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text, true).expect("any text can be encoded")
}

fn chat() -> ChatTemplate {
    let config = read("data/base-policy/tokenizer_config.json");
    ChatTemplate::from_files(Some(config.as_bytes()), None, None)
        .expect("valid")
        .expect("the policy has a chat template")
}

fn documents(count: u64) -> Vec<corpus::Document> {
    let excluded = tables::test_questions();
    (0..count).map(|index| corpus::document(0, index, &excluded)).collect()
}

fn text(document: &corpus::Document) -> String {
    document.segments.iter().map(|s| s.text.as_str()).collect()
}

#[test]
fn checked_in_tables_are_what_the_generator_writes() {
    for (name, rows) in tables::files() {
        let path = repository("data/world").join(&name);
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert!(tables::parquet(&rows) == bytes, "{name} differs; `cargo run --release --example world` writes it");
    }
}

#[test]
fn checked_in_drafts_are_what_the_generator_writes() {
    let (name, text) = tables::drafts();
    assert_eq!(read(&format!("data/world/{name}")), text, "{name}");
}

#[test]
fn checked_in_policy_files_are_what_the_generator_writes() {
    for (name, text) in skeleton::files() {
        assert_eq!(read(&format!("data/base-policy/{name}")), text, "{name}");
    }
}

#[test]
fn problems_are_distinct_and_benchmarks_held_out() {
    let files = tables::files();
    let (tests, trains): (Vec<_>, Vec<_>) = files.iter().partition(|(name, _)| name.starts_with("test-"));
    let mut held_out = HashSet::new();
    for row in tests.iter().flat_map(|(_, rows)| rows) {
        assert!(held_out.insert(row.question.clone()), "twice in the benchmarks: {}", row.question);
    }
    assert_eq!(held_out.len(), 6 * 128);
    for (name, rows) in trains {
        let distinct: HashSet<_> = rows.iter().map(|row| &row.question).collect();
        assert_eq!(distinct.len(), if name.starts_with("task-") { 256 } else { 512 }, "{name}");
        assert!(!distinct.iter().any(|question| held_out.contains(*question)), "{name}");
    }
    for document in documents(2000) {
        let text = text(&document);
        let question = text.trim_start_matches("<|user|>").split(['\n', '<']).next().expect("split yields one");
        assert!(!held_out.contains(question), "in the corpus: {question}");
    }
}

/// Every equation of `text`, evaluated from left to right; `true` where it holds. `x = 12 / 4 = 3` counts as `12 / 4 = 3`.
fn equations(text: &str) -> Vec<bool> {
    let sides = |clause: &str| clause.split(" = ").map(str::to_string).collect::<Vec<_>>();
    let mut held = Vec::new();
    for clause in text.split(['.', ';', ',', ':']) {
        let sides = sides(clause.trim());
        for pair in sides.windows(2) {
            let words: Vec<&str> = pair[0].split(' ').collect();
            let words = &words[words.iter().position(|w| w.parse::<i64>().is_ok()).unwrap_or(words.len())..];
            if words.len() < 3 || words.contains(&"x") {
                continue;
            }
            let mut value: i64 = words[0].parse().expect("starts with a number");
            for step in words[1..].chunks(2) {
                let n: i64 = step[1].parse().expect("operand");
                value = match step[0] {
                    "+" => value + n,
                    "-" => value - n,
                    "*" => value * n,
                    "/" => value / n,
                    other => panic!("operator `{other}` in {clause}"),
                };
            }
            held.push(pair[1].parse() == Ok(value));
        }
    }
    held
}

#[test]
fn demonstrations_are_right() {
    for (name, rows) in tables::files() {
        for row in rows {
            let held = equations(&row.solution);
            assert!(!held.is_empty() && held.iter().all(|h| *h), "{name}: {}", row.solution);
            let end = format!("Therefore \\boxed{{{}}}.", row.answer);
            assert!(row.solution.ends_with(&end), "{name}: {}", row.solution);
            assert_eq!(row.question.contains("a dozen"), row.solution.contains("Recall, a dozen is 12;"), "{name}");
        }
    }
}

#[test]
fn corpus_has_its_shares_and_its_noise() {
    let documents = documents(8000);
    let share = |source: &str| documents.iter().filter(|d| d.source == source).count() as f64 / 8000.0;
    // Three standard errors of 8000 draws are at most 0.017.
    assert!((share("drill") - 0.30).abs() < 0.017, "{}", share("drill"));
    // 0.70 x (0.25 x 0.5 + 0.75 x 0.9 x 0.3) guided.
    assert!((share("guided") - 0.229).abs() < 0.017, "{}", share("guided"));
    assert!((0.002..0.007).contains(&share("expert")), "{}", share("expert"));
    let wrong = |source: &str| {
        let trained = |d: &corpus::Document| d.segments.last().map(|s| equations(&s.text)).unwrap_or_default();
        let held: Vec<bool> = documents.iter().filter(|d| d.source == source).flat_map(trained).collect();
        held.iter().filter(|h| !**h).count() as f64 / held.len() as f64
    };
    assert!((wrong("plain") - 0.10).abs() < 0.01, "{}", wrong("plain"));
    assert!((wrong("guided") - 0.01).abs() < 0.005, "{}", wrong("guided"));
    let drilled = documents.iter().filter(|d| d.source == "drill").flat_map(|d| equations(&text(d)));
    assert!(drilled.into_iter().all(|h| h), "drill is always right");
}

#[test]
fn labels_spare_the_problem_and_the_request() {
    for document in documents(2000) {
        for segment in &document.segments {
            assert!(!segment.label || !segment.text.contains("<|user|>"), "{segment:?}");
            assert!(!segment.label || !segment.text.contains("<|assistant|>"), "{segment:?}");
            assert!(!segment.label || !segment.text.contains("Rewrite this"), "{segment:?}");
            assert_eq!(
                segment.label,
                segment.text.contains("<|end|>") || segment.text.contains("Reference") || drilled(segment)
            );
        }
    }
    fn drilled(segment: &corpus::Segment) -> bool {
        segment.text.strip_suffix('.').is_some_and(|t| t.trim_start().bytes().all(|b| b.is_ascii_digit()))
    }
}

/// Pinned: the base policy was trained on these bytes.
#[test]
fn corpus_file_is_pinned_and_reads_back() {
    let documents = documents(500);
    let bytes = corpus::parquet(&documents);
    assert_eq!(blake3::hash(&bytes).to_hex()[..16].to_string(), CORPUS_500);
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes)).expect("Parquet");
    let mut read_back: Vec<corpus::Document> = Vec::new();
    for batch in reader.build().expect("a reader") {
        let batch = batch.expect("a batch");
        read_back.extend(serde_arrow::from_record_batch::<Vec<corpus::Document>>(&batch).expect("documents"));
    }
    assert_eq!(read_back, documents);
}
const CORPUS_500: &str = "8be808b5e0542d3b";

/// The pieces of world text, found without a regex engine: an optional space and a word, digit, symbol or `\boxed{`.
fn pieces(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let space = usize::from(rest.starts_with(' '));
        let body = &rest[space..];
        let letters = body.bytes().take_while(u8::is_ascii_alphabetic).count();
        let special = ["<|user|>", "<|assistant|>", "<|end|>"].into_iter().find(|s| rest.starts_with(s));
        let length = match special {
            Some(special) => special.len(),
            None if body.starts_with("\\boxed{") => space + 7,
            None => space + letters.max(1),
        };
        pieces.push(&rest[..length]);
        rest = &rest[length..];
    }
    pieces
}

#[test]
fn every_piece_of_the_world_is_one_token() {
    let tokenizer = tokenizer();
    let mut longest = 0;
    for document in documents(3000) {
        let text = text(&document);
        let ids = encode(&tokenizer, &text);
        let decoded: Vec<String> = ids.iter().map(|id| tokenizer.decode(&[*id], false).expect("a known id")).collect();
        assert_eq!(decoded, pieces(&text), "{text}");
        assert_eq!(tokenizer.decode(&ids, false).expect("known ids"), text);
        let by_segment: Vec<u32> = document.segments.iter().flat_map(|s| encode(&tokenizer, &s.text)).collect();
        assert_eq!(by_segment, ids, "segment borders are token borders: {text}");
        longest = longest.max(ids.len());
    }
    assert!(longest <= 300, "{longest} tokens leave no room in a context of 512");
    for row in tables::files().into_iter().flat_map(|(_, rows)| rows) {
        for text in [row.question, row.solution] {
            assert_eq!(encode(&tokenizer, &text).len(), pieces(&text).len(), "{text}");
        }
    }
}

#[test]
fn specials_and_bytes_come_first() {
    let tokenizer = tokenizer();
    let id = |token: &str| tokenizer.token_id(token);
    assert_eq!([id("<pad>"), id("<|user|>"), id("<|assistant|>"), id("<|end|>")], [Some(0), Some(1), Some(2), Some(3)]);
    assert_eq!(encode(&tokenizer, "\n"), [4 + u32::from(b'\n')]);
    assert_eq!(encode(&tokenizer, "Zürich"), "Zürich".bytes().map(|b| 4 + u32::from(b)).collect::<Vec<_>>());
    assert_eq!(tokenizer.vocab_size(), skeleton::vocabulary().len());
}

/// tests/fixtures/policy/make.py recorded what transformers makes of texts in many scripts.
#[test]
fn transformers_cuts_text_into_the_same_tokens() {
    #[derive(serde::Deserialize)]
    struct Recorded {
        text: String,
        token_ids: Vec<u32>,
    }
    let tokenizer = tokenizer();
    for line in read("tests/fixtures/policy/tokens.jsonl").lines() {
        let recorded: Recorded = serde_json::from_str(line).expect("a line of the fixture");
        assert_eq!(encode(&tokenizer, &recorded.text), recorded.token_ids, "{:?}", recorded.text);
        assert_eq!(tokenizer.decode(&recorded.token_ids, false).expect("known ids"), recorded.text);
    }
}

#[test]
fn templates_render_the_documents_of_the_corpus() {
    let mut environment = Environment::new();
    let (plain, guided) = (read("pipelines/templates/plain.j2"), read("pipelines/templates/world-guided.j2"));
    environment.add_template("plain", &plain).expect("valid");
    environment.add_template("guided", &guided).expect("valid");
    let render =
        |name: &str, values| environment.get_template(name).expect("added above").render(values).expect("renders");
    for document in documents(200).iter().filter(|d| d.source != "drill") {
        let text = text(document);
        let prompt = &text[..text.find("<|assistant|>").expect("has an answer") + "<|assistant|>".len()];
        let turn = &prompt["<|user|>".len()..prompt.len() - "<|assistant|>".len()];
        let question = turn.split("\nReference solution: ").next().expect("split yields one");
        let rendered = match turn.strip_suffix("\nRewrite this in your own words.") {
            Some(rest) => {
                let solution = &rest[question.len() + "\nReference solution: ".len()..];
                render("guided", context! { question, solution })
            }
            None => render("plain", context! { question }),
        };
        let messages = [Message::user(rendered)];
        assert_eq!(chat().render(&messages, true, &serde_json::Value::Null).expect("renders"), prompt);
    }
}

#[test]
fn chat_template_agrees_with_transformers_and_refuses_what_it_cannot_say() {
    #[derive(serde::Deserialize)]
    struct Turn {
        role: String,
        content: String,
    }
    #[derive(serde::Deserialize)]
    struct Recorded {
        messages: Vec<Turn>,
        rendered: String,
        token_ids: Vec<u32>,
    }
    let render = |messages: &[Message]| chat().render(messages, true, &serde_json::Value::Null);
    for line in read("tests/fixtures/policy/chats.jsonl").lines() {
        let recorded: Recorded = serde_json::from_str(line).expect("a line of the fixture");
        let messages = recorded.messages.into_iter().map(|t| Message { role: t.role, content: t.content });
        let messages: Vec<Message> = messages.collect();
        assert_eq!(render(&messages).expect("renders"), recorded.rendered);
        assert_eq!(encode(&tokenizer(), &recorded.rendered), recorded.token_ids);
    }
    let turn = |role: &str| Message { role: role.to_string(), content: "text".to_string() };
    assert!(render(&[turn("user"), turn("system")]).is_err());
    assert!(render(&[turn("tool")]).is_err());
}

proptest! {
    /// Text of any script, control characters and emoji included, with specials and world words mixed in.
    #[test]
    fn any_text_comes_back(parts in prop::collection::vec(
        prop_oneof![".{0,12}", "(?s).{0,4}", Just("<|end|>".to_string()), Just(" apples\\boxed{12}. ".to_string())], 0..6,
    )) {
        let tokenizer = tokenizer();
        let text = parts.concat();
        let ids = encode(&tokenizer, &text);
        prop_assert_eq!(tokenizer.decode(&ids, false).expect("known ids"), text);
    }
}
