//! The one error type: what was wrong, where, how to fix it, and which exit code it becomes.

use crate::address::Address;
use std::{fmt, io};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Who has to act on an error. Decides the process's exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The command ran, but a check it was asked to make failed.
    Check,
    /// The command line or pipeline file asks for something that does not exist.
    Usage,
    /// A file, table or checkpoint given to us is wrong.
    Input,
    /// Disk, permissions, memory or device.
    Environment,
    /// A bug of ours.
    Internal,
    /// Stopped by SIGINT or SIGTERM; what was published stays.
    Interrupted,
}

impl Kind {
    /// Process exit code. 0 is success; the table is in the README.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Check => 1,
            Kind::Usage => 2,
            Kind::Input => 3,
            Kind::Environment => 4,
            Kind::Internal => 70,
            Kind::Interrupted => 130,
        }
    }
}

/// An error with its place and its remedy. Messages are lower case, without a final stop, values in backticks.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    what: String,
    /// Outermost first.
    at: Vec<String>,
    hint: Option<String>,
    report: Option<String>,
    damaged: Option<Address>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub fn new(kind: Kind, what: impl Into<String>) -> Error {
        let what = what.into();
        Error(Box::new(Inner { kind, what, at: Vec::new(), hint: None, report: None, damaged: None, source: None }))
    }
    pub fn check(what: impl Into<String>) -> Error {
        Error::new(Kind::Check, what)
    }
    pub fn usage(what: impl Into<String>) -> Error {
        Error::new(Kind::Usage, what)
    }
    pub fn input(what: impl Into<String>) -> Error {
        Error::new(Kind::Input, what)
    }
    pub fn environment(what: impl Into<String>) -> Error {
        Error::new(Kind::Environment, what)
    }
    pub fn internal(what: impl Into<String>) -> Error {
        Error::new(Kind::Internal, what)
    }
    pub fn interrupted(what: impl Into<String>) -> Error {
        Error::new(Kind::Interrupted, what)
    }

    /// Where: file and line, table, part, row or tensor. Whoever passes an error on adds the place around those it has: the
    /// pipeline around the stage, the stage around the problem.
    pub fn at(mut self, place: impl Into<String>) -> Error {
        self.0.at.insert(0, place.into());
        self
    }
    /// How to fix it. The first hint given stays.
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.0.hint.get_or_insert(hint.into());
        self
    }
    /// The error underneath.
    pub fn source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        self.0.source = Some(source.into());
        self
    }
    /// The stored object whose bytes are missing or do not hash to its name: who can make it again may drop it.
    pub fn damaged(mut self, object: Address) -> Error {
        self.0.damaged = Some(object);
        self
    }
    /// A rendered excerpt of the offending text (file, line, column, a marker under the span).
    pub fn report(mut self, report: impl Into<String>) -> Error {
        self.0.report = Some(report.into());
        self
    }

    pub fn kind(&self) -> Kind {
        self.0.kind
    }
    pub fn what(&self) -> &str {
        &self.0.what
    }
    /// The innermost place.
    pub fn place(&self) -> Option<&str> {
        self.0.at.last().map(String::as_str)
    }
    /// All places, outermost first.
    pub fn places(&self) -> &[String] {
        &self.0.at
    }
    pub fn remedy(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
    pub fn damaged_object(&self) -> Option<&Address> {
        self.0.damaged.as_ref()
    }
    /// What the system said, where the error underneath is one of input or output.
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        self.0.source.as_ref()?.downcast_ref::<io::Error>().map(io::Error::kind)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.what)?;
        let mut cause = self.0.source.as_deref().map(|s| s as &dyn std::error::Error);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        for (index, place) in self.0.at.iter().enumerate() {
            write!(f, "\n{} {place}", if index == 0 { "   at:" } else { "      " })?;
        }
        if let Some(report) = &self.0.report {
            write!(f, "\n{}", report.trim_end())?;
        }
        if let Some(hint) = &self.0.hint {
            write!(f, "\n hint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_where_and_how() {
        let error = Error::input("unknown column `qestion`").at("a.jsonl:3").hint("did you mean `question`?");
        assert_eq!(error.to_string(), "unknown column `qestion`\n   at: a.jsonl:3\n hint: did you mean `question`?");
        assert_eq!(error.kind().exit_code(), 3);
    }

    #[test]
    fn keeps_what_callers_act_on() {
        let object = Address::of(b"rows");
        let error = Error::input("object is damaged").damaged(object.clone()).at("stage `rollouts`");
        assert_eq!((error.damaged_object(), error.io_kind()), (Some(&object), None));
        let closed = Error::environment("cannot write").source(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((closed.damaged_object(), closed.io_kind()), (None, Some(io::ErrorKind::BrokenPipe)));
    }

    #[test]
    fn keeps_every_place_outermost_first() {
        let error = Error::input("bad row").at("line 3").at("file a").at("stage `s`");
        assert_eq!(error.places(), ["stage `s`", "file a", "line 3"]);
        assert_eq!(error.place(), Some("line 3"));
        assert_eq!(error.to_string(), "bad row\n   at: stage `s`\n       file a\n       line 3");
    }
}
