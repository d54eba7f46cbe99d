//! results: a study's accuracies as Markdown: every policy over all replications, changes, and paired differences.

use super::pipelines::{load, watched};
use super::{args, render};
use crate::pipeline::{self, Finished, Pipeline};
use crate::stage::Params;
use crate::stats::crossed::{Interval, Stratum, crossed_interval};
use crate::stats::metrics::mean;
use mindgap_base::error::{Error, Result};
use mindgap_store::table::Row;
use mindgap_store::table::evals::Eval;
use mindgap_store::table::problems::Problem;
use mindgap_store::table::rewrites::{Rewrite, Source};
use mindgap_store::table::verdicts::VerdictRow;
use mindgap_store::{Store, fs};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

const LEVEL: f64 = 0.95;
const RESAMPLES: u32 = 2000;

/// What the tables say, in percent.
#[derive(Serialize)]
struct Results {
    replications: usize,
    problems: usize,
    samples: u32,
    temperature: f64,
    benchmarks: Vec<String>,
    policies: Vec<PolicyResult>,
    differences: Vec<DifferenceResult>,
    sources: Vec<Sources>,
    addresses: Vec<(String, String)>,
}

#[derive(Serialize)]
struct PolicyResult {
    policy: String,
    /// mean@k per benchmark, then their average.
    mean_at_k: Vec<f64>,
    average: Interval,
    pass_at_k: f64,
    maj_at_k: f64,
    truncated_share: f64,
    no_answer_share: f64,
    /// Per benchmark: the paired difference from the first policy.
    change: Vec<Interval>,
}

/// `better` minus `than`, on the same problems and seeds.
#[derive(Serialize)]
struct DifferenceResult {
    better: String,
    than: String,
    average: Interval,
    /// Replications in which `better` is ahead.
    ahead: usize,
    per_benchmark: Vec<f64>,
}

/// Where the targets of a rewrite stage come from, over its replications.
#[derive(Serialize)]
struct Sources {
    stage: String,
    own: f64,
    guided: f64,
    expert: f64,
}

/// Share of correct samples per problem, of one policy: benchmark -> replication -> problem.
type Accuracy = Vec<Stratum>;

pub fn results(store: &Path, args: args::Results) -> Result<()> {
    let pipeline = load(&args.pipeline)?;
    let store = Store::look(store)?;
    let finished = watched(|watch| pipeline::finished(&pipeline, &store, &[], watch))?;
    let results = collect(&pipeline, &store, &finished, &args.pairs)?;
    if args.json {
        return render::json(&results);
    }
    let text = markdown(&results);
    match &args.into {
        None => render::out(&text),
        Some(page) => {
            let bytes = fs::read(page)?;
            let written = String::from_utf8(bytes).ok().and_then(|page| replaced(&page, &text)).ok_or_else(|| {
                Error::usage("the page has no place for results")
                    .at(page.display().to_string())
                    .hint(format!("put the lines `{BEGIN}` and `{END}` where they belong"))
            })?;
            // A bare name has no folder to be renamed in.
            fs::publish(&Path::new(".").join(page), written.as_bytes(), "page")?;
            render::note(&page.display().to_string());
            Ok(())
        }
    }
}

const BEGIN: &str = "<!-- mindgap results: begin -->";
const END: &str = "<!-- mindgap results: end -->";

/// The page with `text` between its markers.
fn replaced(page: &str, text: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{text}\n{END}{after}"))
}

fn collect(pipeline: &Pipeline, store: &Store, finished: &Finished, pairs: &[(String, String)]) -> Result<Results> {
    let stages = pipeline.stages.iter().filter_map(|stage| match &stage.params {
        Params::Evaluate(evaluate) => Some((stage, evaluate)),
        _ => None,
    });
    let (mut accuracies, mut evals) = (BTreeMap::<String, Accuracy>::new(), Vec::<Eval>::new());
    let (mut names, mut addresses, mut replications) = (Vec::<String>::new(), Vec::new(), 0);
    let (mut benchmarks, mut problem_count) = (Vec::new(), 0);
    for (stage, evaluate) in stages {
        let manifest = finished.manifest(&stage.name)?;
        evals.extend(store.read_rows::<Eval>(&manifest.table(Eval::TABLE))?);
        addresses.push((stage.name.clone(), manifest.content().short().to_string()));
        let problems: Vec<Problem> = store.read_rows(&finished.manifest(&evaluate.problems)?.table(Problem::TABLE))?;
        let places = Places::new(&problems);
        problem_count = problems.len();
        for name in &evaluate.verdicts {
            let label = label(pipeline, name)?;
            let verdicts: Vec<VerdictRow> = store.read_rows(&finished.manifest(name)?.table(VerdictRow::TABLE))?;
            let accuracy = accuracies.entry(label.clone()).or_default();
            accuracy.resize(places.benchmarks.len(), Stratum::new());
            for (stratum, values) in accuracy.iter_mut().zip(places.accuracy(&verdicts)) {
                stratum.push(values);
            }
            if !names.contains(&label) {
                names.push(label);
            }
        }
        replications += 1;
        benchmarks = places.benchmarks;
    }
    if names.is_empty() {
        return Err(Error::usage(format!("pipeline `{}` has no `evaluate` stage", pipeline.name)));
    }
    let of = |name: &str| -> Result<&Accuracy> {
        let accuracy = accuracies.get(name).ok_or_else(|| {
            Error::usage(format!("no policy `{name}` is evaluated")).hint(format!("there are {}", names.join(", ")))
        })?;
        match accuracy.iter().all(|stratum| stratum.len() == replications) {
            true => Ok(accuracy),
            false => Err(Error::usage(format!("`{name}` is not evaluated in every replication"))),
        }
    };
    let first = of(&names[0])?;
    let policies = names.iter().map(|name| Ok(policy_result(name, of(name)?, first, &evals))).collect::<Result<_>>()?;
    let difference =
        |(better, than): &(String, String)| Ok(difference_result(better, than, &paired(of(better)?, of(than)?)));
    Ok(Results {
        replications,
        problems: problem_count,
        samples: evals.first().map_or(0, |eval| eval.k),
        temperature: evals.first().map_or(0.0, |eval| eval.temperature),
        benchmarks,
        policies,
        differences: pairs.iter().map(difference).collect::<Result<_>>()?,
        sources: sources(pipeline, store, finished)?,
        addresses,
    })
}

/// What the evaluated policy is called.
fn label(pipeline: &Pipeline, verdicts: &str) -> Result<String> {
    if let Params::Judge(judge) = &pipeline.stage(verdicts)?.params
        && let Params::Rollout(rollout) = &pipeline.stage(&judge.rollouts)?.params
    {
        return Ok(rollout.label.clone().unwrap_or_else(|| rollout.policy.clone()));
    }
    Err(Error::internal(format!("`{verdicts}` judges no rollouts")))
}

/// Where each problem stands: its benchmark, and its number there.
struct Places {
    benchmarks: Vec<String>,
    of: BTreeMap<String, (usize, usize)>,
    sizes: Vec<usize>,
}

impl Places {
    fn new(problems: &[Problem]) -> Places {
        let mut benchmarks: Vec<String> = problems.iter().map(|problem| problem.source.clone()).collect();
        benchmarks.sort_unstable();
        benchmarks.dedup();
        let (mut of, mut sizes) = (BTreeMap::new(), vec![0; benchmarks.len()]);
        for problem in problems {
            let benchmark = benchmarks.binary_search(&problem.source).expect("made of the problems");
            of.insert(problem.problem_id.clone(), (benchmark, sizes[benchmark]));
            sizes[benchmark] += 1;
        }
        Places { benchmarks, of, sizes }
    }

    /// Share of correct samples, by benchmark and problem.
    fn accuracy(&self, verdicts: &[VerdictRow]) -> Vec<Vec<f64>> {
        let mut counts: Vec<Vec<(f64, f64)>> = self.sizes.iter().map(|size| vec![(0.0, 0.0); *size]).collect();
        for row in verdicts {
            if let Some((benchmark, problem)) = self.of.get(&row.problem_id) {
                let (correct, all) = &mut counts[*benchmark][*problem];
                *correct += f64::from(u8::from(row.verdict.is_correct()));
                *all += 1.0;
            }
        }
        let share = |(correct, all): (f64, f64)| if all > 0.0 { correct / all } else { 0.0 };
        counts.into_iter().map(|problems| problems.into_iter().map(share).collect()).collect()
    }
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

fn policy_result(name: &str, accuracy: &Accuracy, first: &Accuracy, evals: &[Eval]) -> PolicyResult {
    let share = |of: &dyn Fn(&Eval) -> f64| 100.0 * mean(evals.iter().filter(|eval| eval.policy == name).map(of));
    PolicyResult {
        policy: name.to_string(),
        mean_at_k: per_benchmark(accuracy),
        average: percent(accuracy),
        pass_at_k: share(&|eval| eval.pass_at_k),
        maj_at_k: share(&|eval| eval.maj_at_k),
        truncated_share: share(&|eval| eval.truncated_share),
        no_answer_share: share(&|eval| eval.no_answer_share),
        change: paired(accuracy, first).into_iter().map(|stratum| percent(&[stratum])).collect(),
    }
}

fn difference_result(better: &str, than: &str, differences: &Accuracy) -> DifferenceResult {
    let replications = differences.first().map_or(0, Vec::len);
    let averages = (0..replications).map(|r| mean(differences.iter().map(|s| mean(s[r].iter().copied()))));
    DifferenceResult {
        better: better.to_string(),
        than: than.to_string(),
        average: percent(differences),
        ahead: averages.filter(|average| *average > 0.0).count(),
        per_benchmark: per_benchmark(differences),
    }
}

/// Shares of the sources by rewrite stage; stages that differ in numbers alone are replications of one.
fn sources(pipeline: &Pipeline, store: &Store, finished: &Finished) -> Result<Vec<Sources>> {
    let mut counts: Vec<(String, [f64; 3])> = Vec::new();
    for stage in pipeline.stages.iter().filter(|stage| matches!(stage.params, Params::Rewrite(_))) {
        let parts: Vec<&str> = stage.name.split('-').filter(|part| !part.bytes().all(|b| b.is_ascii_digit())).collect();
        let name = parts.join("-");
        // Targets nobody has trained on yet say nothing about the policies.
        let Ok(manifest) = finished.manifest(&stage.name) else { continue };
        let at = counts.iter().position(|(found, _)| *found == name).unwrap_or_else(|| {
            counts.push((name, [0.0; 3]));
            counts.len() - 1
        });
        for row in store.read_rows::<Rewrite>(&manifest.table(Rewrite::TABLE))? {
            counts[at].1[row.source as usize] += 1.0;
        }
    }
    let shares = |(stage, counts): (String, [f64; 3])| {
        let [own, guided, expert] = counts.map(|count| 100.0 * count / counts.iter().sum::<f64>().max(1.0));
        Sources { stage, own, guided, expert }
    };
    Ok(counts.into_iter().map(shares).collect())
}

fn markdown(results: &Results) -> String {
    let Results { replications, problems, samples, temperature, benchmarks, .. } = results;
    let head = |first: &str, columns: &[&str]| {
        format!("| {first} | {} |\n|---|{}\n", columns.join(" | "), "--:|".repeat(columns.len()))
    };
    let names: Vec<&str> = benchmarks.iter().map(String::as_str).collect();
    let signed = |i: &Interval| format!("{:+.1} [{:+.1}, {:+.1}]", i.mean, i.low, i.high);
    let mut text = format!(
        "### Accuracy\n\nmean@{samples} in %, temperature {temperature}, {problems} problems, {replications} replications; \
         95 % interval over problems and replications.\n\n{}",
        head("policy", &[&names[..], &["average"]].concat())
    );
    for p in &results.policies {
        let cells: Vec<String> = p.mean_at_k.iter().map(|value| format!("{value:.1}")).collect();
        text += &format!(
            "| {} | {} | **{:.1}** [{:.1}, {:.1}] |\n",
            p.policy,
            cells.join(" | "),
            p.average.mean,
            p.average.low,
            p.average.high
        );
    }
    text += &format!(
        "\n### Change\n\nPaired difference from `{}` in points, on the same problems and seeds.\n\n",
        results.policies[0].policy
    );
    text += &head("policy", &names);
    for p in &results.policies[1..] {
        text += &format!("| {} | {} |\n", p.policy, p.change.iter().map(signed).collect::<Vec<_>>().join(" | "));
    }
    if !results.differences.is_empty() {
        text += &format!("\n### Paired differences\n\nIn points; `ahead` counts replications of {replications}.\n\n");
        text += &head("policy minus policy", &[&["average", "ahead"], &names[..]].concat());
        for d in &results.differences {
            let cells: Vec<String> = d.per_benchmark.iter().map(|value| format!("{value:+.1}")).collect();
            text += &format!(
                "| {} - {} | {} | {} | {} |\n",
                d.better,
                d.than,
                signed(&d.average),
                d.ahead,
                cells.join(" | ")
            );
        }
    }
    text += &format!("\n### Of {samples} samples\n\nIn %, average of the benchmarks.\n\n");
    let columns = ["mean", "at least one right", "majority right", "cut off", "no answer"];
    text += &head("policy", &columns);
    for p in &results.policies {
        let cells = [p.average.mean, p.pass_at_k, p.maj_at_k, p.truncated_share, p.no_answer_share];
        text += &format!("| {} | {} |\n", p.policy, cells.map(|value| format!("{value:.1}")).join(" | "));
    }
    text += &format!(
        "\n### Where the targets come from\n\nIn % of the rows, over all replications.\n\n{}",
        head("rewrites", &Source::ALL.iter().map(|source| source.as_str()).collect::<Vec<_>>())
    );
    for s in &results.sources {
        text += &format!("| {} | {:.1} | {:.1} | {:.1} |\n", s.stage, s.own, s.guided, s.expert);
    }
    text += "\nAddresses: ";
    text +=
        &results.addresses.iter().map(|(name, address)| format!("{name} `{address}`")).collect::<Vec<_>>().join(", ");
    text + ".\n"
}
