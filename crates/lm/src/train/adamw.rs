//! AdamW (Loshchilov and Hutter, arXiv 1711.05101) with f32 moments kept by tensor name, so that training can resume.
//!
//! With g the clipped gradient: `m = m + (1 - b1)(g - m)`, `v = b2 v + (1 - b2) g^2`,
//! `w = w (1 - lr decay) - lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)`. Matrices decay, vectors (norms, biases) do not.

use crate::model::{ops, tensor_error};
use candle_core::{CpuStorage, DType, Device, InplaceOp2, InplaceOp3, Layout, Tensor, Var, bail};
use mindgap_base::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// Hyperparameters other than the learning rate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamWParams {
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    /// Decoupled, of matrices only.
    pub weight_decay: f64,
    /// Round the moments to bf16 after every step, as trainers without f32 state do.
    pub bf16_moments: bool,
}

impl Default for AdamWParams {
    fn default() -> AdamWParams {
        AdamWParams { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.0, bf16_moments: false }
    }
}

impl AdamWParams {
    /// Errors: a value outside its range.
    pub fn check(&self) -> Result<()> {
        for (name, beta) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            if !(0.0..1.0).contains(&beta) {
                return Err(Error::usage(format!("`{name}` is `{beta}`, outside 0 to below 1")));
            }
        }
        let bad = |x: f64| !x.is_finite() || x < 0.0;
        if bad(self.epsilon) || bad(self.weight_decay) {
            return Err(Error::usage("`epsilon` and `weight_decay` must be non-negative"));
        }
        Ok(())
    }
}

struct Moments {
    first: Tensor,
    second: Tensor,
}

/// The optimizer: moments by tensor name, and the number of updates made.
pub struct AdamW {
    params: AdamWParams,
    updates: u32,
    moments: BTreeMap<String, Moments>,
}

impl AdamW {
    /// With zero moments for these variables.
    pub fn new(params: AdamWParams, vars: &BTreeMap<String, Var>) -> Result<AdamW> {
        params.check()?;
        let zeros = |var: &Var| Tensor::zeros(var.shape(), DType::F32, var.device()).map_err(tensor_error);
        let moments =
            vars.iter().map(|(name, var)| Ok((name.clone(), Moments { first: zeros(var)?, second: zeros(var)? })));
        Ok(AdamW { params, updates: 0, moments: moments.collect::<Result<_>>()? })
    }

    /// Updates made so far.
    pub fn updates(&self) -> u32 {
        self.updates
    }

    /// One update of every variable; `gradients` are f32 and by the same names, and are multiplied by `gradient_scale` first.
    pub fn update(
        &mut self,
        vars: &BTreeMap<String, Var>,
        gradients: &BTreeMap<String, Tensor>,
        gradient_scale: f64,
        learning_rate: f64,
    ) -> Result<()> {
        self.updates += 1;
        let p = self.params;
        let correction = |beta: f64| 1.0 - beta.powi(self.updates as i32);
        let (first_correction, second_correction) = (correction(p.beta1), correction(p.beta2));
        for (name, var) in vars {
            let missing = || Error::internal(format!("tensor `{name}` has no gradient or no optimizer state"));
            let moments = self.moments.get_mut(name).ok_or_else(missing)?;
            let gradient = gradients.get(name).ok_or_else(missing)?;
            let first = Average { decay: p.beta1, scale: gradient_scale, power: 1, bf16: p.bf16_moments };
            let second = Average { decay: p.beta2, power: 2, ..first };
            first.apply(&mut moments.first, gradient).map_err(tensor_error)?;
            second.apply(&mut moments.second, gradient).map_err(tensor_error)?;
            let weight_decay = if var.rank() > 1 { p.weight_decay } else { 0.0 };
            let descent = Descent {
                keep: 1.0 - learning_rate * weight_decay,
                rate: learning_rate / first_correction,
                root_correction: second_correction.sqrt(),
                epsilon: p.epsilon,
            };
            descent.apply(var, &moments.first, &moments.second).map_err(tensor_error)?;
        }
        Ok(())
    }

    /// Copies of the moments in the host's memory: `adamw.first.NAME` and `adamw.second.NAME`.
    pub fn state(&self) -> Result<HashMap<String, Tensor>> {
        let mut state = HashMap::new();
        for (name, moments) in &self.moments {
            for (kind, tensor) in [("first", &moments.first), ("second", &moments.second)] {
                state.insert(format!("adamw.{kind}.{name}"), host_copy(tensor)?);
            }
        }
        Ok(state)
    }

    /// Takes the moments out of a saved state. Errors name a missing tensor or a wrong shape; nothing is changed then.
    pub fn restore(&mut self, state: &HashMap<String, Tensor>, updates: u32) -> Result<()> {
        let take = |kind: &str, name: &str, like: &Tensor| -> Result<Tensor> {
            let key = format!("adamw.{kind}.{name}");
            let tensor = state.get(&key).ok_or_else(|| Error::input(format!("saved state has no tensor `{key}`")))?;
            if tensor.shape() != like.shape() {
                let (found, expected) = (tensor.dims(), like.dims());
                return Err(Error::input(format!("saved `{key}` has shape {found:?} instead of {expected:?}")));
            }
            let tensor = tensor.to_device(like.device()).and_then(|t| t.to_dtype(DType::F32)?.copy());
            tensor.map_err(tensor_error)
        };
        let restored = self.moments.iter().map(|(name, old)| {
            let first = take("first", name, &old.first)?;
            Ok((name.clone(), Moments { first, second: take("second", name, &old.second)? }))
        });
        self.moments = restored.collect::<Result<_>>()?;
        self.updates = updates;
        Ok(())
    }
}

/// A copy in the host's memory: a device has none to spare for a second set of weights or moments.
pub(super) fn host_copy(tensor: &Tensor) -> Result<Tensor> {
    let copy = if tensor.device().is_cpu() { tensor.copy() } else { tensor.to_device(&Device::Cpu) };
    copy.map_err(tensor_error)
}

/// Moving average of `(scale * gradient)^power`.
#[derive(Clone, Copy)]
struct Average {
    decay: f64,
    scale: f64,
    power: u32,
    bf16: bool,
}

impl Average {
    fn apply(&self, average: &mut Tensor, gradient: &Tensor) -> candle_core::Result<()> {
        if ops::has_kernels(&[average, gradient]) {
            return average.inplace_op2(gradient, self);
        }
        let gradient = (gradient * self.scale)?;
        let term = if self.power == 2 { gradient.sqr()? } else { gradient };
        let sum = ((&*average * self.decay)? + (term * (1.0 - self.decay))?)?;
        *average = if self.bf16 { sum.to_dtype(DType::BF16)?.to_dtype(DType::F32)? } else { sum };
        Ok(())
    }
}

impl InplaceOp2 for Average {
    fn name(&self) -> &'static str {
        "moving average"
    }

    fn cpu_fwd(
        &self,
        average: &mut CpuStorage,
        layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> candle_core::Result<()> {
        let (average, gradient) = (values_mut(average, layout)?, values(gradient, gradient_layout)?);
        let (rest, scale) = ((1.0 - self.decay) as f32, self.scale as f32);
        let decay = self.decay as f32;
        for (average, gradient) in average.iter_mut().zip(gradient) {
            let g = gradient * scale;
            *average = match self.power {
                2 => *average * decay + g * g * rest,
                _ => *average + rest * (g - *average),
            };
        }
        if self.bf16 {
            average.iter_mut().for_each(|x| *x = half::bf16::from_f32(*x).to_f32());
        }
        Ok(())
    }
}

/// The move of the weights along the averages.
struct Descent {
    keep: f64,
    rate: f64,
    root_correction: f64,
    epsilon: f64,
}

impl Descent {
    fn apply(&self, var: &Var, first: &Tensor, second: &Tensor) -> candle_core::Result<()> {
        if ops::has_kernels(&[var, first, second]) {
            return var.inplace_op3(first, second, self);
        }
        let root = ((second.sqrt()? / self.root_correction)? + self.epsilon)?;
        let old = (var.as_detached_tensor().to_dtype(DType::F32)? * self.keep)?;
        var.set(&(old - ((first / root)? * self.rate)?)?.to_dtype(var.dtype())?)
    }
}

impl InplaceOp3 for Descent {
    fn name(&self) -> &'static str {
        "descent"
    }

    fn cpu_fwd(
        &self,
        weights: &mut CpuStorage,
        layout: &Layout,
        first: &CpuStorage,
        first_layout: &Layout,
        second: &CpuStorage,
        second_layout: &Layout,
    ) -> candle_core::Result<()> {
        let (first, second) = (values(first, first_layout)?, values(second, second_layout)?);
        let weights = values_mut(weights, layout)?;
        let (keep, rate) = (self.keep as f32, self.rate as f32);
        let (inverse_root, epsilon) = ((1.0 / self.root_correction) as f32, self.epsilon as f32);
        for ((weight, first), second) in weights.iter_mut().zip(first).zip(second) {
            *weight = *weight * keep - rate * first / (second.sqrt() * inverse_root + epsilon);
        }
        Ok(())
    }
}

fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("optimizer state of shape {:?} is strided", layout.shape()),
    }
}

fn values_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> candle_core::Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(data), Some((start, end))) => Ok(&mut data[start..end]),
        _ => bail!("optimizer state of shape {:?} is strided or not f32", layout.shape()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars() -> BTreeMap<String, Var> {
        let matrix = Var::new(&[[1.0f32, -2.0], [0.5, 0.0]], &Device::Cpu).unwrap();
        let vector = Var::new(&[1.0f32, 1.0], &Device::Cpu).unwrap();
        BTreeMap::from([("matrix".to_string(), matrix), ("norm".to_string(), vector)])
    }

    fn gradients(step: u32) -> BTreeMap<String, Tensor> {
        let g = |i: u32| ((step * 7 + i * 3) % 5) as f32 - 2.0;
        let matrix = Tensor::new(&[[g(0), g(1)], [g(2), g(3)]], &Device::Cpu).unwrap();
        let vector = Tensor::new(&[g(4), g(5)], &Device::Cpu).unwrap();
        BTreeMap::from([("matrix".to_string(), matrix), ("norm".to_string(), vector)])
    }

    fn values(vars: &BTreeMap<String, Var>) -> Vec<f32> {
        vars.values().flat_map(|v| v.flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect()
    }

    const PARAMS: AdamWParams =
        AdamWParams { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, bf16_moments: false };

    /// The first update moves every weight by the learning rate against its gradient's sign; only matrices decay.
    #[test]
    fn first_update() {
        let vars = vars();
        let mut optimizer = AdamW::new(PARAMS, &vars).unwrap();
        optimizer.update(&vars, &gradients(0), 1.0, 0.01).unwrap();
        // Gradients -2, 1, -1, 2 and 0, -2.
        let want = [1.0 * 0.999 + 0.01, -2.0 * 0.999 - 0.01, 0.5 * 0.999 + 0.01, -0.01, 1.0, 1.01];
        for (got, want) in values(&vars).iter().zip(want) {
            assert!((got - want).abs() < 1e-6, "{got} instead of {want}");
        }
    }

    #[test]
    fn restored_state_goes_on_bit_for_bit() {
        let (straight, first_half, second_half) = (vars(), vars(), vars());
        let mut optimizer = AdamW::new(PARAMS, &straight).unwrap();
        (0..10).for_each(|i| optimizer.update(&straight, &gradients(i), 0.5, 0.01).unwrap());
        let mut before = AdamW::new(PARAMS, &first_half).unwrap();
        (0..4).for_each(|i| before.update(&first_half, &gradients(i), 0.5, 0.01).unwrap());
        first_half.iter().for_each(|(name, var)| second_half[name].set(var).unwrap());
        let mut after = AdamW::new(PARAMS, &second_half).unwrap();
        after.restore(&before.state().unwrap(), before.updates()).unwrap();
        (4..10).for_each(|i| after.update(&second_half, &gradients(i), 0.5, 0.01).unwrap());
        assert_eq!(values(&second_half), values(&straight));
    }

    #[test]
    fn bad_states_and_parameters_are_errors() {
        let vars = vars();
        let mut optimizer = AdamW::new(PARAMS, &vars).unwrap();
        let mut state = optimizer.state().unwrap();
        state.remove("adamw.second.norm");
        assert!(optimizer.restore(&state, 1).unwrap_err().what().contains("`adamw.second.norm`"));
        assert!(AdamW::new(AdamWParams { beta1: 1.0, ..PARAMS }, &vars).is_err());
        assert!(AdamW::new(AdamWParams { weight_decay: f64::NAN, ..PARAMS }, &vars).is_err());
    }
}
