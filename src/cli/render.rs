//! The only place that prints: data to stdout, everything else to stderr.

#![expect(clippy::print_stderr, reason = "this is where everything is printed")]

use crate::net::hub::Transfer;
use crate::pipeline::Event;
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressStyle};
use mindgap_base::error::{Error, Result};
use mindgap_lm::engine;
use mindgap_store::fs;
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Prints data.
pub fn out(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{text}").map_err(|e| Error::environment("cannot write to stdout").source(e))
}

pub fn json(value: &impl serde::Serialize) -> Result<()> {
    out(&serde_json::to_string(value).expect("reported values are plain data"))
}

/// Prints a line for people.
pub fn note(text: &str) {
    eprintln!("{text}");
}

/// The same of several.
pub fn notes(texts: &[String]) {
    texts.iter().for_each(|text| note(text));
}

pub fn error(error: &Error) {
    eprintln!("error: {error}");
}

/// A moment for people; `seconds` since 1970.
pub fn date(seconds: f64) -> String {
    let date = arrow::temporal_conversions::timestamp_s_to_datetime(seconds as i64);
    date.map_or_else(|| format!("{seconds:.0}"), |date| format!("{date} UTC"))
}

/// How much of a known number of things is done: a bar on a terminal, nothing in a log.
pub struct Counter {
    bar: ProgressBar,
    what: &'static str,
}

impl Counter {
    pub fn new(what: &'static str) -> Counter {
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {msg}");
        bar.set_style(style.expect("the template is valid"));
        bar.set_message(what);
        Counter { bar, what }
    }

    pub fn show(&self, done: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(done);
    }

    /// The same of sequences, with their tokens: those go on while no sequence is complete.
    pub fn show_tokens(&self, progress: engine::Progress) {
        self.show(progress.done as u64, progress.total as u64);
        self.bar.set_message(format!("{}, {} tokens", self.what, progress.new_tokens));
    }

    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}

/// Progress of a run: a bar on a terminal, a line now and then in a log.
pub struct Progress {
    state: Mutex<State>,
    terminal: bool,
}

struct State {
    bar: Option<ProgressBar>,
    part: String,
    part_started: Instant,
    last_line: Instant,
}

/// Seconds between lines in a log.
const LINE_EVERY: Duration = Duration::from_secs(15);

impl Progress {
    pub fn new() -> Progress {
        let now = Instant::now();
        let state = State { bar: None, part: String::new(), part_started: now, last_line: now };
        Progress { state: Mutex::new(state), terminal: std::io::stderr().is_terminal() }
    }

    pub fn show(&self, event: Event) {
        // A poisoned lock only means that another thread died while printing.
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        match event {
            Event::Download { transfer } => state.download(&transfer, self.terminal),
            Event::StageStarted { plan } if plan.parts_miss > 0 => {
                let reused = if plan.rows_hit > 0 {
                    format!(", {} rows are there already", plan.rows_hit)
                } else {
                    String::new()
                };
                note(&format!(
                    "{}: {} of {} parts to compute{reused}",
                    plan.name,
                    plan.parts_miss,
                    plan.parts_hit + plan.parts_miss
                ));
            }
            Event::StageStarted { .. } => {}
            Event::PartStarted { stage, index, count } => state.start_part(stage, index, count, self.terminal),
            Event::Progress { stage: _, tick } => state.progress(&tick),
            Event::Waiting { stage } => state.line(&format!("{stage}: another process computes the rest; waiting")),
            Event::StageDone { outcome } => {
                state.finish_bar();
                let how = match outcome.computed_parts {
                    0 => "cached".to_string(),
                    n => format!("computed {n} of {} parts in {:.1} s", outcome.parts, outcome.seconds),
                };
                let counts: Vec<String> =
                    outcome.counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
                let counts = if counts.is_empty() { String::new() } else { format!(" ({})", counts.join(", ")) };
                note(&format!("{}: {} rows{counts}, {how}", outcome.name, outcome.rows));
                if let Some(left_out) = &outcome.left_out {
                    let (rows, table) = (left_out.rows, left_out.table);
                    note(&format!("  {rows} more are in `{table}`: {}", left_out.why()));
                    note(&format!("  mindgap show PIPELINE {} --table {table} shows them", outcome.name));
                }
            }
            Event::Repairing { address } => {
                note(&format!("object {} is damaged; dropped, to be made again", address.short()))
            }
        }
    }
}

impl State {
    fn start_part(&mut self, stage: &str, index: usize, count: usize, terminal: bool) {
        self.finish_bar();
        self.part = format!("{stage} [{}/{count}]", index + 1);
        self.part_started = Instant::now();
        if terminal {
            let bar = ProgressBar::new_spinner();
            let style = ProgressStyle::with_template("{prefix} {spinner} {msg}");
            bar.set_style(style.expect("the template is valid"));
            bar.set_prefix(self.part.clone());
            self.bar = Some(bar);
        }
    }

    /// A bar per file, or a line when it is complete and now and then before.
    fn download(&mut self, transfer: &Transfer, terminal: bool) {
        let Transfer { file, done, total } = *transfer;
        if self.part != file {
            self.finish_bar();
            self.part = file.to_string();
            self.part_started = Instant::now();
            if terminal {
                let style =
                    ProgressStyle::with_template("{prefix} {bar:24} {bytes}/{total_bytes}  {bytes_per_sec}  eta {eta}");
                let bar = ProgressBar::new(total).with_style(style.expect("the template is valid"));
                bar.set_prefix(file.to_string());
                self.bar = Some(bar);
            }
        }
        match &self.bar {
            Some(bar) => bar.set_position(done),
            None if done == total || self.last_line.elapsed() > LINE_EVERY => {
                self.last_line = Instant::now();
                note(&format!("download of {file}: {} of {}", HumanBytes(done), HumanBytes(total)));
            }
            None => {}
        }
        if done == total {
            self.finish_bar();
        }
    }

    fn progress(&mut self, tick: &crate::stage::Tick) {
        let seconds = self.part_started.elapsed().as_secs_f64();
        let rate = if seconds > 0.0 { tick.tokens as f64 / seconds } else { 0.0 };
        let rate = if tick.tokens > 0 { format!("{rate:.0} tokens/s  ") } else { String::new() };
        if let Some(bar) = &self.bar {
            if tick.rows_total > 0 && bar.length().is_none() {
                let style = ProgressStyle::with_template("{prefix} {bar:24} {pos}/{len}  {msg}eta {eta}");
                bar.set_style(style.expect("the template is valid"));
                bar.set_length(tick.rows_total);
            }
            bar.set_position(tick.rows_done);
            bar.set_message(format!("{rate}{}{}", memory(), tick.note));
        } else if self.last_line.elapsed() > LINE_EVERY && self.part_started.elapsed() > LINE_EVERY {
            let left = match tick.rows_done {
                done if done == 0 || tick.rows_total == 0 => String::new(),
                done => {
                    let eta = seconds * (tick.rows_total.saturating_sub(done)) as f64 / done as f64;
                    format!("  eta {}", HumanDuration(Duration::from_secs_f64(eta)))
                }
            };
            let total = if tick.rows_total > 0 { format!("/{}", tick.rows_total) } else { String::new() };
            let done = format!("{}  {}{total}", self.part, tick.rows_done);
            self.line(&format!("{done}  {rate}{}{}{left}", memory(), tick.note));
        }
    }

    fn line(&mut self, text: &str) {
        if self.last_line.elapsed() > Duration::from_secs(1) {
            self.last_line = Instant::now();
            note(text);
        }
    }

    fn finish_bar(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// What the process holds in memory, for the progress line.
fn memory() -> String {
    fs::resident_bytes().map_or(String::new(), |bytes| format!("{}  ", size(bytes)))
}

fn size(bytes: u64) -> String {
    match bytes as f64 / 1e6 {
        megabytes if megabytes < 1000.0 => format!("{megabytes:.0} MB"),
        megabytes => format!("{:.1} GB", megabytes / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_in_round_numbers() {
        assert_eq!((size(244_300_000), size(15_260_000_000)), ("244 MB".to_string(), "15.3 GB".to_string()));
        if cfg!(target_os = "linux") {
            // What is held counts, whatever other tests of this process hold or let go of.
            let held = std::hint::black_box(vec![1u8; 64 << 20]);
            assert!(fs::resident_bytes().expect("the system tells") >= held.len() as u64);
            assert!(memory().ends_with("B  "));
        }
    }
}
