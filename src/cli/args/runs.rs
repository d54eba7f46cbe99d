//! Commands that compute, and those that say what there is to compute.

use super::{Compute, Pipeline};
use crate::pipeline::Share;
use clap::Args as ClapArgs;

#[derive(ClapArgs)]
#[command(after_help = "Examples:
  mindgap plan pipelines/demo.toml               every stage: cached, to compute and why, or waiting
  mindgap plan pipelines/demo.toml rewrites      the rewrites and what they need
  mindgap plan pipelines/demo.toml --set train_seed=1    with another value of a variable

A reason reads old value -> new value: `samples: 4 -> 10`, `problems: 10000 rows (3f2a..) -> 10100 rows (9c1b..)`.")]
pub struct Plan {
    #[command(flatten)]
    pub stages: Stages,
}

#[derive(ClapArgs)]
pub struct Stages {
    #[command(flatten)]
    pub pipeline: Pipeline,
    /// Stages, with what they need. All where none is named.
    pub stages: Vec<String>,
    /// Print what is said of each stage as JSON on stdout.
    #[arg(long)]
    pub json: bool,
}

#[derive(ClapArgs)]
#[command(after_help = "Examples:
  mindgap run pipelines/demo.toml                everything that is missing
  mindgap run pipelines/demo.toml rewrites       only the rewrites and what they need
  mindgap run pipelines/demo.toml --set train_seed=1     with another value of a variable
  mindgap run pipelines/demo.toml rollouts --part 2/8    the second of eight shares of the samples

Stop it whenever you like, also by kill -9: finished parts are kept, and the same command goes on.")]
pub struct Run {
    #[command(flatten)]
    pub stages: Stages,
    /// Compute only the Ith of N shares of the named stages' parts, then stop. For schedulers that start N processes on one
    /// store; a run without it, or the last of them, puts the stages together.
    #[arg(long, value_name = "I/N", value_parser = share)]
    pub part: Option<Share>,
    #[command(flatten)]
    pub compute: Compute,
}

#[derive(ClapArgs)]
#[command(after_help = "Examples:
  mindgap work pipelines/demo.toml --store s3://bucket/demo       one worker; start any number, on any machine
  mindgap work pipelines/demo.toml rewrites --store /shared/store on a disk that all of them see

Workers agree by the store alone: each takes a part that nobody holds, and what is finished counts, whoever made it. One that is
lost is noticed after a minute (MINDGAP_LEASE_SECONDS), and its part is taken over. Each ends by itself when nothing is left.")]
pub struct Work {
    #[command(flatten)]
    pub stages: Stages,
    #[command(flatten)]
    pub compute: Compute,
}

fn share(text: &str) -> Result<Share, String> {
    let parse = || {
        let (index, count) = text.split_once('/')?;
        Some((index.parse::<usize>().ok()?, count.parse::<usize>().ok()?))
    };
    match parse() {
        Some((index, count)) if (1..=count).contains(&index) => Ok(Share { index: index - 1, count }),
        _ => Err("expected I/N with I from 1 to N".to_string()),
    }
}

#[derive(ClapArgs)]
#[command(after_help = "Examples:
  mindgap status pipelines/demo.toml             also while a run is at work in another terminal
  watch mindgap status pipelines/demo.toml")]
pub struct Status {
    #[command(flatten)]
    pub pipeline: Pipeline,
    #[arg(long)]
    pub json: bool,
}
