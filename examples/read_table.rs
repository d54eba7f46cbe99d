//! Reads a table of a finished pipeline, part by part, each verified against its hash: how many targets came from whom.
//!
//! `make smoke && cargo run --release --example read_table -- data/store smoke rewrites`

#![expect(clippy::print_stdout, reason = "a program of its own")]

use mindgap_base::error::{Error, Result};
use mindgap_store::table::Row;
use mindgap_store::table::rewrites::Rewrite;
use mindgap_store::{Store, Table};
use std::collections::BTreeMap;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [root, pipeline, stage] = &arguments[..] else {
        return Err(Error::usage("read_table takes a store, a pipeline and a rewrite stage"));
    };
    let store = Store::look_existing(root.as_ref())?;
    let pointer = store.pointer(pipeline, stage)?.ok_or_else(|| Error::usage(format!("`{stage}` has not run")))?;
    let manifest = store.get_manifest(&pointer.manifest)?;
    let table: Table<Rewrite> = Table::new(&store, manifest.table(Rewrite::TABLE));
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for part in table.parts() {
        for row in table.read(part)? {
            *counts.entry(row.source.to_string()).or_default() += 1;
        }
    }
    for (source, count) in counts {
        println!("{source}: {count}");
    }
    Ok(())
}
