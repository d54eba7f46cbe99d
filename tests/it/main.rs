mod engine;
mod world;
