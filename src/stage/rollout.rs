//! rollout: problems + policy -> rollouts.  Plain, or guided: on problems not solved yet, with the expert solution shown.
//!
//! Samples and nothing else: what is drawn is kept, right or wrong. With `until_correct` a problem is asked again, in waves, only
//! while too few of its samples are right. Cost: generated tokens.

mod adaptive;
mod draw;
mod work;

use super::backend::{Lazy, abreast, few_failed};
use super::buckets::{at_least_one, count, group, slices};
use super::cost::{Cost, Footprint, tokens};
use super::spec::Origin;
use super::template::Template;
use super::{Context, Inputs, Part, Reference, Stage, StageParams, Wants, Work};
use crate::policy::{PolicyHandle, left_out};
use adaptive::Adaptive;
use mindgap_base::error::{Error, Result};
use mindgap_base::fingerprint::{Fingerprint, Recipe};
use mindgap_lm::engine::{self, Sampling};
use mindgap_lm::model::chat::Conversation;
use mindgap_store::table::Row;
use mindgap_store::table::problems::Problem;
use mindgap_store::table::rollouts::{PromptKind, Rollout, StopReason};
use mindgap_store::table::verdicts::{Verdict, VerdictRow};
use mindgap_store::{PartRecord, PartRef, Span, Store, Table};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use work::overlaps;

const VERSION: u32 = 1;
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
    fn sampling(&self, eos: &[u32]) -> Sampling {
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
}

impl Params {
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
            plain,
            problems: inputs.table(&self.problems)?,
            unsolved: self.unsolved.iter().map(|name| inputs.table(name)).collect::<Result<_>>()?,
            same_problems: self.unsolved.iter().all(|name| {
                let origin = inputs.rollouts_name(name).and_then(|rollouts| inputs.origin(rollouts));
                origin.is_ok_and(|origin| origin.problems == self.problems)
            }),
            template: inputs.template(self.template.as_deref())?,
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

/// One problem to be sampled: its id and what the policy is shown.
struct Task {
    problem_id: String,
    shown: Conversation,
    /// The prompt without its hint, where tokens are drawn from both.
    plain: Option<Conversation>,
}

impl Task {
    fn place(&self) -> String {
        format!("problem `{}`", self.problem_id)
    }

    /// What a sample goes on after.
    fn prompt(&self) -> &Conversation {
        self.plain.as_ref().unwrap_or(&self.shown)
    }

    fn prefill(&self) -> Option<String> {
        Some(self.prompt().prefill.clone()).filter(|prefill| !prefill.is_empty())
    }
}

pub struct RolloutStage {
    params: Params,
    problems: Table<Problem>,
    unsolved: Vec<Table<VerdictRow>>,
    /// What is unsolved was drawn for these problems and no others.
    same_problems: bool,
    template: Template,
    /// Without the hint.
    plain: Option<Template>,
    policy: PolicyHandle,
    adaptive: Option<Adaptive>,
    loaded: Lazy,
    store: Store,
}

impl Stage for RolloutStage {
    fn abreast(&self) -> usize {
        abreast(&self.policy)
    }

    fn recipe(&self) -> Recipe {
        let p = &self.params;
        let recipe = Recipe::new("rollout", VERSION)
            .with("schema", Rollout::VERSION)
            .with("policy", self.policy.digest())
            .with("prompt_kind", p.prompt_kind)
            .with("temperature", p.temperature)
            .with("top_p", p.top_p)
            .with("top_k", p.top_k)
            .with("min_p", p.min_p)
            .with("max_new_tokens", p.max_new_tokens)
            .with("stop", &p.stop)
            .with("seed", p.seed);
        let recipe = self.template.name_in(recipe);
        match (&p.hint, &self.plain) {
            (Some(hint), Some(plain)) => recipe.with("hint", (hint.beta, plain.text())),
            _ => recipe,
        }
    }

    fn main_table(&self) -> Option<&'static str> {
        Some(Rollout::TABLE)
    }

    /// Groups of the problems table's parts, cut where they are too large, times ranges of samples. Nothing is read: what a part
    /// holds follows from its problems' and their verdicts' content addresses.
    fn parts(&self) -> Result<Vec<Part>> {
        let p = &self.params;
        let mut parts = Vec::new();
        for range in group(self.problems.parts(), p.part_problems) {
            let problems = &self.problems.parts()[range];
            let (first, last) = (&problems[0].first, &problems[problems.len() - 1].last);
            let count: u64 = problems.iter().map(|part| part.rows).sum();
            let (most, part_samples) = match &self.adaptive {
                // Whether a sample is drawn depends on those before it.
                Some(adaptive) => (adaptive.most, adaptive.most),
                None => (p.samples, p.part_samples),
            };
            let tokens = count * u64::from(most.min(p.part_samples)) * u64::from(p.max_new_tokens);
            let slices = slices(first, last, tokens.div_ceil(u64::from(p.part_tokens)).clamp(1, count.max(1)));
            for (number, (first, last)) in slices.iter().enumerate() {
                let mut contents: Vec<String> = problems.iter().map(|part| part.content.to_string()).collect();
                if slices.len() > 1 {
                    contents.push(format!("slice {number} of {}", slices.len()));
                }
                for verdicts in &self.unsolved {
                    contents.push("unsolved".to_string());
                    contents.extend(verdicts.overlapping(first, last).contents().iter().map(ToString::to_string));
                }
                contents.extend(self.adaptive.as_ref().map(|adaptive| adaptive.key.clone()));
                for from in (0..most).step_by(part_samples as usize) {
                    let to = (from + part_samples).min(most);
                    let span = Span { first: first.clone(), last: last.clone(), samples: Some((from, to)) };
                    let mut key = contents.clone();
                    key.push(samples_key(from, to));
                    let rows = count * u64::from(to - from) / slices.len() as u64;
                    parts.push(Part { span, key, rows, index: parts.len() });
                }
            }
        }
        Ok(parts)
    }

    fn cut(&self) -> Recipe {
        let p = &self.params;
        let cut = Recipe::default()
            .with("samples", p.samples)
            .with("part_problems", p.part_problems)
            .with("part_samples", p.part_samples)
            .with("part_tokens", p.part_tokens);
        match &self.adaptive {
            Some(adaptive) => cut.with("until_correct", &adaptive.key).with("max_samples", adaptive.most),
            None => cut,
        }
    }

    fn run_part(&self, context: &Context, part: &Part, earlier: &[PartRecord]) -> Result<()> {
        let loaded = self.loaded.get(&self.policy, context)?;
        let mut known = self.known_rows(part, earlier)?;
        for row in context.journal.read::<Rollout>()? {
            known.insert((row.problem_id.clone(), row.sample_index), row);
        }
        let tasks = self.tasks(part)?;
        let mut rows = match &self.adaptive {
            None => {
                let (from, to) = part.span.samples.expect("a rollout part has a sample range");
                self.draw(context, &loaded, &mut known, &tasks.iter().collect::<Vec<_>>(), from..to)?
            }
            Some(adaptive) => self.draw_in_waves(adaptive, context, &loaded, &mut known, &tasks, &part.span)?,
        };
        few_failed(rows.iter().map(|row| row.failure.as_ref()), earlier, Rollout::TABLE)?;
        rows.sort_by(|a, b| (&a.problem_id, a.sample_index).cmp(&(&b.problem_id, b.sample_index)));
        context.store(&rows)
    }

    fn cost(&self, missing: &[&Part], rows: u64, earlier: &[PartRecord]) -> Result<Option<Cost>> {
        let drawn: Vec<&PartRef> = earlier.iter().filter_map(|r| r.tables.get(Rollout::TABLE)).flatten().collect();
        let count: u64 = drawn.iter().map(|part| part.rows).sum();
        let drawn_tokens = tokens(drawn);
        let (tokens, is_upper_bound) = match drawn_tokens.filter(|_| count > 0) {
            Some(tokens) => (tokens * rows / count, false),
            None => (u64::from(self.params.max_new_tokens) * rows, true),
        };
        let cost = Cost::new(&self.policy, tokens, is_upper_bound)?;
        let Some(adaptive) = &self.adaptive else { return Ok(Some(cost)) };
        // As many samples as there may be, each as long as those that are known.
        let most = self.most_missing(adaptive, missing, earlier)?;
        let at_most = match drawn_tokens.filter(|_| count > 0) {
            Some(tokens) => tokens * most / count,
            None => u64::from(self.params.max_new_tokens) * most,
        };
        Ok(Some(Cost { at_most: (at_most > cost.tokens).then_some(at_most), ..cost }))
    }

    /// Sampling settings that the policy's makers recommend are not taken: they would change the distribution unseen. Nor are
    /// weights of other parts than the language model.
    fn remarks(&self) -> Result<Vec<String>> {
        let p = &self.params;
        let mut remarks = Vec::from_iter(left_out(&self.policy)?);
        let Some(recommended) = self.policy.generation_config()? else { return Ok(remarks) };
        let used = [
            ("temperature", f64::from(p.temperature), 1.0),
            ("top_p", f64::from(p.top_p), 1.0),
            ("top_k", f64::from(p.top_k), 0.0),
            ("min_p", f64::from(p.min_p), 0.0),
            ("repetition_penalty", 1.0, 1.0),
        ];
        let differing = used.into_iter().filter_map(|(name, used, neutral)| {
            let value = recommended.get(name)?.as_f64()?;
            ((value - used).abs() > 1e-6).then(|| match used == neutral {
                true => format!("{name} {value}"),
                false => format!("{name} {value} (here {used})"),
            })
        });
        let differing: Vec<String> = differing.collect();
        if !differing.is_empty() {
            let (policy, list) = (&self.policy.name, differing.join(", "));
            remarks.push(format!("not taken from `generation_config.json` of policy `{policy}`: {list}"));
        }
        Ok(remarks)
    }

    fn work(&self, family: &Fingerprint, part: &Part, earlier: &[PartRecord]) -> Result<Work> {
        self.count(family, part, earlier)
    }
}

/// Problems of a span with an eligible correct sample in any of the tables.
fn solved(verdicts: &[Table<VerdictRow>], span: &Span) -> Result<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Judged {
        problem_id: String,
        verdict: Verdict,
        eligible: bool,
    }
    let mut solved = BTreeSet::new();
    for table in verdicts {
        let rows: Vec<Judged> =
            table.overlapping(&span.first, &span.last).select(&["problem_id", "verdict", "eligible"])?;
        let chosen = rows.into_iter().filter(|row| row.eligible && row.verdict.is_correct());
        solved.extend(chosen.map(|row| row.problem_id));
    }
    Ok(solved)
}

/// Why a sample ended, as the table says it.
pub fn stop_reason(reason: engine::StopReason) -> StopReason {
    match reason {
        engine::StopReason::Eos => StopReason::Eos,
        engine::StopReason::MaxTokens => StopReason::MaxTokens,
        engine::StopReason::StopString => StopReason::StopString,
    }
}

/// The end of a part's key.
fn samples_key(from: u32, to: u32) -> String {
    format!("samples {from}..{to}")
}

type Known = BTreeMap<(String, u32), Rollout>;

impl RolloutStage {
    /// The part's problems, less those solved already.
    fn tasks(&self, part: &Part) -> Result<Vec<Task>> {
        let solved = solved(&self.unsolved, &part.span)?;
        let mut tasks = Vec::new();
        for problem in self.problems.overlapping(&part.span.first, &part.span.last).read_all()? {
            let is_wanted = part.span.holds(&problem.problem_id) && !solved.contains(&problem.problem_id);
            if is_wanted && self.can_be_prompted(problem.solution.is_some()) {
                let shown = self.template.render(&problem)?;
                let plain = self.plain.as_ref().map(|plain| plain.render(&problem)).transpose()?;
                tasks.push(Task { problem_id: problem.problem_id, shown, plain });
            }
        }
        Ok(tasks)
    }

    /// Without an expert solution there is nothing to be guided by.
    fn can_be_prompted(&self, has_solution: bool) -> bool {
        has_solution || self.params.prompt_kind != PromptKind::Guided
    }

    /// Rows of earlier parts of the same recipe that fall into this one.
    fn known_rows(&self, part: &Part, earlier: &[PartRecord]) -> Result<Known> {
        let mut known = Known::new();
        for record in earlier.iter().filter(|record| overlaps(record, part)) {
            for row in self.rollouts(record).read_all()? {
                known.insert((row.problem_id.clone(), row.sample_index), row);
            }
        }
        Ok(known)
    }

    fn rollouts(&self, record: &PartRecord) -> Table<Rollout> {
        Table::new(&self.store, record.tables.get(Rollout::TABLE).cloned().unwrap_or_default())
    }
}
