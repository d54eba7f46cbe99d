//! Trainers that are driven by a script of ours.

use super::ExternalKind;

/// A script, and what it needs beside it.
pub struct Shipped {
    /// Bumped whenever the script can give another policy.
    pub version: u32,
    /// Name and text.
    pub script: (&'static str, &'static str),
    /// The environment variable that says which Python has the trainer, or what starts it.
    pub variable: &'static str,
    /// What the trainer calls itself.
    pub title: &'static str,
    /// For a hint: what may stand in the variable.
    pub examples: &'static str,
}

/// What every script imports.
const SHARED: [(&str, &str); 4] = [
    ("losses.py", include_str!("losses.py")),
    ("recipe.py", include_str!("recipe.py")),
    ("step_sums.py", include_str!("step_sums.py")),
    ("trained.py", include_str!("trained.py")),
];

const TRL: Shipped = Shipped {
    version: 1,
    script: ("trl_sft.py", include_str!("trl_sft.py")),
    variable: "MINDGAP_TRL",
    title: "TRL",
    examples: "`/opt/trl/bin/python`, `accelerate launch --num_processes 8`",
};

const VERL: Shipped = Shipped {
    version: 1,
    script: ("verl_sft.py", include_str!("verl_sft.py")),
    variable: "MINDGAP_VERL",
    title: "verl",
    examples: "`/opt/verl/bin/python` (all GPUs that it sees), `torchrun --nnodes 2 --nproc_per_node 8 ..`",
};

impl ExternalKind {
    pub fn shipped(self) -> Option<&'static Shipped> {
        match self {
            ExternalKind::Trl => Some(&TRL),
            ExternalKind::Verl => Some(&VERL),
            ExternalKind::Command => None,
        }
    }
}

impl Shipped {
    /// The files that are laid into the work folder.
    pub fn files(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        [self.script].into_iter().chain(SHARED)
    }
}
