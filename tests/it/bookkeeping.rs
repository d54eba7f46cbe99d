//! Names that are paths, and damaged objects: what a store's bookkeeping survives.

use crate::support::{SMALL, fails, json, ok, pipeline};
use crate::upkeep::{Scratch, files, findings};
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
