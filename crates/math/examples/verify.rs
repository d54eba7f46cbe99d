//! One verdict with its evidence: `cargo run -p mindgap-math --example verify -- GOLD RESPONSE [NAME=VALUE ..]`.
#![expect(clippy::print_stdout, reason = "an example prints")]

use mindgap_math::{Options, extract, judge, parse};

fn main() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [gold, response, settings @ ..] = arguments.as_slice() else {
        return Err("usage: verify GOLD RESPONSE [NAME=VALUE ..]".to_string());
    };
    let mut options = Options::default();
    for setting in settings {
        let (name, value) = setting.split_once('=').ok_or_else(|| format!("`{setting}` is not NAME=VALUE"))?;
        options.set(name, value)?;
    }
    let judgement = judge(gold, response, &options);
    println!("{} by {}", judgement.verdict.as_str(), judgement.method);
    for answer in [Some(gold.clone()), extract(response).map(|found| found.text)].into_iter().flatten() {
        match parse(&answer) {
            Ok(read) => println!("{answer} is read as {read}"),
            Err(reason) => println!("{answer} is not read: {reason}"),
        }
    }
    Ok(())
}
