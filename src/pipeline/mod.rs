//! Pipelines: a TOML file of named stages, what of it is already done, and doing the rest.

mod estimate;
mod excerpt;
pub mod execute;
pub mod explain;
mod matrix;
mod outcome;
mod parts;
pub mod plan;
mod references;
mod rounds;
pub mod session;
mod sink;
pub mod spec;
mod stale;

pub use estimate::Speed;
pub use excerpt::did_you_mean;
pub use execute::run;
pub use outcome::{Event, Options, Outcome, Share, Way};
pub use plan::{StagePlan, plan, plan_at_hand};
pub use spec::{Pipeline, StageSpec};
pub use stale::stale;
