//! What work costs, told before it is done: tokens and memory. How long tokens take is the machine's business.

use crate::policy::{PolicyHandle, Runs, policy_config};
use mindgap_base::error::Result;
use mindgap_store::PartRef;

/// The cost of missing parts. A pass over a token costs about as much as the policy has parameters, so tokens times parameters
/// compare across policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Tokens drawn, scored (prompts included) or trained on.
    pub tokens: u64,
    /// No sample of this recipe is known: each counts with the longest it may be.
    pub is_upper_bound: bool,
    /// As many tokens as it may become, where how much is drawn depends on what is drawn.
    pub at_most: Option<u64>,
    pub parameters: u64,
    /// The program that does it, where this one does not: its speed is its own.
    pub by: Option<&'static str>,
}

impl Cost {
    pub fn new(policy: &PolicyHandle, tokens: u64, is_upper_bound: bool) -> Result<Cost> {
        let by = match policy.runs() {
            Runs::Here => None,
            Runs::Served(_) => Some("servers"),
            Runs::Launched(launched) => Some(launched.engine.name()),
        };
        let parameters = policy_config(policy)?.parameter_count() as u64;
        Ok(Cost { tokens, is_upper_bound, at_most: None, parameters, by })
    }
}

/// The memory a stage cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint<'a> {
    /// The policy that is held.
    pub policy: &'a str,
    pub holds: Holds,
}

/// What of a policy is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Its weights, once, to sample and to score with.
    Weights,
    /// All that training needs.
    Training { bytes_per_parameter: u64 },
    /// Nothing: another program holds it.
    Nothing,
}

impl Footprint<'_> {
    /// Of a stage that samples or scores.
    pub fn of_engine(policy: &str) -> Footprint<'_> {
        Footprint { policy, holds: Holds::Weights }
    }
}

/// Tokens of a table's parts, if all of them say.
pub fn tokens<'a>(parts: impl IntoIterator<Item = &'a PartRef>) -> Option<u64> {
    parts.into_iter().map(|part| part.counts.get("tokens").copied()).sum()
}
