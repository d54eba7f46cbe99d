//! What pipelines on servers make, and what is said of them before they run.

use super::fake::{Fake, Manner, Program, Seen, Served, direct};
use super::{CASCADE, assert_served, cascade, done, policy, refused, rows, run};
use crate::support::{by_stage, pipeline};
use mindgap_store::table::logprobs::Logprob;
use mindgap_store::table::rewrites::Source;
use mindgap_store::table::rollouts::{Rollout, StopReason};
use mindgap_store::table::soft::Soft;
use serde_json::Value;
use std::collections::BTreeMap;

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
        // Rollouts and scores say which program made them.
        let mut made = by_stage(&first, "address");
        made.retain(|(stage, _)| !stage.starts_with("logprobs") && stage != "rollouts" && stage != "guided");
        addresses.push(made);
        let rollouts: Vec<Rollout> = rows(&store, "rollouts");
        let engine = if program == Program::Vllm { "vllm 0.99.0" } else { "sglang 0.9.9" };
        assert!(rollouts.iter().all(|row| row.engine.as_deref() == Some(engine)));

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

/// Goal: a teacher on servers of either program says what the same teacher says here, token by token.
#[test]
fn a_teacher_on_servers_says_what_it_says_here() {
    let folder = tempfile::tempdir().unwrap();
    let soft = r#"
[stages.soft]
kind = "soft"
rewrites = "expert"
problems = "problems"
template = "TEMPLATES/world-guided.j2"
policy = "big"
k = 5
"#;
    let soft = |name: &str, policy: &str| {
        let store = folder.path().join(name);
        let text = [CASCADE, soft].concat().replace("POLICY", policy);
        done(run(&store, &pipeline(folder.path(), &format!("{name}.toml"), &text), &["soft"]));
        let rows: Vec<Soft> = rows(&store, "soft");
        let engines: Vec<Option<String>> = rows.iter().map(|row| row.engine.clone()).collect();
        (rows.into_iter().map(|row| Soft { engine: None, ..row }).collect::<Vec<_>>(), engines)
    };
    let (here, engines) = soft("here", "{ path = \"DATA/base-policy\" }");
    assert!(here.len() == 12 && here.iter().all(|row| row.k == 5) && engines.iter().all(Option::is_none));
    for (program, engine) in [(Program::Vllm, "vllm 0.99.0"), (Program::Sglang, "sglang 0.9.9")] {
        let fake = Fake::start(Manner::good(program));
        let (there, engines) = soft(&format!("{program:?}"), &policy(&[fake.url()], ""));
        assert_eq!(here, there, "{program:?}");
        assert!(engines.iter().all(|by| by.as_deref() == Some(engine)));
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

/// Goal: a context shorter than the config's is the policy's, said in the pipeline: what does not fit is cut off or left out there,
/// and what fits is the same.
#[test]
fn a_shorter_context_is_part_of_the_policy() {
    let folder = tempfile::tempdir().unwrap();
    let fake = Fake::start(Manner { max_model_len: 70, ..Manner::good(Program::Vllm) });
    let file = cascade(folder.path(), "short.toml", &policy(&[fake.url()], ", max_model_len = 70"));
    let store = folder.path().join("store");
    done(run(&store, &file, &["rollouts"]));
    let rollouts = rows::<Rollout>(&store, "rollouts");
    let full =
        |row: &&Rollout| row.prompt_ids.len() + row.token_ids.len() == 70 && row.stop_reason == StopReason::MaxTokens;
    assert!(rollouts.iter().filter(full).count() > 0);
    assert!(rollouts.iter().all(|row| row.prompt_ids.len() + row.token_ids.len() <= 70));
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
    for scored in rows::<Logprob>(&store, "logprobs-rewrites").iter().filter(|row| row.source == Source::SelfAligned) {
        let row = &sampled[&(scored.problem_id.clone(), scored.token_ids.clone())];
        let gaps = row.logprob_policy.iter().flatten().zip(&scored.logprob_policy).map(|(a, b)| (a - b).abs());
        assert!(gaps.sum::<f32>() / (row.token_ids.len() as f32) < 0.1, "problem {}", row.problem_id);
    }
}
