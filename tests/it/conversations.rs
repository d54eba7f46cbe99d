//! Templates that are whole conversations: what the policy is shown, what is judged, and what other trainers get.

use crate::support::{SMALL, fails, json, ok, pipeline, root};
use mindgap_store::parquet::decode_batches;
use serde_json::Value;
use std::path::Path;

const SHOWN: &str = r#"
system = "You answer in one line."
prefill = "Level {{ question | length }}:"
template_kwargs = { enable_thinking = false }
[[messages]]
role = "user"
content = "1 + 1?"
[[messages]]
role = "assistant"
content = "2"
[[messages]]
role = "user"
content = "{{ question }}"
"#;

/// The small pipeline with a conversation for its rollouts and its targets, up to the log-probs.
fn whole(folder: &Path, shown: &str) -> String {
    std::fs::write(folder.join("shown.toml"), shown).unwrap();
    let text = SMALL.split("[stages.train]").next().unwrap();
    let named = ["kind = \"rollout\"", "kind = \"rewrite\""]
        .iter()
        .fold(text.to_string(), |text, kind| text.replace(kind, &format!("{kind}\ntemplate = \"shown.toml\"")));
    pipeline(folder, "small.toml", &named).display().to_string()
}

/// The rows of a stage's table.
fn rows(store: &Path, stage: &str) -> Vec<Value> {
    let folder = store.join("tables/small").join(stage);
    let mut parts: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    parts.retain(|path| path.extension().is_some_and(|extension| extension == "parquet"));
    parts.sort();
    let batches = parts.iter().flat_map(|part| decode_batches(std::fs::read(part).unwrap()).unwrap());
    batches.flat_map(|batch| serde_arrow::from_record_batch::<Vec<Value>>(&batch).unwrap()).collect()
}

/// Goal: the conversation goes from the file through samples, verdicts, targets and scores into exports; the prefill is judged with
/// the completion, and its tokens are the prompt's.
#[test]
fn a_conversation_goes_all_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let file = whole(folder.path(), SHOWN);
    ok(&store, &["run", &file]);

    let samples = rows(&store, "rollouts");
    assert!(samples.iter().all(|row| row["prefill"].as_str().is_some_and(|prefill| prefill.starts_with("Level "))));
    let targets = rows(&store, "rewrites");
    assert_eq!(targets.len(), 24);
    for row in &targets {
        let shown = json(row["conversation"].as_str().unwrap());
        let roles: Vec<&str> =
            shown["messages"].as_array().unwrap().iter().map(|m| m["role"].as_str().unwrap()).collect();
        assert_eq!(roles, ["system", "user", "assistant", "user"]);
        assert_eq!(shown["messages"][3]["content"], row["prompt"]);
        assert_eq!(shown["template_kwargs"], json(r#"{"enable_thinking": false}"#));
        assert!(!row["completion"].as_str().unwrap().starts_with("Level "));
    }

    let to = folder.path().join("trl");
    let args = ["export", &file, "rewrites", "--format", "trl", "--to", to.to_str().unwrap(), "--json"];
    let written = json(&ok(&store, &args));
    assert_eq!((&written["rows"], &written["lengthened_rows"]), (&Value::from(24), &Value::from(0)));
    let text = std::fs::read_to_string(to.join("train.jsonl")).unwrap();
    for (line, row) in text.lines().map(json).zip(&targets) {
        assert_eq!(line["prompt"].as_array().unwrap().len(), 4);
        let answer = line["completion"][0]["content"].as_str().unwrap();
        assert!(answer.starts_with("Level ") && answer.ends_with(row["completion"].as_str().unwrap()));
    }
    ok(&store, &["check"]);
}

/// Goal: a prefill that holds the answer's beginning is judged as part of the answer.
#[test]
fn the_prefill_is_judged() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let file = whole(folder.path(), "prefill = \"It is \\\\boxed{{ '{' }}{{ answer }}}.\\n\"");
    let text = std::fs::read_to_string(&file).unwrap().replace("max_new_tokens = 60", "max_new_tokens = 1");
    std::fs::write(&file, text).unwrap();
    ok(&store, &["run", &file, "verdicts"]);
    let correct = rows(&store, "verdicts").iter().filter(|row| row["verdict"] == "correct").count();
    assert_eq!(correct, 48, "one token more takes nothing back");
}

/// Goal: experts' thoughts stay in targets, or are dropped: by a parameter that is part of the recipe. One who only thinks gives no
/// target, and the table says why.
#[test]
fn targets_keep_or_drop_thoughts() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let solutions =
        ["<think>\nTwo and two.\n</think>\n\nIt is \\boxed{4}.", "It is \\boxed{6}.", "<think>It is \\boxed{8}"];
    let row = |(index, solution): (usize, &&str)| {
        serde_json::json!({"question": format!("{index}?"), "solution": solution, "answer": "4"}).to_string() + "\n"
    };
    let rows_file: String = solutions.iter().enumerate().map(row).collect();
    std::fs::write(folder.path().join("rows.jsonl"), rows_file).unwrap();
    let head = SMALL.split("limit = 24").next().unwrap().replace("DATA/world/train-0.parquet", "rows.jsonl");
    let targets = |thoughts: &str| {
        let text = format!(
            "{head}\n[stages.expert]\nkind = \"rewrite\"\nproblems = \"problems\"\npolicy = \"base\"\n{thoughts}\n"
        );
        let file = pipeline(folder.path(), "small.toml", &text).display().to_string();
        ok(&store, &["run", &file]);
        let mut found: Vec<String> = ok(&store, &["show", &file, "expert", "--json"])
            .lines()
            .map(|line| json(line)["completion"].as_str().unwrap().to_string())
            .collect();
        found.sort();
        (found, ok(&store, &["show", &file, "expert", "--table", "untargeted", "--json"]))
    };
    let mut kept: Vec<String> = solutions.map(str::to_string).into();
    kept.sort();
    assert_eq!(targets(""), (kept, String::new()));
    let (dropped, untargeted) = targets("thoughts = \"drop\"");
    assert_eq!(dropped, ["It is \\boxed{4}.", "It is \\boxed{6}."]);
    assert_eq!(
        json(&untargeted)["reason"],
        "no sample to choose, and the expert's solution is thoughts alone",
        "{untargeted}"
    );
}

/// Goal: the file that shows how it is done is right.
#[test]
fn the_example_can_be_planned() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let text = std::fs::read_to_string(root().join("pipelines/templates/conversation.toml")).unwrap();
    let file = whole(folder.path(), &text);
    ok(&store, &["run", &file, "problems"]);
    ok(&store, &["plan", &file]);
}

/// Goal: mistakes in the file are told by `plan`, with the file's name and place; those that only rows show, by `run`.
#[test]
fn mistakes_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let file = whole(folder.path(), SHOWN);
    ok(&store, &["run", &file, "problems"]);
    for (wrong, exit, words) in [
        ("sytem = \"x\"", 2, "sytem"),
        ("system = \"{{ qestion }}\"", 2, "unknown variable `qestion`"),
        ("prefill = \"So \"", 2, "ends in a space"),
        ("[[messages]]\nrole = \"assistant\"\ncontent = \"x\"", 2, "must be `user`"),
    ] {
        whole(folder.path(), wrong);
        let said = fails(&store, &["plan", &file], exit);
        assert!(said.contains(words) && said.contains("shown.toml"), "{said}");
    }
    // The samples begin with no prefill, the training prompt with one.
    whole(folder.path(), "prefill = \"So\"");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replacen("template = \"shown.toml\"\n", "", 1)).unwrap();
    let said = fails(&store, &["run", &file], 2);
    assert!(said.contains("begins with the prefill ``, the training prompt with `So`"), "{said}");
}

/// Goal: `generate` and `score` take whole conversations, and say what a row lacks.
#[test]
fn generate_and_score_take_messages() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let lines = |args: &[&str]| -> Vec<Value> { ok(&store, args).lines().map(json).collect() };
    let policy = ["--policy", "data/base-policy"];
    let plain = write("plain.jsonl", "{\"prompt\":\"1 + 1?\",\"completion\":\"2\"}\n");
    let turns = r#"[{"role":"user","content":"1 + 1?"}]"#;
    let same = write("same.jsonl", &format!("{{\"messages\":{turns},\"completion\":\"2\"}}\n"));
    let score = |file: &str, more: &[&str]| lines(&[&["score", file], &policy[..], more].concat());
    assert_eq!(score(&plain, &[])[0]["logprob_policy"], score(&same, &[])[0]["logprob_policy"]);
    let brief = score(&plain, &["--system", "Be brief."]);
    assert!(brief[0]["prompt_token_count"].as_u64() > score(&plain, &[])[0]["prompt_token_count"].as_u64());
    let begun = turns.replace("]", r#",{"role":"assistant","content":"It is"}]"#);
    let begun = write("begun.jsonl", &format!("{{\"messages\":{begun},\"completion\":\" 2\"}}\n"));
    assert!(score(&begun, &[])[0]["prompt_token_count"].as_u64() > score(&same, &[])[0]["prompt_token_count"].as_u64());
    let drawn = lines(&[&["generate", &begun], &policy[..], &["--max-new-tokens", "4", "-n", "2"]].concat());
    assert_eq!(drawn.len(), 2);
    let both = write("both.jsonl", &format!("{{\"prompt\":\"x\",\"messages\":{turns}}}\n"));
    let said = fails(&store, &[&["generate", &both], &policy[..]].concat(), 3);
    assert!(said.contains("either `prompt` or `messages`"), "{said}");
}
