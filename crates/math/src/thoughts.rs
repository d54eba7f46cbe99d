//! Where a model's thoughts end and its answer begins: the one list of the tags that thinking models write.

/// Opening and closing tags, as public models write them: DeepSeek R1, Qwen3 and most others; Anthropic's layout and its
/// distillations; Gemini distillations; R1-Zero's `reasoning` layout; OpenThoughts and Sky-T1; Magistral; Kimi; Seed-OSS;
/// Command A. Tags are matched exactly, case included.
pub const TAGS: [(&str, &str); 9] = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
];

/// True for a text that is one of the tags and nothing else, as a special token of a vocabulary may be.
pub fn is_tag(text: &str) -> bool {
    TAGS.iter().any(|(open, close)| text == *open || text == *close)
}

/// The byte at which the answer behind the thoughts begins: 0 for a text without thoughts, `text.len()` for one whose thoughts
/// never end.
///
/// A block ends at the closing tag of its own kind; tags of other kinds inside it are text. A closing tag that nothing opened
/// ends thoughts as well, because a prompt may have opened them. The last block counts.
pub fn answer_start(text: &str) -> usize {
    match scanned(text) {
        (_, Some(_)) => text.len(),
        (start, None) => start,
    }
}

/// The tags of the thoughts that a text has begun and not ended.
pub fn begun(text: &str) -> Option<(&'static str, &'static str)> {
    scanned(text).1.map(|kind| TAGS[kind])
}

/// True for the tags of one kind with nothing between or around them: what some chat templates put in front of an answer that
/// comes without thoughts.
pub fn is_empty_block(text: &str) -> bool {
    let inside = |(open, close): &(&str, &str)| text.trim().strip_prefix(open)?.strip_suffix(close);
    TAGS.iter().filter_map(inside).any(|inside| inside.trim().is_empty())
}

/// Where the answer behind the last block that ends begins, and the kind of a block that does not end.
fn scanned(text: &str) -> (usize, Option<usize>) {
    let mut start = 0;
    let mut thinking: Option<usize> = None;
    let mut at = 0;
    // tags begin with one of three bytes, none of which stands inside a character
    let opens = |byte: &u8| matches!(byte, b'<' | b'[') || *byte == "◁".as_bytes()[0];
    while let Some(found) = text.as_bytes()[at..].iter().position(opens) {
        at += found;
        let rest = &text[at..];
        let tag = TAGS.iter().enumerate().find_map(|(kind, (open, close))| {
            let closing = rest.starts_with(close);
            (closing || rest.starts_with(open)).then_some((kind, closing, if closing { close } else { open }))
        });
        let Some((kind, closing, tag)) = tag else {
            at += rest.chars().next().map_or(1, char::len_utf8);
            continue;
        };
        at += tag.len();
        match (thinking, closing) {
            (None, false) => thinking = Some(kind),
            (None, true) => start = at,
            (Some(open), true) if open == kind => {
                thinking = None;
                start = at;
            }
            (Some(_), _) => {}
        }
    }
    (start, thinking)
}

/// The answer behind the thoughts. The whole text where nothing stands behind thoughts that end; none where they never end.
pub fn behind(text: &str) -> Option<&str> {
    let answer = &text[answer_start(text)..];
    if !answer.trim().is_empty() {
        return Some(answer);
    }
    let written = text.trim_end();
    (written.is_empty() || TAGS.iter().any(|(_, close)| written.ends_with(close))).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> &str {
        &text[answer_start(text)..]
    }

    #[test]
    fn every_pair_of_tags() {
        for (open, close) in TAGS {
            assert_eq!(answer(&format!("{open}\nhm{close}\n5")), "\n5");
            assert_eq!(answer(&format!("hm{close}5")), "5", "a prompt may have opened the thoughts");
            assert_eq!(answer(&format!("{open}hm")), "", "thoughts that never end");
            assert_eq!(answer(&format!("{open}a{close}b{open}c{close}d")), "d");
            assert_eq!(answer(&format!("{open}a{close}b{open}c")), "");
            assert_eq!(behind(&format!("{open}a{close}5")), Some("5"));
            assert_eq!(behind(&format!("{open}5")), None, "thoughts that never end");
            let all = format!("{open}5{close} ");
            assert_eq!(behind(&all), Some(all.as_str()), "nothing behind them");
            assert!(is_tag(open) && is_tag(close) && !is_tag(&format!("{open} ")));
            assert_eq!(begun(&format!("{open}a{close}b{open}c")), Some((open, close)));
            assert_eq!(begun(&format!("{open}a{close}b")), None);
            assert!(is_empty_block(&format!("\n{open}\n\n{close}\n")) && is_empty_block(&format!("{open}{close}")));
            assert!(!is_empty_block(open) && !is_empty_block(&format!("{open}a{close}")));
        }
    }

    #[test]
    fn tags_within_thoughts() {
        assert_eq!(answer("<think>a<think>b</think>c"), "c");
        assert_eq!(answer("<think>a</think>b</think>c"), "c");
        assert_eq!(answer("<think><reasoning>a</reasoning>b"), "", "the outer block goes on");
        assert_eq!(answer("<think>a</reasoning>b</think>c"), "c");
    }

    #[test]
    fn texts_without_thoughts() {
        for text in ["", "5", "a < b [1] ◁ </ think> <Think> <thinker>", "数学 ◁", "</thin", "[THINK"] {
            assert_eq!(answer_start(text), 0, "{text}");
        }
    }
}
