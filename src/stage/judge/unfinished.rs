//! Samples that the token limit ended in the middle of their working. Where a prompt asks for a boxed answer, they state one in a box
//! or by announcing it, or not at all: the last number of a text that breaks off is the answer by chance.

use super::refuse::asks_for_box;
use crate::stage::spec::{Inputs, Origin};
use mindgap_base::error::Result;
use mindgap_base::fingerprint::Recipe;
use mindgap_math::{Judgement, Verdict};
use mindgap_store::table::rollouts::{Rollout, StopReason};

/// Bumped whenever another statement of a sample that was cut off counts.
const VERSION: u32 = 1;

/// Where a verifier finds an answer that nothing states.
const UNSTATED: [&str; 3] = ["math", "number", "text"];
/// Where it finds one that is announced: "the answer is".
const ANNOUNCED: &str = "answer";

/// How samples of one rollout stage that were cut off are judged.
pub struct Unfinished {
    asks_for_box: bool,
}

impl Unfinished {
    pub fn of(origin: &Origin, inputs: &Inputs) -> Result<Unfinished> {
        let template = inputs.template(origin.template)?;
        Ok(Unfinished { asks_for_box: asks_for_box(template.text()) })
    }

    /// Named only where it can make a difference, so that older results stay known.
    pub fn name_in(&self, recipe: Recipe) -> Recipe {
        match self.asks_for_box {
            true => recipe.with("unfinished", VERSION),
            false => recipe,
        }
    }

    /// What counts of a judgement.
    pub fn judged(&self, rollout: &Rollout, judgement: Judgement) -> Judgement {
        if !self.asks_for_box || rollout.stop_reason != StopReason::MaxTokens || states(&rollout.completion, &judgement)
        {
            return judgement;
        }
        let method = format!("cut_off/{}", judgement.method);
        Judgement { verdict: Verdict::NoAnswer, extracted: None, method }
    }
}

/// Whether what was found is a statement, and whole. An announced answer at the very end may go on: `12` of `120`.
fn states(text: &str, judgement: &Judgement) -> bool {
    let place = judgement.method.split('/').next().unwrap_or_default();
    match (&judgement.extracted, place) {
        (None, _) => true,
        (Some(answer), ANNOUNCED) => !text.trim_end().ends_with(answer.as_str()),
        _ => !UNSTATED.contains(&place),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mindgap_math::Judge;
    use mindgap_store::table::rollouts::PromptKind;

    fn judged(asks_for_box: bool, stop_reason: StopReason, text: &str) -> (Verdict, String) {
        let rollout = Rollout {
            problem_id: "0a".to_string(),
            sample_index: 0,
            prompt_kind: PromptKind::Plain,
            completion: text.to_string(),
            prompt_ids: vec![1],
            token_ids: Vec::new(),
            logprob_behavior: Some(Vec::new()),
            logprob_policy: Some(Vec::new()),
            stop_reason,
            special_count: 0,
            seed: 0,
            prefill: None,
            engine: None,
            failure: None,
        };
        let judgement = Judge::of("math", []).unwrap().judge("12", text);
        let judgement = Unfinished { asks_for_box }.judged(&rollout, judgement);
        (judgement.verdict, judgement.method)
    }

    #[test]
    fn answers_of_samples_that_were_cut_off() {
        use Verdict::{Correct, Incorrect, NoAnswer};
        for (text, wanted) in [
            ("First, 3 * 4 = 12", NoAnswer),
            ("First, $3 \\cdot 4 = 12$ and then", NoAnswer),
            ("There are 7 of", NoAnswer),
            ("The answer is 12", NoAnswer),
            ("The answer is 12.\n\nTo check this, we", Correct),
            ("The answer is 7.\n\nTo check this, we", Incorrect),
            ("So \\boxed{12}. Let me check:", Correct),
            ("So \\boxed{12}", Correct),
            ("So \\boxed{7} and 12", Incorrect),
            ("So \\boxed{12", NoAnswer),
            ("We begin by counting all the apples there are.", NoAnswer),
        ] {
            assert_eq!(judged(true, StopReason::MaxTokens, text).0, wanted, "{text}");
            let (whole, by) = judged(true, StopReason::Eos, text);
            assert_eq!((whole, by.clone()), judged(false, StopReason::MaxTokens, text), "{text}");
            assert!(!by.starts_with("cut_off"), "{text}");
        }
        assert_eq!(judged(true, StopReason::MaxTokens, "First, 3 * 4 = 12").1.split('/').next(), Some("cut_off"));
        assert_eq!(judged(true, StopReason::Eos, "First, 3 * 4 = 12").0, Correct);
    }
}
