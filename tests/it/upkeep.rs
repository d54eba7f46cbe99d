//! check finds what is wrong, run makes it again and nothing else, gc takes what nothing refers to and nothing else.

use crate::support::{SMALL, TINY, by_stage, fails, json, mindgap, ok, pipeline, run_here, scratch, summary};
use mindgap::pipeline::Pipeline;
use mindgap::pipeline::{Event, Options, Outcome, Way};
use mindgap_base::error::Error;
use mindgap_store::{PartRecord, Rules, Store};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

/// Without training: a second.
fn sampled() -> String {
    SMALL.split("[stages.train]").next().unwrap().to_string()
}

/// A store in which the small pipeline ran.
pub struct Scratch {
    pub folder: tempfile::TempDir,
    file: String,
}

impl Scratch {
    pub fn new() -> Scratch {
        let folder = tempfile::tempdir().unwrap();
        let file = pipeline(folder.path(), "p.toml", &sampled()).to_str().unwrap().to_string();
        let scratch = Scratch { folder, file };
        scratch.run();
        scratch
    }

    pub fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// Address of every stage, and how many parts were computed.
    pub fn run(&self) -> (Vec<(String, Value)>, u64) {
        let done = json(&ok(&self.store(), &["run", &self.file, "--json"]));
        (by_stage(&done, "address"), by_stage(&done, "computed_parts").iter().filter_map(|(_, n)| n.as_u64()).sum())
    }

    /// The first file of a stage's table.
    fn object(&self, stage: &str) -> PathBuf {
        let view = self.store().join("tables/small").join(stage).join("part-00000.parquet");
        std::fs::canonicalize(view).unwrap()
    }

    /// Requires a finding of this kind that names `name`, then that a run heals it by computing `parts` parts.
    #[track_caller]
    pub fn is_found_and_healed(&self, problem: &str, name: &str, parts: u64) {
        let before = self.run_addresses();
        let found = findings(&self.store());
        let hit = found.iter().any(|(kind, path)| kind == problem && path.contains(name));
        assert!(hit, "no finding `{problem}` about `{name}` among {found:?}");
        let (after, computed) = self.run();
        assert_eq!((after, computed), (before, parts), "healing computes what is damaged and nothing else");
        assert_eq!(findings(&self.store()), [], "all is well after a run");
    }

    fn run_addresses(&self) -> Vec<(String, Value)> {
        by_stage(&json(&ok(&self.folder.path().join("whole"), &["run", &self.file, "--json"])), "address")
    }
}

pub fn findings(store: &Path) -> Vec<(String, String)> {
    let output = crate::support::run(store, &["check", "--json"]);
    let checked = json(&String::from_utf8(output.stdout).unwrap());
    let found = checked["findings"].as_array().unwrap().clone();
    assert_eq!(output.status.code(), Some(i32::from(!found.is_empty())));
    let text = |value: &Value, key: &str| value[key].as_str().unwrap().to_string();
    found.iter().map(|finding| (text(finding, "problem"), text(finding, "path"))).collect()
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_string()
}

#[test]
fn a_sound_store_has_no_findings() {
    let scratch = Scratch::new();
    let said = ok(&scratch.store(), &["check"]);
    assert!(said.contains("all is well"), "{said}");
}

#[test]
fn flipped_bytes_are_found_and_healed() {
    let scratch = Scratch::new();
    let object = scratch.object("rollouts");
    let mut bytes = std::fs::read(&object).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(&object, bytes).unwrap();
    scratch.is_found_and_healed("damaged", &name(&object), 1);
}

/// Bits that rot leave the file's time alone: only reading finds them.
#[test]
fn rotten_bits_are_found_and_healed() {
    let scratch = Scratch::new();
    let object = scratch.object("verdicts");
    let old = std::fs::metadata(&object).unwrap().modified().unwrap();
    let mut bytes = std::fs::read(&object).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&object, bytes).unwrap();
    std::fs::File::options().append(true).open(&object).unwrap().set_modified(old).unwrap();
    scratch.is_found_and_healed("damaged", &name(&object), 1);
}

#[test]
fn truncated_files_are_found_and_healed() {
    let scratch = Scratch::new();
    let object = scratch.object("rewrites");
    std::fs::File::options().write(true).open(&object).unwrap().set_len(100).unwrap();
    scratch.is_found_and_healed("damaged", &name(&object), 1);
    let object = scratch.object("rewrites");
    std::fs::File::create(&object).unwrap();
    scratch.is_found_and_healed("damaged", &name(&object), 1);
}

#[test]
fn missing_objects_are_found_and_healed() {
    let scratch = Scratch::new();
    std::fs::remove_file(scratch.object("logprobs")).unwrap();
    scratch.is_found_and_healed("missing", "stages/small/logprobs.json", 1);
}

#[test]
fn a_run_alone_heals_what_was_written_to() {
    let scratch = Scratch::new();
    let whole = scratch.run().0;
    let object = scratch.object("logprobs");
    let mut bytes = std::fs::read(&object).unwrap();
    bytes[9] ^= 1;
    std::fs::write(&object, bytes).unwrap();
    assert_eq!(scratch.run(), (whole, 1));
    assert_eq!(findings(&scratch.store()), []);
}

#[test]
fn dangling_manifests_are_found_and_healed() {
    let scratch = Scratch::new();
    let pointer = scratch.store().join("stages/small/verdicts.json");
    let manifest = json(&std::fs::read_to_string(&pointer).unwrap())["manifest"].as_str().unwrap().to_string();
    std::fs::remove_file(scratch.store().join("objects").join(&manifest[..2]).join(&manifest)).unwrap();
    scratch.is_found_and_healed("missing", "stages/small/verdicts.json", 0);
    std::fs::write(&pointer, "{").unwrap();
    scratch.is_found_and_healed("unreadable", "stages/small/verdicts.json", 0);
}

#[test]
fn broken_views_are_found_and_healed() {
    let scratch = Scratch::new();
    let link = scratch.store().join("tables/small/rewrites");
    std::fs::remove_file(&link).unwrap();
    scratch.is_found_and_healed("view", "tables/small/rewrites", 0);
}

/// A file that is whole by its hash, but is not what its record says: a record of a build that kept no checksum.
#[test]
fn a_record_of_another_table_is_found() {
    let scratch = Scratch::new();
    let part_of = |stage: &str, table: &str| -> Value {
        let pointer =
            json(&std::fs::read_to_string(scratch.store().join(format!("stages/small/{stage}.json"))).unwrap());
        let manifest = pointer["manifest"].as_str().unwrap();
        let path = scratch.store().join("objects").join(&manifest[..2]).join(manifest);
        let manifest = json(&std::fs::read_to_string(path).unwrap());
        manifest["parts"][0]["tables"][table][0].clone()
    };
    let (verdicts, rollouts) = (part_of("verdicts", "verdicts"), part_of("rollouts", "rollouts"));
    // Swap the address in the record of the rollouts' part.
    for family in std::fs::read_dir(scratch.store().join("memo")).unwrap() {
        for record in std::fs::read_dir(family.unwrap().path()).unwrap() {
            let path = record.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let without_checksum = text.split_once("\",").map_or(text.clone(), |(_, rest)| format!("{{{rest}"));
            let swapped = without_checksum
                .replace(rollouts["address"].as_str().unwrap(), verdicts["address"].as_str().unwrap())
                .replace(&format!("\"bytes\":{}", rollouts["bytes"]), &format!("\"bytes\":{}", verdicts["bytes"]));
            if text.contains("\"rollouts\":[{") && swapped != without_checksum {
                std::fs::write(&path, swapped).unwrap();
            }
        }
    }
    let found = findings(&scratch.store());
    assert!(found.iter().any(|(kind, path)| kind == "schema" && path.contains("/memo/")), "{found:?}");
}

/// Files of a store, with their bytes' number.
pub fn files(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let kind = entry.file_type().unwrap();
        match kind.is_dir() {
            true => found.extend(files(&entry.path())),
            false => found.push((entry.path(), entry.metadata().unwrap().len())),
        }
    }
    found.sort();
    found
}

#[test]
fn gc_takes_what_nothing_refers_to() {
    let scratch = Scratch::new();
    let (whole, _) = scratch.run();
    // Another temperature: the first rollouts and all that came of them are no longer referred to.
    let warm =
        pipeline(scratch.folder.path(), "w.toml", &sampled().replace("samples = 2", "samples = 2\ntemperature = 0.7"));
    ok(&scratch.store(), &["run", warm.to_str().unwrap()]);

    let before = files(&scratch.store());
    let kept = json(&ok(&scratch.store(), &["gc", "--json"]));
    assert!(kept["kept_recent"].as_u64().unwrap() > 0, "parts used lately stay: {kept}");
    let planned = json(&ok(&scratch.store(), &["gc", "--keep-days", "0", "--json"]));
    assert!(planned["objects"].as_u64().unwrap() > 0 && planned["deleted"] == false, "{planned}");
    assert_eq!(files(&scratch.store()), before, "a dry run changes nothing");

    let done = json(&ok(&scratch.store(), &["gc", "--keep-days", "0", "--delete", "--json"]));
    assert_eq!(done["bytes"], planned["bytes"]);
    let left: u64 = files(&scratch.store().join("objects")).iter().map(|(_, bytes)| bytes).sum();
    assert_eq!(left, done["kept_bytes"].as_u64().unwrap());
    assert_eq!(findings(&scratch.store()), []);
    let warm_again = json(&ok(&scratch.store(), &["run", warm.to_str().unwrap(), "--json"]));
    assert!(by_stage(&warm_again, "computed_parts").iter().all(|(_, n)| n == 0), "{warm_again}");
    // What was removed is made again, the same.
    let (again, computed) = scratch.run();
    assert_eq!(again, whole);
    assert!(computed > 0);
}

#[test]
fn gc_forgets_a_pipeline_only_by_its_name() {
    let scratch = Scratch::new();
    let said = fails(&scratch.store(), &["gc", "--forget", "smal"], 2);
    assert!(said.contains("no pipeline `smal`") && said.contains("small"), "{said}");
    ok(&scratch.store(), &["gc", "--forget", "small", "--keep-days", "0", "--delete"]);
    assert_eq!(files(&scratch.store().join("objects")), []);
    assert_eq!(findings(&scratch.store()), []);
    assert!(scratch.run().1 > 0);
}

#[test]
fn gc_removes_nothing_when_a_pointer_cannot_be_read() {
    let scratch = Scratch::new();
    std::fs::write(scratch.store().join("stages/small/rollouts.json"), "").unwrap();
    let before = files(&scratch.store());
    let said = fails(&scratch.store(), &["gc", "--keep-days", "0", "--delete"], 3);
    assert!(said.contains("nothing was removed"), "{said}");
    assert_eq!(files(&scratch.store()), before);
}

/// Goal: a collection that takes all it may, again and again, costs a running pipeline nothing.
#[test]
fn gc_is_safe_beside_a_running_pipeline() {
    let folder = tempfile::tempdir().unwrap();
    let file = pipeline(folder.path(), "p.toml", &sampled());
    let (store, file) = (folder.path().join("store"), file.to_str().unwrap());
    let whole = by_stage(&json(&ok(&folder.path().join("whole"), &["run", file, "--json"])), "address");
    let mut run =
        mindgap(&store, &["run", file, "--json"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut collections = 0;
    while run.try_wait().unwrap().is_none() {
        if store.join("VERSION").exists() {
            ok(&store, &["gc", "--keep-days", "1", "--delete"]);
            collections += 1;
        }
    }
    let output = run.wait_with_output().unwrap();
    assert!(output.status.success());
    assert!(collections > 3, "the run ended before anything was collected");
    let done = json(&String::from_utf8(output.stdout).unwrap());
    assert_eq!(by_stage(&done, "address"), whole);
    assert_eq!(findings(&store), []);
    let again = json(&ok(&store, &["run", file, "--json"]));
    assert!(by_stage(&again, "computed_parts").iter().all(|(_, n)| n == 0));
}

/// Runs the tiny pipeline in this process. `disturb` is called before each part of the rollouts, with the number of parts
/// begun before.
fn run_disturbed(store: &Path, file: &Path, disturb: impl Fn(usize) + Sync) -> Result<Vec<Outcome>, Error> {
    let begun = AtomicUsize::new(0);
    let observer = |event: Event| {
        if matches!(event, Event::PartStarted { stage: "rollouts", .. }) {
            disturb(begun.fetch_add(1, Ordering::Relaxed));
        }
    };
    let options = Options {
        threads: 1,
        device: &candle_core::Device::Cpu,
        cancel: &AtomicBool::new(false),
        way: Way::Run { share: None },
        observer: &observer,
    };
    mindgap::pipeline::run(&Pipeline::load(file, &[]).unwrap(), &Store::open(store).unwrap(), &[], &options)
}

/// Goal: a collection takes no part of the stage that a run works on, whatever their age and however little it keeps.
#[test]
fn gc_takes_no_part_of_a_stage_at_work() {
    let folder = scratch();
    let file = pipeline(folder.path(), "p.toml", TINY);
    let whole = summary(&run_here(&folder.path().join("whole"), &file).unwrap());
    for (name, keep) in [("nothing", Duration::ZERO), ("a week", Duration::from_secs(7 * 24 * 60 * 60))] {
        let store = folder.path().join(name);
        let collect = |_| {
            for (path, _) in files(&store.join("memo")) {
                let week_ago = SystemTime::now() - Duration::from_secs(8 * 24 * 60 * 60);
                std::fs::File::options().append(true).open(path).unwrap().set_modified(week_ago).unwrap();
            }
            let rules = Rules { forget: Vec::new(), keep };
            Store::look(&store).unwrap().collect_garbage(&rules, true).unwrap();
        };
        let outcomes = run_disturbed(&store, &file, collect).unwrap();
        assert_eq!(findings(&store), [], "the run said that it is done");
        assert_eq!(summary(&outcomes), whole, "nothing is made twice");
    }
}

/// Removes the records of the rollouts and their objects, against all rules.
fn remove_rollouts(store: &Path) {
    for (path, _) in files(&store.join("memo")).into_iter().filter(|(path, _)| !path.ends_with("recipe.json")) {
        let record: PartRecord = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        for part in record.tables.get("rollouts").into_iter().flatten() {
            std::fs::remove_file(Store::look(store).unwrap().object_path(&part.address)).unwrap();
            std::fs::remove_file(&path).unwrap();
        }
    }
}

/// Goal: a stage is not published without the parts that were removed while the others were made: these are made again.
#[test]
fn parts_removed_from_a_stage_at_work_are_made_again() {
    let folder = scratch();
    let file = pipeline(folder.path(), "p.toml", TINY);
    let whole = summary(&run_here(&folder.path().join("whole"), &file).unwrap());
    let store = folder.path().join("store");
    let at_the_third = |begun| {
        if begun == 2 {
            remove_rollouts(&store)
        }
    };
    let outcomes = run_disturbed(&store, &file, at_the_third).unwrap();
    assert_eq!(findings(&store), [], "the run said that it is done");
    assert_eq!(summary(&outcomes), (whole.0, whole.1 + 2), "two of three parts were removed, and made again");
}

/// Goal: a run whose store is moved ends with an error that says so, and does not go on at a place where nobody looks; at its new place
/// the store goes on.
#[test]
fn a_store_that_is_moved_is_missed() {
    let folder = scratch();
    let file = pipeline(folder.path(), "p.toml", TINY);
    let whole = summary(&run_here(&folder.path().join("whole"), &file).unwrap());
    let (store, elsewhere) = (folder.path().join("store"), folder.path().join("elsewhere"));
    let at_the_second = |begun| {
        if begun == 1 {
            std::fs::rename(&store, &elsewhere).unwrap();
        }
    };
    let error = run_disturbed(&store, &file, at_the_second).unwrap_err();
    assert_eq!(error.kind().exit_code(), 4);
    assert!(error.to_string().contains("gone from its place"), "{error}");
    assert!(!store.join("memo").exists(), "nothing is remembered at the old place");
    let again = summary(&run_here(&elsewhere, &file).unwrap());
    assert_eq!((again.0, again.1 + 2), whole, "two parts were there already");
}

/// Goal: a run that loses its parts again and again ends with an error that says why; it neither loops nor says done.
#[test]
fn a_stage_that_keeps_losing_parts_is_an_error() {
    let folder = scratch();
    let file = pipeline(folder.path(), "p.toml", TINY);
    let store = folder.path().join("store");
    let error = run_disturbed(&store, &file, |_| remove_rollouts(&store)).unwrap_err();
    assert_eq!(error.kind().exit_code(), 4);
    let said = error.to_string();
    assert!(said.contains("were removed from the store") && said.contains("stage `rollouts`"), "{said}");
    assert!(!store.join("stages/tiny/rollouts.json").exists());
    let whole = summary(&run_here(&folder.path().join("whole"), &file).unwrap());
    assert_eq!(summary(&run_here(&store, &file).unwrap()).0, whole.0);
    assert_eq!(findings(&store), []);
}

#[test]
fn shares_of_parts_make_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    let file = pipeline(folder.path(), "p.toml", &sampled());
    let (store, file) = (folder.path().join("store"), file.to_str().unwrap());
    let whole = by_stage(&json(&ok(&folder.path().join("whole"), &["run", file, "--json"])), "address");
    let mut computed = 0;
    for part in ["1/2", "2/2"] {
        let done = json(&ok(&store, &["run", file, "rollouts", "--part", part, "--json"]));
        let count = |field| by_stage(&done, field).into_iter().find(|(name, _)| name == "rollouts").unwrap().1;
        computed += count("computed_parts").as_u64().unwrap();
        assert_eq!(count("state"), if part == "1/2" { "partial" } else { "done" });
    }
    assert_eq!(computed, by_stage(&json(&ok(&store, &["status", file, "--json"])), "parts")[1].1.as_u64().unwrap());
    let done = json(&ok(&store, &["run", file, "--json"]));
    assert_eq!(by_stage(&done, "address"), whole);
    assert_eq!(by_stage(&done, "computed_parts").into_iter().find(|(n, _)| n == "rollouts").unwrap().1, 0);
    fails(&store, &["run", file, "rollouts", "verdicts", "--part", "1/2"], 2);
    fails(&store, &["run", file, "--part", "1/2"], 2);
    fails(&store, &["run", file, "rollouts", "--part", "3/2"], 2);
}
