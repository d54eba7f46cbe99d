//! spans: formulas, numbers and sentences of a text, as byte ranges.

use crate::read::scale;

/// True when what stands between two boxes only lists them.
pub fn joins(gap: &str) -> bool {
    if gap.len() > 80 || gap.contains("\n\n") {
        return false;
    }
    let mut separated = gap.contains(',') || gap.contains(';') || gap.contains("quad") || gap.contains("\\\\");
    let mut others = 0;
    let bytes = gap.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        if byte == b'\\' {
            at += 1;
            while at < bytes.len() && bytes[at].is_ascii_alphabetic() {
                at += 1;
            }
            at += usize::from(at < bytes.len() && !bytes[at].is_ascii_alphanumeric() && bytes[at - 1] == b'\\');
            continue;
        }
        if byte.is_ascii_alphabetic() {
            let start = at;
            while at < bytes.len() && bytes[at].is_ascii_alphabetic() {
                at += 1;
            }
            match gap[start..at].to_ascii_lowercase().as_str() {
                "and" | "or" => separated = true,
                "but" | "not" | "however" | "wait" | "then" | "so" | "thus" | "instead" | "rather" | "answer"
                | "final" | "is" | "hence" | "therefore" => return false,
                word => others += usize::from(word.len() > 1),
            }
            continue;
        }
        if matches!(byte, b'.' | b'?' | b'!' | b':' | b'+' | b'*' | b'/' | b'<' | b'>') || byte.is_ascii_digit() {
            return false;
        }
        at += 1;
    }
    let nothing = gap.trim_matches(|c: char| c.is_whitespace() || c == '$').is_empty();
    (separated || nothing) && others <= 2
}

/// Words of two or more letters outside macros; "and", "or" and names of environments do not count.
pub fn words_in(text: &str) -> usize {
    let bytes = text.as_bytes();
    let (mut count, mut at) = (0, 0);
    while at < bytes.len() {
        let start = at;
        while at < bytes.len() && bytes[at].is_ascii_alphabetic() {
            at += 1;
        }
        let run = &bytes[start..at];
        let before = start.checked_sub(1).map(|before| bytes[before]);
        let environment = before == Some(b'{')
            && (bytes[..start - 1].ends_with(b"\\begin") || bytes[..start - 1].ends_with(b"\\end"));
        let columns = run.iter().all(|byte| matches!(byte, b'c' | b'l' | b'r'));
        let counts =
            run.len() > 1 && before != Some(b'\\') && !environment && !columns && !matches!(run, b"and" | b"or");
        count += usize::from(counts);
        at += usize::from(at == start || at < bytes.len());
    }
    count
}

/// Up to the end of the sentence or paragraph, formulas kept whole.
pub fn first_sentence(text: &str) -> &str {
    let spans = formulas(text);
    let inside = |at: usize| spans.iter().any(|span| span.outer.contains(&at));
    let bytes = text.as_bytes();
    for at in 0..bytes.len() {
        let ends = match bytes[at] {
            b'\n' => !in_environment(&text[..at]),
            b'.' | b'!' | b'?' => {
                let half_of_day = bytes[..at].ends_with(b"p.m") || bytes[..at].ends_with(b"a.m");
                let factorial = bytes[at] == b'!' && at > 0 && !bytes[at - 1].is_ascii_alphabetic();
                bytes.get(at + 1).is_none_or(u8::is_ascii_whitespace) && !half_of_day && !factorial
            }
            _ => false,
        };
        if ends && !inside(at) && !text[..at].trim().is_empty() {
            return &text[..at];
        }
    }
    text
}

/// True behind a `\begin` without its `\end`.
fn in_environment(text: &str) -> bool {
    text.matches("\\begin{").count() > text.matches("\\end{").count()
}

/// A formula with and without its delimiters.
pub struct Formula {
    /// With its delimiters.
    pub outer: std::ops::Range<usize>,
    /// Without them.
    pub inner: std::ops::Range<usize>,
}

/// Formulas in `$`, `$$`, `\(` and `\[`, in order.
pub fn formulas(text: &str) -> Vec<Formula> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(ahead) = bytes.get(at..).and_then(|rest| rest.iter().position(|byte| matches!(byte, b'$' | b'\\'))) {
        at += ahead;
        let (open, close) = match bytes[at] {
            b'\\' if matches!(bytes.get(at + 1), Some(b'[')) => ("\\[", "\\]"),
            b'\\' if matches!(bytes.get(at + 1), Some(b'(')) => ("\\(", "\\)"),
            b'\\' => {
                at += 2;
                continue;
            }
            _ if bytes.get(at + 1) == Some(&b'$') => ("$$", "$$"),
            _ => ("$", "$"),
        };
        let start = at + open.len();
        match closing(text, start, close).filter(|stop| is_formula(&text[start..*stop])) {
            Some(stop) => {
                found.push(Formula { outer: at..stop + close.len(), inner: start..stop });
                at = stop + close.len();
            }
            None => at = start,
        }
    }
    found
}

fn closing(text: &str, start: usize, close: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = start;
    while at < bytes.len() {
        if bytes[at..].starts_with(close.as_bytes()) {
            return Some(at);
        }
        if bytes[at] == b'\\' {
            at += 1;
        }
        at += 1;
    }
    None
}

/// Money amounts put dollar signs around prose; that is no formula.
fn is_formula(inside: &str) -> bool {
    !inside.trim().is_empty() && (inside.contains('\\') || words_in(inside) <= 3 && !inside.contains(". "))
}

/// Something that may be the answer.
pub struct Candidate {
    /// Where it stands.
    pub range: std::ops::Range<usize>,
    /// Formula or number.
    pub place: &'static str,
}

/// Formulas and numbers outside formulas, in order.
pub fn candidates(text: &str) -> Vec<Candidate> {
    let spans = formulas(text);
    let mut found = Vec::new();
    let mut start = 0;
    for span in &spans {
        numbers(text, start..span.outer.start, &mut found);
        found.push(Candidate { range: span.inner.clone(), place: "math" });
        start = span.outer.end;
    }
    numbers(text, start..text.len(), &mut found);
    found
}

/// The last of the candidates.
pub fn last_candidate(text: &str) -> Option<Candidate> {
    let formula = formulas(text).pop();
    let start = formula.as_ref().map_or(0, |formula| formula.outer.end);
    let mut found = Vec::new();
    if let Some(digit) = text.as_bytes()[start..].iter().rposition(u8::is_ascii_digit) {
        // the word of the last digit holds the last number, unless the digit is part of a name
        let space = text.as_bytes()[start..start + digit].iter().rposition(u8::is_ascii_whitespace);
        numbers(text, start + space.unwrap_or(0)..text.len(), &mut found);
        if found.is_empty() {
            numbers(text, start..text.len(), &mut found);
        }
    }
    found.pop().or(formula.map(|formula| Candidate { range: formula.inner, place: "math" }))
}

/// Plain numbers: digits with separators, decimals, a fraction stroke, a sign, a percent sign, a currency.
fn numbers(text: &str, range: std::ops::Range<usize>, found: &mut Vec<Candidate>) {
    let bytes = text.as_bytes();
    let mut at = range.start;
    while at < range.end {
        if !bytes[at].is_ascii_digit() {
            at += 1;
            continue;
        }
        let mut start = at;
        // part of a word or an ordinal macro argument
        if start > range.start && (bytes[start - 1].is_ascii_alphabetic() || bytes[start - 1] == b'_') {
            while at < range.end && bytes[at].is_ascii_alphanumeric() {
                at += 1;
            }
            continue;
        }
        let mut end = at;
        while end < range.end {
            let joins = matches!(bytes[end], b'.' | b',' | b'/' | b':')
                && bytes.get(end + 1).is_some_and(u8::is_ascii_digit)
                && end + 1 < range.end;
            if !(bytes[end].is_ascii_digit() || joins) {
                break;
            }
            end += 1;
        }
        if end + 1 < range.end
            && matches!(bytes[end], b'e' | b'E')
            && (bytes[end + 1].is_ascii_digit() || matches!(bytes[end + 1], b'-' | b'+'))
        {
            let mut stop = end + 2;
            while stop < range.end && bytes[stop].is_ascii_digit() {
                stop += 1;
            }
            if bytes[stop - 1].is_ascii_digit() {
                end = stop;
            }
        }
        if start > range.start && matches!(bytes[start - 1], b'.') && (start < 2 || !bytes[start - 2].is_ascii_digit())
        {
            start -= 1;
        }
        if start > range.start && bytes[start - 1] == b'$' {
            start -= 1;
            if start > range.start && bytes[start - 1] == b'\\' {
                start -= 1;
            }
        }
        if start > range.start && bytes[start - 1] == b'-' && (start < 2 || !bytes[start - 2].is_ascii_alphanumeric()) {
            start -= 1;
        }
        if text[end..range.end].starts_with('%') || text[end..range.end].starts_with("\\%") {
            end += if bytes[end] == b'%' { 1 } else { 2 };
        } else if text[end..range.end].starts_with(" percent") {
            end += 8;
        } else {
            end += scale_behind(&text[end..range.end], bytes[start..end].contains(&b'$'));
        }
        found.push(Candidate { range: start..end, place: "number" });
        at = end;
    }
}

/// Bytes of what multiplies the number in front of it, which is part of the number: ` million`, and behind money `B` and ` bn`.
fn scale_behind(rest: &str, money: bool) -> usize {
    let gap = usize::from(rest.starts_with([' ', '-']));
    let letters = rest[gap..].bytes().take_while(u8::is_ascii_alphabetic).count();
    let name = &rest[gap..gap + letters];
    let multiplies = gap > 0 && scale::word(name).is_some() || money && scale::suffix(name, true).is_some();
    if multiplies { gap + letters } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_candidate_is_the_last_of_all() {
        let pieces = [
            "5",
            "x2",
            "x_3",
            "-1.5",
            "$4",
            "$a$",
            "$$b$$",
            "\\(c\\)",
            "7 percent",
            "1e3",
            "9%",
            "2 million",
            "$3B",
            "\n",
            "so",
            ".",
            "é",
        ];
        for first in pieces {
            for second in pieces {
                for (third, gap) in pieces.into_iter().flat_map(|third| [(third, " "), (third, "")]) {
                    let text = [first, second, third].join(gap);
                    let shown = |found: Option<Candidate>| found.map(|found| (found.range, found.place));
                    assert_eq!(shown(last_candidate(&text)), shown(candidates(&text).pop()), "{text:?}");
                }
            }
        }
    }
}
