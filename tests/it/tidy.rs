//! Rules of the house that a compiler does not check: layers, printing, access to files and the network, file size.

use std::path::{Path, PathBuf};

/// Groups of modules from the top down. A module may use its own group's members only where listed in `SAME_LAYER`.
const LAYERS: &[&[&str]] = &[
    &["cli"],
    &["pipeline"],
    &["stage"],
    &["report", "server"],
    &["engine", "export", "math", "stats", "train"],
    &["model"],
    &["store"],
    &["table"],
    &["base"],
];

/// Modules that must not use everything below them: they compute and touch no file.
const NO_STORE: &[&str] = &["report", "engine", "export", "math", "stats", "train", "model"];

const MAX_LINES: usize = 600;

struct File {
    path: PathBuf,
    module: String,
    code: String,
}

fn sources() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let inside = path.strip_prefix(&root).unwrap();
                let module = inside.iter().next().unwrap().to_string_lossy().trim_end_matches(".rs").to_string();
                files.push(File { code: std::fs::read_to_string(&path).unwrap(), path, module });
            }
        }
    }
    assert!(files.len() > 40, "the walk found only {} files", files.len());
    files
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|group| group.contains(&module))
}

/// Modules of this crate that a file names.
fn uses(code: &str) -> Vec<String> {
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let names = lines.flat_map(|line| {
        line.split("crate::")
            .skip(1)
            .map(|rest| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>())
    });
    names.filter(|name| layer(name).is_some()).collect()
}

fn without_tests(code: &str) -> &str {
    code.split("#[cfg(test)]").next().unwrap_or(code)
}

fn is_test(file: &File) -> bool {
    let name = file.path.file_name().unwrap().to_string_lossy();
    name == "tests.rs" || name == "testing.rs" || file.path.components().any(|c| c.as_os_str() == "tests")
}

#[test]
fn modules_use_only_what_lies_below() {
    let mut wrong = Vec::new();
    for file in sources().iter().filter(|file| layer(&file.module).is_some() && !is_test(file)) {
        let own = layer(&file.module).unwrap();
        for used in uses(without_tests(&file.code)) {
            let upward = used != file.module && layer(&used).unwrap() <= own;
            let store = NO_STORE.contains(&file.module.as_str()) && used == "store";
            if upward || store {
                wrong.push(format!("{} uses `{used}`", file.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn math_could_be_a_crate_of_its_own() {
    for file in sources().iter().filter(|file| file.module == "math" && !is_test(file)) {
        for used in uses(&file.code) {
            assert_eq!(used, "math", "{} uses `{used}`", file.path.display());
        }
        for word in ["candle", "polars", "arrow"] {
            assert!(
                !file.code.contains(&format!("{word}_core::")) && !file.code.contains(&format!("use {word}")),
                "{}",
                file.path.display()
            );
        }
    }
}

#[test]
fn printing_files_and_network_stay_in_their_rooms() {
    let mut wrong = Vec::new();
    for file in sources().iter().filter(|file| !is_test(file)) {
        let code = without_tests(&file.code);
        let prints = ["println!(", "eprintln!(", "print!(", "eprint!(", "dbg!("].iter().any(|p| code.contains(p));
        if prints && file.module != "cli" {
            wrong.push(format!("{} prints", file.path.display()));
        }
        if ["std::fs", "File::open(", "File::create("].iter().any(|p| code.contains(p)) && file.module != "store" {
            wrong.push(format!("{} touches files", file.path.display()));
        }
        if ["ureq", "TcpStream", "UdpSocket"].iter().any(|p| code.contains(p)) && file.module != "store" {
            wrong.push(format!("{} touches the network", file.path.display()));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn files_fit_a_room() {
    let long = sources().into_iter().filter(|file| without_tests(&file.code).lines().count() > MAX_LINES);
    let long: Vec<String> = long.map(|file| file.path.display().to_string()).collect();
    assert!(long.is_empty(), "past {MAX_LINES} lines: {}", long.join(", "));
}

#[test]
fn nothing_is_left_open() {
    for file in sources() {
        for word in ["todo!(", "unimplemented!(", "FIXME"] {
            assert!(!file.code.contains(word), "{} has `{word}`", file.path.display());
        }
    }
}
