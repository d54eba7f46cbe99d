pub mod address;
pub mod error;
pub mod fingerprint;
pub mod guard;
pub mod memory;
pub mod rng;
