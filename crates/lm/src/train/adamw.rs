//! AdamW (Loshchilov and Hutter, arXiv 1711.05101) with f32 moments kept by tensor name, so that training can resume.
//!
//! With g the clipped gradient: `m = m + (1 - b1)(g - m)`, `v = b2 v + (1 - b2) g^2`,
//! `w = w (1 - lr decay) - lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)`. Matrices decay, vectors (norms, biases) do not.

use super::rounding::StochasticRounding;
use crate::model::ops::{self, wide};
use crate::model::tensor_error;
use crate::model::tensors::TensorFile;
use candle_core::{CpuStorage, DType, InplaceOp2, InplaceOp3, Layout, Tensor, Var, bail};
use mindgap_base::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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
                return Err(Error::usage(format!("`{name}` is `{beta}`; it must be at least 0 and below 1")));
            }
        }
        for (name, value) in [("epsilon", self.epsilon), ("weight_decay", self.weight_decay)] {
            if !value.is_finite() || value < 0.0 {
                return Err(Error::usage(format!("`{name}` is `{value}`; it must be non-negative")));
            }
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
    /// Seed of stochastic rounding to bf16, where weights are rounded so.
    rounding: Option<u64>,
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
        Ok(AdamW { params, rounding: None, updates: 0, moments: moments.collect::<Result<_>>()? })
    }

    /// The same; weights are rounded to bf16 by chances of this seed.
    pub fn rounding(self, seed: Option<u64>) -> AdamW {
        AdamW { rounding: seed, ..self }
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
                rounding: self.rounding.map(|seed| StochasticRounding::new(seed, self.updates, name)),
            };
            descent.apply(var, &moments.first, &moments.second).map_err(tensor_error)?;
        }
        Ok(())
    }

    /// The moments, `adamw.first.NAME` and `adamw.second.NAME`: they share this optimizer's memory.
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        let mut state = BTreeMap::new();
        for (name, moments) in &self.moments {
            for (kind, tensor) in [("first", &moments.first), ("second", &moments.second)] {
                state.insert(moment(kind, name), tensor.clone());
            }
        }
        state
    }

    /// Errors: a saved state lacks a moment, or has one of another shape.
    pub fn check_state(&self, saved: &TensorFile) -> Result<()> {
        self.moments.iter().try_for_each(|(name, moments)| {
            saved.check(&moment("first", name), moments.first.dims())?;
            saved.check(&moment("second", name), moments.second.dims())
        })
    }

    /// Takes the moments out of a saved state. Errors as [`AdamW::check_state`]; nothing is changed then.
    pub fn restore(&mut self, saved: &TensorFile, updates: u32) -> Result<()> {
        self.check_state(saved)?;
        for (name, moments) in &mut self.moments {
            for (kind, tensor) in [("first", &mut moments.first), ("second", &mut moments.second)] {
                let restored = saved.tensor(&moment(kind, name))?;
                *tensor =
                    restored.to_dtype(DType::F32).and_then(|t| t.to_device(tensor.device())).map_err(tensor_error)?;
            }
        }
        self.updates = updates;
        Ok(())
    }
}

/// A moment's name in a saved state.
fn moment(kind: &str, name: &str) -> String {
    format!("adamw.{kind}.{name}")
}

/// About what an element costs: little, but it comes from memory.
const OPERATIONS: usize = 16;

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
        wide::share_rows(average, 1, OPERATIONS, |first, average| {
            for (average, gradient) in average.iter_mut().zip(&gradient[first..]) {
                let g = gradient * scale;
                *average = match self.power {
                    2 => *average * decay + g * g * rest,
                    _ => *average + rest * (g - *average),
                };
            }
            if self.bf16 {
                average.iter_mut().for_each(|x| *x = half::bf16::from_f32(*x).to_f32());
            }
        });
        Ok(())
    }
}

/// The move of the weights along the averages.
struct Descent {
    keep: f64,
    rate: f64,
    root_correction: f64,
    epsilon: f64,
    rounding: Option<StochasticRounding>,
}

impl Descent {
    fn apply(&self, var: &Var, first: &Tensor, second: &Tensor) -> candle_core::Result<()> {
        if ops::has_kernels(&[var, first, second]) {
            var.inplace_op3(first, second, self)?;
            return match &self.rounding {
                Some(rounding) => rounding.apply(var).map(drop),
                None => Ok(()),
            };
        }
        let root = ((second.sqrt()? / self.root_correction)? + self.epsilon)?;
        let old = (var.as_detached_tensor().to_dtype(DType::F32)? * self.keep)?;
        let new = (old - ((first / root)? * self.rate)?)?;
        let new = if let Some(rounding) = &self.rounding { rounding.apply(&new)? } else { new };
        var.set(&new.to_dtype(var.dtype())?)
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
        wide::share_rows(weights, 1, OPERATIONS, |start, weights| {
            for ((weight, first), second) in weights.iter_mut().zip(&first[start..]).zip(&second[start..]) {
                *weight = *weight * keep - rate * first / (second.sqrt() * inverse_root + epsilon);
            }
        });
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
    use crate::model::testing::file_bytes;
    use candle_core::Device;

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

    /// How far the mean of weights of a usual size moves in 100 equal updates, each a fraction of most weights' last digit in bf16:
    /// as a share of the learning rate's sum.
    fn drift(dtype: DType, rounding: Option<u64>, nearest: bool) -> f64 {
        let mut cursor = mindgap_base::rng::Stream::at(1, &[b"weights"]).cursor();
        let weights: Vec<f32> =
            (0..8192).map(|_| half::bf16::from_f32((cursor.normal() * 0.02) as f32).to_f32()).collect();
        let start = Tensor::new(&weights[..], &Device::Cpu).unwrap();
        let var = Var::from_tensor(&start.to_dtype(dtype).unwrap()).unwrap();
        let vars = BTreeMap::from([("w".to_string(), var)]);
        let gradients = BTreeMap::from([("w".to_string(), start.ones_like().unwrap())]);
        let mut optimizer = AdamW::new(PARAMS, &vars).unwrap().rounding(rounding);
        let rate = 1.5e-5;
        for _ in 0..100 {
            optimizer.update(&vars, &gradients, 1.0, rate).unwrap();
            if nearest {
                let rounded = vars["w"].as_detached_tensor().to_dtype(DType::BF16).unwrap();
                vars["w"].set(&rounded.to_dtype(dtype).unwrap()).unwrap();
            }
        }
        let moved = (start - vars["w"].as_detached_tensor().to_dtype(DType::F32).unwrap()).unwrap();
        f64::from(moved.mean_all().unwrap().to_scalar::<f32>().unwrap()) / (100.0 * rate)
    }

    /// With kernels, and by composition on weights of either type, as on a device.
    #[test]
    fn small_updates_add_up_under_stochastic_rounding() {
        let f32s = drift(DType::F32, None, false);
        let (lost, kept) = (drift(DType::F32, None, true), drift(DType::F32, Some(3), false));
        assert!((f32s - 1.0).abs() < 1e-3 && lost < 0.3, "f32 {f32s}, to the nearest {lost}");
        let composed = crate::model::ops::without_kernels(|| drift(DType::F32, Some(3), false));
        let narrow = drift(DType::BF16, Some(3), false);
        for share in [kept, composed, narrow] {
            assert!((share - 1.0).abs() < 0.02, "{share}");
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
        let saved = file_bytes(&before.state());
        after.restore(&TensorFile::open(&saved).unwrap(), before.updates()).unwrap();
        (4..10).for_each(|i| after.update(&second_half, &gradients(i), 0.5, 0.01).unwrap());
        assert_eq!(values(&second_half), values(&straight));
    }

    #[test]
    fn bad_states_and_parameters_are_errors() {
        let vars = vars();
        let mut optimizer = AdamW::new(PARAMS, &vars).unwrap();
        let mut state = optimizer.state();
        state.remove("adamw.second.norm");
        let saved = file_bytes(&state);
        let error = optimizer.restore(&TensorFile::open(&saved).unwrap(), 1).unwrap_err();
        assert!(error.what().contains("`adamw.second.norm`"));
        assert!(AdamW::new(AdamWParams { beta1: 1.0, ..PARAMS }, &vars).is_err());
        assert!(AdamW::new(AdamWParams { weight_decay: f64::NAN, ..PARAMS }, &vars).is_err());
    }
}
