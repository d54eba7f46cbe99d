//! Why a part is missing: `plan` names the parameter, file, policy, template, judge or table that differs, old value first.

use crate::properties::{GUIDED, Ran, write_problems};
use crate::support::{TINY, fails, json, mindgap, ok, pipeline, plan_here, run_here, run_stages_here, scratch};
use mindgap::pipeline::Pipeline;
use mindgap_store::Store;
use std::path::Path;
use std::process::Stdio;

/// What `plan` says of a stage.
fn why(ran: &Ran, stage: &str) -> Vec<String> {
    plan_here(&ran.store(), &ran.file()).into_iter().find(|plan| plan.name == stage).unwrap().why
}

/// A stage's short address and rows, as `status` has them.
fn standing(store: &Path, file: &Path, stage: &str) -> String {
    let store = Store::open(store).unwrap();
    let pointer = store.pointer(&Pipeline::load(file, &[]).unwrap().name, stage).unwrap().unwrap();
    let manifest = store.get_manifest(&pointer.manifest).unwrap();
    format!("{} rows ({})", manifest.rows(), manifest.content().short())
}

#[test]
fn a_changed_file_and_the_table_made_of_it() {
    let ran = Ran::new(GUIDED);
    let before = standing(&ran.store(), &ran.file(), "problems");
    let address = |ran: &Ran| {
        let bytes = std::fs::read(ran.folder.path().join("rows.jsonl")).unwrap();
        blake3::hash(&bytes).to_hex()[..12].to_string()
    };
    let old = address(&ran);
    write_problems(ran.folder.path(), 0..103);
    let new = address(&ran);
    assert_eq!(why(&ran, "problems"), [format!("files: \"rows {old}\" -> \"rows {new}\"")]);
    run_stages_here(&ran.store(), &ran.file(), &["problems".to_string()]).unwrap();
    let after = standing(&ran.store(), &ran.file(), "problems");
    assert!(before.starts_with("100 rows") && after.starts_with("103 rows"), "{before} {after}");
    assert_eq!(why(&ran, "rollouts"), [format!("problems: {before} -> {after}")]);
    // Verdicts depend on the samples, which say what the problems are.
    let before = standing(&ran.store(), &ran.file(), "rollouts");
    run_stages_here(&ran.store(), &ran.file(), &["rollouts".to_string()]).unwrap();
    let after = standing(&ran.store(), &ran.file(), "rollouts");
    assert_eq!(why(&ran, "verdicts"), [format!("rollouts: {before} -> {after}")]);
}

#[test]
fn parameters_that_cut_the_work() {
    let mut ran = Ran::new(GUIDED);
    ran.change("samples = 1\n", "samples = 3\n");
    assert_eq!(why(&ran, "rollouts"), ["samples: 1 -> 3"]);
    ran.change("part_problems = 32\n", "part_problems = 64\n");
    assert_eq!(why(&ran, "rollouts"), ["part_problems: 32 -> 64", "samples: 1 -> 3"]);
    ran.change("max_new_tokens = 1\n", "max_new_tokens = 2\n");
    assert_eq!(why(&ran, "rollouts"), ["max_new_tokens: 1 -> 2", "part_problems: 32 -> 64", "samples: 1 -> 3"]);
}

#[test]
fn a_judge_and_the_verdicts_it_changes() {
    let mut ran = Ran::new(GUIDED);
    let before = standing(&ran.store(), &ran.file(), "verdicts");
    ran.change("kind = \"judge\"\n", "kind = \"judge\"\njudge = \"exact\"\n");
    let said = why(&ran, "verdicts");
    assert!(said.len() == 1 && said[0].starts_with("judge: \"math-v") && said[0].contains("-> \"exact-"), "{said:?}");
    run_stages_here(&ran.store(), &ran.file(), &["verdicts".to_string()]).unwrap();
    let after = standing(&ran.store(), &ran.file(), "verdicts");
    assert_eq!(why(&ran, "guided"), [format!("verdicts: {before} -> {after}")]);
}

#[test]
fn a_template_and_a_policy() {
    let mut ran = Ran::new(GUIDED);
    std::fs::write(ran.folder.path().join("guided.j2"), "{{ solution }} {{ question }}!").unwrap();
    let said = why(&ran, "guided");
    assert_eq!(said, ["template: \"{{ solution }} {{ question }}\" -> \"{{ solution }} {{ question }}!\""]);
    std::fs::write(ran.folder.path().join("guided.j2"), "{{ solution }} {{ question }}").unwrap();
    ran.change("FIXTURES/model/qwen2", "policy");
    let policy = ran.folder.path().join("policy");
    std::fs::create_dir(&policy).unwrap();
    for entry in std::fs::read_dir(crate::support::root().join("tests/fixtures/model/qwen2")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), policy.join(entry.file_name())).unwrap();
    }
    assert_eq!(why(&ran, "rollouts"), [""; 0], "the same files elsewhere are the same policy");
    let config = policy.join("generation_config.json");
    let bytes = std::fs::read(&config).unwrap();
    std::fs::write(&config, [&bytes[..], b"\n"].concat()).unwrap();
    let said = why(&ran, "rollouts");
    assert!(said.len() == 1 && said[0].starts_with("policy.generation_config.json: "), "{said:?}");
}

/// Goal: another name of the same table is no reason, and not told as one.
#[test]
fn a_renamed_stage() {
    let mut ran = Ran::new(GUIDED);
    ran.text = ran
        .text
        .replace("[stages.problems]", "[stages.tasks]")
        .replace("problems = \"problems\"", "problems = \"tasks\"");
    assert_eq!(why(&ran, "rollouts"), [""; 0]);
    ran.change("samples = 1\n", "samples = 2\n");
    assert_eq!(why(&ran, "rollouts"), ["samples: 1 -> 2"]);
}

#[test]
fn parts_that_are_gone() {
    let ran = Ran::new(GUIDED);
    let part = std::fs::canonicalize(ran.store().join("tables/guided/verdicts/part-00000.parquet")).unwrap();
    std::fs::remove_file(part).unwrap();
    let parts = plan_here(&ran.store(), &ran.file()).into_iter().find(|plan| plan.name == "verdicts").unwrap();
    let all = parts.parts_hit + parts.parts_miss;
    assert_eq!(parts.why, [format!("made before from the same, 1 of {all} parts are gone or damaged")]);
}

#[test]
fn a_run_that_was_cut_short() {
    let folder = tempfile::tempdir().unwrap();
    let file = pipeline(folder.path(), "p.toml", TINY);
    let (store, name) = (folder.path().join("store"), file.to_str().unwrap());
    // Problems and one of three parts of samples.
    let mut run = mindgap(&store, &["run", name]);
    run.env("MINDGAP_FAULT", "memo.renamed:2").stderr(Stdio::null()).status().unwrap();
    let plan = plan_here(&store, &file);
    assert_eq!(plan[1].why, ["same recipe, 2 of 3 parts are not in the store yet"]);
    // A pointer from a build that did not write down what a stage was made of.
    run_here(&store, &file).unwrap();
    let pointer = store.join("stages/tiny/rollouts.json");
    let mut value = json(&std::fs::read_to_string(&pointer).unwrap());
    assert!(value.as_object_mut().unwrap().remove("origin").is_some());
    std::fs::write(&pointer, value.to_string()).unwrap();
    assert!(plan_here(&store, &file).iter().all(|plan| plan.parts_miss == 0), "it is known all the same");
    let more = pipeline(folder.path(), "p.toml", &TINY.replacen("samples = 2", "samples = 3", 1));
    assert_eq!(plan_here(&store, &more)[1].why, ["same recipe, 3 of 3 parts are not in the store yet"]);
}

/// Goal: what a training read is part of its recipe; the table is named all the same.
#[test]
fn a_training_on_other_rows() {
    let folder = scratch();
    let (store, file) = (folder.path().join("store"), pipeline(folder.path(), "p.toml", TINY));
    run_here(&store, &file).unwrap();
    let before = standing(&store, &file, "rewrites");
    let file = pipeline(folder.path(), "p.toml", &TINY.replacen("limit = 12", "limit = 14", 1));
    run_stages_here(&store, &file, &["rewrites".to_string()]).unwrap();
    let after = standing(&store, &file, "rewrites");
    let said = plan_here(&store, &file).pop().unwrap().why;
    assert_eq!(said.last(), Some(&format!("rewrites: {before} -> {after}")), "{said:?}");
    assert!(said.len() == 2 && said[0].starts_with("data: "), "{said:?}");
}

/// Goal: `--json` says the same, and a stage that only waits says for what.
#[test]
fn scripts_are_told_too() {
    let folder = tempfile::tempdir().unwrap();
    let file = pipeline(folder.path(), "p.toml", TINY);
    let store = folder.path().join("store");
    ok(&store, &["run", file.to_str().unwrap(), "rollouts"]);
    let more = pipeline(folder.path(), "p.toml", &TINY.replacen("samples = 2", "samples = 5", 1));
    let plan = json(&ok(&store, &["plan", more.to_str().unwrap(), "--json"]));
    assert_eq!(plan["stages"][1]["why"], serde_json::json!(["samples: 2 -> 5"]));
    assert_eq!((&plan["stages"][1]["rows_hit"], &plan["stages"][1]["rows_miss"]), (&24.into(), &36.into()));
    assert_eq!(plan["stages"][2]["why"], serde_json::json!(["waits for rollouts"]));
    fails(&store, &["plan", more.to_str().unwrap(), "rolouts"], 2);
}
