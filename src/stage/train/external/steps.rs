//! What another program says of its steps and of held-out rows: lines of JSON in the work folder.

use mindgap_base::error::{Error, Result};
use mindgap_store::fs;
use mindgap_store::table::train_steps::{TrainEval, TrainStep};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::path::Path;

const FILE: &str = "steps.jsonl";
const EVALS: &str = "evals.jsonl";

/// What is known of the steps beforehand.
pub struct Plan {
    pub steps: Vec<Planned>,
    pub clip_norm: f64,
}

pub struct Planned {
    pub learning_rate: f64,
    pub target_tokens: u64,
    pub input_tokens: u64,
}

impl Plan {
    /// Tokens that have gone through the model after so many steps.
    pub fn tokens_after(&self, steps: usize) -> u64 {
        self.steps[..steps.min(self.steps.len())].iter().map(|step| step.input_tokens).sum()
    }
}

/// One line. Only `step` and `loss` must be there; a step that is told again, after a checkpoint, counts as it was told last.
#[derive(Clone, Debug, Deserialize)]
pub struct Said {
    pub step: u32,
    pub loss: f64,
    nll: Option<f64>,
    grad_norm: Option<f64>,
    learning_rate: Option<f64>,
    token_count: Option<u64>,
    weight_mean: Option<f64>,
    weight_var: Option<f64>,
    ess: Option<f64>,
    clipped: Option<bool>,
    low_weight_share: Option<f64>,
    eos_probability: Option<f64>,
    nll_self: Option<f64>,
    nll_guided: Option<f64>,
    nll_expert: Option<f64>,
    nll_teacher: Option<f64>,
}

/// The last step that was told of, if one was.
pub fn last(folder: &Path) -> Option<Said> {
    let end = fs::read_end(&folder.join(FILE), 4 << 10).ok()?;
    // The last line may be half written.
    String::from_utf8_lossy(&end).lines().rev().find_map(|line| serde_json::from_str(line).ok())
}

/// One line about the held-out rows.
#[derive(Deserialize)]
struct Evaluated {
    step: u32,
    nll: f64,
    loss: Option<f64>,
    token_count: u64,
    eos_probability: Option<f64>,
    nll_self: Option<f64>,
    nll_guided: Option<f64>,
    nll_expert: Option<f64>,
    nll_teacher: Option<f64>,
}

/// How the held-out rows fared: what the program told, which may be nothing.
pub fn read_evals(folder: &Path) -> Result<Vec<TrainEval>> {
    let told = lines::<Evaluated>(&folder.join(EVALS))?.into_iter().map(|told| (told.step, told));
    let mut least = f64::INFINITY;
    let eval = |told: Evaluated| {
        let best = told.nll < least;
        least = least.min(told.nll);
        TrainEval {
            step: told.step,
            nll: told.nll,
            loss: told.loss,
            token_count: told.token_count,
            eos_probability: told.eos_probability,
            nll_self: told.nll_self,
            nll_guided: told.nll_guided,
            nll_expert: told.nll_expert,
            best,
            nll_teacher: told.nll_teacher,
        }
    };
    Ok(told.collect::<BTreeMap<_, _>>().into_values().map(eval).collect())
}

/// What is told line by line.
fn lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let bytes = fs::read_if_present(path)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let said = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    said.map(|(number, line)| {
        let at = || format!("{}:{}", path.display(), number + 1);
        serde_json::from_str(line).map_err(|e| Error::input(format!("the trainer wrote what is no step: {e}")).at(at()))
    })
    .collect()
}

/// Rows of all steps. Errors: a line that cannot be read, a step that is missing or none of the plan's.
pub fn read(folder: &Path, plan: &Plan) -> Result<Vec<TrainStep>> {
    let path = folder.join(FILE);
    let told = lines::<Said>(&path)?.into_iter().map(|told| (told.step, told));
    let mut said: BTreeMap<u32, Said> = told.collect();
    if let Some(step) = said.keys().find(|step| **step as usize >= plan.steps.len()) {
        return Err(Error::input(format!("the trainer tells of step {step}, and there are {}", plan.steps.len()))
            .at(path.display().to_string())
            .hint("steps are counted from 0"));
    }
    let planned = plan.steps.iter().enumerate();
    planned
        .map(|(number, planned)| {
            let step = said.remove(&(number as u32)).ok_or_else(|| {
                Error::input(format!("the trainer tells nothing of step {number}"))
                    .at(path.display().to_string())
                    .hint("it is to append a line for every step: {\"step\": 0, \"loss\": 0.5}")
            })?;
            Ok(row(step, planned, plan.clip_norm))
        })
        .collect()
}

/// What is not told is not a number.
fn row(said: Said, planned: &Planned, clip_norm: f64) -> TrainStep {
    let number = |told: Option<f64>| told.unwrap_or(f64::NAN);
    let grad_norm = number(said.grad_norm);
    TrainStep {
        step: said.step,
        loss: said.loss,
        nll: number(said.nll),
        grad_norm,
        learning_rate: said.learning_rate.unwrap_or(planned.learning_rate),
        token_count: said.token_count.unwrap_or(planned.target_tokens),
        weight_mean: number(said.weight_mean),
        weight_var: number(said.weight_var),
        ess: number(said.ess),
        clipped: said.clipped.unwrap_or(clip_norm > 0.0 && grad_norm > clip_norm),
        skipped: None,
        low_weight_share: number(said.low_weight_share),
        eos_probability: said.eos_probability,
        nll_self: said.nll_self,
        nll_guided: said.nll_guided,
        nll_expert: said.nll_expert,
        nll_teacher: said.nll_teacher,
    }
}
