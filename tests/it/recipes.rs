//! Recipes: every parameter of every kind of stage is in a recipe or in a part's key, and the recipes stay what they are. A
//! parameter left out would serve stale results without a word; another spelling would forget every user's cache.

use crate::support::{root, smoke};
use mindgap::net::hub::Watch;
use mindgap::pipeline::session::{Bound, Session, manifest};
use mindgap::pipeline::{Pipeline, StageSpec};
use mindgap::policy::PolicySource;
use mindgap::stage::{KINDS, Params};
use mindgap_lm::train::Loss;
use mindgap_store::Store;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;

/// Kind, parameter, and why no result of the stage depends on it.
const IRRELEVANT: &[(&str, &str, &str)] = &[
    ("rollout", "label", "evals tell it, samples do not depend on it"),
    ("rollout", "speculate", "the same samples in less time"),
    ("train", "gradient_checkpointing", "the same result with less memory"),
    ("train", "keep_checkpoints", "says what stays in the store, not what is made"),
];

/// Kind, parameter, and where no result depends on it.
const SOMETIMES: &[(&str, &str, &str)] = &[
    ("evaluate", "logprobs", "nothing is compared without `base`"),
    ("evaluate", "untouched", "nothing is compared without `base`"),
    ("judge", "abs_tol", "only the judge `numeric` knows tolerances"),
    ("judge", "copied_limit", "only samples that were shown a solution may have copied it"),
    (
        "judge",
        "problems",
        "a gold answer is part of its problem's id, which the rollouts hold; solutions are looked at for copies",
    ),
    ("judge", "refuse", "most reasons look at guided samples alone"),
    ("judge", "rel_tol", "only the judge `numeric` knows tolerances"),
    ("logprob", "rollouts", "either rewrites are scored or rollouts"),
    ("rewrite", "distinct", "one sample alone has no equals"),
    ("rollout", "judge", "only `until_correct` asks a judge"),
    ("rollout", "max_samples", "only `until_correct` goes so far"),
    ("rollout", "part_samples", "samples in waves are one part"),
    ("rollout", "until_correct", "only with the judge it asks"),
    ("soft", "rollouts", "either rewrites are scored or rollouts"),
    ("soft", "template", "it is filled from `problems`"),
    ("train", "eval_steps", "nothing is evaluated without `eval_data`"),
    ("train", "logprobs", "they are of rewrites, and documents have none; portions have their own"),
    ("train", "rewards", "portions have their own"),
    ("train", "row_weights", "portions have their own"),
    ("train", "soft", "they are of samples and targets, and documents have none; portions have their own"),
];

/// Kind and parameter that cannot be changed alone everywhere: the rest would contradict it.
const CONTRADICTS: &[(&str, &str)] = &[
    ("evaluate", "base"),
    ("evaluate", "logprobs"),
    ("evaluate", "verdicts"),
    ("judge", "judge.kind"),
    ("judge", "judge.verdict"),
];

/// Kind, parameter and other values as JSON, where the field's type does not give one: what is named must exist, and a
/// number may have to change by more than 1 to cut the work another way. The first that differs and is of the same type is
/// taken; any for null.
const VALUES: &[(&str, &str, &str)] = &[
    ("ingest", "fields.question", r#"["problem"]"#),
    ("ingest", "fields.solution", r#"["proof"]"#),
    ("ingest", "fields.answer", r#"["gold"]"#),
    ("ingest", "fields.id", r#"["key"]"#),
    ("ingest", "fields.source", r#"["origin"]"#),
    ("ingest", "share", "[[0.0, 0.5], [0.5, 1.0]]"),
    ("ingest", "clean", r#"[["calculator_marks"], ["notes"]]"#),
    ("ingest", "files.path", r#"["../data/world/test-long.parquet"]"#),
    ("ingest", "decontaminate", r#"[{ "against": ["benchmarks"], "ngram": 13 }]"#),
    ("ingest", "decontaminate.against", r#"[["benchmarks"], ["problems"], "problems", "benchmarks"]"#),
    ("ingest", "near_duplicates", "[0.8]"),
    ("documents", "files", r#"["../data/world/test-long.parquet"]"#),
    ("documents", "policy", r#"["other"]"#),
    ("rollout", "problems", r#"["problems", "benchmarks"]"#),
    ("rollout", "policy", r#"["other"]"#),
    ("rollout", "label", r#"["tuned"]"#),
    ("rollout", "unsolved", r#"[["verdicts"], "verdicts", "exact_verdicts"]"#),
    ("rollout", "template", r#"["templates/boxed.j2", "templates/guided.j2"]"#),
    ("rollout", "stop", r#"[["\n\n"]]"#),
    ("rollout", "part_problems", "[1048576]"),
    ("rollout", "part_samples", "[1]"),
    ("rollout", "part_tokens", "[100]"),
    ("rollout", "until_correct", "[1, 2]"),
    ("rollout", "max_samples", "[16]"),
    ("rollout", "judge", r#"["verdicts", "exact_verdicts"]"#),
    ("rollout", "hint", r#"[{ "beta": 0.7 }]"#),
    ("rollout", "hint.template", r#"["templates/boxed.j2", "templates/guided.j2"]"#),
    ("samples", "problems", r#"["problems", "benchmarks"]"#),
    ("samples", "policy", r#"["other"]"#),
    ("samples", "files.path", r#"["../data/world/test-long.parquet"]"#),
    ("samples", "fields.completion", r#"["outputs"]"#),
    ("samples", "fields.question", r#"["prompt"]"#),
    ("samples", "fields.id", r#"["key"]"#),
    ("samples", "fields.token_ids", r#"["ids"]"#),
    ("samples", "fields.finish_reason", r#"["end"]"#),
    ("samples", "template", r#"["templates/boxed.j2", "templates/guided.j2"]"#),
    ("judge", "rollouts", r#"["rollouts", "guided"]"#),
    ("judge", "problems", r#"["problems", "benchmarks"]"#),
    ("judge", "judge.policy", r#"["other"]"#),
    ("judge", "judge.template", r#"["templates/judge-yes-no.j2", "templates/judge.j2"]"#),
    ("judge", "judge.verdict", r#"["text", "yes_no"]"#),
    ("judge", "options", r#"[{ "scale": "ignore" }, { "named_sums": false }]"#),
    ("difficulty", "problems", r#"["problems", "benchmarks"]"#),
    ("difficulty", "verdicts", r#"[["exact_verdicts"], "exact_verdicts"]"#),
    ("difficulty", "keep", "[[0.0, 1.0], 0.1]"),
    ("rewrite", "problems", r#"["problems", "benchmarks"]"#),
    ("rewrite", "policy", r#"["other"]"#),
    ("rewrite", "self_aligned", r#"[["verdicts"], "exact_verdicts"]"#),
    ("rewrite", "guided", r#"[["guided_verdicts"], "verdicts"]"#),
    ("rewrite", "teacher", r#"[["exact_verdicts"], "verdicts"]"#),
    ("rewrite", "order", r#"[["guided", "self", "teacher", "expert"], "guided"]"#),
    ("rewrite", "score", r#"[{ "from": ["logprobs-expert"], "column": "prompt_token_count" }]"#),
    ("rewrite", "score.from", r#"[["logprobs-rewrites"], "logprobs-rewrites"]"#),
    ("rewrite", "score.column", r#"["entropy"]"#),
    ("rewrite", "max_tokens", "[64]"),
    ("rewrite", "min_logprob", "[-1.5]"),
    ("rewrite", "template", r#"["templates/boxed.j2", "templates/guided.j2"]"#),
    ("rewrite", "logprobs", r#"[["logprobs-expert"], "logprobs-rewrites"]"#),
    ("rewrite", "part_problems", "[24]"),
    ("logprob", "rewrites", r#"["rewrites", "expert"]"#),
    ("logprob", "rollouts", r#"["rollouts", "eval_rollouts-sft"]"#),
    ("logprob", "policy", r#"["other"]"#),
    ("soft", "rollouts", r#"["rollouts", "guided"]"#),
    ("soft", "rewrites", r#"["rewrites", "expert"]"#),
    ("soft", "policy", r#"["other"]"#),
    ("soft", "template", r#"["templates/boxed.j2", "templates/guided.j2"]"#),
    ("soft", "problems", r#"["problems", "benchmarks"]"#),
    ("reward", "verdicts", r#"["verdicts", "guided_verdicts"]"#),
    ("reward", "formula", r#"["correct", "eligible"]"#),
    ("reward", "logprobs", r#"["soft_samples", "logprobs-expert"]"#),
    ("reward", "diversity", r#"["base", "other"]"#),
    ("reward", "columns.score.from", r#"["logprobs-expert", "logprobs-rewrites"]"#),
    ("reward", "columns.score.column", r#"["entropy"]"#),
    ("gap", "problems", r#"["benchmarks"]"#),
    ("gap", "before", r#"["logprobs-rewrites"]"#),
    ("gap", "after", r#"["logprobs-expert"]"#),
    ("gap", "verdicts", r#"["verdicts_lenient"]"#),
    ("train", "data", r#"["rewrites", "expert"]"#),
    ("train", "policy", r#"["other"]"#),
    ("train", "init_seed", "[7]"),
    ("train", "logprobs", r#"["logprobs-expert", "logprobs-rewrites"]"#),
    ("train", "sources", r#"[["self", "expert"], "guided"]"#),
    ("train", "row_weights", r#"[{ "file": "smoke.toml", "column": "weight" }]"#),
    ("train", "row_weights.file", r#"["demo.toml"]"#),
    ("train", "row_weights.from", r#"["logprobs-rewrites"]"#),
    ("train", "soft", r#"["soft_targets", "soft_samples"]"#),
    ("train", "rewards", r#"[{ "from": "logprobs-expert", "column": "prompt_token_count" }]"#),
    ("train", "rewards.from", r#"["logprobs-rewrites"]"#),
    ("train", "rewards.column", r#"["entropy"]"#),
    ("train", "data.soft", r#"["soft_targets", "soft_samples"]"#),
    ("train", "data.rewards", r#"[{ "from": "logprobs-expert", "column": "prompt_token_count" }]"#),
    ("train", "data.rewards.from", r#"["logprobs-rewrites"]"#),
    ("train", "data.rewards.column", r#"["entropy"]"#),
    ("train", "data.from", r#"["expert"]"#),
    ("train", "data.share", "[0.25]"),
    ("train", "data.rows", "[7]"),
    ("train", "data.sources", r#"[["guided"], "guided"]"#),
    ("train", "data.logprobs", r#"["logprobs-expert"]"#),
    ("train", "data.highest.from", r#"["logprobs-expert"]"#),
    ("train", "data.highest.column", r#"["entropy"]"#),
    ("train", "data.per_source", r#"["benchmarks"]"#),
    ("train", "data.row_weights.file", r#"["smoke.toml"]"#),
    ("train", "data.row_weights.from", r#"["logprobs-expert"]"#),
    ("train", "data.row_weights.column", r#"["entropy"]"#),
    ("train", "eval_data", r#"["rewrites", "expert"]"#),
    ("train", "loss", r#"["sft", "dft"]"#),
    ("train", "epochs", "[3]"),
    ("train", "steps", "[3]"),
    ("train", "stop_step", "[1]"),
    ("train", "trainer", r#"["trl"]"#),
    ("train", "lora", r#"[{ "rank": 4, "alpha": 8.0, "targets": ["q_proj", "v_proj"] }]"#),
    ("evaluate", "problems", r#"["problems"]"#),
    ("evaluate", "verdicts", r#"["verdicts"]"#),
    ("evaluate", "base", r#"["base", "sft"]"#),
    ("evaluate", "untouched", r#"[["facts"], "main"]"#),
    ("evaluate", "logprobs", r#"[["under_base"], "under_base"]"#),
    ("evaluate", "sequences.all.policy", r#"["dr+dft"]"#),
    ("evaluate", "sequences.all.learned", r#"[["algebra"], "algebra"]"#),
];

/// Kind, parameter and every word it may be: a word is part of recipes, so none may be renamed.
const WORDS: &[(&str, &str, &str)] = &[
    ("ingest", "clean", "calculator_marks asymptote pleasantries signatures notes repeated_answer boxed_answer"),
    (
        "judge",
        "refuse",
        "cut_off special_token several_answers no_box meta_phrase prompt_echo copied answer_only wrong_working unlikely \
         only_thoughts too_long low_logprob duplicate",
    ),
    ("judge", "judge", "math exact numeric choice json tool_call program schema command model"),
    ("rewrite", "choice", "first random likeliest shortest score"),
    ("rewrite", "order", "self guided teacher expert"),
    ("rewrite", "thoughts", "keep drop"),
    ("rollout", "prompt_kind", "plain guided imported"),
    ("samples", "reasoning", "left_out in_tags"),
    ("train", "dtype", "f32 bf16 pure_bf16"),
    ("train", "keep_checkpoints", "all last"),
    ("train", "loss", "sft dft importance iw-sft psft idft eaft chord-phi talr asft power gift distill grpo chord"),
    ("train", "normalise", "tokens longest_of_problem rows max_length"),
    ("train", "publish", "last best"),
    ("train", "schedule", "cosine constant wsd"),
    ("train", "sources", "self guided teacher expert"),
    ("train", "too_long", "error truncate_right"),
    ("train", "trainer", "mindgap trl verl command"),
];

/// Kind, stage, and the start of its recipe's fingerprint. A change means that every user computes the stage anew: say so
/// under "Recomputes" in CHANGELOG.md. The stages are those whose recipes name no sampled or trained content, which is the
/// same on one instruction set only.
const PINNED: &[(&str, &str, &str)] = &[
    ("ingest", "problems", "35e179b5f6fc"),
    ("documents", "documents", "0672b0300d83"),
    ("rollout", "rollouts", "c0db947ab35e"),
    ("samples", "drafts", "a66e1a5843ed"),
    ("judge", "verdicts", "6e4724e4e3cd"),
    ("difficulty", "middling", "c3272004f71f"),
    ("rewrite", "rewrites", "056026e4623c"),
    ("logprob", "logprobs-rewrites", "cdcd2c3484eb"),
    ("soft", "soft_samples", "74ec9ab1d9ba"),
    ("reward", "rewards", "e3948bca5460"),
    ("gap", "gap", "f8083333bde7"),
    ("train", "pretrain", "0204603ab109"),
    ("evaluate", "evals", "17e7456ec6b1"),
];

/// The smoke pipeline with all its stages finished, and a second policy, `other`, for stages to name.
struct Smoke<'a> {
    session: Session<'a>,
}

fn with_smoke(test: impl FnOnce(&Smoke)) {
    let mut pipeline = Pipeline::load(&root().join("pipelines/smoke.toml"), &[]).unwrap();
    let model = root().join("tests/fixtures/model/qwen2");
    pipeline.policies.insert("other".to_string(), PolicySource::Path(model.display().to_string()).into());
    // A session knows the policies that stages name.
    let mut naming = pipeline.stage("logprobs-expert").unwrap().clone();
    naming.name = "naming".to_string();
    naming.params = read("logprob", &serde_json::json!({"rewrites": "expert", "policy": "other"})).unwrap();
    pipeline.stages.push(naming);
    let store = Store::open(&smoke().0).unwrap();
    let watch = Watch { cancel: &AtomicBool::new(false), on_transfer: &|_| () };
    let mut session = Session::new(&pipeline, &store, &[], &watch).unwrap();
    for spec in pipeline.stages.iter().filter(|spec| spec.name != "naming") {
        let manifest = manifest(spec, &session.bind(spec).unwrap()).expect("the smoke pipeline has run");
        session.finish(spec, manifest);
    }
    test(&Smoke { session });
}

impl Smoke<'_> {
    fn stages(&self) -> impl Iterator<Item = &StageSpec> {
        self.session.pipeline.stages.iter().filter(|spec| spec.name != "naming")
    }

    fn try_bind(&self, spec: &StageSpec, params: &Value) -> Option<Bound> {
        let params = read(spec.params.kind(), params).ok()?;
        self.session.bind(&StageSpec { params, ..spec.clone() }).ok()
    }

    fn bind(&self, spec: &StageSpec, params: &Value) -> Bound {
        let params =
            read(spec.params.kind(), params).unwrap_or_else(|e| panic!("stage `{}`: {e}\n{params}", spec.name));
        let bound = self.session.bind(&StageSpec { params, ..spec.clone() });
        bound.unwrap_or_else(|e| panic!("stage `{}`: {e}", spec.name))
    }
}

/// Parameters from their serialised form.
fn read(kind: &str, params: &Value) -> Result<Params, String> {
    let table = toml::Table::try_from(without_null(params)).expect("parameters are a table");
    Params::parse(kind, table).map_err(|misfit| misfit.message)
}

/// TOML has no null: a field without a value is left out.
fn without_null(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let set = fields.iter().filter(|(_, value)| !value.is_null());
            set.map(|(name, value)| (name.clone(), without_null(value))).collect()
        }
        Value::Array(items) => items.iter().map(without_null).collect(),
        other => other.clone(),
    }
}

/// A value at a path through fields and list items. The path as people say it has no list items.
#[derive(Clone, Default)]
struct Place {
    pointer: String,
    field: String,
}

impl Place {
    fn field(&self, name: &str) -> Place {
        let dot = if self.field.is_empty() { "" } else { "." };
        Place { pointer: format!("{}/{name}", self.pointer), field: format!("{}{dot}{name}", self.field) }
    }

    fn first_item(&self) -> Place {
        Place { pointer: format!("{}/0", self.pointer), field: self.field.clone() }
    }

    fn set(&self, params: &Value, value: Value) -> Value {
        let mut changed = params.clone();
        *changed.pointer_mut(&self.pointer).expect("the place was found in the value") = value;
        changed
    }
}

/// Every place of the parameters that holds a value, and lists whole as well as their first item.
fn places(value: &Value, at: &Place, found: &mut Vec<Place>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| places(value, &at.field(name), found)),
        Value::Array(items) => {
            found.push(at.clone());
            items.first().into_iter().for_each(|item| places(item, &at.first_item(), found));
        }
        _ => found.push(at.clone()),
    }
}

/// Another value of [`VALUES`] for a place.
fn listed(kind: &str, field: &str, value: &Value) -> Option<Value> {
    let (.., others) = VALUES.iter().find(|(of, name, _)| (*of, *name) == (kind, field))?;
    let others: Vec<Value> = serde_json::from_str(others).unwrap();
    let same_type = |other: &Value| std::mem::discriminant(other) == std::mem::discriminant(value);
    others.into_iter().find(|other| other != value && (value.is_null() || same_type(other)))
}

/// The words that may stand at a place, told by the error about one that may not.
fn words(kind: &str, params: &Value, at: &Place) -> Option<Vec<String>> {
    let wrong = at.set(params, Value::from("no such word"));
    let error = match read(kind, &wrong) {
        // What a loss is called is not known to the type of the parameters.
        Ok(_) if (kind, at.field.as_str()) == ("train", "loss") => {
            Loss::from_value(&Value::from("no such word")).unwrap_err().what().to_string()
        }
        Ok(_) => return None,
        Err(message) => message,
    };
    assert!(error.contains("no such word"), "{error}");
    Some(error.split('`').skip(3).step_by(2).map(str::to_string).collect())
}

/// The parameters with another value at a place.
fn change(kind: &str, params: &Value, at: &Place) -> Value {
    let value = params.pointer(&at.pointer).expect("the place was found in the value");
    let other = listed(kind, &at.field, value).unwrap_or_else(|| match value {
        Value::Bool(value) => Value::from(!value),
        Value::Number(number) if number.is_f64() => Value::from(number.as_f64().unwrap() / 2.0 + 0.125),
        Value::Number(number) => Value::from(number.as_u64().expect("whole parameters are not negative") + 1),
        Value::Array(items) if !items.is_empty() => Value::from(items[1..].to_vec()),
        Value::String(text) => match words(kind, params, at) {
            Some(words) => Value::from(words.into_iter().find(|word| word != text).expect("two words at least")),
            None => Value::from(format!("{text}-2")),
        },
        _ => panic!("`{}` of a `{kind}` stage is {value}: give it a value in VALUES", at.field),
    });
    at.set(params, other)
}

/// The parameters with a value wherever one may be and none is.
fn filled(kind: &str, params: &Value) -> Value {
    let mut all = Vec::new();
    places(params, &Place::default(), &mut all);
    let is_empty = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
    let empty = all.iter().filter(|at| params.pointer(&at.pointer).is_some_and(is_empty));
    empty.fold(params.clone(), |params, at| change(kind, &params, at))
}

/// The parameters as written, with every optional one given, and with what only some have.
fn variants(kind: &str, written: Value) -> Vec<Value> {
    let with = |fields: &[(&str, &str)]| {
        let mut params = written.clone();
        for (field, json) in fields {
            params[field] = serde_json::from_str(json).unwrap();
        }
        params
    };
    let none =
        [("sources", "[]"), ("row_weights", "null"), ("logprobs", "null"), ("soft", "null"), ("rewards", "null")];
    let portion = |size: &str, weights: &str| {
        format!(
            r#"[{{ "from": "rewrites", {size}, "highest": {{ "from": "logprobs-rewrites", "column": "prompt_token_count" }}, "weight": 0.5,
                "per_source": "problems", "sources": ["self"], "row_weights": {{ {weights}, "column": "prompt_token_count" }}, "logprobs": "logprobs-rewrites" }},
                {{ "from": "expert", "weight": 1.0 }}]"#
        )
    };
    let mut variants = vec![filled(kind, &written), written.clone()];
    match kind {
        "rewrite" => variants.push(with(&[("keep", "2")])),
        "judge" => {
            let model = |more: &str| {
                format!(
                    r#"{{ "kind": "model", "policy": "base", "template": "templates/judge.j2", "verdict": {more} }}"#
                )
            };
            let drawn = model(r#""text", "temperature": 0.5, "max_new_tokens": 8, "seed": 1"#);
            variants.extend([&drawn, &model("\"yes_no\"")].map(|judge| with(&[("judge", judge.as_str())])));
        }
        "reward" => variants.push(with(&[(
            "columns",
            r#"{ "score": { "from": "logprobs-rewrites", "column": "prompt_token_count" } }"#,
        )])),
        "evaluate" => variants.push(with(&[
            ("base", "\"base\""),
            ("untouched", "[\"facts\"]"),
            ("sequences", r#"{ "all": [{ "policy": "sft", "learned": ["main"] }] }"#),
        ])),
        "train" if written["data"] == "rewrites" => {
            let share = portion("\"share\": 0.5", "\"from\": \"logprobs-rewrites\"");
            let rows = portion("\"rows\": 5", "\"file\": \"demo.toml\"");
            variants.extend([&share, &rows].map(|data| with(&[&none[..], &[("data", data.as_str())]].concat())));
        }
        _ => {}
    }
    variants
}

fn serialised(spec: &StageSpec) -> Value {
    serde_json::to_value(&spec.params).unwrap()
}

/// Goal: a parameter that is added and forgotten in a recipe fails here. Every value of every stage is changed on its own,
/// in the stage as written and in one with every optional parameter given.
#[test]
fn every_parameter_is_part_of_the_fingerprint() {
    let (mut counts, mut does_not) = (BTreeSet::new(), BTreeSet::new());
    with_smoke(|smoke| {
        for spec in smoke.stages() {
            let kind = spec.params.kind();
            let written = serialised(spec);
            for params in variants(kind, written) {
                let before = smoke.bind(spec, &params).fingerprint();
                let mut all = Vec::new();
                places(&params, &Place::default(), &mut all);
                for at in all {
                    let Some(after) = smoke.try_bind(spec, &change(kind, &params, &at)) else {
                        assert!(CONTRADICTS.contains(&(kind, &at.field)), "{kind}: {}", at.field);
                        continue;
                    };
                    let set = if after.fingerprint() == before { &mut does_not } else { &mut counts };
                    set.insert((kind, at.field));
                }
            }
        }
    });
    let list = |of: &[(&'static str, &str, &str)]| -> BTreeSet<(&str, String)> {
        of.iter().map(|(kind, field, _)| (*kind, field.to_string())).collect()
    };
    assert_eq!(&does_not - &counts, list(IRRELEVANT), "parameters that are in no recipe");
    assert_eq!(&does_not & &counts, list(SOMETIMES), "parameters that are in some recipes");
    assert_eq!(counts.iter().map(|(kind, _)| *kind).collect::<BTreeSet<_>>(), KINDS.iter().copied().collect());
}

/// Goal: a renamed variant fails here, whether a stage of the smoke pipeline uses it or not.
#[test]
fn words_of_parameters_are_pinned() {
    let mut found: BTreeMap<(&str, String), String> = BTreeMap::new();
    with_smoke(|smoke| {
        for spec in smoke.stages() {
            let kind = spec.params.kind();
            let params = filled(kind, &serialised(spec));
            let mut all = Vec::new();
            places(&params, &Place::default(), &mut all);
            for at in all.iter().filter(|at| params.pointer(&at.pointer).is_some_and(Value::is_string)) {
                if let Some(words) = words(kind, &params, at) {
                    found.insert((kind, at.field.clone()), words.join(" "));
                }
            }
        }
    });
    let pinned = WORDS.iter().map(|(kind, field, words)| ((*kind, field.to_string()), words.to_string()));
    assert_eq!(found, pinned.collect());
}

/// Goal: a recipe that changes without anybody meaning it fails here.
#[test]
fn one_recipe_of_every_kind_is_pinned() {
    with_smoke(|smoke| {
        let recipe = |(kind, name, _): &(&'static str, &'static str, &'static str)| {
            let spec = smoke.session.pipeline.stage(name).unwrap();
            assert_eq!(spec.params.kind(), *kind);
            let short = smoke.session.bind(spec).unwrap().family.short().to_string();
            (*kind, *name, short)
        };
        let found: Vec<_> = PINNED.iter().map(recipe).collect();
        let pinned: Vec<_> = PINNED.iter().map(|(kind, name, short)| (*kind, *name, short.to_string())).collect();
        assert_eq!(found, pinned);
        assert_eq!(PINNED.iter().map(|(kind, ..)| *kind).collect::<Vec<_>>(), KINDS);
    });
}
