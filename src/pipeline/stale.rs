//! Whether what stages made last is what the pipeline file asks for now.

use super::plan::StagePlan;
use mindgap_base::error::Result;
use mindgap_store::Store;
use std::collections::BTreeMap;

/// Why the newest result of each stage is stale, by stage; a stage that is not in the map is current or has made nothing.
/// `plans` are those of `pipeline` in its order.
///
/// A result is stale if the fingerprint it was published under is not the one that the file gives the stage now. That of a
/// stage that waits is not known: its result is stale if a stage it waits for has a stale one or none at all.
pub fn stale(store: &Store, pipeline: &str, plans: &[StagePlan]) -> Result<BTreeMap<String, Vec<String>>> {
    let mut stale = BTreeMap::new();
    for plan in plans {
        let Some(pointer) = store.pointer(pipeline, &plan.name)? else { continue };
        let reasons = match &plan.fingerprint {
            Some(asked) if *asked == pointer.fingerprint => continue,
            // Everything was made at some time, and then another recipe was run under this name.
            Some(_) if plan.parts_miss == 0 => vec![SHOWN_AGAIN.to_string()],
            None if !waits_for_change(store, pipeline, plan, &stale)? => continue,
            _ => plan.why.clone(),
        };
        stale.insert(plan.name.clone(), reasons);
    }
    Ok(stale)
}

const SHOWN_AGAIN: &str = "what the pipeline file asks for is in the store; `mindgap run` shows it again";

fn waits_for_change(
    store: &Store,
    pipeline: &str,
    plan: &StagePlan,
    stale: &BTreeMap<String, Vec<String>>,
) -> Result<bool> {
    for need in &plan.waits_for {
        if stale.contains_key(need) || store.pointer(pipeline, need)?.is_none() {
            return Ok(true);
        }
    }
    Ok(false)
}
