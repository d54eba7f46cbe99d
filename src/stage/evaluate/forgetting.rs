//! What a policy has kept and lost: changes from the policy training began from, backward transfer over a sequence of tasks,
//! retention on benchmarks nothing was trained for, and how far it has moved.

use super::moved::{Moved, Scored, Sums};
use super::{Params, RESAMPLES, Run};
use crate::stage::Inputs;
use crate::stats::crossed::{Interval, crossed_interval};
use crate::stats::metrics::mean;
use mindgap_base::error::{Error, Result};
use mindgap_base::fingerprint::Recipe;
use mindgap_store::Table;
use mindgap_store::table::Row;
use mindgap_store::table::evals::{Eval, Forgetting};
use mindgap_store::table::problems::Problem;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A policy of a sequence of trainings.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Learned {
    /// As evals call it.
    pub policy: String,
    /// The benchmarks it was trained for.
    pub learned: Vec<String>,
}

/// Errors: what is to be compared, and nothing to compare it with.
pub fn check(params: &Params) -> Result<()> {
    let asks = !params.sequences.is_empty() || !params.untouched.is_empty() || !params.logprobs.is_empty();
    if asks && params.base.is_none() {
        return Err(Error::usage("`sequences`, `untouched` and `logprobs` compare policies with `base`")
            .hint("base = \"base\": the policy, as evals call it, that training began from"));
    }
    let mut policies: Vec<&String> = params.sequences.values().flatten().map(|step| &step.policy).collect();
    policies.sort();
    if let Some(pair) = policies.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Error::usage(format!("policy `{}` stands twice in `sequences`", pair[0])));
    }
    match params.untouched.iter().find(|name| params.learned().contains(name)) {
        Some(name) => {
            let what = format!("`{name}` is `untouched`, and a policy of `sequences` was trained for it");
            Err(Error::usage(what))
        }
        None => Ok(()),
    }
}

impl Params {
    /// Benchmarks that some policy of a sequence was trained for.
    fn learned(&self) -> BTreeSet<&String> {
        self.sequences.values().flatten().flat_map(|step| &step.learned).collect()
    }

    /// Whether a benchmark is one of those of which retention is told: nothing was trained for them.
    pub fn is_untouched(&self, benchmark: &String) -> bool {
        let learned = self.learned();
        match self.untouched.is_empty() {
            false => self.untouched.contains(benchmark),
            true => !learned.is_empty() && !learned.contains(benchmark),
        }
    }

    /// The steps of a policy's sequence before its own; none of a policy that is in no sequence.
    pub fn steps_before(&self, policy: &str) -> Option<&[Learned]> {
        self.sequences.values().find_map(|steps| {
            let own = steps.iter().position(|step| step.policy == policy)?;
            Some(&steps[..own])
        })
    }
}

/// Share of correct samples by benchmark and problem.
pub type Accuracies = BTreeMap<String, BTreeMap<String, f64>>;

/// What the policies of an evaluation are compared with.
pub struct Comparison {
    params: Params,
    /// The run of the base policy.
    base: usize,
    /// Runs of the policies before each run in its sequence.
    before: BTreeMap<usize, Vec<usize>>,
    /// Log-probs under the base policy, by run.
    logprobs: BTreeMap<usize, Scored>,
}

impl Comparison {
    /// Errors: a policy that is not evaluated, log-probs of samples that are not judged here or under another policy.
    pub fn of(params: &Params, runs: &[Run], inputs: &Inputs) -> Result<Option<Comparison>> {
        let Some(base) = &params.base else { return Ok(None) };
        let find = |field: &str, name: &str| {
            runs.iter().position(|run| run.policy == name).ok_or_else(|| {
                let known: Vec<&str> = runs.iter().map(|run| run.policy.as_str()).collect();
                Error::usage(format!("`{field}` names the policy `{name}`, which is not evaluated here"))
                    .hint(format!("there is: {}", known.join(", ")))
            })
        };
        let base_run = find("base", base)?;
        let mut before = BTreeMap::new();
        for steps in params.sequences.values() {
            let runs = steps.iter().map(|step| find("sequences", &step.policy)).collect::<Result<Vec<usize>>>()?;
            before.extend(runs.iter().enumerate().map(|(number, run)| (*run, runs[..number].to_vec())));
        }
        let base_policy = &inputs.rollouts(&runs[base_run].judged)?.policy;
        let mut logprobs = BTreeMap::new();
        for name in &params.logprobs {
            let scored = inputs.scored_by(name)?;
            let run = runs.iter().position(|run| scored.rollouts.as_ref() == Some(&run.judged)).ok_or_else(|| {
                Error::usage(format!("`logprobs` names `{name}`, which does not score samples that are judged here"))
                    .hint("name logprob stages with `rollouts = \"EVAL_ROLLOUTS\"`")
            })?;
            if scored.policy != *base_policy {
                let what = format!("`{name}` is scored under policy `{}`, the base is `{base_policy}`", scored.policy);
                return Err(Error::usage(what));
            }
            if !inputs.rollouts(&runs[run].judged)?.is_untruncated() {
                return Err(Error::usage(format!("`{}` is not sampled from the policy itself", runs[run].judged))
                    .hint("divergence is estimated on samples at temperature 1, without top_p, top_k and min_p"));
            }
            logprobs.insert(run, Scored::new(inputs.table(name)?, inputs.table(&runs[run].judged)?));
        }
        Ok(Some(Comparison { params: params.clone(), base: base_run, before, logprobs }))
    }

    pub fn name_in(&self, recipe: Recipe) -> Recipe {
        let p = &self.params;
        recipe.with("forgetting", (Forgetting::VERSION, &p.base, &p.sequences, &p.untouched))
    }

    /// The runs that a run is compared with: the base, and those before it in its sequence.
    fn compared(&self, run: usize) -> Vec<usize> {
        [&[self.base][..], self.before.get(&run).map_or(&[], Vec::as_slice)].concat()
    }

    /// What the rows of a run depend on beyond the run.
    pub fn key(&self, run: usize, runs: &[Run]) -> Vec<String> {
        let mut key: Vec<String> = self.compared(run).into_iter().flat_map(|index| runs[index].contents()).collect();
        key.extend(self.logprobs.get(&run).into_iter().flat_map(Scored::contents));
        key
    }

    /// Completes the rows of a run, and says what the policy has kept. `accuracies` are those of another run.
    pub fn compare(
        &self,
        run: usize,
        own: &Accuracies,
        accuracies: &dyn Fn(usize) -> Result<Accuracies>,
        problems: &Table<Problem>,
        rows: &mut [Eval],
    ) -> Result<Forgetting> {
        let others = self.compared(run).into_iter().map(|index| Ok((index, accuracies(index)?)));
        let others: HashMap<usize, Accuracies> = others.collect::<Result<_>>()?;
        let base = &others[&self.base];
        let moved = self.logprobs.get(&run).map(|scored| scored.read(problems)).transpose()?;
        for row in rows.iter_mut() {
            row.kl_per_token = moved.as_ref().and_then(|moved| moved.of(&row.benchmark)).map(Sums::per_token);
            if run == self.base {
                continue;
            }
            let change = differences(own, base, &row.benchmark);
            let change = change.map(|values| crossed_interval(&[vec![values]], 0.95, RESAMPLES, 0));
            row.change_from_base = change.map(|change| change.mean);
            row.change_from_base_low = change.map(|change| change.low);
            row.change_from_base_high = change.map(|change| change.high);
            let shares = others.values().filter_map(|accuracies| accuracies.get(&row.benchmark));
            let best = shares.map(|shares| mean(shares.values().copied())).reduce(f64::max);
            row.change_from_best = best.map(|best| row.mean_at_k - best);
        }
        let policy = rows.first().map(|row| row.policy.clone()).unwrap_or_default();
        let bwt = self.bwt(run, &policy, own, &others);
        let untouched = own.keys().filter(|name| run != self.base && self.params.is_untouched(name));
        let retention = over(untouched.filter_map(|name| differences(own, base, name)));
        let kl = moved.as_ref().map(Moved::per_sample);
        let [mean, low, high] = [|i: Interval| i.mean, |i: Interval| i.low, |i: Interval| i.high];
        Ok(Forgetting {
            policy,
            base: self.params.base.clone().unwrap_or_default(),
            earlier_tasks: self.before.get(&run).map_or(0, Vec::len) as u32,
            bwt: bwt.map(mean),
            bwt_low: bwt.map(low),
            bwt_high: bwt.map(high),
            retention: retention.map(mean),
            retention_low: retention.map(low),
            retention_high: retention.map(high),
            kl_per_sample: kl.map(mean),
            kl_per_sample_low: kl.map(low),
            kl_per_sample_high: kl.map(high),
            kl_per_token: moved.map(|moved| moved.all.per_token()),
        })
    }

    /// Over the tasks before a policy's own in its sequence: now, minus right after each was learned.
    fn bwt(&self, run: usize, policy: &str, own: &Accuracies, others: &HashMap<usize, Accuracies>) -> Option<Interval> {
        let before = self.params.steps_before(policy)?.iter().zip(&self.before[&run]);
        over(before.flat_map(|(task, run)| {
            task.learned.iter().filter_map(|benchmark| differences(own, &others[run], benchmark))
        }))
    }
}

/// Per problem of a benchmark that both have: a's share of correct samples minus b's.
fn differences(a: &Accuracies, b: &Accuracies, benchmark: &str) -> Option<Vec<f64>> {
    let (a, b) = (a.get(benchmark)?, b.get(benchmark)?);
    let differences: Vec<f64> = a.iter().filter_map(|(id, share)| Some(share - b.get(id)?)).collect();
    (!differences.is_empty()).then_some(differences)
}

/// The mean over benchmarks, each counting alike, with its interval over their problems; none of nothing.
fn over(benchmarks: impl Iterator<Item = Vec<f64>>) -> Option<Interval> {
    let strata: Vec<Vec<Vec<f64>>> = benchmarks.map(|values| vec![values]).collect();
    (!strata.is_empty()).then(|| crossed_interval(&strata, 0.95, RESAMPLES, 0))
}
