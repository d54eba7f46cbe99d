mod engine;
mod math;
mod world;
