//! check, gc: the health and the size of a store.

use super::{args, render};
use indicatif::HumanBytes;
use mindgap_base::error::{Error, Result};
use mindgap_store::{Garbage, Rules, Store};
use serde_json::json;
use std::path::Path;
use std::time::Duration;

pub fn check(store: &Path, args: args::Check) -> Result<()> {
    let store = Store::look_existing(store)?;
    let progress = render::Counter::new("objects read");
    let checked = store.check(&|done, total| progress.show(done, total))?;
    progress.finish();
    if args.json {
        render::json(&checked)?;
    } else {
        for finding in &checked.findings {
            let kind = json!(finding.problem);
            render::out(&format!(
                "{:<10} {}: {}",
                kind.as_str().unwrap_or_default(),
                finding.path.display(),
                finding.what
            ))?;
        }
        render::out(&format!(
            "{} objects ({}), {} parts, {} finished stages: {}",
            checked.objects,
            HumanBytes(checked.bytes),
            checked.records,
            checked.manifests,
            if checked.findings.is_empty() { "all is well".to_string() } else { count(checked.findings.len()) }
        ))?;
    }
    match checked.findings.len() {
        0 => Ok(()),
        n => Err(Error::check(count(n)).hint("`mindgap run PIPELINE` makes what is damaged or missing again")),
    }
}

fn count(findings: usize) -> String {
    format!("{findings} thing{} found wrong in the store", if findings == 1 { "" } else { "s" })
}

pub fn gc(store: &Path, args: args::Gc) -> Result<()> {
    let store = Store::look_existing(store)?;
    let rules = Rules { forget: args.forget, keep: Duration::from_secs(args.keep_days * 24 * 60 * 60) };
    let garbage = store.collect_garbage(&rules, args.delete)?;
    if args.json {
        let mut value = json!(garbage);
        value["deleted"] = json!(args.delete);
        return render::json(&value);
    }
    let Garbage { objects, bytes, records, views, leftovers, .. } = &garbage;
    let verb = if args.delete { "removed" } else { "would remove" };
    for pipeline in &garbage.pipelines {
        render::out(&format!("{verb} the results of pipeline `{pipeline}`"))?;
    }
    render::out(&format!(
        "{verb} {objects} objects ({}), {records} part records, {views} views, {leftovers} leftovers",
        HumanBytes(*bytes)
    ))?;
    render::out(&format!("kept {} objects ({})", garbage.kept_objects, HumanBytes(garbage.kept_bytes)))?;
    if garbage.kept_recent > 0 {
        render::out(&format!(
            "kept {} parts that no finished stage refers to: used in the last {} days (--keep-days)",
            garbage.kept_recent, args.keep_days
        ))?;
    }
    if !args.delete && garbage.is_any() {
        render::note("nothing was changed; --delete removes it");
    }
    Ok(())
}
