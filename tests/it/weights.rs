//! What a policy's weights are held in: refused where it makes no sense, part of the recipe where rows may differ, and the same rows
//! whatever the threads.

use crate::support::{SMALL, fails, mindgap, ok, pipeline};

/// The small pipeline with the policy written so.
fn with_policy(written: &str) -> String {
    let policy = "base = { path = \"DATA/base-policy\" }";
    assert!(SMALL.contains(policy));
    SMALL.replace(policy, written)
}

#[test]
fn slips_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |written: &str, says: &[&str]| {
        let file = pipeline(folder.path(), "p.toml", &with_policy(written));
        let error = fails(&folder.path().join("store"), &["plan", file.to_str().unwrap()], 2);
        says.iter().for_each(|word| assert!(error.contains(word), "`{word}` is not in:\n{error}"));
    };
    refused("base = { path = \"DATA/base-policy\", weights = \"int4\" }", &["`weights` is `int4`", "\"int8\""]);
    refused("base = { path = \"DATA/base-policy\", wieghts = \"int8\" }", &["did you mean `weights`?"]);
    // The small pipeline trains it.
    refused(
        "base = { path = \"DATA/base-policy\", weights = \"int8\" }",
        &["`base` has weights = \"int8\"", "without it"],
    );
    let rounded = "base = { path = \"DATA/base-policy\", keys_values = \"bf16\" }";
    refused(rounded, &["`base` has keys_values = \"bf16\"", "without it"]);
    let unknown = "base = { path = \"DATA/base-policy\", keys_values = \"int8\" }";
    refused(unknown, &["`keys_values` is `int8`", "\"bf16\""]);
}

#[test]
fn an_unknown_instruction_set_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = pipeline(folder.path(), "p.toml", SMALL);
    let mut command = mindgap(folder.path(), &["plan", file.to_str().unwrap()]);
    let output = command.env("MINDGAP_ISA", "avx9").output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("MINDGAP_ISA is `avx9`") && error.contains("`portable`"), "{error}");
}

/// Samples of a policy in 8 bits are other samples, drawn by another recipe; on more threads they are the same ones.
#[test]
fn another_policy_samples_by_another_recipe() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let rollouts = |written: &str, threads: &str| {
        let text = with_policy(written);
        let text = &text[..text.find("[stages.verdicts]").expect("the small pipeline judges")];
        let file = pipeline(folder.path(), "p.toml", text);
        let file = file.to_str().unwrap();
        ok(&store, &["--threads", threads, "run", file, "rollouts"]);
        ok(&store, &["show", file, "rollouts", "--json", "--limit", "1000"])
    };
    let full = rollouts("base = { path = \"DATA/base-policy\" }", "1");
    let explicit = rollouts("base = { path = \"DATA/base-policy\", weights = \"f32\" }", "3");
    assert_eq!(full, explicit, "f32 is what this policy is held in anyway");
    let narrow = rollouts("base = { path = \"DATA/base-policy\", weights = \"int8\" }", "1");
    assert_ne!(full, narrow, "another recipe: the store's rows are not taken for these");
    let again = folder.path().join("again");
    let file = folder.path().join("p.toml");
    let file = file.to_str().unwrap();
    ok(&again, &["--threads", "3", "run", file, "rollouts"]);
    assert_eq!(ok(&again, &["show", file, "rollouts", "--json", "--limit", "1000"]), narrow);
}
