//! Damaged objects: what a run reads, and what it makes again.

use crate::support::{SMALL, fails, json, ok, pipeline};
use crate::upkeep::{files, findings};
use std::path::{Path, PathBuf};
use std::time::Duration;

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
