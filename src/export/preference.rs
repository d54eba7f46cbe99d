//! Preference pairs: the target the cascade kept, and something worse for the same prompt.

use super::messages::Turn;
use super::{Origin, Target, lines};
use clap::ValueEnum;
use mindgap_store::table::rewrites::Source;
use serde::Serialize;
use std::borrow::Cow;

/// What the target is preferred to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Rejected {
    /// A sample of the policy, given the plain prompt, that was judged incorrect
    #[default]
    Incorrect,
    /// The expert's solution, where the target is in the policy's own words
    Expert,
}

/// The targets there is something to reject for.
pub fn pairable<'a>(targets: &[Target<'a>], rejected: Rejected) -> Vec<Target<'a>> {
    targets.iter().filter(|target| rejected.answer(target).is_some()).copied().collect()
}

impl Rejected {
    fn answer<'a>(self, target: &Target<'a>) -> Option<Cow<'a, str>> {
        match self {
            Rejected::Incorrect => target.incorrect.map(|completion| target.answer(completion)),
            Rejected::Expert if target.rewrite.source == Source::Expert => None,
            Rejected::Expert => target.problem.solution.as_deref().map(|solution| {
                let behind = target.shown.behind_prefill(solution);
                if target.shown.prefill.is_empty() { behind } else { [&target.shown.prefill, &*behind].concat().into() }
            }),
        }
    }
}

#[derive(Serialize)]
struct Pair<'a> {
    prompt: Vec<Turn<'a>>,
    chosen: [Turn<'a>; 1],
    rejected: [Turn<'a>; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    chat_template_kwargs: Option<&'a serde_json::Map<String, serde_json::Value>>,
    #[serde(flatten)]
    origin: Origin<'a>,
}

/// Conversational pairs with an explicit prompt, as TRL's preference trainers read them.
pub fn pairs(targets: &[Target], rejected: Rejected) -> String {
    lines(targets.iter().filter_map(|target| {
        Some(Pair {
            prompt: Turn::before(target),
            chosen: [Turn::assistant(target.answer(&target.rewrite.completion))],
            rejected: [Turn::assistant(rejected.answer(target)?)],
            chat_template_kwargs: target.kwargs(),
            origin: Origin::of(target),
        })
    }))
}

#[cfg(test)]
mod tests {
    use super::super::testing::text_of;
    use super::super::{Format, Options, Rejected};

    #[test]
    fn over_an_incorrect_sample() {
        let golden = r#"{"prompt":[{"role":"user","content":"1 + \"1\"?"}],"chosen":[{"role":"assistant","content":"It is \\boxed{2}."}],"rejected":[{"role":"assistant","content":"It is \\boxed{3}."}],"problem_id":"0a","choice_index":0,"source":"self"}
"#;
        assert_eq!(
            text_of(Format::Preference, &Options::default()),
            golden,
            "a problem without a wrong sample has no pair"
        );
    }

    #[test]
    fn over_the_expert() {
        let options = Options { rejected: Rejected::Expert, ..Options::default() };
        let golden = r#"{"prompt":[{"role":"user","content":"1 + \"1\"?"}],"chosen":[{"role":"assistant","content":"It is \\boxed{2}."}],"rejected":[{"role":"assistant","content":"Let k = 1. Therefore \\boxed{2}."}],"problem_id":"0a","choice_index":0,"source":"self"}
"#;
        assert_eq!(text_of(Format::Preference, &options), golden, "the expert is not preferred to himself");
    }
}
