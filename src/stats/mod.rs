//! Statistics of samples and tokens.

pub mod crossed;
pub mod gap;
pub mod metrics;
pub mod text;
