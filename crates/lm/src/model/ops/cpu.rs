//! Between candle's tensors and the kernels' slices.

use super::factor::Matrix;
use candle_core::{CpuStorage, DType, Device, Layout, Result, Storage, StorageRef, Tensor, bail};

/// The kernels apply: everything is f32 on the CPU.
pub fn ready(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|t| are_on(t.device()) && t.dtype() == DType::F32)
}

/// The kernels read this matrix of weights: it is on the CPU, in f32 or bf16.
pub fn holds(weight: &Tensor) -> bool {
    are_on(weight.device()) && matches!(weight.dtype(), DType::F32 | DType::BF16)
}

/// There are kernels for this device.
pub fn are_on(device: &Device) -> bool {
    #[cfg(test)]
    if WITHOUT_KERNELS.get() {
        return false;
    }
    device.is_cpu()
}

/// The elements of a contiguous f32 storage.
pub fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("a CPU kernel was given a strided tensor of shape {:?}", layout.shape());
    };
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// The elements of a contiguous matrix of weights.
pub fn matrix<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<Matrix<'a>> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::BF16(data), Some((start, end))) => Ok(Matrix::Bf16(&data[start..end])),
        _ => Ok(Matrix::F32(slice(storage, layout)?)),
    }
}

/// Read access to the elements of a tensor.
pub struct Read<'a> {
    storage: StorageRef<'a>,
    layout: &'a Layout,
}

impl<'a> Read<'a> {
    /// Of a contiguous CPU tensor.
    pub fn new(tensor: &'a Tensor) -> Read<'a> {
        let (storage, layout) = tensor.storage_and_layout();
        Read { storage, layout }
    }

    pub fn slice(&self) -> Result<&[f32]> {
        match &*self.storage {
            Storage::Cpu(storage) => slice(storage, self.layout),
            _ => bail!("a CPU kernel was given a tensor of another device"),
        }
    }

    pub fn matrix(&self) -> Result<Matrix<'_>> {
        match &*self.storage {
            Storage::Cpu(storage) => matrix(storage, self.layout),
            _ => bail!("a CPU kernel was given a tensor of another device"),
        }
    }
}

/// A new tensor of these elements.
pub fn tensor(data: Vec<f32>, like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(data, like.shape(), like.device())
}

/// What made this tensor leads to a variable: its gradient is wanted.
pub fn wants_gradient(tensor: &Tensor) -> bool {
    tensor.track_op() || super::tape::reaches(tensor)
}

#[cfg(test)]
thread_local! {
    static WITHOUT_KERNELS: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Runs `f` on a thread of its own that computes as a GPU would: every operator is its composition.
#[cfg(test)]
pub(crate) fn without_kernels<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("one thread");
    pool.install(|| {
        WITHOUT_KERNELS.set(true);
        f()
    })
}
