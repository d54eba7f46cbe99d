//! model: a policy as judge: what is written of it, and what its words mean. It is asked in `stage/judge`.
//!
//! What is no clear statement is no verdict: nothing is correct because a policy could not be understood.

use super::Setting;
use mindgap_base::error::{Error, Result};
use mindgap_lm::engine::Sampling;
use std::collections::BTreeMap;

/// Names of the options.
pub const OPTIONS: [&str; 6] = ["policy", "template", "verdict", "temperature", "max_new_tokens", "seed"];
/// Those that are about drawing a text.
const DRAWING: [&str; 3] = ["temperature", "max_new_tokens", "seed"];

/// The words of a verdict, right and wrong.
pub const WORDS: [&str; 2] = ["YES", "NO"];

/// What a pipeline says of a policy that judges.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Its name in the pipeline.
    pub policy: String,
    /// The file of its prompt template.
    pub template: String,
    pub verdict: Reading,
}

/// How its verdict is read.
#[derive(Clone, Debug, PartialEq)]
pub enum Reading {
    /// Off a text that it writes.
    Text { temperature: f32, max_new_tokens: u32, seed: u64 },
    /// `YES` is likelier than `NO`.
    YesNo,
}

impl Options {
    /// Errors: no policy or template, a value that an option does not take, or one about text where none is written.
    pub fn new(settings: &BTreeMap<String, Setting>) -> Result<Options> {
        let word = |name: &str| match settings.get(name) {
            Some(Setting::Word(word)) => Ok(word.clone()),
            Some(other) => Err(Error::usage(format!("option `{name}` is a name, not `{other}`"))),
            None => Err(Error::usage(format!("the judge `model` needs the option `{name}`"))
                .hint("{ kind = \"model\", policy = \"base\", template = \"templates/judge.j2\" }")),
        };
        let (policy, template) = (word("policy")?, word("template")?);
        let verdict = match settings.get("verdict").map(Setting::to_string).as_deref() {
            None | Some("text") => Reading::Text {
                temperature: number(settings, "temperature", 0.0)?,
                max_new_tokens: number(settings, "max_new_tokens", 512)?,
                seed: number(settings, "seed", 0)?,
            },
            Some("yes_no") => match DRAWING.iter().find(|name| settings.contains_key(**name)) {
                None => Reading::YesNo,
                Some(name) => {
                    return Err(Error::usage(format!("option `{name}` is about text, and `yes_no` draws none")));
                }
            },
            Some(other) => {
                return Err(
                    Error::usage(format!("option `verdict` has no value `{other}`")).hint("it is text or yes_no")
                );
            }
        };
        let options = Options { policy, template, verdict };
        options.sampling(&[]).map_or(Ok(()), |sampling| sampling.check())?;
        Ok(options)
    }

    /// How its texts are drawn, for a policy with these EOS tokens.
    pub fn sampling(&self, eos: &[u32]) -> Option<Sampling> {
        match self.verdict {
            Reading::Text { temperature, max_new_tokens, .. } => {
                Some(Sampling { temperature, ..Sampling::plain(max_new_tokens, eos) })
            }
            Reading::YesNo => None,
        }
    }

    /// How the verdict is read: part of the judge's name.
    pub fn reading(&self) -> Vec<String> {
        match &self.verdict {
            Reading::YesNo => vec!["yes_no".to_string()],
            Reading::Text { temperature, max_new_tokens, seed } => {
                let mut parts = vec!["text".to_string(), format!("max_new_tokens={max_new_tokens}")];
                if *temperature > 0.0 {
                    parts.extend([format!("temperature={temperature}"), format!("seed={seed}")]);
                }
                parts
            }
        }
    }
}

fn number<T: std::str::FromStr>(settings: &BTreeMap<String, Setting>, name: &str, default: T) -> Result<T> {
    let Some(value) = settings.get(name).map(Setting::to_string) else { return Ok(default) };
    value.parse().map_err(|_| Error::usage(format!("option `{name}` is a number, not `{value}`")))
}

/// What a text says: right or wrong; none where it does not say so clearly. The last line that is `YES` or `NO`, alone or behind a
/// colon, is the verdict; without such a line the first word of the text is, where the other word stands nowhere.
pub fn verdict(text: &str) -> Option<bool> {
    let text = mindgap_math::thoughts::behind(text)?;
    text.lines().rev().find_map(stated).or_else(|| {
        let first = meaning(words(text).next()?)?;
        words(text).all(|word| meaning(word) != Some(!first)).then_some(first)
    })
}

/// What a line says that is a verdict and nothing else, or ends in one behind a colon; none where it has both words.
fn stated(line: &str) -> Option<bool> {
    let end = line.rsplit(':').next().unwrap_or(line);
    let said = meaning(end.trim_matches(|c: char| !c.is_alphanumeric()))?;
    words(line).all(|word| meaning(word) != Some(!said)).then_some(said)
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty())
}

/// What a word means, however it is written.
fn meaning(word: &str) -> Option<bool> {
    WORDS.iter().position(|known| word.eq_ignore_ascii_case(known)).map(|index| index == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_statement_is_a_verdict() {
        for (text, said) in [
            ("YES", Some(true)),
            (" no.\n", Some(false)),
            ("**Yes**", Some(true)),
            ("The answer is 12, as in the reference.\nVerdict: YES", Some(true)),
            ("It begins well. Is it right?\n\n**Final verdict: NO**\n", Some(false)),
            ("Yes at first sight, but the sign is wrong.\nNO", Some(false)),
            ("<think>The reference is 3: YES\n</think>NO", Some(false)),
            ("YES. Both are 12.", Some(true)),
            ("No, 12 is not 13.", Some(false)),
            ("Yes, but no unit is given.", None),
            ("Verdict: NO\n\nThe response ends in 9, the reference is 7.", Some(false)),
            ("Verdict: YES\nWait, 9 is not 7.\nVerdict: NO\nSo it is wrong.", Some(false)),
            ("No doubt: yes", None),
            ("Verdict: NO or Verdict: YES", None),
            ("The response is correct.", None),
            ("The response says YES or NO", None),
            ("Verdict: YES or NO", None),
            ("YESTERDAY", None),
            ("not sure", None),
            ("<think>YES", None),
            ("", None),
            ("...", None),
        ] {
            assert_eq!(verdict(text), said, "{text}");
        }
    }

    #[test]
    fn mistakes_are_told() {
        let read = |text: &str| Options::new(&toml::from_str(text).unwrap());
        let named = "policy = \"base\"\ntemplate = \"judge.j2\"\n";
        assert_eq!(read(&format!("{named}verdict = \"yes_no\"")).unwrap().verdict, Reading::YesNo);
        let drawn = Reading::Text { temperature: 1.0, max_new_tokens: 8, seed: 3 };
        let text = format!("{named}temperature = 1\nmax_new_tokens = 8\nseed = 3");
        assert_eq!(read(&text).unwrap().verdict, drawn);
        for (text, what) in [
            ("template = \"judge.j2\"".to_string(), "needs the option `policy`"),
            ("policy = \"base\"".to_string(), "needs the option `template`"),
            ("policy = 3".to_string(), "`policy` is a name"),
            (format!("{named}verdict = \"maybe\""), "`verdict` has no value `maybe`"),
            (format!("{named}verdict = \"yes_no\"\nseed = 1"), "`seed` is about text"),
            (format!("{named}temperature = -1"), "`temperature` is -1"),
            (format!("{named}max_new_tokens = 0"), "`max_new_tokens` is 0"),
            (format!("{named}seed = \"a\""), "`seed` is a number"),
        ] {
            let error = read(&text).expect_err(&text);
            assert!(error.to_string().contains(what), "{text}: {error}");
        }
    }
}
