//! The library in thirty lines: load a policy, draw four solutions of one problem, judge each.
//!
//! `cargo run --release --example sample_and_judge`

#![expect(clippy::print_stdout, reason = "a program of its own")]

use candle_core::Device;
use mindgap::policy::{PolicyHandle, load_policy};
use mindgap_base::error::Result;
use mindgap_base::rng::Stream;
use mindgap_lm::engine::{self, Limits, Request, Sampling};
use mindgap_lm::model::policy::PolicyFiles;
use mindgap_math::{Judge, Options};
use std::path::Path;
use std::sync::atomic::AtomicBool;

fn main() -> Result<()> {
    let (question, reference) = ("Ann has 3 apples and buys 4 more. How many apples does Ann have?", "7");

    let handle = PolicyHandle::of_folder("base", Path::new("data/base-policy"), PolicyFiles::wants)?;
    let policy = load_policy(&handle)?;
    let runner = policy.runner()?;

    // A sample is a function of its stream: the same coordinates give the same text in any batch, on any number of threads.
    let samples = (0..4u32).map(|index| Stream::at(0, &[b"example", &index.to_le_bytes()])).collect();
    let request = Request { name: "apples".into(), prompt_ids: policy.prompt_ids(question)?.into(), samples };
    let sampling = Sampling::plain(64, policy.eos_token_ids());
    let cancel = AtomicBool::new(false);
    let limits = Limits::on(&Device::Cpu, 1, &cancel)?;
    let drawn = engine::generate(&runner, Some(policy.tokenizer()), &[request], &sampling, &limits, &|_| ())?;

    let judge = Judge::Math(Options::default());
    for sample in drawn.into_iter().flatten() {
        let text = policy.tokenizer().text(&sample.token_ids)?;
        let judgement = judge.judge(reference, &text);
        let logprob: f32 = sample.logprob_policy.iter().sum();
        println!("{} ({logprob:.2} nats): {}", judgement.verdict.as_str(), text.trim());
    }
    Ok(())
}
