//! Statistics of samples and tokens.

pub mod metrics;
