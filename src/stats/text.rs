//! What the words of a rewritten solution give away: that it was copied, that it talks about its source, that it shows no work.

use std::collections::HashSet;

/// Words per n-gram of `copied_share`: long enough that two solutions of the same problem rarely share one by arithmetic alone.
pub const NGRAM_WORDS: usize = 8;

/// Ways to speak of the solution one was shown. Matched in lower case.
const META_PHRASES: [&str; 16] = [
    "reference solution",
    "reference answer",
    "expert solution",
    "expert's solution",
    "teacher's solution",
    "teacher solution",
    "provided solution",
    "provided answer",
    "given solution",
    "solution provided",
    "solution given",
    "solution above",
    "above solution",
    "according to the solution",
    "the solution states",
    "in my own words",
];

/// Share of the n-grams of `text` that occur in `reference` too, n = `NGRAM_WORDS` words, or all words of a shorter text.
/// 0 of an empty text.
pub fn copied_share(text: &str, reference: &str) -> f64 {
    let (words, reference): (Vec<&str>, Vec<&str>) =
        (text.split_whitespace().collect(), reference.split_whitespace().collect());
    let n = NGRAM_WORDS.min(words.len());
    if n == 0 {
        return 0.0;
    }
    let known: HashSet<&[&str]> = reference.windows(n).collect();
    let count = words.len() + 1 - n;
    words.windows(n).filter(|gram| known.contains(gram)).count() as f64 / count as f64
}

/// The first phrase with which a text speaks of the solution it was written from.
pub fn meta_phrase(text: &str) -> Option<&'static str> {
    let text = text.to_lowercase().replace('\u{2019}', "'");
    META_PHRASES.into_iter().find(|phrase| text.contains(phrase))
}

/// Whether a text has a boxed answer and at most three words before it: an answer without work.
pub fn is_answer_only(text: &str) -> bool {
    text.split_once("\\boxed").is_some_and(|(before, _)| before.split_whitespace().count() <= 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_told_from_rewrites() {
        let expert = "Claim: we get 25. Let t = 16. Plainly, t = 16 + 27 - 8 = 25; Therefore \\boxed{25}.";
        assert_eq!(copied_share(expert, expert), 1.0);
        assert_eq!(copied_share("We start with 16. Then 16 + 27 - 8 = 25. The answer is \\boxed{25}.", expert), 0.0);
        let half =
            format!("{expert} And now for some words of my own, at long last, which nobody else wrote before me.");
        let share = copied_share(&half, expert);
        assert!(share > 0.3 && share < 0.6, "{share}");
        assert_eq!(copied_share("Therefore \\boxed{25}.", expert), 1.0, "a short text counts as one n-gram");
        assert_eq!(copied_share("", expert), 0.0);
        assert_eq!(copied_share("a b c", ""), 0.0);
    }

    #[test]
    fn meta_phrases_in_any_case() {
        assert_eq!(meta_phrase("As the Teacher\u{2019}s solution says"), Some("teacher's solution"));
        assert_eq!(meta_phrase("the solution is 4"), None);
    }

    #[test]
    fn work_is_more_than_three_words() {
        assert!(is_answer_only("The answer is \\boxed{25}."));
        assert!(!is_answer_only("We start with 16. The answer is \\boxed{16}."));
        assert!(!is_answer_only("no box"));
    }
}
