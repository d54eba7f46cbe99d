
mod math;
