//! Text <-> token ids, from the bytes of tokenizer.json; special tokens resolved once.

mod words;

use mindgap_base::error::{Error, Result};
use mindgap_base::guard::{caught, guarded};
use mindgap_math::thoughts;
use std::collections::BTreeMap;
use std::sync::OnceLock;
use tokenizers::{
    Model, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
};
use words::Words;

/// A tokenizer as its checkpoint defines it. Truncation and padding written into the file are switched off: a prompt is
/// never cut silently.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Where it is one of those.
    words: Option<Words>,
    special: BTreeMap<u32, String>,
    /// Whether it does so is asked for every target.
    puts_a_space: OnceLock<bool>,
}

impl Tokenizer {
    /// Reads tokenizer.json. Errors if it is not one.
    pub fn from_bytes(bytes: &[u8]) -> Result<Tokenizer> {
        let mut inner = guarded("`tokenizer.json`", || {
            tokenizers::Tokenizer::from_bytes(bytes)
                .map_err(|e| Error::input("tokenizer is not readable").at("tokenizer.json").source(e))
        })?;
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|e| Error::internal("truncation cannot be switched off").at("tokenizer.json").source(e))?;
        let added = inner.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, t)| t.special).map(|(id, t)| (*id, t.content.clone())).collect();
        Ok(Tokenizer { words: Words::of(&inner), inner, special, puts_a_space: OnceLock::new() })
    }

    /// Token ids of `text`. Text that spells a special token becomes that token. `add_special` lets the tokenizer add what
    /// its post-processor wants (a BOS, usually); rendered chat templates already hold it.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let steps = || match self.words.as_ref().filter(|_| !add_special).map(|words| words.encode(&self.inner, text)) {
            Some(Ok(Some(ids))) => Ok(ids),
            Some(Err(error)) => Err(error),
            _ => Ok(self.inner.encode_fast(text, add_special)?.get_ids().to_vec()),
        };
        caught("`tokenizer.json`", || {
            steps().map_err(|e| Error::input("text cannot be encoded by this tokenizer").source(e))
        })
    }

    /// Token ids of a text that stands behind another: without the space that some tokenizers put in front of what they are given.
    /// Where it cannot be told apart from the line break put before it, the ids of the text alone.
    pub fn encode_behind_line(&self, text: &str) -> Result<Vec<u32>> {
        let (line, both) = (self.encode("\n", false)?, self.encode(&format!("\n{text}"), false)?);
        match both.strip_prefix(line.as_slice()) {
            Some(ids) => Ok(ids.to_vec()),
            None => self.encode(text, false),
        }
    }

    /// True for tokenizers that put a space in front of what they are given (SentencePiece's do).
    pub fn puts_a_space(&self) -> Result<bool> {
        if let Some(known) = self.puts_a_space.get() {
            return Ok(*known);
        }
        let puts_a_space = self.encode("a", false)? != self.encode_behind_line("a")?;
        Ok(*self.puts_a_space.get_or_init(|| puts_a_space))
    }

    /// Token ids of a text's letters: the vocabulary's added tokens are not looked for. As of a text behind another.
    pub fn spell(&self, text: &str) -> Result<Vec<u32>> {
        let (line, both) = (self.letters("\n")?, self.letters(&format!("\n{text}"))?);
        match both.strip_prefix(line.as_slice()) {
            Some(ids) => Ok(ids.to_vec()),
            None => self.letters(text),
        }
    }

    fn letters(&self, text: &str) -> Result<Vec<u32>> {
        let steps = || -> tokenizers::Result<Vec<u32>> {
            let mut text = NormalizedString::from(text);
            if let Some(normalizer) = self.inner.get_normalizer() {
                normalizer.normalize(&mut text)?;
            }
            let mut words = PreTokenizedString::from(text);
            if let Some(splitter) = self.inner.get_pre_tokenizer() {
                splitter.pre_tokenize(&mut words)?;
            }
            let mut ids = Vec::new();
            for (word, ..) in words.get_splits(OffsetReferential::Original, OffsetType::None) {
                ids.extend(self.inner.get_model().tokenize(word)?.into_iter().map(|token| token.id));
            }
            Ok(ids)
        };
        steps().map_err(|e| Error::input("text cannot be encoded by this tokenizer").source(e))
    }

    /// What a policy said, as text: special tokens are left out, but for the tags of its thoughts.
    pub fn text(&self, token_ids: &[u32]) -> Result<String> {
        let said = |id: &&u32| self.special.get(*id).is_none_or(|token| thoughts::is_tag(token));
        self.decode(&token_ids.iter().filter(said).copied().collect::<Vec<u32>>(), false)
    }

    /// Special tokens that do not belong into a completion: all of them, but for the tags of thoughts that end.
    pub fn stray_specials(&self, token_ids: &[u32]) -> Result<usize> {
        let special: Vec<&String> = token_ids.iter().filter_map(|id| self.special.get(id)).collect();
        let tags = special.iter().filter(|token| thoughts::is_tag(token)).count();
        if tags == 0 {
            return Ok(special.len());
        }
        let text = self.text(token_ids)?;
        let ended = thoughts::answer_start(&text) < text.len();
        Ok(special.len() - if ended { tags } else { 0 })
    }

    /// Text of token ids. Ids outside the vocabulary (padding rows of the embedding) decode to nothing; bytes that are not
    /// UTF-8 become U+FFFD.
    pub fn decode(&self, token_ids: &[u32], skip_special: bool) -> Result<String> {
        caught("`tokenizer.json`", || {
            self.inner
                .decode(token_ids, skip_special)
                .map_err(|e| Error::input("token ids cannot be decoded by this tokenizer").source(e))
        })
    }

    /// The text of each token; together they are the whole text, special tokens included. A character of several tokens
    /// belongs to the last of them.
    pub fn pieces(&self, token_ids: &[u32]) -> Result<Vec<String>> {
        let whole = self.decode(token_ids, false)?;
        let alone = token_ids.iter().map(|id| self.decode(&[*id], false)).collect::<Result<Vec<String>>>()?;
        if alone.concat() == whole {
            return Ok(alone);
        }
        // The text of a token depends on its neighbours: take what each adds to the tokens before it.
        let (mut settled, mut read) = (0, 0);
        let mut pieces = vec![String::new(); token_ids.len()];
        let mut length = 0;
        for index in 0..token_ids.len() {
            let before = self.decode(&token_ids[settled..read], false)?;
            let after = self.decode(&token_ids[settled..=index], false)?;
            let Some(new) = after.strip_prefix(&before).filter(|new| !new.is_empty() && !new.ends_with('\u{fffd}'))
            else {
                continue;
            };
            length += new.len();
            pieces[index] = new.to_string();
            (settled, read) = (read, index + 1);
        }
        if let (Some(last), Some(rest)) = (pieces.last_mut(), whole.get(length..)) {
            last.push_str(rest);
        }
        Ok(pieces)
    }

    /// Entries, added tokens included. The embedding may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// A token as the vocabulary has it.
    pub fn token(&self, token_id: u32) -> Option<String> {
        self.inner.id_to_token(token_id)
    }

    pub fn is_special(&self, token_id: u32) -> bool {
        self.special.contains_key(&token_id)
    }

    /// Special tokens by id.
    pub fn special_tokens(&self) -> &BTreeMap<u32, String> {
        &self.special
    }
}

/// Watches a growing completion for stop strings, which may cross token borders. Decodes only what is new: the text of a
/// token can depend on the token before it (a space, half a character), so a short overlap is decoded again each time.
pub struct StopWatch<'a> {
    tokenizer: &'a Tokenizer,
    stop: &'a [String],
    /// Tokens before this index are decoded for good.
    settled: usize,
    /// Tokens from `settled` to here gave text already in `tail`.
    read: usize,
    /// End of the text, long enough to hold any stop string but its last character.
    tail: String,
}

impl<'a> StopWatch<'a> {
    pub fn new(tokenizer: &'a Tokenizer, stop: &'a [String]) -> StopWatch<'a> {
        StopWatch { tokenizer, stop, settled: 0, read: 0, tail: String::new() }
    }

    /// Whether a stop string is complete. `token_ids` is the completion so far; call it after every token.
    pub fn hit(&mut self, token_ids: &[u32]) -> Result<bool> {
        let before = self.tokenizer.text(&token_ids[self.settled..self.read])?;
        let after = self.tokenizer.text(&token_ids[self.settled..])?;
        // An unfinished character decodes to U+FFFD for now; wait for the rest of it.
        let Some(new) = after.strip_prefix(&before).filter(|new| !new.is_empty() && !new.ends_with('\u{fffd}')) else {
            return Ok(false);
        };
        self.tail.push_str(new);
        self.settled = self.read;
        self.read = token_ids.len();
        let hit = self.stop.iter().any(|s| self.tail.contains(s.as_str()));
        let keep = self.stop.iter().map(String::len).max().unwrap_or(0);
        let mut cut = self.tail.len().saturating_sub(keep);
        while !self.tail.is_char_boundary(cut) {
            cut -= 1;
        }
        self.tail.drain(..cut);
        Ok(hit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::byte_tokenizer;

    #[test]
    fn round_trip_and_specials() {
        let tokenizer = Tokenizer::from_bytes(&byte_tokenizer()).unwrap();
        let text = "naïve 数学 😀 x²\n<|user|>";
        let ids = tokenizer.encode(text, false).unwrap();
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), text.trim_end_matches("<|user|>"));
        let user = tokenizer.token_id("<|user|>").unwrap();
        assert_eq!(ids.last(), Some(&user));
        assert!(tokenizer.is_special(user) && !tokenizer.is_special(ids[0]));
    }

    /// Tags of thoughts are words of the policy's, also where its vocabulary has them as special tokens.
    #[test]
    fn thoughts_stay_in_the_text() {
        use crate::model::testing::byte_tokenizer_with;
        let tokenizer = Tokenizer::from_bytes(&byte_tokenizer_with(&["<think>", "</think>"])).unwrap();
        let said = |text: &str| {
            let ids = tokenizer.encode(text, false).unwrap();
            (tokenizer.text(&ids).unwrap(), tokenizer.stray_specials(&ids).unwrap())
        };
        let as_it_is = |text: &str| text.to_string();
        assert_eq!(said("<think>a</think>b"), (as_it_is("<think>a</think>b"), 0));
        assert_eq!(said("a</think>b"), (as_it_is("a</think>b"), 0), "the prompt opened the thoughts");
        assert_eq!(said("<think>a</think>b<|user|>c"), (as_it_is("<think>a</think>bc"), 1));
        assert_eq!(said("<think>a"), (as_it_is("<think>a"), 1), "thoughts that never end");
        assert_eq!(said("a<|end|><|user|>b"), (as_it_is("ab"), 2));
        assert_eq!(said("plain"), (as_it_is("plain"), 0));
    }

    #[test]
    fn not_a_tokenizer() {
        assert_eq!(Tokenizer::from_bytes(b"{}").err().unwrap().place(), Some("tokenizer.json"));
    }

    /// Where the first stop string ends, in tokens.
    fn stops_at(text: &str, stop: &[&str]) -> Option<usize> {
        let tokenizer = Tokenizer::from_bytes(&byte_tokenizer()).unwrap();
        let stop: Vec<String> = stop.iter().map(|s| s.to_string()).collect();
        let ids = tokenizer.encode(text, false).unwrap();
        let mut watch = StopWatch::new(&tokenizer, &stop);
        (1..=ids.len()).find(|n| watch.hit(&ids[..*n]).unwrap())
    }

    #[test]
    fn stop_strings_cross_token_borders() {
        // One token per byte in this tokenizer.
        assert_eq!(stops_at("one\n\ntwo", &["\n\n"]), Some(5));
        assert_eq!(stops_at("aé数b", &["é数"]), Some(6));
        assert_eq!(stops_at("x😀y", &["😀", "zz"]), Some(5));
        assert_eq!(stops_at("abcabd", &["abd"]), Some(6));
        assert_eq!(stops_at("nothing", &["#"]), None);
    }
}
