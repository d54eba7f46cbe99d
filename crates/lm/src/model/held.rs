//! What a policy is held in.

use super::kv_cache::KvType;
use super::ops::WeightType;

/// What a policy is held in while it samples and scores on the CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Where nobody says: bf16 as stored if the checkpoint's are, else f32.
    pub weights: Option<WeightType>,
    pub keys_values: KvType,
}

impl Held {
    /// What was said that may change results, by name.
    pub fn said(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let weights = self.weights.filter(|weights| *weights != WeightType::F32);
        let keys_values = Some(self.keys_values).filter(|kind| *kind != KvType::F32);
        let weights = weights.map(|weights| ("weights", weights.name()));
        weights.into_iter().chain(keys_values.map(|kind| ("keys_values", kind.name())))
    }
}
