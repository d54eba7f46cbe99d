//! results: a study's accuracies as Markdown: every policy over all replications, changes, and paired differences.

use super::pipelines::load;
use super::{args, render};
use crate::stats::crossed::Interval;
use crate::study::{self, Made, Results};
use mindgap_base::error::{Error, Result};
use mindgap_store::table::rewrites::Source;
use mindgap_store::{Store, fs};
use std::path::Path;

pub fn results(store: &Path, args: args::Results) -> Result<()> {
    let pipeline = load(&args.pipeline)?;
    let store = Store::look(store)?;
    let made = Made::new(&store, &pipeline, &[])?;
    let results = study::results(&made, &args.pairs)?;
    render::notes(&made.notes(made.stage_names()));
    if args.json {
        return render::json(&results);
    }
    let text = markdown(&results);
    match &args.into {
        None => render::out(&text),
        Some(page) => {
            let bytes = fs::read(page)?;
            let written = String::from_utf8(bytes).ok().and_then(|page| replaced(&page, &text)).ok_or_else(|| {
                Error::usage("the page has no place for results")
                    .at(page.display().to_string())
                    .hint(format!("put the lines `{BEGIN}` and `{END}` where they belong"))
            })?;
            // A bare name has no folder to be renamed in.
            fs::publish(&Path::new(".").join(page), written.as_bytes(), "page")?;
            render::note(&page.display().to_string());
            Ok(())
        }
    }
}

const BEGIN: &str = "<!-- mindgap results: begin -->";
const END: &str = "<!-- mindgap results: end -->";

/// The page with `text` between its markers.
fn replaced(page: &str, text: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{text}\n{END}{after}"))
}

fn markdown(results: &Results) -> String {
    let Results { replications, problems, samples, temperature, benchmarks, .. } = results;
    let head = |first: &str, columns: &[&str]| {
        format!("| {first} | {} |\n|---|{}\n", columns.join(" | "), "--:|".repeat(columns.len()))
    };
    let names: Vec<&str> = benchmarks.iter().map(String::as_str).collect();
    let signed = |i: &Interval| format!("{:+.1} [{:+.1}, {:+.1}]", i.mean, i.low, i.high);
    let mut text = format!(
        "### Accuracy\n\nmean@{samples} in %, temperature {temperature}, {problems} problems, {replications} replications; \
         95 % interval over problems and replications.\n\n{}",
        head("policy", &[&names[..], &["average"]].concat())
    );
    for p in &results.policies {
        let cells: Vec<String> = p.mean_at_k.iter().map(|value| format!("{value:.1}")).collect();
        text += &format!(
            "| {} | {} | **{:.1}** [{:.1}, {:.1}] |\n",
            p.policy,
            cells.join(" | "),
            p.average.mean,
            p.average.low,
            p.average.high
        );
    }
    text += &format!(
        "\n### Change\n\nPaired difference from `{}` in points, on the same problems and seeds.\n\n",
        results.policies[0].policy
    );
    text += &head("policy", &names);
    for p in &results.policies[1..] {
        text += &format!("| {} | {} |\n", p.policy, p.change.iter().map(signed).collect::<Vec<_>>().join(" | "));
    }
    if !results.differences.is_empty() {
        text += &format!("\n### Paired differences\n\nIn points; `ahead` counts replications of {replications}.\n\n");
        text += &head("policy minus policy", &[&["average", "ahead"], &names[..]].concat());
        for d in &results.differences {
            let cells: Vec<String> = d.per_benchmark.iter().map(|value| format!("{value:+.1}")).collect();
            text += &format!(
                "| {} - {} | {} | {} | {} |\n",
                d.better,
                d.than,
                signed(&d.average),
                d.ahead,
                cells.join(" | ")
            );
        }
    }
    text += &format!("\n### Of {samples} samples\n\nIn %, average of the benchmarks.\n\n");
    let columns = ["mean", "at least one right", "majority right", "cut off", "no answer"];
    text += &head("policy", &columns);
    for p in &results.policies {
        let cells = [p.average.mean, p.pass_at_k, p.maj_at_k, p.truncated_share, p.no_answer_share];
        text += &format!("| {} | {} |\n", p.policy, cells.map(|value| format!("{value:.1}")).join(" | "));
    }
    text += &format!(
        "\n### Where the targets come from\n\nIn % of the rows, over all replications.\n\n{}",
        head("rewrites", &Source::ALL.iter().map(|source| source.as_str()).collect::<Vec<_>>())
    );
    for s in &results.sources {
        text += &format!("| {} | {:.1} | {:.1} | {:.1} |\n", s.stage, s.own, s.guided, s.expert);
    }
    text += "\nAddresses: ";
    text +=
        &results.addresses.iter().map(|(name, address)| format!("{name} `{address}`")).collect::<Vec<_>>().join(", ");
    text + ".\n"
}
