//! Servers that fail, lie and hang.

use super::fake::{Fake, Fault, Manner, Misbehave, Program, Seen, closed, direct};
use super::{cascade, done, expected, expected_of, journals, policy, refused, rollouts_of, run};
use mindgap_store::Store;

const HTML: &str = "<html><body>Bad Gateway</body></html>";

/// Goal: whatever a server does to single requests, the rows are those of a server that does nothing of the kind.
#[test]
fn passing_faults_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
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
        let spec = policy(&[fake.url()], ", in_flight = 4, timeout_seconds = 10");
        let file = cascade(folder.path(), "faults.toml", &spec);
        let found = done(run(&folder.path().join(format!("{program:?}")), &file, &["rollouts"]));
        assert_eq!(rollouts_of(&found), expected_of(program, folder.path()), "{program:?}");
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

/// Goal: a token that the policy does not have is refused when it comes: the error names the stage, the problem, the server, the
/// token and the vocabulary, and no row holds the token.
#[test]
fn tokens_outside_the_vocabulary_are_refused() {
    let config = std::fs::read(crate::support::root().join("data/base-policy/config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    let size = config["vocab_size"].as_u64().unwrap() as u32;
    let folder = tempfile::tempdir().unwrap();
    for (program, token) in [(Program::Vllm, size), (Program::Sglang, size), (Program::Vllm, u32::MAX)] {
        let misbehave = move |seen: &Seen| (seen.draws() && seen.number == 5).then_some(Fault::Token(token));
        let fake = Fake::start(Manner { misbehave: Box::new(misbehave), ..Manner::good(program) });
        let file = cascade(folder.path(), "foreign.toml", &policy(&[fake.url()], ", in_flight = 1"));
        let store = folder.path().join(format!("{program:?}-{token}"));
        let (drew, root) =
            (format!("the server drew token {token}, outside the policy's vocabulary of {size}"), fake.url());
        let root = root.trim_end_matches("/v1");
        let says = [&drew, root, "served as `tiny`", "stage `rollouts`", "problem `", "from the same checkpoint"];
        refused(run(&store, &file, &["rollouts"]), 4, &says);
        let kept = Store::open(&store).unwrap();
        assert!(kept.pointer("cascade", "rollouts").unwrap().is_none(), "{program:?}: no row is published");
    }
}

/// Goal: servers that fail most requests are given up, and so are those that give no answer at all. What came before is kept.
#[test]
fn hopeless_requests_and_servers_are_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let poison = |seen: &Seen| {
        (seen.draws() && seen.number > 0).then_some(Fault::Instead("500 Internal Server Error", "", "CUDA error"))
    };
    let silent = |seen: &Seen| seen.draws().then_some(Fault::Silence);
    let cases: [(Box<Misbehave>, &str, &[&str]); 2] = [
        (
            Box::new(poison),
            "",
            &["a request failed 6 times", "CUDA error", "8 may be set aside", "what is finished is kept"],
        ),
        (
            Box::new(silent),
            ", timeout_seconds = 1, patience_seconds = 1",
            &["no server gave an answer for", "what is finished is kept"],
        ),
    ];
    for (index, (misbehave, more, says)) in cases.into_iter().enumerate() {
        let fake = Fake::start(Manner { misbehave, ..Manner::good(Program::Vllm) });
        let file = cascade(folder.path(), "hopeless.toml", &policy(&[fake.url()], more));
        // One part: a small one may be through before.
        let whole = std::fs::read_to_string(&file).unwrap().replace("part_problems = 6", "part_problems = 100");
        std::fs::write(&file, whole).unwrap();
        let store = folder.path().join(format!("store-{index}"));
        let said = refused(run(&store, &file, &["rollouts"]), 4, says);
        assert_eq!(journals(&store).is_empty(), fake.served().is_empty(), "{said}");
    }
}
