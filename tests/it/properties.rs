//! What holds for any input: of fingerprints, of cuts, of objects under damage, and of what a change makes a pipeline compute.

use crate::support::{SMALL, plan_here, run_here, scratch};
use mindgap::pipeline::{Pipeline, StagePlan};
use mindgap_base::fingerprint::Recipe;
use mindgap_store::table::verdicts::VerdictRow;
use mindgap_store::{Store, Table};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<i64>().prop_map(Value::from),
        "[a-z:{},\\[\\]\"]{0,6}".prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null),
    ]
}

fn fields() -> impl Strategy<Value = BTreeMap<String, Value>> {
    let value = scalar().prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{1,3}", inner, 0..3).prop_map(|map| json!(map)),
        ]
    });
    prop::collection::btree_map("[a-z]{1,4}", value, 0..5)
}

fn recipe<'a>(fields: impl IntoIterator<Item = (&'a String, &'a Value)>) -> Recipe {
    fields.into_iter().fold(Recipe::default(), |recipe, (name, value)| recipe.with(name, value))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    /// Two recipes have one fingerprint exactly if they have the same fields, in whatever order these were named.
    #[test]
    fn fingerprints_name_recipes(a in fields(), b in fields()) {
        prop_assert_eq!(recipe(&a).fingerprint(), recipe(a.iter().rev()).fingerprint());
        prop_assert_eq!(a == b, recipe(&a).fingerprint() == recipe(&b).fingerprint());
    }

    /// The order of a list is part of a recipe.
    #[test]
    fn list_order_matters(mut list in prop::collection::vec(scalar(), 2..5)) {
        let of = |list: &[Value]| Recipe::default().with("list", list).fingerprint();
        let before = (list.clone(), of(&list));
        list.rotate_left(1);
        prop_assert_eq!(before.0 == list, before.1 == of(&list));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    /// An object comes back as it went in, or the error names its file; storing it again repairs it.
    #[test]
    fn objects_under_damage(bytes in prop::collection::vec(any::<u8>(), 1..2000), at in any::<prop::sample::Index>(), how in 0..3) {
        let folder = scratch();
        let store = Store::open(folder.path()).unwrap();
        let address = store.put(&bytes).unwrap();
        prop_assert_eq!(&store.get(&address).unwrap(), &bytes);
        let (path, at) = (store.object_path(&address), at.index(bytes.len()));
        let mut damaged = bytes.clone();
        match how {
            0 => damaged[at] ^= 1,
            1 => damaged.truncate(at),
            _ => damaged[at..].fill(!bytes[at]),
        }
        std::fs::write(&path, &damaged).unwrap();
        let error = store.get(&address).unwrap_err().to_string();
        prop_assert!(error.contains(&path.display().to_string()), "{}", error);
        prop_assert_eq!(store.put(&bytes).unwrap(), address.clone());
        prop_assert_eq!(store.get(&address).unwrap(), bytes);
    }
}

/// Problems by number, as a file beside the pipeline.
pub fn write_problems(folder: &Path, numbers: impl IntoIterator<Item = u32>) {
    let row = |i: u32| json!({"question": format!("{i}+1?"), "answer": (i + 1).to_string(), "solution": format!("\\boxed{{{}}}", i + 1)});
    let rows: Vec<String> = numbers.into_iter().map(|i| row(i).to_string()).collect();
    std::fs::write(folder.join("rows.jsonl"), rows.join("\n")).unwrap();
}

/// From problems to rewrites, with guided samples; one token each.
pub const GUIDED: &str = r#"
name = "guided"
[policies]
base = { path = "FIXTURES/model/qwen2" }
[stages.problems]
kind = "ingest"
files = ["rows.jsonl"]
part_problems = 16
[stages.rollouts]
kind = "rollout"
problems = "problems"
policy = "base"
samples = 1
max_new_tokens = 1
part_problems = 32
[stages.verdicts]
kind = "judge"
rollouts = "rollouts"
problems = "problems"
[stages.guided]
kind = "rollout"
problems = "problems"
policy = "base"
unsolved = ["verdicts"]
prompt_kind = "guided"
template = "guided.j2"
samples = 1
max_new_tokens = 1
part_problems = 32
[stages.guided_verdicts]
kind = "judge"
rollouts = "guided"
problems = "problems"
[stages.rewrites]
kind = "rewrite"
problems = "problems"
policy = "base"
self_aligned = ["verdicts"]
guided = ["guided_verdicts"]
part_problems = 32
"#;

/// A store in which `text` has run on problems 0 to 100.
pub struct Ran {
    pub folder: tempfile::TempDir,
    pub text: String,
}

impl Ran {
    pub fn new(text: &str) -> Ran {
        let ran = Ran { folder: scratch(), text: text.to_string() };
        write_problems(ran.folder.path(), 0..100);
        std::fs::write(ran.folder.path().join("guided.j2"), "{{ solution }} {{ question }}").unwrap();
        ran.run();
        ran
    }

    pub fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    pub fn file(&self) -> PathBuf {
        crate::support::pipeline(self.folder.path(), "p.toml", &self.text)
    }

    fn run(&self) {
        run_here(&self.store(), &self.file()).unwrap();
    }

    pub fn change(&mut self, from: &str, to: &str) {
        assert!(self.text.contains(from), "`{from}` is not in the pipeline");
        self.text = self.text.replacen(from, to, 1);
    }

    /// What each stage would have to compute now: (parts, rows); stages that wait for others are left out.
    fn misses(&self) -> BTreeMap<String, (usize, u64)> {
        let plans = plan_here(&self.store(), &self.file());
        let known = plans.into_iter().filter(|plan| plan.waits_for.is_empty());
        known.map(|StagePlan { name, parts_miss, rows_miss, .. }| (name, (parts_miss, rows_miss))).collect()
    }

    /// What each stage computes in the next run: parts.
    fn computes(&self) -> BTreeMap<String, usize> {
        let outcomes = run_here(&self.store(), &self.file()).unwrap();
        outcomes.into_iter().map(|o| (o.name, o.computed_parts)).filter(|(_, parts)| *parts > 0).collect()
    }

    /// Contents of a stage's parts.
    fn contents(&self, stage: &str) -> BTreeSet<String> {
        let store = Store::open(self.store()).unwrap();
        let pipeline = Pipeline::load(&self.file(), &[]).unwrap();
        let pointer = store.pointer(&pipeline.name, stage).unwrap().unwrap();
        let manifest = store.get_manifest(&pointer.manifest).unwrap();
        let parts = manifest.table(manifest.main_table.as_deref().unwrap());
        parts.into_iter().map(|part| part.content.to_string()).collect()
    }
}

fn counts(pairs: &[(&str, usize)]) -> BTreeMap<String, usize> {
    pairs.iter().map(|(name, count)| (name.to_string(), *count)).collect()
}

/// Goal: a new judge, or a new version of one, re-samples nothing.
#[test]
fn another_judge_samples_nothing() {
    let mut ran = Ran::new(GUIDED);
    ran.change("kind = \"judge\"\n", "kind = \"judge\"\njudge = \"exact\"\n");
    let misses = ran.misses();
    assert_eq!((misses["problems"], misses["rollouts"]), ((0, 0), (0, 0)));
    assert!(misses["verdicts"].0 > 0);
}

/// Goal: a changed template of the guided prompts leaves the plain samples and their verdicts.
#[test]
fn another_guided_template_leaves_plain_rollouts() {
    let ran = Ran::new(GUIDED);
    std::fs::write(ran.folder.path().join("guided.j2"), "{{ question }} Hint: {{ solution }}").unwrap();
    let misses = ran.misses();
    assert_eq!((misses["rollouts"], misses["verdicts"]), ((0, 0), (0, 0)));
    assert_eq!(misses["guided"].1, 100);
}

/// Goal: a stage recomputed to the same rows leaves its consumers cached: here the fields are named that were guessed before.
#[test]
fn equal_rows_leave_consumers_cached() {
    let mut ran = Ran::new(GUIDED);
    ran.change(
        "files = [\"rows.jsonl\"]",
        "files = [\"rows.jsonl\"]\nfields = { question = \"question\", answer = \"answer\" }",
    );
    assert_eq!(ran.misses()["problems"].0, 1);
    assert_eq!(ran.computes(), counts(&[("problems", 1)]));
}

/// Goal: raising the samples draws exactly the missing ones, whatever the numbers.
#[test]
fn more_samples_are_drawn_exactly() {
    let mut ran = Ran::new(&GUIDED.replacen("samples = 1", "samples = 4", 1));
    for (from, to, more) in [(4, 10, 600), (10, 11, 100), (11, 3, 0)] {
        ran.change(&format!("samples = {from}\n"), &format!("samples = {to}\n"));
        assert_eq!(ran.misses()["rollouts"].1, more, "from {from} to {to}");
        ran.run();
    }
}

/// Goal: removing a problem touches the part it falls in and no other, and samples nothing.
#[test]
fn removing_a_problem_touches_one_part() {
    for victim in [0, 17, 50, 99] {
        let ran = Ran::new(GUIDED);
        let before = ran.contents("problems");
        write_problems(ran.folder.path(), (0..100).filter(|i| *i != victim));
        let computed = ran.computes();
        let after = ran.contents("problems");
        assert_eq!(after.difference(&before).count(), 1, "problem {victim}");
        let one = ["problems", "rollouts", "verdicts", "guided", "guided_verdicts", "rewrites"].map(|name| (name, 1));
        assert_eq!(computed, counts(&one), "problem {victim}");
    }
}

/// Goal: a damaged part of the past, from which rows would be taken over, is dropped and its rows made anew.
#[test]
fn damaged_rows_are_not_taken_over() {
    let ran = Ran::new(GUIDED);
    let rollouts = std::fs::canonicalize(ran.store().join("tables/guided/rollouts/part-00000.parquet")).unwrap();
    let mut bytes = std::fs::read(&rollouts).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&rollouts, bytes).unwrap();
    write_problems(ran.folder.path(), 0..200);
    ran.run();
    let clean = Ran { folder: scratch(), text: GUIDED.to_string() };
    std::fs::copy(ran.folder.path().join("guided.j2"), clean.folder.path().join("guided.j2")).unwrap();
    write_problems(clean.folder.path(), 0..200);
    clean.run();
    assert_eq!(ran.contents("rewrites"), clean.contents("rewrites"));
    assert_eq!(ran.contents("rollouts"), clean.contents("rollouts"));
}

/// Goal: adding 100 problems to 10,000 samples those 100 and none of the others.
#[test]
fn adding_problems_samples_only_them() {
    let end = GUIDED.find("[stages.guided]").unwrap();
    let text = GUIDED[..end]
        .replace("part_problems = 16", "part_problems = 64")
        .replace("part_problems = 32", "part_problems = 64");
    let ran = Ran { folder: scratch(), text };
    write_problems(ran.folder.path(), 0..10_000);
    ran.run();
    write_problems(ran.folder.path(), 0..10_100);
    run_only(&ran, "problems");
    let plan = plan_here(&ran.store(), &ran.file());
    let rollouts = plan.iter().find(|plan| plan.name == "rollouts").unwrap();
    assert_eq!((rollouts.rows_hit, rollouts.rows_miss), (10_000, 100));
    assert!(rollouts.parts_hit > 0, "no part of 64 problems is untouched by 100 new ones");
}

/// Goal: what is left to sample is counted without reading a table, and the same as by reading, which records of earlier builds
/// make necessary.
#[test]
fn plans_count_without_reading() {
    let guided = "[stages.guided]\nkind = \"rollout\"\nproblems = \"problems\"\npolicy = \"base\"\nunsolved = [\"verdicts\"]\n\
                  prompt_kind = \"guided\"\ntemplate = \"TEMPLATES/world-guided.j2\"\nmax_new_tokens = 1\nsamples = 3\n";
    let start = SMALL.split("[stages.rewrites]").next().unwrap();
    let text = start.replace("max_new_tokens = 60", "max_new_tokens = 110") + guided;
    let mut ran = Ran { folder: scratch(), text };
    run_only(&ran, "verdicts");
    let store = Store::look(ran.store()).unwrap();
    let manifest = |stage: &str| store.get_manifest(&store.pointer("small", stage).unwrap().unwrap().manifest).unwrap();
    let verdicts = Table::<VerdictRow>::new(&store, manifest("verdicts").table("verdicts")).read_all().unwrap();
    let chosen = verdicts.iter().filter(|row| row.may_be_chosen());
    let solved = chosen.map(|row| &row.problem_id).collect::<BTreeSet<_>>().len() as u64;
    assert!(solved > 0 && solved < 24, "{solved} of 24 problems are solved");
    // Rotten bits leave size and time alone: only reading would find them.
    let objects: Vec<PathBuf> = ["problems", "rollouts", "verdicts"]
        .iter()
        .flat_map(|stage| manifest(stage).table(stage))
        .map(|part| store.object_path(&part.address))
        .collect();
    let rot = || {
        for path in &objects {
            // Far enough in the past that nothing is hashed for having been written just now.
            let modified = std::fs::metadata(path).unwrap().modified().unwrap() - Duration::from_secs(1);
            let mut bytes = std::fs::read(path).unwrap();
            bytes[30] ^= 1;
            std::fs::write(path, bytes).unwrap();
            std::fs::File::options().append(true).open(path).unwrap().set_modified(modified).unwrap();
        }
    };
    let count = |ran: &Ran, stage: &str| {
        let plan = plan_here(&ran.store(), &ran.file()).into_iter().find(|plan| plan.name == stage).unwrap();
        (plan.rows_hit, plan.rows_miss)
    };
    rot();
    assert_eq!(count(&ran, "guided"), (0, 3 * (24 - solved)));
    ran.change("samples = 2\n", "samples = 5\n");
    assert_eq!(count(&ran, "rollouts"), (48, 72));
    ran.change("samples = 5\n", "samples = 2\n");
    rot();
    for family in std::fs::read_dir(ran.store().join("memo")).unwrap() {
        for record in std::fs::read_dir(family.unwrap().path()).unwrap() {
            let path = record.unwrap().path();
            let mut record: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            record.as_object_mut().unwrap().shift_remove("checksum");
            let tables = record.get_mut("tables").and_then(Value::as_object_mut).into_iter().flatten();
            for part in tables.flat_map(|(_, parts)| parts.as_array_mut().unwrap()) {
                part.as_object_mut().unwrap().remove("counts");
            }
            let older = record.to_string();
            std::fs::write(&path, older).unwrap();
        }
    }
    assert_eq!(count(&ran, "guided"), (0, 3 * (24 - solved)));
}

fn run_only(ran: &Ran, stage: &str) {
    crate::support::run_stages_here(&ran.store(), &ran.file(), &[stage.to_string()]).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(12) })]

    /// Of a table of problems, an added or removed one changes its own part; one that starts a part joins two or splits one.
    #[test]
    fn cuts_follow_content(size in 1..400u32, other in 0..400u32) {
        let ran = Ran { folder: scratch(), text: GUIDED[..GUIDED.find("[stages.rollouts]").unwrap()].to_string() };
        let (size, other) = (size + 1, other % size);
        write_problems(ran.folder.path(), 0..size);
        ran.run();
        let all = ran.contents("problems");
        write_problems(ran.folder.path(), (0..size).filter(|i| *i != other));
        ran.run();
        let fewer = ran.contents("problems");
        prop_assert!(all.difference(&fewer).count() <= 2, "{} of {}", all.difference(&fewer).count(), all.len());
        prop_assert!(fewer.difference(&all).count() <= 1);
        // The order of a file does not matter.
        write_problems(ran.folder.path(), (0..size).rev());
        ran.run();
        prop_assert_eq!(ran.contents("problems"), all);
    }
}
