//! How long missing parts will take on this machine, by what the log says of parts that were computed and of speeds that were
//! measured.

use crate::stage::Cost;
use mindgap_base::error::{Error, Result};
use mindgap_store::Store;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// What a stage's missing parts would take.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// Tokens drawn, scored (prompts included) or trained on.
    pub tokens: u64,
    /// Each sample counts with the longest it may be: no sample of this recipe is known.
    pub is_upper_bound: bool,
    /// As many tokens as it may become, where how much is drawn depends on what is drawn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_most: Option<u64>,
    /// None where nothing of this kind ran or was measured here.
    pub seconds: Option<f64>,
}

/// One line of the log that tells a speed.
#[derive(Debug, Serialize, Deserialize)]
pub struct Speed {
    /// Kind of stage.
    pub kind: String,
    pub parameters: u64,
    pub tokens: u64,
    pub seconds: f64,
    /// The program that did it, where this one did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// Parts that count, from the latest on: a machine may get other work, and other builds.
const LATEST: usize = 16;
/// Shorter parts say more about loading than about speed.
const SECONDS: f64 = 2.0;
/// Policies up to this many times larger or smaller are preferred: others use a machine otherwise.
const ALIKE: f64 = 4.0;

/// The speeds that are known of this machine: of each kind and program, the latest first.
#[derive(Default)]
pub struct Speeds(BTreeMap<(String, Option<String>), Vec<Speed>>);

impl Speeds {
    pub fn of(store: &Store) -> Result<Speeds> {
        let mut speeds = Speeds::default();
        for event in store.logs()?.into_iter().flatten().rev() {
            speeds.add(event);
        }
        Ok(speeds)
    }

    fn add(&mut self, event: Value) {
        let least = if event["event"] == "part" { SECONDS } else { 0.0 };
        let Ok(speed) = serde_json::from_value::<Speed>(event) else { return };
        if speed.seconds > least && speed.tokens > 0 && speed.parameters > 0 {
            self.0.entry((speed.kind.clone(), speed.by.clone())).or_default().push(speed);
        }
    }

    pub fn estimate(&self, kind: &str, cost: &Cost) -> Estimate {
        let key = (kind.to_string(), cost.by.map(str::to_string));
        let all = self.0.get(&key).map_or(&[][..], Vec::as_slice);
        let is_alike = |speed: &&Speed| {
            let ratio = speed.parameters as f64 / cost.parameters.max(1) as f64;
            (1.0 / ALIKE..=ALIKE).contains(&ratio)
        };
        let alike: Vec<&Speed> = all.iter().filter(is_alike).take(LATEST).collect();
        let used = if alike.is_empty() { all.iter().take(LATEST).collect() } else { alike };
        let work: f64 = used.iter().map(|speed| speed.tokens as f64 * speed.parameters as f64).sum();
        let seconds: f64 = used.iter().map(|speed| speed.seconds).sum();
        let wanted = cost.tokens as f64 * cost.parameters as f64;
        Estimate {
            tokens: cost.tokens,
            is_upper_bound: cost.is_upper_bound,
            at_most: cost.at_most,
            seconds: (work > 0.0).then(|| wanted * seconds / work),
        }
    }
}

/// Refuses a stage of this kind that cannot do without so much memory, before hours are spent on the stages in front of it.
pub fn check_memory(kind: &str, needed: u64, available: Option<u64>) -> Result<()> {
    let Some(available) = available.filter(|available| needed > *available) else { return Ok(()) };
    let gigabytes = |bytes: u64| bytes as f64 / 1e9;
    let remedy = match kind {
        "train" => {
            "train adapters (`lora = { rank = 16 }` holds the weights alone), or in bf16 (`dtype = \"bf16\"` takes 12 bytes a \
             weight instead of 16), or a smaller policy, or use a machine with more"
        }
        _ => "name a smaller policy, or one on a server (`server = ..`), or use a machine with more",
    };
    let (needed, available) = (gigabytes(needed), gigabytes(available));
    let what = format!(
        "the weights and what belongs to them take at least {needed:.1} GB of memory, {available:.1} GB are free"
    );
    Err(Error::environment(what).hint(remedy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cost(parameters: u64, tokens: u64) -> Cost {
        Cost { tokens, is_upper_bound: false, at_most: None, parameters, by: None }
    }

    /// Goal: time scales with tokens and parameters; the latest parts of policies of about the same size decide.
    #[test]
    fn time_follows_from_parts_that_were_computed() {
        let mut speeds = Speeds::default();
        let part = |kind: &str, parameters: u64, tokens: u64, seconds: f64| json!({"event": "part", "kind": kind, "parameters": parameters, "tokens": tokens, "seconds": seconds});
        assert_eq!(speeds.estimate("rollout", &cost(1000, 50)).seconds, None);
        speeds.add(part("rollout", 1_000_000, 1000, 10.0));
        assert_eq!(speeds.estimate("rollout", &cost(1_000_000, 50)).seconds, Some(0.5));
        assert_eq!(speeds.estimate("rollout", &cost(2_000_000, 50)).seconds, Some(1.0));
        assert_eq!(speeds.estimate("train", &cost(1_000_000, 50)).seconds, None);
        // Another program's speed is its own.
        let by_vllm = Cost { by: Some("vllm"), ..cost(1_000_000, 50) };
        assert_eq!(speeds.estimate("rollout", &by_vllm).seconds, None);
        speeds.add(json!({"event": "part", "kind": "rollout", "parameters": 1_000_000, "tokens": 1000, "seconds": 5.0, "by": "vllm"}));
        assert_eq!(speeds.estimate("rollout", &by_vllm).seconds, Some(0.25));
        assert_eq!(speeds.estimate("rollout", &cost(1_000_000, 50)).seconds, Some(0.5));
        // Another size is all there is, then it is not.
        assert_eq!(speeds.estimate("rollout", &cost(100_000_000, 10)).seconds, Some(10.0));
        speeds.add(part("rollout", 50_000_000, 100, 5.0));
        assert_eq!(speeds.estimate("rollout", &cost(100_000_000, 10)).seconds, Some(1.0));
        // Neither a part that took no time nor another event tells a speed.
        speeds.add(part("rollout", 100_000_000, 100, 0.1));
        speeds.add(json!({"event": "done"}));
        assert_eq!(speeds.estimate("rollout", &cost(100_000_000, 10)).seconds, Some(1.0));
        // Of many, the latest count.
        let mut speeds = Speeds::default();
        for seconds in [10.0, 1000.0] {
            (0..LATEST).for_each(|_| speeds.add(part("rollout", 1_000_000, 1, seconds)));
        }
        assert_eq!(speeds.estimate("rollout", &cost(1_000_000, 1)).seconds, Some(10.0));
    }

    #[test]
    fn what_cannot_fit_is_refused_with_what_would() {
        check_memory("train", 16_000, Some(16_000)).unwrap();
        check_memory("train", 16_000, None).unwrap();
        let error = check_memory("train", 128_000_000_000, Some(24_000_000_000)).unwrap_err();
        assert!(error.what().contains("at least 128.0 GB of memory, 24.0 GB are free"), "{error}");
        assert!(error.to_string().contains("lora"), "{error}");
    }
}
