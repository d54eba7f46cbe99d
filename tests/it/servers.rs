//! Policies on servers, against servers that run the embedded policy with this crate's engine and misbehave as real ones do. All on
//! 127.0.0.1.

use crate::fake_server::{Fake, Fault, Manner, Program, Seen, Served, closed, direct};
use crate::support::{by_stage, json, pipeline};
use mindgap::base::fingerprint::Fingerprint;
use mindgap::store::{Rules, Store};
use mindgap::table::Row;
use mindgap::table::logprobs::Logprob;
use mindgap::table::rollouts::Rollout;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

/// The cascade on a policy called `big`, which `POLICY` describes; no training.
const CASCADE: &str = r#"
name = "cascade"
[policies]
big = POLICY
[stages.problems]
kind = "ingest"
files = [{ path = "DATA/world/train-0.parquet", source = "world" }]
limit = 12
part_problems = 6
[stages.rollouts]
kind = "rollout"
problems = "problems"
policy = "big"
samples = 2
max_new_tokens = 60
part_problems = 6
[stages.verdicts]
kind = "judge"
rollouts = "rollouts"
problems = "problems"
[stages.guided]
kind = "rollout"
problems = "problems"
policy = "big"
unsolved = ["verdicts"]
prompt_kind = "guided"
template = "TEMPLATES/world-guided.j2"
samples = 1
max_new_tokens = 60
part_problems = 6
[stages.guided_verdicts]
kind = "judge"
rollouts = "guided"
problems = "problems"
[stages.rewrites]
kind = "rewrite"
problems = "problems"
policy = "big"
self_aligned = ["verdicts"]
guided = ["guided_verdicts"]
[stages.expert]
kind = "rewrite"
problems = "problems"
policy = "big"
[stages.logprobs]
kind = "logprob"
matrix.of = ["expert", "rewrites"]
rewrites = "{of}"
policy = "big"
[stages.gap]
kind = "gap"
problems = "problems"
before = "logprobs-expert"
after = "logprobs-rewrites"
[stages.evals]
kind = "evaluate"
problems = "problems"
verdicts = ["verdicts"]
"#;

fn policy(urls: &[String], more: &str) -> String {
    format!("{{ server = {urls:?}, model = \"tiny\", tokenizer = \"DATA/base-policy\"{more} }}")
}

fn cascade(folder: &Path, name: &str, policy: &str) -> PathBuf {
    pipeline(folder, name, &CASCADE.replace("POLICY", policy))
}

fn run(store: &Path, file: &Path, stages: &[&str]) -> Output {
    let args = [&["run", file.to_str().unwrap(), "--json"], stages].concat();
    direct(store, &args).output().unwrap()
}

#[track_caller]
fn done(output: Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    json(&String::from_utf8(output.stdout).unwrap())
}

#[track_caller]
fn refused(output: Output, code: i32, says: &[&str]) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    for word in says {
        assert!(stderr.contains(word), "`{word}` is not in:\n{stderr}");
    }
    stderr
}

fn rows<R: Row>(store: &Path, stage: &str) -> Vec<R> {
    let store = Store::open(store).unwrap();
    let pointer = store.pointer("cascade", stage).unwrap().unwrap();
    store.read_rows(&store.get_manifest(&pointer.manifest).unwrap().table(R::TABLE)).unwrap()
}

/// Goal: rows are what was served, token for token, whatever order the answers came in.
#[track_caller]
fn assert_served(rollouts: &[Rollout], served: &[Served]) {
    let key = |ids: &[u32], tokens: &[u32]| (ids.to_vec(), tokens.to_vec());
    let mut left: BTreeMap<_, Vec<&Served>> = BTreeMap::new();
    for sample in served {
        left.entry(key(&sample.prompt_ids, &sample.sample.token_ids)).or_default().push(sample);
    }
    for row in rollouts {
        let same = left.get_mut(&key(&row.prompt_ids, &row.token_ids));
        let sample = &same.and_then(Vec::pop).expect("a row that nobody served").sample;
        assert_eq!(row.logprob_behavior, sample.logprob_behavior);
        assert_eq!(row.logprob_policy, sample.logprob_policy);
        assert_eq!(row.stop_reason, sample.stop_reason.as_str());
    }
    assert!(left.values().all(Vec::is_empty), "served and not kept");
}

/// Goal: the whole cascade on two servers ends with the rows that were served; every sampling field was said; where the servers
/// are, how many requests they take and how they are spoken to is in no recipe.
#[test]
fn the_cascade_keeps_what_was_served() {
    let folder = tempfile::tempdir().unwrap();
    let mut addresses = Vec::new();
    for program in [Program::Vllm, Program::Sglang] {
        let store = folder.path().join(format!("{program:?}"));
        let fakes = [Fake::start(Manner::good(program)), Fake::start(Manner::good(program))];
        let urls: Vec<String> = fakes.iter().map(Fake::url).collect();
        let file = cascade(folder.path(), "cascade.toml", &policy(&urls, ""));
        let first = done(run(&store, &file, &[]));
        let served: Vec<Served> = fakes.iter().flat_map(Fake::served).collect();
        let rollouts = [rows::<Rollout>(&store, "rollouts"), rows(&store, "guided")].concat();
        assert_eq!(rows::<Rollout>(&store, "rollouts").len(), 24);
        assert_served(&rollouts, &served);
        assert!(fakes.iter().all(|fake| !fake.served().is_empty()), "both servers are used");

        for fake in &fakes {
            for Seen { path, body, .. } in fake.seen().iter().filter(|seen| seen.draws()) {
                let params = if path == "/generate" { &body["sampling_params"] } else { body };
                let wanted = [
                    "temperature",
                    "top_p",
                    "top_k",
                    "min_p",
                    "repetition_penalty",
                    "presence_penalty",
                    "frequency_penalty",
                    "n",
                    "stop",
                    "stop_token_ids",
                    "ignore_eos",
                    "skip_special_tokens",
                ];
                assert!(wanted.iter().all(|name| !params[*name].is_null()), "{params}");
                assert_eq!(params["stop_token_ids"], serde_json::json!([3]));
            }
        }
        let salts: Vec<Value> = fakes
            .iter()
            .flat_map(|fake| {
                let scorings = |seen: &&Seen| !seen.body["cache_salt"].is_null();
                fake.seen().iter().filter(scorings).map(|seen| seen.body["cache_salt"].clone()).collect::<Vec<_>>()
            })
            .collect();
        assert!(
            program == Program::Sglang
                || (salts.len() > 24 && (1..salts.len()).all(|i| !salts[..i].contains(&salts[i])))
        );

        // Elsewhere, one at a time, behind a key: the same recipes, so nothing is asked.
        let other = Fake::start(Manner { key: Some("sk-1"), ..Manner::good(program) });
        let elsewhere = policy(&[other.url()], ", in_flight = 1, api_key_env = \"KEY\", timeout_seconds = 9");
        let again = done(run(&store, &cascade(folder.path(), "elsewhere.toml", &elsewhere), &[]));
        assert_eq!(by_stage(&first, "fingerprint"), by_stage(&again, "fingerprint"));
        assert!(by_stage(&again, "computed_parts").iter().all(|(_, parts)| parts == 0));
        assert!(other.seen().is_empty());
        addresses.push(by_stage(&first, "address"));

        let labelled = policy(&urls, ", revision = \"step 300\"");
        let relabelled = done(run(&store, &cascade(folder.path(), "labelled.toml", &labelled), &["rollouts"]));
        assert_ne!(by_stage(&first, "fingerprint")[1], by_stage(&relabelled, "fingerprint")[1]);
    }
    assert_eq!(addresses[0], addresses[1], "both programs served the same");
}

/// Goal: scores of servers are those of this process, to the bit where the server runs the same engine; entropies are left out.
#[test]
fn scores_are_those_of_the_policy() {
    let folder = tempfile::tempdir().unwrap();
    let fake = Fake::start(Manner::good(Program::Vllm));
    let here = cascade(folder.path(), "here.toml", "{ path = \"DATA/base-policy\" }");
    let there = cascade(folder.path(), "there.toml", &policy(&[fake.url()], ""));
    let stores = [folder.path().join("here"), folder.path().join("there")];
    for (store, file) in stores.iter().zip([&here, &there]) {
        done(run(store, file, &["logprobs-expert"]));
    }
    let [here, there] = stores.map(|store| rows::<Logprob>(&store, "logprobs-expert"));
    assert_eq!(here.len(), there.len());
    for (a, b) in here.iter().zip(&there) {
        assert_eq!((&a.token_ids, &a.logprob_policy), (&b.token_ids, &b.logprob_policy));
        assert!(!a.entropy.is_empty() && b.entropy.is_empty());
    }
}

fn addresses(value: &Value) -> Vec<(String, Value)> {
    by_stage(value, "address")
}
