//! The mathematics judge as a crate of its own, for the fuzz targets beside this file.

#[path = "../src/math/mod.rs"]
pub mod math;
