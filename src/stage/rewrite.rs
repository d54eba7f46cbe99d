//! rewrite: problems + samples with their verdicts -> rewrites.  Self-aligned over guided over the expert's solution.
//!
//! Without any verdicts named, every target is the expert's: the off-policy baseline. A problem with neither a correct
//! sample nor an expert solution is listed in `untargeted`, never dropped.

mod samples;

use super::buckets::{at_least_one, group};
use super::template::Template;
use super::{Context, Inputs, Part, Reference, Stage, StageParams, Wants};
use crate::policy::PolicyHandle;
use crate::policy::load_policy;
use mindgap_base::error::{Error, Result};
use mindgap_base::fingerprint::Recipe;
use mindgap_base::rng::Stream;
use mindgap_lm::model::chat::Conversation;
use mindgap_lm::model::policy::Policy;
use mindgap_store::table::Row;
use mindgap_store::table::logprobs::Logprob;
use mindgap_store::table::problems::Problem;
use mindgap_store::table::rewrites::{Refused, Rewrite, Source, Untargeted};
use mindgap_store::table::rollouts::Rollout;
use mindgap_store::{PartRecord, Span, Table};
use samples::{Candidate, Judged, Likelihoods, Samples};
use serde::{Deserialize, Serialize};

const VERSION: u32 = 2;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    pub problems: String,
    /// Tokenizer and chat template of the training rows.
    pub policy: String,
    /// Verdicts of plain rollouts.
    #[serde(default)]
    pub self_aligned: Vec<String>,
    /// Verdicts of guided rollouts.
    #[serde(default)]
    pub guided: Vec<String>,
    /// Prompt template of the training prompt; the problem alone where none is named.
    pub template: Option<String>,
    #[serde(default)]
    pub choice: Choice,
    /// Log-probs, given the training prompt and under `policy`, of guided samples and of the expert's solutions: logprob stages.
    /// Guided samples are ranked by them, and refused where they are no likelier per token than the expert's solution.
    #[serde(default)]
    pub logprobs: Vec<String>,
    /// Take the expert's solution where no sample is fit. Without, such a problem has no row here.
    #[serde(default = "yes")]
    pub fallback: bool,
    /// Targets kept per problem, at most.
    #[serde(default = "one")]
    pub keep: u32,
    /// Seed of the random choice.
    #[serde(default)]
    pub seed: u64,
    #[serde(default)]
    pub round: u32,
    /// Problems per part, on average; no fewer than the problems table has per part.
    #[serde(default = "part_problems")]
    pub part_problems: u32,
}

/// Which correct samples are kept.
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
}

fn one() -> u32 {
    1
}
fn yes() -> bool {
    true
}
fn part_problems() -> u32 {
    1024
}

impl StageParams for Params {
    fn validate(&self) -> Result<()> {
        at_least_one(self.keep, "keep")?;
        at_least_one(self.part_problems, "part_problems")
    }

    fn references(&self) -> Vec<Reference> {
        let mut references = vec![
            Reference::new("problems", &self.problems, Wants::Problems),
            Reference::new("policy", &self.policy, Wants::Policy),
        ];
        references.extend(self.self_aligned.iter().map(|name| Reference::new("self_aligned", name, Wants::Verdicts)));
        references.extend(self.guided.iter().map(|name| Reference::new("guided", name, Wants::Verdicts)));
        references.extend(self.logprobs.iter().map(|name| Reference::new("logprobs", name, Wants::Logprobs)));
        references
    }

    fn bind(&self, inputs: &Inputs) -> Result<Box<dyn Stage>> {
        let judged = |names: &[String]| -> Result<Vec<Judged>> {
            let pair = |name: &String| {
                Ok(Judged { rollouts: inputs.table(inputs.rollouts_name(name)?)?, verdicts: inputs.table(name)? })
            };
            names.iter().map(pair).collect()
        };
        Ok(Box::new(RewriteStage {
            params: self.clone(),
            problems: inputs.table(&self.problems)?,
            self_aligned: judged(&self.self_aligned)?,
            guided: judged(&self.guided)?,
            logprobs: self.logprobs.iter().map(|name| inputs.table(name)).collect::<Result<_>>()?,
            template: inputs.template(self.template.as_deref())?,
            policy: inputs.policy(&self.policy)?,
        }))
    }

    fn lists(&mut self) -> Vec<(&'static str, &mut Vec<String>)> {
        vec![("self_aligned", &mut self.self_aligned), ("guided", &mut self.guided), ("logprobs", &mut self.logprobs)]
    }
}

pub struct RewriteStage {
    params: Params,
    problems: Table<Problem>,
    self_aligned: Vec<Judged>,
    guided: Vec<Judged>,
    logprobs: Vec<Table<Logprob>>,
    template: Template,
    policy: PolicyHandle,
}

impl Stage for RewriteStage {
    /// Of the policy only tokenizer and template matter: rewrites do not change when it is trained further.
    fn recipe(&self) -> Recipe {
        let p = &self.params;
        let recipe = Recipe::new("rewrite", VERSION)
            .with("schema", Rewrite::VERSION)
            .with("tokenizer", self.policy.tokenizer_digest())
            .with("choice", p.choice)
            .with("keep", p.keep)
            .with("seed", p.seed)
            .with("round", p.round);
        let recipe = self.template.name_in(recipe);
        match p.fallback {
            true => recipe,
            false => recipe.with("fallback", false),
        }
    }

    fn main_table(&self) -> Option<&'static str> {
        Some(Rewrite::TABLE)
    }

    fn parts(&self) -> Result<Vec<Part>> {
        let mut parts = Vec::new();
        for range in group(self.problems.parts(), self.params.part_problems) {
            let problems = &self.problems.parts()[range];
            let (first, last) = (problems[0].first.clone(), problems[problems.len() - 1].last.clone());
            let mut key: Vec<String> = problems.iter().map(|part| part.content.to_string()).collect();
            for (source, judged) in [(Source::SelfAligned, &self.self_aligned), (Source::Guided, &self.guided)] {
                for judged in judged {
                    key.push(source.to_string());
                    key.extend(judged.rollouts.overlapping(&first, &last).contents().iter().map(ToString::to_string));
                    key.extend(judged.verdicts.overlapping(&first, &last).contents().iter().map(ToString::to_string));
                }
            }
            for logprobs in &self.logprobs {
                key.push("logprobs".to_string());
                key.extend(logprobs.overlapping(&first, &last).contents().iter().map(ToString::to_string));
            }
            let span = Span { first, last, samples: None };
            let rows = problems.iter().map(|part| part.rows).sum();
            parts.push(Part { span, key, rows, index: parts.len() });
        }
        Ok(parts)
    }

    fn cut(&self) -> Recipe {
        Recipe::default().with("part_problems", self.params.part_problems)
    }

    fn run_part(&self, context: &Context, part: &Part, _earlier: &[PartRecord]) -> Result<()> {
        let policy = load_policy(&self.policy)?;
        let plain = Samples::read(&self.self_aligned, &part.span)?;
        let guided = Samples::read(&self.guided, &part.span)?;
        let likelihoods = Likelihoods::read(&self.logprobs, &part.span)?;
        let problems = self.problems.overlapping(&part.span.first, &part.span.last);
        let (mut rewrites, mut untargeted, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        for problem in &problems.read_all()? {
            let attempts = plain.attempts(problem) + guided.attempts(problem);
            let samples = [
                (Source::SelfAligned, plain.correct(problem, Source::SelfAligned, &likelihoods)),
                (Source::Guided, guided.correct(problem, Source::Guided, &likelihoods)),
            ];
            for (source, samples) in &samples {
                refused.extend(samples.iter().filter_map(|sample| {
                    Some(Refused {
                        problem_id: problem.problem_id.clone(),
                        source: *source,
                        sample_index: sample.rollout.sample_index,
                        reason: sample.refused?,
                    })
                }));
            }
            let rows = self.targets(&policy, problem, attempts, samples)?;
            if rows.is_empty() && self.params.fallback {
                let reason = match attempts {
                    0 => "no samples and no expert solution",
                    _ => "no sample to choose and no expert solution",
                };
                let problem_id = problem.problem_id.clone();
                untargeted.push(Untargeted { problem_id, attempts, reason: reason.to_string() });
            }
            rewrites.extend(rows);
        }
        context.store(&rewrites)?;
        context.store(&untargeted)?;
        context.store(&refused)
    }
}

impl RewriteStage {
    fn targets(
        &self,
        policy: &Policy,
        problem: &Problem,
        attempts: u32,
        samples: [(Source, Vec<Candidate>); 2],
    ) -> Result<Vec<Rewrite>> {
        let place = || format!("problem `{}`", problem.problem_id);
        let shown = self.template.render(problem)?;
        let prompt = policy.prompt(&shown).map_err(|e| e.at(place()))?;
        let conversation = (!shown.is_plain()).then(|| serde_json::to_string(&shown).expect("plain data"));
        let row = |choice_index: usize, source: Source, completion: &str, token_ids: Vec<u32>| Rewrite {
            problem_id: problem.problem_id.clone(),
            choice_index: choice_index as u32,
            source,
            prompt: shown.question().to_string(),
            completion: completion.to_string(),
            prompt_ids: prompt.ids.clone(),
            token_ids,
            logprob_behavior: None,
            sample_index: None,
            round: self.params.round,
            attempts,
            conversation: conversation.clone(),
        };
        for (source, samples) in samples {
            let chosen = self.choose(problem, samples).map_err(|e| e.at(place()))?;
            if !chosen.is_empty() {
                chosen.iter().try_for_each(|sample| fits(sample, &shown)).map_err(|e| e.at(place()))?;
                let rewrite = |(index, rollout): (usize, &Rollout)| Rewrite {
                    logprob_behavior: rollout.logprob_behavior.clone(),
                    sample_index: Some(rollout.sample_index),
                    ..row(index, source, &rollout.completion, rollout.token_ids.clone())
                };
                return Ok(chosen.into_iter().enumerate().map(rewrite).collect());
            }
        }
        match problem.solution.as_ref().filter(|_| self.params.fallback) {
            Some(solution) => {
                let solution = shown.behind_prefill(solution);
                let token_ids = policy.target_ids(&prompt, &solution).map_err(|e| e.at(place()))?;
                Ok(vec![row(0, Source::Expert, &solution, token_ids)])
            }
            None => Ok(Vec::new()),
        }
    }

    fn choose<'a>(&self, problem: &Problem, correct: Vec<Candidate<'a>>) -> Result<Vec<&'a Rollout>> {
        let mut fit: Vec<Candidate> = correct.into_iter().filter(|sample| sample.refused.is_none()).collect();
        match self.params.choice {
            Choice::First => {}
            Choice::Random => {
                Stream::at(self.params.seed, &[b"choice", problem.problem_id.as_bytes()]).cursor().shuffle(&mut fit);
            }
            Choice::Likeliest => {
                if let Some(sample) = fit.iter().find(|sample| sample.likelihood.is_none()) {
                    let index = sample.rollout.sample_index;
                    return Err(Error::input(format!("no log-probs of guided sample {index} are there to rank it by"))
                        .hint(
                            "name in `logprobs` a logprob stage over a rewrite stage that keeps all guided samples",
                        ));
                }
                fit.sort_by(|a, b| b.likelihood.partial_cmp(&a.likelihood).expect("log-probs are finite"));
            }
        }
        fit.truncate(self.params.keep as usize);
        Ok(fit.into_iter().map(|sample| sample.rollout).collect())
    }
}

/// A sample's tokens stand behind the prefill it was drawn with, and can be trained on behind no other.
fn fits(sample: &Rollout, shown: &Conversation) -> Result<()> {
    let drawn = sample.prefill.as_deref().unwrap_or_default();
    match drawn == shown.prefill {
        true => Ok(()),
        false => Err(Error::usage(format!(
            "sample {} begins with the prefill `{drawn}`, the training prompt with `{}`",
            sample.sample_index, shown.prefill
        ))
        .hint("give the rewrite stage and the rollouts templates with the same `prefill`")),
    }
}
