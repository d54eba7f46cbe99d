//! command: a program of the user's as judge. One process a case: a line of JSON in (`id`, `source`, `question`, `gold`,
//! `response`, `meta`), a line of JSON out (`verdict`, and as it likes `extracted` and `method`).
//!
//! A program that fails, is stopped by a limit or answers something else has judged nothing: the verdict is `unparsed` or
//! `budget_exceeded`, and the method says why.

use super::Case;
use crate::child::{self, End, Ended, Limits};
use mindgap_base::address::Address;
use mindgap_base::error::{Error, Result};
use mindgap_math::{Judgement, Verdict};
use mindgap_store::fs;
use serde::Deserialize;
use std::path::{Path, PathBuf};

const VERSION: u32 = 1;

/// Names of the options.
pub const OPTIONS: [&str; 6] = ["command", "seconds", "memory_mib", "processes", "file_mib", "sandbox"];

/// What a pipeline or the command line says of a command.
pub struct Options {
    /// The program and its arguments.
    words: Vec<String>,
    limits: Limits,
}

impl Options {
    /// Errors: no command.
    pub fn new(words: Option<Vec<String>>) -> Result<Options> {
        match words {
            Some(words) if !words.is_empty() => Ok(Options { words, limits: Limits::default() }),
            _ => Err(Error::usage("the judge `command` needs the option `command`")
                .hint("`command = [\"python3\", \"judge.py\"]`: a program and its arguments")),
        }
    }

    /// Errors: a value that is no positive whole number, or no truth value for `sandbox`.
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let wrong = |what: &str| Error::usage(format!("option `{name}` is {what}, not `{value}`"));
        let limits = &mut self.limits;
        let number = match name {
            "sandbox" => {
                limits.sandbox = value.parse().map_err(|_| wrong("true or false"))?;
                return Ok(());
            }
            "seconds" => &mut limits.seconds,
            "memory_mib" => &mut limits.memory_mib,
            "processes" => &mut limits.processes,
            "file_mib" => &mut limits.file_mib,
            _ => return Err(Error::internal(format!("`{name}` is no option of commands"))),
        };
        *number = value.parse().ok().filter(|number| (1..=1 << 30).contains(number)).ok_or_else(|| wrong("a count"))?;
        Ok(())
    }
}

/// A command whose files are found and hashed.
pub struct Command {
    words: Vec<Word>,
    limits: Limits,
}

/// A word as it is written, and the file it names.
struct Word {
    written: String,
    file: Option<(PathBuf, Address)>,
}

impl Command {
    /// Words that name files below `folder` are files; of a program that is none, the one on the `PATH` is meant.
    ///
    /// Errors: no such program.
    pub fn new(options: Options, folder: &Path) -> Result<Command> {
        let mut words = Vec::new();
        for written in options.words {
            let path = folder.join(&written);
            let file = match fs::is_there(&path) && !fs::is_dir("look at", &path)? {
                true => Some((absolute(&path)?, fs::address(&path)?)),
                false => None,
            };
            words.push(Word { written, file });
        }
        let program = &words[0];
        if program.file.is_none() && (program.written.contains('/') || !child::is_on_path(&program.written)) {
            return Err(Error::input(format!("there is no program `{}`", program.written))
                .hint(format!("a file below `{}`, or a program on the PATH", folder.display())));
        }
        Ok(Command { words, limits: options.limits })
    }

    /// Each word, those that are files with the hash of their bytes, and the limits that are not the usual ones.
    pub fn name(&self) -> String {
        let shown = |word: &Word| match &word.file {
            None => word.written.clone(),
            Some((path, address)) => {
                let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
                format!("{} {}", name.unwrap_or_default(), address.short())
            }
        };
        let mut parts = vec![self.words.iter().map(shown).collect::<Vec<_>>().join(" ")];
        parts.extend(self.limits.differing());
        format!("command-v{VERSION}({})", parts.join(","))
    }

    /// Errors: there is no sandbox on this machine and the command is to have one; a file that changed.
    pub fn check_machine(&self) -> Result<()> {
        if self.limits.sandbox {
            child::check()?;
        }
        for (path, address) in self.words.iter().filter_map(|word| word.file.as_ref()) {
            if fs::address(path)? != *address {
                return Err(Error::input("a judge's file changed while it was in use")
                    .at(path.display().to_string())
                    .hint("run again"));
            }
        }
        Ok(())
    }

    /// Errors: a process that cannot be started or contained.
    pub fn judge(&self, case: &Case) -> Result<Judgement> {
        let word = |word: &Word| match &word.file {
            Some((path, _)) => path.display().to_string(),
            None => word.written.clone(),
        };
        let words: Vec<String> = self.words.iter().map(word).collect();
        let mut line = serde_json::to_string(case).expect("a case is plain data");
        line.push('\n');
        Ok(judgement(child::run(&words, line.as_bytes(), &self.limits)?))
    }
}

/// What a program answers.
#[derive(Deserialize)]
struct Answer {
    verdict: Said,
    #[serde(default)]
    extracted: Option<String>,
    #[serde(default)]
    method: Option<String>,
}

/// The words of a verdict.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Said {
    Correct,
    Incorrect,
    NoAnswer,
    Unparsed,
    BudgetExceeded,
}

fn judgement(ended: Ended) -> Judgement {
    let failed = |verdict, why: String| {
        let said = String::from_utf8_lossy(&ended.stderr);
        let last = said.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
        let last: String = last.chars().filter(|c| !c.is_control()).take(SAID_CHARACTERS).collect();
        let method = if last.is_empty() { format!("command/{why}") } else { format!("command/{why}: {last}") };
        Judgement { verdict, extracted: None, method }
    };
    match ended.end {
        End::Time => return failed(Verdict::BudgetExceeded, "time".to_string()),
        End::Memory => return failed(Verdict::BudgetExceeded, "memory".to_string()),
        End::FileSize => return failed(Verdict::BudgetExceeded, "file_size".to_string()),
        End::Signal(signal) => return failed(Verdict::Unparsed, format!("signal {signal}")),
        End::Exit(code) if code != 0 => return failed(Verdict::Unparsed, format!("exit {code}")),
        End::Exit(_) => {}
    }
    let line = ended.stdout.split(|byte| *byte == b'\n').find(|line| !line.trim_ascii().is_empty());
    let Some(line) = line else { return failed(Verdict::Unparsed, "no output".to_string()) };
    let Ok(answer) = serde_json::from_slice::<Answer>(line) else {
        return failed(Verdict::Unparsed, "output".to_string());
    };
    let verdict = match answer.verdict {
        Said::Correct => Verdict::Correct,
        Said::Incorrect => Verdict::Incorrect,
        Said::NoAnswer => Verdict::NoAnswer,
        Said::Unparsed => Verdict::Unparsed,
        Said::BudgetExceeded => Verdict::BudgetExceeded,
    };
    let method = answer.method.map_or_else(|| "command".to_string(), |method| format!("command/{method}"));
    Judgement { verdict, extracted: answer.extracted, method }
}

/// Characters kept of what a failed program said last.
const SAID_CHARACTERS: usize = 200;

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| fs::error("find", path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(end: End, stdout: &str, stderr: &str) -> (Verdict, String) {
        let judged = judgement(Ended { end, stdout: stdout.into(), stderr: stderr.into() });
        (judged.verdict, judged.method)
    }

    #[test]
    fn only_a_clean_answer_is_a_verdict() {
        let right = "{\"verdict\": \"correct\", \"method\": \"tests\", \"extracted\": \"x\"}\n";
        assert_eq!(said(End::Exit(0), right, "a warning"), (Verdict::Correct, "command/tests".to_string()));
        assert_eq!(said(End::Exit(0), "{\"verdict\": \"no_answer\"}", "").0, Verdict::NoAnswer);
        assert_eq!(said(End::Exit(1), right, "Oh\nno \n"), (Verdict::Unparsed, "command/exit 1: no".to_string()));
        assert_eq!(said(End::Signal(9), right, ""), (Verdict::Unparsed, "command/signal 9".to_string()));
        assert_eq!(said(End::Time, right, ""), (Verdict::BudgetExceeded, "command/time".to_string()));
        assert_eq!(said(End::FileSize, right, ""), (Verdict::BudgetExceeded, "command/file_size".to_string()));
        for bad in ["yes\n", "{\"verdict\": \"right\"}", "{}", "\u{1b}[31m{\"verdict\": \"correct\"}"] {
            assert_eq!(said(End::Exit(0), bad, ""), (Verdict::Unparsed, "command/output".to_string()), "{bad}");
        }
        assert_eq!(said(End::Exit(0), "\n", ""), (Verdict::Unparsed, "command/no output".to_string()));
    }
}
