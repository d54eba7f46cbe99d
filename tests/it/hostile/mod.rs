//! Input from strangers: every case in a process of its own with little memory, time and stack. It ends, with an exit code of the
//! README's table, and says what is wrong; it never panics, aborts or hangs.
//!
//! `MINDGAP_SLOW_TESTS=1` runs all cases, else a tenth of them.

mod damage;
mod files;
mod pipelines;
mod policies;

use crate::support::{mindgap, root};
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Address space, stack and time of a case.
const MEMORY_KIB: u64 = 2 << 20;
const STACK_KIB: u64 = 1 << 10;
const TIME: Duration = Duration::from_secs(20);

/// What a case ends with.
#[derive(Clone, Debug)]
enum Ends {
    /// An error that says this.
    Saying(&'static str),
    /// Well.
    Well,
    /// Either way: what matters is that it ends, and in words.
    Somehow,
}

/// Puts the input into a folder; gives the arguments, in which the store is `store`.
type Make = dyn Fn(&Path) -> Vec<String>;

struct Case {
    name: String,
    ends: Ends,
    make: Box<Make>,
}

impl Case {
    fn new(name: impl Into<String>, ends: Ends, make: impl Fn(&Path) -> Vec<String> + 'static) -> Case {
        Case { name: name.into(), ends, make: Box::new(make) }
    }
}

fn strings<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_string).to_vec()
}

/// Runs cases of a kind, and fails with all that went wrong.
fn run(kind: &str, cases: Vec<Case>) {
    let all = std::env::var_os("MINDGAP_SLOW_TESTS").is_some();
    let chosen: Vec<&Case> =
        cases.iter().enumerate().filter(|(i, _)| all || i % 10 == 0).map(|(_, case)| case).collect();
    eprintln!("{kind}: {} of {} cases", chosen.len(), cases.len());
    let failures: Vec<String> = chosen.iter().filter_map(|case| failure(case)).collect();
    assert!(failures.is_empty(), "{} of {kind}:\n{}", failures.len(), failures.join("\n"));
}

/// What is wrong with the end of a case, if anything.
fn failure(case: &Case) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let args = (case.make)(folder.path());
    let (code, signal, said) = match limited(folder.path(), &args) {
        Some(ended) => ended,
        None => return Some(format!("{}: does not end", case.name)),
    };
    let short: String = said.chars().take(400).collect();
    let wrong = |what: &str| Some(format!("{}: {what} (exit code {code:?}, signal {signal:?}): {short}", case.name));
    if signal.is_some()
        || !matches!(code, Some(0..=4))
        || said.contains("panicked at")
        || said.contains("internal error")
    {
        return wrong("crashes");
    }
    if said.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
        return wrong("prints control characters");
    }
    if said.len() > 100_000 {
        return wrong("says too much");
    }
    match &case.ends {
        Ends::Saying(word) if code == Some(0) || !said.contains(word) => wrong(&format!("does not say `{word}`")),
        Ends::Well if code != Some(0) => wrong("is refused"),
        _ => None,
    }
}

/// Exit code, signal and stderr of a command within the limits; none where it does not end.
fn limited(folder: &Path, args: &[String]) -> Option<(Option<i32>, Option<i32>, String)> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let command = mindgap(Path::new("store"), &words);
    let script = format!("ulimit -v {MEMORY_KIB} -s {STACK_KIB} -c 0; exec \"$0\" \"$@\"");
    let mut limited = Command::new("bash");
    limited.args(["-c", &script]).arg(command.get_program()).args(["--threads", "2"]).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    limited.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    let mut child = limited.spawn().expect("bash starts");
    let mut errors = child.stderr.take().expect("it is piped");
    let reader = std::thread::spawn(move || {
        let mut said = Vec::new();
        let _ = errors.by_ref().take(1 << 20).read_to_end(&mut said);
        String::from_utf8_lossy(&said).into_owned()
    });
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some((status.code(), status.signal(), reader.join().unwrap()));
        }
        if started.elapsed() > TIME {
            child.kill().unwrap();
            child.wait().unwrap();
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// A copy of the smallest of the fixtures' policies.
fn policy(folder: &Path) -> PathBuf {
    let to = folder.join("policy");
    std::fs::create_dir_all(&to).unwrap();
    for entry in std::fs::read_dir(root().join("tests/fixtures/model/qwen2")).unwrap() {
        let from = entry.unwrap().path();
        if from.is_file() {
            std::fs::copy(&from, to.join(from.file_name().unwrap())).unwrap();
        }
    }
    to
}
