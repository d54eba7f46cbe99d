//! Requests that a server always fails while it answers others: rows with their reason, within limits.

use super::fake::{Fake, Fault, Manner, Misbehave, Program, Seen, direct};
use super::{cascade, done, expected, journals, policy, refused, rollouts_of, rows, run};
use crate::support::{by_stage, pipeline};
use mindgap_store::table::logprobs::Logprob;
use mindgap_store::table::rewrites::Rewrite;
use mindgap_store::table::rollouts::{Rollout, StopReason};
use mindgap_store::table::soft::Soft;
use mindgap_store::table::train_steps::BatchPlan;
use mindgap_store::table::verdicts::{Verdict, VerdictRow};
use serde_json::Value;
use std::path::Path;

const FILTERED: &str = "{\"error\": {\"message\": \"content <b>refused</b>\"}}";

/// Of a good server's samples: the plain prompts of the first and of the last problem.
fn prompts(folder: &Path) -> [Vec<u32>; 2] {
    expected(folder);
    let rollouts: Vec<Rollout> = rows(&folder.join("expected-Vllm"), "rollouts");
    [rollouts[0].prompt_ids.clone(), rollouts[rollouts.len() - 1].prompt_ids.clone()]
}

/// Whether a request is about this prompt, or about a text behind it.
fn begins(seen: &Seen, prompt: &[u32]) -> bool {
    let ids = seen.body["prompt"].as_array();
    ids.is_some_and(|ids| ids.len() >= prompt.len() && ids.iter().zip(prompt).all(|(a, b)| a == b))
}

/// Refuses all about the first prompt, and fails samples of the second.
fn poison([first, last]: [Vec<u32>; 2]) -> Box<Misbehave> {
    Box::new(move |seen: &Seen| match seen {
        seen if begins(seen, &first) => Some(Fault::Instead("400 Bad Request", "", FILTERED)),
        seen if seen.draws() && begins(seen, &last) => {
            Some(Fault::Instead("500 Internal Server Error", "", "CUDA error"))
        }
        _ => None,
    })
}

/// Goal: problems that a server always fails are rows that say why; everything else is as if they were not there. No later stage
/// takes them for samples, the end of the run and the report name them, and nothing is asked again.
#[test]
fn problems_that_always_fail_do_not_end_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let prompts = prompts(folder.path());
    let whole: Vec<Rollout> = rows(&folder.path().join("expected-Vllm"), "rollouts");
    let ids = [whole[0].problem_id.clone(), whole[whole.len() - 1].problem_id.clone()];
    let fake = Fake::start(Manner { misbehave: poison(prompts), ..Manner::good(Program::Vllm) });
    let store = folder.path().join("store");
    let file = cascade(folder.path(), "poison.toml", &policy(&[fake.url()], ""));
    let output = run(&store, &file, &[]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let first = done(output);
    let (refusal, failure) = ("status 400 for `/v1/completions`", "a request failed 6 times, last with status 500");
    for said in ["rollouts: 24 rows (failed 4,", &ids[0], &ids[1], refusal, failure] {
        assert!(stderr.contains(said), "`{said}` is not in:\n{stderr}");
    }

    let rollouts: Vec<Rollout> = rows(&store, "rollouts");
    for (row, whole) in rollouts.iter().zip(&whole) {
        let Some(index) = ids.iter().position(|id| *id == row.problem_id) else {
            assert_eq!(row, whole);
            continue;
        };
        let why = row.failure.as_ref().unwrap();
        assert!(why.contains([refusal, failure][index]), "{why}");
        assert_eq!((row.stop_reason, row.token_ids.len(), row.completion.as_str()), (StopReason::Failed, 0, ""));
        assert_eq!(row.prompt_ids, whole.prompt_ids);
    }
    let verdicts: Vec<VerdictRow> = rows(&store, "verdicts");
    for row in verdicts.iter().filter(|row| ids.contains(&row.problem_id)) {
        assert_eq!((row.verdict, row.method.as_str(), row.eligible), (Verdict::NoAnswer, "failed", false));
    }
    // The expert's solution of the refused problem cannot be scored either.
    let targets: Vec<Rewrite> = rows(&store, "rewrites");
    assert!(targets.iter().all(|row| !row.token_ids.is_empty()), "nothing failed is a target");
    let scored: Vec<Logprob> = rows(&store, "logprobs-expert");
    for row in &scored {
        assert_eq!(row.failure.is_some(), row.problem_id == ids[0], "{row:?}");
        assert_eq!(row.token_ids.is_empty(), row.failure.is_some());
    }

    let asked = fake.seen().len();
    let again = done(run(&store, &file, &[]));
    assert_eq!(by_stage(&first, "address"), by_stage(&again, "address"));
    assert_eq!(fake.seen().len(), asked, "what failed is a row, and final");

    crate::support::ok(&store, &["report", file.to_str().unwrap()]);
    let report = direct(&store, &["report", file.to_str().unwrap(), "--json"]).output().unwrap();
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    let stages = report["stages"].as_array().unwrap();
    let failures = &stages.iter().find(|stage| stage["name"] == "rollouts").unwrap()["failures"];
    assert_eq!((failures["rows"].as_u64(), failures["first"].as_array().unwrap().len()), (Some(4), 4));
    let page = std::fs::read_to_string(store.join("reports/cascade.html")).unwrap();
    assert!(page.contains("has 4 empty rows") && page.contains(&ids[0]), "the page names them");
    assert!(!page.contains("<b>refused</b>"), "as text");
    let twin = std::fs::read_to_string(store.join("reports/cascade.md")).unwrap();
    assert!(twin.contains("- `rollouts` has 4 empty rows") && twin.contains("&lt;b>refused"), "{twin}");
}

/// Goal: what failed before a run broke off is asked again; an outage leaves no such row, and neither does a server that fails
/// everything.
#[test]
fn only_finished_parts_hold_what_failed() {
    let folder = tempfile::tempdir().unwrap();
    let [first, _] = prompts(folder.path());
    let store = folder.path().join("store");
    let out = |seen: &Seen| seen.number > 4;
    let outages: [Box<Misbehave>; 2] = [
        Box::new(move |seen| match begins(seen, &first) {
            true => Some(Fault::Instead("400 Bad Request", "", FILTERED)),
            false => out(seen).then_some(Fault::Instead("401 Unauthorized", "", "")),
        }),
        // An engine that has died behind its server fails the probe too.
        Box::new(move |seen| out(seen).then_some(Fault::Instead("500 Internal Server Error", "", "engine dead"))),
    ];
    for (misbehave, said) in outages.into_iter().zip(["status 401", "engine dead"]) {
        let fake = Fake::start(Manner { misbehave, ..Manner::good(Program::Vllm) });
        let spec = policy(&[fake.url()], ", in_flight = 2, timeout_seconds = 1, patience_seconds = 1");
        let file = cascade(folder.path(), "out.toml", &spec);
        refused(run(&store, &file, &["rollouts"]), 4, &[said]);
        assert!(!journals(&store).is_empty(), "what came is kept");
    }
    let fake = Fake::start(Manner::good(Program::Vllm));
    let file = cascade(folder.path(), "out.toml", &policy(&[fake.url()], ""));
    let found = done(run(&store, &file, &["rollouts"]));
    assert_eq!(
        rollouts_of(&found),
        rollouts_of(&done(run(&folder.path().join("expected-Vllm"), &file, &["rollouts"])))
    );
}

/// Goal: a server that is there and fails its probes is not taken for one that was not started.
#[test]
fn a_probe_that_fails_is_no_missing_server() {
    let folder = tempfile::tempdir().unwrap();
    let failing = |_: &Seen| Some(Fault::Instead("500 Internal Server Error", "", "out of memory"));
    let fake = Fake::start(Manner { misbehave: Box::new(failing), ..Manner::good(Program::Vllm) });
    let file = cascade(folder.path(), "probe.toml", &policy(&[fake.url()], ""));
    let says = ["answer and fail every probe", "status 500", "out of memory", "their logs say why"];
    let stderr = refused(run(&folder.path().join("store"), &file, &["rollouts"]), 4, &says);
    assert!(!stderr.contains("start them first"), "{stderr}");
}

const TAUGHT: &str = r#"
name = "cascade"
[policies]
base = { path = "DATA/base-policy" }
big = POLICY
[stages.problems]
kind = "ingest"
files = [{ path = "DATA/world/train-0.parquet", source = "world" }]
limit = 12
[stages.expert]
kind = "rewrite"
problems = "problems"
policy = "base"
[stages.soft]
kind = "soft"
rewrites = "expert"
problems = "problems"
template = "TEMPLATES/world-guided.j2"
policy = "big"
k = 5
[stages.train]
kind = "train"
policy = "base"
data = "expert"
soft = "soft"
loss = "distill"
learning_rate = 1e-4
batch_size = 4
epochs = 1
"#;

/// Goal: a text that a teacher on a server never tells anything of is a row that says why, and is not trained on.
#[test]
fn texts_that_a_teacher_always_fails_are_not_trained_on() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let file = |policy: &str| pipeline(folder.path(), "taught.toml", &TAUGHT.replace("POLICY", policy));
    done(run(&store, &file("{ path = \"DATA/base-policy\" }"), &["expert"]));
    let targets: Vec<Rewrite> = rows(&store, "expert");
    let refused = targets[3].clone();
    let about = move |seen: &Seen| {
        let ids: Vec<u32> = serde_json::from_value(seen.body["prompt"].clone()).unwrap_or_default();
        ids.windows(refused.token_ids.len()).any(|ids| ids == refused.token_ids)
    };
    let misbehave = move |seen: &Seen| about(seen).then_some(Fault::Instead("400 Bad Request", "", FILTERED));
    let fake = Fake::start(Manner { misbehave: Box::new(misbehave), ..Manner::good(Program::Vllm) });
    let output = run(&store, &file(&policy(&[fake.url()], "")), &[]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    done(output);
    for said in ["soft: 12 rows (failed 1", &targets[3].problem_id, "status 400"] {
        assert!(stderr.contains(said), "`{said}` is not in:\n{stderr}");
    }
    let soft: Vec<Soft> = rows(&store, "soft");
    for (row, target) in soft.iter().zip(&targets) {
        let is_told = target.problem_id != targets[3].problem_id;
        assert_eq!((row.failure.is_none(), row.k > 0), (is_told, is_told), "{row:?}");
        assert_eq!(row.token_ids, if is_told { &target.token_ids[..] } else { &[] });
    }
    let steps: Vec<BatchPlan> = rows(&store, "train");
    let planned: usize = steps.iter().map(|step| step.rows.len()).sum();
    assert_eq!(planned, targets.len() - 1);
}
