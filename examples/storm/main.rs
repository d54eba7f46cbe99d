//! storm: mutation testing of what strangers write, without a nightly toolchain.
//!
//! `cargo run --release --example storm -- TARGET COUNT SEED FILE..` mutates the files (seeds of the target) and feeds them to it.
//! The same arguments give the same inputs. Each stretch of inputs runs in a process of its own: a panic, an abort, an input that
//! takes longer than ten seconds are told with the input's number, and `--show=NUMBER` in place of COUNT prints that input. Slower
//! in finding new paths than the coverage-guided targets in `fuzz/`, faster in executions.

#![expect(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods, reason = "a program of its own")]

mod targets;

use mindgap_base::memory::Bounded;
use mindgap_base::rng::{Cursor, Stream};
use std::io::{Read, Write};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use targets::Target;

#[global_allocator]
static ALLOCATOR: Bounded = Bounded::new(too_large);

/// Exit code of a stretch that the bound of memory stopped: as it should be.
const STOPPED: i32 = 77;
/// Number of the input at hand, and since when, in milliseconds after the start.
static NUMBER: AtomicU64 = AtomicU64::new(0);
static SINCE: AtomicU64 = AtomicU64::new(0);
const LONGEST: Duration = Duration::from_secs(10);
/// A number is told out of so many, unless the variable says another.
const TOLD: u64 = 1000;
const EVERY: &str = "STORM_EVERY";
/// Bytes of an input, at most.
const BYTES: usize = 8 << 10;

fn too_large(_what: &str) -> ! {
    leave(STOPPED)
}

/// Ends this stretch, and tells where.
fn leave(code: i32) -> ! {
    println!("{}", NUMBER.load(Ordering::Relaxed));
    let _ = std::io::stdout().flush();
    std::process::exit(code)
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, count, seed, files @ ..] = &args[..] else {
        eprintln!("usage: storm TARGET COUNT SEED FILE..");
        return ExitCode::from(2);
    };
    let Some((_, target)) = targets::ALL.iter().find(|(known, _)| known == name) else {
        let known: Vec<&str> = targets::ALL.iter().map(|(name, _)| *name).collect();
        eprintln!("targets: {}", known.join(", "));
        return ExitCode::from(2);
    };
    let seeds: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).expect("the seed is there")).collect();
    let seed: u64 = seed.parse().expect("a number");
    if let Some(number) = count.strip_prefix("--show=") {
        let input = input(&seeds, seed, number.parse().expect("a number"));
        std::io::stdout().write_all(&input).expect("somebody reads");
        return ExitCode::SUCCESS;
    }
    if let Some((from, to)) = count.split_once("..") {
        stretch(*target, &seeds, seed, from.parse().expect("a number")..to.parse().expect("a number"));
        return ExitCode::SUCCESS;
    }
    storm(&args, count.parse().expect("a number"))
}

/// Runs stretches until all inputs were tried.
fn storm(args: &[String], count: u64) -> ExitCode {
    let (started, mut next, mut every, mut stopped, mut bad) = (Instant::now(), 0, TOLD, 0, Vec::new());
    while next < count {
        let end = if every == 1 { count.min(next + TOLD) } else { count };
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args([&args[0], &format!("{next}..{end}")])
            .args(&args[2..])
            .env(EVERY, every.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let mut said = String::new();
        child.stdout.take().expect("it is piped").read_to_string(&mut said).expect("it is text");
        let status = child.wait().expect("it ends");
        if status.success() {
            (next, every) = (end, TOLD);
            continue;
        }
        let at: u64 = said.lines().last().and_then(|line| line.parse().ok()).unwrap_or(next);
        // An abort leaves the number that was told last: from there again, with every number told.
        if status.code().is_none() && every > 1 {
            (next, every) = (at, 1);
            continue;
        }
        match status.code() {
            Some(STOPPED) => stopped += 1,
            _ => bad.push(format!("{at} ({status})")),
        }
        (next, every) = (at + 1, TOLD);
    }
    println!(
        "{}: {count} inputs in {:.0} s, {stopped} stopped by the bound of memory, {} bad{}{}",
        args[0],
        started.elapsed().as_secs_f64(),
        bad.len(),
        if bad.is_empty() { "" } else { ": " },
        bad.join(", ")
    );
    ExitCode::from(u8::from(!bad.is_empty()))
}

fn stretch(target: Target, seeds: &[Vec<u8>], seed: u64, numbers: std::ops::Range<u64>) {
    let started = Instant::now();
    std::panic::set_hook(Box::new(|panic| {
        if !mindgap_base::guard::is_expected() {
            eprintln!("{panic}");
            leave(101)
        }
    }));
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_millis(200));
            let taken = started.elapsed().saturating_sub(Duration::from_millis(SINCE.load(Ordering::Relaxed)));
            if taken > LONGEST {
                leave(102);
            }
        }
    });
    let every: u64 = std::env::var(EVERY).ok().and_then(|every| every.parse().ok()).unwrap_or(TOLD);
    for number in numbers {
        NUMBER.store(number, Ordering::Relaxed);
        SINCE.store(started.elapsed().as_millis() as u64, Ordering::Relaxed);
        if number % every == 0 {
            println!("{number}");
        }
        target(&input(seeds, seed, number));
    }
}

/// Input of a number: a seed, changed in a few places.
fn input(seeds: &[Vec<u8>], seed: u64, number: u64) -> Vec<u8> {
    let mut draws = Stream::at(seed, &[b"storm", &number.to_le_bytes()]).cursor();
    let mut bytes = draws.choose(seeds).clone();
    for _ in 0..1 + draws.below(8) {
        change(&mut bytes, seeds, &mut draws);
    }
    bytes.truncate(BYTES.max(seeds.iter().map(Vec::len).max().unwrap_or_default()));
    bytes
}

/// What texts and numbers go wrong at.
const PIECES: &[&str] = &[
    "",
    "-1",
    "0",
    "1e999",
    "NaN",
    "18446744073709551616",
    "4294967295",
    "0.1",
    "null",
    "true",
    "\"\"",
    "[]",
    "{}",
    "[[",
    "}}",
    "{{",
    "{%",
    "%}",
    "\n",
    "\\",
    "\u{0}",
    "\u{202e}",
    "\u{1f600}",
    "é",
    "'",
    "\"\"\"",
    "..",
    "/",
    "#",
    "~",
    "*",
    "|",
    "loop",
    "x",
    "self",
    "range(9)",
];

fn change(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], draws: &mut Cursor) {
    let at = draws.below(bytes.len() as u64 + 1) as usize;
    let end = at + draws.below((bytes.len() - at).min(64) as u64 + 1) as usize;
    match draws.below(8) {
        0 if at < bytes.len() => bytes[at] ^= 1 << draws.below(8),
        1 if at < bytes.len() => bytes[at] = draws.bits() as u8,
        2 => drop(bytes.drain(at..end)),
        3 => drop(bytes.splice(at..end, draws.choose(PIECES).bytes()).count()),
        4 => drop(bytes.splice(at..at, draws.choose(PIECES).bytes()).count()),
        5 => {
            let piece = bytes[at..end].to_vec();
            let to = draws.below(bytes.len() as u64 + 1) as usize;
            bytes.splice(to..to, piece);
        }
        6 => {
            let other = draws.choose(seeds);
            let from = draws.below(other.len() as u64 + 1) as usize;
            let to = from + draws.below((other.len() - from).min(256) as u64 + 1) as usize;
            bytes.splice(at..end, other[from..to].iter().copied());
        }
        // Whole words change places with each other.
        _ => {
            let word = |bytes: &[u8], at: usize| {
                let is_word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
                let from = bytes[..at].iter().rposition(|b| !is_word(b)).map_or(0, |i| i + 1);
                from..bytes[at..].iter().position(|b| !is_word(b)).map_or(bytes.len(), |i| at + i)
            };
            let other = draws.choose(seeds);
            let there = word(other, draws.below(other.len() as u64 + 1) as usize);
            let here = word(bytes, at);
            bytes.splice(here, other[there].iter().copied());
        }
    }
}
