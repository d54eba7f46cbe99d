//! The figures of a study over replications: every policy's accuracy, changes, paired differences, and what was kept.

mod kept;

pub use kept::Kept;

use super::frame;
use super::made::Made;
use crate::stage::{Params, evaluate};
use crate::stats::crossed::{Interval, Stratum, crossed_interval};
use crate::stats::metrics::mean;
use mindgap_base::error::{Error, Result};
use mindgap_store::table::evals::Eval;
use mindgap_store::table::problems::Problem;
use mindgap_store::table::rewrites::{Rewrite, Source};
use mindgap_store::table::rollouts::Rollout;
use mindgap_store::table::verdicts::{Verdict, VerdictRow};
use polars::prelude::DataFrame;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};

const LEVEL: f64 = 0.95;
const RESAMPLES: u32 = 2000;

/// What the tables say, in percent.
#[derive(Serialize)]
pub struct Results {
    pub replications: usize,
    pub problems: usize,
    pub samples: u32,
    pub temperature: f64,
    pub benchmarks: Vec<String>,
    pub policies: Vec<PolicyResult>,
    pub differences: Vec<DifferenceResult>,
    /// What policies have kept, where evaluate stages compare them with a base.
    pub kept: Vec<Kept>,
    pub sources: Vec<Sources>,
    pub addresses: Vec<(String, String)>,
}

#[derive(Serialize)]
pub struct PolicyResult {
    pub policy: String,
    /// mean@k per benchmark, then their average.
    pub mean_at_k: Vec<f64>,
    pub average: Interval,
    pub pass_at_k: f64,
    pub maj_at_k: f64,
    pub truncated_share: f64,
    pub no_answer_share: f64,
    /// Tokens of a sample.
    pub tokens: Interval,
    /// Of the correct samples those that were cut off.
    pub truncated_correct_share: f64,
    /// Per benchmark: the paired difference from the first policy.
    pub change: Vec<Interval>,
}

/// `better` minus `than`, on the same problems and seeds.
#[derive(Serialize)]
pub struct DifferenceResult {
    pub better: String,
    pub than: String,
    pub average: Interval,
    /// Replications in which `better` is ahead.
    pub ahead: usize,
    pub per_benchmark: Vec<f64>,
    /// Tokens of a sample, in percent of the other's.
    pub tokens: Interval,
}

/// Where the targets of a rewrite stage come from, over its replications.
#[derive(Serialize)]
pub struct Sources {
    pub stage: String,
    pub own: f64,
    pub guided: f64,
    pub teacher: f64,
    pub expert: f64,
}

/// Share of correct samples per problem, of one policy: benchmark -> replication -> problem.
type Accuracy = Vec<Stratum>;

/// The figures of all `evaluate` stages and the differences of `pairs` of policies: better, than. Stages with the same benchmarks
/// are replications, those with others add theirs.
pub fn results(made: &Made, pairs: &[(String, String)]) -> Result<Results> {
    let mut study = Study::default();
    for spec in &made.pipeline.stages {
        if let Params::Evaluate(evaluate) = &spec.params {
            study.add(made, &spec.name, evaluate)?;
        }
    }
    if study.names.is_empty() {
        return Err(Error::usage(format!("pipeline `{}` has no `evaluate` stage", made.pipeline.name)));
    }
    let replications = study.replications()?;
    let Study { evals, names, .. } = &study;
    let first = study.of(&names[0])?;
    let lengths = |name: &str| &study.lengths[name];
    let policies = names.iter().map(|name| Ok(policy_result(name, study.of(name)?, first, lengths(name), evals)));
    let policies = policies.collect::<Result<_>>()?;
    let difference = |(better, than): &(String, String)| {
        let differences = paired(study.of(better)?, study.of(than)?);
        Ok(difference_result(better, than, &differences, relative(lengths(better), lengths(than))))
    };
    let differences = pairs.iter().map(difference).collect::<Result<_>>()?;
    Ok(Results {
        replications,
        problems: study.groups.iter().map(|group| group.problems).sum(),
        samples: evals.first().map_or(0, |eval| eval.k),
        temperature: evals.first().map_or(0.0, |eval| eval.temperature),
        policies,
        differences,
        kept: kept::kept(made, &study)?,
        sources: sources(made)?,
        benchmarks: study.benchmarks,
        addresses: study.addresses,
    })
}

/// What the evaluate stages hold, replication by replication.
#[derive(Default)]
struct Study {
    evals: Vec<Eval>,
    /// Policies in the order in which they are evaluated.
    names: Vec<String>,
    accuracies: BTreeMap<String, Accuracy>,
    /// Mean length of a problem's samples.
    lengths: BTreeMap<String, Accuracy>,
    benchmarks: Vec<String>,
    groups: Vec<Group>,
    /// Name and short address of every evaluate stage.
    addresses: Vec<(String, String)>,
}

/// Evaluate stages on the same benchmarks.
struct Group {
    benchmarks: Vec<String>,
    /// Where these stand among all.
    first: usize,
    problems: usize,
    stages: Vec<String>,
}

impl Study {
    /// How many stages each group has. Errors if that differs.
    fn replications(&self) -> Result<usize> {
        let [first, rest @ ..] = &self.groups[..] else { return Ok(0) };
        match rest.iter().find(|group| group.stages.len() != first.stages.len()) {
            None => Ok(first.stages.len()),
            Some(other) => Err(Error::usage("benchmarks differ in how often they are evaluated").hint(format!(
                "`{}` are replications of one evaluation, `{}` of another",
                first.stages.join("`, `"),
                other.stages.join("`, `")
            ))),
        }
    }

    /// The group of a stage, which may be its first. Returns where its benchmarks stand. Errors if they overlap with others.
    fn group(&mut self, stage: &str, benchmarks: Vec<String>, problems: usize) -> Result<usize> {
        let overlapping = |group: &&mut Group| group.benchmarks.iter().any(|benchmark| benchmarks.contains(benchmark));
        let Some(group) = self.groups.iter_mut().find(overlapping) else {
            let first = self.benchmarks.len();
            self.benchmarks.extend(benchmarks.iter().cloned());
            self.groups.push(Group { benchmarks, first, problems, stages: vec![stage.to_string()] });
            return Ok(first);
        };
        group.stages.push(stage.to_string());
        if group.benchmarks != benchmarks || group.problems != problems {
            return Err(Error::usage(format!(
                "stages `{}` share benchmarks and are not evaluated on the same problems",
                group.stages.join("`, `")
            ))
            .hint("replications have the same benchmarks and problems; others need another `source`"));
        }
        Ok(group.first)
    }

    fn add(&mut self, made: &Made, stage: &str, evaluate: &evaluate::Params) -> Result<()> {
        self.addresses.push((stage.to_string(), made.finished(stage)?.content().short().to_string()));
        self.evals.extend(made.table::<Eval>(stage)?.read_all()?);
        made.finished(&evaluate.problems)?;
        let table = made.table::<Problem>(&evaluate.problems)?;
        let problems = frame::read::<Problem>(made.store, table.parts(), &["problem_id", "source"])?;
        let benchmarks: BTreeSet<&str> = frame::texts(&problems, "source")?.collect();
        let benchmarks: Vec<String> = benchmarks.into_iter().map(str::to_string).collect();
        let first = self.group(stage, benchmarks.clone(), problems.height())?;
        for name in &evaluate.verdicts {
            made.finished(name)?;
            let label = made.label_of(name)?;
            let table = made.table::<VerdictRow>(name)?;
            let verdicts = frame::read::<VerdictRow>(made.store, table.parts(), &["problem_id", "verdict"])?;
            let accuracy = self.accuracies.entry(label.clone()).or_default();
            accuracy.resize(self.benchmarks.len(), Stratum::new());
            let own = accuracies(&problems, &benchmarks, &verdicts)?;
            accuracy[first..].iter_mut().zip(own).for_each(|(stratum, values)| stratum.push(values));
            let table = made.table::<Rollout>(made.rollouts_of(name)?)?;
            let samples = frame::read::<Rollout>(made.store, table.parts(), &["problem_id", "token_ids"])?;
            let length = self.lengths.entry(label.clone()).or_default();
            length.resize(self.benchmarks.len(), Stratum::new());
            let own = mean_lengths(&problems, &benchmarks, &samples)?;
            length[first..].iter_mut().zip(own).for_each(|(stratum, values)| stratum.push(values));
            if !self.names.contains(&label) {
                self.names.push(label);
            }
        }
        Ok(())
    }

    fn of(&self, name: &str) -> Result<&Accuracy> {
        let accuracy = self.accuracies.get(name).ok_or_else(|| {
            let known = format!("there are {}", self.names.join(", "));
            Error::usage(format!("no policy `{name}` is evaluated")).hint(known)
        })?;
        let replications = self.groups.first().map_or(0, |group| group.stages.len());
        let whole = |stratum: &Stratum| stratum.len() == replications;
        match accuracy.len() == self.benchmarks.len() && accuracy.iter().all(whole) {
            true => Ok(accuracy),
            false => Err(Error::usage(format!("`{name}` is not evaluated on every benchmark in every replication"))),
        }
    }
}

/// Share of correct samples of every problem, by benchmark, in the order of the problems; 0 where it has no samples.
fn accuracies(problems: &DataFrame, benchmarks: &[String], verdicts: &DataFrame) -> Result<Vec<Vec<f64>>> {
    let samples = frame::counts(verdicts, "problem_id", "samples")?;
    let correct =
        frame::counts(&frame::having(verdicts, "verdict", Verdict::Correct.as_str())?, "problem_id", "correct")?;
    let problems = frame::beside(&frame::beside(problems, &samples, "problem_id")?, &correct, "problem_id")?;
    let mut shares = vec![Vec::new(); benchmarks.len()];
    let counts = frame::numbers(&problems, "correct")?.zip(frame::numbers(&problems, "samples")?);
    for (source, (correct, samples)) in frame::texts(&problems, "source")?.zip(counts) {
        let benchmark = benchmarks.binary_search_by(|name| name.as_str().cmp(source)).expect("made of the problems");
        shares[benchmark].push(f64::from(correct) / f64::from(samples.max(1)));
    }
    Ok(shares)
}

/// Mean length in tokens of the samples of every problem, as [`accuracies`] gives shares.
fn mean_lengths(problems: &DataFrame, benchmarks: &[String], samples: &DataFrame) -> Result<Vec<Vec<f64>>> {
    let tokens = samples.column("token_ids").and_then(|column| column.list()).map_err(frame::failed)?;
    let mut sums: HashMap<&str, (f64, f64)> = HashMap::new();
    for (id, length) in frame::texts(samples, "problem_id")?.zip(tokens.amortized_iter()) {
        let (sum, count) = sums.entry(id).or_default();
        *sum += length.map_or(0, |tokens| tokens.as_ref().len()) as f64;
        *count += 1.0;
    }
    let mut lengths = vec![Vec::new(); benchmarks.len()];
    for (source, id) in frame::texts(problems, "source")?.zip(frame::texts(problems, "problem_id")?) {
        let benchmark = benchmarks.binary_search_by(|name| name.as_str().cmp(source)).expect("made of the problems");
        let (sum, count) = sums.get(id).copied().unwrap_or((0.0, 1.0));
        lengths[benchmark].push(sum / count);
    }
    Ok(lengths)
}

/// Differences in percent of b's mean.
fn relative(a: &Accuracy, b: &Accuracy) -> Interval {
    let all = mean(b.iter().map(|stratum| mean(stratum.iter().map(|values| mean(values.iter().copied())))));
    let Interval { mean, low, high } = crossed_interval(&paired(a, b), LEVEL, RESAMPLES, 0);
    let percent = |value: f64| 100.0 * value / all.max(f64::MIN_POSITIVE);
    Interval { mean: percent(mean), low: percent(low), high: percent(high) }
}

fn paired(a: &Accuracy, b: &Accuracy) -> Accuracy {
    let problems = |(a, b): (&Vec<f64>, &Vec<f64>)| a.iter().zip(b).map(|(a, b)| a - b).collect();
    let replications = |(a, b): (&Stratum, &Stratum)| a.iter().zip(b).map(problems).collect();
    a.iter().zip(b).map(replications).collect()
}

fn percent(strata: &[Stratum]) -> Interval {
    let Interval { mean, low, high } = crossed_interval(strata, LEVEL, RESAMPLES, 0);
    Interval { mean: 100.0 * mean, low: 100.0 * low, high: 100.0 * high }
}

/// Mean over replications and problems, per benchmark, in percent.
fn per_benchmark(accuracy: &Accuracy) -> Vec<f64> {
    let of = |stratum: &Stratum| mean(stratum.iter().map(|values| mean(values.iter().copied())));
    accuracy.iter().map(|stratum| 100.0 * of(stratum)).collect()
}

fn policy_result(
    name: &str,
    accuracy: &Accuracy,
    first: &Accuracy,
    lengths: &Accuracy,
    evals: &[Eval],
) -> PolicyResult {
    let share = |of: &dyn Fn(&Eval) -> f64| 100.0 * mean(evals.iter().filter(|eval| eval.policy == name).map(of));
    PolicyResult {
        policy: name.to_string(),
        mean_at_k: per_benchmark(accuracy),
        average: percent(accuracy),
        pass_at_k: share(&|eval| eval.pass_at_k),
        maj_at_k: share(&|eval| eval.maj_at_k),
        truncated_share: share(&|eval| eval.truncated_share),
        no_answer_share: share(&|eval| eval.no_answer_share),
        tokens: crossed_interval(lengths, LEVEL, RESAMPLES, 0),
        truncated_correct_share: share(&|eval| eval.truncated_correct_share.unwrap_or(0.0)),
        change: paired(accuracy, first).into_iter().map(|stratum| percent(&[stratum])).collect(),
    }
}

fn difference_result(better: &str, than: &str, differences: &Accuracy, tokens: Interval) -> DifferenceResult {
    let replications = differences.first().map_or(0, Vec::len);
    let averages = (0..replications).map(|r| mean(differences.iter().map(|s| mean(s[r].iter().copied()))));
    DifferenceResult {
        better: better.to_string(),
        than: than.to_string(),
        average: percent(differences),
        ahead: averages.filter(|average| *average > 0.0).count(),
        per_benchmark: per_benchmark(differences),
        tokens,
    }
}

/// Shares of the sources by rewrite stage, over its replications: the cells of its matrix that differ along no other axis than
/// those of the evaluate stages.
fn sources(made: &Made) -> Result<Vec<Sources>> {
    let stages = &made.pipeline.stages;
    let evaluates = stages.iter().filter(|spec| matches!(spec.params, Params::Evaluate(_)));
    let replicated: BTreeSet<&str> = evaluates.flat_map(|spec| &spec.entries).map(|(axis, _)| axis.as_str()).collect();
    let mut counted: Vec<(String, [f64; Source::ALL.len()])> = Vec::new();
    for spec in stages.iter().filter(|spec| matches!(spec.params, Params::Rewrite(_))) {
        // Targets nobody has trained on yet say nothing about the policies.
        if !made.has(&spec.name) {
            continue;
        }
        let mut name = spec.written.clone();
        for (_, entry) in spec.entries.iter().filter(|(axis, _)| !replicated.contains(axis.as_str())) {
            name += &format!("-{entry}");
        }
        let at = counted.iter().position(|(found, _)| *found == name).unwrap_or_else(|| {
            counted.push((name, [0.0; Source::ALL.len()]));
            counted.len() - 1
        });
        let table = made.table::<Rewrite>(&spec.name)?;
        let rows = frame::read::<Rewrite>(made.store, table.parts(), &["source"])?;
        for (sum, source) in counted[at].1.iter_mut().zip(Source::ALL) {
            *sum += frame::having(&rows, "source", source.as_str())?.height() as f64;
        }
    }
    let shares = |(stage, counts): (String, [f64; Source::ALL.len()])| {
        let [own, guided, teacher, expert] = counts.map(|count| 100.0 * count / counts.iter().sum::<f64>().max(1.0));
        Sources { stage, own, guided, teacher, expert }
    };
    Ok(counted.into_iter().map(shares).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use polars::prelude::{Column, NamedFrom, Series};
    use std::collections::HashMap;

    fn table(columns: [(&str, Vec<String>); 2]) -> DataFrame {
        let columns = columns.map(|(name, cells)| Column::from(Series::new(name.into(), cells)));
        DataFrame::new(columns[0].len(), columns.to_vec()).unwrap()
    }

    /// Goal: joins and counts give what going through the rows one by one gives, in the order of the problems.
    #[test]
    fn accuracies_are_those_of_the_rows() {
        let ids: Vec<String> = (0..40).map(|i| format!("{:02x}", (i * 37) % 64)).collect();
        let benchmark = |i: usize| ["main", "long"][i % 2].to_string();
        let problems = table([("problem_id", ids.clone()), ("source", (0..40).map(benchmark).collect())]);
        // Samples of every third problem only, and of one that is in no benchmark.
        let judged: Vec<(String, String)> = (0..90)
            .map(|i| (ids[(i * 3) % 39].clone(), ["correct", "incorrect", "no_answer"][(i * i) % 3].to_string()))
            .chain([("zz".to_string(), "correct".to_string())])
            .collect();
        let verdicts = table([
            ("problem_id", judged.iter().map(|(id, _)| id.clone()).collect()),
            ("verdict", judged.iter().map(|(_, verdict)| verdict.clone()).collect()),
        ]);
        let mut by_problem: HashMap<&str, Vec<f64>> = HashMap::new();
        for (id, verdict) in &judged {
            by_problem.entry(id).or_default().push(f64::from(u8::from(verdict == "correct")));
        }
        let share = |id: &String| by_problem.get(id.as_str()).map_or(0.0, |right| mean(right.iter().copied()));
        let of = |benchmark: usize| ids.iter().skip(benchmark).step_by(2).map(share).collect::<Vec<f64>>();
        let names = ["long".to_string(), "main".to_string()];
        let found = accuracies(&problems, &names, &verdicts).unwrap();
        assert_eq!(found, [of(1), of(0)]);
        assert!(found.concat().iter().any(|share| *share > 0.0) && found.concat().contains(&0.0));
    }
}
