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
        let start = span.start.min(self.text.len());
        let line_start = self.text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line = self.text[line_start..].lines().next().unwrap_or_default();
        if line.len() > LONGEST_LINE {
            return cut_out(line, start - line_start, span.len());
        }
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

/// Bytes of the longest line that is shown as a whole; what draws the excerpts counts columns in 16 bits.
const LONGEST_LINE: usize = 2000;
/// Characters shown on either side of a place in a longer one.
const AROUND: usize = 40;

/// A place in a long line, `at` bytes into it, with what is around it.
fn cut_out(line: &str, at: usize, length: usize) -> String {
    let before: Vec<char> = line[..at].chars().rev().take(AROUND).collect();
    let before: String = before.into_iter().rev().collect();
    let marked = line[at..].chars().take(AROUND).collect::<String>();
    let underlined = line[at..].chars().scan(0, |bytes, c| {
        *bytes += c.len_utf8();
        (*bytes <= length.max(1)).then_some(())
    });
    let marks = underlined.take(AROUND).count().max(1);
    format!("  ..{before}{marked}..\n    {}{}", " ".repeat(before.chars().count()), "^".repeat(marks))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a place beyond the columns that can be drawn is shown with what is around it.
    #[test]
    fn a_place_in_a_very_long_line_is_cut_out() {
        let text = format!("name = \"{}\" é sample = 3", "x".repeat(100_000));
        let at = text.find("sample").unwrap();
        let source = Source { path: "p.toml".into(), text: format!("# first\n{text}\n") };
        let span = 8 + at..8 + at + 6;
        let error = source.error("unknown key `sample`", Some(span)).to_string();
        assert!(error.contains("p.toml:2:100013"), "{error}");
        let lines: Vec<&str> = error.lines().collect();
        let (shown, marks) = (lines.iter().find(|line| line.contains("sample = 3")).unwrap(), lines.last().unwrap());
        let column =
            shown.chars().collect::<Vec<_>>().windows(6).position(|w| w.iter().collect::<String>() == "sample");
        assert_eq!(column, marks.find('^'), "{error}");
        assert_eq!(marks.trim(), "^^^^^^");
    }
}
