//! A million problems with four samples each, without a model: what planning, the relational stages, an import of as many
//! completions and a run with nothing to do cost.
//!
//! ```text
//! cargo bench --bench scale                        1,000,000 problems
//! cargo bench --bench scale -- --problems 100000   fewer
//! cargo bench --bench scale -- --import            the import alone
//! cargo bench --bench scale -- --policy FOLDER     in the tokens of another policy
//! ```
//!
//! The samples are made up here and published as the parts of an ordinary rollout stage; every other stage is run by the
//! binary, as a user would. Each line gives seconds and the peak of resident memory of one process.

#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a program of its own")]

use mindgap::net::hub::Watch;
use mindgap::pipeline::Pipeline;
use mindgap::pipeline::session::{Session, manifest};
use mindgap_base::error::Result;
use mindgap_store::parquet::{Encoded, Footer};
use mindgap_store::table::problems::Problem;
use mindgap_store::table::rollouts::{PromptKind, Rollout, StopReason};
use mindgap_store::{PartRecord, Store, Table};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

const SAMPLES: u32 = 4;
const MORE_SAMPLES: u32 = 10;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (mut problems, mut import_alone) = (1_000_000u64, false);
    let mut policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/base-policy");
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().unwrap_or_default();
        match argument.as_str() {
            "--problems" => {
                let value = value();
                problems = value.parse().unwrap_or_else(|_| panic!("--problems takes a number, not `{value}`"));
            }
            "--policy" => policy = std::path::absolute(value()).expect("a folder is named"),
            "--import" => import_alone = true,
            _ => {}
        }
    }
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (pipeline, more) = write_inputs(folder.path(), problems, &policy);
    write_completions(folder.path(), problems);
    let (pipeline, store) = (pipeline.as_str(), folder.path().join("store"));
    println!("{problems} problems, {SAMPLES} samples each\n{:<28}{:>10}{:>14}", "", "seconds", "peak MiB");
    timed(&store, "run problems (ingest)", &["run", pipeline, "problems"]);
    timed(&store, "run imported (samples)", &["run", pipeline, "imported"]);
    if import_alone {
        return Ok(());
    }
    timed(&store, "run imported verdicts", &["run", pipeline, "imported_verdicts"]);
    let started = Instant::now();
    let parts = make_up_samples(&store, Path::new(pipeline))?;
    println!(
        "{:<28}{:>10.2}{:>14}   {parts} parts, made up here",
        "publish rollouts",
        started.elapsed().as_secs_f64(),
        "-"
    );
    timed(&store, "plan, verdicts missing", &["plan", pipeline]);
    timed(&store, "run verdicts", &["run", pipeline, "verdicts"]);
    timed(&store, "run rewrites", &["run", pipeline, "rewrites"]);
    timed(&store, "run evals", &["run", pipeline, "evals"]);
    timed(&store, "plan, guided missing", &["plan", pipeline]);
    let done = &["rewrites", "evals"];
    for _ in 0..3 {
        timed(&store, "plan, all cached", &[&["plan", pipeline], &done[..]].concat());
    }
    for _ in 0..3 {
        timed(&store, "run, all cached", &[&["run", pipeline], &done[..]].concat());
    }
    timed(&store, "plan, more samples missing", &["plan", &more]);
    timed(&store, "status", &["status", pipeline]);
    timed(&store, "show --limit 1", &["show", pipeline, "rollouts", "--limit", "1"]);
    timed(&store, "show --row", &["show", pipeline, "--row", "00"]);
    timed(&store, "show --where", &["show", pipeline, "verdicts", "--where", "verdict=correct"]);
    timed(&store, "report", &["report", pipeline, "--json"]);
    timed(&store, "results", &["results", pipeline]);
    timed(&store, "check", &["check"]);
    timed(&store, "gc (dry run)", &["gc"]);
    Ok(())
}

/// A file with a completion per problem, of about 60 words. Of a thousand rows one asks what no problem asks, one is empty.
fn write_completions(folder: &Path, problems: u64) {
    let file = std::fs::File::create(folder.join("completions.jsonl")).expect("the temporary folder is writable");
    let mut file = BufWriter::new(file);
    for i in 0..problems {
        let (a, b) = (i % 9973, i / 7);
        let sum = a + b;
        let asked = if i % 1000 == 500 { i + problems } else { i };
        let text = format!(
            r"We are asked how many fruits the shop sells on that day, so both kinds are added. It sells {a} pears. It sells {b} apples too, and no other fruit is named. Together these are {a} + {b} = {sum} fruits, which is more than either of the two kinds on its own. The answer is \\boxed{{{sum}}}."
        );
        let text = if i % 1000 == 900 { "" } else { text.as_str() };
        writeln!(
            file,
            r#"{{"prompt":"Problem {asked}: a shop sells {a} pears and {b} apples on one day. How many fruits is that in all?","outputs":[{{"text":"{text}","finish_reason":"stop"}}]}}"#
        )
        .expect("the temporary folder is writable");
    }
    file.flush().expect("the temporary folder is writable");
}

/// A file of problems, a pipeline over it, and the same with more samples.
fn write_inputs(folder: &Path, problems: u64, policy: &Path) -> (String, String) {
    let mut lines = String::new();
    for i in 0..problems {
        let (a, b) = (i % 9973, i / 7);
        let sum = a + b;
        writeln!(
            lines,
            r#"{{"question":"Problem {i}: a shop sells {a} pears and {b} apples on one day. How many fruits is that in all?","solution":"There are {a} pears and {b} apples, so {a} + {b} = {sum} fruits. \\boxed{{{sum}}}","answer":"{sum}"}}"#
        )
        .expect("writing to a text does not fail");
    }
    std::fs::write(folder.join("problems.jsonl"), lines).expect("the temporary folder is writable");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = format!(
        r#"
[policies]
base = {{ path = "{policy}" }}
[stages.problems]
kind = "ingest"
files = [{{ path = "problems.jsonl", source = "shop" }}]
[stages.rollouts]
kind = "rollout"
problems = "problems"
policy = "base"
samples = {SAMPLES}
max_new_tokens = 16
[stages.imported]
kind = "samples"
problems = "problems"
policy = "base"
files = ["completions.jsonl"]
[stages.imported_verdicts]
kind = "judge"
rollouts = "imported"
problems = "problems"
[stages.verdicts]
kind = "judge"
rollouts = "rollouts"
problems = "problems"
[stages.guided]
kind = "rollout"
problems = "problems"
policy = "base"
unsolved = ["verdicts"]
prompt_kind = "guided"
template = "{templates}/guided.j2"
samples = {SAMPLES}
max_new_tokens = 16
[stages.rewrites]
kind = "rewrite"
problems = "problems"
policy = "base"
self_aligned = ["verdicts"]
[stages.evals]
kind = "evaluate"
problems = "problems"
verdicts = ["verdicts"]
"#,
        policy = policy.display(),
        templates = root.join("pipelines/templates").display(),
    );
    let more = text.replacen(&format!("samples = {SAMPLES}"), &format!("samples = {MORE_SAMPLES}"), 1);
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).expect("the temporary folder is writable");
        path.to_str().expect("temporary folders are UTF-8").to_string()
    };
    (write("scale.toml", &text), write("more.toml", &more))
}

#[derive(Deserialize)]
struct Asked {
    problem_id: String,
    answer: String,
}

/// Publishes the parts of the rollout stage with made-up samples. Returns how many there are.
fn make_up_samples(store: &Path, pipeline: &Path) -> Result<usize> {
    let pipeline = Pipeline::load(pipeline, &[])?;
    let store = Store::open(store)?;
    let watch = Watch { cancel: &AtomicBool::new(false), on_transfer: &|_| {} };
    let mut session = Session::new(&pipeline, &store, &[], &watch)?;
    let ingest = pipeline.stage("problems")?;
    let problems = manifest(ingest, &session.bind(ingest)?).expect("the problems were ingested");
    let table = Table::<Problem>::new(&store, problems.table("problems"));
    session.finish(ingest, problems);
    let bound = session.bind(pipeline.stage("rollouts")?)?;
    for part in &bound.parts {
        let asked: Vec<Asked> =
            table.overlapping(&part.part.span.first, &part.part.span.last).select(&["problem_id", "answer"])?;
        let rows: Vec<Rollout> = asked.iter().flat_map(|row| (0..SAMPLES).map(|index| sample(row, index))).collect();
        let footer = Footer { stage: "rollouts", fingerprint: bound.family.as_str() };
        let table = store.put_part(Encoded::new(&rows, &footer)?)?;
        let record = PartRecord {
            fingerprint: part.fingerprint.clone(),
            span: part.part.span.clone(),
            tables: BTreeMap::from([("rollouts".to_string(), vec![table])]),
            files: BTreeMap::new(),
        };
        store.remember_part(&bound.recipe, &record)?;
    }
    Ok(bound.parts.len())
}

/// Three problems of four are solved by their last sample.
fn sample(row: &Asked, index: u32) -> Rollout {
    let solved = index + 1 == SAMPLES && !row.problem_id.starts_with(['0', '4', '8', 'c']);
    let answer = if solved { row.answer.clone() } else { format!("{}9", row.answer) };
    Rollout {
        problem_id: row.problem_id.clone(),
        sample_index: index,
        prompt_kind: PromptKind::Plain,
        completion: format!("That is \\boxed{{{answer}}}"),
        prompt_ids: vec![1, 2, 3],
        token_ids: vec![4, 5, 6, 7],
        logprob_behavior: Some(vec![-0.5; 4]),
        logprob_policy: Some(vec![-0.5; 4]),
        stop_reason: StopReason::Eos,
        special_count: 0,
        seed: 0,
        prefill: None,
        engine: None,
        failure: None,
    }
}

/// Runs the binary and prints what it took.
fn timed(store: &Path, what: &str, arguments: &[&str]) {
    let started = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_mindgap"))
        .args(arguments)
        .env("MINDGAP_STORE", store)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    let exit = loop {
        // The peak only grows, so the last look before the end is at most a few milliseconds short of it.
        peak = std::fs::read_to_string(&status).ok().and_then(|text| peak_kib(&text)).unwrap_or(peak);
        match child.try_wait().expect("the child can be waited for") {
            Some(exit) => break exit,
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    println!("{what:<28}{:>10.2}{:>14}", started.elapsed().as_secs_f64(), peak / 1024);
    assert!(exit.success(), "`mindgap {}` failed: {exit}", arguments.join(" "));
}

/// The peak of resident memory in KiB.
fn peak_kib(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}
