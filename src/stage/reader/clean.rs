//! Named rules that make an expert's solution a better text to train on. The question is never touched.

use mindgap_math::{Judge, Options, Verdict, boxed_answers, is_bare_answer, stated_answer};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What is done to an expert's solution, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// GSM8K's calculator marks go: `3*4=<<3*4=12>>12` becomes `3*4=12`.
    CalculatorMarks,
    /// Drawings go: `[asy] ... [/asy]`.
    Asymptote,
    /// Sentences to the reader at the end go: `I hope this helps!`
    Pleasantries,
    /// Names of authors at the end go: lines like `~name`.
    Signatures,
    /// Remarks behind the answer go: `(Note: ...)`, lines that begin with `Note:` or `Remark:`.
    Notes,
    /// Lines at the end that say the answer again go: `The answer is: 12` behind a box or behind `#### 12`.
    RepeatedAnswer,
    /// An answer that is announced at the end is boxed: the lines `#### 12` and `The answer is: 12` become
    /// `The final answer is $\boxed{12}$.` Only where there is no box yet and the answer is the row's reference.
    BoxedAnswer,
}

impl Rule {
    pub fn as_str(self) -> &'static str {
        match self {
            Rule::CalculatorMarks => "calculator_marks",
            Rule::Asymptote => "asymptote",
            Rule::Pleasantries => "pleasantries",
            Rule::Signatures => "signatures",
            Rule::Notes => "notes",
            Rule::RepeatedAnswer => "repeated_answer",
            Rule::BoxedAnswer => "boxed_answer",
        }
    }

    /// The solution after this rule.
    fn apply(self, text: &str, answer: &str) -> String {
        match self {
            Rule::CalculatorMarks => without_marks(text),
            Rule::Asymptote => without_drawings(text),
            Rule::Pleasantries => without_pleasantries(text),
            Rule::Signatures => without_signatures(text),
            Rule::Notes => without_notes(text),
            Rule::RepeatedAnswer => without_repeats(text),
            Rule::BoxedAnswer => with_box(text, answer),
        }
    }
}

/// A solution that some rules changed.
pub struct Cleaned {
    pub solution: String,
    /// Those that changed it.
    pub rules: Vec<Rule>,
}

/// The solution after these rules; `None` where they change nothing. A rule that would leave nothing is passed over.
pub fn cleaned(rules: &BTreeSet<Rule>, solution: &str, answer: &str) -> Option<Cleaned> {
    let mut cleaned = Cleaned { solution: solution.to_string(), rules: Vec::new() };
    for rule in rules {
        let text = rule.apply(&cleaned.solution, answer);
        if text != cleaned.solution && !text.trim().is_empty() {
            cleaned.solution = text;
            cleaned.rules.push(*rule);
        }
    }
    (!cleaned.rules.is_empty()).then_some(cleaned)
}

/// Longest calculation between calculator marks, in bytes.
const MARK_BYTES: usize = 200;

fn without_marks(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("<<") {
        let inside = &rest[start + 2..];
        let is_mark =
            |inside: &&str| inside.len() <= MARK_BYTES && inside.contains('=') && !inside.contains(['<', '\n']);
        match inside.split_once(">>").map(|(inside, _)| inside).filter(is_mark) {
            Some(mark) => {
                out.push_str(&rest[..start]);
                rest = &inside[mark.len() + 2..];
            }
            None => {
                out.push_str(&rest[..start + 2]);
                rest = inside;
            }
        }
    }
    out + rest
}

fn without_drawings(text: &str) -> String {
    let mut text = text.to_string();
    for (open, close) in [("[asy]", "[/asy]"), ("\\begin{asy}", "\\end{asy}")] {
        while let Some(start) = text.find(open) {
            let Some(length) = text[start..].find(close) else { break };
            let (before, behind) = (text[..start].trim_end(), text[start + length + close.len()..].trim_start());
            let between = if before.is_empty() || behind.is_empty() { "" } else { "\n\n" };
            text = format!("{before}{between}{behind}");
        }
    }
    text
}

/// How sentences to the reader begin, in lower case.
const PLEASANTRIES: [&str; 14] = [
    "hope this helps",
    "hope that helps",
    "i hope this",
    "i hope that",
    "i hope it",
    "hope it helps",
    "let me know if",
    "please let me know",
    "feel free to",
    "please feel free to",
    "if you have any",
    "happy to help",
    "good luck",
    "thank you for",
];

fn without_pleasantries(text: &str) -> String {
    let mut left = text;
    loop {
        let ending = left.trim_end();
        let body = ending.trim_end_matches(['.', '!', '?', ')', ':']);
        let start =
            [". ", "! ", "? ", "\n"].iter().filter_map(|end| Some(body.rfind(end)? + end.len())).max().unwrap_or(0);
        let sentence = ending[start..].trim_start_matches(['(', '*', ' ']).to_lowercase();
        let is_one = PLEASANTRIES.iter().any(|begin| sentence.starts_with(begin));
        if !is_one || sentence.contains(['\\', '$']) {
            // Only what was removed takes the white space before it along.
            return if left.len() == text.len() { text.to_string() } else { ending.to_string() };
        }
        left = &ending[..start];
    }
}

/// Longest line of an author's name, in bytes.
const SIGNATURE_BYTES: usize = 60;

fn without_signatures(text: &str) -> String {
    let mut left = text;
    loop {
        let ending = left.trim_end();
        let (before, line) = ending.rsplit_once('\n').unwrap_or(("", ending));
        let name = line.trim().trim_start_matches(['-', '\\', ' ']);
        let is_signature = name.starts_with('~') && name.len() <= SIGNATURE_BYTES && name.contains(char::is_alphabetic);
        if !is_signature || name.contains(['$', '=']) {
            return if left.len() == text.len() { text.to_string() } else { ending.to_string() };
        }
        left = before;
    }
}

/// How remarks begin, in lower case.
const NOTES: [&str; 5] = ["note:", "notes:", "remark:", "remarks:", "n.b."];

/// Cuts at the first remark behind which nothing is said of the answer: what is left states the same.
fn without_notes(text: &str) -> String {
    let Some(answer) = stated_answer(text) else { return text.to_string() };
    let lines = text.match_indices('\n').map(|(at, _)| at + 1);
    let brackets = text.match_indices(" (").map(|(at, _)| at + 1);
    let mut starts: Vec<usize> = lines.chain(brackets).collect();
    starts.sort_unstable();
    let is_note = |start: &usize| {
        let line: String = text[*start..].trim_start_matches(['(', '*', '_', ' ', '[']).chars().take(10).collect();
        NOTES.iter().any(|begin| line.to_lowercase().starts_with(begin))
    };
    let left = starts.into_iter().filter(is_note).map(|start| text[..start].trim_end());
    let states_the_same = |left: &&str| stated_answer(left).as_ref() == Some(&answer);
    left.into_iter().find(states_the_same).unwrap_or(text).to_string()
}

fn without_repeats(text: &str) -> String {
    let mut left = text;
    while let Some((before, line)) = left.trim_end().rsplit_once('\n') {
        let before = before.trim_end();
        let says_it = |answer: String| judged_correct(&answer, line);
        if !boxed_answers(line).is_empty() || !is_announcement(line) || !stated_answer(before).is_some_and(says_it) {
            break;
        }
        left = before;
    }
    left.to_string()
}

fn with_box(text: &str, answer: &str) -> String {
    let is_reference = |stated: String| judged_correct(answer, &stated);
    if !boxed_answers(text).is_empty() || !stated_answer(text).is_some_and(is_reference) {
        return text.to_string();
    }
    let mut left = text.trim_end();
    loop {
        let (before, line) = left.rsplit_once('\n').unwrap_or(("", left));
        if !is_announcement(line) {
            break;
        }
        left = before.trim_end();
    }
    let boxed = format!("{left}\nThe final answer is $\\boxed{{{}}}$.", latex(answer));
    match judged_correct(answer, &boxed) {
        true => boxed.trim_start().to_string(),
        false => text.to_string(),
    }
}

fn judged_correct(answer: &str, text: &str) -> bool {
    Judge::Math(Options::default()).judge(answer, text).verdict == Verdict::Correct
}

/// A line that announces the answer and does nothing else.
fn is_announcement(line: &str) -> bool {
    stated_answer(line).is_some() && is_bare_answer(line)
}

/// An answer as it stands in LaTeX: without dollars around formulas, signs escaped, words as text.
fn latex(answer: &str) -> String {
    let mut out = String::with_capacity(answer.len());
    let is_formula = answer.matches('$').count() - answer.matches("\\$").count() >= 2;
    let mut before = ' ';
    for c in answer.chars() {
        match c {
            '$' if before == '\\' => out.push(c),
            '$' if is_formula => {}
            '$' | '%' | '#' | '&' if before != '\\' => out.extend(['\\', c]),
            c => out.push(c),
        }
        before = c;
    }
    let is_words = !out.contains(['\\', '^', '_', '=', '+', '(', '/'])
        && out.split_whitespace().any(|word| word.len() > 1 && word.chars().all(char::is_alphabetic));
    let starts_with_number = out.starts_with(|c: char| c.is_ascii_digit());
    match is_words && !starts_with_number {
        true => format!("\\text{{{out}}}"),
        false => out,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(rules: &[Rule], text: &str, answer: &str) -> Option<String> {
        cleaned(&rules.iter().copied().collect(), text, answer).map(|cleaned| cleaned.solution)
    }

    #[track_caller]
    fn check(rule: Rule, text: &str, answer: &str, expected: Option<&str>) {
        assert_eq!(after(&[rule], text, answer).as_deref(), expected, "{text}");
    }

    #[test]
    fn calculator_marks_go() {
        let check = |text, expected| check(Rule::CalculatorMarks, text, "12", expected);
        check("3*4=<<3*4=12>>12 and $<<12/4=3>>3", Some("3*4=12 and $3"));
        check("if a << b and b >> c", None);
        check("a <<b\n=c>> d", None);
        check("<<unclosed = 3", None);
    }

    #[test]
    fn drawings_go() {
        let check = |text, expected| check(Rule::Asymptote, text, "5", expected);
        check("See.\n\n[asy]\ndraw((0,0));\n[/asy]\n\nSo \\boxed{5}.", Some("See.\n\nSo \\boxed{5}."));
        check("[asy]a[/asy] So 5.", Some("So 5."));
        check("[asy] never closed", None);
        check("[asy]all there is[/asy]", None);
    }

    #[test]
    fn pleasantries_go() {
        let check = |text, expected| check(Rule::Pleasantries, text, "5", expected);
        check("So \\boxed{5}. I hope it is correct.", Some("So \\boxed{5}."));
        check("So 5.\n\nHope this helps! Let me know if you have any questions.", Some("So 5."));
        check("I hope this helps.", None);
        check("We hope. So 5.\n", None);
    }

    #[test]
    fn signatures_go() {
        let check = |text, expected| check(Rule::Signatures, text, "5", expected);
        check("So \\boxed{5}.\n\n~someone\n~ edited by another", Some("So \\boxed{5}."));
        check("So\n~ $5$", None);
        check("a ~ b", None);
    }

    #[test]
    fn notes_go() {
        let check = |text, expected| check(Rule::Notes, text, "5", expected);
        check("So $\\boxed{5}$. (Note: 6 is wrong.)", Some("So $\\boxed{5}$."));
        check("So \\boxed{5}.\n\n**Remark:** see [1].\nMore.", Some("So \\boxed{5}."));
        check("#### 5\nNote: checked", Some("#### 5"));
        check("Note: x > 0.\nSo \\boxed{5}.", None);
        check("We try 4.\nNote: 4 fails.\nSo \\boxed{5}.", None);
    }

    #[test]
    fn repeated_answers_go() {
        let check = |text, expected| check(Rule::RepeatedAnswer, text, "5", expected);
        check("So $x = \\boxed{5}$.\nThe answer is: 5", Some("So $x = \\boxed{5}$."));
        check("We add.\n#### 5\nThe answer is: 5\n", Some("We add.\n#### 5"));
        check("We add.\n#### 5\nThe answer is: 6", None);
        check("We add.\nThe answer is: 5", None);
    }

    #[test]
    fn announced_answers_are_boxed() {
        let check = |text, answer, expected| check(Rule::BoxedAnswer, text, answer, expected);
        check("We add.\n#### 1,300", "1,300", Some("We add.\nThe final answer is $\\boxed{1,300}$."));
        check("We add.\n#### 110\nThe answer is: 110", "110", Some("We add.\nThe final answer is $\\boxed{110}$."));
        check(
            "So the answer is $\\frac12$.",
            "\\frac12",
            Some("So the answer is $\\frac12$.\nThe final answer is $\\boxed{\\frac12}$."),
        );
        check("We add.\n#### 12%", "12%", Some("We add.\nThe final answer is $\\boxed{12\\%}$."));
        check("We add.\nThe answer is: no", "no", Some("We add.\nThe final answer is $\\boxed{\\text{no}}$."));
        check("We add.\n#### 5", "6", None);
        check("So \\boxed{5}.\n#### 5", "5", None);
        check("We add and get 5.", "5", None);
    }

    #[test]
    fn rules_follow_their_own_order() {
        let text = "2+3=<<2+3=5>>5\n#### 5\nI hope this helps!";
        let done = cleaned(&BTreeSet::from([Rule::BoxedAnswer, Rule::Pleasantries, Rule::CalculatorMarks]), text, "5");
        let done = done.expect("all three change it");
        assert_eq!(done.solution, "2+3=5\nThe final answer is $\\boxed{5}$.");
        assert_eq!(done.rules, [Rule::CalculatorMarks, Rule::Pleasantries, Rule::BoxedAnswer]);
        assert!(cleaned(&BTreeSet::new(), text, "5").is_none());
    }
}
