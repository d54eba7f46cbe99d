//! Named tensors <-> safetensors bytes, one tensor at a time: neither way does all of a file lie in memory beside the tensors.

use super::policy::Blob;
use super::tensor_error;
use candle_core::safetensors::Load;
use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use mindgap_base::error::{Error, Result};
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo, TensorView};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

/// Takes the bytes of a file, in order.
pub type Put<'a> = dyn FnMut(&[u8]) -> Result<()> + 'a;

/// Values converted to bytes at a time.
const CHUNK: usize = 1 << 14;

/// Writes one safetensors file: the bytes that `safetensors::serialize` gives. Tensors on a device are fetched one by one.
pub fn write(
    tensors: &BTreeMap<String, Tensor>,
    metadata: Option<HashMap<String, String>>,
    put: &mut Put,
) -> Result<()> {
    let specs = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.dtype(), tensor.dims()));
    write_each(specs, |name| Ok(tensors[name].clone()), metadata, put)
}

/// The same of tensors that are made one by one: of each the name, type and shape.
pub fn write_each<'a>(
    specs: impl Iterator<Item = (&'a str, DType, &'a [usize])>,
    tensor: impl Fn(&str) -> Result<Tensor>,
    metadata: Option<HashMap<String, String>>,
    put: &mut Put,
) -> Result<()> {
    let failed =
        |e: Box<dyn std::error::Error + Send + Sync>| Error::internal("tensors could not be written").source(e);
    // The format wants tensors of wider types first, so that all are aligned.
    let mut ordered = Vec::new();
    for (name, of, shape) in specs {
        ordered.push((dtype(of).map_err(|e| e.at(name))?, name, of, shape));
    }
    ordered.sort_by_key(|(dtype, name, ..)| (Reverse(*dtype), *name));
    let (mut infos, mut end) = (Vec::with_capacity(ordered.len()), 0);
    for (dtype, name, of, shape) in &ordered {
        let start = end;
        end += shape.iter().product::<usize>() * of.size_in_bytes();
        let info = TensorInfo { dtype: *dtype, shape: shape.to_vec(), data_offsets: (start, end) };
        infos.push((name.to_string(), info));
    }
    let header = Metadata::new(metadata, infos).map_err(|e| failed(e.into()))?;
    let mut header = serde_json::to_vec(&header).map_err(|e| failed(e.into()))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    put(&(header.len() as u64).to_le_bytes())?;
    put(&header)?;
    ordered.into_iter().try_for_each(|(_, name, of, shape)| {
        let tensor = tensor(name)?;
        if tensor.dims() != shape || tensor.dtype() != of {
            return Err(Error::internal(format!("tensor `{name}` is not what was announced")));
        }
        values(&tensor, put).map_err(|e| e.at(name))
    })
}

fn dtype(of: DType) -> Result<Dtype> {
    match of {
        DType::F64 => Ok(Dtype::F64),
        DType::F32 => Ok(Dtype::F32),
        DType::BF16 => Ok(Dtype::BF16),
        DType::F16 => Ok(Dtype::F16),
        DType::I64 => Ok(Dtype::I64),
        DType::U8 => Ok(Dtype::U8),
        other => Err(Error::internal(format!("tensors of type {other:?} are not written"))),
    }
}

fn values(tensor: &Tensor, put: &mut Put) -> Result<()> {
    let tensor = tensor.to_device(&Device::Cpu).and_then(|t| t.contiguous()).map_err(tensor_error)?;
    let (storage, layout) = tensor.storage_and_layout();
    let (start, end) = layout.contiguous_offsets().expect("made contiguous");
    let Storage::Cpu(storage) = &*storage else { return Err(Error::internal("a tensor was not fetched")) };
    match storage {
        CpuStorage::F64(values) => bytes(&values[start..end], f64::to_le_bytes, put),
        CpuStorage::F32(values) => bytes(&values[start..end], f32::to_le_bytes, put),
        CpuStorage::BF16(values) => bytes(&values[start..end], half::bf16::to_le_bytes, put),
        CpuStorage::F16(values) => bytes(&values[start..end], half::f16::to_le_bytes, put),
        CpuStorage::I64(values) => bytes(&values[start..end], i64::to_le_bytes, put),
        CpuStorage::U8(values) => put(&values[start..end]),
        _ => Err(Error::internal("a type that was checked before")),
    }
}

fn bytes<T: Copy, const N: usize>(values: &[T], convert: fn(T) -> [u8; N], put: &mut Put) -> Result<()> {
    let mut buffer = vec![0; values.len().min(CHUNK) * N];
    values.chunks(CHUNK).try_for_each(|chunk| {
        let filled = &mut buffer[..chunk.len() * N];
        filled.chunks_exact_mut(N).zip(chunk).for_each(|(bytes, value)| bytes.copy_from_slice(&convert(*value)));
        put(filled)
    })
}

/// A safetensors file that is read tensor by tensor: only what was asked for is copied.
pub struct TensorFile<'a> {
    blob: &'a dyn Blob,
    views: BTreeMap<String, TensorView<'a>>,
}

impl<'a> TensorFile<'a> {
    /// Reads the header.
    pub fn open(blob: &'a dyn Blob) -> Result<TensorFile<'a>> {
        let file = SafeTensors::deserialize(blob.bytes())
            .map_err(|e| Error::input("file is not a complete safetensors file").source(e))?;
        Ok(TensorFile { blob, views: file.tensors().into_iter().collect() })
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.views.keys().map(String::as_str)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.views.contains_key(name)
    }

    /// Errors: there is no tensor of that name, or one of another shape.
    pub fn check(&self, name: &str, shape: &[usize]) -> Result<()> {
        let found = self.view(name)?.shape();
        match found == shape {
            true => Ok(()),
            false => Err(Error::input(format!("tensor `{name}` of the file has shape {found:?} instead of {shape:?}"))),
        }
    }

    fn view(&self, name: &str) -> Result<&TensorView<'a>> {
        self.views.get(name).ok_or_else(|| Error::input(format!("the file has no tensor `{name}`")))
    }

    /// A copy of one tensor in the host's memory. Error: there is none of that name.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let view = self.view(name)?;
        let tensor = view.load(&Device::Cpu).map_err(|e| tensor_error(e).at(name))?;
        let start = view.data().as_ptr() as usize - self.blob.bytes().as_ptr() as usize;
        self.blob.done_with(start..start + view.data().len());
        Ok(tensor)
    }

    /// Copies of all tensors whose names begin so, by the rest of their names.
    pub fn with_prefix(&self, prefix: &str) -> Result<BTreeMap<String, Tensor>> {
        let named = self.names().filter_map(|name| Some((name, name.strip_prefix(prefix)?)));
        named.map(|(name, rest)| Ok((rest.to_string(), self.tensor(name)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the bytes are those of the safetensors crate, whatever the types, shapes and layouts; and they can be read back.
    #[test]
    fn bytes_are_those_of_the_safetensors_crate() {
        let ramp = |count: usize| Tensor::arange(0f32, count as f32, &Device::Cpu).unwrap();
        let wide = ramp(3 * (CHUNK + 5)).reshape((3, CHUNK + 5)).unwrap();
        let tensors = BTreeMap::from([
            ("a.narrow".to_string(), wide.narrow(0, 1, 1).unwrap().to_dtype(DType::BF16).unwrap()),
            ("b.transposed".to_string(), ramp(24).reshape((4, 6)).unwrap().t().unwrap()),
            ("c.counters".to_string(), Tensor::new(&[1i64, -2, 3], &Device::Cpu).unwrap()),
            ("d.best".to_string(), Tensor::new(&[0.5f64], &Device::Cpu).unwrap()),
            ("e.half".to_string(), ramp(7).to_dtype(DType::F16).unwrap()),
            ("f.empty".to_string(), Tensor::zeros((0, 3), DType::F32, &Device::Cpu).unwrap()),
            ("g.wide".to_string(), wide.narrow(0, 1, 2).unwrap()),
        ]);
        for metadata in [None, Some(HashMap::from([("format".to_string(), "pt".to_string())]))] {
            let mut written = Vec::new();
            write(&tensors, metadata.clone(), &mut |more| {
                written.extend_from_slice(more);
                Ok(())
            })
            .unwrap();
            assert!(written == safetensors::serialize(&tensors, metadata).unwrap());
            let file = TensorFile::open(&written).unwrap();
            assert!(file.names().eq(tensors.keys()));
            for (name, tensor) in &tensors {
                file.check(name, tensor.dims()).unwrap();
                let bits =
                    |t: &Tensor| t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
                assert_eq!(bits(&file.tensor(name).unwrap()), bits(tensor), "{name}");
            }
            assert!(file.with_prefix("c.").unwrap().keys().eq(["counters"]));
            assert!(file.tensor("z").unwrap_err().what().contains("`z`"));
            assert!(file.check("d.best", &[2]).unwrap_err().what().contains("[1] instead of [2]"));
        }
    }

    #[test]
    fn a_refusal_ends_the_writing() {
        let tensors = BTreeMap::from([("a".to_string(), Tensor::zeros(9, DType::F32, &Device::Cpu).unwrap())]);
        let mut calls = 0;
        let error = write(&tensors, None, &mut |_| {
            calls += 1;
            if calls < 3 { Ok(()) } else { Err(Error::environment("the disk is full").at("/there")) }
        });
        let error = error.unwrap_err();
        assert_eq!((error.what(), error.place()), ("the disk is full", Some("/there")));
        let byte = BTreeMap::from([("b".to_string(), Tensor::zeros(1, DType::U32, &Device::Cpu).unwrap())]);
        assert_eq!(write(&byte, None, &mut |_| Ok(())).unwrap_err().place(), Some("b"));
    }
}
