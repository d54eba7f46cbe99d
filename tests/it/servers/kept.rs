//! What came from servers is kept, whatever ends a run.

use super::fake::{Fake, Fault, Manner, Program, Seen, direct};
use super::{cascade, done, expected, journals, policy, refused, rollouts_of, run};
use mindgap_base::fingerprint::Fingerprint;
use mindgap_store::{Rules, Store};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;

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
        // Of one thread, one request was under way at most, and one answer waited for the journal.
        let before = fake.served().len();
        assert_eq!(rollouts_of(&done(run(&store, &file, &["rollouts"]))), expected);
        let asked = fake.served().len();
        assert!((24..=26).contains(&asked), "{asked} samples were served, {before} before the kill");
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
    let lock = store.try_lock_part(&part, "").unwrap().expect("its holder is dead");
    collect(Duration::ZERO);
    assert!(journal.exists(), "its part is held");
    drop(lock);
    collect(Duration::ZERO);
    assert!(!journal.exists());
}
