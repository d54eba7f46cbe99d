//! What looks wrong with targets and samples. Every check is a row, raised or not, with problems to look at.

use super::Target;
use crate::stats::gap::{PolicyGap, Scored};
use crate::stats::text::{NGRAM_WORDS, copied_share, is_answer_only, meta_phrase};
use crate::table::gaps::GapWarning;
use serde::Deserialize;
use std::collections::HashMap;

/// Raised when min(1/p, 100) is worth less than this share of the tokens.
const LOW_ESS: f64 = 0.1;
/// Raised when the end of the sequence is less likely than this where it is the target.
const EOS: f64 = 0.5;
/// A target is copied when this share of its n-grams are the expert's.
const COPIED_ROW: f64 = 0.5;
/// Raised when more than this share of rows show it.
const SHARE: f64 = 0.05;
/// The same for what should not happen at all, but may once in a large set.
const RARE: f64 = 0.01;
const EXAMPLES: usize = 10;

/// What the checks ask of a problem.
#[derive(Deserialize)]
pub struct Expert {
    problem_id: String,
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
    pub prompt_kind: String,
    stop_reason: String,
}

/// And of what a judge said of it.
#[derive(Deserialize)]
pub struct Verdict {
    problem_id: String,
    sample_index: u32,
    verdict: String,
}

/// The texts behind the targets, by problem.
pub struct Texts {
    experts: HashMap<String, String>,
    targets: HashMap<(String, u32), String>,
}

impl Texts {
    pub fn new(problems: Vec<Expert>, rewrites: Vec<Rewritten>) -> Texts {
        Texts {
            experts: problems.into_iter().filter_map(|p| Some((p.problem_id, p.solution?))).collect(),
            targets: rewrites.into_iter().map(|r| ((r.problem_id, r.choice_index), r.completion)).collect(),
        }
    }
}

/// Checks of the targets of one source. The texts are looked at where they are the policy's own.
pub fn check_targets(
    moment: &str,
    source: &str,
    gap: &PolicyGap,
    rows: &[&Target],
    targets: &[Scored],
    texts: Option<&Texts>,
) -> Vec<GapWarning> {
    let check = Check { moment, source };
    let ids = || rows.iter().map(|row| row.problem_id.as_str());
    let mut found = vec![check.low_ess(gap)];
    found.extend(gap.eos_probability.map(|probability| check.eos(probability, rows.len())));
    let cut = ids().zip(targets).filter(|(_, target)| !target.ended).map(|(id, _)| id);
    found.push(check.share("truncated", SHARE, cut, rows.len(), "targets have no end-of-sequence token"));
    if let (Some(texts), true) = (texts, source != "expert") {
        let text = |row: &Target| texts.targets.get(&(row.problem_id.clone(), row.choice_index));
        let showing = |test: &dyn Fn(&str, &str) -> bool| -> Vec<&str> {
            let expert = |row: &Target| texts.experts.get(&row.problem_id).map_or("", String::as_str);
            let shows = |row: &&&Target| text(row).is_some_and(|target| test(target, expert(row)));
            rows.iter().filter(shows).map(|row| row.problem_id.as_str()).collect()
        };
        let copied = showing(&|target, expert| copied_share(target, expert) >= COPIED_ROW);
        let copied_says = format!("targets share half of their {NGRAM_WORDS}-word n-grams with the expert's solution");
        found.push(check.share("copied", SHARE, copied.into_iter(), rows.len(), &copied_says));
        let meta = showing(&|target, _| meta_phrase(target).is_some());
        found.push(check.share(
            "meta_phrase",
            RARE,
            meta.into_iter(),
            rows.len(),
            "targets speak of a solution they were shown",
        ));
        let bare = showing(&|target, _| is_answer_only(target));
        found.push(check.share(
            "answer_only",
            SHARE,
            bare.into_iter(),
            rows.len(),
            "targets give the answer without work",
        ));
    }
    found
}

/// Checks of the samples of one rollout stage, and of the judges that looked at them. `number` tells several stages of one
/// prompt kind apart, from 1.
pub fn check_samples(number: usize, samples: &[Sample], verdicts: &[Vec<Verdict>]) -> Vec<GapWarning> {
    let Some(first) = samples.first() else { return Vec::new() };
    let source = if number > 1 { format!("{} {number}", first.prompt_kind) } else { first.prompt_kind.clone() };
    let check = Check { moment: "sampling", source: &source };
    let cut = samples.iter().filter(|row| row.stop_reason == "max_tokens").map(|row| row.problem_id.as_str());
    let mut found =
        vec![check.share("truncated", SHARE, cut, samples.len(), "samples were cut off at the token limit")];
    let rows = || verdicts.iter().flatten();
    let open = rows().filter(|row| matches!(row.verdict.as_str(), "unparsed" | "budget_exceeded"));
    let open = open.map(|row| row.problem_id.as_str());
    found.push(check.share(
        "undecided",
        RARE,
        open,
        rows().count(),
        "verdicts are neither right nor wrong: the judge could not read the answer",
    ));
    if let Some((one, others)) = verdicts.split_first().filter(|(_, others)| !others.is_empty()) {
        let known: HashMap<(&str, u32), &str> =
            one.iter().map(|row| ((row.problem_id.as_str(), row.sample_index), row.verdict.as_str())).collect();
        let pairs = || {
            others
                .iter()
                .flatten()
                .filter_map(|row| Some((row, *known.get(&(row.problem_id.as_str(), row.sample_index))?)))
        };
        let differ = pairs().filter(|(row, verdict)| (row.verdict == "correct") != (*verdict == "correct"));
        let differ = differ.map(|(row, _)| row.problem_id.as_str());
        found.push(check.share(
            "judges_disagree",
            RARE,
            differ,
            pairs().count(),
            "samples are right for one judge and wrong for another",
        ));
    }
    found
}

/// What is being looked at.
struct Check<'a> {
    moment: &'a str,
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
        self.row("low_ess", raised, share, LOW_ESS, gap.rows, message)
    }

    fn eos(&self, probability: f64, rows: usize) -> GapWarning {
        let message = format!(
            "where a target ends, the policy ends with probability {probability:.3}; a loss weighted by it hardly learns an end it finds improbable"
        );
        self.row("eos_not_learned", probability < EOS, probability, EOS, rows, message)
    }

    /// A check that counts rows.
    fn share<'i>(
        &self,
        warning: &str,
        threshold: f64,
        shown_by: impl Iterator<Item = &'i str>,
        rows: usize,
        says: &str,
    ) -> GapWarning {
        let ids: Vec<&str> = shown_by.collect();
        let value = ids.len() as f64 / rows.max(1) as f64;
        let message = format!("{} of {rows} {says}", ids.len());
        let mut examples: Vec<String> = ids.iter().map(ToString::to_string).collect();
        examples.dedup();
        examples.truncate(EXAMPLES);
        GapWarning {
            affected: ids.len() as u32,
            problem_ids: examples,
            ..self.row(warning, value > threshold, value, threshold, rows, message)
        }
    }

    fn row(&self, warning: &str, raised: bool, value: f64, threshold: f64, rows: usize, message: String) -> GapWarning {
        GapWarning {
            warning: warning.to_string(),
            moment: self.moment.to_string(),
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
    use crate::stats::gap::policy_gap;

    fn target(id: &str, lp: f32) -> Target {
        Target {
            problem_id: id.to_string(),
            choice_index: 0,
            source: "guided".to_string(),
            token_ids: vec![7; 40],
            logprob_policy: vec![lp; 40],
            logprob_behavior: None,
        }
    }

    fn texts(target: &str, expert: &str) -> Texts {
        let targets = ["a", "b"].map(|id| ((id.to_string(), 0), target.to_string()));
        Texts { experts: [("a".to_string(), expert.to_string())].into(), targets: targets.into() }
    }

    fn raised(found: &[GapWarning]) -> Vec<&str> {
        found.iter().filter(|row| row.raised).map(|row| row.warning.as_str()).collect()
    }

    fn check(rows: &[Target], ended: bool, texts: &Texts) -> Vec<GapWarning> {
        let rows: Vec<&Target> = rows.iter().collect();
        let targets: Vec<Scored> =
            rows.iter().map(|r| Scored { policy: &r.logprob_policy, behavior: None, ended }).collect();
        check_targets("after", "guided", &policy_gap(&targets), &rows, &targets, Some(texts))
    }

    #[test]
    fn each_target_check_raises_on_what_it_is_for() {
        let rows = [target("a", -0.1), target("b", -0.1)];
        let fine = texts("first we add three and four, then double it, so \\boxed{14}", "x = 14");
        assert_eq!(raised(&check(&rows, true, &fine)), [""; 0]);
        assert_eq!(raised(&check(&rows, false, &fine)), ["truncated"]);
        let copied = check(
            &rows,
            true,
            &texts("we add and then double it, so \\boxed{14}", "we add and then double it, so \\boxed{14}"),
        );
        assert_eq!(raised(&copied), ["copied"]);
        let row = copied.iter().find(|row| row.warning == "copied").unwrap();
        assert_eq!((row.affected, row.row_count, row.problem_ids.clone()), (1, 2, vec!["a".to_string()]));
        let meta = texts("as the reference solution says, we add and double, so \\boxed{14}", "");
        assert_eq!(raised(&check(&rows, true, &meta)), ["meta_phrase"]);
        assert_eq!(raised(&check(&rows, true, &texts("so \\boxed{14}", ""))), ["answer_only"]);
        assert_eq!(raised(&check(&[target("a", -3.0)], true, &fine)), ["eos_not_learned"]);
        let mut uneven = target("a", -0.001);
        uneven.logprob_policy[3] = -9.0;
        assert_eq!(raised(&check(&[uneven], true, &fine)), ["low_ess"]);
    }

    #[test]
    fn sample_checks_compare_judges() {
        let sample =
            |stop: &str| Sample { problem_id: "a".into(), prompt_kind: "plain".into(), stop_reason: stop.into() };
        let verdict = |verdict: &str| Verdict { problem_id: "a".into(), sample_index: 0, verdict: verdict.into() };
        assert_eq!(raised(&check_samples(1, &[sample("eos")], &[vec![verdict("incorrect")]])), [""; 0]);
        let found = check_samples(1, &[sample("max_tokens")], &[vec![verdict("correct")], vec![verdict("unparsed")]]);
        assert_eq!(raised(&found), ["truncated", "undecided", "judges_disagree"]);
        assert!(check_samples(2, &[sample("eos")], &[]).iter().all(|row| row.source == "plain 2"));
        assert!(check_samples(1, &[], &[]).is_empty());
    }
}
