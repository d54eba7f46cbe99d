//! The page in a browser: it does what a reader wants, and whatever tables hold stays text there.
//!
//! Runs where Chromium is on the PATH or named in `MINDGAP_CHROMIUM`.

use super::{HOSTILE, example, tokens};
use crate::support::slow;
use mindgap::report::{Report, html};
use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;

fn chromium() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("MINDGAP_CHROMIUM") {
        return Some(path.into());
    }
    let names = ["chromium", "chromium-browser", "google-chrome", "chrome"];
    let folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH")?).collect();
    names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name))).find(|path| path.is_file())
}

/// Opens the page of a report with a script of a reader in it, which fills `seen`; what it has seen, and what the console said.
/// None where there is no browser.
fn visit(report: &Report, reader: &str) -> Option<(Value, Vec<String>)> {
    let Some(chromium) = chromium() else {
        eprintln!("skipped: no Chromium found; name one in MINDGAP_CHROMIUM");
        return None;
    };
    let page = html(report).unwrap();
    let nonce = page.split("'nonce-").nth(1).and_then(|rest| rest.split('\'').next()).expect("scripts have one");
    let script = format!(
        "<script nonce=\"{nonce}\">const seen = {{}};\n{reader}\nconst out = document.createElement(\"output\");\n\
         out.id = \"seen\";\nout.textContent = encodeURIComponent(JSON.stringify(seen));\ndocument.body.append(out);\n</script></body>"
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.html");
    let (before, after) = page.rsplit_once("</body>").expect("a page has a body");
    std::fs::write(&file, [before, &script, after].concat()).unwrap();
    let output = Command::new(chromium)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"])
        .args(["--disable-component-update", "--disable-sync", "--enable-logging=stderr", "--dump-dom"])
        .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
        .arg(format!("file://{}", file.display()))
        .output()
        .expect("the browser starts");
    let (dom, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let said: Vec<String> = log.lines().filter(|line| line.contains("CONSOLE")).map(str::to_string).collect();
    let seen = dom.split("<output id=\"seen\">").nth(1).unwrap_or_else(|| panic!("the visit did not end: {said:?}"));
    let seen = seen.split("</output>").next().unwrap().as_bytes();
    let digit = |at: usize| (seen[at] as char).to_digit(16).unwrap() as u8;
    let (mut bytes, mut at) = (Vec::new(), 0);
    while at < seen.len() {
        let is_escaped = seen[at] == b'%';
        bytes.push(if is_escaped { digit(at + 1) * 16 + digit(at + 2) } else { seen[at] });
        at += if is_escaped { 3 } else { 1 };
    }
    Some((serde_json::from_slice(&bytes).unwrap(), said))
}

/// Goal: the page opens, searches, filters and shows a problem in a browser, without a word on its console.
#[test]
fn the_page_works_in_a_browser() {
    const READER: &str = r##"
Object.assign(seen, { images: document.images.length, shown: document.querySelectorAll("#rows .item").length });
const type = (text) => { const box = document.getElementById("search"); box.value = text; box.dispatchEvent(new Event("input")); };
const detail = () => document.getElementById("detail").textContent;
type("asked for time 151?");
seen.searched = document.querySelectorAll("#rows .item").length;
document.querySelector("#rows .item").click();
seen.clicked = detail().includes("asked for time 151?");
seen.why = detail().includes("says 8, expected 7");
seen.tokens = document.querySelectorAll("#detail .tok").length > 10;
type("onerror");
document.querySelector("#rows .item").click();
seen.hostile = detail().includes("<\/script><img");
type("");
[...document.querySelectorAll("#sources button")].find((b) => b.textContent.startsWith("guided")).click();
seen.guided = [...document.querySelectorAll("#rows .item b")].every((b) => b.textContent === "guided");
seen.chip = [...document.querySelectorAll("#sources button")].find((b) => b.textContent.startsWith("guided")).textContent;
document.getElementById("verdict").value = "correct";
document.getElementById("verdict").dispatchEvent(new Event("change"));
seen.verdict = document.querySelectorAll("#rows .item").length > 3;
seen.bars = [...document.querySelectorAll(".seg")].map((seg) => seg.style.width).join(" ");
seen.imagesAfter = document.images.length;
seen.title = document.title;"##;
    let Some((seen, said)) = visit(&example(), READER) else { return };
    assert!(said.is_empty(), "the console says: {said:?}");
    assert!(seen["shown"].as_u64().unwrap() < 60, "the list draws only what is in sight: {seen}");
    let wanted = serde_json::json!({"images": 0, "imagesAfter": 0, "searched": 1, "clicked": true, "why": true, "tokens": true,
        "hostile": true, "guided": true, "chip": "guided 100", "verdict": true, "bars": "100% 50% 25% 12.5%", "title": "example · mindgap"});
    for (key, value) in wanted.as_object().unwrap() {
        assert_eq!(&seen[key], value, "`{key}` in {seen}");
    }
}

/// The example with this text wherever a report has one.
fn all_of(text: &str) -> Report {
    let mut report = example();
    let word = || text.to_string();
    (report.pipeline, report.file) = (word(), word());
    for stage in &mut report.stages {
        (stage.name, stage.kind, stage.address, stage.path) = (word(), word(), word(), word());
        stage.stale = vec![word(), word()];
        let failure = mindgap_store::Failure { problem_id: word(), why: word() };
        stage.failures = Some(mindgap_store::Failures { table: "rollouts", rows: 9, first: vec![failure] });
    }
    for cascade in &mut report.cascades {
        cascade.stage = word();
        for samples in [&mut cascade.plain, &mut cascade.guided, &mut cascade.teacher] {
            (samples.rollouts, samples.verdicts) = (vec![word()], vec![word()]);
            samples.samples = 1;
        }
        for refused in &mut cascade.refused {
            (refused.source, refused.reason) = (word(), word());
        }
        cascade.choice.rule = word();
        for chosen in &mut cascade.choice.outcomes {
            (chosen.source, chosen.outcome) = (word(), word());
        }
    }
    for judges in &mut report.judges {
        (judges.rollouts, judges.first, judges.second) = (word(), word(), word());
    }
    for gap in &mut report.gaps {
        (gap.stage, gap.policy) = (word(), word());
        for warning in &mut gap.warnings {
            (warning.source, warning.message, warning.problem_ids) = (word(), word(), vec![word()]);
        }
    }
    for evals in &mut report.evals {
        evals.stage = word();
        // One that is the same in both pages keeps the policies apart.
        for (index, row) in evals.rows.iter_mut().enumerate() {
            (row.benchmark, row.policy) = (word(), format!("{} {text}", index % 2));
        }
        evals.rows.truncate(2);
        for kept in &mut evals.kept {
            (kept.policy, kept.base) = (word(), word());
        }
    }
    report.policies = vec![format!("0 {text}"), format!("1 {text}")];
    for run in &mut report.runs {
        (run.stage, run.label) = (word(), format!("1 {text}"));
    }
    for histograms in &mut report.histograms {
        (histograms.policy, histograms.stages) = (word(), vec![word()]);
        histograms.series.iter_mut().for_each(|series| series.label = word());
    }
    let browser = &mut report.browser;
    (browser.pipeline, browser.file) = (word(), word());
    (browser.cascades, browser.policies) = (vec![word(), format!("{text} 2")], report.policies.clone());
    browser.problems.truncate(6);
    for problem in &mut browser.problems {
        (problem.id, problem.q, problem.a) = (word(), word(), word());
        // As a key, as a value, and as no JSON.
        let meta = serde_json::to_string(&serde_json::json!({ text: text })).unwrap();
        (problem.meta, problem.prompt) = (Some(if problem.s == "self" { word() } else { meta }), Some(word()));
        problem.expert = Some(tokens(text));
        for sample in problem.plain.iter_mut().chain(&mut problem.guided) {
            (sample.stage, sample.v, sample.x) = (Some(word()), word(), Some(word()));
            (sample.m, sample.r, sample.stop) = (word(), Some(word()), word());
            sample.tokens = tokens(text);
        }
        problem.targets.iter_mut().for_each(|target| target.tokens = tokens(text));
    }
    report
}

/// Goal: hostile text in every column is text: the page has the elements and attributes that it has of harmless text, before and
/// after everything in it was clicked; nothing runs, nothing is loaded, the console says nothing.
#[test]
fn hostile_text_in_every_column_is_text() {
    const READER: &str = r##"
const shape = () => [...document.querySelectorAll("*")].map((node) => node.tagName + [...node.attributes].map((a) => " " + a.name).sort().join("")).join("\n");
const links = () => [...document.querySelectorAll("[href], [src], [action], [formaction]")].every((node) => node.tagName === "A" && node.getAttribute("href").startsWith("#") && node.protocol === "file:");
seen.before = shape();
seen.links = links();
for (const name of ["mouseenter", "mouseover", "focus", "pointermove", "pointerdown", "click", "mouseleave"])
  for (const node of [...document.querySelectorAll("main *, nav *, header *")]) node.dispatchEvent(new MouseEvent(name, { bubbles: true, clientX: 9, clientY: 9 }));
for (const node of document.querySelectorAll("#rows .item")) { node.click(); for (const button of document.querySelectorAll("#detail button")) button.click(); }
for (const details of document.querySelectorAll("details")) details.open = true;
for (const select of document.querySelectorAll("select")) for (const option of select.options) { select.value = option.value; select.dispatchEvent(new Event("change")); }
document.getElementById("verdict").value = ""; document.getElementById("verdict").dispatchEvent(new Event("change"));
for (const link of document.querySelectorAll("a")) { link.click(); dispatchEvent(new HashChangeEvent("hashchange")); }
document.querySelector("#sources button").click();
for (const pressed of [...document.querySelectorAll("#sources button[aria-pressed=true]")].slice(1)) pressed.click();
document.querySelector("#rows .item").click();
seen.after = shape();
seen.links = seen.links && links();
seen.pwned = String(window.pwned);
seen.text = document.body.innerText.length > 2000;
seen.detail = document.querySelector("#detail h3").textContent;
seen.title = document.title;
seen.computed = /\b5929\b/.test(document.body.textContent);"##;
    // Each tries to run `pwned = 1`, to load something, or to have 77 * 77 computed.
    let payloads = [
        HOSTILE.replace("document.title='pwned'", "pwned=1"),
        "</script><script>pwned = 1</script><script nonce=\"\">pwned = 1</script>".to_string(),
        "--></style></title></textarea></template><svg onload=pwned=1><iframe srcdoc=\"<script>top.pwned=1</script>\">"
            .to_string(),
        "\" onmouseover=\"pwned=1\" autofocus onfocus=\"pwned=1\" x=\"".to_string(),
        "' onmouseenter='pwned=1' onclick='pwned=1' style='background:url(http://127.0.0.1:9/x)' x='".to_string(),
        "x onpointermove=pwned=1 onclick=pwned=1 href=javascript:pwned=1 src=http://127.0.0.1:9/x".to_string(),
        "javascript:pwned=1//%0a<a href=javascript:pwned=1>here</a><base href=http://127.0.0.1:9/>".to_string(),
        "data:text/html,<script>pwned=1</script> <meta http-equiv=refresh content=0;url=http://127.0.0.1:9/>"
            .to_string(),
        "{{ 77 * 77 }} {% set x = 77 * 77 %}{{ x }} ${77*77} #{77*77} <%= 77 * 77 %> {{ report|safe }}".to_string(),
        "&lt;img src=x onerror=pwned=1&gt; \\u003cimg src=x onerror=pwned=1\\u003e &#60;svg/onload=pwned=1&#62;"
            .to_string(),
        "\u{2028}\u{2029}\u{0}\u{1b}]8;;http://127.0.0.1:9/\u{7} \\\"];pwned=1;// `${pwned=1}` %zz %".to_string(),
        "__proto__".to_string(),
        "constructor".to_string(),
    ];
    let few = if slow("hostile texts in a browser beyond the first three") { payloads.len() } else { 3 };
    for payload in payloads.into_iter().take(few) {
        // As many words, of nothing but letters.
        let harmless: String = payload.chars().map(|c| if c == ' ' { ' ' } else { 'x' }).collect();
        let (report, plain) = (all_of(&payload), all_of(&harmless));
        let Some(((seen, said), (wanted, _))) = visit(&report, READER).zip(visit(&plain, READER)) else { return };
        assert!(said.is_empty(), "{payload}: the console says {said:?}");
        for key in ["before", "after"] {
            let lines = |seen: &Value| seen[key].as_str().unwrap().lines().map(str::to_string).collect::<Vec<_>>();
            let (found, wanted) = (lines(&seen), lines(&wanted));
            assert!(wanted.len() > 300, "there is a page");
            let other = found.iter().zip(&wanted).find(|(found, wanted)| found != wanted);
            assert_eq!(other, None, "{payload}: another element {key} the visit");
            assert_eq!(found.len(), wanted.len(), "{payload}: more or fewer elements {key} the visit");
        }
        let found = (&seen["links"], &seen["pwned"], &seen["text"], &seen["computed"]);
        assert_eq!(found, (&true.into(), &"undefined".into(), &true.into(), &false.into()), "{payload}");
        let shown = payload.replace('\u{0}', "\u{fffd}");
        assert!(
            [&payload, &shown].contains(&&seen["detail"].as_str().unwrap().to_string()),
            "{payload}: {}",
            seen["detail"]
        );
        assert!(seen["title"].as_str().unwrap().ends_with(" · mindgap"), "{payload}");
    }
}
