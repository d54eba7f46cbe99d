//! The runner on any device of candle's, in the weights' own type: what runs on a GPU. Never differentiated, so fused operators
//! that have no backward pass are used where there are some.
//!
//! Norms, rotary angles, attention's softmax and log-probs are f32 whatever the type of the weights. Results are not bit for bit
//! those of the CPU, and may differ in the last bits between batches: a matrix product there may add in another order for
//! another number of rows.

mod blocks;
mod cache;
mod draw;
#[cfg_attr(not(feature = "cuda"), path = "device/unfused.rs")]
mod fused;
mod session;

pub use draw::draw;
pub use session::DeviceSession;

use super::layer::{Form, Layer, Load};
use super::{Inference, tensor_error, weight};
use crate::model::config::Config;
use crate::model::ops::Head;
use crate::model::rotary::Rotary;
use crate::model::transformer::Transformer;
use crate::model::weights::Checkpoint;
use candle_core::{DType, Device, Tensor};
use candle_nn::ops::rms_norm;
use fused::Kernels;
use mindgap_base::error::Result;

/// Weights as tensors of one device and type.
pub struct TensorForm;

impl Form for TensorForm {
    type Vector = Tensor;
    type Linear = Linear;

    fn vector(&self, tensor: Tensor) -> Result<Tensor> {
        Ok(tensor.detach())
    }

    fn linear(&self, weight: Tensor, bias: Option<Tensor>) -> Result<Linear> {
        let transposed = weight.detach().t().map_err(tensor_error)?;
        Ok(Linear { transposed, bias: bias.map(|bias| bias.detach()) })
    }
}

/// A projection.
pub struct Linear {
    /// `[in, out]`: a view of the weight as it lies in the checkpoint.
    transposed: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// x `[rows, in]` -> `[rows, out]`, without the bias.
    fn product(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        x.matmul(&self.transposed)
    }

    /// The same with it.
    fn apply(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let y = self.product(x)?;
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
}

/// Rows fed in one call: enough to keep a GPU busy, few enough for their activations to be small beside the weights.
const CALL_ROWS: usize = 4096;

/// `x * by`, or x itself where that is the same.
fn scaled(x: Tensor, by: f32) -> candle_core::Result<Tensor> {
    if by == 1.0 { Ok(x) } else { x * f64::from(by) }
}

/// Weights of one transformer on a device, read only.
pub struct DeviceRunner {
    config: Config,
    device: Device,
    dtype: DType,
    rotary: Rotary,
    /// `[vocab_size, hidden_size]`.
    embedding: Tensor,
    layers: Vec<Layer<TensorForm>>,
    norm: Tensor,
    /// Its weight is the embedding itself when tied.
    head: Head,
    /// Where there are some for this model and device.
    kernels: Option<Kernels>,
}

impl DeviceRunner {
    /// From a checkpoint's bytes, in the type they are in.
    pub fn from_checkpoint(config: &Config, checkpoint: &Checkpoint, device: &Device) -> Result<DeviceRunner> {
        let dtype = checkpoint.dtype();
        DeviceRunner::new(config, dtype, device, &|name| checkpoint.tensor(name, dtype, device))
    }

    /// A snapshot of a transformer's weights, where they are and in their own type.
    pub fn from_transformer(transformer: &Transformer) -> Result<DeviceRunner> {
        let dtype = transformer.head().weight.dtype();
        let copied =
            |name: &str| weight(transformer, name)?.copy().and_then(|t| t.to_dtype(dtype)).map_err(tensor_error);
        DeviceRunner::new(transformer.config(), dtype, transformer.device(), &copied)
    }

    fn new(
        config: &Config,
        dtype: DType,
        device: &Device,
        tensor: &dyn Fn(&str) -> Result<Tensor>,
    ) -> Result<DeviceRunner> {
        config.check()?;
        let load = Load { form: TensorForm, config, tensor };
        let embedding = load.vector("model.embed_tokens.weight")?;
        let head = match config.tie_word_embeddings {
            true => embedding.clone(),
            false => load.vector("lm_head.weight")?,
        };
        let layers = (0..config.layer_count).map(|i| load.layer(i)).collect::<Result<Vec<_>>>()?;
        Ok(DeviceRunner {
            kernels: Kernels::of(config, &layers, dtype, device).map_err(tensor_error)?,
            rotary: Rotary::of(config),
            embedding,
            layers,
            norm: load.norm("model.norm")?,
            head: Head { weight: head, softcap: config.logit_softcap, products: dtype },
            config: config.clone(),
            device: device.clone(),
            dtype,
        })
    }
}

impl DeviceRunner {
    fn normed(&self, x: &Tensor, weight: &Tensor) -> candle_core::Result<Tensor> {
        let eps = self.config.rms_norm_eps as f32;
        if weight.dtype() == x.dtype() {
            return rms_norm(x, weight, eps);
        }
        rms_norm(&x.to_dtype(weight.dtype())?, weight, eps)?.to_dtype(x.dtype())
    }

    /// Of weights, activations and cached keys and values.
    pub fn dtype(&self) -> DType {
        self.dtype
    }
}

impl Inference for DeviceRunner {
    type Session<'a> = DeviceSession<'a>;

    fn config(&self) -> &Config {
        &self.config
    }

    /// A slot holds the prompt too; beside it lies the prompt itself while samples of it are still to start.
    fn slot_bytes(&self, stem: usize, prompt: usize, completion: usize) -> usize {
        let prompt = stem + prompt;
        cache::token_bytes(&self.config, self.dtype) * (cache::capacity(prompt + completion) + prompt)
    }

    fn stem_bytes(&self, stem: usize) -> usize {
        cache::token_bytes(&self.config, self.dtype) * stem
    }

    /// One batch, driven by one thread.
    fn workers(&self, _threads: usize) -> usize {
        1
    }

    /// The one that drives the device.
    fn crew(&self, _threads: usize) -> usize {
        1
    }

    fn scoring_workers(&self, threads: usize) -> usize {
        self.workers(threads)
    }

    fn call_rows(&self) -> usize {
        CALL_ROWS
    }

    fn free_rows(&self) -> usize {
        0
    }

    fn draws(&self) -> bool {
        true
    }

    fn session(&self, slots: usize, prompt: usize, completion: usize, _crew: usize) -> Result<DeviceSession<'_>> {
        DeviceSession::new(self, slots, prompt + completion)
    }
}

#[cfg(test)]
mod tests;
