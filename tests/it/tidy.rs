//! What neither the compiler nor clippy checks: the order of the modules and crates, and the size of files.

use super::support::root;
use std::path::{Path, PathBuf};
use syn::visit::{self, Visit};

/// Crates from the bottom up. A crate may depend on the crates named with it.
const CRATES: &[(&str, &[&str])] = &[("base", &[]), ("math", &[]), ("store", &["base"]), ("lm", &["base", "math"])];

const MAX_LINES: usize = 600;

struct File {
    path: PathBuf,
    code: String,
}

/// All files of a folder and those below it that end in `.rs`.
fn sources(folder: &Path) -> Vec<File> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                files.push(File { code: std::fs::read_to_string(&path).unwrap(), path });
            }
        }
    }
    files
}

/// Modules of the root package from people down, as `src/lib.rs` lists them.
fn order() -> Vec<String> {
    let lib = std::fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let modules = syn::parse_file(&lib).unwrap().items.into_iter();
    let names = modules.filter_map(|item| if let syn::Item::Mod(module) = item { Some(module.ident) } else { None });
    names.map(|name| name.to_string()).collect()
}

/// Collects the modules of this crate that code outside of tests names, however it names them.
#[derive(Default)]
struct Uses(Vec<String>);

fn is_test(attributes: &[syn::Attribute]) -> bool {
    let test = |a: &&syn::Attribute| {
        a.path().is_ident("cfg") && a.parse_args::<syn::Ident>().is_ok_and(|condition| condition == "test")
    };
    attributes.iter().any(|a| test(&a))
}

impl Uses {
    /// The names right below `crate` in a tree of imports.
    fn of_tree(&mut self, tree: &syn::UseTree) {
        match tree {
            syn::UseTree::Path(path) => self.0.push(path.ident.to_string()),
            syn::UseTree::Name(name) => self.0.push(name.ident.to_string()),
            syn::UseTree::Rename(rename) => self.0.push(rename.ident.to_string()),
            syn::UseTree::Group(group) => group.items.iter().for_each(|item| self.of_tree(item)),
            syn::UseTree::Glob(_) => self.0.push("*".into()),
        }
    }
}

impl<'a> Visit<'a> for Uses {
    fn visit_item_mod(&mut self, module: &'a syn::ItemMod) {
        if !is_test(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        match &item.tree {
            syn::UseTree::Path(path) if path.ident == "crate" => self.of_tree(&path.tree),
            _ => {}
        }
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        let mut segments = path.segments.iter();
        if segments.next().is_some_and(|first| first.ident == "crate") {
            self.0.extend(segments.next().map(|second| second.ident.to_string()));
        }
        visit::visit_path(self, path);
    }
}

fn uses(code: &str) -> Vec<String> {
    let mut uses = Uses::default();
    uses.visit_file(&syn::parse_file(code).unwrap());
    uses.0
}

/// Goal: the walk sees what a search for `crate::name` does not.
#[test]
fn uses_are_found_however_they_are_written() {
    let code = "use crate::{cli::{run, Options}, stage as s};\n#[cfg(test)]\nmod tests { use crate::report; }\n\
                fn f() -> crate::server::Api { crate::net::http() }\n";
    assert_eq!(uses(code), ["cli", "stage", "server", "net"]);
}

#[test]
fn modules_use_only_what_lies_below() {
    let order = order();
    assert!(order.len() >= 8, "src/lib.rs lists {order:?}");
    let floor = |module: &str| order.iter().position(|name| name == module);
    let mut wrong = Vec::new();
    let src = root().join("src");
    for file in sources(&src) {
        let inside = file.path.strip_prefix(&src).unwrap();
        let module = inside.iter().next().unwrap().to_string_lossy().trim_end_matches(".rs").to_string();
        let is_tests = file.path.file_name().is_some_and(|name| name == "tests.rs");
        let Some(own) = floor(&module).filter(|_| !is_tests) else { continue };
        for used in uses(&file.code) {
            if used != module && floor(&used).is_none_or(|used| used < own) {
                wrong.push(format!("{} uses `{used}`", file.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn crates_depend_only_on_what_lies_below() {
    for (name, allowed) in CRATES {
        let text = std::fs::read_to_string(root().join("crates").join(name).join("Cargo.toml")).unwrap();
        let manifest: toml::Table = toml::from_str(&text).unwrap();
        let dependencies = manifest["dependencies"].as_table().unwrap();
        let ours = dependencies.keys().filter_map(|key| key.strip_prefix("mindgap-"));
        assert_eq!(ours.collect::<Vec<_>>(), *allowed, "dependencies of crates/{name}");
    }
    let math = std::fs::read_to_string(root().join("crates/math/Cargo.toml")).unwrap();
    let math: toml::Table = toml::from_str(&math).unwrap();
    assert!(math["dependencies"].as_table().unwrap().keys().all(|key| key.starts_with("num-")), "{math:?}");
}

#[test]
fn files_fit_a_room() {
    let folders = ["src", "crates", "tests/it", "benches", "examples"];
    let files: Vec<File> = folders.iter().flat_map(|folder| sources(&root().join(folder))).collect();
    assert!(files.len() > 200, "the walk found only {} files", files.len());
    let long = files.into_iter().filter(|file| file.code.lines().count() > MAX_LINES);
    let long: Vec<String> = long.map(|file| file.path.display().to_string()).collect();
    assert!(long.is_empty(), "past {MAX_LINES} lines: {}", long.join(", "));
}
