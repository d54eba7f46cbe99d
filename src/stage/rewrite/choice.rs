//! Which of a problem's candidates become its targets.

use super::samples::{Candidate, no_logprobs};
use mindgap_base::error::{Error, Result};
use mindgap_base::rng::Stream;
use mindgap_store::table::rewrites::{Outcome, Source};
use mindgap_store::table::verdicts::Refusal;
use serde::de::value::{SeqAccessDeserializer, StrDeserializer};
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fmt;

/// Which fit samples of a source are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// Those with the lowest sample index.
    #[default]
    First,
    /// Uniformly at random, keyed by the seed and the problem.
    Random,
    /// Those the policy finds likeliest per token, given the training prompt.
    Likeliest,
    /// Those with the fewest tokens.
    Shortest,
    /// Those with the highest score.
    Score,
}

/// A source, or several that are asked as one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Rank {
    One(Source),
    Any(Vec<Source>),
}

/// By hand, so that an error names the word that is wrong.
impl<'de> Deserialize<'de> for Rank {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Rank, D::Error> {
        struct RankVisitor;
        impl<'de> Visitor<'de> for RankVisitor {
            type Value = Rank;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a source, or a list of sources")
            }

            fn visit_str<E: serde::de::Error>(self, source: &str) -> Result<Rank, E> {
                Source::deserialize(StrDeserializer::new(source)).map(Rank::One)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, sources: A) -> Result<Rank, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(sources)).map(Rank::Any)
            }
        }
        deserializer.deserialize_any(RankVisitor)
    }
}

impl Rank {
    pub fn sources(&self) -> &[Source] {
        match self {
            Rank::One(source) => std::slice::from_ref(source),
            Rank::Any(sources) => sources,
        }
    }
}

/// The order of the paper, with samples from elsewhere before the expert's solution.
pub fn order() -> Vec<Rank> {
    [Source::SelfAligned, Source::Guided, Source::Teacher, Source::Expert].map(Rank::One).into()
}

/// Errors: a source named twice, or none.
pub fn check_order(order: &[Rank]) -> Result<()> {
    let sources: Vec<Source> = order.iter().flat_map(Rank::sources).copied().collect();
    if sources.is_empty() {
        return Err(
            Error::usage("`order` names no source").hint("order = [\"self\", \"guided\", \"teacher\", \"expert\"]")
        );
    }
    match sources.iter().enumerate().find(|(index, source)| sources[..*index].contains(source)) {
        Some((_, twice)) => Err(Error::usage(format!("`order` names `{twice}` twice"))),
        None => Ok(()),
    }
}

/// How targets are chosen.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    pub choice: Choice,
    pub keep: usize,
    pub distinct: bool,
    pub seed: u64,
}

/// A candidate and what became of it.
pub type Decided<'a> = (Candidate<'a>, Outcome);

impl Rule {
    /// Whether equal texts make a difference: then they are part of the recipe.
    pub fn looks_for_equal_texts(&self) -> bool {
        self.distinct && (self.keep > 1 || self.ranks())
    }

    fn ranks(&self) -> bool {
        !matches!(self.choice, Choice::First | Choice::Random)
    }

    /// Decides about the candidates of one rank, the chosen ones first and in their order. Equal texts are told apart before
    /// candidates are ranked, and after they were put into another order: at random the likelier text stays the likelier.
    pub fn decide<'a>(&self, problem_id: &str, candidates: Vec<Candidate<'a>>) -> Result<Vec<Decided<'a>>> {
        let (mut fit, mut refused): (Vec<Candidate>, Vec<Candidate>) =
            candidates.into_iter().partition(|candidate| candidate.refused.is_none());
        if self.ranks() {
            fit = self.without_equal(fit, &mut refused);
        }
        match self.choice {
            // One alone need not be ranked.
            _ if fit.len() < 2 => {}
            Choice::First => {}
            Choice::Random => {
                Stream::at(self.seed, &[b"choice", problem_id.as_bytes()]).cursor().shuffle(&mut fit);
            }
            Choice::Likeliest => {
                let of =
                    |candidate: &Candidate| candidate.likelihood.ok_or_else(|| no_logprobs(candidate, "rank it by"));
                fit = ranked(without_unlikely(fit, &mut refused), of)?;
            }
            Choice::Shortest => fit.sort_by_key(|candidate| candidate.token_ids.len()),
            Choice::Score => {
                let unscored = |candidate: &Candidate| {
                    Error::input(format!("no score of {} is there to rank it by", candidate.place()))
                        .hint("`score.from` must name a stage with a row for every sample of the sources in `order`")
                };
                fit = ranked(fit, |candidate| candidate.score.ok_or_else(|| unscored(candidate)))?;
            }
        }
        if !self.ranks() {
            fit = self.without_equal(fit, &mut refused);
        }
        let outcome = |index: usize| if index < self.keep { Outcome::Chosen } else { Outcome::Left };
        let fit = fit.into_iter().enumerate().map(|(index, candidate)| (candidate, outcome(index)));
        Ok(fit.chain(refused.into_iter().map(|candidate| (candidate, Outcome::Refused))).collect())
    }

    /// The candidates whose text, white space aside, none before has. With one target to keep there is nothing to tell apart.
    fn without_equal<'a>(&self, fit: Vec<Candidate<'a>>, refused: &mut Vec<Candidate<'a>>) -> Vec<Candidate<'a>> {
        if !self.looks_for_equal_texts() {
            return fit;
        }
        let mut seen = HashSet::new();
        let (kept, equal): (Vec<Candidate>, Vec<Candidate>) =
            fit.into_iter().partition(|candidate| seen.insert(normalised(&candidate.completion)));
        refused.extend(equal.into_iter().map(|equal| Candidate { refused: Some(Refusal::Duplicate), ..equal }));
        kept
    }
}

/// The candidates but for those that were not scored because their text, white space aside, is that of one that was and is too unlikely.
fn without_unlikely<'a>(fit: Vec<Candidate<'a>>, refused: &mut Vec<Candidate<'a>>) -> Vec<Candidate<'a>> {
    let is_unlikely =
        |candidate: &&Candidate| matches!(candidate.refused, Some(Refusal::Unlikely | Refusal::LowLogprob));
    let unlikely: HashSet<String> =
        refused.iter().filter(is_unlikely).map(|candidate| normalised(&candidate.completion)).collect();
    let (kept, equal): (Vec<Candidate>, Vec<Candidate>) = fit.into_iter().partition(|candidate| {
        candidate.likelihood.is_some() || !unlikely.contains(&normalised(&candidate.completion))
    });
    refused.extend(equal.into_iter().map(|equal| Candidate { refused: Some(Refusal::Duplicate), ..equal }));
    kept
}

/// Highest first; equal ones stay in order.
fn ranked<'a>(fit: Vec<Candidate<'a>>, value: impl Fn(&Candidate) -> Result<f64>) -> Result<Vec<Candidate<'a>>> {
    let mut valued =
        fit.into_iter().map(|candidate| Ok((value(&candidate)?, candidate))).collect::<Result<Vec<_>>>()?;
    valued.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    Ok(valued.into_iter().map(|(_, candidate)| candidate).collect())
}

fn normalised(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of three samples one is refused as no likelier than the expert's solution; another has its text with more white space and was
    /// not scored, since a stage that keeps distinct texts keeps the first.
    #[test]
    fn a_copy_of_an_unlikely_text_need_not_be_scored() {
        let candidate = |text: &'static str, likelihood: Option<f64>, refused: Option<Refusal>| Candidate {
            source: Source::Teacher,
            stage_index: 0,
            rollout: None,
            completion: text.into(),
            token_ids: vec![1].into(),
            refused,
            likelihood,
            score: None,
        };
        let rule = Rule { choice: Choice::Likeliest, keep: 1, distinct: true, seed: 0 };
        let unlikely = || candidate("a b", Some(-2.0), Some(Refusal::Unlikely));
        let found = [
            unlikely(),
            candidate("a  b", None, None),
            candidate("c", Some(-1.0), None),
            candidate("d", Some(-1.5), None),
        ];
        let decided = rule.decide("p", found.into()).unwrap();
        let outcomes: Vec<(&str, Outcome)> = decided.iter().map(|(c, outcome)| (&*c.completion, *outcome)).collect();
        assert_eq!(outcomes[..2], [("c", Outcome::Chosen), ("d", Outcome::Left)]);
        assert_eq!(decided[3].0.refused, Some(Refusal::Duplicate));
        // Another text that nobody scored is still an error.
        let found = [unlikely(), candidate("e", None, None), candidate("c", Some(-1.0), None)];
        assert!(rule.decide("p", found.into()).is_err());
    }
}
