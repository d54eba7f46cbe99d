//! What looks wrong with targets and samples. Every check is a row, raised or not, with problems to look at.

use super::Target;
use crate::stats::gap::{PolicyGap, Scored};
use crate::stats::leaks::{COPIED_LIMIT, copied_share, is_answer_only, speaks_of_source};
use mindgap_store::table::gaps::{GapWarning, Group, Moment, Warning};
use mindgap_store::table::rollouts::{PromptKind, StopReason};
use mindgap_store::table::verdicts;
use serde::Deserialize;
use std::collections::HashMap;

/// Raised when min(1/p, 100) is worth less than this share of the tokens.
const LOW_ESS: f64 = 0.1;
/// Raised when the end of the sequence is less likely than this where it is the target.
const EOS: f64 = 0.5;
/// Raised when more than this share of rows show it.
const SHARE: f64 = 0.05;
/// The same for what should not happen at all, but may once in a large set.
const RARE: f64 = 0.01;
const EXAMPLES: usize = 10;

/// What the checks ask of a problem.
#[derive(Deserialize)]
pub struct Expert {
    problem_id: String,
    question: String,
    solution: Option<String>,
}

/// What they ask of a target.
#[derive(Deserialize)]
pub struct Rewritten {
    problem_id: String,
    choice_index: u32,
    completion: String,
}

/// What they ask of a sample.
#[derive(Deserialize)]
pub struct Sample {
    problem_id: String,
    pub prompt_kind: PromptKind,
    stop_reason: StopReason,
}

/// And of what a judge said of it.
#[derive(Deserialize)]
pub struct Verdict {
    pub problem_id: String,
    sample_index: u32,
    pub verdict: verdicts::Verdict,
}

#[cfg(test)]
impl Verdict {
    pub fn new(problem_id: &str, sample_index: u32, correct: bool) -> Verdict {
        let verdict = if correct { verdicts::Verdict::Correct } else { verdicts::Verdict::Incorrect };
        Verdict { problem_id: problem_id.to_string(), sample_index, verdict }
    }
}

/// The texts behind the targets of some problems.
pub struct Texts {
    /// Question and the expert's solution by problem.
    experts: HashMap<String, (String, String)>,
    targets: HashMap<(String, u32), String>,
}

impl Texts {
    pub fn new(problems: Vec<Expert>, rewrites: Vec<Rewritten>) -> Texts {
        Texts {
            experts: problems
                .into_iter()
                .map(|p| (p.problem_id, (p.question, p.solution.unwrap_or_default())))
                .collect(),
            targets: rewrites.into_iter().map(|r| ((r.problem_id, r.choice_index), r.completion)).collect(),
        }
    }
}

/// Rows that show something: how many of how many, and the first problems among them.
#[derive(Default)]
struct Shown {
    count: usize,
    of: usize,
    examples: Vec<String>,
}

impl Shown {
    fn add(&mut self, problem_id: &str, shows: bool) {
        self.of += 1;
        if !shows {
            return;
        }
        self.count += 1;
        if self.examples.len() < EXAMPLES && self.examples.last().is_none_or(|last| last != problem_id) {
            self.examples.push(problem_id.to_string());
        }
    }
}

/// Checks of the targets of one source, which come one by one.
#[derive(Default)]
pub struct TargetChecks {
    truncated: Shown,
    texts: Option<TextChecks>,
}

/// Checks of their texts, where these are the policy's own.
#[derive(Default)]
struct TextChecks {
    copied: Shown,
    meta: Shown,
    bare: Shown,
}

impl TargetChecks {
    pub fn new(group: Group, has_texts: bool) -> TargetChecks {
        let is_own = matches!(group, Group::SelfAligned | Group::Guided);
        let texts = (has_texts && is_own).then(TextChecks::default);
        TargetChecks { truncated: Shown::default(), texts }
    }

    pub fn add(&mut self, row: &Target, target: &Scored, texts: &Texts) {
        let id = row.problem_id.as_str();
        self.truncated.add(id, !target.ended);
        if let Some(TextChecks { copied, meta, bare }) = &mut self.texts {
            let text = texts.targets.get(&(row.problem_id.clone(), row.choice_index));
            let (question, expert) =
                texts.experts.get(id).map_or(("", ""), |(question, expert)| (question.as_str(), expert.as_str()));
            copied.add(id, text.is_some_and(|text| copied_share(text, expert, question) > COPIED_LIMIT));
            meta.add(id, text.is_some_and(|text| speaks_of_source(text, question)));
            bare.add(id, text.is_some_and(|text| is_answer_only(text)));
        }
    }

    pub fn finish(self, moment: Moment, group: Group, gap: &PolicyGap) -> Vec<GapWarning> {
        let check = Check { moment, source: group.as_str() };
        let mut found = vec![check.low_ess(gap)];
        found.extend(gap.eos_probability.map(|probability| check.eos(probability, gap.rows)));
        found.push(check.share(Warning::Truncated, SHARE, self.truncated, "targets have no end-of-sequence token"));
        if let Some(TextChecks { copied, meta, bare }) = self.texts {
            found.push(check.share(Warning::Copied, SHARE, copied, "targets are in the expert's words"));
            found.push(check.share(Warning::MetaPhrase, RARE, meta, "targets speak of a solution they were shown"));
            found.push(check.share(Warning::AnswerOnly, SHARE, bare, "targets give the answer without work"));
        }
        found
    }
}

/// Checks of the samples of one rollout stage, and of the judges that looked at them.
#[derive(Default)]
pub struct SampleChecks {
    /// Of the first sample.
    pub prompt_kind: Option<PromptKind>,
    truncated: Shown,
    undecided: Shown,
    /// Where several judges looked.
    disagree: Option<Shown>,
}

impl SampleChecks {
    pub fn new(judges: usize) -> SampleChecks {
        SampleChecks { disagree: (judges > 1).then(Shown::default), ..SampleChecks::default() }
    }

    pub fn add_samples(&mut self, samples: &[Sample]) {
        for row in samples {
            self.prompt_kind.get_or_insert(row.prompt_kind);
            self.truncated.add(&row.problem_id, row.stop_reason == StopReason::MaxTokens);
        }
    }

    /// `first` are the first judge's verdicts of the same problems; none where these are they.
    pub fn add_verdicts(&mut self, verdicts: &[Verdict], first: Option<&[Verdict]>) {
        for row in verdicts {
            self.undecided.add(&row.problem_id, row.verdict.is_undecided());
        }
        if let (Some(first), Some(disagree)) = (first, &mut self.disagree) {
            let key = |row: &'_ Verdict| (row.problem_id.clone(), row.sample_index);
            let known: HashMap<(String, u32), bool> =
                first.iter().map(|row| (key(row), row.verdict.is_correct())).collect();
            for row in verdicts {
                if let Some(was_correct) = known.get(&key(row)) {
                    disagree.add(&row.problem_id, row.verdict.is_correct() != *was_correct);
                }
            }
        }
    }

    /// `number` tells several stages of one prompt kind apart, from 1.
    pub fn finish(self, number: usize) -> Vec<GapWarning> {
        let Some(kind) = self.prompt_kind else { return Vec::new() };
        let source = if number > 1 { format!("{kind} {number}") } else { kind.to_string() };
        let check = Check { moment: Moment::Sampling, source: &source };
        let undecided_says = "verdicts are neither right nor wrong: the judge could not read the answer";
        let disagree_says = "samples are right for one judge and wrong for another";
        let mut found =
            vec![check.share(Warning::Truncated, SHARE, self.truncated, "samples were cut off at the token limit")];
        found.push(check.share(Warning::Undecided, RARE, self.undecided, undecided_says));
        found.extend(self.disagree.map(|disagree| check.share(Warning::JudgesDisagree, RARE, disagree, disagree_says)));
        found
    }
}

/// What is being looked at.
struct Check<'a> {
    moment: Moment,
    source: &'a str,
}

impl Check<'_> {
    fn low_ess(&self, gap: &PolicyGap) -> GapWarning {
        let share = gap.ess_tokens / gap.tokens.max(1) as f64;
        let message = format!(
            "weighted by 1/p, {} tokens count as much as {:.0} equal ones ({:.1} %): a few tokens the policy finds improbable decide the gradient of plain SFT",
            gap.tokens,
            gap.ess_tokens,
            100.0 * share
        );
        let raised = share < LOW_ESS && gap.tokens > 0;
        self.row(Warning::LowEss, raised, share, LOW_ESS, gap.rows, message)
    }

    fn eos(&self, probability: f64, rows: usize) -> GapWarning {
        let message = format!(
            "where a target ends, the policy ends with probability {probability:.3}; a loss weighted by it hardly learns an end it finds improbable"
        );
        self.row(Warning::EosNotLearned, probability < EOS, probability, EOS, rows, message)
    }

    /// A check that counts rows.
    fn share(&self, warning: Warning, threshold: f64, shown: Shown, says: &str) -> GapWarning {
        let Shown { count, of, examples } = shown;
        let value = count as f64 / of.max(1) as f64;
        let message = format!("{count} of {of} {says}");
        GapWarning {
            affected: count as u32,
            problem_ids: examples,
            ..self.row(warning, value > threshold, value, threshold, of, message)
        }
    }

    fn row(
        &self,
        warning: Warning,
        raised: bool,
        value: f64,
        threshold: f64,
        rows: usize,
        message: String,
    ) -> GapWarning {
        GapWarning {
            warning,
            moment: self.moment,
            source: self.source.to_string(),
            raised,
            value,
            threshold,
            affected: 0,
            row_count: rows as u32,
            message,
            problem_ids: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::gap::Gather;
    use mindgap_store::table::rewrites::Source;

    fn target(id: &str, lp: f32) -> Target {
        Target {
            problem_id: id.to_string(),
            choice_index: 0,
            source: Source::Guided,
            token_ids: vec![7; 40],
            logprob_policy: vec![lp; 40],
            logprob_behavior: None,
        }
    }

    fn texts(target: &str, expert: &str) -> Texts {
        let targets = ["a", "b"].map(|id| ((id.to_string(), 0), target.to_string()));
        Texts { experts: [("a".to_string(), (String::new(), expert.to_string()))].into(), targets: targets.into() }
    }

    fn raised(found: &[GapWarning]) -> Vec<&str> {
        found.iter().filter(|row| row.raised).map(|row| row.warning.as_str()).collect()
    }

    fn check(rows: &[Target], ended: bool, texts: &Texts) -> Vec<GapWarning> {
        let (mut gather, mut checks) = (Gather::default(), TargetChecks::new(Group::Guided, true));
        let scored = |row| Scored { ended, ..Target::scored(row, &[]) };
        for row in rows {
            gather.add(&scored(row));
            checks.add(row, &scored(row), texts);
        }
        rows.iter().for_each(|row| gather.add_again(&scored(row)));
        checks.finish(Moment::After, Group::Guided, &gather.finish())
    }

    const OWN: &str = "we add three and four, which makes seven, and then we double the seven we have, so \\boxed{14}";

    #[test]
    fn each_target_check_raises_on_what_it_is_for() {
        let rows = [target("a", -0.1), target("b", -0.1)];
        let fine = texts(OWN, "x = 14");
        assert_eq!(raised(&check(&rows, true, &fine)), [""; 0]);
        assert_eq!(raised(&check(&rows, false, &fine)), ["truncated"]);
        let copied = check(&rows, true, &texts(OWN, OWN));
        assert_eq!(raised(&copied), ["copied"]);
        let row = copied.iter().find(|row| row.warning == Warning::Copied).unwrap();
        assert_eq!((row.affected, row.row_count, row.problem_ids.clone()), (1, 2, vec!["a".to_string()]));
        let meta = texts(&format!("as the reference solution says, {OWN}"), "");
        assert_eq!(raised(&check(&rows, true, &meta)), ["meta_phrase"]);
        assert_eq!(raised(&check(&rows, true, &texts("so \\boxed{14}", ""))), ["answer_only"]);
        assert_eq!(raised(&check(&[target("a", -3.0)], true, &fine)), ["eos_not_learned"]);
        let mut uneven = target("a", -0.001);
        uneven.logprob_policy[3] = -9.0;
        assert_eq!(raised(&check(&[uneven], true, &fine)), ["low_ess"]);
    }

    #[test]
    fn sample_checks_compare_judges() {
        let sample = |stop_reason| Sample { problem_id: "a".into(), prompt_kind: PromptKind::Plain, stop_reason };
        let verdict = |verdict| Verdict { problem_id: "a".into(), sample_index: 0, verdict };
        let mut one = SampleChecks::new(1);
        one.add_samples(&[sample(StopReason::Eos)]);
        one.add_verdicts(&[verdict(verdicts::Verdict::Incorrect)], None);
        assert_eq!(raised(&one.finish(1)), [""; 0]);
        let mut two = SampleChecks::new(2);
        two.add_samples(&[sample(StopReason::MaxTokens)]);
        two.add_verdicts(&[verdict(verdicts::Verdict::Correct)], None);
        two.add_verdicts(&[verdict(verdicts::Verdict::Unparsed)], Some(&[verdict(verdicts::Verdict::Correct)]));
        let found = two.finish(2);
        assert_eq!(raised(&found), ["truncated", "undecided", "judges_disagree"]);
        assert!(found.iter().all(|row| row.source == "plain 2"));
        assert!(SampleChecks::new(1).finish(1).is_empty());
    }
}
