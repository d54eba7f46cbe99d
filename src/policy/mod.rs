//! Policies: what a pipeline file names, where the files are, and how they come into memory.

mod handle;
mod launched;
mod load;
mod served;
mod spec;

pub use handle::{PolicyHandle, Runs};
pub use launched::Launched;
pub use load::{
    described, gguf_policy, hub_policy, left_out, load_policy, load_speaker, policy_config, served_policy,
    usual_weights,
};
pub use served::{Api, Served};
pub use spec::{PolicySource, PolicySpec};
