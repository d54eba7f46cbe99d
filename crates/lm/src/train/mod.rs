//! Training: a batch plan, packed micro-batches, one loss with detached token weights, AdamW, a learning-rate schedule, and a
//! trainer whose step is a pure function of its state and examples: n steps equal k steps, save, restore and n - k steps,
//! bit for bit, whatever the number of threads.

pub mod plan;
pub mod packing;
pub mod init;
pub mod loss;
pub mod lora;
mod rounding;
pub mod adamw;
pub mod schedule;
pub mod params;
mod gradients;
mod pass;
mod recompute;
pub mod metrics;
pub mod step;
pub mod bench;

pub use adamw::AdamWParams;
pub use lora::LoraParams;
pub use loss::{Loss, SoftTargets};
pub use metrics::{SourceMetrics, StepMetrics};
pub use packing::{PackingParams, TooLong, TrainExample};
pub use params::{Accumulation, Rounding, TrainerParams};
pub use plan::{PlanLength, PlanParams, PlannedStep, Stratum, plan};
pub use schedule::{Decay, Schedule};
pub use step::Trainer;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod pytorch_tests;
#[cfg(test)]
mod bf16_tests;
#[cfg(test)]
mod quirk_tests;
#[cfg(test)]
mod onpolicy_tests;
