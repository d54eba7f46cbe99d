//! The reference answers of worked solutions: what a text states as its answer, in a box or in words, by the judge's own
//! reading. A solution is correct against the reference that is taken from it.

use crate::judge::{Judge, Verdict, reference};
use crate::options::Options;
use crate::read::extract::{self, Found};
use crate::read::spans::{candidates, first_sentence, words_in};

/// Words that an announced answer may have where neither a number nor a formula is in it: `yes`, `no solution`.
const WORDS_MAX: usize = 2;
/// Lines that may follow a `####` line: remarks. With more behind it, it was a heading.
const LINES_BEHIND_MAX: usize = 2;
/// Where the last sentence of a text is looked for, in bytes from its end.
const ENDING_BYTES: usize = 2000;
/// Words of a text that announces its answer and does no work: `The final answer is: 34`.
const ANNOUNCING_WORDS: usize = 5;

/// The answer that a worked solution states, as [`Judge`] reads a reference that is a whole solution: its boxes, several in
/// one answer joined and a percent sign behind a box kept; else what it announces (`#### 18`, `The answer is 18.`).
pub fn stated_answer(text: &str) -> Option<String> {
    let answer = match extract::final_answer(text, true) {
        Found::Answer(_, "boxed" | "boxes" | "boxed_unclosed") => reference(text, true),
        Found::Answer(answer, "answer") if is_mathematics(&answer) || words_in(&answer) <= WORDS_MAX => {
            // half a formula: what was found reaches from one into another
            let dollars = answer.matches('$').count() - answer.matches("\\$").count();
            if is_heading(text) || dollars % 2 == 1 && !answer.starts_with('$') {
                return None;
            }
            answer
        }
        _ => return None,
    };
    Some(answer.trim().to_string()).filter(|answer| !answer.is_empty())
}

/// The answer that prose ends in without announcing it: the only number or formula of its last sentence, or what stands behind
/// that sentence's last equals sign. None where the judge would find another answer in the text.
pub fn concluded_answer(text: &str) -> Option<String> {
    let sentence = last_sentence(text);
    let start = match candidates(sentence).len() {
        1 => 0,
        _ => sentence.rfind('=')? + 1,
    };
    let found = candidates(&sentence[start..]);
    let [only] = &found[..] else { return None };
    let answer = sentence[start..][only.range.clone()].rsplit('=').next()?.trim().to_string();
    let is_found = || Judge::Math(Options::default()).judge(&answer, text).verdict == Verdict::Correct;
    (!answer.is_empty() && is_found()).then_some(answer)
}

/// True for a text that is an answer and no work: `34`, `$x = 3$`, `\boxed{34}`, `(B)`, `The answer is 34.`
pub fn is_bare_answer(text: &str) -> bool {
    let text = text.trim();
    let boxes = extract::boxes(text);
    if !boxes.is_empty() {
        let starts = std::iter::once(0).chain(boxes.iter().map(|span| span.end));
        let ends = boxes.iter().map(|span| span.start).chain(std::iter::once(text.len()));
        return starts.zip(ends).all(|(start, end)| !text[start..end].contains(char::is_alphanumeric));
    }
    if let Some(Found::Answer(answer, _)) = extract::whole(text) {
        let is_letter = matches!(answer.trim_matches(['(', ')', '.']).as_bytes(), [b'A'..=b'J']);
        let is_word = matches!(answer.to_ascii_lowercase().as_str(), "yes" | "no" | "true" | "false");
        return (is_mathematics(text) || is_letter || is_word) && !is_computation(&answer);
    }
    let lower = text.trim_start_matches(['*', '#', ' ']).to_ascii_lowercase();
    let announces = ["answer", "the answer", "final answer", "the final answer"];
    let is_announcement = text.starts_with("####") || announces.iter().any(|start| lower.starts_with(start));
    is_announcement
        && !text.contains('\n')
        && words_in(text) <= ANNOUNCING_WORDS
        && matches!(extract::final_answer(text, true), Found::Answer(_, "answer"))
}

/// True where a number or LaTeX is in the text.
fn is_mathematics(text: &str) -> bool {
    text.contains(|c: char| c.is_ascii_digit() || matches!(c, '\\' | '$' | '^' | '=' | '\u{221e}' | '\u{3c0}'))
}

/// True for a formula that computes: something more than a name on the left of an equals sign.
fn is_computation(answer: &str) -> bool {
    answer.split_once('=').is_some_and(|(left, _)| left.contains(['+', '-', '*', '/']) || left.contains("\\times"))
}

/// True where the announcement is a Markdown heading of four signs and not the line of an answer.
fn is_heading(text: &str) -> bool {
    let Some((_, behind)) = text.rsplit_once("####") else { return false };
    if behind.to_ascii_lowercase().contains("answer") {
        return false;
    }
    let mut lines = behind.lines();
    let line = lines.next().unwrap_or_default().trim();
    let following = lines.filter(|line| !line.trim().is_empty()).count();
    let is_word = line.bytes().take_while(u8::is_ascii_alphabetic).count() > 1;
    following > LINES_BEHIND_MAX || line.ends_with(':') || is_word && (following > 0 || is_mathematics(line))
}

fn last_sentence(text: &str) -> &str {
    let text = text.trim_end();
    let mut start = text.len().saturating_sub(ENDING_BYTES);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    let mut rest = &text[start..];
    loop {
        let sentence = first_sentence(rest);
        let next =
            rest[sentence.len()..].trim_start_matches(|c: char| c.is_whitespace() || matches!(c, '.' | '!' | '?'));
        if next.is_empty() {
            return sentence;
        }
        rest = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_judged_correct(gold: &str, solution: &str) -> bool {
        Judge::Math(Options::default()).judge(gold, solution).verdict == Verdict::Correct
    }

    #[test]
    fn a_solution_is_correct_against_what_it_states() {
        let cases = [
            ("So $x=\\boxed{2}$ or $x=\\boxed{3}$.", "2, 3"),
            ("They are $\\boxed{1}$ and $\\boxed{4}$.", "1, 4"),
            ("First $\\boxed{9}$. Later we see it is $\\boxed{8}$.", "8"),
            ("It is $\\boxed{12}\\%$.", "12\\%"),
            ("\\boxed{2}\\quad\\text{and}\\quad\\boxed{-3}", "2, -3"),
            ("\\boxed{5} is right. We write \\boxed{5}", "5"),
            ("10+100 = 110\n#### 110\nThe answer is: 110", "110"),
            ("1+2=3\n#### 3\nNote: done", "3"),
            ("a\n#### 3\n#### 4", "4"),
            ("so the answer is $\\frac{1}{2}$.", "\\frac{1}{2}"),
            ("Work.\n\n**Final Answer:** 17", "17"),
            ("so.\n\nFinal Answer: The final answer is $4$. I hope it is correct.", "4"),
            ("We see. The answer is no.", "no"),
        ];
        for (solution, answer) in cases {
            assert_eq!(stated_answer(solution).as_deref(), Some(answer), "{solution}");
            assert!(is_judged_correct(answer, solution), "{solution}");
        }
    }

    #[test]
    fn what_states_nothing() {
        let cases = [
            "",
            "34",
            "We add and get 5.",
            "$\\boxed{\\dfrac{1}{2}",
            "\\boxed{}",
            "#### Step 3: add\nWe add 5 and 6.\nThat is much.\nMuch indeed.",
            "#### Conclusion\nIt converges to 5.",
            "#### Step 2\nwe get 7",
            "Hence, the answer is $12$ apples and 3 pears.",
            "The answer is that both of the series converge.",
        ];
        for text in cases {
            assert_eq!(stated_answer(text), None, "{text}");
        }
    }

    #[test]
    fn the_last_sentence_of_prose() {
        let cases = [
            ("There are 6 apples. He eats 2. Therefore, there are 6 - 2 = 4 apples left.", Some("4")),
            ("Three times 6 is 18. So he has $18.", Some("$18")),
            ("We get $6 \\times 3 = 18$ apples.", Some("18")),
            ("He ate 3 more apples than she, who ate 5.", None),
            ("It converges.", None),
            ("", None),
        ];
        for (text, answer) in cases {
            assert_eq!(concluded_answer(text).as_deref(), answer, "{text}");
        }
        assert_eq!(concluded_answer(&format!("{} So it is 7.", "word ".repeat(10_000))).as_deref(), Some("7"));
    }

    #[test]
    fn bare_answers_are_no_work() {
        for text in
            ["34", " $34$ ", "x = 5", "\\boxed{34}", "$\\boxed{1}$, $\\boxed{2}$", "#### 5", "Answer: 42", "(B)", "yes"]
        {
            assert!(is_bare_answer(text), "{text}");
        }
        let worked = [
            "",
            "s",
            "so 4",
            "as said",
            "1 + 1 = 2",
            "so \\boxed{4}",
            "so. The answer is 4",
            "We add.\n#### 5",
            "We add $x$ to $y$ and so we get $x + y$.",
            "There are 5 of them, and 3 more.",
        ];
        for text in worked {
            assert!(!is_bare_answer(text), "{text}");
        }
    }
}
