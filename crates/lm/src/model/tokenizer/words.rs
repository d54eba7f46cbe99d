//! Byte-level BPE word by word, with a memory of words.
//!
//! Such a tokenizer cuts a text by patterns and encodes each word by itself, so a word has the same tokens wherever it stands, and most
//! have been seen before. The library's own way keeps the place of every byte on every step, which nobody here asks for. It remains
//! the way for whatever is more than patterns and bytes: texts that spell added tokens, normalizers, other models.

use aho_corasick::AhoCorasick;
use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    Model, ModelWrapper, NormalizerWrapper, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
    PreTokenizerWrapper, SplitDelimiterBehavior,
};

/// Words that are remembered.
const MOST_WORDS: usize = 1 << 16;
/// Bytes of the longest of them.
const MOST_BYTES: usize = 32;
/// What [`ByteLevel`] cuts by where it is told to.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// A way to cut a piece of text.
enum Cut {
    /// Matches, and what stands between them.
    Pattern(Split),
    /// Every digit by itself.
    Digits,
}

/// How a tokenizer cuts texts, and the tokens of words it has met.
pub struct Words {
    cuts: Vec<Cut>,
    /// The contents of all added tokens.
    added: AhoCorasick,
    /// There is a normalizer, which leaves ASCII as it is.
    only_ascii: bool,
    known: RwLock<HashMap<Box<str>, Box<[u32]>>>,
}

impl Words {
    /// None where a tokenizer does more than this.
    pub fn of(tokenizer: &tokenizers::Tokenizer) -> Option<Words> {
        use PreTokenizerWrapper as Step;
        let ModelWrapper::BPE(model) = tokenizer.get_model() else { return None };
        let only_ascii = match tokenizer.get_normalizer() {
            None => false,
            Some(NormalizerWrapper::NFC(_)) => true,
            Some(_) => return None,
        };
        let steps = match tokenizer.get_pre_tokenizer()? {
            Step::Sequence(steps) => steps.as_ref(),
            step => std::slice::from_ref(step),
        };
        let (Step::ByteLevel(bytes), before) = steps.split_last()? else { return None };
        if model.dropout.is_some() || bytes.add_prefix_space {
            return None;
        }
        let cut = |step: &Step| match step {
            Step::Split(split) if split.behavior == SplitDelimiterBehavior::Isolated && !split.invert => {
                Some(Cut::Pattern(split.clone()))
            }
            Step::Digits(digits) if digits.individual_digits => Some(Cut::Digits),
            _ => None,
        };
        let mut cuts = before.iter().map(cut).collect::<Option<Vec<Cut>>>()?;
        if bytes.use_regex {
            let pattern = SplitPattern::Regex(GPT2.to_string());
            cuts.push(Cut::Pattern(Split::new(pattern, SplitDelimiterBehavior::Isolated, false).ok()?));
        }
        let added = tokenizer.get_added_tokens_decoder();
        let added = AhoCorasick::new(added.values().map(|token| &token.content)).ok()?;
        Some(Words { cuts, added, only_ascii, known: RwLock::default() })
    }

    /// Token ids of a text, no special ones added; none where the text takes more than words.
    pub fn encode(&self, tokenizer: &tokenizers::Tokenizer, text: &str) -> tokenizers::Result<Option<Vec<u32>>> {
        if self.only_ascii && !text.is_ascii() || self.added.is_match(text) {
            return Ok(None);
        }
        let (mut ids, mut new) = (Vec::with_capacity(text.len() / 2), Vec::new());
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        each_word(&self.cuts, text, &mut |word| {
            match known.get(word) {
                Some(own) => ids.extend_from_slice(own),
                None => {
                    let own = encode_word(tokenizer, word)?;
                    ids.extend_from_slice(&own);
                    if word.len() <= MOST_BYTES {
                        new.push((word.into(), own.into()));
                    }
                }
            }
            Ok(())
        })?;
        let is_full = known.len() >= MOST_WORDS;
        drop(known);
        if !is_full && !new.is_empty() {
            self.known.write().unwrap_or_else(PoisonError::into_inner).extend(new);
        }
        Ok(Some(ids))
    }
}

/// Shows the pieces of a text, cut by the first way, then each by the next.
fn each_word(
    cuts: &[Cut],
    text: &str,
    visit: &mut dyn FnMut(&str) -> tokenizers::Result<()>,
) -> tokenizers::Result<()> {
    let Some((first, rest)) = cuts.split_first() else { return visit(text) };
    let mut end = 0;
    let mut piece = |from: usize, to: usize| {
        for range in [end..from, from..to] {
            if !range.is_empty() {
                each_word(rest, &text[range], visit)?;
            }
        }
        end = to;
        tokenizers::Result::Ok(())
    };
    match first {
        Cut::Pattern(split) => split.regex.find_iter(text).try_for_each(|(from, to)| piece(from, to))?,
        Cut::Digits => {
            let digits = text.match_indices(char::is_numeric);
            digits.into_iter().try_for_each(|(at, digit)| piece(at, at + digit.len()))?;
        }
    }
    piece(text.len(), text.len())
}

fn encode_word(tokenizer: &tokenizers::Tokenizer, word: &str) -> tokenizers::Result<Vec<u32>> {
    let mut word = PreTokenizedString::from(word);
    ByteLevel::new(false, false, false).pre_tokenize(&mut word)?;
    let mut ids = Vec::new();
    for (bytes, ..) in word.get_splits(OffsetReferential::Original, OffsetType::None) {
        ids.extend(tokenizer.get_model().tokenize(bytes)?.into_iter().map(|token| token.id));
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::byte_tokenizer;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn parsed(tokenizer: &Value) -> tokenizers::Tokenizer {
        tokenizers::Tokenizer::from_bytes(tokenizer.to_string()).unwrap()
    }

    /// A tokenizer with merges that cuts by these steps.
    fn cutting_by(steps: &[Value], normalizer: Value) -> tokenizers::Tokenizer {
        let bytes = include_bytes!("../../../../../tests/fixtures/model/qwen2/tokenizer.json");
        let mut value: Value = serde_json::from_slice(bytes).unwrap();
        value["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": steps});
        value["normalizer"] = normalizer;
        parsed(&value)
    }

    fn bytes(use_regex: bool) -> Value {
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": use_regex})
    }

    fn split(pattern: &str) -> Value {
        json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
    }

    const QWEN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

    fn tokenizers_here() -> Vec<tokenizers::Tokenizer> {
        let digits = json!({"type": "Digits", "individual_digits": true});
        vec![
            tokenizers::Tokenizer::from_bytes(byte_tokenizer()).unwrap(),
            cutting_by(&[split(QWEN), bytes(false)], json!({"type": "NFC"})),
            cutting_by(&[digits, bytes(true)], Value::Null),
            cutting_by(&[split(r"\p{N}{1,3}"), split("[一-龥]+"), split(QWEN), bytes(false)], Value::Null),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

        /// Whatever the text and whatever was met before: the library's tokens.
        #[test]
        fn equals_the_library(texts in prop::collection::vec("([a-e]{1,4}| |  |\n|\r\n|\t|[0-9]|'s|,|é|數|😀|<\\|user\\|>|.){0,24}", 1..6)) {
            for tokenizer in tokenizers_here() {
                let words = Words::of(&tokenizer).unwrap();
                for text in &texts {
                    let want = tokenizer.encode_fast(text.as_str(), false).unwrap().get_ids().to_vec();
                    for _ in 0..2 {
                        if let Some(ids) = words.encode(&tokenizer, text).unwrap() {
                            prop_assert_eq!(&ids, &want, "{}", text);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn leaves_what_it_does_not_know_to_the_library() {
        let by = |steps: &[Value], normalizer: Value| Words::of(&cutting_by(steps, normalizer));
        assert!(by(&[split("a"), bytes(false)], Value::Null).is_some());
        assert!(by(&[split("a"), bytes(false)], json!({"type": "Lowercase"})).is_none());
        assert!(by(&[split("a")], Value::Null).is_none());
        let removed = json!({"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Removed", "invert": false});
        assert!(by(&[removed, bytes(false)], Value::Null).is_none());
        let prefix = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true});
        assert!(by(&[prefix], Value::Null).is_none());
        let tokenizer = cutting_by(&[split(QWEN), bytes(false)], json!({"type": "NFC"}));
        let words = Words::of(&tokenizer).unwrap();
        assert!(words.encode(&tokenizer, "e\u{301}").unwrap().is_none(), "a normalizer may change it");
        let added = tokenizer.get_added_tokens_decoder();
        for token in added.values() {
            assert!(words.encode(&tokenizer, &format!("a {} b", token.content)).unwrap().is_none());
        }
        assert!(words.encode(&tokenizer, "a b").unwrap().is_some() && !added.is_empty());
    }
}
