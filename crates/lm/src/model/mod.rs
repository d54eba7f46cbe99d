//! The model: one definition of the transformer, its weights, its words and its prompt format.

pub mod config;
pub mod rotary;
pub mod device;
pub mod tensors;
pub mod gguf;
pub mod weights;
pub mod ops;
pub mod transformer;
pub mod held;
pub mod kv_cache;
pub mod runner;
pub mod tokenizer;
pub mod chat;
pub mod controls;
pub mod policy;

#[cfg(test)]
pub(crate) mod testing;

use mindgap_base::error::Error;

/// A failure inside the tensor library: shapes are checked before, so it is memory, a device, or a bug of ours.
pub fn tensor_error(error: candle_core::Error) -> Error {
    Error::internal("tensor operation failed").source(error)
}
