//! Language models: one transformer, the engine that samples and scores with it, the trainer that changes it.
//!
//! Values in, values out. Nothing here opens a file or prints; weights and tokenizers come as bytes.

pub mod engine;
pub mod train;
pub mod model;
