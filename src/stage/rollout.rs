//! rollout: problems + policy -> rollouts.  Plain, or guided: on problems not solved yet, with the expert solution shown.
//!
//! Samples and nothing else: what is drawn is kept, right or wrong. With `until_correct` a problem is asked again, in waves, only
//! while too few of its samples are right. Cost: generated tokens.

mod adaptive;
mod draw;
mod params;
mod work;

pub use params::Params;

use super::backend::{Lazy, abreast, few_failed};
use super::buckets::{group, slices};
use super::cost::{Cost, tokens};
use super::template::Template;
use super::{Context, Part, Stage, Work};
use crate::policy::{PolicyHandle, left_out};
use adaptive::Adaptive;
use mindgap_base::error::Result;
use mindgap_base::fingerprint::{Fingerprint, Recipe};
use mindgap_lm::engine;
use mindgap_lm::model::chat::Conversation;
use mindgap_store::table::Row;
use mindgap_store::table::problems::Problem;
use mindgap_store::table::rollouts::{PromptKind, Rollout, StopReason};
use mindgap_store::table::verdicts::{Verdict, VerdictRow};
use mindgap_store::{PartRecord, PartRef, Span, Store, Table};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use work::overlaps;

const VERSION: u32 = 1;

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
                false => format!("{name} {value} (here {})", used as f32),
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
