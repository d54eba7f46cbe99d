//! Numbers with error bounds, on a budget of steps.

pub(crate) mod eval;
pub(crate) mod complex;
pub(crate) mod elementary;
pub(crate) mod ball;
pub(crate) mod budget;
