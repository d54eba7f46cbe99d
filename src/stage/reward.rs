//! reward: verdicts and what else is known of samples -> rewards.  One number per sample, by a formula of the pipeline's.

mod formula;
mod group;

use super::column::Numbers;
use super::cost::{Cost, Footprint, tokens};
use super::train::Highest;
use super::{Context, Inputs, Part, Reference, Stage, StageParams, Tick, Wants};
use crate::policy::{PolicyHandle, load_policy};
use candle_core::DType;
use mindgap_base::error::{Error, Result};
use mindgap_base::fingerprint::Recipe;
use mindgap_lm::model::ops::Segments;
use mindgap_lm::model::tensor_error;
use mindgap_lm::model::transformer::Transformer;
use mindgap_store::table::Row;
use mindgap_store::table::logprobs::Logprob;
use mindgap_store::table::rewards::Reward;
use mindgap_store::table::rollouts::Rollout;
use mindgap_store::table::soft::Soft;
use mindgap_store::table::verdicts::VerdictRow;
use mindgap_store::{PartRecord, PartRef, Span, Table};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::OnceLock;

const VERSION: u32 = 1;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// A judge stage: its samples are rewarded.
    pub verdicts: String,
    /// A minijinja expression. Known of every sample: `correct`, `eligible`, `complete` (1 or 0), `tokens`, and the share of
    /// correct samples of its problem as `correct_share`.
    #[serde(default = "correct")]
    pub formula: String,
    /// A logprob or soft stage over the same samples: gives `logprob`, the mean over a sample's tokens, and `likelihood`, where
    /// that stands among the correct samples of the problem (0 where the sample is not one).
    pub logprobs: Option<String>,
    /// A policy whose mean hidden states say how unlike each other samples are: gives `diversity`, what a sample adds to that of
    /// the correct samples of the problem (0 where it is not one).
    pub diversity: Option<String>,
    /// More numbers, by the name they have in the formula: columns of stages over the same samples.
    #[serde(default)]
    pub columns: BTreeMap<String, Highest>,
}

fn correct() -> String {
    "correct".to_string()
}

impl Params {
    /// What the formula may name.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = formula::KNOWN.map(str::to_string).to_vec();
        names.extend(self.logprobs.iter().flat_map(|_| formula::OF_LOGPROBS.map(str::to_string)));
        names.extend(self.diversity.iter().flat_map(|_| formula::OF_POLICY.map(str::to_string)));
        names.extend(self.columns.keys().cloned());
        names
    }
}

impl StageParams for Params {
    fn validate(&self) -> Result<()> {
        let taken = [&formula::KNOWN[..], &formula::OF_LOGPROBS, &formula::OF_POLICY].concat();
        if let Some(name) = self.columns.keys().find(|name| taken.contains(&name.as_str())) {
            return Err(Error::usage(format!("`columns` calls one `{name}`, which means something else"))
                .hint(format!("taken: {}", taken.join(", "))));
        }
        formula::with(&self.formula, &self.names(), |_| Ok(()))
    }

    fn references(&self) -> Vec<Reference> {
        let mut references = vec![Reference::new("verdicts", &self.verdicts, Wants::Verdicts)];
        references.extend(self.logprobs.iter().map(|name| Reference::new("logprobs", name, Wants::Scores)));
        references.extend(self.diversity.iter().map(|name| Reference::new("diversity", name, Wants::Policy)));
        references.extend(self.columns.values().map(|of| Reference::new("columns", &of.from, Wants::Table)));
        references
    }

    fn footprint(&self) -> Option<Footprint<'_>> {
        self.diversity.as_deref().map(Footprint::of_engine)
    }

    fn bind(&self, inputs: &Inputs) -> Result<Box<dyn Stage>> {
        let numbers = |stage: &str, column: &str| Numbers::of(inputs, stage, column);
        let logprobs = self.logprobs.as_deref().map(|stage| {
            let main = inputs.manifest(stage).and_then(|manifest| manifest.main_table.as_deref());
            numbers(stage, if main == Some(Soft::TABLE) { "logprob_teacher" } else { "logprob_policy" })
        });
        let columns = self.columns.iter().map(|(name, of)| Ok((name.clone(), numbers(&of.from, &of.column)?)));
        let policy = self.diversity.as_deref().map(|name| inputs.policy(name)).transpose()?;
        if let Some(policy) = policy.as_ref().filter(|policy| !policy.runs_here()) {
            return Err(Error::usage(format!("`diversity` names policy `{}`, which servers run", policy.name))
                .hint("servers do not tell hidden states: name a policy whose weights are here"));
        }
        Ok(Box::new(RewardStage {
            rollouts: inputs.table(inputs.rollouts_name(&self.verdicts)?)?,
            verdicts: inputs.table(&self.verdicts)?,
            logprobs: logprobs.transpose()?,
            columns: columns.collect::<Result<_>>()?,
            params: self.clone(),
            policy,
            loaded: OnceLock::new(),
        }))
    }
}

pub struct RewardStage {
    params: Params,
    rollouts: Table<Rollout>,
    verdicts: Table<VerdictRow>,
    logprobs: Option<Numbers>,
    columns: Vec<(String, Numbers)>,
    policy: Option<PolicyHandle>,
    loaded: OnceLock<Transformer>,
}

impl Stage for RewardStage {
    fn recipe(&self) -> Recipe {
        let recipe =
            Recipe::new("reward", VERSION).with("schema", Reward::VERSION).with("formula", &self.params.formula);
        match &self.policy {
            Some(policy) => recipe.with("policy", policy.digest()),
            None => recipe,
        }
    }

    fn main_table(&self) -> Option<&'static str> {
        Some(Reward::TABLE)
    }

    /// One for each run of rollout parts with the same problems: samples of a problem are compared.
    fn parts(&self) -> Result<Vec<Part>> {
        let of_run = |(index, run): (usize, Range<usize>)| {
            let parts = &self.rollouts.parts()[run];
            let first = parts.iter().map(|part| &part.first).min().cloned().unwrap_or_default();
            let last = parts.iter().map(|part| &part.last).max().cloned().unwrap_or_default();
            let mut key: Vec<String> = parts.iter().map(|part| part.content.to_string()).collect();
            let verdicts = self.verdicts.overlapping(&first, &last);
            key.extend(verdicts.contents().iter().map(|content| format!("verdicts {content}")));
            key.extend(self.logprobs.iter().flat_map(|numbers| numbers.contents(&first, &last)));
            for (name, numbers) in &self.columns {
                key.extend(numbers.contents(&first, &last).into_iter().map(|content| format!("{name} {content}")));
            }
            let rows = parts.iter().map(|part| part.rows).sum();
            Part { span: Span { first, last, samples: None }, key, rows, index }
        };
        Ok(runs(self.rollouts.parts()).into_iter().enumerate().map(of_run).collect())
    }

    fn cost(&self, missing: &[&Part], _rows: u64, _earlier: &[PartRecord]) -> Result<Option<Cost>> {
        let Some(policy) = &self.policy else { return Ok(None) };
        let runs = runs(self.rollouts.parts());
        let parts = missing.iter().flat_map(|part| &self.rollouts.parts()[runs[part.index].clone()]);
        tokens(parts).map(|tokens| Cost::new(policy, tokens, false)).transpose()
    }

    fn run_part(&self, context: &Context, part: &Part, _earlier: &[PartRecord]) -> Result<()> {
        let run = runs(self.rollouts.parts())[part.index].clone();
        let mut samples = Vec::new();
        for part in &self.rollouts.parts()[run] {
            samples.extend(self.rollouts.read(part)?);
        }
        samples.sort_by(|a, b| (&a.problem_id, a.sample_index).cmp(&(&b.problem_id, b.sample_index)));
        let verdicts = self.verdicts.overlapping(&part.span.first, &part.span.last).read_all()?;
        let verdicts: HashMap<(String, u32), VerdictRow> =
            verdicts.into_iter().map(|row| ((row.problem_id.clone(), row.sample_index), row)).collect();
        let logprobs = self.logprobs.as_ref().map(|numbers| Values::read(numbers, &part.span, Logprob::TABLE));
        let logprobs = logprobs.transpose()?;
        let columns =
            self.columns.iter().map(|(name, numbers)| Ok((name.as_str(), Values::read(numbers, &part.span, name)?)));
        let columns: Vec<(&str, Values)> = columns.collect::<Result<_>>()?;
        let mut rows = Vec::with_capacity(samples.len());
        formula::with(&self.params.formula, &self.params.names(), |formula| {
            for group in samples.chunk_by(|a, b| a.problem_id == b.problem_id) {
                context.check_cancelled()?;
                let facts = self.facts(context, group, &verdicts, logprobs.as_ref())?;
                for (sample, facts) in group.iter().zip(facts) {
                    let mut values = facts.values();
                    for (name, column) in &columns {
                        values.insert(name, column.of(sample)?);
                    }
                    let reward = formula.reward(&values).map_err(|e| e.at(place(sample)))?;
                    rows.push(facts.row(sample, reward));
                }
                let (done, total) = (rows.len() as u64, samples.len() as u64);
                (context.tick)(Tick { rows_done: done, rows_total: total, ..Tick::default() });
            }
            Ok(())
        })?;
        context.store(&rows)
    }
}

/// What is known of a sample.
struct Facts {
    correct: bool,
    eligible: bool,
    complete: bool,
    correct_share: f64,
    tokens: usize,
    logprob: Option<f64>,
    likelihood: Option<f64>,
    diversity: Option<f64>,
}

impl Facts {
    fn values(&self) -> BTreeMap<&str, f64> {
        let flag = |truth: bool| f64::from(u8::from(truth));
        BTreeMap::from([
            ("correct", flag(self.correct)),
            ("eligible", flag(self.eligible)),
            ("complete", flag(self.complete)),
            ("correct_share", self.correct_share),
            ("tokens", self.tokens as f64),
            ("logprob", self.logprob.unwrap_or_default()),
            ("likelihood", self.likelihood.unwrap_or_default()),
            ("diversity", self.diversity.unwrap_or_default()),
        ])
    }

    fn row(&self, sample: &Rollout, reward: f64) -> Reward {
        Reward {
            problem_id: sample.problem_id.clone(),
            sample_index: sample.sample_index,
            reward,
            correct: self.correct,
            token_count: self.tokens as u32,
            logprob: self.logprob,
            likelihood: self.likelihood,
            diversity: self.diversity,
        }
    }
}

impl RewardStage {
    /// What is known of the samples of one problem.
    fn facts(
        &self,
        context: &Context,
        group: &[Rollout],
        verdicts: &HashMap<(String, u32), VerdictRow>,
        logprobs: Option<&Values>,
    ) -> Result<Vec<Facts>> {
        let mut facts = Vec::with_capacity(group.len());
        for sample in group {
            let verdict = verdicts.get(&(sample.problem_id.clone(), sample.sample_index));
            let verdict = verdict.ok_or_else(|| Error::internal("a sample without a verdict").at(place(sample)))?;
            // Nothing was said, so nothing was likely.
            let logprob = logprobs.filter(|_| !sample.token_ids.is_empty());
            facts.push(Facts {
                correct: verdict.verdict.is_correct(),
                eligible: verdict.eligible,
                complete: sample.stop_reason.is_complete(),
                correct_share: 0.0,
                tokens: sample.token_ids.len(),
                logprob: logprob.map(|logprobs| logprobs.of(sample)).transpose()?,
                likelihood: None,
                diversity: None,
            });
        }
        let correct: Vec<usize> = (0..group.len()).filter(|index| facts[*index].correct).collect();
        let share = correct.len() as f64 / group.len().max(1) as f64;
        facts.iter_mut().for_each(|facts| facts.correct_share = share);
        if logprobs.is_some() {
            let own: Vec<f64> = correct.iter().map(|index| facts[*index].logprob.unwrap_or_default()).collect();
            for (index, likelihood) in correct.iter().zip(group::likelihoods(&own)) {
                facts[*index].likelihood = Some(likelihood);
            }
        }
        if let Some(policy) = &self.policy {
            let correct_samples: Vec<&Rollout> = correct.iter().map(|index| &group[*index]).collect();
            let embedded = self.embed(policy, context, &correct_samples)?;
            for (index, diversity) in correct.iter().zip(group::diversities(&embedded)) {
                facts[*index].diversity = Some(diversity);
            }
        }
        Ok(facts)
    }

    /// The mean of the policy's last hidden states over each completion, given its prompt.
    fn embed(&self, policy: &PolicyHandle, context: &Context, samples: &[&Rollout]) -> Result<Vec<Vec<f32>>> {
        let transformer = match self.loaded.get() {
            Some(transformer) => transformer,
            None => {
                let loaded = load_policy(policy)?.transformer(DType::F32, context.device)?;
                self.loaded.get_or_init(|| loaded)
            }
        };
        let embed = |sample: &&Rollout| {
            let ids = [&sample.prompt_ids[..], &sample.token_ids].concat();
            let hidden = transformer.hidden(&ids, &Segments::new(&[ids.len()]))?;
            let own = hidden.narrow(0, sample.prompt_ids.len(), sample.token_ids.len());
            own.and_then(|own| own.mean(0)?.to_dtype(DType::F32)?.to_vec1()).map_err(tensor_error)
        };
        samples.iter().map(|sample| embed(sample).map_err(|e| e.at(place(sample)))).collect()
    }
}

/// Numbers of samples.
struct Values<'a> {
    name: &'a str,
    by_sample: HashMap<(String, u32), f64>,
}

impl<'a> Values<'a> {
    fn read(numbers: &Numbers, span: &Span, name: &'a str) -> Result<Values<'a>> {
        let mut by_sample = HashMap::new();
        for number in numbers.read(span)? {
            if let Some(index) = number.sample_index.or(number.choice_index) {
                by_sample.insert((number.problem_id, index), number.value);
            }
        }
        Ok(Values { name, by_sample })
    }

    fn of(&self, sample: &Rollout) -> Result<f64> {
        self.by_sample.get(&(sample.problem_id.clone(), sample.sample_index)).copied().ok_or_else(|| {
            Error::input(format!("the sample has no value in `{}`", self.name))
                .at(place(sample))
                .hint("the stage that is named must be over the same samples")
        })
    }
}

fn place(sample: &Rollout) -> String {
    format!("problem `{}`, sample {}", sample.problem_id, sample.sample_index)
}

/// Runs of parts that share problems.
fn runs(parts: &[PartRef]) -> Vec<Range<usize>> {
    let (mut runs, mut last): (Vec<Range<usize>>, &str) = (Vec::new(), "");
    for (index, part) in parts.iter().enumerate() {
        match runs.last_mut().filter(|_| *part.first <= *last) {
            Some(run) => run.end = index + 1,
            None => runs.push(index..index + 1),
        }
        last = last.max(&part.last);
    }
    runs
}
