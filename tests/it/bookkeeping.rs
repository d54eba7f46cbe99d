//! Names that are paths, records and versions that were changed: what a store's bookkeeping survives.

use crate::support::{SMALL, fails, json, ok, pipeline};
use crate::upkeep::{Scratch, files, findings};
use mindgap_store::PartRecord;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Goal: a pipeline's name becomes files and folders of the store, so what is no single name is refused, whether it is given or
/// comes from the file's name.
#[test]
fn names_that_are_no_file_name_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("a/store");
    let refused = |file: &Path, says: &str| {
        for command in ["run", "plan", "status", "report"] {
            let error = fails(&store, &[command, file.to_str().unwrap()], 2);
            assert!(error.contains(says) && error.contains("give the pipeline a `name`"), "{error}");
        }
    };
    for name in ["team/exp1", "../../escaped", "/tmp/escaped", "..", ".", "", ".hidden", "a b", "a\\\\b"] {
        let file = pipeline(folder.path(), "p.toml", &SMALL.replace("\"small\"", &format!("\"{name}\"")));
        refused(&file, &format!("pipeline name `{}`", name.replace("\\\\", "\\")));
    }
    let nameless = SMALL.replace("name = \"small\"\n", "");
    for file in ["2026-01-15.toml", "my pipeline.toml", ".toml"] {
        refused(&pipeline(folder.path(), file, &nameless), "from the file `");
    }
    assert!(!folder.path().join("a").exists(), "nothing was written");
    let file = pipeline(folder.path(), "07-ordered.toml", &nameless);
    ok(&store, &["run", file.to_str().unwrap(), "problems"]);
    assert!(store.join("stages/ordered/problems.json").is_file());
}

/// Goal: what earlier builds stored under such a name is found by `check`, kept by `gc` until it is forgotten by that name, and taken
/// over by a pipeline of another name.
#[test]
fn results_under_a_path_are_kept_until_forgotten() {
    let scratch = Scratch::new();
    let (store, whole) = (scratch.store(), scratch.run().0);
    let stages = store.join("stages");
    std::fs::create_dir_all(stages.join("team")).unwrap();
    std::fs::rename(stages.join("small"), stages.join("team/exp1")).unwrap();
    std::fs::remove_dir_all(store.join("tables")).unwrap();
    // A pipeline without a name, as of a file `2026-01-15.toml`.
    std::fs::copy(stages.join("team/exp1/problems.json"), stages.join("problems.json")).unwrap();

    let found = findings(&store);
    let paths: Vec<&str> = found.iter().map(|(_, path)| path.strip_prefix(store.to_str().unwrap()).unwrap()).collect();
    assert_eq!(paths, ["/stages/", "/stages/team/exp1"]);
    let objects = files(&store.join("objects"));
    ok(&store, &["gc", "--keep-days", "0", "--delete"]);
    assert_eq!(files(&store.join("objects")), objects, "a pointer reaches all of it");

    assert_eq!(scratch.run(), (whole, 0));
    let said = fails(&store, &["gc", "--forget", "team"], 2);
    assert!(said.contains("team/exp1"), "{said}");
    ok(&store, &["gc", "--forget", "team/exp1", "--forget", "", "--keep-days", "0", "--delete"]);
    assert_eq!(findings(&store), []);
    assert_eq!(files(&store.join("objects")), objects, "the pipeline of the new name reaches it");
}

/// The record of a part of this table.
fn record_of(store: &Path, table: &str) -> PathBuf {
    records(store).into_iter().find(|(_, record)| record.tables.contains_key(table)).expect("a part of the table").0
}

fn records(store: &Path) -> Vec<(PathBuf, PartRecord)> {
    let paths = files(&store.join("memo")).into_iter().map(|(path, _)| path);
    let paths = paths.filter(|path| !path.ends_with("recipe.json"));
    paths.map(|path| (path.clone(), serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap())).collect()
}

/// Goal: a change to any field of a part record is found, and costs one part: none gives other results, none blocks a run.
#[test]
fn changed_records_are_found_and_healed() {
    let scratch = Scratch::new();
    let part = |record: &mut Value, table: &str, field: &str| record["tables"][table][0][field].take();
    type Change<'a> = &'a dyn Fn(&mut Value);
    let changes: [(&str, Change); 8] = [
        ("fingerprint", &|record| record["fingerprint"] = "f".repeat(64).into()),
        ("span", &|record| record["span"]["first"] = "0".into()),
        ("table", &|record| {
            let parts = record["tables"]["verdicts"].take();
            record["tables"] = serde_json::json!({ "verdictt": parts });
        }),
        ("content", &|record| record["tables"]["verdicts"][0]["content"] = "f".repeat(64).into()),
        ("rows", &|record| {
            let rows = part(record, "verdicts", "rows").as_u64().unwrap();
            record["tables"]["verdicts"][0]["rows"] = (rows ^ 1).into();
        }),
        ("first", &|record| {
            let first = part(record, "verdicts", "first").as_str().unwrap().to_string();
            let flipped = char::from(first.as_bytes()[0] ^ 1);
            record["tables"]["verdicts"][0]["first"] = format!("{flipped}{}", &first[1..]).into();
        }),
        ("last", &|record| record["tables"]["verdicts"][0]["last"] = "0".into()),
        ("counts", &|record| {
            let solved = part(record, "verdicts", "counts")["solved_problems"].as_u64().unwrap();
            record["tables"]["verdicts"][0]["counts"] = serde_json::json!({ "solved_problems": solved ^ 1 });
        }),
    ];
    for (field, change) in changes {
        let path = record_of(&scratch.store(), "verdicts");
        let whole = std::fs::read_to_string(&path).unwrap();
        let mut record = json(&whole);
        assert_eq!(record.to_string(), whole, "the field alone is to differ");
        change(&mut record);
        assert_ne!(record.to_string(), whole, "`{field}` was not changed");
        std::fs::write(&path, record.to_string()).unwrap();
        scratch.is_found_and_healed("unreadable", path.file_name().unwrap().to_str().unwrap(), 1);
    }
}

/// Goal: records that were swapped are nobody's.
#[test]
fn swapped_records_are_found_and_healed() {
    let scratch = Scratch::new();
    let parts = records(&scratch.store());
    let verdicts: Vec<&PathBuf> =
        parts.iter().filter(|(_, record)| record.tables.contains_key("verdicts")).map(|(path, _)| path).collect();
    let [one, other] = [verdicts[0], verdicts[1]].map(|path| std::fs::read(path).unwrap());
    std::fs::write(verdicts[0], other).unwrap();
    std::fs::write(verdicts[1], one).unwrap();
    scratch.is_found_and_healed("unreadable", verdicts[1].file_name().unwrap().to_str().unwrap(), 2);
}

/// Goal: a store of a build whose records had no checksum is read, and nothing in it is made again.
#[test]
fn records_of_earlier_builds_are_read() {
    let scratch = Scratch::new();
    let whole = scratch.run().0;
    for (path, record) in records(&scratch.store()) {
        std::fs::write(path, serde_json::to_vec(&record).unwrap()).unwrap();
    }
    assert_eq!(findings(&scratch.store()), []);
    assert_eq!(scratch.run(), (whole, 0));
}

/// Goal: a `VERSION` that was cut, edited, flipped or overwritten in a store blocks nothing, and is written again; another layout
/// stays refused.
#[test]
fn a_damaged_version_is_found_and_healed() {
    let scratch = Scratch::new();
    let version = scratch.store().join("VERSION");
    let whole = std::fs::read(&version).unwrap();
    for damaged in
        ["mindgap store 1", "mindgap store 1\r\n", "mind", "lindgap store 1\n", "mindgap store 3\n", "garbage"]
    {
        std::fs::write(&version, damaged).unwrap();
        scratch.is_found_and_healed("unreadable", "VERSION", 0);
        assert_eq!(std::fs::read(&version).unwrap(), whole);
    }
    std::fs::remove_file(&version).unwrap();
    scratch.is_found_and_healed("unreadable", "VERSION", 0);
    std::fs::write(&version, "mindgap store 2\n").unwrap();
    for command in [&["check"][..], &["run", "pipelines/smoke.toml"], &["gc", "--delete", "--keep-days", "0"]] {
        let said = fails(&scratch.store(), command, 3);
        assert!(said.contains("store has layout `mindgap store 2`"), "{said}");
    }
}

/// Flips a bit of an object and leaves its time alone, as disks do: only reading it would tell.
fn rot(object: &Path) {
    let modified = std::fs::metadata(object).unwrap().modified().unwrap() - Duration::from_secs(1);
    let mut bytes = std::fs::read(object).unwrap();
    bytes[20] ^= 1;
    std::fs::write(object, bytes).unwrap();
    std::fs::File::options().append(true).open(object).unwrap().set_modified(modified).unwrap();
}

/// Goal: a mistake in what a stage reads of the user's is told at once. Objects that have nothing to do with it are neither read
/// nor touched.
#[test]
fn a_bad_input_reads_no_other_object() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let other = "[stages.other]\nkind = \"ingest\"\nfiles = [\"DATA/world/train-0.parquet\"]\nlimit = 30\n";
    let text = SMALL.split("[stages.verdicts]").next().unwrap().to_string() + other;
    let file = pipeline(folder.path(), "p.toml", &text.replace("samples = 2", "samples = 2\ntemplate = \"slip.j2\""));
    let file = file.to_str().unwrap();
    std::fs::write(folder.path().join("slip.j2"), "{{ qestion }}").unwrap();
    ok(&store, &["run", file, "problems", "other"]);
    let object = std::fs::canonicalize(store.join("tables/small/other/part-00000.parquet")).unwrap();
    rot(&object);
    let before = std::fs::read(&object).unwrap();
    let said = fails(&store, &["run", file], 3);
    assert!(said.contains("prompt template fails") && !said.contains("damaged"), "{said}");
    assert_eq!(std::fs::read(&object).unwrap(), before, "an object that the stage does not read was dropped");
}

/// Goal: one run heals as many damaged objects as it meets.
#[test]
fn one_run_heals_every_damaged_object() {
    let folder = tempfile::tempdir().unwrap();
    let text = SMALL.split("[stages.rewrites]").next().unwrap().replace("part_problems = 8", "part_problems = 2");
    let file = pipeline(folder.path(), "p.toml", &text);
    let (store, file) = (folder.path().join("store"), file.to_str().unwrap());
    ok(&store, &["run", file]);
    let rollouts: Vec<PathBuf> = files(&store.join("tables/small/rollouts/"))
        .into_iter()
        .map(|(link, _)| std::fs::canonicalize(link).unwrap())
        .collect();
    assert!(rollouts.len() > 4, "{} parts", rollouts.len());
    rollouts.iter().for_each(|object| rot(object));
    pipeline(folder.path(), "p.toml", &text.replace("kind = \"judge\"", "kind = \"judge\"\njudge = \"exact\""));
    let done = json(&ok(&store, &["run", file, "--json"]));
    assert_eq!(done["stages"][1]["state"], "done");
    assert_eq!(findings(&store), []);
}
