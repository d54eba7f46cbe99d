//! report: the results of a pipeline as one HTML page and a Markdown twin. Collects; `crate::report` writes.

use super::pipelines::load;
use super::{args, render};
use crate::report::{Report, html, markdown};
use crate::study::{Made, collect};
use mindgap_base::error::{Error, Result};
use mindgap_store::{Store, fs};
use std::path::Path;

pub fn report(store: &Path, args: args::Report) -> Result<()> {
    let pipeline = load(&args.pipeline)?;
    let store = Store::look(store)?;
    let made = Made::new(&store, &pipeline, &[])?;
    render::notes(&made.notes(made.stage_names()));
    if args.json {
        return render::json(&collect(&made, false)?);
    }
    if args.markdown {
        return render::out(markdown(&collect(&made, false)?).trim_end());
    }
    let report = collect(&made, true)?;
    if report.stages.iter().all(|stage| !stage.done) {
        return Err(Error::usage(format!("nothing of pipeline `{}` has run yet", pipeline.name))
            .hint(format!("run it first: mindgap run {}", pipeline.source.path)));
    }
    let is_asked_for = args.out.is_some();
    let page = args.out.unwrap_or_else(|| store.root().join("reports").join(format!("{}.html", pipeline.name)));
    let twin = page.with_extension("md");
    if twin == page {
        return Err(Error::usage("`--out` names the HTML page").hint("the Markdown twin is written beside it, as .md"));
    }
    if is_asked_for {
        check_own(&page, &twin)?;
    }
    fs::publish(&page, html(&report)?.as_bytes(), "report")?;
    fs::publish(&twin, markdown(&report).as_bytes(), "report")?;
    summary(&report);
    render::out(&page.display().to_string())?;
    render::out(&twin.display().to_string())
}

/// Refuses to replace a page that no report wrote, or a text beside no page of a report.
fn check_own(page: &Path, twin: &Path) -> Result<()> {
    let found = fs::read_if_present(page)?;
    let is_ours = found.as_ref().map(|page| String::from_utf8_lossy(page).contains(MARK));
    let foreign = match is_ours {
        Some(true) => return Ok(()),
        Some(false) => page,
        None if fs::is_there(twin) => twin,
        None => return Ok(()),
    };
    Err(Error::usage("a file is there that is no report")
        .at(foreign.display().to_string())
        .hint("name another place with --out, or remove it"))
}

/// What every page of a report has.
const MARK: &str = " · mindgap</title>";

/// What one wants to know at once, for people.
fn summary(report: &Report) {
    for cascade in &report.cascades {
        if let Some(t) = &cascade.targets {
            let (stage, problems) = (&cascade.stage, cascade.problems);
            render::note(&format!(
                "{stage}: {problems} problems; targets: {} self, {} guided, {} expert",
                t.own, t.guided, t.expert
            ));
        }
    }
    let average = |policy: &&str| {
        let average = report.average(policy, |eval| eval.mean_at_k)?;
        Some(format!("{policy} {}", average.text()))
    };
    let averages: Vec<String> = report.evaluated().iter().filter_map(average).collect();
    if !averages.is_empty() {
        render::note(&format!("average accuracy in %: {}", averages.join(", ")));
    }
    let missing = report.stages.iter().filter(|stage| !stage.done).count();
    if missing > 0 {
        render::note(&format!("{missing} of {} stages have not run yet", report.stages.len()));
    }
}
