//! gap: log-probs of the expert's solutions and of the rewritten targets -> gaps and gap_warnings.
//!
//! Says how far the targets are from a policy before and after rewriting, by source, before any training is paid for; and
//! what looks wrong with them. It reads what other stages stored: nothing is sampled, scored or judged here.

mod lift;
mod warnings;

use super::{Context, Inputs, Part, Reference, Stage, StageParams, Wants};
use crate::policy::PolicyHandle;
use crate::policy::load_policy;
use crate::stats::gap::{Gather, PolicyGap, Scored};
use lift::Lift;
use mindgap_base::error::{Error, Result};
use mindgap_base::fingerprint::Recipe;
use mindgap_store::table::Row;
use mindgap_store::table::gaps::{Gap, GapWarning, Group, Moment};
use mindgap_store::table::logprobs::Logprob;
use mindgap_store::table::problems::Problem;
use mindgap_store::table::rewrites::{Rewrite, Source};
use mindgap_store::table::rollouts::{PromptKind, Rollout};
use mindgap_store::table::verdicts::VerdictRow;
use mindgap_store::{PartRecord, PartRef, Span, Table};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use warnings::{SampleChecks, TargetChecks, Texts};

const VERSION: u32 = 3;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    pub problems: String,
    /// Log-probs of the expert's solutions.
    pub before: String,
    /// Log-probs of the targets that are trained on, under the same policy.
    pub after: String,
    /// Verdicts whose samples are checked too. Two judges of the same samples are compared.
    #[serde(default)]
    pub verdicts: Vec<String>,
}

impl StageParams for Params {
    /// Names are all there is.
    fn validate(&self) -> Result<()> {
        Ok(())
    }

    fn references(&self) -> Vec<Reference> {
        let mut references = vec![
            Reference::new("problems", &self.problems, Wants::Problems),
            Reference::new("before", &self.before, Wants::Logprobs),
            Reference::new("after", &self.after, Wants::Logprobs),
        ];
        references.extend(self.verdicts.iter().map(|name| Reference::new("verdicts", name, Wants::Verdicts)));
        references
    }

    fn bind(&self, inputs: &Inputs) -> Result<Box<dyn Stage>> {
        let mut judged: BTreeMap<&str, Judged> = BTreeMap::new();
        for name in &self.verdicts {
            let rollouts = inputs.rollouts_name(name)?;
            let samples = match judged.remove(rollouts) {
                Some(samples) => samples,
                None => {
                    let drawn = inputs.rollouts(rollouts).ok();
                    Judged {
                        rollouts: inputs.table(rollouts)?,
                        verdicts: Vec::new(),
                        is_chosen: drawn.is_some_and(|drawn| !drawn.unsolved.is_empty()),
                        is_adaptive: drawn.is_some_and(|drawn| drawn.until_correct.is_some()),
                    }
                }
            };
            let mut verdicts = samples.verdicts;
            verdicts.push(inputs.table(name)?);
            judged.insert(rollouts, Judged { verdicts, ..samples });
        }
        let (before, after) = (inputs.scored_by(&self.before)?, inputs.scored_by(&self.after)?);
        if before.policy != after.policy {
            let (a, b) = (&before.policy, &after.policy);
            return Err(Error::usage(format!("`before` is scored under policy `{a}`, `after` under `{b}`"))
                .hint("compare log-probs under one policy"));
        }
        let (Some(targets), Some(_)) = (&after.rewrites, &before.rewrites) else {
            return Err(Error::usage("`before` and `after` must be log-probs of targets, not of rollouts"));
        };
        Ok(Box::new(GapStage {
            policy: inputs.policy(&after.policy)?,
            problems: inputs.table(&self.problems)?,
            before: inputs.table(&self.before)?,
            after: inputs.table(&self.after)?,
            rewrites: inputs.table(targets)?,
            judged: judged.into_values().collect(),
        }))
    }

    fn lists(&mut self) -> Vec<(&'static str, &mut Vec<String>)> {
        vec![("verdicts", &mut self.verdicts)]
    }
}

/// Samples and what each judge said of them.
struct Judged {
    rollouts: Table<Rollout>,
    verdicts: Vec<Table<VerdictRow>>,
    /// They were drawn where others had failed.
    is_chosen: bool,
    /// They were drawn until one was right.
    is_adaptive: bool,
}

pub struct GapStage {
    /// Only for its end-of-sequence tokens.
    policy: PolicyHandle,
    problems: Table<Problem>,
    before: Table<Logprob>,
    after: Table<Logprob>,
    rewrites: Table<Rewrite>,
    judged: Vec<Judged>,
}

impl Stage for GapStage {
    fn recipe(&self) -> Recipe {
        Recipe::new("gap", VERSION)
            .with("schema", Gap::VERSION)
            .with("warnings", GapWarning::VERSION)
            .with("tokenizer", self.policy.tokenizer_digest())
    }

    fn main_table(&self) -> Option<&'static str> {
        Some(Gap::TABLE)
    }

    /// One part: shares and sample sizes are over all rows.
    fn parts(&self) -> Result<Vec<Part>> {
        let mut key: Vec<String> = Vec::new();
        let mut add = |name: &str, contents: Vec<&mindgap_base::address::Address>| {
            key.extend(contents.into_iter().map(|content| format!("{name} {content}")));
        };
        add("problems", self.problems.contents());
        add("before", self.before.contents());
        add("after", self.after.contents());
        add("rewrites", self.rewrites.contents());
        for (index, judged) in self.judged.iter().enumerate() {
            add(&format!("rollouts {index}"), judged.rollouts.contents());
            judged.verdicts.iter().for_each(|verdicts| add(&format!("verdicts {index}"), verdicts.contents()));
        }
        let drawn = self.judged.iter().map(|judged| format!("drawn {} {}", judged.is_chosen, judged.is_adaptive));
        key.extend(drawn);
        Ok(vec![Part { span: Span::default(), key, rows: 0, index: 0 }])
    }

    /// Goes through the tables part by part: of a target one number is held.
    fn run_part(&self, context: &Context, _part: &Part, _earlier: &[PartRecord]) -> Result<()> {
        let eos = load_policy(&self.policy)?.eos_token_ids().to_vec();
        let (mut gaps, mut warnings) = (Vec::new(), Vec::new());
        for (moment, table) in [(Moment::After, &self.after), (Moment::Before, &self.before)] {
            for (group, (gather, checks)) in self.gather(context, &eos, table, moment == Moment::After)? {
                let gap = gather.finish();
                if group != Group::All {
                    warnings.extend(checks.finish(moment, group, &gap));
                }
                gaps.push(to_row(moment, group, &gap));
            }
        }
        let mut kinds: Vec<PromptKind> = Vec::new();
        let mut lift = Lift::default();
        for judged in &self.judged {
            let checks = judged.check(context, &mut lift)?;
            kinds.extend(checks.prompt_kind);
            let number = kinds.iter().filter(|kind| Some(*kind) == kinds.last()).count();
            warnings.extend(checks.finish(number));
        }
        warnings.extend(lift.finish());
        gaps.sort_by_key(|row| (row.rewriting, row.source));
        warnings.sort_by_key(|row| (row.warning, row.moment, row.source.clone()));
        context.store(&gaps)?;
        context.store(&warnings)
    }
}

/// What is gathered of the targets of each source, and of all together.
type Groups = BTreeMap<Group, (Gather, TargetChecks)>;

impl GapStage {
    fn gather(&self, context: &Context, eos: &[u32], table: &Table<Logprob>, has_texts: bool) -> Result<Groups> {
        let mut groups = Groups::new();
        for part in table.parts() {
            context.check_cancelled()?;
            let texts = match has_texts {
                true => self.texts(part)?,
                false => Texts::new(Vec::new(), Vec::new()),
            };
            for row in targets(table, part)? {
                for group in [row.source.into(), Group::All] {
                    let new = || (Gather::default(), TargetChecks::new(group, has_texts));
                    let (gather, checks) = groups.entry(group).or_insert_with(new);
                    gather.add(&row.scored(eos));
                    checks.add(&row, &row.scored(eos), &texts);
                }
            }
        }
        for part in table.parts() {
            context.check_cancelled()?;
            for row in targets(table, part)? {
                for group in [row.source.into(), Group::All] {
                    let (gather, _) = groups.get_mut(&group).expect("the first pass met every source");
                    gather.add_again(&row.scored(eos));
                }
            }
        }
        Ok(groups)
    }

    fn texts(&self, part: &PartRef) -> Result<Texts> {
        let (first, last) = (&part.first, &part.last);
        let problems = self.problems.overlapping(first, last).select(&["problem_id", "question", "solution"])?;
        let rewrites = self.rewrites.overlapping(first, last);
        Ok(Texts::new(problems, rewrites.select(&["problem_id", "choice_index", "completion"])?))
    }
}

impl Judged {
    fn check(&self, context: &Context, lift: &mut Lift) -> Result<SampleChecks> {
        let mut checks = SampleChecks::new(self.verdicts.len());
        for part in self.rollouts.parts() {
            context.check_cancelled()?;
            checks.add_samples(&self.rollouts.part(part).select(&["problem_id", "prompt_kind", "stop_reason"])?);
        }
        let read = |table: Table<VerdictRow>| table.select(&["problem_id", "sample_index", "verdict"]);
        for (index, verdicts) in self.verdicts.iter().enumerate() {
            for part in verdicts.parts() {
                context.check_cancelled()?;
                let first = match index {
                    0 => None,
                    _ => Some(read(self.verdicts[0].overlapping(&part.first, &part.last))?),
                };
                let own = read(verdicts.part(part))?;
                // Shares of samples that were drawn until one was right say nothing.
                if let (0, false, Some(kind)) = (index, self.is_adaptive, checks.prompt_kind) {
                    lift.add(kind, self.is_chosen, &own);
                }
                checks.add_verdicts(&own, first.as_deref());
            }
        }
        Ok(checks)
    }
}

/// What the gap asks of a scored target.
#[derive(Deserialize)]
struct Target {
    problem_id: String,
    choice_index: u32,
    source: Source,
    token_ids: Vec<u32>,
    logprob_policy: Vec<f32>,
    logprob_behavior: Option<Vec<f32>>,
}

impl Target {
    fn scored(&self, eos: &[u32]) -> Scored<'_> {
        Scored {
            policy: &self.logprob_policy,
            behavior: self.logprob_behavior.as_deref(),
            ended: self.token_ids.last().is_some_and(|id| eos.contains(id)),
        }
    }
}

fn targets(logprobs: &Table<Logprob>, part: &PartRef) -> Result<Vec<Target>> {
    let tokens = ["token_ids", "logprob_policy", "logprob_behavior"];
    logprobs.part(part).select(&[&["problem_id", "choice_index", "source"][..], &tokens].concat())
}

fn to_row(moment: Moment, group: Group, gap: &PolicyGap) -> Gap {
    let sampled = gap.sampled.as_ref();
    Gap {
        rewriting: moment,
        source: group,
        row_count: gap.rows as u32,
        token_count: gap.tokens as u64,
        mean_length: gap.tokens as f64 / gap.rows.max(1) as f64,
        mean_logprob: gap.mean_logprob,
        mean_row_logprob: gap.mean_row_logprob,
        perplexity: (-gap.mean_logprob).exp(),
        low_probability_share: gap.low_probability_share,
        ratio_variance: gap.ratio_variance,
        ess_tokens: gap.ess_tokens,
        ess_rows: gap.ess_rows,
        sampled_rows: sampled.map_or(0, |s| s.rows as u32),
        sampled_tokens: sampled.map_or(0, |s| s.tokens as u64),
        kl_per_token: sampled.map(|s| s.kl_per_token),
        behavior_ratio_variance: sampled.map(|s| s.ratio_variance),
        behavior_ess_tokens: sampled.map(|s| s.ess_tokens),
        behavior_ess_rows: sampled.map(|s| s.ess_rows),
        eos_probability: gap.eos_probability,
    }
}
