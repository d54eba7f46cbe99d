//! Statistics of samples and tokens, and what texts give away.

pub mod agreement;
pub mod crossed;
pub mod gap;
pub mod leaks;
pub mod metrics;
pub mod sums;
