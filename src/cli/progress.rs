//! How a run is going: a bar on a terminal, a line now and then in a log.

use super::render::{note, plain, size};
use crate::net::hub::Transfer;
use crate::pipeline::Event;
use crate::stage::Tick;
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressStyle};
use mindgap_store::{Failures, fs};
use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

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
    pace: Pace,
    stage_started: Instant,
}

/// How far a stage is, over all its parts.
#[derive(Default)]
struct Pace {
    /// What was missing when the stage began.
    rows_missing: u64,
    /// Of the parts that are done.
    rows_before: u64,
    tokens_before: u64,
    /// Of the part under way.
    tick: Tick,
}

impl Pace {
    fn new(rows_missing: u64) -> Pace {
        Pace { rows_missing, ..Pace::default() }
    }

    fn next_part(&mut self) {
        let done = std::mem::take(&mut self.tick);
        self.rows_before += done.rows_total;
        self.tokens_before += done.tokens;
    }

    /// How long what is left of the stage takes, if it goes on as in the `elapsed` time since it began: by tokens where they
    /// are counted, since rows under way have some already, else by rows.
    fn left(&self, elapsed: Duration) -> Option<Duration> {
        let Tick { rows_done, rows_total, tokens, tokens_expected, .. } = self.tick;
        let known = self.rows_before + rows_total;
        if rows_total == 0 || known == 0 {
            return None;
        }
        let rows = self.rows_missing.max(known) as f64;
        let (done, whole) = match tokens_expected {
            0 => ((self.rows_before + rows_done) as f64, rows),
            expected => {
                let mean = (self.tokens_before + expected.max(tokens)) as f64 / known as f64;
                ((self.tokens_before + tokens) as f64, mean * rows)
            }
        };
        (done > 0.0).then(|| elapsed.mul_f64((whole - done).max(0.0) / done))
    }
}

/// Seconds between lines in a log.
const LINE_EVERY: Duration = Duration::from_secs(15);

impl Progress {
    pub fn new() -> Progress {
        let now = Instant::now();
        let state = State {
            bar: None,
            part: String::new(),
            part_started: now,
            last_line: now,
            pace: Pace::default(),
            stage_started: now,
        };
        Progress { state: Mutex::new(state), terminal: std::io::stderr().is_terminal() }
    }

    pub fn show(&self, event: Event) {
        // A poisoned lock only means that another thread died while printing.
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        match event {
            Event::Download { transfer } => state.download(&transfer, self.terminal),
            Event::StageStarted { plan } if plan.parts_miss > 0 => {
                (state.pace, state.stage_started) = (Pace::new(plan.rows_miss), Instant::now());
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
                plan.remarks.iter().for_each(|remark| note(&format!("  {remark}")));
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
                let what = match outcome.kind {
                    "train" => "a policy".to_string(),
                    _ => format!("{} rows{counts}", outcome.rows),
                };
                note(&format!("{}: {what}, {how}", outcome.name));
                if let Some(left_out) = &outcome.left_out {
                    let (rows, table) = (left_out.rows, left_out.table);
                    note(&format!("  {rows} more are in `{table}`: {}", left_out.why()));
                    note(&format!("  mindgap show PIPELINE {} --table {table} shows them", outcome.name));
                }
                if let Some(failures) = &outcome.failures {
                    let Failures { rows, table, .. } = failures;
                    note(&format!("  {rows} rows of `{table}` are empty: servers failed their requests every time"));
                    failures.lines().iter().for_each(|line| note(&format!("  {line}")));
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
        self.pace.next_part();
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

    fn progress(&mut self, tick: &Tick) {
        let seconds = self.part_started.elapsed().as_secs_f64();
        let rate = if seconds > 0.0 { tick.tokens as f64 / seconds } else { 0.0 };
        let rate = if tick.tokens > 0 { format!("{rate:.0} tokens/s  ") } else { String::new() };
        self.pace.tick = tick.clone();
        let left = self.pace.left(self.stage_started.elapsed());
        let left = left.map_or(String::new(), |left| format!("eta {}", HumanDuration(left)));
        if let Some(bar) = &self.bar {
            if tick.rows_total > 0 && bar.length().is_none() {
                let style = ProgressStyle::with_template("{prefix} {bar:24} {pos}/{len}  {msg}");
                bar.set_style(style.expect("the template is valid"));
                bar.set_length(tick.rows_total);
            }
            bar.set_position(tick.rows_done);
            bar.set_message(format!("{rate}{}{}  {left}", memory(), plain(&tick.note)));
        } else if self.last_line.elapsed() > LINE_EVERY && self.part_started.elapsed() > LINE_EVERY {
            let total = if tick.rows_total > 0 { format!("/{}", tick.rows_total) } else { String::new() };
            let done = format!("{}  {}{total}", self.part, tick.rows_done);
            self.line(&format!("{done}  {rate}{}{}  {left}", memory(), tick.note));
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the time left goes by tokens, so that it is known before a row is complete, and covers the parts to come.
    #[test]
    fn time_left_goes_by_tokens_over_all_parts() {
        let minute = Duration::from_secs(60);
        let mut pace = Pace::new(400);
        assert_eq!(pace.left(minute), None);
        // 100 of 400 rows in this part, none complete, 2,000 of 20,000 tokens in a minute: 40 minutes in all.
        pace.tick = Tick { rows_total: 100, tokens: 2000, tokens_expected: 20_000, ..Tick::default() };
        assert_eq!(pace.left(minute), Some(39 * minute));
        // The part ends with fewer tokens than was thought.
        pace.tick =
            Tick { rows_total: 100, rows_done: 100, tokens: 10_000, tokens_expected: 10_000, ..Tick::default() };
        assert_eq!(pace.left(5 * minute), Some(15 * minute));
        pace.next_part();
        pace.tick = Tick { rows_total: 100, tokens: 5000, tokens_expected: 10_000, ..Tick::default() };
        assert_eq!(pace.left(15 * minute / 2), Some(25 * minute / 2));
        // Without tokens it goes by rows.
        let mut pace = Pace::new(8);
        pace.tick = Tick { rows_total: 8, rows_done: 2, ..Tick::default() };
        assert_eq!(pace.left(minute), Some(3 * minute));
    }

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
