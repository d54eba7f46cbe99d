//! Points at a place in a pipeline file: line, column, the offending text, and what was probably meant.

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteDiagnostic, NamedSource, Report};
use mindgap_base::error::Error;
use std::ops::Range;

/// The text of a pipeline file and its name, for errors.
#[derive(Clone, Debug)]
pub struct Source {
    pub path: String,
    pub text: String,
}

impl Source {
    /// An error about `span` of the file.
    pub fn error(&self, what: impl Into<String>, span: Option<Range<usize>>) -> Error {
        let what = what.into();
        let Some(span) = span else { return Error::usage(what).at(self.path.clone()) };
        let before = &self.text[..span.start.min(self.text.len())];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
        Error::usage(what).at(format!("{}:{line}:{column}", self.path)).report(self.excerpt(span))
    }

    fn excerpt(&self, span: Range<usize>) -> String {
        let diagnostic = MietteDiagnostic::new("").with_label(LabeledSpan::underline(span));
        let report = Report::new(diagnostic).with_source_code(NamedSource::new(&self.path, self.text.clone()));
        let mut text = String::new();
        let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor()).with_context_lines(1);
        // Rendering into a string cannot fail; without an excerpt the error still says line and column.
        let _ = handler.render_report(&mut text, report.as_ref());
        let lines = text.lines().filter(|line| !line.trim().is_empty() && line.trim() != "×");
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// The candidate closest to `word`, if it is close enough to be a slip.
pub fn suggestion<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let scored = candidates.into_iter().map(|candidate| (strsim::jaro_winkler(word, candidate), candidate));
    scored.filter(|(score, _)| *score > 0.8).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, candidate)| candidate)
}

/// "did you mean ...", or the list of what there is.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str> + Clone) -> String {
    match suggestion(word, candidates.clone()) {
        Some(candidate) => format!("did you mean `{candidate}`?"),
        None => {
            let all: Vec<&str> = candidates.into_iter().collect();
            if all.is_empty() {
                "there is none to choose from".to_string()
            } else {
                format!("there is: {}", all.join(", "))
            }
        }
    }
}
