//! SIGKILL at every publishing step and at random moments: the next run goes on, and ends with the same addresses.

use crate::support::{SMALL, by_stage, json, mindgap, ok, pipeline};
use serde_json::Value;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

fn addresses(store: &Path, file: &str) -> (Vec<(String, Value)>, u64) {
    let done = json(&ok(store, &["run", file, "--json"]));
    let computed = by_stage(&done, "computed_parts").iter().filter_map(|(_, v)| v.as_u64()).sum();
    (by_stage(&done, "address"), computed)
}

/// Finished parts: records whose objects are all there.
fn parts(store: &Path) -> u64 {
    let Ok(families) = std::fs::read_dir(store.join("memo")) else { return 0 };
    let names = families.flat_map(|f| std::fs::read_dir(f.unwrap().path()).unwrap()).map(|f| f.unwrap().file_name());
    names
        .filter(|n| {
            n.to_string_lossy().ends_with(".json") && n != "recipe.json" && !n.to_string_lossy().starts_with('.')
        })
        .count() as u64
}

#[test]
fn killed_at_each_publishing_step() {
    let folder = tempfile::tempdir().unwrap();
    let file = pipeline(folder.path(), "p.toml", SMALL);
    let file = file.to_str().unwrap();
    let (expected, all) = addresses(&folder.path().join("whole"), file);
    assert_eq!(all, parts(&folder.path().join("whole")));
    for point in mindgap::store::fault::POINTS {
        for count in [1, 4] {
            let store = folder.path().join(format!("{point}-{count}"));
            let status = mindgap(&store, &["run", file])
                .env("MINDGAP_FAULT", format!("{point}:{count}"))
                .stderr(Stdio::null())
                .status()
                .unwrap();
            assert_eq!(
                std::os::unix::process::ExitStatusExt::signal(&status),
                Some(9),
                "{point} was not passed {count} times"
            );
            let saved = parts(&store);
            let (found, computed) = addresses(&store, file);
            assert_eq!(found, expected, "killed at {point} the {count}. time");
            assert_eq!(computed + saved, all, "a finished part was computed again after {point}");
        }
    }
}

fn killed_at_random_moments(text: &str, kills: u64) {
    let folder = tempfile::tempdir().unwrap();
    let file = pipeline(folder.path(), "p.toml", text);
    let file = file.to_str().unwrap();
    let started = std::time::Instant::now();
    let (expected, _) = addresses(&folder.path().join("whole"), file);
    let whole = started.elapsed();
    let store = folder.path().join("killed");
    let mut moments = mindgap::base::rng::Stream::at(1, &[b"kill"]).cursor();
    let mut killed = 0;
    for _ in 0..kills {
        let mut child = mindgap(&store, &["run", file]).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_secs_f64(whole.as_secs_f64() * moments.uniform() / 2.0));
        let _ = child.kill();
        killed += u64::from(!child.wait().unwrap().success());
    }
    assert!(killed > 0, "every run ended before it was killed");
    assert_eq!(addresses(&store, file).0, expected);
}

#[test]
fn killed_at_a_few_random_moments() {
    killed_at_random_moments(SMALL, 5);
}

#[test]
fn killed_at_many_random_moments() {
    if std::env::var_os("MINDGAP_SLOW_TESTS").is_none() {
        eprintln!("skipped: set MINDGAP_SLOW_TESTS=1 for the long kill loop");
        return;
    }
    let smoke = std::fs::read_to_string(crate::support::root().join("pipelines/smoke.toml")).unwrap();
    killed_at_random_moments(&smoke.replace("../data", "DATA").replace("templates/", "TEMPLATES/"), 50);
}

/// Goal: two processes on one store share the work: no part is computed twice, both end well.
#[test]
fn two_processes_share_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let file = pipeline(folder.path(), "p.toml", SMALL);
    let (store, file) = (folder.path().join("store"), file.to_str().unwrap());
    let start =
        || mindgap(&store, &["run", file, "--json"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let children = [start(), start()];
    let mut computed = 0;
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let done = json(&String::from_utf8(output.stdout).unwrap());
        computed += by_stage(&done, "computed_parts").iter().filter_map(|(_, v)| v.as_u64()).sum::<u64>();
    }
    assert_eq!(computed, parts(&store), "every part was computed by exactly one of them");
}

/// Goal: SIGTERM ends a run with exit code 130 and a line on how to go on; what was finished stays.
#[test]
fn sigterm_ends_well() {
    let folder = tempfile::tempdir().unwrap();
    let long = SMALL.replace("steps = 4", "steps = 4000");
    let file = pipeline(folder.path(), "p.toml", &long);
    let store = folder.path().join("store");
    let child = mindgap(&store, &["run", file.to_str().unwrap()]).stderr(Stdio::piped()).spawn().unwrap();
    // Wait until training has published a part.
    let trained = || store.join("tables/small/logprobs").exists() && parts(&store) > 12;
    for _ in 0..600 {
        if trained() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(trained(), "training did not start");
    assert!(std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("run the same command again"), "{stderr}");
}
