//! Texts in the place of an answer that are none: words that say so, and prose.

/// Why a text in the place of an answer is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// Something is to be proved: there is no final answer to compare.
    Proof,
    /// The source does not have it, or says where else it is.
    Missing,
}

/// Separated by bars.
const PROOF: &str = "\
    proof|proofs|a proof|the proof|see proof|see the proof|converted proof|prove|to prove|to be proved|to be proven|\
    proved|proven|qed|q.e.d|证明|证明题|证明略|见证明|доказательство";

/// The same of what is not there.
const MISSING: &str = "\
    none|null|nil|nan|n/a|na|n.a|#n/a|not applicable|not found|notfound|not given|not specified|not stated|\
    not known|not answered|not extracted|no answer|noanswer|no final answer|no response|no solution provided|\
    no solution given|answer unknown|answer missing|answer omitted|none given|none provided|none found|unknown|\
    unspecified|unavailable|unanswered|unsolved|missing|missing answer|blank|tbd|to be determined|todo|pending|\
    error|omitted|solution omitted|in solution|in the solution|as above|placeholder|answer|your answer|answer here|\
    final answer|idk|i dont know|dont know|extraction failed|failed to extract|略|见解析|无|无答案";

/// How longer texts that say the same begin.
const BEGINS: [(&str, NoAnswer); 11] = [
    ("proof ", NoAnswer::Proof),
    ("proof-", NoAnswer::Proof),
    ("proof:", NoAnswer::Proof),
    ("this is a proof", NoAnswer::Proof),
    ("see ", NoAnswer::Missing),
    ("refer to ", NoAnswer::Missing),
    ("not provided", NoAnswer::Missing),
    ("not available", NoAnswer::Missing),
    ("answer not ", NoAnswer::Missing),
    ("solution not ", NoAnswer::Missing),
    ("no answer ", NoAnswer::Missing),
];

/// Fonts and boxes that a word may stand in.
const MACROS: [&str; 9] =
    ["\\text", "\\textbf", "\\textit", "\\textrm", "\\mathrm", "\\mathbf", "\\mbox", "\\boxed", "\\fbox"];

/// Whether an answer says that there is none, in whatever case, quotes, brackets and fonts.
pub fn no_answer(text: &str) -> Option<NoAnswer> {
    // Longer texts say something, and need not be copied to find out.
    if text.len() > 100 || text.trim().is_empty() {
        return None;
    }
    let word = plain(text);
    match word.as_str() {
        word if is_among(PROOF, word) => Some(NoAnswer::Proof),
        word if word.is_empty() || is_among(MISSING, word) => Some(NoAnswer::Missing),
        word => BEGINS.iter().find(|(begin, _)| word.starts_with(begin)).map(|(_, why)| *why),
    }
}

fn is_among(words: &str, word: &str) -> bool {
    words.split('|').any(|known| known == word)
}

/// Lower case, without fonts, quotes, brackets, and punctuation around it.
fn plain(text: &str) -> String {
    let mut text = text.to_lowercase();
    for name in MACROS {
        text = text.replace(&format!("{name}{{"), "{");
    }
    let has_letter = text.contains(char::is_alphabetic);
    let is_ornament = |c: char| {
        matches!(c, '$' | '"' | '\'' | '`' | '\u{2018}' | '\u{2019}' | '\u{201c}' | '\u{201d}' | '[' | ']' | '(' | ')')
            || matches!(c, '{' | '}' | '?')
            || has_letter && matches!(c, '*' | '<' | '>')
    };
    let spaced: String = text.chars().filter(|c| !is_ornament(*c)).map(|c| if c == '_' { ' ' } else { c }).collect();
    let is_edge = |c: char| matches!(c, '.' | '!' | ':' | ';' | ',' | '-' | '+' | '\u{2013}' | '\u{2014}' | '\u{2026}');
    let words: Vec<&str> = spaced.split_whitespace().collect();
    words.join(" ").trim_matches(|c: char| is_edge(c) || c.is_whitespace()).to_string()
}

/// Words that a text in the place of an answer may have and still be an answer.
const ANSWER_WORDS: usize = 4;

/// True for a worked text in the place of an answer: sentences, or one with an equation in it.
pub fn is_prose(text: &str) -> bool {
    let is_word = |word: &&str| {
        let word = word.trim_matches(|c: char| c.is_ascii_punctuation() && c != '\\');
        word.len() > 1 && word.chars().all(char::is_alphabetic)
    };
    let text = text.trim();
    let ends = text.ends_with(['.', '!']);
    let is_several = text.contains(". ") || text.contains('\n');
    ends && (is_several || text.contains('=')) && text.split_whitespace().filter(is_word).count() > ANSWER_WORDS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_no_answer() {
        for text in [
            "proof",
            "Proof.",
            "\\text{proof}",
            "$\\boxed{\\text{Proof}}$",
            "\"proof\"",
            "See proof",
            "Q.E.D.",
            "Proof by induction",
        ] {
            assert_eq!(no_answer(text), Some(NoAnswer::Proof), "{text}");
        }
        let missing = [
            "notfound",
            "Not Found",
            "not_found",
            "N/A",
            "n/a.",
            "NA",
            "\\text{N/A}",
            "unknown",
            "[]",
            "{}",
            "()",
            "?",
            "???",
            "-",
            "--",
            "\u{2014}",
            "...",
            "See solution",
            "Not provided",
            "(none)",
            "'None'",
            "<none>",
            "**N/A**",
            "NaN",
            "\\boxed{}",
            "\\text{}",
            "I don't know",
        ];
        for text in missing {
            assert_eq!(no_answer(text), Some(NoAnswer::Missing), "{text}");
        }
        let answers = [
            "None of the above",
            "no solution",
            "\\emptyset",
            "\\{\\}",
            "0",
            "-1",
            "<",
            "*",
            "undefined",
            "does not exist",
            "cannot be determined",
            "n",
            "N",
            "a",
            "\\text{yes}",
            "\\varnothing",
            "+\\infty",
            "(0)",
            "",
        ];
        for text in answers {
            assert_eq!(no_answer(text), None, "{text}");
        }
    }

    #[test]
    fn prose_is_told_from_answers() {
        for text in ["There are 6 apples. He eats 2. So 4 are left.", "He therefore has 6 - 2 = 4 apples left."] {
            assert!(is_prose(text), "{text}");
        }
        for text in
            ["None of the above", "x = 5 or y = 3 where n is an integer", "9 apples.", "\\text{all real numbers.}"]
        {
            assert!(!is_prose(text), "{text}");
        }
    }
}
