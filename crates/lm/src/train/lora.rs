//! Low-rank adapters (Hu et al., arXiv 2106.09685): a frozen weight W `[out, in]` acts as `W + alpha / rank * B A`, and only
//! A `[rank, in]` and B `[out, rank]` are trained. A starts random, B at zero: the first step sees the policy as it was.

use crate::model::config::Config;
use crate::model::tensor_error;
use crate::model::transformer::{Adapter, FUSED, PROJECTIONS, Transformer};
use crate::model::weights::expected_tensors;
use candle_core::{DType, Device, Tensor};
use mindgap_base::error::{Error, Result};
use mindgap_base::rng::Stream;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Which projections get adapters, and of what size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraParams {
    pub rank: u32,
    /// The product of the two matrices counts `alpha / rank` times.
    pub alpha: f64,
    /// Names of projections, such as `q_proj`; all seven where none is named.
    #[serde(default = "every_projection")]
    pub targets: Vec<String>,
}

/// The projection's own name: what follows the dot.
fn short(projection: &str) -> &str {
    projection.split_once('.').map_or(projection, |(_, name)| name)
}

pub(super) fn every_projection() -> Vec<String> {
    PROJECTIONS.iter().map(|name| short(name).to_string()).collect()
}

/// Suffixes of the tensors' names, as PEFT spells them.
const A: &str = ".lora_A.weight";
const B: &str = ".lora_B.weight";

impl LoraParams {
    /// Errors: a rank of 0, an alpha that is not a positive number, an unknown target or none.
    pub fn check(&self) -> Result<()> {
        let known = every_projection();
        if self.rank == 0 || !self.alpha.is_finite() || self.alpha <= 0.0 {
            let (rank, alpha) = (self.rank, self.alpha);
            return Err(Error::usage(format!("`rank` is `{rank}` and `alpha` is `{alpha}`; both must be above 0")));
        }
        if let Some(unknown) = self.targets.iter().find(|target| !known.contains(target)) {
            return Err(Error::usage(format!("unknown target `{unknown}`"))
                .hint(format!("targets are `{}`", known.join("`, `"))));
        }
        match self.targets.is_empty() {
            true => Err(Error::usage("`targets` is empty").hint(format!("targets are `{}`", known.join("`, `")))),
            false => Ok(()),
        }
    }

    fn scale(&self) -> f64 {
        self.alpha / f64::from(self.rank)
    }

    /// The adapters' first values by name, f32 on the CPU: A uniform in `+-1 / sqrt(in)`, keyed by seed and name; B zero.
    pub fn init(&self, config: &Config, seed: u64) -> Result<BTreeMap<String, Tensor>> {
        let rank = self.rank as usize;
        let mut adapters = BTreeMap::new();
        for spec in expected_tensors(config) {
            let Some(projection) = spec.name.strip_suffix(".weight") else { continue };
            let name = projection.rsplit('.').next().unwrap_or_default();
            let [outputs, inputs] = spec.shape[..] else { continue };
            if !self.adapts(name)? {
                continue;
            }
            let bound = 1.0 / (inputs as f64).sqrt();
            let mut cursor = Stream::at(seed, &[b"adapter", projection.as_bytes()]).cursor();
            let values: Vec<f32> =
                (0..rank * inputs).map(|_| (bound * (2.0 * cursor.uniform() - 1.0)) as f32).collect();
            let a = Tensor::from_vec(values, (rank, inputs), &Device::Cpu).map_err(tensor_error)?;
            let b = Tensor::zeros((outputs, rank), DType::F32, &Device::Cpu).map_err(tensor_error)?;
            adapters.insert(format!("{projection}{A}"), a);
            adapters.insert(format!("{projection}{B}"), b);
        }
        Ok(adapters)
    }

    /// Whether a projection gets an adapter. One that is several in one tensor gets one for all, as PEFT gives it. Errors if only
    /// some of them are targets.
    fn adapts(&self, name: &str) -> Result<bool> {
        let is_target = |name: &str| self.targets.iter().any(|target| target == name);
        let Some((_, parts)) = FUSED.iter().find(|(fused, _)| short(fused) == name) else { return Ok(is_target(name)) };
        let wanted = parts.iter().filter(|part| is_target(short(part))).count();
        if wanted == 0 || wanted == parts.len() {
            return Ok(wanted > 0);
        }
        let parts: Vec<&str> = parts.iter().map(|part| short(part)).collect();
        Err(Error::usage(format!("`targets` names some of `{}` and not all", parts.join("`, `")))
            .hint(format!("in this policy they are one tensor, `{name}`, which gets one adapter")))
    }

    /// Adds adapters to a transformer.
    pub fn attach(&self, model: &mut Transformer, adapters: &BTreeMap<String, Tensor>) -> Result<()> {
        for (projection, a, b) in pairs(adapters)? {
            let adapter = Adapter { a: a.clone(), b: b.clone(), scale: self.scale() as f32 };
            model.adapt(projection, adapter)?;
        }
        Ok(())
    }

    /// A tensor of a policy without adapters that acts as the one with them: this tensor of the base, its adapter merged into it
    /// if it has one; in f32, on the base's device.
    pub fn merged(&self, name: &str, weight: &Tensor, adapters: &BTreeMap<String, Tensor>) -> Result<Tensor> {
        let projection = name.strip_suffix(".weight").unwrap_or(name);
        let adapter = adapters.get(&format!("{projection}{A}")).zip(adapters.get(&format!("{projection}{B}")));
        let wide = |t: &Tensor| t.to_device(weight.device())?.to_dtype(DType::F32);
        let merged = match adapter {
            None => wide(weight),
            Some((a, b)) => {
                wide(b).and_then(|b| b.matmul(&wide(a)?)).and_then(|product| wide(weight)? + (product * self.scale())?)
            }
        };
        merged.map_err(tensor_error)
    }
}

/// Projection, A and B of every adapter.
fn pairs(adapters: &BTreeMap<String, Tensor>) -> Result<Vec<(&str, &Tensor, &Tensor)>> {
    let mut found = Vec::new();
    for (name, a) in adapters {
        let Some(projection) = name.strip_suffix(A) else { continue };
        let b = adapters.get(&format!("{projection}{B}"));
        found.push((projection, a, b.ok_or_else(|| Error::input(format!("adapter `{projection}` has no B")))?));
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
