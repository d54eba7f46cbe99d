//! (filled by its first commit)

pub mod ops;
