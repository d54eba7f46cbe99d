//! Where tensors live and are computed with: the CPU, or a GPU.

use candle_core::Device;
use mindgap_base::error::{Error, Result};

/// A device by its name: `cpu`, `cuda` for the first GPU, or `cuda:N`. Errors: another name, a build without CUDA, or a GPU
/// that cannot be opened.
pub fn open(name: &str) -> Result<Device> {
    let number = match name {
        "cpu" => return Ok(Device::Cpu),
        "cuda" => Some(0),
        _ => name.strip_prefix("cuda:").and_then(|number| number.parse::<usize>().ok()),
    };
    let Some(number) = number else {
        return Err(Error::usage(format!("unknown device `{name}`")).hint("devices are `cpu`, `cuda` and `cuda:N`"));
    };
    if !cfg!(feature = "cuda") {
        return Err(Error::usage(format!("device `{name}` needs a build with CUDA, and this one has none")).hint(
            "build with `cargo build --release --features cuda` (needs the CUDA toolkit), or use `--device cpu`",
        ));
    }
    // One stream, whichever thread uses the device: what one thread loads, another samples from.
    let device = Device::new_cuda_with_stream(number).map_err(|e| {
        Error::environment(format!("cannot open GPU {number}"))
            .hint("`nvidia-smi` lists the GPUs that the driver sees; `CUDA_VISIBLE_DEVICES` hides the others")
            .source(e)
    })?;
    without_events(&device);
    Ok(device)
}

/// Stops a GPU's driver layer from making two events for every tensor, by which several streams would wait for each other.
#[cfg(feature = "cuda")]
#[expect(unsafe_code, reason = "candle leaves it to the caller that streams do not share tensors")]
fn without_events(device: &Device) {
    if let Device::Cuda(cuda) = device {
        // SAFETY: all work of this device is enqueued on its one stream, and done in that order; tensors are freed there too.
        unsafe { cuda.disable_event_tracking() }
    }
}

#[cfg(not(feature = "cuda"))]
fn without_events(_device: &Device) {}

/// Bytes of memory that nothing has taken yet; `None` on the CPU, where that is not ours to say. Waits for the device: what was
/// freed is given back to the driver only then.
#[cfg(feature = "cuda")]
pub fn free_bytes(device: &Device) -> Result<Option<usize>> {
    let Device::Cuda(cuda) = device else { return Ok(None) };
    device.synchronize().map_err(super::tensor_error)?;
    let stream = cuda.cuda_stream();
    match stream.context().mem_get_info() {
        Ok((free, _)) => Ok(Some(free)),
        Err(e) => Err(Error::environment("cannot ask the GPU for its free memory").source(e)),
    }
}

/// Bytes of memory that nothing has taken yet; `None` on the CPU, where that is not ours to say.
#[cfg(not(feature = "cuda"))]
pub fn free_bytes(_device: &Device) -> Result<Option<usize>> {
    Ok(None)
}

/// The GPU for tests that need one, if they were asked for with `MINDGAP_GPU_TESTS=1`; says so where they are skipped.
#[cfg(test)]
#[expect(clippy::print_stderr, reason = "a skipped test must say so")]
pub(crate) fn for_tests() -> Option<Device> {
    if std::env::var_os("MINDGAP_GPU_TESTS").is_some_and(|value| value == "1") {
        return Some(open("cuda").expect("MINDGAP_GPU_TESTS=1 needs a GPU and `--features cuda`"));
    }
    eprintln!("skipped: set MINDGAP_GPU_TESTS=1 and build with `--features cuda` to test on a GPU");
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices() {
        assert!(open("cpu").unwrap().is_cpu());
        for name in ["gpu", "cuda:", "cuda:x", "CPU", ""] {
            assert!(open(name).unwrap_err().what().contains("unknown device"), "{name}");
        }
        if !cfg!(feature = "cuda") {
            let error = open("cuda:1").unwrap_err();
            assert!(error.what().contains("`cuda:1`") && error.remedy().unwrap().contains("--features cuda"));
        }
    }
}
