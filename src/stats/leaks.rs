//! What the words of a sample give away, whose prompt showed the expert's solution or is not known: that it was copied, that it talks about
//! what it was shown, that it repeats the prompt, that it shows no work. Pure functions of texts.

use super::sums;
use mindgap_store::table::verdicts::Refusal;
use regex::RegexSet;
use std::collections::HashSet;
use std::sync::LazyLock;

/// Bumped whenever a text can be refused for another reason, or no longer.
pub const VERSION: u32 = 2;

/// Share of a sample's words that may stand in runs it has in common with the expert's solution. Correct samples that were
/// shown no solution stay below a tenth.
pub const COPIED_LIMIT: f64 = 0.3;

/// Words of the shortest run that counts as copied: two solutions of a problem share shorter ones by arithmetic alone.
const RUN_WORDS: usize = 5;
/// Words of a template's own wording that make an echo.
const ECHO_WORDS: usize = 6;
/// Words and numbers that a solution without an equation has at least, its answer left out.
const WORK_WORDS: usize = 15;

/// The wording of a prompt template, as a sample may repeat it.
#[derive(Default)]
pub struct Shown {
    grams: HashSet<Vec<String>>,
    headings: HashSet<String>,
}

impl Shown {
    /// `template` is the template's text: what it fills in is left out.
    pub fn of(template: &str) -> Shown {
        let mut shown = Shown::default();
        for piece in literals(template) {
            shown.grams.extend(words(&piece).windows(ECHO_WORDS).map(<[String]>::to_vec));
            shown.headings.extend(piece.lines().filter_map(heading));
        }
        shown
    }

    /// The first of the `wanted` reasons for which a sample of a problem is no solution in the policy's own words.
    pub fn leak(
        &self,
        text: &str,
        question: &str,
        solution: &str,
        copied_limit: f64,
        wanted: &[Refusal],
    ) -> Option<Refusal> {
        let found = |reason: &Refusal| match reason {
            Refusal::MetaPhrase => speaks_of_source(text, question),
            Refusal::PromptEcho => self.is_repeated_in(text, question),
            Refusal::Copied => copied_share(text, solution, question) > copied_limit,
            Refusal::AnswerOnly => is_answer_only(text),
            Refusal::WrongWorking => sums::first_false(text).is_some(),
            _ => false,
        };
        [Refusal::MetaPhrase, Refusal::PromptEcho, Refusal::AnswerOnly, Refusal::Copied, Refusal::WrongWorking]
            .into_iter()
            .find(|reason| wanted.contains(reason) && found(reason))
    }

    fn is_repeated_in(&self, text: &str, question: &str) -> bool {
        if text.lines().filter_map(heading).any(|heading| self.headings.contains(&heading)) {
            return true;
        }
        let asked: HashSet<Vec<String>> = words(question).windows(ECHO_WORDS).map(<[String]>::to_vec).collect();
        words(text).windows(ECHO_WORDS).any(|gram| self.grams.contains(gram) && !asked.contains(gram))
    }
}

/// The pieces of a template between what it fills in.
fn literals(template: &str) -> Vec<String> {
    let mut pieces = Vec::new();
    let mut rest = template;
    while let Some(open) = ["{{", "{%", "{#"].iter().filter_map(|mark| rest.find(mark)).min() {
        pieces.push(rest[..open].to_string());
        let close = ["}}", "%}", "#}"].iter().filter_map(|mark| rest[open..].find(mark)).min();
        rest = close.map_or("", |close| &rest[open + close + 2..]);
    }
    pieces.push(rest.to_string());
    pieces
}

/// A line that is a heading of two words or more, or a marked one, without its marks.
fn heading(line: &str) -> Option<String> {
    let bare = line.trim().trim_matches(['#', '*', ':', '-', '=', ' ']);
    let marked = line.trim_start().starts_with(['#', '*']) || line.trim_end().ends_with([':', '*']);
    let count = words(bare).len();
    (marked && (2..=6).contains(&count)).then(|| words(bare).join(" "))
}

/// Words and numbers in lower case; calculator marks and punctuation are left out.
fn words(text: &str) -> Vec<String> {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find("<<") {
        plain.push_str(&rest[..open]);
        rest = rest[open..].find(">>").map_or("", |close| &rest[open + close + 2..]);
    }
    plain.push_str(rest);
    let lower = plain.to_lowercase().replace('\u{2019}', "'");
    let is_word = |c: char| c.is_alphanumeric() || c == '\'' || c == '.' || c == ',';
    let parts = lower.split(|c: char| !is_word(c)).map(|word| word.trim_matches(['.', ',', '\'']));
    parts.filter(|word| !word.is_empty()).map(|word| word.replace(',', "")).collect()
}

/// Share of the words of `text` that stand in runs of at least `RUN_WORDS` words which the expert's solution has too and the
/// question has not. 0 of an empty text.
pub fn copied_share(text: &str, solution: &str, question: &str) -> f64 {
    let (text, solution, question) = (words(text), words(solution), words(question));
    let n = RUN_WORDS.min(text.len());
    if n == 0 {
        return 0.0;
    }
    let known: HashSet<&[String]> = solution.windows(n).collect();
    let asked: HashSet<&[String]> = question.windows(n).collect();
    let mut copied = vec![false; text.len()];
    for (at, run) in text.windows(n).enumerate() {
        if known.contains(run) && !asked.contains(run) {
            copied[at..at + n].fill(true);
        }
    }
    copied.iter().filter(|is_copied| **is_copied).count() as f64 / text.len() as f64
}

/// Ways to speak of a solution one was shown, or of the task of retelling it.
static SOURCE: LazyLock<RegexSet> = LazyLock::new(|| {
    RegexSet::new([
        r"\b(expert|teacher|instructor|tutor|author)'?s? (solution|answer|reasoning|explanation|approach|method|steps?|work|calculations?)\b",
        r"\bexperts?\b",
        r"\bteachers?\b",
        r"\b(instructor|tutor)s?\b",
        r"\b(reference|provided|given|sample|model|official|worked|above|previous|original|shown|known|stated|expected) (final |correct )?(solution|answer|explanation|reasoning)",
        r"\b(solution|answer|explanation|reasoning|steps?) (that (is|was) )?(provided|given|shown|presented|above)\b",
        r"\baccording to the (final |correct )?(solution|answer|explanation|reasoning)",
        // "The final answer is given as 25 hours", but not "the answer is given by 5 * 5" or "in dollars".
        r"\b(solution|answer)( to (the|this) (problem|question))? (is|was|has been) (already |also )?(given|provided|known|stated)( (as|to be|that|above|here|already|in the (solution|answer|notes?|text|prompt))\b|[.,;:!)]|$)",
        r"\banswer\b[^.\n]{0,60}\bas (given|provided|stated|known|shown)( (above|here|in the (solution|answer|notes?|explanation))\b|[.,;:!)]|$)",
        r"\b(told|given|know|knew|stated|provided) (that )?the (final |correct )?answer\b",
        r"\bthe solution (states|says|tells|shows|explains|uses|used|provides|provided|gives|mentions|suggests|involves|starts|begins|correctly|follows|breaks)\b",
        r"\b(verify|verifying|check|review|understand|explain|analy[sz]e|follow|following) \w+'s (solution|reasoning|steps)\b",
        r"\b(understand|explain) (that |the |this )?(solution|reasoning)\b",
        r"\b(in|using|with) (my|your|our) own (words|explanation)\b",
        r"\b(retell|retelling|rewrite|rewritten|rephrase|paraphrase|digest)\b",
        r"\b(my|your) (own )?(solution|retelling|explanation|implementation|final answer)\b",
        r"\b(scratch work|key steps|hints?|notes)\b",
        r"\b(required|your|the|these|all) instructions\b",
        r"\bfound (it|the solution|the answer) (yourself|myself)\b",
        r"\bthe problem (statement )?(asks|states|says).{0,80}\b(the )?solution (tells|says|states|shows)",
    ])
    .expect("the patterns are valid")
});

/// Whether a text speaks of the solution it was written from. Words that the question itself uses do not count.
pub fn speaks_of_source(text: &str, question: &str) -> bool {
    let lower = |text: &str| text.to_lowercase().replace('\u{2019}', "'");
    let (found, asked) = (SOURCE.matches(&lower(text)), SOURCE.matches(&lower(question)));
    found.iter().any(|pattern| !asked.matched(pattern))
}

/// Whether a text gives its answer and hardly anything else: few words, and no equation among them.
pub fn is_answer_only(text: &str) -> bool {
    let answers = mindgap_math::boxed_answers(text);
    let work =
        answers.iter().fold(text.replace("\\boxed", " "), |work, answer| work.replace(&format!("{{{answer}}}"), " "));
    words(&work).len() < WORK_WORDS && !work.contains('=')
}

#[cfg(test)]
mod tests;
