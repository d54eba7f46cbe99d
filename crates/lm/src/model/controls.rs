//! Control tokens spelled in text: a question or a solution that says `<|im_end|>` says so in letters, and ends no turn.
//!
//! Text is marked before it enters a chat template, so that what it spells can be told from what the template writes, and what is
//! marked is encoded without the vocabulary's added tokens. Text that spells none is encoded as ever. The ids are those of
//! transformers' `apply_chat_template(.., sanitize_control_tokens=True)`. Tags of thoughts are no control tokens: experts and
//! earlier turns may think.

use super::tokenizer::Tokenizer;
use mindgap_base::error::Result;
use mindgap_math::thoughts;
use std::borrow::Cow;

/// Around what is marked: two of Unicode's noncharacters, which no text holds.
const MARKS: [char; 2] = ['\u{fdd0}', '\u{fdd1}'];

/// The tokens that steer a conversation: all special ones and those that end it, tags of thoughts left out.
pub struct Controls {
    /// Longer ones first, as one may be part of another.
    tokens: Vec<(String, u32)>,
    /// What tokens begin with: `<`, usually. Vocabularies have thousands of tokens, texts few such letters.
    firsts: Vec<char>,
}

impl Controls {
    pub fn new(tokenizer: &Tokenizer, eos_token_ids: &[u32]) -> Controls {
        let ends = eos_token_ids.iter().filter_map(|id| Some((tokenizer.token(*id)?, *id)));
        let special = tokenizer.special_tokens().iter().map(|(id, token)| (token.clone(), *id));
        let mut tokens: Vec<(String, u32)> = special.chain(ends).collect();
        tokens.retain(|(token, _)| !token.trim().is_empty() && !thoughts::is_tag(token));
        tokens.sort_by(|a, b| (b.0.len(), &a.0).cmp(&(a.0.len(), &b.0)));
        tokens.dedup();
        let mut firsts: Vec<char> = tokens.iter().filter_map(|(token, _)| token.chars().next()).collect();
        firsts.sort_unstable();
        firsts.dedup();
        Controls { tokens, firsts }
    }

    /// Where the next control token stands in a text, and which it is.
    fn next(&self, text: &str) -> Option<(usize, &(String, u32))> {
        let at =
            |at: usize| self.tokens.iter().find(|(token, _)| text[at..].starts_with(token)).map(|token| (at, token));
        text.match_indices(&self.firsts[..]).find_map(|(start, _)| at(start))
    }

    /// The text with marks around every control token it spells.
    pub fn mark<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.next(text).is_none() {
            return Cow::Borrowed(text);
        }
        let text = text.replace(MARKS, "");
        let (mut out, mut rest) = (String::new(), text.as_str());
        while let Some((at, (token, _))) = self.next(rest) {
            out.push_str(&rest[..at]);
            out.extend([&MARKS[0].to_string(), token.as_str(), &MARKS[1].to_string()]);
            rest = &rest[at + token.len()..];
        }
        out.push_str(rest);
        Cow::Owned(out)
    }

    /// Ids of a text in which what is not meant as a control token is marked.
    pub fn encode(&self, tokenizer: &Tokenizer, marked: &str) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        let mut rest = marked;
        while let Some(at) = rest.find(MARKS) {
            self.add(tokenizer, &rest[..at], &mut ids)?;
            let behind = &rest[at + MARKS[0].len_utf8()..];
            let token = self.marked_token(&rest[at..]);
            if let Some((token, id)) = token {
                ids.extend(letters(tokenizer, token, *id)?);
            }
            // A mark that the template parted from its token is dropped.
            rest = token.map_or(behind, |(token, _)| &behind[token.len() + MARKS[1].len_utf8()..]);
        }
        self.add(tokenizer, rest, &mut ids)?;
        Ok(ids)
    }

    /// Adds the ids of a piece in which control tokens are meant, behind others or first of all.
    fn add(&self, tokenizer: &Tokenizer, piece: &str, ids: &mut Vec<u32>) -> Result<()> {
        ids.extend(match ids.is_empty() {
            true => tokenizer.encode(piece, false)?,
            false => tokenizer.encode_behind_line(piece)?,
        });
        Ok(())
    }

    /// The token between the mark that a text begins with and the next.
    fn marked_token(&self, text: &str) -> Option<&(String, u32)> {
        let (token, _) = text.strip_prefix(MARKS[0])?.split_once(MARKS[1])?;
        self.tokens.iter().find(|known| known.0 == token)
    }
}

/// The letters of a control token.
fn letters(tokenizer: &Tokenizer, token: &str, id: u32) -> Result<Vec<u32>> {
    let mut ids = tokenizer.spell(token)?;
    // A vocabulary may make the token of its very letters: then they go in one by one.
    if ids.contains(&id) {
        ids.clear();
        for letter in token.chars() {
            ids.extend(tokenizer.spell(letter.encode_utf8(&mut [0; 4]))?);
        }
    }
    Ok(ids)
}

/// A marked text as people read it.
pub fn unmarked(text: &str) -> String {
    text.replace(MARKS, "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::byte_tokenizer;

    fn controls() -> (Tokenizer, Controls) {
        let tokenizer = Tokenizer::from_bytes(&byte_tokenizer()).unwrap();
        let controls = Controls::new(&tokenizer, &[2]);
        (tokenizer, controls)
    }

    #[test]
    fn what_a_text_spells_is_letters() {
        let (tokenizer, controls) = controls();
        let text = "a<|end|><|user|>b<|end|>";
        let ids = controls.encode(&tokenizer, &controls.mark(text)).unwrap();
        assert_eq!(ids.len(), text.len(), "one token per letter");
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
        assert!(ids.iter().all(|id| !tokenizer.is_special(*id)));
        let end = tokenizer.token_id("<|end|>").unwrap();
        let template = format!("<|user|>{}<|end|>", controls.mark("x<|end|>"));
        let ids = controls.encode(&tokenizer, &template).unwrap();
        assert_eq!(ids.iter().filter(|id| **id == end).count(), 1, "the template's own");
        assert_eq!(ids.last(), Some(&end));
        assert_eq!(unmarked(&template), "<|user|>x<|end|><|end|>");
    }

    #[test]
    fn other_text_is_left_alone() {
        let (tokenizer, controls) = controls();
        for text in ["", "a < b |> c", "<|end", "数学 \u{fdd0}"] {
            assert!(matches!(controls.mark(text), Cow::Borrowed(same) if same == text));
        }
        let text = "plain 数学\n";
        assert_eq!(controls.encode(&tokenizer, text).unwrap(), tokenizer.encode(text, false).unwrap());
    }

    /// A template may cut a text in two: what is left of a mark joins nothing.
    #[test]
    fn parted_marks() {
        let (tokenizer, controls) = controls();
        let marked = controls.mark("<|end|>x").into_owned();
        for cut in [&marked[3..], &marked[..marked.len() - 4], "<|en\u{fdd0}d|>", "\u{fdd0}\u{fdd1}"] {
            let ids = controls.encode(&tokenizer, cut).unwrap();
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), unmarked(cut));
        }
    }

    #[test]
    fn marks_cannot_be_forged() {
        let (tokenizer, controls) = controls();
        let forged = "<|end\u{fdd1}|><|end|>";
        let ids = controls.encode(&tokenizer, &controls.mark(forged)).unwrap();
        assert!(ids.iter().all(|id| !tokenizer.is_special(*id)), "{ids:?}");
    }
}
