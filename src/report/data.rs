//! What a report says, as data. Everything but the row browser is what `--json` prints.

use super::tokens::Tokens;
use crate::stats::agreement::Agreement;
use crate::stats::metrics::{mean, standard_error};
use mindgap_store::Failures;
use mindgap_store::table::evals::{Eval, Forgetting};
use mindgap_store::table::gaps::{Gap, GapWarning};
use mindgap_store::table::train_steps::TrainStep;
use serde::Serialize;

#[derive(Default, Serialize)]
pub struct Report {
    pub pipeline: String,
    /// The pipeline file, as it was named.
    pub file: String,
    /// Whether what was made could be compared with what the file asks for now.
    pub is_compared: bool,
    pub stages: Vec<StageState>,
    pub cascades: Vec<Cascade>,
    /// Judge stages of the same samples, two by two.
    pub judges: Vec<Compared>,
    pub gaps: Vec<GapTable>,
    /// One per evaluate stage: one per replication, where the pipeline runs over seeds.
    pub evals: Vec<EvalTable>,
    /// Policies in the order in which evals name them, then trained ones that no eval names.
    pub policies: Vec<String>,
    pub runs: Vec<Run>,
    /// One per policy that targets were scored under.
    pub histograms: Vec<Histograms>,
    /// Only in the page: it can be large.
    #[serde(skip)]
    pub browser: Browser,
}

/// A stage, and where its rows are.
#[derive(Serialize)]
pub struct StageState {
    pub name: String,
    pub kind: String,
    pub done: bool,
    pub rows: u64,
    /// Short address of what it made; empty while it is not done.
    pub address: String,
    pub path: String,
    /// Why the pipeline file asks for something else now; empty where it asks for this.
    pub stale: Vec<String>,
    /// Rows that servers failed.
    pub failures: Option<Failures>,
}

/// Self, guided, expert: where the targets of one rewrite stage come from.
#[derive(Default, Serialize)]
pub struct Cascade {
    pub stage: String,
    pub problems: u64,
    pub plain: Samples,
    pub guided: Samples,
    pub teacher: Samples,
    /// `None` while the rewrites are not made.
    pub targets: Option<Targets>,
    /// Correct samples that were refused as targets.
    pub refused: Vec<RefusedSamples>,
    /// What the choice took and what it left.
    pub choice: Choice,
}

/// How the targets of a rewrite stage were chosen among the fit samples.
#[derive(Default, Serialize)]
pub struct Choice {
    /// The rule, in words.
    pub rule: String,
    /// There was something to choose: fit samples were left.
    pub is_one: bool,
    pub outcomes: Vec<Chosen>,
}

/// Correct samples of one source with one outcome.
#[derive(Serialize)]
pub struct Chosen {
    pub source: String,
    /// `chosen`, `left` or `refused`.
    pub outcome: String,
    pub samples: u64,
    /// Mean over them.
    pub tokens: f64,
    /// Mean over those of which it is known, of the mean log-prob per token given the training prompt.
    pub logprob: Option<f64>,
}

/// Correct samples refused for one reason.
#[derive(Serialize)]
pub struct RefusedSamples {
    pub source: String,
    pub reason: String,
    pub samples: u64,
}

#[derive(Default, Serialize)]
pub struct Samples {
    /// Stages that drew the samples.
    pub rollouts: Vec<String>,
    /// Stages that judged them.
    pub verdicts: Vec<String>,
    pub problems: u64,
    pub samples: u64,
    pub correct: u64,
}

#[derive(Default, Serialize)]
pub struct Targets {
    #[serde(rename = "self")]
    pub own: u64,
    pub guided: u64,
    pub teacher: u64,
    pub expert: u64,
    /// Problems without a target: nothing correct sampled, no expert solution.
    pub none: u64,
}

/// Two judge stages of the same samples.
#[derive(Serialize)]
pub struct Compared {
    pub rollouts: String,
    pub first: String,
    pub second: String,
    #[serde(flatten)]
    pub agreement: Agreement,
    /// Cohen's kappa.
    pub kappa: Option<f64>,
}

impl Compared {
    pub fn new(rollouts: &str, first: &str, second: &str, agreement: Agreement) -> Compared {
        let [rollouts, first, second] = [rollouts, first, second].map(str::to_string);
        Compared { rollouts, first, second, kappa: agreement.kappa(), agreement }
    }

    /// Share of the samples that are right for both or for none, in percent.
    pub fn agreeing(&self) -> f64 {
        100.0 * self.agreement.agree() as f64 / self.agreement.samples().max(1) as f64
    }
}

#[derive(Serialize)]
pub struct GapTable {
    pub stage: String,
    /// The policy the targets are scored under.
    pub policy: String,
    pub rows: Vec<Gap>,
    pub warnings: Vec<GapWarning>,
}

#[derive(Serialize)]
pub struct EvalTable {
    pub stage: String,
    pub rows: Vec<Eval>,
    /// What policies have kept, where they are compared with a base.
    pub kept: Vec<Forgetting>,
}

/// One training run.
#[derive(Serialize)]
pub struct Run {
    pub stage: String,
    /// What the policy is called in evals.
    pub label: String,
    pub steps: Vec<TrainStep>,
}

/// How likely a policy finds the targets of each source.
#[derive(Serialize)]
pub struct Histograms {
    pub policy: String,
    pub stages: Vec<String>,
    pub series: Vec<Series>,
}

#[derive(Default, Serialize)]
pub struct Series {
    pub label: String,
    /// Tokens by log-prob: bin `i` holds log-probs in `(-(i + 1) / 2, -i / 2]`; the last one all below.
    pub tokens: Vec<u64>,
    /// Targets by mean log-prob per token: bin `i` holds `(-(i + 1) / 20, -i / 20]`; the last one all below.
    pub rows: Vec<u64>,
}

impl Series {
    const TOKEN_BINS: usize = 24;
    const ROW_BINS: usize = 24;
    pub const TOKEN_BIN: f64 = 0.5;
    pub const ROW_BIN: f64 = 0.05;

    pub fn new(label: &str) -> Series {
        Series { label: label.to_string(), tokens: vec![0; Series::TOKEN_BINS], rows: vec![0; Series::ROW_BINS] }
    }

    /// Takes one target in.
    pub fn add(&mut self, logprobs: &[f32]) {
        let bin = |value: f64, width: f64, bins: usize| ((-value / width).max(0.0) as usize).min(bins - 1);
        for logprob in logprobs {
            self.tokens[bin(f64::from(*logprob), Series::TOKEN_BIN, Series::TOKEN_BINS)] += 1;
        }
        if !logprobs.is_empty() {
            let mean = mean(logprobs.iter().map(|lp| f64::from(*lp)));
            self.rows[bin(mean, Series::ROW_BIN, Series::ROW_BINS)] += 1;
        }
    }
}

/// Problems with everything that led to their targets. Field names are short: they are in the page once per row.
#[derive(Default, Serialize)]
pub struct Browser {
    pub pipeline: String,
    pub file: String,
    /// Rewrite stages.
    pub cascades: Vec<String>,
    /// Policies that targets were scored under, in the order of `Tokens::p`.
    pub policies: Vec<String>,
    pub problems: Vec<BrowsedProblem>,
    /// Problems there are; more than `problems` holds where the page would grow too large.
    pub total: u64,
}

#[derive(Default, Serialize)]
pub struct BrowsedProblem {
    /// Index into `Browser::cascades`.
    pub c: usize,
    pub id: String,
    pub q: String,
    /// The gold answer.
    pub a: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meta: Option<String>,
    /// Source of the first target: `self`, `guided`, `teacher`, `expert`; empty without one.
    pub s: String,
    /// The expert's solution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expert: Option<Tokens>,
    pub plain: Vec<BrowsedSample>,
    /// The prompt of the guided samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    pub guided: Vec<BrowsedSample>,
    pub teacher: Vec<BrowsedSample>,
    pub targets: Vec<BrowsedTarget>,
}

#[derive(Serialize)]
pub struct BrowsedSample {
    /// The rollout stage, where a problem has samples of several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    pub i: u32,
    /// The verdict; empty while not judged.
    pub v: String,
    /// The extracted answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub x: Option<String>,
    /// How equality was decided.
    pub m: String,
    /// Why it is not fit to be a target, were it correct.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r: Option<String>,
    pub stop: String,
    /// Coloured by the log-prob when it was sampled.
    #[serde(flatten)]
    pub tokens: Tokens,
}

#[derive(Serialize)]
pub struct BrowsedTarget {
    pub s: String,
    /// The chosen sample.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub i: Option<u32>,
    #[serde(flatten)]
    pub tokens: Tokens,
}

impl Report {
    /// Benchmarks that were evaluated, by name.
    pub fn benchmarks(&self) -> Vec<&str> {
        let mut names: Vec<&str> =
            self.evals.iter().flat_map(|table| &table.rows).map(|eval| eval.benchmark.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Policies that were evaluated.
    pub fn evaluated(&self) -> Vec<&str> {
        let has = |policy: &&str| self.evals.iter().flat_map(|table| &table.rows).any(|eval| eval.policy == *policy);
        self.policies.iter().map(String::as_str).filter(has).collect()
    }

    /// mean@k of a policy in percent: its bootstrap interval, or mean and standard error over replications.
    pub fn accuracy(&self, policy: &str, benchmark: &str) -> Option<Estimate> {
        let of = |eval: &&Eval| eval.policy == policy && eval.benchmark == benchmark;
        let found: Vec<&Eval> = self.evals.iter().flat_map(|table| &table.rows).filter(of).collect();
        match found[..] {
            [] => None,
            [e] => {
                let interval = Some((100.0 * e.ci_low, 100.0 * e.ci_high));
                Some(Estimate { value: 100.0 * e.mean_at_k, interval, error: None })
            }
            _ => Some(Estimate::over(&found.iter().map(|e| 100.0 * e.mean_at_k).collect::<Vec<_>>())),
        }
    }

    /// Evaluations, replication by replication: tables of other benchmarks belong to the same one.
    pub fn replications(&self) -> Vec<Vec<&Eval>> {
        let mut replications: Vec<Vec<&Eval>> = Vec::new();
        for table in &self.evals {
            let lacks = |replication: &&mut Vec<&Eval>| {
                let has = |row: &Eval| replication.iter().any(|eval| eval.benchmark == row.benchmark);
                !table.rows.iter().any(has)
            };
            match replications.iter_mut().find(lacks) {
                Some(replication) => replication.extend(&table.rows),
                None => replications.push(table.rows.iter().collect()),
            }
        }
        replications
    }

    /// The average of a figure over benchmarks, in percent, per replication.
    pub fn average(&self, policy: &str, figure: impl Fn(&Eval) -> f64) -> Option<Estimate> {
        let of = |replication: &Vec<&Eval>| -> Option<f64> {
            let values: Vec<f64> =
                replication.iter().filter(|e| e.policy == policy).map(|e| 100.0 * figure(e)).collect();
            (!values.is_empty()).then(|| mean(values))
        };
        let averages: Vec<f64> = self.replications().iter().filter_map(of).collect();
        match averages[..] {
            [] => None,
            [value] => Some(Estimate { value, interval: None, error: None }),
            _ => Some(Estimate::over(&averages)),
        }
    }

    /// Policies of whose correct samples some were cut off, with their share in percent.
    pub fn truncated_correct(&self) -> Vec<(&str, Estimate)> {
        let share = |policy: &str| self.average(policy, |eval| eval.truncated_correct_share.unwrap_or(0.0));
        let shares = self.evaluated().into_iter().filter_map(|policy| Some((policy, share(policy)?)));
        shares.filter(|(_, share)| share.value > 0.0).collect()
    }

    /// Stages whose results the pipeline file no longer asks for.
    pub fn stale(&self) -> impl Iterator<Item = &StageState> {
        self.stages.iter().filter(|stage| !stage.stale.is_empty())
    }

    /// Stages with rows that servers failed.
    pub fn failed(&self) -> impl Iterator<Item = (&StageState, &Failures)> {
        self.stages.iter().filter_map(|stage| Some((stage, stage.failures.as_ref()?)))
    }

    pub fn warnings_raised(&self) -> usize {
        self.gaps.iter().flat_map(|table| &table.warnings).filter(|warning| warning.raised).count()
    }
}

/// A figure and how sure it is.
#[derive(Clone, Debug, Serialize)]
pub struct Estimate {
    pub value: f64,
    pub interval: Option<(f64, f64)>,
    pub error: Option<f64>,
}

impl Estimate {
    fn over(values: &[f64]) -> Estimate {
        Estimate { value: mean(values.iter().copied()), interval: None, error: Some(standard_error(values)) }
    }

    /// `39.1 [33.8, 43.8]`, `38.4 ± 1.2` or `30.0`.
    pub fn text(&self) -> String {
        match (self.interval, self.error) {
            (Some((low, high)), _) => format!("{:.1} [{low:.1}, {high:.1}]", self.value),
            (None, Some(error)) => format!("{:.1} ± {error:.1}", self.value),
            (None, None) => format!("{:.1}", self.value),
        }
    }

    /// The ends of the interval, or one standard error to each side.
    pub fn range(&self) -> Option<(f64, f64)> {
        self.interval.or(self.error.map(|error| (self.value - error, self.value + error)))
    }
}
