//! Training through the binary, on a tiny random checkpoint: kills, evaluations, row weights, adapters, the paper's pipelines.

use crate::support::{by_stage, fails, json, mindgap, ok, root, summary};
use mindgap::pipeline::{Event, Pipeline};
use mindgap::pipeline::{Options, Way};
use mindgap_store::Store;
use polars::prelude::*;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

fn checkpoint() -> String {
    root().join("tests/fixtures/model/qwen2").display().to_string()
}

/// Problems that differ, with worked solutions: JSON lines.
fn problems(folder: &Path, name: &str, numbers: std::ops::Range<u32>) -> PathBuf {
    let line = |n: u32| {
        format!(r#"{{"problem": "What is {n} + {}?", "solution": "It is \\boxed{{{}}}."}}"#, n + 3, 2 * n + 3) + "\n"
    };
    let path = folder.join(name);
    std::fs::write(&path, numbers.map(line).collect::<String>()).unwrap();
    path
}

/// Expert rows of a few problems, and a train stage with these further lines.
fn pipeline(folder: &Path, train: &str) -> String {
    problems(folder, "train.jsonl", 0..24);
    problems(folder, "held-out.jsonl", 100..108);
    let text = format!(
        r#"
name = "p"
[policies]
base = {{ path = "{}" }}
[stages.problems]
kind = "ingest"
files = ["train.jsonl"]
[stages.rows]
kind = "rewrite"
problems = "problems"
policy = "base"
[stages.held_out_problems]
kind = "ingest"
files = ["held-out.jsonl"]
[stages.held_out]
kind = "rewrite"
problems = "held_out_problems"
policy = "base"
[stages.train]
kind = "train"
policy = "base"
data = "rows"
batch_size = 6
{train}
"#,
        checkpoint()
    );
    let path = folder.join("p.toml");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn table(store: &Path, name: &str) -> DataFrame {
    let folder = store.join("tables/p/train").join(name);
    let mut parts: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
    parts.sort();
    let read = |path: &PathBuf| ParquetReader::new(std::fs::File::open(path).unwrap()).finish().unwrap();
    let mut frame = read(&parts[0]);
    for part in &parts[1..] {
        frame.vstack_mut(&read(part)).unwrap();
    }
    frame
}

fn floats(frame: &DataFrame, column: &str) -> Vec<f64> {
    frame.column(column).unwrap().f64().unwrap().iter().flatten().collect()
}

fn counts(frame: &DataFrame, column: &str) -> Vec<u64> {
    let column = frame.column(column).unwrap().cast(&DataType::UInt64).unwrap();
    column.u64().unwrap().iter().flatten().collect()
}

fn weights(store: &Path, file: &str) -> Vec<u8> {
    let folder = ok(store, &["path", file, "train"]);
    std::fs::read(Path::new(folder.trim()).join("model.safetensors")).unwrap()
}

fn address(store: &Path, file: &str) -> String {
    let done = json(&ok(store, &["run", file, "--json"]));
    let found = by_stage(&done, "address").into_iter().find(|(name, _)| name == "train").unwrap();
    found.1.as_str().unwrap().to_string()
}

/// Finished parts of any stage.
fn parts(store: &Path) -> usize {
    let Ok(families) = std::fs::read_dir(store.join("memo")) else { return 0 };
    let names = families.flat_map(|f| std::fs::read_dir(f.unwrap().path()).unwrap()).map(|f| f.unwrap().file_name());
    let names = names.map(|n| n.to_string_lossy().into_owned());
    names.filter(|n| n.ends_with(".json") && n != "recipe.json" && !n.starts_with('.')).count()
}

/// Goal: 200 steps with five SIGKILLs on the way end with the metrics and the weights of 200 uninterrupted steps.
#[test]
fn two_hundred_steps_survive_five_kills() {
    let folder = tempfile::tempdir().unwrap();
    let lines = "loss = \"dft\"\nlearning_rate = 1e-3\nsteps = 200\nwarmup_steps = 20\ncheckpoint_steps = 10\n\
                 eval_data = \"held_out\"\neval_steps = 25";
    let file = pipeline(folder.path(), lines);
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    let expected = address(&whole, &file);
    let all = parts(&whole);
    for kill in 1..=5 {
        let before = parts(&killed);
        let mut child = mindgap(&killed, &["run", &file]).stderr(Stdio::null()).spawn().unwrap();
        // Somewhere behind the second new checkpoint: the next steps are under way.
        while parts(&killed) < before + 2 {
            assert!(child.try_wait().unwrap().is_none(), "the run ended before kill {kill}");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(3 * kill));
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success());
        assert!(parts(&killed) < all, "all was done before kill {kill}");
    }
    assert_eq!(address(&killed, &file), expected);
    for name in ["train_steps", "train_evals", "batch_plan"] {
        assert!(table(&whole, name).equals_missing(&table(&killed, name)), "{name}");
    }
    assert_eq!(counts(&table(&killed, "train_steps"), "step"), (0..200).collect::<Vec<u64>>());
    assert_eq!(weights(&whole, &file), weights(&killed, &file));
}

/// Goal: held-out rows are measured at the start, every few steps and at the end; the best weights are kept and can be
/// the policy, and everything but the last part is shared with a run that publishes the last ones.
#[test]
fn evaluates_and_publishes_the_best() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    // Far too fast: the held-out rows soon fare worse.
    let lines = "loss = \"sft\"\nlearning_rate = 2e-2\nschedule = \"constant\"\nsteps = 20\ncheckpoint_steps = 6\n\
                 eval_data = \"held_out\"\neval_steps = 2\npublish = \"best\"";
    let file = pipeline(folder.path(), lines);
    ok(&store, &["run", &file]);
    let evals = table(&store, "train_evals");
    assert_eq!(counts(&evals, "step"), (0..=20).step_by(2).collect::<Vec<u64>>());
    let nll = floats(&evals, "nll");
    let best = (0..nll.len()).fold(0, |best, i| if nll[i] < nll[best] { i } else { best });
    assert!(0 < best && best < nll.len() - 1, "the best is not on the way: {nll:?}");
    let flags: Vec<bool> = evals.column("best").unwrap().bool().unwrap().iter().flatten().collect();
    for (i, flag) in flags.iter().enumerate() {
        assert_eq!(*flag, nll[..i].iter().all(|earlier| nll[i] < *earlier), "evaluation {i} of {nll:?}");
    }
    let loss = floats(&evals, "loss");
    assert!(loss.iter().zip(&nll).all(|(a, b)| (a / b - 1.0).abs() < 1e-6), "the loss is sft");
    let kept = weights(&store, &file);

    let last = pipeline(folder.path(), &lines.replace("\npublish = \"best\"", ""));
    let done = json(&ok(&store, &["run", &last, "--json"]));
    let computed = by_stage(&done, "computed_parts").into_iter().find(|(name, _)| name == "train").unwrap().1;
    assert_eq!(computed, 1, "checkpoints are shared");
    assert_ne!(weights(&store, &last), kept);
    // The best weights are those of a training that ends there.
    let until = format!("{}\nstop_step = {}", lines.replace("\npublish = \"best\"", ""), 2 * best);
    let until = pipeline(folder.path(), &until);
    ok(&store, &["run", &until]);
    assert_eq!(weights(&store, &until), kept);
}

/// Records of finished parts that name a checkpoint, and checkpoints in the store.
fn checkpoints(store: &Path) -> (usize, usize) {
    let families = std::fs::read_dir(store.join("memo")).unwrap();
    let files = families.flat_map(|f| std::fs::read_dir(f.unwrap().path()).unwrap()).map(|f| f.unwrap().path());
    let texts: Vec<String> = files.filter_map(|path| std::fs::read_to_string(path).ok()).collect();
    let named = texts.iter().filter(|text| text.contains("trainer.safetensors")).count();
    (named, walk(&store.join("objects")).iter().filter(|path| is_checkpoint(path)).count())
}

/// Files two folders down.
fn walk(folder: &Path) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(folder).unwrap();
    folders.flat_map(|f| std::fs::read_dir(f.unwrap().path()).unwrap()).map(|f| f.unwrap().path()).collect()
}

fn is_checkpoint(path: &Path) -> bool {
    std::fs::read(path).unwrap().windows(16).any(|w| w == b"trainer.counters")
}

/// Goal: only the latest checkpoint stays if so wished, with the same results; a training that needs one that went takes its
/// steps again.
#[test]
fn superseded_checkpoints_go() {
    let folder = tempfile::tempdir().unwrap();
    let (all, last) = (folder.path().join("all"), folder.path().join("last"));
    let lines = "loss = \"dft\"\nlearning_rate = 1e-3\nsteps = 20\ncheckpoint_steps = 4\n\
                 eval_data = \"held_out\"\neval_steps = 3";
    let file = pipeline(folder.path(), lines);
    let expected = address(&all, &file);
    assert_eq!(checkpoints(&all), (4, 4));
    let until = |lines: &str| pipeline(folder.path(), &format!("{lines}\nstop_step = 10"));
    let early = address(&all, &until(lines));
    let lean = format!("{lines}\nkeep_checkpoints = \"last\"");
    let file = pipeline(folder.path(), &lean);
    assert_eq!(address(&last, &file), expected);
    assert_eq!(checkpoints(&last), (1, 1));
    assert_eq!(address(&last, &file), expected);
    assert_eq!(json(&ok(&last, &["run", &file, "--json"]))["stages"][4]["computed_parts"], 0);
    assert_eq!(address(&last, &until(&lean)), early);
}

/// Goal: row weights come from a file by key; only their proportions matter; 0 leaves a row out; a row without one is an error.
#[test]
fn row_weights_come_from_a_column() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let lines = "loss = \"sft\"\nlearning_rate = 1e-3\nsteps = 4";
    let plain = pipeline(folder.path(), lines);
    let unweighted = address(&store, &plain);
    let tokens: u64 = counts(&table(&store, "train_steps"), "token_count").iter().sum();

    let rows = store.join("tables/p/rows");
    let path = std::fs::read_dir(rows).unwrap().map(|e| e.unwrap().path()).find(|p| p.is_file()).unwrap();
    let ids = ParquetReader::new(std::fs::File::open(path).unwrap()).finish().unwrap();
    let ids = ids.column("problem_id").unwrap().clone();
    let write = |keep: usize, weight: &dyn Fn(usize) -> f64| {
        let own: Vec<f64> = (0..keep).map(weight).collect();
        let columns = vec![ids.head(Some(keep)), Column::new("value".into(), own)];
        let mut frame = DataFrame::new(keep, columns).unwrap();
        ParquetWriter::new(std::fs::File::create(folder.path().join("weights.parquet")).unwrap())
            .finish(&mut frame)
            .unwrap();
    };
    let weighted = format!("{lines}\nrow_weights = {{ file = \"weights.parquet\", column = \"value\" }}");
    write(24, &|_| 2.0);
    let file = pipeline(folder.path(), &weighted);
    assert_eq!(address(&store, &file), unweighted, "all alike is like none");
    write(24, &|i| if i % 2 == 0 { 1.0 } else { 0.0 });
    assert_ne!(address(&store, &file), unweighted);
    let kept: u64 = counts(&table(&store, "train_steps"), "token_count").iter().sum();
    assert!(kept < tokens * 2 / 3, "{kept} of {tokens}");

    write(23, &|_| 1.0);
    let stderr = fails(&store, &["run", &file], 3);
    assert!(stderr.contains("has no weight") && stderr.contains("weights.parquet"), "{stderr}");
    write(24, &|i| if i == 7 { -1.0 } else { 1.0 });
    assert!(fails(&store, &["run", &file], 3).contains("must be a non-negative number"));
    let misnamed = pipeline(folder.path(), &weighted.replace("value", "valu"));
    assert!(fails(&store, &["run", &misnamed], 3).contains("no column `valu`"));
}

/// Goal: a trained policy is a checkpoint that `generate` loads, with adapters merged and in the type asked for; what changes no
/// result changes no recipe.
#[test]
fn adapters_and_types_give_a_policy() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let lines = "loss = \"dft\"\nlearning_rate = 1e-2\nsteps = 4\ncheckpoint_steps = 2";
    let base = std::fs::read(Path::new(&checkpoint()).join("model.safetensors")).unwrap();
    let full = pipeline(folder.path(), lines);
    let trained = address(&store, &full);
    let size = weights(&store, &full).len();
    let again = pipeline(folder.path(), &format!("{lines}\ngradient_checkpointing = true"));
    let done = json(&ok(&store, &["run", &again, "--json"]));
    assert!(by_stage(&done, "computed_parts").iter().all(|(_, parts)| *parts == 0), "the result is the same");
    let elsewhere = folder.path().join("elsewhere");
    assert_eq!(address(&elsewhere, &again), trained, "computed again, to the bit");

    let adapted = "lora = { rank = 4, alpha = 8, targets = [\"q_proj\", \"v_proj\", \"down_proj\"] }";
    for (extra, bytes) in [(adapted, size), ("dtype = \"bf16\"", size / 2), ("reference_quirks = true", size)] {
        let file = pipeline(folder.path(), &format!("{lines}\n{extra}"));
        assert_ne!(address(&store, &file), trained, "{extra}");
        let own = weights(&store, &file);
        assert!(own.len().abs_diff(bytes) < 4096 && own != base, "{extra}: {} bytes of {bytes}", own.len());
        let policy = ok(&store, &["path", &file, "train"]);
        let args = ["generate", "--policy", policy.trim(), "--prompt", "What is 2 + 2?", "-n", "2"];
        let samples = ok(&store, &[&args[..], &["--max-new-tokens", "8", "--seed", "1"]].concat());
        assert_eq!(samples.lines().count(), 2, "{extra}");
    }
}

/// Goal: of several trainings of a matrix, an error says which one, at which step, and about which problem.
#[test]
fn an_error_says_which_training_step_and_problem() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let lines = "matrix.loss = [\"sft\", \"dft\"]\nmatrix.seed = [0, 1]\nloss = \"{loss}\"\nseed = \"{seed}\"\nsteps = 2\n\
                 learning_rate = 1e-3\nmax_length = 8\ntoo_long = \"error\"";
    let file = pipeline(folder.path(), lines);
    let error = fails(&store, &["run", &file, "train-dft-1"], 3);
    assert!(error.contains("tokens, more than 8"), "{error}");
    let places: Vec<&str> = error.lines().skip_while(|line| !line.starts_with("   at: ")).collect();
    assert_eq!(places[0], format!("   at: {file}"));
    assert_eq!(places[1], "       stage `train-dft-1` (loss = dft, seed = 1)");
    assert_eq!(places[2..4], ["       step 0", "       row 0 of the batch"]);
    let id =
        places[4].strip_prefix("       problem `").and_then(|rest| rest.strip_suffix("`, target 0")).expect(&error);
    let rows = ok(&store, &["show", &file, "rows", "--json"]);
    assert!(rows.contains(id), "no row is of problem `{id}`");
}

/// Goal: a part of a training goes on from the one before it in memory: between two parts neither the policy nor the checkpoint is
/// read, and the result is that of a training that reads both.
#[test]
fn consecutive_parts_read_nothing_again() {
    let folder = tempfile::tempdir().unwrap();
    let text = crate::support::TINY.replace("FIXTURES/model/qwen2", "policy").replace("steps = 2", "steps = 4");
    let file = crate::support::pipeline(folder.path(), "p.toml", &text);
    let policy = folder.path().join("policy");
    let copy_policy = || {
        std::fs::create_dir_all(&policy).unwrap();
        for entry in std::fs::read_dir(checkpoint()).unwrap().map(Result::unwrap) {
            std::fs::copy(entry.path(), policy.join(entry.file_name())).unwrap();
        }
    };
    let run = |store: &str, observer: &(dyn Fn(Event) + Sync)| {
        copy_policy();
        let (device, cancel) = (&candle_core::Device::Cpu, &AtomicBool::new(false));
        let options = Options { threads: 1, device, cancel, observer, way: Way::Run { share: None } };
        let pipeline = Pipeline::load(&file, &[])?;
        mindgap::pipeline::run(&pipeline, &Store::open(folder.path().join(store))?, &[], &options)
    };
    // The policy's weights and all checkpoints are away while a part begins that is not the first; its step brings the latter back.
    let away: Mutex<Vec<(PathBuf, PathBuf)>> = Mutex::default();
    let hide = |event: Event| match event {
        Event::PartStarted { stage: "train", index: 1.., .. } => {
            let _ = std::fs::remove_file(policy.join("model.safetensors"));
            let objects = walk(&folder.path().join("live/objects"));
            for (number, path) in objects.into_iter().filter(|path| is_checkpoint(path)).enumerate() {
                let hidden = folder.path().join(format!("hidden-{number}"));
                std::fs::rename(&path, &hidden).unwrap();
                away.lock().unwrap().push((hidden, path));
            }
            assert!(!away.lock().unwrap().is_empty());
        }
        Event::Progress { stage: "train", .. } => {
            away.lock().unwrap().drain(..).for_each(|(hidden, path)| std::fs::rename(hidden, path).unwrap());
        }
        _ => (),
    };
    let live = summary(&run("live", &hide).unwrap());
    assert!(!policy.join("model.safetensors").exists(), "nothing was hidden");
    assert_eq!(live, summary(&run("plain", &|_| ()).unwrap()));

    // A training that begins after a checkpoint reads it, and ends the same.
    let shorter = text.replace("checkpoint_steps = 1", "checkpoint_steps = 1\nstop_step = 2");
    let whole = std::fs::read_to_string(&file).unwrap();
    crate::support::pipeline(folder.path(), "p.toml", &shorter);
    run("resumed", &|_| ()).unwrap();
    std::fs::write(&file, whole).unwrap();
    assert_eq!(live.0, summary(&run("resumed", &|_| ()).unwrap()).0);
}

#[test]
fn impossible_parameters_are_refused_before_anything_runs() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    for (extra, words) in [
        ("publish = \"best\"", "held-out rows"),
        ("eval_steps = 5", "held-out rows"),
        ("eval_data = \"problems\"", "`eval_data` names `problems`, a `ingest` stage"),
        ("lora = { rank = 0, alpha = 1 }", "must be above 0"),
        ("lora = { rank = 2, alpha = 1, targets = [\"q\"] }", "unknown target `q`"),
        ("reference_quirks = true\nmax_length = 512", "decides how rows are cut"),
        ("dtype = \"f16\"", "f16"),
    ] {
        let file = pipeline(folder.path(), &format!("loss = \"sft\"\nlearning_rate = 1e-3\nsteps = 2\n{extra}"));
        let stderr = fails(&store, &["plan", &file], 2);
        assert!(stderr.contains(words), "{extra}: {stderr}");
    }
}

/// The stages of a paper pipeline, over files and a checkpoint of a size for tests.
fn settings(folder: &Path, shrunken: bool) -> Vec<String> {
    let train = problems(folder, "numina.jsonl", 0..12);
    let mut settings = vec![format!("policy={}", checkpoint()), format!("train_file={}", train.display())];
    for (index, name) in ["math500", "minerva", "olympiad", "aime24", "amc23"].into_iter().enumerate() {
        let first = 200 + 10 * index as u32;
        let path = problems(folder, &format!("{name}.jsonl"), first..first + 2);
        settings.push(format!("{name}={}", path.display()));
    }
    if shrunken {
        let small = ["limit=8", "samples=2", "max_new_tokens=6", "eval_samples=2", "eval_max_new_tokens=6", "batch=4"];
        settings.extend(small.map(str::to_string));
        // All of it in this process, and by the paper's own trainer.
        settings.extend(["engine=mindgap", "trainer=mindgap", "reference_quirks=true"].map(str::to_string));
    }
    settings
}

fn with_settings(words: &[&str], settings: &[String]) -> Vec<String> {
    let mut args: Vec<String> = words.iter().map(|word| word.to_string()).collect();
    args.extend(settings.iter().flat_map(|setting| ["--set".to_string(), setting.clone()]));
    args
}

/// Goal: the paper's pipelines parse, can be planned with the paper's numbers, and a shrunken run reaches the end.
#[test]
fn the_papers_pipelines_run() {
    for file in ["pipelines/paper-qwen2.5-math-7b.toml", "pipelines/paper-llama-3.1-8b.toml"] {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        let run = |words: &[&str], shrunken: bool| {
            let args = with_settings(words, &settings(folder.path(), shrunken));
            json(&ok(&store, &args.iter().map(String::as_str).collect::<Vec<_>>()))
        };
        let plan = run(&["plan", file, "--json"], false);
        assert!(by_stage(&plan, "kind").iter().any(|(_, kind)| kind == "train"), "{file}");
        let done = run(&["run", file, "--json"], true);
        assert!(by_stage(&done, "state").iter().all(|(_, state)| state == "done"), "{file}");
        let rows = by_stage(&done, "rows").into_iter().find(|(name, _)| name == "evals").unwrap().1;
        // Five benchmarks under the base policy and the four trained ones.
        assert_eq!(rows, 25, "{file}");
    }
}
