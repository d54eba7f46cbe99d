//! Stores that are damaged: whatever happens to a file of one, `run` ends well with the same addresses, and `check` finds what could
//! matter.

use crate::support::{TINY, by_stage, json, mindgap, ok, pipeline, slow};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// What is done to a file.
const KINDS: [&str; 6] = ["a flipped bit", "cut short", "emptied", "zeros", "garbage", "deleted"];

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (kind, target) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_dir() {
            copy(&entry.path(), &target);
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(entry.path()).unwrap(), target).unwrap();
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
            match entry.file_type().unwrap() {
                kind if kind.is_dir() => open.push(entry.path()),
                kind if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

fn damage(path: &Path, kind: &str, number: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    // A time before it was published, as of bits that rot by themselves.
    let modified = std::fs::metadata(path).unwrap().modified().unwrap();
    match kind {
        "deleted" => return std::fs::remove_file(path).unwrap(),
        "emptied" => bytes.clear(),
        "cut short" => bytes.truncate(bytes.len() * (number % 7) / 7),
        "zeros" => bytes.fill(0),
        "garbage" => bytes.iter_mut().enumerate().for_each(|(i, byte)| *byte = (i * 31 + number) as u8),
        _ if bytes.is_empty() => {}
        _ => {
            let bit = number * 7919 % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
    std::fs::write(path, bytes).unwrap();
    std::fs::File::options().append(true).open(path).unwrap().set_modified(modified).unwrap();
}

fn addresses(store: &Path, file: &str) -> Vec<(String, Value)> {
    by_stage(&json(&ok(store, &["run", file, "--json"])), "address")
}

/// Goal: one file at a time, of all files of a store, is damaged in every way: after a check, which may find it, a run ends with equal
/// addresses, and then the store is sound.
#[test]
fn any_file_may_be_damaged() {
    let count = if slow("300 damages of a store") { 300 } else { 12 };
    let folder = tempfile::tempdir().unwrap();
    let file = pipeline(folder.path(), "p.toml", TINY);
    let file = file.to_str().unwrap();
    let whole = folder.path().join("whole");
    let expected = addresses(&whole, file);
    let (mut found, mut healed) = (0, 0);
    for number in 0..count {
        let store = folder.path().join(format!("store-{number}"));
        copy(&whole, &store);
        let all: Vec<PathBuf> =
            files(&store).into_iter().filter(|path| !path.starts_with(store.join("locks"))).collect();
        let (path, kind) = (&all[number * 31 % all.len()], KINDS[number % KINDS.len()]);
        let before = std::fs::read(path).unwrap();
        damage(path, kind, number);
        let what = format!("{}: {kind}", path.strip_prefix(&store).unwrap().display());
        let is_same = std::fs::read(path).is_ok_and(|bytes| bytes == before);
        let check = mindgap(&store, &["check"]).output().unwrap();
        let is_log = path.starts_with(store.join("runs"));
        match check.status.code() {
            Some(1) => found += 1,
            Some(0) => assert!(is_same || is_log || kind == "deleted", "{what}: nobody sees it"),
            _ => panic!("{what}: check ends with {}", String::from_utf8_lossy(&check.stderr)),
        }
        assert_eq!(addresses(&store, file), expected, "{what}");
        let check = mindgap(&store, &["check"]).output().unwrap();
        assert!(check.status.success(), "{what}: not healed: {}", String::from_utf8_lossy(&check.stdout));
        healed += 1;
        std::fs::remove_dir_all(store).unwrap();
    }
    eprintln!("{count} damages: check found {found}, {healed} healed by one run");
}
