//! Whether a sample may become a training target, however right its answer is.

use super::bench::Known;
use crate::stage::spec::{Inputs, Origin};
use crate::stats::leaks::{self, Shown};
use mindgap_base::error::{Error, Result};
use mindgap_base::fingerprint::Recipe;
use mindgap_math::Judgement;
use mindgap_store::table::rollouts::{PromptKind, Rollout};
use mindgap_store::table::verdicts::Refusal;

use Refusal::{AnswerOnly, Copied, MetaPhrase, NoBox, PromptEcho, WrongWorking};

/// What can be chosen.
const OPTIONAL: [Refusal; 6] = [NoBox, MetaPhrase, PromptEcho, Copied, AnswerOnly, WrongWorking];

/// What is refused where nobody says otherwise.
pub fn default() -> Vec<Refusal> {
    vec![NoBox, MetaPhrase, PromptEcho, Copied, AnswerOnly]
}

pub fn copied_limit() -> f64 {
    leaks::COPIED_LIMIT
}

/// Errors: a reason that is no choice, a limit that is no share.
pub fn check(refuse: &[Refusal], copied_limit: f64) -> Result<()> {
    if let Some(always) = refuse.iter().find(|reason| !OPTIONAL.contains(reason)) {
        let known: Vec<&str> = OPTIONAL.iter().map(|reason| reason.as_str()).collect();
        return Err(Error::usage(format!("`refuse` names `{always}`, which is no choice of this stage"))
            .hint(format!("what can be chosen: {}", known.join(", "))));
    }
    if !(0.0..=1.0).contains(&copied_limit) {
        return Err(Error::usage(format!("`copied_limit` is `{copied_limit}`; it must be between 0 and 1")));
    }
    Ok(())
}

/// What is looked for in the samples of one rollout stage.
pub struct Refuse {
    /// Of what may be chosen, what has anything to look at there.
    active: Vec<Refusal>,
    copied_limit: f64,
    shown: Shown,
    template: String,
}

impl Refuse {
    pub fn of(params: &super::Params, origin: &Origin, inputs: &Inputs) -> Result<Refuse> {
        let template = inputs.template(origin.template)?.text().to_string();
        // Who drew a plain sample was shown nothing to leak; what was shown to whoever wrote an imported one is not known.
        let applies = |reason: &Refusal| match reason {
            Refusal::NoBox => asks_for_box(&template),
            _ => origin.prompt_kind != PromptKind::Plain,
        };
        let mut active: Vec<Refusal> = params.refuse.iter().copied().filter(applies).collect();
        active.sort();
        active.dedup();
        Ok(Refuse { active, copied_limit: params.copied_limit, shown: Shown::of(&template), template })
    }

    /// Named only where it looks at something, so that older results stay known.
    pub fn name_in(&self, recipe: Recipe) -> Recipe {
        let mut recipe = recipe;
        if !self.active.is_empty() {
            recipe = recipe.with("refuse", (leaks::VERSION, &self.active));
        }
        if self.looks_for(Refusal::Copied) {
            recipe = recipe.with("copied_limit", self.copied_limit);
        }
        if self.looks_for(Refusal::PromptEcho) {
            recipe = recipe.with("template", &self.template);
        }
        recipe
    }

    fn looks_for(&self, reason: Refusal) -> bool {
        self.active.contains(&reason)
    }

    /// Whether the expert's solutions are looked at.
    pub fn reads_solutions(&self) -> bool {
        self.active.iter().any(|reason| *reason != Refusal::NoBox)
    }

    /// The first reason why a sample is no training target.
    pub fn reason(&self, rollout: &Rollout, known: &Known, judgement: &Judgement) -> Option<Refusal> {
        if !rollout.stop_reason.is_complete() {
            return Some(Refusal::CutOff);
        }
        if rollout.special_count > 0 {
            return Some(Refusal::SpecialToken);
        }
        let said = rollout.said();
        let text = mindgap_math::thoughts::behind(&said).unwrap_or_default();
        let answers = mindgap_math::boxed_answers(text);
        // It may have gone on past its answer and come out right by accident, unless all of it is the answer.
        if answers.len() > 1 && !judgement.method.starts_with("boxes/") {
            return Some(Refusal::SeveralAnswers);
        }
        if self.looks_for(Refusal::NoBox) && answers.is_empty() {
            return Some(Refusal::NoBox);
        }
        if !self.reads_solutions() {
            return None;
        }
        let solution = known.solution.as_deref().unwrap_or_default();
        self.shown.leak(text, &known.question, solution, self.copied_limit, &self.active)
    }
}

/// Whether a prompt wants its answer in a box.
pub fn asks_for_box(template: &str) -> bool {
    template.contains("boxed")
}
