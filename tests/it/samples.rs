//! Imported samples: they go where sampled ones go, as what they are, and whatever cannot is told row by row.

use crate::support::{by_stage, fails, json, ok, pipeline, root, run, smoke};
use mindgap_base::address::Address;
use mindgap_lm::model::tokenizer::Tokenizer;
use mindgap_store::Store;
use mindgap_store::table::Row;
use mindgap_store::table::imports::{Import, MatchedBy, Reasoning, TokensFrom};
use mindgap_store::table::logprobs::Logprob;
use mindgap_store::table::problems::{Problem, Reject};
use mindgap_store::table::rewrites::{Rewrite, Source};
use mindgap_store::table::rollouts::{PromptKind, Rollout, StopReason};
use mindgap_store::table::verdicts::{Refusal, VerdictRow};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

const PIPELINE: &str = r#"
name = "imported"
[policies]
base = { path = "DATA/base-policy" }
[stages.problems]
kind = "ingest"
files = ["problems.jsonl"]
part_problems = 4
[stages.samples]
kind = "samples"
problems = "problems"
policy = "base"
files = ["samples.jsonl"]
part_problems = 4
[stages.verdicts]
kind = "judge"
rollouts = "samples"
problems = "problems"
[stages.rewrites]
kind = "rewrite"
problems = "problems"
policy = "base"
teacher = ["verdicts"]
[stages.expert]
kind = "rewrite"
problems = "problems"
policy = "base"
[stages.logprobs]
kind = "logprob"
matrix.of = ["expert", "rewrites"]
rewrites = "{of}"
policy = "base"
[stages.gap]
kind = "gap"
problems = "problems"
before = "logprobs-expert"
after = "logprobs-rewrites"
verdicts = ["verdicts"]
"#;

/// A folder with problems `What is N plus 1?`, rows of samples, and a pipeline over both.
struct Scene {
    folder: tempfile::TempDir,
    file: String,
}

impl Scene {
    fn new(problems: u32, rows: &[Value]) -> Scene {
        Scene::with(PIPELINE, problems, rows)
    }

    fn with(text: &str, problems: u32, rows: &[Value]) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let problem = |n: u32| {
            json!({"question": question(n), "answer": (n + 1).to_string(), "id": n,
            "solution": expert(n)})
        };
        let lines: String = (0..problems).map(|n| format!("{}\n", problem(n))).collect();
        std::fs::write(folder.path().join("problems.jsonl"), lines).unwrap();
        let file = pipeline(folder.path(), "imported.toml", text).display().to_string();
        let scene = Scene { folder, file };
        scene.write(rows);
        scene
    }

    fn write(&self, rows: &[Value]) {
        let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
        std::fs::write(self.folder.path().join("samples.jsonl"), lines).unwrap();
    }

    fn store(&self) -> std::path::PathBuf {
        self.folder.path().join("store")
    }

    /// Runs stages and what they need; what `--json` said.
    fn run(&self, stages: &[&str]) -> Value {
        json(&ok(&self.store(), &[&["run", self.file.as_str()], stages, &["--json"]].concat()))
    }

    fn rows<R: Row>(&self, stage: &str) -> Vec<R> {
        rows(&self.store(), "imported", stage)
    }

    /// Number of a problem by its id.
    fn numbers(&self) -> BTreeMap<String, u32> {
        let number = |row: &Problem| row.answer.parse::<u32>().unwrap() - 1;
        self.rows::<Problem>("problems").iter().map(|row| (row.problem_id.clone(), number(row))).collect()
    }

    /// Completions by the number of their problem, in order.
    fn said(&self) -> BTreeMap<u32, Vec<String>> {
        let numbers = self.numbers();
        let mut said: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for row in self.rows::<Rollout>("samples") {
            let of = said.entry(numbers[&row.problem_id]).or_default();
            assert_eq!(row.sample_index as usize, of.len(), "indices count from 0 without a gap");
            of.push(row.completion);
        }
        said
    }
}

fn rows<R: Row>(store: &Path, pipeline: &str, stage: &str) -> Vec<R> {
    let store = Store::open(store).unwrap();
    let pointer = store.pointer(pipeline, stage).unwrap().unwrap();
    store.read_rows(&store.get_manifest(&pointer.manifest).unwrap().table(R::TABLE)).unwrap()
}

fn question(n: u32) -> String {
    format!("What is {n} plus 1?")
}

fn right(n: u32) -> String {
    format!("Start at {n}. Then {n} + 1 = {0}. The answer is \\boxed{{{0}}}.", n + 1)
}

fn expert(n: u32) -> String {
    format!("Claim: {0}, since one more than {n} gives {n} + 1 = {0}; therefore \\boxed{{{0}}}.", n + 1)
}

fn tokenizer() -> Tokenizer {
    Tokenizer::from_bytes(&std::fs::read(root().join("data/base-policy/tokenizer.json")).unwrap()).unwrap()
}

/// Goal: in the smoke pipeline drafts of somebody else's are rows like samples, in the policy's tokens, judged and chosen; what
/// nobody knows of them is null.
#[test]
fn drafts_are_judged_and_chosen_like_samples() {
    let (store, done) = smoke();
    let drafts: Vec<Rollout> = rows(store, "smoke", "drafts");
    assert_eq!(drafts.len(), 48);
    let (tokenizer, end) = (tokenizer(), tokenizer().token_id("<|end|>").unwrap());
    for row in &drafts {
        assert_eq!((row.prompt_kind, &row.logprob_behavior, &row.logprob_policy), (PromptKind::Imported, &None, &None));
        assert!(row.prompt_ids.is_empty() && row.special_count == 0);
        let is_cut = row.stop_reason == StopReason::MaxTokens;
        let inside = &row.token_ids[..row.token_ids.len() - usize::from(!is_cut)];
        assert_eq!(tokenizer.decode(inside, false).unwrap(), row.completion);
        assert_eq!(row.token_ids.last() == Some(&end), !is_cut);
    }
    assert_eq!(drafts.iter().filter(|row| row.stop_reason == StopReason::MaxTokens).count(), 4);
    let imports: Vec<Import> = rows(store, "smoke", "drafts");
    assert!(imports.iter().all(|row| row.matched_by == MatchedBy::Question && row.file.ends_with("drafts-0.jsonl")));
    let stage = done["stages"].as_array().unwrap().iter().find(|stage| stage["name"] == "drafts").unwrap();
    assert_eq!((&stage["counts"]["by_question"], &stage["counts"]["tokens_encoded"]), (&json!(48), &json!(48)));
    let reasons = json!({"empty completion": 1, "no problem asks this question": 1});
    assert_eq!((&stage["left_out"]["rows"], &stage["left_out"]["reasons"]), (&json!(2), &reasons));

    let verdicts: Vec<VerdictRow> = rows(store, "smoke", "drafts_verdicts");
    let correct = verdicts.iter().filter(|row| row.verdict.is_correct()).count();
    assert!(correct > 12, "{correct} of 48 are correct");
    let chosen: Vec<Rewrite> = rows(store, "smoke", "drafts_rewrites");
    let of_drafts: Vec<&Rewrite> = chosen.iter().filter(|row| row.source == Source::Teacher).collect();
    assert!(of_drafts.len() > 6 && chosen.len() == 64);
    for row in of_drafts {
        let of = |draft: &&Rollout| draft.problem_id == row.problem_id && Some(draft.sample_index) == row.sample_index;
        let draft = drafts.iter().find(of).unwrap();
        assert_eq!((&row.token_ids, &row.completion), (&draft.token_ids, &draft.completion));
        assert_eq!(row.logprob_behavior, None, "nobody knows what drew it");
    }
}

/// Goal: imported targets are scored, their gap is measured, and they are reported, exported and shown.
#[test]
fn the_stages_behind_take_them() {
    let rows: Vec<Value> = (0..8).map(|n| json!({"id": n, "outputs": [right(n), format!("It is {n}.")]})).collect();
    let scene = Scene::new(12, &rows);
    scene.run(&[]);
    let store = scene.store();
    let scored: Vec<Logprob> = scene.rows("logprobs-rewrites");
    assert_eq!(scored.iter().filter(|row| row.source == Source::Teacher).count(), 8);
    assert!(scored.iter().all(|row| row.logprob_behavior.is_none()));
    let report = json(&ok(&store, &["report", &scene.file, "--json"]));
    let cascade = &report["cascades"][0];
    assert_eq!((&cascade["teacher"]["correct"], &cascade["targets"]["teacher"]), (&json!(8), &json!(8)), "{cascade}");
    let after = report["gaps"][0]["rows"].as_array().unwrap().iter();
    let after = after.filter(|row| row["rewriting"] == "after" && row["source"] == "teacher").collect::<Vec<_>>();
    assert_eq!((&after[0]["row_count"], &after[0]["sampled_rows"]), (&json!(8), &json!(0)), "no ratios are made up");
    ok(&store, &["report", &scene.file]);
    let page = std::fs::read_to_string(store.join("reports/imported.html")).unwrap();
    assert!(page.contains("Start at 3. Then 3 + 1"), "samples can be browsed");
    let out = scene.folder.path().join("out");
    ok(&store, &["export", &scene.file, "rewrites", "--format", "trl", "--to", out.to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(out.join("train.jsonl")).unwrap().lines().count(), 12);
    let id = scene.numbers().into_iter().find(|(_, n)| *n == 3).unwrap().0;
    let lineage = ok(&store, &["show", &scene.file, "--row", &id]);
    for word in ["imports", "samples.jsonl", "imported", "Start at 3"] {
        assert!(lineage.contains(word), "`{word}` is not in\n{lineage}");
    }
    let plan = json(&ok(&store, &["plan", &scene.file, "--json"]));
    assert!(by_stage(&plan, "parts_miss").iter().all(|(_, missing)| missing == 0), "{plan}");
}

/// Goal: samples are ordered by their place in the rows and by what they say: a file in another order is the same table, and copies
/// are kept.
#[test]
fn the_order_of_rows_makes_no_difference() {
    let mut rows: Vec<Value> = (0..12).map(|n| json!({"id": n, "response": right(n)})).collect();
    rows.extend((0..12).map(|n| json!({"question": question(n), "outputs": ["first", "second", "second"]})));
    rows.push(json!({"id": 3, "response": right(3)}));
    let scene = Scene::new(12, &rows);
    let address = |done: &Value| by_stage(done, "address").into_iter().find(|(name, _)| name == "verdicts").unwrap();
    let first = scene.run(&["verdicts"]);
    assert_eq!(scene.said()[&3].iter().filter(|text| **text == right(3)).count(), 2, "copies are kept");
    let said = scene.said();
    for of in said.values() {
        let place = |text: &str| of.iter().position(|said| said == text).unwrap();
        assert!(place("first") < place("second") && of[of.len() - 2..] == ["second", "second"], "{of:?}");
    }
    rows.reverse();
    scene.write(&rows);
    let again = scene.run(&["verdicts"]);
    assert_eq!((scene.said(), address(&again)), (said, address(&first)));
    let computed: BTreeMap<String, Value> = by_stage(&again, "computed_parts").into_iter().collect();
    assert_eq!((&computed["samples"], &computed["verdicts"]), (&json!(1), &json!(0)), "equal rows are judged once");
}

/// Goal: a file that grows by a row changes the part its problem is in; the others stay judged.
#[test]
fn a_grown_file_is_judged_where_it_grew() {
    let mut rows: Vec<Value> = (0..48).map(|n| json!({"id": n, "response": right(n)})).collect();
    let scene = Scene::new(48, &rows);
    let first = scene.run(&["verdicts"]);
    let of =
        |done: &Value, field: &str| by_stage(done, field).into_iter().collect::<BTreeMap<_, _>>()["verdicts"].clone();
    let parts = of(&first, "parts").as_u64().unwrap();
    assert!(parts > 5, "{parts} parts");
    rows.insert(0, json!({"id": 7, "response": "It is \\boxed{8}, or so they say."}));
    scene.write(&rows);
    let grown = scene.run(&["verdicts"]);
    assert_eq!((of(&grown, "parts"), of(&grown, "computed_parts")), (json!(parts), json!(1)));
}

/// Goal: given token ids are taken where they are the text in this tokenizer, with their own end; else the text is encoded, and both
/// are counted. What was cut off has no end.
#[test]
fn token_ids_are_taken_where_they_fit() {
    let tokenizer = tokenizer();
    let id = |token: &str| tokenizer.token_id(token).unwrap();
    let (end, pad) = (id("<|end|>"), id("<pad>"));
    let text = "So 2 + 1 = 3.";
    let ids = tokenizer.encode(text, false).unwrap();
    // The same text in other tokens: one letter at a time.
    let mut spelled: Vec<u32> = Vec::new();
    text.chars().for_each(|c| spelled.extend(tokenizer.encode(&c.to_string(), false).unwrap()));
    assert!(spelled.len() > ids.len() && tokenizer.decode(&spelled, false).unwrap() == text);
    let with = |ids: &[u32], more: &[u32]| [ids, more].concat();
    let cases = [
        (json!(with(&ids, &[end])), "stop", with(&ids, &[end]), TokensFrom::Given),
        (json!(ids), "stop", with(&ids, &[end]), TokensFrom::Given),
        (json!(with(&spelled, &[end, pad, pad])), "stop", with(&spelled, &[end]), TokensFrom::Given),
        (json!(spelled), "length", spelled.clone(), TokensFrom::Given),
        (json!(null), "length", ids.clone(), TokensFrom::Encoded),
        (json!(null), "stop", with(&ids, &[end]), TokensFrom::Encoded),
        (json!([ids[0], ids[1]]), "stop", with(&ids, &[end]), TokensFrom::Misfit),
        (json!(with(&ids, &[9_999_999])), "stop", with(&ids, &[end]), TokensFrom::Misfit),
        (json!("12"), "stop", with(&ids, &[end]), TokensFrom::Misfit),
    ];
    let row = |(n, (given, why, ..)): (usize, &(Value, &str, Vec<u32>, TokensFrom))| json!({"id": n, "text": text, "token_ids": given, "finish_reason": why});
    let rows: Vec<Value> = cases.iter().enumerate().map(row).collect();
    let scene = Scene::new(9, &rows);
    let done = scene.run(&["samples"]);
    let numbers = scene.numbers();
    let imports: Vec<Import> = scene.rows("samples");
    for (row, import) in scene.rows::<Rollout>("samples").iter().zip(&imports) {
        let (given, why, wanted, from) = &cases[numbers[&row.problem_id] as usize];
        assert_eq!((&row.token_ids, import.tokens_from), (wanted, *from), "{given} {why}");
        let stop = if *why == "length" { StopReason::MaxTokens } else { StopReason::Eos };
        assert_eq!((row.stop_reason, row.special_count, row.completion.as_str()), (stop, 0, text));
    }
    let counts = &done["stages"].as_array().unwrap().last().unwrap()["counts"];
    let tokens = ["tokens_given", "tokens_encoded", "tokens_misfit"].map(|name| counts[name].as_u64().unwrap());
    assert_eq!((tokens, &counts["by_id"]), ([4, 2, 3], &json!(9)));
}

/// Goal: control tokens that a text spells are its letters, as in an expert's solution; those among given ids are counted, and such a
/// sample becomes no target.
#[test]
fn control_tokens_in_texts_are_letters() {
    let tokenizer = tokenizer();
    let (end, user) = (tokenizer.token_id("<|end|>").unwrap(), tokenizer.token_id("<|user|>").unwrap());
    let spelled = format!("Note <|end|>. {}", right(0));
    let around = [tokenizer.encode("So 1 + 1 = 2, \\boxed{2}.", false).unwrap(), vec![user]].concat();
    let ids = [around.clone(), tokenizer.encode(" So there", false).unwrap(), vec![end]].concat();
    let text = tokenizer.text(&ids).unwrap();
    let scene = Scene::new(2, &[json!({"id": 0, "text": spelled}), json!({"id": 1, "text": text, "token_ids": ids})]);
    scene.run(&["verdicts"]);
    let numbers = scene.numbers();
    for (row, verdict) in scene.rows::<Rollout>("samples").iter().zip(scene.rows::<VerdictRow>("verdicts")) {
        match numbers[&row.problem_id] {
            0 => {
                assert_eq!(row.token_ids.iter().filter(|id| tokenizer.is_special(**id)).count(), 1, "its end");
                assert_eq!((row.special_count, row.completion.as_str()), (0, spelled.as_str()));
                assert_ne!(verdict.refused, Some(Refusal::SpecialToken));
            }
            _ => assert_eq!((row.special_count, verdict.refused), (1, Some(Refusal::SpecialToken))),
        }
    }
}

/// Goal: each row or completion that became no sample is in `rejects` with its line and reason.
#[test]
fn what_cannot_be_imported_is_told() {
    let scene = Scene::new(4, &[]);
    let lines = [
        r#"{"id": 0, "question": "What is 0 plus 1?", "response": "good"}"#,
        "not json",
        "[1, 2]",
        "",
        r#"{"id": 99, "question": "What is this?", "response": "a"}"#,
        r#"{"id": 1, "outputs": ["good", "", 5]}"#,
        r#"{"id": 2}"#,
        r#"{"response": "for nobody"}"#,
        r#"{"id": 2, "prompt": "Something else entirely", "response": "a"}"#,
        r#"{"id": 2, "prompt": "Be brief. What is 2 plus 1? Box it.", "response": "good"}"#,
        r#"{"id": 3, "response": "a", "finish_reason": "content_filter"}"#,
    ];
    std::fs::write(scene.folder.path().join("samples.jsonl"), lines.join("\n")).unwrap();
    scene.run(&["samples"]);
    let said = scene.said();
    assert_eq!(said.keys().copied().collect::<Vec<u32>>(), [0, 1, 2]);
    assert!(said.values().all(|of| of == &["good"]));
    let rejects: Vec<Reject> = scene.rows("samples");
    let told: Vec<(u64, &str)> = rejects.iter().map(|row| (row.line, row.reason.as_str())).collect();
    let wanted = [
        (2, "invalid JSON at column 2"),
        (3, "not a JSON object"),
        (5, "no problem asks this question or has this id"),
        (6, "empty completion"),
        (6, "the completion is a number, not text"),
        (7, "no `completions` or `completion`"),
        (8, "it says neither question nor id"),
        (9, "its id is that of a problem that asks something else"),
        (11, "it did not end as an answer does: `content_filter`"),
    ];
    assert_eq!(told, wanted);
    assert!(rejects.iter().all(|row| !row.excerpt.is_empty() && row.file == "samples.jsonl"));

    scene.write(&[json!({"question": "Who?", "response": "a"}), json!({"question": "What?", "response": "b"})]);
    let error = fails(&scene.store(), &["run", &scene.file, "verdicts"], 3);
    for word in ["stage `samples`", "all 2 rows are in `rejects`: no problem asks this question (2)", "--table rejects"]
    {
        assert!(error.contains(word), "`{word}` is not in:\n{error}");
    }
    scene.write(&[json!({"query": "What is 1 plus 1?", "reply": "a"})]);
    let error = fails(&scene.store(), &["run", &scene.file, "samples"], 3);
    assert!(error.contains("no field looks like the completion") && error.contains("`query`, `reply`"), "{error}");
}

/// Goal: the training prompt's template says what box is asked for and what the completion stands behind; whoever copies the expert,
/// speaks of a solution or shows no work becomes no target, wherever it comes from.
#[test]
fn the_leak_filter_looks_at_them() {
    let template = "system = \"Box it.\"\nprefill = \"Start\"\n[[messages]]\nrole = \"user\"\n\
        content = \"{{ question }} Put the answer into \\\\boxed{}.\"\n";
    let rows = [
        json!({"id": 0, "response": right(0)}),
        json!({"id": 1, "response": "Starting from one we add 1 + 1 = 2, so the answer is 2."}),
        json!({"id": 2, "response": expert(2)}),
        json!({"id": 3, "response": "The expert's solution adds one: 3 + 1 = 4, so \\boxed{4}."}),
        json!({"id": 4, "response": "\\boxed{5}"}),
    ];
    let text = PIPELINE.replace("files = [\"samples.jsonl\"]", "files = [\"samples.jsonl\"]\ntemplate = \"chat.toml\"");
    let text = text.replace("teacher = [", "template = \"chat.toml\"\nteacher = [");
    let scene = Scene::with(&text, 5, &rows);
    std::fs::write(scene.folder.path().join("chat.toml"), template).unwrap();
    scene.run(&["rewrites"]);
    let numbers = scene.numbers();
    let wanted =
        [None, Some(Refusal::NoBox), Some(Refusal::Copied), Some(Refusal::MetaPhrase), Some(Refusal::AnswerOnly)];
    for row in scene.rows::<VerdictRow>("verdicts") {
        let n = numbers[&row.problem_id];
        assert!(row.verdict.is_correct(), "{n}");
        assert_eq!(row.refused, wanted[n as usize], "{n}");
    }
    assert_eq!(scene.said()[&0], [right(0)], "whole");
    let target = scene.rows::<Rewrite>("rewrites").into_iter().find(|row| numbers[&row.problem_id] == 0).unwrap();
    assert_eq!((target.source, target.completion.as_str()), (Source::Teacher, &right(0)["Start".len()..]), "behind it");
}

/// Goal: of reasoning that an API tells apart, the pipeline says what becomes.
#[test]
fn reasoning_is_a_choice() {
    let message = json!({"role": "assistant", "content": right(0), "reasoning_content": "One more than 0."});
    let rows = [json!({"id": 0, "choices": [{"index": 0, "finish_reason": "stop", "message": message}]})];
    let of = |reasoning: &str| {
        let text =
            PIPELINE.replace("files = [\"samples.jsonl\"]", &format!("files = [\"samples.jsonl\"]\n{reasoning}"));
        let scene = Scene::with(&text, 1, &rows);
        scene.run(&["verdicts"]);
        let import: Import = scene.rows("samples").remove(0);
        assert!(scene.rows::<VerdictRow>("verdicts")[0].verdict.is_correct());
        (scene.said()[&0][0].clone(), import.reasoning)
    };
    assert_eq!(of(""), (right(0), Some(Reasoning::LeftOut)));
    let thinking = format!("<think>\nOne more than 0.\n</think>\n\n{}", right(0));
    assert_eq!(of("reasoning = \"in_tags\""), (thinking, Some(Reasoning::InTags)));
}

/// Goal: what cannot be had of imported samples is refused with the reason.
#[test]
fn what_needs_sampled_rollouts_says_so() {
    let scene = Scene::with(
        &format!("{PIPELINE}[stages.evals]\nkind = \"evaluate\"\nproblems = \"problems\"\nverdicts = [\"verdicts\"]\n"),
        1,
        &[json!({"id": 0, "response": right(0)})],
    );
    let error = fails(&scene.store(), &["run", &scene.file, "evals"], 2);
    assert!(
        error.contains("`samples` are imported samples: how they were drawn is not known")
            && error.contains("stage `evals`"),
        "{error}"
    );
    let text = PIPELINE.replace("kind = \"samples\"", "kind = \"samples\"\nfiels = 1");
    let error = fails(&scene.store(), &["plan", Scene::with(&text, 1, &[]).file.as_str()], 2);
    assert!(error.contains("did you mean `fields`?"), "{error}");
}

/// Goal: files in Parquet and gzip give the table that JSON lines give.
#[test]
fn other_formats_are_the_same_rows() {
    use flate2::write::GzEncoder;
    use polars::prelude::{Column, DataFrame, NamedFrom, ParquetWriter, Series};
    use std::io::Write;
    let rows: Vec<Value> = (0..6).map(|n| json!({"question": question(n), "response": right(n)})).collect();
    let scene = Scene::new(6, &rows);
    let address = |scene: &Scene| -> Address {
        let done = scene.run(&["verdicts"]);
        let address = by_stage(&done, "address").into_iter().find(|(name, _)| name == "verdicts").unwrap().1;
        Address::parse(address.as_str().unwrap()).unwrap()
    };
    let plain = address(&scene);
    let path = scene.folder.path().join("samples.jsonl");
    let lines = std::fs::read(&path).unwrap();
    let mut packed = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&lines).unwrap();
    std::fs::write(&path, packed.finish().unwrap()).unwrap();
    assert_eq!(address(&scene), plain);
    let column = |name: &str, cells: Vec<String>| Column::from(Series::new(name.into(), cells));
    let columns =
        vec![column("question", (0..6).map(question).collect()), column("response", (0..6).map(right).collect())];
    let mut frame = DataFrame::new(6, columns).unwrap();
    ParquetWriter::new(std::fs::File::create(&path).unwrap()).finish(&mut frame).unwrap();
    assert_eq!(address(&scene), plain);
}

/// Goal: a recipe names what rows depend on, and running again computes nothing.
#[test]
fn nothing_is_imported_twice() {
    let scene = Scene::new(3, &[json!({"id": 0, "response": right(0)})]);
    scene.run(&["samples"]);
    let again = scene.run(&["samples"]);
    assert!(by_stage(&again, "computed_parts").iter().all(|(_, parts)| parts == 0));
    scene.write(&[json!({"id": 1, "response": right(1)})]);
    let output = run(&scene.store(), &["plan", &scene.file, "samples", "--json"]);
    let plan = json(&String::from_utf8(output.stdout).unwrap());
    assert_eq!(by_stage(&plan, "parts_miss").last().unwrap().1, 1, "{plan}");
}
