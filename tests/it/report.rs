//! The report: what its page and its Markdown say, that hostile text stays text, and that the page works in a browser.

mod browser;

use crate::support::root;
use mindgap::report::{
    BrowsedProblem, BrowsedSample, BrowsedTarget, Browser, Cascade, Choice, Chosen, Compared, EvalTable, GapTable,
    Histograms, RefusedSamples, Report, Run, Samples, Series, StageState, Targets, Tokens, html, markdown, quantise,
};
use mindgap::stats::agreement::Agreement;
use mindgap_store::table::evals::{Eval, Forgetting};
use mindgap_store::table::gaps::{Gap, GapWarning, Group, Moment, Warning};
use mindgap_store::table::train_steps::TrainStep;
use std::collections::BTreeMap;

const HOSTILE: &str = "</script><img src=x onerror=\"document.title='pwned'\"><!-- & ' |";

fn stage(name: &str, kind: &str, done: bool) -> StageState {
    let path = if done { format!("store/tables/p/{name}/*.parquet") } else { String::new() };
    let (rows, address) = if done { (7, "0123456789ab".to_string()) } else { (0, String::new()) };
    StageState {
        name: name.to_string(),
        kind: kind.to_string(),
        done,
        rows,
        address,
        path,
        stale: Vec::new(),
        failures: None,
    }
}

fn eval(benchmark: &str, policy: &str, mean_at_k: f64) -> Eval {
    Eval {
        benchmark: benchmark.to_string(),
        policy: policy.to_string(),
        n: 128,
        k: 4,
        temperature: 1.0,
        mean_at_k,
        pass_at_k: mean_at_k + 0.1,
        maj_at_k: mean_at_k + 0.05,
        ci_low: mean_at_k - 0.04,
        ci_high: mean_at_k + 0.04,
        truncated_share: 0.01,
        no_answer_share: 0.0,
        change_from_base: None,
        change_from_base_low: None,
        change_from_base_high: None,
        change_from_best: None,
        kl_per_token: None,
        truncated_correct_share: (policy == "base").then_some(0.025),
    }
}

fn gap(rewriting: Moment, source: Group, mean_logprob: f64) -> Gap {
    let sampled = source != Group::Expert;
    Gap {
        rewriting,
        source,
        row_count: 4,
        token_count: 200,
        mean_length: 50.0,
        mean_logprob,
        mean_row_logprob: 50.0 * mean_logprob,
        perplexity: (-mean_logprob).exp(),
        low_probability_share: 0.025,
        ratio_variance: 12.5,
        ess_tokens: 50.0,
        ess_rows: 2.0,
        sampled_rows: if sampled { 4 } else { 0 },
        sampled_tokens: if sampled { 200 } else { 0 },
        kl_per_token: sampled.then_some(0.06),
        behavior_ratio_variance: sampled.then_some(0.1),
        behavior_ess_tokens: sampled.then_some(190.0),
        behavior_ess_rows: sampled.then_some(3.5),
        eos_probability: Some(0.998),
    }
}

fn step(step: u32) -> TrainStep {
    TrainStep {
        step,
        loss: 0.4 / f64::from(step + 1),
        nll: 0.5,
        grad_norm: 1.25,
        learning_rate: 1e-4,
        token_count: 100,
        weight_mean: 0.8,
        weight_var: 0.1,
        ess: 90.0,
        clipped: false,
        skipped: None,
        low_weight_share: 0.02,
        eos_probability: Some(0.9),
        nll_self: None,
        nll_guided: None,
        nll_expert: None,
        nll_teacher: None,
    }
}

fn tokens(text: &str) -> Tokens {
    let pieces: Vec<String> = text.split_inclusive(' ').map(str::to_string).collect();
    let digits = quantise(&vec![-1.0; pieces.len()]);
    Tokens::new(&pieces, vec![digits.clone(), digits])
}

fn sample(index: u32, verdict: &str, extracted: &str, text: &str) -> BrowsedSample {
    BrowsedSample {
        stage: None,
        i: index,
        v: verdict.to_string(),
        x: Some(extracted.to_string()),
        m: "boxed/rational".to_string(),
        r: None,
        stop: "eos".to_string(),
        tokens: tokens(text),
    }
}

fn problem(id: usize, question: &str, source: &str) -> BrowsedProblem {
    let own = if source == "self" { "correct" } else { "incorrect" };
    let target =
        BrowsedTarget { s: source.to_string(), i: (source != "expert").then_some(0), tokens: tokens("I add 3 and 4.") };
    let guided = if source == "self" {
        Vec::new()
    } else {
        vec![sample(0, if source == "guided" { "correct" } else { "incorrect" }, "7", "I add 3 and 4.")]
    };
    BrowsedProblem {
        id: format!("{id:016x}"),
        q: question.to_string(),
        a: "7".to_string(),
        meta: Some("{\"family\":\"main\"}".to_string()),
        s: source.to_string(),
        expert: Some(tokens("Let x = 3 + 4.")),
        plain: vec![sample(0, own, "8", "I add 3 and 5.")],
        prompt: (source != "self").then(|| format!("{question} Reference solution: Let x = 3 + 4.")),
        guided,
        targets: vec![target],
        ..BrowsedProblem::default()
    }
}

/// A report with everything in it; every name that users choose freely is hostile.
fn example() -> Report {
    let cascade = Cascade {
        stage: "rewrites".to_string(),
        problems: 8,
        plain: Samples {
            rollouts: vec!["rollouts".into()],
            verdicts: vec!["verdicts".into()],
            problems: 8,
            samples: 16,
            correct: 5,
        },
        guided: Samples::default(),
        teacher: Samples::default(),
        targets: Some(Targets { own: 4, guided: 2, teacher: 0, expert: 1, none: 1 }),
        refused: vec![RefusedSamples { source: "guided".into(), reason: "copied".into(), samples: 3 }],
        choice: Choice {
            rule: HOSTILE.to_string(),
            is_one: true,
            outcomes: vec![Chosen {
                source: "guided".to_string(),
                outcome: "left".to_string(),
                samples: 2,
                tokens: 31.5,
                logprob: Some(-0.25),
            }],
        },
    };
    let mut series = Series::new("self");
    series.add(&[-0.1, -2.0, -20.0]);
    let warning = GapWarning {
        warning: Warning::LowEss,
        moment: Moment::After,
        source: "expert".to_string(),
        raised: true,
        value: 0.07,
        threshold: 0.1,
        affected: 0,
        row_count: 4,
        message: format!("few tokens decide {HOSTILE}"),
        problem_ids: vec![format!("{:016x}", 3)],
    };
    let mut problems: Vec<BrowsedProblem> = (0..300)
        .map(|i| problem(i, &format!("How much is 3 + 4, asked for time {i}?"), ["self", "guided", "expert"][i % 3]))
        .collect();
    problems[7] = problem(7, HOSTILE, "guided");
    problems[7].plain[0] = sample(0, "incorrect", HOSTILE, HOSTILE);
    problems[7].prompt = Some(HOSTILE.to_string());
    let judges = Agreement { both: 4, first_only: 1, second_only: 2, neither: 9 };
    let quiet =
        GapWarning { warning: Warning::Copied, raised: false, message: "0 of 4 copied".to_string(), ..warning.clone() };
    Report {
        pipeline: "example".to_string(),
        file: "pipelines/example.toml".to_string(),
        is_compared: true,
        stages: vec![
            stage("problems", "ingest", true),
            stage("rewrites", "rewrite", true),
            stage("train-late", "train", false),
        ],
        cascades: vec![cascade],
        judges: vec![Compared::new("rollouts", "verdicts", HOSTILE, judges)],
        gaps: vec![GapTable {
            stage: "gap".to_string(),
            policy: "base".to_string(),
            rows: vec![gap(Moment::After, Group::Guided, -0.2), gap(Moment::Before, Group::Expert, -0.4)],
            warnings: vec![quiet, warning],
        }],
        evals: vec![EvalTable {
            stage: "evals".to_string(),
            rows: vec![
                eval(HOSTILE, "base", 0.3),
                eval("main", "base", 0.4),
                eval(HOSTILE, "dr+dft", 0.6),
                eval("main", "dr+dft", 0.8),
            ],
            kept: vec![Forgetting {
                policy: HOSTILE.to_string(),
                base: "base".to_string(),
                earlier_tasks: 2,
                bwt: Some(-0.125),
                bwt_low: Some(-0.2),
                bwt_high: Some(0.05),
                retention: None,
                retention_low: None,
                retention_high: None,
                kl_per_sample: Some(3.0),
                kl_per_sample_low: Some(2.0),
                kl_per_sample_high: Some(4.0),
                kl_per_token: Some(0.0625),
            }],
        }],
        policies: vec!["base".to_string(), "dr+dft".to_string()],
        runs: vec![Run {
            stage: "train-dr+dft".to_string(),
            label: "dr+dft".to_string(),
            steps: vec![step(0), step(1)],
        }],
        histograms: vec![Histograms {
            policy: "base".to_string(),
            stages: vec!["rewrites".to_string()],
            series: vec![series],
        }],
        browser: Browser {
            pipeline: "example".to_string(),
            file: "pipelines/example.toml".to_string(),
            cascades: vec!["rewrites".to_string()],
            policies: vec!["base".to_string(), "dr+dft".to_string()],
            total: problems.len() as u64,
            problems,
        },
    }
}

/// Goal: the Markdown says every figure, and a name cannot break a table.
#[test]
fn markdown_matches_its_golden() {
    let path = root().join("tests/golden/report.md");
    let found = markdown(&example());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), found, "run `make golden` and review the diff");
}

/// Goal: replications turn into mean and standard error, not into more columns.
#[test]
fn replications_are_averaged() {
    let mut report = example();
    let again =
        |mean: f64| EvalTable { stage: "evals-1".to_string(), rows: vec![eval("main", "base", mean)], kept: vec![] };
    report.evals = vec![again(0.3), again(0.5)];
    assert!(markdown(&report).contains("| base | 40.0 ± 10.0 | **40.0 ± 10.0** |"), "{}", markdown(&report));
    assert!(html(&report).unwrap().contains("± 10.0"));
}

/// Goal: the page needs nothing outside itself.
#[test]
fn the_page_names_no_address() {
    let page = html(&example()).unwrap();
    for word in ["http:", "https:", "//cdn", "@import", "url(", "<link", "<iframe", "fetch(", "XMLHttpRequest"] {
        assert!(!page.contains(word), "the page has `{word}`");
    }
    assert!(page.contains("default-src 'none'"));
}

/// Goal: text from tables stays text: in markup, in attributes, in charts and in the embedded rows.
#[test]
fn hostile_text_stays_text() {
    let page = html(&example()).unwrap();
    assert!(!page.contains("<img"), "an element of a table came alive");
    assert_eq!(page.matches("</script").count(), 2, "only the data and the script end");
    let data = page.split("id=\"data\">").nth(1).unwrap().split("</script>").next().unwrap();
    let rows: serde_json::Value = serde_json::from_str(data).expect("the embedded rows are JSON");
    assert_eq!(rows["problems"][7]["q"], HOSTILE);
    assert_eq!(rows["problems"].as_array().unwrap().len(), 300);
}

/// Goal: every element that opens closes, in order.
#[test]
fn elements_nest() {
    for report in [example(), Report::default()] {
        let page = html(&report).unwrap();
        let (mut open, mut rest, mut seen): (Vec<String>, &str, BTreeMap<String, u32>) =
            (Vec::new(), &page, BTreeMap::new());
        while let Some(start) = rest.find('<') {
            rest = &rest[start + 1..];
            if rest.starts_with('!') {
                continue;
            }
            let end = rest.find('>').expect("a tag ends");
            let (tag, after) = (&rest[..end], &rest[end + 1..]);
            let name: String = tag.trim_start_matches('/').chars().take_while(|c| c.is_ascii_alphanumeric()).collect();
            assert!(!name.is_empty(), "a bare `<` in the page: {}", &rest[..end.min(60)]);
            rest = after;
            if tag.starts_with('/') {
                assert_eq!(open.pop(), Some(name));
            } else if !tag.ends_with('/') && !["meta", "input", "br"].contains(&name.as_str()) {
                *seen.entry(name.clone()).or_default() += 1;
                if name == "script" || name == "style" {
                    rest = &rest[rest.find(&format!("</{name}")).expect("it ends")..];
                }
                open.push(name);
            }
        }
        assert!(open.is_empty(), "left open: {open:?}");
        assert_eq!(seen["h1"], 1);
    }
}

/// Goal: a report of what there is, however little, says what is missing.
#[test]
fn partial_pipelines_say_what_is_missing() {
    let report = Report {
        stages: vec![stage("problems", "ingest", true), stage("rollouts", "rollout", false)],
        ..Report::default()
    };
    assert!(markdown(&report).contains("1 of 2 stages have not run yet: `rollouts`"));
    let page = html(&report).unwrap();
    assert!(page.contains("1 of 2 stages have not run yet") && !page.contains("id=\"browser\""));
}

/// Goal: the tokens of a text are the text, characters of several tokens included.
#[test]
fn pieces_are_the_whole_text() {
    let bytes = std::fs::read(root().join("data/base-policy/tokenizer.json")).unwrap();
    let tokenizer = mindgap_lm::model::tokenizer::Tokenizer::from_bytes(&bytes).unwrap();
    for text in ["So 16 + 27 = 43. The answer is \\boxed{43}.", "naïve 😀 日本語 ½", "one<|end|>", ""] {
        let ids = tokenizer.encode(text, false).unwrap();
        let pieces = tokenizer.pieces(&ids).unwrap();
        assert_eq!((pieces.len(), pieces.concat()), (ids.len(), text.to_string()));
    }
}
