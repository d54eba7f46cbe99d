//! mindgap results: a study's tables, and a page they go into.

use crate::support::{TINY, fails, json, ok, pipeline, smoke};

/// Goal: the accuracies are those of the evals table, and a pair's difference is theirs.
#[test]
fn accuracies_and_differences_are_those_of_the_tables() {
    let (store, _) = smoke();
    let results = json(&ok(store, &["results", "pipelines/smoke.toml", "--json", "dr+dft:sft"]));
    let policies = results["policies"].as_array().unwrap();
    let names: Vec<&str> = policies.iter().map(|policy| policy["policy"].as_str().unwrap()).collect();
    assert_eq!(names, ["base", "sft", "dr+dft"]);
    assert_eq!((&results["replications"], &results["problems"]), (&1.into(), &32.into()));
    let rows: Vec<_> = ok(store, &["show", "pipelines/smoke.toml", "evals", "--json"]).lines().map(json).collect();
    let mut average = std::collections::BTreeMap::new();
    for policy in policies {
        let name = policy["policy"].as_str().unwrap();
        for (index, benchmark) in results["benchmarks"].as_array().unwrap().iter().enumerate() {
            let row = rows.iter().find(|row| row["policy"] == name && row["benchmark"] == *benchmark).unwrap();
            let (found, wanted) = (policy["mean_at_k"][index].as_f64().unwrap(), row["mean_at_k"].as_f64().unwrap());
            assert!((found - 100.0 * wanted).abs() < 1e-9, "{name} {benchmark}");
        }
        let interval = &policy["average"];
        let at = |field: &str| interval[field].as_f64().unwrap();
        assert!(at("low") <= at("mean") && at("mean") <= at("high"));
        average.insert(name, at("mean"));
    }
    let difference = &results["differences"][0];
    let mean = difference["average"]["mean"].as_f64().unwrap();
    assert!((mean - (average["dr+dft"] - average["sft"])).abs() < 1e-9);
    assert_eq!(difference["ahead"], i32::from(mean > 0.0));
    let sources = results["sources"].as_array().unwrap();
    assert_eq!(sources.len(), 3);
    let expert = sources.iter().find(|source| source["stage"] == "expert").unwrap();
    assert_eq!(expert["expert"], 100.0);
}

/// Goal: a page keeps its prose; what is between the marks is replaced, again and again the same.
#[test]
fn a_page_keeps_its_prose() {
    let (store, _) = smoke();
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("results.md");
    let text = "# Mine\n\n<!-- mindgap results: begin -->\nold\n<!-- mindgap results: end -->\n\nThe end.\n";
    std::fs::write(&page, text).unwrap();
    let args = ["results", "pipelines/smoke.toml", "--into", page.to_str().unwrap()];
    ok(store, &args);
    let once = std::fs::read_to_string(&page).unwrap();
    assert!(once.starts_with("# Mine\n\n<!--") && once.ends_with("end -->\n\nThe end.\n"), "{once}");
    assert!(once.contains("| dr+dft |") && !once.contains("old") && once.contains("Addresses: evals `"), "{once}");
    ok(store, &args);
    assert_eq!(std::fs::read_to_string(&page).unwrap(), once);

    std::fs::write(&page, "no place").unwrap();
    let error = fails(store, &args, 2);
    assert!(error.contains("no place for results") && error.contains("mindgap results: begin"), "{error}");
    let error = fails(store, &["results", "pipelines/smoke.toml", "dft:sft"], 2);
    assert!(error.contains("no policy `dft` is evaluated"), "{error}");
    let fresh = folder.path().join("store");
    let error = fails(&fresh, &["results", "pipelines/smoke.toml"], 2);
    assert!(error.contains("stage `evals` of pipeline `smoke` has not run yet"), "{error}");
}

/// Goal: replications are the cells of the evaluate stages' matrix. A number in another axis, or in a name, makes none.
#[test]
fn replications_come_from_the_matrix() {
    let folder = tempfile::tempdir().unwrap();
    let text = TINY.split("[stages.rewrites]").next().unwrap().to_string()
        + r#"
[stages.rewrites]
kind = "rewrite"
matrix.seed = [7, 8]
matrix.rule = [{ name = "2", verdicts = [] }, { name = "dr", verdicts = ["verdicts"] }]
problems = "problems"
policy = "base"
self_aligned = "{rule.verdicts}"
[stages.rewrites-1]
kind = "rewrite"
problems = "problems"
policy = "base"
[stages.eval_rollouts]
kind = "rollout"
matrix.seed = [7, 8]
problems = "problems"
policy = "base"
samples = 1
max_new_tokens = 2
seed = "{seed}"
[stages.eval_verdicts]
kind = "judge"
matrix.seed = [7, 8]
rollouts = "eval_rollouts-{seed}"
problems = "problems"
[stages.evals]
kind = "evaluate"
matrix.seed = [7, 8]
problems = "problems"
verdicts = ["eval_verdicts-{seed}"]
"#;
    let file = pipeline(folder.path(), "p.toml", &text).display().to_string();
    let store = folder.path().join("store");
    ok(&store, &["run", &file]);
    let results = json(&ok(&store, &["results", &file, "--json"]));
    assert_eq!((&results["replications"], &results["problems"]), (&2.into(), &12.into()));
    let sources: Vec<(&str, f64)> = results["sources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            (
                row["stage"].as_str().unwrap(),
                ["own", "guided", "expert"].map(|key| row[key].as_f64().unwrap()).iter().sum(),
            )
        })
        .collect();
    assert_eq!(sources, [("rewrites-2", 100.0), ("rewrites-1", 100.0), ("rewrites-dr", 100.0)]);
}

/// Goal: stages on other benchmarks, of other sizes, are no replications: they add their benchmarks. Stages on the same source
/// with other problems are an error that names them.
#[test]
fn benchmarks_of_several_stages_stand_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let evaluated = |name: &str, source: &str, limit: u32| {
        format!(
            r#"
[stages.{name}]
kind = "ingest"
files = [{{ path = "DATA/world/train-0.parquet", source = "{source}" }}]
limit = {limit}
[stages.rollouts-{name}]
kind = "rollout"
problems = "{name}"
policy = "base"
samples = 1
max_new_tokens = 2
[stages.verdicts-{name}]
kind = "judge"
rollouts = "rollouts-{name}"
problems = "{name}"
[stages.evals-{name}]
kind = "evaluate"
problems = "{name}"
verdicts = ["verdicts-{name}"]
"#
        )
    };
    let head = TINY.split("[stages.problems]").next().unwrap();
    let store = folder.path().join("store");
    let run = |name: &str, sources: [&str; 2]| {
        let text = head.to_string() + &evaluated("near", sources[0], 7) + &evaluated("far", sources[1], 3);
        let file = pipeline(folder.path(), name, &text).display().to_string();
        ok(&store, &["run", &file]);
        file
    };
    let file = run("apart.toml", ["near", "far"]);
    let results = json(&ok(&store, &["results", &file, "--json"]));
    assert_eq!((&results["replications"], &results["problems"]), (&1.into(), &10.into()));
    assert_eq!(results["benchmarks"], serde_json::json!(["near", "far"]));
    ok(&store, &["report", &file]);
    let page = std::fs::read_to_string(store.join("reports/tiny.md")).unwrap();
    assert!(page.contains("| policy | far | near | average |") && !page.contains("replications"), "{page}");
    let file = run("mixed.toml", ["same", "same"]);
    let error = fails(&store, &["results", &file], 2);
    assert!(error.contains("`evals-near`, `evals-far`") && error.contains("another `source`"), "{error}");
}
