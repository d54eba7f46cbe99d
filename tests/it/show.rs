//! mindgap show: rows to read, filters, and files that say where they came from.

use crate::support::{SMALL, TINY, fails, json, ok, pipeline, run};

fn small(stages: &[&str]) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = pipeline(folder.path(), "small.toml", SMALL).display().to_string();
    ok(&folder.path().join("store"), &[&["run", file.as_str()], stages].concat());
    (folder, file)
}

/// Goal: filters pick exactly the rows that fit, columns and limit cut them down, and text is plain when it is piped.
#[test]
fn filters_columns_and_limit() {
    let (folder, file) = small(&["verdicts"]);
    let store = folder.path().join("store");
    let show = |args: &[&str]| ok(&store, &[&["show", file.as_str(), "verdicts"], args].concat());
    let verdicts = |args: &[&str]| -> Vec<String> {
        let rows = show(&[&["--json", "--limit", "100"], args].concat());
        rows.lines().map(|line| json(line)["verdict"].as_str().unwrap().to_string()).collect()
    };
    let (all, correct) = (verdicts(&[]), verdicts(&["--where", "verdict=correct"]));
    assert_eq!(all.len(), 48);
    assert_eq!(correct.len(), all.iter().filter(|verdict| *verdict == "correct").count());
    assert!(!correct.is_empty() && correct.len() < 48);
    assert_eq!(correct.len() + verdicts(&["--where", "verdict!=correct"]).len(), 48);
    let first = verdicts(&["--where", "verdict=correct", "--where", "sample_index<1"]);
    let second = verdicts(&["--where", "verdict=correct", "--where", "sample_index>=1"]);
    assert_eq!(first.len() + second.len(), correct.len());

    let row = json(show(&["--json", "--limit", "1", "--columns", "verdict,problem_id"]).trim());
    assert_eq!(row.as_object().unwrap().keys().collect::<Vec<_>>(), ["verdict", "problem_id"]);

    let text = show(&["--limit", "2", "--columns", "problem_id,verdict"]);
    assert_eq!(text.matches("problem_id  ").count(), 2, "{text}");
    assert!(!text.contains('\u{1b}'), "a pipe gets no colours: {text:?}");
}

#[test]
fn unknown_columns_are_named_with_a_suggestion() {
    let (folder, file) = small(&["verdicts"]);
    let store = folder.path().join("store");
    let error = fails(&store, &["show", &file, "verdicts", "--where", "verdit=correct"], 2);
    assert!(error.contains("no column `verdit`") && error.contains("did you mean `verdict`?"), "{error}");
    let error = fails(&store, &["show", &file, "verdicts", "--columns", "problem"], 2);
    assert!(error.contains("did you mean `problem_id`?"), "{error}");
    let error = fails(&store, &["show", &file, "verdicts", "--where", "sample_index=one"], 2);
    assert!(error.contains("it holds numbers"), "{error}");
    let error = fails(&store, &["show", &file], 2);
    assert!(error.contains("no stage is named") && error.contains("verdicts"), "{error}");
}

/// Goal: rows are counted to the end though only those up to the limit are printed.
#[test]
fn rows_past_the_limit_are_counted() {
    let (folder, file) = small(&["verdicts"]);
    let store = folder.path().join("store");
    let said = |args: &[&str]| {
        let output = run(&store, &[&["show", file.as_str(), "verdicts", "--json"], args].concat());
        let lines = String::from_utf8(output.stdout).unwrap().lines().count();
        (lines, String::from_utf8(output.stderr).unwrap().trim().to_string())
    };
    assert_eq!(said(&["--limit", "3"]), (3, "3 of 48 rows; --limit shows more".to_string()));
    assert_eq!(said(&["--limit", "48"]), (48, String::new()));
    assert_eq!(
        said(&["--where", "sample_index=1", "--limit", "5"]),
        (5, "5 of 24 rows; --limit shows more".to_string())
    );
    assert_eq!(
        said(&["--where", "sample_index=1", "--limit", "0"]),
        (0, "0 of 24 rows; --limit shows more".to_string())
    );
    assert_eq!(said(&["--where", "sample_index=1", "--limit", "24"]), (24, "24 of 48 rows".to_string()));
}

/// Goal: so are those of a part that is read in several pieces, of which the first is enough to print.
#[test]
fn rows_of_a_large_part_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let rows: String = (0..20_000).map(|i| format!("{{\"question\":\"Q{i}\",\"answer\":\"{i}\"}}\n")).collect();
    std::fs::write(folder.path().join("rows.jsonl"), rows).unwrap();
    let text = "[stages.problems]\nkind = \"ingest\"\nfiles = [\"rows.jsonl\"]\npart_problems = 20000\n";
    let file = pipeline(folder.path(), "p.toml", text).display().to_string();
    let store = folder.path().join("store");
    ok(&store, &["run", &file]);
    let parts = std::fs::read_dir(store.join("tables/p/problems")).unwrap().map(|entry| entry.unwrap().path());
    let parts = parts.filter(|part| part.extension().is_some_and(|extension| extension == "parquet"));
    let part = parts.max_by_key(|part| std::fs::metadata(part).unwrap().len()).unwrap();
    let footer = ok(&store, &["show", part.to_str().unwrap(), "--json"]);
    let part_rows = json(footer.lines().next().unwrap())["rows"].clone();
    assert!(part_rows.as_u64().unwrap() > 8192, "{part_rows}");
    for (args, count) in
        [(vec!["show", &file, "problems"], 20_000.into()), (vec!["show", part.to_str().unwrap()], part_rows)]
    {
        let output = run(&store, &[&args[..], &["--limit", "1"]].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(&format!("1 of {count} rows")), "{args:?}: {said}");
    }
}

/// Goal: only the parts that hold what is asked for are read: damage to another part is not met.
#[test]
fn only_the_parts_that_are_needed_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = pipeline(folder.path(), "p.toml", TINY).display().to_string();
    let store = folder.path().join("store");
    ok(&store, &["run", &file, "rewrites"]);
    let show = |args: &[&str]| ok(&store, &[&["show", file.as_str(), "--json"], args].concat());
    let ids: Vec<String> = show(&["rollouts", "--limit", "100"])
        .lines()
        .map(|line| json(line)["problem_id"].as_str().unwrap().to_string())
        .collect();
    let (first, last) = (&ids[0], &ids[ids.len() - 1]);
    let (head, lineage) = (show(&["rollouts", "--limit", "2"]), show(&["--row", first]));
    assert_eq!(lineage.lines().count(), 6, "a problem, two samples, two verdicts, a target");
    assert!(lineage.lines().all(|line| json(line)["row"]["problem_id"] == *first));

    let parts = std::fs::read_dir(store.join("tables/tiny/rollouts")).unwrap().count();
    assert_eq!(parts, 3);
    let damaged = std::fs::canonicalize(store.join("tables/tiny/rollouts/part-00002.parquet")).unwrap();
    std::fs::write(damaged, "PAR1 spoiled PAR1").unwrap();
    assert_eq!(show(&["rollouts", "--limit", "2"]), head);
    assert_eq!(show(&["--row", first]), lineage);
    for args in [&["rollouts", "--limit", "100"][..], &["--row", last], &["rollouts", "--where", "seed=1"]] {
        let error = fails(&store, &[&["show", file.as_str()], args].concat(), 3);
        assert!(error.contains("object is damaged"), "{error}");
    }
}

/// Goal: a stray file explains itself.
#[test]
fn a_parquet_file_says_where_it_came_from() {
    let (folder, file) = small(&["problems"]);
    let store = folder.path().join("store");
    let part = store.join("tables/small/problems/part-00000.parquet");
    let stray = folder.path().join("stray.parquet");
    std::fs::copy(part, &stray).unwrap();
    let stray = stray.to_str().unwrap();
    let lines: Vec<_> =
        ok(&store, &["show", stray, "--json", "--limit", "100", "--columns", "source"]).lines().map(json).collect();
    assert!(lines.len() > 1, "the part has rows");
    assert_eq!(lines[0]["rows"], lines.len() - 1);
    let footer = &lines[0]["footer"];
    assert_eq!((&footer["mindgap.table"], &footer["mindgap.schema_version"]), (&"problems".into(), &"1".into()));
    assert_eq!(footer["mindgap.stage"], "problems");
    let recipe = store.join("memo").join(footer["mindgap.fingerprint"].as_str().unwrap()).join("recipe.json");
    assert!(std::fs::read_to_string(recipe).unwrap().contains("\"ingest\""), "the fingerprint leads to the recipe");
    assert_eq!(lines[1]["source"], "world");

    let text = ok(&store, &["show", stray, "--limit", "1"]);
    assert!(text.contains("mindgap.fingerprint") && text.contains("question"), "{text}");
    let error = fails(&store, &["show", &file, "--where", "source=world"], 2);
    assert!(error.contains("no stage is named"), "{error}");
    std::fs::write(folder.path().join("bad.parquet"), "PAR1 no").unwrap();
    let error = fails(&store, &["show", folder.path().join("bad.parquet").to_str().unwrap()], 3);
    assert!(error.contains("not a readable Parquet file") && error.contains("bad.parquet"), "{error}");
}

/// Goal: what became no problem is counted by the run and shown by name; and where nothing became one, the run fails with the
/// cause and the rows are there all the same.
#[test]
fn refused_rows_are_counted_and_shown() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let good = r#"{"question":"Q","answer":"1+1=<<1+1=2>>2\n#### 2"}"#;
    let bad = "{\"question\":\"P\",\"answer\":\"proof\"}\n{\"question\":\"R\",\"answer\":\"proof\"}";
    let file = pipeline(
        folder.path(),
        "p.toml",
        "[stages.problems]\nkind = \"ingest\"\nfiles = [\"rows.jsonl\"]\nclean = [\"calculator_marks\", \"notes\"]\n",
    );
    let file = file.display().to_string();
    let write = |text: &str| std::fs::write(folder.path().join("rows.jsonl"), text).unwrap();

    write(&format!("{bad}\n{good}\n{good}\n"));
    let output = run(&store, &["run", &file, "--json"]);
    let stage = &json(std::str::from_utf8(&output.stdout).unwrap().trim())["stages"][0];
    assert_eq!((&stage["rows"], &stage["left_out"]["rows"]), (&1.into(), &3.into()));
    assert_eq!(stage["left_out"]["reasons"]["no gold answer: it says `proof`"], 2);
    assert_eq!(stage["counts"], json(r#"{"calculator_marks":1,"with_solution":1}"#));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("problems: 1 rows (calculator_marks 1, with_solution 1), computed 1 of 1 parts"), "{said}");
    let counted = "3 more are in `rejects`: no gold answer: it says `proof` (2), duplicate of line N (1)";
    assert!(said.contains(counted), "{said}");
    let rejects = ok(&store, &["show", &file, "problems", "--table", "rejects", "--json"]);
    assert_eq!(rejects.lines().map(|line| json(line)["line"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 4]);
    let error = fails(&store, &["show", &file, "problems", "--table", "reject"], 2);
    assert!(error.contains("has no table `reject`") && error.contains("did you mean `rejects`?"), "{error}");

    write(bad);
    for _ in 0..2 {
        let error = fails(&store, &["run", &file], 3);
        assert!(error.contains("all 2 rows are in `rejects`: no gold answer: it says `proof` (2)"), "{error}");
        assert!(error.contains("stage `problems`") && error.contains("--table rejects"), "{error}");
    }
    assert_eq!(ok(&store, &["show", &file, "problems", "--table", "rejects", "--json"]).lines().count(), 2);
}
