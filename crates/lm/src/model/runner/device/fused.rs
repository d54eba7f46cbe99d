//! Kernels of our own (kernels.cu) for a GPU, in place of several of candle's operators each. The operators are what runs elsewhere, and
//! for models whose heads the kernels do not know.

use super::super::layer::Layer;
use super::TensorForm;
use super::cache::KeyValues;
use crate::model::config::{Activation, Config};
use crate::model::ops::Heads;
use candle_core::cuda_backend::cudarc::driver::{DevicePtr, LaunchConfig, PushKernelArg};
use candle_core::cuda_backend::{CudaStorageSlice, WrapErr};
use candle_core::{CudaDevice, DType, Device, Result, Storage, Tensor, bail};

include!(concat!(env!("OUT_DIR"), "/ptx.rs"));

/// What kernels.cu has.
const WARP: usize = 32;
const MOST_DIM: usize = 256;
const HEADS: usize = 4;
const ATTENTION_THREADS: u32 = 128;
const NORM_THREADS: u32 = 256;
const GATE_THREADS: usize = 256;

/// Kernels for one model in one type.
pub struct Kernels {
    device: CudaDevice,
    /// How the names of its kernels end.
    suffix: &'static str,
    /// Of queries and keys, by layer, in f32.
    norms: Vec<Option<(Tensor, Tensor)>>,
    eps: f32,
}

/// An argument as a kernel takes it.
enum Argument {
    Pointer(u64),
    Size(u64),
    Int(i32),
    Float(f32),
}

impl Kernels {
    /// For a model on a GPU whose heads the kernels know.
    pub fn of(config: &Config, layers: &[Layer<TensorForm>], dtype: DType, device: &Device) -> Result<Option<Kernels>> {
        let Device::Cuda(cuda) = device else { return Ok(None) };
        let suffix = match dtype {
            DType::F32 => "f32",
            DType::BF16 => "bf16",
            DType::F16 => "f16",
            _ => return Ok(None),
        };
        let mut norms = Vec::with_capacity(layers.len());
        for layer in layers {
            let Some((q, k)) = &layer.qk_norms else {
                norms.push(None);
                continue;
            };
            if q.dim(0)? != config.head_dim || k.dim(0)? != config.head_dim {
                return Ok(None);
            }
            norms.push(Some((q.to_dtype(DType::F32)?, k.to_dtype(DType::F32)?)));
        }
        let kernels = Kernels { device: cuda.clone(), suffix, norms, eps: config.rms_norm_eps as f32 };
        Ok((config.head_dim <= MOST_DIM).then_some(kernels))
    }

    /// Heads of a joint projection `[rows, heads + 2 * key_heads, dim]` without its bias: normed and turned; queries
    /// `[rows, heads, dim]` come out scaled, keys and values go to their slots at the positions `at` `[rows]`.
    pub fn turn(
        &self,
        qkv: &Tensor,
        bias: Option<&Tensor>,
        angles: Option<(&Tensor, &Tensor)>,
        at: &Tensor,
        slots: &KeyValues,
        (layer, kind): (usize, Heads),
    ) -> Result<Tensor> {
        let (_, key_heads, capacity, dim) = slots.keys.dims4()?;
        let (rows, width) = qkv.dims2()?;
        let heads = width / dim - 2 * key_heads;
        let q = self.empty(&[rows, heads, dim], qkv.dtype())?;
        let (cos, sin) = angles.unzip();
        let (q_norm, k_norm) = self.norms[layer].as_ref().map(|(q, k)| (q, k)).unzip();
        let pairs = cos.map_or(Ok(0), |cos| cos.dim(candle_core::D::Minus1))?;
        let arguments = [
            pointer(qkv)?,
            maybe(bias)?,
            maybe(q_norm)?,
            maybe(k_norm)?,
            maybe(cos)?,
            maybe(sin)?,
            pointer(at)?,
            pointer(&q)?,
            pointer(&slots.keys)?,
            pointer(&slots.values)?,
            Argument::Int(heads as i32),
            Argument::Int(key_heads as i32),
            Argument::Int(dim as i32),
            Argument::Int(pairs as i32),
            Argument::Int(capacity as i32),
            Argument::Float(kind.exact_scale() as f32),
            Argument::Float(self.eps),
        ];
        self.launch("turn", (heads + 2 * key_heads, rows), WARP as u32, &arguments)?;
        Ok(q)
    }

    /// Attention of queries `[rows, heads, dim]` over what each row's slot holds up to its position: `[rows, heads * dim]`.
    pub fn attend(&self, q: &Tensor, at: &Tensor, slots: &KeyValues, kind: Heads) -> Result<Tensor> {
        let (_, key_heads, capacity, dim) = slots.keys.dims4()?;
        let (rows, heads, _) = q.dims3()?;
        let out = self.empty(&[rows, heads * dim], q.dtype())?;
        let chunks = (heads / key_heads).div_ceil(HEADS);
        let arguments = [
            pointer(q)?,
            pointer(&slots.keys)?,
            pointer(&slots.values)?,
            pointer(at)?,
            pointer(&out)?,
            Argument::Int(heads as i32),
            Argument::Int(key_heads as i32),
            Argument::Int(dim as i32),
            Argument::Int(capacity as i32),
            Argument::Int(kind.window.unwrap_or(0) as i32),
            Argument::Float(kind.softcap.unwrap_or(0.0)),
        ];
        let name = format!("attend_{}", dim.div_ceil(WARP).next_power_of_two());
        self.launch(&name, (key_heads * chunks, rows), ATTENTION_THREADS, &arguments)?;
        Ok(out)
    }

    /// `activation(gate) * up` of rows `[rows, 2 * width]` that hold both.
    pub fn gate(&self, both: &Tensor, activation: Activation) -> Result<Tensor> {
        let (rows, width) = (both.dim(0)?, both.dim(1)? / 2);
        let out = self.empty(&[rows, width], both.dtype())?;
        let name = match activation {
            Activation::Silu => "silu",
            Activation::GeluTanh => "gelu",
        };
        let arguments =
            [pointer(both)?, pointer(&out)?, Argument::Int(width as i32), Argument::Size((rows * width) as u64)];
        self.launch(name, ((rows * width).div_ceil(GATE_THREADS), 1), GATE_THREADS as u32, &arguments)?;
        Ok(out)
    }

    /// `x + scale * y` of rows `[rows, width]`, and its norm.
    pub fn add_norm(&self, x: &Tensor, y: &Tensor, scale: f32, weight: &Tensor) -> Result<(Tensor, Tensor)> {
        let (rows, width) = x.dims2()?;
        let both = self.empty(&[2, rows, width], x.dtype())?;
        let arguments = [
            pointer(x)?,
            pointer(y)?,
            pointer(weight)?,
            pointer(&both)?,
            Argument::Int(width as i32),
            Argument::Float(scale),
            Argument::Float(self.eps),
        ];
        let name = if weight.dtype() == x.dtype() { "add_norm" } else { "add_norm_wide" };
        self.launch(name, (rows, 1), NORM_THREADS, &arguments)?;
        Ok((both.get(0)?, both.get(1)?))
    }

    /// Memory that a kernel is about to fill.
    #[expect(unsafe_code, reason = "memory that is not filled first")]
    fn empty(&self, shape: &[usize], dtype: DType) -> Result<Tensor> {
        // SAFETY: the kernel it is made for writes every number of it before anybody reads one: all work is on one stream.
        unsafe { Tensor::empty(shape, dtype, &Device::Cuda(self.device.clone())) }
    }

    #[expect(unsafe_code, reason = "a launch")]
    fn launch(&self, name: &str, (x, y): (usize, usize), threads: u32, arguments: &[Argument]) -> Result<()> {
        let name = format!("{name}_{}", self.suffix);
        let function = self.device.get_or_load_custom_func(&name, "mindgap", KERNELS)?;
        let mut builder = function.builder();
        for argument in arguments {
            match argument {
                Argument::Pointer(value) | Argument::Size(value) => builder.arg(value),
                Argument::Int(value) => builder.arg(value),
                Argument::Float(value) => builder.arg(value),
            };
        }
        let grid_dim = (x as u32, y as u32, 1);
        let shape = LaunchConfig { grid_dim, block_dim: (threads, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: the arguments are those that kernels.cu declares, of tensors of the shapes it says, which live until the launch
        // is in the stream; memory is given back in the stream's order.
        unsafe { builder.launch(shape) }.w()?;
        Ok(())
    }
}

fn maybe(tensor: Option<&Tensor>) -> Result<Argument> {
    tensor.map_or(Ok(Argument::Pointer(0)), pointer)
}

/// Where a tensor's first number is.
fn pointer(tensor: &Tensor) -> Result<Argument> {
    let (storage, layout) = tensor.storage_and_layout();
    let (Storage::Cuda(storage), Some((start, _))) = (&*storage, layout.contiguous_offsets()) else {
        bail!("a kernel takes contiguous tensors on a GPU");
    };
    let stream = storage.device.cuda_stream();
    let base = match &storage.slice {
        CudaStorageSlice::F32(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::BF16(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::F16(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::U32(slice) => slice.device_ptr(&stream).0,
        _ => bail!("no kernel takes numbers of type {:?}", tensor.dtype()),
    };
    Ok(Argument::Pointer(base + (start * tensor.dtype().size_in_bytes()) as u64))
}
