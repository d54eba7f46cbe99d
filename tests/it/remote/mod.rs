//! Stores in a bucket and the workers that fill them, over HTTP: the same addresses however many work, whoever dies and whatever the
//! bucket answers.

mod s3;

use crate::crash::{signal, wait_until};
use crate::servers::fake::{Fake, Manner, Program, Seen};
use crate::support::{TINY, by_stage, json, mindgap, ok, pipeline, slow, succeeded};
use s3::{Asked, Fault, S3};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Never to be told to anyone.
const SECRET: &str = "SECRET-0123456789-abcdefghijklmnop";

/// A pipeline, a bucket, and machines with a cache each.
struct Site {
    folder: TempDir,
    file: PathBuf,
    s3: S3,
}

impl Site {
    fn new(s3: S3) -> Site {
        let folder = tempfile::tempdir().unwrap();
        let file = pipeline(folder.path(), "p.toml", TINY);
        Site { folder, file, s3 }
    }

    fn cache(&self, machine: usize) -> PathBuf {
        self.folder.path().join(format!("cache-{machine}"))
    }

    /// A command on one of the machines.
    fn command(&self, machine: usize, args: &[&str]) -> Command {
        let mut command = mindgap(Path::new("s3://bucket/runs/a"), args);
        command
            .env("MINDGAP_CACHE", self.cache(machine))
            .env("MINDGAP_LEASE_SECONDS", "3")
            .env("AWS_ENDPOINT_URL", self.s3.endpoint())
            .env("AWS_ACCESS_KEY_ID", "someone")
            .env("AWS_SECRET_ACCESS_KEY", SECRET)
            .env("AWS_REGION", "us-east-1")
            .env_remove("AWS_PROFILE")
            .env("AWS_CONFIG_FILE", "/nowhere")
            .env("AWS_SHARED_CREDENTIALS_FILE", "/nowhere");
        command
    }

    fn file(&self) -> &str {
        self.file.to_str().unwrap()
    }

    fn worker(&self, machine: usize) -> Child {
        let mut command = self.command(machine, &["work", self.file(), "--json"]);
        let errors =
            std::fs::File::options().create(true).append(true).open(self.folder.path().join("errors")).unwrap();
        command.stdout(Stdio::piped()).stderr(errors).spawn().expect("the binary starts")
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("errors")).unwrap_or_default()
    }

    /// What a worker that ends well says of the stages' addresses.
    #[track_caller]
    fn ended(&self, worker: Child) -> Vec<(String, Value)> {
        let output = worker.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", self.said());
        by_stage(&json(&String::from_utf8(output.stdout).unwrap()), "address")
    }

    /// Of a run in a folder.
    fn expected(&self) -> Vec<(String, Value)> {
        by_stage(&json(&ok(&self.folder.path().join("local"), &["run", self.file(), "--json"])), "address")
    }

    /// How often each part was computed to its end, by the logs of all machines.
    fn computed(&self, machines: usize) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for machine in 0..machines {
            let Ok(stores) = std::fs::read_dir(self.cache(machine)) else { continue };
            let runs =
                stores.flat_map(|store| std::fs::read_dir(store.unwrap().path().join("runs")).into_iter().flatten());
            for log in runs.map(|log| log.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "jsonl"))
            {
                let text = std::fs::read_to_string(log).unwrap();
                for event in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
                    if event["event"] == "part" {
                        *counts.entry(event["fingerprint"].as_str().unwrap().to_string()).or_default() += 1;
                    }
                }
            }
        }
        counts
    }

    /// Records of parts in the bucket.
    fn records(&self) -> usize {
        let is_record = |key: &String| key.starts_with("runs/a/memo/") && !key.ends_with("/recipe.json");
        self.s3.keys().iter().filter(|key| is_record(key)).count()
    }
}

/// Goal: any number of workers come to the addresses of one run in a folder, and compute each part once.
#[test]
fn workers_agree_on_every_address() {
    for workers in [1, 2, 4] {
        let site = Site::new(S3::start());
        let running: Vec<Child> = (0..workers).map(|machine| site.worker(machine)).collect();
        let expected = site.expected();
        for worker in running {
            assert_eq!(site.ended(worker), expected, "{workers} workers");
        }
        let computed = site.computed(workers);
        assert_eq!(computed.len(), site.records());
        assert!(computed.values().all(|count| *count == 1), "{workers} workers: {computed:?}\n{}", site.said());
        let leftovers = |key: &String| {
            ["leases/", "journals/", "probe/"].iter().any(|kind| key.contains(kind)) && !key.contains("clock-")
        };
        assert!(!site.s3.keys().iter().any(leftovers), "{:?}", site.s3.keys());
    }
}

/// Goal: workers that are killed at any moment lose nothing that was committed: the others, and those that come after, end with the
/// same addresses and compute no committed part again.
#[test]
fn killed_workers_lose_nothing() {
    kills(6);
}

/// The same, with more deaths.
#[test]
fn killed_workers_lose_nothing_of_many() {
    if !slow("20 kills of workers") {
        return;
    }
    kills(20);
}

fn kills(deaths: usize) {
    let site = Site::new(S3::start());
    let expected = site.expected();
    // Long enough to die at different moments, different each time.
    let moments = (0..deaths).map(|n| Duration::from_millis(40 + (n as u64 * 7919) % 700));
    for (n, moment) in moments.enumerate() {
        let mut worker = site.worker(n % 3);
        std::thread::sleep(moment);
        worker.kill().unwrap();
        worker.wait().unwrap();
    }
    let running: Vec<Child> = (0..2).map(|machine| site.worker(machine)).collect();
    for worker in running {
        assert_eq!(site.ended(worker), expected);
    }
    let computed = site.computed(3);
    assert!(computed.values().all(|count| *count == 1), "{computed:?}");
    let mut look = site.command(5, &["check"]);
    assert!(look.output().unwrap().status.success());
}

/// Goal: who was away for longer than its lease computes again what another took over, and commits nothing twice.
#[test]
fn who_was_away_commits_nothing_twice() {
    let site = Site::new(S3::start());
    let longer = std::fs::read_to_string(&site.file).unwrap().replacen("max_new_tokens = 3", "max_new_tokens = 400", 1);
    std::fs::write(&site.file, longer).unwrap();
    let away = site.worker(0);
    wait_until("a part of the rollouts is held", || {
        let leases = site.s3.keys().into_iter().filter(|key| key.contains("/leases/") && !key.contains("clock-"));
        leases.count() > 0 && site.records() > 1
    });
    signal(&away, "STOP");
    let other = site.worker(1);
    let expected = site.expected();
    assert_eq!(site.ended(other), expected);
    signal(&away, "CONT");
    assert_eq!(site.ended(away), expected);
    let computed = site.computed(2);
    assert_eq!(computed.len(), site.records(), "one record a part");
    let twice = computed.values().filter(|count| **count > 1).count();
    eprintln!("{twice} of {} parts were computed twice", computed.len());
    assert!(twice <= 1 && computed.values().all(|count| *count <= 2), "{computed:?}");
}

/// Goal: workers share what waits for a server. Tells how much faster four are than one.
#[test]
fn four_workers_keep_a_slow_server_busy() {
    if !slow("four workers beside a slow server") {
        return;
    }
    let mut seconds = BTreeMap::new();
    for workers in [1, 4] {
        let delay = |seen: &Seen| {
            if seen.draws() {
                std::thread::sleep(Duration::from_millis(200));
            }
            None
        };
        let server = Fake::start(Manner { misbehave: Box::new(delay), ..Manner::good(Program::Vllm) });
        let policy = format!(
            "{{ server = [\"{}\"], model = \"tiny\", tokenizer = \"DATA/base-policy\", in_flight = 4 }}",
            server.url()
        );
        let mut site = Site::new(S3::start());
        let text = SAMPLED.replace("POLICY", &policy);
        site.file = pipeline(site.folder.path(), "p.toml", &text);
        let started = Instant::now();
        let running: Vec<Child> = (0..workers).map(|machine| site.worker(machine)).collect();
        running.into_iter().for_each(|worker| drop(site.ended(worker)));
        seconds.insert(workers, started.elapsed().as_secs_f64());
        assert!(site.computed(workers).values().all(|count| *count == 1));
    }
    let (one, four) = (seconds[&1], seconds[&4]);
    eprintln!("one worker {one:.1} s, four {four:.1} s: {:.2} times faster", one / four);
}

const SAMPLED: &str = r#"
name = "sampled"
[policies]
base = POLICY
[stages.problems]
kind = "ingest"
files = [{ path = "DATA/world/train-0.parquet", source = "world" }]
limit = 128
part_problems = 2
[stages.rollouts]
kind = "rollout"
problems = "problems"
policy = "base"
samples = 10
max_new_tokens = 12
part_problems = 2
"#;

/// Goal: whatever the bucket answers, and whatever its clock says, nothing is lost, nothing is double, and nothing that is said or
/// written has the credentials.
#[test]
fn faults_of_the_bucket_change_nothing() {
    type Misbehave = fn(&Asked) -> Option<Fault>;
    let faults: [(&str, Duration, Misbehave); 6] = [
        ("500 and 503", Duration::ZERO, |asked| match asked.number % 9 {
            3 => Some(Fault::Status(500)),
            6 => Some(Fault::Status(503)),
            _ => None,
        }),
        ("answers lost after a commit", Duration::ZERO, |asked| {
            (asked.kind == "PUT" && asked.number % 7 == 3).then_some(Fault::LostAnswer)
        }),
        ("409 of a creation", Duration::ZERO, |asked| {
            (asked.kind == "PUT" && asked.key.contains("/memo/") && asked.number % 5 == 2).then_some(Fault::Status(409))
        }),
        ("bodies cut short", Duration::ZERO, |asked| {
            (asked.kind == "GET" && asked.number % 6 == 1).then_some(Fault::CutShort)
        }),
        ("a clock an hour ahead", Duration::from_secs(3600), |_| None),
        ("listings that fail", Duration::ZERO, |asked| {
            (asked.kind == "LIST" && asked.number % 3 == 1).then_some(Fault::Status(500))
        }),
    ];
    for (name, ahead, misbehave) in faults {
        let site = Site::new(S3::with(ahead, misbehave));
        let running: Vec<Child> = (0..2).map(|machine| site.worker(machine)).collect();
        let expected = site.expected();
        for worker in running {
            assert_eq!(site.ended(worker), expected, "{name}");
        }
        assert_eq!(site.computed(2).len(), site.records(), "{name}");
        assert!(!site.said().contains(SECRET), "{name}: the secret is told");
        for key in site.s3.keys() {
            let bytes = site.s3.read(&key).unwrap();
            assert!(!bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()), "{name}: {key}");
        }
    }
}

/// Goal: what people ask of a store they can ask of one in a bucket; a bucket that refuses is an error that says what to do.
#[test]
fn a_bucket_is_looked_into_as_a_folder() {
    let site = Site::new(S3::start());
    site.ended(site.worker(0));
    let say = |args: &[&str]| succeeded(site.command(7, args));
    assert!(say(&["plan", site.file()]).lines().all(|line| line.contains("cached")));
    assert!(say(&["status", site.file()]).contains("done"));
    assert!(say(&["check"]).contains("all is well"));
    assert!(say(&["gc"]).contains("would remove 0 objects"));
    let remote = say(&["path", site.file(), "rewrites", "--remote"]);
    assert!(remote.starts_with("s3://bucket/runs/a/objects/"), "{remote}");
    let glob = say(&["path", site.file(), "rewrites"]);
    let parts = std::fs::read_dir(Path::new(glob.trim()).parent().unwrap()).unwrap().map(|part| part.unwrap().path());
    let parts: Vec<PathBuf> = parts.filter(|path| path.extension().is_some_and(|e| e == "parquet")).collect();
    assert!(!parts.is_empty() && parts.iter().all(|part| part.is_file()), "{glob}");
    assert!(say(&["show", site.file(), "rewrites", "--limit", "1", "--json"]).contains("problem_id"));

    // One object rots in the bucket: a machine that never had it finds out, and makes it again.
    let key = site.s3.keys().into_iter().find(|key| remote.lines().next().unwrap().ends_with(key.as_str())).unwrap();
    let whole = site.s3.read(&key).unwrap();
    site.s3.write(&key, b"rotten");
    let found = site.command(8, &["check"]).output().unwrap();
    assert_eq!(found.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&found.stdout).contains("damaged"));
    let mut again = site.command(8, &["run", site.file(), "--json"]);
    assert_eq!(
        by_stage(&json(&String::from_utf8(again.output().unwrap().stdout).unwrap()), "address"),
        site.expected()
    );
    assert!(site.s3.read(&key).unwrap() == whole, "other bytes than before");

    let refused = Site::new(S3::with(Duration::ZERO, |_| Some(Fault::Status(403))));
    let output = refused.command(0, &["plan", refused.file()]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("check the credentials") && !said.contains(SECRET), "{said}");
    let mut nowhere = mindgap(Path::new("ftp://host/store"), &["plan", site.file()]);
    let output = nowhere.env("MINDGAP_CACHE", site.cache(9)).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no store is known by `ftp://`"));
}

/// Goal: what a part costs in requests is bounded, and is told: docs/scale.md takes its prices from here.
#[test]
fn a_part_costs_few_requests() {
    let site = Site::new(S3::start());
    let text = std::fs::read_to_string(&site.file).unwrap().replacen("limit = 12", "limit = 60", 1);
    std::fs::write(&site.file, text).unwrap();
    let time = |work: &mut dyn FnMut() -> String| {
        let started = Instant::now();
        let done = json(&work());
        let parts: u64 = by_stage(&done, "parts").iter().filter_map(|(_, parts)| parts.as_u64()).sum();
        (started.elapsed().as_secs_f64(), parts)
    };
    let local = site.folder.path().join("local");
    let (here, _) = time(&mut || ok(&local, &["run", site.file(), "--json"]));
    let (there, parts) = time(&mut || succeeded(site.command(0, &["work", site.file(), "--json"])));
    let counts = site.s3.counts();
    let each = |kind: &str| *counts.get(kind).unwrap_or(&0) as f64 / parts as f64;
    let requests: f64 = counts.values().sum::<u64>() as f64 / parts as f64;
    eprintln!(
        "{parts} parts: {:.1} PUT, {:.1} GET, {:.1} LIST, {:.1} DELETE, {:.0} bytes and {:.3} s more than in a folder each",
        each("PUT"),
        each("GET"),
        each("LIST"),
        each("DELETE"),
        site.s3.bytes() as f64 / parts as f64,
        (there - here) / parts as f64
    );
    assert!(requests < 25.0, "{counts:?} for {parts} parts");
}

/// Goal: what a plan asks does not grow with the parts: listings by the page, one index, and the few records it lacks.
#[test]
fn a_plan_of_many_parts_asks_little() {
    if !slow("a plan of 8,000 parts") {
        return;
    }
    let site = Site::new(S3::start());
    let text = std::fs::read_to_string(&site.file).unwrap();
    let many = [
        ("limit = 12", ""),
        ("part_problems = 6", "part_problems = 1"),
        ("part_problems = 4", "part_problems = 1\npart_samples = 1"),
        ("samples = 2", "samples = 16"),
    ];
    let many = many.iter().fold(text, |text, (few, many)| text.replacen(few, many, 1));
    std::fs::write(&site.file, many).unwrap();
    let done = json(&succeeded(site.command(0, &["run", site.file(), "rollouts", "--json"])));
    let parts = by_stage(&done, "parts").into_iter().find(|(name, _)| name == "rollouts").unwrap().1.as_u64().unwrap();
    assert!(parts > 8000, "{parts} parts");
    let before = site.s3.counts();
    let started = Instant::now();
    succeeded(site.command(1, &["plan", site.file(), "rollouts"]));
    let asked: BTreeMap<&str, u64> =
        site.s3.counts().into_iter().map(|(kind, count)| (kind, count - before.get(kind).unwrap_or(&0))).collect();
    eprintln!("a cold plan of {parts} parts: {asked:?}, {:.2} s", started.elapsed().as_secs_f64());
    let pages = parts / 100 + 1;
    assert!(asked["LIST"] <= pages + 5 && asked["GET"] <= 80, "{asked:?}");
}
