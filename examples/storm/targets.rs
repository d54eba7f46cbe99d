//! What strangers write, each read as the program reads it: any bytes are that or an error. Shared by the storm and by `fuzz/`.

use mindgap::pipeline::Pipeline;
use mindgap::stage::reader::{Content, Format, rows};
use mindgap_lm::model::chat::{ChatTemplate, Message};
use mindgap_store::fuzzed::{record, sealed_record};
use mindgap_store::table::problems::Problem;
use mindgap_store::table::rollouts::Rollout;
use mindgap_store::{Store, fs, parquet, table};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::LazyLock;

/// Reads bytes; panics where they are neither what they should be nor an error.
pub type Target = fn(&[u8]);

/// Every target by its name.
pub const ALL: [(&str, Target); 5] = [
    ("pipelines", pipelines),
    ("templates", templates),
    ("records", records),
    ("parquet", rows_of_parquet),
    ("answers", mindgap::server::fuzzed::answer),
];

/// Files of this process.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join(format!("mindgap-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("there is room for files");
    folder
});

/// A text is a pipeline file or an error that says where it is none.
pub fn pipelines(bytes: &[u8]) {
    let path = FOLDER.join("p.toml");
    std::fs::write(&path, bytes).expect("there is room for files");
    match Pipeline::load(&path, &[]) {
        Ok(pipeline) => pipeline.stages.iter().for_each(|stage| drop(pipeline.needs(stage))),
        Err(error) => assert!(!error.to_string().is_empty() && error.kind().exit_code() < 70, "{error}"),
    }
}

/// A text is a chat template that comes to an end, or an error.
pub fn templates(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let specials = BTreeMap::from([("bos_token".to_string(), "<s>".to_string())]);
    let Ok(template) = ChatTemplate::new(text, specials) else { return };
    let messages = [Message::new("system", "Be short."), Message::user("1 + 1?"), Message::new("assistant", "2")];
    for generate in [true, false] {
        let _ = template.render(&messages, generate, &Value::Null);
    }
}

/// Bytes are a part record or damage: as earlier builds wrote them, and behind a seal.
pub fn records(bytes: &[u8]) {
    if let Some(again) = record(bytes) {
        assert!(record(&again).is_some_and(|bytes| bytes == again), "a record reads as it was written");
    }
    let _ = sealed_record(bytes);
}

/// Bytes are rows of a Parquet file or an error, and so are those of a table's part.
pub fn rows_of_parquet(bytes: &[u8]) {
    static STORE: LazyLock<Store> = LazyLock::new(|| Store::open(FOLDER.join("store")).expect("a store opens"));
    let path = FOLDER.join("rows.parquet");
    std::fs::write(&path, bytes).expect("there is room for files");
    let file = fs::open(&path).expect("the file is there");
    let content = Content { file: "rows.parquet", bytes: &file, format: Format::Parquet };
    let _ = rows(&content, &STORE, &mut |_, row| {
        let _ = (row.object().map(|object| object.len()), row.size(), row.excerpt());
        Ok(())
    });
    if let Ok(batches) = parquet::decode_batches(bytes.to_vec()) {
        let _ = table::from_batches::<Problem>(&batches);
        let _ = table::from_batches::<Rollout>(&batches);
    }
}
