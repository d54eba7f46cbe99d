//! Which sample becomes the target: every rule against what the tables say by hand.

use super::Ran;
use crate::support::{fails, pipeline, scratch};
use mindgap_store::table::logprobs::Logprob;
use mindgap_store::table::rewrites::{Candidate, Outcome, Rewrite, Source};
use mindgap_store::table::rollouts::Rollout;
use mindgap_store::table::verdicts::{Refusal, VerdictRow};
use std::collections::{BTreeMap, BTreeSet};

/// Four guided samples of some problems, two plain ones, and their scores; then a rewrite stage per rule.
const CHOICES: &str = r#"
[policies]
base = { path = "DATA/base-policy" }
[stages.problems]
kind = "ingest"
files = [{ path = "DATA/world/train-0.parquet", source = "world" }]
limit = 24
part_problems = 8
[stages.plain]
kind = "rollout"
problems = "problems"
policy = "base"
samples = 4
max_new_tokens = 60
[stages.verdicts]
kind = "judge"
rollouts = "plain"
problems = "problems"
[stages.guided]
kind = "rollout"
problems = "problems"
policy = "base"
prompt_kind = "guided"
template = "TEMPLATES/world-guided.j2"
samples = 4
max_new_tokens = 60
[stages.guided_verdicts]
kind = "judge"
rollouts = "guided"
problems = "problems"
[stages.candidates]
kind = "rewrite"
problems = "problems"
policy = "base"
self_aligned = ["verdicts"]
guided = ["guided_verdicts"]
order = [["self", "guided"]]
keep = 8
distinct = false
fallback = false
[stages.expert]
kind = "rewrite"
problems = "problems"
policy = "base"
[stages.logprobs]
kind = "logprob"
matrix.of = ["candidates", "expert"]
rewrites = "{of}"
policy = "base"
[stages.rewrites]
kind = "rewrite"
matrix.rule = [
    { name = "likeliest", choice = "likeliest", keep = 1 },
    { name = "shortest", choice = "shortest", keep = 1 },
    { name = "random", choice = "random", keep = 1 },
    { name = "several", choice = "likeliest", keep = 3 },
]
problems = "problems"
policy = "base"
self_aligned = ["verdicts"]
guided = ["guided_verdicts"]
order = [["self", "guided"], "expert"]
choice = "{rule.choice}"
keep = "{rule.keep}"
logprobs = ["logprobs-candidates"]
[stages.scored]
kind = "rewrite"
problems = "problems"
policy = "base"
guided = ["guided_verdicts"]
choice = "score"
score = { from = ["logprobs-candidates"], column = "logprob_policy" }
[stages.limited]
kind = "rewrite"
problems = "problems"
policy = "base"
self_aligned = ["verdicts"]
max_tokens = 40
min_logprob = -0.2
keep = 4
[stages.teacher]
kind = "rewrite"
problems = "problems"
policy = "base"
guided = ["guided_verdicts"]
teacher = ["verdicts", "guided_verdicts"]
order = ["teacher", "guided", "expert"]
choice = "likeliest"
logprobs = ["logprobs-candidates"]
[stages.other]
kind = "rewrite"
problems = "problems"
policy = "other"
teacher = ["verdicts"]
[stages.other_candidates]
kind = "rewrite"
problems = "problems"
policy = "other"
teacher = ["verdicts"]
keep = 8
fallback = false
[stages.other_logprobs]
kind = "logprob"
rewrites = "other_candidates"
policy = "other"
[stages.other_scored]
kind = "rewrite"
problems = "problems"
policy = "other"
teacher = ["verdicts"]
choice = "score"
score = { from = ["other_logprobs"], column = "logprob_policy" }
[policies.other]
path = "FIXTURES/model/qwen2"
"#;

fn mean(values: &[f32]) -> f64 {
    values.iter().copied().map(f64::from).sum::<f64>() / values.len() as f64
}

/// Of a problem: source, sample, tokens, mean log-prob given the plain prompt.
type Fit = (Source, u32, usize, f64);

/// The fit samples of every problem, from the samples and their verdicts alone.
fn fit(ran: &Ran) -> BTreeMap<String, Vec<Fit>> {
    let scores: BTreeMap<(String, Vec<u32>), f64> = ran
        .rows::<Logprob>("logprobs-candidates")
        .into_iter()
        .map(|row| ((row.problem_id, row.token_ids), mean(&row.logprob_policy)))
        .collect();
    let mut fit: BTreeMap<String, Vec<Fit>> = BTreeMap::new();
    for (source, rollouts, verdicts) in
        [(Source::SelfAligned, "plain", "verdicts"), (Source::Guided, "guided", "guided_verdicts")]
    {
        let verdicts = ran.rows::<VerdictRow>(verdicts).into_iter().filter(VerdictRow::may_be_chosen);
        let eligible: BTreeSet<(String, u32)> = verdicts.map(|row| (row.problem_id, row.sample_index)).collect();
        for row in ran.rows::<Rollout>(rollouts) {
            if eligible.contains(&(row.problem_id.clone(), row.sample_index)) {
                let score = scores[&(row.problem_id.clone(), row.token_ids.clone())];
                let found = (source, row.sample_index, row.token_ids.len(), score);
                fit.entry(row.problem_id).or_default().push(found);
            }
        }
    }
    fit
}

fn chosen(ran: &Ran, stage: &str) -> BTreeMap<String, Vec<(Source, Option<u32>)>> {
    let mut chosen: BTreeMap<String, Vec<(Source, Option<u32>)>> = BTreeMap::new();
    for row in ran.rows::<Rewrite>(stage) {
        chosen.entry(row.problem_id).or_default().push((row.source, row.sample_index));
    }
    chosen
}

/// Goal: every rule chooses what going through the samples by hand chooses, and says what it left.
#[test]
fn every_rule_chooses_what_it_says() {
    let folder = scratch();
    let file = pipeline(folder.path(), "choices.toml", CHOICES);
    let ran = Ran::new(&folder.path().join("store"), &file);
    let fit = fit(&ran);
    assert!(fit.len() > 10 && fit.values().any(|samples| samples.len() > 3), "there is something to choose from");

    let best = |samples: &[Fit], key: &dyn Fn(&Fit) -> f64| {
        let mut best = samples[0];
        samples[1..].iter().for_each(|sample| {
            if key(sample) > key(&best) {
                best = *sample
            }
        });
        (best.0, Some(best.1))
    };
    let (likeliest, shortest) = (chosen(&ran, "rewrites-likeliest"), chosen(&ran, "rewrites-shortest"));
    assert_eq!(likeliest.len(), 24, "no problem is dropped");
    for (id, samples) in &fit {
        assert_eq!(likeliest[id], [best(samples, &|sample| sample.3)], "{id}");
        assert_eq!(shortest[id], [best(samples, &|sample| -(sample.2 as f64))], "{id}");
    }
    for (id, targets) in &likeliest {
        assert_eq!(fit.contains_key(id), targets[0].0 != Source::Expert, "{id}");
    }
    let guided: BTreeMap<&String, Vec<Fit>> = fit
        .iter()
        .map(|(id, samples)| (id, samples.iter().filter(|s| s.0 == Source::Guided).copied().collect()))
        .collect();
    for (id, targets) in chosen(&ran, "scored") {
        match guided.get(&id).filter(|samples| !samples.is_empty()) {
            Some(samples) => assert_eq!(targets, [best(samples, &|sample| sample.3)], "{id}"),
            None => assert_eq!(targets[0].0, Source::Expert, "{id}"),
        }
    }
    let random = chosen(&ran, "rewrites-random");
    assert_ne!(random, likeliest);
    assert!(fit.keys().all(|id| fit[id].iter().any(|s| (s.0, Some(s.1)) == random[id][0])));

    // The rows that tell it.
    let told = ran.rows::<Candidate>("rewrites-likeliest");
    let count = |outcome| told.iter().filter(|row| row.outcome == outcome).count();
    assert_eq!(count(Outcome::Chosen), fit.len());
    let correct = ["verdicts", "guided_verdicts"]
        .map(|stage| ran.rows::<VerdictRow>(stage).iter().filter(|row| row.verdict.is_correct()).count());
    assert_eq!(told.len(), correct.iter().sum::<usize>(), "every correct sample is told of");
    assert!(count(Outcome::Left) > 0);
    assert!(told.iter().all(|row| (row.outcome == Outcome::Refused) == row.reason.is_some()));
}

/// Goal: of equal texts one is kept, and said so.
#[test]
fn equal_texts_are_kept_once() {
    let folder = scratch();
    let file = pipeline(folder.path(), "choices.toml", CHOICES);
    let ran = Ran::new(&folder.path().join("store"), &file);
    let words = |row: &Rewrite| row.completion.split_whitespace().collect::<Vec<_>>().join(" ");
    let several = ran.rows::<Rewrite>("rewrites-several");
    let texts: BTreeSet<(&String, String)> = several.iter().map(|row| (&row.problem_id, words(row))).collect();
    assert_eq!(texts.len(), several.len(), "distinct");
    let all = ran.rows::<Rewrite>("candidates");
    let distinct: BTreeSet<(&String, String)> = all.iter().map(|row| (&row.problem_id, words(row))).collect();
    assert!(distinct.len() < all.len(), "some are equal");
    let refused = ran.rows::<Candidate>("rewrites-several");
    let duplicates = refused.iter().filter(|row| row.reason == Some(Refusal::Duplicate)).count();
    assert_eq!(duplicates, all.len() - distinct.len());
}

/// Goal: limits refuse what is beyond them, the next source is asked, and a problem that nothing is left of is told of.
#[test]
fn limits_hold_for_every_target() {
    let folder = scratch();
    let file = pipeline(folder.path(), "choices.toml", CHOICES);
    let ran = Ran::new(&folder.path().join("store"), &file);
    let rows = ran.rows::<Rewrite>("limited");
    assert!(!rows.is_empty() && rows.iter().all(|row| row.token_ids.len() <= 40));
    let told = ran.rows::<Candidate>("limited");
    for reason in [Refusal::TooLong, Refusal::LowLogprob] {
        assert!(told.iter().any(|row| row.reason == Some(reason)), "{reason}");
    }
    assert!(told.iter().filter(|row| row.outcome == Outcome::Chosen).all(|row| row.logprob.unwrap() >= -0.2));
    let untargeted = ran.rows::<mindgap_store::table::rewrites::Untargeted>("limited");
    assert!(!untargeted.is_empty() && untargeted.iter().all(|row| row.reason.contains("longer than `max_tokens`")));
    let targeted: BTreeSet<&String> = rows.iter().map(|row| &row.problem_id).collect();
    assert_eq!(targeted.len() + untargeted.len(), 24);
}

/// Goal: samples under `teacher` keep their own tokens where they are of the same tokenizer, with the stage they are of, and are
/// encoded anew where they are not; their log-probs are then absent.
#[test]
fn a_teachers_samples_are_in_the_policys_tokens() {
    let folder = scratch();
    let file = pipeline(folder.path(), "choices.toml", CHOICES);
    let ran = Ran::new(&folder.path().join("store"), &file);
    let rows = ran.rows::<Rewrite>("teacher");
    let taught: Vec<&Rewrite> = rows.iter().filter(|row| row.source == Source::Teacher).collect();
    assert!(taught.iter().any(|row| row.stage_index == Some(0)) && taught.iter().any(|row| row.stage_index == Some(1)));
    let (plain, guided) = (ran.rows::<Rollout>("plain"), ran.rows::<Rollout>("guided"));
    for row in &taught {
        let of = if row.stage_index == Some(0) { &plain } else { &guided };
        let drawn =
            |rollout: &&Rollout| rollout.problem_id == row.problem_id && Some(rollout.sample_index) == row.sample_index;
        let drawn = of.iter().find(drawn).unwrap();
        assert_eq!((&drawn.token_ids, &drawn.logprob_behavior), (&row.token_ids, &row.logprob_behavior));
    }
    let other = ran.rows::<Rewrite>("other");
    let taught: Vec<&Rewrite> = other.iter().filter(|row| row.source == Source::Teacher).collect();
    assert!(!taught.is_empty());
    for row in taught {
        let same = |rollout: &&Rollout| rollout.problem_id == row.problem_id && rollout.completion == row.completion;
        let drawn = plain.iter().find(same).expect("the text is the sample's");
        assert_ne!(drawn.token_ids, row.token_ids);
        assert_eq!(row.logprob_behavior, None, "of other tokens");
    }
    // What scores them knows them by the tokens they have as targets.
    let logprobs = ran.rows::<Logprob>("other_logprobs");
    let scored = ran.rows::<Rewrite>("other_scored");
    let taught: Vec<&Rewrite> = scored.iter().filter(|row| row.source == Source::Teacher).collect();
    assert!(!taught.is_empty());
    for row in taught {
        let of_problem = logprobs.iter().filter(|found| found.problem_id == row.problem_id);
        let best = of_problem.clone().map(|found| mean(&found.logprob_policy)).fold(f64::NEG_INFINITY, f64::max);
        let chosen = of_problem.clone().find(|found| found.token_ids == row.token_ids).unwrap();
        assert!((mean(&chosen.logprob_policy) - best).abs() < 1e-6, "the highest");
        if of_problem.count() > 1 {
            assert!((row.score.unwrap() - best).abs() < 1e-6);
        }
    }
}

#[test]
fn contradictions_fail_in_plan() {
    let folder = scratch();
    let rule = "choice = \"{rule.choice}\"";
    for (from, to, says) in [
        (
            "order = [\"teacher\", \"guided\", \"expert\"]",
            "order = [\"teacher\", \"expert\"]",
            "`order` has no `guided`",
        ),
        (
            "order = [\"teacher\", \"guided\", \"expert\"]",
            "order = [\"teacher\", [\"guided\", \"teacher\"]]",
            "`teacher` twice",
        ),
        ("order = [\"teacher\", \"guided\", \"expert\"]", "order = []", "`order` names no source"),
        ("max_tokens = 40", "max_tokens = 0", "`max_tokens` must be at least 1"),
        ("min_logprob = -0.2", "min_logprob = 0.3", "`min_logprob` must be a log-prob"),
        (rule, "choice = \"score\"", "belong together"),
        ("column = \"logprob_policy\" }", "column = \"logprob\" }", "no column `logprob` of numbers"),
    ] {
        assert!(CHOICES.contains(from), "{from}");
        let file = pipeline(folder.path(), "wrong.toml", &CHOICES.replacen(from, to, 1));
        let command = if says.contains("no column") { "run" } else { "plan" };
        let said = fails(&folder.path().join("store"), &[command, file.to_str().unwrap()], 2);
        assert!(said.contains(says), "{to}: {said}");
    }
}
