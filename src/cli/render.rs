//! The only place that prints: data to stdout, everything else to stderr.

#![expect(clippy::print_stderr, reason = "this is where everything is printed")]

use indicatif::{ProgressBar, ProgressStyle};
use mindgap_base::error::{Error, Result};
use mindgap_lm::engine;
use std::io::Write;

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

/// Bytes, for people.
pub fn size(bytes: u64) -> String {
    match bytes as f64 / 1e6 {
        megabytes if megabytes < 1000.0 => format!("{megabytes:.0} MB"),
        megabytes => format!("{:.1} GB", megabytes / 1e3),
    }
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
