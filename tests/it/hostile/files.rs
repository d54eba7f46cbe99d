//! Files of problems, and what stands where a file should.

use super::Ends::{Saying, Somehow, Well};
use super::{Case, Ends, run, strings, write};
use arrow::array::{ArrayRef, DictionaryArray, RecordBatch, StringArray};
use arrow::datatypes::Int32Type;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

const PIPELINE: &str = "name = \"h\"\n[stages.problems]\nkind = \"ingest\"\nfiles = [\"FILE\"]\n";

/// A pipeline that ingests one file of these bytes.
fn ingest(name: &'static str, ends: Ends, file: &'static str, bytes: impl Fn() -> Vec<u8> + 'static) -> Case {
    Case::new(name, ends, move |folder| {
        write(folder, file, bytes());
        write(folder, "p.toml", PIPELINE.replace("FILE", file));
        strings(["run", "p.toml"])
    })
}

/// A Parquet file of questions and answers; a text that comes again is a number in it.
fn cells(questions: &[String]) -> Vec<u8> {
    let answers = StringArray::from(vec!["1"; questions.len()]);
    let questions = questions.iter().map(String::as_str).collect::<DictionaryArray<Int32Type>>();
    let batch = RecordBatch::try_from_iter([
        ("question", Arc::new(questions) as ArrayRef),
        ("answer", Arc::new(answers) as ArrayRef),
    ]);
    let compression = Compression::ZSTD(ZstdLevel::default());
    let how = WriterProperties::builder().set_compression(compression).set_dictionary_page_size_limit(1 << 30).build();
    // Without Arrow's schema the texts are read as texts.
    let how = ArrowWriterOptions::new().with_properties(how).with_skip_arrow_metadata(true);
    let batch = batch.unwrap();
    let mut writer = ArrowWriter::try_new_with_options(Vec::new(), batch.schema(), how).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

fn nested(depth: usize, open: &str, close: &str) -> String {
    format!("{}1{}", open.repeat(depth), close.repeat(depth))
}

#[test]
fn problem_files() {
    let row = r#"{"question":"1+1?","answer":"2","solution":"It is 2."}"#;
    let mut cases = vec![
        ingest("empty", Somehow, "a.jsonl", Vec::new),
        ingest("blank lines", Somehow, "a.jsonl", || b"\n\n \n".to_vec()),
        ingest("no JSON", Somehow, "a.jsonl", || b"hello\n".to_vec()),
        ingest("NUL", Somehow, "a.jsonl", || vec![0; 4096]),
        ingest("UTF-16", Somehow, "a.jsonl", || {
            "\u{feff}{\"question\"".encode_utf16().flat_map(u16::to_le_bytes).collect()
        }),
        ingest("half a surrogate", Somehow, "a.jsonl", || br#"{"question":"\ud800","answer":"1"}"#.to_vec()),
        ingest("control characters", Somehow, "a.jsonl", || {
            b"{\"question\":\"\\u001b]0;x\\u0007\",\"answr\x1b[31m\":\"1\"}\n".to_vec()
        }),
        ingest("a number too large", Somehow, "a.jsonl", || br#"{"question":"q","answer":1e999}"#.to_vec()),
        ingest("deep arrays", Somehow, "a.jsonl", || {
            format!("{{\"question\":{},\"answer\":\"1\"}}", nested(200_000, "[", "]")).into_bytes()
        }),
        ingest("deep objects", Somehow, "a.jsonl", || {
            format!("{{\"meta\":{},\"question\":\"q\",\"answer\":\"1\"}}", nested(100_000, "{\"a\":", "}")).into_bytes()
        }),
        ingest("a key twice", Somehow, "a.jsonl", || br#"{"question":"a","question":"b","answer":"1"}"#.to_vec()),
        ingest("a long line", Somehow, "a.jsonl", || {
            format!("{{\"question\":\"{}\",\"answer\":\"1\"}}", "x".repeat(70 << 20)).into_bytes()
        }),
        ingest("gzip of nothing", Somehow, "a.jsonl.gz", || b"\x1f\x8b".to_vec()),
        ingest("gzip cut short", Somehow, "a.jsonl.gz", || b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xab\x56".to_vec()),
        ingest("zstd", Somehow, "a.jsonl", || b"\x28\xb5\x2f\xfd\x04\x00".to_vec()),
        ingest("zip", Somehow, "a.jsonl", || b"PK\x03\x04".to_vec()),
        ingest("Parquet of nothing", Saying("Parquet"), "a.parquet", || b"PAR1PAR1".to_vec()),
        ingest("Parquet without an end", Saying("Parquet"), "a.parquet", || b"PAR1".repeat(100)),
        ingest("Parquet with a long footer", Saying("Parquet"), "a.parquet", || {
            [b"PAR1", &[0xff, 0xff, 0xff, 0x7f][..], b"PAR1"].concat()
        }),
        ingest("Parquet of zeros", Saying("Parquet"), "a.parquet", || {
            [b"PAR1", &[0; 100][..], &[100, 0, 0, 0], b"PAR1"].concat()
        }),
        ingest("a large cell", Saying("column `question` is larger than 64 MiB"), "a.parquet", || {
            cells(&["x".repeat(65 << 20)])
        }),
        ingest("a thousand cells of 8 MB, written once", Saying("take more than 1 GiB of memory"), "a.parquet", || {
            cells(&vec!["x".repeat(8 << 20); 1000])
        }),
        ingest("good", Well, "a.jsonl", move || row.as_bytes().to_vec()),
    ];
    // Every cut of a good line, and a byte of it turned into every other kind of byte.
    for cut in (1..row.len()).step_by(4) {
        cases.push(ingest("a cut line", Somehow, "a.jsonl", move || row.as_bytes()[..cut].to_vec()));
    }
    for (at, byte) in (0..row.len()).step_by(3).zip([0u8, 0x1b, 0x80, b'"', b'\\', b'{'].into_iter().cycle()) {
        cases.push(ingest("a changed line", Somehow, "a.jsonl", move || {
            let mut bytes = row.as_bytes().to_vec();
            bytes[at] = byte;
            bytes
        }));
    }
    // Bytes of a real Parquet file turned over, and cuts of it.
    let damaged = |name: &'static str, says: &'static str| {
        let path = crate::support::root().join(format!("tests/fixtures/damaged/{name}.parquet"));
        ingest(name, Saying(says), "a.parquet", move || std::fs::read(&path).unwrap())
    };
    for name in ["lengths-of-none", "long-number", "no-dictionary"] {
        cases.push(damaged(name, "the Parquet file makes the library that reads it fail"));
    }
    for name in ["skips", "skips-too"] {
        cases.push(damaged(name, "the Parquet file is damaged"));
    }
    let parquet = std::fs::read(crate::support::root().join("data/world/test-algebra.parquet")).unwrap();
    for number in 0..60 {
        let (bytes, at) = (parquet.clone(), number * 7919 % parquet.len());
        cases.push(ingest("a changed Parquet file", Somehow, "a.parquet", move || {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1 << (number % 8);
            bytes
        }));
        let (bytes, from) = (parquet.clone(), parquet.len() - 1 - number * 13 % 400);
        cases.push(ingest("a changed footer", Somehow, "a.parquet", move || {
            let mut bytes = bytes.clone();
            bytes[from] = bytes[from].wrapping_add(1 + number as u8);
            bytes
        }));
    }
    run("problem files", cases);
}

/// What stands at a path in place of a file.
fn in_place(kind: &str, path: &Path) {
    match kind {
        "a folder" => std::fs::create_dir(path).unwrap(),
        "a pipe" => assert!(Command::new("mkfifo").arg(path).status().unwrap().success()),
        "a socket" => drop(UnixListener::bind(path).unwrap()),
        "a loop of links" => std::os::unix::fs::symlink(path, path).unwrap(),
        "a link to nothing" => std::os::unix::fs::symlink("/nowhere/at/all", path).unwrap(),
        device => std::os::unix::fs::symlink(device, path).unwrap(),
    }
}

/// Goal: what is no file is refused at once wherever a file is wanted.
#[test]
fn files_that_are_no_files() {
    let kinds = [
        "a folder",
        "a pipe",
        "a socket",
        "a loop of links",
        "a link to nothing",
        "/dev/zero",
        "/dev/full",
        "/dev/tty",
    ];
    let mut cases = Vec::new();
    for kind in kinds {
        cases.push(Case::new(format!("{kind} as a pipeline"), Saying("error"), move |folder| {
            in_place(kind, &folder.join("p.toml"));
            strings(["plan", "p.toml"])
        }));
        cases.push(Case::new(format!("{kind} as problems"), Saying("error"), move |folder| {
            in_place(kind, &folder.join("a.jsonl"));
            write(folder, "p.toml", PIPELINE.replace("FILE", "a.jsonl"));
            strings(["run", "p.toml"])
        }));
        cases.push(Case::new(format!("{kind} as Parquet"), Saying("error"), move |folder| {
            in_place(kind, &folder.join("a.parquet"));
            strings(["show", "a.parquet"])
        }));
        for file in ["config.json", "tokenizer.json", "model.safetensors"] {
            cases.push(Case::new(format!("{kind} as {file}"), Saying("error"), move |folder| {
                let policy = super::policy(folder);
                std::fs::remove_file(policy.join(file)).unwrap();
                in_place(kind, &policy.join(file));
                write(folder, "prompts.jsonl", "{\"id\":\"1\",\"prompt\":\"a\"}\n");
                strings(["generate", "prompts.jsonl", "--policy", "policy", "--raw", "--max-new-tokens", "2"])
            }));
        }
        cases.push(Case::new(format!("{kind} as VERSION"), Somehow, move |folder| {
            std::fs::create_dir(folder.join("store")).unwrap();
            in_place(kind, &folder.join("store/VERSION"));
            write(folder, "a.jsonl", r#"{"question":"1+1?","answer":"2","solution":"2."}"#);
            write(folder, "p.toml", PIPELINE.replace("FILE", "a.jsonl"));
            strings(["run", "p.toml"])
        }));
    }
    run("files that are none", cases);
}
