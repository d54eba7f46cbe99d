//! Policies on servers, against servers that run the embedded policy with this crate's engine and misbehave as real ones do. All on
//! 127.0.0.1.

use crate::fake_server::{Fake, Fault, Manner, Misbehave, Program, Seen, Served, closed, direct};
use crate::support::{by_stage, json, pipeline};
use mindgap::base::fingerprint::Fingerprint;
use mindgap::store::{Rules, Store};
use mindgap::table::Row;
use mindgap::table::logprobs::Logprob;
use mindgap::table::rollouts::Rollout;
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
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

/// Address of the rollouts that a run made.
fn rollouts_of(done: &Value) -> Value {
    by_stage(done, "address").into_iter().find(|(name, _)| name == "rollouts").expect("the stage ran").1
}

/// What one good server gives.
fn expected(folder: &Path) -> Value {
    let fake = Fake::start(Manner::good(Program::Vllm));
    let file = cascade(folder, "expected.toml", &policy(&[fake.url()], ""));
    rollouts_of(&done(run(&folder.join("expected"), &file, &["rollouts"])))
}

const HTML: &str = "<html><body>Bad Gateway</body></html>";

/// Goal: whatever a server does to single requests, the rows are those of a server that does nothing of the kind.
#[test]
fn passing_faults_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let expected = expected(folder.path());
    for program in [Program::Vllm, Program::Sglang] {
        let misbehave = |seen: &Seen| match seen.number {
            _ if !seen.draws() => None,
            0 => Some(Fault::Instead("500 Internal Server Error", "", "oops")),
            1 => Some(Fault::Instead("429 Too Many Requests", "retry-after: 1\r\n", "")),
            3 => Some(Fault::Silence),
            5 => Some(Fault::Truncated),
            7 => Some(Fault::Instead("502 Bad Gateway", "content-type: text/html\r\n", HTML)),
            9 => Some(Fault::Instead("200 OK", "content-type: text/html\r\n", HTML)),
            11 => Some(Fault::Close),
            13 => Some(Fault::Abort),
            15..18 => Some(Fault::Instead("503 Service Unavailable", "", "")),
            _ => None,
        };
        let fake = Fake::start(Manner { misbehave: Box::new(misbehave), ..Manner::good(program) });
        let spec = policy(&[fake.url()], ", in_flight = 4, timeout_seconds = 5");
        let file = cascade(folder.path(), "faults.toml", &spec);
        let found = done(run(&folder.path().join(format!("{program:?}")), &file, &["rollouts"]));
        assert_eq!(rollouts_of(&found), expected, "{program:?}");
        let asked = fake.seen().iter().filter(|seen| seen.draws()).count();
        assert_eq!(asked, 24 + 11, "each fault costs one request");
    }
}

/// Goal: a server that is not there is left alone, and the other does its share.
#[test]
fn a_dead_server_of_two_costs_nothing_but_time() {
    let folder = tempfile::tempdir().unwrap();
    let expected = expected(folder.path());
    let fake = Fake::start(Manner::good(Program::Vllm));
    let spec = policy(&[closed(), fake.url()], ", in_flight = 4");
    let file = cascade(folder.path(), "dead.toml", &spec);
    assert_eq!(rollouts_of(&done(run(&folder.path().join("store"), &file, &["rollouts"]))), expected);
    assert_eq!(fake.served().len(), 24);
    let none = cascade(folder.path(), "none.toml", &policy(&[closed(), closed()], ""));
    let says = ["no server of `tiny` answers", "onnection refused", "docs/servers.md"];
    refused(run(&folder.path().join("none"), &none, &["rollouts"]), 4, &says);
}

/// Goal: what no other try would better ends the run at once and says what to do. No key is in it, nor in the log.
#[test]
fn lasting_faults_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let good = || Manner::good(Program::Vllm);
    let overflow = |seen: &Seen| {
        let body = "{\"error\": {\"message\": \"This model's maximum context length is 10\"}}";
        seen.draws().then_some(Fault::Instead("400 Bad Request", "", body))
    };
    let cases: Vec<(Manner, &str, &[&str])> = vec![
        (
            Manner { tokenizer: "tests/fixtures/model/qwen2", ..good() },
            "",
            &["tokenizes otherwise", "checkpoint that is served"],
        ),
        (Manner { token_ids: false, ..good() }, "", &["no token ids", "vLLM 0.10.2"]),
        (Manner { model: "big", ..good() }, "", &["no model `tiny`", "it serves other, big"]),
        (Manner { max_model_len: 70, ..good() }, "", &["context of 70 tokens is too short", "--max-model-len"]),
        (Manner { score_error: 1.0, ..good() }, "", &["when scored again", "--no-enable-prefix-caching"]),
        (Manner { misbehave: Box::new(overflow), ..good() }, "", &["maximum context length is 10", "status 400"]),
        (good(), ", api = \"sglang\"", &["status 404 for `/generate`", "check `model` and `server`"]),
        (good(), ", api_key_env = \"NO_SUCH_KEY\"", &["`NO_SUCH_KEY` is not set"]),
        (
            Manner { key: Some("another"), ..good() },
            ", api_key_env = \"TEST_KEY\"",
            &["refuses access", "status 401", "Bearer ***"],
        ),
    ];
    for (index, (manner, more, says)) in cases.into_iter().enumerate() {
        let fake = Fake::start(manner);
        let file = cascade(folder.path(), "refused.toml", &policy(&[fake.url()], more));
        let store = folder.path().join(format!("store-{index}"));
        let args = ["run", file.to_str().unwrap(), "rollouts"];
        let stderr = refused(direct(&store, &args).env("TEST_KEY", "sk-secret").output().unwrap(), 4, says);
        let logs = format!("{:?}", Store::open(&store).unwrap().logs().unwrap());
        assert!(!stderr.contains("sk-secret") && !logs.contains("sk-secret"), "{stderr}");
        assert!(logs.contains("failed"), "the log has the error");
    }
}

/// Goal: a log-prob means what its column says. Where a server cannot tell it, that is an error and no row.
#[test]
fn log_probs_mean_what_they_say() {
    let folder = tempfile::tempdir().unwrap();
    let sampling = |words: &str| CASCADE.replace("samples = 2\n", &format!("samples = 2\n{words}\n"));
    let (warm, cut, greedy) = ("temperature = 0.7", "temperature = 0.7\ntop_p = 0.9\ntop_k = 5", "temperature = 0.0");
    let cases = [
        (Program::Vllm, false, warm, Some("--logprobs-mode processed_logprobs")),
        (Program::Vllm, false, greedy, None),
        (Program::Vllm, true, warm, None),
        (Program::Vllm, true, cut, None),
        (Program::Vllm, true, greedy, None),
        (Program::Sglang, true, warm, None),
        (Program::Sglang, true, cut, Some("leave top_p, top_k and min_p out")),
        (Program::Sglang, false, warm, Some("SGLANG_RETURN_ORIGINAL_LOGPROB")),
    ];
    for (index, (program, processed, words, refusal)) in cases.into_iter().enumerate() {
        let fake = Fake::start(Manner { processed, ..Manner::good(program) });
        let text = sampling(words).replace("POLICY", &policy(&[fake.url()], ""));
        let file = pipeline(folder.path(), "sampling.toml", &text);
        let store = folder.path().join(format!("store-{index}"));
        let output = run(&store, &file, &["rollouts"]);
        match refusal {
            Some(hint) => drop(refused(output, 4, &["`logprob_behavior` cannot be had", hint])),
            None => {
                done(output);
                let rollouts = rows::<Rollout>(&store, "rollouts");
                assert_served(&rollouts, &fake.served());
                let differs = |row: &&Rollout| row.logprob_behavior != row.logprob_policy;
                assert!(rollouts.iter().filter(differs).count() > 12, "the two columns differ at {words}");
            }
        }
    }
}

fn journals(store: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(store.join("journals")) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Goal: a sample that came is never asked for again, whenever the process died; the resumed part has the bytes of one that was
/// never interrupted, also when the end of the journal is spoiled.
#[test]
fn killed_runs_ask_for_no_sample_twice() {
    let folder = tempfile::tempdir().unwrap();
    let expected = expected(folder.path());
    for (point, spoil) in [("journal.synced:1", false), ("journal.synced:7", false), ("journal.synced:7", true)] {
        let fake = Fake::start(Manner::good(Program::Vllm));
        let file = cascade(folder.path(), "killed.toml", &policy(&[fake.url()], ", in_flight = 1"));
        let store = folder.path().join(format!("{point}-{spoil}"));
        let args = ["run", file.to_str().unwrap(), "rollouts"];
        let output = direct(&store, &args).env("MINDGAP_FAULT", point).output().unwrap();
        assert_eq!(output.status.signal(), Some(9), "{}", String::from_utf8_lossy(&output.stderr));
        let path = journals(&store).pop().expect("the part has a journal");
        if spoil {
            let mut bytes = std::fs::read(&path).unwrap();
            bytes.extend(b"half a frame");
            std::fs::write(&path, bytes).unwrap();
        }
        // One request may have been under way.
        let before = fake.served().len();
        assert_eq!(rollouts_of(&done(run(&store, &file, &["rollouts"]))), expected);
        let asked = fake.served().len();
        assert!((24..=25).contains(&asked), "{asked} samples were served, {before} before the kill");
        assert!(journals(&store).is_empty(), "a published part needs no journal");
    }
}

/// Goal: SIGINT ends a run whose requests hang, with exit code 130; what came is kept, and the next run asks for the rest alone.
#[test]
fn asked_to_stop_while_servers_are_silent() {
    let folder = tempfile::tempdir().unwrap();
    let expected = expected(folder.path());
    let silent = |seen: &Seen| (seen.draws() && seen.number >= 5).then_some(Fault::Silence);
    let fake = Fake::start(Manner { misbehave: Box::new(silent), ..Manner::good(Program::Vllm) });
    let store = folder.path().join("store");
    let file = cascade(folder.path(), "silent.toml", &policy(&[fake.url()], ", in_flight = 2"));
    let mut command = direct(&store, &["run", file.to_str().unwrap(), "rollouts"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    for tries in 0.. {
        if fake.seen().iter().filter(|seen| seen.draws()).count() >= 7 {
            break;
        }
        assert!(tries < 6000, "the requests did not come");
        std::thread::sleep(Duration::from_millis(10));
    }
    let sent = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(sent.unwrap().success());
    refused(child.wait_with_output().unwrap(), 130, &["stopped", "run the same command again to go on"]);
    let good = Fake::start(Manner::good(Program::Vllm));
    let file = cascade(folder.path(), "silent.toml", &policy(&[good.url()], ""));
    assert_eq!(rollouts_of(&done(run(&store, &file, &["rollouts"]))), expected);
    assert_eq!(good.served().len(), 24 - 5);
}

/// Goal: a request that every server fails is given up, and so are servers that give no answer at all. What came before is kept.
#[test]
fn hopeless_requests_and_servers_are_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let poison = |seen: &Seen| {
        let first =
            seen.body["stop"].is_array() && seen.number > 0 && seen.body["seed"].as_u64().unwrap().is_multiple_of(4);
        (seen.draws() && first).then_some(Fault::Instead("500 Internal Server Error", "", "CUDA error"))
    };
    let silent = |seen: &Seen| seen.draws().then_some(Fault::Silence);
    let cases: [(Box<Misbehave>, &str, &[&str]); 2] = [
        (Box::new(poison), "", &["a request failed 6 times", "CUDA error", "what is finished is kept"]),
        (Box::new(silent), ", timeout_seconds = 1", &["no server gave an answer for", "what is finished is kept"]),
    ];
    for (index, (misbehave, more, says)) in cases.into_iter().enumerate() {
        let fake = Fake::start(Manner { misbehave, ..Manner::good(Program::Vllm) });
        let file = cascade(folder.path(), "hopeless.toml", &policy(&[fake.url()], more));
        let store = folder.path().join(format!("store-{index}"));
        refused(run(&store, &file, &["rollouts"]), 4, says);
        assert_eq!(journals(&store).is_empty(), fake.served().is_empty());
    }
}

/// Goal: what is wrong with a policy on servers is said before anything runs, with its place in the file.
#[test]
fn bad_policies_are_named_by_line() {
    let folder = tempfile::tempdir().unwrap();
    let plan = |policy: &str, more: &str, says: &[&str]| {
        let text = format!("{}{more}", CASCADE.replace("POLICY", policy));
        let file = pipeline(folder.path(), "bad.toml", &text);
        let output = direct(&folder.path().join("store"), &["plan", file.to_str().unwrap()]).output().unwrap();
        refused(output, 2, &[&["bad.toml:"], says].concat());
    };
    let url = "http://127.0.0.1:1/v1".to_string();
    let good = policy(std::slice::from_ref(&url), "");
    plan(
        &good.replace("tokenizer", "tokeniser"),
        "",
        &["bad.toml:4", "unknown key `tokeniser` in policy `big`", "did you mean `tokenizer`?"],
    );
    plan(&good.replace(", tokenizer = \"DATA/base-policy\"", ""), "", &["bad.toml:4", "missing field `tokenizer`"]);
    plan(
        &good.replace("http", "htp"),
        "",
        &["bad.toml:4", "`htp://127.0.0.1:1/v1` is not the base URL", "http://host:8000/v1"],
    );
    plan(&policy(&[url.clone(), url.clone()], ""), "", &["is named twice"]);
    plan(&policy(&[], ""), "", &["`server` is empty"]);
    plan(&good.replace("tiny\"", "tiny\", in_flight = 0"), "", &["`in_flight` must be at least 1"]);
    plan(&good.replace("tiny\"", "tiny\", api = \"tgi\""), "", &["unknown variant `tgi`", "vllm"]);
    plan("{ sever = \"x\" }", "", &["unknown key `sever`", "did you mean `server`?"]);
    let train = "[stages.train]\nkind = \"train\"\npolicy = \"big\"\ndata = \"rewrites\"\nloss = \"sft\"\nlearning_rate = 1e-4\nbatch_size = 4\nsteps = 1\ncheckpoint_steps = 1\n";
    plan(&good, train, &["`big` is on servers and cannot be trained", "mindgap export"]);
}

/// Goal: a journal that nobody goes on with is garbage once it is old, and never while its part is held.
#[test]
fn old_journals_are_collected() {
    let folder = tempfile::tempdir().unwrap();
    let fake = Fake::start(Manner::good(Program::Vllm));
    let file = cascade(folder.path(), "old.toml", &policy(&[fake.url()], ""));
    let path = folder.path().join("store");
    let args = ["run", file.to_str().unwrap(), "rollouts"];
    direct(&path, &args).env("MINDGAP_FAULT", "journal.synced:1").output().unwrap();
    let journal = journals(&path).pop().expect("the part has a journal");
    let store = Store::open(&path).unwrap();
    let collect = |keep: Duration| store.collect_garbage(&Rules { forget: Vec::new(), keep }, true).unwrap();
    collect(Duration::from_secs(3600));
    assert!(journal.exists(), "it is young");
    let part: Fingerprint = serde_json::from_value(journal.file_name().unwrap().to_str().unwrap().into()).unwrap();
    let lock = store.try_lock_part(&part).unwrap().expect("its holder is dead");
    collect(Duration::ZERO);
    assert!(journal.exists(), "its part is held");
    drop(lock);
    collect(Duration::ZERO);
    assert!(!journal.exists());
}

/// Against a real server: MINDGAP_SERVER=http://host:8000/v1, MINDGAP_SERVER_MODEL=its model, MINDGAP_SERVER_TOKENIZER=folder.
#[test]
fn a_real_server() {
    let set = |name: &str| std::env::var(name).ok();
    let names = ["MINDGAP_SERVER", "MINDGAP_SERVER_MODEL", "MINDGAP_SERVER_TOKENIZER"];
    let [Some(url), Some(model), Some(tokenizer)] = names.map(set) else {
        eprintln!("skipped: set {} to ask a real server", names.join(", "));
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let spec = format!("{{ server = {url:?}, model = {model:?}, tokenizer = {tokenizer:?} }}");
    let file = cascade(folder.path(), "real.toml", &spec);
    let store = folder.path().join("store");
    done(run(&store, &file, &[]));
    assert_eq!(rows::<Rollout>(&store, "rollouts").len(), 24);
    // Sampled and scored under the same prompt, the same tokens have the same log-probs but for rounding.
    let sampled: BTreeMap<(String, Vec<u32>), Rollout> = rows::<Rollout>(&store, "rollouts")
        .into_iter()
        .map(|row| ((row.problem_id.clone(), row.token_ids.clone()), row))
        .collect();
    for scored in rows::<Logprob>(&store, "logprobs-rewrites").iter().filter(|row| row.source == "self") {
        let row = &sampled[&(scored.problem_id.clone(), scored.token_ids.clone())];
        let gaps = row.logprob_policy.iter().zip(&scored.logprob_policy).map(|(a, b)| (a - b).abs());
        assert!(gaps.sum::<f32>() / (row.token_ids.len() as f32) < 0.1, "problem {}", row.problem_id);
    }
}
