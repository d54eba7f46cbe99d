//! Statistics of samples and tokens.

pub mod crossed;
pub mod metrics;
