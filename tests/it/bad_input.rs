//! What is wrong with the input is said: what, where, how to fix it, and an exit code. Nothing panics.

use crate::support::{SMALL, fails, json, mindgap, ok, pipeline, root};
use std::path::Path;

fn spoiled(from: &str, to: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    assert!(SMALL.contains(from), "`{from}` is not in the pipeline");
    let file = pipeline(folder.path(), "p.toml", &SMALL.replacen(from, to, 1));
    let file = file.to_str().unwrap().to_string();
    (folder, file)
}

#[track_caller]
fn refused(from: &str, to: &str, code: i32, says: &[&str]) {
    let (folder, file) = spoiled(from, to);
    let error = fails(&folder.path().join("store"), &["run", &file, "problems", "rollouts"], code);
    for word in says {
        assert!(error.contains(word), "`{word}` is not in:\n{error}");
    }
}

#[test]
fn pipeline_mistakes() {
    refused(
        "max_new_tokens",
        "max_new_tokns",
        2,
        &["unknown key `max_new_tokns`", "p.toml:15:1", "did you mean `max_new_tokens`?"],
    );
    refused("kind = \"rollout\"", "kind = \"rolout\"", 2, &["unknown stage kind `rolout`", "did you mean `rollout`?"]);
    refused("policy = \"base\"", "policy = \"bse\"", 2, &["names `bse`, which does not exist", "did you mean `base`?"]);
    refused("samples = 2", "samples = \"two\"", 2, &["stage `rollouts`", "p.toml:14"]);
    refused("samples = 2", "samples = 0", 2, &["`samples` must be at least 1"]);
    refused("name = \"small\"", "nam = \"small\"", 2, &["unknown key `nam`", "did you mean `name`?"]);
    refused(
        "problems = \"problems\"",
        "problems = \"rollouts\"",
        2,
        &["a `rollout` stage; it needs a `ingest` or `difficulty` stage"],
    );
    refused("[policies]", "[policies", 2, &["p.toml:3"]);
    let slip = ["unknown key `sorce` in stage `problems`", "did you mean `source`?"];
    refused("source = \"world\"", "sorce = \"world\"", 2, &slip);
    let slip = ["unknown variant `marks`", "calculator_marks"];
    refused("[stages.rollouts]", "clean = [\"marks\"]\n[stages.rollouts]", 2, &slip);
    let slip =
        ["unknown variant `selff`, expected one of `self`, `guided`, `teacher`, `expert`", "sources = [\"selff\"]"];
    refused("data = \"rewrites\"", "data = \"rewrites\"\nsources = [\"selff\"]", 2, &slip);
    refused("loss = \"dft\"", "loss = \"dtf\"", 2, &["dtf"]);
}

/// Goal: a number, a list or a text that some stage would refuse once it runs is refused by `plan`, before anything is paid for, with
/// the stage and the parameter.
#[test]
fn values_that_no_stage_takes_fail_in_plan() {
    let train = "batch_size = 8";
    let documents = "[stages.documents]\nkind = \"documents\"\npolicy = \"base\"\nfiles = []\n[stages.train]";
    let evals = "[stages.evals]\nkind = \"evaluate\"\nproblems = \"problems\"\nverdicts = []\n[stages.train]";
    let cases: &[(&str, &str, &str, &str)] = &[
        ("problems", "part_problems = 8", "part_problems = 0", "`part_problems` must be at least 1"),
        (
            "problems",
            "files = [{ path = \"DATA/world/train-0.parquet\", source = \"world\" }]",
            "files = []",
            "`files` is empty",
        ),
        ("documents", "[stages.train]", documents, "`files` is empty"),
        ("rollouts", "samples = 2", "samples = 0", "`samples` must be at least 1"),
        ("rollouts", "max_new_tokens = 60", "max_new_tokens = 0", "`max_new_tokens` is 0"),
        ("rollouts", "samples = 2", "samples = 2\ntemperature = -1.0", "`temperature` is -1"),
        ("rollouts", "samples = 2", "samples = 2\ntemperature = nan", "`temperature` is NaN"),
        ("rollouts", "samples = 2", "samples = 2\ntop_p = 0.0", "`top_p` is 0"),
        ("rollouts", "samples = 2", "samples = 2\nmin_p = 2.0", "`min_p` is 2"),
        ("rollouts", "samples = 2", "samples = 2\nstop = [\"\"]", "a `stop` string is empty"),
        ("rollouts", "samples = 2", "samples = 2\npart_samples = 0", "`part_samples` must be at least 1"),
        ("verdicts", "rollouts = \"rollouts\"", "rollouts = \"rollouts\"\nrel_tol = -1.0", "`rel_tol` is `-1`"),
        ("verdicts", "rollouts = \"rollouts\"", "rollouts = \"rollouts\"\noptions = { scale = 3 }", "has no value `3`"),
        ("verdicts", "rollouts = \"rollouts\"", "rollouts = \"rollouts\"\nabs_tol = nan", "`abs_tol` is `NaN`"),
        ("rewrites", "self_aligned = [\"verdicts\"]", "keep = 0", "`keep` must be at least 1"),
        ("evals", "[stages.train]", evals, "`verdicts` names no stage"),
        ("train", "learning_rate = 1e-4", "learning_rate = -1", "`learning_rate` is `-1`"),
        ("train", "learning_rate = 1e-4", "learning_rate = nan", "`learning_rate` is `NaN`"),
        ("train", "learning_rate = 1e-4", "learning_rate = inf", "`learning_rate` is `inf`"),
        ("train", train, "batch_size = 0", "`batch_size` must be at least 1"),
        ("train", "steps = 4", "steps = 0", "`steps` must be at least 1"),
        ("train", "steps = 4", "epochs = 0", "`epochs` must be at least 1"),
        ("train", "steps = 4", "steps = 4\nstop_step = 0", "`stop_step` must be at least 1"),
        ("train", "steps = 4", "steps = 4\nwarmup_steps = 5", "warm-up of 5 steps in a training of 4"),
        ("train", "steps = 4", "epochs = 2\nwarmup_ratio = 1.5", "`warmup_ratio` is `1.5`"),
        ("train", "steps = 4", "epochs = 2\nwarmup_ratio = nan", "`warmup_ratio` is `NaN`"),
        ("train", "checkpoint_steps = 1", "checkpoint_steps = 0", "`checkpoint_steps` must be at least 1"),
        ("train", train, "batch_size = 8\nfloor_share = 2", "`floor_share` is `2`"),
        ("train", train, "batch_size = 8\ndecay_share = nan", "`decay_share` is `NaN`"),
        ("train", train, "batch_size = 8\nclip_norm = -1.0", "`clip_norm` is `-1`"),
        ("train", train, "batch_size = 8\nmax_length = 1", "`max_length` is `1`"),
        ("train", train, "batch_size = 8\nmicro_batch_tokens = 0", "`micro_batch_tokens` is `0`"),
        ("train", train, "batch_size = 8\noptimizer = { beta1 = 9 }", "`beta1` is `9`"),
        ("train", train, "batch_size = 8\noptimizer = { beta2 = nan }", "`beta2` is `NaN`"),
        ("train", train, "batch_size = 8\noptimizer = { epsilon = -1.0 }", "`epsilon` is `-1`"),
        ("train", train, "batch_size = 8\noptimizer = { weight_decay = inf }", "`weight_decay` is `inf`"),
        ("train", train, "batch_size = 8\nlora = { rank = 4, alpha = nan }", "`alpha` is `NaN`"),
        ("train", "loss = \"dft\"", "loss = { name = \"dft\", floor = 2.0 }", "`floor` of loss `dft` is `2`"),
        ("train", "loss = \"dft\"", "loss = { name = \"dft\", eos_weight = nan }", "`eos_weight` of `loss`"),
        (
            "train",
            "loss = \"dft\"",
            "loss = { name = \"dft\", eos_weight = -1.0 }",
            "`eos_weight` of loss `dft` is `-1`",
        ),
    ];
    for (stage, from, to, says) in cases {
        let (folder, file) = spoiled(from, to);
        let error = fails(&folder.path().join("store"), &["plan", &file], 2);
        assert!(
            error.contains(says) && error.contains(&format!("stage `{stage}`")),
            "{to}: `{says}` is not in:\n{error}"
        );
    }
}

/// Goal: an error says all of where it is: pipeline, stage, problem. A policy that gives no numbers shows when it samples.
#[test]
fn a_failing_sample_says_which_problem_of_which_stage() {
    let folder = tempfile::tempdir().unwrap();
    let file = pipeline(folder.path(), "p.toml", &SMALL.replace("DATA/base-policy", "policy"));
    let policy = folder.path().join("policy");
    copy_policy(&policy);
    // The last tensor of the file is the last norm.
    let mut weights = std::fs::read(policy.join("model.safetensors")).unwrap();
    let end = weights.len();
    weights[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(policy.join("model.safetensors"), weights).unwrap();
    let error = fails(&folder.path().join("store"), &["run", file.to_str().unwrap(), "rollouts"], 3);
    let places: Vec<&str> = error.lines().skip_while(|line| !line.starts_with("   at: ")).collect();
    assert!(error.contains("logits are not finite numbers"), "{error}");
    assert_eq!(places[0], format!("   at: {}", file.display()));
    assert_eq!(places[1], "       stage `rollouts`");
    assert!(places[2].starts_with("       problem `"), "{error}");
}

/// Every command that computes takes a device, and says what is wrong with its name before it reads anything.
#[test]
fn devices_that_are_not_there() {
    let store = tempfile::tempdir().unwrap();
    let commands: [&[&str]; 4] = [
        &["run", "pipelines/smoke.toml"],
        &["score", "--policy", "data/base-policy", "nowhere.jsonl"],
        &["generate", "--policy", "data/base-policy", "--prompt", "1+1"],
        &["bench", "--policy", "data/base-policy"],
    ];
    for command in commands {
        let error = fails(store.path(), &[command, &["--device", "gpu"]].concat(), 2);
        assert!(error.contains("unknown device `gpu`") && error.contains("`cuda:N`"), "{error}");
        if !cfg!(feature = "cuda") {
            let error = fails(store.path(), &[command, &["--device", "cuda:1"]].concat(), 2);
            assert!(error.contains("needs a build with CUDA") && error.contains("--features cuda"), "{error}");
            let output = mindgap(store.path(), command).env("MINDGAP_DEVICE", "cuda").output().unwrap();
            assert_eq!(output.status.code(), Some(2), "{command:?}");
        }
    }
}

#[test]
fn cycle() {
    let cycle = "unsolved = [\"verdicts\"]\nsamples = 2";
    refused("samples = 2", cycle, 2, &["stages need each other", "rollouts", "verdicts"]);
}

#[test]
fn missing_files() {
    refused("DATA/world/train-0.parquet", "nowhere.parquet", 3, &["nowhere.parquet", "relative paths"]);
    refused("DATA/base-policy", "nowhere", 3, &["nowhere", "cannot open folder of policy `base`"]);
    let store = tempfile::tempdir().unwrap();
    let error = fails(store.path(), &["run", "pipelines/nowhere.toml"], 3);
    assert!(error.contains("nowhere.toml"), "{error}");
}

fn copy_policy(to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(root().join("data/base-policy")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

#[test]
fn broken_policies() {
    let folder = tempfile::tempdir().unwrap();
    let file = pipeline(folder.path(), "p.toml", &SMALL.replace("DATA/base-policy", "policy"));
    let policy = folder.path().join("policy");
    let refused = |says: &[&str]| {
        let error = fails(&folder.path().join("store"), &["run", file.to_str().unwrap(), "rollouts"], 3);
        for word in says {
            assert!(error.contains(word), "`{word}` is not in:\n{error}");
        }
    };
    copy_policy(&policy);
    std::fs::remove_file(policy.join("tokenizer.json")).unwrap();
    refused(&["policy has no `tokenizer.json`", "policy `base`"]);

    copy_policy(&policy);
    let config = std::fs::read_to_string(policy.join("config.json")).unwrap();
    std::fs::write(
        policy.join("config.json"),
        config.replace("\"intermediate_size\": 384", "\"intermediate_size\": 385"),
    )
    .unwrap();
    refused(&["mlp", "[384, 128]", "[385, 128]"]);

    copy_policy(&policy);
    let weights = std::fs::read(policy.join("model.safetensors")).unwrap();
    std::fs::write(policy.join("model.safetensors"), &weights[..weights.len() / 2]).unwrap();
    refused(&["model.safetensors"]);
}

/// Goal: every bad row is kept in `rejects` with its line and reason; the good ones go on.
#[test]
fn bad_rows_are_kept_with_their_reason() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let rows = [
        r#"{"question": "What is 1 + 1?", "answer": "2"}"#,
        r#"{"question": "What is 1 + 1?", "answer": "2"}"#,
        r#"{"question": "  ", "answer": "2"}"#,
        r#"{"question": "What is 2 + 2?"}"#,
        r#"{"question": "What is 0/0?", "answer": NaN}"#,
        r#"{"question": "What is 3 + 3?", "answer": "6"}"#,
        r#"{"question": "cut off", "answ"#,
    ];
    std::fs::write(folder.path().join("rows.jsonl"), rows.join("\n")).unwrap();
    let text = SMALL.replace("{ path = \"DATA/world/train-0.parquet\", source = \"world\" }", "\"rows.jsonl\"");
    let file = pipeline(folder.path(), "p.toml", &text);
    let done = json(&ok(&store, &["run", file.to_str().unwrap(), "problems", "--json"]));
    assert_eq!(done["stages"][0]["rows"], 2);
    let rejects = std::fs::read(store.join("tables/small/problems/rejects/part-00000.parquet")).unwrap();
    let batches = mindgap_store::parquet::decode_batches(rejects).unwrap();
    let rejects: Vec<mindgap_store::table::problems::Reject> = mindgap_store::table::from_batches(&batches).unwrap();
    let lines: Vec<u64> = rejects.iter().map(|reject| reject.line).collect();
    assert_eq!(lines, [2, 3, 4, 5, 7]);
    assert!(rejects[0].reason.contains("line 1"), "{}", rejects[0].reason);
    assert!(rejects.iter().all(|reject| !reject.reason.is_empty() && reject.file.ends_with("rows.jsonl")));
}

#[test]
fn another_schema_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let text = SMALL.replace("DATA/world/train-0.parquet", "DATA/world/corpus-sample.parquet");
    let file = pipeline(folder.path(), "p.toml", &text);
    let error = fails(&folder.path().join("store"), &["run", file.to_str().unwrap(), "problems"], 3);
    assert!(error.contains("corpus-sample.parquet") && error.contains("question"), "{error}");
}
