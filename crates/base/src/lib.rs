//! Vocabulary shared by every layer: errors, counter-based randomness, addresses, fingerprints and the tags of thoughts.

pub mod address;
pub mod error;
pub mod fingerprint;
pub mod rng;
pub mod thoughts;
