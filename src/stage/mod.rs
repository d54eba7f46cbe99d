//! The stages, in data-flow order.

pub mod ingest;
