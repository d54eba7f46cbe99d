//! rewrite: problems + samples with their verdicts -> rewrites.  Self-aligned over guided over samples from elsewhere over the
//! expert's solution.
//!
//! Without any verdicts named, every target is the expert's: the off-policy baseline. A problem with neither a correct
//! sample nor an expert solution is listed in `untargeted`, never dropped. What became of every correct sample is in
//! `candidates`.

mod choice;
mod samples;
mod target;
mod thoughts;

use super::buckets::{at_least_one, group};
use super::column::{ColumnOf, Numbers};
use super::template::Template;
use super::{Context, Inputs, Part, Reference, Stage, StageParams, Wants};
use crate::policy::PolicyHandle;
use crate::policy::load_policy;
use choice::Rule;
use mindgap_base::error::{Error, Result};
use mindgap_base::fingerprint::Recipe;
use mindgap_store::table::Row;
use mindgap_store::table::logprobs::Logprob;
use mindgap_store::table::problems::Problem;
use mindgap_store::table::rewrites::{Rewrite, Source};
use mindgap_store::{PartRecord, Span, Table};
use samples::{Judged, Likelihoods, Limits, Samples};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use target::{Maker, Rows};
use thoughts::Thoughts;

pub use choice::{Choice, Rank};

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
    /// Verdicts of samples from elsewhere: of another policy's rollouts, or imported ones. Where their tokens are of another
    /// tokenizer, their text is encoded anew.
    #[serde(default)]
    pub teacher: Vec<String>,
    /// The sources in the order in which they are asked for a problem's target. Sources in an inner list are asked as one.
    #[serde(default = "choice::order")]
    pub order: Vec<Rank>,
    /// Prompt template of the training prompt; the problem alone where none is named.
    pub template: Option<String>,
    #[serde(default)]
    pub choice: Choice,
    /// What `choice = "score"` goes by: a column of stages that have a row for every sample.
    pub score: Option<ColumnOf>,
    /// Log-probs, given the training prompt and under `policy`, of samples that were not drawn given it and of the expert's
    /// solutions: logprob stages. Such samples are ranked by them, and refused where they are no likelier per token than the
    /// expert's solution.
    #[serde(default)]
    pub logprobs: Vec<String>,
    /// Whether targets keep the thoughts in front of their answers, or drop them.
    #[serde(default)]
    pub thoughts: Thoughts,
    /// Take the expert's solution where no sample is fit. Without, such a problem has no row here.
    #[serde(default = "yes")]
    pub fallback: bool,
    /// Targets kept per problem, at most.
    #[serde(default = "one")]
    pub keep: u32,
    /// Of samples with equal texts, white space aside, keep one.
    #[serde(default = "yes")]
    pub distinct: bool,
    /// Tokens of a target, at most.
    pub max_tokens: Option<u32>,
    /// Mean log-prob per token of a sample given the training prompt, at least.
    pub min_logprob: Option<f64>,
    /// Seed of the random choice.
    #[serde(default)]
    pub seed: u64,
    #[serde(default)]
    pub round: u32,
    /// Problems per part, on average; no fewer than the problems table has per part.
    #[serde(default = "part_problems")]
    pub part_problems: u32,
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

impl Params {
    /// The verdict stages of each source of samples, and the parameter that names them.
    pub fn judged(&self) -> [(Source, &'static str, &Vec<String>); 3] {
        [
            (Source::SelfAligned, "self_aligned", &self.self_aligned),
            (Source::Guided, "guided", &self.guided),
            (Source::Teacher, "teacher", &self.teacher),
        ]
    }

    /// Every target is the expert's.
    pub fn is_baseline(&self) -> bool {
        self.judged().iter().all(|(_, _, verdicts)| verdicts.is_empty())
    }

    /// What is chosen, for people.
    pub fn rule_in_words(&self) -> String {
        let choice = match (self.choice, &self.score) {
            (Choice::First, _) => "first".to_string(),
            (Choice::Random, _) => "random".to_string(),
            (Choice::Likeliest, _) => "likeliest".to_string(),
            (Choice::Shortest, _) => "shortest".to_string(),
            (Choice::Score, score) => {
                format!("highest {}", score.as_ref().map_or("score", |score| score.column.as_str()))
            }
        };
        let mut words = vec![choice];
        words.extend((self.keep > 1).then(|| format!("up to {}", self.keep)));
        words.extend(self.max_tokens.map(|most| format!("at most {most} tokens")));
        words.extend(self.min_logprob.map(|least| format!("log p at least {least}")));
        words.join(", ")
    }

    fn rule(&self) -> Rule {
        Rule { choice: self.choice, keep: self.keep as usize, distinct: self.distinct, seed: self.seed }
    }

    fn limits(&self) -> Limits {
        Limits { max_tokens: self.max_tokens, min_logprob: self.min_logprob }
    }
}

impl StageParams for Params {
    fn validate(&self) -> Result<()> {
        at_least_one(self.keep, "keep")?;
        at_least_one(self.part_problems, "part_problems")?;
        at_least_one(self.max_tokens.unwrap_or(1), "max_tokens")?;
        choice::check_order(&self.order)?;
        let asked = |source: &Source| self.order.iter().any(|rank| rank.sources().contains(source));
        for (source, field, verdicts) in self.judged() {
            if !verdicts.is_empty() && !asked(&source) {
                return Err(Error::usage(format!("`{field}` names verdicts, and `order` has no `{source}`"))
                    .hint("a source that is not in `order` is never asked"));
            }
        }
        if self.min_logprob.is_some_and(|least| !(least <= 0.0 && least.is_finite())) {
            return Err(Error::usage("`min_logprob` must be a log-prob: 0 or below"));
        }
        if (self.choice == Choice::Score) != self.score.is_some() {
            return Err(Error::usage("`choice = \"score\"` and `score` belong together")
                .hint("choice = \"score\" with score = { from = [\"STAGE\"], column = \"COLUMN\" }"));
        }
        let pooled = |rank: &Rank| rank.sources().len() > 1 && rank.sources().contains(&Source::Expert);
        match self.choice == Choice::Score && self.fallback && self.order.iter().any(pooled) {
            true => {
                Err(Error::usage("`order` asks the expert along with samples, and the expert's solution has no score")
                    .hint("give `expert` a place of its own in `order`"))
            }
            false => Ok(()),
        }
    }

    fn references(&self) -> Vec<Reference> {
        let mut references = vec![
            Reference::new("problems", &self.problems, Wants::Problems),
            Reference::new("policy", &self.policy, Wants::Policy),
        ];
        for (_, field, verdicts) in self.judged() {
            references.extend(verdicts.iter().map(|name| Reference::new(field, name, Wants::Verdicts)));
        }
        references.extend(self.logprobs.iter().map(|name| Reference::new("logprobs", name, Wants::Logprobs)));
        let scores = self.score.iter().flat_map(|score| &score.from);
        references.extend(scores.map(|name| Reference::new("score", name, Wants::Table)));
        references
    }

    fn bind(&self, inputs: &Inputs) -> Result<Box<dyn Stage>> {
        let policy = inputs.policy(&self.policy)?;
        let judged = self.judged().map(|(source, _, verdicts)| {
            let judged = verdicts.iter().map(|name| self.judged_samples(inputs, source, name, &policy));
            Ok((source, judged.collect::<Result<Vec<Judged>>>()?))
        });
        Ok(Box::new(RewriteStage {
            params: self.clone(),
            problems: inputs.table(&self.problems)?,
            judged: judged.into_iter().collect::<Result<_>>()?,
            logprobs: self.logprobs.iter().map(|name| inputs.table(name)).collect::<Result<_>>()?,
            template: inputs.template(self.template.as_deref())?,
            policy,
        }))
    }

    fn lists(&mut self) -> Vec<(&'static str, &mut Vec<String>)> {
        let mut lists = vec![
            ("self_aligned", &mut self.self_aligned),
            ("guided", &mut self.guided),
            ("teacher", &mut self.teacher),
            ("logprobs", &mut self.logprobs),
        ];
        lists.extend(self.score.iter_mut().map(|score| ("score", &mut score.from)));
        lists
    }
}

impl Params {
    /// The samples behind a verdict stage, and their scores: those of stages that know them by their tokens, and of stages about
    /// the same rollouts.
    fn judged_samples(&self, inputs: &Inputs, source: Source, name: &str, policy: &PolicyHandle) -> Result<Judged> {
        let rollouts = inputs.rollouts_name(name)?;
        let drawn_by = inputs.policy(inputs.policy_of(rollouts)?)?;
        let is_foreign = source == Source::Teacher && drawn_by.tokenizer_digest() != policy.tokenizer_digest();
        let mut scores = Vec::new();
        if let Some(ColumnOf { from, column }) = &self.score {
            for stage in from {
                let about = inputs.rollouts_name(stage).unwrap_or(stage);
                let numbers = Numbers::of(inputs, stage, column)?;
                scores.extend((about == rollouts || numbers.knows_tokens()).then_some(numbers));
            }
        }
        Ok(Judged { rollouts: inputs.table(rollouts)?, verdicts: inputs.table(name)?, scores, is_foreign })
    }
}

pub struct RewriteStage {
    params: Params,
    problems: Table<Problem>,
    judged: BTreeMap<Source, Vec<Judged>>,
    logprobs: Vec<Table<Logprob>>,
    template: Template,
    policy: PolicyHandle,
}

impl Stage for RewriteStage {
    /// Of the policy only tokenizer and template matter: rewrites do not change when it is trained further. Parameters that do
    /// nothing where they are what they were before there were any are named only where they do.
    fn recipe(&self) -> Recipe {
        let p = &self.params;
        let recipe = Recipe::new("rewrite", VERSION)
            .with("schema", Rewrite::VERSION)
            .with("tokenizer", self.policy.tokenizer_digest())
            .with("choice", p.choice)
            .with("keep", p.keep)
            .with("seed", p.seed)
            .with("round", p.round);
        let mut recipe = self.template.name_in(recipe);
        let mut name = |is_named: bool, name: &str, value: serde_json::Value| {
            if is_named {
                recipe = std::mem::take(&mut recipe).with(name, value);
            }
        };
        name(!p.fallback, "fallback", false.into());
        name(p.thoughts == Thoughts::Drop, "thoughts", json!(p.thoughts));
        name(p.order != choice::order(), "order", json!(p.order));
        name(p.rule().looks_for_equal_texts(), "distinct", true.into());
        name(p.max_tokens.is_some(), "max_tokens", json!(p.max_tokens));
        name(p.min_logprob.is_some(), "min_logprob", json!(p.min_logprob));
        name(p.score.is_some(), "score", json!(p.score.as_ref().map(|score| &score.column)));
        name(self.judged.values().any(|judged| judged.len() > 1), "stages", true.into());
        recipe
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
            for (source, _, _) in self.params.judged() {
                for judged in &self.judged[&source] {
                    key.push(source.to_string());
                    key.extend(judged.contents(&first, &last));
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
        let samples =
            self.params.judged().map(|(source, _, _)| Samples::read(source, &self.judged[&source], &part.span));
        let samples = samples.into_iter().collect::<Result<Vec<Samples>>>()?;
        let likelihoods = Likelihoods::read(&self.logprobs, &part.span)?;
        let problems = self.problems.overlapping(&part.span.first, &part.span.last);
        let maker =
            Maker { params: &self.params, template: &self.template, policy: &policy, likelihoods: &likelihoods };
        let mut rows = Rows::default();
        for problem in &problems.read_all()? {
            maker
                .choose(problem, &samples, &mut rows)
                .map_err(|e| e.at(format!("problem `{}`", problem.problem_id)))?;
        }
        context.store(&rows.rewrites)?;
        context.store(&rows.untargeted)?;
        context.store(&rows.refused)?;
        context.store(&rows.candidates)
    }
}
