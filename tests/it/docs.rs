//! docs/tables: one page per table, rendered from the row types, so that it cannot say anything else than the code.

use mindgap_store::table::{Column, Declared, declared};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Every page by table name.
fn pages() -> BTreeMap<&'static str, String> {
    declared().iter().map(|table| (table.name, render(table))).collect()
}

fn render(table: &Declared) -> String {
    let Declared { name, version, key, doc, columns } = table;
    let key = key.iter().map(|column| format!("`{column}`")).collect::<Vec<_>>().join(", ");
    let mut page = format!(
        "# {name}\n\n<!-- Made from crates/store/src/table by `make golden`. Do not edit. -->\n\n{}\n\n\
         Schema version {version}. Sorted by its key: {key}.\n\n\
         | column | type | null | meaning |\n|---|---|---|---|\n",
        doc.trim()
    );
    for Column { name, data_type, nullable, optional, doc, .. } in columns {
        let kind = type_name(data_type);
        let null = match (nullable, optional) {
            (_, true) => "yes; left out of parts without any",
            (true, _) => "yes",
            (false, _) => "no",
        };
        let meaning = doc.trim().replace('|', "\\|");
        page.push_str(&format!("| `{name}` | {kind} | {null} | {meaning} |\n"));
    }
    for Column { name, words, .. } in columns.iter().filter(|column| !column.words.is_empty()) {
        page.push_str(&format!("\nWords of `{name}`:\n\n"));
        for word in *words {
            page.push_str(&format!("- `{}`: {}\n", word.text, lower_first(word.doc.trim())));
        }
    }
    page
}

fn lower_first(text: &str) -> String {
    let (first, rest) = text.split_at(text.chars().next().map_or(0, char::len_utf8));
    first.to_lowercase() + rest
}

fn type_name(data_type: &arrow::datatypes::DataType) -> String {
    use arrow::datatypes::DataType;
    match data_type {
        DataType::Utf8 => "text".to_string(),
        DataType::List(item) => format!("list of {}", type_name(item.data_type())),
        other => other.to_string().to_lowercase(),
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tables")
}

#[test]
fn table_pages_match_the_row_types() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    if update {
        std::fs::create_dir_all(folder()).unwrap();
    }
    for (table, wanted) in pages() {
        let path = folder().join(format!("{table}.md"));
        if update {
            std::fs::write(&path, &wanted).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(found, wanted, "docs/tables/{table}.md is stale: run `make golden`");
    }
}

/// A page of a table that no longer exists is stale too, and so is a row type that `declared` forgot.
#[test]
fn every_row_type_has_a_page_and_every_page_a_row_type() {
    let known = pages();
    for entry in std::fs::read_dir(folder()).expect("docs/tables exists: `make golden` makes it") {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let table = name.strip_suffix(".md").unwrap_or(&name);
        assert!(known.contains_key(table), "docs/tables/{name} belongs to no table");
    }
    let mut declared = 0;
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/store/src/table")).unwrap() {
        let code = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        declared += code.lines().filter(|line| *line == "row! {").count();
    }
    assert_eq!(declared, known.len(), "a `row!` in crates/store/src/table has no line in `table::declared`");
}
