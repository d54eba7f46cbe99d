//! What a rollout stage may be told, checked before anything runs.

use super::super::backend::Lazy;
use super::super::buckets::{at_least_one, count};
use super::super::cost::Footprint;
use super::super::spec::Origin;
use super::super::{Inputs, Reference, Stage, StageParams, Wants};
use super::RolloutStage;
use super::adaptive::{self, Adaptive};
use mindgap_base::error::{Error, Result};
use mindgap_lm::engine::Sampling;
use mindgap_store::table::rollouts::PromptKind;
use serde::{Deserialize, Serialize};

/// Of a problem: nobody draws more, and indices are counted in 32 bits.
const MOST_SAMPLES: u32 = 1_000_000;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    pub problems: String,
    pub policy: String,
    /// What evals call the policy; its name where nothing is said.
    pub label: Option<String>,
    /// Only problems without an eligible correct sample in these verdicts.
    #[serde(default)]
    pub unsolved: Vec<String>,
    /// Prompt template: the user's turn, or a whole conversation (a file); the problem alone where none is named.
    pub template: Option<String>,
    #[serde(default = "plain")]
    pub prompt_kind: PromptKind,
    /// Draw every token from two prompts at once: `template` is the one with the hint in it, and a sample is of the other.
    pub hint: Option<Hint>,
    /// Samples of every problem; with `until_correct` those of the first wave.
    pub samples: u32,
    /// Ask a problem again while it has fewer correct samples, fit to be targets, than this: each wave doubles its samples.
    pub until_correct: Option<u32>,
    /// Samples of a problem at most, with `until_correct`.
    pub max_samples: Option<u32>,
    /// A judge stage, usually that of these rollouts: what its judge calls correct is correct. With `until_correct`.
    pub judge: Option<String>,
    #[serde(default = "one")]
    pub temperature: f32,
    #[serde(default = "one")]
    pub top_p: f32,
    #[serde(default)]
    pub top_k: u32,
    #[serde(default)]
    pub min_p: f32,
    pub max_new_tokens: u32,
    #[serde(default)]
    pub stop: Vec<String>,
    #[serde(default)]
    pub seed: u64,
    /// Problems per part, on average; no fewer than the problems table has per part.
    #[serde(default = "part_problems")]
    pub part_problems: u32,
    /// Samples of a problem per part, at most.
    #[serde(default = "part_samples")]
    pub part_samples: u32,
    /// Tokens a part may draw, at most: a part with more is cut into several.
    #[serde(default = "part_tokens")]
    pub part_tokens: u32,
    /// Tokens guessed ahead per sample and step, at most, where that saves time; changes no sample.
    #[serde(default)]
    pub speculate: u32,
}

/// Hinted decoding: arXiv 2602.12222.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hint {
    /// How much the hint decides where the policy is unsure: its share is `beta` times the entropy of the next token over the
    /// largest there can be, and 1 at most.
    #[serde(default = "beta")]
    pub beta: f32,
    /// Prompt template without the hint; the problem alone where none is named.
    pub template: Option<String>,
}

fn beta() -> f32 {
    0.7
}
fn plain() -> PromptKind {
    PromptKind::Plain
}
fn one() -> f32 {
    1.0
}
fn part_problems() -> u32 {
    128
}
fn part_samples() -> u32 {
    8
}
fn part_tokens() -> u32 {
    131_072
}

impl Params {
    /// Samples are drawn from the policy's own distribution.
    pub fn is_untruncated(&self) -> bool {
        (self.temperature, self.top_p, self.top_k, self.min_p) == (1.0, 1.0, 0, 0.0)
    }

    /// What the engine is told, for a policy with these EOS tokens.
    pub(super) fn sampling(&self, eos: &[u32]) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            max_new_tokens: self.max_new_tokens,
            stop: self.stop.clone(),
            eos: eos.to_vec(),
            speculate: self.speculate,
        }
    }

    pub fn origin(&self) -> Origin<'_> {
        Origin { problems: &self.problems, template: self.template.as_deref(), prompt_kind: self.prompt_kind }
    }
}

impl StageParams for Params {
    fn validate(&self) -> Result<()> {
        count(self.samples, "samples", MOST_SAMPLES)?;
        count(self.max_samples.unwrap_or(1), "max_samples", MOST_SAMPLES)?;
        at_least_one(self.part_problems, "part_problems")?;
        at_least_one(self.part_samples, "part_samples")?;
        at_least_one(self.part_tokens, "part_tokens")?;
        adaptive::check(self)?;
        self.sampling(&[]).check()?;
        if self.prompt_kind == PromptKind::Imported {
            let error = Error::usage("`prompt_kind` is `imported`, and a rollout stage draws its samples");
            return Err(error.hint("write `plain` or `guided`"));
        }
        if let Some(hint) = &self.hint {
            if self.prompt_kind != PromptKind::Guided {
                return Err(Error::usage("`hint` is for guided rollouts").hint("prompt_kind = \"guided\""));
            }
            if !(hint.beta >= 0.0 && hint.beta.is_finite()) {
                return Err(Error::usage(format!("`beta` of `hint` is {}; it must be 0 or more", hint.beta)));
            }
        }
        if self.prompt_kind == PromptKind::Guided && self.template.is_none() {
            let error = Error::usage("a guided rollout needs a `template` that shows the expert solution");
            return Err(error.hint("pipelines/templates/guided.j2 is one"));
        }
        Ok(())
    }

    fn references(&self) -> Vec<Reference> {
        let mut references = vec![
            Reference::new("problems", &self.problems, Wants::Problems),
            Reference::new("policy", &self.policy, Wants::Policy),
        ];
        references.extend(self.unsolved.iter().map(|name| Reference::new("unsolved", name, Wants::Verdicts)));
        references
    }

    fn bind(&self, inputs: &Inputs) -> Result<Box<dyn Stage>> {
        let policy = inputs.policy(&self.policy)?;
        if self.hint.is_some() && !policy.runs_here() {
            return Err(Error::usage(format!("`hint` mixes two prompts, and servers run policy `{}`", policy.name))
                .hint("servers draw from one prompt: name a policy whose weights are here"));
        }
        let plain = self.hint.as_ref().map(|hint| inputs.template(hint.template.as_deref())).transpose()?;
        Ok(Box::new(RolloutStage {
            params: self.clone(),
            problems: inputs.table(&self.problems)?,
            unsolved: self.unsolved.iter().map(|name| inputs.table(name)).collect::<Result<_>>()?,
            same_problems: self.unsolved.iter().all(|name| {
                let origin = inputs.rollouts_name(name).and_then(|rollouts| inputs.origin(rollouts));
                origin.is_ok_and(|origin| origin.problems == self.problems)
            }),
            template: inputs.template(self.template.as_deref())?,
            plain,
            policy,
            adaptive: Adaptive::of(self, inputs)?,
            loaded: Lazy::default(),
            store: inputs.store.clone(),
        }))
    }

    fn footprint(&self) -> Option<Footprint<'_>> {
        Some(Footprint::of_engine(&self.policy))
    }

    fn lists(&mut self) -> Vec<(&'static str, &mut Vec<String>)> {
        vec![("unsolved", &mut self.unsolved)]
    }
}
