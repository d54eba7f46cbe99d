//! The embedded world: small word problems, two styles of solving them, and the base policy's pre-training corpus.
//!
//! `cargo run --release --example world` writes the files of `data/world`, byte for byte the checked-in ones.
//! `... -- --corpus PATH [--documents N] [--seed S]` writes the pre-training corpus.
//! `... -- --policy-skeleton DIR` writes the base policy's folder without its weights.
//!
//! What the world is and why: docs/world.md.

#![expect(clippy::print_stderr, clippy::disallowed_methods, reason = "a program of its own")]

mod corpus;
mod problem;
mod skeleton;
mod solution;
mod tables;

use clap::Parser;
use std::io;
use std::path::{Path, PathBuf};

#[derive(Parser)]
#[command(about = "Writes the embedded world: problem tables, pre-training corpus, base policy folder")]
struct Args {
    /// Write the problem tables to this folder
    #[arg(long, default_value = "data/world")]
    tables: PathBuf,
    /// Write the pre-training corpus to this Parquet file instead of the tables
    #[arg(long, conflicts_with = "tables")]
    corpus: Option<PathBuf>,
    /// Documents of the corpus
    #[arg(long, default_value_t = 115_200, requires = "corpus", value_parser = clap::value_parser!(u64).range(1..))]
    documents: u64,
    /// Seed of the corpus
    #[arg(long, default_value_t = 0, requires = "corpus")]
    seed: u64,
    /// Write tokenizer, chat template and configuration of the base policy to this folder instead of the tables
    #[arg(long, conflicts_with_all = ["tables", "corpus"])]
    policy_skeleton: Option<PathBuf>,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    if let Some(folder) = args.policy_skeleton {
        for (name, text) in skeleton::files() {
            write(&folder.join(name), text.as_bytes())?;
        }
    } else if let Some(path) = args.corpus {
        let excluded = tables::test_questions();
        let documents: Vec<_> = (0..args.documents).map(|i| corpus::document(args.seed, i, &excluded)).collect();
        write(&path, &corpus::parquet(&documents))?;
    } else {
        for (name, rows) in tables::files() {
            write(&args.tables.join(name), &tables::parquet(&rows))?;
        }
        let (name, text) = tables::drafts();
        write(&args.tables.join(name), text.as_bytes())?;
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(named)?;
    }
    std::fs::write(path, bytes).map_err(named)?;
    eprintln!("{} ({} bytes)", path.display(), bytes.len());
    Ok(())
}
