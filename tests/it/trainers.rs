//! Trainings done by another program: this test program again, which trains as the work folder says with this crate's own trainer.

use crate::support::{SMALL, fails, json, mindgap, ok, pipeline};
use arrow::array::AsArray;
use arrow::datatypes::{Float32Type, Float64Type, Int64Type};
use candle_core::{DType, Device, Tensor};
use mindgap_lm::model::policy::{Policy, PolicyFiles};
use mindgap_lm::model::tensors::{self, TensorFile};
use mindgap_lm::model::weights;
use mindgap_lm::train::{Accumulation, Loss, PackingParams, Rounding, Schedule, TrainExample, Trainer, TrainerParams};
use mindgap_store::Store;
use mindgap_store::parquet::decode_batches;
use mindgap_store::table::train_steps::TrainStep;
use serde_json::Value;
use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Trains, where it is started as a program; as a test it does nothing.
#[test]
fn as_a_program() {
    if std::env::var_os("FAKE_TRAINER").is_none() {
        return;
    }
    let work = PathBuf::from(std::env::var("WORK").unwrap());
    let recipe: Value = serde_json::from_slice(&std::fs::read(work.join("recipe.json")).unwrap()).unwrap();
    append(&work.join("../lives"), "life");
    let lives = lines(&work.join("../lives")).len();
    let policy = policy(&work.join("policy"));
    let tensors: HashMap<String, Tensor> =
        policy.checkpoint().unwrap().tensors(policy.config(), DType::F32, &Device::Cpu).unwrap();
    let rates = recipe["learning_rates"].as_array().unwrap();
    let params = TrainerParams {
        loss: Loss::from_value(&recipe["loss"]).unwrap(),
        optimizer: serde_json::from_value(recipe["optimizer"].clone()).unwrap(),
        schedule: Schedule::constant(rates[0].as_f64().unwrap(), rates.len() as u32),
        clip_norm: recipe["clip_norm"].as_f64().unwrap(),
        eos_token_ids: serde_json::from_value(recipe["eos_token_ids"].clone()).unwrap(),
        packing: PackingParams::default(),
        accumulation: Accumulation::TokenMean,
        skip_limit: 1,
        dtype: DType::F32,
        rounding: Rounding::Kept,
        lora: None,
        seed: 0,
        gradient_checkpointing: false,
    };
    let mut trainer = Trainer::new(policy.config(), tensors, params, &Device::Cpu).unwrap();
    let saved = work.join("checkpoints/state");
    if let Ok(bytes) = std::fs::read(&saved) {
        trainer.restore(&TensorFile::open(&bytes).unwrap()).unwrap();
    }
    let rows = rows(&work.join("train.parquet"));
    let size = recipe["batch_size"].as_u64().unwrap() as usize;
    for (step, rows) in rows.chunks(size).enumerate().skip(trainer.steps_done() as usize) {
        if lives == 1 && std::env::var("FAKE_CRASH_AT").is_ok_and(|at| at == step.to_string()) {
            eprintln!("out of memory");
            std::process::exit(9);
        }
        // Those without a target are there so that every step has as many.
        let rows: Vec<&TrainExample> = rows.iter().filter(|row| row.loss_mask.contains(&true)).collect();
        let metrics = trainer.step(&rows).unwrap();
        let said =
            serde_json::json!({"step": step, "loss": metrics.loss, "grad_norm": metrics.grad_norm, "nll": metrics.nll});
        append(&work.join("steps.jsonl"), &said.to_string());
        if (step + 1) % recipe["checkpoint_steps"].as_u64().unwrap() as usize == 0 {
            std::fs::create_dir_all(work.join("checkpoints")).unwrap();
            let mut bytes = Vec::new();
            tensors::write(&trainer.state().unwrap(), None, &mut |piece| {
                bytes.extend_from_slice(piece);
                Ok(())
            })
            .unwrap();
            std::fs::write(&saved, bytes).unwrap();
        }
    }
    let mut bytes = Vec::new();
    weights::write(&trainer.weights().unwrap(), &mut |piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    })
    .unwrap();
    std::fs::create_dir_all(work.join("out")).unwrap();
    if std::env::var_os("FAKE_FORGETS").is_none() {
        std::fs::write(work.join("out/model.safetensors"), bytes).unwrap();
    }
}

fn append(path: &Path, line: &str) {
    writeln!(std::fs::File::options().create(true).append(true).open(path).unwrap(), "{line}").unwrap();
}

fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_string).collect()
}

fn policy(folder: &Path) -> Policy {
    let mut files = PolicyFiles::default();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_string();
        if PolicyFiles::wants(&name) {
            files.insert(name, std::fs::read(path).unwrap());
        }
    }
    Policy::from_files(files).unwrap()
}

/// What the work folder says is trained on.
fn rows(path: &Path) -> Vec<TrainExample> {
    let mut rows = Vec::new();
    for batch in decode_batches(std::fs::read(path).unwrap()).unwrap() {
        let list = |name: &str, row: usize| batch.column_by_name(name).unwrap().as_list::<i32>().value(row);
        for row in 0..batch.num_rows() {
            let ids = list("input_ids", row).as_primitive::<Int64Type>().values().to_vec();
            let labels = list("labels", row).as_primitive::<Int64Type>().values().to_vec();
            assert!(ids.iter().zip(&labels).all(|(id, label)| *label == -100 || label == id));
            let behavior = list("logprob_behavior", row).as_primitive::<Float32Type>().values().to_vec();
            let mut example = TrainExample::new(
                ids.iter().map(|id| *id as u32).collect(),
                labels.iter().map(|label| *label != -100).collect(),
                0,
            );
            example.weight = batch.column_by_name("factor").unwrap().as_primitive::<Float64Type>().value(row) as f32;
            example.logprob_behavior = Some(behavior);
            rows.push(example);
        }
    }
    rows
}

/// The small pipeline, whose rows a last step lacks some of, and two trainings that differ in who trains.
fn two(folder: &Path, loss: &str, more: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let head = SMALL.split("[stages.train]").next().unwrap();
    let train = |name: &str, more: &str| {
        format!(
            "[stages.{name}]\nkind = \"train\"\npolicy = \"base\"\ndata = \"rewrites\"\nloss = {loss}\n\
             learning_rate = 1e-3\nschedule = \"constant\"\nbatch_size = 5\nepochs = 1\ncheckpoint_steps = 2\n{more}\n"
        )
    };
    let launch = format!("FAKE_TRAINER=1 exec {} trainers::as_a_program --exact --nocapture", test.display());
    let there = format!("trainer = {{ kind = \"command\", launch = {launch:?} }}\n{more}");
    pipeline(folder, "two.toml", &format!("{head}{}{}", train("here", ""), train("there", &there)))
}

fn steps(store: &Path, stage: &str) -> Vec<TrainStep> {
    let store = Store::open(store).unwrap();
    let pointer = store.pointer("small", stage).unwrap().unwrap();
    store.read_rows(&store.get_manifest(&pointer.manifest).unwrap().table("train_steps")).unwrap()
}

fn weights_of(store: &Path, stage: &str) -> Vec<f32> {
    let policy = policy(&store.join("tables/small").join(stage));
    let tensors = policy.checkpoint().unwrap().tensors(policy.config(), DType::F32, &Device::Cpu).unwrap();
    let mut names: Vec<&String> = tensors.keys().collect();
    names.sort();
    names.iter().flat_map(|name| tensors[*name].flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect()
}

#[track_caller]
fn assert_alike(store: &Path) {
    let (here, there) = (steps(store, "here"), steps(store, "there"));
    assert!(here.len() > 2 && here.len() == there.len());
    for (own, told) in here.iter().zip(&there) {
        assert!((own.loss - told.loss).abs() < 1e-5 && (own.nll - told.nll).abs() < 1e-4, "{own:?} {told:?}");
        assert!((own.grad_norm - told.grad_norm).abs() < 1e-3 * own.grad_norm, "{own:?} {told:?}");
        assert_eq!((own.learning_rate, own.token_count), (told.learning_rate, told.token_count));
    }
    let (here, there) = (weights_of(store, "here"), weights_of(store, "there"));
    let difference = here.iter().zip(&there).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(here.len() == there.len() && difference < 1e-4, "{difference}");
}

/// Goal: what the work folder says is all there is to know: a program that goes by it makes the policy that is made here.
#[test]
fn another_program_trains_the_same() {
    let folder = tempfile::tempdir().unwrap();
    for (number, loss) in ["\"dft\"", "\"sft\"", "{ name = \"importance\", level = \"sequence\" }"].iter().enumerate() {
        let store = folder.path().join(format!("store-{number}"));
        let file = two(folder.path(), loss, "");
        ok(&store, &["run", file.to_str().unwrap()]);
        assert_alike(&store);
        assert!(!lines(&store.join("work/lives")).is_empty());
        let left: Vec<_> =
            std::fs::read_dir(store.join("work")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["lives"], "the work folder goes when the policy is there");
        let plan = json(&ok(&store, &["plan", file.to_str().unwrap(), "--json"]));
        assert!(plan["stages"].as_array().unwrap().iter().all(|stage| stage["parts_miss"] == 0));
    }
}

/// Goal: beside a script for TRL or verl lies every module of ours that it imports, and what starts it is not in the recipe.
#[test]
fn scripts_have_what_they_import() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let test = std::env::current_exe().unwrap();
    for (kind, script) in [("trl", "trl_sft.py"), ("verl", "verl_sft.py")] {
        let copy = folder.path().join(kind);
        let launch = |more: &str| {
            let fake = format!("FAKE_TRAINER=1 exec {} trainers::as_a_program --exact {more}", test.display());
            let line = format!("test -f \"$SCRIPT\" && cp -r \"$WORK\" {} && {fake}", copy.display());
            let text = std::fs::read_to_string(two(folder.path(), "\"sft\"", "")).unwrap();
            let (head, _) = text.split_once("trainer = ").unwrap();
            let trainer = format!("trainer = {{ kind = \"{kind}\", launch = {line:?} }}\n");
            pipeline(folder.path(), "scripted.toml", &format!("{head}{trainer}"))
        };
        ok(&store, &["run", launch("").to_str().unwrap()]);
        assert_alike(&store);
        assert!(copy.join(script).exists());
        let scripts = std::fs::read_dir(&copy).unwrap().map(|entry| entry.unwrap().path());
        let scripts: Vec<PathBuf> = scripts.filter(|path| path.extension().is_some_and(|end| end == "py")).collect();
        assert!(scripts.len() > 4);
        for path in &scripts {
            let words: Vec<Vec<String>> =
                lines(path).iter().map(|line| line.split_whitespace().map(str::to_string).collect()).collect();
            let imported =
                words.iter().filter(|line| line.first().is_some_and(|word| word == "import" || word == "from"));
            let own = ["losses", "recipe", "step_sums", "trained"];
            for module in
                imported.filter_map(|line| own.iter().find(|own| line.get(1).is_some_and(|word| word == *own)))
            {
                assert!(copy.join(format!("{module}.py")).exists(), "{} imports {module}", path.display());
            }
        }
        let plan = json(&ok(&store, &["plan", launch("--nocapture").to_str().unwrap(), "--json"]));
        assert!(plan["stages"].as_array().unwrap().iter().all(|stage| stage["parts_miss"] == 0));
    }
}

/// Goal: a trainer that ends badly is told with what it said; the next run gives it its checkpoints back, and nothing is done twice
/// that came before them.
#[test]
fn a_trainer_goes_on_from_its_checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let file = two(folder.path(), "\"dft\"", "");
    let mut command = mindgap(&store, &["run", file.to_str().unwrap()]);
    let output = command.env("FAKE_CRASH_AT", "3").output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{stderr}");
    for says in
        ["the trainer ended with exit status: 9", "out of memory", "stage `there`", "run the same command again"]
    {
        assert!(stderr.contains(says), "`{says}` is not in:\n{stderr}");
    }
    let works = std::fs::read_dir(store.join("work")).unwrap().map(|entry| entry.unwrap().path());
    let work = works.into_iter().find(|path| path.is_dir() && path.join("recipe.json").exists()).unwrap();
    assert_eq!(lines(&work.join("steps.jsonl")).len(), 3);
    ok(&store, &["run", file.to_str().unwrap()]);
    assert_alike(&store);
    assert_eq!(lines(&store.join("work/lives")).len(), 2);
}

/// Goal: what a program leaves undone is an error that says what it was to do.
#[test]
fn a_trainer_that_leaves_nothing_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let file = two(folder.path(), "\"dft\"", "");
    let output = mindgap(&store, &["run", file.to_str().unwrap()]).env("FAKE_FORGETS", "1").output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("the trainer left no weights") && stderr.contains("$WORK/out"), "{stderr}");
}

/// Goal: what another trainer is not told is refused before anything runs.
#[test]
fn what_only_the_own_trainer_does_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let head = SMALL.split("[stages.train]").next().unwrap();
    let cases = [
        ("trainer = \"command\"\nloss = \"dft\"", "is a command, and none is given"),
        ("trainer = \"trl\"\nloss = \"talr\"", "loss `talr` is not one"),
        ("trainer = \"trl\"\nloss = \"psft\"", "loss `psft` is not one"),
        ("trainer = \"trl\"\nloss = \"dft\"\ninit_seed = 3", "`init_seed` is for mindgap's own trainer"),
        (
            "trainer = \"trl\"\nloss = \"dft\"\neval_data = \"rewrites\"\npublish = \"best\"",
            "`publish` is for mindgap's own trainer",
        ),
        ("trainer = \"verl\"\nloss = \"eaft\"", "loss `eaft` is not one that verl is given here"),
        ("trainer = \"verl\"\nloss = \"asft\"", "loss `asft` is not one that verl is given here"),
        (
            "trainer = \"nemo\"\nloss = \"dft\"",
            "unknown variant `nemo`, expected one of `mindgap`, `trl`, `verl`, `command`",
        ),
    ];
    for (more, says) in cases {
        let train = format!(
            "[stages.train]\nkind = \"train\"\npolicy = \"base\"\ndata = \"rewrites\"\nlearning_rate = 1e-3\nbatch_size = 8\nsteps = 2\n{more}\n"
        );
        let file = pipeline(folder.path(), "wrong.toml", &format!("{head}{train}"));
        let stderr = fails(&store, &["plan", file.to_str().unwrap()], 2);
        assert!(stderr.contains(says), "`{says}` is not in:\n{stderr}");
    }
}
