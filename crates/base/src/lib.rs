//! Vocabulary shared by every layer: errors, counter-based randomness, addresses and fingerprints.

pub mod address;
pub mod error;
pub mod fingerprint;
pub mod rng;
