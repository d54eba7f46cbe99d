//! The only place that prints: data to stdout, everything else to stderr.

#![expect(clippy::print_stderr, reason = "this is where everything is printed")]

use indicatif::{ProgressBar, ProgressStyle};
use mindgap_base::error::{Error, Result};
use mindgap_base::guard;
use mindgap_lm::engine;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::borrow::Cow;
use std::io::{IsTerminal, Write};
use std::panic::PanicHookInfo;

/// Prints data. A terminal gets no control characters from it: they could change what is seen, or more.
pub fn out(text: &str) -> Result<()> {
    if std::io::stdout().is_terminal() { styled(&plain(text)) } else { styled(text) }
}

/// Prints text with styles of ours; whatever else is in it went through [`plain`].
pub fn styled(text: &str) -> Result<()> {
    writeln!(std::io::stdout().lock(), "{text}").map_err(|e| Error::environment("cannot write to stdout").source(e))
}

pub fn json(value: &impl serde::Serialize) -> Result<()> {
    out(&serde_json::to_string(value).expect("reported values are plain data"))
}

/// Prints a line for people.
pub fn note(text: &str) {
    eprintln!("{}", plain(text));
}

/// The same of several.
pub fn notes(texts: &[String]) {
    texts.iter().for_each(|text| note(text));
}

pub fn error(error: &Error) {
    eprintln!("error: {}", plain(&error.to_string()));
}

/// A bug of ours, for people: where it is, and that it is one.
pub fn panic(panic: &PanicHookInfo) {
    if guard::is_expected() {
        return;
    }
    let place = panic.location().map(|place| format!("\n   at: {place}")).unwrap_or_default();
    eprintln!("error: internal error: {}{place}", plain(guard::said(panic.payload())));
    eprintln!(" hint: this is a bug; what is finished is kept. Please report it with the command and this text");
    let trace = Backtrace::capture();
    if trace.status() == BacktraceStatus::Captured {
        eprintln!("{trace}");
    }
}

/// A text in which control characters, and those that turn the direction of writing, stand as their code points.
pub fn plain(text: &str) -> Cow<'_, str> {
    let is_plain = |c: char| {
        let turns = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        matches!(c, '\n' | '\t') || !(c.is_control() || turns)
    };
    match text.chars().all(is_plain) {
        true => Cow::Borrowed(text),
        false => text
            .chars()
            .flat_map(|c| if is_plain(c) { vec![c] } else { c.escape_unicode().collect() })
            .collect::<String>()
            .into(),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_as_what_they_are() {
        assert_eq!(plain("a\tb\nc é 漢"), "a\tb\nc é 漢");
        assert_eq!(plain("\x1b]0;title\x07"), "\\u{1b}]0;title\\u{7}");
        assert_eq!(plain("\u{9b}31m \u{202e}evil"), "\\u{9b}31m \\u{202e}evil");
    }
}
